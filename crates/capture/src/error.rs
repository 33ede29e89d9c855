//! Why capturing failed, and how errors of libraries are put into one line.

use std::io;

/// Why a source cannot be opened or cannot continue: what was found, what was expected, where, and
/// what to do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("{name}: {error}")]
    Read {
        /// The file.
        name: String,
        /// The system's error.
        error: io::Error,
    },
    /// The file is not a capture file.
    #[error("{name}: not a capture file (pcap or pcapng): it starts with {found}")]
    NotACapture {
        /// The file.
        name: String,
        /// Its first octets, or the format that they belong to.
        found: String,
    },
    /// The file is a capture file, but its header is cut, contradictory or of another version.
    #[error("{name}: {what}")]
    Header {
        /// The file.
        name: String,
        /// What is wrong, and what is expected.
        what: String,
    },
    /// The file is truncated or malformed; everything before the offset was read.
    #[error("{name}: damaged at octet {offset}: {what}; the packets before it were counted")]
    Damaged {
        /// The file.
        name: String,
        /// Where, in octets from the start of the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The filter expression does not compile for this link type.
    #[error("filter '{expression}' does not compile for link type {link}: {what}")]
    Filter {
        /// The expression.
        expression: String,
        /// The LINKTYPE number that it was compiled for.
        link: u16,
        /// libpcap's error.
        what: String,
    },
    /// There is no such interface.
    #[error("interface '{0}' does not exist; `ip link` lists the interfaces of this host")]
    NoInterface(String),
    /// The interface disappeared during the capture.
    #[error("interface '{0}' disappeared; flows seen so far are exported")]
    Gone(String),
    /// libpcap cannot open or read the interface.
    #[error("cannot capture from '{name}' with libpcap: {what}")]
    Live {
        /// The interface.
        name: String,
        /// libpcap's error.
        what: String,
    },
    /// AF_XDP cannot be set up.
    #[error("cannot capture from '{interface}' with AF_XDP: {what}")]
    Xdp {
        /// The interface.
        interface: String,
        /// What failed, why, and what to do.
        what: String,
    },
}

/// An error and its causes on one line.
pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// The system's error number behind an error of a library.
pub(crate) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

/// libpcap's error text without the prefix that the `pcap` crate adds.
pub(crate) fn pcap_text(error: pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(what) => what.trim().to_owned(),
        other => other.to_string(),
    }
}
