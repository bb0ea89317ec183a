//! What a packet can have become at one place, and with which chance.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::set::TableName;
use super::total;

/// A rule, or (`number` 0) the policy of a built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot<'a> {
    pub(super) table: TableName,
    pub(super) chain: &'a str,
    pub(super) number: usize,
}

/// Everything about a packet that rules change. The destination comes first: states are looked up
/// by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State<'a> {
    pub(super) destination: IpAddr,
    pub(super) port: u16,
    pub(super) mark: u32,
    /// The mark of its connection.
    pub(super) conn_mark: u32,
    /// The mark before POSTROUTING.
    pub(super) mark_before: Option<u32>,
    /// A DNAT rule took it.
    pub(super) rewritten: bool,
    pub(super) masqueraded: bool,
    /// Its connection is not tracked: the nat table is not asked.
    pub(super) untracked: bool,
    /// A nat rule that asks for the destination took it.
    pub(super) claimed: bool,
    /// What accepted it in the filter table.
    pub(super) by: Option<Spot<'a>>,
    /// The doubt that it is part of.
    pub(super) doubt: Option<usize>,
}

/// States with the share of packets in each. For a state in doubt that is at most.
pub(super) type States<'a> = BTreeMap<State<'a>, f64>;

impl State<'_> {
    /// A packet that no rule has changed; of all states with this destination, the first in order.
    pub(super) fn new(destination: IpAddr, port: u16) -> Self {
        Self {
            destination,
            port,
            mark: 0,
            conn_mark: 0,
            mark_before: None,
            rewritten: false,
            masqueraded: false,
            untracked: false,
            claimed: false,
            by: None,
            doubt: None,
        }
    }
}

pub(super) fn add<'a>(states: &mut States<'a>, state: State<'a>, share: f64) {
    let sum = states.entry(state).or_default();
    *sum += share;
    if state.doubt.is_some() {
        // Both branches of a doubt carry all of its share, and may meet again.
        *sum = sum.min(1.0);
    }
}

pub(super) fn merge<'a>(states: &mut States<'a>, others: States<'a>) {
    for (state, share) in others {
        add(states, state, share);
    }
}

pub(super) fn certain(states: &States<'_>) -> f64 {
    let certain = states.iter().filter(|(state, _)| state.doubt.is_none());
    total(certain.map(|(_, share)| *share))
}
