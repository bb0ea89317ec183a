//! iptables-restore killed, failing, held up, missing; a full disk; a kernel that lacks a match: what
//! is said, with which exit code, and that nothing is half applied and nothing lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lab_tests::load::Tally;
use lab_tests::machine::{Flavour, Machine, Running};
use lab_tests::registry::{REGISTRY, publish, service};
use lab_tests::run::{Ran, wait_for};
use lab_tests::witness;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::restore_faults::{ALL, KILLED_AFTER_A_TABLE, LOCK, REFUSED_LINE};
use crate::support::{From, WEB, assert_answers};

/// Stands for both restore programs: does what the fault says, if there is one.
const WRAPPER: &str = r#"#!/bin/sh
real=/run/real/$(basename "$0")
if [ -e /run/own/fault ]; then . /run/own/fault; fi
exec "$real" "$@"
"#;

/// The first complaint of a watch is told within this time.
const PATIENCE: Duration = Duration::from_secs(15);

const OWN: &str = "/run/own/iptables";

/// A lab whose rules are in force, with a restore program that can be made to fail.
struct Node {
    machine: Machine,
}

impl Node {
    fn start(flavour: Flavour) -> Self {
        let machine = Machine::builder().flavour(flavour).start();
        let wrapper = machine.file("wrapper", WRAPPER);
        let script = "mkdir /run/own /run/real
            for family in iptables ip6tables; do
                program=$(readlink -f $(command -v $family))
                for name in $family $family-save; do ln -s $program /run/own/$name; done
                ln -s $program /run/real/$family-restore
                install -m 755 $1 /run/own/$family-restore
            done";
        machine.run(["sh", "-euc", script, "sh", &wrapper]).ok();
        machine.lab(["up", "3-pods"]).ok();
        let node = Self { machine };
        node.sync().ok();
        node
    }

    fn fault(&self, script: &str) {
        let new = self.machine.file("fault", &format!("{script}\n"));
        let place = "cp $1 /run/own/new && mv /run/own/new /run/own/fault";
        self.machine.run(["sh", "-euc", place, "sh", &new]).ok();
    }

    fn mend(&self) {
        self.machine.run(["rm", "-f", "/run/own/fault"]).ok();
    }

    #[track_caller]
    fn sync(&self) -> Ran {
        self.machine.proxy(["sync", "--iptables", OWN])
    }

    fn watch(&self) -> Running {
        let watch = self
            .machine
            .command(["miniproxy", "sync", "--watch", "--iptables", OWN])
            .start();
        watch.wait_for("following");
        watch
    }

    /// Services are 10.96.9.N over all pods.
    fn add(&self, number: u8) {
        let address = format!("10.96.9.{number}");
        let ports = [("http", "TCP", 80, json!(8080))];
        publish(
            &self.machine,
            &name(number),
            &service(&name(number), &address, "web", &ports),
        );
    }

    fn remove(&self, number: u8) {
        let file = format!("{REGISTRY}/{}.json", name(number));
        self.machine.run(["rm", &file]).ok();
    }

    /// All rules, without counters.
    fn rules(&self) -> String {
        witness::rules(&self.machine.run(["iptables-save"]).ok().stdout)
    }

    fn is_same(&self) -> bool {
        self.machine.proxy(["diff"]).code() == 0
    }

    #[track_caller]
    fn becomes_same(&self, fault: &str) {
        wait_for(
            &format!("{fault}: all is in force"),
            Duration::from_secs(40),
            || self.is_same().then_some(()),
        );
    }

    #[track_caller]
    fn answers(&self, number: u8) {
        assert_answers(&self.machine, From::Node, &format!("10.96.9.{number}:80"));
    }

    /// Connections in use and short ones to the Service that was there all the time.
    fn callers(&self) -> Running {
        let argv = ["lab-helper", "hold", "http", WEB, "10", "2", "5000"];
        let callers = self.machine.command(argv).start();
        callers.wait_for("holding 10");
        callers
    }
}

fn name(number: u8) -> String {
    format!("other-{number}")
}

#[track_caller]
fn assert_all_answered(mut callers: Running, fault: &str) {
    callers.close_input();
    assert_eq!(callers.end(Duration::from_secs(30)), 0, "{}", callers.said());
    callers.wait_for("\"rounds\"");
    let said = callers.said();
    let report: Value = serde_json::from_str(said.lines().last().expect("a report")).expect("JSON");
    for kind in ["held", "fresh"] {
        let tally = Tally::from_json(&report[kind]);
        assert!(tally.failures.is_empty(), "{fault}: {kind}: {tally:?}");
        assert!(tally.answered() > 0, "{fault}: {kind}: {report}");
    }
}

/// Of what a watch says, only how long it waits may come again.
#[track_caller]
fn assert_nothing_told_twice(said: &str, fault: &str) {
    let mut told = BTreeSet::new();
    for line in said.lines().filter(|line| !line.starts_with(' ')) {
        assert!(told.insert(line), "{fault}: told twice: {line}\n{said}");
    }
}

/// A program that holds the lock for ten seconds is waited for: iptables itself gives up after five.
#[test]
fn a_single_sync_waits_for_the_lock() {
    let node = Node::start(Flavour::Legacy);
    let holder = node
        .machine
        .command(["flock", "/run/xtables.lock", "sleep", "8"])
        .start();
    std::thread::sleep(Duration::from_millis(300));
    node.add(1);
    node.sync()
        .ok()
        .complains("waiting: another program holds the lock of the tables");
    node.answers(1);
    drop(holder);
}

/// A restore that never ends does not hold up who wants the watch to end.
#[test]
fn a_watch_ends_while_a_restore_hangs() {
    let node = Node::start(Flavour::Nft);
    let before = node.rules();
    let watch = node.watch();
    node.fault("exec sleep 600");
    node.add(1);
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    node.mend();
    assert_eq!(node.rules(), before);
    node.sync().ok();
    node.answers(1);
}

/// A single sync fails as a whole, the next one does all of it.
fn one_shot(flavour: Flavour) {
    let node = Node::start(flavour);
    let callers = node.callers();
    for (number, fault) in (1..).zip(ALL) {
        let before = node.rules();
        node.fault(fault.script);
        node.add(number);
        for _ in 0..2 {
            let ran = node.sync().exits(fault.code);
            for words in fault.says {
                assert!(
                    ran.stderr.contains(words),
                    "{}: stderr lacks {words:?}:\n{ran}",
                    fault.name
                );
            }
            if fault.name == KILLED_AFTER_A_TABLE.name {
                break;
            }
            assert_eq!(node.rules(), before, "{}", fault.name);
        }
        node.mend();
        node.sync().ok();
        assert!(node.is_same(), "{}", fault.name);
        node.answers(number);
    }
    assert_all_answered(callers, "a single sync");
}

#[test]
fn a_single_sync_with_nft() {
    one_shot(Flavour::Nft);
}

#[test]
fn a_single_sync_with_legacy() {
    one_shot(Flavour::Legacy);
}

/// A watch tries again; what was added and removed meanwhile is in force afterwards, each told once.
fn watched(flavour: Flavour) {
    let node = Node::start(flavour);
    for (number, fault) in (1..).zip(ALL) {
        let callers = node.callers();
        let before = node.rules();
        let watch = node.watch();
        node.fault(fault.script);
        node.add(number);
        for words in fault.says {
            watch.wait_for(words);
        }
        let is_partial = fault.name == KILLED_AFTER_A_TABLE.name;
        if !is_partial {
            watch.wait_for("the same, attempt 2; trying again in");
        }
        // While it fails more comes, and something goes that had never been.
        node.add(100 + number);
        node.add(200);
        std::thread::sleep(Duration::from_millis(100));
        node.remove(200);
        if !is_partial {
            assert_eq!(node.rules(), before, "{}", fault.name);
        }
        node.mend();
        node.becomes_same(fault.name);
        node.answers(number);
        node.answers(100 + number);
        watch.wait_for("the IPv4 rules are again as they should be");
        for number in [number, 100 + number] {
            watch.wait_for(&format!("default/{}:http", name(number)));
        }
        assert_all_answered(callers, fault.name);
        assert_eq!(said_and_stopped(watch, fault.name), 0, "{}", fault.name);
    }
}

#[track_caller]
fn said_and_stopped(watch: Running, fault: &str) -> i32 {
    assert_nothing_told_twice(&watch.said(), fault);
    watch.stop(Signal::SIGTERM)
}

#[test]
fn a_watch_with_nft() {
    watched(Flavour::Nft);
}

#[test]
fn a_watch_with_legacy() {
    watched(Flavour::Legacy);
}

/// One refusal only: everything is written at once, without a wait.
#[test]
fn a_line_that_is_refused_once_is_followed_by_a_full_write() {
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        let node = Node::start(flavour);
        let watch = node.watch();
        node.add(1);
        node.becomes_same("before the fault");
        node.fault(&format!("rm /run/own/fault; {}", REFUSED_LINE.script));
        node.add(2);
        watch.wait_for("cannot write the IPv4 rules");
        wait_for("the full write", PATIENCE, || node.is_same().then_some(()));
        node.answers(2);
        watch.wait_for("default/other-2:http");
        watch.wait_for("the IPv4 rules are again as they should be");
        assert_eq!(said_and_stopped(watch, "once"), 0);
    }
}

/// Another program holds the lock of iptables-legacy longer than a look (which may come first) and a
/// restore wait for it.
#[test]
fn the_lock_of_legacy_held_for_more_than_ten_seconds() {
    let node = Node::start(Flavour::Legacy);
    let (callers, watch) = (node.callers(), node.watch());
    let holder = node
        .machine
        .command(["flock", "/run/xtables.lock", "sleep", "12"])
        .start();
    std::thread::sleep(Duration::from_millis(300));
    node.add(1);
    for words in LOCK.says {
        watch.wait_for(words);
    }
    node.becomes_same("lock held");
    node.answers(1);
    drop(holder);
    assert_all_answered(callers, "lock held");
    watch.wait_for("default/other-1:http");
    assert_eq!(said_and_stopped(watch, "lock held"), 0);
}

/// Another command of ours holds the run directory.
#[test]
fn the_run_directory_held_for_ten_seconds() {
    let node = Node::start(Flavour::Nft);
    let (callers, watch) = (node.callers(), node.watch());
    let holder = node
        .machine
        .command(["flock", "/run/netns-lab", "sleep", "10"])
        .start();
    std::thread::sleep(Duration::from_millis(300));
    node.add(1);
    watch.wait_for("waiting for another netns-lab or miniproxy to finish");
    watch.wait_for("another netns-lab or miniproxy has held /run/netns-lab for 2s");
    watch.wait_for("hint: is one stopped (Ctrl-Z)? see: fuser -v /run/netns-lab");
    node.becomes_same("run directory held");
    node.answers(1);
    drop(holder);
    assert_all_answered(callers, "run directory held");
    assert_eq!(said_and_stopped(watch, "run directory held"), 0);
}

#[test]
fn a_missing_program() {
    let node = Node::start(Flavour::Nft);
    let callers = node.callers();
    let watch = node.watch();
    node.machine.sh("mv /run/own/iptables-restore /run/own/away").ok();
    node.add(1);
    let says = |ran: Ran| {
        ran.exits(3)
            .complains("cannot run /run/own/iptables-restore: No such file or directory")
            .complains("hint: install it:")
    };
    watch.wait_for("cannot run /run/own/iptables-restore");
    watch.wait_for("hint: install it:");
    says(node.sync());
    // At its start nothing says that it will ever come.
    says(
        node.machine
            .proxy(["sync", "--watch", "--iptables", "/run/own/iptables"]),
    );
    node.machine.sh("mv /run/own/away /run/own/iptables-restore").ok();
    node.becomes_same("missing");
    node.answers(1);
    assert_all_answered(callers, "missing");
    assert_eq!(said_and_stopped(watch, "missing"), 0);

    node.machine.sh("rm /run/own/iptables-save").ok();
    node.sync()
        .exits(3)
        .complains("cannot run /run/own/iptables-save")
        .complains("hint: install it:");
    let gone = ["sync", "--iptables", "/run/nowhere/iptables"];
    node.machine
        .proxy(gone)
        .exits(2)
        .complains("there is no /run/nowhere/iptables")
        .complains("hint: ");
}

/// A file system without room where the run directory is. The registry is elsewhere.
#[test]
fn a_full_disk() {
    let node = Node::start(Flavour::Nft);
    let machine = &node.machine;
    let callers = node.callers();
    let copy = machine.folder().join("registry").display().to_string();
    machine.run(["cp", "-r", REGISTRY, &copy]).ok();
    let diff = || machine.proxy(["diff", "--registry", &copy]).code() == 0;
    let add = |number: u8| {
        let script = format!(
            "sed 's/\"web\"/\"more-{number}\"/; s/10.96.0.80/10.96.9.{number}/' {copy}/web.service.json > {copy}/.new
             mv {copy}/.new {copy}/more-{number}.json"
        );
        machine.sh(&script).ok();
    };
    // One watch has its record on the disk that fills up, the other one cannot write it.
    let watch = || {
        let watch = machine
            .command(["miniproxy", "sync", "--watch", "--registry", &copy])
            .start();
        watch.wait_for("following");
        watch
    };
    let comes = |what: &str| wait_for(what, PATIENCE, || diff().then_some(()));
    machine
        .sh("mount -t tmpfs -o size=64k,mode=700 tmpfs /run/netns-lab")
        .ok();
    let fill = "head -c 100000 /dev/zero > /run/netns-lab/.filler 2> /run/said || true; df /run/netns-lab";
    machine.sh(fill).ok();
    add(1);
    assert!(!diff(), "something was added");
    let no_room = |ran: Ran| {
        ran.exits(1)
            .complains("cannot write /run/netns-lab/.")
            .complains("No space left on device")
            .complains("hint: make room, or a larger file system: df -h /run/netns-lab")
    };
    let before = node.rules();
    no_room(machine.proxy(["sync", "--registry", &copy]));
    let late = watch();
    late.wait_for("No space left on device");
    late.wait_for("hint: make room");
    late.wait_for("the same, attempt 2; ");
    assert_eq!(node.rules(), before, "without a record nothing is written");
    machine.sh("rm /run/netns-lab/.filler").ok();
    comes("room again");
    late.wait_for("the IPv4 rules are again as they should be");
    assert_eq!(said_and_stopped(late, "full disk"), 0);

    let early = watch();
    std::thread::sleep(Duration::from_millis(500));
    machine.sh(fill).ok();
    add(2);
    comes("the record is there already");
    assert!(!early.said().contains("error"), "{}", early.said());
    assert_eq!(said_and_stopped(early, "full disk later"), 0);
    assert_all_answered(callers, "full disk");
}
