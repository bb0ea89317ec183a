//! A page that stays on the terminal, and what keys do there.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::cursor::{self, MoveTo};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::style::Print;
use ratatui::crossterm::terminal::{Clear, ClearType, disable_raw_mode};
use ratatui::text::Text;
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::foreground::Foreground;
use super::look::Look;
use super::page::Page;
use crate::Failure;

/// A key, as screens know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A letter, digit or sign; space included.
    Char(char),
    /// Return.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Tabulator.
    Tab,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
}

/// What happens after a key or a tick.
#[derive(Debug)]
pub enum Flow {
    /// The page is drawn again.
    Draw,
    /// Nobody wanted the key: arrows scroll, `?` tells what keys mean, `q` and Escape end.
    Pass,
    /// The screen makes way for a program, and comes back when that ends.
    Run(Box<Command>),
    /// The page makes way for what its keys mean, until the next key.
    Help,
    /// The end.
    Quit,
}

/// What a screen is about.
pub trait Show {
    /// The page as it is now.
    fn page(&mut self, look: &Look) -> Page;

    /// What a key does. Ctrl-C never comes here.
    fn key(&mut self, key: Key) -> Flow;

    /// What Ctrl-C does.
    fn interrupt(&mut self) -> Flow {
        Flow::Quit
    }

    /// Called again and again, at least once in the given time; `Pass` when nothing changed.
    fn tick(&mut self) -> Flow {
        Flow::Pass
    }

    /// What stands on an empty screen while a program that [`Flow::Run`] names begins; without it the
    /// terminal is meanwhile as it was before.
    fn before(&mut self) -> Option<String> {
        None
    }

    /// Called when a program that [`Flow::Run`] named has ended: what it said, if it failed to begin.
    fn back(&mut self, _failed: Option<io::Error>) {}
}

/// Shows it until a key, SIGTERM or SIGHUP ends it. The terminal is as it was before then, also
/// after a panic.
///
/// # Errors
/// When the terminal cannot be drawn on.
pub fn run(show: &mut dyn Show, mut look: Look, tick: Duration) -> Result<(), Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(|error| trouble(&error))?;
    }
    let mut terminal = ratatui::try_init().map_err(|error| trouble(&error))?;
    let result = shown(show, &mut look, tick, &mut terminal, &ended);
    // One that has gone cannot be put back, and nobody is there to be told.
    let _ = ratatui::try_restore();
    result.map_err(|error| trouble(&error))
}

fn trouble(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot draw on the terminal: {error}"))
        .hint("print once instead: --once, --plain or -o json")
}

fn shown(
    show: &mut dyn Show,
    look: &mut Look,
    tick: Duration,
    terminal: &mut DefaultTerminal,
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut scrolled = 0;
    let mut page = draw(show, look, scrolled, terminal)?;
    let mut helped = false;
    let mut next = Instant::now() + tick;
    let keys = Keyboard::new()?;
    while !ended.load(Ordering::Relaxed) {
        let flow = if keys.pressed(next.saturating_duration_since(Instant::now()).min(tick))? {
            match event::read()? {
                Event::Resize(..) => Flow::Draw,
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('c') if control => show.interrupt(),
                        KeyCode::Char('d') if control => Flow::Quit,
                        _ if std::mem::take(&mut helped) => Flow::Draw,
                        code => pressed(show, known(code), &page, look, &mut scrolled),
                    }
                }
                _ => Flow::Pass,
            }
        } else {
            next = Instant::now() + tick;
            show.tick()
        };
        match flow {
            Flow::Quit => break,
            Flow::Pass => continue,
            Flow::Run(command) => beside(show, *command, terminal)?,
            Flow::Help => helped = true,
            Flow::Draw => {}
        }
        if helped {
            measure(look, terminal)?;
            put(&super::help::page(&page, look), look, 0, terminal)?;
        } else {
            page = draw(show, look, scrolled, terminal)?;
        }
    }
    Ok(())
}

/// The terminal that keys come from. crossterm reads one that has gone for ever, and never returns:
/// so whether it is still there is asked before.
struct Keyboard(OwnedFd);

impl Keyboard {
    /// The same one that crossterm reads.
    fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let fd = if stdin.is_terminal() {
            stdin.as_fd().try_clone_to_owned()?
        } else {
            File::open("/dev/tty")?.into()
        };
        Ok(Self(fd))
    }

    /// Whether an event came in this time.
    ///
    /// # Errors
    /// When the terminal has gone.
    fn pressed(&self, patience: Duration) -> io::Result<bool> {
        if event::poll(Duration::ZERO)? {
            return Ok(true);
        }
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, patience) {
            // A signal: the window has another size, or the end was asked for.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let came = fds[0].revents().unwrap_or(PollFlags::empty());
        if came.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return Err(io::Error::other("it has gone"));
        }
        event::poll(Duration::ZERO)
    }
}

/// The page as big as the terminal is now.
fn draw(
    show: &mut dyn Show,
    look: &mut Look,
    scrolled: usize,
    terminal: &mut DefaultTerminal,
) -> io::Result<Page> {
    measure(look, terminal)?;
    let mut page = show.page(look);
    super::help::offer(&mut page);
    put(&page, look, scrolled, terminal)?;
    Ok(page)
}

fn measure(look: &mut Look, terminal: &mut DefaultTerminal) -> io::Result<()> {
    terminal.autoresize()?;
    let size = terminal.size()?;
    (look.width, look.height) = (size.width, size.height);
    Ok(())
}

fn put(page: &Page, look: &Look, scrolled: usize, terminal: &mut DefaultTerminal) -> io::Result<()> {
    let text = Text::from(page.draw(look, scrolled));
    terminal.draw(|frame: &mut Frame<'_>| frame.render_widget(Paragraph::new(text), frame.area()))?;
    Ok(())
}

fn pressed(show: &mut dyn Show, key: Option<Key>, page: &Page, look: &Look, scrolled: &mut usize) -> Flow {
    let Some(key) = key else {
        return Flow::Pass;
    };
    match show.key(key) {
        Flow::Pass => {}
        flow => return flow,
    }
    let room = page.room(look);
    let from = page.offset(look, *scrolled);
    *scrolled = match key {
        Key::Up => from.saturating_sub(1),
        Key::Down => from + 1,
        Key::PageUp => from.saturating_sub(room),
        Key::PageDown => from + room,
        Key::Char('q') | Key::Escape => return Flow::Quit,
        Key::Char('?') => return Flow::Help,
        _ => return Flow::Pass,
    }
    .min(page.last_offset(look));
    Flow::Draw
}

/// Gives the terminal to a program and takes it back.
fn beside(show: &mut dyn Show, mut command: Command, terminal: &mut DefaultTerminal) -> io::Result<()> {
    match show.before() {
        Some(words) => {
            disable_raw_mode()?;
            let (all, top) = (Clear(ClearType::All), MoveTo(0, 0));
            execute!(io::stdout(), all, top, cursor::Show, Print(words), Print("\n"))?;
        }
        None => ratatui::restore(),
    }
    let foreground = Foreground::of_this_process();
    let failed = command.status().err();
    if let Some(foreground) = foreground {
        foreground.take_back();
    }
    *terminal = ratatui::try_init()?;
    // ratatui's own way would ask the terminal for its cursor, and wait for an answer.
    execute!(io::stdout(), Clear(ClearType::All))?;
    show.back(failed);
    Ok(())
}

const fn known(code: KeyCode) -> Option<Key> {
    Some(match code {
        KeyCode::Char(character) => Key::Char(character),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Tab => Key::Tab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    })
}
