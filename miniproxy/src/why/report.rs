//! The findings, as JSON has them and as sentences say them.

use serde::Serialize;

use super::Finding;
use super::call::Place;
use super::names::Lookup;

/// What is the matter with a Service. `docs/json.md` describes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this form.
    pub schema: u32,
    /// `why`
    pub kind: &'static str,
    /// `default/web`
    pub service: String,
    /// The answer in a sentence.
    pub sentence: String,
    /// What was called from where, and what became of it.
    pub places: Vec<Place>,
    /// What pods were told of the Service's name.
    pub names: Vec<Lookup>,
    /// What is wrong, the first cause first.
    pub findings: Vec<Finding>,
    /// Lost calls that nothing explains.
    pub unknown: Vec<String>,
    /// What may look like a failure, and is meant.
    pub notes: Vec<String>,
    /// What could not be looked at.
    pub not_looked_at: Vec<String>,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_well(&self) -> bool {
        self.findings.is_empty() && self.unknown.is_empty()
    }

    /// Sentences, one fact a line.
    pub fn plain(&self) -> String {
        let mut lines = vec![format!("{}: {}", self.service, self.sentence)];
        for place in &self.places {
            lines.push(format!(
                "From {} ({}) to {}: {} of {} calls were answered; {} after {} ms.",
                place.from,
                place.place.text(),
                place.to,
                place.answered,
                place.calls,
                place.word.text(),
                place.ms
            ));
        }
        for lookup in &self.names {
            lines.push(format!(
                "From {}: the name {} {} ({} was asked).",
                lookup.from,
                lookup.name,
                lookup.answer(),
                lookup.asked()
            ));
        }
        for finding in &self.findings {
            let sure = if finding.certain { "Cause" } else { "Likely cause" };
            lines.push(format!("{sure}: {}: {}", finding.cause, finding.sentence));
            lines.extend(finding.evidence.iter().map(|seen| format!("Seen: {seen}.")));
            lines.extend(finding.cure.iter().map(|command| format!("Cure: {command}")));
        }
        lines.extend(self.unknown.iter().map(|seen| format!("Unexplained: {seen}.")));
        lines.extend(self.notes.iter().map(|note| format!("Note: {note}.")));
        lines.extend(
            self.not_looked_at
                .iter()
                .map(|what| format!("Not looked at: {what}.")),
        );
        lines.join("\n") + "\n"
    }
}
