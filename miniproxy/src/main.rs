//! The `miniproxy` program: parses the command line and dispatches.

use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use miniproxy::{cli::Cli, cmd};

/// Rules are millions of small pieces of memory: with glibc's allocator, all that is done with them takes a
/// fifth longer.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    labkit::shell::init_logging(cli.verbose);
    labkit::shell::finish(cmd::run(cli))
}
