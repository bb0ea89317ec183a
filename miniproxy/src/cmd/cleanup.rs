//! `miniproxy cleanup`: everything that is ours goes, and nothing else.

use std::time::Instant;

use labkit::rundir::RunDirectory;
use labkit::shell::{OutputFormat, emit, emit_json, tell};
use labkit::text::count;
use labkit::xtables::{Family, Flavour, Xtables, legacy_tables_exist};
use labkit::{Failure, Outcome, fault, footprint};
use serde::Serialize;

use super::nodes;
use crate::cli::CleanupArgs;
use crate::edge::kernel::{HOLDER, SILENT, limit};
use crate::edge::tables::{Tables, every_flavour};
use crate::edge::trace::mark;
use crate::edge::{nfacct, processes, sysctls};
use crate::rules::delta::Delta;

#[derive(Default, Serialize)]
struct Report {
    removed: Vec<Removed>,
    /// Settings of the kernel that were put back: `net.ipv4.conf.all.route_localnet=0 (was 1)`.
    settings: Vec<String>,
    /// Packet counters that were removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counters: Vec<String>,
}

#[derive(Serialize)]
struct Removed {
    /// The node, where it is one of a lab's.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    iptables: String,
    family: &'static str,
    chains: usize,
}

/// Cleans this node, and every node of a lab that is a network namespace of its own.
pub(super) fn run(args: &CleanupArgs) -> Result<Outcome, Failure> {
    let run = RunDirectory::lock()?;
    let (mut report, mut failures) = clean_up(args, &run)?;
    let homes = nodes::of_all_labs()?;
    let (done, failed) = nodes::failures(nodes::on_each(&homes, |_| clean_up(args, &run)));
    failures.extend(failed);
    for (node, (part, failed)) in done {
        let named = part.removed.into_iter().map(|removed| Removed {
            node: Some(node.clone()),
            ..removed
        });
        report.removed.extend(named);
        let settings = part
            .settings
            .into_iter()
            .map(|setting| format!("{setting} on {node}"));
        report.settings.extend(settings);
        let counters = part.counters.into_iter();
        report
            .counters
            .extend(counters.map(|counter| format!("{counter} on {node}")));
        failures.extend(failed.into_iter().map(|failure| failure.context(&node)));
    }
    match args.output {
        OutputFormat::Json => emit_json(&report)?,
        // What could not be looked at may hold something.
        OutputFormat::Table if is_empty(&report) && !failures.is_empty() => {}
        OutputFormat::Table => emit(&text(&report))?,
    }
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
}

/// Puts back settings of the kernel, removes our jumps and chains from every flavour and family, then
/// what of the tables is empty and was not there before: all of it of this thread's network namespace.
fn clean_up(args: &CleanupArgs, run: &RunDirectory) -> Result<(Report, Vec<Failure>), Failure> {
    let flavours = flavours(args)?;
    for watcher in processes::watchers() {
        tell(&format!(
            "warning: `sync --watch` (process {watcher}) will write the rules again; end it first"
        ));
    }
    // Before the rules go, for one of them keeps strangers away from 127.0.0.0/8.
    let restored = sysctls::restore(run);
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    mark::clean(&flavours, run).unwrap_or_else(|failure| failures.push(failure));
    for xtables in &flavours {
        for family in Family::ALL {
            match clean(xtables, family) {
                Ok(0) => {}
                Ok(chains) => removed.push(Removed {
                    node: None,
                    iptables: xtables.name(),
                    family: family.name(),
                    chains,
                }),
                Err(failure) => failures.push(failure),
            }
            fault::point(if family == Family::V4 {
                "cleanup:v4"
            } else {
                "cleanup:v6"
            });
        }
    }
    if failures.is_empty() {
        footprint::release(run, HOLDER).unwrap_or_else(|failure| failures.push(failure));
        fault::point("cleanup:released");
    }
    let settings = restored.unwrap_or_else(|failure| {
        failures.push(failure);
        Vec::new()
    });
    let counters = nfacct::remove(run).unwrap_or_else(|failure| {
        failures.push(failure);
        Vec::new()
    });
    let report = Report {
        removed,
        settings,
        counters,
    };
    Ok((report, failures))
}

/// The program that is given, else every one that may have written rules of ours: the one a sync
/// would choose, and both flavours by their own names.
fn flavours(args: &CleanupArgs) -> Result<Vec<Xtables>, Failure> {
    let chosen = Xtables::detect(args.iptables.as_deref())?;
    if args.iptables.is_some() {
        return Ok(vec![chosen]);
    }
    let others = every_flavour()
        .into_iter()
        .filter(|other| other.flavour != chosen.flavour);
    Ok(others.chain([chosen.clone()]).collect())
}

/// How many chains were removed.
fn clean(xtables: &Xtables, family: Family) -> Result<usize, Failure> {
    if xtables.flavour == Flavour::Legacy && legacy_tables_exist(family) == Some(false) {
        return Ok(0);
    }
    let Some(found) = xtables.read(family, None)? else {
        return Ok(0);
    };
    let delta = Delta::removal(&found).map_err(|rules| {
        let rules = rules.join("\n");
        Failure::failed(format!(
            "{} rules that are not ours lead into our chains:\n{rules}",
            family.name()
        ))
        .hint("remove those rules, then run `miniproxy cleanup` again")
    })?;
    if delta.is_empty() {
        return Ok(0);
    }
    let documents = delta.removal_documents(limit(xtables.flavour).chains);
    let (parts, mut told) = (documents.len(), Instant::now());
    for (index, document) in documents.iter().enumerate() {
        xtables
            .write(family, document)
            .map_err(|failure| failure.context("cannot remove the rules"))?;
        if told.elapsed() > SILENT {
            told = Instant::now();
            tell(&format!(
                "{}: {} of {parts} parts removed",
                family.name(),
                index + 1
            ));
        }
    }
    Ok(delta.tables.values().map(|table| table.removed.len()).sum())
}

fn is_empty(report: &Report) -> bool {
    report.removed.is_empty() && report.settings.is_empty() && report.counters.is_empty()
}

fn text(report: &Report) -> String {
    if is_empty(report) {
        return "nothing to remove\n".to_string();
    }
    let chains = report.removed.iter().map(|part| {
        let node = part
            .node
            .as_ref()
            .map_or(String::new(), |node| format!(" on {node}"));
        let chains = count(part.chains, "chain");
        format!(
            "removed {chains} of {} from {}{node}\n",
            part.family, part.iptables
        )
    });
    let settings = report
        .settings
        .iter()
        .map(|setting| format!("put back {setting}\n"));
    let counters = report
        .counters
        .iter()
        .map(|counter| format!("removed packet counter {counter}\n"));
    chains.chain(settings).chain(counters).collect()
}
