//! Names of IP protocols and ports, for people: those of this host's `/etc/protocols` and
//! `/etc/services`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

const PROTOCOLS: &str = "/etc/protocols";
const SERVICES: &str = "/etc/services";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Names of protocols, and of ports of TCP and UDP.
#[derive(Clone, Debug, Default)]
pub struct Names {
    protocols: HashMap<u8, Box<str>>,
    ports: HashMap<(u8, u16), Box<str>>,
}

impl Names {
    /// The names that this host knows.
    ///
    /// # Errors
    ///
    /// If one of the two files cannot be read; the error contains its name.
    pub fn system() -> io::Result<Self> {
        let read = |path: &str| {
            fs::read(Path::new(path))
                .map(|octets| String::from_utf8_lossy(&octets).into_owned())
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
        };
        Ok(Self::parse(&read(PROTOCOLS)?, &read(SERVICES)?))
    }

    /// The names in texts of the form of `/etc/protocols` and `/etc/services`. Lines of another
    /// form are left out, and the first name of a number counts.
    #[must_use]
    pub fn parse(protocols: &str, services: &str) -> Self {
        let mut names = Self::default();
        for (name, number) in entries(protocols) {
            if let Ok(number) = number.parse() {
                names.protocols.entry(number).or_insert(name.into());
            }
        }
        for (name, port) in entries(services) {
            let Some((port, protocol)) = port.split_once('/') else {
                continue;
            };
            let protocol = match protocol {
                "tcp" => TCP,
                "udp" => UDP,
                _ => continue,
            };
            if let Ok(port) = port.parse() {
                names.ports.entry((protocol, port)).or_insert(name.into());
            }
        }
        names
    }

    /// The name of a protocol.
    #[must_use]
    pub fn protocol(&self, protocol: u8) -> Option<&str> {
        self.protocols.get(&protocol).map(AsRef::as_ref)
    }

    /// The name of a port; none unless the protocol is TCP or UDP.
    #[must_use]
    pub fn port(&self, protocol: u8, port: u16) -> Option<&str> {
        self.ports.get(&(protocol, port)).map(AsRef::as_ref)
    }
}

/// The first two words of each line, without comments.
fn entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        Some((words.next()?, words.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_number_counts_and_other_lines_are_left_out() {
        let names = Names::parse(
            "# a comment\nip\t0\tIP\nhopopt 0 HOPOPT\ntcp 6 TCP # six\nbroken\nfar 300\n",
            "domain 53/tcp\ndomain\t53/udp\nsyslog 514/udp\nshell 514/tcp cmd\n#x 1/tcp\nx 99999/tcp\n\
             y 7\nz 9/sctp\n",
        );
        assert_eq!(names.protocol(0), Some("ip"));
        assert_eq!(names.protocol(6), Some("tcp"));
        assert_eq!(names.protocol(17), None);
        assert_eq!(names.port(6, 514), Some("shell"));
        assert_eq!(names.port(17, 514), Some("syslog"));
        assert_eq!(names.port(1, 53), None);
        assert_eq!(names.ports.len(), 4);
    }
}
