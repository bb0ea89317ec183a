//! What a talk will say, without running it: as text and as JSON.

use labkit::text::printable;
use serde::Serialize;

use super::script::Script;
use super::stage::prompt;

/// The talk as data.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline<'a> {
    /// The version of this shape.
    pub schema: u32,
    /// What this is.
    pub kind: &'static str,
    /// The talk.
    #[serde(flatten)]
    pub script: &'a Script,
}

impl<'a> Outline<'a> {
    /// The outline of a talk.
    pub fn of(script: &'a Script) -> Self {
        Self {
            schema: 1,
            kind: "talk",
            script,
        }
    }

    /// Each step with its question and its commands.
    pub fn plain(&self) -> String {
        let mut text = format!("{}\n", printable(&self.script.title));
        for step in &self.script.steps {
            text += &format!("\n{}. {}\n", step.number, printable(&step.title));
            for question in &step.predict {
                text += &format!("   {}\n", printable(question));
            }
            for run in step.runs.iter().filter(|run| !run.hidden) {
                for command in &run.commands {
                    let lines: Vec<_> = command.lines().map(printable).collect();
                    text += &format!("   {}{}\n", prompt(run), lines.join("\n     "));
                }
            }
        }
        text
    }
}
