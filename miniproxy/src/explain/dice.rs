//! Where packets are sent, and the rules that choose.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::asks::{dnat, leads_to};
use super::make::{Made, short};
use super::{Backend, NOTHING, Roll};
use crate::rules::rule::Match;
use crate::rules::trace::{self, Doubt, Hop, Outcome, Place};

/// Where the nat table sends packets.
pub(super) struct Sent {
    /// The share of each destination.
    to: BTreeMap<SocketAddr, f64>,
    /// The share of which nobody can tell.
    pub(super) not_known: f64,
}

/// A rule that rewrites the destination.
struct Dnat<'h> {
    hop: &'h Hop,
    to: SocketAddr,
}

/// Where a doubt ends, and how, if that is the same either way.
fn only_end(doubt: &Doubt) -> Option<(trace::Verdict, Option<SocketAddr>)> {
    let mut ends = doubt
        .possible
        .iter()
        .map(|outcome| (outcome.verdict, outcome.destination));
    let first = ends.next()?;
    (first.0 != trace::Verdict::Unknown && ends.all(|other| other == first)).then_some(first)
}

impl Made<'_> {
    /// Shares as the dice give them; a doubt that leads to one destination whatever comes of it is none here.
    pub(super) fn sent(&self) -> Sent {
        let choosing = self.choosing();
        let mut sent = Sent {
            to: BTreeMap::new(),
            not_known: 0.0,
        };
        let mut add = |to: SocketAddr, share| *sent.to.entry(to).or_default() += share;
        for outcome in &choosing.outcomes {
            if let Some(to) = outcome.destination {
                add(to, outcome.probability);
            }
        }
        for doubt in &choosing.doubts {
            match only_end(doubt) {
                Some((_, Some(to))) => add(to, doubt.probability),
                Some((_, None)) => {}
                None => sent.not_known += doubt.probability,
            }
        }
        sent
    }

    /// Whether it is known what becomes of each packet, though perhaps not whose address it has in the end.
    pub(super) fn end_known(&self) -> bool {
        self.has_all_rules() && self.whole.doubts.iter().all(|doubt| only_end(doubt).is_some())
    }

    /// The rules that choose: those that lead to a chain with one DNAT, or the DNAT rules themselves.
    pub(super) fn backends(&self) -> (Vec<Backend>, Vec<Roll>) {
        let sent = self.sent();
        let (dnats, leading) = self.rewriting();
        let mut in_chain: BTreeMap<&str, bool> = BTreeMap::new();
        for dnat in &dnats {
            let chain = dnat.hop.place.chain.as_str();
            in_chain
                .entry(chain)
                .and_modify(|only| *only = false)
                .or_insert(true);
        }
        let mut places: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        let mut backends: Vec<Backend> = Vec::new();
        let mut dice = Vec::new();
        for Dnat { hop, to } in &dnats {
            let chain = hop.place.chain.as_str();
            let choosers = leading.get(chain).filter(|_| in_chain.get(chain) == Some(&true));
            let choosers = choosers.map_or_else(|| vec![*hop], Clone::clone);
            let place = *places.entry(*to).or_insert(backends.len());
            dice.extend(choosers.iter().map(|chooser| self.roll(chooser, place)));
            // Several rules may send packets to one address: it is one backend.
            if place == backends.len() {
                let chance = choosers
                    .iter()
                    .rev()
                    .find_map(|chooser| self.chance(&chooser.place));
                backends.push(self.backend(hop, *to, chance.unwrap_or(1.0), &sent));
            }
        }
        // A rule of which nobody knows whether it takes packets throws no dice, if all go the same way anyway.
        if sent.not_known < NOTHING {
            dice.retain(|roll: &Roll| roll.share > 0.0 || !self.is_in_doubt(roll));
        }
        dice.sort_by(|one, other| (&one.chain, one.rule).cmp(&(&other.chain, other.rule)));
        in_order_of_dice(&mut backends, &mut dice);
        (backends, dice)
    }

    /// The rules that rewrite the destination, and by their chain those that lead there.
    fn rewriting(&self) -> (Vec<Dnat<'_>>, BTreeMap<&str, Vec<&Hop>>) {
        let mut leading: BTreeMap<&str, Vec<&Hop>> = BTreeMap::new();
        let mut dnats = Vec::new();
        for hop in self.choosing().hops.iter().filter(|hop| hop.place.table == "nat") {
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
                dnats.push(Dnat { hop, to });
            }
        }
        (dnats, leading)
    }

    fn is_in_doubt(&self, roll: &Roll) -> bool {
        let hops = self.choosing().hops.iter();
        hops.filter(|hop| hop.place.table == "nat" && hop.place.chain == roll.chain)
            .any(|hop| hop.place.number == Some(roll.rule) && hop.perhaps)
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

    fn backend(&self, hop: &Hop, to: SocketAddr, probability: f64, sent: &Sent) -> Backend {
        let is_it = |other: &SocketAddr| *other == to;
        let of_it = |outcome: &&Outcome| outcome.destination.as_ref().is_some_and(is_it);
        let name = self.question.book.name_of(to.ip());
        Backend {
            name: name.map(|name| short(&name)),
            address: to.to_string(),
            share: sum(sent
                .to
                .iter()
                .filter(|(other, _)| is_it(other))
                .map(|(_, share)| *share)),
            arrives: self.end_known().then(|| self.arriving(&is_it)),
            chain: hop.place.chain.clone(),
            rule: hop.place.number.unwrap_or(0),
            text: self.text(&hop.place),
            probability,
            masquerade: self
                .way_out()
                .outcomes
                .iter()
                .filter(of_it)
                .any(|outcome| outcome.masqueraded),
            packets: self.question.pasted.packets(&hop.place),
        }
    }

    /// What of that which is sent there is let through.
    fn arriving(&self, is_it: &impl Fn(&SocketAddr) -> bool) -> f64 {
        let certain = self.whole.outcomes.iter();
        let certain = certain.map(|outcome| (outcome.verdict, outcome.destination, outcome.probability));
        let doubts = self.whole.doubts.iter().filter_map(|doubt| {
            let (verdict, to) = only_end(doubt)?;
            Some((verdict, to, doubt.probability))
        });
        let there = |(verdict, to, _): &(trace::Verdict, Option<SocketAddr>, f64)| {
            *verdict == trace::Verdict::Accept && to.as_ref().is_some_and(is_it)
        };
        sum(certain.chain(doubts).filter(there).map(|(_, _, share)| share))
    }
}

/// Without the minus sign that the sum of no fractions has.
fn sum(shares: impl Iterator<Item = f64>) -> f64 {
    shares.fold(0.0, |sum, share| sum + share)
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
    backends.extend(old.into_iter().flatten());
}
