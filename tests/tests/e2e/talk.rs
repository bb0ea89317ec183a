//! Talks: told, learned, checked and recorded from one file, in a sandbox of which nothing is left.

use std::fs;
use std::time::Duration;

use lab_tests::machine::{Machine, Running, eventually};
use lab_tests::programs::repository;
use lab_tests::run::Ran;
use lab_tests::witness::{Witness, assert_unchanged};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Three quick steps: a failure that is meant, a rule, and one more.
const TALK: &str = r#"---
lab: 2-pods --pod-cidr 10.244.1.0/24
---
# Rules

## 1. Nobody has the address
> predict: who has it?
```sh run hidden
test "$(hostname)" = sandbox
```
```sh run fails expect="prohibit|unreachable|RTNETLINK|refused|timed out" in=web-1
curl -sS --max-time 1 10.96.0.10
```

## 2. One rule makes it exist
```sh run keep
iptables -t nat -A PREROUTING -d 10.96.0.10 -p tcp --dport 80 -j DNAT --to 10.244.1.3:8080
```
```sh run expect="^web-2 .* sees you as 10\.244\.1\.2" absent="web-1 \(" in=web-1
curl -sS --max-time 5 10.96.0.10
```
<!-- hint: ask the virtual IP -->

## 3. What goes on ends
```sh run background=clock expect="tick" timeout=1s
while :; do echo tick; sleep 0.1; done
```
```sh run stop=clock keep expect="1"
cat /proc/sys/net/ipv4/ip_forward
```

## 4. Two rules
```sh run expect="dport 81" keep
iptables -t nat -A PREROUTING -d 10.96.0.10 -p tcp --dport 81 -j DNAT --to 10.244.1.2:8080
iptables -t nat -S PREROUTING
```
"#;

fn check(machine: &Machine, talk: &str, words: &[&str]) -> Ran {
    let file = machine.file("talk.md", talk);
    let argv = ["netns-lab", "check", &file]
        .into_iter()
        .chain(words.iter().copied());
    machine.command(argv).patience(Duration::from_secs(120)).run()
}

#[test]
fn a_talk_is_checked_with_all_its_jumps() {
    let machine = Machine::start();
    let ran = check(&machine, TALK, &["-o", "json"]).ok();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["passed"], 7, "4 steps and 3 jumps: {report:#}");
    assert_eq!(report["failed"], 0);
    // The machine outside has seen nothing of it.
    assert_eq!(
        machine
            .sh("ip -o link | grep -c -v ' lo:' || true")
            .ok()
            .stdout
            .trim(),
        "0"
    );
    assert_eq!(
        machine
            .sh("ls /run/netns-lab /run/netns 2>/dev/null || true")
            .ok()
            .stdout,
        ""
    );
}

#[test]
fn each_step_of_the_shipped_talk_that_is_broken_is_told_by_name() {
    let machine = Machine::start();
    let talk = fs::read_to_string(repository().join("docs/talk/talk.md")).unwrap();
    let parts: Vec<_> = talk.split("\n## ").collect();
    for number in 1..parts.len() {
        let mut broken: Vec<_> = parts.iter().map(ToString::to_string).collect();
        broken[number] = broken[number].replacen("```sh run", "```sh run expect=never-4711", 1);
        assert_ne!(broken[number], parts[number]);
        let only = number.to_string();
        let ran = check(&machine, &broken.join("\n## "), &["--step", &only]).exits(1);
        let title = parts[number].lines().next().unwrap().replacen('.', "", 1);
        assert!(ran.stdout.contains(&format!("failed {title}")), "{ran}");
        assert!(ran.stdout.contains("`never-4711` in the output"), "{ran}");
    }
}

#[test]
fn on_the_host_what_was_there_stays_and_nothing_is_added() {
    let machine = Machine::start();
    let rules = "iptables -t nat -N OTHERS; iptables -t nat -A PREROUTING -j OTHERS";
    machine.sh(rules).ok();
    let before = Witness::of(&machine);
    check(&machine, &TALK.replace("= sandbox", "!= sandbox"), &["--host"]).ok();
    assert_unchanged(&machine, &before, "after the talk");
    // A lab that is not the talk's is not taken down by it.
    machine.lab(["up", "1-pod"]).ok();
    check(&machine, TALK, &["--host"])
        .exits(1)
        .complains("is up on this machine");
    machine.lab(["status"]).ok();
}

#[test]
fn a_lab_is_drawn_in_each_format() {
    let machine = Machine::start();
    machine.lab(["graph"]).exits(1).complains("netns-lab up");
    machine.lab(["up", "2-nodes-3-pods"]).ok();
    for (format, part) in [
        ("text", "veth-web-1 == eth0 pod web-1"),
        ("mermaid", "flowchart"),
        ("dot", "graph lab {"),
        ("svg", "<title>"),
    ] {
        let once = machine.lab(["graph", "--format", format]).ok().says(part);
        let again = machine.lab(["graph", "--format", format]).ok();
        assert_eq!(once.stdout, again.stdout);
    }
    let data: Value = serde_json::from_str(&machine.lab(["graph", "-o", "json"]).ok().stdout).unwrap();
    assert_eq!(data["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn each_broken_step_is_told_by_name() {
    let machine = Machine::start();
    for (from, to, title, seen) in [
        (
            "run fails expect=\"prohibit",
            "run expect=\"prohibit",
            "1 Nobody has the address",
            "exit code",
        ),
        (
            "expect=\"^web-2",
            "expect=\"^web-3",
            "2 One rule makes it exist",
            "web-2 (10.244.1.3)",
        ),
        ("echo tick", "echo tock", "3 What goes on ends", "tock"),
        ("dport 81\" keep", "dport 82\" keep", "4 Two rules", "--dport 81"),
    ] {
        let broken = TALK.replacen(from, to, 1);
        assert_ne!(broken, TALK, "{from}");
        let ran = check(&machine, &broken, &["--no-jumps"]).exits(1);
        assert!(ran.stdout.contains(&format!("failed {title}")), "{ran}");
        assert!(ran.stdout.contains("3 passed, 1 failed"), "{ran}");
        assert!(ran.stdout.contains(seen), "{ran}");
    }
}

#[test]
fn a_forgotten_keep_is_found_by_the_jumps() {
    let machine = Machine::start();
    let talk = TALK.replacen("```sh run keep\niptables", "```sh run\niptables", 1);
    let ran = check(&machine, &talk, &[]).exits(1);
    assert!(ran.stdout.contains("failed jump to 3 What goes on ends"), "{ran}");
    assert!(ran.stdout.contains("--dport 80 -j DNAT"), "{ran}");
}

#[test]
fn a_file_that_is_no_talk_is_told_with_its_lines() {
    let machine = Machine::start();
    let ran = check(&machine, "# T\n\n## 1. A\n\n```sh run expct=\"a\"\nx\n```\n", &[]).exits(2);
    assert!(ran.stderr.contains("talk.md:5: `expct=a` is not known"), "{ran}");
    machine
        .lab(["check", "/nowhere.md"])
        .exits(2)
        .complains("no such file");
    machine
        .lab(["check", "--step", "99"])
        .exits(2)
        .complains("expected 1 to");
    machine
        .lab(["talk", "--notes"])
        .exits(1)
        .complains("no talk is going on");
}

#[test]
fn a_talk_is_recorded_with_a_marker_for_each_step() {
    let machine = Machine::start();
    let file = machine.file("talk.md", TALK);
    let (cast, words) = (machine.folder().join("t.cast"), machine.folder().join("t.txt"));
    let paths = [&cast, &words].map(|path| path.to_str().unwrap().to_string());
    machine
        .lab(["record", &file, "--cast", &paths[0], "--transcript", &paths[1]])
        .ok();
    let cast = fs::read_to_string(cast).unwrap();
    let lines: Vec<Value> = cast
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["width"], &lines[0]["height"]),
        (&100.into(), &30.into())
    );
    assert_eq!(lines.iter().filter(|line| line[1] == "m").count(), 4);
    let words = fs::read_to_string(words).unwrap();
    assert!(
        words.contains("web-1 $ curl -sS --max-time 5 10.96.0.10\nweb-2 ("),
        "{words}"
    );
    assert!(!words.contains("hostname"), "what is hidden: {words}");
}

#[test]
fn a_learner_types_what_counts() {
    let machine = Machine::start();
    let file = machine.file("talk.md", TALK);
    // Not the talk's own words; then two misses, and a hint; then what is meant.
    let typed = "curl -sS --max-time 1 http://10.96.0.10/\n\
                 iptables -t nat -I PREROUTING -p tcp -d 10.96.0.10/32 -m tcp --dport 80 -j DNAT --to-destination 10.244.1.3:8080\n\
                 curl -sS --max-time 1 10.96.0.11\nfrobnicate\ncurl -s 10.96.0.10:80\nquit\n";
    let learn = machine.command(["netns-lab", "learn", &file]).input(typed);
    let ran = learn.patience(Duration::from_secs(60)).run().exits(1);
    for said in [
        "it fails, as it should",
        "hint: ask the virtual IP",
        "Step 3: What goes on ends",
    ] {
        assert!(ran.stdout.contains(said), "{ran}");
    }
    assert_eq!(ran.stdout.matches("wrong: ").count(), 2, "{ran}");
}

#[test]
fn without_a_terminal_a_talk_is_told_and_not_run() {
    let machine = Machine::start();
    let file = machine.file("talk.md", TALK);
    let ran = machine.lab(["talk", &file]).ok();
    assert!(ran.stdout.contains("2. One rule makes it exist"), "{ran}");
    let data = machine.lab(["talk", &file, "-o", "json"]).ok();
    let data: Value = serde_json::from_str(&data.stdout).unwrap();
    assert_eq!(data["steps"][1]["runs"][1]["in"], "web-1");
}

fn sandboxes() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines.filter(|line| line.contains("never-ends-4711")).count()
}

#[test]
fn nothing_is_left_of_a_talk_that_is_killed() {
    let machine = Machine::start();
    let talk = "# T\n\n## 1. A\n\n```sh run background expect=x\necho x; : never-ends-4711; sleep 600\n```\n\n\
                ```sh run timeout=5m\n: never-ends-4711; sleep 600; :\n```\n";
    let file = machine.file("talk.md", talk);
    let running: Running = machine.command(["netns-lab", "check", &file]).start();
    eventually("both commands run", || sandboxes() >= 2);
    running.stop(Signal::SIGKILL);
    eventually("all of them have gone", || sandboxes() == 0);
}

/// A shell in the sandbox knows no process outside of it, so it cannot give the terminal back.
#[test]
fn a_shell_on_the_stage_comes_back_to_it() {
    let machine = Machine::start();
    let file = machine.file("talk.md", "# T\n\n## 1. A\n\n```sh run\ntrue\n```\n");
    for shell in ["/bin/bash", "/bin/sh"] {
        let shown = machine.folder().join("shown");
        // A stopped talk would leave the `q` to the shell around it, as the first letter of `qecho`.
        let typed = format!(
            "read_until() {{ for n in $(seq 300); do grep -qa \"$1\" {shown} && return; sleep 0.1; done; exit 1; }}
            sleep 0.5; echo 'stty cols 100 rows 30'; echo 'SHELL={shell} netns-lab talk {file}'; read_until STEP
            printf '!'; read_until 'comes back'; sleep 0.5; echo 'echo in-$((41+1))'; read_until in-42; echo exit; sleep 1
            printf q; sleep 0.5
            echo 'echo out-$((41+1)) $(jobs | wc -l)'; read_until out-42; echo exit",
            shown = shown.display()
        );
        let window = format!(
            "({typed}) | script -qefc 'bash --norc -i' {} >/dev/null",
            shown.display()
        );
        machine
            .command(["bash", "-c", &window])
            .patience(Duration::from_secs(60))
            .run()
            .ok();
        let shown_text = fs::read_to_string(&shown).unwrap_or_default();
        assert!(shown_text.contains("out-42 0"), "{shell}: {shown_text}");
        assert!(!shown_text.contains("Cannot set tty"), "{shell}: {shown_text}");
        fs::remove_file(&shown).unwrap();
    }
}
