//! Rules for input and output interface: a TOML file of `[[rule]]`, of which the first that matches
//! a packet decides.

use ipnet::Ipv4Net;
use macaddr::MacAddr6;
use serde::Deserialize;
use toml::Spanned;
use xdprobe_export::TableError;
use xdprobe_flow::{Interfaces, Ipv4Prefix, PointRule, PointRules, Points};

/// The rules of a file, in their order.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// A rule: what a packet has to match, and the interfaces in its records then.
#[derive(Clone, Debug)]
struct Rule {
    /// The line that it begins in.
    line: u64,
    interface: Option<String>,
    /// What frame and packet have to match; its point has no number yet.
    shown: PointRule,
    input: Option<u16>,
    output: Option<u16>,
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    #[serde(default)]
    rule: Vec<Spanned<RuleEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    interface: Option<String>,
    vlan: Option<Spanned<i64>>,
    source_mac: Option<Spanned<String>>,
    destination_mac: Option<Spanned<String>>,
    source: Option<Spanned<String>>,
    input: Option<Spanned<i64>>,
    output: Option<Spanned<i64>>,
}

impl Rules {
    /// Reads the rules of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and in which line. The last line has to end as the others do: a file
    /// that was cut off inside a line is refused.
    pub fn read(file: &str) -> Result<Self, TableError> {
        let lines = Lines::of(file);
        if !file.is_empty() && !file.ends_with('\n') {
            return Err(lines.wrong(
                file.len(),
                "no line end: the file is cut off here; write it again in full".to_owned(),
            ));
        }
        let read: RulesFile = toml::from_str(file).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            lines.wrong(at, error.message().lines().collect::<Vec<_>>().join("; "))
        })?;
        if read.rule.is_empty() {
            return Err(lines.wrong(
                0,
                "no rule in this file: expected at least one [[rule]]".to_owned(),
            ));
        }
        read.rule
            .iter()
            .map(|entry| Rule::read(entry, &lines))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The observation points of one interface, whose own ifIndex is `input`; none if there are
    /// more pairs of input and output than numbers for them.
    pub fn on(&self, interface: &str, input: u16, points: &mut Points) -> Option<PointRules> {
        let otherwise = points.number_of(Interfaces { input, output: 0 })?;
        let here = self.0.iter().filter(|rule| {
            rule.interface
                .as_deref()
                .is_none_or(|name| name == interface)
        });
        let rules = here.map(|rule| {
            let interfaces = Interfaces {
                input: rule.input.unwrap_or(input),
                output: rule.output.unwrap_or(0),
            };
            Some(PointRule {
                point: points.number_of(interfaces)?,
                ..rule.shown
            })
        });
        Some(PointRules::new(
            rules.collect::<Option<Vec<_>>>()?,
            otherwise,
        ))
    }

    /// The rules that name an interface which is not among the `captured`: the line of each, and
    /// the name.
    pub fn of_others<'a>(&'a self, captured: &'a [&str]) -> impl Iterator<Item = (u64, &'a str)> {
        let named = self
            .0
            .iter()
            .filter_map(|rule| Some((rule.line, rule.interface.as_deref()?)));
        named.filter(|(_, name)| !captured.contains(name))
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Rule {
    fn read(entry: &Spanned<RuleEntry>, lines: &Lines) -> Result<Self, TableError> {
        let at = entry.span().start;
        let entry = entry.get_ref();
        if entry.input.is_none() && entry.output.is_none() {
            return Err(lines.wrong(
                at,
                "a rule that sets nothing: expected input, output or both".to_owned(),
            ));
        }
        let shown = PointRule {
            vlan: number(
                entry.vlan.as_ref(),
                "vlan",
                4_094,
                "as IEEE 802.1Q has them",
                lines,
            )?,
            source_mac: mac(entry.source_mac.as_ref(), lines)?,
            destination_mac: mac(entry.destination_mac.as_ref(), lines)?,
            source: network(entry.source.as_ref(), lines)?,
            point: 0,
        };
        let index = |value, name| {
            number(
                value,
                name,
                u16::MAX,
                "which is all that NetFlow v5 can carry of an ifIndex",
                lines,
            )
        };
        Ok(Self {
            line: lines.number_at(at),
            interface: entry.interface.clone(),
            shown,
            input: index(entry.input.as_ref(), "input")?,
            output: index(entry.output.as_ref(), "output")?,
        })
    }
}

fn number(
    value: Option<&Spanned<i64>>,
    name: &str,
    max: u16,
    why: &str,
    lines: &Lines,
) -> Result<Option<u16>, TableError> {
    let Some(value) = value else { return Ok(None) };
    let number = u16::try_from(*value.get_ref())
        .ok()
        .filter(|number| *number <= max);
    let expected = || {
        lines.wrong(
            value.span().start,
            format!(
                "{name} {} is out of range: expected 0 to {max}, {why}",
                value.get_ref()
            ),
        )
    };
    number.map(Some).ok_or_else(expected)
}

fn mac(value: Option<&Spanned<String>>, lines: &Lines) -> Result<Option<[u8; 6]>, TableError> {
    let Some(value) = value else { return Ok(None) };
    let expected = |_| {
        let what = format!(
            "'{}' is not a MAC address: expected six octets, as in 02:00:00:00:00:01",
            value.get_ref()
        );
        lines.wrong(value.span().start, what)
    };
    value
        .get_ref()
        .parse()
        .map(|address: MacAddr6| Some(address.into_array()))
        .map_err(expected)
}

fn network(
    value: Option<&Spanned<String>>,
    lines: &Lines,
) -> Result<Option<Ipv4Prefix>, TableError> {
    let Some(value) = value else { return Ok(None) };
    let net: Option<Ipv4Net> = value.get_ref().parse().ok();
    let net = net.filter(|net| net.addr() == net.network()).ok_or_else(|| {
        let what = format!(
            "'{}' is not an IPv4 network: expected ADDRESS/LENGTH without bits beyond the length, \
             as in 192.0.2.0/24",
            value.get_ref()
        );
        lines.wrong(value.span().start, what)
    })?;
    let prefix = Ipv4Prefix::new(net.network(), net.prefix_len());
    Ok(Some(
        prefix.expect("a network's prefix has at most 32 bits"),
    ))
}

/// Where the lines of a file begin, so that each of many rules finds its own without a search
/// through the file.
struct Lines {
    /// Octets from the start of the file to the end of each line.
    ends: Vec<usize>,
}

impl Lines {
    fn of(file: &str) -> Self {
        let ends = file.match_indices('\n').map(|(at, _)| at);
        Self {
            ends: ends.collect(),
        }
    }

    /// The line, counted from 1, that an octet of the file is in.
    fn number_at(&self, at: usize) -> u64 {
        self.ends.partition_point(|&end| end < at) as u64 + 1
    }

    /// What is wrong at an octet of the file.
    fn wrong(&self, at: usize, what: String) -> TableError {
        TableError {
            line: self.number_at(at),
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use xdprobe_flow::Link;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    #[test]
    fn each_direction_of_a_link_has_its_own_input_and_output() {
        let rules = Rules::read(
            "[[rule]]\ninterface = 'tap0'\nvlan = 7\nsource_mac = '02:00:00:00:00:01'\ninput = 1\noutput = 2\n\
             [[rule]]\nvlan = 7\ndestination_mac = '02-00-00-00-00-01'\ninput = 2\noutput = 1\n\
             [[rule]]\nsource = '10.0.0.0/8'\noutput = 9\n",
        );
        let (rules, mut points) = (rules.unwrap(), Points::default());
        assert_eq!(rules.len(), 3);
        let (tap0, tap1) = (
            rules.on("tap0", 5, &mut points).unwrap(),
            rules.on("tap1", 6, &mut points).unwrap(),
        );
        let frame = |source: [u8; 6], destination: [u8; 6]| {
            [&destination[..], &source, &[0x81, 0, 0, 7, 8, 0]].concat()
        };
        let told = |on: &PointRules, frame: &[u8], source: Ipv4Addr| {
            let Interfaces { input, output } =
                points.interfaces_of(on.point_of(frame, Link::Ethernet, source));
            (input, output)
        };
        let (there, back) = (frame(A, B), frame(B, A));
        assert_eq!(
            (
                told(&tap0, &there, Ipv4Addr::LOCALHOST),
                told(&tap0, &back, Ipv4Addr::LOCALHOST)
            ),
            ((1, 2), (2, 1))
        );
        assert_eq!(
            (
                told(&tap1, &there, Ipv4Addr::LOCALHOST),
                told(&tap1, &back, Ipv4Addr::LOCALHOST)
            ),
            ((6, 0), (2, 1))
        );
        assert_eq!(told(&tap1, &there, Ipv4Addr::new(10, 1, 1, 1)), (6, 9));
    }

    #[test]
    fn rules_of_interfaces_that_nobody_captures_are_known_by_their_lines() {
        let rules = Rules::read(
            "[[rule]]\ninput = 1\n\n[[rule]]\ninterface = 'tap0'\ninput = 2\n\n[[rule]]\ninput = 3\ninterface = 'tap1'\n",
        );
        let rules = rules.unwrap();
        assert_eq!(
            rules.of_others(&["tap0"]).collect::<Vec<_>>(),
            [(8, "tap1")]
        );
        assert_eq!(rules.of_others(&["tap0", "tap1"]).count(), 0);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (file, expected) in [
            ("", "1: no rule"),
            ("# nothing\n", "1: no rule"),
            ("[[rule]]\ninput = 1", "2: no line end"),
            ("[[rule]]\nvlan = 1\n", "1: a rule that sets nothing"),
            (
                "[[rule]]\ninput = 1\n\n[[rule]]\ninput = 70000\n",
                "5: input 70000 is out of range: expected 0 to 65535, which is all",
            ),
            (
                "[[rule]]\ninput = 1\nvlan = 4095\n",
                "3: vlan 4095 is out of range: expected 0 to 4094",
            ),
            ("[[rule]]\ninput = -1\n", "2: input -1 is out of range"),
            (
                "[[rule]]\nsource_mac = '02:00'\ninput = 1\n",
                "2: '02:00' is not a MAC address",
            ),
            (
                "[[rule]]\ninput = 1\nsource = '10.0.0.1/8'\n",
                "3: '10.0.0.1/8' is not an IPv4 network",
            ),
            (
                "[[rule]]\ninput = 1\nsource = '2001:db8::/32'\n",
                "3: '2001:db8::/32' is not an IPv4 network",
            ),
            (
                "[[rule]]\ninput = 1\nvlans = 7\n",
                "3: unknown field `vlans`",
            ),
            ("[[rule]]\ninput = 'eth0'\n", "2: invalid type: string"),
            ("[[rule]]\ninput 1\n", "2: "),
            ("[[rules]]\ninput = 1\n", "1: unknown field `rules`"),
        ] {
            let error = Rules::read(file).unwrap_err().to_string();
            assert!(
                error.starts_with(expected) && error.lines().count() == 1,
                "{file:?}: {error}"
            );
        }
    }

    #[test]
    fn each_of_many_rules_finds_its_line_without_a_search_through_the_file() {
        let file = "one\n\ntwo\r\nthree\n";
        let lines = Lines::of(file);
        for at in 0..=file.len() {
            let before = file[..at].matches('\n').count() as u64;
            assert_eq!(lines.number_at(at), before + 1, "at {at}");
        }
        assert_eq!(Lines::of("").number_at(0), 1);
        // 60 000 rules took half a minute, and this many would take hours.
        let rule = |n: u32| format!("[[rule]]\ninput = {}\nvlan = 7\n", n % 60_000);
        let file: String = (0..300_000).map(rule).collect();
        let rules = Rules::read(&file).unwrap();
        assert_eq!((rules.len(), rules.0[299_999].line), (300_000, 899_998));
    }
}
