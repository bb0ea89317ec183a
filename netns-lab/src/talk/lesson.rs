//! The learner's screen: what was typed, whether it counts, and hints.

use labkit::screen::{Key, Line, Look, Page, Role, Sign};

use super::board::{Board, Entry};
use super::script::{Run, Script, Step};
use super::stage::prompt;
use super::verdict::{End, NOT_EXECUTABLE, NOT_FOUND, Seen, misses};

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
    /// The next step begins.
    Next,
    /// The machine is to be made as it is before this step.
    GoTo(usize),
    /// A shell.
    Shell,
    /// The end.
    Quit,
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
    /// What the commands of this run said so far.
    said: String,
    misses: usize,
    /// All of the step was done.
    complete: bool,
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
            said: String::new(),
            misses: 0,
            complete: true,
        }
    }

    /// Step `number` begins.
    pub fn begin(&mut self, number: usize) -> Ask {
        self.step = number.clamp(1, self.script.steps.len()) - 1;
        self.complete = true;
        self.board = Board::default();
        let step = self.step().clone();
        for text in &step.prose {
            self.board.push(Entry::Told(text.clone()));
        }
        for question in &step.predict {
            self.board.push(Entry::Asked(question.clone()));
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
        (self.run, self.misses) = (run, 0);
        self.said.clear();
        self.input.clear();
        if let Some(place) = self.run().filter(|run| !run.hidden).and_then(|run| run.place.clone()) {
            self.board.push(Entry::Told(format!("You are in {place} now.")));
        }
        match self.run() {
            Some(run) if run.hidden => {
                let all = run.commands.join("\n");
                self.running = Some(all.clone());
                Ask::Run(all)
            }
            _ => Ask::Draw,
        }
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
            ("hint", true) => self.hint(),
            ("show", true) => self.show(),
            (_, false) if self.is_over() => Ask::Quit,
            (_, false) if self.complete => Ask::Next,
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
        self.said.push_str(text);
        let Some(run) = self.run() else {
            return Ask::Draw;
        };
        if run.hidden {
            return self.enter(self.run + 1);
        }
        match judged(run, &line, &self.said, end) {
            Judged::Right => {
                let words = if run.fails { "right: it fails, as it should" } else { "right" };
                self.board.push(Entry::Right(words.to_string()));
                self.enter(self.run + 1)
            }
            Judged::OnTheWay => Ask::Draw,
            Judged::Miss(why) => {
                self.board.push(Entry::Wrong(why));
                self.misses += 1;
                match self.misses {
                    ..HINT_AFTER => Ask::Draw,
                    HINT_AFTER..SHOW_AFTER => self.hint(),
                    SHOW_AFTER.. => self.show(),
                }
            }
        }
    }

    /// Something could not be done.
    pub fn trouble(&mut self, what: &str) -> Ask {
        self.running = None;
        self.complete = false;
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
        let hints = if run.hints.is_empty() { begins() } else { run.hints.clone() };
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
            look.text(Role::Plain, format!(" LEARN {} of {}   ", step.number, self.script.steps.len())),
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
            None => board.push(Entry::Asked(format!("{} Enter: the next step", look.sign(Sign::Here)))),
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
            state: format!("{} ", labkit::text::count(self.misses, "miss").replace("misss", "misses")),
            focus: body.len().checked_sub(1),
            body,
            rule: String::new(),
            keys: keys.map(|(key, word)| (key.to_string(), word.to_string())).to_vec(),
        }
    }
}

/// What an attempt is worth.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Right,
    OnTheWay,
    Miss(String),
}

/// Whatever shows what must be seen is right. Where nothing must be seen, the words decide.
fn judged(run: &Run, line: &str, said: &str, end: End) -> Judged {
    let last = run.commands.last().map_or("", String::as_str);
    let seen = Seen {
        text: said.to_string(),
        ends: vec![end],
    };
    let alone = Run {
        commands: vec![line.to_string()],
        ..run.clone()
    };
    let started = !matches!(end, End::Code(NOT_EXECUTABLE | NOT_FOUND));
    let wrong = misses(&alone, &seen);
    let meant = match (run.expect.is_empty(), run.fails) {
        (false, _) => true,
        (true, true) => first_word(line) == first_word(last),
        (true, false) => words(line) == words(last),
    };
    if started && meant && wrong.is_empty() {
        return Judged::Right;
    }
    let earlier = run.commands.iter().rev().skip(1).any(|command| first_word(command) == first_word(line));
    if end == End::Code(0) && earlier {
        return Judged::OnTheWay;
    }
    let why = wrong.first().filter(|_| started).map(ToString::to_string);
    Judged::Miss(why.unwrap_or_else(|| "that is not it yet".to_string()))
}

fn words(text: &str) -> Vec<String> {
    let split = text.split(|c: char| c.is_whitespace() || "'\"\\".contains(c));
    split.filter(|word| !word.is_empty()).map(str::to_string).collect()
}

fn first_word(text: &str) -> Option<String> {
    words(text).into_iter().next()
}

#[cfg(test)]
#[path = "lesson_tests.rs"]
mod tests;
