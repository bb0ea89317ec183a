//! `scripts/bench`: what our programs take, beside what the kernel and the plain tools take at least.

mod aims;
mod change;
pub mod documents;
mod first;
pub mod generate;
mod options;
mod path;
mod peers;
mod scratch;
mod sync;
mod table;
mod up;

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::load::say;

/// Runs the bench that the command line names.
pub fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up", rest @ ..] => up::run(rest),
        ["sync", rest @ ..] => sync::run(rest),
        _ => usage(
            &words,
            "Usage: scripts/bench up|sync [OPTION]...\n\nWith --help after its name each bench says what it measures.",
        ),
    }
}

/// Whether these words ask for help.
fn asks_for_help(words: &[&str]) -> bool {
    words.iter().any(|word| ["-h", "--help"].contains(word))
}

/// The help on stdout if it was asked for, else on stderr with the exit code of wrong usage.
fn usage(words: &[&str], text: &str) -> ExitCode {
    if asks_for_help(words) {
        say(text);
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(2)
}

/// The last words: what was missed, if anything.
fn verdict(missed: &[String]) -> (String, ExitCode) {
    if missed.is_empty() {
        return ("all aims met".into(), ExitCode::SUCCESS);
    }
    (format!("missed:\n  {}", missed.join("\n  ")), ExitCode::FAILURE)
}
