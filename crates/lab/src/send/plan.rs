//! Turns options into the XDP program's data: header templates and the table of steps.
//!
//! The program uses one position of the table for each packet, and begins again at its end. The
//! table has what depends on the seed and costs the program too much to compute: lengths, Zipf
//! ranks, and which packets are fragments.

use std::collections::HashSet;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rand_pcg::Pcg64Mcg;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::options::{Options, Pattern, Protocol, Sizes};
use super::report::Counts;
use super::state::State;
use crate::frames::{
    self, ETHERNET_OCTETS, Ethernet, FRAME_OCTETS_MIN, IPV4_OCTETS, ether_type, flags,
};
use crate::headers::{FRAGMENT_OFFSET, Ipv4, Ipv6, MORE_FRAGMENTS, TCP, Tcp, UDP, Udp};

/// Room for the headers of one template, in octets; as in send.bpf.c.
const TEMPLATE_OCTETS: usize = 128;
/// IPv4, later fragment, IPv6, in the program's order.
const TEMPLATES: usize = 3;
const IPV6_OCTETS: usize = size_of::<Ipv6>();
/// Octets of the longest IP and transport headers; the rest of a template is for tags.
const HEADERS_OCTETS_MAX: usize = IPV6_OCTETS + size_of::<Tcp>();
/// Octets of an IPv4 header, in the type of IP lengths.
const IPV4_HEADER: u16 = 20;
const _: () = assert!(IPV4_HEADER as usize == IPV4_OCTETS);
/// Positions of a table of lengths and fragments only: enough for shares within 0.03 %.
const POSITIONS: usize = 1 << 12;
/// Positions of a table of Zipf ranks: 8 MiB, which is read in order and so costs the cache little.
const POSITIONS_ZIPF: usize = 1 << 20;
/// Simple Internet mix: IP octets, and how many of 12 packets have them.
const IMIX: [(u16, usize); 3] = [(40, 7), (576, 4), (1500, 1)];
/// The program's schedule counts in 2^-16 ns.
pub const TICKS_A_SECOND: u64 = 1_000_000_000 << 16;

/// The data of the XDP program.
pub struct PatternPlan {
    /// The pattern's number in the program.
    pub pattern: u32,
    /// Flows of the pattern.
    pub flows: u32,
    /// Seed of the permutation of flows.
    pub seed: u32,
    /// Ticks between new flows with churn; 0 = none.
    pub birth_interval: u64,
    /// A flow is IPv6 if its random number is at most this; 0 = no flow is.
    pub ipv6_below: u32,
    /// Offset of the IP header in octets.
    pub l3: u32,
    /// IP protocol number.
    pub transport: u32,
    /// Length of the longest frame, in octets.
    pub frame_octets_max: u32,
    /// Header octets that do not change, 128 for each template.
    pub templates: Vec<u8>,
    /// One's complement sums over the octets that do not change: IPv4 header, transport over IPv4,
    /// transport over IPv6.
    pub sums: [u32; 3],
    /// The table: a power of two of positions.
    pub steps: Vec<Step>,
    /// Positions less one.
    pub step_mask: u32,
}

/// One position of the table: `struct step` of send.bpf.c.
#[derive(Clone, Copy, Debug, Eq, PartialEq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Step {
    /// Zipf rank of the flow, from 0.
    pub rank: u32,
    /// IP total length.
    pub ip_octets: u16,
    /// Flags and offset of the IPv4 header.
    pub fragment: u16,
}

impl Step {
    /// The step as a value of the program's table.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        zerocopy::transmute!(self)
    }

    fn is_later(self) -> bool {
        self.fragment & FRAGMENT_OFFSET != 0
    }

    fn is_first(self) -> bool {
        self.fragment & MORE_FRAGMENTS != 0
    }
}

impl PatternPlan {
    /// The plan for the options.
    ///
    /// # Errors
    ///
    /// If the options contradict each other or exceed what the program can do.
    pub fn new(options: &Options) -> Result<Self> {
        let ethernet = ethernet(options);
        let l3 = ethernet.octets();
        ensure!(
            l3 + HEADERS_OCTETS_MAX <= TEMPLATE_OCTETS,
            "{} VLAN tags and MPLS labels, expected at most 13",
            options.vlan.len() + options.mpls.len()
        );
        let is_tcp = options.pattern == Pattern::Syn || options.protocol == Protocol::Tcp;
        let transport = u32::from(if is_tcp { TCP } else { UDP });
        let packets = template_packets(is_tcp, options.pattern == Pattern::Syn);
        let mut random = Pcg64Mcg::seed_from_u64(options.seed);
        let seed = random.random();
        let steps = steps(options, is_tcp, &mut random)?;
        let ip_octets_max = steps
            .iter()
            .map(|step| usize::from(step.ip_octets))
            .max()
            .expect("the table has a position");
        let ip_octets_max = if options.ipv6_share > 0 {
            ip_octets_max.max(IPV6_OCTETS + transport_octets(is_tcp))
        } else {
            ip_octets_max
        };
        Ok(Self {
            pattern: options.pattern as u32,
            flows: options.flows,
            seed,
            birth_interval: TICKS_A_SECOND
                .checked_div(options.new_per_second)
                .unwrap_or(0),
            ipv6_below: threshold(options.ipv6_share),
            l3: u32::try_from(l3)?,
            transport,
            frame_octets_max: u32::try_from((l3 + ip_octets_max).max(FRAME_OCTETS_MIN))?,
            templates: templates(&ethernet, &packets),
            sums: sums(&packets, transport),
            step_mask: u32::try_from(steps.len() - 1)?,
            steps,
        })
    }

    /// The program's counters, and the distinct flows computed from them.
    #[must_use]
    pub fn counts(&self, state: &State) -> Counts {
        let (flows, ipv6_flows) = self.distinct_flows(state.packets, state.turns, state.born);
        Counts {
            octets: state.ipv4_octets,
            frame_octets: state.frame_octets,
            ipv4_packets: state.ipv4_packets,
            ipv6_packets: state.ipv6_packets,
            ipv6_octets: state.ipv6_octets,
            fragments: state.fragments,
            flows,
            ipv6_flows,
        }
    }

    /// Distinct IPv4 and IPv6 flows among the first `packets` packets. `turns` are the datagrams
    /// among them and `born` the flows that churn has begun, both from the program's counters.
    fn distinct_flows(&self, packets: u64, turns: u64, born: u64) -> (u64, u64) {
        let (all, ipv6) = if self.pattern == Pattern::Zipf as u32 {
            let flows = self.ranks_drawn(packets);
            (
                flows.len() as u64,
                flows.iter().filter(|flow| self.is_ipv6(**flow)).count() as u64,
            )
        } else {
            let all = match self.pattern {
                pattern if pattern == Pattern::Syn as u32 => turns.min(1 << 32),
                pattern if pattern == Pattern::Churn as u32 => born.min(1 << 32),
                _ => turns.min(u64::from(self.flows)),
            };
            (all, self.ipv6_among(all))
        };
        (all - ipv6, ipv6)
    }

    /// The flows of the first `packets` positions. Second halves of datagrams have no flow of their
    /// own.
    fn ranks_drawn(&self, packets: u64) -> HashSet<u32> {
        let positions = usize::try_from(packets)
            .unwrap_or(usize::MAX)
            .min(self.steps.len());
        let mut half = false;
        let mut ranks = HashSet::new();
        for step in &self.steps[..positions] {
            if half && step.is_later() {
                half = false;
            } else {
                ranks.insert(step.rank);
                half = step.is_first() && !self.is_ipv6(step.rank);
            }
        }
        ranks
    }

    fn ipv6_among(&self, flows: u64) -> u64 {
        match self.ipv6_below {
            0 => 0,
            u32::MAX => flows,
            _ => (0..flows)
                .filter(|flow| u32::try_from(*flow).is_ok_and(|flow| self.is_ipv6(flow)))
                .count() as u64,
        }
    }

    /// As in send.bpf.c.
    fn is_ipv6(&self, flow: u32) -> bool {
        self.ipv6_below != 0 && mix(flow, self.seed).wrapping_mul(0xc2b2_ae35) <= self.ipv6_below
    }
}

/// The permutation of flows, as in send.bpf.c.
fn mix(flow: u32, seed: u32) -> u32 {
    let mut x = (flow ^ seed).wrapping_mul(0x9e37_79b1);
    x ^= x >> 15;
    x = x.wrapping_mul(0x85eb_ca77);
    x ^ x >> 13
}

fn threshold(percent: u8) -> u32 {
    u32::try_from(u64::from(percent) * u64::from(u32::MAX) / 100).expect("a share of u32::MAX")
}

fn transport_octets(is_tcp: bool) -> usize {
    if is_tcp {
        size_of::<Tcp>()
    } else {
        size_of::<Udp>()
    }
}

fn ethernet(options: &Options) -> Ethernet {
    let mut ethernet = Ethernet::new(options.source_mac.0, options.destination_mac.0);
    let outer = options.vlan.len().saturating_sub(1);
    for (at, id) in options.vlan.iter().enumerate() {
        let ether_type = if at < outer {
            ether_type::SERVICE_VLAN
        } else {
            ether_type::VLAN
        };
        ethernet = ethernet.tag(ether_type, *id);
    }
    if options.mpls.is_empty() {
        ethernet
    } else {
        ethernet.mpls(&options.mpls)
    }
}

/// A packet of each family. Fields that the program writes are zero.
fn template_packets(is_tcp: bool, is_syn: bool) -> [Vec<u8>; 2] {
    let sources: [IpAddr; 2] = [
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0).into(),
    ];
    let destinations: [IpAddr; 2] = [
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1).into(),
    ];
    std::array::from_fn(|family| {
        let source = SocketAddr::new(sources[family], 0);
        let destination = SocketAddr::new(destinations[family], if is_tcp { 443 } else { 4433 });
        let mut packet = if is_tcp {
            frames::tcp(
                source,
                destination,
                if is_syn { flags::SYN } else { flags::ACK },
                &[],
            )
        } else {
            frames::udp(source, destination, &[])
        };
        clear(&mut packet, family == 0, is_tcp)
            .expect("the packet has an IP header and a transport header");
        packet
    })
}

/// Zeroes lengths and checksums, which the program writes.
fn clear(packet: &mut [u8], is_ipv4: bool, is_tcp: bool) -> Option<()> {
    let transport = if is_ipv4 {
        let (ip, transport) = Ipv4::mut_from_prefix(packet).ok()?;
        ip.total_octets = 0.into();
        ip.checksum = 0.into();
        transport
    } else {
        let (ip, transport) = Ipv6::mut_from_prefix(packet).ok()?;
        ip.payload_octets = 0.into();
        transport
    };
    if is_tcp {
        let (tcp, _) = Tcp::mut_from_prefix(transport).ok()?;
        tcp.checksum = 0.into();
    } else {
        let (udp, _) = Udp::mut_from_prefix(transport).ok()?;
        udp.octets = 0.into();
        udp.checksum = 0.into();
    }
    Some(())
}

/// The templates of IPv4, of a later fragment, which has no transport header, and of IPv6.
fn templates(ethernet: &Ethernet, packets: &[Vec<u8>; 2]) -> Vec<u8> {
    let [ipv4, ipv6] = packets;
    let mut templates = Vec::with_capacity(TEMPLATES * TEMPLATE_OCTETS);
    for packet in [ipv4, &ipv4[..IPV4_OCTETS], ipv6] {
        let mut frame = ethernet.carry(packet);
        frame.resize(TEMPLATE_OCTETS, 0);
        templates.extend_from_slice(&frame);
    }
    templates
}

/// Sums of the templates' IPv4 header, transport over IPv4 and transport over IPv6, pseudo headers
/// included.
fn sums(packets: &[Vec<u8>; 2], protocol: u32) -> [u32; 3] {
    let [ipv4, ipv6] = packets;
    let addresses = offset_of!(Ipv6, source);
    [
        sum_of(&ipv4[..IPV4_OCTETS]),
        sum_of(&ipv4[IPV4_OCTETS..]) + protocol,
        sum_of(&ipv6[addresses..]) + protocol,
    ]
}

/// Sum of 16-bit words, not folded: it stays far below 2^32.
fn sum_of(octets: &[u8]) -> u32 {
    octets
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum()
}

/// The table of steps.
fn steps(options: &Options, is_tcp: bool, random: &mut impl Rng) -> Result<Vec<Step>> {
    let is_zipf = options.pattern == Pattern::Zipf;
    let positions = if is_zipf {
        POSITIONS_ZIPF.min(
            usize::try_from(options.packets)
                .unwrap_or(usize::MAX)
                .max(POSITIONS)
                .next_power_of_two(),
        )
    } else if options.sizes == Sizes::Imix || options.fragments > 0 {
        POSITIONS
    } else {
        1
    };
    let lengths = lengths(options, is_tcp, positions, random);
    let mut steps: Vec<Step> = lengths
        .into_iter()
        .map(|ip_octets| Step {
            rank: 0,
            ip_octets,
            fragment: 0,
        })
        .collect();
    if options.fragments > 0 {
        place_fragments(&mut steps, options.fragments, is_tcp, random);
    }
    if is_zipf {
        let zipf = Zipf::new(f64::from(options.flows), options.zipf_s).with_context(|| {
            format!(
                "Zipf exponent {}, expected a number of at least 0",
                options.zipf_s
            )
        })?;
        for step in &mut steps {
            step.rank = rank(zipf.sample(random));
        }
    }
    Ok(steps)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a sample is 1 to flows, which is 32 bits"
)]
fn rank(sample: f64) -> u32 {
    sample as u32 - 1
}

/// IP total lengths in random order and exact shares.
fn lengths(options: &Options, is_tcp: bool, positions: usize, random: &mut impl Rng) -> Vec<u16> {
    let shortest = IPV4_OCTETS + transport_octets(is_tcp);
    let mut lengths: Vec<u16> = match options.sizes {
        Sizes::Fixed => {
            let octets = usize::from(options.length) - ETHERNET_OCTETS;
            return vec![ip_length(octets.max(shortest)); positions];
        }
        Sizes::Imix => {
            let dozen = IMIX
                .iter()
                .flat_map(|(octets, share)| std::iter::repeat_n(*octets, *share));
            dozen.cycle().take(positions).collect()
        }
    };
    lengths.shuffle(random);
    lengths
}

fn ip_length(octets: usize) -> u16 {
    u16::try_from(octets).expect("a frame is not longer than LENGTH_MAX")
}

/// Turns pairs of neighbours at random positions into the two halves of a datagram, until `percent`
/// of the positions are halves.
fn place_fragments(steps: &mut [Step], percent: u8, is_tcp: bool, random: &mut impl Rng) {
    let pairs = steps.len() * usize::from(percent) / 200;
    let mut is_pair: Vec<bool> = (0..steps.len() - pairs).map(|unit| unit < pairs).collect();
    is_pair.shuffle(random);
    let mut at = 0;
    for pair in is_pair {
        if pair {
            let ip_octets = half_octets(steps[at].ip_octets, is_tcp);
            let offset = (ip_octets - IPV4_HEADER) / 8;
            steps[at] = Step {
                ip_octets,
                fragment: MORE_FRAGMENTS,
                ..steps[at]
            };
            steps[at + 1] = Step {
                ip_octets,
                fragment: offset,
                ..steps[at + 1]
            };
        }
        at += 1 + usize::from(pair);
    }
}

/// The longest fragment up to `octets_max` whose payload is a multiple of 8 octets and has room for
/// a transport header.
fn half_octets(octets_max: u16, is_tcp: bool) -> u16 {
    let payload_min = if is_tcp { 24 } else { 8 };
    IPV4_HEADER + (octets_max.saturating_sub(IPV4_HEADER) & !7).max(payload_min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_has_its_shares() {
        let plan = PatternPlan::new(&Options {
            sizes: Sizes::Imix,
            ..Options::on("none")
        })
        .unwrap();
        let long = plan
            .steps
            .iter()
            .filter(|step| step.ip_octets == 1500)
            .count();
        assert_eq!((plan.steps.len(), long), (4096, 341));
        assert_eq!(plan.frame_octets_max, 1514);
    }

    #[test]
    fn fragments_come_in_pairs_of_equal_length() {
        let options = Options {
            fragments: 50,
            sizes: Sizes::Imix,
            ..Options::on("none")
        };
        let plan = PatternPlan::new(&options).unwrap();
        assert_eq!(
            plan.steps.iter().filter(|step| step.fragment != 0).count(),
            2048
        );
        for pair in plan.steps.windows(2).filter(|pair| pair[0].is_first()) {
            assert_eq!(pair[0].ip_octets, pair[1].ip_octets);
            assert_eq!(pair[1].fragment * 8, pair[0].ip_octets - 20);
        }
    }

    #[test]
    fn one_seed_gives_one_plan_and_another_another() {
        let plan = |seed| {
            PatternPlan::new(&Options {
                seed,
                pattern: Pattern::Zipf,
                ..Options::on("none")
            })
            .unwrap()
        };
        assert_eq!(plan(7).steps, plan(7).steps);
        assert_ne!(plan(7).steps, plan(8).steps);
        assert_ne!(plan(7).seed, plan(8).seed);
    }

    #[test]
    fn counts_flows_of_each_family() {
        let options = Options {
            ipv6_share: 30,
            ..Options::on("none")
        };
        let (ipv4, ipv6) = PatternPlan::new(&options)
            .unwrap()
            .distinct_flows(5_000, 5_000, 0);
        assert_eq!(ipv4 + ipv6, 1_000);
        assert!(
            (250..350).contains(&ipv6),
            "{ipv6} of 1000 flows, expected about 300"
        );
    }

    #[test]
    fn refuses_more_tags_than_templates_hold() {
        let error = PatternPlan::new(&Options {
            vlan: vec![1; 14],
            ..Options::on("none")
        })
        .err()
        .unwrap();
        assert_eq!(
            error.to_string(),
            "14 VLAN tags and MPLS labels, expected at most 13"
        );
    }
}
