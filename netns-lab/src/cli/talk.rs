//! The command line of talks and drawings.

use std::path::PathBuf;

use clap::Args;
use labkit::screen::ScreenArgs;
use labkit::shell::OutputFormat;

use crate::model::graph::Format;
use crate::model::name::Label;

/// Which talk, and where it is told.
#[derive(Debug, Args)]
pub struct Where {
    /// The talk [default: the one that comes with this program]
    #[arg(value_name = "FILE.md")]
    pub file: Option<PathBuf>,
    /// Tell it on this machine itself and not in a sandbox; needs root
    #[arg(long)]
    pub host: bool,
}

/// `talk`.
#[derive(Debug, Args)]
#[command(after_help = "\
Any key types the next command, Enter runs it. The question for the room is
there before. A step is red only if something else is seen than the talk says:
where failing is the point, a failure is right.

Keys: n and p next and previous step, a number and g jumps to it, b begins the
step again, s skips a command, f runs the step to its end, r plays the recording
of the step, ! opens a shell, ? tells all keys, q ends.

Examples:
  netns-lab talk                      the talk that comes with this program
  netns-lab talk --notes              its notes, in a second terminal
  netns-lab talk my-talk.md --step 5
  netns-lab talk --plain              what it will say, without running it")]
pub struct TalkArgs {
    /// Which talk
    #[command(flatten)]
    pub talk: Where,
    /// Begin with this step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub step: usize,
    /// Show the speaker's notes of the talk that goes on in another terminal
    #[arg(long, conflicts_with_all = ["file", "step", "host"])]
    pub notes: bool,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// `learn`.
#[derive(Debug, Args)]
#[command(after_help = "\
You type the commands. Whatever shows what the step asks for is right; after two
misses there is a hint, after three the command. Without a terminal the commands
are read from stdin, one a line.

Words instead of a command: `hint`, `show`, `again` (the step from its start),
`skip` (to the next step), `quit`.

Examples:
  netns-lab learn
  netns-lab learn my-talk.md --step 5")]
pub struct LearnArgs {
    /// Which talk
    #[command(flatten)]
    pub talk: Where,
    /// Begin with this step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub step: usize,
    /// How it looks
    #[command(flatten)]
    pub screen: ScreenArgs,
}

/// `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each step is run and compared with what the talk says of it; then each is jumped
to, and compared with what the steps before it left. Exit code 1 when something
is not as the talk says.

Examples:
  netns-lab check                     the talk that comes with this program
  netns-lab check my-talk.md --step 5
  netns-lab check my-talk.md -o json | jq '.tried[] | select(.passed | not)'")]
pub struct CheckArgs {
    /// Which talk
    #[command(flatten)]
    pub talk: Where,
    /// Only this step
    #[arg(long, value_name = "N")]
    pub step: Option<usize>,
    /// Do not try the jumps
    #[arg(long)]
    pub no_jumps: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// `record`.
#[derive(Debug, Args)]
#[command(after_help = "\
The recording is an asciicast (version 2, 100x30) with a marker for each step;
commands are typed as by hand, and no pause is longer than two seconds. It fails
when a step is not as the talk says.

Examples:
  netns-lab record --cast talk.cast --transcript talk.txt
  netns-lab record my-talk.md --transcript my-talk.txt
  netns-lab record my-talk.md --svg my-talk.svg")]
pub struct RecordArgs {
    /// Which talk
    #[command(flatten)]
    pub talk: Where,
    /// Write the recording here
    #[arg(long, value_name = "FILE", required_unless_present_any = ["svg", "transcript"])]
    pub cast: Option<PathBuf>,
    /// Write it as a picture that moves, 80 columns wide, here
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write it as plain text here
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,
}

/// `graph`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netns-lab graph
  netns-lab graph --format mermaid >> NOTES.md
  netns-lab graph --format svg > lab.svg")]
pub struct GraphArgs {
    /// The lab [default: `lab` if it is up, else the only one]
    #[arg(long, value_name = "LAB")]
    pub name: Option<Label>,
    /// How it is drawn
    #[arg(long, value_enum, default_value_t, conflicts_with = "output")]
    pub format: Format,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Sentences, one fact a line
    #[arg(long, conflicts_with_all = ["output", "format"])]
    pub plain: bool,
    /// Only characters of ASCII
    #[arg(long)]
    pub ascii: bool,
    /// Names in place of addresses
    #[arg(long)]
    pub hide_addresses: bool,
}

/// `sandbox-join`.
#[derive(Debug, Args)]
pub struct SandboxJoinArgs {
    /// The first process of the sandbox, as PID:START
    #[arg(long)]
    pub process: crate::model::ledger::ProcessId,
    /// The command is a shell that is to have the terminal
    #[arg(long)]
    pub front: bool,
    /// The command
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}
