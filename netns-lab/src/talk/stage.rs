//! The speaker's screen: what keys do.
//!
//! It knows no machine: it asks for things to be done, and is told what came of them.

use std::time::Duration;

use labkit::screen::Key;

use super::board::{Board, Entry};
use super::notes::Notes;
use super::script::{Run, Script, Step};
use super::verdict::{End, Seen, misses};

/// How many letters a key types.
const LETTERS: usize = 3;

/// What is to be done after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing, and the page is as it was.
    Nothing,
    /// The page is to be drawn again.
    Draw,
    /// The command that is due is to be run.
    Start,
    /// The command that runs is to be ended.
    Stop,
    /// This step begins where the last one has ended.
    Next,
    /// The machine is to be made as it is before this step.
    GoTo(usize),
    /// A shell.
    Shell,
    /// The recording of the step.
    Play,
    /// The end.
    Quit,
}

/// What goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A command waits to be typed or run.
    Ready,
    /// A command runs.
    Running,
    /// The recording plays.
    Playing,
    /// The step is told.
    Told,
}

/// Where a talk is.
#[derive(Debug, Clone)]
pub struct Stage {
    pub(super) script: Script,
    /// The step that is told, as an index.
    step: usize,
    /// The run of it that is due, and the command of that.
    run: usize,
    command: usize,
    /// How many letters of the command are there.
    pub(super) typed: usize,
    pub(super) phase: Phase,
    pub(super) board: Board,
    seen: Seen,
    /// The rule that was written last and is still there.
    pub(super) rule: String,
    /// The speaker has ended the command that runs.
    stopped: bool,
    /// The digits of the step to go to.
    pub(super) number: String,
    pub(super) help: bool,
    /// Commands run without being typed, to the end of the step.
    fast: bool,
    /// All that was run was right, and nothing was left out.
    pub(super) complete: bool,
    /// How many lines the page is scrolled back.
    pub(super) back: usize,
    /// Since the talk began.
    pub(super) time: Duration,
    /// The talk has a recording.
    pub(super) has_cast: bool,
}

impl Stage {
    /// A talk that begins with step `number`.
    pub fn new(script: Script, number: usize, has_cast: bool) -> Self {
        let mut stage = Self {
            script,
            step: 0,
            run: 0,
            command: 0,
            typed: 0,
            phase: Phase::Ready,
            board: Board::default(),
            seen: Seen::default(),
            rule: String::new(),
            stopped: false,
            number: String::new(),
            help: false,
            fast: false,
            complete: true,
            back: 0,
            time: Duration::ZERO,
            has_cast,
        };
        stage.begin(number);
        stage
    }

    /// Step `number` begins. The answer is what is to be done at once: hidden commands are run.
    pub fn begin(&mut self, number: usize) -> Act {
        self.step = number.clamp(1, self.script.steps.len()) - 1;
        (self.run, self.command, self.typed, self.back) = (0, 0, 0, 0);
        self.board = Board::default();
        self.seen = Seen::default();
        (self.fast, self.complete, self.stopped) = (false, true, false);
        self.rule.clear();
        self.due()
    }

    /// The step.
    pub fn step(&self) -> &Step {
        &self.script.steps[self.step]
    }

    /// The run and the command that are due.
    pub fn cue(&self) -> Option<(&Run, &str)> {
        let run = self.step().runs.get(self.run)?;
        Some((run, run.commands.get(self.command).map_or("", String::as_str)))
    }

    /// Whether the command that is due is the first one of its run.
    pub fn is_first(&self) -> bool {
        self.command == 0
    }

    /// What happens without a key.
    fn due(&mut self) -> Act {
        self.phase = if self.cue().is_some() {
            Phase::Ready
        } else {
            Phase::Told
        };
        let hidden = self.cue().is_some_and(|(run, _)| run.hidden);
        if self.phase == Phase::Ready && (hidden || self.fast) {
            self.start()
        } else {
            Act::Draw
        }
    }

    fn start(&mut self) -> Act {
        let Some((run, command)) = self.cue() else {
            return Act::Nothing;
        };
        if !run.hidden {
            let entry = Entry::Command {
                prompt: prompt(run),
                text: command.to_string(),
            };
            self.board.push(entry);
        }
        (self.phase, self.typed, self.back) = (Phase::Running, 0, 0);
        Act::Start
    }

    /// What the command says, all of it so far.
    pub fn said(&mut self, text: &str) -> Act {
        let hidden = self.cue().is_some_and(|(run, _)| run.hidden);
        if hidden || self.phase == Phase::Ready {
            return Act::Nothing;
        }
        self.board.say(text);
        Act::Draw
    }

    /// The command has ended, having said this.
    pub fn ended(&mut self, text: &str, end: End) -> Act {
        self.said(text);
        self.seen.text.push_str(text);
        self.seen.ends.push(end);
        let commands = self.cue().map_or(0, |(run, _)| run.commands.len());
        let done = matches!(end, End::Code(0) | End::GoesOn);
        let cue = self.cue().filter(|_| done);
        let rule = cue.and_then(|(_, command)| rule_after(command));
        self.rule = rule.unwrap_or_else(|| std::mem::take(&mut self.rule));
        self.command += 1;
        if std::mem::take(&mut self.stopped) {
            self.board.push(Entry::Told("stopped".to_string()));
            (self.complete, self.fast) = (false, false);
            self.next_run();
            return self.due();
        }
        if !done || self.command >= commands {
            self.judge();
        }
        self.due()
    }

    /// The command had the terminal; nobody knows what it said.
    pub fn was_elsewhere(&mut self) -> Act {
        self.command += 1;
        if self
            .cue()
            .is_some_and(|(run, _)| self.command >= run.commands.len())
        {
            self.next_run();
        }
        self.due()
    }

    fn next_run(&mut self) {
        self.seen = Seen::default();
        (self.run, self.command, self.typed) = (self.run + 1, 0, 0);
        let step = &self.script.steps[self.step];
        if self.run == step.runs.len() {
            // What the room should leave with.
            let last = step.told_before(self.run).cloned().map(Entry::Told);
            self.board.entries.extend(last);
        }
    }

    /// Says whether the run was as the talk says.
    fn judge(&mut self) {
        let Some(run) = self.step().runs.get(self.run) else {
            return;
        };
        let wrong = misses(run, &self.seen);
        let (hidden, fails) = (run.hidden, run.fails);
        for miss in &wrong {
            self.board.push(Entry::Wrong(miss.to_string()));
        }
        if !wrong.is_empty() {
            (self.complete, self.fast) = (false, false);
        } else if fails {
            self.board
                .push(Entry::Right("it fails, as it should".to_string()));
        } else if !hidden {
            self.board.push(Entry::Right("as expected".to_string()));
        }
        self.next_run();
    }

    /// The recording begins, or goes on with this text.
    pub fn played(&mut self, text: &str) -> Act {
        if self.phase != Phase::Playing {
            self.board = Board::default();
            (self.phase, self.complete, self.back) = (Phase::Playing, false, 0);
        }
        self.board.show_film(text);
        Act::Draw
    }

    /// The recording has ended.
    pub fn play_ended(&mut self) -> Act {
        self.phase = Phase::Told;
        Act::Draw
    }

    /// Something could not be done.
    pub fn trouble(&mut self, what: &str) -> Act {
        self.board.push(Entry::Wrong(what.to_string()));
        self.complete = false;
        self.due()
    }

    /// The time since the talk began; whether the clock shows another one now.
    pub fn clock(&mut self, time: Duration) -> bool {
        let before = std::mem::replace(&mut self.time, time);
        before.as_secs() != time.as_secs()
    }

    /// What only the speaker sees.
    pub fn notes(&self) -> Notes {
        let runs = self
            .step()
            .runs
            .iter()
            .enumerate()
            .skip(self.run)
            .filter(|(_, run)| !run.hidden);
        let next = runs.flat_map(|(index, run)| {
            let from = if index == self.run { self.command } else { 0 };
            run.commands.iter().skip(from).cloned()
        });
        Notes::of(&self.script, self.step(), next.collect(), self.time.as_secs())
    }

    /// What a key does.
    pub fn press(&mut self, key: Key) -> Act {
        if std::mem::take(&mut self.help) {
            return Act::Draw;
        }
        match (key, self.phase) {
            (Key::Up, _) => return self.scroll(1),
            (Key::PageUp, _) => return self.scroll(10),
            (Key::Down, _) => return self.scroll(-1),
            (Key::PageDown, _) => return self.scroll(-10),
            (Key::Escape, Phase::Running | Phase::Playing) => {
                self.stopped = self.phase == Phase::Running;
                return Act::Stop;
            }
            // What is typed ahead must not run anything.
            (_, Phase::Running | Phase::Playing) => return Act::Nothing,
            _ => {}
        }
        self.back = 0;
        if key == Key::Tab {
            return self.order('n');
        }
        if self.typed > 0 {
            return self.type_more(key);
        }
        match key {
            // Whoever types the command as it stands there wants no order.
            Key::Char(letter) if self.begins_with(letter) => self.type_more(key),
            Key::Char(digit) if digit.is_ascii_digit() => {
                self.number.push(digit);
                self.number.truncate(3);
                Act::Draw
            }
            Key::Char('g') => self.go(),
            Key::Backspace | Key::Escape if !self.number.is_empty() => {
                self.number.clear();
                Act::Draw
            }
            Key::Char(letter) if "npbsfr!?q".contains(letter) => self.order(letter),
            Key::Escape => Act::Quit,
            Key::Enter | Key::Right | Key::Char(' ') if self.phase == Phase::Told => self.order('n'),
            _ if self.phase == Phase::Told => Act::Nothing,
            key => self.type_more(key),
        }
    }

    fn scroll(&mut self, lines: isize) -> Act {
        self.back = self.back.saturating_add_signed(lines);
        Act::Draw
    }

    /// While a command is typed no letter is an order.
    fn type_more(&mut self, key: Key) -> Act {
        let length = self.cue().map_or(0, |(_, command)| command.chars().count());
        match key {
            Key::Enter if self.typed >= length => return self.start(),
            Key::Enter => self.typed = length,
            Key::Backspace | Key::Escape => self.typed = 0,
            _ => self.typed = (self.typed + LETTERS).min(length),
        }
        Act::Draw
    }

    fn go(&mut self) -> Act {
        let number = std::mem::take(&mut self.number).parse().unwrap_or(0);
        if self.script.step(number).is_some() {
            return Act::GoTo(number);
        }
        let words = format!("There is no step {number}: 1 to {}.", self.script.steps.len());
        self.board.push(Entry::Told(words));
        Act::Draw
    }

    /// Whether the command that waits begins with this letter.
    fn begins_with(&self, letter: char) -> bool {
        let waits = self.phase == Phase::Ready && self.number.is_empty();
        waits && self.cue().is_some_and(|(_, command)| command.starts_with(letter))
    }

    fn order(&mut self, letter: char) -> Act {
        let number = self.step().number;
        self.number.clear();
        match letter {
            'n' if number == self.script.steps.len() => Act::Nothing,
            'n' if self.complete && self.phase == Phase::Told => Act::Next,
            'n' => Act::GoTo(number + 1),
            'p' => Act::GoTo(number.saturating_sub(1).max(1)),
            'b' => Act::GoTo(number),
            's' => self.skip(),
            'f' if self.phase == Phase::Ready => {
                self.fast = true;
                self.start()
            }
            'r' if self.has_cast => Act::Play,
            '!' => {
                // Nobody knows what is done there.
                self.rule.clear();
                Act::Shell
            }
            '?' => {
                self.help = true;
                Act::Draw
            }
            'q' => Act::Quit,
            _ => Act::Nothing,
        }
    }

    fn skip(&mut self) -> Act {
        if self.phase != Phase::Ready {
            return Act::Nothing;
        }
        self.complete = false;
        self.next_run();
        self.due()
    }
}

/// The rule that the kernel has last when the command has ended well; `None` when it writes none.
/// Where rules went, or came from elsewhere, none is told: a wrong one is worse.
fn rule_after(command: &str) -> Option<String> {
    let words: Vec<_> = command
        .split_ascii_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    let writes = [
        "iptables",
        "nft",
        "miniproxy sync",
        "miniproxy cleanup",
        "netns-lab break",
        "netns-lab fix",
    ];
    let command = words.join(" ");
    if !writes.iter().any(|writer| command.contains(writer)) {
        return None;
    }
    let looks = ["-L", "-S", "-C", "--list", "--list-rules"];
    if words.iter().any(|word| looks.contains(word)) {
        return None;
    }
    let one = command.starts_with("iptables ") && command.matches("iptables").count() == 1;
    let at = words.iter().position(|word| ["-A", "-I"].contains(word));
    let rule = at.filter(|_| one).map(|at| format!(" {}", words[at..].join(" ")));
    Some(rule.unwrap_or_default())
}

/// `$ `, or `web-1 $ ` in a pod.
pub fn prompt(run: &Run) -> String {
    run.place
        .as_ref()
        .map_or_else(|| "$ ".to_string(), |place| format!("{place} $ "))
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
