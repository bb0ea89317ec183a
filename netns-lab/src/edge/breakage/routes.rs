//! Single IPv4 routes, taken out and put back by the kernel's own message about them.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/rtnetlink.h`.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use labkit::Failure;
use labkit::netlink::{self, attribute, be32, ne32};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc::{AF_INET, EEXIST, EHOSTUNREACH, EINVAL, ENETUNREACH, ESRCH};

use super::links::{ask, socket};
use crate::edge::node::netlink_failure;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLM_F_EXCL_CREATE: u16 = 0x200 | 0x400;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
const TYPE_THROW: u8 = 9;
/// The length of `struct rtmsg`.
const HEADER: usize = 12;
/// The one flag of a route that is chosen and not observed (`RTNH_F_ONLINK`).
const ONLINK: u32 = 4;

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; a default route has a length of 0.
    pub destination: Ipv4Net,
    /// By which link; 0 where it names none.
    pub index: u32,
    throw: bool,
    message: Vec<u8>,
}

impl Route {
    /// The kernel's message about it, in hexadecimal digits.
    pub fn message(&self) -> String {
        let mut digits = String::new();
        for byte in &self.message {
            // Writing to a String cannot fail.
            let _ = write!(digits, "{byte:02x}");
        }
        digits
    }

    /// Whether it leads anywhere.
    pub fn leads(&self) -> bool {
        !self.throw
    }
}

/// The routes of the main table.
///
/// # Errors
/// What the kernel said.
pub fn list() -> Result<Vec<Route>, Failure> {
    let listed = || -> io::Result<Vec<Route>> {
        let mut found = Vec::new();
        let body = rtmsg(0, 0, 0, 0);
        netlink::dump(&socket(NETLINK_ROUTE)?, RTM_GETROUTE, 1, &body, |answer| {
            found.extend(route(answer.body));
        })?;
        Ok(found)
    };
    listed().map_err(|error| netlink_failure("list the routes", &error))
}

fn route(body: &[u8]) -> Option<Route> {
    let (header, attributes) = body.split_at_checked(HEADER)?;
    let (length, table, kind) = (header[1], header[4], header[7]);
    let destination = attribute(attributes, RTA_DST)
        .and_then(be32)
        .map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
    let mut message = body.to_vec();
    let flags = ne32(&header[8..])? & ONLINK;
    message[8..HEADER].copy_from_slice(&flags.to_ne_bytes());
    let ours = table == TABLE_MAIN && (kind == TYPE_UNICAST || kind == TYPE_THROW);
    ours.then_some(Route {
        destination: Ipv4Net::new(destination, length).ok()?,
        index: attribute(attributes, RTA_OIF).and_then(ne32).unwrap_or(0),
        throw: kind == TYPE_THROW,
        message,
    })
}

/// `struct rtmsg` of the main table.
fn rtmsg(length: u8, protocol: u8, scope: u8, kind: u8) -> Vec<u8> {
    let family = u8::try_from(AF_INET).unwrap_or_default();
    vec![
        family, length, 0, 0, TABLE_MAIN, protocol, scope, kind, 0, 0, 0, 0,
    ]
}

fn bytes(message: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(message.get(at..at + 2)?, 16).ok();
    (0..message.len()).step_by(2).map(digits).collect()
}

/// The route of a record.
///
/// # Errors
/// When the record is damaged.
pub fn of_message(message: &str) -> Result<Route, Failure> {
    let found = bytes(message).and_then(|body| route(&body));
    found.ok_or_else(|| Failure::failed("the record of a route is damaged"))
}

/// Takes a route out; with `throw` nothing stands in for it, not even a default route.
///
/// # Errors
/// What the kernel said.
pub fn take_out(message: &str, throw: bool) -> Result<(), Failure> {
    let route = of_message(message)?;
    let doing = format!("remove the route to {}", route.destination);
    tell(
        &doing,
        ask(NETLINK_ROUTE, RTM_DELROUTE, 0, &route.message),
        &[ESRCH],
    )?;
    if throw {
        let body = thrown(route.destination);
        let doing = format!("replace the route to {}", route.destination);
        tell(
            &doing,
            ask(NETLINK_ROUTE, RTM_NEWROUTE, NLM_F_EXCL_CREATE, &body),
            &[EEXIST],
        )?;
    }
    Ok(())
}

/// Puts a route back; one that leads there by now stays.
///
/// # Errors
/// What the kernel said.
pub fn put_back(message: &str, throw: bool) -> Result<(), Failure> {
    let route = of_message(message)?;
    let doing = format!("put back the route to {}", route.destination);
    if throw {
        let gone = ask(NETLINK_ROUTE, RTM_DELROUTE, 0, &thrown(route.destination));
        tell(&doing, gone, &[ESRCH])?;
    }
    let there = |known: &Route| known.destination == route.destination && known.leads();
    if list()?.iter().any(there) {
        return Ok(());
    }
    let put = ask(NETLINK_ROUTE, RTM_NEWROUTE, NLM_F_EXCL_CREATE, &route.message);
    // A link that is gone took its routes along, and has no number any more.
    tell(&doing, put, &[EEXIST, nix::libc::ENODEV, EINVAL])
}

fn thrown(destination: Ipv4Net) -> Vec<u8> {
    let mut body = rtmsg(destination.prefix_len(), PROTOCOL_STATIC, 0, TYPE_THROW);
    netlink::put(&mut body, RTA_DST, &destination.network().octets());
    body
}

fn tell(doing: &str, done: io::Result<Vec<Vec<u8>>>, fine: &[i32]) -> Result<(), Failure> {
    match done {
        Err(error) if error.raw_os_error().is_some_and(|code| fine.contains(&code)) => Ok(()),
        other => other.map(|_| ()).map_err(|error| netlink_failure(doing, &error)),
    }
}

/// Whether this thread's network namespace has any route to an address.
///
/// # Errors
/// What the kernel said.
pub fn reaches(ip: Ipv4Addr) -> Result<bool, Failure> {
    let mut body = rtmsg(32, 0, 0, 0);
    body[4] = 0;
    netlink::put(&mut body, RTA_DST, &ip.octets());
    match ask(NETLINK_ROUTE, RTM_GETROUTE, 0, &body) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(ENETUNREACH | EHOSTUNREACH | EINVAL)) => Ok(false),
        Err(error) => Err(netlink_failure(format!("look up the route to {ip}"), &error)),
    }
}
