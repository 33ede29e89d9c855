//! From the exporter's socket to a collector's on the loopback interface: what was sent in three
//! seconds, and what arrived.
//!
//! The exporter runs on core 0, a receiver that only counts on core 1. `cargo bench --bench
//! loopback [-- RECORDS_PER_SECOND]`: without a pace as fast as the socket takes it, so the
//! receiver may lose; with one, to see at which it loses nothing.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement is printed and reads the clock"
)]

use std::error::Error;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use xdprobe_export::{
    Collector, CollectorConfig, Distribution, Exporter, Moment, Pace, SocketOptions, UdpTransport,
};
use xdprobe_flow::{EndReason, FlowKey, FlowRecord};

/// Records of a batch, as workers hand them over.
const BATCH: usize = 256;
const LASTS: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds an option of its own.
    let pace = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(256 << 20))?;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    let address = receiver.local_addr()?;
    let done = Arc::new(AtomicBool::new(false));
    let counting = {
        let done = Arc::clone(&done);
        thread::Builder::new()
            .name("receiver".to_owned())
            .spawn(move || count(&receiver, &done))?
    };

    pin(0)?;
    let config = CollectorConfig {
        pace: Pace {
            records_per_s: pace,
            octets_per_s: None,
        },
        ..CollectorConfig::default()
    };
    let transport = UdpTransport::connect(
        address,
        &SocketOptions {
            mtu: Some(1_500),
            ..SocketOptions::default()
        },
    )?;
    let mut exporter = Exporter::new(
        Distribution::Copy,
        vec![Collector::new("loopback", transport, config)?],
    );
    let batch = batch();
    let start = Instant::now();
    let moment = |uptime_ms| {
        Moment {
            uptime_ms,
            unix_ns: 1_700_000_000_000_000_000,
        }
        .at(uptime_ms)
    };
    while start.elapsed() < LASTS {
        let now_ms = u64::try_from(start.elapsed().as_millis())?;
        exporter.begin_turn(now_ms);
        if exporter.room() >= BATCH {
            exporter.push(&batch, moment(now_ms + 1_000));
        }
        exporter.send(false, moment(now_ms + 1_000));
    }
    let took = start.elapsed();
    exporter.finish()?;
    done.store(true, Ordering::Relaxed);
    let received = counting.join().map_err(|_| "the receiver died")??;
    let sent = exporter.collectors()[0].counters();
    let rate = |records: u64| records as f64 / took.as_secs_f64() / 1e6;
    println!(
        "sent {:.2} M records/s in {} datagrams, received {:.2} M records/s, lost {} of {} records",
        rate(sent.sent.records),
        sent.sent.datagrams,
        rate(received),
        sent.sent.records - received,
        sent.sent.records
    );
    Ok(())
}

/// Counts records until nothing has come for a while after it was told to end.
fn count(receiver: &UdpSocket, done: &AtomicBool) -> Result<u64, nix::Error> {
    pin(1)?;
    let mut datagram = [0; 2_048];
    let mut records = 0;
    loop {
        match receiver.recv(&mut datagram) {
            Ok(octets) => records += (octets as u64 - 24) / 48,
            Err(_) if done.load(Ordering::Relaxed) => return Ok(records),
            Err(_) => {}
        }
    }
}

fn pin(core: usize) -> Result<(), nix::Error> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
}

fn batch() -> Vec<FlowRecord> {
    let record = |number: u16| {
        let key = FlowKey {
            source: [10, 0, 0, 1].into(),
            destination: [192, 0, 2, 9].into(),
            source_port: number,
            destination_port: 443,
            protocol: 6,
            tos: 0,
            input: 3,
        };
        FlowRecord {
            key,
            packets: 9,
            octets: 4_000,
            first_ms: 10,
            last_ms: 900,
            tcp_flags: 0x1b,
            end: EndReason::Idle,
        }
    };
    (0..).map(record).take(BATCH).collect()
}
