//! UDP to a collector: one connected socket, which sends many datagrams in one call if the kernel
//! can.

use crate::transport::Transport;
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover,
    set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A collector as an operator names it: `HOST:PORT`, `[V6]:PORT`, or `[V6%ZONE]:PORT` for a
/// link-local address, whose zone is an interface by name or index (RFC 4007).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CollectorAddress {
    text: String,
    /// Without brackets.
    host: String,
    port: u16,
}

impl CollectorAddress {
    /// The addresses of the name, at least one. An IPv4 address mapped into IPv6 is an IPv4
    /// address.
    ///
    /// # Errors
    ///
    /// The error of the resolver, or that it found no address.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        // The system's resolver also takes an address with a zone.
        let resolved = (self.host.as_str(), self.port).to_socket_addrs()?;
        let addresses: Vec<_> = resolved.map(canonical).collect();
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(addresses)
    }

    /// Whether it is an IP address, so that there is no name to resolve. With a zone there is one:
    /// an interface that is made again has another index.
    #[must_use]
    pub fn is_an_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

impl FromStr for CollectorAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "'{text}' is not a collector: expected HOST:PORT or [V6]:PORT, as in 192.0.2.9:2055"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(v6) => {
                let (address, zone) = v6.split_once('%').unwrap_or((v6, "none"));
                let address = address.parse::<Ipv6Addr>().map_err(|_| invalid())?;
                if address.is_unicast_link_local() && !v6.contains('%') {
                    return Err(format!(
                        "'{text}' is a link-local address, which every interface has its own of: \
                         expected its interface too, as in [{address}%eth0]:{port}"
                    ));
                }
                !zone.is_empty()
            }
            None => !host.is_empty() && !host.contains([':', '[', ']', '%']),
        };
        let port = port.parse().ok().filter(|port| *port != 0);
        match port {
            Some(port) if is_host => Ok(Self {
                text: text.to_owned(),
                host: bracketed.unwrap_or(host).to_owned(),
                port,
            }),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for CollectorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Options for the sockets of all collectors; what is not set stays as the system has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SocketOptions {
    /// Source addresses, at most one of each family; port 0 is any free one.
    pub sources: Vec<SocketAddr>,
    /// The interface to send from, regardless of the routes.
    pub device: Option<String>,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: Option<u8>,
    /// Time to live, or hop limit for IPv6.
    pub ttl: Option<u8>,
    /// Length of the send buffer, in octets.
    pub send_buffer_octets: Option<usize>,
    /// The longest IP packet, in octets, even if the path carries longer ones.
    pub mtu: Option<u16>,
}

/// A connected UDP socket that never blocks and never fragments. It is connected so that the kernel
/// reports refusals and looks up the route once.
#[derive(Debug)]
pub struct UdpTransport {
    socket: Socket,
    local: SocketAddr,
    peer: SocketAddr,
    mtu_max: Option<u16>,
    /// The segment length that is set: the kernel divides the octets of one call into datagrams of
    /// it. 0 while each call is one datagram; none if the kernel cannot divide.
    segment_octets: Option<usize>,
}

/// Requested for each socket; the kernel grants what net.core.wmem_max allows.
const SEND_BUFFER_OCTETS: usize = 4 << 20;
/// Assumed if the kernel does not report the path's MTU: that of Ethernet.
const PATH_MTU: u32 = 1500;
const UDP_HEADER_OCTETS: usize = 8;
/// Segments of one call (Linux, include/linux/udp.h, UDP_MAX_SEGMENTS; newer kernels accept 128).
const SEGMENTS_MAX: usize = 64;
/// Octets of one call: the longest IP packet, less its headers and some room.
const CALL_OCTETS_MAX: usize = 65_000;

impl UdpTransport {
    /// A socket that sends to `peer`.
    ///
    /// # Errors
    ///
    /// The error of the system, with the option that caused it: no route, no permission, no such
    /// address or interface.
    pub fn connect(peer: SocketAddr, options: &SocketOptions) -> io::Result<Self> {
        let peer = canonical(peer);
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        set_options(&socket, peer, options)?;
        socket.connect(&peer.into())?;
        let end = |address: SockAddr| {
            address
                .as_socket()
                .map(canonical)
                .ok_or_else(|| io::Error::other("the socket has no address"))
        };
        let local = end(socket.local_addr()?)?;
        // The kernel connects an unspecified address (0.0.0.0, ::) to the host itself.
        let peer = end(socket.peer_addr()?)?;
        let segment_octets = setsockopt(&socket, sockopt::UdpGsoSegment, &0)
            .ok()
            .map(|()| 0);
        Ok(Self {
            socket,
            local,
            peer,
            mtu_max: options.mtu,
            segment_octets,
        })
    }

    /// Source address and port of its datagrams.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Destination address and port of its datagrams.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Sets the length in octets of the datagrams that the kernel divides one call into; 0 is one
    /// datagram per call.
    fn set_segment(&mut self, octets: usize) -> io::Result<()> {
        if self.segment_octets.is_some_and(|set| set != octets) {
            setsockopt(
                &self.socket,
                sockopt::UdpGsoSegment,
                &i32::try_from(octets).expect("a datagram has at most 65 507 octets"),
            )?;
            self.segment_octets = Some(octets);
        }
        Ok(())
    }

    fn send_one(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.set_segment(0)?;
        self.socket.send(datagram).map(|_| 1)
    }
}

impl Transport for UdpTransport {
    fn send(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = datagrams.first() else {
            return Ok(0);
        };
        let run = run_of_segments(datagrams);
        if run == 1 || self.segment_octets.is_none() {
            return self.send_one(first);
        }
        let sent = self
            .set_segment(first.len())
            .and_then(|()| self.socket.send_vectored(&datagrams[..run]));
        match sent {
            Ok(_) => Ok(run),
            // Linux: EIO 5 if the interface computes no checksums, EINVAL 22 if a segment is too
            // long or a tunnel cannot divide. If the datagram can be sent alone, dividing was the
            // cause.
            Err(error) if matches!(error.raw_os_error(), Some(5 | 22)) => {
                let sent = self.send_one(first)?;
                self.segment_octets = None;
                Ok(sent)
            }
            Err(error) => Err(error),
        }
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.socket.take_error().ok().flatten()
    }

    fn holds_datagrams(&self) -> bool {
        getsockopt(&self.socket, SocketMemory).is_ok_and(|memory| memory[NOT_LEFT] > 0)
    }

    fn payload_octets_max(&self) -> usize {
        let (path, ip_header_octets) = if self.peer.is_ipv4() {
            (ip_mtu(&self.socket), 20)
        } else {
            (ipv6_mtu(&self.socket), 40)
        };
        let mtu = path
            .unwrap_or(PATH_MTU)
            .min(self.mtu_max.map_or(u32::MAX, u32::from));
        usize::try_from(mtu)
            .unwrap_or(usize::MAX)
            .saturating_sub(ip_header_octets + UDP_HEADER_OCTETS)
    }
}

fn set_options(socket: &Socket, peer: SocketAddr, options: &SocketOptions) -> io::Result<()> {
    // With this the kernel reports unreachable hosts and networks, not only closed ports, and
    // datagrams that a full queue of its own dropped (Linux, net/ipv4/udp.c, __udp4_lib_err and
    // udp_send_skb).
    if peer.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
    }
    let named = |what: String| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
    };
    match options.send_buffer_octets {
        Some(octets) => set_send_buffer(socket, octets)
            .map_err(named(format!("send buffer of {octets} octets")))?,
        // An error is no problem: with a smaller buffer datagrams wait a little more often.
        None => drop(socket.set_send_buffer_size(SEND_BUFFER_OCTETS)),
    }
    if let Some(dscp) = options.dscp {
        // The upper six bits of the octet; the lower two are for congestion notification.
        let octet = u32::from(dscp) << 2;
        if peer.is_ipv4() {
            socket.set_tos_v4(octet)
        } else {
            socket.set_tclass_v6(octet)
        }
        .map_err(named(format!("DSCP {dscp}")))?;
    }
    if let Some(ttl) = options.ttl.map(u32::from) {
        if peer.is_ipv4() {
            socket.set_ttl_v4(ttl)
        } else {
            socket.set_unicast_hops_v6(ttl)
        }
        .map_err(named(format!("TTL {ttl}")))?;
    }
    if let Some(device) = &options.device {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(|error| match error.raw_os_error() {
                // Linux: ENODEV 19 has no stable io::ErrorKind.
                Some(19) => io::Error::new(io::ErrorKind::NotFound, error),
                _ => error,
            })
            .map_err(named(format!("device {device}")))?;
    }
    if let Some(source) = options
        .sources
        .iter()
        .map(|source| canonical(*source))
        .find(|source| source.is_ipv4() == peer.is_ipv4())
    {
        // One port may be the source for several collectors, and for one of them at a new address.
        socket.set_reuse_address(source.port() != 0)?;
        socket
            .bind(&source.into())
            .map_err(named(format!("source {source}")))?;
    }
    Ok(())
}

/// The socket option SO_MEMINFO: what a socket takes of the kernel's memory, by the numbers
/// `SK_MEMINFO_*` (Linux, include/uapi/linux/sock_diag.h).
#[derive(Clone, Copy)]
struct SocketMemory;

type MemoryInfo = [u32; 9];

/// SK_MEMINFO_WMEM_ALLOC: datagrams that were sent and have not left the kernel, in octets with
/// their overhead.
const NOT_LEFT: usize = 2;

nix::getsockopt_impl!(
    SocketMemory,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    MemoryInfo,
    nix::sys::socket::sockopt::GetStruct<MemoryInfo>
);

/// The same address, as an IPv4 address where it is one that is mapped into IPv6 (::ffff:a.b.c.d):
/// its datagrams are IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        // As it is, with its zone.
        IpAddr::V6(_) => address,
    }
}

/// Sets the send buffer: beyond net.core.wmem_max with CAP_NET_ADMIN, otherwise up to it.
fn set_send_buffer(socket: &Socket, octets: usize) -> io::Result<()> {
    setsockopt(socket, sockopt::SndBufForce, &octets).or_else(|_| {
        socket.set_send_buffer_size(octets)?;
        Ok(())
    })
}

/// How many datagrams one call can send: all of one length, except the last, which may be shorter.
fn run_of_segments(datagrams: &[IoSlice<'_>]) -> usize {
    let Some(segment_octets) = datagrams.first().map(|first| first.len()) else {
        return 0;
    };
    let most = SEGMENTS_MAX
        .min(CALL_OCTETS_MAX / segment_octets.max(1))
        .clamp(1, datagrams.len());
    let whole = datagrams[..most]
        .iter()
        .take_while(|datagram| datagram.len() == segment_octets)
        .count();
    let shorter = datagrams[..most]
        .get(whole)
        .is_some_and(|next| next.len() < segment_octets);
    whole + usize::from(shorter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn receiver(address: &str) -> UdpSocket {
        let receiver = UdpSocket::bind(address).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        receiver
    }

    fn receive(receiver: &UdpSocket) -> Vec<u8> {
        let mut datagram = [0; 2_000];
        let octets = receiver.recv(&mut datagram).unwrap();
        datagram[..octets].to_vec()
    }

    /// Sends all, however many calls that takes.
    fn send_all(transport: &mut UdpTransport, datagrams: &[Vec<u8>]) -> Vec<usize> {
        let slices: Vec<_> = datagrams
            .iter()
            .map(|datagram| IoSlice::new(datagram))
            .collect();
        let (mut sent, mut calls) = (0, Vec::new());
        while sent < slices.len() {
            calls.push(transport.send(&slices[sent..]).unwrap());
            sent += calls.last().unwrap();
        }
        calls
    }

    #[test]
    fn a_collector_is_a_name_or_an_address_with_a_port() {
        for good in [
            "172.27.20.3:2055",
            "collector.example:9996",
            "[2001:db8::9]:2055",
            "[fe80::1%eth0]:2055",
            "[fe80::1%2]:2055",
        ] {
            assert_eq!(good.parse::<CollectorAddress>().unwrap().to_string(), good);
        }
        for bad in [
            "172.27.20.3",
            ":2055",
            "host:",
            "host:0",
            "host:65536",
            "2001:db8::9:2055",
            "fe80::1%eth0:2055",
            "[fe80::1%]:2055",
            "[192.0.2.9]:2055",
            "[host]:2055",
            "[2001:db8::9:2055",
            "",
        ] {
            let error = bad.parse::<CollectorAddress>().unwrap_err();
            assert!(error.contains("expected HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_link_local_collector_needs_its_zone_and_is_resolved_with_it() {
        let error = "[fe80::1]:2055".parse::<CollectorAddress>().unwrap_err();
        assert!(error.contains("[fe80::1%eth0]:2055"), "{error}");
        for text in ["[fe80::1%lo]:2055", "[fe80::1%1]:2055"] {
            let collector: CollectorAddress = text.parse().unwrap();
            let Ok(addresses) = collector.resolve() else {
                continue;
            };
            let SocketAddr::V6(address) = addresses[0] else {
                panic!("{addresses:?}")
            };
            assert_eq!((address.scope_id(), address.port()), (1, 2055));
        }
        let nowhere: CollectorAddress = "[fe80::1%nowhere9]:2055".parse().unwrap();
        assert!(nowhere.resolve().is_err());
    }

    #[test]
    fn both_ends_are_those_of_the_datagrams_whatever_the_address_is_written_as() {
        let receiver = receiver("127.0.0.1:0");
        let port = receiver.local_addr().unwrap().port();
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            let collector: CollectorAddress = format!("{host}:{port}").parse().unwrap();
            let address = collector.resolve().unwrap()[0];
            let mapped = "[::ffff:127.0.0.1]:0".parse().unwrap();
            for sources in [vec![], vec![mapped]] {
                let options = SocketOptions {
                    sources,
                    ..SocketOptions::default()
                };
                let mut transport = UdpTransport::connect(address, &options).unwrap();
                send_all(&mut transport, &[vec![7; 72]]);
                let (_, from) = receiver.recv_from(&mut [0; 100]).unwrap();
                assert_eq!(transport.local(), from, "{host}");
                assert_eq!(transport.peer(), receiver.local_addr().unwrap(), "{host}");
            }
        }
    }

    #[test]
    fn datagrams_of_any_lengths_arrive_one_by_one_and_in_order() {
        let receiver = receiver("127.0.0.1:0");
        let mut transport =
            UdpTransport::connect(receiver.local_addr().unwrap(), &SocketOptions::default())
                .unwrap();
        let lengths = [1464, 1464, 1464, 120, 72, 1464, 1464, 1464, 72, 72, 72];
        let datagrams: Vec<_> = (0u8..)
            .zip(lengths)
            .map(|(number, octets)| vec![number; octets])
            .collect();
        let calls = send_all(&mut transport, &datagrams);
        assert_eq!(
            calls,
            [4, 1, 4, 2],
            "a run ends with the first shorter datagram"
        );
        transport.set_segment(0).unwrap();
        transport.segment_octets = None;
        assert_eq!(
            send_all(&mut transport, &datagrams),
            [1; 11],
            "if the kernel cannot divide"
        );
        for expected in datagrams.iter().chain(&datagrams) {
            assert!(&receive(&receiver) == expected);
        }
    }

    #[test]
    fn one_call_takes_no_more_than_an_ip_packet_holds() {
        let (long, short) = ([0; 1464], [0; 72]);
        assert_eq!(run_of_segments(&[IoSlice::new(&long); 100]), 44);
        assert_eq!(run_of_segments(&[IoSlice::new(&short); 100]), 64);
        assert_eq!(
            run_of_segments(&[IoSlice::new(&short), IoSlice::new(&long)]),
            1
        );
        assert_eq!(run_of_segments(&[]), 0);
    }

    #[test]
    fn a_forced_mtu_is_a_limit_and_what_the_path_carries_is_another() {
        let receiver = receiver("127.0.0.1:0");
        let payload = |mtu| {
            let options = SocketOptions {
                mtu,
                ..SocketOptions::default()
            };
            UdpTransport::connect(receiver.local_addr().unwrap(), &options)
                .unwrap()
                .payload_octets_max()
        };
        assert_eq!(payload(Some(1500)), 1472);
        assert!(
            payload(None) > 1472,
            "the loopback interface carries more than Ethernet does"
        );
    }

    #[test]
    fn the_kernel_grants_the_send_buffer_that_was_requested() {
        let to = receiver("127.0.0.1:0").local_addr().unwrap();
        let granted = |send_buffer_octets| {
            let options = SocketOptions {
                send_buffer_octets,
                ..SocketOptions::default()
            };
            UdpTransport::connect(to, &options)
                .unwrap()
                .socket
                .send_buffer_size()
                .unwrap()
        };
        // The kernel adds as much again for its own use, and reports the sum (socket(7)).
        assert_eq!(granted(Some(100_000)), 200_000);
        let allowed = std::fs::read_to_string("/proc/sys/net/core/wmem_max")
            .unwrap()
            .trim()
            .parse::<usize>()
            .unwrap();
        assert_eq!(granted(None), 2 * SEND_BUFFER_OCTETS.min(allowed));
        let beyond = granted(Some(2 * allowed));
        assert!(
            [2 * allowed, 4 * allowed].contains(&beyond),
            "{beyond}: as much as allowed, or all with CAP_NET_ADMIN"
        );
    }

    #[test]
    fn one_port_may_be_the_source_for_two_collectors() {
        let receivers = [receiver("127.0.0.1:0"), receiver("127.0.0.1:0")];
        let free = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let options = SocketOptions {
            sources: vec![free],
            ttl: Some(3),
            dscp: Some(46),
            ..SocketOptions::default()
        };
        let mut transports = receivers
            .each_ref()
            .map(|to| UdpTransport::connect(to.local_addr().unwrap(), &options).unwrap());
        for (transport, receiver) in transports.iter_mut().zip(&receivers) {
            assert_eq!(transport.local(), free);
            send_all(transport, &[vec![7; 72]]);
            assert_eq!(receiver.recv_from(&mut [0; 100]).unwrap(), (72, free));
        }
    }

    #[test]
    fn a_closed_port_answers_what_was_sent_to_it_and_the_next_datagram_goes_out_all_the_same() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(closed) = UdpSocket::bind(address).and_then(|socket| socket.local_addr()) else {
                continue;
            };
            let mut transport = UdpTransport::connect(closed, &SocketOptions::default()).unwrap();
            for length in [72, 1464] {
                let datagrams = vec![vec![7; length]; 44];
                assert!(transport.take_error().is_none());
                send_all(&mut transport, &datagrams);
                let answer = transport.take_error().map(|error| error.kind());
                assert_eq!(
                    answer,
                    Some(io::ErrorKind::ConnectionRefused),
                    "{address}, {length} octets"
                );
            }
        }
    }

    #[test]
    fn an_error_names_the_option_that_caused_it() {
        let to = receiver("127.0.0.1:0").local_addr().unwrap();
        let refused =
            |options: SocketOptions| UdpTransport::connect(to, &options).unwrap_err().to_string();
        let source = "192.0.2.1:0".parse().unwrap();
        let error = refused(SocketOptions {
            sources: vec![source],
            ..SocketOptions::default()
        });
        assert!(error.starts_with("source 192.0.2.1:0: "), "{error}");
        let error = refused(SocketOptions {
            device: Some("nowhere9".to_owned()),
            ..SocketOptions::default()
        });
        assert!(error.starts_with("device nowhere9: "), "{error}");
    }
}
