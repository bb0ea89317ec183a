//! A walk through the rules → the report.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use labkit::xtables::Family;

use super::asks::{asks, owner};
use super::check::{self, Host};
use super::{
    Backend, End, Masquerade, Near, NotUnderstood, PacketFacts, Report, Roll, RuleFacts, Step, Verdict,
};
use crate::rules::pasted::Pasted;
use crate::rules::rule::{Match, Rule, Target};
use crate::rules::set::{Found, TableName};
use crate::rules::text::rule_text;
use crate::rules::trace::{self, Hop, NodeFacts, Outcome, Packet, Place, SOME_INTERFACE, Trace, Why};
use crate::target::{Book, Call, Door, SenderKind};

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

struct Made<'a> {
    question: &'a Question<'a>,
    packet: Packet,
    /// The whole walk.
    whole: Trace,
    /// Where the whole walk is in doubt: the walk through nat alone, which says where it would go.
    nat: Option<Trace>,
}

impl<'a> Made<'a> {
    fn new(question: &'a Question<'a>) -> Self {
        let packet = packet(question);
        let node = node_facts(question);
        let whole = trace::trace(&question.pasted.found, &node, &packet);
        let nat = (!whole.doubts.is_empty()).then(|| {
            let mut nat = Found::default();
            let tables = &question.pasted.found.tables;
            nat.tables.extend(
                tables
                    .get(&TableName::Nat)
                    .map(|chains| (TableName::Nat, chains.clone())),
            );
            let accepting = NodeFacts {
                policies: BTreeMap::new(),
                ..node.clone()
            };
            trace::trace(&nat, &accepting, &packet)
        });
        Self {
            question,
            packet,
            whole,
            nat,
        }
    }

    /// The walk that says where packets are sent.
    fn choosing(&self) -> &Trace {
        self.nat.as_ref().unwrap_or(&self.whole)
    }

    fn report(self) -> Report {
        let (backends, dice) = self.backends();
        let verdict = self.verdict();
        let choosing = self.choosing();
        let masquerade = masquerade(&choosing.outcomes, verdict);
        let (backend_sees, backend_sees_what) = self.seen(masquerade, verdict);
        let mark = choosing
            .outcomes
            .iter()
            .map(|outcome| outcome.mark)
            .max()
            .unwrap_or(0);
        let falls_through = choosing.falls_through;
        let mut notes = self.question.call.notes.clone();
        notes.extend(self.question.origin.notes.iter().cloned());
        notes.extend(self.affinity(&dice));
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
            hops: self.whole.hops.iter().map(|hop| self.step(hop)).collect(),
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

    fn verdict(&self) -> Verdict {
        let whole = &self.whole;
        if !whole.endpoints().is_empty() {
            return Verdict::Dnat;
        }
        let share = |verdict| whole.share(verdict);
        let (reject, drop, accept) = (
            share(trace::Verdict::Reject),
            share(trace::Verdict::Drop),
            share(trace::Verdict::Accept),
        );
        let doubt = whole.unknown();
        if reject > 0.0 && reject >= drop.max(doubt) {
            return Verdict::Reject;
        }
        if drop > 0.0 && drop >= doubt {
            return Verdict::Drop;
        }
        if doubt > accept {
            let chosen = self.nat.as_ref().is_some_and(|nat| !nat.endpoints().is_empty());
            return if chosen { Verdict::Dnat } else { Verdict::Unknown };
        }
        let somebody = self.question.book.name_of(self.packet.destination).is_some()
            || self.is_backend(self.packet.destination);
        if somebody && self.question.call.door == Door::Address {
            Verdict::Accept
        } else {
            Verdict::NoRule
        }
    }

    /// Whether some rule sends packets to this address.
    fn is_backend(&self, ip: IpAddr) -> bool {
        let nat = self.question.pasted.found.tables.get(&TableName::Nat);
        let rules = nat.into_iter().flat_map(|chains| chains.values().flatten());
        rules.filter_map(dnat).any(|to| to.ip() == ip)
    }

    fn rule(&self, place: &Place) -> Option<&'a Rule> {
        let table = TableName::parse(place.table)?;
        let chain = self.question.pasted.found.chain(table, &place.chain)?;
        chain.get(place.number?.checked_sub(1)?)
    }

    fn text(&self, place: &Place) -> String {
        let line = self.question.pasted.line(place);
        let made = || {
            self.rule(place)
                .map(|rule| format!("-A {} {}", place.chain, rule_text(rule)))
        };
        line.map(str::to_string).or_else(made).unwrap_or_default()
    }

    fn step(&self, hop: &Hop) -> Step {
        let place = &hop.place;
        let table = TableName::parse(place.table).unwrap_or(TableName::Nat);
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

    fn seen(&self, masquerade: Masquerade, verdict: Verdict) -> (Option<String>, String) {
        let source = self.packet.source;
        let who = match self.question.call.sender.kind {
            _ if self.packet.arriving.is_none() => "the node, which made the packet",
            SenderKind::Pod | SenderKind::Outside | SenderKind::OtherNode | SenderKind::Node => {
                "the real client"
            }
            SenderKind::Address => "the real source",
        };
        match (verdict, masquerade) {
            (Verdict::Reject | Verdict::Drop | Verdict::NoRule, _) => (None, "no backend sees it".into()),
            (_, Masquerade::No) => (Some(source.to_string()), who.into()),
            (_, Masquerade::Some) => (
                None,
                format!("{source}, or the node's own address where the caller reaches itself"),
            ),
            (_, Masquerade::Yes) => {
                let backends = self.choosing().endpoints();
                let host = self.question.host;
                let own = |to: &SocketAddr| host.and_then(|host| host.address_towards(to.ip()));
                let mut all = backends.keys().map(own);
                let first = all.next().flatten();
                let same = first.filter(|_| all.all(|other| other == first));
                (
                    same.map(|ip| ip.to_string()),
                    "an address of the node: the client's is gone".into(),
                )
            }
        }
    }

    fn ends(&self) -> Vec<End> {
        let mut ends: Vec<End> = Vec::new();
        for outcome in &self.whole.outcomes {
            let verdict = match outcome.verdict {
                trace::Verdict::Accept => "accept",
                trace::Verdict::Drop => "drop",
                trace::Verdict::Reject => "reject",
                trace::Verdict::Unknown => "unknown",
            };
            let by = outcome.by.as_ref().map(|place| match place.number {
                Some(number) => format!("{} {} #{number}", place.table, place.chain),
                None => format!("{} {} policy", place.table, place.chain),
            });
            let text = outcome
                .by
                .as_ref()
                .map(|place| self.text(place))
                .filter(|text| !text.is_empty());
            match ends.iter_mut().find(|end| end.verdict == verdict && end.by == by) {
                Some(end) => end.share += outcome.probability,
                None => ends.push(End {
                    verdict,
                    share: outcome.probability,
                    by,
                    text,
                }),
            }
        }
        ends
    }

    fn nearest(&self, verdict: Verdict) -> Option<Near> {
        let near = self.choosing().nearest.as_ref()?;
        if verdict == Verdict::Accept {
            return None;
        }
        Some(Near {
            table: near.place.table,
            chain: near.place.chain.clone(),
            rule: near.place.number.unwrap_or(0),
            text: self.text(&near.place),
            field: near.failed.clone(),
            what: match &near.failed {
                Some(field) => format!("asks for {field}, the packet has {}", near.packet),
                None => near.packet.clone(),
            },
            packet: near.packet.clone(),
        })
    }

    fn not_understood(&self) -> Vec<NotUnderstood> {
        let doubts = self.whole.doubts.iter();
        let rules = doubts.flat_map(|doubt| doubt.rules.iter().map(|rule| (rule, doubt.probability)));
        let mut all: Vec<NotUnderstood> = Vec::new();
        for (rule, share) in rules {
            let place = &rule.place;
            let same = |known: &&mut NotUnderstood| {
                (known.table, known.chain.as_str(), known.rule)
                    == (place.table, place.chain.as_str(), place.number)
            };
            if let Some(known) = all.iter_mut().find(same) {
                known.share = (known.share + share).min(1.0);
                continue;
            }
            all.push(NotUnderstood {
                table: place.table,
                chain: place.chain.clone(),
                rule: place.number,
                text: self.text(place),
                owner: owner(&place.chain),
                why: match rule.why {
                    Why::Condition => "a condition that rules alone do not decide",
                    Why::Target => "what it does is not known here",
                    Why::MissingChain => "the chain that it leads to is missing",
                    Why::Loop => "it leads back to where it came from",
                    Why::TooLong => "the way is longer than any kernel allows",
                },
                share,
            });
        }
        all
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

fn leads_to(rule: &Rule) -> Option<&str> {
    match &rule.target {
        Some(Target::Jump(chain)) => Some(chain),
        Some(Target::Other(words)) => match words.as_slice() {
            [option, chain] if option == "-g" => Some(chain),
            _ => None,
        },
        _ => None,
    }
}

/// Where a rule sends packets; port 0 where it keeps theirs.
fn dnat(rule: &Rule) -> Option<SocketAddr> {
    let to = match &rule.target {
        Some(Target::Dnat(to)) => to.as_str(),
        Some(Target::Other(words)) if words.get(1).is_some_and(|name| name == "DNAT") => {
            let at = words.iter().position(|word| word == "--to-destination")?;
            words.get(at + 1)?
        }
        _ => return None,
    };
    let bare = to.trim_start_matches('[').trim_end_matches(']');
    to.parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(bare.parse().ok()?, 0)))
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

fn masquerade(outcomes: &[Outcome], verdict: Verdict) -> Masquerade {
    if !verdict.connects() {
        return Masquerade::No;
    }
    let sent = || {
        outcomes
            .iter()
            .filter(|outcome| outcome.destination.is_some() || verdict == Verdict::Accept)
    };
    match (
        sent().any(|outcome| outcome.masqueraded),
        sent().all(|outcome| outcome.masqueraded),
    ) {
        (false, _) => Masquerade::No,
        (true, true) => Masquerade::Yes,
        (true, false) => Masquerade::Some,
    }
}

/// The namespace `default` goes without saying.
pub(super) fn short(name: &str) -> String {
    name.strip_prefix("default/").unwrap_or(name).to_string()
}
