//! What to do next, and when. Pure: events and times in, actions out; no clock, no kernel, no file.
//!
//! | module | holds |
//! | --- | --- |
//! | [`desired`] | what one IP family should have, Service by Service |
//! | [`lane`] | one family: wanted, known, pending |
//!
//! The caller asks [`Engine::poll`], does the one thing it names, tells how it went, and asks again.
//!
//! - What changed waits in the lane until a write took it: a failure loses nothing, and each change
//!   is reported once, when it is in force.
//! - The first comparison is with what the kernel has. After that, what was written is known, and a
//!   change costs what differs. Knowledge is dropped when somebody else changed rules (the kernel
//!   counts), when a write failed, and now and then to be sure; then everything is compared again.
//! - A change that the kernel refuses though it should fit is followed by a full write at once, and
//!   that by further attempts with doubling waits.

pub mod desired;
mod lane;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use labkit::xtables::Family;

use crate::node::NodeOptions;
use crate::pace::{between_comparisons, rest};
use crate::registry::ServiceKey;
use crate::registry::model::service_ports;
use crate::registry::store::Store;
use crate::registry::touched::{Refusals, Touched};
use crate::rules::delta::Delta;
use crate::rules::set::Found;
use crate::spread;
use lane::{Lane, Pending};
pub use lane::{Pair, Report, Setback, Written};

/// Times a full comparison may be overtaken by somebody else's write before ours goes ahead.
const PATIENT: u32 = 2;

/// How often to do things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The least time between two writes; `None` for none but what a write itself took.
    pub min_interval: Option<Duration>,
    /// The usual time between two full comparisons.
    pub sync_period: Duration,
    /// How often to look whether somebody else changed rules.
    pub look: Duration,
    /// The kernel counts changes of rules, so that a look tells and knowledge can be relied on.
    pub counted: bool,
}

/// What to do now.
#[derive(Debug, Clone)]
pub enum Action {
    /// Read all rules of a family, then call [`Engine::read`].
    Read(Family),
    /// Write this, then call [`Engine::wrote`].
    Write(Family, Rc<Delta>),
    /// Look whether somebody else changed rules, then call [`Engine::looked`].
    Look,
    /// Nothing before this time, or before the next event.
    Wait(Duration),
}

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is in force. The kernel's count afterwards, if nobody else's change is in it.
    Done(Option<u32>),
    /// Somebody else had changed rules since they were read: nothing was written.
    Overtaken,
    /// It was refused, in part or as a whole.
    Failed,
}

/// What a look showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The kernel's count of changes.
    Count(u32),
    /// It has become this, by changes that are none of our rules.
    Elsewhere(u32),
    /// Whether the canary chain is there.
    Canary(bool),
}

/// The state machine.
#[derive(Debug)]
pub struct Engine {
    lanes: [Lane; 2],
    pace: Pace,
    refusals: Refusals,
    /// The kernel's count of changes at which what is known was right.
    count: Option<u32>,
    look_at: Duration,
}

impl Engine {
    /// Nothing known, nothing wanted.
    pub fn new(pace: Pace) -> Self {
        Self {
            lanes: Family::ALL.map(Lane::new),
            pace,
            refusals: Refusals::default(),
            count: None,
            look_at: Duration::ZERO,
        }
    }

    /// What one family should have.
    pub fn desired(&self, family: Family) -> &desired::Desired {
        &self.lane(family).desired
    }

    /// Since when the oldest change of a family waits.
    pub fn pending_since(&self, family: Family) -> Option<Duration> {
        self.lane(family).since
    }

    /// What a family was last known to have; it may have something else by now.
    pub fn known(&self, family: Family) -> Option<&Found> {
        self.lane(family).known.as_ref()
    }

    /// Whether every family came to its end at least once.
    pub fn has_begun(&self) -> bool {
        self.lanes.iter().all(Lane::has_begun)
    }

    /// The kernel's count of changes that the next write expects.
    pub fn count(&self) -> Option<u32> {
        self.count
    }

    fn lane(&self, family: Family) -> &Lane {
        &self.lanes[usize::from(family == Family::V6)]
    }

    fn lane_mut(&mut self, family: Family) -> &mut Lane {
        &mut self.lanes[usize::from(family == Family::V6)]
    }

    /// Takes in what changed of the objects, or (all Services) of the node.
    pub fn want(&mut self, now: Duration, node: &NodeOptions, store: &Store, touched: &Touched) {
        let registry = store.registry();
        self.refusals = store.refusals();
        let refusals = &self.refusals;
        let keeps = |key: &ServiceKey| refusals.keeps(key, registry.services.contains_key(key));
        for lane in &mut self.lanes {
            let config = node.config(registry, lane.family);
            let ports = |key: &ServiceKey| service_ports(registry, key, &config);
            if !lane.has_begun() || *lane.desired.config() != config {
                let all: Vec<&ServiceKey> = registry.services.keys().collect();
                let all = spread::map(&all, |key| ((*key).clone(), ports(key)));
                lane.desired.replace(config, all, keeps);
                lane.add(now, Pending::All);
                continue;
            }
            let kept: Vec<_> = lane
                .desired
                .kept()
                .iter()
                .filter(|key| !keeps(key))
                .cloned()
                .collect();
            let changed: BTreeSet<ServiceKey> = kept
                .iter()
                .chain(&touched.services)
                .filter(|key| !(lane.desired.kept().contains(*key) && keeps(key)))
                .cloned()
                .collect();
            let changed: BTreeSet<_> = changed
                .into_iter()
                .filter(|key| lane.desired.update(key, ports(key)))
                .collect();
            if lane.desired.settle() {
                lane.add(now, Pending::All);
            } else if !changed.is_empty() {
                lane.add(now, Pending::Some(changed));
            }
        }
    }

    /// What to do now.
    pub fn poll(&mut self, now: Duration) -> Action {
        let mut wait = Duration::MAX;
        for lane in &mut self.lanes {
            if !lane.has_work(now) {
                wait = wait.min(lane.verify_at);
                continue;
            }
            let from = lane
                .retry_at
                .unwrap_or_default()
                .max(rest(&self.pace, lane.ended));
            if lane.began.is_none() && from > now {
                wait = wait.min(from);
                continue;
            }
            lane.began.get_or_insert(now);
            if lane.plan.is_none() {
                if !lane.knows_enough(now) {
                    // What is read takes as much room.
                    lane.rest();
                    return Action::Read(lane.family);
                }
                lane.plan_some();
            }
            if let Some(plan) = &lane.plan {
                return Action::Write(lane.family, Rc::clone(&plan.delta));
            }
        }
        let begun = self.has_begun();
        if begun && self.look_at <= now {
            self.lanes.iter_mut().for_each(Lane::rest);
            return Action::Look;
        }
        Action::Wait(if begun { wait.min(self.look_at) } else { wait })
    }

    /// What a [`Action::Read`] found, `None` where this host cannot do the family, and the kernel's
    /// count from before.
    pub fn read(&mut self, family: Family, found: Option<Found>, count: Option<u32>) {
        let refusals = self.refusals.clone();
        let other = self
            .lanes
            .iter()
            .any(|lane| lane.family != family && lane.known.is_some());
        if other && self.count != count {
            // What was known of the other family was known at another count.
            self.doubt();
        }
        self.count = count;
        let lane = self.lane_mut(family);
        if let (false, Some(found)) = (lane.has_begun(), &found) {
            lane.desired.keep(found, |key, known| refusals.keeps(key, known));
        }
        let overwrite = lane.overtaken >= PATIENT;
        lane.plan_all(found, overwrite);
    }

    /// Whether a write should go ahead though somebody else's came in front of it.
    pub fn insists(&self, family: Family) -> bool {
        self.lane(family).overtaken >= PATIENT
    }

    /// How a [`Action::Write`] went; what it came to, if it is in force. An empty change need not be
    /// written: it is done.
    pub fn wrote(&mut self, family: Family, outcome: Outcome, now: Duration) -> Option<Report> {
        let (pace, trusted) = (
            self.pace,
            matches!(outcome, Outcome::Done(Some(_))) && self.pace.counted,
        );
        match outcome {
            Outcome::Done(count) => {
                self.count = count.or(self.count);
                self.look_at = now + pace.look;
                let lane = self.lane_mut(family);
                let report = lane.finish(now, trusted)?;
                if report.full {
                    lane.verify_at = now + between_comparisons(&pace, report.took);
                }
                if pace.counted && count.is_none() && report.written.is_some() {
                    // Somebody else's change came in between.
                    self.doubt();
                }
                Some(report)
            }
            Outcome::Overtaken => {
                let lane = self.lane_mut(family);
                lane.overtaken += 1;
                lane.plan = None;
                self.doubt();
                None
            }
            Outcome::Failed => None,
        }
    }

    /// A read or a write failed; it is tried again in a while.
    pub fn failed(&mut self, family: Family, now: Duration) -> Setback {
        self.lane_mut(family).fail(now)
    }

    /// What a [`Action::Look`] showed; `None` when the look itself failed.
    pub fn looked(&mut self, look: Option<Look>, now: Duration) {
        self.look_at = now + self.pace.look;
        let right = match look {
            Some(Look::Count(count)) => self.count == Some(count),
            Some(Look::Elsewhere(count)) => {
                self.count = Some(count);
                true
            }
            Some(Look::Canary(there)) => there,
            None => true,
        };
        if !right {
            self.doubt();
        }
    }

    /// Compares everything again, as soon as may be.
    pub fn doubt(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.has_begun()) {
            lane.suspect = true;
        }
    }
}
