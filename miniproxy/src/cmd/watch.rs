//! `miniproxy sync --watch`: follows the registry, and keeps the kernel as the registry wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use labkit::shell::tell;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Outcome, watched};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::crew::{self, End, Place, Voice};
use super::drive::{Driver, Event};
use super::host::Done;
use super::nodes;
use super::observe::{Observer, concerns};
use super::sync::{Report, options, remark, warn_of_others};
use crate::cli::SyncArgs;
use crate::edge::watch::{Changed, Watch};
use crate::engine;
use crate::lab::homes;
use crate::registry::problem;

/// How long to wait for another command's lock; the signals that end the watch wait as long.
const PATIENCE: Duration = Duration::from_secs(2);
/// A change is acted on after this long without another one.
const QUIET: Duration = Duration::from_millis(3);
/// How often to look at all files, for changes without an event; less often where there are many.
const SCAN: Duration = Duration::from_millis(250);
/// A file that is no JSON may be half written: it gets this long to be finished.
const HALF_WRITTEN: Duration = Duration::from_millis(60);

/// Runs the command until SIGINT or SIGTERM. The rules stay: only `cleanup` removes them.
pub(super) fn run(args: &SyncArgs) -> Result<Outcome, Failure> {
    let homes = nodes::homes(&args.registry, args.node.node.as_deref())?;
    if homes.is_empty() {
        return follow(args, None).map(|_| Outcome::Done);
    }
    let grows = args.node.node.is_none();
    Ok(crew::run(homes, grows, |place| follow(args, Some(place))))
}

/// Follows the registry for one node: here, or where this thread was moved to.
fn follow(args: &SyncArgs, place: Option<Place>) -> Result<End, Failure> {
    let source = super::source(&args.registry)?;
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut node = match &place {
            Some(place) => options(&args.node.named(place.node()))?,
            None => options(&args.node)?,
        };
        if let Some(seconds) = args.sync_period {
            node.settings.sync_period = Duration::from_secs(seconds);
        }
        let own_addresses = node.settings.needs_host_addresses() && args.node.node_addresses.is_empty();
        let observer = Observer::start(&node, args.serve)?;
        let mut follower = Follower {
            driver: Driver::new(node, source, xtables, args.strict, PATIENCE),
            own_addresses,
            voice: Voice::new(args.output, place.as_ref()),
            place,
            complaint: None,
            setbacks: Setbacks::default(),
            besides: None,
            scan_at: Duration::ZERO,
            node_changed: false,
            observer,
        };
        follower.follow().await
    })
}

/// Follows the files and says what it does.
struct Follower {
    driver: Driver,
    /// The rules name addresses of this host, which may change.
    own_addresses: bool,
    voice: Voice,
    /// Which node this is, where it is one of several.
    place: Option<Place>,
    /// What was last said about a bad registry, so that it is said once.
    complaint: Option<String>,
    /// What fails now.
    setbacks: Setbacks,
    /// What was last said about what fails besides rules: it is tried again and again.
    besides: Option<String>,
    /// When to look at all files.
    scan_at: Duration,
    /// Our Node may have changed since those who ask were told of it.
    node_changed: bool,
    /// Those who ask over HTTP.
    observer: Observer,
}

impl Follower {
    async fn follow(&mut self) -> Result<End, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot watch the registry: {error}"));
        let mut stop = Stop::new().map_err(failed)?;
        watched::stop_with_signals().map_err(failed)?;
        // Watch before the first look: what changes in between is then seen twice, not never.
        let mut watch = Watch::new(self.driver.paths()).map_err(failed)?;
        self.begin()?;
        self.read(None).await?;
        if self.driver.is_told() {
            remark(&self.driver.node, self.driver.store.registry());
        }
        loop {
            if self.place.as_ref().is_some_and(Place::is_gone) {
                self.voice.tell("the node is gone");
                return Ok(End::Gone);
            }
            let next = self.drive()?.min(self.scan_at);
            let rest = next.saturating_sub(self.driver.now());
            tokio::select! {
                biased;
                () = stop.asked() => return Ok(End::Asked),
                changed = watch.changed(QUIET) => self.read(changed.map_err(failed)?).await?,
                () = sleep(rest) => {
                    if self.driver.now() >= self.scan_at {
                        watch.renew();
                        self.read(None).await?;
                    }
                }
            }
        }
    }

    fn begin(&self) -> Result<(), Failure> {
        let paths: Vec<String> = self
            .driver
            .paths()
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        warn_of_others();
        let xtables = &self.driver.kernel.xtables;
        if self.voice.is_for_people() {
            self.voice
                .emit(&format!("using {}: {}\n", xtables.name(), xtables.reason))?;
            self.voice.emit(&format!(
                "following {}; Ctrl-C ends it and leaves the rules\n",
                paths.join(", ")
            ))?;
        }
        Ok(())
    }

    /// Reads what changed and tells the engine; what is bad leaves its last good state in force.
    async fn read(&mut self, changed: Changed) -> Result<(), Failure> {
        let mut complaint = self.read_once(&changed);
        if complaint.is_some() && complaint != self.complaint {
            sleep(HALF_WRITTEN).await;
            complaint = self.read_once(&changed);
        }
        if complaint != self.complaint {
            match &complaint {
                // All nodes read the same registry: one of them says so.
                _ if !self.voice.leads() => {}
                Some(words) => {
                    tell(words);
                    tell("       the last good state stays in force");
                }
                None => tell("the registry is good again"),
            }
            self.complaint = complaint;
        }
        if self.driver.admits(&self.driver.problems()) && !self.lacks_files() {
            if !self.driver.is_told() {
                self.driver.make_counters();
            }
            let touched = self.driver.want(self.own_addresses)?;
            self.node_changed |= touched.nodes;
            if let Some(place) = self.place.as_ref().filter(|_| touched.nodes) {
                place.tell_of(homes(self.driver.store.registry()));
            }
            self.observer.queued(&touched);
        }
        self.observer.refused(self.driver.problems().len());
        Ok(())
    }

    /// What is wrong, in words.
    fn read_once(&mut self, changed: &Changed) -> Option<String> {
        let began = self.driver.now();
        let failures = self.driver.read(changed.as_ref());
        if changed.is_none() {
            let took = self.driver.now().saturating_sub(began);
            self.scan_at = self.driver.now() + SCAN.max(took.saturating_mul(50));
        }
        let problems = self.driver.problems();
        let words = failures.iter().map(|failure| failure.message().to_string());
        let words = words.chain((!problems.is_empty()).then(|| problem::refusals(&problems)));
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| format!("error: {}", words.join("\n")))
    }

    /// A registry that was never there says nothing, which is not that there are no Services.
    fn lacks_files(&self) -> bool {
        !self.driver.is_told() && self.driver.paths().iter().any(|path| !path.exists())
    }

    fn aside(&mut self, words: &str) {
        if self.besides.as_deref() != Some(words) {
            self.voice.tell(&format!("{words}\n       it is tried again"));
            self.besides = Some(words.to_string());
        }
    }

    fn drive(&mut self) -> Result<Duration, Failure> {
        let mut events = Vec::new();
        let wait = self.driver.drive(|event| {
            events.push(event);
            Ok(())
        })?;
        let name = self.driver.kernel.xtables.name();
        let others = self.driver.kernel.take_others();
        let changed = !events.is_empty() || std::mem::take(&mut self.node_changed);
        for event in events {
            match event {
                Event::Done(report) => {
                    self.setbacks.over(&self.voice, report.family);
                    self.observer
                        .done(&report, self.driver.engine.desired(report.family));
                    if report.repaired {
                        warn_of_others();
                    }
                    say(&self.voice, &name, *report, &others)?;
                }
                Event::Reconciled { family, flows, took } => {
                    self.observer.reconciled(family, flows, took);
                    besides(
                        &self.voice,
                        &Done {
                            stale_flows: flows,
                            ..Done::default()
                        },
                    )?;
                }
                Event::Settled(settings) => besides(
                    &self.voice,
                    &Done {
                        settings,
                        ..Done::default()
                    },
                )?,
                Event::Aside(failure) => self.aside(&failure.to_string()),
                Event::Failed {
                    family,
                    failure,
                    setback,
                } => {
                    self.observer.failed(family, setback.full, setback.took);
                    let wait = setback.wait.as_secs_f64();
                    self.setbacks
                        .tell(&self.voice, family, &failure.to_string(), wait);
                }
            }
        }
        let engine = &self.driver.engine;
        if Family::ALL
            .iter()
            .all(|family| engine.pending_since(*family).is_none())
        {
            self.observer.idle();
        }
        if changed && self.observer.serves() {
            let registry = self.driver.store.registry();
            let models = Family::ALL.map(|family| self.driver.engine.desired(family).model_of(concerns));
            let node = registry.nodes.get(&self.driver.node.node_name(registry));
            self.observer.registry(&models, node.map(Arc::as_ref));
        }
        Ok(wait)
    }
}

/// One line for each change; a line for a write that no change of the registry asked for.
fn say(
    voice: &Voice,
    iptables: &str,
    done: engine::Report,
    others: &BTreeSet<String>,
) -> Result<(), Failure> {
    for change in &done.changes {
        let (service, protocol) = change.of();
        let family = done.family.name();
        tracing::info!(family, service, protocol, "{}", change.line());
    }
    let repaired = done.repaired;
    let mut report = Report {
        iptables: iptables.to_string(),
        ..Report::default()
    };
    report.add(done);
    // A write that failed after a part may have left nothing to write: its changes are in force.
    if report.written.is_empty() && report.changes.is_empty() {
        return Ok(());
    }
    if !voice.is_for_people() {
        return voice.json(&report);
    }
    let mut text = String::new();
    let written = report.written_text();
    if repaired {
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let who = if others.is_empty() {
            "somebody".to_string()
        } else {
            others.join(", ")
        };
        text.push_str(&format!("{who} changed our rules; restored: {written}\n"));
    } else if report.services == 0 {
        text.push_str(&format!(
            "no Service in force; written, as every node has them: {written}\n"
        ));
    } else if report.changes.is_empty() {
        text.push_str(&format!("as many Services as before; written: {written}\n"));
    }
    for change in &report.changes {
        text.push_str(&change.line());
        text.push('\n');
    }
    voice.emit(&text)
}

/// What was done besides rules.
fn besides(voice: &Voice, done: &Done) -> Result<(), Failure> {
    if voice.is_for_people() {
        voice.emit(&done.text())?;
    }
    Ok(())
}

/// Families that failed: in which words, and how often in a row. Words that are known, of whichever
/// family, are not told again.
#[derive(Default)]
struct Setbacks(BTreeMap<Family, (String, u32)>);

impl Setbacks {
    fn tell(&mut self, voice: &Voice, family: Family, words: &str, wait: f64) {
        let known = self.0.values().any(|(known, _)| known == words);
        let (last, attempt) = self.0.entry(family).or_default();
        words.clone_into(last);
        *attempt += 1;
        let again = format!("trying again in {wait:.1} s");
        if known {
            let family = family.name();
            voice.tell(&format!("       {family}: the same, attempt {attempt}; {again}"));
        } else {
            voice.tell(&format!("{words}\n       {again}"));
        }
    }

    fn over(&mut self, voice: &Voice, family: Family) {
        if self.0.remove(&family).is_some() {
            voice.tell(&format!(
                "the {} rules are again as they should be",
                family.name()
            ));
        }
    }
}

/// The two signals that end the watch.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
