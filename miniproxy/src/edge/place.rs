//! What a place says of itself: the links of a node, how full its connection table is, who listens in
//! a pod. Only read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use labkit::netlink::{self, attribute};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::why::evidence::{Link, Redirects};

// Layout and numbers: the kernel's `include/uapi/linux/rtnetlink.h`, `if_link.h` and `if.h`.
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFF_UP: u32 = 1;
// `include/uapi/linux/ipv6_route.h` and `route.h`.
const RTF_REJECT: u32 = 0x200;
const RTF_CACHE: u32 = 0x0100_0000;

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

/// The IPv6 routes that lead somewhere.
pub fn routes6() -> Vec<(IpNet, String)> {
    let text = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    text.lines().filter_map(route6).collect()
}

/// `fd00…0000 40 0000… 00 GATEWAY METRIC REFERENCES USE FLAGS DEVICE`, all hexadecimal.
fn route6(line: &str) -> Option<(IpNet, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ip = Ipv6Addr::from_bits(u128::from_str_radix(words.first()?, 16).ok()?);
    let length = u8::from_str_radix(words.get(1)?, 16).ok()?;
    let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
    let network = IpNet::new(IpAddr::V6(ip), length).ok()?;
    let device = (*words.get(9)?).to_string();
    (flags & (RTF_REJECT | RTF_CACHE) == 0).then_some((network, device))
}

/// How this node tells senders of shorter ways; nothing where it does not say.
pub fn redirects() -> Redirects {
    let on = fs::read_dir("/proc/sys/net/ipv4/conf")
        .into_iter()
        .flatten()
        .flatten();
    let on = on.filter(|entry| {
        fs::read_to_string(entry.path().join("send_redirects")).is_ok_and(|value| value.trim() == "1")
    });
    let on: BTreeSet<String> = on
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default();
    Redirects {
        sent: icmp(&text, "OutRedirects").unwrap_or(0),
        on,
    }
}

/// A figure of the line `Icmp: …`, by its name in the line above.
fn icmp(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp: "));
    let (names, figures) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|known| known == name)?;
    figures.split(' ').nth(at)?.parse().ok()
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
    fn routes_that_lead_nowhere_are_none() {
        assert_eq!(route6("fd00 40"), None);
        let zero = "0".repeat(32);
        let line = |flags: &str| {
            format!("fd000010000000010000000000000000 40 {zero} 00 {zero} 00000400 1 0 {flags} cni0")
        };
        let found = route6(&line("00000001")).unwrap();
        assert_eq!(
            (found.0.to_string().as_str(), found.1.as_str()),
            ("fd00:10:0:1::/64", "cni0")
        );
        assert_eq!(route6(&line("00200200")), None);
    }

    #[test]
    fn a_figure_is_found_by_its_name() {
        let text = "Ip: a\nIp: 1\nIcmp: InMsgs OutRedirects\nIcmp: 4 7\n";
        assert_eq!(icmp(text, "OutRedirects"), Some(7));
        assert_eq!(icmp(text, "Nothing"), None);
        assert_eq!(icmp("", "OutRedirects"), None);
    }

    #[test]
    fn a_cut_message_is_no_link() {
        for length in 0..40 {
            assert_eq!(link(&vec![0; length]), None);
        }
    }
}
