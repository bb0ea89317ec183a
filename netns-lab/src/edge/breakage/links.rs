//! Flags of single links.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/rtnetlink.h` and `if_link.h`.

use std::io;

use labkit::Failure;
use labkit::netlink::{self, NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_nametoindex;

use crate::edge::node::netlink_failure;

const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const IFF_UP: u32 = 1;
const AF_BRIDGE: u8 = 7;
const IFLA_PROTINFO: u16 = 12;
/// Whether a bridge sends back by the port that a frame came in.
pub(in crate::edge) const IFLA_BRPORT_MODE: u16 = 4;

/// A socket of routing netlink in this thread's network namespace.
pub(in crate::edge) fn socket(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends one request and returns the bodies of the answers that are no acknowledgement.
pub(super) fn ask(protocol: isize, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(protocol)?;
    socket.send(
        &netlink::message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, body),
        0,
    )?;
    let (mut buffer, mut found) = (Vec::with_capacity(64 * 1024), Vec::new());
    loop {
        netlink::receive(&socket, &mut buffer, 0)?;
        for answer in netlink::messages(&buffer) {
            answer.refuse_error()?;
            if answer.kind == NLMSG_ERROR {
                return Ok(found);
            }
            found.push(answer.body.to_vec());
        }
    }
}

/// The kind of an acknowledgement, which is an error of number 0.
const NLMSG_ERROR: u16 = 2;

fn index(name: &str) -> io::Result<u32> {
    if_nametoindex(name).map_err(Into::into)
}

/// Whether there is such a link.
pub fn exists(name: &str) -> bool {
    index(name).is_ok()
}

fn header(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    for word in [index, flags, change] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// Sets a link up or down.
///
/// # Errors
/// What the kernel said.
pub fn set_up(name: &str, up: bool) -> Result<(), Failure> {
    let flags = if up { IFF_UP } else { 0 };
    let set =
        index(name).and_then(|index| ask(NETLINK_ROUTE, RTM_NEWLINK, 0, &header(0, index, flags, IFF_UP)));
    let word = if up { "up" } else { "down" };
    set.map(|_| ())
        .map_err(|error| netlink_failure(format!("set the link {name} {word}"), &error))
}

/// Lets a bridge port send back what came in by it, or forbids it.
///
/// # Errors
/// What the kernel said.
pub fn set_hairpin(name: &str, on: bool) -> Result<(), Failure> {
    let set = index(name).and_then(|index| {
        let mut body = header(AF_BRIDGE, index, 0, 0);
        netlink::put_nested(&mut body, IFLA_PROTINFO, |inner| {
            netlink::put(inner, IFLA_BRPORT_MODE, &[u8::from(on)]);
        });
        ask(NETLINK_ROUTE, RTM_SETLINK, 0, &body)
    });
    set.map(|_| ())
        .map_err(|error| netlink_failure(format!("change hairpin of {name}"), &error))
}
