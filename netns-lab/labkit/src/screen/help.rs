//! What keys mean, on any screen that has no help of its own.

use super::look::{Look, Role};
use super::page::{ARROWS, Page};
use super::{Line, Sign};

const KEY: &str = "?";

/// Names the key on a page that does not do so itself, before the one that ends it.
pub(super) fn offer(page: &mut Page) {
    let has = |name: &str| page.keys.iter().position(|(key, _)| key == name);
    // Where `q` ends nothing, letters are typed.
    if let (None, Some(place)) = (has(KEY), has("q")) {
        page.keys.insert(place, (KEY.to_string(), "help".to_string()));
    }
}

/// The keys of a page, one a line.
pub(super) fn page(shown: &Page, look: &Look) -> Page {
    let chooses = shown.keys.iter().any(|(key, _)| key == ARROWS);
    let scroll = (!chooses).then(|| {
        (
            look.sign(Sign::UpDown).to_string(),
            "a line up or down".to_string(),
        )
    });
    let common = [
        ("PgUp PgDn", "a page up or down"),
        ("q, Esc", "leave the screen"),
        ("Ctrl-C", "end at once"),
    ];
    let common = common.map(|(key, word)| (key.to_string(), word.to_string()));
    let own = shown
        .keys
        .iter()
        .filter(|(key, _)| key != "q" && key != KEY)
        .cloned();
    let lines = own.chain(scroll).chain(common).map(|(key, word)| {
        Line::from(vec![
            look.text(Role::Strong, format!("  {key:<12}")),
            look.text(Role::Plain, word),
        ])
    });
    Page {
        title: shown.title.clone(),
        state: "help ".to_string(),
        body: lines.collect(),
        rule: shown.rule.clone(),
        keys: vec![("any key".to_string(), "back".to_string())],
        focus: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::print;

    #[test]
    fn each_key_of_a_screen_is_told() {
        let keys = [(ARROWS, "rule"), ("f", "freeze"), ("q", "quit")];
        let mut shown = Page {
            title: Line::from(" WATCH svc/web"),
            keys: keys
                .map(|(key, word)| (key.to_string(), word.to_string()))
                .to_vec(),
            ..Page::default()
        };
        offer(&mut shown);
        offer(&mut shown);
        let keys: Vec<&str> = shown.keys.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, [ARROWS, "f", "?", "q"]);
        let look = Look::sized(60, 14);
        let text = print::to_string(&page(&shown, &look).draw(&look, 0), &look);
        assert!(text.contains("freeze") && text.contains("any key back"), "{text}");
        assert!(!text.contains("line up"), "arrows choose there: {text}");
    }
}
