//! What a place to draw on can show: its signs, its colours, its size.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

/// Which characters may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Glyphs {
    /// Arrows, boxes and shapes.
    #[default]
    Unicode,
    /// Bytes below 128 only: some terminals give `●` and `─` two cells.
    Ascii,
}

/// Which colours may be used. No theme paints a background: a projector's own ground stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    /// Dark colours, for a light ground.
    Light,
    /// Light colours, for a dark ground.
    Dark,
    /// None; bold and reverse only.
    #[default]
    Mono,
}

/// What a piece of text is for. Colour only ever repeats what the words and signs say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Text.
    Plain,
    /// A heading, or what the eye should find first.
    Strong,
    /// What may be overlooked. The same colour as text: pale letters vanish on a projector.
    Quiet,
    /// A loss or a failure; nothing else is red.
    Lost,
    /// The one thing that happens here: a rule that was hit, a chosen line.
    Hot,
    /// As it should be.
    Good,
}

/// A sign that has an ASCII form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// A packet goes: `─▶`
    To,
    /// An address is rewritten, and nothing else: `═▶`
    Rewrite,
    /// `✓`
    Yes,
    /// `✗`
    No,
    /// The chosen line: `▶`
    Here,
    /// Between two facts: `·`
    Dot,
    /// Something was cut: `…`
    Cut,
    /// `×`
    Times,
    /// `↑↓`
    UpDown,
    /// `↵`
    Enter,
}

/// A place to draw on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Which characters it shows.
    pub glyphs: Glyphs,
    /// Which colours it shows.
    pub theme: Theme,
    /// Whether addresses are hidden.
    pub hide: bool,
    /// Its width, in cells.
    pub width: u16,
    /// Its height, in cells; 0 for paper, which has no end.
    pub height: u16,
}

impl Default for Look {
    fn default() -> Self {
        Self::sized(80, 24)
    }
}

impl Look {
    /// Black and white, of this size.
    pub const fn sized(width: u16, height: u16) -> Self {
        Self {
            glyphs: Glyphs::Unicode,
            theme: Theme::Mono,
            hide: false,
            width,
            height,
        }
    }

    /// The same, with ASCII only.
    #[must_use]
    pub const fn ascii(mut self) -> Self {
        self.glyphs = Glyphs::Ascii;
        self
    }

    /// The same, without an end.
    #[must_use]
    pub const fn paper(mut self) -> Self {
        self.height = 0;
        self
    }

    /// A sign in the characters that there are.
    pub const fn sign(&self, sign: Sign) -> &'static str {
        let (unicode, ascii) = match sign {
            Sign::To => ("─▶", "->"),
            Sign::Rewrite => ("═▶", "=>"),
            Sign::Yes => ("✓", "+"),
            Sign::No => ("✗", "X"),
            Sign::Here => ("▶", ">"),
            Sign::Dot => ("·", "-"),
            Sign::Cut => ("…", "~"),
            Sign::Times => ("×", "x"),
            Sign::UpDown => ("↑↓", "up/down"),
            Sign::Enter => ("↵", "enter"),
        };
        match self.glyphs {
            Glyphs::Unicode => unicode,
            Glyphs::Ascii => ascii,
        }
    }

    /// A piece of text in its role.
    pub fn text(&self, role: Role, text: impl Into<String>) -> Span<'static> {
        Span::styled(text.into(), self.style(role))
    }

    /// How a role is shown.
    pub fn style(&self, role: Role) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match role {
            Role::Plain | Role::Quiet => Style::new(),
            Role::Strong => bold,
            Role::Lost => self.coloured(bold, Hue::Vermilion),
            Role::Hot => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
            Role::Good => self.coloured(Style::new(), Hue::Green),
        }
    }

    /// A style in a colour, where there are colours.
    pub(super) fn coloured(&self, style: Style, hue: Hue) -> Style {
        match hue.on(self.theme) {
            Some(index) => style.fg(Color::Indexed(index)),
            None => style,
        }
    }
}

/// The colours of Okabe and Ito, which people of any colour vision tell apart, moved to the nearest
/// of the 256 that stand out 4.5 : 1 from the ground (WCAG 2.1, 1.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hue {
    Blue,
    Orange,
    Green,
    Purple,
    Vermilion,
}

impl Hue {
    /// The colour's number among the 256.
    const fn on(self, theme: Theme) -> Option<u8> {
        let (light, dark) = match self {
            Self::Blue => (25, 75),
            Self::Orange => (94, 214),
            Self::Green => (22, 79),
            Self::Purple => (90, 176),
            Self::Vermilion => (124, 209),
        };
        match theme {
            Theme::Light => Some(light),
            Theme::Dark => Some(dark),
            Theme::Mono => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUES: [Hue; 5] = [Hue::Blue, Hue::Orange, Hue::Green, Hue::Purple, Hue::Vermilion];

    /// The relative luminance of one of the 216 colours of the cube (WCAG 2.1).
    fn luminance(index: u8) -> f64 {
        let cube = index - 16;
        let level = |step: u8| {
            if step == 0 {
                0.0
            } else {
                f64::from(step) * 40.0 + 55.0
            }
        };
        let linear = |value: f64| {
            let share = value / 255.0;
            if share <= 0.039_28 {
                share / 12.92
            } else {
                ((share + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * linear(level(cube / 36))
            + 0.7152 * linear(level(cube / 6 % 6))
            + 0.0722 * linear(level(cube % 6))
    }

    #[test]
    fn every_colour_stands_out_from_its_ground() {
        for hue in HUES {
            let light = luminance(hue.on(Theme::Light).unwrap());
            let dark = luminance(hue.on(Theme::Dark).unwrap());
            assert!(
                1.05 / (light + 0.05) >= 4.5,
                "{hue:?} on white: {}",
                1.05 / (light + 0.05)
            );
            assert!(
                (dark + 0.05) / 0.05 >= 4.5,
                "{hue:?} on black: {}",
                (dark + 0.05) / 0.05
            );
        }
    }

    #[test]
    fn without_colours_there_are_none() {
        for role in [
            Role::Plain,
            Role::Strong,
            Role::Quiet,
            Role::Lost,
            Role::Hot,
            Role::Good,
        ] {
            assert_eq!(Look::sized(80, 24).style(role).fg, None);
        }
    }
}
