//! A talk: one Markdown file that is told on stage, learned at home, checked and recorded.
//!
//! Everything here is pure: text in, steps, verdicts, pages and recordings out.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`script`] | a talk, its steps and their runs |
//! | [`fence`] | the words behind a fence, and the commands between two |
//! | [`read`] | Markdown → script, or what is wrong in which line |
//! | [`verdict`] | what a run showed against what it must show |
//! | [`report`] | what `check` found, as lines and as JSON |
//! | [`cast`] | a recording: written, and read again to be played |
//! | [`state`] | what a machine is like, to compare two ways to the same step |

pub mod cast;
pub mod fence;
pub mod read;
pub mod report;
pub mod script;
pub mod state;
pub mod verdict;
