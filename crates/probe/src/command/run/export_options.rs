//! Options of `xdprobe run` about export: how, and to which collectors.

use super::values::{ms, parse_timeout};
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;
use xdprobe_pipeline::export::netflow::v5::SamplingInterval;
use xdprobe_pipeline::export::netflow::{Engine, Version};
use xdprobe_pipeline::export::{DatagramConfig, Distribution, FixedFormat, Pace, SocketOptions};
use xdprobe_pipeline::{Destination, ExportPlan};

/// Options about export.
#[derive(Args, Debug)]
#[command(next_help_heading = "Export")]
pub struct ExportOptions {
    #[arg(
        value_name = "COLLECTOR",
        help_heading = None,
        help = "Where records go: HOST:PORT, [V6]:PORT (of a link-local address with its \
                interface: [fe80::1%eth0]:PORT), or file:PATH for a flow-tools file (file:- for \
                standard output)"
    )]
    pub collectors: Vec<Destination>,

    /// Replace the files of file:PATH if they exist; without it they are refused
    #[arg(long)]
    overwrite: bool,

    /// Which collector gets which record: copy (each gets all), balance (one for each flow key) or
    /// failover (the first that does not refuse)
    #[arg(long, default_value = "copy", value_name = "HOW")]
    distribute: Distribution,

    /// NetFlow version of datagrams and of the records in files: 1, 5 or 7
    #[arg(long, default_value = "5", value_name = "VERSION")]
    netflow: Version,

    /// Engine type and id in datagram headers, and in file records of versions 5 and 7 [default:
    /// 0:0 for a capture file, else 0 and an id from the host's name and the first interface]
    #[arg(long, value_name = "TYPE:ID")]
    engine: Option<Engine>,

    /// Send a datagram that is not full after this long
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_timeout)]
    flush_delay: Duration,

    /// Send each collector at most this many records per second
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    records_per_second: Option<NonZeroU64>,

    /// Send each collector at most this many octets of UDP payload per second
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    octets_per_second: Option<NonZeroU64>,

    /// Records that may wait for a collector's pace before more are lost and counted
    #[arg(
        long,
        default_value_t = DatagramConfig::default().paced_records_max,
        value_name = "N",
        value_parser = parse_queue
    )]
    paced_records: usize,

    /// Send from this address, or address and port; once per address family
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = parse_source)]
    source: Vec<SocketAddr>,

    /// Send through this interface, regardless of routes
    #[arg(long, value_name = "IFACE")]
    bind_device: Option<String>,

    /// Differentiated services code point (DSCP) of the datagrams, 0 to 63
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..64))]
    dscp: Option<u8>,

    /// Time to live, or hop limit, of the datagrams [default: the system's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    ttl: Option<u8>,

    /// Send buffer of each socket in octets [default: 4194304, or the system's limit]
    #[arg(long, value_name = "OCTETS", value_parser = parse_send_buffer)]
    send_buffer: Option<usize>,

    /// Send no IP packet longer than this, even if the path carries longer ones
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u16).range(68..))]
    mtu: Option<u16>,

    /// How often collectors' names are resolved again
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_timeout)]
    resolve_interval: Duration,
}

impl ExportOptions {
    /// What is wrong that the parser could not see.
    pub fn faults(&self) -> Vec<String> {
        let families = [SocketAddr::is_ipv4, SocketAddr::is_ipv6].into_iter();
        let count = |family: fn(&SocketAddr) -> bool| {
            self.source.iter().filter(|source| family(source)).count()
        };
        let sources = families.filter(|family| count(*family) > 1).map(|_| {
            "--source is given twice for one address family: expected at most one IPv4 and one IPv6"
                .to_owned()
        });
        let earlier = |nth: usize| &self.collectors[..nth];
        let collectors = self.collectors.iter().enumerate();
        let twice = collectors.filter(|(nth, collector)| earlier(*nth).contains(collector));
        let twice = twice.map(|(_, collector)| {
            format!("COLLECTOR {collector} is given twice: expected it once")
        });
        sources.chain(twice).collect()
    }

    /// The fastest that records are sent to a collector.
    pub fn pace(&self) -> Pace {
        Pace {
            records_per_s: self.records_per_second,
            octets_per_s: self.octets_per_second,
        }
    }

    /// The export. `sampling` is what headers state, `inputs` are files that are read, and `engine`
    /// is the default of --engine.
    pub fn plan(
        self,
        sampling: SamplingInterval,
        inputs: Vec<PathBuf>,
        engine: Engine,
    ) -> ExportPlan {
        ExportPlan {
            distribution: self.distribute,
            format: FixedFormat {
                version: self.netflow,
                engine: self.engine.unwrap_or(engine),
                sampling,
            },
            datagrams: DatagramConfig {
                flush_delay_ms: ms(self.flush_delay),
                pace: self.pace(),
                paced_records_max: self.paced_records,
                keeps_records: self.distribute != Distribution::Copy,
            },
            sockets: SocketOptions {
                sources: self.source,
                device: self.bind_device,
                dscp: self.dscp,
                ttl: self.ttl,
                send_buffer_octets: self.send_buffer,
                mtu: self.mtu,
            },
            resolve_interval: self.resolve_interval,
            destinations: self.collectors,
            overwrite: self.overwrite,
            inputs,
        }
    }
}

/// The engine of a probe on interfaces, of which the first has `if_index`: type 0, and an id that
/// differs from probe to probe, so that a collector does not mix up their sequences.
///
/// Ids of up to 256 interfaces of a host all differ. Hosts that a collector sees under one address
/// have the same id once in 256 pairs.
pub fn live_engine(hostname: &str, if_index: u32) -> Engine {
    let [index, ..] = if_index.to_le_bytes();
    Engine {
        r#type: 0,
        id: hash(hostname.as_bytes()) ^ index,
    }
}

/// FNV-1a of 32 bits, folded. It stays the same in every build and on every machine.
fn hash(octets: &[u8]) -> u8 {
    let hash = octets.iter().fold(0x811c_9dc5_u32, |hash, octet| {
        (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193)
    });
    hash.to_le_bytes().iter().fold(0, |sum, octet| sum ^ octet)
}

/// An address, of any free port, or an address and a port.
fn parse_source(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .parse::<IpAddr>()
        .ok()
        .map(|address| SocketAddr::new(address, 0));
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse()
            .ok()
            .map(|address| SocketAddr::new(address, 0))
    };
    let expected = || {
        format!(
            "'{text}' is not a source: expected ADDR or ADDR:PORT, as in 192.0.2.7, \
             192.0.2.7:4000 or [2001:db8::7]:4000"
        )
    };
    address
        .or_else(bracketed)
        .or_else(|| text.parse().ok())
        .ok_or_else(expected)
}

fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    text.parse().map_err(|_| {
        format!(
            "'{text}' is not a rate: expected a number from 1 to {}",
            u64::MAX
        )
    })
}

fn parse_queue(text: &str) -> Result<usize, String> {
    let expected = || format!("'{text}' is not a number of records: expected 1000 to 100000000");
    text.parse()
        .ok()
        .filter(|records| (1_000..=100_000_000).contains(records))
        .ok_or_else(expected)
}

fn parse_send_buffer(text: &str) -> Result<usize, String> {
    let expected = || format!("'{text}' is not a send buffer: expected 4096 to 1073741824 octets");
    text.parse()
        .ok()
        .filter(|octets| (4_096..=1 << 30).contains(octets))
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::{planned, refused};
    use super::*;

    #[test]
    fn sources_are_addresses_with_or_without_a_port() {
        for (text, expected) in [
            ("192.0.2.7", "192.0.2.7:0"),
            ("192.0.2.7:4000", "192.0.2.7:4000"),
            ("2001:db8::7", "[2001:db8::7]:0"),
            ("[2001:db8::7]", "[2001:db8::7]:0"),
            ("[2001:db8::7]:4000", "[2001:db8::7]:4000"),
        ] {
            assert_eq!(parse_source(text), Ok(expected.parse().unwrap()));
        }
        for bad in ["", "host", "192.0.2.7:", "192.0.2.7:65536", "192.0.2"] {
            assert!(
                parse_source(bad).unwrap_err().contains("expected ADDR"),
                "{bad}"
            );
        }
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        refused("-r x --netflow 9 127.0.0.1:9", "choose 1, 5 or 7");
        refused(
            "-r x --distribute any 127.0.0.1:9",
            "expected copy, balance or failover",
        );
        refused(
            "-r x --records-per-second 0 127.0.0.1:9",
            "expected a number from 1",
        );
        refused("-r x a:9 b:9 a:9", "COLLECTOR a:9 is given twice");
        refused("-r x --dscp 64 127.0.0.1:9", "64 is not in 0..64");
        refused("-r x --mtu 67 127.0.0.1:9", "67 is not in 68..");
        refused(
            "-r x --source 192.0.2.1 --source 192.0.2.2 127.0.0.1:9",
            "twice for one address family",
        );
        refused("-r x 127.0.0.1:0", "expected HOST:PORT");
    }

    #[test]
    fn a_record_waits_a_second_and_nothing_is_paced_unless_asked_for() {
        let export = planned("-r x 127.0.0.1:9").unwrap().export;
        assert_eq!(
            (export.datagrams.flush_delay_ms, export.datagrams.pace),
            (1_000, Pace::default())
        );
        assert_eq!(
            (export.distribution, export.format.version),
            (Distribution::Copy, Version::V5)
        );
    }

    #[test]
    fn probes_on_interfaces_have_engines_of_their_own() {
        let ids = |hostname: &str| -> Vec<u8> {
            let engines = (1..=256).map(|if_index| live_engine(hostname, if_index));
            engines.map(|engine| engine.id).collect()
        };
        let mut sorted = ids("probe1");
        sorted.sort_unstable();
        assert_eq!(sorted, (0..=255).collect::<Vec<u8>>());
        assert_ne!(ids("probe1"), ids("probe2"));
        assert_eq!(live_engine("probe1", 2), Engine { r#type: 0, id: 222 });
    }

    #[test]
    fn a_capture_file_has_engine_zero_on_every_host_and_the_option_wins() {
        let engine = |line: &str| planned(line).unwrap().export.format.engine;
        assert_eq!(engine("-r x 127.0.0.1:9"), Engine::default());
        let hostname = nix::unistd::gethostname().unwrap();
        assert_eq!(
            engine("-i lo 127.0.0.1:9"),
            live_engine(&hostname.to_string_lossy(), 1)
        );
        let given = Engine { r#type: 3, id: 7 };
        assert_eq!(engine("-i lo --engine 3:7 127.0.0.1:9"), given);
        assert_eq!(engine("-r x --engine 3:7 127.0.0.1:9"), given);
    }
}
