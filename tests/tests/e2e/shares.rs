//! Equal shares: the product of the probabilities along the chain is 1/n for each pod.

use lab_tests::machine::Machine;
use lab_tests::registry::{publish, service};
use serde_json::json;

use crate::support::{From, WEB, assert_fair, lab_with_rules, load};

const CONNECTIONS: usize = 3000;
const UDP: &str = "10.96.0.81:53";

fn publish_udp(machine: &Machine) {
    let object = service(
        "web-udp",
        "10.96.0.81",
        "web",
        &[("echo", "UDP", 53, json!(8081))],
    );
    publish(machine, "web-udp.service", &object);
    machine.proxy(["sync"]).ok();
}

/// From the node and from a pod, over TCP and over UDP.
fn shares_are_equal(pods: usize) {
    let machine = lab_with_rules(&format!("{pods}-pods"));
    publish_udp(&machine);
    for from in [From::Node, From::Pod("web-1")] {
        for (protocol, target) in [("http", WEB), ("udp", UDP)] {
            let tally = load(&machine, from, protocol, target, CONNECTIONS);
            let what = format!("{pods} pods, {protocol}, {from:?}");
            assert_fair(&tally, pods, CONNECTIONS as u64, &what);
        }
    }
}

#[test]
fn of_1_pod() {
    shares_are_equal(1);
}

#[test]
fn of_2_pods() {
    shares_are_equal(2);
}

#[test]
fn of_3_pods() {
    shares_are_equal(3);
}

#[test]
fn of_7_pods() {
    shares_are_equal(7);
}

#[test]
fn of_37_pods() {
    shares_are_equal(37);
}

#[test]
fn several_ports_of_one_service_and_a_raw_tcp_one() {
    let machine = lab_with_rules("3-pods");
    let ports = [
        ("http", "TCP", 80, json!("http")),
        ("line", "TCP", 81, json!(8081)),
        ("line-udp", "UDP", 81, json!(8081)),
    ];
    publish(
        &machine,
        "many.service",
        &service("many", "10.96.0.82", "web", &ports),
    );
    machine.proxy(["sync"]).ok().says("default/many:line-udp");
    for (protocol, port) in [("http", 80), ("tcp", 81), ("udp", 81)] {
        let tally = load(
            &machine,
            From::Pod("web-2"),
            protocol,
            &format!("10.96.0.82:{port}"),
            600,
        );
        assert_fair(&tally, 3, 600, protocol);
    }
}

/// The rules' own counters tell the same story as the answers: nothing else balanced the load.
#[test]
fn the_rules_own_counters_agree_with_the_answers() {
    let machine = lab_with_rules("3-pods");
    let tally = load(&machine, From::Node, "http", WEB, 300);
    let dump = machine.run(["iptables-save", "-c", "-t", "nat"]).ok().stdout;
    for (index, count) in tally.answers.values().enumerate() {
        let address = format!("--to-destination 10.244.0.{}:8080", index + 2);
        let line = dump
            .lines()
            .find(|line| line.contains(&address))
            .expect("a DNAT rule");
        assert!(
            line.starts_with(&format!("[{count}:")),
            "{count} answers, but: {line}"
        );
    }
}
