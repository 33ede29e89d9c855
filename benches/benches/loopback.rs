//! From the exporter's socket to a collector's on the loopback interface: records sent in three
//! seconds, and records received.
//!
//! The exporter runs on core 0; on core 1 a receiver counts records. `cargo bench --bench loopback
//! [-- RECORDS_PER_SECOND]`: without a rate the exporter sends as fast as its socket accepts, and
//! the receiver may lose records; with one, the run shows whether it loses any at that rate.
#![expect(clippy::print_stdout, reason = "its result")]

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use std::error::Error;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use xdprobe_benches::clock::now;
use xdprobe_benches::records::batch;
use xdprobe_pipeline::export::netflow::v5;
use xdprobe_pipeline::export::{
    DatagramConfig, DatagramOutlet, Distribution, Exporter, FixedFormat, Moment, Pace,
    SocketOptions, UdpTransport,
};

const LASTS: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds an option.
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
    let config = DatagramConfig {
        pace: Pace {
            records_per_s: pace,
            octets_per_s: None,
        },
        ..DatagramConfig::default()
    };
    let transport = UdpTransport::connect(
        address,
        &SocketOptions {
            mtu: Some(1_500),
            ..SocketOptions::default()
        },
    )?;
    let mut exporter = Exporter::new(Distribution::Copy);
    let outlet = DatagramOutlet::new(transport, FixedFormat::default(), config)?;
    exporter.add("loopback", Box::new(outlet));
    let batch = batch();
    let start = now();
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
        if exporter.room() >= batch.len() {
            exporter.push(&batch, moment(now_ms + 1_000));
        }
        exporter.send(false, moment(now_ms + 1_000));
    }
    let took = start.elapsed();
    exporter.finish()?;
    done.store(true, Ordering::Relaxed);
    let received = counting.join().map_err(|_| "the receiver panicked")??;
    let collector = exporter.collectors().next();
    let (_, _, counters) = collector.expect("the exporter has one collector");
    let sent = counters.sent;
    let rate = |records: u64| records as f64 / took.as_secs_f64() / 1e6;
    println!(
        "sent {:.2} M records/s in {} datagrams, received {:.2} M records/s, lost {} of {} records",
        rate(sent.records),
        sent.datagrams,
        rate(received),
        sent.records - received,
        sent.records
    );
    Ok(())
}

/// Counts records until `done` is set and nothing has arrived for a while.
fn count(receiver: &UdpSocket, done: &AtomicBool) -> Result<u64, nix::Error> {
    pin(1)?;
    let mut datagram = [0; 2_048];
    let mut records = 0;
    loop {
        match receiver.recv(&mut datagram) {
            Ok(octets) => {
                records += ((octets - v5::HEADER_OCTETS) / v5::RECORD_OCTETS) as u64;
            }
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
