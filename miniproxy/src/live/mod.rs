//! What connections do while one looks: from the kernel's events to a report. Pure.
//!
//! ```text
//! conntrack events ──► tally (who got how many, what is open) ─┐
//! iptables-save -c ──► services (frontends, dice, counters) ───┼─► report ─► page, sentences, JSON
//!                      └► changes (what, and by whom) ─────────┘      └► luck (band, verdict)
//! ```
//!
//! Connections are counted by the connection table's own news and not by the rules' counters: those
//! restart whenever somebody writes a chain anew.

pub mod changes;
pub mod counters;
pub mod dump;
pub mod flow;
pub mod luck;
pub mod overview;
pub mod page;
pub mod pick;
pub mod report;
pub mod sentences;
pub mod services;
pub mod tally;
pub mod unsettled;
pub mod watch;

pub use flow::{Flow, News};
pub use watch::Watch;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod watch_tests;
