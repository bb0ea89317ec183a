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
fn each_mistake_has_its_line() {
    let text = "---\nlab: 3-pods\nlib: x\n---\n# T\n\n## 2. A\n\n```sh run expect=\"(\"\nx\n```\n\n```sh run\n```\n\n## Else\n\n```sh run\nx\n```\n\n<!-- note: lost -->\n\n## 2. B\n";
    let faults = script(text).unwrap_err();
    insta::assert_snapshot!(faults.iter().map(|fault| format!("{fault}\n")).collect::<String>());
    assert!(script("words").unwrap_err()[0].what.contains("no step"));
}

proptest! {
    #[test]
    fn nothing_panics(text in "(?s)[ -~\n`#>äß<-]{0,400}", cut in 0..TALK.len()) {
        let _ = script(&text);
        let _ = script(&format!("{}{text}", &TALK[..cut]));
    }
}
