//! A flow-tools file as an outlet: records go into it as they come, and it has its name once it is
//! complete.
//!
//! A record counts as exported once the system has taken it into the file. If the system does not,
//! as on a full disk, the file stays whole up to the last record in it and goes on when there is
//! room again; the records in between are lost, and counted.

use crate::plan::ExportPlan;
use std::io;
use std::path::Path;
use xdprobe_collect::output::Target;
use xdprobe_collect::{FileLosses, FlowOutput, StoredRecord, WriterOptions};
use xdprobe_export::netflow::Engine;
use xdprobe_export::netflow::wire::uptime_on_the_wire;
use xdprobe_export::{
    CollectorCounters, DetailedRecord, FixedFormat, LossReason, Moment, OnRefusal, Outlet,
    SendErrorKind, Tally,
};

/// A flow-tools file under construction. One that is dropped before it is finished is removed,
/// unless by a panic.
pub struct FlowFile {
    /// What logs call it.
    name: String,
    /// None once it is finished.
    output: Option<FlowOutput>,
    format: FixedFormat,
    /// How long a record waits until it is written.
    flush_delay_ms: u64,
    /// UTC seconds of the last records; none before the first.
    last_s: Option<u32>,
    /// Records that are not written, oldest first.
    waiting: Vec<DetailedRecord>,
    /// When the first of them came, in ms of uptime.
    since_ms: Option<u64>,
    /// Whether they are to be written with the next `send`.
    is_due: bool,
    /// When to look next whether the file is still there, in ms of the time that writing goes by.
    look_due_ms: u64,
    /// Why the last write failed; none if it did not.
    refusal: Option<io::Error>,
    /// Why records are missing in it; the last reason.
    lost_by: Option<String>,
    counters: CollectorCounters,
}

/// Records that are written at a time, at least, unless the flush delay is over.
const BLOCK_RECORDS: usize = 1024;
/// How often to look whether the file is still there while no record comes.
const LOOK_MS: u64 = 1_000;
/// Records that wait while they cannot be written, until another collector gets them.
const WAITING_MAX: usize = 2 * BLOCK_RECORDS;

impl FlowFile {
    /// Begins the file, with records of the version and engine of the plan's format.
    ///
    /// # Errors
    ///
    /// Those of creating it.
    pub fn create(target: Target, name: String, plan: &ExportPlan) -> io::Result<Self> {
        let options = WriterOptions {
            version: plan.format.version,
            ..WriterOptions::plain_v5(0)
        };
        Ok(Self {
            name,
            output: Some(FlowOutput::open(target, &options, None)?),
            format: plan.format,
            flush_delay_ms: plan.datagrams.flush_delay_ms,
            last_s: None,
            waiting: Vec::with_capacity(WAITING_MAX),
            since_ms: None,
            is_due: false,
            look_due_ms: LOOK_MS,
            refusal: None,
            lost_by: None,
            counters: CollectorCounters::default(),
        })
    }

    /// Writes what waits. What cannot be written goes on waiting.
    fn write_out(&mut self) {
        let Some(output) = self.output.as_mut().filter(|_| !self.waiting.is_empty()) else {
            return;
        };
        let written = output.write_out();
        let unwritten = output.unwritten();
        let octets = StoredRecord::encoded_octets(self.format.version);
        self.counters.octets += ((self.waiting.len() - unwritten) * octets) as u64;
        let tally = self.settle_first(self.waiting.len() - unwritten);
        self.counters.sent += tally;
        self.counters.exported += tally;
        match written {
            Ok(()) if self.refusal.take().is_some() => {
                tracing::info!("{}: records are written again", self.name);
            }
            Ok(()) => {}
            Err(error) => self.refuse(error),
        }
    }

    /// Notes that the file cannot be written, also where no record waits to be: its directory may
    /// have been removed.
    fn look(&mut self) {
        let output = self.output.as_mut();
        let idle = output.filter(|_| self.waiting.is_empty() && self.refusal.is_none());
        if let Some(Err(error)) = idle.map(FlowOutput::write_out) {
            self.refuse(error);
        }
    }

    fn refuse(&mut self, error: io::Error) {
        if self.refusal.is_none() {
            let name = &self.name;
            tracing::warn!("{name} cannot be written: {error}; records are lost until it can");
        }
        self.refusal = Some(error);
    }

    /// Gives up what waits after a refusal, except for a record of which a part is written to a
    /// stream.
    fn lose(&mut self) {
        let Some(output) = self.output.as_mut().filter(|_| self.refusal.is_some()) else {
            return;
        };
        output.discard_unwritten();
        let kept = output.unwritten();
        let lost = self.settle_last(kept);
        self.count_lost(lost);
        // The rest of that record is tried with the next ones.
        self.since_ms = None;
        self.is_due = false;
    }

    fn count_lost(&mut self, lost: Tally) {
        if lost.records == 0 {
            return;
        }
        self.counters.lost[LossReason::Write as usize] += lost;
        let kind = self
            .refusal
            .as_ref()
            .map_or(SendErrorKind::Other, SendErrorKind::of);
        self.counters.errors[kind as usize] += lost.records;
        self.lost_by = self.refusal.as_ref().map(ToString::to_string);
        if let Some(output) = &mut self.output {
            output.note(FileLosses {
                lost: u32::try_from(lost.records).unwrap_or(u32::MAX),
                ..FileLosses::default()
            });
        }
    }

    /// Takes the first records out of those that wait.
    fn settle_first(&mut self, count: usize) -> Tally {
        let tally = if count == self.waiting.len() {
            self.counters.waiting
        } else {
            DetailedRecord::tally(&self.waiting[..count])
        };
        self.waiting.drain(..count);
        self.settle(tally)
    }

    /// Takes the records behind the first `kept` out of those that wait.
    fn settle_last(&mut self, kept: usize) -> Tally {
        let tally = DetailedRecord::tally(&self.waiting[kept..]);
        self.waiting.truncate(kept);
        self.settle(tally)
    }

    fn settle(&mut self, tally: Tally) -> Tally {
        self.counters.waiting -= tally;
        if self.waiting.is_empty() {
            self.since_ms = None;
            self.is_due = false;
        }
        tally
    }
}

impl Outlet for FlowFile {
    fn begin_turn(&mut self, now_ms: u64) {
        if now_ms >= self.look_due_ms {
            self.look_due_ms = now_ms + LOOK_MS;
            self.look();
        }
    }

    fn push(&mut self, records: &[DetailedRecord], now: Moment) {
        let tally = DetailedRecord::tally(records);
        let Some(output) = &mut self.output else {
            return self.count_lost(tally);
        };
        for record in records {
            let stored = stored(record, now, self.format.engine);
            if self.last_s.replace(stored.unix_s).is_none() {
                output.set_capture_start(stored.unix_s);
            }
            output.append(&stored);
        }
        self.waiting.extend_from_slice(records);
        self.counters.waiting += tally;
        self.since_ms.get_or_insert(now.uptime_ms);
        self.is_due |= self.waiting.len() >= BLOCK_RECORDS;
        if self.waiting.len() >= WAITING_MAX {
            self.write_out();
            self.lose();
        }
    }

    fn oldest_ms(&self) -> Option<u64> {
        self.since_ms
    }

    fn flush_due_ms(&self) -> Option<u64> {
        self.since_ms
            .filter(|_| !self.is_due)
            .map(|since_ms| since_ms + self.flush_delay_ms)
    }

    fn complete(&mut self, _now: Moment) {
        self.is_due = !self.waiting.is_empty();
    }

    fn send(&mut self, _all: bool, on_refusal: OnRefusal) -> Option<u64> {
        if self.is_due {
            self.write_out();
            if on_refusal == OnRefusal::GoOn {
                self.lose();
            }
        }
        None
    }

    fn is_refusing(&self) -> bool {
        self.refusal.is_some()
    }

    fn take_back(&mut self, give: &mut dyn FnMut(&[DetailedRecord])) {
        let Some(output) = &mut self.output else {
            return;
        };
        output.discard_unwritten();
        let kept = output.unwritten();
        give(&self.waiting[kept..]);
        self.settle_last(kept);
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write_out();
        self.lose();
        // Of a stream that ends within a record.
        let torn = self.settle_last(0);
        self.count_lost(torn);
        if let Some(output) = self.output.take()
            && torn.records == 0
        {
            let temporary = output.temporary().map(Path::to_owned);
            let finished = output.finish(self.last_s.unwrap_or(0));
            finished.map_err(|error| match temporary.filter(|path| path.exists()) {
                Some(path) => io::Error::other(format!(
                    "{error}; {} has the records, and the next run completes it",
                    path.display()
                )),
                None => error,
            })?;
        }
        let lost = self.counters.lost[LossReason::Write as usize].records;
        match &self.lost_by {
            Some(error) => Err(io::Error::other(format!(
                "{lost} records could not be written: {error}"
            ))),
            None => Ok(()),
        }
    }

    fn counters(&self) -> CollectorCounters {
        self.counters
    }
}

impl Drop for FlowFile {
    fn drop(&mut self) {
        // A panic leaves what there is, as a crash does.
        if let Some(output) = self.output.take()
            && !std::thread::panicking()
        {
            output.discard();
        }
    }
}

/// A record as the file has it, sent at `now`.
fn stored(record: &DetailedRecord, now: Moment, engine: Engine) -> StoredRecord {
    const NS_PER_S: u64 = 1_000_000_000;
    let DetailedRecord { flow, details } = record;
    let narrow = |count| u32::try_from(count).expect("the plan caps counters at 2^32 - 1");
    StoredRecord {
        // 32 bits of seconds last until 2106, and ns below a second fit as well.
        unix_s: u32::try_from(now.unix_ns / NS_PER_S).unwrap_or(u32::MAX),
        unix_ns: u32::try_from(now.unix_ns % NS_PER_S).expect("ns below a second have 30 bits"),
        sys_uptime_ms: uptime_on_the_wire(now.uptime_ms),
        source: flow.key.source,
        destination: flow.key.destination,
        next_hop: details.destination.next_hop.into(),
        input: details.interfaces.input,
        output: details.interfaces.output,
        packets: narrow(flow.volume.packets),
        octets: narrow(flow.volume.octets),
        first_ms: uptime_on_the_wire(flow.first_ms),
        last_ms: uptime_on_the_wire(flow.last_ms),
        source_port: flow.key.source_port,
        destination_port: flow.key.destination_port,
        protocol: flow.key.protocol,
        tos: flow.key.tos,
        tcp_flags: flow.tcp_flags,
        engine_type: engine.r#type,
        engine_id: engine.id,
        source_mask: details.source.mask,
        destination_mask: details.destination.mask,
        source_as: details.source.r#as,
        destination_as: details.destination.r#as,
        ..StoredRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use xdprobe_collect::FlowFileReader;
    use xdprobe_collect::output::Replace;
    use xdprobe_export::{DatagramConfig, Details, Distribution, SocketOptions};
    use xdprobe_flow::{EndReason, FlowRecord, KeyV4, Volume};

    fn record() -> DetailedRecord {
        let key = KeyV4 {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(198, 51, 100, 2),
            source_port: 1234,
            destination_port: 80,
            protocol: 6,
            tos: 0,
            point: 0,
        };
        DetailedRecord {
            flow: FlowRecord {
                key,
                volume: Volume {
                    packets: 1,
                    octets: 100,
                },
                first_ms: 0,
                last_ms: 0,
                tcp_flags: 0,
                end: EndReason::Idle,
            },
            details: Details::default(),
        }
    }

    fn begin(path: &Path) -> FlowFile {
        let plan = ExportPlan {
            distribution: Distribution::Copy,
            format: FixedFormat::default(),
            datagrams: DatagramConfig::default(),
            sockets: SocketOptions::default(),
            resolve_interval: Duration::from_secs(60),
            destinations: Vec::new(),
            overwrite: false,
            inputs: Vec::new(),
        };
        let target = Target::check(path, Replace::Nothing, &[]).unwrap();
        FlowFile::create(target, "file:x".to_owned(), &plan).unwrap()
    }

    fn at(uptime_ms: u64) -> Moment {
        Moment {
            uptime_ms,
            unix_ns: 0,
        }
    }

    fn records_in(path: &Path) -> usize {
        FlowFileReader::open(path)
            .unwrap()
            .map(Result::unwrap)
            .count()
    }

    #[test]
    fn a_record_is_in_the_file_and_exported_once_the_flush_delay_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join("tmp-x");
        let mut file = begin(&folder.path().join("x"));
        let records = [record(); 3];
        file.push(&records, at(500));
        file.send(true, OnRefusal::GoOn);
        let tallies = |file: &FlowFile| {
            let counters = file.counters();
            (counters.waiting.records, counters.exported.records)
        };
        assert_eq!(tallies(&file), (3, 0));
        assert_eq!(
            (file.oldest_ms(), file.flush_due_ms()),
            (Some(500), Some(1500))
        );
        file.complete(at(1500));
        file.send(false, OnRefusal::GoOn);
        assert_eq!(tallies(&file), (0, 3));
        assert_eq!((file.oldest_ms(), file.flush_due_ms()), (None, None));
        assert_eq!(records_in(&temporary), 3);
        // A full block does not wait.
        file.push(&[record(); BLOCK_RECORDS], at(1600));
        file.send(false, OnRefusal::GoOn);
        assert_eq!(records_in(&temporary), 3 + BLOCK_RECORDS);
        file.push(&records, at(1700));
        file.finish().unwrap();
        assert_eq!(tallies(&file), (0, 6 + BLOCK_RECORDS as u64));
        assert_eq!(records_in(&folder.path().join("x")), 6 + BLOCK_RECORDS);
    }

    #[test]
    fn a_directory_that_goes_away_is_noticed_within_a_second_although_no_record_comes() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("flows")).unwrap();
        let mut file = begin(&folder.path().join("flows/x"));
        file.begin_turn(LOOK_MS);
        assert!(!file.is_refusing());
        fs::remove_dir_all(folder.path().join("flows")).unwrap();
        file.begin_turn(2 * LOOK_MS);
        assert!(file.is_refusing());
        assert!(file.finish().is_err());
    }

    #[test]
    fn records_that_cannot_be_written_wait_for_another_collector_or_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = begin(&folder.path().join("x"));
        let records = [record(); 5];
        file.push(&records[..2], at(0));
        file.complete(at(0));
        file.send(true, OnRefusal::GoOn);
        // As good as any other error of writing.
        fs::remove_file(folder.path().join("tmp-x")).unwrap();
        file.push(&records, at(0));
        file.complete(at(0));
        file.send(true, OnRefusal::Stop);
        assert!(file.is_refusing());
        assert_eq!(file.counters().waiting.records, 5);
        let mut given = 0;
        file.take_back(&mut |records| given += records.len());
        assert_eq!((given, file.counters().waiting.records), (5, 0));
        // No call for more of what cannot be written than a full memory holds.
        for _ in 0..WAITING_MAX {
            file.push(&records, at(0));
        }
        file.complete(at(0));
        file.send(true, OnRefusal::GoOn);
        let counters = file.counters();
        let lost = counters.lost[LossReason::Write as usize].records;
        assert_eq!(lost, 5 * WAITING_MAX as u64);
        assert_eq!(
            (counters.waiting.records, counters.exported.records),
            (0, 2)
        );
        assert_eq!(file.flush_due_ms(), None);
        assert!(file.finish().is_err());
    }

    #[test]
    fn a_file_that_is_not_finished_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = begin(&folder.path().join("x"));
        file.push(&[record(); 2000], at(0));
        file.send(true, OnRefusal::GoOn);
        assert_eq!(records_in(&folder.path().join("tmp-x")), 2000);
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
