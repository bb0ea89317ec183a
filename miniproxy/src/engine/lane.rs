//! One IP family: what it should have, what the kernel is known to have, what is still to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use labkit::xtables::Family;

use super::desired::{Desired, ServiceRules, Services};
use crate::conntrack::{Before, needs};
use crate::pace::back_off;
use crate::registry::ServiceKey;
use crate::report::changes::{Change, changes};
use crate::rules::delta::Delta;
use crate::rules::keep;
use crate::rules::part::Part;
use crate::rules::set::{Found, TableName, Wanted};
use crate::rules::view::{self, Views};

/// What waits for the next write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing.
    #[default]
    Nothing,
    /// These Services.
    Some(BTreeSet<ServiceKey>),
    /// Everything.
    All,
}

/// What one sync of one family did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The family.
    pub family: Family,
    /// Everything was compared, not only what changed.
    pub full: bool,
    /// Nobody had asked for a change: the kernel had something else than it should.
    pub repaired: bool,
    /// What was written; `None` when all was in place.
    pub written: Option<Written>,
    /// What happened to each service port.
    pub changes: Vec<Change>,
    /// Each Service that changed, as it was in force and as it is now; at the first sync all of them.
    pub services_changed: Vec<Pair>,
    /// Where UDP Services were reached before, if flows to there may be stale now.
    pub left_behind: Option<Before>,
    /// Service ports in force.
    pub services: usize,
    /// The family cannot be had on this host.
    pub absent: bool,
    /// From the first event to the end.
    pub waited: Duration,
    /// From the first look at the kernel to the end.
    pub took: Duration,
}

/// A Service before and after; `None` where there was none, or is none.
pub type Pair = (Option<Rc<ServiceRules>>, Option<Rc<ServiceRules>>);

/// A read or a write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setback {
    /// It was one of everything, not only of what changed.
    pub full: bool,
    /// How long it had taken.
    pub took: Duration,
    /// How long to wait before the next attempt.
    pub wait: Duration,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Our chains that were made, changed or removed; 0 when only jumps to them were missing.
    pub chains: usize,
    /// Rules sent, by table.
    pub rules: BTreeMap<TableName, usize>,
}

/// One family.
#[derive(Debug)]
pub(super) struct Lane {
    pub family: Family,
    pub desired: Desired,
    pub pending: Pending,
    /// When the oldest pending change came.
    pub since: Option<Duration>,
    /// What the kernel has, unless it is suspect.
    pub known: Option<Found>,
    /// The kernel may have something else than is known: compare everything.
    pub suspect: bool,
    /// The comparison that is being acted on, or that was found needless.
    pub plan: Option<Plan>,
    /// One that was carried out and that nothing was kept of: a million small pieces of memory, which are
    /// given back when there is nothing better to do, and never by a process that ends.
    spent: Option<Plan>,
    /// What was last written or found right, Service by Service.
    in_force: Option<Services>,
    pub failures: u32,
    /// Writes in a row that somebody else's came in front of.
    pub overtaken: u32,
    pub retry_at: Option<Duration>,
    pub verify_at: Duration,
    pub ended: Option<(Duration, Duration)>,
    pub began: Option<Duration>,
}

/// A comparison: what is to be written, and what was there.
#[derive(Debug)]
pub(super) struct Plan {
    pub delta: Rc<Delta>,
    /// Everything was compared.
    pub full: bool,
    /// What was read for it, and what was wanted where the change has not taken that over; `None` when
    /// knowledge was enough.
    read: Option<(Found, Option<Wanted>)>,
    absent: bool,
}

impl Lane {
    pub(super) fn new(family: Family) -> Self {
        Self {
            family,
            desired: Desired::new(family),
            pending: Pending::Nothing,
            since: None,
            known: None,
            suspect: false,
            plan: None,
            spent: None,
            in_force: None,
            failures: 0,
            overtaken: 0,
            retry_at: None,
            verify_at: Duration::MAX,
            ended: None,
            began: None,
        }
    }

    /// Notes what has to be done.
    pub(super) fn add(&mut self, now: Duration, more: Pending) {
        let pending = std::mem::take(&mut self.pending);
        self.pending = match (pending, more) {
            (pending, Pending::Nothing) => pending,
            (Pending::Nothing, more) => more,
            (Pending::Some(mut known), Pending::Some(more)) => {
                known.extend(more);
                Pending::Some(known)
            }
            _ => Pending::All,
        };
        if self.pending != Pending::Nothing {
            self.since.get_or_insert(now);
        }
    }

    pub(super) fn has_work(&self, now: Duration) -> bool {
        self.pending != Pending::Nothing || self.suspect || self.verify_at <= now
    }

    /// Whether what is pending can be compared with what is known.
    pub(super) fn knows_enough(&self, now: Duration) -> bool {
        self.known.is_some()
            && self.in_force.is_some()
            && !self.suspect
            && self.verify_at > now
            && matches!(self.pending, Pending::Some(_))
    }

    /// Whether it ever came to its end.
    pub(super) fn has_begun(&self) -> bool {
        self.in_force.is_some()
    }

    /// Gives back what is not needed any more.
    pub(super) fn rest(&mut self) {
        self.spent = None;
    }

    /// Compares what is pending with what is known.
    pub(super) fn plan_some(&mut self) {
        let (Pending::Some(touched), Some(known)) = (&self.pending, &self.known) else {
            return;
        };
        let parts = |services| parts(services, touched);
        let before = self.in_force.as_ref().map(parts).unwrap_or_default();
        let delta = Delta::exchange(known, &before, &parts(self.desired.services()));
        self.plan = Some(Plan {
            delta: Rc::new(delta),
            full: false,
            read: None,
            absent: false,
        });
    }

    /// Compares everything with what was read; `None` when this host cannot do the family.
    pub(super) fn plan_all(&mut self, found: Option<Found>, overwrite: bool) {
        self.known = None;
        let mut delta = Delta::default();
        let read = found.map(|found| {
            let (change, wanted) = Delta::onto(&found, self.desired.wanted());
            delta = change;
            if let Some(wanted) = wanted.as_ref().filter(|_| overwrite) {
                delta.rewrite_edited(wanted);
            }
            (found, wanted)
        });
        self.plan = Some(Plan {
            delta: Rc::new(delta),
            full: true,
            absent: read.is_none(),
            read,
        });
    }

    /// The plan was carried out, or there was nothing to do: what is pending is done, once.
    pub(super) fn finish(&mut self, now: Duration, trusted: bool) -> Option<Report> {
        let plan = self.plan.take()?;
        let touched = match std::mem::take(&mut self.pending) {
            Pending::Some(touched) => Some(touched),
            Pending::Nothing => Some(BTreeSet::new()),
            Pending::All => None,
        };
        let asked = touched.as_ref().is_none_or(|touched| !touched.is_empty());
        let services_changed = self.pairs(touched.as_ref());
        let left_behind = self.left_behind(&plan, &services_changed);
        let first = plan.read.as_ref().filter(|_| self.in_force.is_none());
        let before = first.map(|(found, _)| view::services(found));
        let (full, absent, empty) = (plan.full, plan.absent, plan.delta.is_empty());
        let written = (!empty).then(|| Written::of(&plan.delta));
        self.know(plan, trusted);
        let report = Report {
            family: self.family,
            full,
            repaired: !asked && !empty,
            written,
            changes: match before {
                _ if absent => Vec::new(),
                Some(before) => self.first_changes(&before),
                None => changes_of(&services_changed),
            },
            left_behind,
            services_changed,
            services: self.desired.port_count(),
            absent,
            waited: now.saturating_sub(self.since.take().unwrap_or(now)),
            took: now.saturating_sub(self.began.take().unwrap_or(now)),
        };
        self.remember(touched.as_ref());
        (self.suspect, self.failures, self.overtaken, self.retry_at) = (false, 0, 0, None);
        self.ended = Some((now, report.took));
        Some(report)
    }

    /// The Services among these (or among all) that are not what they were.
    fn pairs(&self, touched: Option<&BTreeSet<ServiceKey>>) -> Vec<Pair> {
        let nothing = Services::new();
        let (before, after) = (
            self.in_force.as_ref().unwrap_or(&nothing),
            self.desired.services(),
        );
        let pair = |key: &ServiceKey| (before.get(key).cloned(), after.get(key).cloned());
        let keys: BTreeSet<&ServiceKey> = match touched {
            Some(touched) => touched.iter().collect(),
            None => before.keys().chain(after.keys()).collect(),
        };
        let pairs = keys.into_iter().map(pair);
        pairs.filter(|(before, after)| before != after).collect()
    }

    /// Where flows may have been left behind: at first everywhere the kernel's rules led, later
    /// where UDP endpoints or Services went.
    fn left_behind(&self, plan: &Plan, pairs: &[Pair]) -> Option<Before> {
        if let (None, Some((found, _))) = (&self.in_force, &plan.read) {
            return Some(self.before_in(found));
        }
        let ports = |rules: &Option<Rc<ServiceRules>>| {
            rules
                .as_ref()
                .map(|rules| rules.ports.clone())
                .unwrap_or_default()
        };
        let pairs = pairs.iter().map(|(before, after)| (ports(before), ports(after)));
        let stale: Vec<_> = pairs.filter(|(before, after)| needs(before, after)).collect();
        if stale.is_empty() {
            return None;
        }
        let mut before = Before::default();
        for port in stale.iter().flat_map(|(before, _)| before) {
            before.add_port(port);
        }
        Some(before)
    }

    /// Where these rules lead; Services that are left as they are leave nothing behind.
    fn before_in(&self, found: &Found) -> Before {
        let kept = self.desired.kept();
        if kept.is_empty() {
            return Before::of_rules(found);
        }
        let parts = keep::parts(found, |namespace, name| {
            !kept.contains(&(namespace.to_string(), name.to_string()))
        });
        let mut wanted = Wanted::default();
        for part in parts.values() {
            wanted.add(part);
        }
        Before::of_rules(&Found {
            tables: wanted.tables,
        })
    }

    /// What happens to each service port that was found.
    fn first_changes(&self, before: &Views) -> Vec<Change> {
        let mut after = Views::new();
        for rules in self.desired.services().values() {
            view::add_services(&rules.by_chain(), &mut after);
        }
        changes(before, after)
    }

    fn remember(&mut self, touched: Option<&BTreeSet<ServiceKey>>) {
        let services = self.desired.services();
        match (touched, &mut self.in_force) {
            (Some(touched), Some(in_force)) => {
                for key in touched {
                    match services.get(key) {
                        Some(rules) => drop(in_force.insert(key.clone(), Rc::clone(rules))),
                        None => drop(in_force.remove(key)),
                    }
                }
            }
            (_, in_force) => *in_force = Some(services.clone()),
        }
    }

    /// Follows the change in what is known, where that can be relied on.
    fn know(&mut self, plan: Plan, trusted: bool) {
        if !trusted {
            self.known = None;
            self.spent = Some(plan);
            return;
        }
        if let Some((mut found, wanted)) = plan.read {
            match wanted {
                Some(wanted) => found.become_as(wanted, &plan.delta),
                None => found.take_over(Rc::unwrap_or_clone(plan.delta)),
            }
            self.known = Some(found);
        } else if let Some(known) = &mut self.known {
            known.apply(&plan.delta);
        }
    }

    /// The plan failed.
    pub(super) fn fail(&mut self, now: Duration) -> Setback {
        let full = self.plan.take().is_none_or(|plan| plan.full);
        self.suspect = true;
        self.failures += 1;
        let took = now.saturating_sub(self.began.take().unwrap_or(now));
        // A change that does not fit says that the knowledge was wrong: everything is written at once.
        let at_once = !full && self.failures == 1;
        let wait = if at_once {
            Duration::ZERO
        } else {
            back_off(self.failures)
        };
        self.retry_at = Some(now + wait);
        Setback { full, took, wait }
    }
}

/// What happened to the service ports of these Services.
fn changes_of(pairs: &[Pair]) -> Vec<Change> {
    let views = |rules: &Option<Rc<ServiceRules>>| {
        rules
            .as_ref()
            .map(|rules| view::services(&rules.by_chain()))
            .unwrap_or_default()
    };
    let each = pairs.iter().flat_map(|(before, after)| {
        let (before, after) = (views(before), views(after));
        let told = changes(&before, after.clone());
        // Something that no line tells of: its rules were written anew all the same.
        let rest = told.is_empty().then(|| rewritten(&before, after));
        told.into_iter().chain(rest.into_iter().flatten())
    });
    each.collect()
}

/// Service ports that look as before.
fn rewritten(before: &Views, after: Views) -> Vec<Change> {
    let each = after.into_iter().filter_map(|(key, service)| {
        let before = Box::new(before.get(&key)?.clone());
        Some(Change::Changed { before, service })
    });
    each.collect()
}

/// The rules of these Services' ports.
fn parts<'a>(services: &'a Services, of: &BTreeSet<ServiceKey>) -> Vec<&'a Part> {
    let services = of.iter().filter_map(|key| services.get(key));
    let parts = services.flat_map(|rules| &rules.parts);
    parts.map(|(_, part)| part).collect()
}

impl Written {
    fn of(delta: &Delta) -> Self {
        let rules = delta
            .tables
            .iter()
            .map(|(table, changes)| (*table, changes.rule_count()));
        Self {
            chains: delta.chain_count(),
            rules: rules.collect(),
        }
    }
}
