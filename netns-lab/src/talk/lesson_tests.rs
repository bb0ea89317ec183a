use labkit::screen::print;

use super::*;
use crate::talk::read;

const TALK: &str = r#"
## 1. One rule makes it exist
> predict: will curl work?

Write the rule, then call.
```sh run hidden
true
```
```sh run keep expect="web-1"
iptables -t nat -A PREROUTING -j DNAT
curl -s 10.96.0.10
```
<!-- hint: a rule, then curl -->
```sh run fails
ping -c1 10.96.0.10
```
## 2. Last
```sh run
ip 'a'
```
"#;

fn lesson() -> Lesson {
    let mut lesson = Lesson::new(read::script(TALK).unwrap());
    assert_eq!(lesson.begin(1), Ask::Run("true".into()));
    assert_eq!(lesson.ended("", End::Code(0)), Ask::Draw);
    lesson
}

fn tries(lesson: &mut Lesson, line: &str, says: &str, code: u8) -> String {
    makes(lesson, line, says, code, Made::Unknown)
}

/// The last word on a try, which makes this of the machine.
fn makes(lesson: &mut Lesson, line: &str, says: &str, code: u8, made: Made) -> String {
    let said = lesson.board().entries.len();
    assert_eq!(lesson.line(line), Ask::Run(line.into()));
    if lesson.ended(says, End::Code(code)) == Ask::Compare {
        lesson.compared(made, made == Made::Other);
    }
    let words = lesson.board().entries[said..].iter().map(Entry::plain);
    // The command and what it said are known.
    words.skip(1 + usize::from(!says.is_empty())).collect()
}

#[test]
fn whatever_shows_what_must_be_seen_is_right() {
    let mut lesson = lesson();
    // Another rule than the talk's own: it is no miss, and the machine decides.
    let rule = "iptables -t nat -I PREROUTING -j DNAT";
    assert_eq!(makes(&mut lesson, rule, "", 0, Made::Other), "");
    let right = makes(&mut lesson, "wget -qO- 10.96.0.10", "web-1\n", 0, Made::Same);
    assert!(right.starts_with("right: right\n"), "{right}");
    assert!(right.contains("Your turn"), "{right}");
    assert!(tries(&mut lesson, "ping -c1 10.96.0.11", "", 1).contains("fails, as it should"));
    assert_eq!(lesson.line(""), Ask::GoTo(2));
    lesson.begin(2);
    assert!(
        tries(&mut lesson, "true", "", 0).starts_with("wrong"),
        "anything succeeds"
    );
    assert_eq!(tries(&mut lesson, "ip a", "", 0), "right: right\n");
    assert!(lesson.is_over());
    assert_eq!(lesson.line(""), Ask::Quit);
}

#[test]
fn two_misses_bring_a_hint_and_three_the_command() {
    let mut lesson = lesson();
    let first = tries(&mut lesson, "curl x", "no\n", 0);
    assert_eq!(first, "wrong: that does not show it yet\n");
    let second = tries(&mut lesson, "curl x", "no\n", 0);
    assert!(second.contains("`web-1` should be in what it says"), "{second}");
    assert!(second.ends_with("hint: a rule, then curl\n"), "{second}");
    assert!(tries(&mut lesson, "curl y", "no\n", 7).contains("curl -s 10.96.0.10"));
}

#[test]
fn a_try_that_changes_the_machine_is_told_and_counts_on() {
    let mut lesson = lesson();
    let wrong = makes(&mut lesson, "ip link del cni0", "", 0, Made::Other);
    assert!(wrong.contains("`again` makes the step anew"), "{wrong}");
    makes(
        &mut lesson,
        "iptables -t nat -A PREROUTING -j DNAT",
        "",
        0,
        Made::Other,
    );
    let words = makes(&mut lesson, "curl -s 10.96.0.10", "web-1\n", 0, Made::Other);
    assert!(
        words.starts_with("wrong: that does not do all of it yet"),
        "{words}"
    );
}

#[test]
fn only_the_last_try_counts() {
    let talk = "## 1. A\n```sh run absent=\"old\" expect=new\nx\n```\n";
    let mut lesson = Lesson::new(read::script(talk).unwrap());
    lesson.begin(1);
    assert!(tries(&mut lesson, "y", "old new\n", 0).starts_with("wrong"));
    assert!(tries(&mut lesson, "z", "n\n", 0).starts_with("wrong"));
    assert!(tries(&mut lesson, "z", "new\n", 0).starts_with("right"));
}

#[test]
fn a_command_that_is_nowhere_is_not_the_failure_that_is_meant() {
    let mut lesson = lesson();
    makes(&mut lesson, "curl", "web-1", 0, Made::Same);
    assert!(tries(&mut lesson, "ping", "", 127).starts_with("wrong: there is no such command"));
}

#[test]
fn words_in_place_of_commands() {
    let mut lesson = lesson();
    assert_eq!(lesson.line("again"), Ask::GoTo(1));
    assert_eq!(lesson.line("skip"), Ask::GoTo(2));
    assert_eq!(lesson.line("quit"), Ask::Quit);
    lesson.begin(2);
    lesson.line("show");
    assert!(
        lesson
            .board()
            .entries
            .last()
            .unwrap()
            .plain()
            .contains("type this")
    );
    assert_eq!(
        lesson.line("skip"),
        Ask::Draw,
        "behind the last step there is none"
    );
    assert!(lesson.is_over());
}

#[test]
fn the_screen_at_each_size() {
    let mut lesson = lesson();
    tries(&mut lesson, "curl x", "curl: (7) Failed to connect\n", 7);
    for letter in "curl".chars() {
        lesson.press(Key::Char(letter));
    }
    lesson.press(Key::Backspace);
    for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
        let look = Look::sized(width, height);
        let text = print::to_string(&lesson.page(&look).draw(&look, 0), &look);
        insta::assert_snapshot!(format!("lesson_{width}x{height}"), text);
    }
}
