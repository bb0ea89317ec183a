//! What a program does around its command: logging, stdout, exit codes, completions, man pages.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::{Command, ValueEnum};
pub use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Kind, Outcome};

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for scripts, from the same data.
    Json,
}

/// Turns a command's end into an exit code, telling a failure on stderr.
pub fn finish(result: Result<Outcome, Failure>) -> ExitCode {
    match result {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            if failure.kind() != Kind::ClosedPipe {
                tell(&failure.to_string());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Writes an answer to stdout.
///
/// # Errors
/// `ClosedPipe` (which ends the program with success) when nobody reads any more.
pub fn emit(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Kind::ClosedPipe, "nobody reads stdout"),
            _ => Failure::failed(format!("cannot write to stdout: {error}")),
        })
}

/// Writes one value as indented JSON to stdout.
pub fn emit_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    emit(&json(value)?)
}

/// One value as indented JSON, with the end of its last line.
///
/// # Errors
/// When it has no JSON, which no answer of ours lacks.
pub fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    text.push('\n');
    Ok(text)
}

/// Writes one line of talk to stderr; when stderr is gone there is nobody to tell.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Tells a note, the first time that it comes up: several nodes may have the same to say.
pub fn note_once(note: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.insert(note.to_string()) {
        tell(&format!("note: {note}"));
    }
}

/// Starts logging to stderr: warnings, or more with `-v` (info), `-vv` (debug), `-vvv` (trace).
///
/// The environment variable `LOG` overrides it with a filter such as `miniproxy=debug`.
pub fn init_logging(verbosity: u8) {
    let level = match verbosity {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // A second call (in a test) changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(std::env::var_os("NO_COLOR").is_none() && io::IsTerminal::is_terminal(&io::stderr()))
        .try_init();
}

/// Prints the completion script of a shell, from the same definition as `--help`.
pub fn emit_completions(mut command: Command, shell: Shell) -> Result<Outcome, Failure> {
    let name = command.get_name().to_string();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    emit(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

/// Prints the man page: the program's own, then one part for each sub-command.
pub fn emit_man(command: Command) -> Result<Outcome, Failure> {
    let mut page = Vec::new();
    render_man(command, &mut page)
        .map_err(|error| Failure::failed(format!("cannot render the man page: {error}")))?;
    emit(&String::from_utf8_lossy(&page))?;
    Ok(Outcome::Done)
}

fn render_man(mut command: Command, page: &mut Vec<u8>) -> io::Result<()> {
    command.build();
    clap_mangen::Man::new(command.clone()).render(page)?;
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        clap_mangen::Man::new(sub.clone()).render(page)?;
    }
    Ok(())
}
