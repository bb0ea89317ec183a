//! Dumps of nodes that others run: what is said of them, and above all what is not.

mod cases;

use labkit::xtables::Family;

use self::cases::CASES;
use super::tests::DICE;
use super::*;
use crate::rules::pasted::{self, Pasted};
use crate::rules::trace::STEPS;
use crate::target::{Book, Caller, Target, resolve};

fn ask(dump: &str, target: &str, from: Option<&str>) -> Report {
    let text = pasted::mended(dump);
    let reading = pasted::read(&text);
    let target = Target::parse(target).unwrap();
    let six = matches!(&target, Target::Address { ip, .. } if ip.is_ipv6())
        || !reading.families.contains_key(&Family::V4);
    let family = if six { Family::V6 } else { Family::V4 };
    let empty = Pasted::default();
    let pasted = reading.families.get(&family).unwrap_or(&empty);
    let mut book = Book::default();
    book.add_rules(&pasted.found);
    let caller = from.map(|from| Caller::parse(from).unwrap());
    let call = resolve(&book, family, &target, caller.as_ref(), None).unwrap();
    explain(&Question {
        call: &call,
        book: &book,
        pasted,
        family,
        origin: &Origin {
            from: "node.save".into(),
            rules: reading.rules,
            notes: reading.notes.clone(),
        },
        host: None,
        no_route: false,
        steps: STEPS,
    })
}

fn told(report: &Report) -> (Verdict, bool, Vec<(String, String)>) {
    let backends = report
        .backends
        .iter()
        .map(|backend| (backend.address.clone(), percent(backend.share)));
    (report.verdict, report.certain, backends.collect())
}

fn each_line(text: &str, change: impl Fn(usize, &str) -> String) -> String {
    text.lines()
        .enumerate()
        .map(|(index, line)| change(index, line) + "\n")
        .collect()
}

/// Breaks at a width, as terminals do (between any two signs) or as mails do (at blanks).
fn wrapped(text: &str, width: usize, at_blanks: bool) -> String {
    each_line(text, |_, line| {
        let mut rows: Vec<String> = vec![String::new()];
        let words: Vec<String> = if at_blanks {
            line.split(' ').map(|word| format!("{word} ")).collect()
        } else {
            line.chars().map(String::from).collect()
        };
        for word in words {
            let last = rows.len() - 1;
            if rows[last].len() + word.len() > width && !rows[last].is_empty() {
                rows.push(word);
            } else {
                rows[last].push_str(&word);
            }
        }
        let rows: Vec<&str> = rows.iter().map(|row| row.trim_end()).collect();
        rows.join("\n")
    })
}

/// What terminals, mails, web pages, editors and log collectors do to a dump changes no answer.
#[test]
fn a_mangled_dump_says_the_same() {
    let clean = told(&ask(DICE, "web", None));
    assert_eq!(clean.2.len(), 3);
    let bare = each_line(DICE, |_, line| {
        line.split_once("] -A")
            .map_or(line.to_string(), |(_, rest)| format!("-A{rest}"))
    });
    let mut mangled = vec![
        each_line(DICE, |index, line| format!("{:6}\t{line}", index + 1)),
        each_line(DICE, |index, line| format!("{}:{line}", index + 1)),
        each_line(&bare, |index, line| {
            format!("dumps/node-1.txt:{}:{line}", index + 1)
        }),
        each_line(DICE, |index, line| {
            format!("2024-03-01T10:00:{:02}.1Z stdout F {line}", index % 60)
        }),
        each_line(&bare, |_, line| {
            format!("Mar  1 10:00:00 node-1 dump[77]: {line}")
        }),
        each_line(DICE, |_, line| format!("  > {line}  ")),
        DICE.replace('"', "&quot;").replace("->", "-&gt;"),
        DICE.replace(" --", " –").replace(" -m", " –m"),
        DICE.replace("-m comment --comment \"", "-m comment --comment “")
            .replace("\" ", "” "),
        DICE.replace(' ', "\u{a0}"),
        DICE.replace("KUBE-SVC", "\u{1b}[01;31m\u{1b}[KKUBE-SVC\u{1b}[m\u{1b}[K"),
        format!("\u{feff}{DICE}").replace('\n', "\r\n"),
        each_line(&bare, |_, line| {
            if line.starts_with("-A") {
                format!("{line}   # as it is")
            } else {
                line.into()
            }
        }),
        bare.replace(" -m statistic", " \\\n    -m statistic"),
        format!("root@node-1:~# iptables-save -c\n{DICE}root@node-1:~# \n"),
        format!(
            "E0301 10:00:00 memcache.go:287] couldn't get resource list\nDefaulted container \"a\" out of: a, b\n{DICE}"
        ),
        DICE.replace(
            "COMMIT\n*filter",
            "COMMIT\nmodprobe: FATAL: Module ip_tables not found\n*filter",
        ),
        format!("{DICE}{DICE}"),
    ];
    for width in [50, 72, 80, 100, 132] {
        mangled.push(wrapped(&bare, width, true));
        mangled.push(wrapped(&bare, width, false));
        mangled.push(wrapped(DICE, width, false));
    }
    for text in &mangled {
        let report = ask(text, "web", None);
        assert_eq!(
            told(&report),
            clean,
            "{text}\n{:?}\n{}",
            report.notes,
            pasted::mended(text)
        );
    }
    let little: Vec<u8> = "\u{feff}"
        .chars()
        .chain(DICE.chars())
        .collect::<String>()
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let without_mark = little[2..].to_vec();
    let old_ends = DICE.replace('\n', "\r").into_bytes();
    let zeros = DICE.replace(' ', " \0").into_bytes();
    for bytes in [little, without_mark, old_ends, zeros] {
        assert_eq!(told(&ask(&pasted::text_of(bytes), "web", None)), clean);
    }
}

/// Where a terminal broke a line behind a blank, the next row begins another word.
#[test]
fn a_blank_at_the_edge_is_kept() {
    let rule = |last: u8| {
        let head =
            format!("-A KUBE-SERVICES -d 203.0.113.{last}/32 -p tcp -m comment --comment \"default/web: ");
        format!("{head}\nexternal IP\" -m tcp --dport 80 -j KUBE-SVC-WEB\n")
    };
    let text = format!("*nat\n{}{}{}COMMIT\n", rule(1), rule(2), rule(3));
    let whole = pasted::mended(&text);
    assert_eq!(
        whole.matches("\"default/web: external IP\"").count(),
        3,
        "{whole}"
    );
}

/// Broken anywhere, cut to any width, with any line left out: whoever is named is a backend, and no
/// packet is called lost that is not.
#[test]
fn nothing_wrong_is_claimed_of_what_is_missing() {
    let clean = ask(DICE, "10.96.0.80:80", None);
    let good = |text: &str| {
        let report = ask(text, "10.96.0.80:80", None);
        for backend in &report.backends {
            let same = |known: &&Backend| known.address == backend.address;
            let known = clean.backends.iter().find(same);
            assert!(known.is_some(), "{} in {text}", backend.address);
        }
        assert!(
            report.falls_through < 1e-9,
            "{} lost in {text}",
            report.falls_through
        );
        assert_ne!(report.verdict, Verdict::NoRule, "{text}");
    };
    for width in (40..150).step_by(7) {
        good(&each_line(DICE, |_, line| line.chars().take(width).collect()));
        good(&each_line(DICE, |_, line| match line.char_indices().nth(width) {
            Some((at, _)) => format!("{}...", &line[..at]),
            None => line.into(),
        }));
    }
    let lines: Vec<&str> = DICE.lines().collect();
    for gone in 2..lines.len() - 6 {
        for mark in ["...", "[snip]", "<output omitted>", "…"] {
            let mut left = lines.clone();
            left[gone] = mark;
            good(&(left.join("\n") + "\n"));
        }
    }
}

/// What people paste: a few lines that `grep` found, or commands from a page.
#[test]
fn a_few_rules_are_answered_with_what_they_take_for_granted() {
    let rules: Vec<&str> = DICE
        .lines()
        .filter(|line| line.contains("default/web") && !line.contains('#'))
        .collect();
    let plain: Vec<&str> = rules
        .iter()
        .map(|line| line.split_once("] ").unwrap().1)
        .collect();
    let grepped = plain.join("\n") + "\n";
    let report = ask(
        &format!("$ sudo iptables-save | grep default/web\n{grepped}"),
        "web",
        None,
    );
    // What the filter table says nobody can tell.
    let (verdict, _, backends) = told(&ask(DICE, "web", None));
    assert_eq!(told(&report), (verdict, false, backends));
    assert_eq!(report.masquerade, Masquerade::No);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("some of a node's rules")),
        "{:?}",
        report.notes
    );
    let outside = ask(&grepped, "web", Some("outside"));
    assert_eq!(
        (outside.verdict, outside.masquerade),
        (Verdict::Dnat, Masquerade::Yes)
    );
    // Several searches find a line more than once; their order in each chain stays.
    let several = format!("{grepped}:KUBE-SEP-WEB1 - [0:0]\n{grepped}");
    assert_eq!(told(&ask(&several, "web", None)), told(&report));
    // Of another Service nothing is known, not even that it is not there.
    assert_eq!(ask(&grepped, "10.96.0.99:80", None).verdict, Verdict::Unknown);
    // One of three chains is here: a third is known, the rest is not called lost.
    let part: String = grepped
        .split_inclusive('\n')
        .filter(|line| !line.contains("SEP-WEB2 ") && !line.contains("SEP-WEB3 "))
        .collect();
    let report = ask(&part, "web", None);
    assert_eq!(
        (report.verdict, report.certain, percent(report.backends[0].share)),
        (Verdict::Dnat, false, "33.3%".into())
    );
    assert!(report.falls_through < 1e-9);
    let commands = each_line(&grepped, |_, line| format!("iptables -t nat {line}  # see above"));
    assert_eq!(
        told(&ask(&commands, "web", None)),
        told(&ask(&grepped, "web", None))
    );
}

const OLD: &str = include_str!("wild/xlb.save");
const NEW: &str = include_str!("wild/ext.save");
const EKS: &str = include_str!("wild/aws.save");
const CALICO: &str = include_str!("wild/calico.save");
const FIREWALLS: &str = include_str!("wild/firewalls.save");
const IPVS: &str = include_str!("wild/ipvs.save");
const SIX: &str = include_str!("wild/six.save");

#[test]
fn dumps_of_many_kinds() {
    let mut wrong = Vec::new();
    for (dump, target, from, verdict, certain, backends, masquerade) in CASES {
        let report = ask(dump, target, *from);
        let found: Vec<String> = report
            .backends
            .iter()
            .filter(|_| report.verdict == Verdict::Dnat)
            .map(|backend| format!("{} {}", backend.address, percent(backend.share)))
            .collect();
        let is = (report.verdict, report.certain, report.masquerade);
        if is != (*verdict, *certain, *masquerade) || found != *backends {
            wrong.push(format!(
                "{} {target} from {from:?}: {is:?} {found:?}\n{}",
                &dump[..40],
                super::plain::plain(&report)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n\n")
    );
}

/// A connection that is not tracked does not meet the nat table.
#[test]
fn raw_is_walked() {
    let raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.96.0.80/32 -j CT --notrack\nCOMMIT\n";
    let report = ask(&format!("{raw}{DICE}"), "web", None);
    assert_eq!(report.verdict, Verdict::NoRule);
    assert!(report.hops[0].did.contains("untracked"));
    let dropped = raw.replace("CT --notrack", "DROP");
    assert_eq!(
        ask(&format!("{dropped}{DICE}"), "web", None).verdict,
        Verdict::Drop
    );
}

/// A doubt that comes to the same either way is none: what Docker does before the dice.
#[test]
fn both_ways_lead_to_the_same_dice() {
    let docker = "-A PREROUTING -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80\n-A PREROUTING -m comment";
    let dump = DICE.replacen("[9:540] -A PREROUTING -m comment", docker, 1);
    assert_eq!(told(&ask(&dump, "web", None)), told(&ask(DICE, "web", None)));
}

/// Rules of one table say nothing of another.
#[test]
fn without_its_nat_table_nothing_is_said_of_a_service() {
    let filter = DICE.split_once("*filter").unwrap().1;
    let report = ask(&format!("*filter{filter}"), "10.96.0.80:80", None);
    assert_eq!(report.verdict, Verdict::Unknown);
    assert_eq!(
        ask(&format!("*filter{filter}"), "empty", None).verdict,
        Verdict::Reject
    );
}

/// Old tools' dice: each nth, and the complement of a chance.
#[test]
fn other_dice_have_shares_too() {
    let nth = DICE
        .replace(
            "--mode random --probability 0.33333333349",
            "--mode nth --every 3 --packet 0",
        )
        .replace(
            "--mode random --probability 0.50000000000",
            "--mode random ! --probability 0.5",
        );
    let report = ask(&nth, "web", None);
    assert_eq!(told(&report), told(&ask(DICE, "web", None)));
    assert!(report.dice.iter().take(2).all(|roll| roll.rolls.is_some()));
}
