use proptest::prelude::*;

use super::*;

const TALK: &str = r#"---
lab: 3-pods --pod-cidr 10.244.1.0/24
---
# A Service is just a rule

Words for readers, with `code`.

```sh run hidden
true
```

## 1. One rule makes it exist
> predict: will curl work?
> will ping work?

Nobody owns the address.

- a list

<!-- hint: curl -s 10.96.0.10 -->
```sh run expect="sees you as 10\.244\.1\.2" in=client keep
iptables -t nat -A PREROUTING \
  -d 10.96.0.10 -j DNAT --to 10.244.1.3:8080
curl -s 10.96.0.10
```
```sh run fails expect="Unreachable"
ping -c1 -W1 10.96.0.10
```
<!-- hint: ping it -->
<!-- note: say "a packet
was edited" -->

```console
$ only shown
```

## 2. Next
~~~bash run background=proxy
miniproxy sync --watch
~~~

## What else
Not in a step.
"#;

#[test]
fn a_talk_is_read_as_it_is_written() {
    insta::assert_json_snapshot!(script(TALK).unwrap());
}

#[test]
fn a_jump_runs_what_is_kept() {
    let script = script(TALK).unwrap();
    let lines = |number| script.way_to(number).map(|run| run.line).collect::<Vec<_>>();
    assert_eq!(lines(1), [8]);
    assert_eq!(lines(2), [8, 21]);
    assert_eq!(lines(3), [8, 21, 38]);
}

#[test]
fn what_is_stopped_before_a_step_is_not_started_on_the_way_to_it() {
    let text =
        "## 1. A\n```sh run background=p\nx\n```\n```sh run stop=p\ny\n```\n## 2. B\n```sh run\nz\n```\n";
    assert_eq!(script(text).unwrap().way_to(2).count(), 0);
}

#[test]
fn words_are_told_where_they_stand() {
    let text = "\u{feff}## 1. A\nfirst\n```sh run\nx\n```\n<!-- task: do x -->\nlast\n";
    let script = script(text).unwrap();
    let told = |run| script.steps[0].told_before(run).cloned().collect::<Vec<_>>();
    assert_eq!(
        (told(0), told(1)),
        (vec!["first".to_string()], vec!["last".to_string()])
    );
    assert_eq!(script.steps[0].runs[0].tasks, ["do x"]);
}

#[test]
fn a_mistake_is_told_once() {
    let what = |text| {
        script(text)
            .unwrap_err()
            .into_iter()
            .map(|fault| fault.line)
            .collect::<Vec<_>>()
    };
    assert_eq!(what("## 1. A\n```sh run stop=p\nx\n```\n"), [2]);
    assert_eq!(what("## 1. A\n```sh run expcet=a\nx\n```\n"), [2]);
    assert_eq!(what("## 1. A\n```sh run\nx\n\n## 2. B\n"), [2]);
}

#[test]
fn each_mistake_has_its_line() {
    let text = "---\nlab: 3-pods\nlib: x\n---\n# T\n\n## 2. A\n\n```sh run expect=\"(\"\nx\n```\n\n```sh run\n```\n\n## Else\n\n```sh run\nx\n```\n\n<!-- note: lost -->\n\n## 2. B\n";
    let faults = script(text).unwrap_err();
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join(
        "
"
    ));
    assert!(script("words").unwrap_err()[0].what.contains("no step"));
}

proptest! {
    #[test]
    fn nothing_panics(text in "(?s)[ -~\n`#>äß<-]{0,400}", cut in 0..TALK.len()) {
        let _ = script(&text);
        let _ = script(&format!("{}{text}", &TALK[..cut]));
    }
}
