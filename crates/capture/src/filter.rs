//! Filters in libpcap's syntax, with the same meaning for every kind of capture.
//!
//! libpcap compiles the expression; each frame is then filtered on the core that received it, at
//! some tens of ns. An expression without the words `vlan`, `mpls`, `pppoes` and `pppoed` sees the
//! packet behind all tags of its frame; one with any of them sees the frame as it came. `len`,
//! `greater` and `less` see the length on the wire: that of the frame, without the tags where the
//! expression does not see them.

mod explore;
mod program;
mod view;

use crate::error::{CaptureError, pcap_text};
use crate::frame::Frame;
use explore::{Findings, Known, explore};
use libc::sock_filter;
use pcap::{Capture, Linktype};
use program::{BRANCH_IF_EQUAL, LOAD_HALF, Program, RETURN, instruction};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use view::{IPV4, LinkHeader, MPLS, PPP_IPV4, PPP_MPLS, PPPOE_SESSION, VLAN_TAGS};

/// A filter expression, compiled for Ethernet. Copies share what is compiled.
#[derive(Clone)]
pub struct Filter {
    expression: Arc<str>,
    ethernet: Arc<CompiledFilter>,
    /// For other link types, since they were first asked for.
    others: Arc<Mutex<ByLink>>,
}

/// Compiled filters by link type.
type ByLink = Vec<(u16, Arc<CompiledFilter>)>;

impl Filter {
    /// The filter for `expression`, which compiles for Ethernet. Takes seconds for hundreds of
    /// hosts: call it before anything is captured.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] with libpcap's error.
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        Ok(Self {
            expression: expression.into(),
            ethernet: Arc::new(CompiledFilter::new(expression, ETHERNET)?),
            others: Arc::default(),
        })
    }

    /// The expression.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Logs that the filter can match nothing of use among the frames of `interface`, an Ethernet
    /// interface, if that is so.
    pub fn warn_if_blind(&self, interface: &str) {
        self.warn_if_blind_as(&self.ethernet, interface);
    }

    /// Logs that the filter as compiled for the frames of `place` can match nothing of use, if that
    /// is so: only IPv4 is metered.
    pub(crate) fn warn_if_blind_as(&self, compiled: &CompiledFilter, place: &str) {
        if !compiled.can_match_ipv4() {
            tracing::warn!(
                "{place}: filter '{}' can match no IPv4 packet, and only IPv4 is metered: nothing \
                 will be exported",
                self.expression
            );
        }
    }

    /// The filter compiled for the frames of one link type; for Ethernet it is already, for another
    /// one from its first call on.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] if the expression has no meaning on that link type.
    pub(crate) fn compile(&self, link: u16) -> Result<Arc<CompiledFilter>, CaptureError> {
        if link == ETHERNET {
            return Ok(Arc::clone(&self.ethernet));
        }
        // A panic elsewhere leaves whole filters.
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, compiled)) = others.iter().find(|(known, _)| *known == link) {
            return Ok(Arc::clone(compiled));
        }
        let compiled = match CompiledFilter::new(&self.expression, link) {
            // On Ethernet it compiled: it has a meaning, which no frame of this link type meets.
            Err(CaptureError::Filter { what, .. }) if what.contains(REJECTS_ALL) => {
                CompiledFilter::reject_all(link)
            }
            compiled => compiled?,
        };
        let compiled = Arc::new(compiled);
        others.push((link, Arc::clone(&compiled)));
        Ok(compiled)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.expression).finish()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression
    }
}

impl Eq for Filter {}

/// LINKTYPE_ETHERNET.
pub(crate) const ETHERNET: u16 = 1;

/// libpcap's error for an expression that contradicts itself.
const REJECTS_ALL: &str = "expression rejects all packets";

/// A filter compiled for one link type.
pub(crate) struct CompiledFilter {
    program: Program,
    link: Link,
    sees_tags: bool,
}

/// How a link type's frames begin, as far as filters need it.
#[derive(Clone, Copy)]
enum Link {
    /// A header with an EtherType; tags may follow.
    Tagged(LinkHeader),
    /// The IP header.
    Raw,
    /// An address family in four octets, in the byte order in which libpcap compares it.
    Loopback(fn(u32) -> [u8; 4]),
    /// A header that this crate does not know.
    Other,
}

impl CompiledFilter {
    fn new(expression: &str, link: u16) -> Result<Self, CaptureError> {
        let failed = |what| CaptureError::Filter {
            expression: expression.to_owned(),
            link,
            what,
        };
        let compiled = Capture::dead(Linktype(dlt(link)))
            .and_then(|dead| dead.compile(expression, true))
            .map_err(|error| failed(pcap_text(error)))?;
        let code = compiled.get_instructions().iter().map(read_instruction);
        Ok(Self {
            program: Program::new(code.collect()).map_err(failed)?,
            link: Link::from_number(link),
            sees_tags: sees_tags(expression),
        })
    }

    fn reject_all(link: u16) -> Self {
        Self {
            program: Program::reject_all(),
            link: Link::from_number(link),
            sees_tags: true,
        }
    }

    /// Whether the filter matches a frame of its link type, of which `octets` were captured.
    #[inline]
    pub fn matches(&self, octets: &[u8], wire_octets: u32) -> bool {
        let view = match self.link {
            Link::Tagged(header) if !self.sees_tags => view::behind_tags(octets, header),
            Link::Loopback(to_octets) => {
                view::with_own_family(octets, to_octets).map(|view| (view, 0))
            }
            _ => None,
        };
        match view {
            None => self.program.matches(&octets, wire_octets),
            Some((view, tag_octets)) => {
                let tag_octets = u32::try_from(tag_octets).unwrap_or(u32::MAX);
                let wire_octets = wire_octets.saturating_sub(tag_octets);
                self.program.matches(&view, wire_octets)
            }
        }
    }

    /// The octets of a frame that the filter may look at, from the first on, tags left aside.
    pub fn reach_octets(&self) -> u64 {
        explore(&self.program, &Known::nothing()).reach_octets
    }

    /// Whether the filter can match an IPv4 packet. `false` is certain; `true` only says that no
    /// contradiction was found.
    pub fn can_match_ipv4(&self) -> bool {
        let can_match = |packet: &Known| {
            let Findings { can_match, .. } = explore(&self.program, packet);
            can_match
        };
        let plain = |at| Known::nothing().with_bits(at, 0x40, 0xf0);
        match self.link {
            Link::Tagged(LinkHeader {
                octets,
                ether_type_at,
            }) => {
                let ends = Ends {
                    ether_type_at: ether_type_at.into(),
                    at: octets.into(),
                };
                let tags_max = if self.sees_tags { TAGS_MAX } else { 0 };
                any_ipv4(&Known::nothing(), ends, tags_max, &can_match)
            }
            Link::Raw => can_match(&plain(0)),
            Link::Loopback(to_octets) => {
                const AF_INET: u32 = 2;
                can_match(&plain(4).with(0, &to_octets(AF_INET)))
            }
            Link::Other => true,
        }
    }

    /// A program for the kernel that accepts every frame which the filter matches, and of the
    /// frames without tags no others; `None` if the kernel sees other frames than the filter does.
    ///
    /// The kernel has taken the outer VLAN tag off when a socket's program runs, so its program
    /// accepts whatever still begins with a tag.
    pub fn kernel_program(&self) -> Option<Vec<sock_filter>> {
        match self.link {
            Link::Raw => Some(self.program.code().collect()),
            Link::Tagged(header) if !self.sees_tags && header == ETHERNET_HEADER => {
                let tags: Vec<_> = view::tags().collect();
                let mut left = u8::try_from(tags.len()).expect("there are seven");
                let mut code = vec![instruction(LOAD_HALF, header.ether_type_at.into())];
                for tag in tags {
                    left -= 1;
                    code.push(sock_filter {
                        jt: left,
                        // The last one leads past the return.
                        jf: u8::from(left == 0),
                        ..instruction(BRANCH_IF_EQUAL, tag.into())
                    });
                }
                code.push(instruction(RETURN, u32::MAX));
                code.extend(self.program.code());
                Some(code)
            }
            _ => None,
        }
    }
}

const ETHERNET_HEADER: LinkHeader = LinkHeader {
    octets: 14,
    ether_type_at: 12,
};

impl Link {
    fn from_number(number: u16) -> Self {
        match number {
            ETHERNET => Self::Tagged(ETHERNET_HEADER),
            // LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2.
            113 => Self::Tagged(LinkHeader {
                octets: 16,
                ether_type_at: 14,
            }),
            276 => Self::Tagged(LinkHeader {
                octets: 20,
                ether_type_at: 0,
            }),
            number if dlt(number) == DLT_RAW => Self::Raw,
            // LINKTYPE_NULL and LINKTYPE_LOOP.
            0 => Self::Loopback(u32::to_ne_bytes),
            108 => Self::Loopback(u32::to_be_bytes),
            _ => Self::Other,
        }
    }
}

/// What libpcap's compiler on Linux calls "an IP header comes first".
const DLT_RAW: i32 = 12;

/// The number by which libpcap's compiler on Linux knows a LINKTYPE.
fn dlt(link: u16) -> i32 {
    match link {
        // DLT_RAW of OpenBSD; LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6.
        14 | 101 | 228 | 229 => DLT_RAW,
        other => other.into(),
    }
}

/// Whether an expression has one of the words that look at tags. Words as libpcap's scanner
/// separates them.
fn sees_tags(expression: &str) -> bool {
    let within_a_word = |c: char| c.is_ascii_alphanumeric() || "-_.\\".contains(c);
    expression
        .split(|c| !within_a_word(c))
        .map(|word| word.trim_end_matches(['-', '_']))
        .any(|word| ["vlan", "mpls", "pppoes", "pppoed"].contains(&word))
}

/// An instruction of libpcap's compiler. The binding shows it as text only: code, both jumps and
/// the constant.
fn read_instruction(instruction: &pcap::BpfInstruction) -> sock_filter {
    let text = instruction.to_string();
    let mut numbers = text.split(' ').map(str::parse::<u32>);
    let mut next = || {
        let number = numbers.next().and_then(Result::ok);
        number.expect("the binding shows an instruction as four numbers")
    };
    let narrow = "jumps have 8 bits and codes 16";
    sock_filter {
        code: u16::try_from(next()).expect(narrow),
        jt: u8::try_from(next()).expect(narrow),
        jf: u8::try_from(next()).expect(narrow),
        k: next(),
    }
}

/// Tags in front of a packet that are told apart; further ones may be anything.
const TAGS_MAX: usize = 3;

/// Where headers end: the offsets of the last EtherType and of what it names.
#[derive(Clone, Copy)]
struct Ends {
    ether_type_at: usize,
    at: usize,
}

/// Whether `can_match` holds for any IPv4 packet behind `headers` and up to `tags_max` more tags.
fn any_ipv4(
    headers: &Known,
    Ends { ether_type_at, at }: Ends,
    tags_max: usize,
    can_match: &impl Fn(&Known) -> bool,
) -> bool {
    let named = |ether_type: u16| {
        headers
            .clone()
            .with(ether_type_at, &ether_type.to_be_bytes())
    };
    let ipv4_at = |headers: Known, at| headers.with_bits(at, 0x40, 0xf0);
    if can_match(&ipv4_at(named(IPV4), at)) {
        return true;
    }
    if tags_max == 0 {
        return false;
    }
    let vlan = |tag| {
        let tagged = named(tag);
        let ends = Ends {
            ether_type_at: at + 2,
            at: at + 4,
        };
        match tags_max {
            1 => can_match(&tagged),
            more => any_ipv4(&tagged, ends, more - 1, can_match),
        }
    };
    let labels = |tag| {
        (0..=LABELS_MAX).any(|above| {
            let stacked = (0..above).fold(named(tag), |stacked, label| {
                stacked.with_bits(at + 4 * label + 2, 0, 1)
            });
            let bottom_at = at + 4 * above;
            if above == LABELS_MAX {
                can_match(&stacked)
            } else {
                let stacked = stacked.with_bits(bottom_at + 2, 1, 1);
                can_match(&ipv4_at(stacked, bottom_at + 4))
            }
        })
    };
    let in_ppp = |protocol: u16| named(PPPOE_SESSION).with(at + 6, &protocol.to_be_bytes());
    VLAN_TAGS.into_iter().any(vlan)
        || MPLS.into_iter().any(labels)
        || can_match(&ipv4_at(in_ppp(PPP_IPV4), at + 8))
        || can_match(&in_ppp(PPP_MPLS))
}

/// Labels of a stack that are told apart; further ones may be anything.
const LABELS_MAX: usize = 3;

/// A filter for frames of several link types, compiled for each when its first frame comes.
pub(crate) struct FilterByLink {
    filter: Filter,
    compiled: ByLink,
}

impl FilterByLink {
    /// The filter, compiled for no link type yet.
    pub fn new(filter: Filter) -> Self {
        Self {
            filter,
            compiled: Vec::new(),
        }
    }

    /// Whether the filter matches a frame.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] if the expression has no meaning on the frame's link type.
    #[inline]
    pub fn matches(&mut self, frame: &Frame<'_>) -> Result<bool, CaptureError> {
        let index = self.compile_for(frame.link)?;
        let (_, compiled) = &self.compiled[index];
        Ok(compiled.matches(frame.octets, frame.wire_octets))
    }

    /// Compiles the filter for `link` unless it is; returns the index of the compiled filter.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] if the expression has no meaning on that link type.
    #[inline]
    pub fn compile_for(&mut self, link: u16) -> Result<usize, CaptureError> {
        match self.compiled.iter().position(|&(known, _)| known == link) {
            Some(index) => Ok(index),
            None => self.add(link),
        }
    }

    #[cold]
    fn add(&mut self, link: u16) -> Result<usize, CaptureError> {
        let compiled = self.filter.compile(link)?;
        self.filter
            .warn_if_blind_as(&compiled, &format!("link type {link}"));
        self.compiled.push((link, compiled));
        Ok(self.compiled.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::CaptureTime;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    /// 28 octets from 1.1.1.1:1024 to 2.2.2.2:53.
    const UDP: [u8; 28] = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 4, 0, 0, 53, 0, 8, 0, 0,
    ];
    /// An IPv6 header with no payload.
    const IPV6: [u8; 40] = {
        let mut packet = [0; 40];
        packet[0] = 0x60;
        packet[6] = 59;
        packet
    };

    fn ethernet(tags: &[u8], packet: &[u8]) -> Vec<u8> {
        [&MACS, tags, packet].concat()
    }

    fn matches_on(link: u16, expression: &str, octets: &[u8], wire_octets: usize) -> bool {
        let frame = Frame {
            octets,
            wire_octets: u32::try_from(wire_octets).unwrap(),
            link,
            captured: CaptureTime::AtReceipt,
        };
        let mut filter = FilterByLink::new(Filter::new(expression).unwrap());
        filter.matches(&frame).unwrap()
    }

    fn matches(expression: &str, octets: &[u8]) -> bool {
        matches_on(ETHERNET, expression, octets, octets.len())
    }

    /// Each with the number of octets that it adds to a frame.
    const TAGS: [(&[u8], usize); 9] = [
        (&[0x81, 0, 0, 5, 8, 0], 4),
        (&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0], 8),
        (&[0x91, 0, 0, 5, 0x92, 0, 0, 6, 0x81, 0, 0, 7, 8, 0], 12),
        (&[0x88, 0x47, 0, 1, 0x01, 64], 4),
        (&[0x88, 0x48, 0, 1, 0, 64, 0, 2, 0x01, 64], 8),
        (&[0x81, 0, 0, 5, 0x88, 0x47, 0, 1, 0x01, 64], 8),
        (&[0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21], 8),
        (
            &[0x81, 0, 0, 5, 0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0, 0x21],
            12,
        ),
        (
            &[0x88, 0x64, 0x11, 0, 0, 1, 0, 34, 2, 0x81, 0, 1, 0x01, 64],
            12,
        ),
    ];

    #[test]
    fn an_expression_without_the_words_for_tags_sees_the_packet_behind_all_of_them() {
        for (tags, tag_octets) in TAGS {
            let tagged = ethernet(tags, &UDP);
            for expression in [
                "ip",
                "udp",
                "udp port 53",
                "src host 1.1.1.1 and dst net 2.2.0.0/16",
                "ether proto 0x800",
                "ether src 02:00:00:00:00:01",
                "ip[8] = 64",
                "ether[12:4] = 0x08004500",
                "ether[11:4] = 0x01080045",
                "len = 42",
            ] {
                assert!(matches(expression, &tagged), "{expression} {tags:x?}");
            }
            for expression in ["ip6", "tcp", "arp", "not ip", "ether proto 0x8100"] {
                assert!(!matches(expression, &tagged), "{expression} {tags:x?}");
            }
            assert_eq!(tagged.len(), 42 + tag_octets);
        }
        let ipv6 = ethernet(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 42, 0, 0x57], &IPV6);
        assert!(matches("ip6", &ipv6) && !matches("ip", &ipv6));
    }

    #[test]
    fn an_expression_with_a_word_for_tags_sees_the_frame_as_it_came() {
        let [vlan, qinq, _, mpls, .., pppoe, _, _] = TAGS.map(|(tags, _)| ethernet(tags, &UDP));
        let plain = ethernet(&[8, 0], &UDP);
        for (expression, matching) in [
            ("vlan", vec![&vlan, &qinq]),
            ("vlan 5 and udp port 53", vec![&vlan]),
            ("vlan and vlan 6 and udp port 53", vec![&qinq]),
            ("mpls 16 and ip", vec![&mpls]),
            ("pppoes and ip", vec![&pppoe]),
            ("not mpls", vec![&vlan, &qinq, &pppoe, &plain]),
            ("ip or (vlan 5 and len = 46)", vec![&vlan, &plain]),
        ] {
            for frame in [&vlan, &qinq, &mpls, &pppoe, &plain] {
                assert_eq!(
                    matches(expression, frame),
                    matching.contains(&frame),
                    "{expression} {frame:x?}"
                );
            }
        }
    }

    #[test]
    fn the_words_for_tags_are_words_of_their_own() {
        for expression in [
            "vlan",
            "ip and(vlan 5)",
            "!mpls",
            "pppoed||pppoes 7",
            "not\tvlan",
        ] {
            assert!(sees_tags(expression), "{expression}");
        }
        for expression in [
            "",
            "ip",
            "host vlan.example.org",
            "host my-vlan",
            "ether host \\vlan",
        ] {
            assert!(!sees_tags(expression), "{expression}");
        }
    }

    #[test]
    fn what_is_not_ip_behind_tags_keeps_the_last_of_them() {
        // Spanning tree in a pseudowire, PPP's link control, and tags that are cut.
        let pseudowire = ethernet(&[0x88, 0x47, 0, 1, 0x01, 64], &[1; 30]);
        let control = ethernet(
            &[0x81, 0, 0, 5, 0x88, 0x64, 0x11, 0, 0, 1, 0, 30, 0xc0, 0x21],
            &[],
        );
        let cut = ethernet(&[0x81, 0, 0, 5, 0x81, 0, 0], &[]);
        assert!(matches("ether proto 0x8847", &pseudowire));
        assert!(matches(
            "ether proto 0x8864 and ether[20:2] = 0xc021",
            &control
        ));
        assert!(matches("ether proto 0x8100 and len = 15", &cut));
        for frame in [pseudowire, control, cut] {
            assert!(!matches("ip or ip6", &frame) && matches("not ip", &frame));
        }
    }

    #[test]
    fn len_is_the_length_on_the_wire_and_not_what_was_captured() {
        let snapped = ethernet(&[8, 0], &UDP);
        for (expression, expected) in [
            ("greater 500", true),
            ("less 100", false),
            ("len = 1000", true),
            ("len > 1000", false),
        ] {
            let matched = matches_on(ETHERNET, expression, &snapped, 1000);
            assert_eq!(matched, expected, "{expression}");
        }
        let tagged = ethernet(TAGS[0].0, &UDP);
        assert!(matches_on(ETHERNET, "len = 1000", &tagged, 1004));
        assert!(matches_on(ETHERNET, "vlan and len = 1004", &tagged, 1004));
    }

    #[test]
    fn every_link_type_and_byte_order_that_is_decoded_is_filtered_alike() {
        let with = |header: &[u8], packet: &[u8]| [header, packet].concat();
        let sll = |tags: &[u8]| [&[0; 14], tags].concat();
        let sll2 = |ether_type: &[u8], tags: &[u8]| [ether_type, &[0; 18], tags].concat();
        for (link, udp) in [
            (12, UDP.to_vec()),
            (14, UDP.to_vec()),
            (101, UDP.to_vec()),
            (228, UDP.to_vec()),
            (0, with(&[2, 0, 0, 0], &UDP)),
            (0, with(&[0, 0, 0, 2], &UDP)),
            (108, with(&[2, 0, 0, 0], &UDP)),
            (108, with(&[0, 0, 0, 2], &UDP)),
            (113, with(&sll(&[8, 0]), &UDP)),
            (113, with(&sll(&[0x81, 0, 0, 5, 8, 0]), &UDP)),
            (276, with(&sll2(&[8, 0], &[]), &UDP)),
            (276, with(&sll2(&[0x88, 0xa8], &[0, 5, 8, 0]), &UDP)),
        ] {
            let matches = |expression| matches_on(link, expression, &udp, udp.len());
            assert!(matches("ip") && matches("udp port 53"), "{link} {udp:x?}");
            assert!(!matches("ip6") && !matches("tcp"), "{link} {udp:x?}");
        }
        for family in [10, 24, 28, 30] {
            for (link, header) in [
                (0, [family, 0, 0, 0]),
                (0, [0, 0, 0, family]),
                (108, [0, 0, 0, family]),
            ] {
                let ipv6 = with(&header, &IPV6);
                let matches = |expression| matches_on(link, expression, &ipv6, ipv6.len());
                assert!(matches("ip6") && !matches("ip"), "{link} {header:?}");
            }
        }
        assert!(matches_on(229, "ip6", &IPV6, 40));
    }

    #[test]
    fn says_what_is_wrong_with_an_expression() {
        let error = Filter::new("udp prot 53").unwrap_err().to_string();
        assert!(
            error.contains("'udp prot 53'") && error.contains("syntax error"),
            "{error}"
        );
    }

    #[test]
    fn a_filter_that_can_match_no_ipv4_packet_is_found_out() {
        let long = (0..60)
            .map(|n| format!("host 10.0.0.{n}"))
            .collect::<Vec<_>>()
            .join(" or ");
        let long_of_ipv6 = format!("ip6 and ({})", long.replace("10.0.0.", "2001:db8::"));
        let can_match =
            |expression: &str| Filter::new(expression).unwrap().ethernet.can_match_ipv4();
        for blind in [
            "ip6",
            "ip6 and tcp port 80",
            "arp",
            "not ip",
            "ether proto 0x8100",
            "ether[12:2] = 0x8100",
            "ip[0] & 0xf0 = 0x60",
            "ip[0] >> 4 != 4",
            "vlan and ip6",
            "vlan and vlan and ip6",
            "pppoes and ip6",
            "pppoed",
            "mpls and ip6",
            "stp",
            &long_of_ipv6,
        ] {
            assert!(!can_match(blind), "{blind}");
        }
        for seeing in [
            "",
            "ip",
            "ip6 or udp",
            "not ip6",
            "not arp",
            "udp port 53",
            "tcp[tcpflags] & tcp-syn != 0",
            "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
            "greater 500",
            "len <= 60",
            "broadcast",
            "ether host 02:00:00:00:00:01",
            "ip[0] & 0x0f > 5",
            "vlan",
            "vlan 5 and ip",
            "vlan and vlan and vlan and vlan and vlan and ip",
            "ip6 or vlan",
            "mpls",
            "mpls and mpls and mpls and mpls and mpls and ip",
            "pppoes and ip",
            "pppoes",
            "vlan and mpls and ip",
            "vlan and pppoes and udp",
            &long,
        ] {
            assert!(can_match(seeing), "{seeing}");
        }
    }

    #[test]
    fn each_link_type_has_its_own_packets_that_a_filter_can_match() {
        for link in [0, 12, 101, 108, 113, 228, 276] {
            let can_match = |expression| {
                let filter = Filter::new(expression).unwrap();
                filter.compile(link).unwrap().can_match_ipv4()
            };
            assert!(!can_match("ip6") && !can_match("arp or ip6"), "{link}");
            assert!(
                can_match("ip") && can_match("not ip6 and port 53"),
                "{link}"
            );
        }
    }

    #[test]
    fn an_expression_that_no_frame_of_a_link_type_meets_matches_nothing_there() {
        assert!(!matches_on(101, "arp", &UDP, 28));
        let error = Filter::new("ether host 02:00:00:00:00:01")
            .unwrap()
            .compile(101);
        assert!(matches!(error, Err(CaptureError::Filter { link: 101, .. })));
    }

    #[test]
    fn a_filter_is_compiled_once_for_all_queues() {
        let filter = Filter::new("udp port 53").unwrap();
        for link in [ETHERNET, 101] {
            let queues = [&filter.clone(), &filter].map(|filter| filter.compile(link).unwrap());
            assert!(Arc::ptr_eq(&queues[0], &queues[1]), "link type {link}");
        }
    }

    #[test]
    fn how_far_a_filter_looks_is_found_out() {
        let reach = |expression| {
            CompiledFilter::new(expression, ETHERNET)
                .unwrap()
                .reach_octets()
        };
        assert_eq!(reach("ip"), 14);
        assert_eq!(reach("ether[300] = 1"), 301);
        // A header of 60 octets in front of the ports.
        assert_eq!(reach("udp port 53"), 14 + 60 + 4);
        assert!((134..200).contains(&reach("tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420")));
        assert!(reach("ip[ip[2:2]] = 0") > 65_536);
    }

    /// What the kernel's machine makes of a program: that of libpcap for the same instructions.
    fn kernel_matches(filter: &CompiledFilter, frame: &[u8]) -> bool {
        let program = Program::new(filter.kernel_program().unwrap()).unwrap();
        program.matches(&frame, u32::try_from(frame.len()).unwrap())
    }

    #[test]
    fn the_kernels_program_accepts_whatever_the_filter_matches_and_no_other_untagged_frame() {
        for expression in ["ip", "tcp", "udp port 53", "not ip", "len = 42", "arp"] {
            let filter = CompiledFilter::new(expression, ETHERNET).unwrap();
            let matches = |frame: &[u8]| filter.matches(frame, u32::try_from(frame.len()).unwrap());
            for (tags, _) in TAGS {
                let frame = ethernet(tags, &UDP);
                assert!(kernel_matches(&filter, &frame), "{expression} {tags:x?}");
                let outer_removed = [&MACS, &frame[16..]].concat();
                if tags[0] != 0x88 {
                    let kept = kernel_matches(&filter, &outer_removed);
                    assert!(kept >= matches(&frame), "{expression} {tags:x?}");
                }
            }
            for ether_type in [[8, 0], [8, 6], [0x86, 0xdd]] {
                let frame = ethernet(&ether_type, &UDP);
                assert_eq!(
                    kernel_matches(&filter, &frame),
                    matches(&frame),
                    "{expression}"
                );
            }
        }
        let seeing_tags = CompiledFilter::new("vlan", ETHERNET).unwrap();
        assert!(seeing_tags.kernel_program().is_none());
    }

    /// Expressions with every kind of instruction that libpcap's compiler emits.
    const EXPRESSIONS: [&str; 16] = [
        "",
        "ip",
        "tcp or udp",
        "port 53 or portrange 1000-2000",
        "net 0.0.0.0/2",
        "ip proto 1 or ip proto 17",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
        "ip[ip[0] & 0xf * 4] > ip[3] - 20 / (ip[1] + 1)",
        "len > ip[2:2] + 14",
        "ip[1] ^ 3 < len % 7",
        "ip[6:2] & 0x1fff != 0",
        "ip6 protochain 6",
        "icmp[icmptype] = icmp-echo",
        "ether[0] & 1 = 0 and ip[16] >= 224",
        "ip[0] << 2 | 3 > 4",
    ];

    proptest! {
        /// libpcap's own interpreter is the oracle.
        #[test]
        fn a_program_matches_what_it_matches_in_libpcap(
            expression in 0..EXPRESSIONS.len(),
            ether_type in prop_oneof![Just([8, 0]), Just([0x86, 0xdd]), any::<[u8; 2]>()],
            first in prop_oneof![Just(0x45), 0x45..0x50_u8, any::<u8>()],
            protocol in prop_oneof![Just(6), Just(17), Just(1), any::<u8>()],
            rest in vec(any::<u8>(), 10..120),
            cut in 0..134_usize,
        ) {
            let mut frame = [&MACS[..], &ether_type, &[first], &rest].concat();
            frame[23] = protocol;
            frame.truncate(cut.max(14));
            let dead = Capture::dead(Linktype(1)).unwrap();
            let oracle = dead.compile(EXPRESSIONS[expression], true).unwrap();
            let code = oracle.get_instructions().iter().map(read_instruction).collect();
            let program = Program::new(code).unwrap();
            let ours = program.matches(&&frame[..], u32::try_from(frame.len()).unwrap());
            prop_assert_eq!(ours, oracle.filter(&frame), "{}", EXPRESSIONS[expression]);
            if ours && ether_type == [8, 0] && first >> 4 == 4 {
                let filter = CompiledFilter::new(EXPRESSIONS[expression], ETHERNET).unwrap();
                prop_assert!(filter.can_match_ipv4());
                // What it did not look at changes nothing.
                let reach = usize::try_from(filter.reach_octets()).unwrap_or(usize::MAX);
                frame.truncate(reach.max(14));
                let wire_octets = u32::try_from(cut.max(14).min(15 + rest.len())).unwrap();
                prop_assert!(program.matches(&&frame[..], wire_octets));
            }
        }

        /// Whatever the tags, and wherever the frame is cut.
        #[test]
        fn no_frame_makes_a_filter_panic(
            tags in 0..TAGS.len(),
            rest in vec(any::<u8>(), 0..60),
            cut in 0..90_usize,
        ) {
            let mut frame = ethernet(TAGS[tags].0, &rest);
            frame.truncate(cut);
            for link in [0, 1, 12, 113, 276] {
                matches_on(link, "udp port 53 or ip6", &frame, frame.len());
            }
        }
    }
}
