//! What to send: options for the command line and for tests.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

/// Shortest frame that can be sent, in octets: the minimum of Ethernet, without frame check
/// sequence.
pub const LENGTH_MIN: u16 = 60;
/// Longest frame that can be sent, in octets: a live frame must fit a page, together with the
/// kernel's own data.
pub const LENGTH_MAX: u16 = 3400;

const LENGTHS: RangeInclusive<i64> = LENGTH_MIN as i64..=LENGTH_MAX as i64;

/// What to send and how fast. `Options::on(interface)` gives the defaults.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Interface to send on. The peer of a veth receives frames only with `ethtool -K PEER gro on`
    /// or an XDP program
    #[arg(short, long, value_name = "IFACE")]
    pub interface: String,
    /// Number of packets
    #[arg(short = 'n', long, value_name = "N", default_value_t = Self::DEFAULT.packets)]
    pub packets: u64,
    /// Which flow each packet belongs to
    #[arg(short, long, default_value_t = Self::DEFAULT.pattern, value_enum)]
    pub pattern: Pattern,
    /// Number of flows; with churn, of flows at a time
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = Self::DEFAULT.flows,
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub flows: u32,
    /// Exponent of the Zipf distribution of packets over flows; 0 distributes them evenly
    #[arg(long, value_name = "S", default_value_t = Self::DEFAULT.zipf_s)]
    pub zipf_s: f64,
    /// With churn: flows a second that are replaced by new ones
    #[arg(long, value_name = "R", default_value_t = Self::DEFAULT.new_per_second)]
    pub new_per_second: u64,
    /// Length of a frame in octets, with Ethernet header, without tags and frame check sequence
    #[arg(
        short,
        long,
        value_name = "OCTETS",
        default_value_t = Self::DEFAULT.length,
        value_parser = clap::value_parser!(u16).range(LENGTHS),
    )]
    pub length: u16,
    /// fixed: every frame has --length. imix: IP packets of 40, 576 and 1500 octets in the ratio
    /// 7:4:1 and random order
    #[arg(long, default_value_t = Self::DEFAULT.sizes, value_enum)]
    pub sizes: Sizes,
    /// Packets a second [default: as fast as possible]
    #[arg(short, long, value_name = "PPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Send as fast as possible; the default
    #[arg(long, conflicts_with = "rate")]
    pub flat_out: bool,
    /// Seed: the same seed gives the same packets
    #[arg(short, long, default_value_t = Self::DEFAULT.seed)]
    pub seed: u64,
    /// Transport protocol; the pattern syn always sends TCP
    #[arg(long, default_value_t = Self::DEFAULT.protocol, value_enum)]
    pub protocol: Protocol,
    /// VLAN identifier of a tag; if repeated, the first is the outer (service) tag
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(0..4096))]
    pub vlan: Vec<u16>,
    /// MPLS label; if repeated, the first is the outer one
    #[arg(long, value_name = "LABEL", value_parser = clap::value_parser!(u32).range(0..1 << 20))]
    pub mpls: Vec<u32>,
    /// Percentage of flows that are IPv6
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100),
    )]
    pub ipv6_share: u8,
    /// Percentage of IPv4 packets that are fragments, in pairs of a first and a last fragment of
    /// equal length
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=100),
    )]
    pub fragments: u8,
    /// Source address of the frames
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:01")]
    pub source_mac: Mac,
    /// Destination address of the frames
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:02")]
    pub destination_mac: Mac,
    /// Capture file whose Ethernet frames are sent in order instead of a pattern. The first 128
    /// octets of each frame are sent unchanged, the rest as zeros
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "packets", "pattern", "flows", "zipf_s", "new_per_second", "length", "sizes", "seed",
            "protocol", "vlan", "mpls", "ipv6_share", "fragments", "source_mac", "destination_mac",
        ],
    )]
    pub pcap: Option<PathBuf>,
    /// Number of times that the capture file is sent; each time after the first adds 0.1.0.1 to all
    /// IPv4 addresses
    #[arg(
        long,
        value_name = "N",
        default_value_t = Self::DEFAULT.loops,
        requires = "pcap",
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    pub loops: u32,
    /// CPU to send from. On veth it selects the peer's queue: CPU modulo queues
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
}

impl Options {
    /// The default of each option.
    const DEFAULT: Self = Self {
        interface: String::new(),
        packets: 1_000_000,
        pattern: Pattern::RoundRobin,
        flows: 1_000,
        zipf_s: 1.0,
        new_per_second: 1_000,
        length: LENGTH_MIN,
        sizes: Sizes::Fixed,
        rate: None,
        flat_out: false,
        seed: 1,
        protocol: Protocol::Udp,
        vlan: Vec::new(),
        mpls: Vec::new(),
        ipv6_share: 0,
        fragments: 0,
        source_mac: Mac([2, 0, 0, 0, 0, 1]),
        destination_mac: Mac([2, 0, 0, 0, 0, 2]),
        pcap: None,
        loops: 1,
        cpu: None,
    };

    /// The defaults: a million packets of 60 octets in 1000 flows round-robin, as fast as possible.
    #[must_use]
    pub fn on(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            ..Self::DEFAULT
        }
    }
}

/// Which flow each packet belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Pattern {
    /// Each flow in turn.
    RoundRobin,
    /// The flow of rank k has a share of packets in proportion to 1 / k^s.
    Zipf,
    /// Every packet is a new flow: a TCP SYN from a new address.
    Syn,
    /// Each flow in turn, while new flows replace the oldest.
    Churn,
}

/// Lengths of packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Sizes {
    /// All the same.
    Fixed,
    /// The simple Internet mix: 7 of 40, 4 of 576 and 1 of 1500 octets.
    Imix,
}

/// Transport protocol of the packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP with ACK set.
    Tcp,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "{text:?} is not an Ethernet address: expected six octets, as in 02:00:00:00:00:01"
            )
        };
        let octets: Option<Vec<u8>> = text
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).ok())
            .collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or_else(expected)
    }
}
