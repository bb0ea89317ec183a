//! `netns-lab`: parse, run, exit.

use std::process::ExitCode;

use clap::Parser as _;
use labkit::shell;
use netns_lab::{cli::Cli, cmd};

fn main() -> ExitCode {
    if cmd::holder::is_meant(std::env::args_os().nth(1).as_deref()) {
        return shell::finish(cmd::holder::run());
    }
    let cli = Cli::parse();
    shell::init_logging(cli.verbose);
    shell::finish(cmd::run(cli.command))
}
