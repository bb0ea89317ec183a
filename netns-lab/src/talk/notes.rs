//! What only the speaker sees, in a second terminal.

use labkit::screen::{Line, Look, Page, Role};
use serde::{Deserialize, Serialize};

use super::board::{Board, Entry};
use super::script::{Script, Step};

/// Where a talk is, and what the speaker wants to know there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notes {
    /// The version of this shape.
    pub schema: u32,
    /// What this is.
    pub kind: String,
    /// The step.
    pub step: usize,
    /// Of so many.
    pub steps: usize,
    /// Its title.
    pub title: String,
    /// How long the talk goes on, in seconds.
    pub seconds: u64,
    /// What the room is asked.
    pub questions: Vec<String>,
    /// What the talk has as notes.
    pub notes: Vec<String>,
    /// The commands of the step that are still to come.
    pub next: Vec<String>,
    /// The title of the step after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
}

impl Notes {
    /// The notes of a step.
    pub fn of(script: &Script, step: &Step, next: Vec<String>, seconds: u64) -> Self {
        Self {
            schema: 1,
            kind: "notes".to_string(),
            step: step.number,
            steps: script.steps.len(),
            title: step.title.clone(),
            seconds,
            questions: step.predict.clone(),
            notes: step.notes.clone(),
            next,
            then: script.step(step.number + 1).map(|step| step.title.clone()),
        }
    }

    /// The page of the second terminal.
    pub fn page(&self, look: &Look) -> Page {
        Page {
            title: Line::from(look.text(
                Role::Strong,
                format!(" STEP {} of {}  {}", self.step, self.steps, self.title),
            )),
            state: format!("{} ", clock(self.seconds)),
            body: self.board().lines(look),
            rule: self.then.as_ref().map(|title| format!(" then: {title}")).unwrap_or_default(),
            keys: vec![("q".to_string(), "quit".to_string())],
            focus: None,
        }
    }

    fn board(&self) -> Board {
        let mut board = Board::default();
        for question in &self.questions {
            board.push(Entry::Asked(format!("ask: {question}")));
        }
        for note in &self.notes {
            board.push(Entry::Told(note.clone()));
        }
        for command in &self.next {
            board.push(Entry::Command {
                prompt: "$ ".to_string(),
                text: command.clone(),
            });
        }
        board
    }

    /// The same as sentences.
    pub fn plain(&self) -> String {
        let mut text = format!("Step {} of {}: {}.\n", self.step, self.steps, self.title);
        text.extend(self.board().entries.iter().map(Entry::plain));
        if let Some(title) = &self.then {
            text += &format!("Then: {title}.\n");
        }
        text
    }
}

/// `2:05`
pub fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
