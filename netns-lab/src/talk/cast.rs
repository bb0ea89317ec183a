//! A recording: asciicast version 2, with a marker for each step; and the same as plain text.

use std::time::Duration;

use labkit::text::printable;
use serde_json::{Value, json};

use super::board::overwritten;
use super::picture;

/// How wide a recording is.
pub const WIDTH: u16 = 100;
/// How high.
pub const HEIGHT: u16 = 30;

/// An empty screen.
pub(super) const CLEAR: &str = "\u{1b}[2J\u{1b}[H";
/// The longest time in which nothing happens.
pub(super) const LONGEST: Duration = Duration::from_secs(2);
/// From one letter to the next.
const LETTER: Duration = Duration::from_millis(40);
/// Before Enter, and before the first word of a step is followed by another.
const BREATH: Duration = Duration::from_millis(600);

/// A recording that grows.
#[derive(Debug, Default)]
pub struct Film {
    title: String,
    now: Duration,
    events: Vec<(Duration, &'static str, String)>,
    transcript: String,
}

impl Film {
    /// An empty one.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_string(),
            transcript: format!("{}\n", printable(title)),
            ..Self::default()
        }
    }

    fn event(&mut self, kind: &'static str, text: String) {
        self.events.push((self.now, kind, text));
    }

    fn say(&mut self, text: &str) {
        self.event("o", safe(text).replace('\n', "\r\n"));
        self.transcript.push_str(&safe(text));
    }

    /// Time goes by, but never more than the longest since something happened.
    fn wait(&mut self, time: Duration) {
        let last = self.events.last().map_or(Duration::ZERO, |(at, ..)| *at);
        self.now = (self.now + time.min(LONGEST)).min(last + LONGEST);
    }

    /// A step begins, on an empty screen.
    pub fn step(&mut self, number: usize, title: &str, questions: &[String]) {
        if number > 1 {
            self.wait(LONGEST);
        }
        self.event("m", printable(&format!("{number}. {title}")).into_owned());
        self.event("o", CLEAR.to_string());
        self.transcript.push('\n');
        self.say(&format!("# {number}. {title}\n"));
        for question in questions {
            self.say(&format!("# {question}\n"));
        }
        self.say("\n");
        self.wait(BREATH);
    }

    /// A command is typed, letter by letter, and Enter is pressed.
    pub fn typed(&mut self, prompt: &str, command: &str) {
        self.say(prompt);
        for letter in command.chars() {
            self.wait(LETTER);
            self.say(&letter.to_string());
        }
        self.wait(BREATH);
        self.say("\n");
    }

    /// What a command said, each piece with the time since it was started.
    pub fn said(&mut self, pieces: &[(Duration, String)]) {
        let mut before = Duration::ZERO;
        for (at, text) in pieces {
            self.wait(at.saturating_sub(before));
            before = *at;
            self.say(text);
        }
        let ends = pieces.last().is_none_or(|(_, text)| text.ends_with('\n'));
        if !ends {
            self.say("\n");
        }
        self.wait(BREATH);
    }

    /// What a program with a screen of its own showed, below the command that was typed: a page, and another one
    /// where it is longer.
    pub fn screen(&mut self, command: &str, pieces: &[(Duration, String)]) {
        if let Some((at, _)) = pieces.last() {
            self.wait(*at);
        }
        let text: String = pieces.iter().map(|(_, text)| text.as_str()).collect();
        let lines: Vec<_> = text.lines().collect();
        // The command, and the row of the cursor, have a row each.
        for page in lines.chunks(usize::from(HEIGHT) - 2) {
            self.event("o", CLEAR.to_string());
            // The transcript has it already.
            self.event("o", format!("{}\r\n", printable(command)));
            self.say(&format!("{}\n", page.join("\n")));
            self.wait(LONGEST);
        }
    }

    /// The recording: a header, then one event a line.
    pub fn cast(&self) -> String {
        let header = json!({ "version": 2, "width": WIDTH, "height": HEIGHT, "title": self.title });
        let mut text = format!("{header}\n");
        for (at, kind, data) in &self.events {
            text += &format!("{}\n", json!([seconds(*at), kind, data]));
        }
        text
    }

    /// The same as a picture that moves.
    pub fn picture(&self) -> String {
        picture::draw(&self.title, &self.events)
    }

    /// The same as plain text.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }
}

/// With the six digits that players read.
fn seconds(time: Duration) -> Value {
    let rounded = (time.as_secs_f64() * 1e6).round() / 1e6;
    json!(rounded)
}

/// Text of commands, without what could move the cursor.
fn safe(text: &str) -> String {
    let text = overwritten(text).replace('\t', "        ");
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// The text of one step of a recording, each piece with the time since the step began.
pub fn step_of(cast: &str, number: usize) -> Vec<(Duration, String)> {
    let mut found = Vec::new();
    let mut began = None;
    for line in cast.lines().skip(1) {
        let Ok((at, kind, data)) = serde_json::from_str::<(f64, String, String)>(line) else {
            continue;
        };
        let Ok(at) = Duration::try_from_secs_f64(at) else {
            continue;
        };
        match kind.as_str() {
            "m" => {
                let this = data.split_once('.').and_then(|(digits, _)| digits.parse().ok());
                began = (this == Some(number)).then_some(at);
            }
            "o" => {
                if let Some(began) = began.filter(|_| !data.starts_with('\u{1b}')) {
                    found.push((at.saturating_sub(began), data.replace("\r\n", "\n")));
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn film() -> Film {
        let mut film = Film::new("T");
        film.step(1, "One", &["why?".to_string()]);
        film.typed("$ ", "ip a");
        let ms = Duration::from_millis;
        film.said(&[(ms(5), "a\tb\n".into()), (ms(60_000), "c\u{1b}[2J".into())]);
        film.step(2, "Two", &[]);
        film.typed("$ ", "x");
        film
    }

    #[test]
    fn each_line_is_json_and_each_step_has_its_marker() {
        let cast = film().cast();
        let events: Vec<Value> = cast
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(events[0]["width"], 100);
        assert_eq!(events.iter().filter(|event| event[1] == "m").count(), 2);
        let times: Vec<_> = events[1..]
            .iter()
            .map(|event| event[0].as_f64().unwrap())
            .collect();
        assert!(
            times.is_sorted_by(|a, b| a <= b && b - a < 2.000_001),
            "{times:?}"
        );
        insta::assert_snapshot!(film().transcript());
    }

    #[test]
    fn a_screen_is_paged_below_its_command() {
        let mut film = Film::new("T");
        let text = "line\n".repeat(39) + "the last\n";
        film.screen("$ explain", &[(Duration::ZERO, text)]);
        let shown: Vec<String> = film.events.iter().map(|(_, _, data)| data.clone()).collect();
        let commands = shown.iter().filter(|data| *data == "$ explain\r\n").count();
        assert_eq!(
            (commands, shown.iter().filter(|data| *data == CLEAR).count()),
            (2, 2)
        );
        assert!(!film.transcript().contains("$ explain") && film.transcript().contains("the last"));
    }

    #[test]
    fn one_step_can_be_played_again() {
        let cast = film().cast();
        let text = |number| {
            step_of(&cast, number)
                .into_iter()
                .map(|(_, text)| text)
                .collect::<String>()
        };
        assert_eq!(text(1), "# 1. One\n# why?\n\n$ ip a\na        b\nc\\u{1b}[2J\n");
        assert_eq!(text(2), "# 2. Two\n\n$ x\n");
        assert_eq!(text(3), "");
        assert!(step_of("no\n[1]\n[-1,\"m\",\"1.\"]", 1).is_empty());
    }
}
