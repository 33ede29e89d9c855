//! Collectors: where datagrams go, and what became of them there.

use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::str::FromStr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A way to a collector.
pub trait Transport: Send {
    /// Sends one whole datagram.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ConnectionRefused`] says that an *earlier* datagram was refused and this one not yet sent; anything
    /// else, that this one is lost.
    fn send(&mut self, datagram: &[u8]) -> io::Result<()>;

    /// The longest datagram that the way carries in one piece, in octets of payload.
    fn payload_octets_max(&self) -> usize;

    /// Completes what was sent, where that takes anything: no datagram follows.
    ///
    /// # Errors
    ///
    /// What kept it incomplete.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A collector as an operator names it: `HOST:PORT` or `[V6]:PORT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CollectorAddress(String);

impl CollectorAddress {
    /// The first address that the name stands for.
    ///
    /// # Errors
    ///
    /// What the resolver said, or that it knew no address.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        self.0.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))
    }
}

impl FromStr for CollectorAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("'{text}' is not a collector: wanted HOST:PORT or [V6]:PORT, as in 192.0.2.9:2055");
        let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare_v6 || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(wanted());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for CollectorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A connected UDP socket: connected, so that a collector's refusal comes back and the route is looked up once.
#[derive(Debug)]
pub struct UdpTransport {
    socket: UdpSocket,
    payload_octets_max: usize,
}

/// Asked of the kernel for each socket; it gives what net.core.wmem_max allows.
const SEND_BUFFER_OCTETS: usize = 4 << 20;
/// A full-size Ethernet frame's network layer, where nothing else is known of the path.
const PATH_MTU: usize = 1500;
const UDP_HEADER_OCTETS: usize = 8;

impl UdpTransport {
    /// A socket that sends to `address`.
    ///
    /// # Errors
    ///
    /// What the system said: no route, no permission, no descriptors.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Best effort: a smaller buffer only means that sending waits more often.
        let _ = socket.set_send_buffer_size(SEND_BUFFER_OCTETS);
        socket.connect(&address.into())?;
        let ip_header_octets = if address.is_ipv4() { 20 } else { 40 };
        let payload_octets_max = PATH_MTU - ip_header_octets - UDP_HEADER_OCTETS;
        Ok(Self { socket: socket.into(), payload_octets_max })
    }
}

impl Transport for UdpTransport {
    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).map(drop)
    }

    fn payload_octets_max(&self) -> usize {
        self.payload_octets_max
    }
}

/// Why a datagram did not leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendErrorKind {
    /// No route to the network or host.
    Unreachable,
    /// The kernel has no buffer for it.
    NoBuffer,
    /// Longer than the path carries.
    TooLong,
    /// A local rule forbids it.
    Forbidden,
    /// Refused again and again.
    Refused,
    /// Anything else.
    Other,
}

impl SendErrorKind {
    /// Every kind with the name that reports and metrics use.
    pub const NAMES: [&'static str; 6] = ["unreachable", "no_buffer", "too_long", "forbidden", "refused", "other"];

    fn of(error: &io::Error) -> Self {
        // Linux: EMSGSIZE 90 and ENOBUFS 105 have no stable io::ErrorKind.
        match (error.raw_os_error(), error.kind()) {
            (Some(90), _) => Self::TooLong,
            (Some(105), _) | (_, io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory) => Self::NoBuffer,
            (_, io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkDown) => {
                Self::Unreachable
            }
            (_, io::ErrorKind::PermissionDenied) => Self::Forbidden,
            (_, io::ErrorKind::ConnectionRefused) => Self::Refused,
            _ => Self::Other,
        }
    }
}

/// What one collector was sent.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct CollectorCounters {
    /// Datagrams that the transport took.
    pub datagrams: u64,
    /// Records in them.
    pub records: u64,
    /// Times that the collector's host refused an earlier datagram (ICMP port unreachable): nobody listens there.
    pub refusals: u64,
    /// 1 while its host refuses: it refused what was sent last but one, and nobody knows better of the last.
    pub refusing: u64,
    /// Datagrams that did not leave, by [`SendErrorKind`] in the order of its names.
    pub errors: [u64; SendErrorKind::NAMES.len()],
}

/// One collector: its name, the way to it, and its counters.
pub struct Collector {
    name: String,
    transport: Box<dyn Transport>,
    counters: CollectorCounters,
}

/// A pending refusal is reported by the next send in place of sending; two can be pending at most times, so this many.
const SEND_ATTEMPTS: usize = 4;

impl Collector {
    /// A collector called `name` that `transport` leads to.
    pub fn new(name: impl Into<String>, transport: impl Transport + 'static) -> Self {
        Self { name: name.into(), transport: Box::new(transport), counters: CollectorCounters::default() }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was sent.
    #[must_use]
    pub fn counters(&self) -> &CollectorCounters {
        &self.counters
    }

    /// The longest datagram that reaches it in one piece, in octets of payload.
    #[must_use]
    pub fn payload_octets_max(&self) -> usize {
        self.transport.payload_octets_max()
    }

    /// Completes what was sent: see [`Transport::finish`].
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.transport.finish()
    }

    /// Sends a datagram of `records` records and says whether it left.
    pub(crate) fn send(&mut self, datagram: &[u8], records: usize) -> bool {
        match self.send_past_refusals(datagram) {
            Ok(()) => {
                self.counters.datagrams += 1;
                self.counters.records += records as u64;
                true
            }
            Err(error) => {
                self.counters.errors[SendErrorKind::of(&error) as usize] += 1;
                false
            }
        }
    }

    fn send_past_refusals(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.counters.refusing = 0;
        for _ in 1..SEND_ATTEMPTS {
            match self.transport.send(datagram) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.counters.refusals += 1;
                    self.counters.refusing = 1;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
        self.transport.send(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_and_addresses_with_a_port_and_nothing_else() {
        for good in ["172.27.20.3:2055", "collector.example:9996", "[2001:db8::9]:2055"] {
            assert_eq!(good.parse::<CollectorAddress>().unwrap().to_string(), good);
        }
        for bad in ["172.27.20.3", ":2055", "host:", "host:0", "host:65536", "2001:db8::9:2055", ""] {
            let error = bad.parse::<CollectorAddress>().unwrap_err();
            assert!(error.contains("wanted HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_refusal_of_an_earlier_datagram_does_not_cost_this_one() {
        struct Refusing(u32, Vec<Vec<u8>>);
        impl Transport for Refusing {
            fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
                self.0 += 1;
                if self.0.is_multiple_of(2) {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                self.1.push(datagram.to_vec());
                Ok(())
            }
            fn payload_octets_max(&self) -> usize {
                1472
            }
        }
        let mut collector = Collector::new("test", Refusing(0, Vec::new()));
        for _ in 0..5 {
            assert!(collector.send(&[0; 72], 1));
        }
        assert_eq!((collector.counters.datagrams, collector.counters.refusals), (5, 4));
    }

    #[test]
    fn a_closed_port_refuses_and_loses_nothing_of_the_count() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut collector = Collector::new("closed", UdpTransport::connect(closed).unwrap());
        for _ in 0..20 {
            assert!(collector.send(&[0; 72], 1));
        }
        assert_eq!(collector.counters.datagrams, 20);
        assert!(collector.counters.refusals > 0);
    }

    #[test]
    fn errors_are_counted_by_kind() {
        struct Failing(i32);
        impl Transport for Failing {
            fn send(&mut self, _: &[u8]) -> io::Result<()> {
                Err(io::Error::from_raw_os_error(self.0))
            }
            fn payload_octets_max(&self) -> usize {
                1472
            }
        }
        // ENETUNREACH, ENOBUFS, EMSGSIZE, EPERM, ECONNREFUSED, EIO.
        for (kind, errno) in [101, 105, 90, 1, 111, 5].into_iter().enumerate() {
            let mut collector = Collector::new("test", Failing(errno));
            assert!(!collector.send(&[0; 72], 1));
            assert_eq!(collector.counters.errors[kind], 1, "{}", SendErrorKind::NAMES[kind]);
            assert_eq!(collector.counters.datagrams, 0);
        }
    }
}
