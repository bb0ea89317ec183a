//! Conditions that kube-proxy does not write, but that say something certain about the first packet of a
//! genuine connection.

use std::net::IpAddr;

use super::super::parse::{mark, network};
use super::condition::{Met, Scene};
use super::state::State;

/// What a client does not call from, unless it is root and means to: `--sport 53` is for answers.
const PRIVILEGED: u16 = 1024;

impl Scene<'_> {
    /// One option with its values, or the name of a module.
    pub(super) fn words(&self, words: &[&str], state: &State) -> Met {
        let (negated, words) = match words {
            ["!", rest @ ..] => (true, rest),
            all => (false, all),
        };
        self.about_packet(words, negated, state)
            .or_else(|| self.about_connection(words, negated, state))
            .or_else(|| self.about_place(words, negated, state))
            .unwrap_or(Met::Unknown)
    }

    /// What stands in its headers.
    fn about_packet(&self, words: &[&str], negated: bool, state: &State) -> Option<Met> {
        let ports = |met: Option<bool>| match met {
            _ if !self.packet.protocol.has_ports() => Met::of(false, negated),
            Some(met) => Met::of(met, negated),
            None => Met::Unknown,
        };
        let source = self.packet.source;
        let is = |met| Some(Met::of(met, negated));
        match words {
            ["-p" | "--protocol", name] => is(self.packet.protocol.is_called(name)),
            [
                "--dport" | "--destination-port" | "--dports" | "--destination-ports",
                list,
            ] => Some(ports(in_ports(list, state.port))),
            ["--sport" | "--source-port" | "--sports" | "--source-ports", list] => {
                Some(ports(of_clients(list)))
            }
            // What pings is an echo request; the first packet of a TCP connection is a SYN.
            ["--icmp-type", kind] => Some(self.echo(&["8", "8/0", "echo-request"], kind, negated)),
            ["--icmpv6-type", kind] => Some(self.echo(&["128", "128/0", "echo-request"], kind, negated)),
            ["--syn"] => is(self.packet.protocol.is_called("tcp")),
            ["--tcp-flags", mask, set] => is(self.packet.protocol.is_called("tcp") && is_syn(mask, set)),
            // Nothing that begins a connection is so large.
            ["-f"] => is(false),
            ["--src-range" | "--dst-range", range] => Some(self.range(words[0], range, negated, state)),
            ["--dst-type", "MULTICAST"] | ["--pkt-type", "multicast"] => is(state.destination.is_multicast()),
            ["--src-type", "MULTICAST" | "BROADCAST"] => is(source.is_multicast()),
            ["--pkt-type", "broadcast"] | ["--dst-type", "BROADCAST"] => match state.destination {
                IpAddr::V4(ip) if ip.is_broadcast() => is(true),
                IpAddr::V4(ip) if ip.octets()[3] == u8::MAX => None,
                _ => is(false),
            },
            _ => None,
        }
    }

    /// What conntrack knows of it.
    fn about_connection(&self, words: &[&str], negated: bool, state: &State) -> Option<Met> {
        let is = |met| Some(Met::of(met, negated));
        let inside = |text: &str, ip: IpAddr| match network(text) {
            Some(network) => Met::of(network.contains(&ip), negated),
            None => Met::Unknown,
        };
        match words {
            ["-m", "connmark", "--mark", mark] => Some(conn_mark(mark, negated, state)),
            ["-m", "connmark", "!", "--mark", mark] => Some(conn_mark(mark, !negated, state)),
            ["--state", states] => Some(self.ct_state(states.split(','), negated, state)),
            ["--ctorigdst", text] => Some(inside(text, self.packet.destination)),
            ["--ctorigsrc", text] => Some(inside(text, self.packet.source)),
            ["--ctorigdstport", list] => Some(match in_ports(list, self.packet.port) {
                Some(met) => Met::of(met, negated),
                None => Met::Unknown,
            }),
            ["--ctproto", name] => is(self.packet.protocol.is_called(name)),
            ["--ctdir", "ORIGINAL"] => is(true),
            ["--ctstatus", "DNAT"] => is(state.rewritten),
            ["--ctstatus", "SNAT"] => is(state.masqueraded),
            ["--ctdir", "REPLY"] | ["--ctstatus", "SEEN_REPLY" | "ASSURED" | "EXPECTED"] => is(false),
            // The nth of those that come: in the long run a share, as with dice.
            ["--mode", "nth" | "random"] | ["--packet", _] if !negated => Some(Met::YES),
            ["--every" | "--probability", _] => {
                let chance = chance(words)?;
                Some(Met::Chance(if negated { 1.0 - chance } else { chance }))
            }
            _ => None,
        }
    }

    /// Where it comes by, and what only modules know.
    fn about_place(&self, words: &[&str], negated: bool, state: &State) -> Option<Met> {
        let is = |met| Some(Met::of(met, negated));
        match words {
            // Counting bytes stops no packet.
            ["--nfacct-name", _] if !negated => Some(Met::YES),
            ["-m", module] if !negated && says_nothing(module) => Some(Met::YES),
            // A genuine packet comes in where replies to its source go out.
            ["--validmark" | "--loose" | "--accept-local"] => Some(Met::YES),
            ["--invert"] => is(false),
            // The two of kube-proxy are read by the parser; others negate them.
            ["--dst-type", "LOCAL"] => is(self.node.is_own(state.destination)),
            ["--src-type", "LOCAL"] => is(state.masqueraded || self.node.is_own(self.packet.source)),
            // What the node makes comes in by no port of a bridge.
            ["--physdev-is-in" | "--physdev-is-bridged"] if self.arriving.is_none() => is(false),
            _ => None,
        }
    }

    fn echo(&self, echo: &[&str], kind: &str, negated: bool) -> Met {
        if self.packet.protocol.has_ports() {
            return Met::No;
        }
        Met::of(echo.contains(&kind) || kind == "any", negated)
    }

    fn range(&self, option: &str, range: &str, negated: bool, state: &State) -> Met {
        let address = match option {
            "--dst-range" => state.destination,
            _ if state.masqueraded => return Met::Unknown,
            _ => self.packet.source,
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
            (Ok(first), Ok(last)) => Met::of((first..=last).contains(&address), negated),
            _ => Met::Unknown,
        }
    }
}

/// The chance that words other than kube-proxy's give: `--every 3`, `--probability 0.5`.
pub fn chance(words: &[&str]) -> Option<f64> {
    match words {
        ["!", words @ ..] => chance(words).map(|chance| 1.0 - chance),
        ["--every", every] => {
            let every: u32 = every.parse().ok().filter(|every| *every > 0)?;
            Some(1.0 / f64::from(every))
        }
        ["--probability", chance] => {
            let chance: f64 = chance.parse().ok()?;
            (0.0..=1.0).contains(&chance).then_some(chance)
        }
        _ => None,
    }
}

/// The mark of the connection, which a new one has not unless a rule gave it one.
fn conn_mark(text: &str, negated: bool, state: &State) -> Met {
    match mark(text) {
        Some((value, mask)) => Met::of(state.conn_mark & mask == value, negated),
        None => Met::Unknown,
    }
}

/// Modules that match nothing by themselves: what is asked stands in their options.
fn says_nothing(module: &str) -> bool {
    matches!(
        module,
        "multiport"
            | "nfacct"
            | "state"
            | "set"
            | "physdev"
            | "iprange"
            | "icmp"
            | "icmp6"
            | "mac"
            | "owner"
            | "length"
            | "pkttype"
            | "string"
            | "addrtype"
            | "tcp"
            | "udp"
            | "sctp"
            | "conntrack"
            | "mark"
            | "recent"
            | "comment"
            | "statistic"
            | "rpfilter"
    )
}

/// Whether `--tcp-flags MASK SET` takes a packet that has SYN and nothing else.
fn is_syn(mask: &str, set: &str) -> bool {
    let asked = mask == "ALL" || mask.split(',').any(|flag| flag == "SYN");
    if asked { set == "SYN" } else { set == "NONE" }
}

/// Whether the port of a client that calls is in a list; `None` where that is luck.
fn of_clients(list: &str) -> Option<bool> {
    let mut all = true;
    let mut any = false;
    for part in list.split(',') {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        any |= last >= PRIVILEGED;
        all &= first <= PRIVILEGED && last == u16::MAX;
    }
    match (any, all) {
        (false, _) => Some(false),
        (_, true) => Some(true),
        _ => None,
    }
}

/// Whether a port is in `80,443,1000:2000`.
fn in_ports(list: &str, port: u16) -> Option<bool> {
    let mut met = false;
    for part in list.split(',') {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        met |= (first.parse::<u16>().ok()?..=last.parse().ok()?).contains(&port);
    }
    Some(met)
}
