//! The speaker's screen: what is seen.

use labkit::screen::page;
use labkit::screen::{Glyphs, Line, Look, Page, Role, Sign};

use super::board::Entry;
use super::notes::clock;
use super::stage::{Phase, Stage, prompt};

/// What all keys do.
const HELP: [(&str, &str); 14] = [
    (
        "any key",
        "types the command, as does the letter that it begins with",
    ),
    ("Enter", "types the rest of it, then runs it"),
    ("Backspace", "takes back what is typed"),
    ("Esc", "ends a command that runs, as does Ctrl-C; ends the talk"),
    ("n p", "next and previous step, made anew if need be; Tab as n"),
    ("5 g", "goes to step 5"),
    ("b", "the step again from its start"),
    ("s", "skips a command"),
    ("f", "runs the step to its end"),
    ("r", "plays the recording of the step"),
    ("!", "a shell on the machine; `exit` comes back"),
    ("up down", "look at what has left the screen"),
    ("?", "this"),
    ("q", "ends"),
];

impl Stage {
    /// The page as it is now.
    pub fn page(&self, look: &Look) -> Page {
        let mut page = Page {
            title: self.title(look),
            state: self.state(look),
            body: Vec::new(),
            rule: self.rule.clone(),
            keys: self.keys(look),
            focus: None,
        };
        let (body, below) = if self.help {
            (help(look), Vec::new())
        } else {
            (self.body(look), self.below(look))
        };
        page.body = body;
        // What is asked stands at the bottom, where the eye looks for it.
        let room = usize::from(look.height.saturating_sub(5));
        let free = room.saturating_sub(page.body.len() + below.len());
        page.body.resize(page.body.len() + free, Line::default());
        page.body.extend(below);
        page.focus = page
            .body
            .len()
            .checked_sub(1 + self.back.min(page.body.len().saturating_sub(room)));
        page
    }

    fn title(&self, look: &Look) -> Line<'static> {
        let step = self.step();
        let of = self.script.steps.len();
        let place = format!(" STEP {} of {of}   ", step.number);
        // The clock stays, however long the title is.
        let taken = place.len() + self.state(look).chars().count() + 2;
        let free = usize::from(look.width).saturating_sub(taken);
        let title = page::fit(&step.title, free, look).trim_end().to_string();
        Line::from(vec![
            look.text(Role::Plain, place),
            look.text(Role::Strong, title),
        ])
    }

    fn state(&self, look: &Look) -> String {
        let film = match (self.phase, look.glyphs) {
            (Phase::Playing, Glyphs::Unicode) => "● recorded  ",
            (Phase::Playing, Glyphs::Ascii) => "(recorded)  ",
            _ => "",
        };
        format!("{film}{} ", clock(self.time.as_secs()))
    }

    fn body(&self, look: &Look) -> Vec<Line<'static>> {
        let mut board = self.board.clone();
        if let Some((run, command)) = self.cue().filter(|_| self.phase == Phase::Ready) {
            let typed: String = command.chars().take(self.typed).collect();
            let cursor = match look.glyphs {
                Glyphs::Unicode => "▮",
                Glyphs::Ascii => "_",
            };
            board.push(Entry::Command {
                prompt: prompt(run),
                text: format!("{typed}{cursor}"),
            });
        }
        let mut lines = vec![Line::default()];
        lines.extend(board.lines(look));
        lines
    }

    fn below(&self, look: &Look) -> Vec<Line<'static>> {
        let mut lines = vec![Line::default()];
        for question in &self.step().predict {
            lines.extend(Entry::Asked(format!("Ask the room: {question}")).lines(look));
        }
        let next = match self.script.step(self.step().number + 1) {
            Some(next) => format!("{} next: {}", look.sign(Sign::Here), next.title),
            None => "That was the talk.".to_string(),
        };
        if self.phase == Phase::Told {
            lines.extend(Entry::Told(next).lines(look));
        }
        lines
    }

    fn keys(&self, look: &Look) -> Vec<(String, String)> {
        let enter = look.sign(Sign::Enter);
        let keys: Vec<(&str, &str)> = if self.help {
            vec![("any key", "back")]
        } else if !self.number.is_empty() {
            return vec![("g".to_string(), format!("go to step {}", self.number))];
        } else {
            match self.phase {
                Phase::Running | Phase::Playing => vec![("Esc", "stop")],
                Phase::Ready if self.typed > 0 => {
                    vec![(enter, "run"), ("space", "type"), ("Backspace", "take back")]
                }
                Phase::Ready => vec![
                    ("space", "type"),
                    (enter, "type all"),
                    ("b", "back to start"),
                    ("s", "skip"),
                    ("f", "fast"),
                    ("!", "shell"),
                    ("?", "keys"),
                    ("q", "quit"),
                ],
                Phase::Told => vec![
                    (enter, "next step"),
                    ("r", "recording"),
                    ("p", "previous"),
                    ("b", "again"),
                    ("!", "shell"),
                    ("?", "keys"),
                    ("q", "quit"),
                ],
            }
        };
        let last = self.step().number == self.script.steps.len();
        let red = self
            .board
            .entries
            .iter()
            .any(|entry| matches!(entry, Entry::Wrong(_)));
        let mut keys = keys;
        if red && self.phase == Phase::Ready && self.typed == 0 {
            keys.insert(0, ("r", "recording"));
        }
        let shown = keys.into_iter().filter(|(_, word)| match *word {
            "recording" => self.has_cast,
            "next step" => !last,
            _ => true,
        });
        shown
            .map(|(key, word)| (key.to_string(), word.to_string()))
            .collect()
    }
}

fn help(look: &Look) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    for (key, word) in HELP {
        lines.push(Line::from(vec![
            look.text(Role::Strong, format!("  {key:<10} ")),
            look.text(Role::Plain, word),
        ]));
    }
    lines
}
