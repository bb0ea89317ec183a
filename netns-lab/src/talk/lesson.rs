//! The learner's screen: what was typed, whether it counts, and hints.

use labkit::screen::{Key, Line, Look, Page, Role, Sign};

use super::board::{Board, Entry};
use super::script::{Run, Script, Step};
use super::stage::prompt;
use super::verdict::{End, Miss, NOT_EXECUTABLE, NOT_FOUND, Seen, misses};

/// So many misses, and there is a hint.
const HINT_AFTER: usize = 2;
/// So many, and the command is shown.
const SHOW_AFTER: usize = 3;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Nothing but to show the board.
    Draw,
    /// This command is to be run.
    Run(String),
    /// [`Lesson::compared`] wants to know what the last try has made of the machine.
    Compare,
    /// The machine is to be made as it is before this step.
    GoTo(usize),
    /// A shell.
    Shell,
    /// The end.
    Quit,
}

/// What tries have made of the machine, beside what the written commands make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The same.
    Same,
    /// Something else.
    Other,
    /// The written commands leave nothing that could be compared.
    Unknown,
}

/// Where a learner is.
#[derive(Debug, Clone)]
pub struct Lesson {
    script: Script,
    step: usize,
    run: usize,
    board: Board,
    input: String,
    running: Option<String>,
    /// The last try: the line, what it said and how it ended.
    last: (String, Seen),
    /// The lines of this run that did not fail.
    typed: Vec<String>,
    /// A wrong try has changed something.
    dirty: bool,
    misses: usize,
}

impl Lesson {
    /// A lesson, which begins with [`Lesson::begin`].
    pub fn new(script: Script) -> Self {
        Self {
            script,
            step: 0,
            run: 0,
            board: Board::default(),
            input: String::new(),
            running: None,
            last: <(String, Seen)>::default(),
            typed: Vec::new(),
            dirty: false,
            misses: 0,
        }
    }

    /// Step `number` begins.
    pub fn begin(&mut self, number: usize) -> Ask {
        self.step = number.clamp(1, self.script.steps.len()) - 1;
        self.board = Board::default();
        for question in self.step().predict.clone() {
            self.board.push(Entry::Asked(question));
        }
        self.enter(0)
    }

    /// The step.
    pub fn step(&self) -> &Step {
        &self.script.steps[self.step]
    }

    /// The run that is to be typed; none when the step is done.
    pub fn run(&self) -> Option<&Run> {
        self.step().runs.get(self.run)
    }

    /// What was shown of the step.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Whether this is the last step, and it is done.
    pub fn is_over(&self) -> bool {
        self.run().is_none() && self.step().number == self.script.steps.len()
    }

    fn enter(&mut self, run: usize) -> Ask {
        (self.run, self.misses, self.dirty) = (run, 0, false);
        self.typed.clear();
        self.input.clear();
        for text in self.step().told_before(run).cloned().collect::<Vec<_>>() {
            self.board.push(Entry::Told(text));
        }
        let Some(run) = self.run().cloned() else {
            return Ask::Draw;
        };
        if run.hidden {
            let all = run.commands.join("\n");
            self.running = Some(all.clone());
            return Ask::Run(all);
        }
        self.board.push(Entry::Asked(task(&run)));
        Ask::Draw
    }

    /// A line that the learner has typed.
    pub fn line(&mut self, line: &str) -> Ask {
        let line = line.trim();
        self.input.clear();
        let number = self.step().number;
        match (line, self.run().is_some()) {
            ("quit" | "exit", _) => Ask::Quit,
            ("!", _) => Ask::Shell,
            ("again", _) => Ask::GoTo(number),
            ("skip", true) if number < self.script.steps.len() => Ask::GoTo(number + 1),
            ("skip", true) => self.enter(self.step().runs.len()),
            ("hint", true) => self.hint(),
            ("show", true) => self.show(),
            (_, false) if self.is_over() => Ask::Quit,
            // Made anew: whatever was tried, the next step finds what it needs.
            (_, false) => Ask::GoTo(number + 1),
            ("", true) => Ask::Draw,
            (line, true) => {
                let prompt = self.run().map(prompt).unwrap_or_default();
                let text = line.to_string();
                self.board.push(Entry::Command { prompt, text });
                self.running = Some(line.to_string());
                Ask::Run(line.to_string())
            }
        }
    }

    /// What the command says, all of it so far.
    pub fn said(&mut self, text: &str) {
        if self.run().is_some_and(|run| !run.hidden) {
            self.board.say(text);
        }
    }

    /// The command has ended.
    pub fn ended(&mut self, text: &str, end: End) -> Ask {
        self.said(text);
        let line = self.running.take().unwrap_or_default();
        let Some(run) = self.run() else {
            return Ask::Draw;
        };
        if run.hidden {
            return self.enter(self.run + 1);
        }
        let seen = Seen {
            text: text.to_string(),
            ends: vec![end],
        };
        let fine = wrong(run, &line, &seen).is_empty();
        let (is_change, in_words) = (run.is_change(), words_of(&run.commands));
        if matches!(end, End::Code(0) | End::GoesOn) {
            self.typed.push(line.clone());
        }
        let as_written = words_of(&self.typed) == in_words && !self.dirty;
        self.last = (line, seen);
        if fine && (as_written || (!is_change && self.shows())) {
            return self.right();
        }
        Ask::Compare
    }

    /// Whether the last try shows what must be seen; where nothing must be, its words decide.
    fn shows(&self) -> bool {
        let (Some(run), (line, seen)) = (self.run(), &self.last) else {
            return false;
        };
        let last = run.commands.last().map_or("", String::as_str);
        let meant = match (run.expect.is_empty(), run.fails) {
            (false, _) => true,
            (true, true) => first_word(line) == first_word(last),
            (true, false) => words(line) == words(last),
        };
        meant && is_found(seen) && wrong(run, line, seen).is_empty()
    }

    /// What the last try, which was not clearly right, has made; and whether anything was changed.
    pub fn compared(&mut self, made: Made, changed: bool) -> Ask {
        let Some(run) = self.run() else {
            return Ask::Draw;
        };
        let right = run.is_change()
            && match made {
                Made::Same => true,
                Made::Other => false,
                Made::Unknown => self.shows(),
            };
        if right {
            return self.right();
        }
        let (line, seen) = &self.last;
        // Of a block of several commands those before the last one make only a part of it.
        let count = self.typed.len();
        let written = count.checked_sub(1).and_then(|place| run.commands.get(place));
        let on_the_way = count < run.commands.len()
            && written.is_some_and(|command| first_word(command) == first_word(line));
        if on_the_way && seen.ends == [End::Code(0)] {
            return Ask::Draw;
        }
        let why = why(run, line, seen, self.misses + 1 >= HINT_AFTER);
        self.miss(why, changed)
    }

    fn right(&mut self) -> Ask {
        let fails = self.run().is_some_and(|run| run.fails);
        let words = if fails {
            "right: it fails, as it should"
        } else {
            "right"
        };
        self.board.push(Entry::Right(words.to_string()));
        self.enter(self.run + 1)
    }

    fn miss(&mut self, why: String, changed: bool) -> Ask {
        self.board.push(Entry::Wrong(why));
        if changed {
            self.dirty = true;
            let words = "That has changed something: `again` makes the step anew.";
            self.board.push(Entry::Told(words.to_string()));
        }
        self.misses += 1;
        match self.misses {
            ..HINT_AFTER => Ask::Draw,
            HINT_AFTER..SHOW_AFTER => self.hint(),
            SHOW_AFTER.. => self.show(),
        }
    }

    /// Something could not be done.
    pub fn trouble(&mut self, what: &str) -> Ask {
        self.running = None;
        self.board.push(Entry::Wrong(what.to_string()));
        Ask::Draw
    }

    fn hint(&mut self) -> Ask {
        let Some(run) = self.run() else {
            return Ask::Draw;
        };
        let begins = || {
            let first = run.commands.last().map_or("", String::as_str);
            let words: Vec<_> = first.split_ascii_whitespace().take(2).collect();
            vec![format!("it begins with `{}`", words.join(" "))]
        };
        let hints = if run.hints.is_empty() {
            begins()
        } else {
            run.hints.clone()
        };
        for hint in hints {
            self.board.push(Entry::Told(format!("hint: {hint}")));
        }
        Ask::Draw
    }

    fn show(&mut self) -> Ask {
        let commands = self.run().map(|run| run.commands.join("\n")).unwrap_or_default();
        self.board.push(Entry::Told(format!("type this:\n{commands}")));
        Ask::Draw
    }

    /// What a key does.
    pub fn press(&mut self, key: Key) -> Ask {
        if self.running.is_some() {
            return Ask::Draw;
        }
        match key {
            Key::Char('!') if self.input.is_empty() => return Ask::Shell,
            Key::Char(letter) => self.input.push(letter),
            Key::Backspace => drop(self.input.pop()),
            Key::Tab => return self.hint(),
            Key::Escape if self.input.is_empty() => return Ask::Quit,
            Key::Escape => self.input.clear(),
            Key::Enter => {
                let line = std::mem::take(&mut self.input);
                return self.line(&line);
            }
            _ => {}
        }
        Ask::Draw
    }

    /// The page as it is now.
    pub fn page(&self, look: &Look) -> Page {
        let step = self.step();
        let title = vec![
            look.text(
                Role::Plain,
                format!(" LEARN {} of {}   ", step.number, self.script.steps.len()),
            ),
            look.text(Role::Strong, step.title.clone()),
        ];
        let mut board = self.board.clone();
        match self.run() {
            Some(run) if self.running.is_none() => board.push(Entry::Command {
                prompt: prompt(run),
                text: format!("{}_", self.input),
            }),
            Some(_) => {}
            None if self.is_over() => board.push(Entry::Asked("That was all.".to_string())),
            None => board.push(Entry::Asked(format!(
                "{} Enter: the next step",
                look.sign(Sign::Here)
            ))),
        }
        let mut body = vec![Line::default()];
        body.extend(board.lines(look));
        let keys = [
            (look.sign(Sign::Enter), "run"),
            ("Tab", "hint"),
            ("show", "the command"),
            ("again", "step anew"),
            ("skip", ""),
            ("!", "shell"),
            ("Esc", "quit"),
        ];
        Page {
            title: Line::from(title),
            state: format!(
                "{} ",
                labkit::text::count(self.misses, "miss").replace("misss", "misses")
            ),
            focus: body.len().checked_sub(1),
            body,
            rule: String::new(),
            keys: keys
                .map(|(key, word)| (key.to_string(), word.to_string()))
                .to_vec(),
        }
    }
}

/// What a learner is asked to type.
fn task(run: &Run) -> String {
    let place = run.place.as_ref().map(|place| format!(", in {place}"));
    let what = if run.tasks.is_empty() {
        "the next command (`hint` helps)".to_string()
    } else {
        run.tasks.join(" ")
    };
    format!("Your turn{}: {what}", place.unwrap_or_default())
}

/// What a try that stands for all of a run has wrong.
fn wrong(run: &Run, line: &str, seen: &Seen) -> Vec<Miss> {
    let alone = Run {
        commands: vec![line.to_string()],
        ..run.clone()
    };
    misses(&alone, seen)
}

fn is_found(seen: &Seen) -> bool {
    !matches!(seen.ends[..], [End::Code(NOT_EXECUTABLE | NOT_FOUND)])
}

/// Why it does not count, in words; the talk's own pattern only for those who have tried before.
fn why(run: &Run, line: &str, seen: &Seen, exactly: bool) -> String {
    let missing = run.expect.iter().find(|pattern| !pattern.is_in(&seen.text));
    match seen.ends[..] {
        _ if !is_found(seen) => "there is no such command".to_string(),
        [End::TooLong] => format!("it still ran after {:?}, and was ended", run.timeout),
        [End::Code(0)] if run.fails => "it should fail, and it did not".to_string(),
        [End::Code(code @ 1..)] if !run.fails => format!("it failed, with exit code {code}"),
        _ => match missing.filter(|_| exactly) {
            Some(pattern) => format!(
                "that is not it yet: `{}` should be in what it says",
                pattern.as_str()
            ),
            None if wrong(run, line, seen).is_empty() => "that does not do all of it yet".to_string(),
            None => "that does not show it yet".to_string(),
        },
    }
}

fn words_of(lines: &[String]) -> Vec<Vec<String>> {
    lines.iter().map(|line| words(line)).collect()
}

fn words(text: &str) -> Vec<String> {
    let split = text.split(|c: char| c.is_whitespace() || "'\"\\".contains(c));
    split
        .filter(|word| !word.is_empty())
        .map(str::to_string)
        .collect()
}

fn first_word(text: &str) -> Option<String> {
    words(text).into_iter().next()
}

#[cfg(test)]
#[path = "lesson_tests.rs"]
mod tests;
