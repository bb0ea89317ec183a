//! Settings of the kernel: set as kube-proxy sets them, noted, and put back byte for byte.

use lab_tests::machine::Machine;
use lab_tests::registry::{publish, service};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::json;

use crate::support::{From, assert_answers, assert_silent};

const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";
const CLOSE_WAIT: &str = "net.netfilter.nf_conntrack_tcp_timeout_close_wait";
const KILL_AT: &str = "NETNS_LAB_KILL_AT";

#[track_caller]
fn value(machine: &Machine, key: &str) -> String {
    machine.run(["sysctl", "-n", key]).ok().stdout.trim().to_string()
}

/// A machine that has inherited nothing from the host: links take their settings from there.
fn machine() -> Machine {
    let machine = Machine::start();
    machine.sh(&format!("sysctl -qw {ROUTE_LOCALNET}=0")).ok();
    machine
}

/// A registry without a lab.
fn registry(machine: &Machine) -> String {
    let object = service("web", "10.96.0.80", "web", &[("http", "TCP", 80, json!(8080))]);
    machine.file("registry.json", &object.to_string())
}

fn config(machine: &Machine, fields: &str) -> String {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    machine.file("config.yaml", &format!("{head}{fields}"))
}

#[test]
fn what_is_set_is_told_once_and_put_back() {
    let machine = machine();
    machine.sh(&format!("sysctl -qw {CLOSE_WAIT}=77")).ok();
    let before = Witness::of(&machine);
    let registry = registry(&machine);
    machine
        .proxy(["sync", "--registry", &registry])
        .ok()
        .says(&format!("set {ROUTE_LOCALNET}=1 (was 0)"))
        .says(&format!("set {CLOSE_WAIT}=3600 (was 77)"));
    assert_eq!(value(&machine, ROUTE_LOCALNET), "1");
    let again = machine
        .proxy(["sync", "--registry", &registry])
        .ok()
        .never_says("set net");
    assert_eq!(again.stderr, "", "{again}");
    let done = machine.proxy(["cleanup", "-o", "json"]).ok().json();
    assert_eq!(
        done["settings"][0],
        format!("{ROUTE_LOCALNET}=0 (was 1)"),
        "{done}"
    );
    assert_unchanged(&machine, &before, "after cleanup");
    machine.proxy(["cleanup"]).ok().says("nothing to remove");

    machine.proxy(["sync", "--registry", &registry]).ok();
    machine
        .proxy(["cleanup"])
        .ok()
        .says(&format!("put back {CLOSE_WAIT}=77 (was 3600)"));
    assert_unchanged(&machine, &before, "after the second cleanup");
}

/// Before the first rule, and after the last.
#[test]
fn node_ports_answer_on_loopback_as_long_as_they_should() {
    let machine = machine();
    machine.lab(["up", "2-pods"]).ok();
    let mut web = service("np", "10.96.0.90", "web", &[("http", "TCP", 80, json!(8080))]);
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30090);
    publish(&machine, "np.service", &web);
    machine.proxy(["sync"]).ok();
    assert_answers(&machine, From::Node, "127.0.0.1:30090");
    assert_answers(&machine, From::Node, "10.244.0.1:30090");

    let config = config(&machine, "iptables:\n  localhostNodePorts: false\n");
    machine
        .proxy(["sync", "--config", &config])
        .ok()
        .says(&format!("set {ROUTE_LOCALNET}=0 (was 1)"));
    assert_silent(&machine, From::Node, "127.0.0.1:30090");
    assert_answers(&machine, From::Node, "10.244.0.1:30090");
    machine.proxy(["cleanup"]).ok().never_says(ROUTE_LOCALNET);
}

#[test]
fn a_value_that_somebody_set_since_is_theirs() {
    let machine = machine();
    let registry = registry(&machine);
    machine.proxy(["sync", "--registry", &registry]).ok();
    machine.sh(&format!("sysctl -qw {CLOSE_WAIT}=99")).ok();
    machine.proxy(["cleanup"]).ok().never_says(CLOSE_WAIT);
    assert_eq!(value(&machine, CLOSE_WAIT), "99");
    assert_eq!(value(&machine, ROUTE_LOCALNET), "0");
}

#[test]
fn a_kill_at_each_step_loses_no_value() {
    let machine = machine();
    let before = Witness::of(&machine);
    let registry = registry(&machine);
    let sync = ["miniproxy", "sync", "--registry", &registry];
    let dies = |argv: &[&str], step: &str| {
        let ran = machine.command(argv).env(KILL_AT, step).run();
        assert_eq!(ran.code(), 137, "{step} was never reached: {ran}");
    };
    for step in ["sync:sysctls-noted", "sync:sysctls-set"] {
        for again in [false, true] {
            dies(&sync, step);
            if again {
                machine.run(sync).ok();
                assert_eq!(value(&machine, ROUTE_LOCALNET), "1");
            }
            machine.proxy(["cleanup"]).ok();
            assert_unchanged(
                &machine,
                &before,
                &format!("{step}, sync again: {again}, cleanup"),
            );
        }
    }
    for again in [false, true] {
        machine.run(sync).ok();
        dies(&["miniproxy", "cleanup"], "cleanup:sysctls");
        if again {
            machine.run(sync).ok();
        }
        machine.proxy(["cleanup"]).ok();
        assert_unchanged(
            &machine,
            &before,
            &format!("cleanup:sysctls, sync again: {again}, cleanup"),
        );
    }
}

#[test]
fn what_cannot_be_set_is_a_note() {
    let machine = machine();
    let registry = registry(&machine);
    let max = value(&machine, "net.netfilter.nf_conntrack_max");
    let config = config(&machine, "conntrack:\n  min: 1048576\n  maxPerCore: 1000\n");
    machine
        .proxy(["sync", "--registry", &registry, "--config", &config])
        .ok()
        .complains("note: left as it is: net.netfilter.nf_conntrack_max=1048576");
    assert_eq!(value(&machine, "net.netfilter.nf_conntrack_max"), max);
    machine.proxy(["cleanup"]).ok();

    machine
        .sh("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys")
        .ok();
    let before = Witness::of(&machine);
    machine
        .proxy(["sync", "--registry", &registry])
        .ok()
        .complains(&format!(
            "note: left as it is: {ROUTE_LOCALNET}=1 (read-only here"
        ));
    machine.proxy(["cleanup"]).ok();
    assert_unchanged(&machine, &before, "after a sync under a read-only /proc/sys");
}

#[test]
fn a_damaged_record_is_told_and_stops_nothing_else() {
    let machine = machine();
    let registry = registry(&machine);
    machine.proxy(["sync", "--registry", &registry]).ok();
    machine
        .sh("for file in /run/netns-lab/.sysctls-*; do echo '{' > $file; done")
        .ok();
    machine
        .proxy(["cleanup"])
        .exits(1)
        .complains("is damaged")
        .complains("remove it");
    machine.run(["iptables-save"]).ok().never_says("KUBE-");
    machine.sh("rm /run/netns-lab/.sysctls-*").ok();
    machine.proxy(["cleanup"]).ok();
    assert!(!machine.run(["test", "-e", "/run/netns-lab"]).status.success());
}

#[test]
fn a_bridge_whose_frames_pass_by_the_rules_is_noted() {
    let machine = machine();
    let registry = registry(&machine);
    let sync = || machine.proxy(["sync", "--registry", &registry]).ok();
    machine.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0").ok();
    sync().never_says("bridge");
    machine.sh("ip link add br7 type bridge").ok();
    sync()
        .complains("bridge-nf-call-iptables is 0")
        .complains("sudo sysctl -w net.bridge.bridge-nf-call-iptables=1");
    machine.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1").ok();
    sync().never_says("bridge");
}
