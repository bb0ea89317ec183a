//! Lines that a terminal or a mail broke in two, joined again.

use super::super::parse::rule_line;
use super::super::rule::{Match, Target};
use super::mend::{is_known, unquoted};

/// Lines as they are put together.
pub(super) struct Lines {
    text: String,
    /// The last one, while it may go on.
    open: String,
    /// As long as it was before it was joined.
    open_width: usize,
    /// It ended in a blank: it was broken between two words.
    open_blank: bool,
    /// Where a terminal broke them, even inside of words; mails break at blanks only.
    width: usize,
    pub(super) has_rules: bool,
}

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: String::with_capacity(text.len()),
            open: String::new(),
            open_width: 0,
            open_blank: false,
            width: edge(text),
            has_rules: false,
        }
    }

    /// A line that begins anew; `raw` as it stood in the text.
    pub(super) fn push(&mut self, line: &str, raw: &str) {
        self.flush();
        self.open.push_str(line);
        self.open_width = raw.chars().count();
        self.open_blank = raw.ends_with(' ');
        self.has_rules |= is_rule(line);
    }

    /// Whether a line goes on with the one before; then it is added to that.
    pub(super) fn continued(&mut self, raw: &str) -> bool {
        let more = raw.trim();
        let broken_off = self.open_width >= self.width && !more.contains('@');
        let goes_on = broken_off || is_unfinished(&self.open, more);
        if !is_rule(&self.open) || more.is_empty() || !goes_on {
            return false;
        }
        let direct = format!("{}{more}", self.open);
        let spaced = format!("{} {more}", self.open);
        let apart = is_option(more) && !self.open.ends_with('-') && rule_line(&self.open).is_some();
        let at_the_edge = self.open_width >= self.width && !raw.starts_with(' ');
        let joined = match strangeness(&direct).cmp(&strangeness(&spaced)) {
            _ if apart || self.open_blank => spaced,
            std::cmp::Ordering::Less => direct,
            std::cmp::Ordering::Equal if at_the_edge => direct,
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => spaced,
        };
        self.open = joined;
        self.open_width = raw.chars().count();
        self.open_blank = raw.ends_with(' ');
        true
    }

    fn flush(&mut self) {
        if !self.open.is_empty() {
            self.text.push_str(&self.open);
            self.text.push('\n');
            self.open.clear();
        }
    }

    pub(super) fn into_text(mut self) -> String {
        self.flush();
        self.text
    }
}

fn is_rule(line: &str) -> bool {
    line.starts_with("-A ") || line.starts_with("-I ") || (line.starts_with('[') && line.contains("] -A "))
}

/// The width of the text, if each rule that goes on in the next line fills it.
fn edge(text: &str) -> usize {
    let length = |line: &str| line.chars().count();
    let width = text.lines().map(length).max().unwrap_or(0);
    let pairs = text.lines().zip(text.lines().skip(1));
    let mut broken = pairs.filter(|(line, next)| is_rule(unquoted(line)) && !is_known(unquoted(next)));
    let full = broken.all(|(line, _)| length(line) + 1 >= width);
    // One long line before some noise is no edge.
    let filled = text.lines().filter(|line| length(line) == width).count();
    if full && filled > 2 { width } else { usize::MAX }
}

/// `--dport …`, `-j …`
fn is_option(text: &str) -> bool {
    let mut signs = text.bytes();
    match (signs.next(), signs.next(), signs.next()) {
        (Some(b'-'), Some(b'-'), Some(letter)) | (Some(b'-'), Some(letter), Some(b' ')) => {
            letter.is_ascii_lowercase()
        }
        _ => false,
    }
}

/// No rule ends like this.
fn is_unfinished(line: &str, more: &str) -> bool {
    let Some((_, rule)) = rule_line(line) else {
        return true;
    };
    // Lines that begin with an option belong to the one before.
    let mut signs = more.chars().skip_while(|sign| *sign == '-' || *sign == '!');
    if more.starts_with(['-', '!']) && signs.next().is_some_and(char::is_alphabetic) {
        return true;
    }
    let last = line.rsplit(' ').next().unwrap_or_default();
    let of = |signs: &str| more.chars().all(|sign| signs.contains(sign));
    match &rule.target {
        None => true,
        Some(Target::Other(words)) if words.len() == 1 => true,
        Some(_) if last.starts_with("--") => true,
        Some(Target::Dnat(_)) => of("0123456789.:[]abcdef"),
        Some(Target::SetXmark { .. }) => of("0123456789abcdefx/"),
        Some(_) => {
            is_short_name(last)
                && more
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        }
    }
}

/// kube-proxy's chains end in sixteen letters.
fn is_short_name(name: &str) -> bool {
    let kinds = [
        "KUBE-SVC-",
        "KUBE-SEP-",
        "KUBE-SVL-",
        "KUBE-EXT-",
        "KUBE-XLB-",
        "KUBE-FW-",
    ];
    let hash = kinds.iter().find_map(|kind| name.strip_prefix(kind));
    hash.is_some_and(|hash| hash.len() < 16) || (name.starts_with("KUBE-") && hash.is_none())
}

/// How little a line looks like a rule: broken words are options that nobody knows.
fn strangeness(line: &str) -> usize {
    let Some((_, rule)) = rule_line(line) else {
        return 1;
    };
    let odd = |condition: &&Match| matches!(condition, Match::Other(words) if !words[0].starts_with("--") && words[0] != "-m" && words[0] != "!");
    let values = |condition: &&Match| matches!(condition, Match::Other(words) if words.len() == 1 && words[0].starts_with("--"));
    let last = line.rsplit(' ').next().unwrap_or_default();
    let target = match &rule.target {
        Some(Target::Other(words)) if words.len() == 1 => 1,
        Some(Target::Other(words)) => words
            .iter()
            .skip(2)
            .filter(|word| !word.starts_with("--"))
            .count(),
        Some(_) if is_short_name(last) => 1,
        _ => 0,
    };
    2 * rule.matches.iter().filter(odd).count() + rule.matches.iter().filter(values).count() + target
}
