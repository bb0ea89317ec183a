//! `netns-lab down`: takes labs down.

use labkit::rundir::RunDirectory;
use labkit::{Failure, Outcome, shell};

use crate::cli::DownArgs;
use crate::edge::store;
use crate::engine::down::take_down;
use crate::engine::progress::Progress;
use crate::model::name::Label;

/// Runs `down`.
pub(super) fn run(args: &DownArgs) -> Result<Outcome, Failure> {
    let mut progress = Progress::default();
    let run = RunDirectory::lock()?;
    let labs = wanted(args)?;
    if labs.is_empty() {
        let which = args
            .lab
            .as_ref()
            .map_or_else(|| "no lab".to_string(), |lab| format!("no lab named {lab}"));
        shell::tell(&format!("{which} is up: nothing to do"));
        return Ok(Outcome::Done);
    }
    let failures: Vec<_> = labs.iter().filter_map(|lab| one(&run, lab).err()).collect();
    progress.phase("down");
    if args.timings {
        shell::tell(&progress.timings().to_string());
    }
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
}

fn wanted(args: &DownArgs) -> Result<Vec<Label>, Failure> {
    let labs = store::labs()?;
    match &args.lab {
        Some(lab) => Ok(labs.into_iter().filter(|other| other == lab).collect()),
        None if args.all || labs.len() <= 1 => Ok(labs),
        None => {
            let names: Vec<_> = labs.iter().map(ToString::to_string).collect();
            Err(
                Failure::usage(format!("several labs are up: {}", names.join(", ")))
                    .hint("say which (netns-lab down LAB), or all (netns-lab down --all)"),
            )
        }
    }
}

fn one(run: &RunDirectory, lab: &Label) -> Result<(), Failure> {
    let Some(ledger) = store::ledger(lab)? else {
        // It died before it had written down anything, so it has made nothing but its folder.
        return store::remove_lab_directory(lab);
    };
    let pods = labkit::text::count(ledger.pods.len(), "pod");
    take_down(run, ledger).map_err(|failure| {
        failure
            .context(format!("lab {lab}"))
            .hint("once the reason is gone, `netns-lab down` again goes on")
    })?;
    shell::tell(&format!("lab {lab} is down: {pods} removed, nothing left"));
    Ok(())
}
