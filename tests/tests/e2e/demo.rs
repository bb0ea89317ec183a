//! The first of the README's two commands.

use std::process::{Command, Stdio};

use lab_tests::programs::repository;

/// It builds what is built already, makes a sandbox of its own, and checks each of its steps itself.
#[test]
fn the_demo_plays_to_its_end_and_leaves_nothing() {
    let output = Command::new(repository().join("scripts/demo"))
        .args(["--yes", "--fast"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("scripts/demo runs");
    let (shown, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{shown}\n{said}", output.status);
    for step in 1..=6 {
        assert!(
            shown.contains(&format!("\n== {step}. ")),
            "step {step} is missing:\n{shown}"
        );
    }
    assert!(shown.contains("-> 2 endpoints (-10.244.0.3:8080)"), "{shown}");
    // What a command says while it works goes to stderr.
    assert!(
        format!("{shown}{said}").contains("3 pods removed, nothing left"),
        "{said}"
    );
}
