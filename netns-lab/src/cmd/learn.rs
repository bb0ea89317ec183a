//! `netns-lab learn`: the learner types what a talk shows.

use std::io::{self, BufRead as _};
use std::thread;

use labkit::screen::{Flow, Key, Look, Mode, Page, ScreenArgs, Show, terminal};
use labkit::{Failure, Outcome, shell};

use super::talk::hand::{Hand, News};
use super::talk::{TICK, emit, file, hold_interrupts};
use crate::cli::talk::LearnArgs;
use crate::engine::talk::Theatre;
use crate::talk::lesson::{Ask, Lesson};
use crate::talk::outline::Outline;

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
            Ask::Next => {
                self.theatre.end_step();
                self.lesson.begin(self.lesson.step().number + 1)
            }
            Ask::GoTo(number) => match self.theatre.go_to(number) {
                Ok(()) => self.lesson.begin(number),
                Err(failure) => self.lesson.trouble(failure.message()),
            },
        };
        self.perform(next)
    }

    fn start(&mut self, text: &str) -> Ask {
        let Some(run) = self.lesson.run().cloned() else {
            return Ask::Draw;
        };
        self.theatre.clear_for(&run);
        match self.hand.start(&mut self.theatre, &run, text) {
            Ok(()) => Ask::Draw,
            Err(failure) => self.lesson.trouble(failure.message()),
        }
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
