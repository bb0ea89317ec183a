use labkit::screen::{Look, print};

use super::*;
use crate::talk::read;

const TALK: &str = r#"
## 1. The virtual IP exists nowhere
> predict: who has it?
```sh run hidden
true
```
```sh run fails expect="connect" in=web-1
curl 10.96.0.10
```
## 2. One rule makes it exist
> predict: Will curl work now? Will ping work? And why should anybody who does not know the answer yet believe it?
```sh run keep expect="web-1"
iptables -t nat -A PREROUTING -d 10.96.0.10 -p tcp --dport 80 -j DNAT --to 10.244.1.3:8080
curl -s 10.96.0.10
```
```sh run screen
miniproxy watch
```
## 3. Last
```sh run
true
```
"#;

fn stage() -> Stage {
    let mut stage = Stage::new(read::script(TALK).unwrap(), 1, true);
    // The hidden command of the first step.
    assert_eq!(stage.cue().unwrap().1, "true");
    stage.ended("hidden words", End::Code(0));
    stage
}

fn keys(stage: &mut Stage, text: &str) -> Vec<Act> {
    let key = |letter| {
        if letter == '\n' {
            Key::Enter
        } else {
            Key::Char(letter)
        }
    };
    text.chars().map(|letter| stage.press(key(letter))).collect()
}

fn picture(stage: &Stage, look: &Look) -> String {
    let page = stage.page(look);
    print::to_string(&page.draw(look, 0), look)
}

#[test]
fn any_key_types_and_enter_runs() {
    let mut stage = stage();
    assert_eq!(keys(&mut stage, "asqnp!"), [Act::Draw; 6]);
    assert_eq!(stage.typed, 15);
    assert_eq!(keys(&mut stage, "\n"), [Act::Start]);
    assert_eq!(keys(&mut stage, "q\nn"), [Act::Nothing; 3], "typed ahead");
    stage.said("curl: cannot conn");
    stage.ended("curl: cannot connect\n", End::Code(7));
    assert!(stage.complete && stage.phase == Phase::Told);
    assert!(picture(&stage, &Look::sized(80, 24)).contains("it fails, as it should"));
    assert_eq!(keys(&mut stage, "\n"), [Act::Next]);
}

#[test]
fn an_expected_failure_that_does_not_fail_is_wrong_and_the_next_step_is_made_anew() {
    let mut stage = stage();
    keys(&mut stage, "\n\n");
    stage.ended("web-1\n", End::Code(0));
    assert!(!stage.complete);
    assert_eq!(keys(&mut stage, "n"), [Act::GoTo(2)]);
    assert_eq!(keys(&mut stage, "br"), [Act::GoTo(1), Act::Play]);
}

#[test]
fn jumps_and_orders() {
    let mut stage = stage();
    assert_eq!(keys(&mut stage, "3g"), [Act::Draw, Act::GoTo(3)]);
    assert_eq!(keys(&mut stage, "9g"), [Act::Draw, Act::Draw]);
    assert_eq!(keys(&mut stage, "p!q"), [Act::GoTo(1), Act::Shell, Act::Quit]);
    assert_eq!(keys(&mut stage, "s"), [Act::Draw]);
    assert_eq!(keys(&mut stage, "n"), [Act::GoTo(2)], "something was left out");
    stage.begin(2);
    assert_eq!(keys(&mut stage, "f"), [Act::Start]);
    assert_eq!(stage.ended("", End::Code(0)), Act::Start, "without another key");
    assert_eq!(stage.ended("web-1 sees you\n", End::Code(0)), Act::Start);
    assert_eq!(stage.was_elsewhere(), Act::Draw);
    assert_eq!(keys(&mut stage, "n"), [Act::Next]);
    assert_eq!(stage.notes().then.as_deref(), Some("Last"));
    stage.begin(3);
    keys(&mut stage, "\n\n");
    stage.ended("", End::Code(0));
    assert_eq!(keys(&mut stage, "n"), [Act::Nothing]);
}

#[test]
fn a_recording_takes_the_place_of_a_step() {
    let mut stage = stage();
    stage.played("# 1. One\n$ ip");
    stage.played("# 1. One\n$ ip a\n");
    let text = picture(&stage, &Look::sized(60, 12).ascii());
    assert!(text.contains("(recorded)") && text.is_ascii(), "{text}");
    assert_eq!(stage.press(Key::Escape), Act::Stop);
    stage.play_ended();
    assert_eq!(keys(&mut stage, "n"), [Act::GoTo(2)]);
}

#[test]
fn the_letter_that_the_command_begins_with_types_it() {
    let mut stage = Stage::new(
        read::script("## 1. A\n```sh run\nnetns-lab up\n```\n## 2. B\n```sh run\nx\n```\n").unwrap(),
        1,
        false,
    );
    assert_eq!(keys(&mut stage, "n"), [Act::Draw]);
    assert!(stage.typed > 0);
    assert_eq!(stage.press(Key::Tab), Act::GoTo(2), "Tab never types");
}

#[test]
fn a_command_that_is_stopped_is_no_failure() {
    let mut stage = stage();
    keys(&mut stage, "\n\n");
    assert_eq!(stage.press(Key::Escape), Act::Stop);
    stage.ended("", End::Code(143));
    let text = picture(&stage, &Look::sized(80, 24));
    assert!(text.contains("stopped") && !text.contains("expected"), "{text}");
}

#[test]
fn a_rule_is_told_as_long_as_it_is_there() {
    let rule = "iptables -t nat -A KUBE -p tcp \\\n -j DNAT";
    assert_eq!(rule_after(rule).as_deref(), Some(" -A KUBE -p tcp -j DNAT"));
    assert_eq!(rule_after("iptables -t nat -F PREROUTING").as_deref(), Some(""));
    assert_eq!(
        rule_after("iptables-save | sed s/a/b/ | iptables-restore").as_deref(),
        Some("")
    );
    assert_eq!(rule_after("miniproxy sync").as_deref(), Some(""));
    assert_eq!(rule_after("curl 10.96.0.10"), None);
    assert_eq!(rule_after("iptables -t nat -S"), None);
}

fn in_the_middle() -> Stage {
    let mut stage = stage();
    stage.begin(2);
    stage.clock(Duration::from_secs(760));
    keys(&mut stage, "\n\n");
    stage.ended("", End::Code(0));
    keys(&mut stage, "\n\n");
    stage.ended("web-1 (10.244.1.3) sees you as 10.244.1.2:51848\n", End::Code(0));
    keys(&mut stage, "  ");
    stage
}

#[test]
fn the_screen_at_each_size() {
    let stage = in_the_middle();
    for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
        let look = Look::sized(width, height);
        insta::assert_snapshot!(format!("stage_{width}x{height}"), picture(&stage, &look));
    }
    let look = Look::sized(80, 24).ascii();
    let text = picture(&stage, &look);
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!("stage_ascii", text);
}

#[test]
fn what_has_left_the_screen_can_be_seen_again() {
    let mut stage = stage();
    keys(&mut stage, "\n\n");
    let long: Vec<_> = (1..=60).map(|line| format!("line {line}")).collect();
    stage.ended(&long.join("\n"), End::Code(7));
    let look = Look::sized(80, 24);
    assert!(!picture(&stage, &look).contains("line 3\n"));
    for _ in 0..9 {
        stage.press(Key::PageUp);
    }
    assert!(
        picture(&stage, &look).contains("curl 10.96.0.10"),
        "{}",
        picture(&stage, &look)
    );
}

#[test]
fn the_keys_are_told() {
    let mut stage = stage();
    keys(&mut stage, "?");
    insta::assert_snapshot!("stage_keys", picture(&stage, &Look::sized(80, 24)));
    assert_eq!(keys(&mut stage, "q"), [Act::Draw], "any key comes back");
}

#[test]
fn the_notes() {
    let mut script = read::script(TALK).unwrap();
    script.steps[1]
        .notes
        .push("Say: nothing was created, a packet was edited.".into());
    let mut stage = Stage::new(script, 2, false);
    stage.clock(Duration::from_secs(65));
    let look = Look::sized(80, 24);
    let page = stage.notes().page(&look);
    insta::assert_snapshot!("notes", print::to_string(&page.draw(&look, 0), &look));
    insta::assert_snapshot!("notes_plain", stage.notes().plain());
}
