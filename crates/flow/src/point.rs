//! Observation points: where a packet was seen, as far as its frame shows it.
//!
//! A tap sees both directions of a link, and perhaps several links behind VLAN tags. [`PointRules`]
//! distinguish them by VLAN id, by the addresses of the link layer and by the network of the
//! packet's source. The number of the point becomes part of the flow key, and [`Points`] know which
//! pair of interfaces a number means.

use crate::decode::{ETHER_TYPE_TAGS, Link};
use crate::prefix::Ipv4Prefix;
use std::net::Ipv4Addr;

/// An address of the link layer (IEEE 802, 48 bits), in the order of transmission.
pub type MacAddress = [u8; 6];

/// One rule: a packet that meets all conditions that are set was seen at the rule's point.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PointRule {
    /// Id of the outermost VLAN tag. 0 is a frame without a tag, or with one that has only a
    /// priority.
    pub vlan: Option<u16>,
    /// The frame's source address.
    pub source_mac: Option<MacAddress>,
    /// The frame's destination address.
    pub destination_mac: Option<MacAddress>,
    /// Network of the packet's source address.
    pub source: Option<Ipv4Prefix>,
    /// Number of the point.
    pub point: u16,
}

/// The observation points of one interface: the first rule that fits a packet decides.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PointRules {
    rules: Vec<PointRule>,
    /// The point of packets that no rule fits.
    otherwise: u16,
}

impl PointRules {
    /// Rules in their order of precedence, and the point of packets that none of them fits.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = PointRule>, otherwise: u16) -> Self {
        let mut this = Self {
            rules: Vec::new(),
            otherwise,
        };
        for rule in rules {
            if rule
                == (PointRule {
                    point: rule.point,
                    ..PointRule::default()
                })
            {
                // The rule fits every packet, so those behind it are never reached.
                this.otherwise = rule.point;
                break;
            }
            this.rules.push(rule);
        }
        this
    }

    /// The point at which a packet from `source` was seen. `octets` is the frame, starting with its
    /// link header; without rules it is not read.
    #[must_use]
    #[inline]
    pub fn point_of(&self, octets: &[u8], link: Link, source: Ipv4Addr) -> u16 {
        if self.rules.is_empty() {
            self.otherwise
        } else {
            self.first_that_fits(octets, link, source)
        }
    }

    fn first_that_fits(&self, octets: &[u8], link: Link, source: Ipv4Addr) -> u16 {
        let header = if link == Link::Ethernet {
            EthernetHeader::read(octets)
        } else {
            None
        };
        let fits = |rule: &&PointRule| rule.fits(header.as_ref(), source);
        self.rules
            .iter()
            .find(fits)
            .map_or(self.otherwise, |rule| rule.point)
    }
}

/// Input and output interface of a flow, each an ifIndex, or 0 if it is unknown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interfaces {
    /// Input interface.
    pub input: u16,
    /// Output interface.
    pub output: u16,
}

/// Interfaces of the observation points in flow keys.
///
/// Most points are the ifIndex of the interface that was captured from, and the output is unknown.
/// The highest 4096 numbers are assigned to other pairs of interfaces, as rules name them. An
/// assigned number keeps its pair, so that a flow that was resident when the rules changed is
/// exported as it was observed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Points {
    assigned: Vec<Interfaces>,
}

/// The first number that is assigned.
const FIRST_ASSIGNED: u16 = 0xf000;

impl Points {
    /// The observation point with these interfaces. None if they are new and all numbers are
    /// assigned.
    pub fn number_of(&mut self, interfaces: Interfaces) -> Option<u16> {
        if interfaces.output == 0 && interfaces.input < FIRST_ASSIGNED {
            return Some(interfaces.input);
        }
        let known = self.assigned.iter().position(|known| *known == interfaces);
        let index = u16::try_from(known.unwrap_or(self.assigned.len())).ok()?;
        let number = FIRST_ASSIGNED.checked_add(index)?;
        if known.is_none() {
            self.assigned.push(interfaces);
        }
        Some(number)
    }

    /// The observation points that have an interface as input or output.
    #[must_use]
    pub fn numbers_with(&self, interface: u16) -> Vec<u16> {
        let own = (interface < FIRST_ASSIGNED).then_some(interface);
        let assigned = (FIRST_ASSIGNED..=u16::MAX).zip(&self.assigned);
        let with = |pair: &Interfaces| [pair.input, pair.output].contains(&interface);
        let assigned = assigned.filter(|(_, pair)| with(pair));
        own.into_iter()
            .chain(assigned.map(|(number, _)| number))
            .collect()
    }

    /// The interfaces of an observation point.
    #[must_use]
    #[inline]
    pub fn interfaces_of(&self, number: u16) -> Interfaces {
        let index = number.checked_sub(FIRST_ASSIGNED).map(usize::from);
        let assigned = index.and_then(|index| self.assigned.get(index)).copied();
        assigned.unwrap_or(Interfaces {
            input: number,
            output: 0,
        })
    }
}

impl PointRule {
    #[inline]
    fn fits(&self, header: Option<&EthernetHeader>, source: Ipv4Addr) -> bool {
        self.source.is_none_or(|network| network.contains(source))
            && match header {
                Some(header) => {
                    self.vlan.is_none_or(|vlan| vlan == header.vlan)
                        && self
                            .source_mac
                            .is_none_or(|address| address == header.source)
                        && self
                            .destination_mac
                            .is_none_or(|address| address == header.destination)
                }
                None => {
                    self.vlan.is_none()
                        && self.source_mac.is_none()
                        && self.destination_mac.is_none()
                }
            }
    }
}

/// The fields of a frame that rules compare.
struct EthernetHeader {
    destination: MacAddress,
    source: MacAddress,
    vlan: u16,
}

impl EthernetHeader {
    fn read(octets: &[u8]) -> Option<Self> {
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = octets.first_chunk()?;
        let is_tagged = ETHER_TYPE_TAGS.contains(&u16::from_be_bytes([t0, t1]));
        // The lower 12 bits of what follows (IEEE 802.1Q, section 9.6).
        let vlan = match octets.get(14..16) {
            Some(&[high, low]) if is_tagged => u16::from_be_bytes([high, low]) & 0x0fff,
            _ => 0,
        };
        Some(Self {
            destination: [d0, d1, d2, d3, d4, d5],
            source: [s0, s1, s2, s3, s4, s5],
            vlan,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddress = [2, 0, 0, 0, 0, 1];
    const B: MacAddress = [2, 0, 0, 0, 0, 2];

    fn frame(source: MacAddress, destination: MacAddress, tags: &[u8]) -> Vec<u8> {
        [&destination[..], &source, tags, &[8, 0, 0x45]].concat()
    }

    fn point(rules: &PointRules, frame: &[u8], source: [u8; 4]) -> u16 {
        rules.point_of(frame, Link::Ethernet, source.into())
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rule = PointRule::default();
        let rules = PointRules::new(
            [
                PointRule {
                    vlan: Some(7),
                    source_mac: Some(A),
                    point: 1,
                    ..rule
                },
                PointRule {
                    vlan: Some(7),
                    point: 2,
                    ..rule
                },
                PointRule {
                    destination_mac: Some(A),
                    point: 3,
                    ..rule
                },
                PointRule {
                    source: Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 8),
                    point: 4,
                    ..rule
                },
                PointRule {
                    vlan: Some(0),
                    point: 5,
                    ..rule
                },
            ],
            6,
        );
        let tag = |id: u8| [0x81, 0, 0xe0, id];
        assert_eq!(point(&rules, &frame(A, B, &tag(7)), [10, 1, 1, 1]), 1);
        assert_eq!(point(&rules, &frame(B, A, &tag(7)), [10, 1, 1, 1]), 2);
        assert_eq!(
            point(
                &rules,
                &frame(B, A, &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]),
                [10, 1, 1, 1]
            ),
            2
        );
        assert_eq!(point(&rules, &frame(B, A, &tag(8)), [10, 1, 1, 1]), 3);
        assert_eq!(point(&rules, &frame(A, B, &tag(8)), [10, 1, 1, 1]), 4);
        assert_eq!(point(&rules, &frame(A, B, &[]), [11, 1, 1, 1]), 5);
        assert_eq!(point(&rules, &frame(A, B, &tag(0)), [11, 1, 1, 1]), 5);
        assert_eq!(point(&rules, &frame(A, B, &tag(8)), [11, 1, 1, 1]), 6);
    }

    #[test]
    fn a_frame_without_an_ethernet_header_fits_no_rule_that_needs_one() {
        let any = Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
        let with_source = PointRule {
            source: any,
            point: 2,
            ..PointRule::default()
        };
        let rules = PointRules::new(
            [
                PointRule {
                    vlan: Some(0),
                    point: 1,
                    ..PointRule::default()
                },
                with_source,
            ],
            3,
        );
        assert_eq!(
            rules.point_of(&[0x45; 40], Link::Raw, Ipv4Addr::LOCALHOST),
            2
        );
        assert_eq!(point(&rules, &[0; 13], [1, 1, 1, 1]), 2);
    }

    #[test]
    fn no_rule_is_reached_behind_one_that_always_fits() {
        let rules = PointRules::new(
            [
                PointRule {
                    point: 1,
                    ..PointRule::default()
                },
                PointRule {
                    vlan: Some(0),
                    point: 2,
                    ..PointRule::default()
                },
            ],
            3,
        );
        assert_eq!(rules, PointRules::new([], 1));
        assert_eq!(point(&rules, &[], [0; 4]), 1);
    }

    #[test]
    fn an_interface_is_its_own_point_and_a_pair_is_assigned_one() {
        let mut points = Points::default();
        let mut number_of = |input, output| points.number_of(Interfaces { input, output });
        assert_eq!(
            (number_of(7, 0), number_of(1, 2), number_of(2, 1)),
            (Some(7), Some(0xf000), Some(0xf001))
        );
        assert_eq!(
            (number_of(1, 2), number_of(65_535, 0)),
            (Some(0xf000), Some(0xf002))
        );
        for (number, input, output) in [(7, 7, 0), (0xf001, 2, 1), (0xf002, 65_535, 0)] {
            assert_eq!(points.interfaces_of(number), Interfaces { input, output });
        }
    }

    #[test]
    fn no_more_than_4096_pairs_are_assigned() {
        let mut points = Points::default();
        let mut number_of = |input| points.number_of(Interfaces { input, output: 1 });
        assert!((0..4096).all(|input| number_of(input).is_some()));
        assert_eq!((number_of(4096), number_of(4095)), (None, Some(u16::MAX)));
    }
}
