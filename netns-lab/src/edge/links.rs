//! All links of a network namespace, of each only what a lab asks for.
//!
//! Why not by rtnetlink: it reads every attribute of every link into a tree of its own, which with a
//! thousand pods takes longer than all else that is looked at.

use std::io;

use labkit::Failure;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;

use super::node::netlink_failure;
use crate::model::observed::Link;

/// Larger than what the kernel sends at once.
const BUFFER: usize = 64 << 10;
/// How often to ask again when links came or went while they were listed.
const ATTEMPTS: usize = 3;
/// The length of the header of a netlink message.
const HEADER: usize = 16;
/// The length of what comes before the attributes of a link (`struct ifinfomsg`).
const INFORMATION: usize = 16;
/// Whether a bridge sends back by this port, among a port's attributes.
const IFLA_BRPORT_MODE: u16 = 4;

/// The links of the namespace that this thread is in.
pub fn all() -> Result<Vec<Link>, Failure> {
    let told = |error: io::Error| netlink_failure("list the links", &error);
    for _ in 1..ATTEMPTS {
        if let (links, false) = listed().map_err(told)? {
            return Ok(links);
        }
    }
    Ok(listed().map_err(told)?.0)
}

/// The links, and whether one came or went meanwhile.
fn listed() -> io::Result<(Vec<Link>, bool)> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&question(), 0)?;
    let (mut links, mut disturbed) = (Vec::new(), false);
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        for message in messages(&buffer) {
            disturbed |= message.flags & NLM_F_DUMP_INTR != 0;
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok((links, disturbed)),
                libc::NLMSG_ERROR => return Err(refusal(message.content)),
                _ if message.kind == libc::RTM_NEWLINK => links.extend(link(message.content)),
                _ => {}
            }
        }
    }
}

fn question() -> Vec<u8> {
    let mut link = LinkMessage::default();
    // Counters of a thousand links are most of the answer, and nobody reads them here.
    let without = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    link.attributes.push(without);
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    buffer
}

fn refusal(content: &[u8]) -> io::Error {
    let code = content.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// A netlink message as it came.
struct Message<'a> {
    kind: u16,
    flags: u16,
    content: &'a [u8],
}

/// The messages of a buffer, up to the first that is cut short.
fn messages(mut buffer: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*buffer.first_chunk()?)).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes(*buffer.get(4..)?.first_chunk()?),
            flags: u16::from_ne_bytes(*buffer.get(6..)?.first_chunk()?),
            content: buffer.get(HEADER..length)?,
        };
        // Each begins at a multiple of four bytes (NLMSG_ALIGN).
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// One link, of which family and device type matter to nobody here.
fn link(content: &[u8]) -> Option<Link> {
    let flags = u32::from_ne_bytes(*content.get(8..)?.first_chunk()?);
    let mut link = Link {
        index: u32::from_ne_bytes(*content.get(4..)?.first_chunk()?),
        up: flags & u32::try_from(libc::IFF_UP).ok()? != 0,
        ..Default::default()
    };
    for (kind, value) in attributes(content.get(INFORMATION..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_GROUP => link.group = number(value),
            libc::IFLA_MASTER => link.master = number(value),
            libc::IFLA_LINKINFO => link.hairpin_off = hairpin_is_off(value),
            _ => {}
        }
    }
    Some(link)
}

/// The attributes of a buffer, up to the first that is cut short.
fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The bits above tell of the value's form (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*buffer.first_chunk()?));
        let kind = u16::from_ne_bytes(*buffer.get(2..)?.first_chunk()?);
        let value = buffer.get(4..length)?;
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |value| u32::from_ne_bytes(*value))
}

fn hairpin_is_off(link_info: &[u8]) -> bool {
    let value =
        |wanted: u16| attributes(link_info).find_map(|(kind, value)| (kind == wanted).then_some(value));
    let is_port = value(libc::IFLA_INFO_SLAVE_KIND).is_some_and(|kind| text(kind) == "bridge");
    let port = value(libc::IFLA_INFO_SLAVE_DATA).filter(|_| is_port);
    port.is_some_and(|port| attributes(port).any(|(kind, value)| kind == IFLA_BRPORT_MODE && value == [0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_every_namespace_has() {
        let links = all().unwrap();
        let own = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!((own.index, own.master, own.hairpin_off), (1, 0, false));
    }

    #[test]
    fn junk_is_no_link() {
        assert_eq!(link(&[0; 15]), None);
        let cut_short = [20_u8, 0, 0, 0, 16, 0, 0, 0];
        assert_eq!(messages(&cut_short).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[3, 0, 3, 0]).count(), 0);
    }
}
