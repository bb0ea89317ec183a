//! A story told from what the kernel and the cables would say, and its screens.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use labkit::screen::{Look, print};

use super::wire::{self, tests::tcp};
use super::*;

const CLIENT: &str = "10.244.0.2:40000";
const VIP: &str = "10.96.0.80:80";
const POD: &str = "10.244.0.4:8080";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn frame(source: &str, destination: &str, sequence: u32, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend([0x08, 0x00]);
    bytes.extend(tcp(source, destination, sequence, flags));
    bytes
}

fn event(id: u32, place: &str, number: Option<usize>, packet: Option<(&str, &str, u8)>) -> Event {
    let (table, chain) = place.split_once(' ').unwrap();
    Event {
        id,
        table: table.into(),
        chain: chain.into(),
        deed: match number {
            Some(number) => Deed::Rule {
                number: Some(number),
                stopped: false,
            },
            None => Deed::Policy { accepts: true },
        },
        seen: packet
            .and_then(|(source, destination, flags)| wire::of_packet(&tcp(source, destination, 7, flags))),
        arriving: Some("cni0".into()),
        leaving: Some("cni0".into()),
    }
}

fn texts() -> Texts {
    let rules = [
        (
            "raw PREROUTING",
            "-A PREROUTING -s 10.244.0.2/32 -d 10.96.0.80/32 -p tcp -j TRACE",
        ),
        ("nat PREROUTING", "-A PREROUTING -j KUBE-SERVICES"),
        (
            "nat KUBE-SERVICES",
            "-A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-CDGGSHYLG3RE2FKL",
        ),
        (
            "nat KUBE-SVC-CDGGSHYLG3RE2FKL",
            "-A KUBE-SVC-CDGGSHYLG3RE2FKL -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-A",
        ),
        (
            "nat KUBE-SVC-CDGGSHYLG3RE2FKL",
            "-A KUBE-SVC-CDGGSHYLG3RE2FKL -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-B",
        ),
        (
            "nat KUBE-SVC-CDGGSHYLG3RE2FKL",
            "-A KUBE-SVC-CDGGSHYLG3RE2FKL -j KUBE-SEP-C",
        ),
        (
            "nat KUBE-SEP-A",
            "-A KUBE-SEP-A -p tcp -j DNAT --to-destination 10.244.0.3:8080",
        ),
        (
            "nat KUBE-SEP-B",
            "-A KUBE-SEP-B -p tcp -j DNAT --to-destination 10.244.0.4:8080",
        ),
        (
            "nat KUBE-SEP-C",
            "-A KUBE-SEP-C -p tcp -j DNAT --to-destination 10.244.0.5:8080",
        ),
        ("filter FORWARD", "-A FORWARD -j KUBE-FORWARD"),
        ("nat POSTROUTING", "-A POSTROUTING -j KUBE-POSTROUTING"),
        (
            "nat KUBE-POSTROUTING",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        ),
    ];
    let mut texts = Texts::new();
    for (place, rule) in rules {
        let (table, chain) = place.split_once(' ').unwrap();
        texts
            .entry((table.into(), chain.into()))
            .or_default()
            .push(rule.into());
    }
    texts
}

fn known() -> Known {
    let there = |destination| Some((CLIENT, destination, 2));
    let cable = |pod: &str, address: &str, is_callers| Cable {
        pod: format!("default/{pod}"),
        address: address.parse().unwrap(),
        interface: format!("veth-{pod}"),
        is_callers,
    };
    let capture = |cable, at, bytes: Vec<u8>| Capture {
        cable,
        at,
        length: bytes.len(),
        bytes,
    };
    Known {
        caller: "default/web-1".into(),
        service: Some("default/web:http".into()),
        protocol: "tcp",
        source: at(CLIENT),
        destination: at(VIP),
        called: Called {
            word: Word::Answered,
            answer: Some("web-3".into()),
            milliseconds: 0.9,
        },
        nodes: vec![OnNode {
            events: vec![
                event(1, "raw PREROUTING", Some(1), there(VIP)),
                // Another packet of another connection, by the same number.
                event(1, "raw PREROUTING", Some(1), Some(("10.244.0.9:1", VIP, 2))),
                event(1, "nat KUBE-SERVICES", Some(1), None),
                event(2, "nat PREROUTING", Some(1), there(VIP)),
                event(2, "nat KUBE-SERVICES", Some(1), None),
                event(2, "nat KUBE-SVC-CDGGSHYLG3RE2FKL", Some(2), None),
                event(2, "nat KUBE-SEP-B", Some(1), None),
                event(2, "filter FORWARD", Some(1), there(POD)),
                event(2, "filter FORWARD", None, None),
                event(2, "nat POSTROUTING", Some(1), there(POD)),
                event(2, "nat KUBE-POSTROUTING", Some(1), None),
                event(3, "raw PREROUTING", Some(1), Some((POD, CLIENT, 0x12))),
                event(3, "filter FORWARD", Some(1), Some((POD, CLIENT, 0x12))),
                // The next packet of the connection tells nothing new.
                event(2, "raw PREROUTING", Some(1), Some((CLIENT, VIP, 0x10))),
            ],
            texts: texts(),
            tracked: vec![Tracked {
                kind: "UPDATE",
                source: at(CLIENT),
                destination: at(VIP),
                reply_source: at(POD),
                reply_destination: at(CLIENT),
                state: Some("ESTABLISHED"),
                assured: true,
            }],
            bridge_nf: Some("1".into()),
            ..OnNode::default()
        }],
        cables: vec![
            cable("web-1", "10.244.0.2", true),
            cable("web-2", "10.244.0.3", false),
            cable("web-3", "10.244.0.4", false),
        ],
        captures: vec![
            capture(0, 1, frame(CLIENT, VIP, 7, 2)),
            capture(2, 2, frame(CLIENT, POD, 7, 2)),
            capture(2, 3, frame(POD, CLIENT, 90, 0x12)),
            capture(0, 4, frame(VIP, CLIENT, 90, 0x12)),
        ],
        names: BTreeMap::from([("10.244.0.4".parse().unwrap(), "default/web-3".to_string())]),
    }
}

#[test]
fn the_story_ends_at_the_pod_that_answered_and_the_reply_met_no_nat_rule() {
    let report = make::journey(&known());
    assert_eq!(report.hops.last().unwrap().destination_now, POD);
    assert_eq!(report.backend.as_ref().unwrap().address, POD);
    assert!(report.same_packet);
    assert_eq!(report.reply.nat_rules, Some(0));
    assert_eq!(report.reply.tables, ["raw", "filter"]);
    assert_eq!(report.hops.iter().filter(|hop| hop.dice).count(), 1);
    let roads: Vec<usize> = report.not_taken.iter().map(|road| road.rule).collect();
    assert_eq!(roads, [1, 3]);
}

#[test]
fn an_answer_past_the_bridge_is_a_stranger() {
    let mut known = known();
    known.called = Called {
        word: Word::Timeout,
        answer: None,
        milliseconds: 2000.0,
    };
    known.captures[3].bytes = frame(POD, CLIENT, 90, 0x12);
    known.nodes[0].bridge_nf = Some("0".into());
    let report = make::journey(&known);
    assert!(report.sentence.contains("a stranger"), "{}", report.sentence);
    assert_eq!(
        report.cure.as_deref(),
        Some("sysctl -w net.bridge.bridge-nf-call-iptables=1")
    );
}

/// The call had no answer, and nothing after the backend's cable.
fn lost() -> Known {
    let mut known = known();
    known.called = Called {
        word: Word::Timeout,
        answer: None,
        milliseconds: 2000.0,
    };
    known.captures.truncate(2);
    known
}

#[test]
fn a_drop_of_nft_is_named_with_its_chain() {
    let mut known = lost();
    known.captures.truncate(1);
    let mut drop = event(2, "fw f", None, None);
    drop.table = "inet fw".into();
    drop.deed = Deed::Rule {
        number: None,
        stopped: true,
    };
    known.nodes[0].events.splice(7.., [drop]);
    let report = make::journey(&known);
    assert_eq!(report.sentence, "a rule of nft chain inet fw f dropped it");
    assert_eq!(report.cure.as_deref(), Some("nft list chain inet fw f"));
}

#[test]
fn who_sees_itself_as_the_sender_was_not_masqueraded() {
    let mut known = lost();
    known.captures[1].bytes = frame("10.244.0.4:40000", POD, 7, 2);
    let report = make::journey(&known);
    assert!(
        report.sentence.contains("nobody masqueraded it"),
        "{}",
        report.sentence
    );
}

#[test]
fn whoever_hears_a_datagram_need_not_answer() {
    let mut known = lost();
    known.protocol = "udp";
    let report = make::journey(&known);
    assert!(report.sentence.contains("need not answer"), "{}", report.sentence);
}

/// A client that comes back: the rule that remembers it is no dice, and its pod is no road not taken.
#[test]
fn a_remembered_client_is_told_and_its_pod_is_not_left_out() {
    let mut known = known();
    let chain = ("nat".to_string(), "KUBE-SVC-CDGGSHYLG3RE2FKL".to_string());
    let remembers = "-A KUBE-SVC-CDGGSHYLG3RE2FKL -m recent --rcheck --name KUBE-SEP-B -j KUBE-SEP-B";
    known.nodes[0]
        .texts
        .get_mut(&chain)
        .unwrap()
        .insert(0, remembers.into());
    known.nodes[0].events[5].deed = Deed::Rule {
        number: Some(1),
        stopped: false,
    };
    let report = make::journey(&known);
    assert!(report.hops.iter().any(|hop| hop.what.starts_with("remembered")));
    let roads: Vec<usize> = report.not_taken.iter().map(|road| road.rule).collect();
    assert_eq!(roads, [2, 4]);
}

#[test]
fn only_packets_of_the_connection_are_kept() {
    let strange = Capture {
        cable: 1,
        at: 5,
        bytes: frame("10.244.0.9:1", VIP, 9, 2),
        length: 54,
    };
    // Masqueraded: the same number from another address.
    let rewritten = Capture {
        cable: 2,
        at: 6,
        bytes: frame("10.244.0.1:5", POD, 7, 2),
        length: 54,
    };
    let answer = Capture {
        cable: 2,
        at: 7,
        bytes: frame(POD, "10.244.0.1:5", 4, 0x12),
        length: 54,
    };
    let all = [known().captures, vec![strange, rewritten, answer]].concat();
    let times: Vec<u128> = make::own(all, &[at(CLIENT)])
        .iter()
        .map(|capture| capture.at)
        .collect();
    assert_eq!(times, [1, 2, 3, 4, 6, 7]);
}

#[test]
fn the_screen_at_each_size() {
    let report = make::journey(&known());
    for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
        let look = Look::sized(width, height);
        let lines = page::page(&report, &look, None, false).draw(&look, 0);
        insta::assert_snapshot!(format!("{width}x{height}"), print::to_string(&lines, &look));
    }
    let look = Look::sized(80, 24).ascii();
    let text = print::to_string(&page::page(&report, &look, Some(3), false).draw(&look, 0), &look);
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!("ascii, three steps told", text);
}

#[test]
fn sentences_and_json() {
    let report = make::journey(&known());
    insta::assert_snapshot!(plain::plain(&report));
    insta::assert_json_snapshot!(report);
}

/// The call of a host outside at a node without an endpoint: two nodes, and the first one's address as
/// the source at the second.
fn two_nodes() -> Known {
    const OUTSIDE: &str = "172.18.255.254:50000";
    const DOOR: &str = "172.18.0.1:30080";
    const INSTEAD: &str = "172.18.0.1:1025";
    let tracked = |source, destination, to| Tracked {
        kind: "NEW",
        source: at(source),
        destination: at(destination),
        reply_source: at(POD),
        reply_destination: at(to),
        state: Some("SYN_SENT"),
        assured: false,
    };
    let on = |node: &str, events, tracked| OnNode {
        node: Some(node.into()),
        events,
        texts: texts(),
        tracked: vec![tracked],
        ..OnNode::default()
    };
    Known {
        caller: "outside".into(),
        source: at(OUTSIDE),
        destination: at(DOOR),
        cables: Vec::new(),
        captures: Vec::new(),
        nodes: vec![
            // In no order, and with another packet in between.
            on(
                "node-2",
                vec![
                    event(1, "raw PREROUTING", None, Some(("172.18.0.1:9", POD, 2))),
                    event(2, "raw PREROUTING", None, Some((INSTEAD, POD, 2))),
                    event(2, "filter FORWARD", Some(1), Some((INSTEAD, POD, 2))),
                    event(3, "raw PREROUTING", None, Some((POD, INSTEAD, 0x12))),
                ],
                tracked(INSTEAD, POD, INSTEAD),
            ),
            on(
                "node-1",
                vec![
                    event(2, "raw PREROUTING", None, Some((OUTSIDE, DOOR, 2))),
                    event(2, "nat KUBE-SEP-B", Some(1), None),
                    event(2, "filter FORWARD", Some(1), Some((OUTSIDE, POD, 2))),
                    event(3, "raw PREROUTING", None, Some((POD, INSTEAD, 0x12))),
                    event(3, "filter FORWARD", None, Some((POD, OUTSIDE, 0x12))),
                ],
                tracked(OUTSIDE, DOOR, INSTEAD),
            ),
        ],
        ..known()
    }
}

#[test]
fn a_journey_by_two_nodes_is_told_in_its_order() {
    let report = make::journey(&two_nodes());
    let nodes: Vec<&str> = report.hops.iter().filter_map(|hop| hop.node.as_deref()).collect();
    assert_eq!(
        nodes.iter().filter(|node| **node == "node-1").count(),
        4,
        "{nodes:?}"
    );
    assert!(nodes.is_sorted(), "{nodes:?}");
    assert_eq!(nodes.last(), Some(&"node-2"));
    assert_eq!(report.hops.last().unwrap().destination_now, POD);
    assert_eq!(report.backend.as_ref().unwrap().address, POD);
    assert!(report.masquerade);
    assert_eq!(report.reply.nat_rules, Some(0));
    let look = Look::sized(80, 24);
    let lines = page::page(&report, &look, None, false).draw(&look, 0);
    insta::assert_snapshot!("two nodes", print::to_string(&lines, &look));
}

#[test]
fn what_was_lost_is_told() {
    let mut known = known();
    known.nodes[0].lost = 2;
    let report = make::journey(&known);
    let told = "2 events were lost: the kernel had too much to tell at once; look again.";
    assert!(plain::plain(&report).contains(told));
}
