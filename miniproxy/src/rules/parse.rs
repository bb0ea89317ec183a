//! `iptables-save` text → chains of rules.
//!
//! Reads what either flavour prints, with or without counters. Words that are not known are kept
//! as they stand, so that a foreign rule is never taken for another one.

use ipnet::IpNet;

pub use super::dump::{DumpError, Reader, parse};
use super::rule::{Clauses, Match, Probability, Rule, Side, Target};
use crate::model::Protocol;

/// `[12:345] -A CHAIN …` → the chain and the rule.
pub(super) fn rule_line(line: &str) -> Option<(String, Rule)> {
    let line = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1.trim_start(),
        None => line,
    };
    // A chain's name has no blanks, and iptables-save never puts it in quotes.
    let line = line.strip_prefix("-A ")?.trim_start();
    let (chain, words) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    Some((chain.to_string(), rule(&split(words)?)))
}

/// Splits a line into words as iptables does: double quotes hold words together, a backslash in
/// them takes the next character as it is.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(characters.next()?),
            ' ' | '\t' if !quoted => words.extend(word.take()),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

/// Reads the words of one rule, one option after the other.
fn rule(words: &[String]) -> Rule {
    let mut reader = Words { words, at: 0 };
    let mut clauses = Clauses::default();
    while reader.peek().is_some() {
        if matches!(reader.peek(), Some("-j" | "-g")) {
            clauses.target = Some(reader.target());
        } else if let Some(condition) = reader.condition() {
            clauses.matches.push(condition);
        }
    }
    Rule::from(clauses)
}

struct Words<'a> {
    words: &'a [String],
    at: usize,
}

/// Modules whose options are all known here; loading one says nothing by itself.
const KNOWN_MODULES: [&str; 10] = [
    "tcp",
    "udp",
    "sctp",
    "comment",
    "conntrack",
    "mark",
    "addrtype",
    "statistic",
    "recent",
    "nfacct",
];

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek();
        self.at += 1;
        word
    }

    /// One condition, or `None` for words that say nothing (`-m tcp`).
    fn condition(&mut self) -> Option<Match> {
        let start = self.at;
        let negated = self.peek() == Some("!");
        if negated {
            self.at += 1;
        }
        let option = self.next()?;
        if option == "-m" && !negated && self.peek().is_some_and(|module| KNOWN_MODULES.contains(&module)) {
            return if self.next() == Some("recent") {
                Some(self.recent(start))
            } else {
                self.after_module(start)
            };
        }
        if option == "-m" && !negated && self.peek() == Some("connmark") {
            return Some(self.conn_mark(start));
        }
        match self.known(option, negated) {
            Some(condition) => Some(condition),
            None => Some(self.verbatim(start)),
        }
    }

    /// A module's name goes without saying where its option is known; an unknown option keeps it.
    /// `-m statistic` has two options that mean something only together.
    fn after_module(&mut self, start: usize) -> Option<Match> {
        if self.words.get(self.at - 1).map(String::as_str) != Some("statistic") {
            return (!self.is_known_next()).then(|| self.verbatim(start));
        }
        let rest: Vec<&str> = self.words[self.at..].iter().take(4).map(String::as_str).collect();
        match rest.as_slice() {
            ["--mode", "random", "--probability", chance] => match Probability::parse(chance) {
                Some(probability) => {
                    self.at += 4;
                    Some(Match::Statistic(probability))
                }
                None => Some(self.verbatim(start)),
            },
            _ => Some(self.verbatim(start)),
        }
    }

    fn is_known_next(&self) -> bool {
        let mut ahead = Words { ..*self };
        let negated = ahead.peek() == Some("!");
        if negated {
            ahead.at += 1;
        }
        match ahead.next() {
            None | Some("-m" | "-j" | "-g") => true,
            Some(option) => ahead.known(option, negated).is_some(),
        }
    }

    fn known(&mut self, option: &str, negated: bool) -> Option<Match> {
        let value = self.peek()?;
        let found = match option {
            "-s" | "--source" => Match::Address {
                side: Side::Source,
                network: network(value)?,
                negated,
            },
            "-d" | "--destination" => Match::Address {
                side: Side::Destination,
                network: network(value)?,
                negated,
            },
            "-i" | "--in-interface" => Match::Interface {
                side: Side::Source,
                name: value.to_string(),
                negated,
            },
            "-o" | "--out-interface" => Match::Interface {
                side: Side::Destination,
                name: value.to_string(),
                negated,
            },
            "--mark" => {
                let (mark, mask) = mark(value)?;
                Match::Mark {
                    value: mark,
                    mask,
                    negated,
                }
            }
            "--ctstate" => Match::ct_state(value.split(','), negated),
            _ if negated => return None,
            "-p" | "--protocol" => Match::Protocol(
                Protocol::ALL
                    .into_iter()
                    .find(|protocol| protocol.lower() == value)?,
            ),
            "--dport" | "--destination-port" => Match::DestinationPort(value.parse().ok()?),
            "--comment" => Match::Comment(value.to_string()),
            "--nfacct-name" => Match::Counter(value.to_string()),
            "--src-type" if value == "LOCAL" => Match::LocalAddress(Side::Source),
            "--dst-type" if value == "LOCAL" => Match::LocalAddress(Side::Destination),
            _ => return None,
        };
        self.at += 1;
        Some(found)
    }

    /// `--rcheck --seconds 10800 --reap --name X --mask 255.255.255.255 --rsource`, in any order.
    fn recent(&mut self, start: usize) -> Match {
        let (mut list, mut seconds, mut plain) = (None, None, true);
        let (mut set, mut check, mut reap) = (false, false, false);
        while let Some(word) = self.peek().filter(|word| word.starts_with("--")) {
            self.at += 1;
            match word {
                "--name" => list = self.next(),
                "--seconds" => seconds = self.next().and_then(|text| text.parse().ok()),
                "--set" => set = true,
                "--rcheck" => check = true,
                "--reap" => reap = true,
                "--rsource" => {}
                "--mask" => {
                    plain &= matches!(
                        self.next(),
                        Some("255.255.255.255" | "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
                    );
                }
                _ => plain = false,
            }
        }
        let known = match (list, seconds, set, check) {
            (Some(list), None, true, false) if plain && !reap => Some(Match::RecentSet {
                list: list.to_string(),
            }),
            (Some(list), Some(seconds), false, true) if plain => Some(Match::RecentCheck {
                list: list.to_string(),
                seconds,
                reap,
            }),
            _ => None,
        };
        known.unwrap_or_else(|| Match::Other(self.words[start..self.at.min(self.words.len())].to_vec()))
    }

    /// The module's `--mark` is another one than that of `-m mark`; it stays with its module.
    fn conn_mark(&mut self, start: usize) -> Match {
        self.at += 1;
        if self.peek() == Some("!") {
            self.at += 1;
        }
        if self.peek() == Some("--mark") {
            self.at += 2;
        }
        Match::Other(self.words[start..self.at.min(self.words.len())].to_vec())
    }

    /// The words from `start` up to the next option, kept as they stand.
    fn verbatim(&mut self, start: usize) -> Match {
        self.at = self.at.max(start + 1);
        while self
            .peek()
            .is_some_and(|word| word != "!" && !word.starts_with('-'))
        {
            self.at += 1;
        }
        Match::Other(self.words[start..self.at].to_vec())
    }

    fn target(&mut self) -> Target {
        let start = self.at;
        self.at += 1;
        // iptables-save prints the target last; people, and kube-proxy, write conditions behind it.
        while let Some(word) = self.peek() {
            let value = self.words[self.at - 1].ends_with("prefix");
            let condition = matches!(word, "-m" | "-p" | "-s" | "-d" | "-i" | "-o" | "!");
            if condition && !value {
                break;
            }
            self.at += 1;
        }
        let words = &self.words[start..self.at];
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        known_target(&texts).unwrap_or_else(|| Target::Other(words.to_vec()))
    }
}

fn known_target(words: &[&str]) -> Option<Target> {
    Some(match words {
        ["-j", "ACCEPT"] => Target::Accept,
        ["-j", "DROP"] => Target::Drop,
        ["-j", "RETURN"] => Target::Return,
        ["-j", "REJECT"]
        | [
            "-j",
            "REJECT",
            "--reject-with",
            "icmp-port-unreachable" | "icmp6-port-unreachable",
        ] => Target::Reject,
        ["-j", "MASQUERADE"] => Target::Masquerade { random_fully: false },
        ["-j", "MASQUERADE", "--random-fully"] => Target::Masquerade { random_fully: true },
        ["-j", "DNAT", "--to-destination", to] => Target::Dnat((*to).to_string()),
        ["-j", "MARK", "--set-xmark", mark_text] => {
            let (value, mask) = mark(mark_text)?;
            Target::SetXmark { value, mask }
        }
        ["-j", "MARK", "--set-mark", bits] => {
            let (value, mask) = mark(bits)?;
            Target::SetXmark {
                value,
                mask: mask | value,
            }
        }
        ["-j", "MARK", "--or-mark", bits] => Target::SetXmark {
            value: number(bits)?,
            mask: number(bits)?,
        },
        ["-j", "MARK", "--xor-mark", bits] => Target::SetXmark {
            value: number(bits)?,
            mask: 0,
        },
        ["-j", chain] if !EXTENSIONS.contains(chain) => Target::Jump((*chain).to_string()),
        _ => return None,
    })
}

/// Targets that are no chains though they need no option.
const EXTENSIONS: [&str; 8] = [
    "LOG", "NFLOG", "TRACE", "CT", "QUEUE", "NFQUEUE", "CONNMARK", "TPROXY",
];

/// `10.0.0.0/8`, with old versions `10.0.0.0/255.0.0.0`, or one address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    if let Ok(network) = text.parse::<IpNet>() {
        return Some(network.trunc());
    }
    if let Some((address, mask)) = text.split_once('/') {
        let network = IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
        return Some(network.trunc());
    }
    text.parse().ok().map(|ip: std::net::IpAddr| IpNet::from(ip))
}

/// `0x4000/0x4000`, or a bare number with all bits as the mask.
pub(super) fn mark(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::rule_text;
    use super::*;

    fn one(line: &str) -> Rule {
        rule_line(line).unwrap().1
    }

    #[test]
    fn what_the_kernel_shows_means_what_was_written() {
        let pairs = [
            (
                "-A X -m comment --comment \"ns/svc:p cluster IP\" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-A",
                "-A X -d 172.30.0.41/32 -p tcp -m comment --comment \"ns/svc:p cluster IP\" -m tcp --dport 80 -j KUBE-SVC-A",
            ),
            (
                "-A X -j MARK --or-mark 0x00004000",
                "-A X -j MARK --set-xmark 0x4000/0x4000",
            ),
            (
                "-A X -j MARK --xor-mark 0x00004000",
                "-A X -j MARK --set-xmark 0x4000/0x0",
            ),
            (
                "-A X -j REJECT",
                "-A X -j REJECT --reject-with icmp-port-unreachable",
            ),
            (
                "-A X -m recent --name K --rcheck --seconds 10800 --reap -j K",
                "-A X -m recent --rcheck --seconds 10800 --reap --name K --mask 255.255.255.255 --rsource -j K",
            ),
            (
                "-A X -m comment --comment ns2/svc2:p80 -m recent --name K --set -m tcp -p tcp -j DNAT --to-destination 10.0.0.1:80",
                "-A X -p tcp -m comment --comment \"ns2/svc2:p80\" -m recent --set --name K --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.0.0.1:80",
            ),
            (
                "-A X -m statistic --mode random --probability 0.3333333333 -j K",
                "[7:420] -A X -m statistic --mode random --probability 0.33333333349 -j K",
            ),
            (
                "-A X -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
                "-A X ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate DNAT,RELATED,ESTABLISHED -j DROP",
            ),
        ];
        for (written, shown) in pairs {
            assert_eq!(one(written), one(shown), "{written}");
        }
    }

    #[test]
    fn a_foreign_rule_is_kept_word_for_word() {
        let line = "-A FORWARD -m set ! --match-set bad src -m limit --limit 5/min ! -p icmp -j LOG --log-prefix \"x y \" --log-level 4";
        let rule = one(line);
        assert_eq!(format!("-A FORWARD {}", rule_text(&rule)), line);
        assert!(matches!(rule.target, Some(Target::Other(_))));
    }

    #[test]
    fn a_module_stays_with_an_option_that_is_not_known() {
        for line in [
            "-A X -p tcp -m conntrack --ctproto 6 -j Y",
            "-A X -m tcp ! --syn -j Y",
            "-A X -m mark ! -x -j Y",
            "-A X -m connmark ! --mark 0x80/0x80 -j Y",
        ] {
            let rule = one(line);
            assert!(
                rule_text(&rule).contains(&line[line.find("-m ").unwrap()..]),
                "{line}"
            );
            assert_eq!(one(&format!("-A X {}", rule_text(&rule))), rule, "{line}");
        }
    }

    #[test]
    fn words_with_blanks_stay_words() {
        let line = "-A X -m recent --name \"a b\" --set -j \"c d\"";
        assert_eq!(format!("-A X {}", rule_text(&one(line))), line);
        assert!(parse("*nat\n-A \"a b\" -j X\nCOMMIT\n").is_err());
    }

    #[test]
    fn a_cut_dump_is_refused_with_its_line() {
        let error = parse("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j X").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3: the dump ends inside a table; expected COMMIT"
        );
        assert!(parse("hello").is_err());
        assert!(parse("*nat\n-A X --comment \"open\nCOMMIT\n").is_err());
    }
}
