//! What a place says of itself: the links of a node, how full its connection table is, who listens in
//! a pod. Only read.

use std::fs;
use std::io;

use labkit::netlink::{self, attribute};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::why::evidence::Link;

// Layout and numbers: the kernel's `include/uapi/linux/rtnetlink.h`, `if_link.h` and `if.h`.
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFF_UP: u32 = 1;

/// The links of the network namespace that this thread is in.
///
/// # Errors
/// What the kernel answered.
pub fn links() -> io::Result<Vec<Link>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut links = Vec::new();
    netlink::dump(&socket, RTM_GETLINK, 1, &[0; IFINFOMSG], |answer| {
        links.extend(link(answer.body));
    })?;
    Ok(links)
}

fn link(body: &[u8]) -> Option<Link> {
    let (header, attributes) = body.split_at_checked(IFINFOMSG)?;
    let flags = netlink::ne32(header.get(8..)?)?;
    let name = attribute(attributes, IFLA_IFNAME)?;
    let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_SLAVE_KIND).unwrap_or_default();
    let is_port = kind.strip_suffix(&[0]).unwrap_or(kind) == b"bridge";
    let mode = attribute(info, IFLA_INFO_SLAVE_DATA)
        .filter(|_| is_port)
        .and_then(|data| attribute(data, IFLA_BRPORT_MODE));
    Some(Link {
        name: String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(),
        up: flags & IFF_UP != 0,
        is_port,
        hairpin: mode.and_then(|mode| mode.first()).map(|mode| *mode != 0),
    })
}

/// Entries of the connection table, and how many it can hold.
pub fn conntrack() -> Option<(u64, u64)> {
    let read = |name: &str| -> Option<u64> {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    read("count").zip(read("max"))
}

/// The TCP ports that somebody listens on.
pub fn listening() -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    let mut any = false;
    for file in ["tcp", "tcp6"] {
        if let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            any = true;
            ports.extend(text.lines().skip(1).filter_map(listener));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    any.then_some(ports)
}

/// `0: 00000000:1F90 00000000:0000 0A …`: the state 0A is LISTEN.
fn listener(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace().skip(1);
    let (_, port) = words.next()?.rsplit_once(':')?;
    (words.nth(1)? == "0A").then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let listening = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:0";
        assert_eq!(listener(listening), Some(8080));
        assert_eq!(listener(&listening.replace("0A", "01")), None);
        assert_eq!(listener("garbage"), None);
    }

    #[test]
    fn a_cut_message_is_no_link() {
        for length in 0..40 {
            assert_eq!(link(&vec![0; length]), None);
        }
    }
}
