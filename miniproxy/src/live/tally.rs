//! Who got how many connections of one Service, and what the rules promised at the time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::luck::{Group, float};
use super::services::Door;

/// So many seconds are shown as a curve.
pub const HISTORY: usize = 30;

/// Where a promise comes from: the rules of one node, for one of the Service's doors.
pub type Promiser = (usize, Door);

/// Counts of one backend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Got {
    /// New connections.
    pub connections: u64,
    /// How many of them it was to get.
    pub expected: f64,
    /// New connections in each of the last seconds, the newest last.
    pub history: VecDeque<u64>,
    /// Entries in the connection table.
    pub open: u64,
    /// Connections that ended without an answer.
    pub unanswered: u64,
}

/// What the rules promised, and what came of it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Promise {
    shares: BTreeMap<SocketAddr, f64>,
    counts: BTreeMap<SocketAddr, u64>,
    none: u64,
}

/// All of one Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    backends: BTreeMap<SocketAddr, Got>,
    /// Connections that left for the Service's own address.
    pub unmatched: u64,
    unmatched_history: VecDeque<u64>,
    /// How many the rules let fall through.
    pub unmatched_expected: f64,
    /// Connections that came while rules were being changed: counted, but nobody knows what they were promised.
    pub unjudged: u64,
    /// Connections of which it is known what they were promised.
    pub judged: u64,
    promises: BTreeMap<Promiser, Promise>,
    kept: Vec<Group>,
    second: u64,
}

impl Tally {
    /// New connections, all of them.
    pub fn connections(&self) -> u64 {
        self.unmatched + self.backends.values().map(|got| got.connections).sum::<u64>()
    }

    /// What each backend got.
    pub fn backends(&self) -> &BTreeMap<SocketAddr, Got> {
        &self.backends
    }

    /// The counts of a backend, which may be a new one.
    pub fn backend(&mut self, address: SocketAddr) -> &mut Got {
        self.backends.entry(address).or_default()
    }

    /// New connections in the last whole second.
    pub fn per_second(&self) -> u64 {
        let of = |history: &VecDeque<u64>| last_whole(history);
        of(&self.unmatched_history) + self.backends.values().map(|got| of(&got.history)).sum::<u64>()
    }

    /// Connections without DNAT in the last whole second.
    pub fn unmatched_per_second(&self) -> u64 {
        last_whole(&self.unmatched_history)
    }

    /// The rules of a node say this from now on. Other shares begin a group of their own, so that
    /// what came before is judged by what was promised then.
    pub fn promise(&mut self, promiser: Promiser, shares: BTreeMap<SocketAddr, f64>) {
        let promise = self.promises.entry(promiser).or_default();
        if promise.shares == shares {
            return;
        }
        let old = std::mem::take(promise);
        promise.shares = shares;
        if old.total() > 0 {
            self.kept.push(old.group());
        }
    }

    /// A connection began, with no backend when no rule gave it one.
    pub fn began(&mut self, backend: Option<SocketAddr>) {
        match backend {
            None => {
                self.unmatched += 1;
                bump(&mut self.unmatched_history);
            }
            Some(backend) => {
                let got = self.backend(backend);
                got.connections += 1;
                bump(&mut got.history);
            }
        }
    }

    /// So many connections met this promise.
    pub fn met(&mut self, promiser: Promiser, backend: Option<SocketAddr>, count: u64) {
        let promise = self.promises.entry(promiser).or_default();
        // A backend that was promised nothing won by rules that are gone, or not read yet.
        let known = backend.is_none_or(|backend| promise.shares.contains_key(&backend));
        if !known || promise.shares.is_empty() {
            self.leave(backend, count);
            return;
        }
        match backend {
            Some(backend) => *promise.counts.entry(backend).or_default() += count,
            None => promise.none += count,
        }
        for (backend, share) in &promise.shares {
            self.backends.entry(*backend).or_default().expected += share * float(count);
        }
        self.unmatched_expected += promise.rest() * float(count);
        self.judged += count;
    }

    /// Nobody knows what these were promised: they are not judged, and what came is what was expected.
    pub fn leave(&mut self, backend: Option<SocketAddr>, count: u64) {
        self.unjudged += count;
        match backend {
            Some(backend) => self.backend(backend).expected += float(count),
            None => self.unmatched_expected += float(count),
        }
    }

    /// Connections that something is known of.
    pub fn settled(&self) -> u64 {
        self.judged + self.unjudged
    }

    /// Time goes on; seconds without a connection are seconds, too.
    pub fn advance(&mut self, second: u64) {
        let passed = usize::try_from(second.saturating_sub(self.second)).unwrap_or(HISTORY);
        self.second = self.second.max(second);
        let histories = self.backends.values_mut().map(|got| &mut got.history);
        for history in histories.chain([&mut self.unmatched_history]) {
            for _ in 0..passed.min(HISTORY + 1) {
                history.push_back(0);
            }
            while history.len() > HISTORY + 1 {
                history.pop_front();
            }
        }
    }

    /// What can be judged: connections that met the same promise, together.
    pub fn groups(&self) -> Vec<Group> {
        let current = self.promises.values().filter(|promise| promise.total() > 0);
        self.kept
            .iter()
            .cloned()
            .chain(current.map(Promise::group))
            .collect()
    }

    /// Whether every backend is promised the same now.
    pub fn equal(&self) -> bool {
        self.promises.values().all(|promise| {
            let least = promise.shares.values().copied().fold(1.0, f64::min);
            let most = promise.shares.values().copied().fold(0.0, f64::max);
            promise.shares.is_empty() || (most - least < 1e-6 && promise.rest() <= 0.0)
        })
    }

    /// What one node's rules promise those who come by one door, if that was told.
    pub fn promised_by(&self, promiser: Promiser) -> Option<&BTreeMap<SocketAddr, f64>> {
        self.promises.get(&promiser).map(|promise| &promise.shares)
    }

    /// What the rules promise a backend now, on the first node that says anything.
    pub fn promised(&self, backend: SocketAddr) -> f64 {
        let shares = self
            .promises
            .values()
            .find_map(|promise| promise.shares.get(&backend));
        shares.copied().unwrap_or(0.0)
    }

    /// Counts from nothing; what is open stays open, and what is promised promised.
    pub fn zero(&mut self) {
        let fresh = Self {
            second: self.second,
            ..Self::default()
        };
        let old = std::mem::replace(self, fresh);
        for (promiser, promise) in old.promises {
            self.promises.entry(promiser).or_default().shares = promise.shares;
        }
        for (backend, got) in old.backends {
            self.backend(backend).open = got.open;
        }
    }
}

impl Promise {
    fn total(&self) -> u64 {
        self.none + self.counts.values().sum::<u64>()
    }

    /// The share that falls through.
    fn rest(&self) -> f64 {
        let rest = 1.0 - self.shares.values().sum::<f64>();
        if rest < 1e-6 { 0.0 } else { rest }
    }

    fn group(&self) -> Group {
        let mut group = Group::default();
        for (backend, share) in &self.shares {
            group.shares.push(*share);
            group.counts.push(self.counts.get(backend).copied().unwrap_or(0));
        }
        group.shares.push(self.rest());
        group.counts.push(self.none);
        group
    }
}

fn bump(history: &mut VecDeque<u64>) {
    match history.back_mut() {
        Some(last) => *last += 1,
        None => history.push_back(1),
    }
}

/// The second before the one that is not over.
fn last_whole(history: &VecDeque<u64>) -> u64 {
    history.iter().rev().nth(1).copied().unwrap_or(0)
}

/// A part of a whole; 0 of nothing.
pub fn share(part: f64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part / float(whole) }
}
