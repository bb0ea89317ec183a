//! `netns-lab learn`: the learner types what a talk shows.

use std::io::{self, BufRead as _};
use std::thread;

use labkit::screen::{Flow, Key, Look, Mode, Page, ScreenArgs, Show, terminal};
use labkit::{Failure, Outcome, shell};

use super::talk::hand::{Hand, News};
use super::talk::{TICK, emit, file, hold_interrupts};
use crate::cli::talk::LearnArgs;
use crate::engine::talk::Theatre;
use crate::talk::lesson::{Ask, Lesson, Made};
use crate::talk::outline::Outline;
use crate::talk::script::Run;
use crate::talk::state;

/// Runs `learn`.
pub(super) fn run(args: &LearnArgs) -> Result<Outcome, Failure> {
    let talk = file::load(&args.talk)?;
    file::step(&talk, args.step)?;
    if args.screen.mode() == Mode::Json {
        shell::emit_json(&Outline::of(&talk.script))?;
        return Ok(Outcome::Done);
    }
    let theatre = Theatre::open(talk.script, args.talk.host, args.step)?;
    let mut pupil = Pupil {
        lesson: Lesson::new(theatre.script().clone()),
        theatre,
        hand: Hand::default(),
        pending: None,
        yard: Yard::default(),
    };
    let first = pupil.lesson.begin(args.step);
    if args.screen.mode() == Mode::Live {
        pupil.pending = Some(first);
        hold_interrupts();
        terminal::run(&mut pupil, args.screen.look(), TICK)?;
        return Ok(Outcome::Done);
    }
    pupil.by_line(&args.screen, first)
}

struct Pupil {
    theatre: Theatre,
    lesson: Lesson,
    hand: Hand,
    pending: Option<Ask>,
    yard: Yard,
}

/// What the machine was like before the run that is tried.
#[derive(Default)]
struct Yard {
    /// The step and the line of the run.
    of: (usize, usize),
    before: Vec<String>,
    /// Before the last try.
    lately: Vec<String>,
    /// What the written commands change.
    goal: Option<Vec<String>>,
}

impl Pupil {
    fn perform(&mut self, ask: Ask) -> Flow {
        let next = match ask {
            Ask::Draw => return Flow::Draw,
            Ask::Quit => return Flow::Quit,
            Ask::Shell => match self.theatre.look_before() {
                Ok(()) => return Flow::Run(Box::new(self.theatre.shell())),
                Err(failure) => self.lesson.trouble(failure.message()),
            },
            Ask::Run(text) => self.start(&text),
            Ask::Compare => match self.compare() {
                Ok((made, changed)) => self.lesson.compared(made, changed),
                Err(failure) => self.lesson.trouble(failure.message()),
            },
            Ask::GoTo(number) => {
                self.yard = Yard::default();
                match self.theatre.go_to(number) {
                    Ok(()) => self.lesson.begin(number),
                    Err(failure) => self.lesson.trouble(failure.message()),
                }
            }
        };
        self.perform(next)
    }

    fn start(&mut self, text: &str) -> Ask {
        let Some(run) = self.lesson.run().cloned() else {
            return Ask::Draw;
        };
        self.theatre.clear_for(&run);
        if !run.hidden
            && let Err(failure) = self.look(&run)
        {
            return self.lesson.trouble(failure.message());
        }
        match self.hand.start(&mut self.theatre, &run, text) {
            Ok(()) => Ask::Draw,
            Err(failure) => self.lesson.trouble(failure.message()),
        }
    }

    /// Remembers what the machine is like before a try.
    fn look(&mut self, run: &Run) -> Result<(), Failure> {
        let of = (self.lesson.step().number, run.line);
        self.yard.lately = self.theatre.state()?;
        if self.yard.of != of {
            let before = self.yard.lately.clone();
            self.yard = Yard {
                of,
                lately: before.clone(),
                before,
                goal: None,
            };
        }
        Ok(())
    }

    /// What the tries have made of the machine, and whether the last one has changed anything.
    fn compare(&mut self) -> Result<(Made, bool), Failure> {
        let now = self.theatre.state()?;
        let changed = now != self.yard.lately;
        let Some(run) = self.lesson.run().filter(|run| run.is_change()) else {
            return Ok((Made::Unknown, changed));
        };
        let line = run.line;
        let goal = match self.yard.goal.take() {
            Some(goal) => goal,
            None => self.goal(line)?,
        };
        let made = match &goal {
            goal if goal.is_empty() => Made::Unknown,
            goal if *goal == state::differences(&self.yard.before, &now) => Made::Same,
            _ => Made::Other,
        };
        self.yard.goal = Some(goal);
        Ok((made, changed))
    }

    /// What the written commands of a run change, on a machine of their own.
    fn goal(&self, line: usize) -> Result<Vec<String>, Failure> {
        let step = self.lesson.step();
        let mut theatre = Theatre::open(self.theatre.script().clone(), false, step.number)?;
        let mut before = Vec::new();
        for run in step.runs.iter().filter(|run| run.hidden || run.is_change()) {
            if run.line == line {
                before = theatre.state()?;
            }
            theatre.play(run)?;
            if run.line == line {
                break;
            }
        }
        Ok(state::differences(&before, &theatre.state()?))
    }

    /// What became of the command; `None` while none runs.
    fn watch(&mut self) -> Option<Ask> {
        let run = self.lesson.run()?.clone();
        Some(match self.hand.look(&mut self.theatre, &run)? {
            News::Says(text) => {
                self.lesson.said(&text);
                Ask::Draw
            }
            News::Ended(text, end) => self.lesson.ended(&text, end),
        })
    }

    /// Without a terminal: lines in, lines out.
    fn by_line(&mut self, args: &ScreenArgs, first: Ask) -> Result<Outcome, Failure> {
        let (mut ask, mut told) = (first, (0, 0));
        let mut lines = io::stdin().lock().lines();
        loop {
            let quits = self.settle(ask);
            told = self.tell(args, told)?;
            if quits || self.lesson.is_over() {
                break;
            }
            ask = if self.lesson.run().is_none() {
                self.lesson.line("")
            } else {
                match lines.next().transpose() {
                    Ok(Some(line)) => self.lesson.line(&line),
                    _ => break,
                }
            };
        }
        Ok(if self.lesson.is_over() {
            Outcome::Done
        } else {
            Outcome::No
        })
    }

    /// Does what is asked, and waits until nothing runs. Whether it is the end.
    fn settle(&mut self, ask: Ask) -> bool {
        // A shell has no place among lines.
        if ask != Ask::Shell && matches!(self.perform(ask), Flow::Quit) {
            return true;
        }
        while let Some(ask) = self.watch() {
            thread::sleep(TICK / 8);
            if matches!(self.perform(ask), Flow::Quit) {
                return true;
            }
        }
        false
    }

    /// What of the board was not told yet; how far it is told now, of which step.
    fn tell(&self, args: &ScreenArgs, told: (usize, usize)) -> Result<(usize, usize), Failure> {
        let step = self.lesson.step();
        let entries = &self.lesson.board().entries;
        let from = if told.0 == step.number && told.1 <= entries.len() {
            told.1
        } else {
            0
        };
        let mut text = String::new();
        if from == 0 {
            text += &format!(
                "\nStep {}: {}\n",
                step.number,
                labkit::text::printable(&step.title)
            );
        }
        text.extend(entries[from..].iter().map(crate::talk::board::Entry::plain));
        emit(args, &text)?;
        Ok((step.number, entries.len()))
    }
}

impl Show for Pupil {
    fn page(&mut self, look: &Look) -> Page {
        self.lesson.page(look)
    }

    fn key(&mut self, key: Key) -> Flow {
        if key == Key::Escape && self.hand.is_busy() {
            self.hand.stop();
            return Flow::Draw;
        }
        let ask = self.lesson.press(key);
        self.perform(ask)
    }

    /// Ctrl-C is for the command, while one runs.
    fn interrupt(&mut self) -> Flow {
        if self.hand.is_busy() {
            return self.key(Key::Escape);
        }
        Flow::Quit
    }

    fn back(&mut self, _: Option<io::Error>) {
        let _ = self.theatre.look_after();
    }

    fn tick(&mut self) -> Flow {
        let ask = self.pending.take().or_else(|| self.watch());
        ask.map_or(Flow::Pass, |ask| self.perform(ask))
    }
}
