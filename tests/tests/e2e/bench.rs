//! The bench at a scale that takes a moment: it runs, prints its rows, and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lab_tests::programs::helper;
use lab_tests::run::{Ran, run, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Beside the helper, as all our programs are.
fn program() -> PathBuf {
    helper().with_file_name("lab-bench")
}

fn bench(scratch: &Path, words: &str) -> Ran {
    let mut command = Command::new(program());
    command.args(words.split(' ')).env("TMPDIR", scratch);
    run(
        command,
        format!("lab-bench {words}"),
        b"",
        Duration::from_secs(240),
    )
}

fn empty(scratch: &TempDir) -> bool {
    fs::read_dir(scratch.path()).unwrap().next().is_none()
}

#[test]
fn a_small_sync_has_a_row_in_each_table() {
    let scratch = tempfile::tempdir().unwrap();
    let words = "sync --scales 10x3 --flavours nft --runs 1";
    let ran = bench(scratch.path(), words);
    // Whether the aims are met is for a machine that has nothing else to do.
    assert!([0, 1].contains(&ran.code()), "{ran}");
    let rows = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with("    10x3 nft "))
        .count();
    assert_eq!(rows, 3, "{ran}");
    assert!(ran.stdout.contains("\n      10 nft "), "{ran}");
    let ran = bench(
        scratch.path(),
        &format!("{words} --part first,change --flavours legacy -o json"),
    );
    let rows = ran.json();
    assert!(rows["first"][0]["sync"]["peak"].as_f64() > Some(1.0), "{ran}");
    assert!(rows["first"][0]["restore"].is_f64(), "{ran}");
    let change = &rows["change"][0];
    for kind in change["changes"].as_array().unwrap() {
        assert!(kind["ms"].is_f64() && kind["floor"].is_f64(), "{ran}");
    }
    assert_eq!(change["wrong"].as_array().map(Vec::len), Some(0), "{ran}");
    assert!(change["burst"]["worst"].is_f64(), "{ran}");
    assert!(
        empty(&scratch),
        "something is left in {}",
        scratch.path().display()
    );
}

#[test]
fn words_it_does_not_know_are_wrong_usage() {
    let scratch = tempfile::tempdir().unwrap();
    bench(scratch.path(), "sync --scales 3")
        .exits(2)
        .complains("Usage: scripts/bench sync");
    bench(scratch.path(), "down").exits(2).complains("up|sync");
    bench(scratch.path(), "sync --help").ok().says("--whole");
    bench(scratch.path(), "up --help").ok().says("--sizes");
}

#[test]
fn ctrl_c_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let mut child = Command::new(program())
        .args([
            "sync",
            "--scales",
            "300x3",
            "--flavours",
            "nft",
            "--part",
            "change",
        ])
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !watches(&scratch) {
        assert!(Instant::now() < end, "the watcher never started");
        thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = wait(&mut child, Instant::now() + Duration::from_secs(20)).expect("it ends");
    assert_eq!(status.code(), Some(130));
    let end = Instant::now() + Duration::from_secs(20);
    while watches(&scratch) {
        assert!(Instant::now() < end, "the watcher still runs");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(
        empty(&scratch),
        "something is left in {}",
        scratch.path().display()
    );
}

/// Whether a process follows a registry of this bench.
fn watches(scratch: &TempDir) -> bool {
    let scratch = scratch.path().to_str().unwrap();
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        fs::read(process.path().join("cmdline")).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("sync --watch") && line.contains(scratch)
        })
    })
}
