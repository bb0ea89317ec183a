//! Bytes as a packet and the rules that it meets.

use std::net::IpAddr;

use miniproxy::model::Protocol;
use miniproxy::rules::parse::parse;
use miniproxy::rules::trace::{NodeFacts, Packet, Verdict, trace_within};

/// Ways longer than this are given up, so that chains made to explode do not hold up the fuzzer.
const STEPS: usize = 20_000;

/// The node's own addresses.
const NODE: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 2)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// A line `SOURCE PROTOCOL DESTINATION PORT INTERFACE|- [ENDPOINT]`, then a dump.
///
/// # Panics
/// When shares do not add up to 1, or are none.
pub fn trace(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some((line, dump)) = text.split_once('\n') else {
        return;
    };
    let (Some(packet), Ok(found)) = (packet(line), parse(dump)) else {
        return;
    };
    let trace = trace_within(&found, &NodeFacts::new(NODE), &packet, STEPS);
    let told: f64 = trace.outcomes.iter().map(|outcome| outcome.probability).sum();
    assert!((told + trace.unknown() - 1.0).abs() < 1e-9, "{trace:?}");
    assert!(
        trace.falls_through <= trace.share(Verdict::Accept) + 1e-9,
        "{trace:?}"
    );
    for hop in &trace.hops {
        assert!(
            (0.0..=1.0 + 1e-9).contains(&hop.reached) && hop.matched <= hop.reached + 1e-9,
            "{hop:?}"
        );
    }
    for doubt in &trace.doubts {
        let fits = |chance: f64| chance <= doubt.probability + 1e-9;
        assert!(
            doubt.possible.iter().all(|outcome| fits(outcome.probability)),
            "{doubt:?}"
        );
    }
}

fn packet(line: &str) -> Option<Packet> {
    let mut words = line.split(' ');
    Some(Packet {
        source: words.next()?.parse().ok()?,
        protocol: Protocol::parse(words.next()?)?.into(),
        destination: words.next()?.parse().ok()?,
        port: words.next()?.parse().ok()?,
        arriving: words.next().filter(|name| *name != "-").map(str::to_string),
        remembered: words.next().and_then(|endpoint| endpoint.parse().ok()),
    })
}
