//! What several fields have in common: numbers, addresses and choices.

use std::fmt::Arguments;
use std::net::IpAddr;

use super::Checked;
use crate::address::parse_ip;
use crate::model::Protocol;
use crate::registry::parse::Item;

pub(super) fn check_choice(
    item: &Item<'_>,
    field: Arguments<'_>,
    value: Option<&str>,
    allowed: &[&str],
) -> Checked {
    match value {
        // Old objects carry empty text where newer ones leave the field out.
        None | Some("") => Ok(()),
        Some(value) if allowed.contains(&value) => Ok(()),
        Some(value) => Err(item.problem(field, format!("{value:?}"), allowed.join(" or "))),
    }
}

pub(super) fn check_port(item: &Item<'_>, field: Arguments<'_>, port: i32) -> Checked {
    if (1..=65_535).contains(&port) {
        return Ok(());
    }
    Err(item.problem(field, format!("port {port}"), "1 to 65535"))
}

pub(super) fn check_node_port(item: &Item<'_>, field: Arguments<'_>, port: Option<i32>) -> Checked {
    match port {
        // The API server writes 0 for "none".
        None | Some(0) => Ok(()),
        Some(port) => check_port(item, field, port),
    }
}

pub(super) fn check_protocol(item: &Item<'_>, field: Arguments<'_>, protocol: &str) -> Checked {
    match Protocol::parse(protocol) {
        Some(_) => Ok(()),
        None => Err(item.problem(field, format!("protocol {protocol:?}"), "TCP, UDP or SCTP")),
    }
}

pub(super) fn check_ip(item: &Item<'_>, field: Arguments<'_>, address: &str) -> Checked {
    match parse_ip(address) {
        Some(_) => Ok(()),
        None => Err(item.problem(field, format!("{address:?}"), "an IP address")),
    }
}

/// An address that means "this host", "everybody" or nobody cannot be a Service's or a pod's.
pub(super) fn check_usable(item: &Item<'_>, field: Arguments<'_>, ip: IpAddr) -> Checked {
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        let expected = "a unicast address that is not of this host alone";
        return Err(item.problem(field, format!("{ip} cannot be sent to from elsewhere"), expected));
    }
    Ok(())
}

/// As the API server takes the addresses that traffic is sent on to, or taken in at.
pub(super) fn check_reachable(item: &Item<'_>, field: Arguments<'_>, ip: IpAddr) -> Checked {
    if is_link_local(ip) {
        let expected = "an address that is valid beyond one link (no 169.254.0.0/16, no fe80::/10)";
        return Err(item.problem(field, format!("{ip} is link-local"), expected));
    }
    check_usable(item, field, ip)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
