//! What a node says of itself, for predictions: interfaces, routes, settings, which iptables. Only read.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use labkit::Failure;
use labkit::xtables::Xtables;
use nix::sys::socket::SockaddrStorage;

use super::place;
use crate::explain::Host;

const SETTINGS: [&str; 4] = [
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.conf.all.route_localnet",
];

/// The node that this thread is in.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn host(xtables: &Xtables) -> Result<Host, Failure> {
    Ok(Host {
        interfaces: interfaces()?,
        routes: routes(),
        sysctls: SETTINGS
            .iter()
            .filter_map(|key| Some(((*key).to_string(), setting(key)?)))
            .collect(),
        // Where links cannot be listed, nothing is said of them.
        ports: place::links()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|link| Some((link.name, link.hairpin?)))
            .collect(),
        mixed: xtables.mixed,
    })
}

fn setting(key: &str) -> Option<String> {
    let path: PathBuf = ["/proc/sys", &key.replace('.', "/")].iter().collect();
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

fn interfaces() -> Result<Vec<(String, IpNet)>, Failure> {
    let listed = nix::ifaddrs::getifaddrs()
        .map_err(|error| Failure::failed(format!("cannot list the addresses of the interfaces: {error}")))?;
    let networks = listed.filter_map(|interface| {
        let ip = address(interface.address.as_ref()?)?;
        let mask = address(interface.netmask.as_ref()?)?;
        Some((interface.interface_name, IpNet::with_netmask(ip, mask).ok()?))
    });
    Ok(networks.collect())
}

fn address(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|address| IpAddr::from(address.ip()))
    })
}

/// IPv4 routes, as the kernel lists them: hexadecimal numbers in the byte order of the host.
fn routes() -> Vec<(IpNet, String)> {
    let text = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| {
            Some(Ipv4Addr::from(
                u32::from_str_radix(words.get(at)?, 16).ok()?.to_ne_bytes(),
            ))
        };
        let network = Ipv4Net::with_netmask(number(1)?, number(7)?).ok()?;
        Some((IpNet::V4(network), (*words.first()?).to_string()))
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// The address that the kernel would give a packet of this node to there; nothing is sent.
pub fn source_towards(to: IpAddr) -> Option<IpAddr> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    // A socket for datagrams only remembers where to; port 9 is nobody's.
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}
