//! Filters in libpcap's syntax, for the sources that have no kernel to filter for them.
//!
//! libpcap compiles the expression and runs it over each frame, on the core that received it: exact for every expression that
//! libpcap knows, at some 20 to 100 ns a frame. Live captures through libpcap filter in the kernel instead.

use crate::{CaptureError, Frame};
use pcap::{BpfProgram, Capture, Linktype};

/// A filter expression, compiled for each link type that it meets.
pub struct Filter {
    expression: String,
    programs: Vec<(u16, BpfProgram)>,
}

impl Filter {
    /// LINKTYPE_ETHERNET.
    const ETHERNET: u16 = 1;

    /// The filter that `expression` says, proven on Ethernet.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] with what libpcap has against it.
    pub fn compile(expression: &str) -> Result<Self, CaptureError> {
        let mut filter = Self { expression: expression.to_owned(), programs: Vec::new() };
        filter.program(Self::ETHERNET)?;
        Ok(filter)
    }

    /// The expression that it was made from.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether it wants the frame.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] if the expression has no meaning on the frame's link type.
    #[inline]
    pub fn wants(&mut self, frame: &Frame<'_>) -> Result<bool, CaptureError> {
        Ok(self.program(frame.link)?.filter(frame.octets))
    }

    fn program(&mut self, link: u16) -> Result<&BpfProgram, CaptureError> {
        let known = self.programs.iter().position(|&(of, _)| of == link);
        let index = match known {
            Some(index) => index,
            None => {
                self.programs.push((link, self.compile_for(link)?));
                self.programs.len() - 1
            }
        };
        Ok(&self.programs[index].1)
    }

    fn compile_for(&self, link: u16) -> Result<BpfProgram, CaptureError> {
        // Files say LINKTYPE_RAW, libpcap's compiler on Linux wants its own DLT_RAW.
        let dlt = if link == 101 { 12 } else { i32::from(link) };
        let program = Capture::dead(Linktype(dlt)).and_then(|dead| dead.compile(&self.expression, true));
        program.map_err(|error| CaptureError::Filter {
            expression: self.expression.clone(),
            link,
            what: crate::live::in_plain_words(error),
        })
    }
}

impl Clone for Filter {
    /// Compiled programs stay where they are: the copy compiles its own when it first needs them.
    fn clone(&self) -> Self {
        Self { expression: self.expression.clone(), programs: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(octets: &[u8], link: u16) -> Frame<'_> {
        Frame { octets, wire_octets: u32::try_from(octets.len()).unwrap(), link, captured_ns: None }
    }

    #[test]
    fn wants_what_the_expression_says_on_each_link_type() {
        let mut filter = Filter::compile("udp port 53").unwrap();
        let udp = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 4, 0, 0, 53, 0, 8, 0, 0];
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
        let error = Filter::compile("udp prot 53").err().unwrap().to_string();
        assert!(error.contains("'udp prot 53'") && error.contains("syntax error"), "{error}");
    }
}
