//! `netns-lab link`: faults of a pod's link.

use labkit::rundir::RunDirectory;
use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};
use serde_json::json;

use super::find;
use crate::cli::breaks::LinkArgs;
use crate::edge::breakage::record;
use crate::engine::breakage;
use crate::model::breakage::link::LinkFault;
use crate::model::report::wrapped;

/// Runs `link`.
pub(super) fn run(args: &LinkArgs) -> Result<Outcome, Failure> {
    let (ledger, _) = find::pod(args.lab.as_ref(), &args.pod)?;
    let fault = if args.only_asks() {
        let record = record::read(&ledger.lab.name)?;
        record.links.into_iter().find(|fault| fault.pod == args.pod)
    } else {
        let run = RunDirectory::lock()?;
        Some(breakage::set_link(&run, &ledger, &args.pod, |fault| {
            change(args, fault);
        })?)
    };
    show(args, fault.as_ref().filter(|fault| !fault.is_none()))
}

fn change(args: &LinkArgs, fault: &mut LinkFault) {
    if args.clear {
        (fault.down, fault.loss, fault.delay, fault.rate) = (false, None, None, None);
        return;
    }
    fault.down = (fault.down || args.down) && !args.up;
    fault.loss = args.loss.or(fault.loss);
    fault.delay = args.delay.or(fault.delay);
    fault.rate = args.rate.or(fault.rate);
}

fn show(args: &LinkArgs, fault: Option<&LinkFault>) -> Result<Outcome, Failure> {
    let pod = &args.pod;
    match (args.output, fault) {
        (OutputFormat::Json, fault) => shell::emit_json(&json!({
            "pod": pod,
            "down": fault.is_some_and(|fault| fault.down),
            "lossPercent": fault.and_then(|fault| fault.loss).map(|loss| f64::from(loss) / 1000.0),
            "lossBy": fault.and_then(|fault| fault.loss.map(|_| if fault.by_rules { "iptables" } else { "netem" })),
            "delayMicroseconds": fault.and_then(|fault| fault.delay),
            "bitsPerSecond": fault.and_then(|fault| fault.rate),
        }))?,
        (OutputFormat::Table, None) => shell::emit(&format!("the link of {pod} is as it was made\n"))?,
        (OutputFormat::Table, Some(fault)) => {
            let mut text = wrapped(&format!("the link of {pod}: {}", fault.words()));
            if fault.by_rules {
                text.push_str(&wrapped(
                    "this kernel has no sch_netem, so iptables rules lose the packets on the node",
                ));
            }
            text.push_str(&format!("next: netns-lab link {pod} --clear\n"));
            shell::emit(&text)?;
        }
    }
    Ok(Outcome::Done)
}
