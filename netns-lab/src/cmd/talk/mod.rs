//! `netns-lab talk`: tells a talk on stage.

pub(super) mod file;
pub(super) mod hand;
mod speaker;

use std::time::Duration;

use labkit::screen::{Flow, Key, Look, Mode, Page, ScreenArgs, Show, hide, print, terminal};
use labkit::{Failure, Outcome, shell};

use crate::cli::talk::TalkArgs;
use crate::edge::talk::notes as desk;
use crate::engine::talk::Theatre;
use crate::talk::notes::Notes;
use crate::talk::outline::Outline;
use speaker::Speaker;

/// How often a screen looks at what it runs.
pub(super) const TICK: Duration = Duration::from_millis(40);
/// How often the notes are asked for.
const NOTES: Duration = Duration::from_millis(300);

/// Runs `talk`.
pub(super) fn run(args: &TalkArgs) -> Result<Outcome, Failure> {
    if args.notes {
        return notes(&args.screen);
    }
    let talk = file::load(&args.talk)?;
    file::step(&talk, args.step)?;
    let outline = Outline::of(&talk.script);
    match args.screen.mode() {
        Mode::Json => emit_json(&args.screen, &outline)?,
        Mode::Plain | Mode::Once => emit(&args.screen, &outline.plain())?,
        Mode::Live => {
            shell::tell("making the machine of the talk …");
            let theatre = Theatre::open(talk.script, args.talk.host, args.step)?;
            hold_interrupts();
            terminal::run(&mut Speaker::new(theatre, args.step, talk.cast), args.screen.look(), TICK)?;
        }
    }
    Ok(Outcome::Done)
}

/// Ctrl-C in a program that has the terminal for a while is not meant for the talk.
pub(super) fn hold_interrupts() {
    let unheard = std::sync::Arc::default();
    let _ = signal_hook::flag::register(signal_hook::consts::SIGINT, unheard);
}

/// Prints text, without addresses where that is asked for.
pub(super) fn emit(args: &ScreenArgs, text: &str) -> Result<(), Failure> {
    if args.hide_addresses {
        shell::emit(&hide::addresses(text))
    } else {
        shell::emit(text)
    }
}

fn emit_json(args: &ScreenArgs, value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    emit(args, &format!("{text}\n"))
}

fn notes(args: &ScreenArgs) -> Result<Outcome, Failure> {
    let first = read_notes()?;
    match args.mode() {
        Mode::Json => emit_json(args, &first)?,
        Mode::Plain => emit(args, &first.plain())?,
        Mode::Once => print::once(&first.page(&args.look()), &args.look())?,
        Mode::Live => terminal::run(&mut Reader(first), args.look(), NOTES)?,
    }
    Ok(Outcome::Done)
}

fn read_notes() -> Result<Notes, Failure> {
    serde_json::from_str(&desk::read()?)
        .map_err(|error| Failure::failed(format!("the talk's notes are not understood: {error}")))
}

/// The second terminal. When the talk has ended, its last notes stay.
struct Reader(Notes);

impl Show for Reader {
    fn page(&mut self, look: &Look) -> Page {
        self.0.page(look)
    }

    fn key(&mut self, _: Key) -> Flow {
        Flow::Pass
    }

    fn tick(&mut self) -> Flow {
        match read_notes() {
            Ok(notes) if notes != self.0 => {
                self.0 = notes;
                Flow::Draw
            }
            _ => Flow::Pass,
        }
    }
}
