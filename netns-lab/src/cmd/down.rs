//! `netns-lab down`: takes labs down.

use labkit::rundir::RunDirectory;
use labkit::shell::{self, OutputFormat};
use labkit::text::count;
use labkit::{Failure, Kind, Outcome, footprint};

use super::find;
use crate::cli::DownArgs;
use crate::edge::store;
use crate::engine::down::take_down;
use crate::engine::progress::Progress;
use crate::engine::salvage::salvage;
use crate::model::name::Label;

/// Runs `down`.
pub(super) fn run(args: &DownArgs) -> Result<Outcome, Failure> {
    let mut progress = Progress::default();
    let run = RunDirectory::lock()?;
    let labs = wanted(args)?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for lab in labs {
        match one(&run, &lab) {
            Ok(pods) => removed.push((lab, pods)),
            Err(failure) => failures.push(failure),
        }
    }
    progress.phase("down");
    if args.timings {
        shell::tell(&progress.timings().to_string());
    }
    if failures.is_empty() || !removed.is_empty() {
        show(args, &removed, footprint::is_held(&run, "miniproxy"))?;
    }
    Failure::all(failures).map_or(Ok(Outcome::Done), Err)
}

fn wanted(args: &DownArgs) -> Result<Vec<Label>, Failure> {
    let labs = store::labs()?;
    match args.lab.as_ref().or(args.name.as_ref()) {
        Some(lab) if labs.contains(lab) => Ok(vec![lab.clone()]),
        Some(lab) => Err(find::no_lab(Some(lab))),
        None if args.all || labs.len() <= 1 => Ok(labs),
        None => {
            let names: Vec<_> = labs.iter().map(ToString::to_string).collect();
            Err(
                Failure::usage(format!("several labs are up: {}", names.join(", ")))
                    .hint("say which (netns-lab down --name LAB), or all (netns-lab down --all)"),
            )
        }
    }
}

/// Takes one lab down and returns how many pods it had.
fn one(run: &RunDirectory, lab: &Label) -> Result<usize, Failure> {
    let found = match store::ledger(lab) {
        Err(failure) if failure.kind() == Kind::Failed => {
            shell::tell(&format!(
                "warning: {}: removing what can be recognised",
                failure.message()
            ));
            Some(salvage(lab)?)
        }
        other => other?,
    };
    let Some(ledger) = found else {
        // It died before it had written down anything, so it has made nothing but its folder.
        return store::remove_lab_directory(lab).map(|()| 0);
    };
    let pods = ledger.topology_pods().count();
    take_down(run, ledger).map_err(|failure| {
        failure
            .context(format!("lab {lab}"))
            .hint("once the reason is gone, `netns-lab down` again goes on")
    })?;
    Ok(pods)
}

/// What was removed, and whose rules are still there.
fn show(args: &DownArgs, removed: &[(Label, usize)], miniproxy_holds: bool) -> Result<(), Failure> {
    if args.output == OutputFormat::Json {
        let labs: Vec<_> = removed
            .iter()
            .map(|(lab, pods)| serde_json::json!({ "lab": lab.as_str(), "pods": pods }))
            .collect();
        let left = serde_json::json!({ "removed": labs, "miniproxyHoldsRules": miniproxy_holds });
        return shell::emit_json(&left);
    }
    if removed.is_empty() {
        shell::tell("no lab is up: nothing to do");
    }
    let nothing_left = if miniproxy_holds { "" } else { ", nothing left" };
    for (lab, pods) in removed {
        let pods = count(*pods, "pod");
        shell::tell(&format!("lab {lab} is down: {pods} removed{nothing_left}"));
    }
    if miniproxy_holds {
        shell::tell("miniproxy's iptables rules are still there\nnext: miniproxy cleanup");
    }
    Ok(())
}
