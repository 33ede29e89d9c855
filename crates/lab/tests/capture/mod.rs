//! What tcpdump sees at an interface, and what is in it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_parser::{LegacyPcapSlice, PcapBlockOwned};
use tempfile::NamedTempFile;
use xdprobe_lab::frames::ip_offset;
use xdprobe_lab::namespace::Namespace;

/// A tcpdump at work.
pub struct Capture {
    tcpdump: Child,
    said: BufReader<std::process::ChildStderr>,
    file: NamedTempFile,
}

/// What was captured, counted from the octets alone.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Seen {
    pub packets: u64,
    pub frame_octets: u64,
    pub ipv4_packets: u64,
    pub octets: u64,
    pub ipv6_packets: u64,
    pub ipv6_octets: u64,
    pub fragments: u64,
    pub flows: u64,
    pub ipv6_flows: u64,
    pub wrong_checksums: u64,
}

impl Capture {
    /// Starts tcpdump and waits until it listens.
    pub fn start(namespace: &Namespace, interface: &str) -> Self {
        let file = NamedTempFile::new().unwrap();
        let mut tcpdump = namespace
            .command("tcpdump")
            // In immediate mode the ring has slots of the snapshot length: room for 32 768 frames.
            .args(["-i", interface, "-n", "-U", "-s", "2048", "-B", "65536", "--immediate-mode", "-w", "-"])
            .stdout(Stdio::from(file.reopen().unwrap()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "tcpdump ended before it listened");
        }
        Self { tcpdump, said, file }
    }

    /// Ends tcpdump and returns the frames that it saw.
    pub fn frames(mut self) -> Vec<Vec<u8>> {
        kill(Pid::from_raw(i32::try_from(self.tcpdump.id()).unwrap()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        assert!(self.tcpdump.wait().unwrap().success(), "{said}");
        assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        read(self.file.path())
    }
}

/// Counts what is in the frames. Flows are told apart by addresses, which differ for all flows of the generator.
pub fn count(frames: &[Vec<u8>]) -> Seen {
    let mut seen = Seen::default();
    let mut flows = [HashSet::<(IpAddr, IpAddr)>::new(), HashSet::new()];
    for frame in frames {
        seen.packets += 1;
        seen.frame_octets += frame.len() as u64;
        let packet = &frame[ip_offset(frame).unwrap()..];
        if packet[0] >> 4 == 6 {
            let ip = Ipv6HeaderSlice::from_slice(packet).unwrap();
            let octets = 40 + usize::from(ip.payload_length());
            seen.ipv6_packets += 1;
            seen.ipv6_octets += octets as u64;
            flows[1].insert((ip.source_addr().into(), ip.destination_addr().into()));
            let right = transport_is_right(&packet[40..octets], &packet[8..40], ip.next_header());
            seen.wrong_checksums += u64::from(!right);
        } else {
            let ip = Ipv4HeaderSlice::from_slice(packet).unwrap();
            seen.ipv4_packets += 1;
            seen.octets += u64::from(ip.total_len());
            flows[0].insert((ip.source_addr().into(), ip.destination_addr().into()));
            let is_fragment = ip.more_fragments() || ip.fragments_offset().value() > 0;
            seen.fragments += u64::from(is_fragment);
            let payload = &packet[20..usize::from(ip.total_len())];
            let right = ip.header_checksum() == ip.to_header().calc_header_checksum()
                && (is_fragment || transport_is_right(payload, &packet[12..20], ip.protocol()));
            seen.wrong_checksums += u64::from(!right);
        }
    }
    [seen.flows, seen.ipv6_flows] = flows.map(|flows| flows.len() as u64);
    seen
}

/// The one's complement sum over pseudo header and segment comes to all ones when nothing is wrong (RFC 1071).
fn transport_is_right(segment: &[u8], addresses: &[u8], protocol: IpNumber) -> bool {
    let words = |octets: &[u8]| -> u64 {
        octets.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum()
    };
    let mut sum = words(segment) + words(addresses) + u64::from(protocol.0) + segment.len() as u64;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum == 0xffff
}

fn read(path: &Path) -> Vec<Vec<u8>> {
    let octets = std::fs::read(path).unwrap();
    let blocks = LegacyPcapSlice::from_slice(&octets).unwrap();
    let frame = |block: PcapBlockOwned| match block {
        PcapBlockOwned::Legacy(frame) => Some(frame.data.to_vec()),
        _ => None,
    };
    blocks.filter_map(|block| frame(block.unwrap())).collect()
}
