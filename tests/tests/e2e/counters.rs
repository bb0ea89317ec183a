//! The packet counters of newer kube-proxies, and who else writes rules.

use std::time::Duration;

use lab_tests::machine::{Flavour, Machine, eventually};
use lab_tests::registry::{service, slice};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::json;

/// A node port, as a registry without a lab.
fn registry(machine: &Machine) -> String {
    let mut web = service("web", "10.96.0.80", "web", &[("http", "TCP", 80, json!(8080))]);
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30080);
    let slice = slice("web-1", "web", &["10.244.0.2"], ("http", "TCP", 8080));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [web, slice]});
    machine.file("registry.json", &list.to_string())
}

fn counted(flavour: Flavour) {
    let machine = Machine::builder().flavour(flavour).start();
    let before = Witness::of(&machine);
    let registry = registry(&machine);
    let with = |words: &[&'static str]| {
        let words = words.iter().copied();
        machine.proxy(words.chain(["--compat", "latest", "--registry", &registry]))
    };
    with(&["sync"]).ok();
    let rules = machine.sh("iptables-save").ok().stdout;
    let count = |name: &str| rules.matches(name).count();
    assert_eq!(count("ct_state_invalid_dropped_pkts"), 1, "{rules}");
    assert_eq!(count("localhost_nps_accepted_pkts"), 1, "{rules}");
    with(&["sync"]).ok().says("nothing to do");
    with(&["diff"]).ok().says("the same");
    // 1.30 has none: both rules differ, in both families where both have them.
    let registry_flag = ["diff", "--registry", &registry];
    machine.proxy(registry_flag).exits(1).says("counter");

    // The dump of a kernel that cannot count is as good: kube-proxy leaves the counters out there.
    let without: Vec<&str> = rules
        .lines()
        .filter(|line| !line.contains("localhost_nps_accepted_pkts"))
        .collect();
    let without = without
        .join("\n")
        .replace(" -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts", "");
    let without = without.replace(" -m nfacct --nfacct-name ct_state_invalid_dropped_pkts", "");
    let dump = machine.file("other.save", &without);
    let words = ["diff", &dump, &registry, "--compat", "latest"];
    machine.proxy(words).ok().says("the same");

    machine
        .proxy(["cleanup"])
        .ok()
        .says("removed packet counter localhost_nps_accepted_pkts");
    machine.proxy(["cleanup"]).ok().says("nothing to remove");
    assert_unchanged(&machine, &before, "after cleanup");
}

/// Only what was made is removed: without the record of that, the counters are somebody else's.
#[test]
fn a_counter_of_somebody_else_stays() {
    let machine = Machine::start();
    let registry = registry(&machine);
    let sync = || {
        let words = ["sync", "--compat", "latest", "--registry", &registry];
        machine.proxy(words).ok();
        let rules = machine.sh("iptables-save").ok().stdout;
        assert!(rules.contains("localhost_nps_accepted_pkts"), "{rules}");
    };
    sync();
    machine.sh("rm /run/netns-lab/.counters-*.json").ok();
    for _ in 0..2 {
        let said = machine.proxy(["cleanup"]).ok().stdout;
        assert!(!said.contains("counter"), "{said}");
        sync();
    }
    machine.proxy(["cleanup"]).ok();
    assert_eq!(machine.sh("ls -A /run/netns-lab 2>/dev/null").stdout, "");
}

#[test]
fn newer_rules_count_packets_with_nft() {
    counted(Flavour::Nft);
}

#[test]
fn newer_rules_count_packets_with_legacy() {
    counted(Flavour::Legacy);
}

#[test]
fn a_kube_proxy_beside_us_is_named() {
    let machine = Machine::start();
    let registry = registry(&machine);
    let other = machine
        .command(["bash", "-c", "exec -a /usr/local/bin/kube-proxy sleep 60"])
        .patience(Duration::from_secs(60))
        .start();
    eventually("it runs", || {
        machine
            .sh("grep -lz '^/usr/local/bin/kube-proxy' /proc/[0-9]*/cmdline || true")
            .ok()
            .stdout
            .contains("cmdline")
    });
    machine
        .proxy(["sync", "--registry", &registry])
        .ok()
        .complains("warning: kube-proxy (process ");
    drop(other);
}
