//! A talk: one Markdown file that is told on stage, learned at home, checked and recorded.
//!
//! Everything here is pure: text in, steps, verdicts, pages and recordings out.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`script`] | a talk, its steps and their runs |
//! | [`fence`] | the words behind a fence, and the commands between two |
//! | [`outline`] | what a talk will say, without running it |
//! | [`read`] | Markdown → script, or what is wrong in which line |
//! | [`verdict`] | what a run showed against what it must show |
//! | [`report`] | what `check` found, as lines and as JSON |
//! | [`board`] | commands, what they said and whether it was right, as lines of any width |
//! | [`stage`] | the speaker's screen: what keys do, and the page |
//! | [`notes`] | what only the speaker sees |
//! | [`lesson`] | the learner's screen: what was typed, whether it counts, hints |
//! | [`cast`] | a recording: written, and read again to be played |
//! | `picture` | the same as a picture that moves |
//! | [`trail`] | what commands changed on a machine that is not theirs, and how it is undone |
//! | [`state`] | what a machine is like, to compare two ways to the same step |

pub mod board;
pub mod cast;
pub mod fence;
pub mod lesson;
pub mod notes;
pub mod outline;
mod picture;
pub mod read;
pub mod report;
pub mod script;
pub mod stage;
mod stage_page;
pub mod state;
pub mod trail;
pub mod verdict;
