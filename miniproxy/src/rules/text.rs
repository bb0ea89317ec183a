//! Rules as the words that `iptables-restore` reads, in the order in which kube-proxy writes them.

use std::fmt::{self, Write as _};

use ipnet::IpNet;

use super::rule::{Match, Rule, Side, Target};

/// The rule as arguments, joined by single spaces; without the leading `-A CHAIN`.
pub fn rule_text(rule: &Rule) -> String {
    let mut text = String::new();
    write_rule(&mut text, rule);
    text
}

/// Writes the rule as arguments behind what is there; no text of its own for each, there are many.
fn write_rule(text: &mut String, rule: &Rule) {
    let begin = text.len();
    let space = |text: &mut String| {
        if text.len() > begin {
            text.push(' ');
        }
    };
    for condition in &rule.matches {
        space(text);
        write_match(text, condition);
    }
    if let Some(target) = &rule.target {
        space(text);
        write_target(text, target);
    }
}

fn write_match(text: &mut String, condition: &Match) {
    match condition {
        Match::Address {
            side,
            network,
            negated,
        } => {
            text.push_str(bang(*negated));
            text.push_str(if *side == Side::Source { "-s " } else { "-d " });
            write_network(text, *network);
        }
        Match::Interface { side, name, negated } => {
            text.push_str(bang(*negated));
            text.push_str(if *side == Side::Source { "-i " } else { "-o " });
            push_word(text, name);
        }
        Match::Protocol(protocol) => {
            for option in ["-m ", " -p "] {
                text.push_str(option);
                text.push_str(protocol.lower());
            }
        }
        Match::DestinationPort(port) => push(text, format_args!("--dport {port}")),
        Match::Comment(comment) => push_with(text, "-m comment --comment ", comment),
        Match::Mark { value, mask, negated } => {
            let bang = bang(*negated);
            push(
                text,
                format_args!("-m mark {bang}--mark {value:#010x}/{mask:#010x}"),
            );
        }
        Match::CtState { states, negated } => {
            push(text, format_args!("-m conntrack {}--ctstate ", bang(*negated)));
            push_word(text, &states.join(","));
        }
        Match::LocalAddress(Side::Source) => text.push_str("-m addrtype --src-type LOCAL"),
        Match::LocalAddress(Side::Destination) => text.push_str("-m addrtype --dst-type LOCAL"),
        Match::Statistic(probability) => {
            text.push_str("-m statistic --mode random --probability ");
            text.push_str(&probability.text());
        }
        Match::RecentCheck { list, seconds, reap } => {
            push_with(text, "-m recent --name ", list);
            push(text, format_args!(" --rcheck --seconds {seconds}"));
            text.push_str(if *reap { " --reap" } else { "" });
        }
        Match::RecentSet { list } => {
            push_with(text, "-m recent --name ", list);
            text.push_str(" --set");
        }
        Match::Counter(name) => push_with(text, "-m nfacct --nfacct-name ", name),
        Match::Other(words) => write_words(text, words),
    }
}

fn write_target(text: &mut String, target: &Target) {
    match target {
        Target::Jump(chain) => push_with(text, "-j ", chain),
        Target::Accept => text.push_str("-j ACCEPT"),
        Target::Drop => text.push_str("-j DROP"),
        Target::Return => text.push_str("-j RETURN"),
        Target::Reject => text.push_str("-j REJECT"),
        // kube-proxy writes the two uses it has by their own names.
        Target::SetXmark { value, mask } if value == mask => {
            push(text, format_args!("-j MARK --or-mark {value:#010x}"));
        }
        Target::SetXmark { value, mask: 0 } => push(text, format_args!("-j MARK --xor-mark {value:#010x}")),
        Target::SetXmark { value, mask } => {
            push(
                text,
                format_args!("-j MARK --set-xmark {value:#010x}/{mask:#010x}"),
            );
        }
        Target::Masquerade { random_fully: true } => text.push_str("-j MASQUERADE --random-fully"),
        Target::Masquerade { random_fully: false } => text.push_str("-j MASQUERADE"),
        Target::Dnat(to) => push_with(text, "-j DNAT --to-destination ", to),
        Target::Other(words) => write_words(text, words),
    }
}

fn write_words(text: &mut String, words: &[String]) {
    for (index, word) in words.iter().enumerate() {
        push_with(text, if index == 0 { "" } else { " " }, word);
    }
}

fn bang(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

/// kube-proxy writes a single host without its prefix length.
fn write_network(text: &mut String, network: IpNet) {
    if network.prefix_len() == network.max_prefix_len() {
        push(text, format_args!("{}", network.addr()));
    } else {
        push(text, format_args!("{network}"));
    }
}

fn push(text: &mut String, what: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(what);
}

/// An option and its word.
fn push_with(text: &mut String, option: &str, word: &str) {
    text.push_str(option);
    push_word(text, word);
}

/// A word as `iptables-restore` takes it: bare where it can be, else in quotes.
///
/// A line break would end the rule and begin another; it becomes a space. No name that passed the
/// registry's checks holds one, this is the second lock on that door.
fn push_word(text: &mut String, word: &str) {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,+!@%=[]".contains(&byte);
    if !word.is_empty() && word.bytes().all(bare) {
        return text.push_str(word);
    }
    text.push('"');
    for character in word.chars() {
        match character {
            '"' | '\\' => {
                text.push('\\');
                text.push(character);
            }
            control if control.is_control() => text.push(' '),
            plain => text.push(plain),
        }
    }
    text.push('"');
}

/// Adds `-A CHAIN rule` and a line end.
pub fn append_line(document: &mut String, chain: &str, rule: &Rule) {
    document.push_str("-A ");
    document.push_str(chain);
    document.push(' ');
    write_rule(document, rule);
    document.push('\n');
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
