//! Rules as the words that `iptables-restore` reads, in the order in which kube-proxy writes them.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::rule::{Match, Rule, Side, Target};

/// The rule as arguments, joined by single spaces; without the leading `-A CHAIN`.
pub fn rule_text(rule: &Rule) -> String {
    let mut words = Vec::new();
    for condition in &rule.matches {
        words.push(match_text(condition));
    }
    if let Some(target) = &rule.target {
        words.push(target_text(target));
    }
    words.join(" ")
}

fn match_text(condition: &Match) -> String {
    match condition {
        Match::Address {
            side,
            network,
            negated,
        } => {
            format!(
                "{}{} {}",
                bang(*negated),
                if *side == Side::Source { "-s" } else { "-d" },
                network_text(*network)
            )
        }
        Match::Interface { side, name, negated } => {
            format!(
                "{}{} {}",
                bang(*negated),
                if *side == Side::Source { "-i" } else { "-o" },
                quote(name)
            )
        }
        Match::Protocol(protocol) => format!("-m {0} -p {0}", protocol.lower()),
        Match::DestinationPort(port) => format!("--dport {port}"),
        Match::Comment(text) => format!("-m comment --comment {}", quote(text)),
        Match::Mark { value, mask, negated } => {
            format!("-m mark {}--mark {value:#010x}/{mask:#010x}", bang(*negated))
        }
        Match::CtState { states, negated } => {
            format!(
                "-m conntrack {}--ctstate {}",
                bang(*negated),
                quote(&states.join(","))
            )
        }
        Match::LocalAddress(Side::Source) => "-m addrtype --src-type LOCAL".to_string(),
        Match::LocalAddress(Side::Destination) => "-m addrtype --dst-type LOCAL".to_string(),
        Match::Statistic(probability) => {
            format!("-m statistic --mode random --probability {}", probability.text())
        }
        Match::RecentCheck { list, seconds } => {
            format!(
                "-m recent --name {} --rcheck --seconds {seconds} --reap",
                quote(list)
            )
        }
        Match::RecentSet { list } => format!("-m recent --name {} --set", quote(list)),
        Match::Other(words) => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    }
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Jump(chain) => format!("-j {}", quote(chain)),
        Target::Accept => "-j ACCEPT".to_string(),
        Target::Drop => "-j DROP".to_string(),
        Target::Return => "-j RETURN".to_string(),
        Target::Reject => "-j REJECT".to_string(),
        // kube-proxy writes the two uses it has by their own names.
        Target::SetXmark { value, mask } if value == mask => format!("-j MARK --or-mark {value:#010x}"),
        Target::SetXmark { value, mask: 0 } => format!("-j MARK --xor-mark {value:#010x}"),
        Target::SetXmark { value, mask } => format!("-j MARK --set-xmark {value:#010x}/{mask:#010x}"),
        Target::Masquerade { random_fully } => {
            format!(
                "-j MASQUERADE{}",
                if *random_fully { " --random-fully" } else { "" }
            )
        }
        Target::Dnat(to) => format!("-j DNAT --to-destination {}", quote(to)),
        Target::Other(words) => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    }
}

fn bang(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

/// kube-proxy writes a single host without its prefix length.
fn network_text(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

/// A word as `iptables-restore` takes it: bare where it can be, else in quotes.
///
/// A line break would end the rule and begin another; it becomes a space. No name that passed the
/// registry's checks holds one, this is the second lock on that door.
pub fn quote(word: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,+!@%=[]".contains(&byte);
    if !word.is_empty() && word.bytes().all(bare) {
        return word.to_string();
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for character in word.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => quoted.push(' '),
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// Adds `-A CHAIN rule` and a line end.
pub fn append_line(document: &mut String, chain: &str, rule: &Rule) {
    // Writing to a String cannot fail.
    let _ = writeln!(document, "-A {chain} {}", rule_text(rule));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn rules_read_as_kube_proxy_writes_them() {
        let dispatch = Rule::new()
            .comment("default/web:http cluster IP")
            .protocol(Protocol::Tcp)
            .host(Side::Destination, "10.96.0.80".parse().unwrap())
            .port(80)
            .jump("KUBE-SVC-XPGD46QRK7WJZT7O");
        assert_eq!(
            rule_text(&dispatch),
            "-m comment --comment \"default/web:http cluster IP\" -m tcp -p tcp -d 10.96.0.80 --dport 80 \
             -j KUBE-SVC-XPGD46QRK7WJZT7O"
        );
        let mark = Rule::new().to(Target::SetXmark {
            value: 0x4000,
            mask: 0x4000,
        });
        assert_eq!(rule_text(&mark), "-j MARK --or-mark 0x00004000");
    }

    #[test]
    fn a_comment_cannot_end_its_rule() {
        let hostile = Rule::new()
            .comment("x\" -j ACCEPT\n-A INPUT -j ACCEPT \\")
            .to(Target::Drop);
        let text = rule_text(&hostile);
        assert_eq!(text.lines().count(), 1);
        assert_eq!(
            text,
            "-m comment --comment \"x\\\" -j ACCEPT -A INPUT -j ACCEPT \\\\\" -j DROP"
        );
    }
}
