//! `netns-lab check`: runs all steps of a talk.

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use super::talk::file;
use crate::cli::talk::CheckArgs;
use crate::engine::talk::Theatre;
use crate::talk::report::{Report, Tried};

/// Runs `check`.
pub(super) fn run(args: &CheckArgs) -> Result<Outcome, Failure> {
    let talk = file::load(&args.talk)?;
    let first = args.step.unwrap_or(1);
    file::step(&talk, first)?;
    let steps = talk.script.steps.clone();
    let mut report = Report::new(&talk.name, &talk.script.title);
    let mut theatre = Theatre::open(talk.script, args.talk.host, first)?;
    let jumps = args.step.is_none() && !args.no_jumps;
    let mut straight = Vec::new();
    let told = steps.iter().filter(|step| args.step.is_none_or(|only| step.number == only));
    for step in told {
        if jumps {
            straight.push(theatre.state()?);
        }
        let tried = theatre.check(step)?;
        // One step that fails must not take the others with it.
        if !tried.passed && step.number < steps.len() && args.step.is_none() {
            theatre.go_to(step.number + 1)?;
        }
        tell(args, &mut report, tried)?;
    }
    for (step, state) in steps.iter().zip(&straight).skip(1) {
        let tried = theatre.check_jump(step, state)?;
        if !tried.passed {
            tell(args, &mut report, tried)?;
        } else {
            report.push(tried);
        }
    }
    match args.output {
        OutputFormat::Json => shell::emit_json(&report)?,
        OutputFormat::Table => shell::emit(&report.sum())?,
    }
    Ok(if report.failed == 0 { Outcome::Done } else { Outcome::No })
}

/// Each part is told as soon as it is known.
fn tell(args: &CheckArgs, report: &mut Report, tried: Tried) -> Result<(), Failure> {
    if args.output == OutputFormat::Table {
        shell::emit(&tried.lines(&report.file))?;
    }
    report.push(tried);
    Ok(())
}
