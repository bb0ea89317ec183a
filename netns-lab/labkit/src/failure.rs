//! One failure type for both programs: what happened, why, and what to type next.

use std::fmt;
use std::process::ExitCode;

use crate::text::printable;

/// What a command ended with when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Done,
    /// The question was answered, and the answer is no: exit code 1.
    No,
    /// A wrapped command's own exit code, passed through.
    Code(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::No => Self::from(1),
            Outcome::Code(code) => Self::from(code),
        }
    }
}

/// Why a command could not do its work; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It was tried and failed: exit code 1.
    Failed,
    /// The command line or an input file is wrong: exit code 2.
    Usage,
    /// The host lacks a privilege, a tool or a kernel feature: exit code 3.
    HostLacks,
    /// The reader of our output went away, which is no failure: exit code 0.
    ClosedPipe,
}

/// A failure with its cause in one message and hints that say what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    message: String,
    hints: Vec<String>,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hints: Vec::new(),
        }
    }

    /// Something was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The command line or an input is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The host lacks something.
    pub fn host_lacks(message: impl Into<String>) -> Self {
        Self::new(Kind::HostLacks, message)
    }

    /// Adds one line that says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts what was being done in front of what went wrong.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Several failures as one; the worst kind wins. `None` when there are none.
    ///
    /// For tear-down, which goes on after an error and reports all of them.
    pub fn all(failures: Vec<Self>) -> Option<Self> {
        let mut failures = failures.into_iter();
        let mut merged = failures.next()?;
        for failure in failures {
            merged.message = format!("{}\n{}", merged.message, failure.message);
            for hint in failure.hints {
                if !merged.hints.contains(&hint) {
                    merged.hints.push(hint);
                }
            }
            if merged.kind == Kind::Failed {
                merged.kind = failure.kind;
            }
        }
        Some(merged)
    }

    /// The kind, which decides the exit code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without the hints.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The hints, in the order they were given.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// 0 for a closed pipe, 1 failed, 2 usage, 3 the host lacks something.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::ClosedPipe => 0,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::HostLacks => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.message.lines().enumerate() {
            let lead = if index == 0 { "error: " } else { "\n       " };
            write!(f, "{lead}{}", printable(line))?;
        }
        for hint in &self.hints {
            write!(f, "\n hint: {}", printable(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_and_what_next() {
        let failure = Failure::host_lacks("iptables was not found")
            .context("cannot sync")
            .hint("install iptables");
        assert_eq!(
            failure.to_string(),
            "error: cannot sync: iptables was not found\n hint: install iptables"
        );
        assert_eq!(failure.exit_code(), 3);
    }

    #[test]
    fn a_hostile_name_cannot_move_the_cursor() {
        let failure = Failure::usage("bad name \u{1b}[2Jx");
        assert_eq!(failure.to_string(), "error: bad name \\u{1b}[2Jx");
    }

    #[test]
    fn many_failures_become_one_that_keeps_the_worst_kind() {
        let all = Failure::all(vec![
            Failure::failed("a"),
            Failure::host_lacks("b").hint("h"),
            Failure::failed("c").hint("h"),
        ]);
        let all = all.unwrap();
        assert_eq!(all.exit_code(), 3);
        assert_eq!(all.to_string(), "error: a\n       b\n       c\n hint: h");
        assert_eq!(Failure::all(Vec::new()), None);
    }
}
