//! Options of `xdprobe run` that say how and to whom records are exported.

use super::values::{ms, parse_timeout};
use crate::command::usage::UsageError;
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;
use xdprobe_pipeline::export::netflow::v5::SamplingInterval;
use xdprobe_pipeline::export::netflow::{Engine, Version};
use xdprobe_pipeline::export::{DatagramConfig, Distribution, FixedFormat, Pace, SocketOptions};
use xdprobe_pipeline::{Destination, ExportPlan};

/// What the user wrote.
#[derive(Args, Debug)]
#[command(next_help_heading = "Export")]
pub struct ExportOptions {
    /// Where records go: HOST:PORT, [V6]:PORT, or file:PATH for a flow-tools file
    #[arg(value_name = "COLLECTOR", required = true)]
    pub collectors: Vec<Destination>,

    /// Which collector gets which record: copy (all get all), balance (each flow key has one), or
    /// failover (the first that does not refuse)
    #[arg(long, default_value = "copy", value_name = "HOW")]
    distribute: Distribution,

    /// NetFlow version of the datagrams: 1, 5 or 7
    #[arg(long, default_value = "5", value_name = "VERSION")]
    netflow: Version,

    /// Engine type and id in the records' headers
    #[arg(long, default_value = "0:0", value_name = "TYPE:ID")]
    engine: Engine,

    /// Send a datagram that is not full after this long
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = parse_timeout)]
    flush_delay: Duration,

    /// Send each collector no more records a second than this
    #[arg(long, value_name = "N")]
    records_per_second: Option<NonZeroU64>,

    /// Send each collector no more octets of UDP payload a second than this
    #[arg(long, value_name = "N")]
    octets_per_second: Option<NonZeroU64>,

    /// Records that wait for each collector's pace before more are refused, and counted
    #[arg(long, default_value_t = DatagramConfig::default().paced_records_max, value_name = "N", value_parser = parse_queue)]
    paced_records: usize,

    /// Send from this address, or address and port; once for each family
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = parse_source)]
    source: Vec<SocketAddr>,

    /// Send by this interface, whatever the routes say
    #[arg(long, value_name = "IFACE")]
    bind_device: Option<String>,

    /// Differentiated services code point of the datagrams, 0 to 63
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..64))]
    dscp: Option<u8>,

    /// Time to live, or hop limit, of the datagrams [default: the system's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    ttl: Option<u8>,

    /// Octets of each socket's send buffer [default: 4194304, or what the system allows]
    #[arg(long, value_name = "OCTETS", value_parser = parse_send_buffer)]
    send_buffer: Option<usize>,

    /// Send no IP packet longer than this, even if the path carries it
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u16).range(68..))]
    mtu: Option<u16>,

    /// How often collectors' names are resolved again
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_timeout)]
    resolve_interval: Duration,
}

impl ExportOptions {
    /// Checks what the parser could not. `sampling` is what headers tell of it.
    pub fn plan(self, sampling: SamplingInterval) -> Result<ExportPlan, UsageError> {
        for family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
            if self.source.iter().filter(|source| family(source)).count() > 1 {
                return Err(UsageError(
                    "--source is given twice for one family: wanted one IPv4 and one IPv6"
                        .to_owned(),
                ));
            }
        }
        Ok(ExportPlan {
            distribution: self.distribute,
            format: FixedFormat {
                version: self.netflow,
                engine: self.engine,
                sampling,
            },
            datagrams: DatagramConfig {
                flush_delay_ms: ms(self.flush_delay),
                pace: Pace {
                    records_per_s: self.records_per_second,
                    octets_per_s: self.octets_per_second,
                },
                paced_records_max: self.paced_records,
                keeps_records: self.distribute == Distribution::Failover,
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
        })
    }
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
    let wanted = || {
        format!(
            "'{text}' is no source: wanted ADDR or ADDR:PORT, as in 192.0.2.7, 192.0.2.7:4000 or [2001:db8::7]:4000"
        )
    };
    address
        .or_else(bracketed)
        .or_else(|| text.parse().ok())
        .ok_or_else(wanted)
}

fn parse_queue(text: &str) -> Result<usize, String> {
    let wanted = || format!("'{text}' is no number of records from 1000 to 100000000");
    text.parse()
        .ok()
        .filter(|records| (1_000..=100_000_000).contains(records))
        .ok_or_else(wanted)
}

fn parse_send_buffer(text: &str) -> Result<usize, String> {
    let wanted = || format!("'{text}' is no send buffer: wanted 4096 to 1073741824 octets");
    text.parse()
        .ok()
        .filter(|octets| (4_096..=1 << 30).contains(octets))
        .ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{planned, refused};
    use super::*;

    #[test]
    fn sources_are_addresses_with_or_without_a_port() {
        for (text, wanted) in [
            ("192.0.2.7", "192.0.2.7:0"),
            ("192.0.2.7:4000", "192.0.2.7:4000"),
            ("2001:db8::7", "[2001:db8::7]:0"),
            ("[2001:db8::7]", "[2001:db8::7]:0"),
            ("[2001:db8::7]:4000", "[2001:db8::7]:4000"),
        ] {
            assert_eq!(parse_source(text), Ok(wanted.parse().unwrap()));
        }
        for bad in ["", "host", "192.0.2.7:", "192.0.2.7:65536", "192.0.2"] {
            assert!(
                parse_source(bad).unwrap_err().contains("wanted ADDR"),
                "{bad}"
            );
        }
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        refused("-r x --netflow 9 127.0.0.1:9", "wanted 1, 5 or 7");
        refused(
            "-r x --distribute any 127.0.0.1:9",
            "wanted copy, balance or failover",
        );
        refused("-r x --records-per-second 0 127.0.0.1:9", "zero");
        refused("-r x --dscp 64 127.0.0.1:9", "64 is not in 0..64");
        refused("-r x --mtu 67 127.0.0.1:9", "67 is not in 68..");
        refused(
            "-r x --source 192.0.2.1 --source 192.0.2.2 127.0.0.1:9",
            "twice for one family",
        );
        refused("-r x 127.0.0.1:0", "wanted HOST:PORT");
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
}
