//! The kernel's connection table over netlink: UDP flows are listed, and single ones deleted.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use labkit::Failure;
use labkit::netlink::{self, NLM_F_ACK, NLM_F_REQUEST, attribute, be16, be32};
use labkit::xtables::Family;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::libc::{self, EACCES, EAFNOSUPPORT, EINVAL, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT};

use super::links;
use crate::conntrack::{Flow, Frontends, NodeAddresses, UDP, Zone};

const NFNL_SUBSYS_CTNETLINK: u16 = 1 << 8;
pub(super) const CT_GET: u16 = NFNL_SUBSYS_CTNETLINK | 1;
const CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK | 2;

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_FLAG_CTA_PROTO_NUM: u32 = 1 << 3;

/// So many deletions in one send: their answers must fit into a socket's usual buffer.
const AT_ONCE: usize = 64;

/// Deletes the UDP flows of one family that have outlived their endpoint, and tells how many.
///
/// Only those are kept in memory while the table is listed. A kernel that tracks no connections has
/// none that could be stale.
///
/// # Errors
/// `HostLacks` without the privilege to read the table; else what the kernel answered.
pub fn reconcile(family: Family, frontends: &Frontends) -> Result<usize, Failure> {
    let Some((mut table, stale)) = listed(family, frontends)? else {
        return Ok(0);
    };
    let deleted = table.delete(&stale).map_err(|error| explained(family, &error))?;
    if deleted > 0 {
        tracing::info!(family = family.name(), deleted, "stale UDP flows deleted");
    }
    Ok(deleted)
}

/// The UDP flows of one family that have outlived their endpoint; they are left alone.
///
/// # Errors
/// As [`reconcile`].
pub fn stale(family: Family, frontends: &Frontends) -> Result<Vec<Flow>, Failure> {
    Ok(listed(family, frontends)?.map_or_else(Vec::new, |(_, stale)| stale))
}

/// The table and what of it is stale; `None` where nothing can be.
fn listed(family: Family, frontends: &Frontends) -> Result<Option<(Table, Vec<Flow>)>, Failure> {
    if frontends.is_empty() {
        return Ok(None);
    }
    let node = if frontends.has_node_ports() {
        links::own_addresses(family)?
    } else {
        NodeAddresses::default()
    };
    let explained = |error: io::Error| explained(family, &error);
    let Some(mut table) = Table::open(family).map_err(explained)? else {
        return Ok(None);
    };
    let mut stale = Vec::new();
    let listed = table.list(|flow| {
        if frontends.is_stale(&flow, &node) {
            stale.push(flow);
        }
    });
    if listed.map_err(explained)? == Listed::Partly {
        // As kube-proxy: the next change looks again, and a flow told twice is deleted once.
        tracing::debug!(
            family = family.name(),
            "the connection table changed while it was listed"
        );
    }
    Ok(Some((table, stale)))
}

fn explained(family: Family, error: &io::Error) -> Failure {
    let words = format!(
        "cannot clear stale {} flows from the connection table: {error}",
        family.name()
    );
    match error.raw_os_error() {
        Some(EPERM | EACCES) => Failure::host_lacks(words)
            .hint("run as root (sudo), or inside `netns-lab sandbox`; it takes CAP_NET_ADMIN"),
        _ => Failure::failed(words),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    Whole,
    Partly,
}

/// The table of this thread's network namespace, one family of it.
struct Table {
    socket: Socket,
    sequence: u32,
    family: u8,
}

impl Table {
    /// `None` when this kernel has no netfilter netlink.
    fn open(family: Family) -> io::Result<Option<Self>> {
        let mut socket = match Socket::new(NETLINK_NETFILTER) {
            Err(error) if is_missing(&error) => return Ok(None),
            other => other?,
        };
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        let family = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        Ok(Some(Self {
            socket,
            sequence: 0,
            family: u8::try_from(family).unwrap_or_default(),
        }))
    }

    /// Every UDP flow. Kernels since 5.8 pass over all others themselves.
    fn list(&mut self, mut each: impl FnMut(Flow)) -> io::Result<Listed> {
        for filter in [udp_filter(), Vec::new()] {
            self.sequence += 1;
            let body = [&self.header()[..], &filter].concat();
            let listed = netlink::dump(&self.socket, CT_GET, self.sequence, &body, |answer| {
                answer.body.get(NFGEN..).and_then(flow).map(&mut each);
            });
            match listed {
                Ok(true) => return Ok(Listed::Whole),
                Ok(false) => return Ok(Listed::Partly),
                // Either it knows no filter or it tracks nothing: without a filter that is told apart.
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Listed::Whole)
    }

    /// Deletes these very entries; one that is gone, or has made room for a new flow, is none.
    fn delete(&mut self, flows: &[Flow]) -> io::Result<usize> {
        let mut deleted = 0;
        let mut refused = None;
        for part in flows.chunks(AT_ONCE) {
            let mut batch = Vec::new();
            for flow in part {
                self.sequence += 1;
                let body = [&self.header()[..], &identity(flow)].concat();
                let flags = NLM_F_REQUEST | NLM_F_ACK;
                batch.extend(netlink::message(CT_DELETE, flags, self.sequence, &body));
            }
            self.socket.send(&batch, 0)?;
            self.answers(part.len(), |answer| match answer {
                Ok(()) => deleted += 1,
                Err(error) if error.raw_os_error() == Some(ENOENT) => {}
                Err(error) => refused = Some(error),
            })?;
        }
        refused.map_or(Ok(deleted), Err)
    }

    /// Reads so many answers; they are there when the send returns.
    fn answers(&self, mut count: usize, mut each: impl FnMut(io::Result<()>)) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(8192);
        while count > 0 {
            netlink::receive(&self.socket, &mut buffer, libc::MSG_DONTWAIT)?;
            for answer in netlink::messages(&buffer) {
                each(answer.refuse_error());
                count = count.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// `struct nfgenmsg`
    fn header(&self) -> [u8; NFGEN] {
        [self.family, 0, 0, 0]
    }
}

pub(super) const NFGEN: usize = 4;

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(EPROTONOSUPPORT | EAFNOSUPPORT | EOPNOTSUPP | EINVAL)
    )
}

fn udp_filter() -> Vec<u8> {
    let mut bytes = Vec::new();
    netlink::put_nested(&mut bytes, CTA_TUPLE_ORIG, |tuple| {
        netlink::put_nested(tuple, CTA_TUPLE_PROTO, |proto| {
            netlink::put(proto, CTA_PROTO_NUM, &[UDP]);
        });
    });
    netlink::put_nested(&mut bytes, CTA_FILTER, |filter| {
        netlink::put(
            filter,
            CTA_FILTER_ORIG_FLAGS,
            &CTA_FILTER_FLAG_CTA_PROTO_NUM.to_ne_bytes(),
        );
    });
    bytes
}

/// What names one entry. Never without a tuple: that would mean all of them.
fn identity(flow: &Flow) -> Vec<u8> {
    let mut bytes = Vec::new();
    netlink::put_nested(&mut bytes, CTA_TUPLE_ORIG, |tuple| {
        netlink::put_nested(tuple, CTA_TUPLE_IP, |addresses| {
            put_address(addresses, flow.source.ip(), CTA_IP_V4_SRC, CTA_IP_V6_SRC);
            put_address(addresses, flow.destination.ip(), CTA_IP_V4_DST, CTA_IP_V6_DST);
        });
        netlink::put_nested(tuple, CTA_TUPLE_PROTO, |proto| {
            netlink::put(proto, CTA_PROTO_NUM, &[flow.protocol]);
            netlink::put(proto, CTA_PROTO_SRC_PORT, &flow.source.port().to_be_bytes());
            netlink::put(proto, CTA_PROTO_DST_PORT, &flow.destination.port().to_be_bytes());
        });
        if let Zone::Original(zone) = flow.zone {
            netlink::put(tuple, CTA_TUPLE_ZONE, &zone.to_be_bytes());
        }
    });
    if let Zone::Both(zone) = flow.zone {
        netlink::put(&mut bytes, CTA_ZONE, &zone.to_be_bytes());
    }
    if let Some(id) = flow.id {
        netlink::put(&mut bytes, CTA_ID, &id.to_be_bytes());
    }
    bytes
}

fn put_address(bytes: &mut Vec<u8>, ip: IpAddr, v4: u16, v6: u16) {
    match ip {
        IpAddr::V4(ip) => netlink::put(bytes, v4, &ip.octets()),
        IpAddr::V6(ip) => netlink::put(bytes, v6, &ip.octets()),
    }
}

/// Reads one entry; `None` for what is not UDP.
fn flow(entry: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut zone, mut id) = (None, None, Zone::Usual, None);
    for (kind, value) in netlink::attributes(entry) {
        match kind {
            // Nobody asks for the rest of an entry that is not UDP.
            CTA_TUPLE_ORIG => original = Some(tuple(value).filter(|tuple| tuple.protocol == UDP)?),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_ZONE => zone = be16(value).map_or(Zone::Usual, Zone::Both),
            CTA_ID => id = be32(value),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    Some(Flow {
        protocol: original.protocol,
        source: original.source,
        destination: original.destination,
        reply_source: reply.source,
        reply_destination: reply.destination,
        zone: original.zone.map_or(zone, Zone::Original),
        id,
    })
}

/// One direction of a connection.
pub(super) struct Tuple {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    zone: Option<u16>,
}

/// Reads one direction; `None` for a protocol without ports.
pub(super) fn tuple(value: &[u8]) -> Option<Tuple> {
    let addresses = attribute(value, CTA_TUPLE_IP)?;
    let proto = attribute(value, CTA_TUPLE_PROTO)?;
    let end = |v4, v6, port| -> Option<SocketAddr> {
        let v4 = attribute(addresses, v4).and_then(|bytes| bytes.first_chunk::<4>());
        let v6 = attribute(addresses, v6).and_then(|bytes| bytes.first_chunk::<16>());
        let ip = v4
            .map(|bytes| IpAddr::from(Ipv4Addr::from(*bytes)))
            .or_else(|| v6.map(|bytes| Ipv6Addr::from(*bytes).into()))?;
        Some(SocketAddr::new(ip, attribute(proto, port).and_then(be16)?))
    };
    Some(Tuple {
        protocol: *attribute(proto, CTA_PROTO_NUM)?.first()?,
        source: end(CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?,
        destination: end(CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?,
        zone: attribute(value, CTA_TUPLE_ZONE).and_then(be16),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(zone: Zone) -> Flow {
        Flow {
            protocol: UDP,
            source: "[fd00::9]:40000".parse().unwrap(),
            destination: "[fd00::10]:53".parse().unwrap(),
            reply_source: "[fd00::10]:53".parse().unwrap(),
            reply_destination: "[fd00::9]:40000".parse().unwrap(),
            zone,
            id: Some(0xdead_beef),
        }
    }

    #[test]
    fn an_entry_is_named_as_the_kernel_told_it() {
        for zone in [Zone::Usual, Zone::Both(7), Zone::Original(9)] {
            let asked = example(zone);
            // An entry is its identity and the tuple of the answers.
            let turned = Flow {
                source: asked.reply_source,
                destination: asked.reply_destination,
                zone: Zone::Usual,
                id: None,
                ..asked.clone()
            };
            let mut entry = identity(&asked);
            let reply = identity(&turned);
            netlink::put(
                &mut entry,
                CTA_TUPLE_REPLY,
                attribute(&reply, CTA_TUPLE_ORIG).unwrap(),
            );
            assert_eq!(flow(&entry), Some(asked));
            for cut in 0..entry.len() {
                let _ = flow(&entry[..cut]);
            }
        }
    }

    #[test]
    fn a_deletion_always_names_a_tuple() {
        assert!(
            attribute(&identity(&example(Zone::Usual)), CTA_TUPLE_ORIG).is_some_and(|tuple| tuple.len() > 40)
        );
    }
}
