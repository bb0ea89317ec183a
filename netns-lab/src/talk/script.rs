//! A talk, its steps and their runs.

use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// How long a command may take where nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What goes on in the background, and need not say anything, must live so long.
pub const SETTLED: Duration = Duration::from_millis(150);

/// What `netns-lab up` is called with where the talk does not say.
pub const DEFAULT_LAB: &str = "3-pods";

/// A talk.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Script {
    /// Its title.
    pub title: String,
    /// The words that `netns-lab up` is called with before the first step.
    pub up: Vec<String>,
    /// The topology, where the talk brings one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<String>,
    /// What stands before the first step.
    pub prose: Vec<String>,
    /// What runs before the first step.
    pub setup: Vec<Run>,
    /// The steps, numbered from 1.
    pub steps: Vec<Step>,
}

impl Script {
    /// The step of a number.
    pub fn step(&self, number: usize) -> Option<&Step> {
        self.steps.get(number.checked_sub(1)?)
    }

    /// What must run so that step `number` begins as if all before it had been told.
    pub fn way_to(&self, number: usize) -> impl Iterator<Item = &Run> {
        let before = self.steps.iter().filter(move |step| step.number < number);
        let runs: Vec<_> = before.flat_map(|step| &step.runs).collect();
        let goes_on = |at: usize, name: &str| {
            let later = &runs[at + 1..];
            !later.iter().any(|run| run.stop.as_deref() == Some(name))
        };
        let kept = |(at, run): (usize, &&Run)| match &run.background {
            Some(Background::Named(name)) => run.keep || goes_on(at, name),
            _ => run.keep,
        };
        let kept: Vec<_> = runs.iter().enumerate().map(|(at, run)| kept((at, run))).collect();
        let way = runs
            .into_iter()
            .zip(kept)
            .filter_map(|(run, kept)| kept.then_some(run));
        self.setup.iter().chain(way)
    }
}

/// A step: one question, one change, one visible moment.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// From 1.
    pub number: usize,
    /// What the audience should leave with.
    pub title: String,
    /// The line of its heading.
    pub line: usize,
    /// What the room is asked before anything runs.
    pub predict: Vec<String>,
    /// What is told.
    pub prose: Vec<String>,
    /// Before which of the runs each of it is told.
    #[serde(skip)]
    pub told_at: Vec<usize>,
    /// What runs.
    pub runs: Vec<Run>,
    /// What only the speaker reads.
    pub notes: Vec<String>,
}

impl Step {
    /// What is told before a run, or, behind the last one, at the end.
    pub fn told_before(&self, run: usize) -> impl Iterator<Item = &String> {
        let told = self.prose.iter().zip(&self.told_at);
        told.filter_map(move |(text, at)| (*at == run).then_some(text))
    }
}

/// One block of commands, and what they must show.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The line of its fence.
    pub line: usize,
    /// The shell.
    pub shell: Shell,
    /// The commands, one after the other.
    pub commands: Vec<String>,
    /// What the output must have; all of it.
    pub expect: Vec<Pattern>,
    /// What the output must not have.
    pub absent: Vec<Pattern>,
    /// The last command is right when it fails.
    pub fails: bool,
    /// The pod or node it runs in, or `outside`; the caller's machine where none is said.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// How long each command may take.
    #[serde(rename = "timeoutMs", serialize_with = "milliseconds")]
    pub timeout: Duration,
    /// It goes on while the talk does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// What goes on under this name is ended first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    /// It runs without being shown.
    pub hidden: bool,
    /// It has the terminal for itself on stage.
    pub screen: bool,
    /// Later steps need what it changes.
    pub keep: bool,
    /// What a learner is to do.
    pub tasks: Vec<String>,
    /// What helps who does not know what to type.
    pub hints: Vec<String>,
}

impl Run {
    /// Whether a command that goes on has begun well, having said this in this time.
    pub fn is_settled(&self, text: &str, time: Duration) -> bool {
        let said = self.expect.iter().all(|pattern| pattern.is_in(text));
        said && (!self.expect.is_empty() || time >= SETTLED)
    }

    /// Whether it is there for what it changes, and not for what it shows.
    pub fn is_change(&self) -> bool {
        let shows = self.fails || !self.expect.is_empty() || !self.absent.is_empty();
        self.background.is_none() && !self.screen && (self.keep || !shows)
    }
}

/// How long a command that goes on does so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Background {
    /// To the end of its step.
    Step,
    /// Until a run stops this name, or to the end of the talk.
    Named(String),
}

/// The shell that reads a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// `sh`
    #[default]
    Sh,
    /// `bash`
    Bash,
}

impl Shell {
    /// The program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Sh => "sh",
            Self::Bash => "bash",
        }
    }
}

/// A regular expression; `^` and `$` are the ends of a line.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads it.
    ///
    /// # Errors
    /// With what is wrong with it, in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(text).multi_line(true).build();
        built.map(Self).map_err(|error| {
            let words = error.to_string();
            let last = words.lines().last().unwrap_or_default();
            format!(
                "`{text}` is no regular expression: {}",
                last.trim_start_matches("error: ")
            )
        })
    }

    /// Whether the text has it.
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The first line of the text that has it.
    pub fn line<'a>(&self, text: &'a str) -> Option<&'a str> {
        let found = self.0.find(text)?;
        let from = text[..found.start()].rfind('\n').map_or(0, |at| at + 1);
        text[from..].lines().next()
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
