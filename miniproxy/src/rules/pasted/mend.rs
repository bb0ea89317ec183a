//! What terminals, editors, web pages and log collectors do to a dump, undone.

use std::borrow::Cow;

use super::super::set::TableName;
use super::reader::says_left_out;
use super::wrapped::Lines;

/// Bytes as Windows, or anybody, saved them → text.
pub fn text_of(bytes: Vec<u8>) -> String {
    let two = |little: bool, from: usize| {
        let pairs = bytes[from..].chunks_exact(2);
        let units: Vec<u16> = pairs
            .map(|pair| {
                if little {
                    u16::from_le_bytes([pair[0], pair[1]])
                } else {
                    u16::from_be_bytes([pair[0], pair[1]])
                }
            })
            .collect();
        String::from_utf16_lossy(&units)
    };
    let text = match bytes.as_slice() {
        [0xff, 0xfe, ..] => two(true, 2),
        [0xfe, 0xff, ..] => two(false, 2),
        // Letters of ASCII, each beside a zero.
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => two(true, 0),
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => two(false, 0),
        _ => String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    };
    with_plain_ends(text)
}

/// Lines that end as on old Macintoshes, and zeros among the letters.
fn with_plain_ends(mut text: String) -> String {
    if text.contains('\0') {
        text.retain(|sign| sign != '\0');
    }
    if text.contains('\r') && !text.contains('\n') {
        text = text.replace('\r', "\n");
    }
    text
}

/// The text with each rule on a line of its own, in plain signs. A dump as it was saved is only looked through.
pub fn mended(text: &str) -> Cow<'_, str> {
    let signs = plain_signs(text);
    if signs
        .lines()
        .all(|line| is_known(unquoted(line)) && !has_remark(line))
    {
        return signs;
    }
    Cow::Owned(plain_lines(&signs))
}

/// Typographers' quotes and dashes, hard blanks, colours, and what web pages write for quotes.
fn plain_signs(text: &str) -> Cow<'_, str> {
    let escaped = ["&quot;", "&gt;", "&#34;", "&#39;"]
        .iter()
        .any(|sign| text.contains(sign));
    if text.is_ascii() && !escaped && !text.contains('\u{1b}') {
        return Cow::Borrowed(text);
    }
    let unescaped = if escaped {
        let pairs = [
            ("&quot;", "\""),
            ("&#34;", "\""),
            ("&#39;", "'"),
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&amp;", "&"),
        ];
        pairs
            .iter()
            .fold(text.to_string(), |text, (sign, plain)| text.replace(sign, plain))
    } else {
        text.to_string()
    };
    let mut plain = String::with_capacity(unescaped.len());
    let mut signs = unescaped.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\u{1b}' => {
                let mut inside = false;
                while let Some(next) = signs.next_if(|next| inside || *next == '[') {
                    if inside && next.is_ascii_alphabetic() {
                        break;
                    }
                    inside = true;
                }
            }
            '“' | '”' | '„' | '‟' => plain.push('"'),
            '\u{feff}' | '\u{200b}' => {}
            '\u{a0}' => plain.push(' '),
            '–' | '—' => plain.push_str(dash(&plain, &signs.clone().take(2).collect::<String>())),
            other => plain.push(other),
        }
    }
    Cow::Owned(plain)
}

/// What editors make one long dash of: `--dport` or, before a single letter, `-A`.
fn dash(before: &str, after: &str) -> &'static str {
    let begins = before.is_empty() || before.ends_with(char::is_whitespace);
    let mut letters = after.chars().map(char::is_alphabetic);
    match (begins, letters.next(), letters.next()) {
        (true, Some(true), Some(true)) => "--",
        _ => "-",
    }
}

/// A line without the marks of mails, tables and patches around it.
pub(super) fn unquoted(line: &str) -> &str {
    line.trim().trim_start_matches(['>', '|', '+']).trim_start()
}

/// Lines that are read as they are.
pub(super) fn is_known(line: &str) -> bool {
    line.is_empty()
        || line.starts_with(['#', ':', '*'])
        || ["-A ", "-P ", "-N ", "-I "]
            .iter()
            .any(|option| line.starts_with(option))
        || is_counted(line)
        || line == "COMMIT"
}

/// `[12:345] -A …`; a time in brackets is no counter.
fn is_counted(line: &str) -> bool {
    let counters = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    counters.is_some_and(|(counters, rest)| {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let pair = counters.split_once(':');
        rest.starts_with("-A ") && pair.is_some_and(|(packets, bytes)| number(packets) && number(bytes))
    })
}

/// `-j KUBE-SEP-A   # the first pod`
fn has_remark(line: &str) -> bool {
    line.contains(" #") && without_remark(line).len() < line.len()
}

fn without_remark(line: &str) -> &str {
    if !line.contains("-A ") {
        return line;
    }
    let mut quoted = false;
    let mut blank = false;
    for (at, sign) in line.char_indices() {
        match sign {
            '"' => quoted = !quoted,
            '#' | '←' if blank && !quoted => return line[..at].trim_end(),
            _ => {}
        }
        blank = sign == ' ';
    }
    line
}

fn plain_lines(text: &str) -> String {
    let mut lines = Lines::new(text);
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut rest = text.lines();
    while let Some(raw) = rest.next() {
        let mut whole = Cow::Borrowed(raw);
        while let Some(begun) = whole.strip_suffix('\\') {
            let next = rest.next().unwrap_or_default();
            whole = Cow::Owned(format!("{} {}", begun.trim_end(), next.trim_start()));
        }
        let line = unquoted(without_remark(&whole));
        if is_known(line) {
            lines.push(line, raw);
        } else if let Some(rule) = without_prefix(line) {
            lines.push(rule, raw);
        } else if let Some(command) = command(line) {
            commands.push(command);
        } else if says_left_out(line) || !lines.continued(raw) {
            lines.push(line, raw);
        }
    }
    let has_rules = lines.has_rules;
    let mut text = lines.into_text();
    if !has_rules {
        add_commands(&mut text, &commands);
    }
    text
}

/// `12:-A …`, `node.txt:12::FORWARD DROP [0:0]`, `2024-01-02T03:04:05Z node-1 *nat` → the line of the dump.
fn without_prefix(line: &str) -> Option<&str> {
    let boundaries = line
        .char_indices()
        .take(200)
        .filter(|(_, sign)| matches!(sign, ' ' | '\t' | ':' | '|' | ']'));
    for (at, sign) in boundaries {
        let (before, rest) = (
            line[..at + sign.len_utf8()].trim_end(),
            line[at + sign.len_utf8()..].trim_start(),
        );
        if before.split_whitespace().any(is_iptables) {
            return None;
        }
        let rule = rest.starts_with("-A ") || is_counted(rest);
        let noise =
            before.ends_with([':', '|', ']', '>']) || before.bytes().any(|byte| byte.is_ascii_digit());
        if (rule && noise) || is_frame(rest) {
            return Some(rest);
        }
    }
    None
}

/// `iptables`, `/sbin/ip6tables-legacy`: a command, not the name of who wrote the line.
fn is_iptables(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    let name = name
        .strip_suffix("-legacy")
        .or_else(|| name.strip_suffix("-nft"))
        .unwrap_or(name);
    matches!(name, "iptables" | "ip6tables")
}

/// Lines of a dump that are no rules, and that nobody writes by chance.
fn is_frame(line: &str) -> bool {
    let chain = |words: &str| {
        let mut words = words.split(' ').skip(1);
        let policy = matches!(words.next(), Some("ACCEPT" | "DROP" | "-"));
        let counters = |word: &str| word.starts_with('[') && word.ends_with(']') && word.contains(':');
        policy && words.next().is_some_and(counters) && words.next().is_none()
    };
    line == "COMMIT"
        || line.strip_prefix(':').is_some_and(chain)
        || line
            .strip_prefix('*')
            .is_some_and(|table| TableName::walked(table).is_some())
        || line.starts_with("# Generated by ")
        || line.starts_with("# Completed on ")
}

/// `iptables -t nat -A …` → the table and the rule.
fn command(line: &str) -> Option<(String, String)> {
    let at = line.find("iptables").or_else(|| line.find("ip6tables"))?;
    let words: Vec<&str> = line[at..].split_whitespace().collect();
    let table = words.iter().position(|word| matches!(*word, "-t" | "--table"));
    let name = table
        .and_then(|at| words.get(at + 1))
        .copied()
        .unwrap_or("filter");
    let start = line.find(" -A ").or_else(|| line.find(" -I "))? + 1;
    let rule = line[start..].replace(&format!(" -t {name}"), "");
    Some((name.to_string(), rule))
}

/// Rules of nat stand alone, as what they are: a few of many.
fn add_commands(text: &mut String, commands: &[(String, String)]) {
    let mut others: Vec<&str> = commands.iter().map(|(table, _)| table.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    for table in others.iter().filter(|table| **table != "nat") {
        text.push_str(&format!("*{table}\n"));
        for (_, rule) in commands.iter().filter(|(of, _)| of == table) {
            text.push_str(rule);
            text.push('\n');
        }
        text.push_str("COMMIT\n");
    }
    for (_, rule) in commands.iter().filter(|(of, _)| of == "nat") {
        text.push_str(rule);
        text.push('\n');
    }
}
