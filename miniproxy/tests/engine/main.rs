//! The engine on a clock that stands still, with tables in memory that fail in every way a restore can.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_match_else,
    clippy::format_collect,
    reason = "a test fails by panicking, and has no callers"
)]

mod accounting;
mod cost;
#[path = "../memory/mod.rs"]
mod memory;
mod pace;
mod refusals;
mod store;
mod world;
