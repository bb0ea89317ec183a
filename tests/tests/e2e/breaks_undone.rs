//! Failures to order and faults of links leave nothing behind, whenever they are killed.

use std::time::{Duration, Instant};

use lab_tests::load::Tally;
use lab_tests::machine::{Machine, eventually};
use lab_tests::witness::Witness;

use crate::breaks::{assert_same, settled};
use crate::support::{cleanup_and_down, lab_with_rules, up_and_sync};

/// Failures that change something in each of the ways there are.
const KINDS: [&str; 7] = [
    "br-netfilter-off",
    "hairpin-off",
    "other-iptables-drop",
    "wrong-probabilities",
    "dead-endpoint",
    "no-vip-route",
    "wrong-selector",
];

#[test]
fn break_and_fix_can_be_killed_at_any_step() {
    let machine = Machine::start();
    machine.sh("iptables-legacy -S >/dev/null").ok();
    let empty = Witness::of(&machine);
    up_and_sync(&machine, "3-pods");
    let before = settled(&machine);
    let registry = crate::breaks::registry(&machine);
    let kill = |words: &[&str], step: &str| {
        let argv = ["netns-lab"].iter().chain(words);
        let ran = machine.command(argv).env("NETNS_LAB_KILL_AT", step).run();
        assert_eq!(ran.code(), 137, "{step}: {ran}");
    };
    for name in KINDS {
        for step in ["break:recorded", "break:changed"] {
            kill(&["break", name], step);
            machine.lab(["fix"]).ok();
            assert_same(&machine, &before, &format!("{name}: {step}, then fix"));
        }
        for step in ["fix:undone", "fix:forgotten"] {
            machine.lab(["break", name]).ok();
            kill(&["fix"], step);
            machine.lab(["fix"]).ok();
            assert_same(&machine, &before, &format!("{name}: {step}, then fix"));
        }
        assert_eq!(crate::breaks::registry(&machine), registry, "{name}");
    }
    for step in ["link:recorded", "link:changed"] {
        kill(&["link", "web-1", "--down", "--rate", "10mbit"], step);
        machine.lab(["link", "web-1", "--clear"]).ok();
        assert_same(&machine, &before, &format!("{step}, then --clear"));
    }
    // A broken lab goes down as any other, even where `break` was killed.
    for name in KINDS {
        machine.lab(["break", name]).ok();
    }
    machine.lab(["link", "web-1", "--loss", "10%"]).ok();
    kill(&["break", "forward-drop"], "break:changed");
    cleanup_and_down(&machine);
    assert_same(&machine, &empty, "after down of a broken lab");
    // And so does one whose records are lost.
    up_and_sync(&machine, "3-pods");
    machine.lab(["break", "forward-drop"]).ok();
    machine.lab(["break", "other-iptables-drop"]).ok();
    machine
        .sh("echo x > /run/netns-lab/lab/ledger.json; rm /run/netns-lab/lab/broken.json")
        .ok();
    cleanup_and_down(&machine);
    let rules = "iptables-nft-save; iptables-legacy-save";
    machine.sh(rules).ok().never_says("-j DROP");
}

#[test]
fn link_faults() {
    let machine = lab_with_rules("3-pods");
    let before = settled(&machine);
    let pod = "10.244.0.3:8080";
    let asked = |count: usize| {
        let argv = ["lab-helper", "load", "http", pod, &count.to_string(), "16", "300"];
        Tally::from_json(&machine.run(argv).ok().json())
    };
    machine.lab(["link", "web-2", "--down"]).ok().says("down");
    assert_eq!(asked(4).answered(), 0);
    machine.lab(["status"]).ok().says("the link of web-2: down");
    machine.lab(["link", "web-2", "--up"]).ok().says("as it was made");
    eventually("it answers again", || asked(4).answered() == 4);

    // Half of all SYNs are lost, and the next one is sent only after a second.
    machine
        .lab(["link", "web-2", "--loss", "50%"])
        .ok()
        .says("loses 50 %");
    let tally = asked(64);
    assert!((1..60).contains(&tally.answered()), "{tally:?}");
    assert!(tally.failures.contains_key("timed out"), "{tally:?}");

    machine.lab(["link", "web-2", "--loss", "0%"]).exits(2);
    machine.lab(["link", "web-2", "--clear"]).ok();
    machine
        .lab(["link", "web-2", "--rate", "1mbit"])
        .ok()
        .says("1 mbit/s");
    machine.sh("tc qdisc show dev veth-web-2").ok().says("rate 1Mbit");
    let delayed = machine.lab(["link", "web-2", "--delay", "100ms"]);
    if delayed.code() == 0 {
        let began = Instant::now();
        assert_eq!(asked(1).answered(), 1);
        assert!(began.elapsed() >= Duration::from_millis(100));
    } else {
        delayed.exits(3).complains("sch_netem");
        machine
            .lab(["link", "web-2"])
            .ok()
            .never_says("late")
            .says("1 mbit/s");
    }
    machine.lab(["link", "web-2", "--clear"]).ok();
    assert_same(&machine, &before, "after link and --clear");
    machine.lab(["link", "nobody", "--down"]).exits(1);
}
