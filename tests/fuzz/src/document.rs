//! Rules as text, and whether that text says what was meant and no more.

use miniproxy::rules::delta::Delta;
use miniproxy::rules::parse::parse;
use miniproxy::rules::set::{Found, Wanted};
use miniproxy::rules::text::append_line;

/// Longer names are refused by the kernel.
const CHAIN_NAME: usize = 28;

/// A dump of these rules, as `iptables-save` would print it.
pub(crate) fn dump_of(found: &Found) -> String {
    let mut text = String::new();
    for (table, chains) in &found.tables {
        text.push_str(&format!("*{}\n", table.name()));
        for chain in chains.keys() {
            text.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for (chain, rules) in chains {
            for rule in rules {
                append_line(&mut text, chain, rule);
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The document that makes these rules in an empty kernel is read back as just these rules.
pub(crate) fn assert_written_as_meant(wanted: &Wanted) {
    let document = Delta::between(&Found::default(), wanted).document();
    for line in document.lines() {
        assert_is_ours(line);
    }
    let meant = Found::from(wanted);
    let read = parse(&dump_from(&document)).unwrap_or_else(|error| panic!("{error} of\n{document}"));
    assert!(
        read == meant,
        "read back otherwise:\n{document}\nmeant:\n{}",
        dump_of(&meant)
    );
}

/// No text of an object has become a line of its own, or a word that a terminal obeys.
fn assert_is_ours(line: &str) {
    assert!(
        !line.chars().any(char::is_control),
        "a control character: {line:?}"
    );
    let chain = match line.split_once(' ') {
        Some(("-A", rest)) => rest.split(' ').next().filter(|chain| chain.starts_with("KUBE-")),
        // Only the jumps from built-in chains are put at a head.
        Some(("-I", rest)) => rest.split(' ').next().filter(|chain| !chain.starts_with("KUBE-")),
        Some((first, "- [0:0]")) => first
            .strip_prefix(':')
            .filter(|chain| chain.starts_with("KUBE-") && chain.len() <= CHAIN_NAME),
        _ => ["*filter", "*nat", "*mangle", "COMMIT"]
            .into_iter()
            .find(|known| *known == line),
    };
    assert!(chain.is_some(), "a line that nobody meant: {line:?}");
}

/// What a dump shows after this document: rules put at a chain's head stand there the other way round.
fn dump_from(document: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut heads: Vec<String> = Vec::new();
    for line in document.lines() {
        if let Some(rest) = line.strip_prefix("-I ") {
            heads.insert(0, format!("-A {rest}"));
        } else {
            if line == "COMMIT" {
                lines.append(&mut heads);
            }
            lines.push(line.to_string());
        }
    }
    lines.join("\n")
}
