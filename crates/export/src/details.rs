//! Details of records that the flow cache does not know: interfaces, AS numbers, masks, next hop.
//!
//! They come from [`DetailTables`], which another thread may replace at any time: an exporter loads
//! them for each batch.

use crate::routes::{Route, RouteTable};
use crate::tally::Tally;
use arc_swap::ArcSwap;
use xdprobe_flow::{FlowRecord, KeyV4};

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

/// What a record states besides its flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Details {
    /// Interfaces at its observation point.
    pub interfaces: Interfaces,
    /// Route to its source address; the next hop in it is not exported.
    pub source: Route,
    /// Route to its destination address.
    pub destination: Route,
}

/// A flow's record as it is exported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DetailedRecord {
    /// What was metered, from the flow cache.
    pub flow: FlowRecord,
    /// What the tables state about it.
    pub details: Details,
}

impl DetailedRecord {
    /// The tally of records that are in no datagram.
    #[must_use]
    pub fn tally(records: &[Self]) -> Tally {
        let mut tally = Tally::default();
        for record in records {
            tally.add_record(&record.flow);
        }
        tally
    }
}

/// Where details come from; shared with the thread that replaces them.
#[derive(Debug, Default)]
pub struct DetailTables {
    /// Interfaces by observation point.
    pub points: ArcSwap<Points>,
    /// AS, mask and next hop by address.
    pub routes: ArcSwap<RouteTable>,
}

impl DetailTables {
    /// Appends the records with their details, by the tables as they are now, to `detailed`.
    pub(crate) fn detail(&self, records: &[FlowRecord], detailed: &mut Vec<DetailedRecord>) {
        let (points, routes) = (self.points.load(), self.routes.load());
        let (points, routes) = (&**points, &**routes);
        let detail = |&flow: &FlowRecord, source, destination| DetailedRecord {
            flow,
            details: Details {
                interfaces: points.interfaces_of(flow.key.point),
                source,
                destination,
            },
        };
        let none = Route::default();
        if routes.is_empty() {
            detailed.extend(records.iter().map(|flow| detail(flow, none, none)));
        } else {
            detailed.extend(records.iter().map(|flow| {
                let KeyV4 {
                    source,
                    destination,
                    ..
                } = flow.key;
                detail(flow, routes.look_up(source), routes.look_up(destination))
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
