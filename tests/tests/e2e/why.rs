//! `miniproxy why`: each failure is named, its cure is told, and a healthy lab has none.
//!
//! `scripts/test` runs the long ones. `LAB_TESTS_WHY_ROUNDS` says how often they ask (5).

use std::env;

use lab_tests::machine::{Flavour, Machine};
use lab_tests::registry::{publish, service};
use serde_json::{Value, json};

use crate::support::{WEB, lab_with_rules, up_and_sync};

/// What `why` says, and with which exit code.
#[track_caller]
fn why(machine: &Machine, service: &str, code: i32) -> Value {
    machine.proxy(["why", service, "-o", "json"]).exits(code).json()
}

#[track_caller]
fn causes(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings").iter();
    findings
        .map(|finding| finding["cause"].as_str().expect("a name").to_string())
        .collect()
}

#[track_caller]
fn assert_well(machine: &Machine, service: &str) {
    let report = why(machine, service, 0);
    assert_eq!(report["findings"], json!([]), "{report:#}");
    assert_eq!(report["unknown"], json!([]), "{report:#}");
}

/// Breaks, asks, mends, asks again.
#[track_caller]
fn named_and_silent(machine: &Machine, name: &str, service: &str) {
    machine.lab(["break", name]).ok();
    let report = why(machine, service, 1);
    assert_eq!(causes(&report), [name], "{report:#}");
    let finding = &report["findings"][0];
    assert_eq!(finding["certain"], json!(true), "{report:#}");
    assert!(finding["cure"].as_array().is_some_and(|cure| !cure.is_empty()));
    machine.lab(["fix", name]).ok();
    assert_well(machine, service);
}

#[test]
fn a_healthy_lab_has_nothing_wrong() {
    let machine = lab_with_rules("3-pods");
    assert_well(&machine, "web");
    machine
        .proxy(["why", "svc/web", "--plain"])
        .ok()
        .says("Nothing is wrong");
    machine.proxy(["why", "nobody"]).exits(2).complains("default/web");
    machine.proxy(["cleanup"]).ok();
    assert_eq!(causes(&why(&machine, "web", 1)), ["no-rules"]);
}

#[test]
fn a_healthy_lab_of_two_nodes_has_nothing_wrong() {
    let machine = lab_with_rules("2-nodes-4-pods");
    assert_well(&machine, "web");
    named_and_silent(&machine, "no-node-route", "web");
}

#[test]
fn each_failure_of_one_node_is_named() {
    let machine = lab_with_rules("3-pods");
    for name in [
        "br-netfilter-off",
        "hairpin-off",
        "masquerade-missing",
        "forward-drop",
        "wrong-probabilities",
        "dead-endpoint",
        "no-reject",
        "no-vip-route",
        "wrong-selector",
    ] {
        named_and_silent(&machine, name, "web");
    }
}

#[test]
fn a_drop_in_the_other_iptables_is_named() {
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        let machine = Machine::builder().flavour(flavour).start();
        up_and_sync(&machine, "3-pods");
        machine.sh("iptables-legacy -S >/dev/null").ok();
        named_and_silent(&machine, "other-iptables-drop", "web");
    }
}

#[test]
fn a_stale_flow_is_named() {
    let machine = lab_with_rules("3-pods");
    let ports = [("echo", "UDP", 53, json!(8081))];
    let object = service("web-udp", "10.96.0.81", "web", &ports);
    publish(&machine, "web-udp.service", &object);
    machine.proxy(["sync"]).ok();
    assert_well(&machine, "web-udp");
    named_and_silent(&machine, "stale-conntrack", "web-udp");
}

#[test]
fn the_cure_that_is_told_cures() {
    let machine = lab_with_rules("3-pods");
    for name in [
        "br-netfilter-off",
        "hairpin-off",
        "masquerade-missing",
        "forward-drop",
        "wrong-probabilities",
        "dead-endpoint",
        "no-reject",
        "no-vip-route",
        "wrong-selector",
    ] {
        machine.lab(["break", name]).ok();
        let report = why(&machine, "web", 1);
        assert_eq!(causes(&report), [name]);
        for command in report["findings"][0]["cure"].as_array().expect("a cure") {
            machine.sh(command.as_str().expect("a command")).ok();
        }
        assert_well(&machine, "web");
        machine.lab(["fix", name]);
    }
}

/// Runs what is told, and asks again.
#[track_caller]
fn cured(machine: &Machine, report: &Value, service: &str) {
    for command in report["findings"][0]["cure"].as_array().expect("a cure") {
        machine.sh(command.as_str().expect("a command")).ok();
    }
    assert_well(machine, service);
}

#[test]
fn a_host_outside_calls_all_doors() {
    let machine = lab_with_rules("2-nodes-4-pods");
    let expose = [
        "expose",
        "web",
        "--name",
        "doors",
        "--port",
        "80",
        "--target-port",
        "8080",
    ];
    machine
        .lab(expose.into_iter().chain(["--type", "LoadBalancer"]))
        .ok();
    // Nothing leads there from outside.
    machine
        .sh(
            "netns-lab get service doors -o json | jq '.spec.externalIPs = [\"198.51.100.7\"]' \
             | netns-lab apply -f -; miniproxy sync",
        )
        .ok();
    let report = why(&machine, "doors", 0);
    let outside = report["places"].as_array().expect("places").iter();
    let outside: Vec<&Value> = outside.filter(|place| place["place"] == "outside").collect();
    // The load balancer's address, the address that nothing leads to, and a port of each node.
    assert_eq!(outside.len(), 4, "{report:#}");
    let answered = outside.iter().filter(|place| place["word"] == "answered");
    assert_eq!(answered.count(), 3, "{report:#}");
    let blind = report["notLookedAt"].to_string();
    assert!(blind.contains("198.51.100.7:80"), "{report:#}");
}

#[test]
fn a_name_that_pods_do_not_find_is_told() {
    let machine = lab_with_rules("2-nodes-4-pods");
    let report = why(&machine, "web", 0);
    let names = report["names"].as_array().expect("names");
    assert!(names.len() >= 2, "{report:#}");
    for lookup in names {
        assert_eq!(lookup["addresses"], json!(["10.96.0.80"]), "{report:#}");
    }
    let resolv_conf = "/run/netns-lab/lab/pods/web-1/resolv.conf";
    machine
        .sh(&format!("sed -i 's/10.96.0.10/192.0.2.1/' {resolv_conf}"))
        .ok();
    let report = why(&machine, "web", 1);
    assert_eq!(causes(&report), ["wrong-name-server"], "{report:#}");
    cured(&machine, &report, "web");
    // It is there, and says nothing.
    machine
        .sh("kill -STOP $(netns-lab status -o json | jq '.pods[] | select(.system).pid')")
        .ok();
    let report = why(&machine, "web", 1);
    assert_eq!(causes(&report), ["name-server-silent"], "{report:#}");
    let report = why(&machine, "kube-system/kube-dns", 1);
    assert_eq!(causes(&report), ["name-server-silent"], "{report:#}");
}

#[test]
fn a_way_between_nodes_is_missed_in_ipv6_too() {
    let machine = Machine::start();
    machine.lab(["up", "2-nodes-4-pods", "--dual-stack"]).ok();
    machine.proxy(["sync"]).ok();
    assert_well(&machine, "web");
    let range = "netns-lab get node node-2 -o json | jq -r '.spec.podCIDRs[] | select(contains(\"::\"))'";
    machine
        .sh(&format!("netns-lab exec node-1 -- ip -6 route del $({range})"))
        .ok();
    let report = why(&machine, "web", 1);
    assert_eq!(causes(&report), ["no-node-route"], "{report:#}");
    cured(&machine, &report, "web");
}

#[test]
fn redirects_that_use_up_errors_are_told() {
    let machine = lab_with_rules("3-pods");
    machine.sh("sysctl -qw net.ipv4.conf.all.send_redirects=1").ok();
    // Who is refused was on its way back into the bridge.
    machine.lab(["break", "wrong-selector"]).ok();
    machine.proxy(["sync"]).ok();
    machine.in_pod("web-1", ["lab-helper", "load", "http", WEB, "4", "1", "300"]);
    let report = why(&machine, "web", 1);
    assert_eq!(causes(&report), ["wrong-selector"]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("net.ipv4.conf.all.send_redirects=0"), "{report:#}");
}

#[test]
fn a_dump_and_objects_tell_what_they_can() {
    let machine = lab_with_rules("3-pods");
    let ask = |code: i32| {
        machine.sh("iptables-save > /run/why.save").ok();
        let argv = [
            "why",
            "web",
            "--rules",
            "/run/why.save",
            "--registry",
            "/run/netns-lab/lab/registry",
            "-o",
            "json",
        ];
        causes(&machine.proxy(argv).exits(code).json())
    };
    assert_eq!(ask(0), Vec::<String>::new());
    for name in [
        "masquerade-missing",
        "forward-drop",
        "wrong-probabilities",
        "no-reject",
        "wrong-selector",
    ] {
        machine.lab(["break", name]).ok();
        assert_eq!(ask(1), [name]);
        machine.lab(["fix", name]).ok();
    }
}

/// How often the long ones ask, unless the environment says otherwise.
const ROUNDS: usize = 5;

/// What `why` says that it should not, if anything: it has to name these causes and no other.
fn flip(machine: &Machine, service: &str, causes: &[&str]) -> Option<String> {
    let ran = machine.proxy(["why", service, "-o", "json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    let findings = report["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let named: Vec<&Value> = findings.iter().map(|finding| &finding["cause"]).collect();
    let right =
        named == causes && report["unknown"] == json!([]) && ran.code() == i32::from(!causes.is_empty());
    (!right).then(|| format!("expected {causes:?} of {service}:\n{ran}"))
}

/// Breaks, asks, mends, asks.
#[track_caller]
fn flips(machine: &Machine, name: &str) -> Vec<String> {
    let told = machine.lab(["break", name]).ok().stdout;
    let service = match name {
        "stale-conntrack" if told.contains("kube-dns") => "kube-system/kube-dns",
        "stale-conntrack" => "web-udp",
        _ => "web",
    };
    let broken = flip(machine, service, &[name]);
    machine.lab(["fix", name]).ok();
    broken.into_iter().chain(flip(machine, service, &[])).collect()
}

/// Asks about all of them, round after round, and tells all flips at the end.
#[track_caller]
fn assert_no_flip(topology: &str, names: &[&'static str]) {
    let rounds = env::var("LAB_TESTS_WHY_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let machine = lab_with_rules(topology);
    machine.sh("iptables-legacy -S >/dev/null").ok();
    let ports = [("echo", "UDP", 53, json!(8081))];
    publish(
        &machine,
        "web-udp.service",
        &service("web-udp", "10.96.0.81", "web", &ports),
    );
    machine.proxy(["sync"]).ok();
    let mut flipped = Vec::new();
    for round in 1..=rounds {
        let mut new: Vec<String> = flip(&machine, "web", &[]).into_iter().collect();
        new.extend(names.iter().flat_map(|name| flips(&machine, name)));
        for flip in &new {
            eprintln!("round {round}: {flip}");
        }
        flipped.extend(new);
        eprintln!("{topology}: round {round} of {rounds}, {} flips", flipped.len());
    }
    assert!(flipped.is_empty(), "{} flips", flipped.len());
}

/// All but `no-node-route`, which needs two nodes.
const OF_ONE_NODE: [&str; 11] = [
    "br-netfilter-off",
    "hairpin-off",
    "masquerade-missing",
    "forward-drop",
    "other-iptables-drop",
    "wrong-probabilities",
    "dead-endpoint",
    "stale-conntrack",
    "no-reject",
    "no-vip-route",
    "wrong-selector",
];

#[test]
#[ignore = "it takes minutes: scripts/test runs it"]
fn no_answer_flips_on_one_node() {
    assert_no_flip("3-pods", &OF_ONE_NODE);
}

#[test]
#[ignore = "it takes minutes: scripts/test runs it"]
fn no_answer_flips_on_two_nodes() {
    let names = [&OF_ONE_NODE[..], &["no-node-route"]].concat();
    assert_no_flip("2-nodes-4-pods", &names);
}
