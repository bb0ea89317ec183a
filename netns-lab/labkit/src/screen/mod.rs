//! Screens: one look for all of them, on a terminal of any size, on paper, and in black and white.
//!
//! A command makes a [`Page`]; this module cuts it to size, prints it once or keeps it on the
//! terminal while keys are pressed. Nothing here knows what a page is about.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`flags`] | the flags that every screen has |
//! | [`foreground`] | who has the terminal |
//! | [`look`] | signs, colours and sizes: what a place to draw on can show |
//! | [`mark`] | how one backend is told from another, with and without colours |
//! | [`page`] | title, body, the real rule, the keys; cut to size |
//! | [`hide`] | addresses, before they are shown to strangers |
//! | [`print`] | a page as text, with or without colours |
//! | [`terminal`] | a page that stays, and what keys do |

pub mod flags;
pub mod foreground;
mod help;
pub mod hide;
pub mod look;
pub mod mark;
pub mod page;
pub mod print;
pub mod terminal;

pub use flags::{Mode, ScreenArgs};
pub use foreground::Foreground;
pub use look::{Glyphs, Look, Role, Sign, Theme};
pub use mark::Mark;
pub use page::Page;
pub use ratatui::text::{Line, Span};
pub use terminal::{Flow, Key, Show};
