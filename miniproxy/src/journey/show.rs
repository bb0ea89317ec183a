//! The screen that stays: the story hop by hop.

use std::process::Command;

use labkit::screen::look::Role;
use labkit::screen::{Flow, Key, Line, Look, Page, Show};

use super::Report;
use super::page::{hop_count, page};

/// What the screen asks of its surroundings.
pub trait World {
    /// One more real connection.
    fn again(&mut self) -> Result<Report, String>;

    /// Writes the packets into a file; says where.
    fn save(&mut self) -> Result<String, String>;

    /// The command that shows the same in another way.
    fn other(&self, command: &str) -> Option<Command>;
}

/// The screen's state.
pub struct Traced<'w> {
    report: Report,
    told: Option<usize>,
    all: bool,
    json: bool,
    said: Option<String>,
    world: &'w mut dyn World,
}

impl<'w> Traced<'w> {
    /// Begins with this report, all of it told.
    pub fn new(report: Report, world: &'w mut dyn World) -> Self {
        Self {
            report,
            told: None,
            all: false,
            json: false,
            said: None,
            world,
        }
    }

    fn step(&mut self, by: isize) -> Flow {
        let count = hop_count(&self.report, self.all);
        self.told = match self.told {
            None if by > 0 => Some(1),
            None => Some(count.saturating_sub(1)),
            Some(told) if told >= count && by > 0 => None,
            Some(told) => Some(told.saturating_add_signed(by).max(1)),
        };
        Flow::Draw
    }

    fn run(&mut self, name: &str) -> Flow {
        match self.world.other(name) {
            Some(command) => Flow::Run(Box::new(command)),
            None => Flow::Pass,
        }
    }
}

const KEYS: [(&str, &str); 9] = [
    ("space", "step"),
    ("b", "back"),
    ("a", "all"),
    ("r", "again"),
    ("e", "explain"),
    ("w", "watch"),
    ("o", "file"),
    ("j", "json"),
    ("q", "quit"),
];

impl Show for Traced<'_> {
    fn page(&mut self, look: &Look) -> Page {
        let mut shown = page(&self.report, look, self.told, self.all);
        shown.keys = KEYS
            .map(|(key, word)| (key.to_string(), word.to_string()))
            .to_vec();
        if self.json {
            let text = serde_json::to_string_pretty(&self.report).unwrap_or_default();
            shown.body = text.lines().map(|line| Line::from(format!(" {line}"))).collect();
            shown.focus = None;
        }
        if let Some(said) = &self.said {
            shown
                .body
                .insert(0, Line::from(look.text(Role::Strong, format!(" {said}"))));
        }
        shown
    }

    fn key(&mut self, key: Key) -> Flow {
        self.said = None;
        match key {
            Key::Char(' ') | Key::Right => self.step(1),
            Key::Char('b') if self.json => {
                self.json = false;
                Flow::Draw
            }
            Key::Char('b') | Key::Left => self.step(-1),
            Key::Char('a') => {
                self.all = !self.all;
                self.told = None;
                Flow::Draw
            }
            Key::Char('j') => {
                self.json = !self.json;
                Flow::Draw
            }
            Key::Char('r') => {
                match self.world.again() {
                    Ok(report) => {
                        self.report = report;
                        self.told = None;
                    }
                    Err(said) => self.said = Some(said),
                }
                Flow::Draw
            }
            Key::Char('o') => {
                self.said = Some(match self.world.save() {
                    Ok(said) | Err(said) => said,
                });
                Flow::Draw
            }
            Key::Char('e') => self.run("explain"),
            Key::Char('w') => self.run("watch"),
            _ => Flow::Pass,
        }
    }

    fn back(&mut self, failed: Option<std::io::Error>) {
        self.said = failed.map(|error| error.to_string());
    }
}
