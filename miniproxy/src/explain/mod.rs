//! Where a packet goes, and why: a prediction from rules, with nothing sent.
//!
//! [`make`] turns a walk through the rules into one [`Report`]; the screen ([`page`]), the sentences
//! ([`plain`]) and the JSON are made of that alone, so that they cannot disagree. Pure.

pub mod asks;
pub mod check;
mod dice;
mod end;
pub(crate) mod heading;
pub mod make;
pub mod page;
pub mod plain;
mod seen;
pub mod show;

#[cfg(test)]
mod strict;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod wild;

use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer};

pub use check::Host;
pub use make::{Origin, Question, explain};

/// What becomes of the packet, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is sent to a backend.
    Dnat,
    /// It is thrown away, and the sender is told.
    Reject,
    /// It is thrown away silently.
    Drop,
    /// No rule takes it, and nobody has its address.
    NoRule,
    /// No rule rewrites it, and somebody has its address.
    Accept,
    /// It depends on rules that this program does not understand.
    Unknown,
}

impl Verdict {
    /// As in JSON: `no-rule`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dnat => "dnat",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::NoRule => "no-rule",
            Self::Accept => "accept",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the call is answered.
    pub fn connects(self) -> bool {
        matches!(self, Self::Dnat | Self::Accept)
    }
}

/// Whether backends see an address of the node in place of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masquerade {
    /// None of them.
    No,
    /// All of them.
    Yes,
    /// Some: a pod that reaches itself.
    Some,
    /// It hangs on rules that are not understood.
    Unknown,
}

impl Serialize for Masquerade {
    /// `true`, `false`, `"some"` or `"unknown"`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_bool(false),
            Self::Yes => serializer.serialize_bool(true),
            Self::Some => serializer.serialize_str("some"),
            Self::Unknown => serializer.serialize_str("unknown"),
        }
    }
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this format: 1.
    pub schema: u32,
    /// `explain`
    pub kind: &'static str,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Whether that hangs on no rule that is not understood.
    pub certain: bool,
    /// The verdict in a sentence.
    pub sentence: String,
    /// The packet.
    pub packet: PacketFacts,
    /// Where the rules are from.
    pub rules: RuleFacts,
    /// Where it may be sent, in the order of the dice.
    pub backends: Vec<Backend>,
    /// The rules that choose between them.
    pub dice: Vec<Roll>,
    /// The share that is for a Service and that no rule takes.
    pub falls_through: f64,
    /// The share of which nobody can tell where it is sent.
    pub not_known: f64,
    /// Whether its source is rewritten.
    pub masquerade: Masquerade,
    /// The address that a backend sees; `None` where it differs or nobody knows.
    pub backend_sees: Option<String>,
    /// What that is.
    pub backend_sees_what: String,
    /// The packet mark before POSTROUTING: `0x4000`.
    pub mark: String,
    /// Every rule it matches, in the order in which it comes to them.
    pub hops: Vec<Step>,
    /// Where it is accepted, rejected or dropped in the end.
    pub ends: Vec<End>,
    /// Where no rule took it: the one that came closest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Near>,
    /// Rules that could not be judged.
    pub not_understood: Vec<NotUnderstood>,
    /// What happens to the reply.
    pub way_back: String,
    /// What else must be so.
    pub checks: Vec<Check>,
    /// What the reader should know of the answer.
    pub notes: Vec<String>,
    /// Whether it is known what becomes of all that is sent somewhere; the backends say the same by `arrives`.
    #[serde(skip)]
    pub end_known: bool,
    /// Rules that there are were not walked: they are cut off, or of the other iptables.
    #[serde(skip)]
    pub in_part: bool,
}

impl Report {
    /// Shares of all new connections that fail, each with why.
    pub fn losses(&self) -> Vec<(f64, String)> {
        let fallen = (self.falls_through > NOTHING)
            .then(|| (self.falls_through, "are lost: no rule takes them".to_string()));
        let stopped = self.ends.iter().filter_map(|end| {
            let did = match end.verdict {
                "drop" => "dropped",
                "reject" => "rejected",
                _ => return None,
            };
            let by = end.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            (end.share > NOTHING).then(|| (end.share, format!("are {did}{by}")))
        });
        let failed = self.checks.iter().filter(|check| check.ok == Some(false));
        let failed = failed.filter_map(|check| {
            let share = check.costs.filter(|share| *share > NOTHING)?;
            Some((share, format!("fail: {}", check.text)))
        });
        fallen.into_iter().chain(stopped).chain(failed).collect()
    }

    /// Whether the backends that see an address of the node are the caller itself.
    pub fn only_itself(&self) -> bool {
        let masqueraded = self.backends.iter().filter(|backend| backend.masquerade);
        let ip = |backend: &Backend| {
            backend
                .address
                .parse::<SocketAddr>()
                .ok()
                .map(|address| address.ip())
        };
        let source = self.packet.source.parse::<IpAddr>().ok();
        masqueraded.clone().next().is_some() && masqueraded.into_iter().all(|backend| ip(backend) == source)
    }

    /// Whether every new connection is sent somewhere and gets through, as far as the rules that are there tell:
    /// a table that a dump lacks is a doubt and no loss.
    pub fn gets_through(&self) -> bool {
        self.verdict.connects() && !self.in_part && self.not_known < NOTHING && self.losses().is_empty()
    }
}

/// Less than any share: sums of fractions are not exact.
pub(crate) const NOTHING: f64 = 1e-6;

/// The packet, with names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketFacts {
    /// Where it comes from.
    pub source: String,
    /// Who that is: `default/client`, `outside`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why it is sent by this one, where nobody was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`
    pub protocol: &'static str,
    /// Where it goes to.
    pub destination: String,
    /// The port there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The Service that is meant: `default/web:http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// By which of its addresses: `cluster IP`, `node port`.
    pub door: &'static str,
    /// The interface it arrives at, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Whether the node whose rules these are made it.
    pub made_here: bool,
}

/// Where the rules are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleFacts {
    /// `the kernel`, or the file.
    pub from: String,
    /// The node whose rules they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// How many there are.
    pub count: usize,
}

/// One of the places a packet may be sent to.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// `web-1`, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `10.244.0.2:8080`
    pub address: String,
    /// Its share of all new connections.
    pub share: f64,
    /// What of that share passes the filter; `None` where nobody knows.
    pub arrives: Option<f64>,
    /// The chain that rewrites the destination.
    pub chain: String,
    /// The number of the rule there.
    pub rule: usize,
    /// The text of that rule.
    pub text: String,
    /// What the rule that leads here rolls; 1 without dice.
    pub probability: f64,
    /// Whether it sees an address of the node.
    pub masquerade: bool,
    /// How many packets that rule has met, where counters are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// A rule that chooses.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Roll {
    /// The chain.
    pub chain: String,
    /// The rule's number in it.
    pub rule: usize,
    /// The text of the rule.
    pub text: String,
    /// The chance that it takes a packet that comes to it; `None` where it throws no dice.
    pub rolls: Option<f64>,
    /// The share of all new connections that comes to it.
    pub still_here: f64,
    /// The share of all new connections that it takes.
    pub share: f64,
    /// The backend it leads to, by its place in `backends`.
    pub goes_to: usize,
    /// How many packets it has met, where counters are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// A rule that the packet matches.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The rule's number, as `iptables -L --line-numbers` counts.
    pub rule: usize,
    /// How many rules the chain has.
    pub of: usize,
    /// The very text of the rule.
    pub text: String,
    /// What it asks, in short: `dst 10.96.0.80, tcp, port 80`.
    pub asks: String,
    /// What it does.
    pub did: String,
    /// The share of all new connections that comes to it.
    pub reached: f64,
    /// The share that matches.
    pub matched: f64,
    /// Whether more may match, if a rule that is not understood sends them here.
    pub perhaps: bool,
    /// How many packets it has met, where counters are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// How a share of the packets ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `accept`, `drop`, `reject`
    pub verdict: &'static str,
    /// Its share of all new connections.
    pub share: f64,
    /// What decided: `filter FORWARD policy`, `filter KUBE-FORWARD #2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The text of that rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The rule that came closest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Near {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The number.
    pub rule: usize,
    /// Its text.
    pub text: String,
    /// The condition that was not met: `--dport 80`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What the packet has instead: `destination port 81`.
    pub packet: String,
    /// Both in words.
    pub what: String,
}

/// A rule that could not be judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotUnderstood {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// Its text.
    pub text: String,
    /// Whose chain that is: `Calico`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<&'static str>,
    /// What is the matter.
    pub why: &'static str,
    /// The share of all new connections that hangs on it.
    pub share: f64,
}

/// Something that must be so besides the rules.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// `shares`, `forward`, `bridge`, …
    pub name: &'static str,
    /// Whether it is; `None` where nobody could look.
    pub ok: Option<bool>,
    /// The share of all new connections that fails where it is not so, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<f64>,
    /// In words.
    pub text: String,
}

/// `33.3%`
pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// `1/3` where the kernel's number is that of some 1/n, else `29.6%`.
pub fn fraction(chance: f64) -> String {
    let n = (1.0 / chance.max(f64::MIN_POSITIVE)).round();
    if (1.0..=1e9).contains(&n) && (chance * n - 1.0).abs() < 5e-5 {
        return if n < 1.5 { "1".into() } else { format!("1/{n:.0}") };
    }
    percent(chance)
}
