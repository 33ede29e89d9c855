//! What records have room for beside what was metered: interfaces, AS, masks and next hop.
//!
//! [`DetailTables`] are what these come from. Both may be replaced at any time, by another thread:
//! an exporter looks at them anew for each batch.

use crate::routes::{Route, RouteTable};
use crate::tally::Tally;
use arc_swap::ArcSwap;
use xdprobe_flow::{FlowRecord, KeyV4};

/// Interfaces that a flow came in and went out on, as ifIndex; 0 where it is unknown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Interfaces {
    /// Came in.
    pub input: u16,
    /// Went out.
    pub output: u16,
}

/// What observation points stand for, by the numbers that flow keys have.
///
/// Most numbers are the ifIndex of the interface that was captured from, with no output known. The
/// highest 4096 are given out for whatever else rules say, each pair its own for good: so a flow
/// that was resident when rules changed is told as it was seen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Points {
    given_out: Vec<Interfaces>,
}

/// The first number that is given out.
const FIRST_GIVEN_OUT: u16 = 0xf000;

impl Points {
    /// The number that stands for these interfaces; none if they are new and all numbers are given
    /// out.
    pub fn number_of(&mut self, interfaces: Interfaces) -> Option<u16> {
        if interfaces.output == 0 && interfaces.input < FIRST_GIVEN_OUT {
            return Some(interfaces.input);
        }
        let known = self.given_out.iter().position(|known| *known == interfaces);
        let index = u16::try_from(known.unwrap_or(self.given_out.len())).ok()?;
        let number = FIRST_GIVEN_OUT.checked_add(index)?;
        if known.is_none() {
            self.given_out.push(interfaces);
        }
        Some(number)
    }

    /// The interfaces that a number stands for.
    #[must_use]
    #[inline]
    pub fn interfaces_of(&self, number: u16) -> Interfaces {
        let index = number.checked_sub(FIRST_GIVEN_OUT).map(usize::from);
        let given_out = index.and_then(|index| self.given_out.get(index)).copied();
        given_out.unwrap_or(Interfaces {
            input: number,
            output: 0,
        })
    }
}

/// What a record says beside its flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Details {
    /// Where the flow came in and went out.
    pub interfaces: Interfaces,
    /// Of the source's address; its next hop is not asked for.
    pub source: Route,
    /// Of the destination's address.
    pub destination: Route,
}

/// A flow's record as it is exported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DetailedRecord {
    /// What was metered.
    pub flow: FlowRecord,
    /// What else there is to say.
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

/// Where details come from; shared with whoever replaces them.
#[derive(Debug, Default)]
pub struct DetailTables {
    /// Interfaces of observation points.
    pub points: ArcSwap<Points>,
    /// AS, mask and next hop of addresses.
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
    fn an_interface_stands_for_itself_and_a_pair_for_a_number_of_its_own() {
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
    fn there_are_4096_numbers_to_give_out() {
        let mut points = Points::default();
        let mut number_of = |input| points.number_of(Interfaces { input, output: 1 });
        assert!((0..4096).all(|input| number_of(input).is_some()));
        assert_eq!((number_of(4096), number_of(4095)), (None, Some(u16::MAX)));
    }
}
