//! `miniproxy sync`: registry in, rules out, one line for each Service that changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use labkit::shell::{OutputFormat, emit, emit_json, note_once};
use labkit::text::count;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Kind, Outcome, fault};
use serde::Serialize;

use super::drive::{Driver, Event};
use super::{host, nodes, nodes_report};
use crate::cli::{NodeArgs, SyncArgs};
use crate::config::draft::Draft;
use crate::config::{Compat, failure};
use crate::edge::tables::holds_lock;
use crate::edge::{addresses, config, nfacct, processes};
use crate::engine;
use crate::node::NodeOptions;
use crate::registry::Registry;
use crate::registry::problem::{self, Problem};
use crate::report::changes::Change;

/// As long as other commands may take: a large first sync writes for several seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long other programs may hold the lock of the tables: iptables itself waits for 5 s each time.
const LOCKED: Duration = Duration::from_secs(12);

/// What one sync did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    /// Which iptables.
    pub iptables: String,
    /// What happened to each service port, IPv4 first.
    pub changes: Vec<Change>,
    /// What was written, by family; a family that needed nothing is not in it.
    pub written: Vec<Written>,
    /// Service ports in force afterwards.
    pub services: usize,
    /// Objects that were refused; they keep the rules that they had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Problem>,
    /// What was (or would be) sent, by family.
    #[serde(skip)]
    pub documents: Vec<(Family, String)>,
    /// What was done to the node besides rules.
    pub host: host::Done,
}

/// What was written for one family.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Written {
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Our chains that were made, changed or removed; 0 when only jumps to them were missing.
    chains: usize,
}

impl Report {
    /// Adds what happened.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Done(done) => self.add(*done),
            Event::Reconciled { flows, .. } => self.host.stale_flows += flows,
            Event::Settled(changed) => self.host.settings.extend(changed),
            Event::Failed { .. } | Event::Aside(_) => {}
        }
    }

    /// Adds what was done for one family.
    pub(super) fn add(&mut self, report: engine::Report) {
        if report.absent {
            if report.services > 0 {
                let services = count(report.services, "Service port");
                tracing::warn!("this host has no working ip6tables: {services} of IPv6 left out");
            }
            return;
        }
        self.written.extend(report.written.map(|written| Written {
            family: report.family.name(),
            chains: written.chains,
        }));
        self.services += report.services;
        self.changes.extend(report.changes);
    }

    /// `16 chains of IPv4, 13 chains of IPv6`
    pub(super) fn written_text(&self) -> String {
        let part = |written: &Written| match written.chains {
            // Only rules in the kernel's own chains, which lead to ours.
            0 => format!("jumps of {}", written.family),
            chains => format!("{} of {}", count(chains, "chain"), written.family),
        };
        self.written.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

/// A sync that is done, on one node.
struct Ran {
    xtables: Xtables,
    report: Report,
    /// What failed besides rules, and what was refused.
    aside: Vec<Failure>,
}

/// Runs the command: here, or on every node of a lab whose nodes are network namespaces.
pub(super) fn run(args: &SyncArgs) -> Result<Outcome, Failure> {
    let homes = nodes::homes(&args.registry, args.node.node.as_deref())?;
    if homes.is_empty() {
        let ran = sync(args, &args.node)?;
        show_one(args, &ran)?;
        return Failure::all(ran.aside).map_or(Ok(Outcome::Done), Err);
    }
    let answers = nodes::on_each(&homes, |home| sync(args, &args.node.named(&home.node)));
    let (done, mut failures) = nodes::failures(answers);
    let (mut reports, mut programs) = (Vec::new(), Vec::new());
    for (node, ran) in done {
        // The same registry: what is refused is refused for all of them.
        failures.extend(
            ran.aside
                .into_iter()
                .filter(|_| reports.is_empty() || ran.report.refused.is_empty()),
        );
        programs.push(ran.xtables);
        reports.push((node, ran.report));
    }
    match args.output {
        OutputFormat::Json => emit_json(&nodes_report::json(&reports))?,
        OutputFormat::Table if args.dry_run => {
            for (node, report) in &reports {
                emit(&format!("# node {node}\n{}", dry_run_text(report)))?;
            }
        }
        OutputFormat::Table => emit(&nodes_report::text(&programs, &reports))?,
    }
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
}

fn show_one(args: &SyncArgs, ran: &Ran) -> Result<(), Failure> {
    match args.output {
        OutputFormat::Json => emit_json(&ran.report),
        OutputFormat::Table if args.dry_run => emit(&dry_run_text(&ran.report)),
        OutputFormat::Table => emit(&text(&ran.xtables, &ran.report)),
    }
}

/// Syncs the node whose network namespace this thread is in.
fn sync(args: &SyncArgs, node: &NodeArgs) -> Result<Ran, Failure> {
    let source = super::source(&args.registry)?;
    let node = options(node)?;
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let mut driver = Driver::new(node, source, xtables, args.strict, PATIENCE);
    if let Some(failure) = driver.read(None).into_iter().next() {
        return Err(failure);
    }
    let problems = driver.problems();
    if !driver.admits(&problems) {
        return Err(problem::failure(&problems));
    }
    remark(&driver.node, driver.store.registry());
    if !args.dry_run {
        warn_of_others();
        driver.make_counters();
    }
    driver.want(false)?;
    let mut report = Report {
        iptables: driver.kernel.xtables.name(),
        refused: problems,
        ..Report::default()
    };
    let mut aside = Vec::new();
    if args.dry_run {
        driver.rehearse(|family, delta, done| {
            report.documents.push((family, delta.document()));
            if let Some(done) = done {
                report.add(done);
            }
        })?;
    } else {
        write(&mut driver, &mut report, &mut aside)?;
        fault::point("sync:done");
    }
    let xtables = driver.kernel.xtables.clone();
    // The process ends: giving back a million small pieces would take as long as making them did.
    std::mem::forget(driver);
    if !report.refused.is_empty() {
        aside.push(refused(&report.refused));
    }
    Ok(Ran {
        xtables,
        report,
        aside,
    })
}

/// Whatever fails, a single sync fails with it; what is not done is done by the next one. Only a lock that others
/// hold is waited for.
fn write(driver: &mut Driver, report: &mut Report, aside: &mut Vec<Failure>) -> Result<(), Failure> {
    let (begin, mut locked_out) = (driver.now(), false);
    loop {
        let now = driver.now();
        let next = driver.drive(|event| match event {
            Event::Failed { failure, .. } if holds_lock(&failure) && now < begin + LOCKED => {
                note_once("waiting: another program holds the lock of the tables");
                locked_out = true;
                Ok(())
            }
            Event::Failed { failure, .. } => Err(failure),
            Event::Aside(failure) => {
                aside.push(failure);
                Ok(())
            }
            other => {
                report.take(other);
                Ok(())
            }
        })?;
        let mut pending = Family::ALL
            .iter()
            .map(|family| driver.engine.pending_since(*family));
        if !(locked_out && pending.any(|since| since.is_some())) {
            return Ok(());
        }
        std::thread::sleep(next.saturating_sub(driver.now()));
    }
}

/// Some objects were refused, the others are in force.
pub(super) fn refused(problems: &[Problem]) -> Failure {
    let what = count(problems.len(), "object");
    Failure::new(Kind::Usage, problem::refusals(problems))
        .context(format!("{what} refused"))
        .hint("what is refused keeps the rules it had; all else is in force")
        .hint("to refuse all of it instead: --strict")
}

/// Two that write the same chains undo each other's work for ever, and neither fails.
pub(super) fn warn_of_others() {
    for watcher in processes::watchers() {
        note_once(&format!(
            "warning: another `sync --watch` (process {watcher}) writes the same rules here; end one of the two"
        ));
    }
    for process in processes::kube_proxies() {
        note_once(&format!(
            "warning: kube-proxy (process {process}) writes the same rules here, and undoes ours; end one of the two"
        ));
    }
}

/// How this node proxies: the configuration file, the flags over it, and the host. Fields that are
/// ignored are said on stderr.
pub(super) fn options(args: &NodeArgs) -> Result<NodeOptions, Failure> {
    let mut draft = match &args.config {
        Some(path) => Draft::read(&path.display().to_string(), &config::read(path)?)
            .map_err(|problems| failure(&problems))?,
        None => Draft::default(),
    };
    args.write_over(&mut draft);
    let settings = draft.settle(args.compat).map_err(|problems| failure(&problems))?;
    for note in &draft.notes {
        note_once(note);
    }
    let given = !args.node_addresses.is_empty();
    let mut host = addresses::host(settings.needs_host_addresses() && !given)?;
    if given {
        host.addresses.clone_from(&args.node_addresses);
        // Every node has them, whoever counts its addresses.
        for own in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            if !host.addresses.contains(&own) {
                host.addresses.push(own);
            }
        }
    }
    if settings.compat == Compat::Latest {
        host.counters = nfacct::there();
    }
    Ok(NodeOptions { settings, host })
}

/// Says what of the registry and the configuration the reader may have meant otherwise.
pub(super) fn remark(node: &NodeOptions, registry: &Registry) {
    for remark in node.remarks(registry) {
        note_once(&remark);
    }
}

/// `using iptables (nf_tables): plain `iptables` is this one`
pub(super) fn chosen(xtables: &Xtables) -> String {
    let mut text = format!("using {}: {}\n", xtables.name(), xtables.reason);
    if xtables.mixed {
        text.push_str("warning: the host has rules in both flavours of iptables; see `netns-lab doctor`\n");
    }
    text
}

/// A line for each change.
pub(super) fn changes(report: &Report) -> String {
    report.changes.iter().map(|change| change.line() + "\n").collect()
}

fn text(xtables: &Xtables, report: &Report) -> String {
    let mut text = chosen(xtables);
    text.push_str(&changes(report));
    let ports = count(report.services, "service port");
    if report.written.is_empty() {
        text.push_str(&format!("nothing to do: the rules of {ports} are in place\n"));
    } else {
        text.push_str(&format!("{ports} in force; written: {}\n", report.written_text()));
    }
    text.push_str(&report.host.text());
    text.push_str(&format!("next: {} -t nat -L\n", xtables.typed()));
    text
}

fn dry_run_text(report: &Report) -> String {
    let mut text = String::new();
    for (family, document) in &report.documents {
        if document.is_empty() {
            text.push_str(&format!("# {}: nothing to do\n", family.name()));
        } else {
            let program = if *family == Family::V4 {
                "iptables"
            } else {
                "ip6tables"
            };
            text.push_str(&format!(
                "# {}: would be sent to {program}-restore --noflush\n{document}",
                family.name()
            ));
        }
    }
    text
}
