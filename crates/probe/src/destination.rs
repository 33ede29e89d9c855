//! Where records go: collectors over UDP, and flow-tools files.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use xdprobe_collect::{ExportVersion, FlowFileWriter, WriterOptions};
use xdprobe_export::{CollectorAddress, Transport, Version, wire};

/// A destination as an operator names it: `HOST:PORT`, `[V6]:PORT` or `file:PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// A collector over UDP.
    Collector(CollectorAddress),
    /// A flow-tools file.
    File(PathBuf),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("file:") {
            Some("") => {
                Err("'file:' names no file: wanted file:PATH, as in file:flows.ft".to_owned())
            }
            Some(path) => Ok(Self::File(path.into())),
            None => text.parse().map(Self::Collector),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collector(address) => address.fmt(f),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// A flow-tools file as a way to send datagrams: it has its name once it is complete.
pub struct FlowFile {
    /// None once it is finished.
    writer: Option<FlowFileWriter>,
    /// The last header's UTC seconds; none before the first.
    last_s: Option<u32>,
}

impl FlowFile {
    /// Begins the file at `path`, of records of `version`.
    ///
    /// # Errors
    ///
    /// Those of creating it.
    pub fn create(path: &Path, version: Version) -> io::Result<Self> {
        let version = match version {
            Version::V1 => ExportVersion::V1,
            Version::V5 => ExportVersion::V5,
            Version::V7 => ExportVersion::V7,
        };
        let options = WriterOptions {
            version,
            ..WriterOptions::plain_v5(0)
        };
        Ok(Self {
            writer: Some(FlowFileWriter::create(path, &options)?),
            last_s: None,
        })
    }
}

/// Where a header of any version has its UTC seconds.
const UNIX_S: std::ops::Range<usize> = 8..12;

impl Transport for FlowFile {
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        let writer = self
            .writer
            .as_mut()
            .ok_or_else(|| io::Error::other("the file is finished"))?;
        let mut written = 0;
        for datagram in datagrams {
            let seconds = datagram
                .get(UNIX_S)
                .and_then(|octets| octets.try_into().ok())
                .map_or(0, u32::from_be_bytes);
            if self.last_s.replace(seconds).is_none() {
                writer.set_capture_start(seconds);
            }
            match writer.push_datagram(datagram, IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
                Ok(_) => written += 1,
                Err(error) if written == 0 => return Err(error),
                // The next one will say so again.
                Err(_) => break,
            }
        }
        Ok(written)
    }

    fn payload_octets_max(&self) -> usize {
        wire::DATAGRAM_OCTETS_MAX
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.writer.take() {
            Some(writer) => writer.finish(self.last_s.unwrap_or(0)).map(drop),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files_and_collectors() {
        assert_eq!(
            "file:/tmp/x.ft".parse(),
            Ok(Destination::File("/tmp/x.ft".into()))
        );
        assert!(matches!(
            "192.0.2.9:2055".parse(),
            Ok(Destination::Collector(_))
        ));
        assert!(
            "file:"
                .parse::<Destination>()
                .unwrap_err()
                .contains("wanted file:PATH")
        );
    }
}
