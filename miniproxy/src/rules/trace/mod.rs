//! A packet through a rule set: what becomes of it, with which chance, and which rules it met.
//!
//! Exact where a dump can tell. The dice are those of the kernel (31 bits), equal states are
//! merged rule by rule, so a Service with thousands of endpoints costs no more than its rules. What
//! a dump cannot tell (a foreign module, the interface a packet leaves by) is never guessed: that
//! share is reported as a [`Doubt`], with the rules it hangs on and what it may become.
//!
//! The packet is the first one of its connection, since only that one sees the nat table. It is taken for
//! genuine: no spoofed source, and a port of its own that clients have. Routing (but for the node's own
//! addresses) and sysctls are not looked at.

mod condition;
mod effect;
mod nearest;
mod outcome;
mod state;
mod transport;
mod walk;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

pub use transport::Transport;
pub use words::chance;

use super::set::{Found, TableName};

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Its protocol.
    pub protocol: Transport,
    /// Where it goes to.
    pub destination: IpAddr,
    /// The port it goes to; 0 where the protocol has none.
    pub port: u16,
    /// The interface it arrives at, or [`SOME_INTERFACE`]; `None` when this node made it.
    pub arriving: Option<String>,
    /// The endpoint (`ip:port`) that session affinity remembers for this client; `None` for a
    /// client that is new.
    pub remembered: Option<SocketAddr>,
}

/// The interface of a packet that arrives, nobody knows where: no interface can have this name.
pub const SOME_INTERFACE: &str = ":";
/// The same for a packet from outside of the cluster: not by an interface that leads to the node's own
/// containers.
pub const OUTSIDE_INTERFACE: &str = ":outside";

/// What a dump does not say about its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's own addresses; loopback is always one.
    pub addresses: BTreeSet<IpAddr>,
    /// Policies of built-in chains, by table and chain; `Accept` where none is given.
    pub policies: BTreeMap<(TableName, String), Verdict>,
    /// Networks and the interfaces by which they are reached; what none holds, nobody knows.
    pub routes: Vec<(IpNet, String)>,
}

impl NodeFacts {
    /// A node with these addresses, whose built-in chains accept.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            policies: BTreeMap::new(),
            routes: Vec::new(),
        }
    }

    /// Sets the policy of a built-in chain.
    #[must_use]
    pub fn policy(mut self, table: TableName, chain: &str, verdict: Verdict) -> Self {
        self.policies.insert((table, chain.to_string()), verdict);
        self
    }

    /// Says by which interface a network is reached.
    #[must_use]
    pub fn route(mut self, network: IpNet, interface: &str) -> Self {
        self.routes.push((network, interface.to_string()));
        self
    }

    /// The interface by which packets to this address leave: that of the narrowest network.
    pub(super) fn leaving(&self, destination: IpAddr) -> Option<&str> {
        if self.is_own(destination) {
            return Some("lo");
        }
        let holding = self
            .routes
            .iter()
            .filter(|(network, _)| network.contains(&destination));
        holding
            .max_by_key(|(network, _)| network.prefix_len())
            .map(|(_, interface)| interface.as_str())
    }

    /// Whether an address is of type LOCAL.
    pub fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }
}

/// How a packet ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It goes on to its destination.
    Accept,
    /// It is thrown away silently.
    Drop,
    /// It is thrown away, and the sender is told.
    Reject,
    /// A rule took it that this program does not understand.
    Unknown,
}

/// A rule's place, as `iptables -L --line-numbers` counts, or a built-in chain's policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The rule's number, from 1; `None` for the chain's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
}

/// One of the things that can become of the packet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it ends.
    pub verdict: Verdict,
    /// Where it goes after DNAT; `None` when no rule rewrote it.
    pub destination: Option<SocketAddr>,
    /// With which chance, from 0 to 1; inside a [`Doubt`], at most.
    pub probability: f64,
    /// The packet mark before POSTROUTING, where kube-proxy clears its own.
    pub mark: u32,
    /// Whether its source is rewritten, by MASQUERADE or SNAT.
    pub masqueraded: bool,
    /// What decided in the filter table, or stopped it elsewhere; `None` when nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Place>,
}

/// A rule that a packet matched.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The rule.
    #[serde(flatten)]
    pub place: Place,
    /// Its text.
    pub rule: String,
    /// The chance that the packet reaches it.
    pub reached: f64,
    /// The chance that the packet reaches it and matches.
    pub matched: f64,
    /// Whether more packets may match, if a rule in doubt sends them here.
    pub perhaps: bool,
    /// What it does: `goes to KUBE-SVC-…`, `marks 0x4000`.
    pub did: String,
}

/// A share of the packets of which nobody can tell what becomes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doubt {
    /// How big it is.
    pub probability: f64,
    /// The rules it hangs on, the first one first.
    pub rules: Vec<DoubtfulRule>,
    /// What it may become; each with the chance it has at most.
    pub possible: Vec<Outcome>,
}

/// A rule that could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DoubtfulRule {
    /// The rule.
    #[serde(flatten)]
    pub place: Place,
    /// Its text.
    pub rule: String,
    /// What is the matter with it.
    pub why: Why,
}

/// Why a rule could not be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// A condition that this program does not know, or that a dump cannot decide.
    Condition,
    /// A target that this program does not know.
    Target,
    /// A jump to a chain that is not there.
    MissingChain,
    /// A jump back into a chain that it came from; no kernel loads that.
    Loop,
    /// Chains nested deeper, or longer ways, than any kernel takes.
    TooLong,
}

/// The rule that came closest to rewriting a packet that was not rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nearest {
    /// The rule.
    #[serde(flatten)]
    pub place: Place,
    /// Its text.
    pub rule: String,
    /// How many conditions were met, those on the way to its chain included.
    pub met: usize,
    /// The first condition that was not: `--dport 80`. `None` when all were, but no rule leads
    /// packets to the chain.
    pub failed: Option<String>,
    /// What the packet has instead: `destination port 81`.
    pub packet: String,
}

/// What becomes of a packet. The chances of [`Trace::outcomes`] and [`Trace::doubts`] add up to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// What it becomes, each with its exact chance.
    pub outcomes: Vec<Outcome>,
    /// Shares that cannot be told.
    pub doubts: Vec<Doubt>,
    /// The share that is for a Service, that nothing stops, and that no rule rewrote: it leaves for
    /// an address that nobody has.
    pub falls_through: f64,
    /// Every rule it matches, in the order in which it comes to them.
    pub hops: Vec<Hop>,
    /// Where packets were not rewritten: the rule that came closest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
}

impl Trace {
    /// The share that ends so.
    pub fn share(&self, verdict: Verdict) -> f64 {
        let of_verdict = self.outcomes.iter().filter(|outcome| outcome.verdict == verdict);
        total(of_verdict.map(|outcome| outcome.probability))
    }

    /// Where accepted packets are sent by DNAT, with the share of each.
    pub fn endpoints(&self) -> BTreeMap<SocketAddr, f64> {
        let mut endpoints = BTreeMap::new();
        for outcome in &self.outcomes {
            if let (Verdict::Accept, Some(to)) = (outcome.verdict, outcome.destination) {
                *endpoints.entry(to).or_default() += outcome.probability;
            }
        }
        endpoints
    }

    /// The share that cannot be told.
    pub fn unknown(&self) -> f64 {
        total(self.doubts.iter().map(|doubt| doubt.probability))
    }
}

/// Without the minus sign that the sum of no fractions has.
fn total(shares: impl Iterator<Item = f64>) -> f64 {
    shares.fold(0.0, |sum, share| sum + share)
}

/// How many times a rule may be held against a packet: many more than any real way is long, and
/// few enough that chains made to explode are given up in time.
pub const STEPS: usize = 3_000_000;

/// Sends a packet through a rule set.
pub fn trace(found: &Found, node: &NodeFacts, packet: &Packet) -> Trace {
    trace_within(found, node, packet, STEPS)
}

/// The same, giving up after so many steps: a rule held against the packet is one.
pub fn trace_within(found: &Found, node: &NodeFacts, packet: &Packet, steps: usize) -> Trace {
    let walk = walk::Walk::new(found, node, packet, steps).run();
    outcome::conclude(&walk, found, node, packet)
}
