//! The tables above see every rule: take one away, and some flow ends otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use miniproxy::rules::set::{Found, TableName};
use miniproxy::rules::text::rule_text;
use miniproxy::rules::trace::{Outcome, Packet, Verdict, trace};
use serde_json::json;

use crate::world::{From, READY, TARGET_PORT, To, V4, World, ip};

/// Everybody to everywhere, a pod to itself, and a client that is remembered.
fn packets(world: &World) -> Vec<Packet> {
    let mut packets = Vec::new();
    for from in [From::Pod, From::Node, From::Localhost, From::External] {
        for to in [
            To::ClusterIp,
            To::NodePort,
            To::LocalhostNodePort,
            To::LoadBalancer,
            To::ExternalIp,
        ] {
            packets.push(world.packet(from, to));
        }
    }
    for endpoint in [V4.local, V4.remote] {
        let mut remembered = world.packet(From::Pod, To::ClusterIp);
        remembered.remembered = Some(SocketAddr::new(ip(endpoint), TARGET_PORT));
        packets.push(remembered);
        let mut external = world.packet(From::External, To::NodePort);
        external.remembered = Some(SocketAddr::new(ip(endpoint), TARGET_PORT));
        packets.push(external);
        let mut hairpin = world.packet(From::Pod, To::ClusterIp);
        hairpin.source = ip(endpoint);
        packets.push(hairpin);
    }
    let mut out_of_range = world.packet(From::External, To::LoadBalancer);
    out_of_range.source = ip("203.0.113.200");
    packets.push(out_of_range);
    let mut through_balancer = world.packet(From::Node, To::LoadBalancer);
    through_balancer.source = ip(V4.balancer);
    packets.push(through_balancer);
    let mut localnet = world.packet(From::External, To::LocalhostNodePort);
    localnet.port = 22;
    packets.push(localnet);
    let mut health = world.packet(From::External, To::NodePort);
    health.port = 32_000;
    packets.push(health);
    packets
}

/// What becomes of them, whoever decided it: on a plain host, on a closed one, and on one that has
/// the load balancer's address itself.
fn outcomes(rules: &Found, world: &World, packets: &[Packet]) -> Vec<Vec<Outcome>> {
    let mut all = Vec::new();
    let mut closed = world.facts.clone();
    for chain in ["INPUT", "FORWARD"] {
        closed = closed.policy(TableName::Filter, chain, Verdict::Drop);
    }
    let mut balancer = world.facts.clone();
    balancer.addresses.insert(ip(V4.balancer));
    for packet in packets {
        for facts in [&world.facts, &closed, &balancer] {
            let mut outcomes = trace(rules, facts, packet).outcomes;
            for outcome in &mut outcomes {
                outcome.by = None;
            }
            all.push(outcomes);
        }
    }
    all
}

/// A rule: its table, chain and words.
type Words = (&'static str, String, String);

/// Every rule of a world, and whether any packet ends otherwise without it.
fn seen(world: &World) -> Vec<(Words, bool)> {
    let rules = world.rules();
    let packets = packets(world);
    let before = outcomes(&rules, world, &packets);
    let mut seen = Vec::new();
    for (table, chains) in &rules.tables {
        for (chain, list) in chains {
            for (index, rule) in list.iter().enumerate() {
                let mut without = rules.clone();
                let chains = without.tables.get_mut(table).unwrap();
                chains.get_mut(chain).unwrap().remove(index);
                let words = (table.name(), chain.clone(), rule_text(rule));
                seen.push((words, outcomes(&without, world, &packets) != before));
            }
        }
    }
    seen
}

#[test]
fn each_rule_that_decides_about_first_packets_is_seen() {
    let local = json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
    let guarded = json!({"sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32_000,
        "loadBalancerSourceRanges": ["203.0.113.0/25", "192.168.0.0/24"]});
    let both = Some(READY);
    let worlds = [
        World::new(&V4).service(&guarded).endpoints(both, both),
        World::new(&V4)
            .service(&json!({"internalTrafficPolicy": "Local"}))
            .endpoints(both, both),
        World::new(&V4).service(&local).endpoints(None, both),
        World::new(&V4).service(&local),
    ];
    let mut rules: BTreeMap<Words, bool> = BTreeMap::new();
    for (words, seen) in worlds.iter().flat_map(seen) {
        *rules.entry(words).or_default() |= seen;
    }
    let unseen = rules.iter().filter(|(_, seen)| !**seen);
    let unseen: Vec<&Words> = unseen.map(|(words, _)| words).collect();
    assert_eq!(unseen.len(), UNSEEN.len(), "{unseen:#?}");
    for ((table, chain, text), (expected_chain, words)) in unseen.iter().zip(UNSEEN) {
        assert!(
            chain.starts_with(expected_chain) && text.contains(words),
            "{table} {chain} {text}"
        );
    }
}

/// Chain and words of the rules that no first packet of these worlds can tell.
const UNSEEN: [(&str, &str); 6] = [
    // The first packet of a connection is neither.
    ("KUBE-FORWARD", "RELATED,ESTABLISHED"),
    ("KUBE-FORWARD", "INVALID"),
    // What it drops comes in by loopback, where INPUT drops it, too.
    ("OUTPUT", "KUBE-FIREWALL"),
    // Only counts.
    ("KUBE-FW-", "other traffic"),
    // For packets that pass a second time.
    ("KUBE-POSTROUTING", "--xor-mark"),
    // This node has one endpoint only.
    ("KUBE-SVL-", "--rcheck"),
];

/// The kernel refuses to remove a chain that a rule leads to, and with it everything else that was asked.
#[test]
fn a_rule_of_somebody_else_holds_one_chain_and_is_named() {
    use miniproxy::rules::delta::Delta;
    use miniproxy::rules::parse::parse;
    let wanted = miniproxy::node::NodeOptions::default().wanted(
        &miniproxy::registry::Registry::default(),
        labkit::xtables::Family::V4,
    );
    let dump = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]\n\
        -A PREROUTING -j KUBE-SVC-AAAAAAAAAAAAAAAA\n-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-BBBBBBBBBBBBBBBB\nCOMMIT\n";
    let delta = Delta::between(&parse(dump).unwrap(), &wanted);
    assert_eq!(delta.held, ["-t nat -A PREROUTING -j KUBE-SVC-AAAAAAAAAAAAAAAA"]);
    let nat = &delta.tables[&TableName::Nat];
    assert_eq!(nat.rewritten.get("KUBE-SVC-AAAAAAAAAAAAAAAA"), Some(&Vec::new()));
    assert_eq!(
        nat.removed.iter().collect::<Vec<_>>(),
        ["KUBE-SEP-BBBBBBBBBBBBBBBB"]
    );
}
