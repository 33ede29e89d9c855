// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Hands each frame to the AF_XDP socket of the queue that it came in on, and counts what becomes of it.
 *
 * A queue without a socket passes its frames on to the host: nothing is taken that nobody reads, and the count shows that
 * somebody changed the number of channels. Of the others, those that are sampled out end here. One map element a counter, with a look-up of its own: two counters in the two
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
enum counter { REDIRECTED, NO_SOCKET, SAMPLED_OUT, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Set before loading: the verifier then knows them, and leaves out what is never reached. */
const volatile __u32 sampling_interval = 1;
const volatile __u32 sampling_random = 0;

/* Frames that are still passed over on this core, where sampling is deterministic. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} countdown SEC(".maps");

static __always_inline int is_sampled_out(void)
{
	__u32 zero = 0, *left;

	if (sampling_interval <= 1)
		return 0;
	if (sampling_random)
		return bpf_get_prandom_u32() % sampling_interval != 0;
	left = bpf_map_lookup_elem(&countdown, &zero);
	if (!left)
		return 0;
	if (*left == 0) {
		*left = sampling_interval - 1;
		return 0;
	}
	(*left)--;
	return 1;
}

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);
	if (value)
		(*value)++;
}

static __always_inline int redirect(struct xdp_md *frame)
{
	int action = bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);

	if (action == XDP_REDIRECT && is_sampled_out()) {
		count(SAMPLED_OUT);
		return XDP_DROP;
	}
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
