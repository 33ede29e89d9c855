//! Sends frames through a packet socket: slower than the generator that uses XDP, but every driver
//! of Linux can do it.
//!
//! Packets belong to [`PlainOptions::flows`] flows, each in turn. The number of a flow decides
//! whether its frames are short or long, and tagged or not, so that four flows have all four
//! shapes. The counts of the [`PlainReport`] are exact.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::frames::{self, ETHERNET_OCTETS, Ethernet, FRAME_OCTETS_MIN, IPV4_OCTETS};
use crate::headers::Udp;

/// Octets of an Ethernet, an IPv4 and a UDP header.
const HEADERS_OCTETS: usize = ETHERNET_OCTETS + IPV4_OCTETS + size_of::<Udp>();
/// Frames between two reads of the clock.
const BATCH: u64 = 16;
/// Time until a frame is sent again for which the driver had no room.
const FULL_PAUSE: Duration = Duration::from_micros(500);

/// What to send.
#[derive(Args, Clone, Debug)]
pub struct PlainOptions {
    /// Interface to send on
    #[arg(short, long, value_name = "IFACE")]
    pub interface: String,
    /// Number of packets
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1_000)]
    pub packets: u64,
    /// Number of flows, each in turn. Of four flows, one has frames of 60 octets, one has long
    /// frames, and two have the same with a VLAN tag in addition
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    pub flows: u16,
    /// Length of a long frame, with Ethernet header, without tag and frame check sequence
    #[arg(
        short,
        long,
        value_name = "OCTETS",
        default_value_t = 1_514,
        value_parser = clap::value_parser!(u16).range(60..=65_000),
    )]
    pub long: u16,
    /// VLAN identifier of the tag
    #[arg(
        long,
        value_name = "ID",
        default_value_t = 100,
        value_parser = clap::value_parser!(u16).range(0..4096),
    )]
    pub vlan: u16,
    /// Packets a second
    #[arg(
        short,
        long,
        value_name = "PPS",
        default_value_t = 2_000,
        value_parser = clap::value_parser!(u64).range(1..),
    )]
    pub rate: u64,
}

/// What was sent.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct PlainReport {
    /// Packets that the driver accepted.
    pub packets: u64,
    /// Sum of the IP total lengths: the octets in a NetFlow v5 ledger.
    pub octets: u64,
    /// Octets of the frames, without frame check sequences.
    pub frame_octets: u64,
    /// Distinct flows.
    pub flows: u64,
    /// Whether sending was stopped before its end.
    pub stopped: bool,
}

/// Sends until all packets are sent or `stop` is set. Needs root.
///
/// # Errors
///
/// If the interface does not exist, is down, or does not accept frames of this length.
pub fn send(options: &PlainOptions, stop: &Arc<AtomicBool>) -> Result<PlainReport> {
    let socket = open(&options.interface)?;
    let frames: Vec<_> = (0..options.flows)
        .map(|flow| frame(options, flow))
        .collect();
    let start = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let mut report = PlainReport::default();
    for (frame, packet_octets) in frames.iter().cycle() {
        if report.packets == options.packets {
            break;
        }
        if report.packets.is_multiple_of(BATCH) {
            let due =
                Duration::from_nanos(report.packets.saturating_mul(1_000_000_000) / options.rate);
            let passed = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)? - start);
            thread::sleep(due.saturating_sub(passed));
        }
        if stop.load(Ordering::Relaxed) {
            report.stopped = true;
            break;
        }
        send_one(&socket, frame).with_context(|| {
            format!(
                "sending a frame of {} octets on {}",
                frame.len(),
                options.interface
            )
        })?;
        report.packets += 1;
        report.octets += packet_octets;
        report.frame_octets += frame.len() as u64;
    }
    report.flows = report.packets.min(options.flows.into());
    Ok(report)
}

/// The frame of a flow, and the length of the packet in it.
fn frame(options: &PlainOptions, flow: u16) -> (Vec<u8>, u64) {
    let is_long = flow % 2 == 1;
    let ethernet = if flow % 4 < 2 {
        Ethernet::default()
    } else {
        Ethernet::default().vlan(options.vlan)
    };
    let octets = if is_long {
        usize::from(options.long)
    } else {
        FRAME_OCTETS_MIN
    };
    let payload = vec![0; octets.saturating_sub(HEADERS_OCTETS)];
    let [high, low] = flow.to_be_bytes();
    let source = SocketAddr::from((Ipv4Addr::new(10, 1, high, low), 1024 + flow % 1024));
    let destination = SocketAddr::from(([192, 0, 2, 1], 4739));
    let packet = frames::udp(source, destination, &payload);
    (ethernet.carry(&packet), packet.len() as u64)
}

/// A packet socket that sends on the interface and receives nothing.
fn open(interface: &str) -> Result<Socket> {
    let index = if_nametoindex(interface).with_context(|| format!("interface {interface}"))?;
    let index = i32::try_from(index)?;
    // Protocol 0: it receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)
        .context("opening a packet socket: needs root or CAP_NET_RAW")?;
    let link = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET)?,
        sll_protocol: 0,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let link_octets = libc::socklen_t::try_from(size_of_val(&link))?;
    // SAFETY: the kernel reads `link_octets` octets of the address, which is its length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const link).cast(), link_octets) };
    Errno::result(bound).with_context(|| format!("binding to {interface}"))?;
    bypass_queueing(&socket).context("bypassing the queueing discipline")?;
    Ok(socket)
}

/// Hands frames directly to the driver, which returns whether it accepts a frame; a queueing
/// discipline can drop frames without an error.
fn bypass_queueing(socket: &Socket) -> Result<()> {
    let on: libc::c_int = 1;
    let on_octets = libc::socklen_t::try_from(size_of_val(&on))?;
    // SAFETY: the kernel reads `on_octets` octets of the integer, which is its length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            on_octets,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Sends one frame; waits while the driver has no room for it.
fn send_one(socket: &Socket, frame: &[u8]) -> Result<()> {
    loop {
        match socket.send(frame) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::sleep(FULL_PAUSE),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_flows_have_all_four_shapes() {
        let options = PlainOptions {
            interface: String::new(),
            packets: 4,
            flows: 4,
            long: 1_514,
            vlan: 100,
            rate: 1,
        };
        let shapes: Vec<_> = (0..4)
            .map(|flow| frame(&options, flow))
            .map(|(frame, octets)| (frame.len(), octets))
            .collect();
        assert_eq!(shapes, [(60, 46), (1_514, 1_500), (64, 46), (1_518, 1_500)]);
    }
}
