//! Pods of several containers: what each has for itself, what they share, and what is left of them.

use std::fs;

use lab_tests::machine::{Machine, eventually};
use lab_tests::witness::{Witness, assert_unchanged};
use serde_json::Value;

/// A pod with the app and a container beside it, and a pod with nothing.
const TOPOLOGY: &str = r#"{"pods": [
  {"name": "web-1", "labels": {"app": "web"}, "containers": [
    {"name": "app"},
    {"name": "side", "command": ["sh", "-c", "echo hello; exec sleep 1000"], "capabilities": ["NET_RAW"]}]},
  {"name": "bare", "app": "none"}]}"#;

fn two_containers() -> Machine {
    let machine = Machine::start();
    let file = machine.file("two.json", TOPOLOGY);
    machine.lab(["up", &file]).ok();
    machine
}

/// Runs a script in a container, as that container.
#[track_caller]
fn inside(machine: &Machine, container: &str, script: &str) -> String {
    let argv = ["exec", "web-1", "-c", container, "--", "sh", "-euc", script];
    machine.lab(argv).ok().stdout.trim().to_string()
}

fn place<'a>(seen: &'a Value, name: &str) -> &'a Value {
    let mut places = seen["places"].as_array().expect("places").iter();
    places.find(|place| place["name"] == name).expect("the place")
}

#[test]
fn each_container_has_its_own_processes_and_mounts_and_no_powers() {
    let machine = two_containers();
    for container in ["app", "side"] {
        let count = inside(&machine, container, "ls /proc | grep -c '^[0-9]'");
        assert!(
            count.parse::<u32>().unwrap() < 8,
            "{container} sees {count} processes"
        );
        assert_eq!(inside(&machine, container, "id -u"), "65534");
        let status = inside(
            &machine,
            container,
            "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/1/status",
        );
        let granted = if container == "side" { "2000" } else { "0000" };
        let bits = format!("000000000000{granted}");
        assert_eq!(status.matches(&bits).count(), 2, "{container}: {status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{container}: {status}");
        let mounts = inside(&machine, container, "cat /proc/self/mounts");
        assert!(!mounts.contains("nsfs"), "{container} holds namespaces: {mounts}");
        assert_eq!(
            inside(
                &machine,
                container,
                "ls -A /run/netns-lab /run/netns | grep web || :"
            ),
            ""
        );
    }
    let of = |container| {
        inside(
            &machine,
            container,
            "readlink /proc/self/ns/pid /proc/self/ns/mnt",
        )
    };
    assert_ne!(of("app"), of("side"));
    let kill = "kill -9 1 2>/dev/null; for pid in $(seq 2 400); do kill -9 $pid 2>/dev/null || :; done; :";
    machine.lab(["exec", "web-1", "-c", "side", "--", "sh", "-c", kill]);
    machine
        .run(["curl", "-sS", "--max-time", "5", "10.244.0.2:8080"])
        .ok();
    machine
        .lab([
            "exec", "web-1", "-c", "app", "--", "ip", "link", "set", "eth0", "down",
        ])
        .exits(2);
}

#[test]
fn containers_of_a_pod_share_network_hostname_memory_and_volume() {
    let machine = two_containers();
    let script = "hostname; cat /etc/hostname; echo by-side > /dev/shm/note; echo by-side > /volume/note; \
                  curl -sS --max-time 5 127.0.0.1:8080";
    let said = inside(&machine, "side", script);
    assert!(said.starts_with("web-1\nweb-1\nweb-1 (10.244.0.2)"), "{said}");
    assert_eq!(
        inside(&machine, "app", "cat /dev/shm/note /volume/note"),
        "by-side\nby-side"
    );
    let of = |container| {
        inside(
            &machine,
            container,
            "for kind in net uts ipc; do readlink /proc/self/ns/$kind; done",
        )
    };
    assert_eq!(of("app"), of("side"));
    // What `up` adds later is seen in files that were bound before.
    let grown = TOPOLOGY.replace(r#"{"name": "bare""#, r#"{"name": "late"}, {"name": "bare""#);
    let file = machine.file("three.json", &grown);
    machine.lab(["up", &file]).ok();
    machine
        .lab(["exec", "web-1", "--", "grep", "late", "/etc/hosts"])
        .ok();
    // Not with the host, and not with other pods.
    machine.run(["test", "-e", "/dev/shm/note"]).exits(1);
    machine
        .lab(["exec", "late", "--", "test", "-e", "/volume/note"])
        .exits(1);
}

#[test]
fn the_same_question_has_other_answers() {
    let machine = two_containers();
    let seen = machine.lab(["namespaces", "web-1", "-o", "json"]).ok().json();
    let (host, app, side) = (place(&seen, "host"), place(&seen, "app"), place(&seen, "side"));
    assert_eq!(app["hostname"], "web-1");
    assert_ne!(host["hostname"], "web-1");
    assert_eq!(app["processes"], 1);
    assert_eq!(side["processes"], 2);
    assert_eq!(app["interfaces"], serde_json::json!(["lo", "eth0"]));
    assert_eq!(app["capabilities"], serde_json::json!([]));
    assert_eq!(side["capabilities"], serde_json::json!(["NET_RAW"]));
    assert_eq!(seen["shared"], serde_json::json!(["net", "uts", "ipc"]));
    assert_eq!(seen["own"], serde_json::json!(["pid", "mnt"]));
    assert_eq!(seen["host"], serde_json::json!(["user", "cgroup"]));
    let screen = machine
        .lab(["namespaces"])
        .ok()
        .says("APP")
        .says("SIDE")
        .never_says("\u{1b}");
    assert!(screen.stdout.lines().count() <= 23, "{screen}");
    assert!(
        screen.stdout.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );
    machine.lab(["namespaces", "web-9"]).exits(1).complains("web-9");
}

#[test]
fn run_adds_a_container_and_logs_tells_what_it_said() {
    let machine = two_containers();
    machine.lab(["logs", "web-1"]).ok().says("answers on");
    machine.lab(["logs", "web-1", "-c", "side"]).ok().says("hello");
    let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    machine
        .lab([
            "run", "web-1", "--name", "third", "--user", "1234", "--", "sh", "-c", script,
        ])
        .ok()
        .says("netns-lab logs web-1 -c third");
    machine.lab(["logs", "web-1", "-c", "third"]).ok().says("started");
    assert_eq!(inside(&machine, "third", "id -u"), "1234");
    machine
        .lab(["run", "web-1", "--name", "third", "--", "true"])
        .exits(1)
        .complains("already");
    machine
        .lab(["run", "web-1", "--name", "app", "--", "true"])
        .exits(1)
        .complains("already");
    machine
        .lab(["run", "web-1", "--name", "bad", "--", "/no/such"])
        .exits(1)
        .complains("command not found");
    machine
        .lab(["exec", "web-1", "-c", "bad", "--", "true"])
        .exits(1)
        .complains("app, side, third");
    // A pod that runs nothing has a holder, so that it can be joined.
    machine
        .lab(["run", "bare", "--name", "first", "--", "sleep", "1000"])
        .ok();
    machine
        .lab(["exec", "bare", "-c", "first", "--", "hostname"])
        .ok()
        .says("bare");
    // `up` leaves what was added; nobody reaps what a container leaves but its first process.
    let file = machine.file("two.json", TOPOLOGY);
    machine.lab(["up", &file]).ok();
    let zombies = "(sleep 0.1 &) ; sleep 0.5; ! grep -qs '^State:.Z' /proc/[0-9]*/status";
    for container in ["app", "third"] {
        inside(&machine, container, zombies);
    }
}

#[test]
fn an_added_container_is_of_the_pod_and_comes_back() {
    let machine = Machine::start();
    machine.lab(["up", "1-pods"]).ok();
    machine
        .lab(["run", "web-1", "--name", "side", "--", "sleep", "1000"])
        .ok();
    machine.lab(["get", "pods"]).ok().says("2/2");
    machine.lab(["status"]).ok().says("yes 2/2");
    machine.lab(["pod", "kill", "web-1", "-c", "side"]).ok();
    eventually("it is back", || {
        let pod = machine.lab(["get", "pod", "web-1", "-o", "json"]).ok().json();
        let side = &pod["status"]["containerStatuses"][1];
        side["restartCount"] == 1 && side["ready"] == true
    });
    machine.lab(["pod", "kill", "web-1", "-c", "side"]).ok();
    eventually("the pod waits for it", || {
        machine
            .lab(["get", "pods"])
            .ok()
            .stdout
            .contains("CrashLoopBackOff")
    });
    machine.lab(["status"]).ok().says("netns-lab logs web-1 -c side");
    // One that runs once is no matter to the pod.
    machine.lab(["pod", "restart", "web-1", "--grace", "0s"]).ok();
    machine
        .lab(["run", "web-1", "--name", "short", "--once", "--", "true"])
        .ok();
    machine.lab(["get", "pods"]).ok().says("1/1");
}

#[test]
fn an_image_that_the_program_builds_answers_from_a_root_of_its_own() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "1-pods"]).ok();
    let image = machine.folder().join("app.tar");
    let image = image.to_str().unwrap();
    machine.lab(["image", "build", image]).ok().says("next:");
    let serve = ["netns-lab", "serve", "--pod", "own", "--ip", "127.0.0.1"];
    let listen = ["--listen", "http:9090/tcp"];
    let run = ["run", "web-1", "--name", "own", "--rootfs", image, "--"];
    machine.lab(run.into_iter().chain(serve).chain(listen)).ok();
    machine
        .run(["curl", "-sS", "--max-time", "5", "10.244.0.2:9090"])
        .ok()
        .says("own (127.0.0.1) sees you");
    // Nothing of the host's is in it, not even a shell.
    machine
        .lab(["exec", "web-1", "-c", "own", "--", "sh", "-c", "true"])
        .exits(127);
    machine
        .lab(["exec", "web-1", "-c", "own", "--", "netns-lab", "--version"])
        .ok();
    machine
        .lab(["exec", "web-1", "-c", "own"])
        .exits(127)
        .complains("/bin/sh");
    // The same unpacked, as a folder, which stays as it was.
    let folder = machine.folder().join("unpacked");
    fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    machine.run(["tar", "-xf", image, "-C", folder]).ok();
    let list = format!("cd {folder} && find . | sort");
    let files = machine.sh(&list).ok().stdout;
    let run = ["run", "web-1", "--name", "again", "--rootfs", folder, "--"];
    let listen = ["--listen", "http:9091/tcp"];
    machine.lab(run.into_iter().chain(serve).chain(listen)).ok();
    machine
        .run(["curl", "-sS", "--max-time", "5", "10.244.0.2:9091"])
        .ok();
    machine.lab(["down"]).ok();
    assert_eq!(machine.sh(&list).ok().stdout, files);
    assert_unchanged(&machine, &before, "after containers with roots");
}

#[test]
fn a_root_that_cannot_be_is_refused_and_nothing_is_left() {
    let machine = Machine::start();
    machine.lab(["up", "1-pods"]).ok();
    let file = machine.file("no.tar", "this is no archive");
    for (rootfs, word) in [
        (file.as_str(), "no tar archive"),
        ("/no/such", "No such file"),
        ("/", "the host's own"),
    ] {
        machine
            .lab(["run", "web-1", "--name", "own", "--rootfs", rootfs, "--", "true"])
            .exits(2)
            .complains(word)
            .complains("nothing was left behind");
    }
    machine.lab(["namespaces", "web-1"]).ok().never_says("OWN");
}

#[test]
fn limits_hold_or_the_host_is_said_to_have_none() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["up", "1-pods"]).ok();
    let hungry = "sleep 0.3; x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}; sleep 1000";
    let ran = machine.lab([
        "run", "web-1", "--name", "small", "--once", "--cpu", "100m", "--memory", "16Mi", "--", "sh", "-c",
        hungry,
    ]);
    if ran.code() == 0 {
        eventually("the hungry container is ended", || {
            let seen = machine.lab(["namespaces", "web-1", "-o", "json"]).ok().json();
            seen["places"].as_array().unwrap().len() == 2
        });
    } else {
        ran.exits(3)
            .complains("cannot limit containers")
            .complains("leave --cpu and --memory out");
    }
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &before, "after a limited container");
}

#[test]
fn whatever_is_killed_nothing_is_left() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    let file = machine.file("two.json", TOPOLOGY);
    for victim in ["holder", "serve", "container", "agent"] {
        machine.lab(["up", &file]).ok();
        let find = format!(
            "for line in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $line 2>/dev/null | \
             grep -q '^netns-lab {victim} ' && basename $(dirname $line); done; :"
        );
        // The agent starts a container again, at once the first time; the second time it waits.
        let times = if matches!(victim, "serve" | "container") {
            2
        } else {
            1
        };
        let mut killed = String::new();
        for _ in 0..times {
            eventually("one runs", || {
                let pids = machine.sh(&find).ok().stdout;
                !pids.trim().is_empty() && pids != killed
            });
            killed = machine.sh(&find).ok().stdout;
            for pid in killed.split_whitespace() {
                machine.run(["kill", "-9", pid]);
            }
        }
        if victim != "agent" {
            eventually("the pod is not ready", || {
                let status = machine.lab(["status", "-o", "json"]).json();
                status["pods"][0]["ready"] == false
            });
            // What was killed comes back, with the address it had.
            machine.lab(["up", &file]).ok();
            let status = machine.lab(["status", "-o", "json"]).ok().json();
            assert_eq!(status["pods"][0]["ready"], true, "{victim}: {status:#}");
            assert_eq!(status["pods"][0]["ip"], "10.244.0.2");
            machine.lab(["exec", "web-1", "-c", "side", "--", "true"]).ok();
        }
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("after the {victim} was killed"));
    }
}

#[test]
fn run_can_be_killed_at_every_step() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    for step in ["run:announced", "up:app", "run:started", "run:recorded"] {
        machine.lab(["up", "1-pods"]).ok();
        let argv = [
            "netns-lab",
            "run",
            "web-1",
            "--name",
            "side",
            "--",
            "sleep",
            "1000",
        ];
        machine
            .command(argv)
            .env("NETNS_LAB_KILL_AT", step)
            .run()
            .exits(137);
        if step != "run:recorded" {
            machine.lab(["up", "1-pods"]).ok();
            machine.command(argv).run().ok();
        }
        machine.lab(["down"]).ok();
        assert_unchanged(&machine, &before, &format!("{step}: after run and down"));
    }
}
