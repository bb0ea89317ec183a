//! `netns-lab fix`: undoes what `break` did.

use labkit::rundir::RunDirectory;
use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};
use serde_json::json;

use super::{break_, find};
use crate::cli::breaks::FixArgs;
use crate::edge::breakage::record;
use crate::engine::breakage::{self, Ground};
use crate::model::breakage::Name;
use crate::model::breakage::record::Broken;
use crate::model::report::wrapped;

/// Runs `fix`.
pub(super) fn run(args: &FixArgs) -> Result<Outcome, Failure> {
    let ledger = find::lab(args.lab.as_ref())?;
    if args.check {
        return break_::check(&ledger, args.failure, args.output);
    }
    let run = RunDirectory::lock()?;
    let mut record = record::read(&ledger.lab.name)?;
    if args.reveal {
        for broken in &mut record.failures {
            broken.secret = false;
        }
        record::write(&ledger.lab.name, &record)?;
        let chosen = break_::chosen(&record, args.failure)?;
        return show(&chosen, false, args.output);
    }
    let chosen = match args.failure {
        // Whoever names a surprise has found it out.
        Some(name) if record.failure(name).is_some() => record.failure(name).cloned().into_iter().collect(),
        name => break_::chosen(&record, name)?,
    };
    if !chosen.is_empty() {
        Ground::of(&ledger)?;
    }
    let (mut fixed, mut failures) = (Vec::new(), Vec::new());
    for broken in chosen.into_iter().rev() {
        match breakage::fix(&run, &ledger, &broken) {
            Ok(()) => fixed.push(Broken {
                secret: false,
                ..broken
            }),
            Err(failure) => failures.push(failure),
        }
    }
    show(&fixed, true, args.output)?;
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
}

fn show(failures: &[Broken], fixed: bool, output: OutputFormat) -> Result<Outcome, Failure> {
    if output == OutputFormat::Json {
        let told: Vec<_> = failures.iter().map(break_::told).collect();
        let key = if fixed { "fixed" } else { "broken" };
        shell::emit_json(&json!({ (key): told }))?;
        return Ok(Outcome::Done);
    }
    if failures.is_empty() {
        shell::tell("nothing is broken on purpose");
        return Ok(Outcome::Done);
    }
    let mut text = String::new();
    for broken in failures {
        let (entry, target) = (broken.name.entry(), &broken.target);
        let word = if fixed { "fixed" } else { "broken" };
        text.push_str(&wrapped(&format!(
            "{word}: {} ({target}): {}",
            broken.name, entry.title
        )));
        if !fixed {
            text.push_str(&wrapped(entry.what));
        }
    }
    if fixed && failures.iter().any(Broken::leaves_a_table) {
        text.push_str(&wrapped(
            "note: the empty table that iptables-legacy made for the rule stays, and iptables-nft warns of it: \
             the kernel has no way to remove it before the network namespace ends (a node's own ends with `down`)",
        ));
    }
    let selector = failures.iter().any(|broken| broken.name == Name::WrongSelector);
    if fixed && selector {
        text.push_str("next: miniproxy sync\n");
    }
    shell::emit(&text)?;
    Ok(Outcome::Done)
}
