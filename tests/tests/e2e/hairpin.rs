//! A pod that calls its own Service, and what breaks when a knob of the kernel is off.

use lab_tests::machine::Machine;

use crate::support::{From, WEB, assert_answers, assert_silent, lab_with_rules, load, load_with_timeout};

const BRIDGE_NF: &str = "net.bridge.bridge-nf-call-iptables";

fn set_bridge_nf(machine: &Machine, value: u8) {
    machine
        .run(["sysctl", "-qw", &format!("{BRIDGE_NF}={value}")])
        .ok();
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let machine = lab_with_rules("1-pods");
    assert_answers(&machine, From::Pod("web-1"), WEB);
    // Masqueraded, or the pod would see a packet from itself and answer past the rules.
    machine
        .in_pod("web-1", ["curl", "-sS", "--max-time", "5", WEB])
        .ok()
        .says("web-1 (10.244.0.2) sees you as 10.244.0.1:");
}

#[test]
fn every_pod_reaches_every_pod_itself_included() {
    let machine = lab_with_rules("3-pods");
    for pod in ["web-1", "web-2", "web-3"] {
        let tally = load(&machine, From::Pod(pod), "http", WEB, 60);
        assert!(
            tally.failures.is_empty() && tally.answers.len() == 3,
            "{pod}: {tally:?}"
        );
    }
}

/// Two ports of one bridge talk past iptables: the answer of the other pod arrives from an address
/// that nobody asked, so it is dropped and the client waits in vain.
#[test]
fn without_bridge_nf_only_the_pod_itself_answers() {
    let machine = lab_with_rules("2-pods");
    set_bridge_nf(&machine, 0);
    let tally = load_with_timeout(&machine, From::Pod("web-1"), "http", WEB, 60, 700);
    assert_eq!(tally.answers.keys().collect::<Vec<_>>(), ["web-1"], "{tally:?}");
    assert_eq!(
        tally.failures.keys().collect::<Vec<_>>(),
        ["timed out"],
        "{tally:?}"
    );
    // The node's own connections are routed and so are not concerned.
    assert_answers(&machine, From::Node, WEB);
    let told = machine.lab(["doctor"]);
    let line = told
        .stdout
        .lines()
        .find(|line| line.contains("bridge-nf-call-iptables"));
    assert!(line.is_some_and(|line| !line.starts_with("ok")), "{told}");
    set_bridge_nf(&machine, 1);
    assert_answers(&machine, From::Pod("web-1"), WEB);
}

/// A bridge does not send a frame back through the port it came from, unless told to.
#[test]
fn without_hairpin_a_pod_does_not_reach_itself() {
    let machine = lab_with_rules("1-pods");
    machine
        .run(["bridge", "link", "set", "dev", "veth-web-1", "hairpin", "off"])
        .ok();
    assert_silent(&machine, From::Pod("web-1"), WEB);
    machine
        .run(["bridge", "link", "set", "dev", "veth-web-1", "hairpin", "on"])
        .ok();
    assert_answers(&machine, From::Pod("web-1"), WEB);
}
