//! What the host uses an interface for: what AF_XDP would take away from it.
//!
//! What cannot be read counts as used: a probe that does not know must not take the frames of the
//! host.

use super::sysfs::{entries, sysfs};
use nix::ifaddrs::getifaddrs;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why the host needs the frames of an interface, if it does.
pub fn reason(name: &str) -> Option<String> {
    match addresses_on(&[name.to_owned()]) {
        Err(error) => {
            return Some(format!(
                "the host's addresses cannot be read ({error}), so one may be on it"
            ));
        }
        Ok(addresses) => {
            if let Some(address) = addresses.first() {
                return Some(format!("the host has the address {address} on it"));
            }
        }
    }
    if fs::read_dir(sysfs(name)).is_err() {
        let path = sysfs(name);
        return Some(format!(
            "{} cannot be read, so a bridge, bond or VLAN may use it",
            path.display()
        ));
    }
    uppers(name)
        .next()
        .map(|upper| format!("'{upper}' uses it"))
}

/// What can no longer be reached through an interface whose frames are taken: the host's addresses
/// on it and on what uses it, routes through it, and ssh connections to these addresses.
pub fn goes_dark(name: &str) -> Vec<String> {
    let names = with_uppers(name);
    let addresses = match addresses_on(&names) {
        Ok(addresses) => addresses,
        Err(error) => return vec![format!("its addresses, which cannot be read ({error})")],
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut dark: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    for name in &names {
        dark.extend(routes_v4(&read("/proc/net/route"), name));
        dark.extend(routes_v6(&read("/proc/net/ipv6_route"), name));
    }
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let mut clients = Vec::from_iter(ssh_client(&connection, &addresses));
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        clients.extend(ssh_clients(&read(table), &addresses));
    }
    clients.sort_unstable();
    clients.dedup();
    dark.extend(
        clients
            .iter()
            .map(|client| format!("the ssh connection from {client}")),
    );
    dark
}

/// The host's addresses on these interfaces. Link-local IPv6 addresses do not count: every
/// interface that is up has one, taps too.
fn addresses_on(names: &[String]) -> nix::Result<Vec<IpAddr>> {
    let on_them = getifaddrs()?.filter(|entry| names.contains(&entry.interface_name));
    let addresses = on_them.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address
            .as_sockaddr_in6()
            .map(nix::sys::socket::SockaddrIn6::ip);
        v4.or(v6
            .filter(|address| !address.is_unicast_link_local())
            .map(IpAddr::V6))
    });
    Ok(addresses.collect())
}

/// The interfaces that use this one directly: a bridge, a bond, VLANs.
fn uppers(name: &str) -> impl Iterator<Item = String> + use<> {
    entries(&sysfs(name)).filter_map(|entry| entry.strip_prefix("upper_").map(str::to_owned))
}

/// The interface, and all that use it in any number of steps.
fn with_uppers(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let mut next = 0;
    while let Some(name) = names.get(next) {
        let new: Vec<_> = uppers(name)
            .filter(|upper| !names.contains(upper))
            .collect();
        names.extend(new);
        next += 1;
    }
    names
}

/// Flag of a route through a gateway (linux/route.h).
const RTF_GATEWAY: u32 = 2;

/// Routes through gateways on an interface in /proc/net/route, whose addresses are numbers in the
/// machine's byte order.
fn routes_v4(table: &str, name: &str) -> Vec<String> {
    let route = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [interface, to, gateway, flags, .., mask, _, _, _] = columns[..] else {
            return None;
        };
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        let address = |text: &str| hex(text).map(|bits| Ipv4Addr::from(bits.to_ne_bytes()));
        if interface != name || hex(flags)? & RTF_GATEWAY == 0 {
            return None;
        }
        let length = hex(mask)?.count_ones();
        let gateway = address(gateway)?;
        Some(if length == 0 {
            format!("the default route via {gateway}")
        } else {
            format!("the route to {}/{length} via {gateway}", address(to)?)
        })
    };
    table.lines().filter_map(route).collect()
}

/// The same in /proc/net/ipv6_route, whose addresses are hexadecimal octets.
fn routes_v6(table: &str, name: &str) -> Vec<String> {
    let route = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [to, length, _, _, gateway, _, _, _, flags, interface] = columns[..] else {
            return None;
        };
        let address = |text: &str| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from);
        if interface != name || u32::from_str_radix(flags, 16).ok()? & RTF_GATEWAY == 0 {
            return None;
        }
        let length = u8::from_str_radix(length, 16).ok()?;
        let gateway = address(gateway)?;
        Some(if length == 0 {
            format!("the IPv6 default route via {gateway}")
        } else {
            format!("the route to {}/{length} via {gateway}", address(to)?)
        })
    };
    table.lines().filter_map(route).collect()
}

/// The client of the ssh connection that this process runs in, if it came to one of `addresses`:
/// `SSH_CONNECTION` has client, port, server, port.
fn ssh_client(connection: &str, addresses: &[IpAddr]) -> Option<IpAddr> {
    let mut words = connection.split(' ');
    let (client, server) = (words.next()?.parse().ok()?, words.nth(1)?.parse().ok()?);
    addresses.contains(&server).then_some(client)
}

/// The clients of established connections to port 22 of `addresses`, in /proc/net/tcp or tcp6. sudo
/// takes `SSH_CONNECTION` away.
fn ssh_clients(table: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
    const ESTABLISHED: &str = "01";
    let client = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
        let (local, port) = local.split_once(':')?;
        let (remote, _) = remote.split_once(':')?;
        let is_ssh = state == ESTABLISHED
            && u16::from_str_radix(port, 16) == Ok(22)
            && addresses.contains(&socket_address(local)?);
        is_ssh.then(|| socket_address(remote)).flatten()
    };
    table.lines().filter_map(client).collect()
}

/// An address of /proc/net/tcp: 32-bit words in the machine's byte order.
fn socket_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    if text.len() == 8 {
        return Some(IpAddr::from(word(0)?));
    }
    let mut octets = [0; 16];
    for (at, into) in octets.chunks_exact_mut(4).enumerate() {
        into.copy_from_slice(&word(at)?);
    }
    Some(IpAddr::from(octets).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_through_gateways_are_named_and_those_of_the_link_are_not() {
        let v4 =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t0002A8C0\t0100000A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t00000000\t0101000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
";
        assert_eq!(
            routes_v4(v4, "eth0"),
            [
                "the default route via 10.0.0.1",
                "the route to 192.168.2.0/24 via 10.0.0.1"
            ]
        );
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 \
             00000003     eth0\n{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       \
             lo\n"
        );
        assert_eq!(
            routes_v6(&v6, "eth0"),
            ["the IPv6 default route via fe80::1"]
        );
        assert!(routes_v6(&v6, "lo").is_empty());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn ssh_connections_to_the_addresses_are_named_by_their_clients() {
        let addresses: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap()];
        let tcp = "  sl  local_address rem_address   st
   0: 0500000A:0016 0900000A:D431 01 00000000:00000000
   1: 0500000A:0016 0800000A:D431 06 00000000:00000000
   2: 0500000A:0050 0700000A:D431 01 00000000:00000000
   3: 0600000A:0016 0600000A:D431 01 00000000:00000000
";
        let client: IpAddr = "10.0.0.9".parse().unwrap();
        assert_eq!(ssh_clients(tcp, &addresses), [client]);
        // sshd listens on IPv6 sockets.
        let mapped = "0000000000000000FFFF0000";
        let tcp6 = format!("0: {mapped}0500000A:0016 {mapped}0900000A:D431 01\n");
        assert_eq!(ssh_clients(&tcp6, &addresses), [client]);
        assert_eq!(
            ssh_client("10.0.0.9 54321 10.0.0.5 22", &addresses),
            Some(client)
        );
        assert_eq!(ssh_client("10.0.0.9 54321 10.0.0.6 22", &addresses), None);
        assert_eq!(ssh_client("", &addresses), None);
    }
}
