//! Why an object is refused, in the words of the field that is wrong.

use std::fmt;

/// What the API server would have refused: which field, what is there, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The path of the field, as `spec.ports[0].port`.
    pub field: String,
    /// What is there.
    pub what: String,
    /// What was expected.
    pub expected: String,
}

impl Refusal {
    /// A refusal of one field.
    pub fn new(field: impl Into<String>, what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            what: what.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; expected {}", self.field, self.what, self.expected)
    }
}
