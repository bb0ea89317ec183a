//! `netns-lab load`: many calls, and who answered them.

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use super::{exec, find};
use crate::cli::load::LoadArgs;
use crate::edge::load::{self, Plan};
use crate::model::load::{Asked, Report};

/// Runs `load`.
pub(super) fn run(args: &LoadArgs) -> Result<Outcome, Failure> {
    if let Some(name) = &args.from {
        let (ledger, spot) = find::place(args.lab.as_ref(), name)?;
        // This process has no other threads yet, so all of it goes there.
        exec::go(&ledger, name, &spot)?;
    }
    let to = load::resolve(&args.target)?;
    let plan = Plan {
        to,
        calls: args.calls,
        // Whoever shares a port takes turns.
        at_once: if args.source_port.is_some() { 1 } else { args.at_once },
        timeout: args.timeout,
        requests: args.requests_per_connection,
        udp: args.udp,
        source_port: args.source_port,
    };
    let calls = load::run(&plan);
    let report = Report::new(
        Asked {
            target: args.target.to_string(),
            protocol: if args.udp { "udp" } else { "tcp" },
            from: args.from.as_ref().map_or_else(|| "here".to_string(), ToString::to_string),
            calls: args.calls,
            at_once: plan.at_once,
            requests_per_connection: args.requests_per_connection,
        },
        &calls,
    );
    match args.output {
        OutputFormat::Json => shell::emit_json(&report)?,
        OutputFormat::Table => shell::emit(&report.text())?,
    }
    let fails = args.fail_on_lost && report.lost > 0;
    Ok(if fails { Outcome::No } else { Outcome::Done })
}
