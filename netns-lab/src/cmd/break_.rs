//! `netns-lab break`: failures to order.

use std::hash::{BuildHasher as _, RandomState};

use labkit::rundir::RunDirectory;
use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};
use serde_json::{Value, json};

use super::find;
use crate::cli::breaks::BreakArgs;
use crate::edge::breakage::record;
use crate::engine::breakage::{self, Ground};
use crate::model::breakage::catalogue::{ENTRIES, table};
use crate::model::breakage::record::{Broken, Record};
use crate::model::breakage::{Name, Signature};
use crate::model::ledger::Ledger;
use crate::model::report::wrapped;

/// Runs `break`.
pub(super) fn run(args: &BreakArgs) -> Result<Outcome, Failure> {
    if args.list {
        return list(args.output);
    }
    if args.failure.is_none() && !args.surprise && !args.hint && !args.check {
        return Err(Failure::usage("no failure was named")
            .hint("`netns-lab break --list` tells which there are; --surprise chooses one"));
    }
    let ledger = find::lab(args.lab.as_ref())?;
    if args.check {
        return check(&ledger, args.failure, args.output);
    }
    // Not before the lab is found: without one there is no folder for a lock to be in.
    let run = RunDirectory::lock()?;
    if args.hint {
        return hint(&ledger, args.failure, args.output);
    }
    let name = match args.failure {
        Some(name) => name,
        None => by_chance(&ledger)?,
    };
    let broken = breakage::make(&run, &ledger, name, args.surprise)?;
    show(&broken, args.output)
}

fn list(output: OutputFormat) -> Result<Outcome, Failure> {
    match output {
        OutputFormat::Json => shell::emit_json(&json!({ "failures": ENTRIES }))?,
        OutputFormat::Table => shell::emit(&format!(
            "{}\nnext: netns-lab break NAME, or netns-lab break --surprise\n",
            table()
        ))?,
    }
    Ok(Outcome::Done)
}

fn by_chance(ledger: &Ledger) -> Result<Name, Failure> {
    let names = breakage::possible(ledger)?;
    // Each such state is seeded by the system's source of chance.
    let dice = RandomState::new().hash_one(0);
    let count = u64::try_from(names.len()).unwrap_or(1).max(1);
    let chosen = usize::try_from(dice % count).ok().and_then(|at| names.get(at));
    chosen.copied().ok_or_else(|| {
        Failure::failed("nothing is left that could be broken here")
            .hint("undo what is broken: netns-lab fix")
            .hint("most failures need the rules of a Service: miniproxy sync")
    })
}

fn show(broken: &Broken, output: OutputFormat) -> Result<Outcome, Failure> {
    if output == OutputFormat::Json {
        shell::emit_json(&told(broken))?;
        return Ok(Outcome::Done);
    }
    let mut text = String::new();
    if broken.secret {
        text.push_str("something is broken now: find out what\n");
    } else {
        let entry = broken.name.entry();
        let Signature { word, time, share } = entry.signature;
        text.push_str(&wrapped(&format!(
            "broken: {} ({}): {}",
            broken.name, broken.target, entry.title
        )));
        text.push_str(&wrapped(entry.what));
        text.push_str(&wrapped(&format!(
            "calls to Services: {word}, {time}; which: {share}"
        )));
        if broken.name == Name::WrongSelector {
            text.push_str("it takes effect with the next `miniproxy sync`\n");
        }
    }
    text.push_str("next: netns-lab break --hint, netns-lab break --check, netns-lab fix\n");
    shell::emit(&text)?;
    Ok(Outcome::Done)
}

/// What may be told of a failure, as JSON.
pub(super) fn told(broken: &Broken) -> Value {
    if broken.secret {
        return json!({ "name": null, "surprise": true });
    }
    let entry = broken.name.entry();
    json!({
        "name": broken.name,
        "surprise": false,
        "target": broken.target,
        "title": entry.title,
        "what": entry.what,
        "word": entry.signature.word,
        "time": entry.signature.time,
        "share": entry.signature.share,
    })
}

/// Those that are broken, or the one that is named.
pub(super) fn chosen(record: &Record, name: Option<Name>) -> Result<Vec<Broken>, Failure> {
    let chosen: Vec<Broken> = record
        .failures
        .iter()
        .filter(|broken| name.is_none_or(|name| broken.name == name && !broken.secret))
        .cloned()
        .collect();
    match name {
        Some(name) if chosen.is_empty() => Err(Failure::failed(format!(
            "{name} is not what was broken here by that name"
        ))
        .hint("what is: netns-lab fix --reveal")),
        _ => Ok(chosen),
    }
}

/// One hint more about each.
fn hint(ledger: &Ledger, name: Option<Name>, output: OutputFormat) -> Result<Outcome, Failure> {
    let mut record = record::read(&ledger.lab.name)?;
    let chosen = chosen(&record, name)?;
    if chosen.is_empty() {
        return nothing_is_broken(output);
    }
    let mut found = Vec::new();
    for broken in &mut record.failures {
        if !chosen.iter().any(|chosen| chosen.name == broken.name) {
            continue;
        }
        let hints = &broken.name.entry().hints;
        broken.hints = (broken.hints + 1).min(hints.len());
        found.push((broken.clone(), hints));
    }
    record::write(&ledger.lab.name, &record)?;
    if output == OutputFormat::Json {
        let hints: Vec<_> = found
            .iter()
            .map(|(broken, hints)| {
                let mut told = told(broken);
                told["hints"] = json!(hints[..broken.hints]);
                told["more"] = json!(hints.len() - broken.hints);
                told
            })
            .collect();
        shell::emit_json(&json!({ "broken": hints }))?;
        return Ok(Outcome::Done);
    }
    let mut text = String::new();
    for (broken, hints) in &found {
        for (number, hint) in hints[..broken.hints].iter().enumerate() {
            text.push_str(&wrapped(&format!(
                "hint {} of {}: {hint}",
                number + 1,
                hints.len()
            )));
        }
    }
    text.push_str("next: netns-lab break --check; netns-lab fix --reveal tells what it is\n");
    shell::emit(&text)?;
    Ok(Outcome::Done)
}

fn nothing_is_broken(output: OutputFormat) -> Result<Outcome, Failure> {
    match output {
        OutputFormat::Json => shell::emit_json(&json!({ "broken": [] }))?,
        OutputFormat::Table => shell::tell("nothing is broken on purpose"),
    }
    Ok(Outcome::Done)
}

/// Whether all that was broken is mended; what is, is forgotten.
pub(super) fn check(ledger: &Ledger, name: Option<Name>, output: OutputFormat) -> Result<Outcome, Failure> {
    let _run = RunDirectory::lock()?;
    let ground = Ground::of(ledger)?;
    let mut record = record::read(&ledger.lab.name)?;
    let chosen = chosen(&record, name)?;
    if chosen.is_empty() {
        return nothing_is_broken(output);
    }
    let mut results = Vec::new();
    for broken in chosen {
        let mended = breakage::is_mended(&ground, &broken)?;
        if mended {
            breakage::forget(ledger, &mut record, broken.name)?;
        }
        results.push((broken, mended));
    }
    let all = results.iter().all(|(_, mended)| *mended);
    match output {
        OutputFormat::Json => shell::emit_json(&json!({ "mended": all, "broken": checked(&results) }))?,
        OutputFormat::Table => shell::emit(&verdicts(&results, all))?,
    }
    Ok(if all { Outcome::Done } else { Outcome::No })
}

fn checked(results: &[(Broken, bool)]) -> Vec<Value> {
    let told = |(broken, mended): &(Broken, bool)| {
        let mut told = revealed(broken, *mended);
        told["mended"] = json!(mended);
        told
    };
    results.iter().map(told).collect()
}

/// What is mended is no secret any more.
fn revealed(broken: &Broken, mended: bool) -> Value {
    told(&Broken {
        secret: broken.secret && !mended,
        ..broken.clone()
    })
}

fn verdicts(results: &[(Broken, bool)], all: bool) -> String {
    let mut text = String::new();
    for (broken, mended) in results {
        let name = if broken.secret && !mended {
            "the surprise".to_string()
        } else {
            format!("{} ({})", broken.name, broken.target)
        };
        let verdict = if *mended { "mended" } else { "still broken" };
        text.push_str(&wrapped(&format!("{verdict}: {name}")));
    }
    if !all {
        text.push_str("next: netns-lab break --hint, or netns-lab fix\n");
    }
    text
}
