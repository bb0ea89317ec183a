//! The talks that come with the programs show what they say.

use std::process::{Command, Stdio};

use lab_tests::programs::{netns_lab, repository};

fn check(name: &str, steps: usize) {
    let talk = repository().join("docs/talk").join(name);
    let output = Command::new(netns_lab())
        .arg("check")
        .arg(talk)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("netns-lab starts");
    let (shown, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{shown}\n{said}", output.status);
    let told = shown.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(told, steps, "{shown}");
}

#[test]
fn the_talk_shows_what_it_says() {
    check("talk.md", 12);
}

/// The README's picture, which `scripts/record` draws out of this.
#[test]
fn the_three_screens_show_what_they_say() {
    check("screens.md", 3);
}

#[test]
fn the_lightning_talk_shows_what_it_says() {
    check("lightning.md", 3);
}

#[test]
fn the_encores_show_what_they_say() {
    check("encores.md", 7);
}
