//! A walk through the rules → the report.

use std::collections::BTreeMap;

use ipnet::IpNet;
use labkit::xtables::Family;

use super::asks::asks;
use super::check::{self, Host};
use super::end::MARKED;
use super::{PacketFacts, Report, Roll, RuleFacts, Step, Verdict};
use crate::rules::pasted::Pasted;
use crate::rules::rule::{Match, Rule};
use crate::rules::set::{Found, TableName};
use crate::rules::text::rule_text;
use crate::rules::trace::{
    self, Hop, NodeFacts, OUTSIDE_INTERFACE, Packet, Place, SOME_INTERFACE, Trace, Why,
};
use crate::target::{Book, Call, Door};

/// Where the rules are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `the kernel`, or the file.
    pub from: String,
    /// How many rules there are.
    pub rules: usize,
    /// What is to be known of them.
    pub notes: Vec<String>,
}

/// All that an answer depends on.
#[derive(Debug)]
pub struct Question<'a> {
    /// The packet, with names.
    pub call: &'a Call,
    /// Names of addresses.
    pub book: &'a Book,
    /// The rules.
    pub pasted: &'a Pasted<'a>,
    /// Their family.
    pub family: Family,
    /// Where they are from.
    pub origin: &'a Origin,
    /// What the node itself says; nothing where there is only a dump.
    pub host: Option<&'a Host>,
    /// The node, which makes the packet, has no route to its destination.
    pub no_route: bool,
    /// How many rules may be held against the packet before it is given up.
    pub steps: usize,
}

/// Answers.
pub fn explain(question: &Question<'_>) -> Report {
    let made = Made::new(question);
    made.report()
}

fn is_open(interface: &str) -> bool {
    [SOME_INTERFACE, OUTSIDE_INTERFACE].contains(&interface)
}

/// The packet as it comes in: by the interface that its source is behind, where that is known.
fn packet(question: &Question<'_>) -> Packet {
    let mut packet = question.call.packet.clone();
    if packet.arriving.as_deref().is_some_and(is_open)
        && let Some(name) = question.host.and_then(|host| host.interface_to(packet.source))
    {
        packet.arriving = Some(name.to_string());
    }
    packet
}

fn node_facts(question: &Question<'_>) -> NodeFacts {
    let mut node = NodeFacts::new(question.call.own.iter().copied());
    node.policies.clone_from(&question.pasted.policies);
    if let Some(host) = question.host {
        let networks = host
            .interfaces
            .iter()
            .map(|(name, network)| (network.trunc(), name.clone()));
        let routes = host.routes.iter().cloned();
        node.routes
            .extend(networks.chain(routes).filter(|(network, _)| is_route(network)));
    }
    node
}

/// A default route says less than its absence: it may be another one for each sender.
fn is_route(network: &IpNet) -> bool {
    network.prefix_len() > 0
}

/// The nat table without some of its chains, and no other table.
fn nat_alone(found: &Found, left_out: &[&str]) -> Found {
    let mut alone = Found::default();
    if let Some(chains) = found.tables.get(&TableName::Nat) {
        let mut chains = chains.clone();
        chains.retain(|name, _| !left_out.contains(&name.as_str()));
        alone.tables.insert(TableName::Nat, chains);
    }
    alone
}

/// The same walk once more would end no further.
fn gave_up_in_nat(trace: &Trace) -> bool {
    let rules = trace.doubts.iter().flat_map(|doubt| &doubt.rules);
    rules
        .filter(|rule| rule.place.table == TableName::Nat.name())
        .any(|rule| rule.why == Why::TooLong)
}

pub(super) struct Made<'a> {
    pub(super) question: &'a Question<'a>,
    pub(super) packet: Packet,
    /// The whole walk.
    pub(super) whole: Trace,
    /// Where the whole walk is in doubt: the walk through nat alone, which says where it would go.
    pub(super) nat: Option<Trace>,
    /// Where that is in doubt, too: the walk up to the rewritten destination.
    sent: Option<Trace>,
}

impl<'a> Made<'a> {
    fn new(question: &'a Question<'a>) -> Self {
        let packet = packet(question);
        let node = node_facts(question);
        let whole = trace::trace_within(&question.pasted.found, &node, &packet, question.steps);
        let accepting = NodeFacts {
            policies: BTreeMap::new(),
            ..node
        };
        let without = |left_out: &[&str]| {
            let nat = nat_alone(&question.pasted.found, left_out);
            trace::trace_within(&nat, &accepting, &packet, question.steps)
        };
        let nat = (!whole.doubts.is_empty() && !gave_up_in_nat(&whole)).then(|| without(&[]));
        let unsure = nat
            .as_ref()
            .is_some_and(|nat| !nat.doubts.is_empty() && !gave_up_in_nat(nat));
        let sent = unsure.then(|| without(&["POSTROUTING", "INPUT"]));
        Self {
            question,
            packet,
            whole,
            nat,
            sent,
        }
    }

    /// The walk that says where packets are sent.
    pub(super) fn choosing(&self) -> &Trace {
        self.sent.as_ref().or(self.nat.as_ref()).unwrap_or(&self.whole)
    }

    /// The walk that says with which source packets leave.
    pub(super) fn way_out(&self) -> &Trace {
        self.nat.as_ref().unwrap_or(&self.whole)
    }

    /// Whether all rules are here that have a say in what becomes of the packet.
    pub(super) fn has_all_rules(&self) -> bool {
        let pasted = self.question.pasted;
        match self.question.host {
            Some(host) => !host.mixed,
            None => pasted.has_filter && !pasted.beside,
        }
    }

    /// Rules that are not here can stop what others let through, but let through nothing that others stop.
    fn is_certain(&self, verdict: Verdict) -> bool {
        let is_stopped = matches!(verdict, Verdict::Drop | Verdict::Reject);
        self.whole.doubts.is_empty() && verdict != Verdict::Unknown && (is_stopped || self.has_all_rules())
    }

    fn without_filter(&self, verdict: Verdict) -> Option<String> {
        let pasted = self.question.pasted;
        if pasted.has_filter || self.question.host.is_some() || pasted.found.tables.is_empty() {
            return None;
        }
        let all = match verdict {
            Verdict::Drop | Verdict::Reject => return None,
            Verdict::NoRule | Verdict::Unknown => ", nor whether it is rejected there",
            Verdict::Dnat | Verdict::Accept => "",
        };
        Some(format!(
            "the filter table is not in the dump: whether it is let through is not known{all}"
        ))
    }

    fn report(self) -> Report {
        let (backends, dice) = self.backends();
        let verdict = self.verdict();
        let choosing = self.choosing();
        let masquerade = self.masquerade(verdict);
        let (backend_sees, backend_sees_what) = self.seen(masquerade, verdict);
        let mark = choosing
            .outcomes
            .iter()
            .map(|outcome| outcome.mark)
            .max()
            .unwrap_or(0);
        let marked = self.is_marked_for_dropping() && !verdict.connects();
        let sent = self.sent();
        let falls_through = if marked { 0.0 } else { choosing.falls_through };
        let mut notes = self.question.call.notes.clone();
        notes.extend(self.question.origin.notes.iter().cloned());
        notes.extend(self.affinity(&dice));
        notes.extend(marked.then(|| MARKED.to_string()));
        notes.extend(self.without_filter(verdict));
        notes.extend(self.question.host.filter(|host| host.mixed).map(|_| {
            "the other iptables has rules too, and the kernel asks both: whether those let it pass is not known"
                .to_string()
        }));
        let mut report = Report {
            schema: 1,
            kind: "explain",
            verdict,
            certain: self.is_certain(verdict),
            sentence: String::new(),
            packet: self.packet_facts(),
            rules: RuleFacts {
                from: self.question.origin.from.clone(),
                node: self.question.book.here.clone(),
                family: self.question.family.name(),
                count: self.question.origin.rules,
            },
            backends,
            dice,
            falls_through,
            not_known: sent.not_known,
            masquerade,
            backend_sees,
            backend_sees_what,
            mark: format!("{mark:#x}"),
            hops: self.steps(),
            ends: self.ends(),
            nearest: self.nearest(verdict),
            not_understood: self.not_understood(),
            way_back: String::new(),
            checks: Vec::new(),
            notes,
            end_known: self.end_known(),
            in_part: self.question.pasted.is_in_part(),
        };
        report.checks = check::checks(&report, self.question);
        report.sentence = super::plain::sentence(&report);
        report.way_back = check::way_back(&report, self.question);
        report
    }

    fn packet_facts(&self) -> PacketFacts {
        let call = self.question.call;
        let interface = self.packet.arriving.clone().filter(|name| !is_open(name));
        PacketFacts {
            source: self.packet.source.to_string(),
            from: call.sender.name.clone(),
            chosen: call.sender.chosen.clone(),
            protocol: self.packet.protocol.lower(),
            destination: self.packet.destination.to_string(),
            port: self.packet.protocol.has_ports().then_some(self.packet.port),
            service: call.port.as_ref().map(|port| port.name.to_string()),
            door: match call.door {
                Door::ClusterIp => "cluster IP",
                Door::External => "external IP",
                Door::NodePort => "node port",
                Door::Address => "address",
            },
            interface,
            made_here: self.packet.arriving.is_none(),
        }
    }

    pub(super) fn rule(&self, place: &Place) -> Option<&'a Rule> {
        let table = TableName::walked(place.table)?;
        let chain = self.question.pasted.found.chain(table, &place.chain)?;
        chain.get(place.number?.checked_sub(1)?)
    }

    pub(super) fn text(&self, place: &Place) -> String {
        let line = self.question.pasted.line(place);
        let made = || {
            self.rule(place)
                .map(|rule| format!("-A {} {}", place.chain, rule_text(rule)))
        };
        line.map(str::to_string).or_else(made).unwrap_or_default()
    }

    /// The rules of the whole way; those of nat with the shares that they have if packets come so far.
    fn steps(&self) -> Vec<Step> {
        let choosing: BTreeMap<&Place, &Hop> =
            self.choosing().hops.iter().map(|hop| (&hop.place, hop)).collect();
        let told = self.whole.hops.iter().map(|hop| {
            let far = choosing.get(&hop.place).filter(|far| far.place.table == "nat");
            self.step(far.copied().unwrap_or(hop))
        });
        told.collect()
    }

    fn step(&self, hop: &Hop) -> Step {
        let place = &hop.place;
        let table = TableName::walked(place.table).unwrap_or(TableName::Nat);
        Step {
            table: place.table,
            chain: place.chain.clone(),
            rule: place.number.unwrap_or(0),
            of: self.question.pasted.length(table, &place.chain),
            text: self.text(place),
            asks: self.rule(place).map(asks).unwrap_or_default(),
            did: hop.did.clone(),
            reached: hop.reached,
            matched: hop.matched,
            perhaps: hop.perhaps,
            packets: self.question.pasted.packets(place),
        }
    }

    /// Rules that remember clients stand before the dice.
    fn affinity(&self, dice: &[Roll]) -> Option<String> {
        let first = dice.first()?;
        let chain = self.question.pasted.found.chain(TableName::Nat, &first.chain)?;
        let seconds = chain
            .iter()
            .flat_map(|rule| &rule.matches)
            .find_map(|condition| match condition {
                Match::RecentCheck { seconds, .. } => Some(*seconds),
                _ => None,
            })?;
        Some(format!(
            "session affinity: these are the dice of a new client; who called in the last {seconds} s goes where it went then"
        ))
    }
}

/// The namespace `default` goes without saying.
pub(super) fn short(name: &str) -> String {
    name.strip_prefix("default/").unwrap_or(name).to_string()
}
