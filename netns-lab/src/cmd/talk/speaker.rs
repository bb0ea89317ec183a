//! The speaker's screen and its machine.

use std::io;
use std::time::{Duration, Instant};

use labkit::Failure;
use labkit::screen::{Flow, Key, Look, Page, Show};

use super::hand::{Hand, News};
use crate::edge::talk::notes::Desk;
use crate::engine::talk::Theatre;
use crate::talk::cast;
use crate::talk::stage::{Act, Stage, prompt};

/// A talk on its screen.
pub(super) struct Speaker {
    theatre: Theatre,
    stage: Stage,
    hand: Hand,
    cast: Option<String>,
    film: Option<Film>,
    desk: Option<Desk>,
    began: Instant,
    /// What is to be done at the next tick.
    pending: Option<Act>,
    /// A command of the talk has the terminal, and not a shell.
    elsewhere: bool,
}

/// A recording that plays.
struct Film {
    began: Instant,
    pieces: Vec<(Duration, String)>,
}

impl Speaker {
    pub(super) fn new(theatre: Theatre, number: usize, cast: Option<String>) -> Self {
        let mut stage = Stage::new(theatre.script().clone(), number, cast.is_some());
        let pending = Some(stage.begin(number));
        Self {
            theatre,
            stage,
            hand: Hand::default(),
            cast,
            film: None,
            desk: Desk::open(),
            began: Instant::now(),
            pending,
            elsewhere: false,
        }
    }

    fn perform(&mut self, act: Act) -> Flow {
        let next = match act {
            Act::Nothing | Act::Draw => return Flow::Draw,
            Act::Quit => return Flow::Quit,
            Act::Shell => match self.theatre.look_before() {
                Ok(()) => return Flow::Run(Box::new(self.theatre.shell())),
                Err(failure) => self.trouble(&failure),
            },
            Act::Start => match self.start() {
                Ok(None) => return Flow::Draw,
                Ok(Some(flow)) => return flow,
                Err(failure) => self.trouble(&failure),
            },
            Act::Stop => {
                self.hand.stop();
                match self.film.take() {
                    Some(_) => self.stage.play_ended(),
                    None => Act::Draw,
                }
            }
            Act::Next => {
                self.theatre.end_step();
                let number = self.stage.step().number + 1;
                self.stage.begin(number)
            }
            Act::GoTo(number) => self.go_to(number),
            Act::Play => self.play(),
        };
        if act == next {
            Flow::Draw
        } else {
            self.perform(next)
        }
    }

    /// Starts the command that is due; it may want the terminal.
    fn start(&mut self) -> Result<Option<Flow>, Failure> {
        let Some((run, command)) = self.stage.cue() else {
            return Ok(None);
        };
        let (run, command) = (&run.clone(), &command.to_string());
        if self.stage.is_first() {
            self.theatre.clear_for(run);
        }
        if run.screen {
            self.elsewhere = true;
            self.theatre.look_before()?;
            return Ok(Some(Flow::Run(Box::new(self.theatre.command(run, command)))));
        }
        self.hand.start(&mut self.theatre, run, command)?;
        Ok(None)
    }

    fn trouble(&mut self, failure: &Failure) -> Act {
        self.stage.trouble(failure.message())
    }

    fn go_to(&mut self, number: usize) -> Act {
        self.hand.drop_it();
        self.film = None;
        let made = self.theatre.go_to(number);
        let act = self.stage.begin(number);
        match made {
            Ok(()) => act,
            Err(failure) => self.trouble(&failure),
        }
    }

    fn play(&mut self) -> Act {
        let number = self.stage.step().number;
        let pieces = self
            .cast
            .as_deref()
            .map(|cast| cast::step_of(cast, number))
            .unwrap_or_default();
        if pieces.is_empty() {
            return self.stage.trouble("the recording has nothing of this step");
        }
        self.film = Some(Film {
            began: Instant::now(),
            pieces,
        });
        self.stage.played("")
    }

    fn watch_film(&mut self) -> bool {
        let Some(film) = &self.film else {
            return false;
        };
        let now = film.began.elapsed();
        let text: String = film
            .pieces
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, text)| text.as_str())
            .collect();
        let over = film.pieces.last().is_none_or(|(at, _)| *at <= now);
        self.stage.played(&text);
        if over {
            self.film = None;
            self.stage.play_ended();
        }
        true
    }

    fn watch_command(&mut self) -> Option<Act> {
        let run = self.stage.cue()?.0.clone();
        Some(match self.hand.look(&mut self.theatre, &run)? {
            News::Says(text) => self.stage.said(&text),
            News::Ended(text, end) => self.stage.ended(&text, end),
        })
    }
}

impl Show for Speaker {
    fn page(&mut self, look: &Look) -> Page {
        if let Some(desk) = &self.desk {
            desk.put(serde_json::to_string(&self.stage.notes()).unwrap_or_default());
        }
        self.stage.page(look)
    }

    fn key(&mut self, key: Key) -> Flow {
        let act = self.stage.press(key);
        self.perform(act)
    }

    /// Ctrl-C is for the command, while one runs.
    fn interrupt(&mut self) -> Flow {
        if self.hand.is_busy() || self.film.is_some() {
            return self.key(Key::Escape);
        }
        Flow::Quit
    }

    /// The speaker's old terminal is nobody's business.
    fn before(&mut self) -> Option<String> {
        let (run, command) = self.stage.cue().filter(|_| self.elsewhere)?;
        Some(format!("{}{command}", prompt(run)))
    }

    fn tick(&mut self) -> Flow {
        let moved = self.stage.clock(self.began.elapsed());
        if let Some(act) = self.pending.take() {
            return self.perform(act);
        }
        if self.watch_film() {
            return Flow::Draw;
        }
        match self.watch_command() {
            Some(act) => self.perform(act),
            None if moved => Flow::Draw,
            None => Flow::Pass,
        }
    }

    fn back(&mut self, failed: Option<io::Error>) {
        let _ = self.theatre.look_after();
        if let Some(error) = failed {
            self.pending = Some(self.stage.trouble(&format!("it could not be started: {error}")));
        } else if std::mem::take(&mut self.elsewhere) {
            self.pending = Some(self.stage.was_elsewhere());
        }
    }
}
