//! The way of a packet by the rules that are there, held against the way it should go.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::evidence::Spot;
use super::rules::{ENDS, Journey, SLACK, Told, Walk, add_once, family_of, named, percent};
use super::{Finding, add, reach};
use crate::model::{ServicePort, host_port};
use crate::rules::fixed::SERVICES;
use crate::rules::set::TableName;
use crate::rules::trace::{Outcome, Place, Trace, Verdict, trace};

impl Walk<'_> {
    /// Whether there is anything to be judged: a dump may lack tables, or the end of one.
    pub(super) fn has_tables(&self, told: &mut Told) -> bool {
        if self.spot.seen.is_some() {
            return true;
        }
        let has = |table| self.found.found.tables.contains_key(&table);
        if !has(TableName::Filter) && has(TableName::Nat) {
            let what = "the dump has no table filter: whether something throws packets away cannot be told";
            told.missing.push(what.into());
        }
        if !has(TableName::Nat) {
            let what = "the dump has no table nat, where the rules of Services are";
            told.untold.push(what.into());
        }
        has(TableName::Nat)
    }

    /// What keeps a dump from telling that something is not there.
    fn gap(&self) -> Option<String> {
        self.spot.seen.is_none().then_some(())?;
        if let Some(table) = self.found.cut.first() {
            return Some(format!(
                "the dump ends in the middle of table {}, or lines of it are left out",
                table.name()
            ));
        }
        if self.found.is_fragment {
            return Some("the dump is a part of table nat".into());
        }
        let filter = self.found.found.tables.contains_key(&TableName::Filter);
        (!filter).then(|| "the dump has no table filter".into())
    }

    pub(super) fn judge(&self, port: &ServicePort, journey: &Journey, told: &mut Told) {
        let mut facts = self.facts.clone();
        facts
            .addresses
            .extend(self.own_address(family_of(&journey.packet)));
        let is = trace(&self.found.found, &facts, &journey.packet);
        if let Some(finding) = self.foreign(&is, journey) {
            add_once(&mut told.findings, finding);
            return;
        }
        facts.policies.clear();
        let should = trace(&self.rules.wanted, &facts, &journey.packet);
        if let Some(place) = reach::taken(&is).filter(|_| !reach::may_arrive(&is, &should)) {
            add_once(&mut told.findings, self.taken(place, journey));
            return;
        }
        let gap = self.gap();
        let is = if is.unknown() > SLACK {
            if !self.found.cut.is_empty() {
                told.leave(gap);
                return;
            }
            // Rules of others that nobody here can judge: those of Services are walked without them.
            let rule = is.doubts.iter().flat_map(|doubt| &doubt.rules).next();
            let note = rule.map(|rule| format!("only the kernel can judge this rule: {}", rule.rule));
            let notes = &mut told.notes;
            notes.extend(note.filter(|note| !notes.contains(note)));
            trace(&self.own, &facts, &journey.packet)
        } else {
            is
        };
        if is.unknown() > SLACK {
            return;
        }
        if let Some(finding) = self.destinations(port, &is, &should, journey) {
            let claims_nothing_is_there = is.endpoints().is_empty();
            if gap.is_some() && claims_nothing_is_there {
                told.leave(gap);
            } else {
                add(&mut told.findings, finding);
            }
        } else if let Some(finding) = self.masquerade(&is, &should, journey) {
            add(&mut told.findings, finding);
        }
    }

    /// A rule of nat that no proxy wrote sends it elsewhere.
    fn taken(&self, place: &Place, journey: &Journey) -> Finding {
        let sentence = format!(
            "A rule that no proxy wrote takes packets to {} away from the rules of Services.",
            self.evidence.name()
        );
        let seen = format!(
            "{}: the calls of {}{ENDS}{}: {}",
            self.spot.node,
            journey.who,
            named(place),
            self.text(place)
        );
        Finding::certain("foreign-nat", sentence)
            .seen(seen)
            .cured_by(self.removal(&self.spot.program, place))
    }

    /// The command that has the rules written again, by whoever writes them there.
    fn rewrite(&self) -> String {
        let is_lab = self.spot.seen.is_some() || self.evidence.is_of_lab();
        let command = if is_lab {
            "miniproxy sync"
        } else {
            "kubectl -n kube-system rollout restart daemonset kube-proxy"
        };
        command.into()
    }

    /// A rule or a policy that is no Service's stops it.
    fn foreign(&self, is: &Trace, journey: &Journey) -> Option<Finding> {
        let stops = |outcome: &&Outcome| {
            let verdict = matches!(outcome.verdict, Verdict::Drop | Verdict::Reject);
            verdict
                && outcome
                    .by
                    .as_ref()
                    .is_some_and(|place| !place.chain.starts_with("KUBE-"))
        };
        let outcome = is.outcomes.iter().find(stops)?;
        let place = outcome.by.as_ref()?;
        let cause = if place.chain == "FORWARD" {
            "forward-drop"
        } else {
            "foreign-drop"
        };
        let here = is.outcomes.iter().filter(|one| one.by.as_ref() == Some(place));
        let share = percent(here.map(|one| one.probability).sum());
        let sentence = format!(
            "A rule that is no Service's throws away packets to {}.",
            self.evidence.name()
        );
        let text = self.text(place);
        let seen = format!(
            "{}: {share} of the calls of {}{ENDS}{}: {text}",
            self.spot.node,
            journey.who,
            named(place)
        );
        Some(
            Finding::certain(cause, sentence)
                .seen(seen)
                .cured_by(self.removal(&self.spot.program, place)),
        )
    }

    fn text(&self, place: &Place) -> String {
        let line = self.found.line(place).map(str::to_string);
        line.unwrap_or_else(|| format!("the policy of {}", place.chain))
    }

    pub(super) fn removal(&self, program: &str, place: &Place) -> String {
        let Spot { prefix, .. } = self.spot;
        let (table, chain) = (place.table, &place.chain);
        let table = if table == "filter" {
            String::new()
        } else {
            format!("-t {table} ")
        };
        match place.number {
            Some(number) => format!("{prefix}{program} {table}-D {chain} {number}"),
            None => format!("{prefix}{program} {table}-P {chain} ACCEPT"),
        }
    }

    /// Who gets which share, and who should.
    fn destinations(
        &self,
        port: &ServicePort,
        is: &Trace,
        should: &Trace,
        journey: &Journey,
    ) -> Option<Finding> {
        let (has, wants) = (is.endpoints(), should.endpoints());
        let address = host_port(&journey.packet.destination.to_string(), journey.packet.port);
        let node = &self.spot.node;
        let refuses = is.share(Verdict::Reject) > SLACK;
        if has.is_empty() && !refuses && is.share(Verdict::Drop) < SLACK {
            if wants.is_empty() && should.share(Verdict::Reject) < SLACK {
                return None;
            }
            return Some(self.no_rule(port, journey, is, &address, !wants.is_empty()));
        }
        let seen = format!(
            "{node}: calls of {} to {address} go to {}; they should go to {}",
            journey.who,
            shares_told(&has, &wants),
            shares_told(&wants, &has)
        );
        if !has.keys().eq(wants.keys()) {
            let finding = Finding::certain("stale-rules", "The rules are not those that the objects want.");
            return Some(finding.seen(seen).cured_by(self.rewrite()));
        }
        let off = has
            .iter()
            .any(|(to, share)| (share - wants[to]).abs() > SLACK * wants[to]);
        if !off && is.falls_through < 1e-6 {
            return None;
        }
        let loses = match is.falls_through {
            none if none < 1e-6 => "some endpoints get more calls than others".to_string(),
            share => format!("{} of the calls fall through all of them", percent(share)),
        };
        let sentence = format!("The chances in the rules of {} are wrong: {loses}.", port.name);
        let finding = Finding::certain("wrong-probabilities", sentence);
        Some(finding.seen(seen).cured_by(self.rewrite()))
    }

    /// Nothing translates it, and nothing refuses it.
    fn no_rule(
        &self,
        port: &ServicePort,
        journey: &Journey,
        is: &Trace,
        address: &str,
        has_endpoints: bool,
    ) -> Finding {
        let node = &self.spot.node;
        let packet = &journey.packet;
        let should = if has_endpoints {
            "it has endpoints"
        } else {
            "it has no endpoints, and a REJECT belongs there"
        };
        let seen = format!("{node}: no rule for {address}; {should}");
        let finding = if self.found.found.chain(TableName::Nat, SERVICES).is_none() {
            Finding::certain(
                "no-rules",
                "There are no rules of Services at all: nobody wrote them yet.",
            )
            .seen(seen)
        } else if !reach::comes_to_services(is) {
            let hook = if packet.arriving.is_some() {
                "PREROUTING"
            } else {
                "OUTPUT"
            };
            Finding::certain(
                "no-jump",
                format!("The rules of Services are there, but nothing leads to them: the jump from nat {hook} is missing."),
            )
            .seen(format!("{node}: nat {hook} has no jump to {SERVICES} that the calls of {} meet", journey.who))
        } else if journey.by_node_port {
            Finding::likely(
                "no-node-port",
                format!(
                    "No rule takes the node port of {} at {}: it was not written, or nodePortAddresses leaves this address out.",
                    port.name, packet.destination
                ),
            )
            .seen(seen)
        } else if let Some(text) = reach::speaks_of(&self.found.found, packet) {
            Finding::certain(
                "stale-rules",
                format!(
                    "The rules of {} are there, and end without an endpoint.",
                    port.name
                ),
            )
            .seen(format!("{node}: {address} goes to nobody by this rule: {text}"))
        } else {
            let sentence = format!(
                "No rule speaks of {}: neither one that translates its address nor one that rejects it.",
                port.name
            );
            Finding::certain("no-reject", sentence).seen(seen)
        };
        finding.cured_by(self.rewrite())
    }

    /// Who is sent to itself, or comes from outside, must be masqueraded.
    fn masquerade(&self, is: &Trace, should: &Trace, journey: &Journey) -> Option<Finding> {
        let bare = |outcome: &&Outcome| outcome.verdict == Verdict::Accept && !outcome.masqueraded;
        let wanted =
            |to| move |outcome: &&Outcome| outcome.destination == to && outcome.masqueraded && to.is_some();
        let outcome = is
            .outcomes
            .iter()
            .filter(bare)
            .find(|outcome| should.outcomes.iter().any(|o| wanted(outcome.destination)(&o)))?;
        let to = outcome.destination?;
        let sentence = "Service traffic that must be masqueraded is not: a pod that is sent to itself sees a packet from itself.";
        let seen = format!(
            "{}: a packet of {} goes to {to} with its own source address",
            self.spot.node, journey.who
        );
        Some(
            Finding::certain("masquerade-missing", sentence)
                .seen(seen)
                .cured_by(self.rewrite()),
        )
    }
}

/// So many destinations are told.
const TOLD: usize = 4;

/// Those first that `against` lacks, then those whose shares differ.
fn shares_told(shares: &BTreeMap<SocketAddr, f64>, against: &BTreeMap<SocketAddr, f64>) -> String {
    let alike = |share: f64, other: f64| (share - other).abs() <= SLACK * share.max(other);
    let mut ends: Vec<(Option<bool>, &SocketAddr, f64)> = shares
        .iter()
        .map(|(to, share)| (against.get(to).map(|other| alike(*share, *other)), to, *share))
        .collect();
    // None comes before some, and false before true.
    ends.sort_by_key(|(alike, to, _)| (*alike, **to));
    let more = ends.len().saturating_sub(TOLD);
    let told = ends.iter().take(TOLD);
    let mut told: Vec<String> = told
        .map(|(_, to, share)| format!("{to} {}", percent(*share)))
        .collect();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    if told.is_empty() {
        "nobody".into()
    } else {
        told.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_on_the_other_side_is_told_first() {
        let ends = |last: u16, share: f64| -> BTreeMap<SocketAddr, f64> {
            (1..=last)
                .map(|port| (SocketAddr::from(([10, 0, 0, 1], port)), share))
                .collect()
        };
        let (has, wants) = (ends(9, 1.0 / 9.0), ends(10, 0.1));
        assert!(shares_told(&wants, &has).starts_with("10.0.0.1:10 10.0 %, 10.0.0.1:1 10.0 %"));
        assert!(shares_told(&has, &wants).ends_with(", and 5 more"));
        assert_eq!(shares_told(&ends(0, 0.0), &has), "nobody");
    }
}
