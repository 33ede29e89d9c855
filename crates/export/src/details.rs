//! Details of records that the flow cache does not know: interfaces, AS numbers, masks, next hop.
//!
//! They come from [`DetailTables`], which another thread may replace at any time: an exporter loads
//! them for each batch.

use crate::routes::{Route, RouteTable};
use crate::tally::Tally;
use arc_swap::ArcSwap;
use xdprobe_flow::{FlowRecord, Interfaces, KeyV4, Points};

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
