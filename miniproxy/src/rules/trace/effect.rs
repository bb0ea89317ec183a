//! What a rule does, and which destination it asks for: its words read.

use std::net::{IpAddr, SocketAddr};

use super::super::parse::mark;
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
    Call {
        chain: &'r str,
        comes_back: bool,
    },
    Return,
    Accept,
    Stop(Verdict),
    Mark {
        value: u32,
        mask: u32,
    },
    ConnMark(ConnMark),
    Dnat {
        ip: IpAddr,
        port: Option<u16>,
    },
    /// To the node itself.
    Redirect {
        port: Option<u16>,
    },
    /// The connection is not tracked.
    NoTrack,
    Masquerade,
    Unknown,
}

/// What CONNMARK does between the mark of the packet and that of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnMark {
    Set { value: u32, mask: u32 },
    Save { packet: u32, connection: u32 },
    Restore { packet: u32, connection: u32 },
}

impl ConnMark {
    fn of(words: &[String]) -> Option<Self> {
        let value = |option: &str| {
            let at = words.iter().position(|word| word == option)?;
            words
                .get(at + 1)
                .and_then(|value| mark(value))
                .map(|(value, _)| value)
        };
        let masks = || {
            let both = value("--mask");
            let of = |option| value(option).or(both).unwrap_or(u32::MAX);
            (of("--nfmask"), of("--ctmask"))
        };
        match words.first().map(String::as_str) {
            Some("--set-xmark") => {
                let (value, mask) = mark(words.get(1)?)?;
                Some(Self::Set { value, mask })
            }
            Some("--save-mark") => {
                let (packet, connection) = masks();
                Some(Self::Save { packet, connection })
            }
            Some("--restore-mark") => {
                let (packet, connection) = masks();
                Some(Self::Restore { packet, connection })
            }
            _ => None,
        }
    }

    /// The marks of packet and connection afterwards.
    pub(super) fn applied(self, mark: u32, conn_mark: u32) -> (u32, u32) {
        match self {
            Self::Set { value, mask } => (mark, (conn_mark & !mask) ^ value),
            Self::Save { packet, connection } => (mark, (conn_mark & !connection) ^ (mark & packet)),
            Self::Restore { packet, connection } => ((mark & !packet) ^ (conn_mark & connection), conn_mark),
        }
    }
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
            [option, name, rest @ ..] if option == "-j" => target(name, rest),
            _ => Effect::Unknown,
        },
    }
}

/// A target with its options.
fn target<'r>(name: &'r str, options: &'r [String]) -> Effect<'r> {
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    match (name, words.as_slice()) {
        ("CONNMARK", _) => ConnMark::of(options).map_or(Effect::Unknown, Effect::ConnMark),
        ("DNAT", _) => dnat_words(options),
        // The other forms are read by the parser.
        ("MARK", ["--and-mark", bits]) => mark(bits).map_or(Effect::Unknown, |(bits, _)| Effect::Mark {
            value: 0,
            mask: !bits,
        }),
        ("CT", ["--notrack"]) => Effect::NoTrack,
        // Which helper reads along is no matter to the first packet.
        ("CT", ["--helper" | "--timeout" | "--zone-orig" | "--zone-reply", _]) => Effect::Nothing,
        ("REDIRECT", ["--to-ports", port, ..]) => match port.parse() {
            Ok(port) => Effect::Redirect { port: Some(port) },
            Err(_) => Effect::Unknown,
        },
        _ => foreign(name),
    }
}

/// How an address is kept for a client is no matter where there is one address.
fn dnat_words(words: &[String]) -> Effect<'_> {
    let words = words.iter().map(String::as_str);
    let mut rest = words.filter(|word| !matches!(*word, "--persistent" | "--random" | "--random-fully"));
    match (rest.next(), rest.next(), rest.next()) {
        (Some("--to-destination"), Some(to), None) => dnat(to),
        _ => Effect::Unknown,
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
        Effect::Unknown if !NEVER_CHAINS.contains(&name) => Effect::Call {
            chain: name,
            comes_back: true,
        },
        known => known,
    }
}

/// Targets that do what this program does not follow, with no option that would show it.
const NEVER_CHAINS: [&str; 7] = [
    "QUEUE", "NFQUEUE", "TPROXY", "TARPIT", "MIRROR", "SYNPROXY", "HMARK",
];

/// Targets that kube-proxy does not use, as far as they are plain.
fn foreign(name: &str) -> Effect<'_> {
    match name {
        "REJECT" => Effect::Stop(Verdict::Reject),
        "SNAT" | "MASQUERADE" => Effect::Masquerade,
        "REDIRECT" => Effect::Redirect { port: None },
        "NOTRACK" => Effect::NoTrack,
        "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "CHECKSUM" | "TCPMSS" | "CLASSIFY" | "DSCP"
        | "TOS" | "TTL" | "HL" | "SET" | "SECMARK" | "CONNSECMARK" | "TEE" | "IDLETIMER" | "LED"
        | "RATEEST" | "ECN" | "TCPOPTSTRIP" => Effect::Nothing,
        _ => Effect::Unknown,
    }
}
