//! Filters have one meaning, whatever a frame is captured with: expressions without the words for
//! tags select among tagged frames what tcpdump selects among the same packets without tags.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeSet;
use std::io::{Cursor, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use xdprobe_capture::xdp::{LoadedInterface, Mode, QueueMemory, XdpConfig};
use xdprobe_capture::{
    CaptureFile, Filter, Interface, LiveCapture, Received, Sampling, Source, SourceChange,
};
use xdprobe_lab::frames::{
    ByteOrder, Ethernet, PcapWriter, StampResolution, ether_type, flags, fragments, icmp, tcp, udp,
};
use xdprobe_lab::namespace::{Namespace, VethOptions};
use xdprobe_lab::requirements::are_met;

/// Without a word for tags.
const EXPRESSIONS: [&str; 34] = [
    "",
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "not ip",
    "not udp",
    "port 53",
    "udp port 53",
    "src port 53",
    "portrange 50-100",
    "host 192.0.2.1",
    "dst host 192.0.2.2",
    "net 192.0.2.0/30",
    "src net 198.51.100.0/24 or port 443",
    "ip proto 17 and not port 53",
    "tcp[tcpflags] & tcp-syn != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-ack",
    "icmp[icmptype] = icmp-echo",
    "ip[6:2] & 0x1fff != 0",
    "ip[8] = 64",
    "ip[2:2] > 100",
    "udp[8:4] = 0x71756572",
    "udp[300] = 0x7a",
    "ether proto 0x800",
    "ether proto 0x8100",
    "ether host 02:00:00:00:00:01",
    "ether dst 02:00:00:00:00:01",
    "ether[12:2] = 0x86dd",
    "greater 120",
    "less 119",
    "len = 420 or (tcp and len < 120)",
];

/// With one: they see frames as they came.
const TAG_EXPRESSIONS: [&str; 10] = [
    "vlan",
    "not vlan",
    "vlan 5 and udp",
    "vlan 7 and vlan 5 and udp port 53",
    "vlan and len = 424",
    "mpls",
    "mpls 16 and ip",
    "vlan and mpls",
    "pppoes",
    "pppoes 9 and udp port 53",
];

/// Packets of at least 46 octets, so that no frame is padded.
fn packets() -> Vec<Vec<u8>> {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let (one, two) = (at("192.0.2.1:53"), at("192.0.2.2:4000"));
    let (far, web) = (at("198.51.100.7:5000"), at("203.0.113.9:443"));
    let (six, seven) = (at("[2001:db8::1]:53"), at("[2001:db8::2]:4000"));
    let long = udp(far, web, &[b'y'; 700]);
    let mut long_with_z = [b'y'; 400];
    long_with_z[292] = b'z';
    let mut packets = vec![
        udp(one, two, b"query and padding of an octet or more"),
        udp(two, one, &[b'x'; 78]),
        udp(far, two, &[b'x'; 378]),
        udp(far, web, &long_with_z),
        tcp(one, web, flags::SYN, &[0; 20]),
        tcp(web, one, flags::SYN | flags::ACK, &[0; 20]),
        tcp(far, at("203.0.113.9:80"), flags::ACK, &[0; 200]),
        icmp(one.ip(), two.ip(), 8, 0, &[0; 56]),
        icmp(two.ip(), one.ip(), 0, 0, &[0; 56]),
        udp(six, seven, b"query in six"),
        tcp(seven, six, flags::SYN, &[0; 20]),
    ];
    packets.extend(fragments(&long, 400));
    packets
}

/// A frame, and the same packet without tags.
struct Sent {
    frame: Vec<u8>,
    untagged: Vec<u8>,
}

fn frames() -> Vec<Sent> {
    let stacks = [
        Ethernet::default(),
        Ethernet::default().vlan(5),
        Ethernet::default().tag(ether_type::SERVICE_VLAN, 7).vlan(5),
        Ethernet::default().vlan(7).vlan(5),
        Ethernet::default().vlan(7).vlan(6).vlan(5),
        Ethernet::default().mpls(&[16]),
        Ethernet::default().mpls(&[17, 16]),
        Ethernet::default().vlan(5).mpls(&[16]),
        Ethernet::default().pppoe(9),
        Ethernet::default().vlan(5).pppoe(9),
    ];
    let mut sent = Vec::new();
    for (at, stack) in stacks.iter().enumerate() {
        sent.extend(packets().iter().map(|packet| Sent {
            frame: stack.carry(packet),
            untagged: Ethernet::default().carry(packet),
        }));
        // What names its payload by an EtherType can carry ARP.
        if at < 5 {
            sent.push(Sent {
                frame: stack.carry_as(0x0806, &[1; 46]),
                untagged: Ethernet::default().carry_as(0x0806, &[1; 46]),
            });
        }
    }
    sent
}

/// A capture file in which the second of each frame's time is its number.
fn file_of<'a>(frames: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut file = PcapWriter::new(Vec::new(), ByteOrder::Little, StampResolution::Micro).unwrap();
    for (number, frame) in (0..).zip(frames) {
        file.frame(Duration::from_secs(number), frame).unwrap();
    }
    file.finish().unwrap()
}

/// The numbers of the frames of a file that a filter selects.
fn selected_in_file(file: Vec<u8>, expression: Option<&str>) -> BTreeSet<usize> {
    use xdprobe_capture::CaptureTime;

    let filter = expression.map(|expression| Filter::new(expression).unwrap());
    let mut source = CaptureFile::from_reader("test", Cursor::new(file), filter.as_ref()).unwrap();
    let mut selected = BTreeSet::new();
    loop {
        let received = source.receive(&mut |frame| {
            let CaptureTime::Wall(ns) = frame.captured else {
                panic!("a frame without a time")
            };
            selected.insert(usize::try_from(ns / 1_000_000_000).unwrap());
        });
        match received.unwrap() {
            Received::End => return selected,
            Received::Nothing => source.wait(Duration::from_secs(60)),
            Received::Frames => {}
        }
    }
}

/// The numbers of the frames of a file that tcpdump selects.
fn selected_by_tcpdump(file: &[u8], expression: &str) -> BTreeSet<usize> {
    let mut tcpdump = Command::new("tcpdump")
        .args(["-r", "-", "-w", "-", expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = tcpdump.stdin.take().unwrap();
    let file = file.to_vec();
    let writer = thread::Builder::new()
        .name("tcpdump".to_owned())
        .spawn(move || input.write_all(&file))
        .unwrap();
    let output = tcpdump.wait_with_output().unwrap();
    let wrote = writer.join().unwrap();
    assert!(
        output.status.success() && wrote.is_ok(),
        "{expression}: {output:?}"
    );
    selected_in_file(output.stdout, None)
}

/// What is expected of each expression: the numbers of the frames that it selects.
fn expected(sent: &[Sent]) -> Vec<(&'static str, BTreeSet<usize>)> {
    let untagged = file_of(sent.iter().map(|sent| &sent.untagged));
    let tagged = file_of(sent.iter().map(|sent| &sent.frame));
    let without = EXPRESSIONS.map(|expression| (expression, &untagged));
    let with = TAG_EXPRESSIONS.map(|expression| (expression, &tagged));
    let all = without.into_iter().chain(with);
    all.map(|(expression, file)| (expression, selected_by_tcpdump(file, expression)))
        .collect()
}

#[test]
fn files_are_filtered_as_tcpdump_filters_the_packets_without_their_tags() {
    if !are_met(&["tcpdump"]) {
        return;
    }
    let sent = frames();
    let file = file_of(sent.iter().map(|sent| &sent.frame));
    for (expression, expected) in expected(&sent) {
        let selected = selected_in_file(file.clone(), Some(expression));
        assert_eq!(selected, expected, "{expression}");
    }
}

/// A wire with 1500 octets for a packet behind three tags.
fn wire() -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace
        .veth("tx0", "tap0", VethOptions::default())
        .unwrap();
    namespace
}

/// Sends the frames under each filter, and asserts that `source` selects those that are expected.
fn assert_filters(source: &mut impl Source, sent: &[Sent], expected: &[(&str, BTreeSet<usize>)]) {
    let mut wire = pcap::Capture::from_device("tx0").unwrap().open().unwrap();
    for (expression, expected) in expected {
        let filter = Filter::new(expression).unwrap();
        source.apply(SourceChange::Filter(Some(filter))).unwrap();
        for sent in sent {
            wire.sendpacket(&sent.frame[..]).unwrap();
        }
        let mut selected = BTreeSet::new();
        let (mut quiet, mut shown) = (0, 0);
        // libpcap delivers blocks of 20 ms.
        while quiet < 3 {
            let received = source.receive(&mut |frame| {
                let number = sent.iter().position(|sent| {
                    sent.frame.len() == frame.wire_octets as usize
                        && sent.frame.starts_with(frame.octets)
                });
                selected.extend(number);
                shown += usize::from(number.is_some());
            });
            match received.unwrap() {
                Received::Nothing => {
                    quiet += 1;
                    source.wait(Duration::from_millis(30));
                }
                _ => quiet = 0,
            }
        }
        assert_eq!(&selected, expected, "{expression}");
        assert_eq!(shown, expected.len(), "{expression}: each once");
    }
}

fn look_up(name: &str) -> Interface {
    Interface::look_up(name).unwrap()
}

#[test]
fn af_xdp_is_filtered_as_tcpdump_filters_the_packets_without_their_tags() {
    if !are_met(&["ip", "ethtool", "tcpdump"]) {
        return;
    }
    let sent = frames();
    let expected = expected(&sent);
    for mode in [Mode::Auto, Mode::Skb] {
        wire()
            .run(|| {
                let config = XdpConfig {
                    mode,
                    ring_entries: 1024,
                    busy_poll: false,
                    sampling: Sampling::NONE,
                    filter: None,
                };
                let interface = Interface::look_up("tap0").unwrap();
                let memory = QueueMemory::reserve(&interface, &config).unwrap();
                let loaded = LoadedInterface::load(interface, config).unwrap();
                let interface = loaded.attach().unwrap();
                let mut queue = interface.open_queue(0, memory).unwrap();
                interface.start_redirecting().unwrap();
                assert_filters(&mut queue, &sent, &expected);
            })
            .unwrap();
    }
}

#[test]
fn libpcap_is_filtered_as_tcpdump_filters_the_packets_without_their_tags() {
    if !are_met(&["ip", "ethtool", "tcpdump"]) {
        return;
    }
    let sent = frames();
    let expected = expected(&sent);
    // The kernel takes tags off what is received, and not off what is sent.
    for interface in ["tap0", "tx0"] {
        wire()
            .run(|| {
                // The first filter decides how much of a frame is captured.
                let deep = Filter::new("udp[300] = 0x7a").unwrap();
                let mut live =
                    LiveCapture::open(look_up(interface), Some(&deep), Sampling::NONE).unwrap();
                assert_filters(&mut live, &sent, &expected);
            })
            .unwrap();
    }
}

#[test]
fn libpcap_copies_no_untagged_frame_that_does_not_match() {
    if !are_met(&["ip", "ethtool"]) {
        return;
    }
    let sent = frames();
    let untagged = packets().len() + 1;
    wire()
        .run(|| {
            let filter = Filter::new("tcp port 1").unwrap();
            let mut live =
                LiveCapture::open(look_up("tap0"), Some(&filter), Sampling::NONE).unwrap();
            assert_filters(&mut live, &sent, &[("tcp port 2", BTreeSet::new())]);
            // Behind one VLAN tag the kernel sees what the filter sees, too.
            let rejected_in_kernel = 2 * untagged;
            let filtered = live.counters().filtered;
            assert_eq!(filtered, (sent.len() - rejected_in_kernel) as u64);
        })
        .unwrap();
}

#[test]
fn a_filter_that_looks_further_than_libpcap_captures_is_refused_while_it_runs() {
    if !are_met(&["ip", "ethtool"]) {
        return;
    }
    wire()
        .run(|| {
            let mut live = LiveCapture::open(look_up("tap0"), None, Sampling::NONE).unwrap();
            let deep = Filter::new("udp[300] = 0x7a").unwrap();
            let refused = live.apply(SourceChange::Filter(Some(deep))).unwrap_err();
            let refused = refused.to_string();
            assert!(
                refused.contains("the 256 octets that are captured; restart with this filter"),
                "{refused}"
            );
        })
        .unwrap();
}

#[test]
fn a_filter_that_the_kernel_does_not_take_still_filters() {
    if !are_met(&["ip", "ethtool", "tcpdump"]) {
        return;
    }
    let sent = frames();
    // Its program has a loop.
    let expression = "ip6 protochain 6";
    let untagged = file_of(sent.iter().map(|sent| &sent.untagged));
    wire()
        .run(|| {
            let filter = Filter::new(expression).unwrap();
            let mut live =
                LiveCapture::open(look_up("tap0"), Some(&filter), Sampling::NONE).unwrap();
            let expected = selected_by_tcpdump(&untagged, expression);
            assert!(!expected.is_empty());
            assert_filters(&mut live, &sent, &[(expression, expected)]);
        })
        .unwrap();
}
