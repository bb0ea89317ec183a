//! Everything a program could have left behind, as text that can be compared byte for byte.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::Machine;

/// A dump of all that can be seen of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    parts: BTreeMap<&'static str, String>,
}

/// The questions, each to a plain program.
const QUESTIONS: [(&str, &str); 15] = [
    ("iptables-nft-save", "iptables-nft-save"),
    ("ip6tables-nft-save", "ip6tables-nft-save"),
    ("iptables-legacy-save", "iptables-legacy-save"),
    ("ip6tables-legacy-save", "ip6tables-legacy-save"),
    ("nft list ruleset", "nft -s list ruleset"),
    ("links", "ip -d -j link"),
    ("addresses", "ip -d -j address"),
    ("routes", "ip -d route show table all"),
    ("routes (IPv6)", "ip -6 -d route show table all"),
    ("routing rules", "ip rule; ip -6 rule"),
    ("bridge ports", "bridge -d link; bridge vlan"),
    ("sysctls", "sysctl -a --pattern '^net\\.' 2>/dev/null"),
    ("files in /run", "find /run -printf '%y %m %U:%G %p %l\\n' | sort"),
    ("mounts", "cut -d ' ' -f 3- /proc/1/mountinfo"),
    ("processes", "ps -eo args --no-headers | sort"),
];

/// Sysctls that move by themselves, and why.
const MOVING: [(&str, &str); 1] = [(
    "net.netfilter.nf_conntrack_count",
    "the number of connections the kernel still remembers",
)];

/// Keys of `ip -j` that move by themselves: the timers of a bridge and its ports.
const MOVING_KEYS: [&str; 7] = [
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "forward_delay_timer",
    "message_age_timer",
    "hold_timer",
];

/// The processes of the question itself; one that is just ending has lost its arguments.
const ASKING: [&str; 6] = [
    "sh -eu",
    "sort",
    "[sort]",
    "ps -eo args --no-headers",
    "[ps]",
    "[sysctl]",
];

const SEPARATOR: &str = "----8<---- ";

impl Witness {
    /// Looks at a machine now.
    #[track_caller]
    pub fn of(machine: &Machine) -> Self {
        // One shell for all questions: a dozen separate entries would take most of a test's time.
        let mut script = String::new();
        for (name, question) in QUESTIONS {
            let _ = writeln!(script, "echo '{SEPARATOR}{name}'; {question}");
        }
        // From stdin, so that the script is not part of what `ps` shows.
        let all = machine.command(["sh", "-eu"]).input(&script).run().ok().stdout;
        let parts = all
            .split(SEPARATOR)
            .skip(1)
            .map(|part| part.split_once('\n').expect("a name and a line feed"))
            .map(|(name, text)| {
                let (name, _) = *QUESTIONS.iter().find(|(known, _)| *known == name).expect("asked");
                (name, normalised(name, text))
            })
            .collect();
        Self { parts }
    }

    /// One part of it.
    ///
    /// # Panics
    /// When there is no such part.
    pub fn part(&self, name: &str) -> &str {
        &self.parts[name]
    }

    /// Nothing, or what differs, line by line.
    pub fn difference(&self, later: &Self) -> Option<String> {
        let mut told = String::new();
        for (name, before) in &self.parts {
            let after = &later.parts[name];
            if before != after {
                let _ = writeln!(told, "== {name} ==");
                told.push_str(&differing_lines(before, after));
            }
        }
        (!told.is_empty()).then_some(told)
    }
}

/// Asserts that a machine looks as it did.
///
/// A killed process is seen for a moment more, until the kernel has taken it apart; everything else
/// must be so when the command returns.
#[track_caller]
pub fn assert_unchanged(machine: &Machine, before: &Witness, when: &str) {
    let end = Instant::now() + Duration::from_secs(3);
    loop {
        let after = Witness::of(machine);
        let Some(difference) = before.difference(&after) else {
            return;
        };
        let only_processes = before
            .parts
            .iter()
            .all(|(name, text)| *name == "processes" || *text == after.parts[name]);
        assert!(
            only_processes && Instant::now() < end,
            "{when}, something is not as before (- before, + after):\n{difference}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn normalised(name: &str, text: &str) -> String {
    match name {
        "links" | "addresses" => json_lines(text),
        "sysctls" => keep_lines(text, |line| {
            !MOVING
                .iter()
                .any(|(key, _)| line.starts_with(&format!("{key} =")))
        }),
        // The question itself runs too.
        "processes" => keep_lines(text, |line| !ASKING.contains(&line)),
        _ if name.ends_with("-save") => rules(text),
        _ => text.to_string(),
    }
}

/// Rules without the time of the dump and without counters.
pub fn rules(dump: &str) -> String {
    let mut text = String::new();
    for line in dump.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once(" [") {
            Some((chain, _)) if line.starts_with(':') => text.push_str(chain),
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn keep_lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut kept = String::new();
    for line in text.lines().filter(|line| keep(line)) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// One line per value, so that a difference is a line.
fn json_lines(text: &str) -> String {
    let mut value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    drop_moving(&mut value);
    serde_json::to_string_pretty(&value).expect("a JSON value") + "\n"
}

fn drop_moving(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_moving),
        Value::Object(fields) => {
            for key in MOVING_KEYS {
                fields.remove(key);
            }
            fields.values_mut().for_each(drop_moving);
        }
        _ => {}
    }
}

/// Lines only in one of two texts, with their sign; a note when only the order differs.
pub fn differing_lines(before: &str, after: &str) -> String {
    let mut balance: BTreeMap<&str, i64> = BTreeMap::new();
    for line in before.lines() {
        *balance.entry(line).or_default() -= 1;
    }
    for line in after.lines() {
        *balance.entry(line).or_default() += 1;
    }
    let mut told = String::new();
    for (line, count) in balance.into_iter().filter(|(_, count)| *count != 0) {
        let sign = if count < 0 { '-' } else { '+' };
        let _ = writeln!(told, "{sign} {line}");
    }
    if told.is_empty() {
        let pair = before.lines().zip(after.lines()).find(|(a, b)| a != b);
        let _ = writeln!(told, "the same lines in another order; the first: {pair:?}");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_lose_time_and_counters_and_nothing_else() {
        let dump = "# Generated on Monday\n*nat\n:OUTPUT ACCEPT [12:340]\n\
                    -A OUTPUT -m comment --comment \"a [b]\" -j X\nCOMMIT\n# Completed\n";
        let text = "*nat\n:OUTPUT ACCEPT\n-A OUTPUT -m comment --comment \"a [b]\" -j X\nCOMMIT\n";
        assert_eq!(rules(dump), text);
    }

    #[test]
    fn a_difference_names_the_line() {
        assert_eq!(differing_lines("a\nb\n", "a\nc\n"), "- b\n+ c\n");
        assert!(differing_lines("a\nb\n", "b\na\n").contains("another order"));
        assert_eq!(differing_lines("a\n", "a\na\n"), "+ a\n");
    }
}
