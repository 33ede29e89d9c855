//! The metrics page: each metric by its name, and where its value is in a snapshot.
//!
//! Each subject has series of its own, which are looked up when it is first written and then found
//! by their place: the probe with its interfaces and queues is one subject, and each collector is
//! one, known by its id. A page that knows a collector which has gone, or not a queue which was
//! added, is begun anew: counters are set to what was counted, so nothing is lost by that.

use super::reloads::Reloads;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use std::collections::BTreeMap;
use xdprobe_pipeline::Ledger;
use xdprobe_pipeline::capture::Dropped;
use xdprobe_pipeline::capture::xdp::Reason;
use xdprobe_pipeline::export::{
    CollectorCounters, CollectorId, CollectorState, LossReason, SendErrorKind, Tally,
};
use xdprobe_pipeline::flow::{DecodeError, EndReason};
use xdprobe_pipeline::snapshot::{CollectorSnapshot, InterfaceSnapshot, Snapshot, WorkerSnapshot};

/// The page, with the values of the latest snapshot.
pub struct Sheet {
    recorder: PrometheusRecorder,
    process: metrics_process::Collector,
    /// Series of the probe, its interfaces and queues.
    probe: Vec<Series>,
    /// How many queues these series are of, and how many interfaces with unbound sockets.
    shape: (usize, usize),
    /// Series of what each worker has met that is not read, in the order of workers. They are added
    /// while the probe runs, when a protocol is first met.
    unread: Vec<Vec<Series>>,
    /// Series of each collector.
    collectors: BTreeMap<CollectorId, Vec<Series>>,
    reloads: Vec<Series>,
}

/// A metric: its name, and its help text.
struct Metric {
    name: &'static str,
    help: &'static str,
}

const RELOADS: Metric = Metric {
    name: "xdprobe_reloads_total",
    help: "Reloads of the configuration, by result.",
};
const OFFERED: Metric = Metric {
    name: "xdprobe_offered_packets_total",
    help: "Packets that came to the observation point, received or not.",
};
const DROPPED: Metric = Metric {
    name: "xdprobe_dropped_packets_total",
    help: "Packets that were lost before they were received.",
};
const DRIVER_DROPS: Metric = Metric {
    name: "xdprobe_driver_drops_total",
    help: "Received frames lost by the driver's own counters; these overlap and are in no sum.",
};
const FILTERED: Metric = Metric {
    name: "xdprobe_filtered_packets_total",
    help: "Packets left out by the filter.",
};
const SAMPLED_OUT: Metric = Metric {
    name: "xdprobe_sampled_out_packets_total",
    help: "Packets left out by sampling.",
};
const RECEIVED_PACKETS: Metric = Metric {
    name: "xdprobe_received_packets_total",
    help: "Packets received that match the filter.",
};
const RECEIVED_OCTETS: Metric = Metric {
    name: "xdprobe_received_octets_total",
    help: "Octets of received packets, link header included.",
};
const UNDECODED: Metric = Metric {
    name: "xdprobe_undecoded_packets_total",
    help: "Received frames without an IPv4 packet to meter.",
};
const UNREAD: Metric = Metric {
    name: "xdprobe_unread_packets_total",
    help: "Undecoded frames by the number of the protocol that is not read.",
};
const BEYOND_FRAME_PACKETS: Metric = Metric {
    name: "xdprobe_beyond_frame_packets_total",
    help: "Packets whose total length exceeds their frame on the wire.",
};
const BEYOND_FRAME_OCTETS: Metric = Metric {
    name: "xdprobe_beyond_frame_octets_total",
    help: "Octets by which total lengths exceed frames; these octets are in no other count.",
};
const EXCLUDED: Metric = Metric {
    name: "xdprobe_excluded_packets_total",
    help: "The probe's own datagrams, which it does not meter.",
};
const OBSERVED_PACKETS: Metric = Metric {
    name: "xdprobe_observed_packets_total",
    help: "Packets that joined a flow.",
};
const OBSERVED_OCTETS: Metric = Metric {
    name: "xdprobe_observed_octets_total",
    help: "Layer-3 octets of packets that joined a flow.",
};
const FLOWS_CREATED: Metric = Metric {
    name: "xdprobe_flows_created_total",
    help: "Flows created.",
};
const FLOWS_EXPIRED: Metric = Metric {
    name: "xdprobe_flows_expired_total",
    help: "Flows expired, each as one record.",
};
const CACHE_FLOWS: Metric = Metric {
    name: "xdprobe_cache_flows",
    help: "Flows resident in the cache.",
};
const CACHE_CAPACITY: Metric = Metric {
    name: "xdprobe_cache_capacity_flows",
    help: "Flows that the cache holds before it evicts.",
};
const RESIDENT_PACKETS: Metric = Metric {
    name: "xdprobe_resident_packets",
    help: "Packets of the flows resident in the cache.",
};
const RESIDENT_OCTETS: Metric = Metric {
    name: "xdprobe_resident_octets",
    help: "Layer-3 octets of the flows resident in the cache.",
};
const EXPORTED_RECORDS: Metric = Metric {
    name: "xdprobe_exported_records_total",
    help: "Records that were sent and not refused.",
};
const EXPORTED_PACKETS: Metric = Metric {
    name: "xdprobe_exported_packets_total",
    help: "Packets in exported records.",
};
const EXPORTED_OCTETS: Metric = Metric {
    name: "xdprobe_exported_octets_total",
    help: "Layer-3 octets in exported records.",
};
const EXPORTED_DATAGRAMS: Metric = Metric {
    name: "xdprobe_exported_datagrams_total",
    help: "Datagrams sent to collectors and not refused.",
};
const LOST_RECORDS: Metric = Metric {
    name: "xdprobe_lost_records_total",
    help: "Records that were sent to no collector, or refused.",
};
const LOST_PACKETS: Metric = Metric {
    name: "xdprobe_lost_packets_total",
    help: "Packets in lost records.",
};
const LOST_OCTETS: Metric = Metric {
    name: "xdprobe_lost_octets_total",
    help: "Layer-3 octets in lost records.",
};
const IN_FLIGHT_RECORDS: Metric = Metric {
    name: "xdprobe_in_flight_records",
    help: "Expired records that are neither exported nor lost yet.",
};
const IN_FLIGHT_PACKETS: Metric = Metric {
    name: "xdprobe_in_flight_packets",
    help: "Packets in records that are neither exported nor lost yet.",
};
const IN_FLIGHT_OCTETS: Metric = Metric {
    name: "xdprobe_in_flight_octets",
    help: "Layer-3 octets in records that are neither exported nor lost yet.",
};
const QUEUE_RECORDS: Metric = Metric {
    name: "xdprobe_export_queue_records",
    help: "Records handed over that the exporter has not taken yet.",
};
const QUEUE_CAPACITY: Metric = Metric {
    name: "xdprobe_export_queue_capacity_records",
    help: "Records that can be between workers and exporter before one is dropped.",
};
const OLDEST_RECORD: Metric = Metric {
    name: "xdprobe_oldest_unexported_record_age_seconds",
    help: "Time for which the oldest record in flight has been waiting.",
};
const COLLECTOR_RECORDS: Metric = Metric {
    name: "xdprobe_collector_records_total",
    help: "Records sent to the collector.",
};
const COLLECTOR_DATAGRAMS: Metric = Metric {
    name: "xdprobe_collector_datagrams_total",
    help: "Datagrams sent to the collector.",
};
const COLLECTOR_PACKETS: Metric = Metric {
    name: "xdprobe_collector_packets_total",
    help: "Packets in records sent to the collector.",
};
const COLLECTOR_OCTETS: Metric = Metric {
    name: "xdprobe_collector_octets_total",
    help: "Octets of UDP payload sent to the collector.",
};
const COLLECTOR_LOST: Metric = Metric {
    name: "xdprobe_collector_lost_records_total",
    help: "Records meant for the collector that did not reach it.",
};
const COLLECTOR_DELAYED: Metric = Metric {
    name: "xdprobe_collector_delayed_records_total",
    help: "Records that waited for the collector's pace.",
};
const COLLECTOR_DELAY: Metric = Metric {
    name: "xdprobe_collector_pacing_delay_seconds_total",
    help: "Whole seconds that datagrams waited for the collector's pace, in total.",
};
const COLLECTOR_WAITING: Metric = Metric {
    name: "xdprobe_collector_waiting_records",
    help: "Records that wait to be sent to the collector.",
};
const COLLECTOR_RESOLVES: Metric = Metric {
    name: "xdprobe_collector_resolves_total",
    help: "Times the collector's name was resolved again.",
};
const COLLECTOR_RESOLVE_FAILURES: Metric = Metric {
    name: "xdprobe_collector_resolve_failures_total",
    help: "Times the collector's name could not be resolved again.",
};
const COLLECTOR_UNRESOLVED: Metric = Metric {
    name: "xdprobe_collector_unresolved",
    help: "1 while the collector's name has no address.",
};
const COLLECTOR_UNCONNECTED: Metric = Metric {
    name: "xdprobe_collector_unconnected",
    help: "1 while no path to the collector has been found yet.",
};
const COLLECTOR_IN_DOUBT: Metric = Metric {
    name: "xdprobe_collector_in_doubt_records_total",
    help: "Records sent to the collector shortly before its host was found unreachable.",
};
const COLLECTOR_REFUSALS: Metric = Metric {
    name: "xdprobe_collector_refusals_total",
    help: "ICMP answers that the collector's port is closed or its host unreachable.",
};
const COLLECTOR_ERRORS: Metric = Metric {
    name: "xdprobe_collector_send_errors_total",
    help: "Datagrams that could not be sent to the collector.",
};
const COLLECTOR_REFUSING: Metric = Metric {
    name: "xdprobe_collector_refusing",
    help: "1 while the collector's host refuses datagrams.",
};
const DIFFERS: Metric = Metric {
    name: "xdprobe_interface_blind",
    help: "1 while frames of the interface may pass unread, and for 5 seconds after that.",
};
const DIFFERED: Metric = Metric {
    name: "xdprobe_interface_blind_begun_total",
    help: "Times that frames of the interface began to pass unread, perhaps.",
};
const RUNNING: Metric = Metric {
    name: "xdprobe_receiver_running",
    help: "1 while frames can be received, 0 while they cannot.",
};
const DOWN_SECONDS: Metric = Metric {
    name: "xdprobe_receiver_down_seconds_total",
    help: "Whole seconds that the link was down.",
};
const ZERO_COPY: Metric = Metric {
    name: "xdprobe_zero_copy",
    help: "1 if frames stay where the network card put them, 0 if they are copied.",
};
const IDLE_TURNS: Metric = Metric {
    name: "xdprobe_idle_turns_total",
    help: "Turns of the worker that found no frame waiting.",
};
const BUSY_TURNS: Metric = Metric {
    name: "xdprobe_busy_turns_total",
    help: "Turns of the worker that found frames waiting.",
};
const FULL_TURNS: Metric = Metric {
    name: "xdprobe_full_turns_total",
    help: "Busy turns whose burst of 64 frames was full; more may have been waiting.",
};
const BALANCED: Metric = Metric {
    name: "xdprobe_ledger_balanced",
    help: "1 while every packet is in one count, to within what is under way between two.",
};
const BUILD: Metric = Metric {
    name: "xdprobe_build_info",
    help: "1, with the program's version as a label.",
};

/// A label and its value.
type Tag<'a> = (&'static str, &'a str);

impl Sheet {
    /// An empty page.
    pub fn new() -> Self {
        let (recorder, process) = (
            PrometheusBuilder::new().build_recorder(),
            metrics_process::Collector::default(),
        );
        with_local_recorder(&recorder, || process.describe());
        Self {
            recorder,
            process,
            probe: Vec::new(),
            shape: (0, 0),
            unread: Vec::new(),
            collectors: BTreeMap::new(),
            reloads: Vec::new(),
        }
    }

    /// The page with the values of a snapshot.
    pub fn render(&mut self, snapshot: &Snapshot, reloads: &Reloads) -> String {
        let is_known = |id: &CollectorId| snapshot.collectors.iter().any(|now| now.id == *id);
        let counters = || snapshot.interfaces.iter().map(|on| &on.counters);
        let queues = counters().map(|counters| counters.queues.len()).sum();
        // What a driver counted may turn out to be frames of unbound sockets.
        let unbound = counters().filter(|counters| counters.unbound > 0).count();
        if !self.collectors.keys().all(is_known) || self.shape != (queues, unbound) {
            *self = Self::new();
            self.shape = (queues, unbound);
        }
        Pen::new(&self.recorder, &mut self.probe).write(snapshot);
        self.unread
            .resize_with(snapshot.workers.len(), Vec::default);
        for (worker, series) in snapshot.workers.iter().zip(&mut self.unread) {
            Pen::new(&self.recorder, series).write_unread(worker);
        }
        for CollectorSnapshot { id, name, counters } in &snapshot.collectors {
            let series = self.collectors.entry(*id).or_default();
            Pen::new(&self.recorder, series).write_collector(counters, ("collector", name));
        }
        Pen::new(&self.recorder, &mut self.reloads).write_reloads(reloads);
        with_local_recorder(&self.recorder, || self.process.collect());
        self.recorder.handle().render()
    }
}

/// A metric with labels, looked up.
enum Series {
    Counter(&'static str, Counter),
    Gauge(&'static str, Gauge),
}

/// Writes the values of one subject.
struct Pen<'a> {
    recorder: &'a PrometheusRecorder,
    series: &'a mut Vec<Series>,
    next: usize,
}

impl<'a> Pen<'a> {
    fn new(recorder: &'a PrometheusRecorder, series: &'a mut Vec<Series>) -> Self {
        Self {
            recorder,
            series,
            next: 0,
        }
    }

    fn write(&mut self, snapshot: &Snapshot) {
        self.gauge(&BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        self.gauge(
            &BALANCED,
            &[],
            flag(Ledger::draw_up(snapshot).is_balanced()),
        );
        snapshot
            .interfaces
            .iter()
            .for_each(|interface| self.write_interface(interface));
        for worker in &snapshot.workers {
            with_tags_of(worker, |tags| {
                self.write_worker(worker, tags);
                self.gauge(&RUNNING, tags, flag(snapshot.receives(worker)));
            });
        }
        self.write_exporter(snapshot);
    }

    fn write_interface(&mut self, interface: &InterfaceSnapshot) {
        let InterfaceSnapshot {
            name,
            counters,
            named_drops,
            differences,
            differences_begun,
            ..
        } = interface;
        let on = ("interface", name.as_str());
        self.counter(&OFFERED, &[on], counters.offered());
        self.counter(&SAMPLED_OUT, &[on], counters.sampled_out);
        let places = ["driver", "no_program", "no_socket", "unbound"];
        self.write_dropped(&[on], &places, &counters.dropped());
        for (reason, begun) in Reason::ALL.into_iter().zip(differences_begun) {
            let tags = [on, ("reason", reason.name())];
            let is_present = differences.iter().any(|found| found.reason == reason);
            self.gauge(&DIFFERS, &tags, flag(is_present));
            self.counter(&DIFFERED, &tags, *begun);
        }
        for (counter, count) in named_drops {
            self.counter(&DRIVER_DROPS, &[on, ("counter", counter)], *count);
        }
        for counters in &counters.queues {
            let queue = counters.queue.to_string();
            let tags = [on, ("queue", &queue)];
            self.write_dropped(&tags, &["ring_full", "no_frame"], &counters.dropped());
            self.gauge(&ZERO_COPY, &tags, flag(counters.report.zero_copy));
        }
    }

    fn write_dropped(&mut self, tags: &[Tag<'_>], places: &[&str], dropped: &Dropped) {
        for (place, packets) in dropped
            .by_place()
            .into_iter()
            .filter(|(place, _)| places.contains(place))
        {
            self.counter(&DROPPED, &[tags, &[("reason", place)]].concat(), packets);
        }
    }

    fn write_worker(&mut self, worker: &WorkerSnapshot, tags: &[Tag<'_>]) {
        let WorkerSnapshot {
            queue,
            flows_max,
            counters,
            ..
        } = worker;
        if queue.is_none() {
            // libpcap and files have no other count of what there was.
            let dropped = counters.source.dropped;
            self.counter(&OFFERED, tags, counters.source.taken() + dropped.total());
            self.counter(&SAMPLED_OUT, tags, counters.source.sampled_out);
            self.write_dropped(tags, &["kernel", "interface"], &dropped);
        }
        self.counter(&FILTERED, tags, counters.source.filtered);
        self.counter(&RECEIVED_PACKETS, tags, counters.source.received);
        self.counter(&RECEIVED_OCTETS, tags, counters.source.received_octets);
        self.by_reason(
            &UNDECODED,
            tags,
            DecodeError::REASONS
                .into_iter()
                .zip(counters.meter.undecoded),
        );
        self.counter(&EXCLUDED, tags, counters.meter.excluded.packets);
        self.counter(
            &OBSERVED_PACKETS,
            tags,
            counters.meter.cache.observed.packets,
        );
        self.counter(&OBSERVED_OCTETS, tags, counters.meter.cache.observed.octets);
        let beyond_frame = counters.meter.beyond_frame;
        self.counter(&BEYOND_FRAME_PACKETS, tags, beyond_frame.packets);
        self.counter(&BEYOND_FRAME_OCTETS, tags, beyond_frame.octets);
        self.counter(&FLOWS_CREATED, tags, counters.meter.cache.created);
        let expired = EndReason::ALL
            .into_iter()
            .map(EndReason::name)
            .zip(counters.meter.cache.expired);
        self.by_reason(&FLOWS_EXPIRED, tags, expired);
        self.gauge(&CACHE_FLOWS, tags, real(counters.meter.resident_flows));
        self.gauge(&CACHE_CAPACITY, tags, real(*flows_max));
        self.gauge(&RESIDENT_PACKETS, tags, real(counters.resident.packets));
        self.gauge(&RESIDENT_OCTETS, tags, real(counters.resident.octets));
        self.write_lost(tags, "hand_over", &counters.dropped);
        self.counter(&DOWN_SECONDS, tags, counters.down_ms / MS_PER_S);
        self.counter(&IDLE_TURNS, tags, counters.turns.idle);
        self.counter(&BUSY_TURNS, tags, counters.turns.busy);
        self.counter(&FULL_TURNS, tags, counters.turns.full);
    }

    /// At most one series more than a worker has names for.
    fn write_reloads(&mut self, reloads: &Reloads) {
        for (result, count) in reloads.by_result() {
            self.counter(&RELOADS, &[("result", result)], count);
        }
    }

    fn write_unread(&mut self, worker: &WorkerSnapshot) {
        let unread = worker.counters.meter.unread;
        with_tags_of(worker, |tags| {
            let mut write = |kind, number: &str, packets| {
                let tags = [tags, &[("kind", kind), ("number", number)]].concat();
                self.counter(&UNREAD, &tags, packets);
            };
            write("other", "", unread.other);
            for (name, packets) in unread.by_name() {
                write(name.kind(), &name.number(), packets);
            }
        });
    }

    fn write_lost(&mut self, tags: &[Tag<'_>], reason: &str, lost: &Tally) {
        let tags = [tags, &[("reason", reason)]].concat();
        self.counter(&LOST_RECORDS, &tags, lost.records);
        self.counter(&LOST_PACKETS, &tags, lost.volume.packets);
        self.counter(&LOST_OCTETS, &tags, lost.volume.octets);
    }

    fn write_exporter(&mut self, snapshot: &Snapshot) {
        let exporter = &snapshot.exporting.exporter;
        self.counter(&EXPORTED_RECORDS, &[], exporter.exported.records);
        self.counter(&EXPORTED_PACKETS, &[], exporter.exported.volume.packets);
        self.counter(&EXPORTED_OCTETS, &[], exporter.exported.volume.octets);
        self.counter(&EXPORTED_DATAGRAMS, &[], exporter.exported.datagrams);
        for (reason, lost) in LossReason::NAMES.into_iter().zip(&exporter.lost) {
            self.write_lost(&[], reason, lost);
        }
        let in_flight = snapshot.in_flight();
        self.gauge(&IN_FLIGHT_RECORDS, &[], real(in_flight.records));
        self.gauge(&IN_FLIGHT_PACKETS, &[], real(in_flight.volume.packets));
        self.gauge(&IN_FLIGHT_OCTETS, &[], real(in_flight.volume.octets));
        self.gauge(&QUEUE_RECORDS, &[], real(snapshot.under_way()));
        self.gauge(&QUEUE_CAPACITY, &[], real(snapshot.under_way_max()));
        self.gauge(
            &OLDEST_RECORD,
            &[],
            real(snapshot.oldest_in_flight_ms()) / real(MS_PER_S),
        );
    }

    fn write_collector(&mut self, counters: &CollectorCounters, collector: Tag<'_>) {
        let tags = [collector];
        self.counter(&COLLECTOR_RECORDS, &tags, counters.sent.records);
        self.counter(&COLLECTOR_DATAGRAMS, &tags, counters.sent.datagrams);
        self.counter(&COLLECTOR_PACKETS, &tags, counters.sent.volume.packets);
        self.counter(&COLLECTOR_OCTETS, &tags, counters.octets);
        let lost = counters.lost.map(|lost| lost.records);
        self.by_reason(
            &COLLECTOR_LOST,
            &tags,
            LossReason::NAMES.into_iter().zip(lost),
        );
        self.counter(&COLLECTOR_DELAYED, &tags, counters.delayed_records);
        self.counter(&COLLECTOR_DELAY, &tags, counters.delayed_ms / MS_PER_S);
        self.gauge(&COLLECTOR_WAITING, &tags, real(counters.waiting.records));
        self.counter(&COLLECTOR_RESOLVES, &tags, counters.resolves);
        self.counter(
            &COLLECTOR_RESOLVE_FAILURES,
            &tags,
            counters.resolve_failures,
        );
        self.gauge(
            &COLLECTOR_UNRESOLVED,
            &tags,
            flag(counters.state() == CollectorState::Unresolved),
        );
        self.gauge(
            &COLLECTOR_UNCONNECTED,
            &tags,
            flag(counters.state() == CollectorState::Unconnected),
        );
        self.counter(&COLLECTOR_IN_DOUBT, &tags, counters.in_doubt.records);
        self.counter(&COLLECTOR_REFUSALS, &tags, counters.refusals);
        self.gauge(
            &COLLECTOR_REFUSING,
            &tags,
            flag(counters.state() == CollectorState::Refusing),
        );
        self.by_reason(
            &COLLECTOR_ERRORS,
            &tags,
            SendErrorKind::NAMES.into_iter().zip(counters.errors),
        );
    }

    fn by_reason<'r>(
        &mut self,
        metric: &Metric,
        tags: &[Tag<'_>],
        counts: impl Iterator<Item = (&'r str, u64)>,
    ) {
        for (reason, count) in counts {
            self.counter(metric, &[tags, &[("reason", reason)]].concat(), count);
        }
    }

    fn counter(&mut self, metric: &Metric, tags: &[Tag<'_>], count: u64) {
        if self.next == self.series.len() {
            self.recorder
                .describe_counter(metric.name.into(), None, metric.help.into());
            let counter = self
                .recorder
                .register_counter(&key(metric, tags), &METADATA);
            self.series.push(Series::Counter(metric.name, counter));
        }
        match &self.series[self.next] {
            Series::Counter(name, counter) if *name == metric.name => counter.absolute(count),
            other => debug_assert!(false, "{} is where {} was", metric.name, other.name()),
        }
        self.next += 1;
    }

    fn gauge(&mut self, metric: &Metric, tags: &[Tag<'_>], value: f64) {
        if self.next == self.series.len() {
            self.recorder
                .describe_gauge(metric.name.into(), None, metric.help.into());
            let gauge = self.recorder.register_gauge(&key(metric, tags), &METADATA);
            self.series.push(Series::Gauge(metric.name, gauge));
        }
        match &self.series[self.next] {
            Series::Gauge(name, gauge) if *name == metric.name => gauge.set(value),
            other => debug_assert!(false, "{} is where {} was", metric.name, other.name()),
        }
        self.next += 1;
    }
}

impl Series {
    fn name(&self) -> &'static str {
        match self {
            Self::Counter(name, _) | Self::Gauge(name, _) => name,
        }
    }
}

const MS_PER_S: u64 = 1_000;
static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Calls `write` with the labels of a worker.
fn with_tags_of(worker: &WorkerSnapshot, write: impl FnOnce(&[Tag<'_>])) {
    let queue = worker.queue.map(|queue| queue.to_string());
    let tags = [
        ("interface", worker.interface.as_str()),
        ("queue", queue.as_deref().unwrap_or_default()),
    ];
    write(&tags[..1 + usize::from(queue.is_some())]);
}

fn key(metric: &Metric, tags: &[Tag<'_>]) -> Key {
    let labels: Vec<_> = tags
        .iter()
        .map(|&(name, value)| Label::new(name, value.to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Prometheus' numbers are of this kind: exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge above 2^53 is rounded by Prometheus in any case"
)]
fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdprobe_pipeline::capture::interface::RefusedFrame;
    use xdprobe_pipeline::capture::xdp::{InterfaceCounters, Losses, QueueCounters, QueueReport};
    use xdprobe_pipeline::flow::Unread;

    #[test]
    fn a_queue_that_is_added_gets_its_series_in_a_page_that_is_begun_anew() {
        let queue = |queue| QueueCounters {
            queue,
            report: QueueReport {
                zero_copy: false,
                in_driver: true,
                huge_pages: false,
                refused_frame: RefusedFrame::Dropped,
                frame_count: 1,
                frame_octets: 2048,
            },
            losses: Losses::default(),
        };
        let with = |queues: Vec<QueueCounters>| Snapshot {
            interfaces: vec![InterfaceSnapshot {
                name: "tap0".to_owned(),
                counters: InterfaceCounters {
                    queues,
                    ..InterfaceCounters::default()
                },
                ..InterfaceSnapshot::default()
            }],
            ..Snapshot::default()
        };
        let mut sheet = Sheet::new();
        let series = "xdprobe_zero_copy{interface=\"tap0\",queue=\"1\"} 0";
        assert!(
            !sheet
                .render(&with(vec![queue(0)]), &Reloads::default())
                .contains(series)
        );
        let page = sheet.render(&with(vec![queue(0), queue(1)]), &Reloads::default());
        assert!(page.contains(series), "{page}");
    }

    #[test]
    fn a_protocol_that_is_not_read_has_a_series_from_its_first_frame_on_and_no_more_than_nine() {
        let worker = |interface: &str| WorkerSnapshot {
            interface: interface.to_owned(),
            ..WorkerSnapshot::default()
        };
        let mut snapshot = Snapshot {
            workers: vec![worker("tap0"), worker("tap1")],
            ..Snapshot::default()
        };
        let mut sheet = Sheet::new();
        let series = |page: &str, value: &str| {
            let is_unread = |line: &&str| line.starts_with("xdprobe_unread_packets_total{");
            let lines = page.lines().filter(is_unread);
            lines.filter(|line| line.ends_with(value)).count()
        };
        assert_eq!(
            series(&sheet.render(&snapshot, &Reloads::default()), " 0"),
            2
        );
        snapshot.workers[0]
            .counters
            .meter
            .unread
            .count(Unread::LinkType(9));
        let page = sheet.render(&snapshot, &Reloads::default());
        let expected = "xdprobe_unread_packets_total{interface=\"tap0\",kind=\"link_type\",\
                        number=\"9\"} 1";
        assert!(page.contains(expected), "{page}");
        for number in (0..1_000).chain(0..1_000) {
            let unread = &mut snapshot.workers[1].counters.meter.unread;
            unread.count(Unread::EtherType(0x9000 + number));
        }
        let page = sheet.render(&snapshot, &Reloads::default());
        assert_eq!(series(&page, ""), 2 + 9);
        assert_eq!(series(&page, " 2"), 8);
        assert!(
            page.contains("{interface=\"tap1\",kind=\"other\",number=\"\"} 1984"),
            "{page}"
        );
        assert!(page.contains(expected), "{page}");
    }
}
