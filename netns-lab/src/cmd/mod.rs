//! One file for each sub-command: glue and words.

mod agent;
mod down;
mod exec;
mod find;
mod logs;
mod serve;
mod status;
mod up;

use clap::CommandFactory as _;
use labkit::{Failure, Outcome, shell};

use crate::cli::{Cli, Command};

/// Runs a sub-command.
pub fn run(command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Up(args) => up::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Exec(args) => exec::run(args),
        Command::Logs(args) => logs::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Agent(args) => agent::run(&args),
        Command::Completions { shell } => shell::emit_completions(Cli::command(), shell),
        Command::Man => shell::emit_man(Cli::command()),
        _ => Err(Failure::failed("soon")),
    }
}
