//! Why not: the rule that came closest to rewriting a packet, and what kept it from doing so.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::super::fixed::{EXTERNAL_SERVICES, SERVICES};
use super::super::rule::{Match, Rule, Side};
use super::super::set::{Chains, Found, TableName};
use super::super::text::rule_text;
use super::Nearest;
use super::condition::{Met, Scene};
use super::effect::{Effect, effect};
use super::state::{Spot, State};
use super::{NodeFacts, Packet};

/// The nat table as the packet found it, before anything was rewritten.
pub(super) struct Search<'a> {
    found: &'a Found,
    nat: &'a Chains,
    scene: Scene<'a>,
    state: State<'a>,
    /// Chains from which a DNAT can be reached: rules that lead elsewhere are no candidates.
    leading: BTreeSet<&'a str>,
    visited: BTreeSet<&'a str>,
    best: Option<Candidate<'a>>,
}

/// More conditions met, fewer missed, and the more telling ones.
type Score = (usize, Reverse<usize>, u32);

struct Candidate<'a> {
    score: Score,
    spot: Spot<'a>,
    rule: &'a Rule,
    failed: Option<&'a Match>,
}

static NO_CHAINS: Chains = Chains::new();

impl<'a> Search<'a> {
    pub(super) fn new(found: &'a Found, node: &'a NodeFacts, packet: &'a Packet) -> Self {
        let nat = found.tables.get(&TableName::Nat).unwrap_or(&NO_CHAINS);
        Self {
            found,
            nat,
            scene: Scene::new(found, node, packet),
            state: State::new(packet.destination, packet.port),
            leading: leading(nat),
            visited: BTreeSet::new(),
            best: None,
        }
    }

    /// Whether some rule makes the destination a Service's: no host answers for it.
    pub(super) fn is_virtual_ip(&self) -> bool {
        let destination = self.scene.packet.destination;
        if self.scene.node.is_own(destination) {
            return false;
        }
        let names_it = |rule: &Rule| rule.destination() == Some(destination);
        let filter = [SERVICES, EXTERNAL_SERVICES]
            .into_iter()
            .filter_map(|chain| self.found.chain(TableName::Filter, chain));
        self.nat
            .values()
            .flatten()
            .any(|rule| names_it(rule) && self.leads(rule))
            || filter.flatten().any(names_it)
    }

    /// Looks where the packet came by; if no rule there is near, everywhere.
    pub(super) fn nearest(mut self) -> Option<Nearest> {
        let first = self.scene.hook.chain();
        self.look_in(first, 0);
        if self.best.is_none() {
            let nat = self.nat;
            for (chain, rules) in nat {
                for (index, rule) in rules.iter().enumerate() {
                    self.consider(chain, index, rule, 0);
                }
            }
        }
        let best = self.best.take()?;
        Some(Nearest {
            place: best.spot.into(),
            rule: rule_text(best.rule),
            met: best.score.0,
            failed: best
                .failed
                .map(|failed| rule_text(&Rule::new().with(failed.clone()))),
            packet: match best.failed {
                Some(failed) => self.has_instead(failed),
                None => format!("no rule leads it to {}", best.spot.chain),
            },
        })
    }

    /// A chain that the packet comes to, with the number of conditions it met on the way. Each is
    /// looked at once; chains that lead nowhere are not entered.
    fn look_in(&mut self, first: &'a str, met: usize) {
        let mut open = vec![(first, met)];
        while let Some((chain, before)) = open.pop() {
            let Some((name, rules)) = self.nat.get_key_value(chain) else {
                continue;
            };
            if !self.visited.insert(name) {
                continue;
            }
            for (index, rule) in rules.iter().enumerate() {
                if !self.leads(rule) {
                    continue;
                }
                match (self.scene.rule(rule, &self.state), effect(rule)) {
                    (Met::Chance(chance), Effect::Call { chain, .. }) if chance >= 1.0 => {
                        open.push((
                            chain,
                            before + rule.matches.iter().filter(|condition| counts(condition)).count(),
                        ));
                    }
                    _ => self.consider(name, index, rule, before),
                }
            }
        }
    }

    fn leads(&self, rule: &Rule) -> bool {
        match effect(rule) {
            Effect::Call { chain, .. } => self.leading.contains(chain),
            Effect::Dnat { .. } => true,
            _ => false,
        }
    }

    fn consider(&mut self, chain: &'a str, index: usize, rule: &'a Rule, before: usize) {
        if !self.leads(rule) {
            return;
        }
        let (met, failed): (Vec<&Match>, Vec<&Match>) = rule
            .matches
            .iter()
            .filter(|condition| counts(condition))
            .partition(|condition| self.scene.condition(condition, &self.state) == Met::YES);
        let weight = met.iter().map(|condition| weight(condition)).sum();
        let score = (before + met.len(), Reverse(failed.len()), weight);
        if score.0 == 0 || self.best.as_ref().is_some_and(|best| best.score >= score) {
            return;
        }
        self.best = Some(Candidate {
            score,
            spot: Spot {
                table: TableName::Nat,
                chain,
                number: index + 1,
            },
            rule,
            failed: failed.first().copied(),
        });
    }

    fn has_instead(&self, failed: &Match) -> String {
        let packet = self.scene.packet;
        match failed {
            Match::Address {
                side: Side::Source, ..
            }
            | Match::LocalAddress(Side::Source) => format!("source {}", packet.source),
            Match::Address { .. } | Match::LocalAddress(Side::Destination) => {
                format!("destination {}", packet.destination)
            }
            Match::Interface { .. } => match &packet.arriving {
                Some(name) => format!("interface {name}"),
                None => "made by this node".to_string(),
            },
            Match::Protocol(_) => format!("protocol {}", packet.protocol.lower()),
            Match::DestinationPort(_) if !packet.protocol.has_ports() => {
                format!("{}, which has no ports", packet.protocol)
            }
            Match::DestinationPort(_) => format!("destination port {}", packet.port),
            Match::Statistic(_) => "the dice decide".to_string(),
            Match::RecentCheck { .. } => "a client that is not remembered there".to_string(),
            Match::Mark { .. } => "mark 0x0".to_string(),
            Match::CtState { .. } => "state NEW".to_string(),
            Match::Comment(_) | Match::Counter(_) | Match::RecentSet { .. } | Match::Other(_) => {
                "this program cannot tell".to_string()
            }
        }
    }
}

/// Conditions that can fail.
fn counts(condition: &Match) -> bool {
    !matches!(
        condition,
        Match::Comment(_) | Match::Counter(_) | Match::RecentSet { .. }
    )
}

/// An address says more about what was meant than a port, and a port more than a protocol.
fn weight(condition: &Match) -> u32 {
    match condition {
        Match::Address {
            side: Side::Destination,
            ..
        } => 4,
        Match::DestinationPort(_) => 2,
        _ => 1,
    }
}

/// The chains from which jumps lead to a DNAT, found backwards from it.
fn leading(nat: &Chains) -> BTreeSet<&str> {
    let mut callers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut open = Vec::new();
    for (chain, rules) in nat {
        for rule in rules {
            match effect(rule) {
                Effect::Call { chain: to, .. } => callers.entry(to).or_default().push(chain),
                Effect::Dnat { .. } => open.push(chain.as_str()),
                _ => {}
            }
        }
    }
    let mut leading = BTreeSet::new();
    while let Some(chain) = open.pop() {
        if leading.insert(chain) {
            open.extend(callers.get(chain).into_iter().flatten());
        }
    }
    leading
}
