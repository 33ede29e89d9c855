// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Redirects each frame to the AF_XDP socket of the queue that it arrived on, and counts what became
 * of it.
 *
 * A queue without a socket passes its frames on to the host, so no frame is taken without a reader;
 * the counter shows that the number of channels was changed. Of the other frames, sampling drops
 * those that it leaves out. While a queue's reader rests, the program stamps each frame with its
 * time, and rings the reader's bell at the frame that ends the rest (rest.rs).
 *
 * Each counter is a map element with a look-up of its own: with two counters in the branches of an
 * if on one map value, clang computes the offset, which the verifier rejects without CAP_PERFMON.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); /* set before loading: the queue count at least */
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/*
 * In a section of its own, which becomes a map that user space writes to. While it does, one frame
 * may see the new interval with the old mode.
 */
volatile struct sampling sampling SEC(".data.sampling") = { .interval = 1 };

/*
 * 1 from when every socket of the interface is in the map until the probe stops. Before and after,
 * a queue without a socket is no fault: its frames pass to the host as if there were no probe.
 */
volatile __u32 counts_no_socket SEC(".data.no_socket") = 0;

/* Frames still to be left out on this CPU in deterministic mode. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} countdown SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set before loading: the queue count at least */
	__type(key, __u32);
	__type(value, struct rest);
} rests SEC(".maps");

struct bell {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, BELL_OCTETS);
};

/* Each reader sleeps on its own bell. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1); /* set before loading: the queue count at least */
	__type(key, __u32);
	__array(values, struct bell);
} bells SEC(".maps");

static __always_inline int is_sampled_out(void)
{
	__u32 interval = sampling.interval, zero = 0, *left;

	if (interval <= 1)
		return 0;
	if (sampling.random)
		return bpf_get_prandom_u32() % interval != 0;
	left = bpf_map_lookup_elem(&countdown, &zero);
	if (!left)
		return 0;
	/* Above interval - 1 it is left over from a longer interval. */
	if (*left == 0 || *left >= interval) {
		*left = interval - 1;
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

/* Drivers that leave no room before their frames get no stamps. */
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

static __always_inline void serve_rest(struct xdp_md *frame)
{
	__u32 queue = frame->rx_queue_index, frames;
	struct rest *rest = bpf_map_lookup_elem(&rests, &queue);
	void *bell;

	if (!rest)
		return;
	/*
	 * Written by this queue's driver and its reader only. If both write at once, the bell may ring
	 * while the reader is awake, which does no harm.
	 */
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

	if (action != XDP_REDIRECT) {
		if (counts_no_socket)
			count(COUNTER_NO_SOCKET);
		return action;
	}
	if (is_sampled_out()) {
		count(COUNTER_SAMPLED_OUT);
		return XDP_DROP;
	}
	serve_rest(frame);
	count(COUNTER_REDIRECTED);
	return action;
}

SEC("xdp")
int redirect_linear(struct xdp_md *frame)
{
	return redirect(frame);
}

/*
 * For frames that need more than one buffer. Support for them costs every frame a little, so it is
 * loaded only where the MTU requires it.
 */
SEC("xdp.frags")
int redirect_frags(struct xdp_md *frame)
{
	return redirect(frame);
}

/*
 * What the kernel checks before it allows GPL-only helpers and kfuncs. It accepts the strings of
 * include/linux/license.h only; none names Apache-2.0, and this one comes closest to the first line
 * of this file, which is the licence: MIT or Apache-2.0 like the rest of xdprobe, or GPL-2.0. Since
 * Linux 5.8 no helper used here is GPL-only (before, bpf_ktime_get_ns was).
 */
char _license[] SEC("license") = "Dual MIT/GPL";
