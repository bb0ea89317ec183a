//! `netns-lab`: parse, run, exit.

use std::process::ExitCode;

use clap::Parser as _;
use labkit::shell;
use netns_lab::{cli::Cli, cmd};

fn main() -> ExitCode {
    let cli = Cli::parse();
    shell::init_logging(cli.verbose);
    shell::finish(cmd::run(cli.command))
}
