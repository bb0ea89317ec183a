//! Why a Service does not answer: what was seen → what is the matter, and which command cures it.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`evidence`] | what was seen of nodes, links and the connection table |
//! | [`call`] | what calls came to |
//! | [`rules`] | the rules walked beside those that are wanted |
//! | [`against`] | the way of a packet held against the one it should go |
//! | [`reach`] | whether packets come to the rules of Services at all |
//! | [`host`] | settings, links, routes, flows |
//! | [`names`] | what pods are told of the Service's name |
//! | [`objects`] | what the objects alone tell |
//! | [`judge`] | all of it → findings, the hard ones first |
//! | [`report`] | the findings as JSON and as sentences |
//! | [`page`] | the screen |
//!
//! Pure. Hard evidence decides: a rule, a setting, a link or a route that is wrong is named whether or
//! not a call happened to meet it, so that the same failure is named each time. Calls confirm, and
//! tell that something is wrong where no evidence says what.

mod against;
pub mod call;
pub mod evidence;
pub mod host;
pub mod judge;
pub mod names;
pub mod objects;
pub mod page;
pub mod reach;
pub mod report;
pub mod rules;

#[cfg(test)]
mod tests;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Its name, the same for ever; that of `netns-lab break` where there is one.
    pub cause: &'static str,
    /// Whether what was seen can mean nothing else.
    pub certain: bool,
    /// What is wrong, in a sentence.
    pub sentence: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// The commands that cure it, in order.
    pub cure: Vec<String>,
}

impl Finding {
    /// Something that what was seen proves.
    pub fn certain(cause: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            cause,
            certain: true,
            sentence: sentence.into(),
            evidence: Vec::new(),
            cure: Vec::new(),
        }
    }

    /// Something that is likely.
    pub fn likely(cause: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            certain: false,
            ..Self::certain(cause, sentence)
        }
    }

    /// Adds what was seen.
    #[must_use]
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds a command that cures it.
    #[must_use]
    pub fn cured_by(mut self, command: impl Into<String>) -> Self {
        self.cure.push(command.into());
        self
    }
}

/// Adds a finding; what several nodes or pods have in common is one finding with more evidence.
pub fn add(findings: &mut Vec<Finding>, new: Finding) {
    let Some(known) = findings.iter_mut().find(|known| known.cause == new.cause) else {
        findings.push(new);
        return;
    };
    known.certain |= new.certain;
    for evidence in new.evidence {
        if !known.evidence.contains(&evidence) {
            known.evidence.push(evidence);
        }
    }
    for command in new.cure {
        if !known.cure.contains(&command) {
            known.cure.push(command);
        }
    }
}
