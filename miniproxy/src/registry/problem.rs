//! What is wrong with an input, said so that it can be mended without searching.

use std::fmt;

use labkit::Failure;
use labkit::text::printable;
use serde::Serialize;

use super::Identity;

/// One thing that is wrong in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// The field, such as `items[2].spec.ports[0].port`; empty when the file is no JSON at all.
    pub field: String,
    /// What is there.
    pub what: String,
    /// What should be.
    pub expected: String,
    /// The object that it is in, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<Identity>>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", printable(&self.file), self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", printable(&self.field))?;
        }
        write!(
            f,
            "{}; expected {}",
            printable(&self.what),
            printable(&self.expected)
        )
    }
}

/// How many problems one message tells; more would scroll the first ones away.
const SHOWN: usize = 5;

/// The first problems, a line each, which also says which object is refused.
pub fn refusals(problems: &[Problem]) -> String {
    listed(problems, |problem| match &problem.object {
        Some(object) => format!("{problem} (refused: {})", printable(&object.to_string())),
        None => problem.to_string(),
    })
}

fn listed(problems: &[Problem], line: impl Fn(&Problem) -> String) -> String {
    let mut lines: Vec<String> = problems.iter().take(SHOWN).map(line).collect();
    if problems.len() > SHOWN {
        lines.push(format!("… and {} more", problems.len() - SHOWN));
    }
    lines.join("\n")
}

/// All problems as one failure of kind `Usage`.
pub fn failure(problems: &[Problem]) -> Failure {
    Failure::usage(listed(problems, ToString::to_string))
        .hint("nothing was changed; mend the file and try again")
}
