// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Hands each frame to the AF_XDP socket of the queue that it came in on, and counts what becomes of it.
 *
 * A queue without a socket passes its frames on to the host: nothing is taken that nobody reads, and the count shows that
 * somebody changed the number of channels. Of the others, those that are sampled out end here. While a queue's reader rests,
 * each of its frames is stamped with its time, and the frame that fills the rest rings the reader's bell (rest.rs).
 *
 * One map element a counter, with a look-up of its own: two counters in the two branches of an if on one map value make clang
 * compute the offset, which the verifier refuses without CAP_PERFMON.
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

/* Rest in rest.rs: how many frames its reader still rests for, 0 while it is awake; and which rest this is. */
struct rest {
	__u32 frames;
	__u32 number;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the queue count, as above */
	__type(key, __u32);
	__type(value, struct rest);
} rests SEC(".maps");

/* Each reader sleeps on a bell of its own. */
struct bell {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1); /* the queue count, as above */
	__type(key, __u32);
	__array(values, struct bell);
} bells SEC(".maps");

/* Stamp in rest.rs: stands right before the frame. */
struct stamp {
	__u64 monotonic_ns;
	__u32 rest;
	__u32 unused;
};

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

/* Not every driver leaves room before its frames for this: those go without. */
static __always_inline void stamp(struct xdp_md *frame, __u32 rest)
{
	struct stamp *stamp;

	if (bpf_xdp_adjust_meta(frame, -(int)sizeof(*stamp)))
		return;
	stamp = (void *)(long)frame->data_meta;
	if ((void *)(stamp + 1) > (void *)(long)frame->data)
		return;
	stamp->monotonic_ns = bpf_ktime_get_ns();
	stamp->rest = rest;
	stamp->unused = 0;
}

static __always_inline void tell_reader(struct xdp_md *frame)
{
	__u32 queue = frame->rx_queue_index, frames;
	struct rest *rest = bpf_map_lookup_elem(&rests, &queue);
	void *bell;

	if (!rest)
		return;
	/* Only this queue's driver and its reader write it; where they meet, a bell rings that nobody sleeps on. */
	frames = *(volatile __u32 *)&rest->frames;
	if (!frames)
		return;
	*(volatile __u32 *)&rest->frames = frames - 1;
	stamp(frame, *(volatile __u32 *)&rest->number);
	if (frames > 1)
		return;
	bell = bpf_map_lookup_elem(&bells, &queue);
	if (bell)
		bpf_ringbuf_output(bell, &queue, sizeof(queue), BPF_RB_FORCE_WAKEUP);
}

static __always_inline int redirect(struct xdp_md *frame)
{
	int action = bpf_redirect_map(&sockets, frame->rx_queue_index, XDP_PASS);

	if (action == XDP_REDIRECT && is_sampled_out()) {
		count(SAMPLED_OUT);
		return XDP_DROP;
	}
	if (action == XDP_REDIRECT)
		tell_reader(frame);
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
