//! Where records go: collectors over UDP, and flow-tools files.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use xdprobe_collect::{FlowFileWriter, WriterOptions};
use xdprobe_export::{CollectorAddress, Transport, v5};

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
            Some("") => Err("'file:' names no file: wanted file:PATH, as in file:flows.ft".to_owned()),
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
    /// Begins the file at `path`.
    ///
    /// # Errors
    ///
    /// Those of creating it.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { writer: Some(FlowFileWriter::create(path, &WriterOptions::plain_v5(0))?), last_s: None })
    }
}

impl Transport for FlowFile {
    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let writer = self.writer.as_mut().ok_or_else(|| io::Error::other("the file is finished"))?;
        let (header, _) = v5::decode(datagram).map_err(io::Error::other)?;
        let now_s = header.unix_s.get();
        if self.last_s.replace(now_s).is_none() {
            writer.set_capture_start(now_s);
        }
        writer.push_datagram(datagram, IpAddr::V4(Ipv4Addr::UNSPECIFIED)).map(drop)
    }

    fn payload_octets_max(&self) -> usize {
        v5::DATAGRAM_OCTETS_MAX
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
        assert_eq!("file:/tmp/x.ft".parse(), Ok(Destination::File("/tmp/x.ft".into())));
        assert!(matches!("192.0.2.9:2055".parse(), Ok(Destination::Collector(_))));
        assert!("file:".parse::<Destination>().unwrap_err().contains("wanted file:PATH"));
    }
}
