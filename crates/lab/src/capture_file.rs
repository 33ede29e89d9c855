//! Large capture files from a seed, with exact counts, to measure readers of files.
//!
//! *Realistic* is a minute on a link: conversations between clients and servers, in both
//! directions; sizes of flows by Zipf's law; TCP with its flags, UDP and ICMP. Short flows have
//! packets of the simple Internet mix, long flows have full packets and acknowledgements. *Worst*
//! is the worst case for a flow cache: shortest frames, each of a random flow. The same seed writes
//! the same octets.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;

use crate::frames::{ByteOrder, Ethernet, PcapWriter, StampResolution, flags, icmp, tcp, udp};

/// Kind of traffic in a capture.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A minute on a link: 3 million packets of 400 000 flows.
    Realistic,
    /// 4 million frames of 60 octets, each of a random one of a million flows.
    Worst,
}

/// Exact counts of a capture file, to compare with those of its readers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct CaptureCounts {
    /// Kind of traffic.
    pub kind: Kind,
    /// The seed.
    pub seed: u64,
    /// Packets, all IPv4.
    pub packets: u64,
    /// Sum of the IP total lengths: the octets in a NetFlow v5 ledger.
    pub octets: u64,
    /// Distinct flows by the key of NetFlow v5.
    pub flows: u64,
    /// Length of the file in octets.
    pub file_octets: u64,
}

/// What a capture is made from.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Kind of traffic.
    pub kind: Kind,
    /// Packets; at least as many as flows.
    pub packets: u32,
    /// Distinct flows.
    pub flows: u32,
    /// Seed: the same seed gives the same octets.
    pub seed: u64,
}

impl Recipe {
    /// A capture of `kind` with the default numbers of packets and flows.
    #[must_use]
    pub fn of(kind: Kind, seed: u64) -> Self {
        let (packets, flows) = match kind {
            Kind::Realistic => (3_000_000, 400_000),
            Kind::Worst => (4_000_000, 1_000_000),
        };
        Self {
            kind,
            packets,
            flows,
            seed,
        }
    }

    /// Writes the capture and returns its counts.
    ///
    /// # Errors
    ///
    /// If there are fewer packets than flows, more flows than addresses, or the output cannot be
    /// written.
    pub fn write(&self, output: impl Write) -> Result<CaptureCounts> {
        let Self {
            kind,
            packets,
            flows,
            seed,
        } = *self;
        ensure!(
            flows > 0 && packets >= flows,
            "{packets} packets of {flows} flows, expected at least one of each flow"
        );
        ensure!(
            flows <= FLOWS_MAX,
            "{flows} flows, expected at most {FLOWS_MAX}"
        );
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut writer = Writer::new(output)?;
        match kind {
            Kind::Realistic => self.write_realistic(&mut random, &mut writer)?,
            Kind::Worst => self.write_worst(&mut random, &mut writer)?,
        }
        let (octets, file_octets) = writer.finish()?;
        Ok(CaptureCounts {
            kind,
            seed,
            packets: packets.into(),
            octets,
            flows: flows.into(),
            file_octets,
        })
    }

    fn write_realistic(
        &self,
        random: &mut Pcg64Mcg,
        writer: &mut Writer<impl Write>,
    ) -> Result<()> {
        let sizes = self.sizes(random)?;
        let conversations: Vec<_> = (0..self.flows.div_ceil(2))
            .map(|number| Conversation::new(number, random))
            .collect();
        let mut seen = vec![0; sizes.len()];
        for (at_ns, flow) in schedule(&sizes, random) {
            let (size, nth) = (sizes[flow as usize], &mut seen[flow as usize]);
            let packet = conversations[flow as usize / 2].packet(flow % 2 == 1, *nth, size, random);
            *nth += 1;
            writer.packet(Duration::from_nanos(at_ns), &packet)?;
        }
        Ok(())
    }

    /// Packets of each flow: one, and more by Zipf's law.
    fn sizes(&self, random: &mut impl Rng) -> Result<Vec<u32>> {
        let mut sizes = vec![1; self.flows as usize];
        let zipf = Zipf::new(f64::from(self.flows), ZIPF_S)?;
        for _ in self.flows..self.packets {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "ranks go from 1 to the flows"
            )]
            let rank = zipf.sample(random) as usize;
            sizes[rank - 1] += 1;
        }
        Ok(sizes)
    }

    fn write_worst(&self, random: &mut Pcg64Mcg, writer: &mut Writer<impl Write>) -> Result<()> {
        let mut order: Vec<u32> = (0..self.packets)
            .map(|packet| packet % self.flows)
            .collect();
        order.shuffle(random);
        for (at, flow) in (0..).zip(order) {
            let client = SocketAddr::from((
                client_address(flow),
                1024 + u16::from(flow.to_le_bytes()[0]),
            ));
            let server = SocketAddr::from((Ipv4Addr::new(198, 18, 0, 1), 4433));
            writer.packet(
                Duration::from_nanos(WORST_INTERVAL_NS * at),
                &udp(client, server, &[0; 18]),
            )?;
        }
        Ok(())
    }
}

/// The most flows: each client has an address of its own in 10.0.0.0/8.
const FLOWS_MAX: u32 = 1 << 24;
/// Exponent of Zipf's law: with 1 the largest of 400 000 flows has 7 % of all packets.
const ZIPF_S: f64 = 1.0;
/// Duration of a realistic capture.
const MINUTE_NS: u64 = 60_000_000_000;
/// Mean time between packets of a flow, unless the capture ends before.
const PACING_NS: u64 = 50_000_000;
/// Flows with more packets than this carry bulk data.
const SHORT_MAX: u32 = 16;
/// Time between packets in the worst case: 4 million a second.
const WORST_INTERVAL_NS: u64 = 250;
/// Begin of captures: 2026-01-01, in seconds since 1970.
const BEGIN_S: u64 = 1_767_225_600;
/// IP total lengths of bulk data: one acknowledgement for each full packet.
const BULK: [usize; 2] = [1500, 40];
/// IP total lengths of the simple Internet mix.
const IMIX: [usize; 12] = [40, 40, 40, 40, 40, 40, 40, 576, 576, 576, 576, 1500];

/// Time and flow of each packet, in order of time.
fn schedule(sizes: &[u32], random: &mut impl Rng) -> Vec<(u64, u32)> {
    let mut schedule = Vec::new();
    for (conversation, pair) in (0..).zip(sizes.chunks(2)) {
        let begin_ns = random.random_range(0..MINUTE_NS);
        for (flow, size) in (2 * conversation..).zip(pair) {
            let length_ns = (u64::from(*size) * PACING_NS).min(MINUTE_NS - begin_ns);
            schedule.push((begin_ns, flow));
            schedule
                .extend((1..*size).map(|_| (begin_ns + random.random_range(0..length_ns), flow)));
        }
    }
    // Packets with the same time are ordered by flow, so that one seed gives one file.
    schedule.sort_unstable();
    schedule
}

/// Two ends that send to each other, one flow for each direction.
struct Conversation {
    protocol: Protocol,
    client: SocketAddr,
    server: SocketAddr,
}

#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl Conversation {
    fn new(number: u32, random: &mut impl Rng) -> Self {
        let (protocol, port) = match random.random_range(0..100) {
            0..65 => (Protocol::Tcp, 443),
            65..80 => (Protocol::Tcp, 80),
            80..90 => (Protocol::Udp, 443),
            90..98 => (Protocol::Udp, 53),
            _ => (Protocol::Icmp, 0),
        };
        let client = SocketAddr::from((
            client_address(number),
            random.random_range(1_024..=u16::MAX),
        ));
        let server = Ipv4Addr::from_bits(0xc612_0000 | random.random_range(1..=10_000));
        Self {
            protocol,
            client,
            server: SocketAddr::from((server, port)),
        }
    }

    /// Packet `nth` of the `size` packets that one end sends.
    fn packet(&self, from_server: bool, nth: u32, size: u32, random: &mut impl Rng) -> Vec<u8> {
        let (from, to) = if from_server {
            (self.server, self.client)
        } else {
            (self.client, self.server)
        };
        let lengths: &[usize] = if size > SHORT_MAX { &BULK } else { &IMIX };
        let octets = lengths[random.random_range(0..lengths.len())];
        match self.protocol {
            Protocol::Tcp if nth == 0 => tcp(
                from,
                to,
                flags::SYN | if from_server { flags::ACK } else { 0 },
                &[],
            ),
            Protocol::Tcp if nth + 1 == size => tcp(from, to, flags::FIN | flags::ACK, &[]),
            Protocol::Tcp => tcp(from, to, flags::ACK, &PAYLOAD[..octets - 40]),
            Protocol::Udp => udp(from, to, &PAYLOAD[..octets - 28]),
            Protocol::Icmp => icmp(
                from.ip(),
                to.ip(),
                if from_server { 0 } else { ICMP_ECHO },
                0,
                &PAYLOAD[..octets - 28],
            ),
        }
    }
}

const ICMP_ECHO: u8 = 8;
static PAYLOAD: [u8; 1500] = [0; 1500];

/// Addresses in random order, all different: an odd factor permutes the numbers below 2^24.
fn client_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 | number.wrapping_mul(0x009e_3779) & (FLOWS_MAX - 1))
}

/// A capture file, and the octets of the packets written to it.
struct Writer<W> {
    pcap: PcapWriter<W>,
    ethernet: Ethernet,
    octets: u64,
}

impl<W: Write> Writer<W> {
    fn new(output: W) -> io::Result<Self> {
        let pcap = PcapWriter::new(output, ByteOrder::Little, StampResolution::Micro)?;
        Ok(Self {
            pcap,
            ethernet: Ethernet::default(),
            octets: 0,
        })
    }

    fn packet(&mut self, after: Duration, packet: &[u8]) -> io::Result<()> {
        let frame = self.ethernet.carry(packet);
        self.octets += packet.len() as u64;
        self.pcap
            .frame(Duration::from_secs(BEGIN_S) + after, &frame)
    }

    /// Finishes the file and returns the octets of its packets and its length.
    fn finish(self) -> io::Result<(u64, u64)> {
        let file_octets = self.pcap.octets();
        self.pcap.finish()?;
        Ok((self.octets, file_octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Kind, seed: u64) -> (Vec<u8>, CaptureCounts) {
        let mut octets = Vec::new();
        let counts = Recipe {
            packets: 3_000,
            flows: 401,
            ..Recipe::of(kind, seed)
        }
        .write(&mut octets)
        .unwrap();
        (octets, counts)
    }

    #[test]
    fn one_seed_writes_the_same_octets_and_another_others() {
        for kind in [Kind::Realistic, Kind::Worst] {
            let (octets, counts) = written(kind, 1);
            assert_eq!(octets.len() as u64, counts.file_octets);
            assert!(written(kind, 1).0 == octets && written(kind, 2).0 != octets);
        }
    }

    #[test]
    fn refuses_fewer_packets_than_flows() {
        let error = Recipe {
            packets: 2,
            flows: 3,
            ..Recipe::of(Kind::Worst, 1)
        }
        .write(Vec::new())
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "2 packets of 3 flows, expected at least one of each flow"
        );
    }
}
