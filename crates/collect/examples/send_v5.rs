//! Sends version 5 datagrams at a given rate, to measure a collector: `send_v5 ADDRESS:PORT RECORDS
//! RECORDS_PER_SECOND`.
//!
//! A rate of 0 means as fast as possible. The records sent and their rate are printed at the end.
#![expect(clippy::print_stdout, reason = "its result")]
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a measuring tool reads the clock"
)]

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use std::error::Error;
use std::io::IoSlice;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use xdprobe_netflow::{EncodeError, v5};

/// Datagrams of one system call.
const BURST: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, records, rate] = &arguments[..] else {
        return Err("expected ADDRESS:PORT RECORDS RECORDS_PER_SECOND".into());
    };
    let (address, records, rate): (SocketAddrV4, u32, f64) =
        (address.parse()?, records.parse()?, rate.parse()?);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
    let mut datagrams = vec![[0; v5::DATAGRAM_OCTETS_MAX]; BURST];
    let per_datagram = u32::try_from(v5::RECORDS_MAX)?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < records {
        if rate > 0.0 {
            let due = Duration::from_secs_f64(f64::from(sent) / rate);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        for (number, datagram) in (0..).zip(&mut datagrams) {
            fill(datagram, sent + number * per_datagram)?;
        }
        let slices: Vec<[IoSlice; 1]> = datagrams
            .iter()
            .map(|datagram| [IoSlice::new(datagram)])
            .collect();
        let to = [Some(SockaddrIn::from(address)); BURST];
        // Datagrams that do not fit the queue of the interface are not counted, and are sent again.
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            to,
            [],
            MsgFlags::empty(),
        ) {
            Ok(taken) => sent += u32::try_from(taken.count())? * per_datagram,
            Err(nix::errno::Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let took = start.elapsed().as_secs_f64();
    println!(
        "sent {sent} records, {} a call, in {took:.2} s: {:.0} records/s",
        BURST * v5::RECORDS_MAX,
        f64::from(sent) / took
    );
    Ok(())
}

/// Fills a datagram with flows that all differ, about as much as real flows do.
fn fill(datagram: &mut [u8], sequence: u32) -> Result<(), EncodeError> {
    let header = v5::Header {
        unix_s: 1_795_352_088.into(),
        sys_uptime_ms: sequence.into(),
        flow_sequence: sequence.into(),
        ..v5::Header::default()
    };
    let mut number = sequence;
    let records: [v5::Record; v5::RECORDS_MAX] = std::array::from_fn(|_| {
        number = number.wrapping_add(1);
        let mixed = number.wrapping_mul(0x9e37_79b1);
        v5::Record {
            source: (0x0a00_0000 | mixed & 0xffff).to_be_bytes(),
            destination: (0xc000_0200 | mixed >> 24).to_be_bytes(),
            packets: (mixed >> 20 & 0x3f | 1).into(),
            octets: (mixed >> 12 & 0xffff | 64).into(),
            first_ms: sequence.wrapping_sub(mixed >> 22).into(),
            last_ms: sequence.into(),
            source_port: [(mixed >> 8 & 0xff) as u8, (mixed & 0xff) as u8].into(),
            destination_port: if mixed & 1 == 0 { 443 } else { 53 }.into(),
            protocol: if mixed & 1 == 0 { 6 } else { 17 },
            tcp_flags: 0x1b,
            ..v5::Record::default()
        }
    });
    v5::encode(&header, &records, datagram).map(drop)
}
