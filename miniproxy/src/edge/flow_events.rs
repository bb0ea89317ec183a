//! The connection table's own news, over netlink: what begins, changes and ends.
//!
//! Groups and numbers: the kernel's `include/uapi/linux/netfilter/nfnetlink_compat.h` and
//! `nf_conntrack_common.h`.

use std::fs;
use std::io;
use std::path::Path;

use labkit::Failure;
use labkit::netlink::{self, attribute, be32};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::libc::{self, EACCES, EPERM};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::conntrack::{CT_GET, CTA_ID, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, NFGEN, tuple};
use crate::live::{Flow, News};
use crate::model::Protocol;

const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_UPDATE: u32 = 2;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
const CT_NEW: u16 = 1 << 8;
const CT_DELETE: u16 = 1 << 8 | 2;
/// Set in the message of an entry that was not there before.
const NLM_F_CREATE: u16 = 0x400;
const CTA_STATUS: u16 = 3;
const IPS_SEEN_REPLY: u32 = 1 << 1;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
/// States of TCP, by `nf_conntrack_tcp.h`: both ends have said that they are done, or one cut it off.
const CLOSED: std::ops::RangeInclusive<u8> = 6..=8;

/// Room for news that wait: some forty thousand of them.
const ROOM: usize = 32 << 20;
/// So long one look for news takes at most.
const LOOK_MS: i64 = 100;

/// The news of this thread's network namespace.
pub struct FlowEvents {
    socket: Socket,
    buffer: Vec<u8>,
    lost: bool,
}

impl FlowEvents {
    /// Listens from now on.
    ///
    /// # Errors
    /// `HostLacks` without the privilege to listen.
    pub fn open() -> Result<Self, Failure> {
        let groups = [
            NFNLGRP_CONNTRACK_NEW,
            NFNLGRP_CONNTRACK_UPDATE,
            NFNLGRP_CONNTRACK_DESTROY,
        ];
        let socket = listen(&groups, ROOM).map_err(|error| refused("the connection table", &error))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(1 << 18),
            lost: false,
        })
    }

    /// What the table holds now.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn listed(&self) -> Result<Vec<Flow>, Failure> {
        let list = || -> io::Result<Vec<Flow>> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&NetlinkAddr::new(0, 0))?;
            let mut flows = Vec::new();
            netlink::dump(&socket, CT_GET, 1, &[0; NFGEN], |answer| {
                flows.extend(answer.body.get(NFGEN..).and_then(flow));
            })?;
            Ok(flows)
        };
        list().map_err(|error| refused("the connection table", &error))
    }

    /// Waits a moment for news. When the kernel had no room for some, the table is listed as soon as
    /// all that did come is read.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn hear(&mut self) -> Result<Vec<News>, Failure> {
        match netlink::receive(&self.socket, &mut self.buffer, 0) {
            Ok(()) => Ok(netlink::messages(&self.buffer).filter_map(news).collect()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.lost = true;
                Ok(Vec::new())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.lost => {
                self.lost = false;
                let found = self.listed()?.into_iter().map(News::Recovered);
                Ok([News::Lost]
                    .into_iter()
                    .chain(found)
                    .chain([News::Listed])
                    .collect())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            Err(error) => Err(refused("the connection table", &error)),
        }
    }
}

/// A socket that hears these groups and never waits long.
pub(super) fn listen(groups: &[u32], room: usize) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    // Root may have more than net.core.rmem_max; everybody else has what that allows.
    if setsockopt(&socket, RcvBufForce, &room).is_err() {
        socket.set_rx_buf_sz(i32::try_from(room).unwrap_or(i32::MAX))?;
    }
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

/// Why nothing can be heard, and what to do.
pub(super) fn refused(of: &str, error: &io::Error) -> Failure {
    let words = format!("cannot listen to {of}: {error}");
    match error.raw_os_error() {
        Some(EPERM | EACCES) => Failure::host_lacks(words)
            .hint("run as root (sudo), or inside `netns-lab sandbox`; it takes CAP_NET_ADMIN"),
        _ => Failure::failed(words),
    }
}

/// Whether this kernel tells of connections at all: `net.netfilter.nf_conntrack_events`.
pub fn are_told() -> bool {
    let path = Path::new("/proc/sys/net/netfilter/nf_conntrack_events");
    fs::read_to_string(path).map_or(true, |value| value.trim() != "0")
}

fn news(message: netlink::Message<'_>) -> Option<News> {
    let flow = flow(message.body.get(NFGEN..)?)?;
    match message.kind {
        CT_NEW if message.flags & NLM_F_CREATE != 0 => Some(News::Began(flow)),
        CT_NEW => Some(News::Changed(flow)),
        CT_DELETE => Some(News::Ended(flow)),
        _ => None,
    }
}

fn flow(entry: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut id, mut status) = (None, None, None, 0);
    let mut closed = false;
    for (kind, value) in netlink::attributes(entry) {
        match kind {
            CTA_TUPLE_ORIG => original = Some(tuple(value)?),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_ID => id = be32(value),
            CTA_STATUS => status = be32(value)?,
            CTA_PROTOINFO => closed = is_closed(value),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let protocol = match i32::from(original.protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        libc::IPPROTO_SCTP => Protocol::Sctp,
        _ => return None,
    };
    Some(Flow {
        id: id?,
        protocol,
        source: original.source,
        destination: original.destination,
        reply_source: reply.source,
        answered: status & IPS_SEEN_REPLY != 0,
        closed,
    })
}

fn is_closed(protocol: &[u8]) -> bool {
    let tcp = attribute(protocol, CTA_PROTOINFO_TCP);
    let state = tcp.and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE));
    state
        .and_then(<[u8]>::first)
        .is_some_and(|state| CLOSED.contains(state))
}
