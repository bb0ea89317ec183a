//! What a rule does, and which destination it asks for: its words read.

use std::net::{IpAddr, SocketAddr};

use super::super::rule::{Match, Rule, Target};
use super::Verdict;

pub(super) fn asks_for_destination(rule: &Rule) -> bool {
    let port = |condition: &Match| matches!(condition, Match::DestinationPort(_));
    rule.destination().is_some() || rule.matches.iter().any(port)
}

/// What a rule's target does, its words read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect<'r> {
    Nothing,
    Call { chain: &'r str, comes_back: bool },
    Return,
    Accept,
    Stop(Verdict),
    Mark { value: u32, mask: u32 },
    Dnat { ip: IpAddr, port: Option<u16> },
    Masquerade,
    Unknown,
}

pub(super) fn effect(rule: &Rule) -> Effect<'_> {
    match &rule.target {
        None => Effect::Nothing,
        Some(Target::Jump(name)) => named(name),
        Some(Target::Accept) => Effect::Accept,
        Some(Target::Drop) => Effect::Stop(Verdict::Drop),
        Some(Target::Reject) => Effect::Stop(Verdict::Reject),
        Some(Target::Return) => Effect::Return,
        Some(Target::SetXmark { value, mask }) => Effect::Mark {
            value: *value,
            mask: *mask,
        },
        Some(Target::Masquerade { .. }) => Effect::Masquerade,
        Some(Target::Dnat(to)) => dnat(to),
        Some(Target::Other(words)) => match words.as_slice() {
            [option, chain] if option == "-g" => Effect::Call {
                chain,
                comes_back: false,
            },
            [option, name, ..] if option == "-j" => foreign(name),
            _ => Effect::Unknown,
        },
    }
}

fn dnat(to: &str) -> Effect<'_> {
    if let Ok(to) = to.parse::<SocketAddr>() {
        return Effect::Dnat {
            ip: to.ip(),
            port: Some(to.port()),
        };
    }
    match to.parse() {
        Ok(ip) => Effect::Dnat { ip, port: None },
        Err(_) => Effect::Unknown,
    }
}

/// Targets that need no option look like chains.
fn named(name: &str) -> Effect<'_> {
    match foreign(name) {
        Effect::Unknown => Effect::Call {
            chain: name,
            comes_back: true,
        },
        known => known,
    }
}

/// Targets that kube-proxy does not use, as far as they are plain.
fn foreign(name: &str) -> Effect<'_> {
    match name {
        "REJECT" => Effect::Stop(Verdict::Reject),
        "SNAT" | "MASQUERADE" => Effect::Masquerade,
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "CHECKSUM" | "TCPMSS" | "CLASSIFY" | "DSCP"
        | "TOS" | "TTL" | "HL" | "SET" => Effect::Nothing,
        _ => Effect::Unknown,
    }
}
