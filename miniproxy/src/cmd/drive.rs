//! The engine and what it drives: objects from files, rules into the kernel.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use labkit::shell::note_once;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Kind};

use super::chores::Chores;
use super::host;
use crate::config::Compat;
use crate::conntrack;
use crate::edge::addresses::interface_addresses;
use crate::edge::kernel::{Kernel, Wrote};
use crate::edge::nfacct;
use crate::edge::registry::{Files, Source};
use crate::engine::{Action, Engine, Outcome, Pace, Report, Setback};
use crate::node::NodeOptions;
use crate::registry::problem::Problem;
use crate::registry::store::Store;
use crate::registry::touched::Touched;
use crate::rules::delta::Delta;

/// How often to look whether somebody else changed the rules, where the kernel tells.
const LOOK: Duration = Duration::from_millis(250);
/// The same where a process has to be started for it.
const LOOK_BY_PROCESS: Duration = Duration::from_secs(1);

/// What came of driving.
pub(super) enum Event {
    /// A family is as it should be.
    Done(Box<Report>),
    /// Flows of a family that had gone stale were deleted: how many, and how long it took.
    Reconciled {
        family: Family,
        flows: usize,
        took: Duration,
    },
    /// Settings of the kernel were changed.
    Settled(Vec<String>),
    /// What is done besides rules failed; the rules are in force all the same.
    Aside(Failure),
    /// A read or a write failed; it is tried again.
    Failed {
        family: Family,
        failure: Failure,
        setback: Setback,
    },
}

/// Everything that a sync has in hand.
pub(super) struct Driver {
    pub(super) node: NodeOptions,
    pub(super) kernel: Kernel,
    pub(super) store: Store,
    pub(super) engine: Engine,
    files: Files,
    strict: bool,
    /// Changes that wait for the registry to be good as a whole.
    held_back: Touched,
    /// Whether the engine was ever told what is wanted.
    told: bool,
    /// What is still to be done besides rules.
    chores: Chores,
    began: Instant,
}

impl Driver {
    /// `patience`: how long to wait for another command that writes.
    pub(super) fn new(
        node: NodeOptions,
        source: Source,
        xtables: Xtables,
        strict: bool,
        patience: Duration,
    ) -> Self {
        let kernel = Kernel::new(xtables, patience);
        let settings = &node.settings;
        let pace = Pace {
            min_interval: settings.asked_min_sync_period(),
            sync_period: settings.sync_period,
            look: if kernel.counts() { LOOK } else { LOOK_BY_PROCESS },
            counted: kernel.counts(),
        };
        Self {
            engine: Engine::new(pace),
            files: Files::new(source),
            store: Store::default(),
            held_back: Touched::default(),
            told: false,
            chores: Chores::new(),
            began: Instant::now(),
            node,
            kernel,
            strict,
        }
    }

    /// Time since the start; all of the engine's times are such.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        self.files.paths()
    }

    /// Reads what changed: of these files, or of all. Returns what could not be read.
    pub(super) fn read(&mut self, only: Option<&BTreeSet<PathBuf>>) -> Vec<Failure> {
        let changes = self.files.changes(only);
        self.held_back.add(changes.apply(&mut self.store));
        changes.failures
    }

    /// What is wrong with the objects.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.store.problems()
    }

    /// Whether what is good may come into force while there are these problems.
    pub(super) fn admits(&self, problems: &[Problem]) -> bool {
        let registry = self.store.registry();
        let nothing_good =
            registry.services.is_empty() && registry.slices.is_empty() && registry.nodes.is_empty();
        problems.is_empty() || !(self.strict || nothing_good && !self.told)
    }

    /// Makes the packet counters that rules count with, where there are to be such rules and the kernel
    /// can. Somebody who removed the rules may have removed the counters, too.
    pub(super) fn make_counters(&mut self) {
        if self.node.settings.compat == Compat::Latest {
            let made = self.kernel.locked().and_then(nfacct::ensure);
            self.node.host.counters = made.unwrap_or_else(|failure| {
                tracing::warn!("no packet counter is made: {failure}");
                nfacct::there()
            });
        }
    }

    /// Tells the engine what changed since it was last told, and returns that.
    ///
    /// # Errors
    /// When the host's addresses, which the rules depend on, cannot be listed.
    pub(super) fn want(&mut self, own_addresses: bool) -> Result<Touched, Failure> {
        if own_addresses {
            self.node.host.addresses = interface_addresses()?;
        }
        let touched = std::mem::take(&mut self.held_back);
        let now = self.now();
        self.engine.want(now, &self.node, &self.store, &touched);
        self.told = true;
        Ok(touched)
    }

    /// Whether anything was ever wanted.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// Does one thing after the other until there is nothing to do; returns when there will be.
    pub(super) fn drive(
        &mut self,
        mut on: impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<Duration, Failure> {
        let wait = loop {
            match self.engine.poll(self.now()) {
                Action::Wait(until) => break until,
                Action::Look => {
                    let look = self.kernel.look(self.engine.count());
                    self.engine.looked(look, self.now());
                }
                Action::Read(family) => {
                    if let Err(failure) = self.kernel.locked() {
                        self.failed(family, failure, &mut on)?;
                        continue;
                    }
                    self.make_counters();
                    match self.kernel.read(family, self.engine.known(family)) {
                        Ok((found, count)) => self.engine.read(family, found, count),
                        Err(failure) => self.failed(family, failure, &mut on)?,
                    }
                }
                Action::Write(family, delta) => self.write(family, delta, &mut on)?,
            }
        };
        self.settle(&mut on)?;
        for family in Family::ALL {
            self.reconcile(family, &mut on)?;
        }
        self.kernel.unlock();
        Ok(wait.min(self.chores.next()))
    }

    /// Once, and after the first rules; what fails is tried again.
    fn settle(&mut self, on: &mut impl FnMut(Event) -> Result<(), Failure>) -> Result<(), Failure> {
        if !self.engine.has_begun() || !self.chores.settle.is_due(self.now()) {
            return Ok(());
        }
        let settled = self
            .kernel
            .locked()
            .and_then(|run| host::settle(run, &self.node, self.store.registry()));
        let now = self.now();
        self.chores.settle.tried(settled.is_ok(), now);
        match settled {
            Ok(changed) if changed.is_empty() => Ok(()),
            Ok(changed) => on(Event::Settled(changed)),
            Err(failure) => on(Event::Aside(failure)),
        }
    }

    /// A family is as it should be: flows that lead elsewhere go.
    fn done(
        &mut self,
        mut report: Report,
        on: &mut impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (family, left_behind) = (report.family, report.left_behind.take());
        if let Some(written) = &report.written {
            tracing::info!(
                family = family.name(),
                full = report.full,
                repaired = report.repaired,
                chains = written.chains,
                rules = written.rules.values().sum::<usize>(),
                ms = report.took.as_millis(),
                "rules written"
            );
        }
        on(Event::Done(Box::new(report)))?;
        if let Some(before) = left_behind {
            let now = self.now();
            self.chores.owe(family, before, now);
        }
        self.reconcile(family, on)
    }

    /// Deletes stale flows that are known of; those of a failure stay known, and are tried again.
    fn reconcile(
        &mut self,
        family: Family,
        on: &mut impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let began = self.now();
        let Some(before) = self.chores.owed(family, began) else {
            return Ok(());
        };
        let model = self.engine.desired(family).model_of(conntrack::concerns);
        let flows = host::reconcile(&model, before);
        let took = self.now().saturating_sub(began);
        self.chores.reconciled(family, flows.is_ok(), began + took);
        match flows {
            Ok(flows) => on(Event::Reconciled { family, flows, took }),
            Err(failure) => on(Event::Aside(failure)),
        }
    }

    fn write(
        &mut self,
        family: Family,
        delta: Rc<Delta>,
        on: &mut impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (expected, insists) = (self.engine.count(), self.engine.insists(family));
        for rule in &delta.held {
            note_once(&format!(
                "warning: a rule of somebody else leads into a {} chain that no Service has any more: {rule}; the chain stays, empty, until that rule is gone",
                family.name()
            ));
        }
        let wrote = self.kernel.write(family, &delta, expected, insists);
        // As large as the rules at a first sync; the engine has its own.
        drop(delta);
        match wrote {
            Wrote::Told(outcome) => match self.engine.wrote(family, outcome, self.now()) {
                Some(report) => self.done(report, on),
                None => Ok(()),
            },
            Wrote::Failed(failure) => self.failed(family, failure, on),
        }
    }

    fn failed(
        &mut self,
        family: Family,
        failure: Failure,
        on: &mut impl FnMut(Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        // Before the first success nothing that is waited for will bring a privilege or a program.
        if failure.kind() == Kind::HostLacks && !self.engine.has_begun() {
            return Err(failure);
        }
        let setback = self.engine.failed(family, self.now());
        on(Event::Failed {
            family,
            failure,
            setback,
        })
    }

    /// What would be written, without writing it.
    ///
    /// # Errors
    /// When the kernel's rules cannot be read.
    pub(super) fn rehearse(
        &mut self,
        mut on: impl FnMut(Family, &Delta, Option<Report>),
    ) -> Result<(), Failure> {
        for _ in Family::ALL {
            let Action::Read(family) = self.engine.poll(self.now()) else {
                break;
            };
            let (found, count) = self.kernel.read(family, None)?;
            self.engine.read(family, found, count);
            if let Action::Write(family, delta) = self.engine.poll(self.now()) {
                let report = self.engine.wrote(family, Outcome::Done(count), self.now());
                on(family, &delta, report);
            }
        }
        Ok(())
    }
}
