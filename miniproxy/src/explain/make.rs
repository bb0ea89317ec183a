//! A walk through the rules → the report.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use super::asks::{asks, dnat, leads_to};
use super::check::{self, Host};
use super::end::MARKED;
use super::{Backend, PacketFacts, Report, Roll, RuleFacts, Step, Verdict};
use crate::rules::pasted::Pasted;
use crate::rules::rule::{Match, Rule};
use crate::rules::set::{Found, TableName};
use crate::rules::text::rule_text;
use crate::rules::trace::{self, Hop, NodeFacts, Outcome, Packet, Place, SOME_INTERFACE, Trace};
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
    /// How many rules may be held against the packet before it is given up.
    pub steps: usize,
}

/// Answers.
pub fn explain(question: &Question<'_>) -> Report {
    let made = Made::new(question);
    made.report()
}

/// The packet as it comes in: by the interface that its source is behind, where that is known.
fn packet(question: &Question<'_>) -> Packet {
    let mut packet = question.call.packet.clone();
    if packet.arriving.as_deref() == Some(SOME_INTERFACE)
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
        let nat = (!whole.doubts.is_empty()).then(|| without(&[]));
        let unsure = nat.as_ref().is_some_and(|nat| !nat.doubts.is_empty());
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
        let marked = self.is_marked_for_dropping() && verdict == Verdict::Drop;
        let falls_through = if marked { 0.0 } else { choosing.falls_through };
        let mut notes = self.question.call.notes.clone();
        notes.extend(self.question.origin.notes.iter().cloned());
        notes.extend(self.affinity(&dice));
        notes.extend(marked.then(|| MARKED.to_string()));
        let mut report = Report {
            schema: 1,
            kind: "explain",
            verdict,
            certain: self.whole.doubts.is_empty(),
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
        };
        report.sentence = super::plain::sentence(&report);
        report.way_back = check::way_back(&report, self.question);
        report.checks = check::checks(&report, self.question);
        report
    }

    fn packet_facts(&self) -> PacketFacts {
        let call = self.question.call;
        let interface = self.packet.arriving.clone().filter(|name| name != SOME_INTERFACE);
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

    /// Where packets are sent, and the rules that choose: those that lead to a chain with one DNAT, or
    /// the DNAT rules themselves.
    fn backends(&self) -> (Vec<Backend>, Vec<Roll>) {
        let trace = self.choosing();
        let mut leading: BTreeMap<&str, Vec<&Hop>> = BTreeMap::new();
        let mut dnats: Vec<(&Hop, SocketAddr)> = Vec::new();
        let mut in_chain: BTreeMap<&str, usize> = BTreeMap::new();
        for hop in trace.hops.iter().filter(|hop| hop.place.table == "nat") {
            let Some(rule) = self.rule(&hop.place) else {
                continue;
            };
            if let Some(to) = leads_to(rule) {
                leading.entry(to).or_default().push(hop);
            }
            if let Some(mut to) = dnat(rule) {
                if to.port() == 0 {
                    to.set_port(self.packet.port);
                }
                dnats.push((hop, to));
                *in_chain.entry(&hop.place.chain).or_default() += 1;
            }
        }
        let mut backends: Vec<Backend> = Vec::new();
        let mut dice = Vec::new();
        for (hop, to) in dnats {
            let alone = in_chain.get(hop.place.chain.as_str()) == Some(&1);
            let choosers = leading.get(hop.place.chain.as_str()).filter(|_| alone);
            let choosers = choosers.map_or_else(|| vec![hop], Clone::clone);
            let place = backends.len();
            dice.extend(choosers.iter().map(|chooser| self.roll(chooser, place)));
            let chances = choosers.iter().filter_map(|chooser| self.chance(&chooser.place));
            backends.push(self.backend(
                hop,
                to,
                chances.fold(None, |_, chance| Some(chance)).unwrap_or(1.0),
            ));
        }
        dice.sort_by(|one, other| (&one.chain, one.rule).cmp(&(&other.chain, other.rule)));
        in_order_of_dice(&mut backends, &mut dice);
        (backends, dice)
    }

    fn chance(&self, place: &Place) -> Option<f64> {
        self.rule(place)?
            .matches
            .iter()
            .find_map(|condition| match condition {
                Match::Statistic(chance) => Some(chance.fraction()),
                Match::Other(words) => trace::chance(&words.iter().map(String::as_str).collect::<Vec<_>>()),
                _ => None,
            })
    }

    fn roll(&self, hop: &Hop, goes_to: usize) -> Roll {
        Roll {
            chain: hop.place.chain.clone(),
            rule: hop.place.number.unwrap_or(0),
            text: self.text(&hop.place),
            rolls: self.chance(&hop.place),
            still_here: hop.reached,
            share: hop.matched,
            goes_to,
            packets: self.question.pasted.packets(&hop.place),
        }
    }

    fn backend(&self, hop: &Hop, to: SocketAddr, probability: f64) -> Backend {
        let of_it = |outcome: &&Outcome| {
            outcome.destination.is_some_and(|other| {
                other.ip() == to.ip() && (other.port() == to.port() || !self.packet.protocol.has_ports())
            })
        };
        let arrives = self.whole.outcomes.iter().filter(of_it);
        let arrives: f64 = arrives
            .filter(|outcome| outcome.verdict == trace::Verdict::Accept)
            .map(|outcome| outcome.probability)
            .sum();
        let mut outcomes = self.choosing().outcomes.iter().filter(of_it);
        let name = self.question.book.name_of(to.ip());
        Backend {
            name: name.map(|name| short(&name)),
            address: to.to_string(),
            share: hop.matched,
            arrives: self.whole.doubts.is_empty().then_some(arrives),
            chain: hop.place.chain.clone(),
            rule: hop.place.number.unwrap_or(0),
            text: self.text(&hop.place),
            probability,
            masquerade: outcomes.any(|outcome| outcome.masqueraded),
            packets: self.question.pasted.packets(&hop.place),
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

/// Backends stand as the dice come to them: marks and shapes are given in that order.
fn in_order_of_dice(backends: &mut Vec<Backend>, dice: &mut [Roll]) {
    let mut order: Vec<usize> = Vec::with_capacity(backends.len());
    let mut new_place = vec![usize::MAX; backends.len()];
    for roll in dice.iter_mut() {
        if new_place[roll.goes_to] == usize::MAX {
            new_place[roll.goes_to] = order.len();
            order.push(roll.goes_to);
        }
        roll.goes_to = new_place[roll.goes_to];
    }
    let mut old: Vec<Option<Backend>> = std::mem::take(backends).into_iter().map(Some).collect();
    backends.extend(order.into_iter().filter_map(|index| old[index].take()));
}

/// The namespace `default` goes without saying.
pub(super) fn short(name: &str) -> String {
    name.strip_prefix("default/").unwrap_or(name).to_string()
}
