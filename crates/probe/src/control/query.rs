//! Which flows a request is about, in the same words as options of the command line and as
//! parameters of a path.
//!
//! There is one definition, that of the command line: `?port=53` is read as `--port=53`.

use anyhow::Context;
use clap::{Args, Command};
use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use serde::Serialize;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use xdprobe_pipeline::flow::{FlowFilter, Ipv4Prefix, Volume};

/// Conditions on a flow, which matches if all that are given hold.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowQuery {
    /// Flows from or to this address or network
    #[arg(long, value_name = "PREFIX", help_heading = FLOWS)]
    pub prefix: Option<Network>,

    /// Flows from this address or network
    #[arg(long, value_name = "PREFIX", help_heading = FLOWS)]
    pub source: Option<Network>,

    /// Flows to this address or network
    #[arg(long, value_name = "PREFIX", help_heading = FLOWS)]
    pub destination: Option<Network>,

    /// Flows from or to this port
    #[arg(long, value_name = "N", help_heading = FLOWS)]
    pub port: Option<u16>,

    /// Flows from this port
    #[arg(long, value_name = "N", help_heading = FLOWS)]
    pub source_port: Option<u16>,

    /// Flows to this port
    #[arg(long, value_name = "N", help_heading = FLOWS)]
    pub destination_port: Option<u16>,

    /// Flows of this IP protocol: a number, or tcp, udp, icmp, igmp, gre, esp, ah, ospf or sctp
    #[arg(long, value_name = "PROTOCOL", help_heading = FLOWS)]
    pub protocol: Option<Protocol>,

    /// Flows that came in or go out through this interface: its name or ifIndex
    #[arg(long, value_name = "IFACE", help_heading = FLOWS)]
    pub interface: Option<String>,

    /// Flows of at least this many packets
    #[arg(long, value_name = "N", help_heading = FLOWS)]
    pub least_packets: Option<u64>,

    /// Flows of at least this many octets
    #[arg(long, value_name = "N", help_heading = FLOWS)]
    pub least_octets: Option<u64>,
}

const FLOWS: &str = "Which flows";

/// An IPv4 network; an address is a network of 32 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(into = "String")]
pub struct Network(Ipv4Net);

/// An IP protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(into = "String")]
pub struct Protocol(pub u8);

/// Protocols that have a name here (IANA, *Assigned Internet Protocol Numbers*).
const PROTOCOLS: [(&str, u8); 9] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ospf", 89),
    ("sctp", 132),
];

impl FlowQuery {
    /// The ifIndex of the interface, if one is given.
    ///
    /// # Errors
    ///
    /// If there is no such interface, or its ifIndex is above what flow keys hold.
    pub fn interface(&self) -> anyhow::Result<Option<u16>> {
        let Some(name) = &self.interface else {
            return Ok(None);
        };
        let by_number = name.parse().ok();
        let index: u32 = match by_number {
            Some(index) => index,
            None => if_nametoindex(name.as_str())
                .with_context(|| format!("interface '{name}' does not exist"))?,
        };
        let index = u16::try_from(index);
        let index = index.with_context(|| {
            format!("interface {name} has an ifIndex above 65535, which no record holds")
        })?;
        Ok(Some(index))
    }

    /// The conditions that a worker can check, with the observation point in place of the
    /// interface.
    pub fn filter(&self, point: Option<u16>) -> FlowFilter {
        let prefix = |network: Network| {
            let Network(network) = network;
            Ipv4Prefix::new(network.addr(), network.prefix_len()).expect("32 bits at the most")
        };
        FlowFilter {
            source: self.source.map(prefix),
            destination: self.destination.map(prefix),
            either: self.prefix.map(prefix),
            source_port: self.source_port,
            destination_port: self.destination_port,
            port: self.port,
            protocol: self.protocol.map(|Protocol(number)| number),
            point,
            least: Volume {
                packets: self.least_packets.unwrap_or(0),
                octets: self.least_octets.unwrap_or(0),
            },
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.parse::<Ipv4Addr>().map(Ipv4Net::from);
        address.or_else(|_| text.parse()).map(Self).map_err(|_| {
            format!(
                "'{text}' is not an IPv4 address or network: expected for example 192.0.2.1 or \
                 10.0.0.0/8"
            )
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = PROTOCOLS
            .iter()
            .find(|(name, _)| text.eq_ignore_ascii_case(name));
        let number = named.map(|(_, number)| *number);
        number
            .or_else(|| text.parse().ok())
            .map(Self)
            .ok_or_else(|| {
                let names = PROTOCOLS.map(|(name, _)| name).join(", ");
                format!("'{text}' is not an IP protocol: expected 0 to 255 or one of {names}")
            })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Protocol {
    /// Its name, where it has one here; else its number.
    pub fn name(self) -> String {
        let named = PROTOCOLS.iter().find(|(_, number)| *number == self.0);
        named.map_or_else(|| self.0.to_string(), |(name, _)| (*name).to_owned())
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.to_string()
    }
}

/// The parameters of a path, as the options of the same names.
///
/// # Errors
///
/// What was found and what is expected, in one line.
pub fn of_parameters<T: Args>(parameters: &str) -> Result<T, String> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(parameters)
        .map_err(|error| format!("parameters that cannot be read: {error}"))?;
    let options = pairs.iter().map(|(name, value)| match &value[..] {
        "" => format!("--{name}"),
        value => format!("--{name}={value}"),
    });
    let command = Command::new("parameters")
        .no_binary_name(true)
        .disable_help_flag(true);
    let matches = T::augment_args(command).try_get_matches_from(options);
    matches
        .and_then(|matches| T::from_arg_matches(&matches))
        .map_err(|error| {
            let said = error.to_string();
            let said = said.lines().next().unwrap_or_default();
            let said = said.trim_start_matches("error: ");
            said.replace("'--", "'")
        })
}

/// The options as parameters of a path.
pub fn to_parameters(query: &impl Serialize) -> String {
    serde_urlencoded::to_string(query).expect("a query has names and values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_the_same_as_parameters_of_a_path() {
        let query = FlowQuery {
            prefix: Some("10.0.0.0/8".parse().unwrap()),
            source: Some("192.0.2.1".parse().unwrap()),
            protocol: Some("udp".parse().unwrap()),
            interface: Some("tap0".to_owned()),
            least_packets: Some(7),
            ..FlowQuery::default()
        };
        let text = to_parameters(&query);
        assert_eq!(
            text,
            "prefix=10.0.0.0%2F8&source=192.0.2.1%2F32&protocol=17&interface=tap0&least-packets=7"
        );
        assert_eq!(of_parameters(&text), Ok(query));
    }

    #[test]
    fn parameters_that_are_wrong_are_named() {
        for (parameters, expected) in [
            ("port=http", "invalid value 'http' for 'port <N>'"),
            ("prot=6", "unexpected argument 'prot'"),
            (
                "port=53&port=54",
                "'port <N>' cannot be used multiple times",
            ),
            ("help=", "unexpected argument 'help'"),
        ] {
            let error = of_parameters::<FlowQuery>(parameters).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_no_network_or_protocol_is_refused_with_what_is_expected() {
        for bad in ["10.0.0.0/33", "10.0.0", "tap0", ""] {
            let error = bad.parse::<Network>().unwrap_err();
            assert!(error.contains("expected for example 192.0.2.1"), "{error}");
        }
        for bad in ["256", "tcpp", "-1", ""] {
            let error = bad.parse::<Protocol>().unwrap_err();
            assert!(error.contains("expected 0 to 255"), "{error}");
        }
        assert_eq!("TCP".parse(), Ok(Protocol(6)));
        assert_eq!(
            "47".parse::<Protocol>().map(Protocol::name),
            Ok("gre".to_owned())
        );
    }
}
