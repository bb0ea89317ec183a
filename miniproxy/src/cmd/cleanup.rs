//! `miniproxy cleanup`: everything that is ours goes, and nothing else.

use labkit::rundir::RunDirectory;
use labkit::shell::{OutputFormat, emit, emit_json, tell};
use labkit::text::count;
use labkit::xtables::{Family, Flavour, Xtables, legacy_tables_exist};
use labkit::{Failure, Outcome, fault, footprint};
use serde::Serialize;

use crate::cli::CleanupArgs;
use crate::edge::kernel::HOLDER;
use crate::edge::processes;
use crate::edge::tables::{Tables, every_flavour};
use crate::rules::delta::Delta;

#[derive(Serialize)]
struct Removed {
    iptables: String,
    family: &'static str,
    chains: usize,
}

/// Removes our jumps and chains from every flavour and family, then what of the tables is empty
/// and was not there before.
pub(super) fn run(args: &CleanupArgs) -> Result<Outcome, Failure> {
    let flavours = flavours(args)?;
    for watcher in processes::watchers() {
        tell(&format!(
            "warning: `sync --watch` (process {watcher}) will write the rules again; end it first"
        ));
    }
    let run = RunDirectory::lock()?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for xtables in &flavours {
        for family in Family::ALL {
            match clean(xtables, family) {
                Ok(0) => {}
                Ok(chains) => removed.push(Removed {
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
        footprint::release(&run, HOLDER).unwrap_or_else(|failure| failures.push(failure));
        fault::point("cleanup:released");
    }
    match args.output {
        OutputFormat::Json => emit_json(&removed)?,
        OutputFormat::Table => emit(&text(&removed))?,
    }
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
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
    let Some(found) = xtables.read(family)? else {
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
    xtables
        .write(family, &delta.document())
        .map_err(|failure| failure.context("cannot remove the rules"))?;
    Ok(delta.tables.values().map(|table| table.removed.len()).sum())
}

fn text(removed: &[Removed]) -> String {
    if removed.is_empty() {
        return "nothing to remove\n".to_string();
    }
    let line = |part: &Removed| {
        format!(
            "removed {} of {} from {}\n",
            count(part.chains, "chain"),
            part.family,
            part.iptables
        )
    };
    removed.iter().map(line).collect()
}
