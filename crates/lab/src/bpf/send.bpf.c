// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The traffic generator: writes one packet into each live frame of BPF_PROG_TEST_RUN and redirects
// it to an interface.
//
// User space decides what is sent. Templates have all header octets that do not change. A table of
// steps, which is read again and again, has what costs a program too much to compute: lengths, Zipf
// ranks, and which packets are fragments. The program computes the flow of each packet, the fields
// that depend on the flow, and checksums; it keeps to the rate and counts what it hands to the
// driver.
//
// The kernel recycles the frames' pages with the octets of earlier frames in them, so that all
// headers are written each time.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TEMPLATE_OCTETS 128
/* IEEE 802.3: 64 with the frame check sequence, which the hardware adds */
#define FRAME_OCTETS_MIN 60
#define HEAD_OCTETS 128
/* Added to addresses for each loop of a capture file; odd, on which replay.rs relies. */
#define SHIFT 0x00010001
#define IP_MF 0x2000
#define IP_OFFSET 0x1fff
/* Times of the schedule are in 2^-16 ns: rates up to 100 Mpps are exact to 2 in a million. */
#define TIME_SHIFT 16

enum pattern { ROUND_ROBIN, ZIPF, SYN, CHURN };
enum template { IPV4, LATER_FRAGMENT, IPV6, TEMPLATES };

/* One position of the table. `fragment` is the IPv4 header's flags and offset in host order. */
struct step {
	__u32 rank;
	__u16 ip_octets;
	__u16 fragment;
};

/* Counters, and the state of the patterns. `State` in state.rs has the same fields. */
struct state {
	__u64 packets, frame_octets;
	__u64 ipv4_packets, ipv4_octets;
	__u64 ipv6_packets, ipv6_octets;
	__u64 fragments;
	__u64 turns; /* datagrams: packets without later fragments */
	__u64 born;  /* CHURN: flows so far */
	__u64 slot;  /* place in a round of the flows */
	__u64 half;  /* 1 + flow of a first fragment whose other half is not sent yet */
	__u64 first_ns, last_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set by user space to a power of two */
	__type(key, __u32);
	__type(value, struct step);
} steps SEC(".maps");

/* One frame of a capture file: its first octets, and the offset of its IPv4 header in them. */
struct frame {
	__u16 octets;
	__u16 head_octets;
	__u16 ipv4; /* 0 = no IPv4 header */
	__u16 unused;
	__u8 head[HEAD_OCTETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set by user space */
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} out SEC(".maps");

volatile const __u64 packets = 0;        /* to send */
volatile const __u64 interval = 0;       /* between packets, 2^-16 ns; 0 = as fast as possible */
volatile const __u64 birth_interval = 0; /* CHURN: between new flows, 2^-16 ns; 0 = no new flows */
volatile const __u64 gap_ns = 0;         /* shortest time between packets: limits bursts */
volatile const __u32 pattern = 0;
volatile const __u32 flows = 1; /* of the pattern, or frames of the capture file */
volatile const __u32 step_mask = 0;
volatile const __u32 seed = 0;
volatile const __u32 ipv6_below = 0;      /* a flow is IPv6 if its random number is at most this */
volatile const __u32 frame_octets_max = 0; /* length of every frame before it is trimmed */
volatile const __u32 l3 = 14;             /* offset of the IP header */
volatile const __u32 transport = IPPROTO_UDP;
volatile const __u32 ipv4_sum = 0;      /* one's complement sums of the templates' constant parts */
volatile const __u32 ipv4_transport_sum = 0;
volatile const __u32 ipv6_transport_sum = 0;
volatile const __u8 templates[TEMPLATES * TEMPLATE_OCTETS] __attribute__((aligned(8))) = {};

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return bpf_htons(~sum);
}

/* A permutation of 32 bits: distinct flows get distinct addresses. As in plan.rs. */
static __always_inline __u32 mix(__u32 flow)
{
	__u32 x = flow ^ seed;

	x *= 0x9e3779b1;
	x ^= x >> 15;
	x *= 0x85ebca77;
	x ^= x >> 13;
	return x;
}

static __always_inline __u32 transport_octets(void)
{
	return transport == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
}

/* Whether a packet is due. `now` is 0 if the time is not needed. */
static __always_inline int due(struct state *s, __u64 now)
{
	if (s->packets >= packets)
		return 0;
	if (!interval)
		return 1;
	return (now - s->first_ns) << TIME_SHIFT >= s->packets * interval && now - s->last_ns >= gap_ns;
}

static __always_inline __u32 next_in_round(struct state *s)
{
	__u32 slot = s->slot;

	s->slot = slot + 1 == flows ? 0 : slot + 1;
	return slot;
}

/* A new flow begins with the first packet at or after its time and replaces the oldest flow. */
static __always_inline __u32 flow_under_churn(struct state *s, __u64 now)
{
	__u64 elapsed = interval ? s->packets * interval : (now - s->first_ns) << TIME_SHIFT;

	if (s->born < flows || (birth_interval && (s->born - flows + 1) * birth_interval <= elapsed))
		return s->born++;
	return s->born - flows + next_in_round(s);
}

static __always_inline __u32 flow_of_turn(struct state *s, const struct step *step, __u64 now)
{
	switch (pattern) {
	case ZIPF:
		return step->rank;
	case SYN:
		return s->turns;
	case CHURN:
		return flow_under_churn(s, now);
	default:
		return next_in_round(s);
	}
}

/* Copies octets `from` to `to` of a template. All three are known when the program is verified. */
static __always_inline void copy(void *data, enum template template, __u32 from, __u32 to)
{
	const volatile __u8 *source = templates + template * TEMPLATE_OCTETS;

#pragma unroll
	for (__u32 i = 0; i < TEMPLATE_OCTETS / 8; i++)
		if (from + 8 * i + 8 <= to)
			*(__u64 *)(data + from + 8 * i) = *(const volatile __u64 *)(source + from + 8 * i);
	from += (to - from) & ~7;
	if ((to - from) & 4) {
		*(__u32 *)(data + from) = *(const volatile __u32 *)(source + from);
		from += 4;
	}
	if ((to - from) & 2)
		*(__u16 *)(data + from) = *(const volatile __u16 *)(source + from);
}

/*
 * Writes the template's headers, and zeros where longer headers of an earlier frame may be left in
 * the page: in the payload they would make checksums wrong.
 */
static __always_inline int lay(struct xdp_md *ctx, enum template template, __u32 headers)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 sure = l3 + headers > FRAME_OCTETS_MIN ? l3 + headers : FRAME_OCTETS_MIN;
	__u32 ip_octets = ipv6_below ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 longest = l3 + ip_octets + transport_octets();

	if (data + sure > end)
		return -1;
	copy(data, template, 0, sure);
	if (longest <= sure)
		return 0;
	if (data + longest <= end) {
		copy(data, template, sure, longest);
		return 0;
	}
#pragma unroll
	for (__u32 i = 0; i < sizeof(struct ipv6hdr); i++)
		if (sure + i < longest && data + sure + i + 1 <= end)
			*(__u8 *)(data + sure + i) = 0;
	return 0;
}

/* `octets` of transport header and payload. The payload is zeros and adds nothing to the sum. */
static __always_inline void finish_transport(void *header, __u16 source_port, __u32 octets,
					     __u32 sum)
{
	sum += source_port + octets;
	if (transport == IPPROTO_TCP) {
		struct tcphdr *tcp = header;

		tcp->source = bpf_htons(source_port);
		tcp->check = fold(sum);
	} else {
		struct udphdr *udp = header;
		__u16 check = fold(sum + octets); /* the length counts twice: pseudo header, header */

		udp->source = bpf_htons(source_port);
		udp->len = bpf_htons(octets);
		udp->check = check ? check : 0xffff; /* RFC 768: 0 = no checksum */
	}
}

static __always_inline __u16 source_port(__u32 bits)
{
	return 1024 + (bits & 0x7fff);
}

/*
 * The low 8 of the flow's 32 bits go to the destination and the others to the source, so that flows
 * differ in addresses, in fragments too.
 */
static __always_inline int write_ipv4(struct xdp_md *ctx, struct state *s, __u32 bits, __u32 octets,
				      __u32 fragment)
{
	__u32 source = 0x0a000000 | bits >> 8, destination = 0xc6120000 | (bits & 0xff);
	__u32 later = fragment & IP_OFFSET;
	__u32 addresses = (source >> 16) + (source & 0xffff) +
			  (destination >> 16) + (destination & 0xffff);
	__u16 id = s->turns;
	void *data, *end;
	struct iphdr *ip;

	if (later ? lay(ctx, LATER_FRAGMENT, sizeof(*ip)) :
		    lay(ctx, IPV4, sizeof(*ip) + transport_octets()))
		return -1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = data + l3;
	if ((void *)(ip + 1) + transport_octets() > end)
		return -1;
	ip->tot_len = bpf_htons(octets);
	ip->id = bpf_htons(id);
	ip->frag_off = bpf_htons(fragment);
	ip->saddr = bpf_htonl(source);
	ip->daddr = bpf_htonl(destination);
	ip->check = fold(ipv4_sum + addresses + octets + id + fragment);
	if (!later) {
		__u32 rest = octets - sizeof(*ip);

		if (fragment)
			rest *= 2; /* the other half is as long */
		finish_transport(ip + 1, source_port(bits), rest, ipv4_transport_sum + addresses);
	}
	s->ipv4_packets++;
	s->ipv4_octets += octets;
	s->fragments += fragment != 0;
	return 0;
}

static __always_inline int write_ipv6(struct xdp_md *ctx, struct state *s, __u32 bits, __u32 octets)
{
	__u32 rest = octets - sizeof(struct ipv6hdr);
	void *data, *end;
	struct ipv6hdr *ip;

	if (lay(ctx, IPV6, sizeof(*ip) + transport_octets()))
		return -1;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip = data + l3;
	if ((void *)(ip + 1) + transport_octets() > end)
		return -1;
	ip->payload_len = bpf_htons(rest);
	ip->saddr.in6_u.u6_addr32[3] = bpf_htonl(bits);
	finish_transport(ip + 1, source_port(bits), rest,
			 ipv6_transport_sum + (bits >> 16) + (bits & 0xffff));
	s->ipv6_packets++;
	s->ipv6_octets += octets;
	return 0;
}

SEC("xdp")
int send(struct xdp_md *ctx)
{
	__u32 zero = 0, flow, bits, is_ipv6, octets, fragment, frame_octets;
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	struct step *step;
	__u64 now = 0;

	if (!s)
		return XDP_DROP;
	if (interval || pattern == CHURN || !s->packets || s->packets + 1 == packets)
		now = bpf_ktime_get_ns();
	if (!s->first_ns)
		s->first_ns = now;
	if (!due(s, now))
		return XDP_DROP;
	zero = s->packets & step_mask;
	step = bpf_map_lookup_elem(&steps, &zero);
	if (!step)
		return XDP_DROP;

	fragment = step->fragment;
	octets = step->ip_octets;
	if ((fragment & IP_OFFSET) && s->half) {
		flow = s->half - 1;
		s->half = 0;
		s->turns--;
	} else {
		flow = flow_of_turn(s, step, now);
		fragment &= ~IP_OFFSET;
		s->half = 0;
	}
	bits = mix(flow);
	is_ipv6 = ipv6_below && bits * 0xc2b2ae35 <= ipv6_below;
	if (is_ipv6 && octets < sizeof(struct ipv6hdr) + transport_octets())
		octets = sizeof(struct ipv6hdr) + transport_octets();
	if (!is_ipv6 && (fragment & IP_MF))
		s->half = (__u64)flow + 1;

	frame_octets = l3 + octets < FRAME_OCTETS_MIN ? FRAME_OCTETS_MIN : l3 + octets;
	if (frame_octets != frame_octets_max &&
	    bpf_xdp_adjust_tail(ctx, (int)frame_octets - (int)frame_octets_max))
		return XDP_DROP;
	if (is_ipv6 ? write_ipv6(ctx, s, bits, octets) : write_ipv4(ctx, s, bits, octets, fragment))
		return XDP_DROP;
	s->packets++;
	s->turns++;
	s->frame_octets += frame_octets;
	s->last_ns = now;
	return bpf_redirect_map(&out, 0, 0);
}

/* RFC 1624, equation 3, for one word. */
static __always_inline __u16 updated(__u16 check, __u16 old, __u16 new)
{
	__u32 sum = (__u16)~check + (__u16)~old + new;

	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return ~sum;
}

/* One's complement sums do not depend on the byte order: words are used as in the packet. */
static __always_inline void shift(struct iphdr *ip, __be32 *address, __u32 by)
{
	__be32 old = *address, new = bpf_htonl(bpf_ntohl(old) + by);

	*address = new;
	ip->check = updated(updated(ip->check, old >> 16, new >> 16), old, new);
}

static __always_inline int shift_addresses(struct xdp_md *ctx, __u32 at, __u32 by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + at;

	if (at > HEAD_OCTETS || (void *)(ip + 1) > end)
		return -1;
	shift(ip, &ip->saddr, by);
	shift(ip, &ip->daddr, by);
	return 0;
}

/* Sends the frames of a capture file in order. `slot` is the next frame and `turns` the loop. */
SEC("xdp")
int replay(struct xdp_md *ctx)
{
	__u32 zero = 0, octets, head_octets;
	struct state *s = bpf_map_lookup_elem(&state, &zero);
	struct frame *frame;
	__u64 now = 0;

	if (!s)
		return XDP_DROP;
	if (interval || !s->packets || s->packets + 1 == packets)
		now = bpf_ktime_get_ns();
	if (!s->first_ns)
		s->first_ns = now;
	if (!due(s, now))
		return XDP_DROP;
	zero = s->slot;
	frame = bpf_map_lookup_elem(&frames, &zero);
	if (!frame)
		return XDP_DROP;
	octets = frame->octets;
	head_octets = frame->head_octets;
	if (octets != frame_octets_max &&
	    bpf_xdp_adjust_tail(ctx, (int)octets - (int)frame_octets_max))
		return XDP_DROP;
	if (!head_octets || head_octets > HEAD_OCTETS ||
	    bpf_xdp_store_bytes(ctx, 0, frame->head, head_octets))
		return XDP_DROP;
	if (frame->ipv4 && s->turns && shift_addresses(ctx, frame->ipv4, s->turns * SHIFT))
		return XDP_DROP;
	next_in_round(s);
	s->turns += s->slot == 0;
	s->packets++;
	s->frame_octets += octets;
	s->last_ns = now;
	return bpf_redirect_map(&out, 0, 0);
}

char license_of_program[] SEC("license") = "Dual MIT/GPL";
