//! The comparator itself: one mutated rule is one finding, whatever was mutated; what kube-proxy
//! leaves open is none.

use labkit::xtables::Family;
use miniproxy::report::difference::{Finding, Sides, compare};
use miniproxy::rules::parse::parse;

use super::cases::recorded;

const SIDES: Sides<'_> = Sides {
    left: "the node",
    right: "the mutant",
};

/// Between them they have every kind of rule.
const DUMPS: [(&str, Family); 5] = [
    ("lb-everything", Family::V4),
    ("affinity-nodeport-local", Family::V4),
    ("npa-several-addresses", Family::V4),
    ("rand-03", Family::V4),
    ("affinity-v6", Family::V6),
];

fn dumps() -> Vec<(String, String)> {
    let cases = recorded();
    let find = |name| cases.iter().find(|case| case.name == name).unwrap();
    DUMPS
        .map(|(name, family)| {
            (
                format!("{name} {}", family.name()),
                find(name).expected(1, family),
            )
        })
        .to_vec()
}

fn findings(one: &str, other: &str) -> Vec<Finding> {
    compare(&parse(one).unwrap(), &parse(other).unwrap(), SIDES)
}

/// Replaces the word after an option.
fn word_after(line: &str, option: &str, change: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (before, rest) = line.split_once(&format!(" {option} "))?;
    let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let changed = format!("{before} {option} {} {after}", change(word)?);
    Some(changed.trim_end().to_string())
}

fn address(word: &str) -> Option<String> {
    let (address, length) = word.split_once('/')?;
    Some(if address.contains(':') {
        format!("fd99::1/{length}")
    } else {
        format!("99.99.99.99/{length}")
    })
}

/// Without a word that stands for itself.
fn without(line: &str, word: &str) -> Option<String> {
    let word = format!(" {word}");
    line.contains(&word).then(|| line.replacen(&word, "", 1))
}

/// What each kind of mutation makes of a rule; `None` where it does not apply.
fn mutants(line: &str) -> Vec<(&'static str, String)> {
    let comment = line
        .split_once("--comment \"")
        .map(|(before, rest)| format!("{before}--comment \"x{rest}"));
    // A dice more or less likely than any of the recorded ones.
    let probability = word_after(line, "--probability", |_| Some("0.12345678900".into()));
    let target = line.rsplit_once(" -j KUBE-").and_then(|(before, chain)| {
        // A jump out of a built-in chain to somewhere else is a jump of somebody else.
        let built_in = !line.starts_with("-A KUBE-");
        (!built_in && chain != "MARK-MASQ").then(|| format!("{before} -j KUBE-MARK-MASQ"))
    });
    let candidates = [
        ("probability", probability),
        ("source", word_after(line, "-s", address)),
        ("destination", word_after(line, "-d", address)),
        (
            "port",
            word_after(line, "--dport", |port| {
                Some(if port == "1" { "2" } else { "1" }.into())
            }),
        ),
        (
            "endpoint",
            word_after(line, "--to-destination", |_| Some("99.99.99.99:9".into())),
        ),
        ("seconds", word_after(line, "--seconds", |_| Some("7".into()))),
        (
            "list",
            word_after(line, "--name", |list| Some(format!("{list}X"))),
        ),
        ("without --rcheck", without(line, "--rcheck")),
        ("without --reap", without(line, "--reap")),
        ("without --set", without(line, "--set")),
        ("without --random-fully", without(line, "--random-fully")),
        ("target", target),
        ("comment", comment),
        ("extra rule", Some(format!("{line}\n{line}"))),
        (
            "extra other rule",
            line.starts_with("-A KUBE-")
                .then(|| format!("{line}\n{} -j ACCEPT", chain_of(line))),
        ),
        ("missing rule", Some(String::new())),
    ];
    candidates
        .into_iter()
        .filter_map(|(kind, mutant)| Some((kind, mutant.filter(|mutant| mutant != line)?)))
        .collect()
}

fn chain_of(line: &str) -> String {
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn replaced(lines: &[&str], at: usize, with: &str) -> String {
    let mut lines = lines.to_vec();
    lines[at] = with;
    lines
        .iter()
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn one_mutated_rule_is_one_finding() {
    let (mut tried, mut wrong) = (0, String::new());
    for (name, dump) in dumps() {
        let lines: Vec<&str> = dump.lines().collect();
        for (at, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.starts_with("-A "))
        {
            for (kind, mutant) in mutants(line) {
                tried += 1;
                let found = findings(&dump, &replaced(&lines, at, &mutant));
                if found.len() != 1 {
                    let texts: String = found.iter().map(Finding::text).collect();
                    wrong.push_str(&format!(
                        "{name}: {kind} of {line}: {} findings\n{texts}",
                        found.len()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(tried > 700, "only {tried} mutants");
}

#[test]
fn two_rules_in_another_order_are_one_finding() {
    let mut tried = 0;
    for (name, dump) in dumps() {
        let lines: Vec<&str> = dump.lines().collect();
        for at in 1..lines.len() {
            let (one, other) = (lines[at - 1], lines[at]);
            // Rules of one service port keep their order, and so do the jumps of built-in chains.
            let own_chain = [
                "-A KUBE-SVC-",
                "-A KUBE-SVL-",
                "-A KUBE-EXT-",
                "-A KUBE-FW-",
                "-A KUBE-SEP-",
            ];
            let kept = own_chain.iter().any(|prefix| one.starts_with(prefix));
            if !kept || chain_of(one) != chain_of(other) || one == other {
                continue;
            }
            tried += 1;
            let swapped = replaced(&lines, at - 1, &format!("{other}\n{one}"));
            let mutant = swapped.replacen(
                &format!("{other}\n{one}\n{other}\n"),
                &format!("{other}\n{one}\n"),
                1,
            );
            let found = findings(&dump, &mutant);
            assert_eq!(found.len(), 1, "{name}: {one}\n{other}\n{found:#?}");
            assert!(found[0].what.contains("order"), "{found:#?}");
        }
    }
    assert!(tried > 60, "only {tried} pairs");
}

#[test]
fn a_finding_names_the_service_and_what_differs() {
    let (_, dump) = dumps().swap_remove(0);
    let lines: Vec<&str> = dump.lines().collect();
    let one = |prefix: &str, option: &str, word: &str| {
        let at = lines
            .iter()
            .position(|line| line.starts_with(prefix) && line.contains(option))
            .unwrap();
        let mutant = if word.is_empty() {
            String::new()
        } else {
            word_after(lines[at], option, |_| Some(word.to_string())).unwrap()
        };
        findings(&dump, &replaced(&lines, at, &mutant)).swap_remove(0)
    };
    let dice = one("-A KUBE-SVC-", "--probability", "0.25");
    assert_eq!(dice.what, "probability: the node has 1 in 3, the mutant 1 in 4");
    assert_eq!(dice.service.as_deref(), Some("default/web:http"));
    let endpoint = one("-A KUBE-SEP-", "--to-destination", "10.9.9.9:1");
    assert!(
        endpoint.what.starts_with("endpoint: the node has 10.244."),
        "{endpoint:?}"
    );
    let masquerade = one("-A KUBE-SEP-", "-j KUBE-MARK-MASQ", "");
    assert_eq!(masquerade.what, "only the node masquerades here");
    assert!(masquerade.service.is_some(), "{masquerade:?}");
    let port = one("-A KUBE-NODEPORTS", "--dport", "31999");
    assert!(port.what.starts_with("port: the node has 30"), "{port:?}");
    let missing = one("-A KUBE-SVC-", "--probability", "");
    assert!(
        missing.what.starts_with("only the node sends 1 in 3 to 10.244."),
        "{missing:?}"
    );
}

/// A generator that needs no crate: the same numbers at each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

/// Rules by the service port they are for.
type Groups<'a> = Vec<(String, Vec<&'a str>)>;

/// The same rules with everything in another order that kube-proxy leaves open, and counters.
fn shuffled(dump: &str, numbers: &mut Numbers) -> String {
    const SHARED: [&str; 4] = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-PROXY-FIREWALL",
    ];
    let mut text = String::new();
    for table in dump.split_inclusive("COMMIT\n") {
        let mut lines = table.lines();
        let Some(header) = lines.next() else { continue };
        let mut declared: Vec<&str> = Vec::new();
        // By chain; within a shared one by service port; the last jumps each for itself.
        let mut chains: Vec<(String, Groups<'_>)> = Vec::new();
        for line in lines.filter(|line| *line != "COMMIT") {
            if line.starts_with(':') {
                declared.push(line);
                continue;
            }
            let chain = chain_of(line);
            let comment = line.split_once("--comment \"").map_or("", |(_, rest)| rest);
            let port = comment.split([' ', '"']).next().filter(|word| word.contains('/'));
            let group = port.map_or_else(|| format!("~{line}"), str::to_string);
            let shared = SHARED.iter().any(|name| chain == format!("-A {name}"));
            let group = if shared { group } else { String::new() };
            if chains.last().is_none_or(|(known, _)| *known != chain) {
                chains.push((chain, Vec::new()));
            }
            let groups = &mut chains.last_mut().unwrap().1;
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, rules)) => rules.push(line),
                None => groups.push((group, vec![line])),
            }
        }
        numbers.shuffle(&mut declared);
        numbers.shuffle(&mut chains);
        text.push_str(&format!("{header}\n"));
        for chain in declared {
            let (name, _) = chain.rsplit_once('[').unwrap();
            text.push_str(&format!(
                "{name}[{}:{}]\n",
                numbers.below(99),
                numbers.below(9999)
            ));
        }
        for (_, mut groups) in chains {
            numbers.shuffle(&mut groups);
            groups.sort_by_key(|(group, _)| group.starts_with('~'));
            for rule in groups.into_iter().flat_map(|(_, rules)| rules) {
                text.push_str(&format!(
                    "[{}:{}] {rule}\n",
                    numbers.below(99),
                    numbers.below(9999)
                ));
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

#[test]
fn what_kube_proxy_leaves_open_is_no_difference() {
    let mut numbers = Numbers(1);
    for (name, dump) in dumps() {
        for _ in 0..20 {
            let other = shuffled(&dump, &mut numbers);
            assert_ne!(dump, other);
            let found = findings(&dump, &other);
            assert!(found.is_empty(), "{name}: {found:#?}");
        }
    }
}

/// kube-proxy takes unused chains away at once, but in large clusters later.
#[test]
fn an_unused_chain_is_a_difference_only_in_a_small_cluster() {
    let cases = recorded();
    for (name, count) in [("clusterip-3", 1), ("large-counts-per-port", 0)] {
        let case = cases.iter().find(|case| case.name == name).unwrap();
        let dump = case.expected(1, Family::V4);
        let chain = "KUBE-SVC-AAAAAAAAAAAAAAAA";
        let with = dump.replacen(
            ":KUBE-SERVICES - [0:0]\n",
            &format!(":KUBE-SERVICES - [0:0]\n:{chain} - [0:0]\n-A {chain} -j ACCEPT\n"),
            1,
        );
        assert_ne!(dump, with);
        assert_eq!(findings(&dump, &with).len(), count, "{name}");
        assert_eq!(findings(&with, &dump).len(), count, "{name}");
    }
}

proptest::proptest! {
    /// Any text is a configuration or is refused; nothing panics, and what is refused says where.
    #[test]
    fn any_text_is_a_configuration_or_refused(text in ".{0,300}", cut in 0_usize..2000) {
        use miniproxy::config::{Compat, draft::Draft};
        let config = recorded().iter().find_map(|case| case.file("config.yaml")).unwrap();
        let at = config.char_indices().map(|(at, _)| at).take_while(|at| *at <= cut).last().unwrap_or(0);
        for text in [text.clone(), format!("{}{text}{}", &config[..at], &config[at..])] {
            if let Ok(draft) = Draft::read("kp.yaml", &text) {
                let _ = draft.settle(Compat::V1_30);
                let _ = draft.settle(Compat::Latest);
            }
        }
    }
}
