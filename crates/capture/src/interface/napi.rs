//! The NAPI instances of an interface, which poll its queues, and how they defer interrupts: the
//! generic netlink family `netdev` (Documentation/netlink/specs/netdev.yaml), from Linux 6.13 on.

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Access to the NAPI instances of one interface.
pub struct Napis {
    socket: OwnedFd,
    family: u16,
    index: u32,
}

/// A NAPI instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Napi {
    /// Its number.
    pub id: u32,
    /// How it defers interrupts.
    pub deferral: Deferral,
}

/// For how long the interrupts of a NAPI instance stay off while a reader polls it
/// (Documentation/networking/napi.rst).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Deferral {
    /// Polls without a frame before interrupts are enabled.
    pub polls: u32,
    /// The time between two of them, in ns.
    pub timeout_ns: u64,
}

// linux/genetlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
// linux/netdev.h.
const NETDEV_CMD_NAPI_GET: u8 = 11;
const NETDEV_CMD_NAPI_SET: u8 = 14;
const NETDEV_A_NAPI_IFINDEX: u16 = 1;
const NETDEV_A_NAPI_ID: u16 = 2;
const NETDEV_A_NAPI_DEFER_HARD_IRQS: u16 = 5;
const NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT: u16 = 6;

/// Octets of struct nlmsghdr, struct genlmsghdr and struct nlattr.
const NLMSGHDR: usize = 16;
const GENLMSGHDR: usize = 4;
const NLATTR: usize = 4;
/// Answers come in datagrams of at most this many octets (NLMSG_GOODSIZE, rounded up).
const ANSWER_OCTETS_MAX: usize = 32_768;

impl Napis {
    /// The NAPI instances of the interface with this ifIndex. `None` where the kernel has no
    /// settings for each of them, or lists none, as while the interface is down.
    pub fn of(index: u32) -> Option<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )
        .ok()?;
        let mut this = Self {
            socket,
            family: GENL_ID_CTRL,
            index,
        };
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let found = this.ask(CTRL_CMD_GETFAMILY, libc::NLM_F_ACK, &name).ok()?;
        let family = found.first()?.number(CTRL_ATTR_FAMILY_ID)?;
        this.family = u16::try_from(family).ok()?;
        this.list().ok()?.first()?;
        Some(this)
    }

    /// Each instance; those without settings of their own are left out.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn list(&self) -> io::Result<Vec<Napi>> {
        let index = attribute(NETDEV_A_NAPI_IFINDEX, &self.index.to_ne_bytes());
        let found = self.ask(NETDEV_CMD_NAPI_GET, libc::NLM_F_DUMP, &index)?;
        let napi = |message: &Message| {
            let polls = message.number(NETDEV_A_NAPI_DEFER_HARD_IRQS)?;
            Some(Napi {
                id: u32::try_from(message.number(NETDEV_A_NAPI_ID)?).ok()?,
                deferral: Deferral {
                    polls: u32::try_from(polls).ok()?,
                    timeout_ns: message.number(NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT)?,
                },
            })
        };
        Ok(found.iter().filter_map(napi).collect())
    }

    /// Sets how an instance defers interrupts.
    ///
    /// # Errors
    ///
    /// The kernel's error.
    pub fn set(&self, id: u32, deferral: Deferral) -> io::Result<()> {
        let attributes = [
            attribute(NETDEV_A_NAPI_ID, &id.to_ne_bytes()),
            attribute(NETDEV_A_NAPI_DEFER_HARD_IRQS, &deferral.polls.to_ne_bytes()),
            attribute(
                NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT,
                &deferral.timeout_ns.to_ne_bytes(),
            ),
        ];
        self.ask(NETDEV_CMD_NAPI_SET, libc::NLM_F_ACK, &attributes.concat())
            .map(drop)
    }

    /// Sends a request and returns the messages of its answer.
    fn ask(&self, command: u8, how: libc::c_int, attributes: &[u8]) -> io::Result<Vec<Message>> {
        let flags = u16::try_from(libc::NLM_F_REQUEST | how).map_err(io::Error::other)?;
        let length =
            u32::try_from(NLMSGHDR + GENLMSGHDR + attributes.len()).map_err(io::Error::other)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(self.family.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        // Number and sender of the request: it is the only one on its socket.
        request.extend([0; 8]);
        // Command, version 1, and two octets that are reserved.
        request.extend([command, 1, 0, 0]);
        request.extend(attributes);
        let (socket, kernel) = (self.socket.as_raw_fd(), NetlinkAddr::new(0, 0));
        sendto(socket, &request, &kernel, MsgFlags::empty())?;
        let (mut messages, mut answer) = (Vec::new(), vec![0; ANSWER_OCTETS_MAX]);
        loop {
            let octets = recv(socket, &mut answer, MsgFlags::empty())?;
            let mut rest = &answer[..octets];
            while let Some((kind, body)) = next_message(&mut rest) {
                match libc::c_int::from(kind) {
                    libc::NLMSG_DONE => return Ok(messages),
                    libc::NLMSG_ERROR => {
                        let errno = body
                            .first_chunk()
                            .map_or(0, |code| i32::from_ne_bytes(*code));
                        return match errno {
                            0 => Ok(messages),
                            errno => Err(io::Error::from_raw_os_error(-errno)),
                        };
                    }
                    _ => messages.push(Message(body.get(GENLMSGHDR..).unwrap_or(&[]).to_vec())),
                }
            }
        }
    }
}

/// The attributes of a message.
struct Message(Vec<u8>);

impl Message {
    /// The value of an attribute that is an integer of 16, 32 or 64 bits.
    fn number(&self, attribute: u16) -> Option<u64> {
        let mut rest = self.0.as_slice();
        while let Some((kind, value)) = next_attribute(&mut rest) {
            if kind != attribute {
                continue;
            }
            return match *value {
                [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
                [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
                _ => Some(u64::from_ne_bytes(value.try_into().ok()?)),
            };
        }
        None
    }
}

/// Takes a message from its datagram: its kind, and what follows its header.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = u32::from_ne_bytes(*rest.first_chunk()?);
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    Some((kind, take(rest, usize::try_from(length).ok()?, NLMSGHDR)?))
}

/// Takes an attribute from its message: its kind without flags, and its value.
fn next_attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    /// linux/netlink.h: the kind without its two flags.
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let length = u16::from_ne_bytes(*rest.first_chunk()?);
    let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
    Some((kind, take(rest, length.into(), NLATTR)?))
}

/// Takes so many octets, padded to 4, and returns those behind the header.
fn take<'a>(rest: &mut &'a [u8], length: usize, header: usize) -> Option<&'a [u8]> {
    let whole = *rest;
    *rest = whole.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    whole.get(header..length)
}

/// An attribute as it is in a message, padded to 4 octets.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(NLATTR + value.len()).expect("attributes here are short");
    let mut attribute = length.to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_each_length_are_found_among_other_attributes() {
        let attributes = [
            attribute(9, b"netdev\0"),
            attribute(1, &7u16.to_ne_bytes()),
            attribute(2, &70_000u32.to_ne_bytes()),
            attribute(3, &(1u64 << 40).to_ne_bytes()),
        ];
        let message = Message(attributes.concat());
        assert_eq!(message.number(1), Some(7));
        assert_eq!(message.number(2), Some(70_000));
        assert_eq!(message.number(3), Some(1 << 40));
        assert_eq!(message.number(4), None);
        assert_eq!(message.number(9), None);
    }

    #[test]
    fn a_message_that_is_cut_or_of_no_length_ends_the_reading() {
        let whole = attribute(2, &70_000u32.to_ne_bytes());
        for octets in 0..whole.len() {
            assert_eq!(Message(whole[..octets].to_vec()).number(2), None);
        }
        assert_eq!(Message(vec![0; 64]).number(2), None);
        assert!(next_message(&mut &[0; 64][..]).is_none());
    }

    #[test]
    fn an_interface_that_does_not_exist_has_no_instances() {
        assert!(Napis::of(i32::MAX.unsigned_abs()).is_none());
    }
}
