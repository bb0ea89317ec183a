//! What holds for every registry: rules survive the way to text and back, deltas lead where they
//! should, dice are fair, and no text becomes a rule.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_match_else,
    clippy::format_collect,
    reason = "a test fails by panicking, and has no callers"
)]

mod memory;

use std::collections::BTreeMap;

use labkit::xtables::Family;
use miniproxy::config::DetectLocal;
use miniproxy::node::NodeOptions;
use miniproxy::registry::{Registry, SourceFile};
use miniproxy::rules::delta::Delta;
use miniproxy::rules::documents::{ChainOrder, Limit};
use miniproxy::rules::rule::{Match, Target};
use miniproxy::rules::set::{Found, TableName, Wanted};
use proptest::prelude::*;
use serde_json::{Value, json};

/// One Service: ports, endpoints, and what else decides about its rules.
#[derive(Debug, Clone)]
struct Draft {
    ports: Vec<(u16, &'static str)>,
    endpoints: Vec<(u8, bool, bool, bool)>,
    kind: &'static str,
    internal_local: bool,
    external_local: bool,
    affinity: bool,
    ranges: bool,
    v6: bool,
}

fn draft() -> impl Strategy<Value = Draft> {
    let protocol = prop_oneof![Just("TCP"), Just("UDP"), Just("SCTP")];
    let ports = prop::collection::btree_map(1_u16..=65_535, protocol, 1..4)
        .prop_map(|ports| ports.into_iter().collect());
    let endpoints = prop::collection::vec((1_u8..250, any::<bool>(), any::<bool>(), any::<bool>()), 0..9);
    let kind = prop_oneof![Just("ClusterIP"), Just("NodePort"), Just("LoadBalancer")];
    (ports, endpoints, kind, any::<[bool; 5]>()).prop_map(|(ports, endpoints, kind, flags)| Draft {
        ports,
        endpoints,
        kind,
        internal_local: flags[0],
        external_local: flags[1],
        affinity: flags[2],
        ranges: flags[3],
        v6: flags[4],
    })
}

fn objects(index: usize, draft: &Draft) -> [Value; 2] {
    let (family, vip, balancer, range) = if draft.v6 {
        (
            "IPv6",
            format!("fd00:96::{index:x}"),
            "2001:db8::80",
            "2001:db8:1::/48",
        )
    } else {
        (
            "IPv4",
            format!("10.96.1.{index}"),
            "203.0.113.80",
            "203.0.113.0/24",
        )
    };
    let node_port = |place: usize| {
        if draft.kind == "ClusterIP" {
            0
        } else {
            30_000 + index * 10 + place
        }
    };
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let ports: Vec<Value> = draft.ports.iter().enumerate().map(|(place, (port, protocol))| {
        json!({"name": format!("p{place}"), "port": port, "protocol": protocol, "nodePort": node_port(place)})
    }).collect();
    let slice_ports: Vec<Value> = draft.ports.iter().enumerate().map(|(place, (_, protocol))| {
        json!({"name": format!("p{place}"), "port": 8080 + place, "protocol": protocol})
    }).collect();
    let endpoints: Vec<Value> = draft
        .endpoints
        .iter()
        .map(|(host, ready, terminating, local)| {
            let address = if draft.v6 {
                format!("fd00:244::{host:x}")
            } else {
                format!("10.244.0.{host}")
            };
            json!({"addresses": [address], "nodeName": if *local { "here" } else { "there" },
               "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
        })
        .collect();
    let mut spec = json!({
        "type": draft.kind, "clusterIP": vip, "clusterIPs": [vip], "ipFamilies": [family], "ports": ports,
        "internalTrafficPolicy": policy(draft.internal_local),
        "sessionAffinity": if draft.affinity { "ClientIP" } else { "None" },
    });
    if draft.kind != "ClusterIP" {
        spec["externalTrafficPolicy"] = policy(draft.external_local).into();
    }
    if draft.ranges {
        spec["loadBalancerSourceRanges"] = json!([range]);
    }
    let status = if draft.kind == "LoadBalancer" {
        json!({"loadBalancer": {"ingress": [{"ip": balancer}]}})
    } else {
        json!({})
    };
    let name = format!("svc-{index}");
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
               "metadata": {"name": format!("{name}-x"), "namespace": "ns", "labels": {"kubernetes.io/service-name": name}},
               "ports": slice_ports, "endpoints": endpoints}),
    ]
}

fn registry(drafts: &[Draft]) -> Registry {
    let items: Vec<Value> = drafts
        .iter()
        .enumerate()
        .flat_map(|(index, draft)| objects(index + 1, draft))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    Registry::read(&[SourceFile {
        path: "list.json".into(),
        bytes: list.into_bytes(),
    }])
    .expect("a good registry")
}

fn wanted(drafts: &[Draft], family: Family) -> Wanted {
    let mut node = NodeOptions::default();
    node.settings.node_name = Some("here".into());
    node.settings.detect_local = DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]);
    node.wanted(&registry(drafts), family)
}

/// Chains in which each Service has rules of its own.
const DISPATCH: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-PROXY-FIREWALL",
    "KUBE-NODEPORTS",
];

/// Everything ours in a rule set, and the jumps, but not the empty built-in chains.
fn occupied(found: &Found) -> BTreeMap<(TableName, String), Vec<String>> {
    let mut all = BTreeMap::new();
    for (table, chains) in &found.tables {
        for (chain, rules) in chains {
            if chain.starts_with("KUBE-") || !rules.is_empty() {
                let mut keys: Vec<_> = rules.iter().map(miniproxy::rules::edit::meaning_key).collect();
                // No packet meets the rules of two Services, so their order is free; the last one's is not.
                if DISPATCH.contains(&chain.as_str()) {
                    let ends = keys.last().is_some_and(|key| key.contains("KUBE-NODEPORTS"));
                    let length = keys.len() - usize::from(ends);
                    keys[..length].sort_unstable();
                }
                all.insert((*table, chain.clone()), keys);
            }
        }
    }
    all
}

/// The chance of each jump of a balancing chain, from its own dice.
fn shares(rules: &[miniproxy::rules::rule::Rule]) -> Vec<f64> {
    let mut left = 1.0;
    let mut shares = Vec::new();
    for rule in rules {
        let chance = rule.matches.iter().find_map(|condition| match condition {
            Match::Statistic(probability) => Some(probability.fraction()),
            _ => None,
        });
        let remembered = rule
            .matches
            .iter()
            .any(|condition| matches!(condition, Match::RecentCheck { .. }));
        let to_endpoint = matches!(&rule.target, Some(Target::Jump(chain)) if chain.starts_with("KUBE-SEP-"));
        if to_endpoint && !remembered {
            shares.push(left * chance.unwrap_or(1.0));
            left *= 1.0 - chance.unwrap_or(1.0);
        }
    }
    shares
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_render_leads_from_an_empty_kernel_to_what_is_wanted(drafts in prop::collection::vec(draft(), 0..8)) {
        for family in Family::ALL {
            let wanted = wanted(&drafts, family);
            let mut kernel = memory::empty();
            let document = Delta::between(&kernel, &wanted).document();
            memory::restore(&mut kernel, &document).unwrap();
            prop_assert_eq!(occupied(&kernel), occupied(&Found::from(&wanted)));
            prop_assert!(Delta::between(&kernel, &wanted).is_empty());
        }
    }

    #[test]
    fn a_delta_in_parts_leads_to_the_same_and_only_the_last_part_is_seen(
        before in prop::collection::vec(draft(), 0..4),
        after in prop::collection::vec(draft(), 0..6),
        fresh in any::<bool>(),
        chains in 1_usize..6,
        rules in 1_usize..12,
        cut in 0_usize..6,
        falls in any::<bool>(),
    ) {
        let limit = Limit { chains, rules };
        let order = if falls { ChainOrder::Falling } else { ChainOrder::Rising };
        let mut kernel = memory::empty();
        if !fresh {
            let document = Delta::between(&kernel, &wanted(&before, Family::V4)).document();
            memory::restore(&mut kernel, &document).unwrap();
        }
        let wanted = wanted(&after, Family::V4);
        let seen = if fresh { "PREROUTING" } else { "KUBE-SERVICES" };
        let services = kernel.chain(TableName::Nat, seen).map(<[_]>::to_vec);
        // The first try is cut short; what it leaves is not seen, and the next one goes on.
        for tries in [cut, usize::MAX] {
            let delta = Delta::between(&kernel, &wanted);
            let documents = delta.documents(limit, order);
            let documents: Vec<String> = documents.iter().map(|document| document.to_string()).collect();
            let (last, early) = documents.split_last().unwrap();
            for document in early.iter().take(tries) {
                let count = |start: char| document.lines().filter(|line| line.starts_with(start)).count();
                prop_assert!(count(':') <= chains && count('-') <= rules, "{document}");
                memory::restore(&mut kernel, document).unwrap();
            }
            prop_assert_eq!(kernel.chain(TableName::Nat, seen).map(<[_]>::to_vec), services.clone());
            if tries == usize::MAX {
                memory::restore(&mut kernel, last).unwrap();
            }
        }
        prop_assert_eq!(occupied(&kernel), occupied(&Found::from(&wanted)));
    }

    /// However many rules a new chain has, and a Service more or less, no part of a first sync is large.
    #[test]
    fn a_first_sync_hooks_in_what_is_made_already(drafts in prop::collection::vec(draft(), 0..6)) {
        let wanted = wanted(&drafts, Family::V4);
        let delta = Delta::between(&memory::empty(), &wanted);
        let documents = delta.documents(Limit { chains: 1, rules: 0 }, ChainOrder::Rising);
        let last = documents.iter().last().unwrap().to_string();
        let nat = last.split_once("*nat").and_then(|(_, rest)| rest.split_once("COMMIT")).unwrap().0;
        prop_assert!(!nat.contains("-A KUBE-S"), "{nat}");
    }

    #[test]
    fn a_delta_leads_from_any_state_to_any_other(
        before in prop::collection::vec(draft(), 0..6),
        after in prop::collection::vec(draft(), 0..6),
    ) {
        let mut kernel = memory::empty();
        for drafts in [&before, &after] {
            let wanted = wanted(drafts, Family::V4);
            let document = Delta::between(&kernel, &wanted).document();
            memory::restore(&mut kernel, &document).unwrap();
            prop_assert_eq!(occupied(&kernel), occupied(&Found::from(&wanted)));
        }
        let document = Delta::removal(&kernel).unwrap().document();
            memory::restore(&mut kernel, &document).unwrap();
        prop_assert_eq!(kernel, memory::empty());
    }

    #[test]
    fn every_endpoint_of_a_chain_gets_the_same_share(drafts in prop::collection::vec(draft(), 1..6)) {
        for family in Family::ALL {
            for (chain, rules) in &wanted(&drafts, family).tables[&TableName::Nat] {
                if chain.starts_with("KUBE-SVC-") || chain.starts_with("KUBE-SVL-") {
                    let shares = shares(rules);
                    let fair = 1.0 / f64::from(u32::try_from(shares.len()).unwrap());
                    prop_assert!(shares.iter().all(|share| (share - fair).abs() < 1e-7), "{chain}: {shares:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = miniproxy::rules::parse::parse(&String::from_utf8_lossy(&bytes));
        let _ = Registry::read(&[SourceFile { path: "x.json".into(), bytes }]);
    }

    #[test]
    fn hostile_text_in_any_name_is_refused_or_changes_no_rule(text in "[\\x00-\\x7f\u{e9}\u{202e}]{0,40}") {
        let mut service = objects(1, &Draft {
            ports: vec![(80, "TCP")], endpoints: vec![], kind: "ClusterIP", internal_local: false,
            external_local: false, affinity: false, ranges: false, v6: false,
        })[0].clone();
        for pointer in ["/metadata/name", "/metadata/namespace", "/spec/ports/0/name"] {
            let original = service.pointer(pointer).cloned().unwrap();
            *service.pointer_mut(pointer).unwrap() = json!(text);
            let file = SourceFile { path: "x.json".into(), bytes: service.to_string().into_bytes() };
            if let Ok(registry) = Registry::read(&[file]) {
                let wanted = NodeOptions::default().wanted(&registry, Family::V4);
                let mut kernel = memory::empty();
                let document = Delta::between(&kernel, &wanted).document();
            memory::restore(&mut kernel, &document).unwrap();
                prop_assert_eq!(kernel.chain(TableName::Filter, "KUBE-SERVICES").map(<[_]>::len), Some(1));
            } else {
                prop_assert!(!(1..=15).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_lowercase()));
            }
            *service.pointer_mut(pointer).unwrap() = original;
        }
    }
}
