//! Commands, what they said and whether it was right, as lines of any width.

use labkit::screen::{Line, Look, Role, Sign, page};
use labkit::text::printable;
use unicode_width::UnicodeWidthChar as _;

/// More lines than this of one command nobody reads.
const MOST: usize = 400;
/// What lines stand in from the edge.
const INDENT: &str = "  ";

/// Something on the board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A command, after its prompt.
    Command {
        /// `$ `, or `web-1 $ `.
        prompt: String,
        /// As far as it is typed.
        text: String,
    },
    /// What a command said.
    Said(String),
    /// What a recording shows, which was made for a screen of another size.
    Film(String),
    /// All is as it should be.
    Right(String),
    /// Something is not.
    Wrong(String),
    /// What is told.
    Told(String),
    /// What is asked, and what may not be overlooked.
    Asked(String),
}

/// What a talk or a lesson has shown of a step.
#[derive(Debug, Clone, Default)]
pub struct Board {
    /// From the first to the last.
    pub entries: Vec<Entry>,
}

impl Board {
    /// One entry more.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// What the command that was written last says, all of it so far.
    pub fn say(&mut self, text: &str) {
        let text = overwritten(text);
        if text.is_empty() {
            return;
        }
        match self.entries.last_mut() {
            Some(Entry::Said(said)) => *said = text,
            _ => self.push(Entry::Said(text)),
        }
    }

    /// All that a recording has shown so far.
    pub fn show_film(&mut self, text: &str) {
        self.entries = vec![Entry::Film(overwritten(text))];
    }

    /// The entries as lines that fit.
    pub fn lines(&self, look: &Look) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 && entry.begins_a_part() {
                lines.push(Line::default());
            }
            lines.extend(entry.lines(look));
        }
        lines
    }
}

impl Entry {
    fn begins_a_part(&self) -> bool {
        !matches!(self, Self::Said(_) | Self::Right(_) | Self::Wrong(_))
    }

    /// This entry as lines that fit.
    pub fn lines(&self, look: &Look) -> Vec<Line<'static>> {
        let marked = |sign: Sign, text: &str| format!("{} {text}", look.sign(sign));
        let (role, text) = match self {
            Self::Command { prompt, text } => (Role::Strong, format!("{prompt}{text}")),
            Self::Said(text) | Self::Told(text) | Self::Film(text) => (Role::Plain, text.clone()),
            Self::Right(text) => (Role::Good, marked(Sign::Yes, text)),
            Self::Wrong(text) => (Role::Lost, marked(Sign::No, text)),
            Self::Asked(text) => (Role::Strong, text.clone()),
        };
        let width = usize::from(look.width).saturating_sub(INDENT.len()).max(1);
        let by_word = !matches!(self, Self::Said(_));
        let whole: Vec<_> = text.trim_end_matches('\n').split('\n').collect();
        let from = whole.len().saturating_sub(MOST);
        let rows = whole[from..].iter().flat_map(|line| {
            let mut rows = wrapped(line, width, by_word);
            // A table that is cut can be read, one that is broken cannot.
            if matches!(self, Self::Film(_)) {
                rows = vec![page::fit(line, width, look).trim_end().to_string()];
            }
            rows
        });
        rows.map(|row| Line::from(look.text(role, format!("{INDENT}{row}"))))
            .collect()
    }

    /// This entry as sentences, for paper and screen readers.
    pub fn plain(&self) -> String {
        let (lead, text) = match self {
            Self::Command { prompt, text } => (prompt.as_str(), text),
            Self::Right(text) => ("right: ", text),
            Self::Wrong(text) => ("wrong: ", text),
            Self::Said(text) | Self::Film(text) | Self::Told(text) | Self::Asked(text) => ("", text),
        };
        let lines = text.trim_end_matches('\n').split('\n').map(printable);
        format!("{lead}{}\n", lines.collect::<Vec<_>>().join("\n"))
    }
}

/// The text as a terminal shows it when lines were written over each other.
pub fn overwritten(text: &str) -> String {
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    let lines = lines.map(|line| line.rsplit('\r').next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// A line in rows of so many cells, cut between words where that is wanted and can be.
fn wrapped(line: &str, width: usize, by_word: bool) -> Vec<String> {
    let line = printable(&line.replace('\t', "        ")).into_owned();
    let mut rows = Vec::new();
    let mut row = String::new();
    let mut cells = 0;
    for character in line.chars() {
        let wide = character.width().unwrap_or(0);
        if cells + wide > width {
            let space = row.rfind(' ').filter(|at| by_word && *at > 0);
            let rest = space.map(|at| row.split_off(at).trim_start().to_string());
            rows.push(std::mem::take(&mut row));
            row = rest.unwrap_or_default();
            cells = row.chars().map(|c| c.width().unwrap_or(0)).sum();
        }
        row.push(character);
        cells += wide;
    }
    rows.push(row);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_and_never_lost() {
        assert_eq!(wrapped("one two three", 8, true), ["one two", "three"]);
        assert_eq!(wrapped("one two three", 8, false), ["one two ", "three"]);
        assert_eq!(wrapped("漢字漢字", 5, true), ["漢字", "漢字"]);
        assert_eq!(wrapped("", 5, true), [""]);
        assert_eq!(wrapped("abcdef", 1, true).len(), 6);
    }

    #[test]
    fn a_recording_is_cut_and_not_wrapped() {
        let mut board = Board::default();
        board.show_film(&"x".repeat(100));
        board.show_film(&format!("{}\n$ ", "x".repeat(100)));
        let lines = board.lines(&Look::sized(80, 24));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].width() <= 80, "{}", lines[0]);
    }

    #[test]
    fn a_bar_that_grows_is_shown_as_it_ends() {
        assert_eq!(overwritten("10 %\r20 %\r\nend\r\n"), "20 %\nend\n");
    }

    #[test]
    fn a_command_cannot_move_the_cursor() {
        let entry = Entry::Said("a\u{1b}[2Jb\n".into());
        assert_eq!(entry.plain(), "a\\u{1b}[2Jb\n");
        assert!(
            entry.lines(&Look::sized(80, 24))[0]
                .to_string()
                .contains("\\u{1b}")
        );
    }
}
