//! Rules as the words that `iptables-restore` reads, in the order in which kube-proxy writes them.

use std::borrow::Cow;
use std::fmt::Write as _;

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
    // Writing to a String cannot fail.
    let _ = match condition {
        Match::Address {
            side,
            network,
            negated,
        } => {
            let option = if *side == Side::Source { "-s" } else { "-d" };
            let _ = write!(text, "{}{option} ", bang(*negated));
            write_network(text, *network)
        }
        Match::Interface { side, name, negated } => {
            let option = if *side == Side::Source { "-i" } else { "-o" };
            write!(text, "{}{option} {}", bang(*negated), quote(name))
        }
        Match::Protocol(protocol) => write!(text, "-m {0} -p {0}", protocol.lower()),
        Match::DestinationPort(port) => write!(text, "--dport {port}"),
        Match::Comment(comment) => write!(text, "-m comment --comment {}", quote(comment)),
        Match::Mark { value, mask, negated } => {
            write!(
                text,
                "-m mark {}--mark {value:#010x}/{mask:#010x}",
                bang(*negated)
            )
        }
        Match::CtState { states, negated } => {
            write!(
                text,
                "-m conntrack {}--ctstate {}",
                bang(*negated),
                quote(&states.join(","))
            )
        }
        Match::LocalAddress(Side::Source) => write!(text, "-m addrtype --src-type LOCAL"),
        Match::LocalAddress(Side::Destination) => write!(text, "-m addrtype --dst-type LOCAL"),
        Match::Statistic(probability) => {
            write!(
                text,
                "-m statistic --mode random --probability {}",
                probability.text()
            )
        }
        Match::RecentCheck { list, seconds, reap } => {
            write!(
                text,
                "-m recent --name {} --rcheck --seconds {seconds}{}",
                quote(list),
                if *reap { " --reap" } else { "" }
            )
        }
        Match::RecentSet { list } => write!(text, "-m recent --name {} --set", quote(list)),
        Match::Counter(name) => write!(text, "-m nfacct --nfacct-name {}", quote(name)),
        Match::Other(words) => write_words(text, words),
    };
}

fn write_target(text: &mut String, target: &Target) {
    let _ = match target {
        Target::Jump(chain) => write!(text, "-j {}", quote(chain)),
        Target::Accept => write!(text, "-j ACCEPT"),
        Target::Drop => write!(text, "-j DROP"),
        Target::Return => write!(text, "-j RETURN"),
        Target::Reject => write!(text, "-j REJECT"),
        // kube-proxy writes the two uses it has by their own names.
        Target::SetXmark { value, mask } if value == mask => write!(text, "-j MARK --or-mark {value:#010x}"),
        Target::SetXmark { value, mask: 0 } => write!(text, "-j MARK --xor-mark {value:#010x}"),
        Target::SetXmark { value, mask } => write!(text, "-j MARK --set-xmark {value:#010x}/{mask:#010x}"),
        Target::Masquerade { random_fully: true } => write!(text, "-j MASQUERADE --random-fully"),
        Target::Masquerade { random_fully: false } => write!(text, "-j MASQUERADE"),
        Target::Dnat(to) => write!(text, "-j DNAT --to-destination {}", quote(to)),
        Target::Other(words) => write_words(text, words),
    };
}

fn write_words(text: &mut String, words: &[String]) -> std::fmt::Result {
    let words: Vec<_> = words.iter().map(|word| quote(word)).collect();
    write!(text, "{}", words.join(" "))
}

fn bang(negated: bool) -> &'static str {
    if negated { "! " } else { "" }
}

/// kube-proxy writes a single host without its prefix length.
fn write_network(text: &mut String, network: IpNet) -> std::fmt::Result {
    if network.prefix_len() == network.max_prefix_len() {
        write!(text, "{}", network.addr())
    } else {
        write!(text, "{network}")
    }
}

/// A word as `iptables-restore` takes it: bare where it can be, else in quotes.
///
/// A line break would end the rule and begin another; it becomes a space. No name that passed the
/// registry's checks holds one, this is the second lock on that door.
pub fn quote(word: &str) -> Cow<'_, str> {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,+!@%=[]".contains(&byte);
    if !word.is_empty() && word.bytes().all(bare) {
        return Cow::Borrowed(word);
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
    Cow::Owned(quoted)
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
