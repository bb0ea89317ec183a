//! Golden drawings.

use super::*;
use crate::explain::tests::{DICE, OBVIOUS, report};

#[test]
fn a_service_is_drawn_in_every_format() {
    let report = report(DICE, "default/web", None);
    insta::assert_snapshot!("text", text(&report, &Look::default()));
    insta::assert_snapshot!("ascii", text(&report, &Look::default().ascii()));
    insta::assert_snapshot!("mermaid", mermaid(&report));
    insta::assert_snapshot!("dot", dot(&report));
    insta::assert_snapshot!("svg", svg(&report));
}

#[test]
fn what_is_lost_is_drawn_too() {
    let report = report(OBVIOUS, "default/web", None);
    for drawing in [
        text(&report, &Look::default()),
        mermaid(&report),
        dot(&report),
        svg(&report),
    ] {
        assert!(drawing.contains("LOST 29.6%"), "{drawing}");
    }
}

#[test]
fn a_picture_fetches_nothing_and_says_what_it_is() {
    let picture = svg(&report(DICE, "default/web", None));
    assert!(picture.contains("role=\"img\"") && picture.contains("<title"));
    assert_eq!(picture.matches("http").count(), 1, "only the name of the format");
    assert!(!picture.contains("href"));
}

#[test]
fn names_from_a_dump_cannot_break_out() {
    let hostile = DICE.replace("default/web", "default/<b>\\\"x]");
    let report = report(&hostile, "10.96.0.80:80", None);
    let picture = svg(&report);
    assert!(!picture.contains("<b>"), "{picture}");
    assert!(!mermaid(&report).contains("<b>"));
}
