//! What terminals, editors, web pages and log collectors do to a dump, undone.

use std::borrow::Cow;

use super::reader::says_left_out;
use super::wrapped::Lines;

/// Bytes as Windows, or anybody, saved them → text.
pub fn text_of(bytes: Vec<u8>) -> String {
    let two = |little: bool| {
        let pairs = bytes[2..].chunks_exact(2);
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
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => two(true),
        [0xfe, 0xff, ..] => two(false),
        _ => String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
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

/// A line without the marks of mails and tables around it.
pub(super) fn unquoted(line: &str) -> &str {
    line.trim().trim_start_matches(['>', '|']).trim_start()
}

/// Lines that are read as they are.
pub(super) fn is_known(line: &str) -> bool {
    line.is_empty()
        || line.starts_with(['#', ':', '*'])
        || ["-A ", "-P ", "-N ", "-I "]
            .iter()
            .any(|option| line.starts_with(option))
        || (line.starts_with('[') && line.contains("] -A "))
        || line == "COMMIT"
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

/// `12:-A …`, `node.txt:12:-A …`, `2024-01-02T03:04:05Z node-1 -A …` → the rule.
fn without_prefix(line: &str) -> Option<&str> {
    let boundaries = line
        .char_indices()
        .take(200)
        .filter(|(_, sign)| matches!(sign, ' ' | '\t' | ':' | '|'));
    for (at, sign) in boundaries {
        let (before, rest) = (
            line[..at + sign.len_utf8()].trim_end(),
            line[at + sign.len_utf8()..].trim_start(),
        );
        let chain = rest.starts_with(':') && rest.ends_with(']') && rest.split(' ').count() == 3;
        let rule = rest.starts_with("-A ") || (rest.starts_with('[') && rest.contains("] -A "));
        let noise = before.ends_with(':') || before.bytes().any(|byte| byte.is_ascii_digit());
        let lone = before.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
        let begins_or_ends = lone
            && (rest == "COMMIT"
                || (rest.starts_with('*') && !rest.contains(' '))
                || rest.starts_with("# Generated"));
        if before.contains("tables") && !before.ends_with(':') {
            return None;
        }
        if (noise && (chain || rule)) || begins_or_ends {
            return Some(rest);
        }
    }
    None
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
