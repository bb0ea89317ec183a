//! `up` makes what is asked for out of whatever is there; several labs live side by side.

use lab_tests::machine::{Machine, eventually};
use lab_tests::registry::REGISTRY;
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::Value;

use crate::support::{From, WEB, assert_answers, cleanup_and_down, load, up_and_sync};

fn status(machine: &Machine) -> Value {
    machine.lab(["status", "-o", "json"]).ok().json()
}

/// Name, address and process of each pod.
fn pods(status: &Value) -> Vec<(String, String, u64)> {
    let text = |value: &Value| value.as_str().expect("a text").to_string();
    let pods = status["pods"].as_array().expect("pods");
    pods.iter()
        .map(|pod| {
            assert_eq!(pod["ready"], true, "{pod}");
            (
                text(&pod["name"]),
                text(&pod["ip"]),
                pod["pid"].as_u64().expect("a process"),
            )
        })
        .collect()
}

#[test]
fn from_three_to_five_to_two() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    up_and_sync(&machine, "3-pods");
    let three = pods(&status(&machine));
    assert_eq!(three.len(), 3);
    assert_eq!(three[2].1, "10.244.0.4");

    let settled = Witness::of(&machine);
    machine.lab(["up", "3-pods"]).ok();
    assert_eq!(
        pods(&status(&machine)),
        three,
        "the same command again changes nothing"
    );
    assert_unchanged(&machine, &settled, "after up with nothing to do");

    machine.lab(["up", "5-pods"]).ok();
    let five = pods(&status(&machine));
    assert_eq!(five[..3], three[..], "three stay as they are");
    machine.proxy(["sync"]).ok().says("5 endpoints");
    assert_eq!(load(&machine, From::Node, "http", WEB, 200).answers.len(), 5);

    machine.lab(["up", "2-pods"]).ok();
    assert_eq!(pods(&status(&machine)), three[..2], "two stay as they are");
    machine.proxy(["sync"]).ok().says("2 endpoints");
    let tally = load(&machine, From::Pod("web-2"), "http", WEB, 60);
    assert!(tally.failures.is_empty() && tally.answers.len() == 2, "{tally:?}");
    machine
        .sh("! ip link show veth-web-3; ! test -e /run/netns/web-3")
        .ok();
    machine.sh(&format!("! ls {REGISTRY} | grep web-3")).ok();
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after cleanup and down");
}

/// A freed address is the lowest free one again, whatever the pods are called.
#[test]
fn a_file_with_other_names_ports_and_labels() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    let path = machine.file(
        "shop.json",
        r#"{ "pods": [
            { "name": "cart", "labels": { "app": "web", "tier": "front" } },
            { "name": "db", "labels": { "app": "db" },
              "ports": [{ "name": "sql", "containerPort": 5432, "protocol": "TCP", "answers": "echo" }] },
            { "name": "tools", "app": "none" }
        ] }"#,
    );
    machine.lab(["up", &path]).ok();
    let status = status(&machine);
    let named = |name: &str| {
        status["pods"]
            .as_array()
            .unwrap()
            .iter()
            .find(|pod| pod["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(named("cart")["labels"]["tier"], "front");
    assert_eq!(named("tools")["pid"], Value::Null);
    let tally = load(&machine, From::Pod("tools"), "tcp", "10.244.0.3:5432", 3);
    assert_eq!(tally.answers.get("db"), Some(&3), "{tally:?}");
    machine.proxy(["sync"]).ok().says("1 endpoint");
    assert_answers(&machine, From::Pod("tools"), WEB);
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after cleanup and down");
}

#[test]
fn errors_in_a_topology_name_line_column_and_field() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    for (text, complaints) in [
        (
            "{ \"pods\": [\n  { \"name\": \"Web_1\" } ] }",
            ["bad.json:2:", "pods[0].name"],
        ),
        (
            "{ \"pods\": [ { \"name\": \"a\" }, { \"name\": \"a\" } ] }",
            ["bad.json:1:", "pods[1].name"],
        ),
        (
            "{ \"pods\": [ { \"name\": \"a\", \"colour\": 1 } ] }",
            ["colour", "expected"],
        ),
        (
            "{ \"pods\": [ { \"name\": \"a\", \"ports\": [ { \"name\": \"x\", \"containerPort\": 0 } ] } ] }",
            ["containerPort", "port"],
        ),
        (
            "{ \"nodes\": [ { \"name\": \"n1\" }, { \"name\": \"n1\" } ], \"pods\": [ { \"name\": \"a\" } ] }",
            ["nodes[1].name", "another name"],
        ),
        ("{ \"pods\": [", ["bad.json:1:", "expected"]),
        ("", ["bad.json:1:1:", "empty"]),
        (
            "{ \"pods\": [ { \"name\": \"a\", \"labels\": { \"x\": \"1\", \"x\": \"2\" } } ] }",
            ["pods[0].labels", "twice"],
        ),
        ("[]", ["bad.json:1:", "an object such as"]),
    ] {
        let path = machine.file("bad.json", text);
        let ran = machine.lab(["up", &path]).exits(2);
        for complaint in complaints {
            assert!(ran.stderr.contains(complaint), "{complaint:?} is not in {ran}");
        }
    }
    machine
        .lab(["up", "/nowhere.json"])
        .exits(2)
        .complains("/nowhere.json");
    machine.lab(["up", "0-pods"]).exits(2);
    machine.lab(["up", "1024-pods"]).exits(2).complains("1023");
    assert_unchanged(&machine, &before, "after refused topologies");
}

#[test]
fn a_clash_is_found_before_anything_is_changed_and_names_the_flag() {
    for (obstacle, flag, cure) in [
        (
            "ip link add d0 type bridge; ip link set d0 addrgenmode none; ip address add 10.244.0.77/16 dev d0; ip link set d0 up",
            "--pod-cidr",
            vec!["--pod-cidr", "10.50.0.0/24"],
        ),
        (
            "ip link add d0 type bridge; ip link set d0 addrgenmode none; ip link set d0 up; ip route add 10.96.0.0/12 dev d0",
            "--service-cidr",
            vec!["--service-cidr", "10.51.0.0/16"],
        ),
        (
            "ip link add cni0 type bridge",
            "--bridge",
            vec!["--bridge", "lab0"],
        ),
        ("ip netns add web-2", "--name", vec!["--name", "blue"]),
        (
            "ip link add veth-web-1 type veth peer name other",
            "--name",
            vec!["--name", "blue"],
        ),
    ] {
        let machine = Machine::start();
        machine.sh(obstacle).ok();
        let before = Witness::of(&machine);
        machine.lab(["up", "3-pods"]).exits(1).complains(flag);
        machine
            .lab(["up", "3-pods", "--dry-run"])
            .exits(1)
            .complains(flag);
        assert_unchanged(
            &machine,
            &before,
            &format!("after a refusal because of `{obstacle}`"),
        );
        machine.lab(["up", "3-pods"].into_iter().chain(cure)).ok();
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("after down beside `{obstacle}`"));
    }
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    let plan = machine
        .lab(["up", "3-pods", "--dry-run"])
        .ok()
        .says("cni0")
        .says("web-3");
    assert!(plan.stdout.lines().count() >= 5, "{plan}");
    assert_unchanged(&machine, &before, "after a dry run");
    machine.lab(["up", "3-pods"]).ok();
    let up = Witness::of(&machine);
    machine
        .lab(["up", "3-pods", "--dry-run"])
        .ok()
        .says("nothing to do");
    machine
        .lab(["up", "5-pods", "--dry-run"])
        .ok()
        .says("web-5")
        .never_says("web-2");
    machine.lab(["up", "2-pods", "--dry-run"]).ok().says("web-3");
    assert_unchanged(&machine, &up, "after dry runs beside a lab");
}

#[test]
fn a_dead_app_is_seen_at_once_and_comes_back_with_up() {
    let machine = Machine::start();
    up_and_sync(&machine, "3-pods");
    let watch = machine.command(["miniproxy", "sync", "--watch"]).start();
    watch.wait_for("following");
    // The first time the agent starts it again at once, the second time it waits.
    for _ in 0..2 {
        eventually("web-2 runs", || status(&machine)["pods"][1]["ready"] == true);
        let pid = pods(&status(&machine))[1].2;
        machine.run(["kill", "-9", &pid.to_string()]).ok();
        eventually("another one runs, or none", || {
            status(&machine)["pods"][1]["pid"] != pid
        });
    }
    eventually("the rules know that web-2 is dead", || {
        !machine
            .run(["iptables-save"])
            .ok()
            .stdout
            .contains("10.244.0.3:8080")
    });
    let tally = load(&machine, From::Node, "http", WEB, 100);
    assert!(tally.failures.is_empty() && tally.answers.len() == 2, "{tally:?}");
    let now = status(&machine);
    assert_eq!(now["pods"][1]["ready"], false, "{now}");

    machine.lab(["up", "3-pods"]).ok();
    assert_eq!(pods(&status(&machine))[1].1, "10.244.0.3", "it keeps its address");
    eventually("the rules know that web-2 lives", || {
        machine
            .run(["iptables-save"])
            .ok()
            .stdout
            .contains("10.244.0.3:8080")
    });
    assert_eq!(
        load(&machine, From::Pod("web-2"), "http", WEB, 100).answers.len(),
        3
    );
}

/// Whatever somebody has broken, `up` repairs, and without `up` nothing else breaks.
#[test]
fn a_damaged_lab_is_repaired_by_up() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    up_and_sync(&machine, "3-pods");
    for damage in [
        "ip link delete veth-web-2",
        "ip netns delete web-1",
        "ip link delete cni0",
        "ip address flush dev cni0",
        "ip link set cni0 down",
        "ip route delete 10.96.0.0/16 dev cni0",
        "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
        "iptables -t nat -F POSTROUTING; iptables -F FORWARD",
        "bridge link set dev veth-web-1 hairpin off",
        "rm -r /run/netns-lab/lab/registry",
        "ip netns exec web-3 ip address flush dev eth0",
    ] {
        machine.sh(damage).ok();
        machine.lab(["up", "3-pods"]).ok();
        machine.proxy(["sync"]).ok();
        let now = status(&machine);
        assert_eq!(pods(&now).len(), 3, "{damage}: {now}");
        for pod in ["web-1", "web-2", "web-3"] {
            let tally = load(&machine, From::Pod(pod), "http", WEB, 30);
            assert!(
                tally.failures.is_empty() && tally.answers.len() == 3,
                "`{damage}`, from {pod}: {tally:?}"
            );
        }
        assert_answers(&machine, From::Node, WEB);
    }
    cleanup_and_down(&machine);
    // What somebody else has set meanwhile is theirs and comes back as such.
    machine.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1").ok();
    // `down` gives back what `up` found, and this one `up` found damaged.
    machine.sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1").ok();
    assert_unchanged(&machine, &before, "after repairs, cleanup and down");
}

#[test]
fn two_labs_side_by_side_share_nothing_and_part_in_any_order() {
    for first_down in ["lab", "blue"] {
        let machine = Machine::builder().docker().start();
        let before = Witness::of(&machine);
        machine.lab(["up", "2-pods"]).ok();
        machine.lab(["up", "2-pods", "--name", "blue"]).ok();
        let all = machine.lab(["status", "-o", "json"]).ok().json();
        assert_eq!(all["labs"].as_array().map(Vec::len), Some(2), "{all}");
        let blue = machine.lab(["status", "blue", "-o", "json"]).ok().json();
        let ip = blue["pods"][0]["ip"].as_str().expect("an address");
        assert!(ip.starts_with("10.244.1."), "{blue}");
        assert_eq!(blue["pods"][0]["netns"], "blue-web-1");

        machine.lab(["down"]).exits(2).complains("--all");
        machine.proxy(["sync"]).exits(2).complains("--lab");
        machine.proxy(["sync", "--lab", "blue"]).ok();
        let tally = load(&machine, From::Node, "http", "10.97.0.80:80", 40);
        assert!(tally.failures.is_empty() && tally.answers.len() == 2, "{tally:?}");
        machine
            .lab(["exec", "--name", "blue", "web-1", "--", "hostname"])
            .ok()
            .says("web-1");
        machine
            .lab(["exec", "web-1", "--", "hostname", "-I"])
            .ok()
            .says("10.244.0.2");
        machine
            .lab(["status", "red", "-o", "json"])
            .exits(1)
            .complains("red");
        machine.lab(["down", "--name", "red"]).exits(1).complains("red");

        machine.lab(["down", first_down]).ok();
        let other = if first_down == "lab" { "blue" } else { "lab" };
        assert_eq!(status(&machine)["lab"], other);
        machine.proxy(["sync"]).ok();
        let target = if other == "blue" { "10.97.0.80:80" } else { WEB };
        assert_answers(&machine, From::Node, target);
        machine.proxy(["cleanup"]).ok();
        machine.lab(["down", "--all"]).ok();
        assert_unchanged(&machine, &before, "after both labs are down");
    }
}

/// Two `up` at the same moment: one waits for the other, and both are right.
#[test]
fn commands_at_the_same_moment_wait_for_each_other() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    let names = ["a", "b", "c", "d"];
    let running: Vec<_> = names
        .iter()
        .map(|name| {
            machine
                .command(["netns-lab", "up", "3-pods", "--name", name])
                .start()
        })
        .collect();
    for mut each in running {
        assert_eq!(each.end(std::time::Duration::from_secs(30)), 0, "{}", each.said());
    }
    for name in names {
        assert_eq!(
            pods(&machine.lab(["status", name, "-o", "json"]).ok().json()).len(),
            3
        );
    }
    let same: Vec<_> = (0..3)
        .map(|_| {
            machine
                .command(["netns-lab", "up", "5-pods", "--name", "a"])
                .start()
        })
        .collect();
    for mut each in same {
        assert_eq!(each.end(std::time::Duration::from_secs(30)), 0, "{}", each.said());
    }
    machine.lab(["down", "--all"]).ok();
    assert_unchanged(&machine, &before, "after down --all");
}
