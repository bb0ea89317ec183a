//! One real connection: what the kernel told of its packets, as a story with rule numbers.
//!
//! Events and captures → [`make::journey`] → [`Report`] → screen, sentences, JSON. Pure.

pub mod follow;
pub mod make;
pub mod page;
pub mod plain;
pub mod show;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use wire::Seen;

/// What became of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Somebody answered.
    Answered,
    /// It was refused at once.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It was cut off.
    Reset,
    /// Nobody answered in time.
    Timeout,
}

impl Word {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
        }
    }
}

/// What the caller saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// What became of it.
    pub word: Word,
    /// The first line of the answer.
    pub answer: Option<String>,
    /// From the first packet to the first byte of the answer, or to the failure, in milliseconds.
    pub milliseconds: f64,
}

/// What a rule, or the end of a built-in chain, did to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A rule matched.
    Rule {
        /// Its number, as `iptables -L --line-numbers` counts; `None` for one that is gone since.
        number: Option<usize>,
        /// Whether the packet went no further.
        stopped: bool,
    },
    /// The policy of a built-in chain.
    Policy {
        /// Whether it lets packets pass.
        accepts: bool,
    },
}

/// One event of the kernel's trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The kernel's number of the packet; several packets of a connection may share it.
    pub id: u32,
    /// The table; behind its family, `inet fw`, where it is none of iptables.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// What happened.
    pub deed: Deed,
    /// The packet as it was then; told at the start of each built-in chain only.
    pub seen: Option<Seen>,
    /// The interface it came by, where that is told.
    pub arriving: Option<String>,
    /// The interface it leaves by, where that is told.
    pub leaving: Option<String>,
}

/// The rules of chains by table and chain, in order, as `iptables-save` prints them.
pub type Texts = BTreeMap<(String, String), Vec<String>>;

/// A packet on a cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Which cable, by its place in [`Known::cables`].
    pub cable: usize,
    /// When, in nanoseconds since 1970.
    pub at: u128,
    /// Its bytes, from the Ethernet header on; of a long one only the first.
    pub bytes: Vec<u8>,
    /// How long it was.
    pub length: usize,
}

/// A cable: the node's end of a pod's only link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cable {
    /// The pod: `default/web-1`.
    pub pod: String,
    /// The pod's address.
    pub address: std::net::IpAddr,
    /// The node's end of it.
    pub interface: String,
    /// Whether the caller hangs on it.
    pub is_callers: bool,
}

/// How the comment of each rule begins that marks a connection for tracing; its owner follows.
pub const MARK: &str = "miniproxy-trace:";

/// What one node told.
#[derive(Debug, Clone, Default)]
pub struct OnNode {
    /// Its name, where it is one of several.
    pub node: Option<String>,
    /// The kernel's words, in their order.
    pub events: Vec<Event>,
    /// The rules.
    pub texts: Texts,
    /// What the connection table told, of all connections.
    pub tracked: Vec<Tracked>,
    /// How many events the kernel had no room for.
    pub lost: usize,
    /// The value of `net.bridge.bridge-nf-call-iptables`, where there is one.
    pub bridge_nf: Option<String>,
}

/// What the connection table told of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Where its first packet came from.
    pub source: SocketAddr,
    /// Where it was sent.
    pub destination: SocketAddr,
    /// `NEW`, `UPDATE`, `DESTROY`.
    pub kind: &'static str,
    /// Where the reply is expected from.
    pub reply_source: SocketAddr,
    /// Where the reply is expected to go.
    pub reply_destination: SocketAddr,
    /// The state of TCP.
    pub state: Option<&'static str>,
    /// Whether it has seen packets of both ways.
    pub assured: bool,
}

/// All that is known of a call.
#[derive(Debug, Clone)]
pub struct Known {
    /// Who called: `default/web-1`, `node-1`.
    pub caller: String,
    /// The Service that was called, if it is one.
    pub service: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The caller's own address and port.
    pub source: SocketAddr,
    /// What was called.
    pub destination: SocketAddr,
    /// What the caller saw.
    pub called: Called,
    /// What the nodes told, the caller's or the one that was called first.
    pub nodes: Vec<OnNode>,
    /// The cables that were listened on.
    pub cables: Vec<Cable>,
    /// What went over them.
    pub captures: Vec<Capture>,
    /// Names of addresses.
    pub names: BTreeMap<std::net::IpAddr, String>,
}

/// The story, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this shape.
    pub schema: u32,
    /// `trace`
    pub kind: &'static str,
    /// What became of the call.
    pub outcome: Word,
    /// One sentence that says why.
    pub sentence: String,
    /// What would cure it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: f64,
    /// The first line of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// The call.
    pub call: Call,
    /// Who answered, or who should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The first packet on the caller's and on the backend's cable.
    pub cables: Vec<OnCable>,
    /// Whether both are the same packet, by its TCP sequence number.
    pub same_packet: bool,
    /// What the first packet met, node by node.
    pub hops: Vec<Hop>,
    /// Whether a node put its own address as the source.
    pub masquerade: bool,
    /// The kernel's number of the packet, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Roads that the dice did not take.
    pub not_taken: Vec<NotTaken>,
    /// The way back.
    pub reply: Reply,
    /// What the connection table holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// How many of the kernel's words were lost, for there were too many at once.
    pub lost: usize,
}

/// The call.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Who called.
    pub from: String,
    /// Its address and port.
    pub source: String,
    /// The Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The address and port that were called.
    pub destination: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// Who was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its name, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address and port.
    pub address: String,
}

/// The packet on a cable.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OnCable {
    /// `caller` or `backend`.
    pub end: &'static str,
    /// The pod.
    pub pod: String,
    /// The node's end of the cable.
    pub interface: String,
    /// Where it comes from.
    pub source: String,
    /// Where it goes to.
    pub destination: String,
    /// The TCP sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u32>,
}

/// A rule, policy or route that the packet met.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The node, where it is one of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The hook: `PREROUTING`; empty for `routing`.
    pub hook: String,
    /// The table; empty for `routing`.
    pub table: String,
    /// The chain, or `routing`.
    pub chain: String,
    /// The rule's number, from 1; `None` for a policy and for routing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The rule's own text.
    pub text: String,
    /// What it did.
    pub what: String,
    /// Where the packet goes after it.
    pub destination_now: String,
    /// Whether this rule rewrote the destination.
    pub rewrites: bool,
    /// Whether a dice was hit here.
    pub dice: bool,
    /// Whether the packet went no further.
    #[serde(skip)]
    pub stopped: bool,
}

/// A road that the dice did not take.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotTaken {
    /// The rule's number.
    pub rule: usize,
    /// The chance that it rolls, from 0 to 1.
    pub rolls: f64,
    /// The chain behind it.
    pub goes_to: String,
    /// The endpoint there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
}

/// The way back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Who it came from, as the backend's cable had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Who it came from, as the caller's cable had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_as: Option<String>,
    /// How many rules of the nat table it met: none, ever. `None` where it was not traced on each node.
    pub nat_rules: Option<usize>,
    /// The tables that it did meet.
    pub tables: Vec<String>,
    /// What that means.
    pub sentence: String,
}

/// The entry of the connection table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conntrack {
    /// Where the reply is expected from.
    pub expects_from: String,
    /// Where the reply is expected to go.
    pub expects_to: String,
    /// The state of TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// Whether packets went both ways and were acknowledged.
    pub assured: bool,
    /// What was told, in order: `NEW SYN_SENT`.
    pub events: Vec<String>,
}
