//! One file for each sub-command: glue between the edges and the pure parts, and words.

mod check;
mod chores;
mod cleanup;
mod crew;
mod diff;
mod drive;
mod explain;
mod graph;
mod hands;
mod host;
mod live;
mod live_listener;
mod nodes;
mod nodes_report;
mod observe;
mod question;
mod render;
mod sync;
mod trace;
mod trace_places;
mod watch;
mod why;
mod why_names;
mod why_places;

use clap::CommandFactory as _;
use labkit::text::count;
use labkit::{Failure, Outcome, shell};

use crate::cli::{Cli, Command, RegistryArgs};
use crate::edge::registry::Source;
use crate::registry::problem;
use crate::registry::store::Store;

/// Does what the command line says.
///
/// # Errors
/// What went wrong, with the exit code it means.
pub fn run(cli: Cli) -> Result<Outcome, Failure> {
    match cli.command {
        Command::Sync(args) if args.watch => watch::run(&args),
        Command::Sync(args) => sync::run(&args),
        Command::Render(args) => render::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Watch(args) => live::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Completions { shell } => shell::emit_completions(Cli::command(), shell),
        Command::Man => shell::emit_man(Cli::command()),
    }
}

/// The objects that are good, and what to say at the end of those that are not; all are refused where
/// it is asked for, or where nothing is left.
fn objects(args: &RegistryArgs, strict: bool) -> Result<(Store, Option<Failure>), Failure> {
    let store = source(args)?.load()?;
    let problems = store.problems();
    if problems.is_empty() {
        return Ok((store, None));
    }
    let registry = store.registry();
    let nothing_good =
        registry.services.is_empty() && registry.slices.is_empty() && registry.nodes.is_empty();
    if strict || nothing_good {
        return Err(problem::failure(&problems));
    }
    let refused = Failure::usage(problem::refusals(&problems))
        .context(format!("{} refused", count(problems.len(), "object")))
        .hint("it is left out here; a sync leaves the rules that it has as they are");
    Ok((store, Some(refused)))
}

/// The registry that the command line names, or that of the lab that is up.
fn source(args: &RegistryArgs) -> Result<Source, Failure> {
    Source::choose(&args.paths, args.lab.as_deref())
}
