//! The rules' own counters as a cross-check: kept in mind over rewrites, as well as reading can.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::dump::Counted;
use super::services::{Key, Service, backend};
use crate::rules::fixed::SERVICES;
use crate::rules::rule::Target;
use crate::rules::set::TableName;

/// What the rules of one Service have counted since somebody looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Hits of the jumps into the choosing chain.
    pub entered: u64,
    /// Hits of the rule of each backend.
    pub taken: BTreeMap<SocketAddr, u64>,
    /// Hits of the rules that refuse, where there is no backend.
    pub refused: u64,
    /// How often the kernel's counters began anew.
    pub restarts: u64,
    /// More entered than were taken; less than none where a reading fell between the two.
    lost: i64,
    last: Option<Reading>,
}

/// The counters as they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Reading {
    entered: u64,
    taken: BTreeMap<SocketAddr, u64>,
    refused: u64,
}

impl Counters {
    /// Entered the choosing chain and were taken by none of its rules, as far as counters can tell.
    pub fn lost(&self) -> u64 {
        self.lost.try_into().unwrap_or(0)
    }

    /// Takes a reading; the first is where counting begins.
    pub fn read(&mut self, counted: &Counted, key: &Key, service: &Service) {
        self.add(Reading::of(counted, key, service));
    }

    fn add(&mut self, now: Reading) {
        if let Some(last) = self.last.take() {
            let mut restarted = false;
            let mut more = |now: u64, last: u64| {
                restarted |= now < last;
                now.checked_sub(last).unwrap_or(now)
            };
            let entered = more(now.entered, last.entered);
            self.entered += entered;
            self.refused += more(now.refused, last.refused);
            let mut taken = 0;
            for (backend, hits) in &now.taken {
                let last = last.taken.get(backend).copied().unwrap_or(0);
                let hits = more(*hits, last);
                taken += hits;
                *self.taken.entry(*backend).or_default() += hits;
            }
            // What a rewritten chain took since it was last read, nobody knows: it is not called lost.
            let rewritten = restarted || !now.taken.keys().eq(last.taken.keys());
            if !rewritten {
                self.lost += entered.cast_signed() - taken.cast_signed();
            }
            self.restarts += u64::from(restarted);
        }
        self.last = Some(now);
    }

    /// Adds what was counted on another node.
    pub fn join(&mut self, other: &Self) {
        self.entered += other.entered;
        self.refused += other.refused;
        self.restarts += other.restarts;
        self.lost += other.lost;
        for (backend, hits) in &other.taken {
            *self.taken.entry(*backend).or_default() += hits;
        }
    }

    /// Counts from nothing.
    pub fn zero(&mut self) {
        *self = Self {
            last: self.last.take(),
            ..Self::default()
        };
    }
}

impl Reading {
    fn of(counted: &Counted, key: &Key, service: &Service) -> Self {
        let mut reading = Self::default();
        let found = &counted.found;
        let refusing = found
            .chain(TableName::Filter, SERVICES)
            .into_iter()
            .flatten()
            .enumerate();
        for (index, rule) in refusing {
            let of_service = rule.comment_text().and_then(|text| text.split_once(" has no "));
            if of_service.is_some_and(|(name, _)| name == key.name) {
                reading.refused += counted.hits(TableName::Filter, SERVICES, index);
            }
        }
        let (Some(nat), Some(chain)) = (found.tables.get(&TableName::Nat), &service.chain) else {
            return reading;
        };
        for (name, rules) in nat {
            for (index, rule) in rules.iter().enumerate() {
                let Some(Target::Jump(to)) = &rule.target else {
                    continue;
                };
                if to == chain {
                    reading.entered += counted.hits(TableName::Nat, name, index);
                } else if name == chain
                    && let Some(backend) = backend(nat, to)
                {
                    *reading.taken.entry(backend).or_default() += counted.hits(TableName::Nat, name, index);
                }
            }
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entered, and taken by so many backends.
    fn reading(entered: u64, taken: &[u64]) -> Reading {
        let backend = |last: usize| SocketAddr::from(([10, 244, 0, u8::try_from(last).unwrap()], 8080));
        let taken = taken.iter().enumerate().map(|(at, hits)| (backend(at), *hits));
        Reading {
            entered,
            taken: taken.collect(),
            refused: 0,
        }
    }

    fn after(readings: &[Reading]) -> Counters {
        let mut counters = Counters::default();
        for reading in readings {
            counters.add(reading.clone());
        }
        counters
    }

    #[test]
    fn what_no_rule_took_is_lost() {
        let counters = after(&[reading(0, &[0, 0]), reading(100, &[40, 30])]);
        assert_eq!(
            (counters.entered, counters.lost(), counters.restarts),
            (100, 30, 0)
        );
        let mut both = Counters::default();
        both.join(&counters);
        both.join(&counters);
        assert_eq!((both.entered, both.lost()), (200, 60));
    }

    #[test]
    fn what_a_rewritten_chain_forgot_is_not_lost() {
        // The last 200 were taken by rules that were gone before anybody looked.
        let counters = after(&[
            reading(0, &[0, 0, 0]),
            reading(100, &[30, 30, 40]),
            reading(300, &[0, 0]),
            reading(400, &[50, 50]),
        ]);
        assert_eq!(
            (counters.entered, counters.lost(), counters.restarts),
            (400, 0, 1)
        );
    }

    #[test]
    fn a_reading_between_the_two_is_made_up_for() {
        let counters = after(&[reading(0, &[0, 0]), reading(10, &[6, 6]), reading(20, &[10, 10])]);
        assert_eq!(counters.lost(), 0);
    }
}
