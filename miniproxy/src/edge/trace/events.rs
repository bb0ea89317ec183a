//! What the kernel tells while a connection is made: traces of nf_tables, and the connection table.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/netfilter/nf_tables.h`,
//! `nfnetlink_conntrack.h` and `nf_conntrack_tcp.h`.

use std::io;
use std::net::SocketAddr;

use labkit::netlink::{self, Message, attribute, be32};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::libc;

use crate::edge::conntrack::tuple;
use crate::journey::Tracked;
use crate::journey::wire::{self, Seen};

const GROUP_NEW: u32 = 1;
const GROUP_UPDATE: u32 = 2;
const GROUP_DESTROY: u32 = 3;
const GROUP_TRACE: u32 = 9;
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_TRACE.
const TRACE: u16 = (10 << 8) + 17;
/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_NEW, which is also told for changes.
const CT_NEW: u16 = 1 << 8;
const CT_DELETE: u16 = (1 << 8) + 2;
const NLM_F_CREATE: u16 = 0x400;

const NFTA_TRACE_TABLE: u16 = 1;
const NFTA_TRACE_CHAIN: u16 = 2;
const NFTA_TRACE_RULE_HANDLE: u16 = 3;
const NFTA_TRACE_TYPE: u16 = 4;
const NFTA_TRACE_VERDICT: u16 = 5;
const NFTA_TRACE_ID: u16 = 6;
const NFTA_TRACE_NETWORK_HEADER: u16 = 8;
const NFTA_TRACE_TRANSPORT_HEADER: u16 = 9;
const NFTA_TRACE_IIF: u16 = 10;
const NFTA_TRACE_OIF: u16 = 12;
const NFTA_TRACE_POLICY: u16 = 16;
const NFTA_VERDICT_CODE: u16 = 1;
const TYPE_POLICY: u32 = 1;
const TYPE_RULE: u32 = 3;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const IPS_ASSURED: u32 = 1 << 2;
const STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

const NFGEN: usize = 4;
/// Enough for the events of many connections that are made meanwhile.
const BUFFER: usize = 8 << 20;

/// A trace event, its rule still by handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The kernel's number of the packet.
    pub id: u32,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's handle; `None` for the policy.
    pub rule: Option<u64>,
    /// Whether the packet went no further.
    pub stopped: bool,
    /// The packet, where it is told.
    pub seen: Option<Seen>,
    /// The index of the interface it came by.
    pub arriving: Option<u32>,
    /// The index of the interface it leaves by.
    pub leaving: Option<u32>,
}

/// A socket that hears both kinds of events in the network namespace it was opened in.
pub struct Ear {
    socket: Socket,
    source: SocketAddr,
    buffer: Vec<u8>,
    /// The traces that were heard.
    pub traces: Vec<Raw>,
    /// What the connection table told of the connection from `source`.
    pub tracked: Vec<Tracked>,
}

impl Ear {
    /// Begins to listen for packets from this address and port.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or the privilege is missing.
    pub fn open(source: SocketAddr) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&NetlinkAddr::new(0, 0))?;
        socket.set_rx_buf_sz(BUFFER)?;
        socket.set_no_enobufs(true)?;
        for group in [GROUP_TRACE, GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY] {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
            source,
            buffer: Vec::with_capacity(64 * 1024),
            traces: Vec::new(),
            tracked: Vec::new(),
        })
    }

    /// Takes in all that was told since.
    ///
    /// # Errors
    /// What the socket says.
    pub fn hear(&mut self) -> io::Result<()> {
        loop {
            match netlink::receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            }
            for message in netlink::messages(&self.buffer) {
                match message.kind {
                    TRACE => self.traces.extend(message.body.get(NFGEN..).and_then(trace)),
                    CT_NEW | CT_DELETE => {
                        self.tracked.extend(tracked(&message, self.source));
                    }
                    _ => {}
                }
            }
        }
    }
}

fn trace(body: &[u8]) -> Option<Raw> {
    let word = |kind| attribute(body, kind).map(text);
    let number = |kind| attribute(body, kind).and_then(be32);
    let verdict = attribute(body, NFTA_TRACE_VERDICT)
        .and_then(|verdict| attribute(verdict, NFTA_VERDICT_CODE))
        .and_then(be32);
    let (rule, stopped) = match number(NFTA_TRACE_TYPE)? {
        TYPE_POLICY => (None, number(NFTA_TRACE_POLICY) == Some(0)),
        TYPE_RULE => {
            let handle = attribute(body, NFTA_TRACE_RULE_HANDLE)?;
            (
                Some(u64::from_be_bytes(*handle.first_chunk()?)),
                verdict == Some(0) || verdict == Some(2),
            )
        }
        // A chain that ends says nothing about a rule.
        _ if attribute(body, NFTA_TRACE_NETWORK_HEADER).is_none() => return None,
        _ => return None,
    };
    let headers =
        attribute(body, NFTA_TRACE_NETWORK_HEADER).zip(attribute(body, NFTA_TRACE_TRANSPORT_HEADER));
    Some(Raw {
        id: number(NFTA_TRACE_ID)?,
        table: word(NFTA_TRACE_TABLE)?,
        chain: word(NFTA_TRACE_CHAIN)?,
        rule,
        stopped,
        seen: headers.and_then(|(network, transport)| wire::of_headers(network, transport)),
        arriving: number(NFTA_TRACE_IIF),
        leaving: number(NFTA_TRACE_OIF),
    })
}

fn tracked(message: &Message<'_>, source: SocketAddr) -> Option<Tracked> {
    let body = message.body.get(NFGEN..)?;
    let original = attribute(body, CTA_TUPLE_ORIG).and_then(tuple)?;
    if original.source != source {
        return None;
    }
    let reply = attribute(body, CTA_TUPLE_REPLY).and_then(tuple)?;
    let status = attribute(body, CTA_STATUS).and_then(be32).unwrap_or(0);
    let state = attribute(body, CTA_PROTOINFO)
        .and_then(|info| attribute(info, CTA_PROTOINFO_TCP))
        .and_then(|tcp| attribute(tcp, CTA_PROTOINFO_TCP_STATE))
        .and_then(|state| STATES.get(usize::from(*state.first()?)));
    Some(Tracked {
        kind: match message.kind {
            CT_DELETE => "DESTROY",
            _ if message.flags & NLM_F_CREATE != 0 => "NEW",
            _ => "UPDATE",
        },
        reply_source: reply.source,
        reply_destination: reply.destination,
        state: state.copied(),
        assured: status & IPS_ASSURED != 0,
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut body = Vec::new();
        netlink::put(&mut body, NFTA_TRACE_ID, &7_u32.to_be_bytes());
        netlink::put(&mut body, NFTA_TRACE_TABLE, b"nat\0");
        netlink::put(&mut body, NFTA_TRACE_CHAIN, b"PREROUTING\0");
        netlink::put(&mut body, NFTA_TRACE_TYPE, &TYPE_RULE.to_be_bytes());
        netlink::put(&mut body, NFTA_TRACE_RULE_HANDLE, &9_u64.to_be_bytes());
        netlink::put_nested(&mut body, NFTA_TRACE_VERDICT, |verdict| {
            netlink::put(verdict, NFTA_VERDICT_CODE, &0_u32.to_be_bytes());
        });
        body
    }

    #[test]
    fn a_rule_is_told_by_its_handle_and_cut_bytes_tell_nothing() {
        let body = example();
        let told = trace(&body).unwrap();
        assert_eq!((told.id, told.rule, told.stopped), (7, Some(9), true));
        assert_eq!((told.table.as_str(), told.chain.as_str()), ("nat", "PREROUTING"));
        for cut in 0..body.len() {
            let _ = trace(&body[..cut]);
        }
    }
}
