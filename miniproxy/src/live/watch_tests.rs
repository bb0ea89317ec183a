//! Which rules connections are held against.

use std::net::SocketAddr;

use super::dump::parse;
use super::flow::{Flow, News};
use super::report::{Names, Report};
use super::watch::{Reading, Watch, Writing};
use crate::model::Protocol;

const RULES: &str = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-A - [0:0]\n\
    -A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment \"default/web:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-A\n\
    -A KUBE-SVC-A -m comment --comment \"default/web:http -> 10.244.0.2:8080\" -j KUBE-SEP-A\n\
    -A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080\nCOMMIT\n";

fn flow(id: u32, port: u16) -> Flow {
    Flow {
        id,
        source: SocketAddr::new([10, 244, 0, 9].into(), port),
        protocol: Protocol::Tcp,
        destination: SocketAddr::new([10, 96, 0, 80].into(), 80),
        reply_source: SocketAddr::new([10, 244, 0, 2].into(), 8080),
        answered: false,
        closed: false,
    }
}

/// The kernel's ids are hashes: of five thousand entries, two share one in every three-hundredth try.
#[test]
fn entries_that_share_an_id_are_two() {
    let mut watch = Watch::new(None, [None]);
    let counted = parse(RULES).unwrap();
    watch.read(
        0,
        Reading {
            counted,
            ..Reading::default()
        },
    );
    let key = watch.keys().into_iter().next().unwrap();
    for news in [
        News::Began(flow(7, 40000)),
        News::Began(flow(7, 40002)),
        // Told by the table and by its news.
        News::Recovered(flow(7, 40002)),
        News::Ended(flow(7, 40000)),
    ] {
        watch.news(0, news);
    }
    assert_eq!(watch.tally(&key).unwrap().connections(), 2);
    assert_eq!(watch.open(&key).by_backend.values().sum::<u64>(), 1);
}

fn reading(rules: &str, writing: Writing) -> Reading {
    Reading {
        counted: parse(rules).unwrap(),
        writing,
        ..Reading::default()
    }
}

/// So many calls that one backend gets.
fn calls(watch: &mut Watch, ports: std::ops::Range<u16>, to: &str) {
    for port in ports {
        let mut flow = flow(u32::from(port), port);
        flow.reply_source = to.parse().unwrap();
        watch.news(0, News::Began(flow));
    }
}

fn judged(watch: &Watch) -> (u64, u64, u64) {
    let key = watch.keys().into_iter().next().unwrap();
    let tally = watch.tally(&key).unwrap();
    (tally.connections(), tally.judged, tally.unjudged)
}

const ONE: &str = "10.244.0.2:8080";

/// The rules with two backends, half and half.
fn two() -> String {
    let first = "-A KUBE-SVC-A -m comment --comment \"default/web:http -> 10.244.0.2:8080\"";
    RULES
        .replace(first, &format!("{first} -m statistic --mode random --probability 0.50000000000"))
        .replace(":KUBE-SEP-A", ":KUBE-SEP-B - [0:0]\n:KUBE-SEP-A")
        .replace(
            "-A KUBE-SEP-A",
            "-A KUBE-SVC-A -j KUBE-SEP-B\n-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.244.0.3:8080\n-A KUBE-SEP-A",
        )
}

/// What was promised is summed over the rules that each connection met, and sums to all of them.
#[test]
fn connections_are_held_against_the_rules_that_they_met() {
    let mut watch = Watch::new(None, [None]);
    let calm = Writing::default();
    watch.read(0, reading(RULES, calm));
    calls(&mut watch, 40000..40100, ONE);
    assert_eq!(judged(&watch), (100, 0, 0));
    watch.mark(0);
    watch.calm(0);
    assert_eq!(judged(&watch), (100, 100, 0));
    // Nobody knows whether these came before or after the writing.
    calls(&mut watch, 40100..40110, ONE);
    let before = Writing { before: true, ..calm };
    watch.mark(0);
    // These came while the new rules were read, and nobody wrote then.
    calls(&mut watch, 40110..40160, ONE);
    calls(&mut watch, 40160..40210, "10.244.0.3:8080");
    watch.read(0, reading(&two(), before));
    watch.mark(0);
    watch.calm(0);
    assert_eq!(judged(&watch), (210, 200, 10));
    let key = watch.keys().into_iter().next().unwrap();
    let tally = watch.tally(&key).unwrap();
    let expected: Vec<f64> = tally.backends().values().map(|got| got.expected).collect();
    // With the ten that nobody can judge.
    assert_eq!(expected, [160.0, 50.0]);
    assert_eq!(tally.groups().len(), 2);
    assert!(watch.is_settled());
}

#[test]
fn what_comes_while_rules_are_written_is_not_judged() {
    let mut watch = Watch::new(None, [None]);
    let calm = Writing::default();
    let meanwhile = Writing {
        meanwhile: true,
        ..calm
    };
    watch.read(0, reading(RULES, calm));
    calls(&mut watch, 40000..40010, ONE);
    watch.mark(0);
    calls(&mut watch, 40010..40020, ONE);
    watch.read(0, reading(RULES, meanwhile));
    assert_eq!(judged(&watch), (20, 0, 20));
}

/// Where the kernel does not tell of writers, what came before another reading may have met either.
#[test]
fn where_writers_are_untold_only_readings_judge() {
    let mut watch = Watch::new(None, [None]);
    let untold = Writing {
        untold: true,
        ..Writing::default()
    };
    watch.read(0, reading(RULES, untold));
    calls(&mut watch, 40000..40010, ONE);
    watch.mark(0);
    calls(&mut watch, 40010..40020, ONE);
    watch.read(0, reading(RULES, untold));
    assert_eq!(judged(&watch), (20, 10, 0));
    watch.mark(0);
    calls(&mut watch, 40020..40030, ONE);
    watch.read(0, reading(&two(), untold));
    assert_eq!(judged(&watch), (30, 10, 20));
}

#[test]
fn a_backend_that_answers_nobody_is_named_and_a_closed_connection_is_open_no_more() {
    let mut watch = Watch::new(None, [None]);
    watch.read(0, reading(RULES, Writing::default()));
    calls(&mut watch, 40000..40010, ONE);
    let mut answered = flow(40001, 40001);
    answered.answered = true;
    answered.closed = true;
    watch.news(0, News::Changed(answered));
    watch.advance(10);
    let key = watch.keys().into_iter().next().unwrap();
    let report = Report::of(&watch, &key, &Names::new());
    let row = &report.backends[0];
    assert_eq!((row.connections, row.lost, row.open), (10, 9, 9));
    let sentence = &report.verdict.sentence;
    assert!(sentence.ends_with("; but 9 LOST: 9 at 10.244.0.2"), "{sentence}");
    // From zero on they are nobody's loss.
    watch.zero();
    let report = Report::of(&watch, &key, &Names::new());
    assert_eq!((report.lost.connections, report.backends[0].open), (0, 9));
}
