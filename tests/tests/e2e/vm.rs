//! What only a machine with loadable modules can show; `scripts/test` runs these in `scripts/vm`.
//!
//! They change the kernel that they run on (they load and unload modules), so they are ignored
//! unless asked for, and refuse a kernel that is not a throw-away one.

use std::path::Path;
use std::time::Duration;

use lab_tests::machine::Machine;
use lab_tests::run::{Ran, wait_for};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::Value;

use crate::support::{From, WEB, assert_answers, cleanup_and_down, up_and_sync};

/// Set by `scripts/test` inside the virtual machine only.
const THROW_AWAY: &str = "LAB_TESTS_IN_VM";

fn refuse_a_real_machine() {
    assert!(
        std::env::var_os(THROW_AWAY).is_some(),
        "run this by scripts/test: it unloads kernel modules"
    );
}

fn loaded(module: &str) -> bool {
    Path::new("/sys/module").join(module).exists()
}

fn doctor(machine: &Machine) -> (Ran, Vec<Value>) {
    let ran = machine.lab(["doctor", "-o", "json"]);
    let checks = ran.json()["checks"].as_array().expect("checks").clone();
    (ran, checks)
}

fn about<'a>(checks: &'a [Value], word: &str) -> &'a Value {
    checks
        .iter()
        .find(|check| check.to_string().contains(word))
        .unwrap_or_else(|| panic!("doctor says nothing about {word}: {checks:#?}"))
}

/// A stock kernel: what is needed lies on the disk as modules and is not loaded.
#[test]
#[ignore = "only in the virtual machine of scripts/test"]
fn modules_are_missed_then_loaded_then_left_as_they_were() {
    refuse_a_real_machine();
    let machine = Machine::start();
    assert!(
        !loaded("br_netfilter"),
        "the virtual machine booted with br_netfilter loaded"
    );
    let (_, before) = doctor(&machine);
    let check = about(&before, "br_netfilter");
    assert_ne!(check["status"], "ok", "{check}");
    assert!(
        check["cure"]
            .as_str()
            .is_some_and(|cure| cure.contains("modprobe br_netfilter")),
        "{check}"
    );

    up_and_sync(&machine, "3-pods");
    assert!(loaded("br_netfilter"), "up loads what it needs");
    let (ran, after) = doctor(&machine);
    assert_eq!(about(&after, "br_netfilter")["status"], "ok", "{ran}");
    assert_answers(&machine, From::Node, WEB);
    assert_answers(&machine, From::Pod("web-1"), WEB);
    cleanup_and_down(&machine);
    assert!(!loaded("br_netfilter"), "down unloads what up has loaded");

    // Killed right after it has loaded the module: it still knows that it did.
    let killed = machine
        .command(["netns-lab", "up", "2-pods"])
        .env("NETNS_LAB_KILL_AT", "up:module")
        .run();
    assert_eq!(killed.code(), 137, "{killed}");
    machine.lab(["down"]).ok();
    assert!(
        !loaded("br_netfilter"),
        "down unloads what a killed up has loaded"
    );
}

/// A module that was there before stays.
#[test]
#[ignore = "only in the virtual machine of scripts/test"]
fn modules_that_were_loaded_stay() {
    refuse_a_real_machine();
    let machine = Machine::start();
    machine.run(["modprobe", "br_netfilter"]).ok();
    machine.lab(["up", "2-pods"]).ok();
    machine.lab(["down"]).ok();
    assert!(loaded("br_netfilter"));
    machine.run(["modprobe", "-r", "br_netfilter"]).ok();
}

/// The full comparison, once: what modules bring along (sysctls, tables) is there before the first look.
#[test]
#[ignore = "only in the virtual machine of scripts/test"]
fn nothing_is_left_on_a_stock_kernel() {
    refuse_a_real_machine();
    let machine = Machine::builder().docker().start();
    machine
        .run([
            "modprobe",
            "-a",
            "br_netfilter",
            "nf_conntrack",
            "nft_chain_nat",
            "xt_statistic",
        ])
        .ok();
    let before = Witness::of(&machine);
    up_and_sync(&machine, "3-pods");
    assert_answers(&machine, From::Pod("web-1"), WEB);
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after cleanup and down");
}

/// Control groups of version 2 have their controllers here; many hosts keep them in version 1.
#[test]
#[ignore = "only in the virtual machine of scripts/test"]
fn the_limits_of_containers_hold() {
    const GROUPS: &str = "/sys/fs/cgroup/netns-lab";
    refuse_a_real_machine();
    let machine = Machine::start();
    let controllers = "test -e /sys/fs/cgroup/cgroup.procs || mount -t cgroup2 none /sys/fs/cgroup
        cat /sys/fs/cgroup/cgroup.subtree_control";
    let before = machine.sh(controllers).ok().stdout;
    machine.lab(["up", "2-pods"]).ok();
    let run = |pod, name, limit: [&str; 2], script| {
        let words = [
            "run", pod, "--name", name, limit[0], limit[1], "--", "sh", "-c", script,
        ];
        machine.lab(words).ok();
    };
    run("web-1", "busy", ["--cpu", "200m"], "while :; do :; done");
    let busy = format!("{GROUPS}/lab/web-1.busy");
    machine
        .run(["cat", &format!("{busy}/cpu.max")])
        .ok()
        .says("20000 100000");
    // The share of one processor that it has over some seconds.
    let measured = machine
        .sh(&format!(
            "used() {{ sed -n 's/^usage_usec //p' {busy}/cpu.stat; }}
            begin=$(date +%s%6N) had=$(used); sleep 4
            echo $(($(used) - had)) $(($(date +%s%6N) - begin))"
        ))
        .ok();
    let numbers: Vec<f64> = measured
        .stdout
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let share = numbers[0] / numbers[1];
    assert!(
        (0.05..0.35).contains(&share),
        "{share} of a processor: {measured}"
    );

    let eats = "x=$(head -c 64000000 /dev/zero | tr '\\0' x); echo survived; sleep 600";
    run("web-2", "greedy", ["--memory", "16Mi"], eats);
    let code = wait_for("the end of who eats too much", Duration::from_secs(60), || {
        let pod = machine.lab(["get", "pod", "web-2", "-o", "json"]).ok().json();
        let states = pod["status"]["containerStatuses"].as_array()?.clone();
        let greedy = states.into_iter().find(|state| state["name"] == "greedy")?;
        greedy["lastState"]["terminated"]["exitCode"].as_i64()
    });
    assert_eq!(code, 137);
    let said = machine.lab(["logs", "web-2", "-c", "greedy"]).ok().stdout;
    assert!(!said.contains("survived"), "{said}");

    machine.lab(["down"]).ok();
    machine.sh(&format!("test ! -e {GROUPS}")).ok();
    assert_eq!(machine.sh(controllers).ok().stdout, before);
}

/// What needs `sch_netem`, which stock kernels have as a module.
#[test]
#[ignore = "only in the virtual machine of scripts/test"]
fn the_links_are_late_and_lossy_to_order() {
    refuse_a_real_machine();
    let machine = Machine::start();
    machine.lab(["up", "2-pods"]).ok();
    machine.lab(["link", "web-1", "--delay", "300ms"]).ok();
    let took = machine
        .in_pod(
            "web-2",
            [
                "curl",
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{time_connect}",
                "http://10.244.0.2:8080/",
            ],
        )
        .ok();
    assert!(took.stdout.trim().parse::<f64>().unwrap() >= 0.3, "{took}");
    machine.lab(["link", "web-1", "--loss", "50%"]).ok();
    machine.sh("tc qdisc show dev veth-web-1").ok().says("loss 50%");
    machine.lab(["link", "web-1", "--clear"]).ok();
    let left = machine.sh("tc qdisc show dev veth-web-1").ok().stdout;
    assert!(!left.contains("netem"), "{left}");
    machine.lab(["down"]).ok();
}
