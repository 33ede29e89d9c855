//! A UDP socket that is read in bursts: one system call receives up to 64 datagrams from a large
//! receive buffer.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, setsockopt, sockopt};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The most datagrams of one burst.
pub const BURST_DATAGRAMS: usize = 64;
/// Size in octets to request for the socket's receive buffer: more than a second at 1 million
/// records a second.
pub const SOCKET_BUFFER_OCTETS: usize = 64 * 1024 * 1024;

/// Octets received of a datagram. A valid datagram is shorter, so that a longer one, which is cut
/// here, is refused for its length.
const DATAGRAM_OCTETS: usize = 2048;
const _: () = assert!(DATAGRAM_OCTETS > xdprobe_netflow::wire::DATAGRAM_OCTETS_MAX);

/// A bound UDP socket and the last burst received from it.
#[derive(Debug)]
pub struct Receiver {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrStorage>,
    octets: Box<[u8]>,
    burst: Vec<(SocketAddr, usize)>,
}

impl Receiver {
    /// Binds to `address`, with a receive buffer of `buffer_octets`, or less if the system limits
    /// it.
    ///
    /// # Errors
    ///
    /// If the address is in use or is not this host's.
    pub fn bind(address: SocketAddr, buffer_octets: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        // Root can exceed net.core.rmem_max; others get at most that.
        if setsockopt(&socket, sockopt::RcvBufForce, &buffer_octets).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &buffer_octets)?;
        }
        Ok(Self {
            socket,
            headers: MultiHeaders::preallocate(BURST_DATAGRAMS, None),
            octets: vec![0; BURST_DATAGRAMS * DATAGRAM_OCTETS].into_boxed_slice(),
            burst: Vec::with_capacity(BURST_DATAGRAMS),
        })
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// If the system call fails.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Size of the receive buffer in octets. The system's own overhead is counted in it: a datagram
    /// takes two to three times its payload.
    ///
    /// # Errors
    ///
    /// If the system call fails.
    pub fn buffer_octets(&self) -> io::Result<usize> {
        Ok(nix::sys::socket::getsockopt(&self.socket, sockopt::RcvBuf)?)
    }

    /// Datagrams that the system has dropped since the socket was bound because the receive buffer
    /// was full.
    ///
    /// # Errors
    ///
    /// If the system's table of sockets cannot be read or does not contain the socket.
    pub fn datagrams_dropped(&self) -> io::Result<u64> {
        let table = if self.local_addr()?.is_ipv4() {
            "/proc/self/net/udp"
        } else {
            "/proc/self/net/udp6"
        };
        let inode = nix::sys::stat::fstat(&self.socket)?.st_ino.to_string();
        drops_of(&std::fs::read_to_string(table)?, &inode)
            .ok_or_else(|| io::Error::other(format!("{table} has no count for inode {inode}")))
    }

    /// Waits until a datagram has arrived, a signal arrives or `timeout` is over, and returns
    /// whether a datagram has arrived.
    ///
    /// # Errors
    ///
    /// If the system call fails.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut sockets, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives up to [`BURST_DATAGRAMS`] datagrams without waiting, and returns how many.
    ///
    /// # Errors
    ///
    /// If the system call fails.
    pub fn receive(&mut self) -> io::Result<usize> {
        self.burst.clear();
        let mut slices: [[IoSliceMut; 1]; BURST_DATAGRAMS] = {
            let mut octets = self.octets.chunks_exact_mut(DATAGRAM_OCTETS);
            std::array::from_fn(|_| {
                let room = octets.next().expect("each datagram of a burst has room");
                [IoSliceMut::new(room)]
            })
        };
        let received = recvmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        match received {
            Ok(datagrams) => {
                self.burst
                    .extend(datagrams.map(|datagram| (sender(datagram.address), datagram.bytes)));
                Ok(self.burst.len())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// The datagrams of the last burst, each with its sender's address and port.
    pub fn burst(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let datagrams = self.octets.chunks_exact(DATAGRAM_OCTETS);
        self.burst
            .iter()
            .zip(datagrams)
            .map(|((sender, octets), datagram)| (*sender, &datagram[..*octets]))
    }
}

/// The sender's address and port. IPv4 addresses that an IPv6 socket maps to IPv6 are mapped back.
fn sender(address: Option<SockaddrStorage>) -> SocketAddr {
    let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let Some(address) = address else {
        return unknown;
    };
    if let Some(address) = address.as_sockaddr_in() {
        return (address.ip(), address.port()).into();
    }
    address.as_sockaddr_in6().map_or(unknown, |address| {
        (IpAddr::V6(address.ip()).to_canonical(), address.port()).into()
    })
}

/// The column `drops` in the row of `inode` in the table of /proc/net/udp (Linux, net/ipv4/udp.c,
/// udp4_format_sock).
fn drops_of(table: &str, inode: &str) -> Option<u64> {
    const INODE: usize = 9;
    const DROPS: usize = 12;
    let line = table
        .lines()
        .find(|line| line.split_ascii_whitespace().nth(INODE) == Some(inode))?;
    line.split_ascii_whitespace().nth(DROPS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Receiver {
        Receiver::bind((Ipv4Addr::LOCALHOST, 0).into(), 1 << 20).unwrap()
    }

    #[test]
    fn receives_bursts_with_their_senders() {
        let mut receiver = loopback();
        assert_eq!(receiver.receive().unwrap(), 0);
        assert!(!receiver.wait(Duration::ZERO).unwrap());
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for length in 0..70 {
            sender
                .send_to(&vec![7; length], receiver.local_addr().unwrap())
                .unwrap();
        }
        assert!(receiver.wait(Duration::from_secs(5)).unwrap());
        assert_eq!(receiver.receive().unwrap(), BURST_DATAGRAMS);
        for (length, (from, datagram)) in receiver.burst().enumerate() {
            assert_eq!(
                (from, datagram),
                (sender.local_addr().unwrap(), &vec![7; length][..])
            );
        }
        assert_eq!(receiver.receive().unwrap(), 6);
        assert_eq!(receiver.burst().count(), 6);
        assert_eq!(receiver.receive().unwrap(), 0);
        assert_eq!(receiver.burst().count(), 0);
    }

    #[test]
    fn counts_what_a_full_buffer_drops() {
        let receiver = Receiver::bind((Ipv4Addr::LOCALHOST, 0).into(), 4096).unwrap();
        assert_eq!(receiver.datagrams_dropped().unwrap(), 0);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..200 {
            sender
                .send_to(&[0; 1000], receiver.local_addr().unwrap())
                .unwrap();
        }
        assert!(receiver.datagrams_dropped().unwrap() > 100);
    }

    #[test]
    fn senders_through_a_socket_of_both_families_are_ipv4() {
        let mut receiver =
            Receiver::bind((std::net::Ipv6Addr::UNSPECIFIED, 0).into(), 1 << 20).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).unwrap();
        let from = sender.local_addr().unwrap().port();
        assert!(receiver.wait(Duration::from_secs(5)).unwrap());
        receiver.receive().unwrap();
        assert_eq!(
            receiver.burst().next(),
            Some(((Ipv4Addr::LOCALHOST, from).into(), &b"x"[..]))
        );
    }

    #[test]
    fn reads_the_drops_of_one_socket_from_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
            retrnsmt   uid  timeout inode ref \
             pointer drops\n 12: 0100007F:115C 00000000:0000 07 00000000:00000000 00:00000000 \
             00000000     0        0 \
             4711 2 0000000000000000 93\n";
        assert_eq!(drops_of(table, "4711"), Some(93));
        assert_eq!(drops_of(table, "4712"), None);
    }
}
