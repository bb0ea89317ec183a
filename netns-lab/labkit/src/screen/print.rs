//! Lines as text, with or without colours.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::look::{Look, Theme};
use super::page::Page;
use crate::Failure;

/// Lines as text; without colours and bold letters in black and white, so that files and pipes get
/// the words alone.
pub fn to_string(lines: &[Line<'_>], look: &Look) -> String {
    let mut text = String::new();
    for line in lines {
        let from = text.len();
        for span in &line.spans {
            let codes = if look.theme == Theme::Mono {
                String::new()
            } else {
                codes(span.style)
            };
            if codes.is_empty() {
                text.push_str(&span.content);
            } else {
                text.push_str(&format!("\u{1b}[{codes}m{}\u{1b}[0m", span.content));
            }
        }
        let end = from + text[from..].trim_end_matches(' ').len();
        text.truncate(end);
        text.push('\n');
    }
    text
}

/// A page on paper: all of its body, without its keys.
pub fn page(page: &Page, look: &Look) -> String {
    to_string(&page.draw(&look.clone().paper(), 0), look)
}

/// Prints a page once.
///
/// # Errors
/// When stdout cannot be written to.
pub fn once(shown: &Page, look: &Look) -> Result<(), Failure> {
    crate::shell::emit(&page(shown, look))
}

/// The numbers of ECMA-48's "select graphic rendition" for a style.
fn codes(style: Style) -> String {
    let modifiers = [
        (Modifier::BOLD, "1"),
        (Modifier::UNDERLINED, "4"),
        (Modifier::REVERSED, "7"),
    ];
    let mut codes: Vec<String> = modifiers
        .into_iter()
        .filter(|(modifier, _)| style.add_modifier.contains(*modifier))
        .map(|(_, code)| code.to_string())
        .collect();
    if let Some(Color::Indexed(index)) = style.fg {
        codes.push(format!("38;5;{index}"));
    }
    codes.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::look::Role;

    fn line(look: &Look) -> Line<'static> {
        Line::from(vec![
            look.text(Role::Lost, "lost"),
            look.text(Role::Plain, " 3  "),
        ])
    }

    #[test]
    fn black_and_white_is_words_alone() {
        let look = Look::sized(80, 24);
        assert_eq!(to_string(&[line(&look)], &look), "lost 3\n");
    }

    #[test]
    fn colours_end_where_they_should() {
        let look = Look {
            theme: Theme::Light,
            ..Look::sized(80, 24)
        };
        assert_eq!(
            to_string(&[line(&look)], &look),
            "\u{1b}[1;38;5;124mlost\u{1b}[0m 3\n"
        );
    }
}
