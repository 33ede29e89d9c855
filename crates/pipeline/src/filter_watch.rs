//! Notices filters that let nothing through although frames arrive: such a probe exports nothing,
//! and everything else about it looks sound.

use crate::plan::CapturePlan;
use crate::snapshot::{Snapshot, WorkerSnapshot};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xdprobe_capture::{Filter, Interface};

/// The filter in force at each interface or file, by the name that boards have for it. Copies share
/// the filters.
#[derive(Clone, Default)]
pub struct FiltersInForce(Arc<Mutex<BTreeMap<String, Option<Filter>>>>);

impl FiltersInForce {
    /// The filters that a probe starts with.
    #[must_use]
    pub fn of(captures: &[CapturePlan]) -> Self {
        let filters = captures.iter().map(|capture| {
            let filter = match capture {
                CapturePlan::Xdp { config, .. } => &config.filter,
                CapturePlan::Pcap { filter, .. } | CapturePlan::File { filter, .. } => filter,
            };
            (place_of(capture).to_owned(), filter.clone())
        });
        Self(Arc::new(Mutex::new(filters.collect())))
    }

    /// Notes that every place has this filter now.
    pub fn set(&self, filter: Option<&Filter>) {
        for place in self.lock().values_mut() {
            *place = filter.cloned();
        }
    }

    fn at(&self, place: &str) -> Option<Filter> {
        self.lock().get(place).cloned().flatten()
    }

    /// A panic elsewhere leaves whole filters.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<Filter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What each filter let through, as log lines where that is nothing. [`FilterWatch`] compares
/// snapshots; it has no clock of its own.
pub struct FilterWatch {
    filters: FiltersInForce,
    places: Vec<Place>,
}

/// What is watched: an interface or a file.
struct Place {
    name: String,
    /// With libpcap the kernel rejects most frames without a count: what the interface counts shows
    /// that frames arrive. With its count at the start.
    by_libpcap: Option<(Interface, u64)>,
    filter: Option<Filter>,
    silence: Silence,
}

impl FilterWatch {
    /// Watches `captures`, which have the filters of `filters`.
    #[must_use]
    pub fn new(captures: &[CapturePlan], filters: FiltersInForce) -> Self {
        let place = |capture: &CapturePlan| {
            let by_libpcap = match capture {
                CapturePlan::Pcap { interface, .. } => {
                    Some((interface.clone(), interface.packets()))
                }
                CapturePlan::Xdp { .. } | CapturePlan::File { .. } => None,
            };
            let name = place_of(capture).to_owned();
            Place {
                filter: filters.at(&name),
                name,
                by_libpcap,
                silence: Silence::since(0, Counts::default()),
            }
        };
        let places = captures.iter().map(place).collect();
        Self { filters, places }
    }

    /// A line for each filter that has let nothing through for a while by now, once.
    #[must_use]
    pub fn lines(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let Self { filters, places } = self;
        let line = |place: &mut Place| {
            let filter = filters.at(&place.name)?;
            let counts = place.counts(snapshot);
            if place.filter.as_ref() != Some(&filter) {
                place.silence = Silence::since(snapshot.uptime_ms, counts);
                place.filter = Some(filter.clone());
            }
            let (packets, ms) = place.silence.look(snapshot.uptime_ms, counts)?;
            Some(format!(
                "{}: filter '{}' has let none of {packets} packets through for {} s",
                place.name,
                filter.expression(),
                ms / 1000
            ))
        };
        places.iter_mut().filter_map(line).collect()
    }

    /// A line for each filter that let nothing through in the whole run, unless it has one already.
    #[must_use]
    pub fn last_lines(&self, snapshot: &Snapshot) -> Vec<String> {
        let line = |place: &Place| {
            let filter = self.filters.at(&place.name)?;
            let Counts { received, frames } = place.counts(snapshot);
            (received == 0 && frames > 0 && !place.silence.reported).then(|| {
                format!(
                    "{}: filter '{}' let none of {frames} packets through",
                    place.name,
                    filter.expression()
                )
            })
        };
        self.places.iter().filter_map(line).collect()
    }
}

impl Place {
    fn counts(&self, snapshot: &Snapshot) -> Counts {
        let here = |worker: &&WorkerSnapshot| worker.interface == self.name;
        let here = snapshot.workers.iter().filter(here);
        let (received, filtered) = here.fold((0, 0), |(received, filtered), worker| {
            let source = worker.counters.source;
            // With libpcap the filter comes first, and what it lets through is sampled.
            let sampled_out = self.by_libpcap.as_ref().map_or(0, |_| source.sampled_out);
            (
                received + source.received + sampled_out,
                filtered + source.filtered,
            )
        });
        let at_interface = self.by_libpcap.as_ref().map_or(0, |(interface, before)| {
            interface.packets().saturating_sub(*before)
        });
        Counts {
            received,
            frames: filtered.max(at_interface),
        }
    }
}

/// What was counted at a place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counts {
    /// Packets that the filter let through.
    received: u64,
    /// Packets that arrived, or that the filter rejected.
    frames: u64,
}

/// A filter is reported after this time without a packet that matched, in ms.
const SILENCE_MS: u64 = 10_000;
/// And after this many packets that did not match.
const SILENCE_PACKETS: u64 = 1_000;
/// Each report doubles the time to the next, up to this time in ms: a filter for rare packets is
/// not reported all day.
const SILENCE_MS_MAX: u64 = 3_600_000;

/// A time in which a filter let nothing through.
#[derive(Debug)]
struct Silence {
    since_ms: u64,
    /// What had been counted when it began.
    before: Counts,
    wait_ms: u64,
    reported: bool,
}

impl Silence {
    fn since(since_ms: u64, before: Counts) -> Self {
        Self {
            since_ms,
            before,
            wait_ms: SILENCE_MS,
            reported: false,
        }
    }

    /// The packets that were not let through and the ms that this has lasted, where it is to be
    /// reported now.
    fn look(&mut self, now_ms: u64, counts: Counts) -> Option<(u64, u64)> {
        if counts.received != self.before.received {
            *self = Self {
                wait_ms: self.wait_ms,
                ..Self::since(now_ms, counts)
            };
            return None;
        }
        let packets = counts.frames.saturating_sub(self.before.frames);
        let ms = now_ms - self.since_ms;
        if self.reported || packets < SILENCE_PACKETS || ms < self.wait_ms {
            return None;
        }
        self.reported = true;
        self.wait_ms = (2 * self.wait_ms).min(SILENCE_MS_MAX);
        Some((packets, ms))
    }
}

/// The name that boards have for what a capture receives from.
fn place_of(capture: &CapturePlan) -> &str {
    match capture {
        CapturePlan::File { .. } => "file",
        CapturePlan::Pcap { interface, .. } | CapturePlan::Xdp { interface, .. } => &interface.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::WorkerCounters;
    use xdprobe_capture::{Sampling, SourceCounters};

    fn snapshot(uptime_ms: u64, received: u64, filtered: u64) -> Snapshot {
        let source = SourceCounters {
            received,
            filtered,
            ..SourceCounters::default()
        };
        let worker = WorkerSnapshot {
            interface: "file".to_owned(),
            counters: WorkerCounters {
                source,
                ..WorkerCounters::default()
            },
            ..WorkerSnapshot::default()
        };
        Snapshot {
            uptime_ms,
            workers: vec![worker],
            ..Snapshot::default()
        }
    }

    fn watch(expression: Option<&str>) -> FilterWatch {
        let captures = [CapturePlan::File {
            path: "x.pcap".into(),
            filter: expression.map(|expression| Filter::new(expression).unwrap()),
            sampling: Sampling::NONE,
        }];
        FilterWatch::new(&captures, FiltersInForce::of(&captures))
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_filter_is_reported_once_it_rejected_a_thousand_packets_in_ten_seconds() {
        let mut watch = watch(Some("udp port 5"));
        assert_eq!(watch.lines(&snapshot(9_999, 0, 5_000)), NONE);
        assert_eq!(watch.lines(&snapshot(10_000, 0, 999)), NONE);
        assert_eq!(
            watch.lines(&snapshot(12_000, 0, 1_000)),
            ["file: filter 'udp port 5' has let none of 1000 packets through for 12 s"]
        );
        assert_eq!(watch.lines(&snapshot(60_000, 0, 9_000)), NONE);
        assert_eq!(watch.last_lines(&snapshot(60_000, 0, 9_000)), NONE);
    }

    #[test]
    fn a_packet_that_matches_ends_the_silence_and_the_next_report_takes_twice_as_long() {
        let mut watch = watch(Some("udp port 5"));
        let mut reported = |ms, received, filtered| {
            let lines = watch.lines(&snapshot(ms, received, filtered));
            !lines.is_empty()
        };
        assert!(!reported(5_000, 1, 900));
        assert!(!reported(14_999, 1, 1_900));
        assert!(reported(15_000, 1, 1_900));
        assert!(!reported(16_000, 2, 2_000));
        assert!(!reported(35_999, 2, 9_000));
        assert!(reported(36_000, 2, 9_000));
    }

    #[test]
    fn another_filter_begins_anew() {
        let mut watch = watch(Some("udp port 5"));
        assert_eq!(watch.lines(&snapshot(12_000, 0, 1_000)).len(), 1);
        let filters = watch.filters.clone();
        filters.set(Some(&Filter::new("icmp").unwrap()));
        assert_eq!(watch.lines(&snapshot(13_000, 0, 1_100)), NONE);
        assert_eq!(
            watch.lines(&snapshot(24_000, 0, 2_100)),
            ["file: filter 'icmp' has let none of 1000 packets through for 11 s"]
        );
        filters.set(None);
        assert_eq!(watch.lines(&snapshot(99_000, 0, 9_100)), NONE);
    }

    #[test]
    fn a_filter_that_let_nothing_through_at_all_is_reported_at_the_end() {
        let mut watch = watch(Some("icmp"));
        assert_eq!(watch.lines(&snapshot(1_000, 0, 3)), NONE);
        assert_eq!(
            watch.last_lines(&snapshot(1_000, 0, 3)),
            ["file: filter 'icmp' let none of 3 packets through"]
        );
        assert_eq!(watch.last_lines(&snapshot(1_000, 1, 3)), NONE);
    }

    #[test]
    fn without_frames_or_without_a_filter_nothing_is_reported() {
        let day = 86_400_000;
        assert_eq!(watch(Some("icmp")).lines(&snapshot(day, 0, 0)), NONE);
        assert_eq!(watch(Some("icmp")).last_lines(&snapshot(day, 0, 0)), NONE);
        assert_eq!(watch(None).lines(&snapshot(day, 0, 9_000)), NONE);
    }
}
