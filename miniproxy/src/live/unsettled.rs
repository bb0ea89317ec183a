//! Connections of one node of which it is not known yet which rules they met.
//!
//! Rules and connections are told by different voices, and neither says when. What came before a
//! mark, after which nobody is found to have written rules, met those that were read last.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::services::{Door, Key};

/// So many connections to a Service by one of its doors, that one backend got, or none.
pub type Counts = BTreeMap<(Key, Door, Option<SocketAddr>), u64>;

/// The connections, before and after the last mark.
#[derive(Debug, Default)]
pub struct Unsettled {
    before: Counts,
    after: Counts,
}

impl Unsettled {
    /// A connection began.
    pub fn began(&mut self, key: Key, door: Door, backend: Option<SocketAddr>) {
        *self.after.entry((key, door, backend)).or_default() += 1;
    }

    /// It is asked from now on whether rules were written.
    pub fn mark(&mut self) {
        for (kind, count) in std::mem::take(&mut self.after) {
            *self.before.entry(kind).or_default() += count;
        }
    }

    /// What came before the mark.
    pub fn take_before(&mut self) -> Counts {
        std::mem::take(&mut self.before)
    }

    /// What came after the mark.
    pub fn take_after(&mut self) -> Counts {
        std::mem::take(&mut self.after)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}
