/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only */
/*
 * What the XDP program (redirect.bpf.c) and its reader in user space (abi.rs) share.
 *
 * build.rs passes the offsets, lengths and numbers of this header to abi.rs, which compares them
 * with its own at compile time: a change on one side only does not compile.
 */
#ifndef XDPROBE_ABI_H
#define XDPROBE_ABI_H

#include <linux/types.h>

/* Indices of the map `counters`: what became of each frame. */
enum counter {
	COUNTER_REDIRECTED, /* handed to the queue's socket */
	COUNTER_NO_SOCKET, /* passed on to the host while the probe receives: no socket */
	COUNTER_SAMPLED_OUT, /* dropped by sampling */
	COUNTERS,
};

/* Octets of a reader's bell, a BPF ring buffer: one page, the minimum. */
enum { BELL_OCTETS = 4096 };

/* Written by user space at any time, read by the program for each frame. */
struct sampling {
	__u32 interval; /* one frame of this many is redirected; never 0 */
	__u32 random; /* 0: the first of each interval; 1: each with probability 1/interval */
};

/* One for each queue: written by its reader around a rest, counted down by the program. */
struct rest {
	__u32 number; /* of this rest, in its stamps; 0 while the reader is awake */
	__u32 entries; /* entries of the receive ring until the bell rings; 0 once it has */
	__u32 entry_octets; /* octets of a frame that one entry takes; never 0 */
};

/* Written by the program directly before a frame that arrives during a rest. */
struct stamp {
	__u64 monotonic_ns; /* arrival, CLOCK_MONOTONIC */
	__u32 rest; /* rest.number at that time */
	__u32 unused; /* 0 */
};

#endif
