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
use super::{NodeFacts, Packet, SOME_INTERFACE};

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
    /// A rule that takes the packet without rewriting it: none behind it is asked.
    shadow: Option<(Spot<'a>, &'a Rule)>,
}

/// The more telling conditions met, fewer missed, and more met.
type Score = (u32, Reverse<usize>, usize);

/// What was met on the way to a chain: how telling it is, and how many conditions.
type OnTheWay = (u32, usize);

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
            shadow: None,
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
        self.look_in(first);
        if let Some((spot, rule)) = self.shadow {
            return Some(Nearest {
                place: spot.into(),
                rule: rule_text(rule),
                met: rule.matches.iter().filter(|condition| counts(condition)).count(),
                failed: None,
                packet: "it takes the packet as it is, and no nat rule behind it is asked".to_string(),
            });
        }
        if self.best.is_none() {
            let nat = self.nat;
            for (chain, rules) in nat {
                for (index, rule) in rules.iter().enumerate() {
                    self.consider(chain, index, rule, (0, 0));
                }
            }
        }
        let best = self.best.take()?;
        Some(Nearest {
            place: best.spot.into(),
            rule: rule_text(best.rule),
            met: best.score.2,
            failed: best
                .failed
                .map(|failed| rule_text(&Rule::new().with(failed.clone()))),
            packet: match best.failed {
                Some(failed) => self
                    .has_instead(failed)
                    .unwrap_or_else(|| "something that rules alone do not tell".to_string()),
                None => format!("no rule leads it to {}", best.spot.chain),
            },
        })
    }

    /// A chain that the packet comes to, with the number of conditions it met on the way. Each is
    /// looked at once; chains that lead nowhere are not entered.
    fn look_in(&mut self, first: &'a str) {
        let mut open: Vec<(&'a str, OnTheWay)> = vec![(first, (0, 0))];
        while let Some((chain, before)) = open.pop() {
            let Some((name, rules)) = self.nat.get_key_value(chain) else {
                continue;
            };
            if !self.visited.insert(name) {
                continue;
            }
            for (index, rule) in rules.iter().enumerate() {
                if effect(rule) == Effect::Accept && self.scene.rule(rule, &self.state) == Met::YES {
                    let (table, number) = (TableName::Nat, index + 1);
                    self.shadow = Some((
                        Spot {
                            table,
                            chain: name,
                            number,
                        },
                        rule,
                    ));
                    break;
                }
                if !self.leads(rule) {
                    continue;
                }
                match (self.scene.rule(rule, &self.state), effect(rule)) {
                    (Met::Chance(chance), Effect::Call { chain, .. }) if chance >= 1.0 => {
                        let met = rule.matches.iter().filter(|condition| counts(condition));
                        let (weights, number) = (met.clone().map(weight).sum::<u32>(), met.count());
                        open.push((chain, (before.0 + weights, before.1 + number)));
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

    fn consider(&mut self, chain: &'a str, index: usize, rule: &'a Rule, before: OnTheWay) {
        if !self.leads(rule) {
            return;
        }
        let asked = |condition: &&Match| self.scene.condition(condition, &self.state);
        let (met, mut failed): (Vec<&Match>, Vec<&Match>) = rule
            .matches
            .iter()
            .filter(|condition| counts(condition))
            .partition(|condition| asked(condition) == Met::YES);
        // What surely differs says more than what nobody can tell.
        failed.sort_by_key(|condition| asked(condition) == Met::Unknown);
        let weights: u32 = met.iter().map(|condition| weight(condition)).sum();
        let score = (before.0 + weights, Reverse(failed.len()), before.1 + met.len());
        if score.2 == 0 || self.best.as_ref().is_some_and(|best| best.score >= score) {
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

    /// `None` where nobody can tell.
    fn has_instead(&self, failed: &Match) -> Option<String> {
        let packet = self.scene.packet;
        Some(match failed {
            Match::Address {
                side: Side::Source, ..
            }
            | Match::LocalAddress(Side::Source) => format!("source {}", packet.source),
            Match::Address { .. } | Match::LocalAddress(Side::Destination) => {
                format!("destination {}", packet.destination)
            }
            Match::Interface { .. } => match &packet.arriving {
                Some(name) if name.starts_with(SOME_INTERFACE) => return None,
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
            Match::Other(words) => return self.words_instead(words),
            Match::Comment(_) | Match::Counter(_) | Match::RecentSet { .. } => return None,
        })
    }

    fn words_instead(&self, words: &[String]) -> Option<String> {
        let packet = self.scene.packet;
        let option = words.iter().find(|word| word.starts_with('-') && *word != "-m")?;
        Some(match option.as_str() {
            "--src-type" | "--src-range" => format!("source {}", packet.source),
            "--dst-type" | "--dst-range" => format!("destination {}", packet.destination),
            "-p" | "--protocol" => format!("protocol {}", packet.protocol.lower()),
            "--dport" | "--dports" | "--destination-port" | "--destination-ports"
                if packet.protocol.has_ports() =>
            {
                format!("destination port {}", packet.port)
            }
            "--state" | "--ctstate" => "state NEW".to_string(),
            "--physdev-is-in" | "--physdev-is-bridged" if packet.arriving.is_none() => {
                "made by this node".to_string()
            }
            _ => return None,
        })
    }
}

/// Conditions that can fail.
fn counts(condition: &Match) -> bool {
    match condition {
        Match::Comment(_) | Match::Counter(_) | Match::RecentSet { .. } => false,
        // The name of a module asks nothing; what is asked stands in its options.
        Match::Other(words) => !matches!(words.as_slice(), [option, _] if option == "-m"),
        _ => true,
    }
}

/// An address says more about what was meant than a port, and a port more than a protocol.
fn weight(condition: &Match) -> u32 {
    match condition {
        Match::Address {
            side: Side::Destination,
            negated: false,
            ..
        } => 4,
        Match::DestinationPort(_) => 2,
        Match::Protocol(_) => 1,
        _ => 0,
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
