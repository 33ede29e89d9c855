//! Filters in libpcap's syntax, for the sources that have no kernel to filter for them.
//!
//! libpcap compiles the expression and runs it over each frame, on the core that received it: exact
//! for every expression that libpcap knows, at some 20 to 100 ns a frame. Live captures through
//! libpcap filter in the kernel instead.

use crate::{CaptureError, Frame};
use pcap::{BpfProgram, Capture, Linktype};

/// A filter expression that libpcap knows how to compile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    expression: String,
}

impl Filter {
    /// The filter that `expression` says, proven on Ethernet.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] with what libpcap has against it.
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        const ETHERNET: u16 = 1;
        compile(expression, ETHERNET)?;
        Ok(Self {
            expression: expression.to_owned(),
        })
    }

    /// The expression that it was made from.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// What runs it over frames, one for each source.
    pub(crate) fn matcher(&self) -> Matcher {
        Matcher {
            expression: self.expression.clone(),
            programs: Vec::new(),
        }
    }
}

/// A filter at work: compiled for each link type when it first meets it.
pub(crate) struct Matcher {
    expression: String,
    programs: Vec<(u16, BpfProgram)>,
}

impl Matcher {
    /// Whether the filter wants the frame.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] if the expression has no meaning on the frame's link type.
    #[inline]
    pub fn wants(&mut self, frame: &Frame<'_>) -> Result<bool, CaptureError> {
        let known = self
            .programs
            .iter()
            .position(|&(link, _)| link == frame.link);
        let index = match known {
            Some(index) => index,
            None => {
                self.programs
                    .push((frame.link, compile(&self.expression, frame.link)?));
                self.programs.len() - 1
            }
        };
        Ok(self.programs[index].1.filter(frame.octets))
    }
}

fn compile(expression: &str, link: u16) -> Result<BpfProgram, CaptureError> {
    // Files say LINKTYPE_RAW, libpcap's compiler on Linux wants its own DLT_RAW.
    let dlt = if link == 101 { 12 } else { i32::from(link) };
    let program = Capture::dead(Linktype(dlt)).and_then(|dead| dead.compile(expression, true));
    program.map_err(|error| CaptureError::Filter {
        expression: expression.to_owned(),
        link,
        what: crate::live::in_plain_words(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(octets: &[u8], link: u16) -> Frame<'_> {
        Frame {
            octets,
            wire_octets: u32::try_from(octets.len()).unwrap(),
            link,
            captured: crate::CaptureTime::OfTheTurn,
        }
    }

    #[test]
    fn wants_what_the_expression_says_on_each_link_type() {
        let mut filter = Filter::new("udp port 53").unwrap().matcher();
        let udp = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 4, 0, 0, 53, 0, 8, 0,
            0,
        ];
        let mut tcp = udp;
        tcp[9] = 6;
        let ethernet = |packet: &[u8]| [&[0; 12][..], &[8, 0], packet].concat();
        assert!(filter.wants(&frame(&ethernet(&udp), 1)).unwrap());
        assert!(!filter.wants(&frame(&ethernet(&tcp), 1)).unwrap());
        assert!(filter.wants(&frame(&udp, 101)).unwrap());
        assert!(!filter.wants(&frame(&tcp, 101)).unwrap());
    }

    #[test]
    fn says_what_is_wrong_with_an_expression() {
        let error = Filter::new("udp prot 53").unwrap_err().to_string();
        assert!(
            error.contains("'udp prot 53'") && error.contains("syntax error"),
            "{error}"
        );
    }
}
