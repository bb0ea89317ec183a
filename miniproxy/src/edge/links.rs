//! The kernel's own addresses and its links, over netlink.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/rtnetlink.h` and `if_link.h`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use labkit::Failure;
use labkit::netlink::{self, attribute};
use labkit::xtables::Family;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

use crate::conntrack::NodeAddresses;

const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
const IFINFOMSG: usize = 16;
const RTMSG: usize = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const RTA_DST: u16 = 1;
const RT_TABLE_LOCAL: u8 = 255;
const RTN_LOCAL: u8 = 2;

/// What this node answers for itself, as `--dst-type LOCAL` asks: not only the addresses of interfaces.
///
/// # Errors
/// When they cannot be listed.
pub fn own_addresses(family: Family) -> Result<NodeAddresses, Failure> {
    let failed = |error| Failure::failed(format!("cannot list this node's own addresses: {error}"));
    let family = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let family = u8::try_from(family).unwrap_or_default();
    local_networks(family)
        .map(|networks| networks.into_iter().collect())
        .map_err(failed)
}

fn local_networks(family: u8) -> io::Result<Vec<IpNet>> {
    let socket = open()?;
    // So that the kernel heeds the table: a router may have a million routes in others.
    let strict = socket.set_netlink_get_strict_chk(true).is_ok();
    let mut asked = [0; RTMSG];
    asked[0] = family;
    if strict {
        asked[4] = RT_TABLE_LOCAL;
        asked[7] = RTN_LOCAL;
    }
    let mut networks = Vec::new();
    netlink::dump(&socket, RTM_GETROUTE, 1, &asked, |answer| {
        networks.extend(local_network(answer.body));
    })?;
    Ok(networks)
}

fn local_network(route: &[u8]) -> Option<IpNet> {
    let (header, attributes) = route.split_at_checked(RTMSG)?;
    if header[7] != RTN_LOCAL {
        return None;
    }
    let bytes = attribute(attributes, RTA_DST)?;
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let ip = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into()));
    IpNet::new(ip.ok()?, header[1]).ok()
}

/// Whether there is a bridge in this network namespace.
pub fn has_bridge() -> bool {
    let ask = || -> io::Result<bool> {
        let mut asked = vec![0; IFINFOMSG];
        netlink::put_nested(&mut asked, IFLA_LINKINFO, |info| {
            netlink::put(info, IFLA_INFO_KIND, b"bridge");
        });
        let mut found = false;
        netlink::dump(&open()?, RTM_GETLINK, 1, &asked, |answer| {
            found |= is_bridge(answer.body).unwrap_or(false);
        })?;
        Ok(found)
    };
    ask().unwrap_or(false)
}

fn is_bridge(link: &[u8]) -> Option<bool> {
    let info = attribute(link.get(IFINFOMSG..)?, IFLA_LINKINFO)?;
    let kind = attribute(info, IFLA_INFO_KIND)?;
    Some(kind.strip_suffix(&[0]).unwrap_or(kind) == b"bridge")
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_own_address() {
        // Of whatever network namespace this runs in; nothing is changed.
        let own: NodeAddresses = local_networks(2).unwrap().into_iter().collect();
        let up = std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap_or_default();
        assert_eq!(
            own.contains(IpAddr::from([127, 0, 0, 1])),
            up.contains("127.0.0.0")
        );
        assert!(!own.contains(IpAddr::from([203, 0, 113, 99])));
    }

    #[test]
    fn a_cut_message_is_no_link_and_no_route() {
        for length in 0..40 {
            let _ = is_bridge(&vec![0; length]);
            let _ = local_network(&vec![RTN_LOCAL; length]);
        }
    }
}
