//! The flags that every screen has.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use terminal_colorsaurus::{QueryOptions, ThemeMode, theme_mode};

use super::look::{Glyphs, Look, Theme};
use crate::shell::OutputFormat;

const HEADING: &str = "How it looks";

/// For which ground colours are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ThemeChoice {
    /// The terminal is asked for its ground.
    #[default]
    Auto,
    /// For a light ground, as most projectors have.
    Light,
    /// For a dark ground.
    Dark,
    /// No colours.
    Mono,
}

/// How a screen looks, and whether it is one.
#[derive(Debug, Clone, Default, Args)]
pub struct ScreenArgs {
    /// Sentences, one fact a line: for screen readers and for pasting
    #[arg(long, help_heading = HEADING, conflicts_with = "output")]
    pub plain: bool,
    /// Only characters of ASCII
    #[arg(long, help_heading = HEADING)]
    pub ascii: bool,
    /// Colours for which ground
    #[arg(long, help_heading = HEADING, value_enum, default_value_t)]
    pub theme: ThemeChoice,
    /// Show names in place of addresses, so that a screen can be shared
    #[arg(long, help_heading = HEADING)]
    pub hide_addresses: bool,
    /// Print once, even where a screen could stay
    #[arg(long, help_heading = HEADING)]
    pub once: bool,
    /// How to print
    #[arg(short, long, help_heading = HEADING, value_enum, default_value_t)]
    pub output: OutputFormat,
}

/// What a command does with what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// JSON for scripts.
    Json,
    /// Sentences.
    Plain,
    /// The screen, printed once.
    Once,
    /// The screen, which stays until a key ends it.
    Live,
}

impl ScreenArgs {
    /// What is asked for; a screen stays only where both ends are a terminal that can move its cursor.
    pub fn mode(&self) -> Mode {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        match (self.output, self.plain) {
            (OutputFormat::Json, _) => Mode::Json,
            (_, true) => Mode::Plain,
            _ if self.once || dumb || !terminal => Mode::Once,
            _ => Mode::Live,
        }
    }

    /// What the place that is printed to can show: the terminal's size, else 80x24.
    pub fn look(&self) -> Look {
        let size = terminal_size::terminal_size();
        let (width, height) = size.map_or((80, 24), |(width, height)| (width.0, height.0));
        Look {
            glyphs: if self.ascii {
                Glyphs::Ascii
            } else {
                Glyphs::Unicode
            },
            theme: self.theme(),
            hide: self.hide_addresses,
            width,
            height,
        }
    }

    /// `NO_COLOR`, files and pipes have no colours, unless `CLICOLOR_FORCE` or `--theme` wants them.
    fn theme(&self) -> Theme {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let forced = set("CLICOLOR_FORCE");
        let terminal =
            std::io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        if set("NO_COLOR") || !(terminal || forced) {
            return Theme::Mono;
        }
        match self.theme {
            ThemeChoice::Light => Theme::Light,
            ThemeChoice::Dark => Theme::Dark,
            ThemeChoice::Mono => Theme::Mono,
            ThemeChoice::Auto => asked(),
        }
    }
}

/// What the terminal says of its ground (OSC 11). Most that do not answer are dark.
fn asked() -> Theme {
    let mut options = QueryOptions::default();
    options.timeout = Duration::from_millis(200);
    match theme_mode(options) {
        Ok(ThemeMode::Light) => Theme::Light,
        _ => Theme::Dark,
    }
}
