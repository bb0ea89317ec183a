//! `kill -9` at every step and at any moment: the same command again, or the way back, mends all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use lab_tests::machine::{FLAVOURS, Flavour, Machine};
use lab_tests::programs::repository;
use lab_tests::witness::{Witness, assert_unchanged};
use nix::sys::signal::Signal;

use crate::support::{From, WEB, assert_answers, cleanup_and_down, up_and_sync};

/// The variable that names the step at which a program kills itself.
const KILL_AT: &str = "NETNS_LAB_KILL_AT";
/// Steps that a kernel with br_netfilter built in, or loaded before, never comes to. The tests in the
/// virtual machine do.
const MODULE_STEPS: [&str; 2] = ["up:module", "down:module"];
/// Steps of labs whose nodes are namespaces of their own; the tests of those come to them.
pub(crate) const HOST: &str = ":host-";
/// Only the newer kube-proxies count with the kernel's packet counters.
const LATEST_STEP: &str = "sync:counters-noted";
/// 128 + SIGKILL.
const KILLED: i32 = 137;

/// All steps of a command that the sources name.
pub(crate) fn named(command: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for package in ["netns-lab/src", "miniproxy/src"] {
        collect(&repository().join(package), &mut found);
    }
    found.retain(|step| step.starts_with(&format!("{command}:")));
    found
}

/// The steps that the sources name, so that none is forgotten here.
fn steps(command: &str) -> BTreeSet<String> {
    let steps: BTreeSet<String> = named(command)
        .into_iter()
        .filter(|step| !MODULE_STEPS.contains(&step.as_str()) && !step.contains(HOST))
        .collect();
    assert!(
        steps.len() >= 2,
        "the sources name hardly any step of `{command}`: {steps:?}"
    );
    steps
}

fn collect(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            // Any text of the form "up:word": a step is nothing else in these sources.
            for word in text.split('"') {
                if word
                    .split_once(':')
                    .is_some_and(|(command, step)| is_word(command) && is_word(step))
                {
                    found.insert(word.to_string());
                }
            }
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn machine(flavour: Flavour) -> Machine {
    Machine::builder()
        .flavour(flavour)
        .docker()
        .foreign_rules(40)
        .start()
}

/// Whether the command reached the step, and so died there.
#[track_caller]
pub(crate) fn dies_at(machine: &Machine, argv: &[&str], step: &str) -> bool {
    let ran = machine.command(argv).env(KILL_AT, step).run();
    assert!([0, KILLED].contains(&ran.code()), "{step}: {ran}");
    ran.code() == KILLED
}

#[track_caller]
fn assert_works(machine: &Machine, pods: usize) {
    let status = machine.lab(["status", "-o", "json"]).ok().json();
    let ready = status["pods"]
        .as_array()
        .expect("pods")
        .iter()
        .filter(|pod| pod["ready"] == true)
        .count();
    assert_eq!(ready, pods, "{status:#}");
    machine.proxy(["sync"]).ok();
    machine.proxy(["diff"]).ok();
    assert_answers(machine, From::Node, WEB);
    assert_answers(machine, From::Pod("web-1"), WEB);
}

/// The `sync` that comes to this step.
fn sync_to(step: &str) -> Vec<&'static str> {
    let mut argv = vec!["miniproxy", "sync"];
    if step == LATEST_STEP {
        argv.extend(["--compat", "latest"]);
    }
    argv
}

fn up_can_be_killed(flavour: Flavour) {
    let machine = machine(flavour);
    let before = Witness::of(&machine);
    let mut unreached = BTreeSet::new();
    for step in steps("up") {
        if dies_at(&machine, &["netns-lab", "up", "3-pods"], &step) {
            machine.lab(["up", "3-pods"]).ok();
            assert_works(&machine, 3);
            cleanup_and_down(&machine);
            assert_unchanged(
                &machine,
                &before,
                &format!("{step}: after up, again, cleanup, down"),
            );
            assert!(dies_at(&machine, &["netns-lab", "up", "3-pods"], &step));
            machine.lab(["down"]).ok();
            assert_unchanged(&machine, &before, &format!("{step}: after up and down"));
        } else {
            machine.lab(["down"]).ok();
            unreached.insert(step);
        }
    }
    // Steps of a change to a lab that is there: from five pods to two.
    for step in unreached {
        machine.lab(["up", "5-pods"]).ok();
        assert!(
            dies_at(&machine, &["netns-lab", "up", "2-pods"], &step),
            "{step} was never reached"
        );
        machine.lab(["up", "2-pods"]).ok();
        assert_works(&machine, 2);
        cleanup_and_down(&machine);
        assert_unchanged(
            &machine,
            &before,
            &format!("{step}: after a change, again, cleanup, down"),
        );
    }
}

#[test]
fn up_at_each_step_with_nft() {
    up_can_be_killed(Flavour::Nft);
}

#[test]
fn up_at_each_step_with_legacy() {
    up_can_be_killed(Flavour::Legacy);
}

/// Each step of a growing and of a shrinking lab.
#[test]
fn a_change_of_a_lab_at_each_step() {
    let machine = machine(Flavour::Nft);
    let before = Witness::of(&machine);
    for (from, to, pods) in [("2-pods", "5-pods", 5), ("5-pods", "2-pods", 2)] {
        let mut reached = 0;
        for step in steps("up") {
            machine.lab(["up", from]).ok();
            reached += usize::from(dies_at(&machine, &["netns-lab", "up", to], &step));
            machine.lab(["up", to]).ok();
            assert_works(&machine, pods);
        }
        assert!(reached > 0, "no step was reached from {from} to {to}");
        cleanup_and_down(&machine);
        assert_unchanged(&machine, &before, &format!("after {from} to {to}"));
    }
}

fn down_can_be_killed(flavour: Flavour) {
    let machine = machine(flavour);
    let before = Witness::of(&machine);
    for step in steps("down") {
        if !down_dies_at(&machine, &step, "") {
            machine.proxy(["cleanup"]).ok();
            assert_unchanged(&machine, &before, "after an undisturbed down");
            assert!(down_dies_at(&machine, &step, DAMAGE), "{step} was never reached");
        }
        machine.lab(["down"]).ok();
        machine.proxy(["cleanup"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: after down, again, cleanup"));

        // Whoever changes their mind in the middle gets the whole lab back.
        let again = down_dies_at(&machine, &step, "") || down_dies_at(&machine, &step, DAMAGE);
        assert!(again, "{step} was never reached");
        machine.lab(["up", "3-pods"]).ok();
        assert_works(&machine, 3);
        cleanup_and_down(&machine);
        assert_unchanged(
            &machine,
            &before,
            &format!("{step}: after down, up, cleanup, down"),
        );
    }
}

/// One of the lab's own rules is gone, so that `down` has to take the others one by one.
const DAMAGE: &str =
    r#"eval iptables "$(iptables -S FORWARD | grep -m 1 'netns-lab lab' | sed 's/^-A/-D/')""#;

#[track_caller]
fn down_dies_at(machine: &Machine, step: &str, damage: &str) -> bool {
    up_and_sync(machine, "3-pods");
    machine.sh(damage).ok();
    dies_at(machine, &["netns-lab", "down"], step)
}

#[test]
fn down_at_each_step_with_nft() {
    down_can_be_killed(Flavour::Nft);
}

#[test]
fn down_at_each_step_with_legacy() {
    down_can_be_killed(Flavour::Legacy);
}

/// What a killed `up` started is in no ledger: a `down` that is killed, too, must leave it to be found.
#[test]
fn a_killed_down_after_a_killed_up() {
    let machine = machine(Flavour::Nft);
    let before = Witness::of(&machine);
    for topology in ["3-pods", "2-nodes-2-pods"] {
        for began in ["up:holder", "up:app", "up:agent"] {
            for step in ["down:namespace", "down:namespaces", "down:apps"] {
                let up = dies_at(&machine, &["netns-lab", "up", topology], began);
                let down = dies_at(&machine, &["netns-lab", "down"], step);
                assert!(up && down, "{began} or {step} was never reached");
                machine.lab(["down"]).ok();
                assert_unchanged(&machine, &before, &format!("{topology}: {began}, {step}, down"));
            }
        }
    }
}

#[test]
fn sync_at_each_step() {
    for flavour in FLAVOURS {
        let machine = machine(flavour);
        let before = Witness::of(&machine);
        for step in steps("sync") {
            machine.lab(["up", "3-pods"]).ok();
            assert!(
                dies_at(&machine, &sync_to(&step), &step),
                "{step} was never reached"
            );
            assert_works(&machine, 3);
            cleanup_and_down(&machine);
            assert_unchanged(
                &machine,
                &before,
                &format!("{step}: after sync, again, cleanup, down"),
            );

            machine.lab(["up", "3-pods"]).ok();
            assert!(dies_at(&machine, &sync_to(&step), &step));
            cleanup_and_down(&machine);
            assert_unchanged(&machine, &before, &format!("{step}: after sync, cleanup, down"));
        }
    }
}

/// A change of rules in force: before the step the old ones stand, after it the new ones, never a half.
#[test]
fn sync_of_a_change_at_each_step() {
    let machine = machine(Flavour::Nft);
    let before = Witness::of(&machine);
    for step in steps("sync") {
        up_and_sync(&machine, "3-pods");
        let old = machine
            .run(["iptables-save"])
            .ok()
            .stdout
            .matches("KUBE-SEP-")
            .count();
        machine.lab(["up", "5-pods"]).ok();
        dies_at(&machine, &sync_to(&step), &step);
        let now = machine
            .run(["iptables-save"])
            .ok()
            .stdout
            .matches("KUBE-SEP-")
            .count();
        assert!(
            now == old || now * 3 == old * 5,
            "{step}: {old} mentions of endpoints became {now}"
        );
        assert_works(&machine, 5);
        cleanup_and_down(&machine);
        assert_unchanged(&machine, &before, &step);
    }
}

#[test]
fn cleanup_at_each_step() {
    for flavour in FLAVOURS {
        let machine = machine(flavour);
        let before = Witness::of(&machine);
        for step in steps("cleanup") {
            up_and_sync(&machine, "3-pods");
            assert!(
                dies_at(&machine, &["miniproxy", "cleanup"], &step),
                "{step} was never reached"
            );
            cleanup_and_down(&machine);
            assert_unchanged(&machine, &before, &format!("{step}: after cleanup, again, down"));

            up_and_sync(&machine, "3-pods");
            assert!(dies_at(&machine, &["miniproxy", "cleanup"], &step));
            assert_works(&machine, 3);
            cleanup_and_down(&machine);
            assert_unchanged(
                &machine,
                &before,
                &format!("{step}: after cleanup, sync, cleanup, down"),
            );
        }
    }
}

/// At any moment, not only between steps.
#[test]
fn up_and_down_at_any_moment() {
    let machine = machine(Flavour::Nft);
    let before = Witness::of(&machine);
    for turn in 0..24_u64 {
        let pause = Duration::from_millis(3 + turn * 7 % 60);
        if turn % 2 == 1 {
            machine.lab(["up", "12-pods"]).ok();
        }
        let command = if turn % 2 == 1 {
            vec!["netns-lab", "down"]
        } else {
            vec!["netns-lab", "up", "12-pods"]
        };
        let running = machine.command(command).start();
        thread::sleep(pause);
        running.stop(Signal::SIGKILL);
        if turn % 3 == 0 {
            machine.lab(["up", "12-pods"]).ok();
            assert_works(&machine, 12);
            machine.proxy(["cleanup"]).ok();
        }
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("killed after {pause:?}"));
    }
}

/// A watch that dies leaves its rules in force; the next one goes on from there.
#[test]
fn watch_at_any_moment() {
    let machine = machine(Flavour::Nft);
    let before = Witness::of(&machine);
    machine.lab(["up", "3-pods"]).ok();
    for turn in 0..10_u64 {
        let running = machine.command(["miniproxy", "sync", "--watch"]).start();
        thread::sleep(Duration::from_millis(turn * 9));
        running.stop(Signal::SIGKILL);
    }
    assert_works(&machine, 3);
    cleanup_and_down(&machine);
    assert_unchanged(&machine, &before, "after ten killed watches");
}
