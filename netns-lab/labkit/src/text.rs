//! Strings that came from outside, made safe to show.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with every control character written out (`\u{1b}`), so that a name from a file can
/// never move a terminal's cursor, colour its text or answer its queries.
///
/// Bidirectional overrides are written out too: they can make a line read as another.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe(character) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "{}", character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1 pod`, `2 pods`: a count with its noun.
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_untouched() {
        assert!(matches!(printable("web-1 → größe"), Cow::Borrowed(_)));
    }

    #[test]
    fn escapes_newlines_and_bidi_are_written_out() {
        assert_eq!(
            printable("a\u{1b}[31m\nb\u{202e}c\u{9b}"),
            "a\\u{1b}[31m\\u{a}b\\u{202e}c\\u{9b}"
        );
    }

    #[test]
    fn counts_read_as_english() {
        assert_eq!(count(1, "pod"), "1 pod");
        assert_eq!(count(0, "pod"), "0 pods");
    }
}
