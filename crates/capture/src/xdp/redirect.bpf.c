// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Hands each frame to the AF_XDP socket of the queue that it came in on, and counts what becomes of it.
 *
 * A queue without a socket passes its frames on to the host: nothing is taken that nobody reads, and the count shows that
 * somebody changed the number of channels. One map element a counter, with a look-up of its own: two counters in the two
 * branches of an if on one map value make clang compute the offset, which the verifier refuses without CAP_PERFMON.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); /* the queue count, set before loading */
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* In the order of XdpCounters in interface.rs. */
enum counter { REDIRECTED, NO_SOCKET, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);
	if (value)
		(*value)++;
}

static __always_inline int redirect(struct xdp_md *frame)
{
	int action = bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);
	count(action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET);
	return action;
}

SEC("xdp")
int redirect_linear(struct xdp_md *frame)
{
	return redirect(frame);
}

/* For frames that need more than one buffer; costs every frame a little, so only where the MTU asks for it. */
SEC("xdp.frags")
int redirect_frags(struct xdp_md *frame)
{
	return redirect(frame);
}

char _license[] SEC("license") = "Dual MIT/GPL";
