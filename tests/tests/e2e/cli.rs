//! What a person or a script meets: words, exit codes, JSON, pipes.

use std::time::Duration;

use lab_tests::machine::{Flavour, Machine};
use lab_tests::registry::{REGISTRY, publish};
use lab_tests::witness::{Witness, assert_unchanged};
use nix::unistd::Uid;
use serde_json::{Value, json};

use crate::support::{WEB, lab_with_rules};

#[test]
fn help_fits_a_terminal_and_carries_examples() {
    let machine = Machine::start();
    for (program, verbs) in [
        (
            "netns-lab",
            vec!["up", "down", "status", "exec", "logs", "arp", "doctor", "sandbox"],
        ),
        ("miniproxy", vec!["sync", "render", "check", "diff", "cleanup"]),
    ] {
        let top = machine.run([program, "--help"]).ok().says("Examples:");
        for verb in &verbs {
            assert!(top.stdout.contains(verb), "{program} --help does not name {verb}");
            let help = machine.run([program, verb, "--help"]).ok();
            let wide = help.stdout.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{program} {verb} --help");
            assert!(help.stdout.contains("Example") || *verb == "cleanup", "{help}");
        }
        machine.run([program, "--version"]).ok().says("0.1.0");
        for shell in ["bash", "zsh", "fish"] {
            machine.run([program, "completions", shell]).ok().says(verbs[0]);
        }
        machine.run([program, "man"]).ok().says(".TH");
        machine.run([program, "frobnicate"]).exits(2);
        machine.run([program]).exits(2);
    }
    for wrong in [
        ["up", "many"],
        ["up", "--name=UPPER"],
        ["arp", "10.96.0"],
        ["exec", "web-1 "],
    ] {
        machine.lab(wrong).exits(2);
    }
}

#[test]
fn without_a_lab_each_command_says_so() {
    let machine = Machine::start();
    let before = Witness::of(&machine);
    machine.lab(["status"]).exits(1).complains("netns-lab up");
    machine
        .lab(["exec", "web-1", "--", "true"])
        .exits(1)
        .complains("netns-lab up");
    machine.lab(["logs", "web-1"]).exits(1);
    machine.lab(["arp", "10.244.0.2"]).exits(1);
    machine.lab(["down"]).ok();
    machine.lab(["down", "--all"]).ok();
    let ran = machine.proxy(["sync"]);
    assert!(
        [1, 2, 3].contains(&ran.code()) && ran.stderr.contains("--registry"),
        "{ran}"
    );
    machine.proxy(["cleanup"]).ok();
    assert_unchanged(&machine, &before, "after commands without a lab");
}

#[test]
fn status_as_json_has_what_scripts_need() {
    let machine = lab_with_rules("3-pods");
    let status = machine.lab(["status", "-o", "json"]).ok().json();
    assert_eq!(status["lab"], "lab");
    assert_eq!(status["nodes"][0]["name"], "node-1");
    assert_eq!(status["nodes"][0]["podCIDR"], "10.244.0.0/24");
    assert_eq!(status["serviceCIDR"], "10.96.0.0/16");
    assert_eq!(status["registry"], REGISTRY);
    let pod = &status["pods"][1];
    let facts = ["name", "node", "ip", "labels", "ready", "netns", "interface"].map(|key| pod[key].clone());
    let wanted = [
        json!("web-2"),
        json!("node-1"),
        json!("10.244.0.3"),
        json!({ "app": "web" }),
        json!(true),
        json!("web-2"),
        json!("veth-web-2"),
    ];
    assert_eq!(facts, wanted);
    machine
        .lab(["status"])
        .ok()
        .says("web-2")
        .says("10.244.0.3")
        .never_says("\u{1b}");
    let up = machine.lab(["up", "3-pods", "-o", "json"]).ok().json();
    assert_eq!(up["pods"], status["pods"]);
}

#[test]
fn exec_is_the_command_itself() {
    let machine = lab_with_rules("3-pods");
    for code in [0, 1, 7, 42, 255] {
        machine
            .lab(["exec", "web-1", "--", "sh", "-c", &format!("exit {code}")])
            .exits(code);
    }
    machine
        .lab(["exec", "web-1", "--", "sh", "-c", "kill -9 $$"])
        .exits(137);
    machine
        .lab(["exec", "web-1", "--", "/no/such/program"])
        .exits(127);
    machine
        .lab(["exec", "web-9", "--", "true"])
        .exits(1)
        .complains("web-9");
    let text = "a line\nand another";
    let echoed = machine
        .command(["netns-lab", "exec", "web-1", "--", "cat"])
        .input(text)
        .run()
        .ok();
    assert_eq!(echoed.stdout, text);
    machine
        .lab(["exec", "web-2", "--", "hostname"])
        .ok()
        .says("web-2");
    machine
        .lab(["exec", "web-2", "--", "cat", "/etc/hosts"])
        .ok()
        .says("10.244.0.3");
    machine
        .lab(["exec", "web-2", "--", "test", "-r", "/etc/resolv.conf"])
        .ok();
    machine
        .lab(["exec", "web-2", "--", "ls", "/sys/class/net"])
        .ok()
        .says("eth0")
        .never_says("cni0");
    machine
        .lab(["exec", "web-2", "--", "ip", "address"])
        .ok()
        .says("10.244.0.3/24")
        .says("02:00:0a:f4:00:03");
    // What `exec` arranges for the command is the command's only.
    machine.run(["hostname"]).ok().never_says("web-2");
    machine.run(["cat", "/etc/hosts"]).ok().never_says("10.244.0.3");
}

/// Plain `ip netns` sees a pod as it sees its own.
#[test]
fn pods_are_what_ip_netns_makes() {
    let machine = lab_with_rules("3-pods");
    let names = machine.run(["ip", "netns", "list"]).ok().stdout;
    let mut names: Vec<_> = names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["web-1", "web-2", "web-3"]);
    machine
        .in_pod("web-3", ["ip", "-br", "address"])
        .ok()
        .says("10.244.0.4/24")
        .never_says("fe80");
    machine
        .in_pod("web-3", ["curl", "-sS", "--max-time", "5", "127.0.0.1:8080"])
        .ok()
        .says("web-3 (10.244.0.4)");
}

#[test]
fn the_app_answers_as_promised() {
    let machine = lab_with_rules("3-pods");
    let get = |path: &str| {
        machine
            .run([
                "curl",
                "-sS",
                "--max-time",
                "5",
                &format!("10.244.0.2:8080{path}"),
            ])
            .ok()
            .stdout
    };
    assert!(
        get("/").starts_with("web-1 (10.244.0.2) sees you as 10.244.0.1:"),
        "{}",
        get("/")
    );
    let sight: Value = serde_json::from_str(&get("/json")).unwrap();
    assert_eq!(
        (&sight["pod"], &sight["client"]),
        (&json!("web-1"), &json!("10.244.0.1"))
    );
    assert_eq!(get("/healthz").trim(), "ok");
    // Not root's powers: the kernel's own account of the process.
    let status = machine.lab(["status", "-o", "json"]).ok().json();
    let facts = machine
        .run(["cat", &format!("/proc/{}/status", status["pods"][0]["pid"])])
        .ok()
        .stdout;
    for line in [
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(facts.contains(line), "{line} is not in\n{facts}");
    }
    machine.lab(["logs", "web-1"]).ok();
}

#[test]
fn sync_says_one_line_per_service_and_nothing_when_nothing_changed() {
    let machine = Machine::start();
    let empty = Witness::of(&machine);
    machine.lab(["up", "3-pods"]).ok().says("miniproxy sync");
    let before = Witness::of(&machine);
    machine
        .proxy(["sync", "--dry-run"])
        .ok()
        .says("KUBE-SERVICES")
        .says("10.96.0.80");
    assert_unchanged(&machine, &before, "after a dry run");
    machine
        .proxy(["sync"])
        .ok()
        .says("default/web:http 10.96.0.80:80/TCP -> 3 endpoints (new)");
    machine.proxy(["sync"]).ok().says("nothing to do");
    machine.proxy(["diff"]).ok();
    machine
        .run(["iptables", "-t", "nat", "-D", "PREROUTING", "1"])
        .ok();
    machine.proxy(["diff"]).exits(1);
    machine.proxy(["sync"]).ok();
    machine.proxy(["diff"]).ok();
    machine.proxy(["diff", "/nowhere"]).exits(2);
    machine.proxy(["cleanup"]).ok();
    machine.proxy(["diff"]).exits(1);
    // Tables that both programs write to go with the last of them.
    machine.lab(["down"]).ok();
    assert_unchanged(&machine, &empty, "after cleanup and down");
}

#[test]
fn check_names_file_line_column_field_and_what_was_expected() {
    let machine = lab_with_rules("3-pods");
    machine.proxy(["check"]).ok();
    for (change, complaints) in [
        ("s/\"port\": 80,/\"port\": 99999,/", ["web.service.json:", "port"]),
        ("s/10.96.0.80/10.96.0.800/", ["clusterIP", "expected"]),
        ("s/\"TCP\"/\"ICMP\"/", ["protocol", "TCP"]),
    ] {
        let good = machine.run(["cat", &format!("{REGISTRY}/web.service.json")]).ok();
        machine
            .sh(&format!("sed -i '{change}' {REGISTRY}/web.service.json"))
            .ok();
        let ran = machine.proxy(["check"]).exits(2);
        for complaint in complaints {
            assert!(ran.stderr.contains(complaint), "{complaint:?} is not in {ran}");
        }
        publish(&machine, "web.service", &good.json());
    }
    let mut twin: Value = machine
        .run(["cat", &format!("{REGISTRY}/web.service.json")])
        .ok()
        .json();
    twin["spec"]["clusterIP"] = json!("10.96.0.81");
    twin["spec"]["clusterIPs"] = json!(["10.96.0.81"]);
    publish(&machine, "twin.service", &twin);
    machine.proxy(["check"]).exits(2).complains("twin.service.json");
}

/// As `head` does: a reader that has seen enough is no failure.
#[test]
fn a_closed_pipe_is_no_failure() {
    let machine = lab_with_rules("12-pods");
    for command in [
        "netns-lab status",
        "netns-lab man",
        "miniproxy render",
        "netns-lab completions bash",
        "netns-lab doctor",
    ] {
        machine
            .run([
                "bash",
                "-o",
                "pipefail",
                "-c",
                &format!("{command} 2>&1 | true; test ${{PIPESTATUS[0]}} -le 3"),
            ])
            .ok();
        machine
            .run(["bash", "-c", &format!("{command} 2>&1 | head -n 1")])
            .ok()
            .never_says("panick");
    }
}

#[test]
fn doctor_tells_what_is_well_and_how_to_mend_what_is_not() {
    let machine = lab_with_rules("3-pods");
    let good = machine.lab(["doctor", "-o", "json"]).ok().json();
    let checks = good["checks"].as_array().expect("checks");
    assert!(checks.len() >= 8, "{good:#}");
    for check in checks {
        let status = check["status"].as_str().expect("a status");
        assert!(["ok", "warn", "fail"].contains(&status), "{check}");
        assert!(
            status == "ok" || check["cure"].is_string(),
            "{check} names no cure"
        );
    }
    machine.lab(["doctor"]).ok().says("ok").says("iptables");
}

/// A mix of the two flavours: each tool shows half of the truth, and doctor says so.
#[test]
fn doctor_warns_of_mixed_flavours_and_of_forward_drop() {
    let machine = Machine::builder().docker().start();
    machine.lab(["doctor"]).says("FORWARD");
    machine
        .run([
            "iptables-legacy",
            "-A",
            "INPUT",
            "-s",
            "203.0.113.1",
            "-j",
            "DROP",
        ])
        .ok();
    machine.lab(["doctor"]).says("legacy").says("warn");
}

/// `--iptables` decides, whatever plain `iptables` is.
#[test]
fn the_flavour_can_be_chosen() {
    for (flavour, other) in [(Flavour::Nft, Flavour::Legacy), (Flavour::Legacy, Flavour::Nft)] {
        let machine = Machine::builder().flavour(flavour).start();
        let path = format!("/usr/sbin/iptables-{}", other.name());
        machine.lab(["up", "3-pods", "--iptables", &path]).ok();
        machine.proxy(["sync", "--iptables", &path]).ok();
        machine
            .run([&format!("{path}-save")])
            .ok()
            .says("KUBE-SERVICES")
            .says("netns-lab lab");
        machine.run(["iptables-save"]).ok().never_says("KUBE-SERVICES");
        machine
            .run(["curl", "-sS", "--max-time", "5", WEB])
            .ok()
            .says("sees you as");
        machine.proxy(["cleanup"]).ok();
        machine.lab(["down"]).ok();
        machine
            .run([&format!("{path}-save")])
            .ok()
            .never_says("KUBE-")
            .never_says("netns-lab");
    }
    let machine = Machine::start();
    machine.lab(["up", "3-pods", "--iptables", "/bin/true"]).exits(2);
}

/// The flavour that already holds the host's rules is the one to join.
#[test]
fn the_flavour_in_use_is_found() {
    let machine = Machine::start();
    machine
        .run([
            "iptables-legacy",
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-s",
            "203.0.113.0/24",
            "-j",
            "MASQUERADE",
        ])
        .ok();
    machine.lab(["up", "3-pods"]).ok();
    machine.proxy(["sync"]).ok().says("legacy");
    machine.run(["iptables-legacy-save"]).ok().says("KUBE-SERVICES");
    machine.run(["iptables-nft-save"]).ok().never_says("KUBE-");
}

/// Another process holds the lock of iptables-legacy: waiting, then an error that says so.
#[test]
fn a_held_xtables_lock_is_waited_for() {
    let machine = Machine::builder().flavour(Flavour::Legacy).start();
    machine.lab(["up", "3-pods"]).ok();
    let holder = machine
        .command(["flock", "/run/xtables.lock", "sh", "-c", "echo held; sleep 1"])
        .start();
    holder.wait_for("held");
    machine.proxy(["sync"]).ok().says("3 endpoints");
    machine.proxy(["diff"]).ok();
}

/// A node of another namespace is not touched: its lab is named, and nothing is done.
#[test]
fn a_lab_of_another_node_is_left_alone() {
    let machine = lab_with_rules("3-pods");
    let before = Witness::of(&machine);
    for words in [["up", "3-pods"], ["down", "lab"]] {
        let ran = machine.run(["unshare", "-n", "netns-lab"].into_iter().chain(words));
        assert!(ran.code() != 0 && ran.stderr.contains("namespace"), "{ran}");
    }
    assert_unchanged(&machine, &before, "after commands from another namespace");
}

/// Links to elsewhere in the place of our directories are not followed.
#[test]
fn state_is_never_written_through_a_link() {
    let machine = Machine::start();
    machine
        .sh("mkdir -p /run/elsewhere; ln -s /run/elsewhere /run/netns-lab")
        .ok();
    let before = Witness::of(&machine);
    let ran = machine.lab(["up", "3-pods"]);
    assert!(ran.code() != 0 && ran.stderr.contains("/run/netns-lab"), "{ran}");
    assert_unchanged(&machine, &before, "after a refusal");
}

/// Without root's powers: what needs them says so with exit code 3, what needs none works.
#[test]
fn a_plain_user_is_told_what_to_type() {
    let machine = lab_with_rules("3-pods");
    let dropped = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
        "--ambient-caps=-all",
    ];
    let as_nobody = |words: &[&'static str]| machine.run(dropped.into_iter().chain(words.iter().copied()));
    as_nobody(&["netns-lab", "up", "5-pods"])
        .exits(3)
        .complains("sudo");
    as_nobody(&["miniproxy", "sync"]).exits(3).complains("sudo");
    if Uid::effective().is_root() {
        let other = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "netns-lab",
            "up",
            "5-pods",
        ];
        machine.run(other).exits(3).complains("sudo");
    }
    let text = machine.proxy(["render"]).ok().stdout;
    assert_eq!(as_nobody(&["miniproxy", "render"]).ok().stdout, text);
}

/// A terminal is not needed, and where one is, it works.
#[test]
fn exec_has_a_terminal_where_the_caller_has_one() {
    let machine = lab_with_rules("1-pods");
    let script = ["script", "-qec", "netns-lab exec web-1 -- tty", "/dev/null"];
    machine
        .command(script)
        .patience(Duration::from_secs(20))
        .run()
        .ok()
        .says("/dev/pts/");
}
