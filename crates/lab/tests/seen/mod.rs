//! Counts of frames, computed from their octets alone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};
use pcap_parser::{LegacyPcapSlice, PcapBlockOwned};
use xdprobe_lab::frames::ip_offset;

/// Counts of frames.
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

/// Counts the frames. Flows differ in their addresses: all flows of the generator do.
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

/// Whether the one's complement sum over pseudo header and segment is all ones, as it must be (RFC
/// 1071). ICMP over IPv4 has no pseudo header.
fn transport_is_right(segment: &[u8], addresses: &[u8], protocol: IpNumber) -> bool {
    let words = |octets: &[u8]| -> u64 {
        octets
            .chunks(2)
            .map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)))
            .sum()
    };
    let pseudo_header = words(addresses) + u64::from(protocol.0) + segment.len() as u64;
    let mut sum = words(segment)
        + if protocol == IpNumber::ICMP {
            0
        } else {
            pseudo_header
        };
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum == 0xffff
}

/// The frames of a classic capture file.
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let octets = std::fs::read(path).unwrap();
    let blocks = LegacyPcapSlice::from_slice(&octets).unwrap();
    let frame = |block: PcapBlockOwned| match block {
        PcapBlockOwned::Legacy(frame) => Some(frame.data.to_vec()),
        _ => None,
    };
    blocks.filter_map(|block| frame(block.unwrap())).collect()
}
