//! How one backend is told from another: by shape, letter name, pattern and colour, never by one alone.

use ratatui::style::Style;
use ratatui::text::Span;

use super::look::{Glyphs, Hue, Look};

const SHAPES: [(&str, &str); 6] = [
    ("●", "(1)"),
    ("■", "[2]"),
    ("▲", "<3>"),
    ("◆", "{4}"),
    ("★", "*5*"),
    ("✚", "+6+"),
];

const FILLS: [(char, char); 5] = [('█', '#'), ('▒', '='), ('▓', '+'), ('░', '-'), ('▚', ':')];

const HUES: [Hue; 4] = [Hue::Blue, Hue::Orange, Hue::Green, Hue::Purple];

/// The mark of a backend: its place among the backends of its Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

impl Mark {
    /// The mark of the backend at this place, from 0.
    pub const fn of(index: usize) -> Self {
        Self(index)
    }

    /// Its shape; letters when the shapes are used up.
    pub fn shape(self, look: &Look) -> String {
        match (SHAPES.get(self.0), look.glyphs) {
            (Some((unicode, _)), Glyphs::Unicode) => (*unicode).to_string(),
            (Some((_, ascii)), Glyphs::Ascii) => (*ascii).to_string(),
            (None, _) => letters(self.0 - SHAPES.len()),
        }
    }

    /// What a bar of it is made of.
    pub fn fill(self, look: &Look) -> char {
        let (unicode, ascii) = FILLS[self.0 % FILLS.len()];
        match look.glyphs {
            Glyphs::Unicode => unicode,
            Glyphs::Ascii => ascii,
        }
    }

    /// Its colour, where there are colours.
    pub fn style(self, look: &Look) -> Style {
        look.coloured(Style::new(), HUES[self.0 % HUES.len()])
    }

    /// Its shape and a name, in its colour.
    pub fn named(self, look: &Look, name: &str) -> Span<'static> {
        Span::styled(format!("{} {name}", self.shape(look)), self.style(look))
    }
}

/// `A` … `Z`, `AA`, `AB` …
fn letters(mut index: usize) -> String {
    let mut name = Vec::new();
    loop {
        name.push(char::from(b'A' + u8::try_from(index % 26).unwrap_or_default()));
        if index < 26 {
            break;
        }
        index = index / 26 - 1;
    }
    name.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_backends_look_the_same() {
        for look in [Look::sized(80, 24), Look::sized(80, 24).ascii()] {
            let shapes: BTreeSet<_> = (0..1000).map(|index| Mark::of(index).shape(&look)).collect();
            assert_eq!(shapes.len(), 1000);
        }
        assert_eq!(letters(0), "A");
        assert_eq!(letters(25), "Z");
        assert_eq!(letters(26), "AA");
        assert_eq!(letters(701), "ZZ");
        assert_eq!(letters(702), "AAA");
    }
}
