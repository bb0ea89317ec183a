//! What a sync does besides rules, and tries again when it fails: nothing of it holds up the rules.

use std::collections::BTreeMap;
use std::time::Duration;

use labkit::xtables::Family;

use crate::conntrack::Before;
use crate::pace::back_off;

/// Something to be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chore {
    /// When; `None` when it is done.
    at: Option<Duration>,
    failures: u32,
}

impl Chore {
    const fn at(time: Duration) -> Self {
        Self {
            at: Some(time),
            failures: 0,
        }
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// It was tried: it is done, or waits longer each time.
    pub(super) fn tried(&mut self, done: bool, now: Duration) {
        self.failures = if done { 0 } else { self.failures.saturating_add(1) };
        self.at = (!done).then(|| now + back_off(self.failures));
    }
}

/// Everything that is still to be done.
#[derive(Debug)]
pub(super) struct Chores {
    /// The kernel's settings.
    pub(super) settle: Chore,
    /// Where flows may be stale, by family.
    flows: BTreeMap<Family, (Before, Chore)>,
}

impl Chores {
    pub(super) fn new() -> Self {
        Self {
            settle: Chore::at(Duration::ZERO),
            flows: BTreeMap::new(),
        }
    }

    /// Flows may be left behind there, besides those that are known of.
    pub(super) fn owe(&mut self, family: Family, before: Before, now: Duration) {
        let (owed, chore) = self
            .flows
            .entry(family)
            .or_insert_with(|| (Before::default(), Chore::at(now)));
        owed.add(before);
        // News is acted on at once, however often the old failed.
        chore.at = Some(now);
    }

    /// What is to be looked for now.
    pub(super) fn owed(&self, family: Family, now: Duration) -> Option<&Before> {
        let (before, chore) = self.flows.get(&family)?;
        chore.is_due(now).then_some(before)
    }

    /// It was looked for.
    pub(super) fn reconciled(&mut self, family: Family, done: bool, now: Duration) {
        if done {
            self.flows.remove(&family);
        } else if let Some((_, chore)) = self.flows.get_mut(&family) {
            chore.tried(false, now);
        }
    }

    /// When something is to be tried again.
    pub(super) fn next(&self) -> Duration {
        let flows = self.flows.values().filter_map(|(_, chore)| chore.at);
        // A setting that was never tried waits for the first rules, and not for a time.
        let settle = self.settle.at.filter(|_| self.settle.failures > 0);
        flows.chain(settle).min().unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_fails_is_tried_again_later_each_time_until_it_is_done() {
        let mut chores = Chores::new();
        assert!(chores.settle.is_due(Duration::ZERO) && chores.next() == Duration::MAX);
        chores.settle.tried(false, SECOND);
        let first = chores.next();
        assert!(!chores.settle.is_due(SECOND) && chores.settle.is_due(chores.next()));
        chores.settle.tried(false, SECOND);
        assert!(chores.next() > first);
        chores.settle.tried(true, SECOND);
        assert_eq!(chores.next(), Duration::MAX);
    }

    #[test]
    fn flows_are_owed_until_they_were_looked_for() {
        let (mut chores, family) = (Chores::new(), Family::V4);
        assert_eq!(chores.owed(family, SECOND), None);
        chores.owe(family, Before::default(), SECOND);
        assert!(chores.owed(family, SECOND).is_some());
        chores.reconciled(family, false, SECOND);
        assert_eq!(chores.owed(family, SECOND), None);
        assert!(chores.owed(family, chores.next()).is_some());
        // A later change is not kept waiting by an earlier failure.
        chores.owe(family, Before::default(), SECOND);
        assert!(chores.owed(family, SECOND).is_some());
        chores.reconciled(family, true, SECOND);
        assert_eq!(
            (chores.owed(family, SECOND * 99), chores.next()),
            (None, Duration::MAX)
        );
    }
}
