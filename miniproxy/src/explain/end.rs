//! How a walk ended: the verdict, what decided, the nearest rule, and what was not understood.

use super::asks::{dnat, owner};
use super::make::Made;
use super::{End, Near, NotUnderstood, Verdict};
use crate::rules::rule::Target;
use crate::rules::set::TableName;
use crate::rules::trace::{self, Why};
use crate::target::Door;
use std::net::IpAddr;

/// What a mark for dropping comes to.
pub(super) const MARKED: &str = "it is marked for dropping: KUBE-FIREWALL does that where the address is the node's own; elsewhere it leaves as it is";

impl Made<'_> {
    pub(super) fn verdict(&self) -> Verdict {
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
            if !self.choosing().endpoints().is_empty() {
                return Verdict::Dnat;
            }
            if !self.surely_not_rewritten() {
                return Verdict::Unknown;
            }
        }
        let somebody = self.question.book.name_of(self.packet.destination).is_some()
            || self.is_backend(self.packet.destination);
        if somebody && self.question.call.door == Door::Address {
            Verdict::Accept
        } else {
            self.no_rule()
        }
    }

    /// Whatever the rules in doubt do, the nat table sends it nowhere else.
    fn surely_not_rewritten(&self) -> bool {
        let choosing = self.choosing();
        let possible = choosing.doubts.iter().flat_map(|doubt| &doubt.possible);
        let left = |outcome: &trace::Outcome| {
            outcome.verdict == trace::Verdict::Accept && outcome.destination.is_none()
        };
        choosing.doubts.iter().all(|doubt| !doubt.possible.is_empty())
            && choosing.outcomes.iter().chain(possible).all(left)
    }

    /// Said only where all rules are here that could have taken the packet.
    fn no_rule(&self) -> Verdict {
        let pasted = self.question.pasted;
        let without_nat = self.question.host.is_none() && !pasted.found.tables.contains_key(&TableName::Nat);
        if pasted.elsewhere.is_some() || pasted.is_fragment || without_nat {
            Verdict::Unknown
        } else {
            Verdict::NoRule
        }
    }

    /// Old versions mark what is to be dropped; filter does that in INPUT and OUTPUT alone.
    pub(super) fn is_marked_for_dropping(&self) -> bool {
        let nat = &self.question.pasted.found;
        let rules = nat.chain(TableName::Nat, "KUBE-MARK-DROP").unwrap_or_default();
        let marks = rules.iter().filter_map(|rule| match rule.target {
            Some(Target::SetXmark { value, .. }) => Some(value),
            _ => None,
        });
        let bits = marks.fold(0, |all, bits| all | bits);
        let left = self.choosing().outcomes.iter();
        bits != 0
            && left
                .filter(|outcome| outcome.destination.is_none())
                .any(|outcome| outcome.mark & bits != 0)
    }

    /// Whether some rule sends packets to this address.
    fn is_backend(&self, ip: IpAddr) -> bool {
        let nat = self.question.pasted.found.tables.get(&TableName::Nat);
        let rules = nat.into_iter().flat_map(|chains| chains.values().flatten());
        rules.filter_map(dnat).any(|to| to.ip() == ip)
    }

    pub(super) fn ends(&self) -> Vec<End> {
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

    pub(super) fn nearest(&self, verdict: Verdict) -> Option<Near> {
        let near = self.choosing().nearest.as_ref()?;
        // Where dice lose packets, the dice are the reason.
        if matches!(verdict, Verdict::Accept | Verdict::Dnat) {
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

    pub(super) fn not_understood(&self) -> Vec<NotUnderstood> {
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
                    Why::TooLong => "the way is too long, or branches too often, to be walked",
                },
                share,
            });
        }
        all
    }
}
