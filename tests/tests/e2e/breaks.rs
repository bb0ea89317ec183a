//! Failures to order: each looks as the table of signatures says, and `fix` leaves no trace of it.

use std::time::{Duration, Instant};

use lab_tests::load::Tally;
use lab_tests::machine::{Flavour, Machine, eventually};
use lab_tests::registry::{publish, service};
use lab_tests::run::Ran;
use lab_tests::stats::{REJECT_BELOW, chi_squared_survival};
use lab_tests::witness::Witness;
use serde_json::json;

use crate::support::{From, WEB, assert_answers, lab_with_rules, load, run_from, up_and_sync};

/// How long a call waits for an answer.
const WAIT: Duration = Duration::from_millis(700);
/// Within this time a call that was refused at once has ended, on a busy machine too.
const AT_ONCE: Duration = Duration::from_millis(400);
const CALLS: u64 = 240;

/// How a machine is, once its links have settled.
#[track_caller]
pub(crate) fn settled(machine: &Machine) -> Witness {
    eventually("links settle", || {
        let links = machine.run(["ip", "-o", "link"]).ok().stdout;
        !links.contains("NO-CARRIER") && !links.contains("state DOWN")
    });
    Witness::of(machine)
}

/// Asserts that a machine is as it was, in whichever order the kernel lists that. A link that was
/// set up has a carrier only a moment later.
#[track_caller]
pub(crate) fn assert_same(machine: &Machine, before: &Witness, when: &str) {
    let mut difference = String::new();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let Some(found) = before.difference(&Witness::of(machine)) else {
            return;
        };
        if !found
            .lines()
            .any(|line| line.starts_with("+ ") || line.starts_with("- "))
        {
            return;
        }
        difference = found;
    }
    panic!("{when}, something is not as before (- before, + after):\n{difference}");
}

/// Many calls, so many at a time that all are over before the kernel gives up asking for a MAC.
#[track_caller]
fn calls(machine: &Machine, from: From<'_>) -> Tally {
    let (count, wait) = (CALLS.to_string(), WAIT.as_millis().to_string());
    let argv = ["lab-helper", "load", "http", WEB, &count, "80", &wait];
    Tally::from_json(&run_from(machine, from, &argv).ok().json())
}

/// One call: what the client says, and after what time.
#[track_caller]
fn one_call(machine: &Machine, from: From<'_>) -> (String, Duration) {
    let wait = WAIT.as_millis().to_string();
    let argv = ["lab-helper", "load", "http", WEB, "1", "1", &wait];
    let began = Instant::now();
    let tally = Tally::from_json(&run_from(machine, from, &argv).ok().json());
    let said = tally.failures.keys().next().cloned();
    (said.unwrap_or_else(|| "answered".into()), began.elapsed())
}

/// Asserts that these shares of the calls came to these ends, by chi-squared.
#[track_caller]
fn assert_shares(tally: &Tally, expected: &[(&str, f64)]) {
    let counted = |end: &str| {
        let answers = tally.answers.get(end).copied().unwrap_or(0);
        answers + tally.failures.get(end).copied().unwrap_or(0)
    };
    let total: u64 = expected.iter().map(|(end, _)| counted(end)).sum();
    assert_eq!(total, CALLS, "other ends than {expected:?}: {tally:?}");
    let calls = 240.0;
    let statistic: f64 = expected
        .iter()
        .map(|(end, share)| {
            let found = f64::from(u32::try_from(counted(end)).expect("few"));
            (found - calls * share).powi(2) / (calls * share)
        })
        .sum();
    let degrees = f64::from(u32::try_from(expected.len() - 1).expect("few"));
    let p = chi_squared_survival(statistic, degrees);
    assert!(p >= REJECT_BELOW, "p = {p:e}: {tally:?}, expected {expected:?}");
}

/// Asserts that all calls end so, and that the first one takes as long.
#[track_caller]
fn assert_all(machine: &Machine, from: From<'_>, word: &str) {
    let (said, took) = one_call(machine, from);
    assert_eq!(said, word, "{from:?}");
    if word == "timed out" {
        assert!(took >= WAIT, "{from:?}: after {took:?}");
    } else {
        assert!(took < AT_ONCE, "{from:?}: only after {took:?}");
    }
}

/// Breaks a lab of three pods, looks at it, and undoes it: nothing differs from before.
#[track_caller]
fn break_and_fix(name: &str, look: impl FnOnce(&Machine)) {
    let machine = lab_with_rules("3-pods");
    break_and_fix_in(&machine, name, look);
}

#[track_caller]
fn break_and_fix_in(machine: &Machine, name: &str, look: impl FnOnce(&Machine)) {
    let before = settled(machine);
    let registry = registry(machine);
    machine.lab(["break", name]).ok().says(&format!("broken: {name}"));
    checks(machine, 1);
    machine.lab(["status"]).ok().says(&format!("on purpose: {name}"));
    look(machine);
    machine.lab(["fix"]).ok().says(&format!("fixed: {name}"));
    assert_same(machine, &before, &format!("after break {name} and fix"));
    assert_eq!(self::registry(machine), registry, "{name}");
    for from in [From::Node, From::Pod("web-1")] {
        assert_cured(machine, from);
    }
}

/// Asserts that all calls are answered. What the kernel remembers of lost ones, a MAC that nobody
/// told or a flow that nobody translated, may cost a few more at first.
#[track_caller]
fn assert_cured(machine: &Machine, from: From<'_>) {
    eventually("all calls are answered again", || {
        load(machine, from, "http", WEB, 10).answered() == 10
    });
}

/// All files of the registry with what they hold.
pub(crate) fn registry(machine: &Machine) -> String {
    let files = "cd /run/netns-lab/lab/registry && grep -r . | sort";
    machine.sh(files).ok().stdout
}

#[track_caller]
fn checks(machine: &Machine, code: i32) -> Ran {
    machine.lab(["break", "--check"]).exits(code)
}

const LOST_THIRD: [(&str, f64); 3] = [
    ("timed out", 1.0 / 3.0),
    ("web-2", 1.0 / 3.0),
    ("web-3", 1.0 / 3.0),
];

#[test]
fn br_netfilter_off_loses_the_answers_of_other_pods_of_the_bridge() {
    break_and_fix("br-netfilter-off", |machine| {
        let expected = [("timed out", 2.0 / 3.0), ("web-1", 1.0 / 3.0)];
        assert_shares(&calls(machine, From::Pod("web-1")), &expected);
        assert_answers(machine, From::Node, WEB);
    });
}

#[test]
fn hairpin_off_loses_the_share_of_the_caller_itself() {
    break_and_fix("hairpin-off", |machine| {
        assert_shares(&calls(machine, From::Pod("web-1")), &LOST_THIRD);
        assert_answers(machine, From::Node, WEB);
    });
}

#[test]
fn a_missing_masquerade_loses_the_share_of_the_caller_itself() {
    break_and_fix("masquerade-missing", |machine| {
        assert_shares(&calls(machine, From::Pod("web-1")), &LOST_THIRD);
        assert_answers(machine, From::Node, WEB);
    });
}

#[test]
fn a_drop_in_forward_loses_all_calls_of_pods() {
    break_and_fix("forward-drop", |machine| {
        assert_all(machine, From::Pod("web-1"), "timed out");
        assert_shares(&calls(machine, From::Pod("web-1")), &[("timed out", 1.0)]);
        assert_answers(machine, From::Node, WEB);
    });
}

#[test]
fn a_drop_in_the_other_iptables_loses_all_calls_of_pods_and_is_not_listed() {
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        let machine = Machine::builder().flavour(flavour).start();
        up_and_sync(&machine, "3-pods");
        // Tables of iptables-legacy come with the first rule, and stay.
        if flavour == Flavour::Nft {
            machine.lab(["break", "other-iptables-drop"]).ok();
            machine.lab(["fix"]).ok().says("has no way to remove it");
        }
        break_and_fix_in(&machine, "other-iptables-drop", |machine| {
            machine
                .run(["iptables-save"])
                .ok()
                .never_says("netns-lab lab\" -j DROP");
            assert_all(machine, From::Pod("web-1"), "timed out");
            assert_answers(machine, From::Node, WEB);
        });
    }
}

#[test]
fn wrong_probabilities_lose_what_falls_through() {
    break_and_fix("wrong-probabilities", |machine| {
        let third = 1.0 / 3.0;
        let left = 2.0 / 3.0;
        let expected = [
            ("web-1", third),
            ("web-2", left * third),
            ("web-3", left * left * third),
            ("timed out", left * left * left),
        ];
        for from in [From::Node, From::Pod("web-1")] {
            assert_shares(&calls(machine, from), &expected);
            // The kernel gives up asking for the virtual IP's MAC and says so for a moment.
            std::thread::sleep(Duration::from_secs(4));
        }
        // Whoever mends it by other means is told so, and the record goes.
        machine.proxy(["sync"]).ok();
        checks(machine, 0).says("mended: wrong-probabilities");
        machine.lab(["break", "wrong-probabilities"]).ok();
    });
}

#[test]
fn a_dead_endpoint_loses_its_share() {
    break_and_fix("dead-endpoint", |machine| {
        let third = 1.0 / 3.0;
        let expected = [("web-1", third), ("web-2", third), ("timed out", third)];
        assert_shares(&calls(machine, From::Pod("web-1")), &expected);
        machine.lab(["arp", "10.244.0.4"]).exits(1);
    });
}

#[test]
fn a_stale_flow_loses_one_source_port() {
    let machine = lab_with_rules("3-pods");
    machine
        .lab(["break", "stale-conntrack"])
        .exits(1)
        .complains("no Service with a UDP port")
        .complains("netns-lab expose web");
    let object = service(
        "web-udp",
        "10.96.0.81",
        "web",
        &[("echo", "UDP", 53, json!(8081))],
    );
    publish(&machine, "web-udp.service", &object);
    machine.proxy(["sync"]).ok();
    break_and_fix_in(&machine, "stale-conntrack", |machine| {
        let talk = |port: &str| {
            let argv = [
                "ip",
                "netns",
                "exec",
                "web-1",
                "lab-helper",
                "talk",
                "10.96.0.81:53",
                port,
            ];
            machine.command(argv).start()
        };
        let (stale, fresh) = (talk("40053"), talk("40054"));
        fresh.wait_for(" answers");
        stale.wait_for("nobody answers");
        assert!(!stale.said().contains("web-"), "{}", stale.said());
        // The moment the entry is gone, the rules are read anew.
        machine.sh("conntrack -D -p udp --orig-port-src 40053 2>&1").ok();
        stale.wait_for("web-");
        checks(machine, 0).says("mended: stale-conntrack");
        drop((stale, fresh));
        machine.lab(["break", "stale-conntrack"]).ok();
    });
}

#[test]
fn a_stale_flow_takes_the_service_of_names_where_there_is_no_other() {
    let machine = lab_with_rules("2-nodes-2-pods");
    machine
        .lab(["break", "stale-conntrack"])
        .ok()
        .says("kube-system/kube-dns 10.96.0.10:53");
    checks(&machine, 1);
    machine.lab(["fix"]).ok();
    checks(&machine, 0);
}

#[test]
fn what_a_watch_would_mend_at_once_is_refused() {
    let machine = lab_with_rules("3-pods");
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("following");
    for name in ["masquerade-missing", "wrong-probabilities", "no-reject"] {
        machine
            .lab(["break", name])
            .exits(1)
            .complains("sync --watch")
            .complains("kill ");
    }
    machine.lab(["break", "hairpin-off"]).ok();
    machine.lab(["fix"]).ok();
    drop(watch);
    machine.lab(["break", "masquerade-missing"]).ok();
}

#[test]
fn without_a_reject_all_calls_wait() {
    break_and_fix("no-reject", |machine| {
        for from in [From::Node, From::Pod("web-1")] {
            assert_all(machine, from, "timed out");
        }
    });
}

#[test]
fn without_a_route_between_nodes_their_pods_do_not_reach_each_other() {
    let machine = Machine::start();
    let empty = Witness::of(&machine);
    machine.lab(["up", "2-nodes-4-pods"]).ok();
    let routes = |node: &str| {
        machine
            .in_pod(node, ["ip", "-d", "route", "show", "table", "all"])
            .ok()
            .stdout
    };
    let before = routes("node-1");
    machine.lab(["break", "no-node-route"]).ok();
    machine.lab(["break", "--check"]).exits(1);
    let (near, far) = ("10.244.0.3:8080", "10.244.1.2:8080");
    for (pod, target, answers) in [
        ("web-1", near, 1),
        ("web-1", far, 0),
        ("web-2", far, 1),
        ("web-2", near, 0),
    ] {
        let argv = ["lab-helper", "load", "http", target, "1", "1", "700"];
        let tally = Tally::from_json(&machine.in_pod(pod, argv).ok().json());
        assert_eq!(tally.answered(), answers, "{pod} -> {target}: {tally:?}");
        let lost: Vec<_> = tally.failures.into_keys().collect();
        assert_eq!(
            lost,
            vec!["timed out"; 1 - usize::from(answers == 1)],
            "{pod} -> {target}"
        );
    }
    machine.lab(["fix"]).ok();
    assert_eq!(routes("node-1"), before);
    for name in [
        "no-node-route",
        "hairpin-off",
        "br-netfilter-off",
        "no-vip-route",
        "forward-drop",
    ] {
        machine.lab(["break", name]).ok();
    }
    machine.lab(["link", "web-2", "--down"]).ok();
    machine.lab(["down"]).ok();
    assert_same(&machine, &empty, "after down of a broken lab of two nodes");
}

#[test]
fn without_a_route_to_virtual_ips_the_node_knows_at_once() {
    let machine = Machine::builder().uplink().start();
    up_and_sync(&machine, "3-pods");
    break_and_fix_in(&machine, "no-vip-route", |machine| {
        assert_all(machine, From::Node, "network unreachable");
        assert_answers(machine, From::Pod("web-1"), WEB);
    });
}

#[test]
fn a_wrong_selector_refuses_all_calls() {
    let machine = lab_with_rules("3-pods");
    break_and_fix_in(&machine, "wrong-selector", |machine| {
        machine.proxy(["sync"]).ok();
        for from in [From::Node, From::Pod("web-1")] {
            assert_all(machine, from, "connection refused");
        }
        // The file as people mend it.
        machine
            .sh("sed -i 's/\"app\": \"wex\"/\"app\": \"web\"/' /run/netns-lab/lab/registry/web.service.json")
            .ok();
        machine.proxy(["sync"]).ok();
        checks(machine, 0).says("mended: wrong-selector");
        machine.lab(["break", "wrong-selector"]).ok();
    });
}

#[test]
fn what_is_mended_by_hand_is_told_so() {
    let machine = lab_with_rules("3-pods");
    for (name, cure) in [
        (
            "br-netfilter-off",
            "sysctl -qw net.bridge.bridge-nf-call-iptables=1",
        ),
        (
            "hairpin-off",
            "for pod in 1 2 3; do bridge link set dev veth-web-$pod hairpin on; done",
        ),
        ("masquerade-missing", "miniproxy sync"),
        ("forward-drop", "iptables -D FORWARD 1"),
        ("forward-drop", "iptables -I FORWARD -d 10.244.0.0/24 -j ACCEPT"),
        ("other-iptables-drop", "iptables-legacy -D FORWARD 1"),
        ("dead-endpoint", "ip link set veth-web-3 up"),
        ("no-reject", "miniproxy sync"),
        ("no-vip-route", "ip route add 10.96.0.0/16 dev cni0"),
    ] {
        machine.lab(["break", name]).ok();
        machine.lab(["fix", "--check"]).exits(1).says("still broken");
        machine.sh(cure).ok();
        checks(&machine, 0).says(&format!("mended: {name}"));
        checks(&machine, 0).complains("nothing is broken");
        assert_cured(&machine, From::Pod("web-1"));
    }
}

#[test]
fn a_surprise_is_not_told_until_it_is_asked_for() {
    let machine = lab_with_rules("3-pods");
    // The surprise may be the one whose table stays until the namespace ends: it is there before.
    machine.lab(["break", "other-iptables-drop"]).ok();
    machine.lab(["fix"]).ok();
    let before = settled(&machine);
    let told = machine.lab(["break", "--surprise", "-o", "json"]).ok().json();
    assert_eq!(told, json!({ "name": null, "surprise": true }));
    machine.lab(["break", "--check"]).exits(1).says("the surprise");
    machine
        .lab(["status"])
        .ok()
        .says("on purpose: a surprise")
        .says("3 pods, 3 ready")
        .never_says("would repair");
    let hints = |more: usize| {
        let told = machine.lab(["break", "--hint", "-o", "json"]).ok().json();
        assert_eq!(told["broken"][0]["more"], json!(more), "{told:#}");
        assert_eq!(told["broken"][0]["name"], json!(null));
    };
    for left in [2, 1, 0, 0] {
        hints(left);
    }
    let revealed = machine.lab(["fix", "--reveal", "-o", "json"]).ok().json();
    let name = revealed["broken"][0]["name"]
        .as_str()
        .expect("a name")
        .to_string();
    machine.lab(["status"]).ok().says(&format!("on purpose: {name}"));
    machine.lab(["fix", &name]).ok();
    assert_same(&machine, &before, &format!("after the surprise {name}"));
}

#[test]
fn what_is_missing_is_said() {
    let machine = lab_with_rules("3-pods");
    machine
        .lab(["break", "no-node-route"])
        .exits(1)
        .complains("one node")
        .complains("netns-lab up 2-nodes-6-pods");
    machine.lab(["break"]).exits(2).complains("--list");
    machine.lab(["break", "nonsense"]).exits(2);
    machine.lab(["break", "hairpin-off"]).ok();
    machine
        .lab(["break", "hairpin-off"])
        .exits(1)
        .complains("broken already");
    machine.lab(["fix"]).ok();
    machine.proxy(["cleanup"]).ok();
    for name in [
        "wrong-probabilities",
        "dead-endpoint",
        "no-reject",
        "masquerade-missing",
    ] {
        machine.lab(["break", name]).exits(1).complains("miniproxy sync");
    }
    machine.lab(["down"]).ok();
    machine
        .lab(["break", "hairpin-off"])
        .exits(1)
        .complains("no lab is up");
    machine
        .lab(["break", "--list"])
        .ok()
        .says("stale-conntrack")
        .says("IPv6 as well as IPv4")
        .says("two nodes");
}
