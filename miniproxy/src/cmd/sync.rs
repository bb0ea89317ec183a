//! `miniproxy sync`: registry in, rules out, one line for each Service that changed.

use std::time::{Duration, Instant};

use labkit::rundir::RunDirectory;
use labkit::shell::{OutputFormat, emit, emit_json, tell};
use labkit::text::count;
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, Outcome, fault, footprint};
use serde::Serialize;

use super::host;
use crate::cli::{NodeArgs, SyncArgs};
use crate::config::draft::Draft;
use crate::config::failure;
use crate::conntrack::Before;
use crate::edge::tables::Tables;
use crate::edge::{addresses, config};
use crate::node::NodeOptions;
use crate::registry::Registry;
use crate::report::changes::{Change, changes};
use crate::rules::delta::Delta;
use crate::rules::set::Found;
use crate::rules::view;

/// Who holds rules, in the record of tables that did not exist before.
pub(super) const HOLDER: &str = "miniproxy";

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
    /// What was (or would be) sent, by family.
    #[serde(skip)]
    pub documents: Vec<(Family, String)>,
    /// Where UDP Services were reached before, by family.
    #[serde(skip)]
    pub before: Vec<(Family, Before)>,
    /// What was done to the node besides rules.
    pub host: host::Done,
}

/// What was written for one family.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Written {
    family: &'static str,
    /// Our chains that were made, changed or removed; 0 when only jumps to them were missing.
    chains: usize,
}

impl Report {
    /// `16 chains of IPv4, 13 chains of IPv6`
    pub(super) fn written_text(&self) -> String {
        let part = |written: &Written| format!("{} of {}", count(written.chains, "chain"), written.family);
        self.written.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

/// Runs the command.
pub(super) fn run(args: &SyncArgs) -> Result<Outcome, Failure> {
    let registry = super::source(&args.registry)?.read()?;
    let node = options(&args.node)?;
    remark(&node, &registry);
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let mode = if args.dry_run {
        Mode::DryRun
    } else {
        Mode::Write { patience: PATIENCE }
    };
    let mut report = sync(&xtables, &node, &registry, mode)?;
    let settled = if args.dry_run {
        Ok(())
    } else {
        let before = std::mem::take(&mut report.before);
        RunDirectory::lock_within(PATIENCE)
            .and_then(|run| host::settle(&run, &node, &registry, &mut report.host))
            .and_then(|()| host::reconcile(&node, &registry, &before, &mut report.host))
    };
    match args.output {
        OutputFormat::Json => emit_json(&report)?,
        OutputFormat::Table if args.dry_run => emit(&dry_run_text(&report))?,
        OutputFormat::Table => emit(&text(&xtables, &report))?,
    }
    settled.map(|()| Outcome::Done)
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
        tell(&format!("note: {note}"));
    }
    let given = !args.node_addresses.is_empty();
    let mut host = addresses::host(settings.needs_host_addresses() && !given)?;
    if given {
        host.addresses.clone_from(&args.node_addresses);
    }
    Ok(NodeOptions { settings, host })
}

/// Says what of the registry and the configuration the reader may have meant otherwise.
pub(super) fn remark(node: &NodeOptions, registry: &Registry) {
    for remark in node.remarks(registry) {
        tell(&format!("note: {remark}"));
    }
}

/// One family's way from what is there to what is wanted.
struct Step {
    family: Family,
    delta: Delta,
    changes: Vec<Change>,
    services: usize,
    before: Before,
}

/// Whether to write, and how long to wait for another command that does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// Only find out what would be written.
    DryRun,
    /// Write.
    Write {
        /// How long to wait for the lock.
        patience: Duration,
    },
}

/// As long as other commands may take: a large first sync writes for several seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Brings both families to what the registry wants.
pub(super) fn sync(
    xtables: &Xtables,
    node: &NodeOptions,
    registry: &Registry,
    mode: Mode,
) -> Result<Report, Failure> {
    // Held to the end: two syncs at once would edit chains by numbers that the other one moves.
    let run = match mode {
        Mode::DryRun => None,
        Mode::Write { patience } => Some(RunDirectory::lock_within(patience)?),
    };
    let mut report = Report {
        iptables: xtables.name(),
        ..Report::default()
    };
    for family in Family::ALL {
        let Some(step) = plan(xtables, node, registry, family)? else {
            continue;
        };
        if let Some(run) = run.as_ref().filter(|_| !step.delta.is_empty()) {
            // First the record, then the rules: a crash in between leaves nothing unaccounted for.
            footprint::hold(run, HOLDER)?;
            fault::point("sync:held");
            write(xtables, &step)?;
            fault::point(if family == Family::V4 {
                "sync:v4"
            } else {
                "sync:v6"
            });
        }
        if !step.delta.is_empty() {
            report.written.push(Written {
                family: family.name(),
                chains: step.delta.chain_count(),
            });
        }
        report.services += step.services;
        report.before.push((family, step.before));
        report.documents.push((family, step.delta.document()));
        report.changes.extend(step.changes);
    }
    if run.is_some() {
        fault::point("sync:done");
    }
    Ok(report)
}

fn plan(
    xtables: &Xtables,
    node: &NodeOptions,
    registry: &Registry,
    family: Family,
) -> Result<Option<Step>, Failure> {
    let wanted = node.wanted(registry, family);
    let after = view::services(&Found::from(&wanted));
    let Some(found) = xtables.read(family)? else {
        if !after.is_empty() {
            let services = count(after.len(), "Service port");
            tracing::warn!("this host has no working ip6tables: {services} of IPv6 left out");
        }
        return Ok(None);
    };
    let changes = changes(&view::services(&found), &after);
    Ok(Some(Step {
        family,
        delta: Delta::between(&found, &wanted),
        changes,
        services: after.len(),
        before: Before::of_rules(&found),
    }))
}

/// New chains in one document for iptables-nft: enough that starting a process is no matter, few
/// enough that its list of new chains, which it walks for each of them, stays short, and that their
/// rules fit into the 208 KiB that the kernel takes at once from a plain user (`net.core.wmem_max`).
const NFT_CHAINS: usize = 200;
/// A write that takes longer than this says how far it is.
const SILENT: Duration = Duration::from_secs(1);

fn write(xtables: &Xtables, step: &Step) -> Result<(), Failure> {
    let documents = match xtables.flavour {
        Flavour::Nft => step.delta.documents(NFT_CHAINS),
        // Legacy replaces the whole table with each document.
        Flavour::Legacy => vec![step.delta.document()],
    };
    let family = step.family.name();
    let (began, mut told) = (Instant::now(), Duration::ZERO);
    for (index, document) in documents.iter().enumerate() {
        xtables
            .write(step.family, document)
            .map_err(|failure| failure.context(format!("cannot write the {family} rules")))?;
        if began.elapsed() > told + SILENT {
            told = began.elapsed();
            tell(&format!(
                "{family}: {} of {} parts written",
                index + 1,
                documents.len()
            ));
        }
    }
    Ok(())
}

fn text(xtables: &Xtables, report: &Report) -> String {
    let mut text = format!("using {}: {}\n", xtables.name(), xtables.reason);
    if xtables.mixed {
        text.push_str("warning: the host has rules in both flavours of iptables; see `netns-lab doctor`\n");
    }
    for change in &report.changes {
        text.push_str(&change.line());
        text.push('\n');
    }
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
