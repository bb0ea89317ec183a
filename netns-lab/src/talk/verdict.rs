//! What a run showed against what it must show.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::script::Run;

/// What a shell exits with when a command cannot be run.
pub const NOT_EXECUTABLE: u8 = 126;
/// What a shell exits with when a command is not found.
pub const NOT_FOUND: u8 = 127;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(u8),
    /// It took too long and was ended.
    TooLong,
    /// It goes on in the background.
    GoesOn,
}

/// What a run showed.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What its commands said, on stdout and stderr.
    pub text: String,
    /// How each of them ended, as far as it came.
    pub ends: Vec<End>,
}

/// One thing that was not as the talk says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Miss {
    /// What the talk says.
    pub expected: String,
    /// What was seen instead.
    pub seen: String,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, saw {}", self.expected, self.seen)
    }
}

/// What is not as the run says; nothing when all is well.
pub fn misses(run: &Run, seen: &Seen) -> Vec<Miss> {
    let mut found = Vec::new();
    let last = run.commands.len().saturating_sub(1);
    for (index, end) in seen.ends.iter().enumerate() {
        let command = run.commands.get(index).map_or("it", String::as_str);
        let mut miss = wrong_end(command, *end, run.fails && index == last, run.timeout);
        // Why it failed stands in what it said.
        if let Some(miss) = miss.as_mut().filter(|_| !seen.text.trim().is_empty()) {
            miss.seen += &format!(": {}", excerpt(&seen.text));
        }
        found.extend(miss);
    }
    for pattern in run.expect.iter().filter(|pattern| !pattern.is_in(&seen.text)) {
        found.push(Miss {
            expected: format!("`{}` in the output", pattern.as_str()),
            seen: excerpt(&seen.text),
        });
    }
    for pattern in &run.absent {
        if let Some(line) = pattern.line(&seen.text) {
            found.push(Miss {
                expected: format!("no `{}` in the output", pattern.as_str()),
                seen: format!("`{line}`"),
            });
        }
    }
    found
}

fn wrong_end(command: &str, end: End, fails: bool, patience: Duration) -> Option<Miss> {
    let (expected, seen) = match (end, fails) {
        // The failure that is meant is that of a command, not that there is none.
        (End::Code(code @ (NOT_EXECUTABLE | NOT_FOUND)), true) => (
            "to fail by itself",
            format!("exit code {code}: it could not be run at all"),
        ),
        (End::Code(0), true) => ("to fail", "exit code 0".to_string()),
        (End::Code(code), false) if code != 0 => ("to succeed", format!("exit code {code}")),
        (End::TooLong, _) => ("to end", format!("that it still ran after {patience:?}")),
        _ => return None,
    };
    Some(Miss {
        expected: format!("`{}` {expected}", command.lines().next().unwrap_or_default()),
        seen,
    })
}

/// The last lines of what was said.
fn excerpt(text: &str) -> String {
    const LINES: usize = 6;
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "nothing".to_string();
    }
    let from = lines.len().saturating_sub(LINES);
    let more = if from > 0 { "… " } else { "" };
    format!("`{more}{}`", lines[from..].join(" / "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::fence;

    fn judged(info: &str, text: &str, codes: &[u8]) -> Vec<String> {
        let mut run = fence::run(info, 1).unwrap().unwrap();
        run.commands = vec!["curl a".into(); codes.len()];
        let seen = Seen {
            text: text.into(),
            ends: codes.iter().copied().map(End::Code).collect(),
        };
        misses(&run, &seen).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_expected_failure_is_right_and_others_are_not() {
        assert_eq!(judged("sh run fails", "", &[0, 7]), [""; 0]);
        assert_eq!(judged("sh run", "", &[0, 0]), [""; 0]);
        assert_eq!(
            judged("sh run fails", "", &[0]),
            ["expected `curl a` to fail, saw exit code 0"]
        );
        assert!(judged("sh run fails", "", &[127])[0].contains("could not be run at all"));
        assert_eq!(
            judged("sh run fails", "", &[7, 7]),
            ["expected `curl a` to succeed, saw exit code 7"]
        );
    }

    #[test]
    fn what_must_be_said_and_what_must_not() {
        let info = r#"sh run expect="^web-\d$" absent="web-3""#;
        assert_eq!(judged(info, "a\nweb-1\n", &[0]), [""; 0]);
        assert_eq!(
            judged(info, "a\nx web-3 y\n", &[0]),
            [
                r"expected `^web-\d$` in the output, saw `a / x web-3 y`",
                "expected no `web-3` in the output, saw `x web-3 y`"
            ]
        );
        assert!(judged(info, "", &[0])[0].ends_with("saw nothing"));
    }

    #[test]
    fn what_takes_too_long_is_told() {
        let run = Run {
            commands: vec!["sleep 9".into()],
            timeout: Duration::from_secs(2),
            ..Run::default()
        };
        let seen = Seen {
            ends: vec![End::TooLong],
            ..Seen::default()
        };
        let misses = misses(&run, &seen);
        assert_eq!(
            misses[0].to_string(),
            "expected `sleep 9` to end, saw that it still ran after 2s"
        );
    }
}
