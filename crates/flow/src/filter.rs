//! Choosing flows by what they are, for visiting and expiring some of them.

use crate::key::KeyV4;
use crate::prefix::Ipv4Prefix;
use crate::record::FlowRecord;
use crate::volume::Volume;

/// Conditions on a flow, which matches if all that are set hold. The default matches every flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowFilter {
    /// Network of the source address.
    pub source: Option<Ipv4Prefix>,
    /// Network of the destination address.
    pub destination: Option<Ipv4Prefix>,
    /// Network of the source address, the destination address, or both.
    pub either: Option<Ipv4Prefix>,
    /// Source port, as in the key.
    pub source_port: Option<u16>,
    /// Destination port, as in the key: for ICMP type * 256 + code.
    pub destination_port: Option<u16>,
    /// Source port, destination port, or both.
    pub port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Observation point.
    pub point: Option<u16>,
    /// The least packets and the least octets that a flow must have.
    pub least: Volume,
}

impl FlowFilter {
    /// Whether every condition holds for the flow.
    #[must_use]
    pub fn matches(&self, record: &FlowRecord<KeyV4>) -> bool {
        let FlowRecord { key, volume, .. } = record;
        let in_network = |network: Option<Ipv4Prefix>, address| {
            network.is_none_or(|network| network.contains(address))
        };
        in_network(self.source, key.source)
            && in_network(self.destination, key.destination)
            && (in_network(self.either, key.source) || in_network(self.either, key.destination))
            && is_or_any(self.source_port, key.source_port)
            && is_or_any(self.destination_port, key.destination_port)
            && (is_or_any(self.port, key.source_port) || is_or_any(self.port, key.destination_port))
            && is_or_any(self.protocol, key.protocol)
            && is_or_any(self.point, key.point)
            && volume.packets >= self.least.packets
            && volume.octets >= self.least.octets
    }
}

/// Whether the value is the expected one, if one is expected.
fn is_or_any<T: Copy + PartialEq>(expected: Option<T>, value: T) -> bool {
    expected.is_none_or(|expected| expected == value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EndReason;
    use std::net::Ipv4Addr;

    fn record() -> FlowRecord {
        FlowRecord {
            key: KeyV4 {
                source: Ipv4Addr::new(192, 0, 2, 1),
                destination: Ipv4Addr::new(198, 51, 100, 2),
                source_port: 4000,
                destination_port: 53,
                protocol: 17,
                tos: 0,
                point: 7,
            },
            volume: Volume {
                packets: 3,
                octets: 180,
            },
            first_ms: 0,
            last_ms: 9,
            tcp_flags: 0,
            end: EndReason::Forced,
        }
    }

    fn network(address: [u8; 4]) -> Option<Ipv4Prefix> {
        Ipv4Prefix::new(address.into(), 24)
    }

    #[test]
    fn a_filter_without_conditions_matches_every_flow() {
        assert!(FlowFilter::default().matches(&record()));
    }

    #[test]
    fn each_condition_picks_some_flows_and_refuses_others() {
        let any = FlowFilter::default();
        let (source, destination) = (network([192, 0, 2, 0]), network([198, 51, 100, 0]));
        let least = |packets, octets| Volume { packets, octets };
        #[rustfmt::skip]
        let cases = [
            (FlowFilter { source, ..any }, true),
            (FlowFilter { source: destination, ..any }, false),
            (FlowFilter { destination, ..any }, true),
            (FlowFilter { destination: source, ..any }, false),
            (FlowFilter { either: source, ..any }, true),
            (FlowFilter { either: destination, ..any }, true),
            (FlowFilter { either: network([10, 0, 0, 0]), ..any }, false),
            (FlowFilter { source_port: Some(4000), ..any }, true),
            (FlowFilter { source_port: Some(53), ..any }, false),
            (FlowFilter { destination_port: Some(53), ..any }, true),
            (FlowFilter { destination_port: Some(4000), ..any }, false),
            (FlowFilter { port: Some(4000), ..any }, true),
            (FlowFilter { port: Some(53), ..any }, true),
            (FlowFilter { port: Some(54), ..any }, false),
            (FlowFilter { protocol: Some(17), ..any }, true),
            (FlowFilter { protocol: Some(6), ..any }, false),
            (FlowFilter { point: Some(7), ..any }, true),
            (FlowFilter { point: Some(0), ..any }, false),
            (FlowFilter { least: least(3, 180), ..any }, true),
            (FlowFilter { least: least(4, 0), ..any }, false),
            (FlowFilter { least: least(0, 181), ..any }, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.matches(&record()), expected, "{filter:?}");
        }
    }

    #[test]
    fn all_conditions_have_to_hold() {
        let both = FlowFilter {
            port: Some(53),
            protocol: Some(17),
            ..FlowFilter::default()
        };
        assert!(both.matches(&record()));
        let tcp = FlowFilter {
            protocol: Some(6),
            ..both
        };
        assert!(!tcp.matches(&record()));
    }
}
