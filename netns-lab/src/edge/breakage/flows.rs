//! Single UDP flows of the connection table.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::SocketAddrV4;

use labkit::Failure;
use labkit::netlink::{attribute, be32, put, put_nested};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc::{AF_INET, EEXIST, ENOENT, IPPROTO_UDP};

use super::links::ask;
use crate::edge::node::netlink_failure;
use crate::model::breakage::record::Flow;

const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = CT_NEW | 1;
const CT_DELETE: u16 = CT_NEW | 2;
const NLM_F_EXCL_CREATE: u16 = 0x200 | 0x400;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const NAT_DST: u16 = 13;
/// Seen in both directions and so trusted, and in the table: as a flow that has had its answers.
const SEEN_REPLY_ASSURED_CONFIRMED: u32 = 0x2 | 0x4 | 0x8;
/// Seconds until the flow is forgotten if no packet comes; the first one sets it to the usual 120.
const LIFE: u32 = 600;

fn header() -> Vec<u8> {
    vec![u8::try_from(AF_INET).unwrap_or_default(), 0, 0, 0]
}

fn put_tuple(body: &mut Vec<u8>, kind: u16, from: SocketAddrV4, to: SocketAddrV4) {
    put_nested(body, kind, |tuple| {
        put_nested(tuple, 1, |ip| {
            put(ip, 1, &from.ip().octets());
            put(ip, 2, &to.ip().octets());
        });
        put_nested(tuple, 2, |protocol| {
            put(protocol, 1, &[u8::try_from(IPPROTO_UDP).unwrap_or_default()]);
            put(protocol, 2, &from.port().to_be_bytes());
            put(protocol, 3, &to.port().to_be_bytes());
        });
    });
}

fn original(flow: &Flow) -> Vec<u8> {
    let mut body = header();
    put_tuple(&mut body, TUPLE_ORIG, flow.client, flow.service);
    body
}

/// Puts the flow into the table, in place of one from the same port.
///
/// # Errors
/// What the kernel said.
pub fn insert(flow: &Flow) -> Result<(), Failure> {
    let put_in = || -> io::Result<()> {
        match ask(NETLINK_NETFILTER, CT_DELETE, 0, &original(flow)) {
            Err(error) if error.raw_os_error() != Some(ENOENT) => return Err(error),
            _ => {}
        }
        let mut body = original(flow);
        put_tuple(&mut body, TUPLE_REPLY, flow.service, flow.client);
        put(&mut body, STATUS, &SEEN_REPLY_ASSURED_CONFIRMED.to_be_bytes());
        put(&mut body, TIMEOUT, &LIFE.to_be_bytes());
        put_nested(&mut body, NAT_DST, |nat| {
            put(nat, 1, &flow.dead.ip().octets());
            put(nat, 2, &flow.dead.ip().octets());
            put_nested(nat, 3, |ports| {
                put(ports, 1, &flow.dead.port().to_be_bytes());
                put(ports, 2, &flow.dead.port().to_be_bytes());
            });
        });
        match ask(NETLINK_NETFILTER, CT_NEW, NLM_F_EXCL_CREATE, &body) {
            Err(error) if error.raw_os_error() != Some(EEXIST) => Err(error),
            _ => Ok(()),
        }
    };
    put_in().map_err(|error| netlink_failure("put a flow into the connection table", &error))
}

/// Whether the table has the flow, and still as one to the dead.
///
/// # Errors
/// What the kernel said.
pub fn is_stale(flow: &Flow) -> Result<bool, Failure> {
    match ask(NETLINK_NETFILTER, CT_GET, 0, &original(flow)) {
        Ok(found) => Ok(found.iter().any(|body| leads_to(body, flow))),
        Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(false),
        Err(error) => Err(netlink_failure("read the connection table", &error)),
    }
}

fn leads_to(body: &[u8], flow: &Flow) -> bool {
    let source = body
        .get(4..)
        .and_then(|attributes| attribute(attributes, TUPLE_REPLY))
        .and_then(|tuple| attribute(tuple, 1))
        .and_then(|ip| attribute(ip, 1))
        .and_then(be32);
    source == Some(u32::from(*flow.dead.ip()))
}

/// Deletes the flow if it is still one to the dead.
///
/// # Errors
/// What the kernel said.
pub fn delete(flow: &Flow) -> Result<(), Failure> {
    if !is_stale(flow)? {
        return Ok(());
    }
    match ask(NETLINK_NETFILTER, CT_DELETE, 0, &original(flow)) {
        Err(error) if error.raw_os_error() != Some(ENOENT) => {
            Err(netlink_failure("delete a flow of the connection table", &error))
        }
        _ => Ok(()),
    }
}
