//! What only a machine with loadable modules can show; `scripts/test` runs these in `scripts/vm`.
//!
//! They change the kernel that they run on (they load and unload modules), so they are ignored
//! unless asked for, and refuse a kernel that is not a throw-away one.

use std::path::Path;

use lab_tests::machine::Machine;
use lab_tests::run::Ran;
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
