//! Filters in libpcap's syntax, for the sources whose frames no kernel filters.
//!
//! libpcap compiles the expression and runs it over each frame on the core that received it: exact
//! for every expression that libpcap supports, at 20 to 100 ns a frame. Live captures through
//! libpcap filter in the kernel instead.

use crate::error::{CaptureError, pcap_text};
use pcap::{BpfProgram, Capture, Linktype};

/// A filter expression that libpcap can compile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    expression: String,
}

impl Filter {
    /// The filter for `expression`, which compiles for Ethernet.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] with libpcap's error.
    pub fn new(expression: &str) -> Result<Self, CaptureError> {
        CompiledFilter::new(expression, ETHERNET)?;
        Ok(Self {
            expression: expression.to_owned(),
        })
    }

    /// The expression.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The filter compiled for the frames of one link type.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Filter`] if the expression has no meaning on that link type.
    pub(crate) fn compile(&self, link: u16) -> Result<CompiledFilter, CaptureError> {
        CompiledFilter::new(&self.expression, link)
    }
}

/// LINKTYPE_ETHERNET.
pub(crate) const ETHERNET: u16 = 1;

/// A filter compiled for one link type.
pub(crate) struct CompiledFilter {
    program: BpfProgram,
}

impl CompiledFilter {
    fn new(expression: &str, link: u16) -> Result<Self, CaptureError> {
        // Files use LINKTYPE_RAW; libpcap's compiler on Linux uses its own DLT_RAW.
        const LINKTYPE_RAW: u16 = 101;
        const DLT_RAW: i32 = 12;
        let dlt = if link == LINKTYPE_RAW {
            DLT_RAW
        } else {
            i32::from(link)
        };
        let program = Capture::dead(Linktype(dlt)).and_then(|dead| dead.compile(expression, true));
        match program {
            Ok(program) => Ok(Self { program }),
            Err(error) => Err(CaptureError::Filter {
                expression: expression.to_owned(),
                link,
                what: pcap_text(error),
            }),
        }
    }

    /// Whether the filter matches a frame of its link type.
    #[inline]
    pub fn matches(&self, octets: &[u8]) -> bool {
        self.program.filter(octets)
    }
}

/// A filter for frames of several link types, compiled for each when its first frame comes.
pub(crate) struct FilterByLink {
    filter: Filter,
    compiled: Vec<(u16, CompiledFilter)>,
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
    pub fn matches(&mut self, link: u16, octets: &[u8]) -> Result<bool, CaptureError> {
        let index = self.compile_for(link)?;
        Ok(self.compiled[index].1.matches(octets))
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
            None => {
                self.compiled.push((link, self.filter.compile(link)?));
                Ok(self.compiled.len() - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_the_expression_says_on_each_link_type() {
        let mut filter = FilterByLink::new(Filter::new("udp port 53").unwrap());
        let udp = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 4, 0, 0, 53, 0, 8, 0,
            0,
        ];
        let mut tcp = udp;
        tcp[9] = 6;
        let ethernet = |packet: &[u8]| [&[0; 12][..], &[8, 0], packet].concat();
        assert!(filter.matches(ETHERNET, &ethernet(&udp)).unwrap());
        assert!(!filter.matches(ETHERNET, &ethernet(&tcp)).unwrap());
        assert!(filter.matches(101, &udp).unwrap());
        assert!(!filter.matches(101, &tcp).unwrap());
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
