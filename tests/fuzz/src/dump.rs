//! Bytes as a dump.

use miniproxy::report::changes::changes;
use miniproxy::report::difference::{Sides, compare};
use miniproxy::rules::delta::Delta;
use miniproxy::rules::parse::parse;
use miniproxy::rules::set::Found;
use miniproxy::rules::view;

use crate::document::dump_of;

const SIDES: Sides<'static> = Sides {
    left: "one",
    right: "other",
};

/// The output of `iptables-save`.
///
/// # Panics
/// When it is read otherwise after a way to text and back, when it differs from itself, or when a
/// sentence about it holds a character that a terminal obeys.
pub fn dump(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(found) = parse(&text) else {
        return;
    };
    let plain = !text
        .chars()
        .any(|character| character.is_control() && character != '\n');
    assert_survives(&found, plain);
    assert_told(&found);
    match Delta::removal(&found) {
        Ok(removal) => assert_removes_only_ours(&removal.document()),
        Err(foreign) => assert!(!foreign.is_empty()),
    }
}

/// Control characters are written as blanks, so the first way may change those; a second one nothing.
fn assert_survives(found: &Found, plain: bool) {
    let text = dump_of(found);
    let read = again(&text);
    if plain {
        assert!(
            *found == read,
            "read otherwise:\n{text}\nthen:\n{}",
            dump_of(&read)
        );
    }
    assert!(again(&dump_of(&read)) == read, "read otherwise:\n{text}");
}

fn again(text: &str) -> Found {
    parse(text).unwrap_or_else(|error| panic!("{error} of our own\n{text}"))
}

fn assert_told(found: &Found) {
    let same = compare(found, found, SIDES);
    assert!(same.is_empty(), "differs from itself: {same:?}");
    let nothing = Found::default();
    for finding in compare(found, &nothing, SIDES) {
        let text = finding.text();
        assert!(
            !text
                .chars()
                .any(|character| character.is_control() && character != '\n'),
            "{text:?}"
        );
    }
    let (before, after) = (view::services(found), view::services(&nothing));
    for change in changes(&before, after.clone())
        .into_iter()
        .chain(changes(&after, before.clone()))
    {
        let line = change.line();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

fn assert_removes_only_ours(document: &str) {
    for line in document.lines() {
        let ours = match line.split_once(' ') {
            Some(("-X", chain)) => chain.starts_with("KUBE-"),
            Some(("-D", rule)) => rule.contains(" -j KUBE-"),
            Some((chain, "- [0:0]")) => chain.starts_with(":KUBE-"),
            _ => line == "COMMIT" || line.starts_with('*'),
        };
        assert!(ours, "{line:?}");
    }
}
