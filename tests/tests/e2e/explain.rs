//! What `miniproxy explain` predicts is where real connections go.

use std::collections::BTreeMap;

use lab_tests::load::Tally;
use lab_tests::machine::Machine;
use lab_tests::registry::{publish, service};
use lab_tests::stats::{REJECT_BELOW, chi_squared_survival};
use serde_json::{Value, json};

use crate::support::{From, load, run_from};

const CONNECTIONS: u64 = 3000;
const NODE_PORT: u16 = 30_080;

fn machine() -> Machine {
    let machine = Machine::builder().uplink().start();
    machine.lab(["up", "3-pods"]).ok();
    let mut door = service("door", "10.96.0.90", "web", &[("http", "TCP", 80, json!("http"))]);
    door["spec"]["type"] = json!("NodePort");
    door["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    publish(&machine, "door.service", &door);
    machine.proxy(["sync"]).ok();
    machine
}

fn explained(machine: &Machine, target: &str, from: &str) -> Value {
    machine
        .proxy(["explain", target, "--from", from, "-o", "json"])
        .ok()
        .json()
}

/// Holds what was counted against the shares that were predicted.
fn compare(report: &Value, tally: &Tally, what: &str) {
    assert!(tally.failures.is_empty(), "{what}: {tally:?}");
    let predicted: BTreeMap<String, f64> = report["backends"]
        .as_array()
        .expect("backends")
        .iter()
        .map(|backend| {
            let name = backend["name"].as_str().expect("a pod's name");
            (name.to_string(), backend["share"].as_f64().expect("a share"))
        })
        .collect();
    let answered = tally.answered();
    assert_eq!(
        tally.answers.keys().collect::<Vec<_>>(),
        predicted.keys().collect::<Vec<_>>(),
        "{what}"
    );
    let count = |number: u64| f64::from(u32::try_from(number).expect("a few thousand"));
    let statistic: f64 = predicted
        .iter()
        .map(|(name, share)| {
            let (expected, found) = (share * count(answered), count(tally.answers[name]));
            (found - expected).powi(2) / expected
        })
        .sum();
    let degrees = f64::from(u32::try_from(predicted.len() - 1).expect("a few"));
    let p = chi_squared_survival(statistic, degrees);
    assert!(p >= REJECT_BELOW, "{what}: p = {p:e}: {predicted:?}, {tally:?}");
}

/// Whom the pods saw, but for the one that called itself.
fn seen(tally: &Tally) -> Vec<String> {
    let mut addresses: Vec<String> = tally
        .seen
        .keys()
        .filter_map(|seen| Some(seen.split_once(' ')?.1.to_string()))
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

#[test]
fn connections_go_where_explain_says() {
    let machine = machine();
    let flows = [
        ("10.96.0.90:80", "web-1", From::Pod("web-1")),
        ("10.96.0.90:80", "node", From::Node),
    ];
    for (target, from, place) in flows {
        let report = explained(&machine, target, from);
        let tally = load(
            &machine,
            place,
            "http",
            target,
            CONNECTIONS.try_into().expect("a few"),
        );
        compare(&report, &tally, &format!("{from} to {target}"));
        if report["masquerade"] == "some" {
            assert_eq!(
                seen(&tally).len(),
                2,
                "who calls itself is masqueraded: {tally:?}"
            );
        } else {
            assert_eq!(
                Some(seen(&tally)[0].as_str()),
                report["backendSees"].as_str(),
                "{report}"
            );
        }
    }
    assert_eq!(explained(&machine, "svc/door", "web-1")["masquerade"], "some");
}

#[test]
fn node_ports_are_predicted_from_outside() {
    let machine = machine();
    let report = explained(&machine, &format!("192.0.2.2:{NODE_PORT}"), "outside");
    assert_eq!(report["masquerade"], true);
    let target = format!("192.0.2.2:{NODE_PORT}");
    let count = CONNECTIONS.to_string();
    let argv = ["lab-helper", "load", "http", &target, &count, "16", "5000"];
    let tally = Tally::from_json(&machine.uplink().run(&machine, &argv).ok().json());
    compare(&report, &tally, "outside");
    assert_eq!(
        Some(seen(&tally)[0].as_str()),
        report["backendSees"].as_str(),
        "{report}"
    );
}

#[test]
fn what_does_not_connect_is_told_and_does_not() {
    let machine = machine();
    let ping = machine.proxy(["explain", "10.96.0.90", "--icmp", "-o", "json"]);
    assert_eq!(ping.code(), 1, "{ping:?}");
    let report = ping.json();
    assert_eq!(report["verdict"], "no-rule");
    assert_eq!(report["nearest"]["chain"], "KUBE-SERVICES");
    let argv = ["ping", "-c", "1", "-W", "1", "10.96.0.90"];
    assert_ne!(run_from(&machine, From::Pod("web-1"), &argv).code(), 0);
}

/// The kernel's words saved to a file say what the kernel says, without root's eyes.
#[test]
fn a_dump_says_what_the_kernel_says() {
    let machine = machine();
    let dump = machine.run(["iptables-save", "-c"]).ok().stdout;
    let file = machine.file("node.save", &dump);
    let live = explained(&machine, "svc/door", "10.244.0.77");
    let saved = machine
        .proxy([
            "explain",
            "svc/door",
            "--from",
            "10.244.0.77",
            "--rules",
            &file,
            "-o",
            "json",
        ])
        .ok()
        .json();
    let shares = |report: &Value| -> Vec<(Value, Value)> {
        let backends = report["backends"].as_array().expect("backends").iter();
        backends
            .map(|backend| (backend["address"].clone(), backend["share"].clone()))
            .collect()
    };
    assert_eq!(shares(&live), shares(&saved));
    let drawn = machine
        .proxy(["graph", "svc/door", "--rules", &file, "--format", "svg"])
        .ok();
    assert!(drawn.stdout.contains("</svg>"));
}

/// What fails besides the rules is seen where explain looks: the sentence and the exit code say so.
#[test]
fn what_breaks_calls_besides_the_rules_is_told() {
    let machine = machine();
    for (failure, from, check) in [
        ("masquerade-missing", "web-1", "itself"),
        ("hairpin-off", "web-1", "hairpin"),
        ("no-vip-route", "node", "route"),
        ("br-netfilter-off", "web-1", "bridge"),
    ] {
        machine.lab(["break", failure]).ok();
        let answer = machine
            .proxy(["explain", "svc/door", "--from", from, "-o", "json"])
            .exits(1);
        let report = answer.json();
        let bad = report["checks"]
            .as_array()
            .expect("checks")
            .iter()
            .find(|told| told["ok"] == json!(false) && told["costs"].as_f64() > Some(0.3));
        assert_eq!(
            bad.map(|told| &told["name"]),
            Some(&json!(check)),
            "{failure}: {report}"
        );
        assert!(
            report["sentence"]
                .as_str()
                .is_some_and(|said| said.contains("fail: ")),
            "{report}"
        );
        machine.lab(["fix"]).ok();
        machine.proxy(["explain", "svc/door", "--from", from]).ok();
    }
}
