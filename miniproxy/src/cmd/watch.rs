//! `miniproxy sync --watch`: follows the registry, and keeps the kernel as the registry wants it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use labkit::nftables::NfTables;
use labkit::shell::{OutputFormat, emit, tell};
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, Kind, Outcome};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::observe::{Observer, Synced};
use super::sync::{Mode, Report, options, remark, sync};
use crate::cli::SyncArgs;
use crate::edge::addresses::interface_addresses;
use crate::edge::registry::{Signature, Source};
use crate::edge::watch::Watch;
use crate::node::NodeOptions;
use crate::observe::metrics::Rules;
use crate::pace::{back_off, between_comparisons};
use crate::registry::{Registry, name_of};
use crate::rules::build::build;

/// How long to wait for another command's lock; the signals that end the watch wait as long.
const PATIENCE: Duration = Duration::from_secs(2);
/// A change is acted on after this long without another one.
const QUIET: Duration = Duration::from_millis(5);
/// How often to look whether somebody else changed the rules, or files without an event.
const LOOK: Duration = Duration::from_millis(250);
/// A file that is no JSON may be half written: it gets this long to be finished.
const HALF_WRITTEN: Duration = Duration::from_millis(60);

/// Runs the command until SIGINT or SIGTERM. The rules stay: only `cleanup` removes them.
pub(super) fn run(args: &SyncArgs) -> Result<Outcome, Failure> {
    let source = super::source(&args.registry)?;
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut follower = Follower::new(args, source, xtables)?;
        follower.follow().await
    })?;
    Ok(Outcome::Done)
}

/// What is followed, and what is known of it.
struct Follower {
    source: Source,
    xtables: Xtables,
    node: NodeOptions,
    observer: Observer,
    /// The rules name addresses of this host, which may change.
    own_addresses: bool,
    output: OutputFormat,
    longest: Duration,
    /// The last registry that was good; in force until there is a better one.
    registry: Option<Registry>,
    /// How the files looked when they were last read.
    signature: Signature,
    /// What was last said about a bad registry, so that it is said once.
    complaint: Option<String>,
    /// Whether a pass ever came to its end.
    begun: bool,
    /// Writes that failed in a row.
    failures: u32,
    /// The generation of the kernel's rules when they were last found right.
    right_at: Option<u32>,
    /// When to compare with the kernel whatever else happens.
    compare_at: Instant,
    /// When a failed write is tried again.
    retry_at: Option<Instant>,
}

impl Follower {
    fn new(args: &SyncArgs, source: Source, xtables: Xtables) -> Result<Self, Failure> {
        let node = options(&args.node)?;
        Ok(Self {
            source,
            xtables,
            own_addresses: node.settings.needs_host_addresses() && args.node.node_addresses.is_empty(),
            longest: args
                .sync_period
                .map_or(node.settings.sync_period, Duration::from_secs),
            observer: Observer::start(&node, args.serve)?,
            node,
            output: args.output,
            registry: None,
            signature: Signature::new(),
            complaint: None,
            begun: false,
            failures: 0,
            right_at: None,
            compare_at: Instant::now(),
            retry_at: None,
        })
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot watch the registry: {error}"));
        let mut stop = Stop::new().map_err(failed)?;
        // Watch before the first look: what changes in between is then seen twice, not never.
        let mut watch = Watch::new(&self.source.paths).map_err(failed)?;
        self.begin()?;
        self.read().await;
        if let Some(registry) = &self.registry {
            remark(&self.node, registry);
        }
        self.pass("")?;
        loop {
            tokio::select! {
                () = stop.asked() => return Ok(()),
                changed = watch.changed(QUIET) => {
                    changed.map_err(failed)?;
                    if self.source.signature() != self.signature {
                        self.read().await;
                        self.pass("")?;
                    }
                }
                () = sleep(LOOK) => self.look(&mut watch).await?,
            }
        }
    }

    fn begin(&self) -> Result<(), Failure> {
        let paths: Vec<String> = self
            .source
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        if self.output == OutputFormat::Table {
            emit(&format!(
                "using {}: {}\n",
                self.xtables.name(),
                self.xtables.reason
            ))?;
            emit(&format!(
                "following {}; Ctrl-C ends it and leaves the rules\n",
                paths.join(", ")
            ))?;
        }
        Ok(())
    }

    /// The safety net under the events: files that changed without one, rules that others changed,
    /// writes that failed.
    async fn look(&mut self, watch: &mut Watch) -> Result<(), Failure> {
        if self.source.signature() != self.signature || (self.complaint.is_some() && self.registry.is_none())
        {
            watch.renew();
            self.read().await;
            return self.pass("");
        }
        if let Some(at) = self.retry_at {
            return if Instant::now() >= at {
                self.pass("")
            } else {
                Ok(())
            };
        }
        let touched = match self.generation() {
            Some(generation) => self.right_at != Some(generation),
            None => false,
        };
        if touched || Instant::now() >= self.compare_at {
            return self.pass("somebody changed our rules; restored: ");
        }
        Ok(())
    }

    /// Reads the registry; a bad one leaves the last good one in force.
    async fn read(&mut self) {
        self.signature = self.source.signature();
        let mut registry = self.source.read();
        if registry.is_err() {
            sleep(HALF_WRITTEN).await;
            self.signature = self.source.signature();
            registry = self.source.read();
        }
        match registry {
            Ok(registry) => {
                if self.complaint.take().is_some() {
                    tell("the registry is good again");
                }
                self.observer
                    .queued(registry.services.len(), registry.slices.len());
                self.registry = Some(registry);
            }
            Err(failure) => {
                // Its hints are for a command that ends; this one goes on.
                let complaint = format!("error: {}", failure.message());
                if self.complaint.as_deref() != Some(complaint.as_str()) {
                    tell(&complaint);
                    tell("       the last good state stays in force");
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    /// Compares with the kernel and writes what differs. `repaired` begins the line that tells of a
    /// write that no change of the registry asked for.
    fn pass(&mut self, repaired: &str) -> Result<(), Failure> {
        if self.own_addresses {
            self.node.host.addresses = interface_addresses()?;
        }
        let Some(registry) = &self.registry else {
            return Ok(());
        };
        // Taken before the comparison: a change in between makes the next look compare again.
        let generation = self.generation();
        let began = Instant::now();
        let result = sync(
            &self.xtables,
            &self.node,
            registry,
            Mode::Write { patience: PATIENCE },
        );
        self.compare_at = Instant::now() + between_comparisons(began.elapsed(), self.longest);
        match result {
            Ok(report) => {
                self.right_at = generation.filter(|_| report.written.is_empty());
                self.begun = true;
                self.failures = 0;
                self.retry_at = None;
                self.observe(&report, began.elapsed(), repaired);
                self.say(&report, repaired)
            }
            // Before the first success nothing that is waited for will bring a privilege or a program.
            Err(failure) if failure.kind() == Kind::HostLacks && !self.begun => Err(failure),
            Err(failure) => {
                for family in Family::ALL {
                    self.observer.failed(family, true, began.elapsed());
                }
                self.failures += 1;
                let wait = back_off(self.failures);
                self.retry_at = Some(Instant::now() + wait);
                tell(&failure.to_string());
                tell(&format!("       trying again in {:.1} s", wait.as_secs_f64()));
                Ok(())
            }
        }
    }

    /// Tells those who ask over HTTP what is in force.
    fn observe(&mut self, report: &Report, duration: Duration, repaired: &str) {
        let Some(registry) = self.registry.as_ref().filter(|_| self.observer.serves()) else {
            return;
        };
        let name = self.node.node_name(registry);
        let node = registry.nodes.iter().find(|node| name_of(&node.metadata) == name);
        let models = Family::ALL.map(|family| self.node.model(registry, family));
        for model in &models {
            let (family, wanted) = (model.config.family, build(model));
            let written = report
                .written
                .iter()
                .any(|written| written.family == family.name());
            let total = Rules::of(&wanted);
            self.observer.synced(&Synced {
                family,
                full: true,
                duration,
                total,
                sent: if written { total } else { Rules::default() },
                chains: wanted.tables.values().map(BTreeMap::len).sum(),
            });
            if let Some(metrics) = self.observer.metrics() {
                metrics.kernel_read(family);
                if written && !repaired.is_empty() {
                    metrics.repaired(family);
                }
            }
        }
        self.observer.registry(&models, node);
    }

    fn say(&self, report: &Report, repaired: &str) -> Result<(), Failure> {
        if report.written.is_empty() {
            return Ok(());
        }
        if self.output == OutputFormat::Json {
            let line = serde_json::to_string(report).map_err(|error| Failure::failed(error.to_string()))?;
            return emit(&format!("{line}\n"));
        }
        let mut text = String::new();
        if !repaired.is_empty() || report.changes.is_empty() {
            text.push_str(&format!("{repaired}{}\n", report.written_text()));
        }
        // After a repair nothing is new but the rules.
        for change in report.changes.iter().filter(|_| repaired.is_empty()) {
            text.push_str(&change.line());
            text.push('\n');
        }
        emit(&text)
    }

    /// The kernel's own count of rule changes; `None` where it keeps none (legacy).
    fn generation(&self) -> Option<u32> {
        match self.xtables.flavour {
            Flavour::Nft => NfTables::open().and_then(|mut kernel| kernel.generation()).ok(),
            Flavour::Legacy => None,
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
