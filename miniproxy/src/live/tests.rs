//! Verdicts on data whose truth is known, and the screens.

use labkit::screen::{Look, print};

use super::luck::{Group, Verdict, Word, judge};
use super::page::{Face, of_service};
use super::report::{CounterReport, Lost, Report, Row};
use super::sentences;

/// Numbers that look random and are the same each time (Steele and Vigna's SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        f64::from(u32::try_from(mixed >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

/// How often each backend is drawn, when backend i really has this share.
fn drawn(seed: u64, really: &[f64], calls: usize) -> Vec<u64> {
    let mut dice = Dice(seed);
    let mut counts = vec![0; really.len()];
    for _ in 0..calls {
        let (roll, mut sum) = (dice.roll(), 0.0);
        let at = really.iter().position(|share| {
            sum += share;
            roll < sum
        });
        counts[at.unwrap_or(really.len() - 1)] += 1;
    }
    counts
}

fn verdict(seed: u64, really: &[f64], calls: usize) -> Verdict {
    let shares = vec![1.0 / 3.0; 3];
    judge(
        &[Group {
            shares,
            counts: drawn(seed, really, calls),
        }],
        true,
    )
}

#[test]
fn fair_dice_are_never_called_biased() {
    let third = 1.0 / 3.0;
    for seed in 0..200 {
        let word = verdict(seed, &[third, third, third], 3000).word;
        assert!(
            matches!(word, Word::Fair | Word::Unusual),
            "seed {seed}: {word:?}"
        );
    }
}

/// The obvious rules, 1/3 each of what is left: 33.3, 22.2, 14.8 and nobody; told of those that got through.
#[test]
fn biased_dice_are_always_found() {
    let through = 1.0 - 0.296;
    let really = [0.3333 / through, 0.2222 / through, 0.1481 / through];
    for seed in 0..200 {
        assert_eq!(verdict(seed, &really, 3000).word, Word::Biased, "seed {seed}");
    }
}

#[test]
fn six_calls_prove_nothing() {
    assert_eq!(verdict(1, &[1.0, 0.0, 0.0], 6).word, Word::TooFew);
    assert_eq!(judge(&[], true).word, Word::None);
}

fn report() -> Report {
    let row = |name: &str, last: u8, rolls: &str, connections: u64| Row {
        name: name.into(),
        address: format!("10.244.1.{last}:8080"),
        rolls: Some(rolls.into()),
        rule: Some(
            "-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-WEB1".into(),
        ),
        in_rules: true,
        connections,
        per_second: 37,
        lost: 0,
        share: f64::from(u32::try_from(connections).unwrap()) / 3000.0,
        expected: 1.0 / 3.0,
        luck: [0.316, 0.35],
        open: 2,
        hits: connections,
        history: (0..30).map(|second| second % 7).collect(),
    };
    let shares = vec![1.0 / 3.0; 3];
    Report {
        schema: 1,
        kind: "watch",
        service: "default/web:http".into(),
        protocol: "TCP",
        address: Some("10.96.0.80:80".into()),
        seconds: 61,
        connections: 3000,
        per_second: 111,
        backends: vec![
            row("web-1", 3, "1/3", 1016),
            row("web-2", 4, "1/2", 961),
            row("web-3", 5, "rest", 1023),
        ],
        lost: Lost::default(),
        verdict: judge(
            &[Group {
                shares,
                counts: vec![1016, 961, 1023],
            }],
            true,
        ),
        stale: 0,
        counters: CounterReport {
            entered: 3000,
            taken: 3000,
            ..CounterReport::default()
        },
        generation: Some(7),
        changes: Vec::new(),
        notes: Vec::new(),
        rule: "-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-WEB1"
            .into(),
    }
}

#[test]
fn the_screen_at_each_size() {
    for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
        let look = Look::sized(width, height);
        let page = of_service(&report(), &Face::default(), &look);
        insta::assert_snapshot!(
            format!("watch-{width}x{height}"),
            print::to_string(&page.draw(&look, 0), &look)
        );
    }
    let look = Look::sized(80, 24).ascii();
    let page = of_service(&report(), &Face::default(), &look);
    let text = print::to_string(&page.draw(&look, 0), &look);
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!("watch-ascii", text);
}

#[test]
fn sentences_and_json() {
    insta::assert_snapshot!(sentences::of_service(&report()));
    insta::assert_json_snapshot!(report());
}
