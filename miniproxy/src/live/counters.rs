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
    /// Entered the choosing chain and were taken by none of its rules.
    pub fn lost(&self) -> u64 {
        self.entered.saturating_sub(self.taken.values().sum())
    }

    /// Takes a reading; the first is where counting begins.
    pub fn read(&mut self, counted: &Counted, key: &Key, service: &Service) {
        let now = Reading::of(counted, key, service);
        if let Some(last) = self.last.take() {
            let mut restarted = false;
            let mut more = |now: u64, last: u64| {
                restarted |= now < last;
                now.checked_sub(last).unwrap_or(now)
            };
            self.entered += more(now.entered, last.entered);
            self.refused += more(now.refused, last.refused);
            for (backend, hits) in &now.taken {
                let last = last.taken.get(backend).copied().unwrap_or(0);
                *self.taken.entry(*backend).or_default() += more(*hits, last);
            }
            self.restarts += u64::from(restarted);
        }
        self.last = Some(now);
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
