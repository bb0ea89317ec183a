//! IP addresses and networks as Kubernetes reads them.
//!
//! Go's old parser took `010.1.2.3` for 10.1.2.3, and objects written then still stand in clusters:
//! kube-proxy reads them so to this day (`netutils.ParseIPSloppy`). Rust, as newer Go, refuses them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Reads an address; leading zeros are decimal, and an IPv4 address in IPv6 clothes is IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let ip: Ipv6Addr = text.parse().ok()?;
        return Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = number(parts.next()?)?.try_into().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

/// Reads a network as `address/length`; host bits may be set and are kept.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let length = u8::try_from(number(length)?).ok()?;
    match parse_ip(address)? {
        IpAddr::V4(ip) if address.contains(':') => {
            Some(IpNet::V4(Ipv4Net::new(ip, length.checked_sub(96)?).ok()?))
        }
        IpAddr::V4(ip) => Some(IpNet::V4(Ipv4Net::new(ip, length).ok()?)),
        IpAddr::V6(ip) => Some(IpNet::V6(Ipv6Net::new(ip, length).ok()?)),
    }
}

/// Digits only: no sign, no space.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        let cases = [
            ("10.0.0.1", Some("10.0.0.1")),
            ("010.020.0.009", Some("10.20.0.9")),
            ("fd00:0010::0001", Some("fd00:10::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            (" 10.0.0.1", None),
            ("10.0.0.256", None),
            ("10.0.1", None),
            ("10.0.0.1.2", None),
            ("10.0.0.+1", None),
            ("fe80::1%eth0", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let read = parse_ip(text).map(|ip| ip.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn networks_need_a_length_that_fits() {
        let cases = [
            ("10.1.2.3/8", Some("10.1.2.3/8")),
            ("010.0.0.0/08", Some("10.0.0.0/8")),
            ("fd00::/48", Some("fd00::/48")),
            ("10.0.0.0", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/ 8", None),
            ("fd00::/129", None),
            ("garbage", None),
        ];
        for (text, expected) in cases {
            let read = parse_network(text).map(|network| network.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
