//! Does what the engine says: reads and writes the kernel's tables, and looks at their count of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use labkit::nftables::NfTables;
use labkit::rundir::RunDirectory;
use labkit::shell::tell;
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, fault, footprint};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::rule_events::{Generation, RuleEvents};
use super::tables::Tables as _;
use crate::engine::{Look, Outcome};
use crate::live::changes::Who;
use crate::rules::delta::Delta;
use crate::rules::documents::{ChainOrder, Limit};
use crate::rules::set::Found;

/// Who holds rules, in the record of tables that did not exist before.
pub const HOLDER: &str = "miniproxy";

/// New chains in one document for iptables-nft: enough that starting a process is no matter, few
/// enough that its list of new chains, which it walks for each of them, stays short.
const NFT: Limit = Limit {
    chains: 200,
    rules: usize::MAX,
};
/// The same where the kernel takes only 208 KiB at once: iptables-nft asks for more by a call that
/// only the machine's own root may make. An endpoint's chain takes up to 1.5 KiB, a rule with a
/// comment up to 0.8.
const NFT_OF_A_USER: Limit = Limit {
    chains: 100,
    rules: 220,
};
/// A write of so many rules and chains may be told to us, too.
const HEARD: usize = 500;
/// So many changes of others are remembered.
const REMEMBERED: usize = 4096;
/// How long the kernel may take to tell of a change that it has counted.
const NEWS: Duration = Duration::from_millis(2);
/// What takes longer than this says how far it is.
pub const SILENT: Duration = Duration::from_secs(1);

/// The kernel's tables, as one of the two iptables shows them.
pub struct Kernel {
    /// Which iptables.
    pub xtables: Xtables,
    counter: Option<NfTables>,
    patience: Duration,
    lock: Option<Arc<RunDirectory>>,
    /// Tells who else changes rules. Not open while we write much: the kernel would tell us of each rule.
    events: Option<RuleEvents>,
    /// Who did.
    others: BTreeSet<Who>,
    /// The last changes that were told, and whether each concerns our rules.
    heard: BTreeMap<u32, bool>,
}

/// How a write went, with words where it failed.
pub enum Wrote {
    /// As the engine wants to know it.
    Told(Outcome),
    /// It was refused.
    Failed(Failure),
}

impl Kernel {
    /// `patience`: how long to wait for another command that writes.
    pub fn new(xtables: Xtables, patience: Duration) -> Self {
        let counter = match xtables.flavour {
            Flavour::Nft => NfTables::open().ok(),
            Flavour::Legacy => None,
        };
        let mut kernel = Self {
            xtables,
            counter,
            patience,
            lock: None,
            events: None,
            others: BTreeSet::new(),
            heard: BTreeMap::new(),
        };
        if kernel.count().is_none() {
            kernel.counter = None;
        }
        kernel
    }

    /// Whether the kernel counts changes of rules.
    pub fn counts(&self) -> bool {
        self.counter.is_some()
    }

    /// The kernel's own count of changes of rules in this network namespace; `None` where it keeps
    /// none (legacy).
    pub fn count(&mut self) -> Option<u32> {
        self.counter
            .as_mut()
            .and_then(|counter| counter.generation().ok())
    }

    /// The run directory, which nobody else has while we do: two commands at once would edit chains
    /// by numbers that the other one moves.
    ///
    /// # Errors
    /// When another command does not end.
    pub fn locked(&mut self) -> Result<&RunDirectory, Failure> {
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => shared_lock(self.patience)?,
        };
        Ok(self.lock.insert(lock))
    }

    /// Lets other commands write.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// All rules of a family, and the count from before they were read. Most are likely to be as in
    /// `like`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(
        &mut self,
        family: Family,
        like: Option<&Found>,
    ) -> Result<(Option<Found>, Option<u32>), Failure> {
        let count = self.count();
        Ok((self.xtables.read(family, like)?, count))
    }

    /// Writes a change if the kernel's count is still the expected one, or if the writer `insists`.
    pub fn write(&mut self, family: Family, delta: &Delta, expected: Option<u32>, insists: bool) -> Wrote {
        if delta.is_empty() {
            return Wrote::Told(Outcome::Done(expected));
        }
        if let Err(failure) = self.locked() {
            return Wrote::Failed(failure);
        }
        let before = self.count();
        let fits = before == expected || self.concerning(expected, before) == Some(0);
        if self.counts() && !fits && !insists {
            return Wrote::Told(Outcome::Overtaken);
        }
        self.hear();
        // Rules are only counted where there are few chains.
        if delta.chain_count() > HEARD || delta.chain_count() + delta.rule_count() > HEARD {
            self.events = None;
            self.heard.clear();
        }
        let sent = self.send(family, delta);
        self.hear_own();
        if self.counts() && self.events.is_none() {
            self.events = RuleEvents::open().ok();
        }
        match sent {
            Ok(transactions) => {
                // Each transaction counts one; more is somebody else's, and may be none of our rules.
                let after = self.count();
                let own = before.map(|before| before.wrapping_add(transactions));
                let all_told = own == after || self.concerning(before, after) == Some(transactions);
                Wrote::Told(Outcome::Done(after.filter(|_| all_told)))
            }
            Err(failure) => Wrote::Failed(failure),
        }
    }

    /// How many transactions it took.
    fn send(&self, family: Family, delta: &Delta) -> Result<u32, Failure> {
        if let Some(run) = &self.lock {
            // First the record, then the rules: a crash in between leaves nothing unaccounted for.
            footprint::hold(run, HOLDER)?;
        }
        fault::point("sync:held");
        let order = match self.xtables.flavour {
            Flavour::Nft => ChainOrder::Rising,
            Flavour::Legacy => ChainOrder::Falling,
        };
        let documents = delta.documents(limit(self.xtables.flavour), order);
        let parts = documents.count();
        let (began, mut told) = (Instant::now(), Duration::ZERO);
        let mut transactions = 0;
        for (index, document) in documents.iter().enumerate() {
            self.xtables
                .write(family, &document)
                .map_err(|failure| failure.context(format!("cannot write the {} rules", family.name())))?;
            transactions += document.transactions();
            if began.elapsed() > told + SILENT {
                told = began.elapsed();
                tell(&format!(
                    "{}: {} of {parts} parts written",
                    family.name(),
                    index + 1
                ));
            }
        }
        fault::point(if family == Family::V4 {
            "sync:v4"
        } else {
            "sync:v6"
        });
        Ok(u32::try_from(transactions).unwrap_or(u32::MAX))
    }

    fn hear(&mut self) {
        for generation in self.news() {
            self.others.extend(generation.by.filter(|_| generation.touches));
        }
    }

    /// What was told of a write of ours: nobody else's name is in it, but in the rarest of cases.
    fn hear_own(&mut self) {
        self.news();
    }

    fn news(&mut self) -> Vec<Generation> {
        let Some(events) = &mut self.events else {
            return Vec::new();
        };
        let news = events.so_far();
        if news.lost {
            self.heard.clear();
        }
        let known = news.generations.iter();
        self.heard
            .extend(known.map(|generation| (generation.number, generation.touches)));
        while self.heard.len() > REMEMBERED {
            self.heard.pop_first();
        }
        news.generations
    }

    /// How many of the changes between these two counts concern our rules; `None` where that is not known of
    /// each.
    fn concerning(&mut self, since: Option<u32>, now: Option<u32>) -> Option<u32> {
        let (since, now) = (since?, now?);
        let changes = now.checked_sub(since)?;
        // The count moves a moment before the news of it is sent.
        for _ in 0..3 {
            self.hear();
            if changes == 0 || self.heard.contains_key(&now) {
                break;
            }
            std::thread::sleep(NEWS);
        }
        let known: Vec<bool> = self
            .heard
            .range(since..=now)
            .skip_while(|(count, _)| **count == since)
            .map(|(_, touches)| *touches)
            .collect();
        let whole = u32::try_from(known.len()).ok()? == changes;
        let touching = known.into_iter().filter(|touches| *touches).count();
        whole.then_some(u32::try_from(touching).ok()?)
    }

    /// Who else changed rules since this was last asked, where the kernel told: each by its name.
    pub fn take_others(&mut self) -> BTreeSet<String> {
        let others = std::mem::take(&mut self.others).into_iter();
        others.map(|who| who.text()).collect()
    }

    /// Whether somebody else changed rules since the kernel's count was the expected one, as cheaply as it can
    /// be told.
    pub fn look(&mut self, expected: Option<u32>) -> Option<Look> {
        if self.counts() {
            self.hear();
            if self.events.is_none() {
                self.events = RuleEvents::open().ok();
            }
            let count = self.count();
            return Some(if self.concerning(expected, count) == Some(0) {
                Look::Elsewhere(count?)
            } else {
                Look::Count(count?)
            });
        }
        self.xtables.has_canary().map(Look::Canary)
    }
}

/// How much one document may make.
pub fn limit(flavour: Flavour) -> Limit {
    match flavour {
        Flavour::Nft if !may_send_much() => NFT_OF_A_USER,
        Flavour::Nft => NFT,
        // Legacy replaces the whole table with each document.
        Flavour::Legacy => Limit::NONE,
    }
}

/// The run directory under this process's one lock: threads that each write another node's rules hold it
/// together, and other commands wait for all of them.
fn shared_lock(patience: Duration) -> Result<Arc<RunDirectory>, Failure> {
    static HELD: Mutex<Weak<RunDirectory>> = Mutex::new(Weak::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lock) = held.upgrade() {
        return Ok(lock);
    }
    let lock = Arc::new(RunDirectory::lock_within(patience)?);
    *held = Arc::downgrade(&lock);
    Ok(lock)
}

/// Whether iptables-nft may have a larger buffer than others: it asks as this does.
fn may_send_much() -> bool {
    let (family, kind, flags) = (AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC);
    let tried = socket(family, kind, flags, None);
    tried.is_ok_and(|socket| setsockopt(&socket, sockopt::SndBufForce, &LARGE).is_ok())
}

/// As large as iptables-nft wants its buffer at least.
const LARGE: usize = 2 << 20;
