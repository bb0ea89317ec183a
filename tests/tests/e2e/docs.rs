//! Every command that the documentation shows is run.

use std::fs;
use std::time::Duration;

use lab_tests::docs::{Block, blocks};
use lab_tests::machine::Machine;
use lab_tests::programs::repository;
use nix::sys::signal::Signal;

/// README, and all that lies in `docs/`.
fn documents() -> Vec<(String, String)> {
    let root = repository();
    let mut paths = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    let mut more: Vec<_> = fs::read_dir(root.join("docs"))
        .expect("docs/")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .collect();
    more.sort();
    paths.append(&mut more);
    paths
        .into_iter()
        .map(|path| {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (
                path.file_name().expect("a file").to_string_lossy().into_owned(),
                text,
            )
        })
        .collect()
}

/// A machine whose `/tmp` looks like the host's and keeps what the commands write to itself.
fn machine() -> Machine {
    let machine = Machine::builder().uplink().start();
    machine
        .sh(
            "mkdir -p /run/tmp/upper /run/tmp/work; chmod 1777 /run/tmp/upper; \
             mount -t overlay -o lowerdir=/tmp,upperdir=/run/tmp/upper,workdir=/run/tmp/work overlay /tmp",
        )
        .ok();
    machine
}

fn run_block(document: &str, block: &Block, machine: &Machine) {
    let root = repository();
    let root = root.to_str().expect("a path in UTF-8");
    let place = format!("{document}:{}", block.line);
    for setup in &block.setup {
        machine.run(["env", "-C", root, "sh", "-euc", setup]).ok();
    }
    for command in &block.commands {
        let argv = ["env", "-C", root, "sh", "-euc", &command.text];
        if block.interrupt {
            // Not every shell replaces itself by its only command, and the signal is for that.
            let text = format!("exec {}", command.text);
            let running = machine.command(["env", "-C", root, "sh", "-euc", &text]).start();
            std::thread::sleep(Duration::from_secs(1));
            assert_eq!(running.stop(Signal::SIGINT), 0, "{place}: {}", command.text);
            continue;
        }
        let ran = machine.command(argv).patience(Duration::from_secs(300)).run();
        assert!(
            block.exits.contains(&ran.code()),
            "{place}: exit code {}\n{ran}",
            ran.code()
        );
        if block.check_output {
            let missing = command.missing_from(&format!("{}{}", ran.stdout, ran.stderr));
            assert!(
                missing.is_empty(),
                "{place}: the output lacks {missing:#?}\n{ran}"
            );
        }
    }
}

#[test]
fn every_command_in_the_documentation_runs() {
    let mut ran = 0;
    for (document, text) in documents() {
        let mut machine = None;
        for block in blocks(&text).unwrap_or_else(|problem| panic!("{document}: {problem}")) {
            if block.skip.is_some() {
                continue;
            }
            if !block.goes_on || machine.is_none() {
                machine = Some(self::machine());
            }
            run_block(&document, &block, machine.as_ref().expect("just made"));
            ran += block.commands.len();
        }
    }
    assert!(
        ran >= 5,
        "the documentation shows {ran} commands; are they in ```console blocks?"
    );
    eprintln!("{ran} commands");
}
