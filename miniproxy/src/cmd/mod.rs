//! One file for each sub-command: glue between the edges and the pure parts, and words.

mod check;
mod cleanup;
mod crew;
mod diff;
mod drive;
mod explain;
mod graph;
mod host;
mod live;
mod nodes;
mod nodes_report;
mod observe;
mod question;
mod render;
mod sync;
mod watch;

use clap::CommandFactory as _;
use labkit::{Failure, Outcome, shell};

use crate::cli::{Cli, Command, RegistryArgs};
use crate::edge::registry::Source;

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
        Command::Watch(args) => live::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Completions { shell } => shell::emit_completions(Cli::command(), shell),
        Command::Man => shell::emit_man(Cli::command()),
    }
}

/// The registry that the command line names, or that of the lab that is up.
fn source(args: &RegistryArgs) -> Result<Source, Failure> {
    Source::choose(&args.paths, args.lab.as_deref())
}
