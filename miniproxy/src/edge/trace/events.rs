//! What the kernel tells while a connection is made: traces of nf_tables, and the connection table.
//!
//! Layout and numbers: the kernel's `include/uapi/linux/netfilter/nf_tables.h`,
//! `nfnetlink_conntrack.h` and `nf_conntrack_tcp.h`.

use std::io;

use labkit::netlink::{self, Message, attribute, be32};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

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

pub(super) const NFGEN: usize = 4;
/// Enough for the events of many connections that are made meanwhile.
const BUFFER: usize = 8 << 20;
/// So many messages are read before somebody asks whether to go on: more than there is room for.
pub(super) const AT_ONCE: usize = 16_384;
/// More changes of the connection table are not kept: a trace is over before.
const MOST: usize = 100_000;

/// Where in its chain a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At the rule of this handle.
    Handle(u64),
    /// At the rule of this number; one more than there are is the end of the chain.
    Number(usize),
    /// At the end of a built-in chain.
    Policy,
}

/// A trace event, its rule still by handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// The kernel's number of the packet.
    pub id: u32,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Where in the chain.
    pub at: At,
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
    buffer: Vec<u8>,
    /// The traces that were heard.
    pub traces: Vec<Raw>,
    /// What the connection table told.
    pub tracked: Vec<Tracked>,
}

impl Ear {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or the privilege is missing.
    pub fn open() -> io::Result<Self> {
        let socket = hearing()?;
        for group in [GROUP_TRACE, GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY] {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
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
        // Others may bring more than can be read at all: the end of the call must be seen, too.
        for _ in 0..AT_ONCE {
            match netlink::receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            }
            for message in netlink::messages(&self.buffer) {
                match message.kind {
                    TRACE => self.traces.extend(message.body.get(NFGEN..).and_then(trace)),
                    CT_NEW | CT_DELETE if self.tracked.len() < MOST => {
                        self.tracked.extend(tracked(&message));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Ear {
    /// How many events the kernel had no room for.
    pub fn lost(&self) -> usize {
        lost(&self.socket)
    }
}

/// A socket for what netfilter tells, with much room, that goes on after a loss: [`lost`] counts.
pub(super) fn hearing() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&NetlinkAddr::new(0, 0))?;
    // Root may have more room than net.core.rmem_max; everybody else has what that allows.
    if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
        socket.set_rx_buf_sz(i32::try_from(BUFFER).unwrap_or(i32::MAX))?;
    }
    socket.set_no_enobufs(true)?;
    Ok(socket)
}

/// What the kernel counts of a socket that it had no room in.
pub(super) fn lost(socket: &Socket) -> usize {
    let mut address = NetlinkAddr::new(0, 0);
    if socket.get_address(&mut address).is_err() {
        return 0;
    }
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    drops(&table, NETLINK_NETFILTER, address.port_number())
}

/// Of the kernel's table of sockets: `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`.
fn drops(table: &str, protocol: isize, port: u32) -> usize {
    let (protocol, port) = (protocol.to_string(), port.to_string());
    let rows = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut own = rows.filter(|row| row.get(1) == Some(&&*protocol) && row.get(2) == Some(&&*port));
    own.next().and_then(|row| row.get(8)?.parse().ok()).unwrap_or(0)
}

fn trace(body: &[u8]) -> Option<Raw> {
    let word = |kind| attribute(body, kind).map(text);
    let number = |kind| attribute(body, kind).and_then(be32);
    let verdict = attribute(body, NFTA_TRACE_VERDICT)
        .and_then(|verdict| attribute(verdict, NFTA_VERDICT_CODE))
        .and_then(be32);
    let (at, stopped) = match number(NFTA_TRACE_TYPE)? {
        TYPE_POLICY => (At::Policy, number(NFTA_TRACE_POLICY) == Some(0)),
        TYPE_RULE => {
            let handle = attribute(body, NFTA_TRACE_RULE_HANDLE)?;
            (
                At::Handle(u64::from_be_bytes(*handle.first_chunk()?)),
                verdict == Some(0) || verdict == Some(2),
            )
        }
        // A chain that ends says nothing about a rule.
        _ => return None,
    };
    let headers =
        attribute(body, NFTA_TRACE_NETWORK_HEADER).zip(attribute(body, NFTA_TRACE_TRANSPORT_HEADER));
    Some(Raw {
        id: number(NFTA_TRACE_ID)?,
        table: word(NFTA_TRACE_TABLE)?,
        chain: word(NFTA_TRACE_CHAIN)?,
        at,
        stopped,
        seen: headers.and_then(|(network, transport)| wire::of_headers(network, transport)),
        arriving: number(NFTA_TRACE_IIF),
        leaving: number(NFTA_TRACE_OIF),
    })
}

fn tracked(message: &Message<'_>) -> Option<Tracked> {
    let body = message.body.get(NFGEN..)?;
    let original = attribute(body, CTA_TUPLE_ORIG).and_then(tuple)?;
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
        source: original.source,
        destination: original.destination,
        reply_source: reply.source,
        reply_destination: reply.destination,
        state: state.copied(),
        assured: status & IPS_ASSURED != 0,
    })
}

pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_read_of_the_row_of_the_socket() {
        let table = "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n\
                     0 12 7 00000107 0 0 0 2 3 19\n0 12 8 00000107 0 0 0 2 5 20\n0 4 8 0 0 0 0 2 9 21\n";
        assert_eq!(drops(table, 12, 8), 5);
        assert_eq!(drops(table, 12, 9), 0);
        assert_eq!(drops("", 12, 8), 0);
    }

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
        assert_eq!((told.id, told.at, told.stopped), (7, At::Handle(9), true));
        assert_eq!((told.table.as_str(), told.chain.as_str()), ("nat", "PREROUTING"));
        for cut in 0..body.len() {
            let _ = trace(&body[..cut]);
        }
    }
}
