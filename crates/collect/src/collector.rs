//! The running collector: one thread receives datagrams and another one writes files, so that a
//! slow disk does not cost datagrams.
//!
//! Batches of records go from the first to the second, and emptied batches back. If the second
//! cannot keep up, the first waits and the socket's buffer fills; the system counts the datagrams
//! that it drops then.

use crate::datagram::{self, DatagramSummary, Refusal};
use crate::receive::{BURST_DATAGRAMS, Receiver};
use crate::record::StoredRecord;
use crate::sequence::{Continuity, Exporters};
use crate::store::Store;
use crate::throttle::{REPORT_S, Throttle};
use crate::writer::FileLosses;
use crossbeam_channel::{RecvTimeoutError, Sender, TryRecvError};
use ipnet::IpNet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xdprobe_netflow::Version;

/// Records in a batch at which it is handed over. An empty socket hands it over earlier.
const BATCH_RECORDS: usize = 8192;
/// Batches between the threads: half a second at 1 million records a second.
const BATCHES_MAX: usize = 64;
/// How often the store thread checks for a rotation, a sync or an expiry.
const STORE_TICK: Duration = Duration::from_millis(250);
/// The most log lines about sequence numbers and refused datagrams between two calls of
/// [`Collector::tick`], so that forged senders do not fill the log.
const LINES_MAX: u32 = 20;

/// UTC seconds since 1970 by the system's clock, which files are named and rotated by. 0 if the
/// clock is set to a time before 1970.
#[must_use]
pub fn unix_s() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the collector's own clock: files are named for the time of day"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).expect("the system's clock has at most 63 bits")
    })
}

/// Exporters whose datagrams are accepted.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Vec<IpNet>);

impl Allowed {
    /// Exporters with addresses in `networks`; all exporters if there are none.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether datagrams of `exporter` are accepted.
    #[must_use]
    pub fn has(&self, exporter: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|network| network.contains(&exporter))
    }
}

/// A running collector. Its owner's thread receives, in [`turn`](Self::turn).
#[derive(Debug)]
pub struct Collector {
    receiver: Receiver,
    intake: Intake,
    batch: StoreBatch,
    commands: Sender<StoreCommand>,
    emptied: crossbeam_channel::Receiver<StoreBatch>,
    written: Arc<Written>,
    store_thread: Option<JoinHandle<io::Result<()>>>,
}

/// Counts since the start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Totals {
    /// Datagrams accepted.
    pub datagrams: u64,
    /// Records in them.
    pub records: u64,
    /// Records stored in files.
    pub stored: u64,
    /// Records that could not be written.
    pub failed: u64,
    /// Files finished.
    pub files: u64,
    /// Records that are missing by the exporters' sequence numbers.
    pub lost: u64,
    /// Jumps of sequence numbers that are not a loss.
    pub resets: u64,
    /// Resets that reordering explains.
    pub reordered: u64,
    /// Datagrams refused, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Datagrams that the system dropped because the socket's buffer was full; `None` if its count
    /// could not be read.
    pub dropped: Option<u64>,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            datagrams,
            records,
            stored,
            failed,
            files,
            lost,
            resets,
            reordered,
            dropped,
            ..
        } = self;
        write!(
            formatter,
            "totals: received_datagrams={datagrams} received_records={records} \
             stored_records={stored} \
             failed_records={failed} files={files} lost_records={lost} resets={resets} \
             reordered={reordered} \
             socket_dropped_datagrams="
        )?;
        match dropped {
            Some(dropped) => write!(formatter, "{dropped}")?,
            None => formatter.write_str("unknown")?,
        }
        for (reason, count) in Refusal::ALL.iter().zip(self.refused) {
            write!(formatter, " refused_{}={count}", reason.name())?;
        }
        Ok(())
    }
}

impl Collector {
    /// Starts a thread that writes to `store`.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(receiver: Receiver, store: Store, allowed: Allowed) -> io::Result<Self> {
        let (commands, incoming) = crossbeam_channel::bounded(BATCHES_MAX);
        let (give_back, emptied) = crossbeam_channel::bounded(BATCHES_MAX);
        let written = Arc::new(Written::default());
        let counts = Arc::clone(&written);
        let store_thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                StoreThread {
                    store,
                    incoming,
                    give_back,
                    written: counts,
                }
                .run()
            })?;
        Ok(Self {
            receiver,
            intake: Intake {
                allowed,
                exporters: Exporters::default(),
                refused: [0; Refusal::ALL.len()],
                refusals: [Throttle::default(); Refusal::ALL.len()],
                lines_left: LINES_MAX,
                now: unix_s(),
            },
            batch: StoreBatch::new(),
            commands,
            emptied,
            written,
            store_thread: Some(store_thread),
        })
    }

    /// Waits up to `timeout` for datagrams, hands their records over to the store thread, and
    /// returns whether there were any.
    ///
    /// # Errors
    ///
    /// If the socket fails, or the store thread has ended.
    pub fn turn(&mut self, timeout: Duration) -> io::Result<bool> {
        if !self.receiver.wait(timeout)? {
            return Ok(false);
        }
        loop {
            let received = self.receiver.receive()?;
            self.take_burst();
            if received < BURST_DATAGRAMS || self.batch.records.len() >= BATCH_RECORDS {
                break;
            }
        }
        self.hand_over()?;
        Ok(true)
    }

    /// Logs the lines about jumps of sequences and refused datagrams that are due. Call it about
    /// once a second.
    pub fn tick(&mut self) {
        self.intake.tick(unix_s());
    }

    /// Finishes the current file and begins another.
    ///
    /// # Errors
    ///
    /// If the store thread has ended.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.send(StoreCommand::Rotate)
    }

    /// Counts so far. Records on their way to the store thread are received, and neither stored nor
    /// failed yet.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let total = self.intake.exporters.total();
        Totals {
            datagrams: total.datagrams + self.intake.exporters.untracked(),
            records: self.written.received.load(Relaxed),
            stored: self.written.stored.load(Relaxed),
            failed: self.written.failed.load(Relaxed),
            files: self.written.files.load(Relaxed),
            lost: total.lost,
            resets: total.resets,
            reordered: total.reordered,
            refused: self.intake.refused,
            dropped: self.receiver.datagrams_dropped().ok(),
        }
    }

    /// Counts by exporter.
    #[must_use]
    pub fn exporters(&self) -> &Exporters {
        &self.intake.exporters
    }

    /// Receives what is left in the socket, finishes the file, and returns the totals.
    ///
    /// # Errors
    ///
    /// If the socket fails, or the last file cannot be finished.
    pub fn stop(mut self) -> io::Result<Totals> {
        /// More turns than the largest socket buffer holds bursts.
        const LAST_TURNS: usize = 4096;
        for _ in 0..LAST_TURNS {
            if !self.turn(Duration::ZERO)? {
                break;
            }
        }
        // If the store thread has ended, joining it returns its error.
        let _ = self.send(StoreCommand::Stop);
        self.join()?;
        Ok(self.totals())
    }

    fn take_burst(&mut self) {
        for (sender, octets) in self.receiver.burst() {
            self.intake.take(sender, octets, &mut self.batch);
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let empty = match self.emptied.try_recv() {
            Ok(empty) => empty,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => StoreBatch::new(),
        };
        let batch = std::mem::replace(&mut self.batch, empty);
        self.written
            .received
            .fetch_add(batch.records.len() as u64, Relaxed);
        self.send(StoreCommand::Store(batch))
    }

    fn send(&mut self, command: StoreCommand) -> io::Result<()> {
        if self.commands.send(command).is_ok() {
            return Ok(());
        }
        self.join()?;
        Err(io::Error::other("the store thread has ended"))
    }

    fn join(&mut self) -> io::Result<()> {
        let ended = self
            .store_thread
            .take()
            .map_or(Ok(Ok(())), JoinHandle::join);
        ended.unwrap_or_else(|_| Err(io::Error::other("the store thread has panicked")))
    }
}

/// What datagrams are checked against and counted in.
#[derive(Debug)]
struct Intake {
    allowed: Allowed,
    exporters: Exporters,
    refused: [u64; Refusal::ALL.len()],
    /// Log lines about them.
    refusals: [Throttle; Refusal::ALL.len()],
    lines_left: u32,
    /// UTC seconds of the last tick.
    now: i64,
}

impl Intake {
    /// Decodes one datagram into `batch`, or refuses it.
    #[inline]
    fn take(&mut self, sender: SocketAddr, octets: &[u8], batch: &mut StoreBatch) {
        let exporter = sender.ip();
        if !self.allowed.has(exporter) {
            return self.refuse(
                exporter,
                Refusal::Exporter,
                &"not an allowed exporter",
                batch,
            );
        }
        match datagram::decode(octets, exporter, &mut batch.records) {
            Ok(summary) => self.accept(sender, &summary, batch),
            Err(error) => self.refuse(exporter, error.into(), &error, batch),
        }
    }

    fn accept(&mut self, sender: SocketAddr, summary: &DatagramSummary, batch: &mut StoreBatch) {
        let run = batch.run(summary.version);
        run.records += usize::from(summary.count);
        let noted = self.exporters.note(sender, summary, self.now);
        match noted.continuity {
            Continuity::Expected => return,
            Continuity::Lost(lost) => run.losses.add(FileLosses {
                lost,
                ..FileLosses::default()
            }),
            Continuity::Reset { .. } => run.losses.add(FileLosses {
                resets: 1,
                ..FileLosses::default()
            }),
        }
        if let Some(line) = noted.line
            && self.may_log()
        {
            tracing::warn!("{line}");
        }
    }

    #[cold]
    fn refuse(
        &mut self,
        exporter: IpAddr,
        refusal: Refusal,
        why: &dyn std::fmt::Display,
        batch: &mut StoreBatch,
    ) {
        self.refused[refusal as usize] += 1;
        batch.refused.add(FileLosses {
            corrupt: 1,
            ..FileLosses::default()
        });
        if self.refusals[refusal as usize].note(self.now) && self.may_log() {
            tracing::warn!("refused: src_ip={exporter} {why}");
        }
    }

    fn tick(&mut self, now: i64) {
        (self.now, self.lines_left) = (now, LINES_MAX);
        for (reason, throttle) in Refusal::ALL.iter().zip(&mut self.refusals) {
            if let Some(more) = throttle.due(now) {
                tracing::warn!(
                    "refused: {more} more datagrams in the last {REPORT_S} s, reason {}",
                    reason.name()
                );
            }
        }
        while self.may_log()
            && let Some(line) = self.exporters.due_line(now)
        {
            tracing::warn!("{line}");
        }
    }

    fn may_log(&mut self) -> bool {
        let may = self.lines_left > 0;
        self.lines_left = self.lines_left.saturating_sub(1);
        may
    }
}

/// What the receiving thread sends to the store thread.
#[derive(Debug)]
enum StoreCommand {
    Store(StoreBatch),
    Rotate,
    Stop,
}

/// Records on their way to the store, and counts of what is missing among them.
#[derive(Debug)]
struct StoreBatch {
    records: Vec<StoredRecord>,
    /// The records are those of the first run, then those of the second, and so on.
    runs: Vec<Run>,
    /// Refused datagrams, whose version is not known.
    refused: FileLosses,
}

/// Records of one version that came one after the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    version: Version,
    records: usize,
    losses: FileLosses,
}

impl StoreBatch {
    fn new() -> Self {
        let records =
            Vec::with_capacity(BATCH_RECORDS + BURST_DATAGRAMS * xdprobe_netflow::v5::RECORDS_MAX);
        Self {
            records,
            runs: Vec::new(),
            refused: FileLosses::default(),
        }
    }

    /// The run that the next records of `version` belong to.
    #[inline]
    fn run(&mut self, version: Version) -> &mut Run {
        if self.runs.last().is_none_or(|run| run.version != version) {
            self.runs.push(Run {
                version,
                records: 0,
                losses: FileLosses::default(),
            });
        }
        self.runs.last_mut().expect("a run was just added")
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.refused == FileLosses::default()
    }

    fn clear(&mut self) {
        self.records.clear();
        self.runs.clear();
        self.refused = FileLosses::default();
    }
}

/// Counts that both threads share: the receiving thread adds to `received`, the store thread sets
/// the others.
#[derive(Debug, Default)]
struct Written {
    received: AtomicU64,
    stored: AtomicU64,
    failed: AtomicU64,
    files: AtomicU64,
}

/// What the store thread owns.
struct StoreThread {
    store: Store,
    incoming: crossbeam_channel::Receiver<StoreCommand>,
    give_back: Sender<StoreBatch>,
    written: Arc<Written>,
}

impl StoreThread {
    fn run(mut self) -> io::Result<()> {
        loop {
            let done = match self.incoming.recv_timeout(STORE_TICK) {
                Ok(StoreCommand::Store(batch)) => self.write(batch),
                Ok(StoreCommand::Rotate) => self.store.rotate(unix_s()),
                Err(RecvTimeoutError::Timeout) => self.store.tick(unix_s()),
                Ok(StoreCommand::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    let closed = self.store.close(unix_s());
                    self.publish();
                    return closed;
                }
            };
            if let Err(error) = done {
                tracing::error!(
                    "cannot store records: {error}; trying again with another file in a second"
                );
            }
            self.publish();
        }
    }

    fn write(&mut self, mut batch: StoreBatch) -> io::Result<()> {
        let now = unix_s();
        let mut done = self.store.tick(now);
        let mut rest = &batch.records[..];
        for run in &batch.runs {
            let (records, behind) = rest.split_at(run.records);
            rest = behind;
            done = done.and(self.store.push(run.version, records, now));
            self.store.note(Some(run.version), run.losses);
        }
        self.store.note(None, batch.refused);
        batch.clear();
        // A batch without room in the channel is dropped: the receiving thread makes another.
        let _ = self.give_back.try_send(batch);
        done
    }

    fn publish(&self) {
        self.written.stored.store(self.store.stored(), Relaxed);
        self.written.failed.store(self.store.failed(), Relaxed);
        self.written.files.store(self.store.files(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Inputs;
    use crate::reader::FlowFileReader;
    use crate::record::ByteOrder;
    use crate::store::{Limits, Nesting, Rotations, StoreOptions};
    use std::net::{Ipv4Addr, UdpSocket};
    use std::path::Path;
    use xdprobe_netflow::{v5, v7};

    fn collector(directory: &Path, allowed: Allowed) -> (Collector, SocketAddr) {
        let options = StoreOptions {
            directory: directory.to_owned(),
            nesting: Nesting::try_from(0).unwrap(),
            rotations: Rotations::default(),
            limits: Limits::default(),
            version: None,
            order: ByteOrder::NATIVE,
            level: 6,
            hostname: None,
            comment: None,
            after_rotation: None,
            zone: jiff::tz::TimeZone::UTC,
        };
        let receiver = Receiver::bind((Ipv4Addr::LOCALHOST, 0).into(), 1 << 22).unwrap();
        let address = receiver.local_addr().unwrap();
        let (store, _) = Store::open(options, unix_s()).unwrap();
        (Collector::start(receiver, store, allowed).unwrap(), address)
    }

    fn datagram(sequence: u32, count: usize) -> Vec<u8> {
        let header = v5::Header {
            flow_sequence: sequence.into(),
            ..v5::Header::default()
        };
        let mut octets = vec![0; v5::DATAGRAM_OCTETS_MAX];
        let length = v5::encode(&header, &vec![v5::Record::default(); count], &mut octets).unwrap();
        octets.truncate(length);
        octets
    }

    #[test]
    fn everything_that_comes_is_stored_or_counted() {
        let directory = tempfile::tempdir().unwrap();
        let (mut collector, address) = collector(directory.path(), Allowed::default());
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let send = |octets: &[u8]| sender.send_to(octets, address).unwrap();
        for number in 0..100 {
            send(&datagram(number * 30, 30));
        }
        while collector.turn(Duration::from_millis(50)).unwrap() {}
        collector.rotate().unwrap();
        send(&datagram(3010, 5));
        send(&datagram(0, 1));
        send(&datagram(0, 1)[..20]);
        send(&datagram(0, 1)[..71]);
        send(b"");
        let mut v7_octets = [0; v7::DATAGRAM_OCTETS_MAX];
        let length = v7::encode(
            &v7::Header::default(),
            &[v7::Record::default()],
            &mut v7_octets,
        )
        .unwrap();
        send(&v7_octets[..length]);
        let totals = collector.stop().unwrap();
        let expected = Totals {
            datagrams: 103,
            records: 3007,
            stored: 3007,
            failed: 0,
            files: 3,
            lost: 10,
            resets: 1,
            reordered: 0,
            refused: [2, 0, 0, 1, 0],
            dropped: Some(0),
        };
        assert_eq!(totals, expected);
        assert_eq!(
            totals.to_string(),
            "totals: received_datagrams=103 received_records=3007 stored_records=3007 \
             failed_records=0 files=3 \
             lost_records=10 resets=1 reordered=0 socket_dropped_datagrams=0 refused_short=2 \
             refused_version=0 \
             refused_count=0 refused_length=1 refused_exporter=0"
        );

        let files = Inputs::find(&[directory.path().to_owned()], true).unwrap();
        let readers = files
            .into_paths()
            .map(|path| FlowFileReader::open(path).unwrap());
        let headers: Vec<_> = readers.map(|reader| reader.header().clone()).collect();
        let summary: Vec<_> = headers
            .iter()
            .map(|it| (it.flows, it.lost, it.corrupt, it.resets))
            .collect();
        assert_eq!(
            summary,
            [
                (Some(3000), Some(0), Some(0), Some(0)),
                (Some(6), Some(10), Some(3), Some(1)),
                (Some(1), Some(0), Some(0), Some(0))
            ]
        );
    }

    #[test]
    fn exporters_that_are_not_allowed_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let allowed = Allowed::new(vec![
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]);
        assert!(allowed.has([10, 1, 2, 3].into()) && allowed.has("2001:db8::1".parse().unwrap()));
        let (collector, address) = collector(directory.path(), allowed);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(&datagram(0, 1), address).unwrap();
        let totals = collector.stop().unwrap();
        assert_eq!(
            (totals.records, totals.refused[Refusal::Exporter as usize]),
            (0, 1)
        );
        assert!(
            Inputs::find(&[directory.path().to_owned()], true)
                .unwrap()
                .list
                .is_empty()
        );
    }
}
