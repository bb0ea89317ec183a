//! The `miniproxy` program: parses the command line and dispatches.

use std::process::ExitCode;

use clap::Parser as _;
use miniproxy::{cli::Cli, cmd};

fn main() -> ExitCode {
    let cli = Cli::parse();
    labkit::shell::init_logging(cli.verbose);
    labkit::shell::finish(cmd::run(cli))
}
