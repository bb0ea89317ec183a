//! What `check` found, as lines and as JSON.

use std::time::Duration;

use labkit::text::{count, printable};
use serde::Serialize;

use super::verdict::Miss;

/// One part of a talk that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// Whether it is a step, or a jump to one.
    pub part: Part,
    /// The number of the step.
    pub number: usize,
    /// Its title.
    pub title: String,
    /// Whether all was as the talk says.
    pub passed: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What was not as the talk says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub misses: Vec<Wrong>,
}

/// What of a step was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// What it shows.
    Step,
    /// That a jump to it makes what telling all steps before it makes.
    Jump,
}

/// Something that was not as the talk says, and where the talk says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wrong {
    /// The line of the block.
    pub line: usize,
    /// What.
    #[serde(flatten)]
    pub miss: Miss,
}

/// What `check` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this shape.
    pub schema: u32,
    /// What this is.
    pub kind: &'static str,
    /// The file.
    pub file: String,
    /// The talk's title.
    pub title: String,
    /// How many parts were as the talk says.
    pub passed: usize,
    /// How many were not.
    pub failed: usize,
    /// Each of them.
    pub tried: Vec<Tried>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(file: &str, title: &str) -> Self {
        Self {
            schema: 1,
            kind: "check",
            file: file.to_string(),
            title: title.to_string(),
            passed: 0,
            failed: 0,
            tried: Vec::new(),
        }
    }

    /// One part more.
    pub fn push(&mut self, tried: Tried) {
        if tried.passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        self.tried.push(tried);
    }

    /// `12 passed, 0 failed; 11 jumps passed`
    pub fn sum(&self) -> String {
        let of = |part: Part, passed: bool| {
            let these = self.tried.iter().filter(|tried| tried.part == part);
            these.filter(|tried| tried.passed == passed).count()
        };
        let steps = format!(
            "{} passed, {} failed",
            of(Part::Step, true),
            of(Part::Step, false)
        );
        match (of(Part::Jump, true), of(Part::Jump, false)) {
            (0, 0) => format!("{steps}\n"),
            (good, 0) => format!("{steps}; {} passed\n", count(good, "jump")),
            (good, bad) => format!("{steps}; {} passed, {bad} failed\n", count(good, "jump")),
        }
    }
}

impl Tried {
    /// A part, with what was wrong.
    pub fn new(part: Part, number: usize, title: &str, took: Duration, misses: Vec<Wrong>) -> Self {
        Self {
            part,
            number,
            title: title.to_string(),
            passed: misses.is_empty(),
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            misses,
        }
    }

    /// `ok     5 One rule makes it exist 0.3 s`; below it what was wrong.
    pub fn lines(&self, file: &str) -> String {
        let word = if self.passed { "ok    " } else { "failed" };
        let jump = match self.part {
            Part::Step => "",
            Part::Jump => "jump to ",
        };
        let tenths = self.milliseconds.saturating_add(50) / 100;
        let mut text = format!(
            "{word} {jump}{} {} {}.{} s\n",
            self.number,
            printable(&self.title),
            tenths / 10,
            tenths % 10
        );
        for Wrong { line, miss } in &self.misses {
            text += &format!(
                "       {}:{line}\n         expected {}\n         saw      {}\n",
                printable(file),
                printable(&miss.expected),
                printable(&miss.seen)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_told_by_name_with_what_was_expected_and_seen() {
        let mut report = Report::new("talk.md", "T");
        let took = Duration::from_millis(312);
        report.push(Tried::new(
            Part::Step,
            5,
            "One rule makes it exist",
            took,
            Vec::new(),
        ));
        let miss = Miss {
            expected: "`web-1` in the output".into(),
            seen: "nothing".into(),
        };
        let wrong = Wrong { line: 12, miss };
        report.push(Tried::new(Part::Jump, 6, "Three pods\u{1b}", took, vec![wrong]));
        let text: String = report.tried.iter().map(|tried| tried.lines("talk.md")).collect();
        insta::assert_snapshot!(text + &report.sum());
        insta::assert_json_snapshot!(report);
    }
}
