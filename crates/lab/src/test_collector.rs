//! A collector of NetFlow versions 1, 5 and 7 for tests: it counts records and checks what an
//! exporter may do wrong.
//!
//! [`TestCollector::bind`] opens a socket with a receive buffer that is large enough for any test,
//! and starts a thread that receives. [`TestCollector::stop`] returns totals, gaps in the sequence
//! of each engine, and every rule of the format that a datagram or a record breaks ([`Violation`]).
//! [`Collected::assert_sound`] asserts that nothing is wrong.

mod rules;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::fstat;
use socket2::SockRef;
use xdprobe_netflow::v5::Record;
use xdprobe_netflow::{DatagramError, Engine, wire};

pub use rules::Violation;
use rules::{DatagramAsV5, SpaceHistory};

/// Size of the socket's receive buffer in octets: about 40 000 datagrams.
const RECEIVE_BUFFER_OCTETS: usize = 64 << 20;
/// How long the thread waits for a datagram before it checks whether to stop. Datagrams that
/// arrived before a stop are received.
const WAIT: Duration = Duration::from_millis(20);
/// Column of the inode in a row of /proc/net/udp, from 0 (Linux, net/ipv4/udp.c, udp4_format_sock).
const INODE_COLUMN: usize = 9;

/// What a collector keeps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Keep {
    /// Counts only.
    #[default]
    Counts,
    /// Counts and all records, in order of arrival.
    Records,
}

/// What a collector received.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Datagrams of versions 1, 5 and 7.
    pub datagrams: u64,
    /// Records in them.
    pub records: u64,
    /// Sum of the records' packets.
    pub packets: u64,
    /// Sum of the records' octets.
    pub octets: u64,
    /// The sampling field of the first datagram.
    pub sampling: Option<u16>,
    /// Length of the longest datagram in octets.
    pub datagram_octets_max: usize,
    /// Sequence numbers other than expected, in order of arrival.
    pub gaps: Vec<Gap>,
    /// Rules that datagrams or records break, in order of arrival.
    pub violations: Vec<Violation>,
    /// Why datagrams could not be decoded, in order of arrival.
    pub undecoded: Vec<DatagramError>,
    /// Datagrams that the kernel dropped because the socket's buffer was full.
    pub dropped_by_socket: u64,
    /// The records as records of version 5, if they are kept.
    pub list: Vec<Record>,
}

/// A source of datagrams with sequence numbers of its own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SequenceSpace {
    /// Address that the datagrams came from.
    pub exporter: SocketAddr,
    /// Version of NetFlow.
    pub version: u16,
    /// Engine of the exporter.
    pub engine: Engine,
}

/// A sequence number other than expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gap {
    /// Sequence space of the datagram.
    pub space: SequenceSpace,
    /// Sequence number that follows from the datagram before.
    pub expected: u32,
    /// Sequence number of the datagram.
    pub found: u32,
}

impl Gap {
    /// Records missing, modulo 2^32: above 2^31 if the number is lower than expected.
    #[must_use]
    pub fn missing(&self) -> u32 {
        self.found.wrapping_sub(self.expected)
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            datagrams,
            records,
            packets,
            octets,
            ..
        } = self;
        write!(
            f,
            "{datagrams} datagrams, {records} records, {packets} packets, {octets} octets"
        )?;
        write!(
            f,
            ", {} gaps, {} violations",
            self.gaps.len(),
            self.violations.len()
        )?;
        write!(
            f,
            ", {} undecoded, {} dropped by the socket",
            self.undecoded.len(),
            self.dropped_by_socket
        )
    }
}

/// A running collector, with a thread of its own.
pub struct TestCollector {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    records: Arc<AtomicU64>,
    worker: Option<JoinHandle<Result<Collected>>>,
}

impl TestCollector {
    /// Starts a collector on a free port of 127.0.0.1, in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub fn start(keep: Keep) -> Result<Self> {
        Self::bind(SocketAddr::from(([127, 0, 0, 1], 0)), keep)
    }

    /// Starts a collector on `address` in the network namespace of the calling thread. Port 0 is
    /// any free port. For another namespace, call it in `Namespace::run`.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub fn bind(address: SocketAddr, keep: Keep) -> Result<Self> {
        let socket = UdpSocket::bind(address)
            .with_context(|| format!("binding the collector to {address}"))?;
        enlarge_buffer(&socket)?;
        socket.set_read_timeout(Some(WAIT))?;
        let address = socket.local_addr()?;
        let (stop, records) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let receiver = Receiver {
            socket,
            keep,
            stop: stop.clone(),
            records: records.clone(),
        };
        let worker = thread::Builder::new()
            .name("lab-collector".to_owned())
            .spawn(move || receiver.run())?;
        Ok(Self {
            address,
            stop,
            records,
            worker: Some(worker),
        })
    }

    /// Address to export to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Records received so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Receives the datagrams that have arrived, ends the thread, and returns what was received.
    ///
    /// # Errors
    ///
    /// If the socket could not be read.
    ///
    /// # Panics
    ///
    /// If the thread has panicked.
    pub fn stop(mut self) -> Result<Collected> {
        self.join().expect("the thread is joined once")
    }

    fn join(&mut self) -> Option<Result<Collected>> {
        self.stop.store(true, Ordering::Relaxed);
        let worker = self.worker.take()?;
        Some(
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    }
}

impl Drop for TestCollector {
    fn drop(&mut self) {
        self.join();
    }
}

/// What the receiving thread owns.
struct Receiver {
    socket: UdpSocket,
    keep: Keep,
    stop: Arc<AtomicBool>,
    records: Arc<AtomicU64>,
}

impl Receiver {
    /// Receives until it is stopped and no datagram is left.
    fn run(self) -> Result<Collected> {
        let mut collected = Collected::default();
        let mut histories = HashMap::new();
        // One octet more than the longest datagram, to detect longer ones.
        let mut datagram = [0; wire::DATAGRAM_OCTETS_MAX + 1];
        loop {
            match self.socket.recv_from(&mut datagram) {
                Ok((octets, exporter)) => {
                    collected.count(&datagram[..octets], exporter, &mut histories, self.keep);
                }
                Err(error) if is_timeout(&error) && self.stop.load(Ordering::Relaxed) => break,
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving export datagrams"),
            }
            self.records.store(collected.records, Ordering::Relaxed);
        }
        collected.dropped_by_socket = dropped_by(&self.socket)?;
        Ok(collected)
    }
}

impl Collected {
    /// Asserts that all datagrams arrived and nothing is wrong with them.
    ///
    /// # Panics
    ///
    /// If there is a gap, a violation, an undecoded datagram or one that the socket dropped, with
    /// the first of each.
    pub fn assert_sound(&self) {
        let Self {
            gaps,
            violations,
            undecoded,
            dropped_by_socket,
            ..
        } = self;
        let found = (
            gaps.first(),
            violations.first(),
            undecoded.first(),
            *dropped_by_socket,
        );
        assert_eq!(found, (None, None, None, 0), "{self}");
    }

    fn count(
        &mut self,
        octets: &[u8],
        exporter: SocketAddr,
        histories: &mut HashMap<SequenceSpace, SpaceHistory>,
        keep: Keep,
    ) {
        let datagram = match DatagramAsV5::read(octets) {
            Ok(datagram) => datagram,
            Err(error) => return self.undecoded.push(error),
        };
        let space = SequenceSpace {
            exporter,
            version: datagram.version(),
            engine: datagram.engine(),
        };
        match histories.entry(space) {
            Entry::Vacant(history) => {
                history.insert(SpaceHistory::begin(&datagram));
            }
            Entry::Occupied(mut history) => {
                let history = history.get_mut();
                if let (Some(expected), Some((found, _))) = (history.next, datagram.sequence())
                    && expected != found
                {
                    self.gaps.push(Gap {
                        space,
                        expected,
                        found,
                    });
                }
                self.violations.extend(history.violations(&datagram));
            }
        }
        self.violations.extend(datagram.violations());
        self.sampling.get_or_insert(datagram.sampling());
        self.datagrams += 1;
        self.datagram_octets_max = self.datagram_octets_max.max(octets.len());
        self.records += datagram.records().len() as u64;
        for record in datagram.records() {
            self.packets += u64::from(record.packets.get());
            self.octets += u64::from(record.octets.get());
        }
        if keep == Keep::Records {
            self.list.extend_from_slice(datagram.records());
        }
    }
}

/// Sets the size of the receive buffer: root can exceed net.core.rmem_max, others get at most that.
fn enlarge_buffer(socket: &UdpSocket) -> Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_OCTETS).is_err() {
        SockRef::from(socket)
            .set_recv_buffer_size(RECEIVE_BUFFER_OCTETS)
            .context("enlarging the receive buffer")?;
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Datagrams that the kernel dropped: the last column of the socket's row in the table of the
/// thread's network namespace.
fn dropped_by(socket: &UdpSocket) -> Result<u64> {
    let inode = fstat(socket)?.st_ino.to_string();
    let table = if socket.local_addr()?.is_ipv4() {
        "/proc/thread-self/net/udp"
    } else {
        "/proc/thread-self/net/udp6"
    };
    let rows = fs::read_to_string(table).with_context(|| format!("reading {table}"))?;
    let of_socket = |row: &&str| row.split_whitespace().nth(INODE_COLUMN) == Some(&inode);
    let row = rows
        .lines()
        .find(of_socket)
        .with_context(|| format!("{table} has no row for the socket's inode {inode}"))?;
    let drops = row
        .split_whitespace()
        .next_back()
        .and_then(|drops| drops.parse().ok());
    drops.with_context(|| format!("{table}: expected a number of drops at the end of {row:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdprobe_netflow::v5::{self, Header};

    /// Sends one datagram of records with these (First, Last), at `sys_uptime_ms`.
    fn export(
        socket: &UdpSocket,
        to: SocketAddr,
        sequence: u32,
        sys_uptime_ms: u32,
        times: &[(u32, u32)],
    ) {
        let record = |(first, last): &(u32, u32)| Record {
            packets: 2.into(),
            octets: 100.into(),
            first_ms: (*first).into(),
            last_ms: (*last).into(),
            ..Record::default()
        };
        let records: Vec<Record> = times.iter().map(record).collect();
        let header = Header {
            sys_uptime_ms: sys_uptime_ms.into(),
            flow_sequence: sequence.into(),
            ..Header::default()
        };
        let mut datagram = [0; v5::DATAGRAM_OCTETS_MAX];
        let octets = v5::encode(&header, &records, &mut datagram).unwrap();
        socket.send_to(&datagram[..octets], to).unwrap();
    }

    fn collect(send: impl FnOnce(&UdpSocket, SocketAddr)) -> Collected {
        let collector = TestCollector::start(Keep::Records).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        send(&socket, collector.address());
        collector.stop().unwrap()
    }

    #[test]
    fn counts_what_was_exported() {
        let received = collect(|socket, to| {
            export(socket, to, 7, 100, &[(1, 2), (3, 3)]);
            export(socket, to, 9, 100, &[(1, 100)]);
        });
        assert_eq!(
            received.to_string(),
            "2 datagrams, 3 records, 6 packets, 300 octets, 0 gaps, 0 violations, 0 undecoded, \
             0 dropped by the socket"
        );
        assert_eq!(received.list.len(), 3);
    }

    #[test]
    fn finds_gaps_in_the_sequence() {
        let received = collect(|socket, to| {
            export(socket, to, u32::MAX, 5, &[(1, 1), (1, 1)]);
            export(socket, to, 1, 5, &[(1, 1)]);
            export(socket, to, 12, 5, &[(1, 1)]);
        });
        assert_eq!(
            received.gaps.iter().map(Gap::missing).collect::<Vec<_>>(),
            [10]
        );
    }

    #[test]
    fn finds_broken_rules_and_tells_sequence_spaces_apart_by_the_exporter() {
        let received = collect(|socket, to| {
            export(socket, to, 0, 5, &[(u32::MAX - 1, 3), (3, 2), (1, 6)]);
            export(
                &UdpSocket::bind("127.0.0.1:0").unwrap(),
                to,
                0,
                5,
                &[(1, 1)],
            );
        });
        let times = |first_ms, last_ms| Violation::Times {
            first_ms,
            last_ms,
            sys_uptime_ms: 5,
        };
        assert_eq!(
            (received.violations, received.gaps),
            (vec![times(3, 2), times(1, 6)], Vec::new())
        );
    }

    #[test]
    fn reports_why_a_datagram_was_not_decoded() {
        let received = collect(|socket, to| {
            socket.send_to(&[0; 3], to).unwrap();
        });
        assert_eq!(
            (received.datagrams, received.undecoded),
            (
                0,
                vec![DatagramError::Short {
                    found: 3,
                    expected: 24
                }]
            )
        );
    }
}
