//! Every text a person can see without root, as a snapshot.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_match_else,
    clippy::format_collect,
    reason = "a test fails by panicking, and has no callers"
)]

use std::process::{Command, Output};

const REGISTRY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/lab.json");

fn miniproxy(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_miniproxy");
    Command::new(program)
        .args(args)
        .env("COLUMNS", "80")
        .env("NO_COLOR", "1")
        .output()
        .expect("the program runs")
}

/// What was printed, with the exit code, and without the machine's own paths.
fn screen(args: &[&str]) -> String {
    let output = miniproxy(args);
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(env!("CARGO_MANIFEST_DIR"), "");
        text.lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect::<String>()
    };
    format!(
        "{}{}exit code {}\n",
        text(&output.stdout),
        text(&output.stderr),
        output.status.code().unwrap_or(-1)
    )
}

#[test]
fn help_fits_80_columns_and_has_examples() {
    for command in [
        &["--help"][..],
        &["sync", "--help"],
        &["render", "--help"],
        &["check", "--help"],
        &["diff", "--help"],
        &["explain", "--help"],
        &["graph", "--help"],
        &["cleanup", "--help"],
    ] {
        let text = screen(command);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{command:?}: {line}");
        }
        insta::assert_snapshot!(format!("help-{}", command[0].trim_start_matches('-')), text);
    }
}

#[test]
fn render_of_both_families() {
    insta::assert_snapshot!("render-4", screen(&["render", "--registry", REGISTRY]));
    insta::assert_snapshot!(
        "render-6",
        screen(&["render", "--registry", REGISTRY, "--family", "6"])
    );
}

#[test]
fn check_says_what_is_there() {
    insta::assert_snapshot!("check-good", screen(&["check", "--registry", REGISTRY]));
}

/// A restore document as a node would show it: what was inserted last stands first.
fn as_saved(render: &str) -> String {
    let mut saved = String::new();
    let mut jumps: Vec<&str> = Vec::new();
    for line in render.lines() {
        if let Some(jump) = line.strip_prefix("-I ") {
            jumps.insert(0, jump);
        } else {
            for jump in jumps.drain(..) {
                saved.push_str(&format!("-A {jump}\n"));
            }
            saved.push_str(&format!("{line}\n"));
        }
    }
    saved
}

#[test]
fn diff_tells_which_service_and_which_rule() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("node.save");
    let render = String::from_utf8(miniproxy(&["render", "--registry", REGISTRY]).stdout).unwrap();
    let saved = as_saved(&render).replacen("--probability 0.5000000000", "--probability 0.3333333333", 1);
    std::fs::write(&dump, &saved).unwrap();
    let text = screen(&["diff", dump.to_str().unwrap(), "--registry", REGISTRY]);
    insta::assert_snapshot!("diff-one-rule", text);
    let same = screen(&["diff", dump.to_str().unwrap(), dump.to_str().unwrap()]);
    assert!(
        same.contains("the same") && same.ends_with("exit code 0\n"),
        "{same}"
    );
}

#[test]
fn unreadable_input_is_exit_code_2_and_says_what_was_expected() {
    let missing = screen(&["check", "--registry", "/nowhere/registry"]);
    insta::assert_snapshot!("missing-registry", missing);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.json");
    std::fs::write(&file, "{\n  \"apiVersion\": \"v1\",\n  \"kind\": \"Service\",\n").unwrap();
    let text =
        screen(&["check", "--registry", file.to_str().unwrap()]).replace(file.to_str().unwrap(), "web.json");
    insta::assert_snapshot!("half-a-file", text);
}

#[test]
fn a_closed_pipe_is_success() {
    let program = env!("CARGO_BIN_EXE_miniproxy");
    let script = format!(
        "set -o pipefail; {program} render --registry {REGISTRY} | head -n 1; exit ${{PIPESTATUS[0]}}"
    );
    assert!(
        Command::new("bash")
            .args(["-c", &script])
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn completions_and_the_man_page_come_from_the_same_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(screen(&["completions", shell]).contains("dry-run"), "{shell}");
    }
    assert!(screen(&["man"]).contains("miniproxy\\-sync"));
}

/// Rules as `render` prints them are rules, too: no kernel and no root.
#[test]
fn rules_are_explained_from_stdin() {
    use std::io::Write as _;

    let rules = miniproxy(&["render", "--registry", REGISTRY]).stdout;
    let mut child = Command::new(env!("CARGO_BIN_EXE_miniproxy"))
        .args(["explain", "web:http", "--rules", "-", "-o", "json"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    child.stdin.take().unwrap().write_all(&rules).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(
        (&report["schema"], &report["kind"], &report["verdict"]),
        (&1.into(), &"explain".into(), &"dnat".into())
    );
    assert_eq!(report["backends"].as_array().unwrap().len(), 2);
    assert_eq!(report["masquerade"], false);
}

#[test]
fn what_is_no_dump_is_refused_with_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let listed = folder.path().join("listed");
    std::fs::write(
        &listed,
        "Chain PREROUTING (policy ACCEPT)\ntarget     prot opt source               destination\n",
    )
    .unwrap();
    let output = miniproxy(&["explain", "10.96.0.80:80", "--rules", listed.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("iptables-save"), "{words}");
}

#[test]
fn one_refused_object_leaves_the_others_to_render_and_diff() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let service = |name: &str, ip: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"{ip}","ports":[{{"port":80}}]}}}}"#
        )
    };
    std::fs::write(path("good.json"), service("good", "10.96.0.80")).unwrap();
    let all = ["render", "--registry", &path("")];
    let output = miniproxy(&all);
    assert_eq!(output.status.code(), Some(0));
    std::fs::write(path("bad.json"), service("bad", "10.96.0.300")).unwrap();
    let refused = miniproxy(&all);
    assert_eq!(
        (refused.status.code(), &refused.stdout),
        (Some(2), &output.stdout)
    );
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        words.contains("1 object refused") && words.contains("default/bad"),
        "{words}"
    );
    let strict = miniproxy(&["render", "--strict", "--registry", &path("")]);
    assert_eq!((strict.status.code(), strict.stdout.len()), (Some(2), 0));
    // What is refused keeps its rules, wherever they came from.
    std::fs::write(path("bad.json"), service("bad", "10.96.0.81")).unwrap();
    let rules = String::from_utf8(miniproxy(&all).stdout).unwrap();
    assert!(rules.contains("default/bad"), "{rules}");
    // A dump has no insertions; without those the jumps are missing, which is told of no Service.
    let lines = rules.lines().filter(|line| !line.starts_with("-I "));
    let dump: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(path("kernel.txt"), dump).unwrap();
    std::fs::write(path("bad.json"), service("bad", "10.96.0.300")).unwrap();
    let diff = miniproxy(&["diff", &path("kernel.txt"), "--registry", &path("")]);
    let told = String::from_utf8_lossy(&diff.stdout).into_owned();
    let words = String::from_utf8_lossy(&diff.stderr).into_owned();
    assert_eq!(diff.status.code(), Some(2), "{told}{words}");
    assert!(
        words.contains("default/bad") && !told.contains("default/bad"),
        "{told}{words}"
    );
}
