//! A page: what and where, the facts, the real rule, the keys. Cut to the size of its place.

use ratatui::text::{Line, Span};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::hide;
use super::look::{Glyphs, Look, Role, Sign};
use crate::text::printable;

/// What a screen shows. The body may be longer than the screen; title, rule and keys always stay.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// What this is, and of what: `EXPLAIN client → svc/web`.
    pub title: Line<'static>,
    /// The state, at the right edge of the title: `node-1 · rules v7`.
    pub state: String,
    /// The facts.
    pub body: Vec<Line<'static>>,
    /// The real text of the rule that matters now, word for word; empty for none.
    pub rule: String,
    /// What keys do: (`e`, `explain`). Not printed on paper.
    pub keys: Vec<(String, String)>,
    /// The line of the body that must be seen, from 0.
    pub focus: Option<usize>,
}

/// The arrows as a key of a page that takes them for itself.
pub const ARROWS: &str = "\u{2191}\u{2193}";

/// Title, the line below it, the line above the rule, the rule and the keys.
const BANDS: u16 = 5;

impl Page {
    /// How many lines of the body are seen at once; all of them on paper.
    pub fn room(&self, look: &Look) -> usize {
        if look.height == 0 {
            return self.body.len();
        }
        usize::from(look.height.saturating_sub(BANDS)).max(1)
    }

    /// The furthest that the body can be scrolled.
    pub fn last_offset(&self, look: &Look) -> usize {
        self.body.len().saturating_sub(self.room(look))
    }

    /// The offset next to the wanted one at which the focus is seen.
    pub fn offset(&self, look: &Look, wanted: usize) -> usize {
        let room = self.room(look);
        let shown = match self.focus {
            Some(line) if line < wanted => line,
            Some(line) if line >= wanted + room => line + 1 - room,
            _ => wanted,
        };
        shown.min(self.last_offset(look))
    }

    /// The lines of the page, as wide and as high as the place at most. On paper there are no keys.
    pub fn draw(&self, look: &Look, offset: usize) -> Vec<Line<'static>> {
        let paper = look.height == 0;
        let (room, offset) = (self.room(look), self.offset(look, offset));
        let mut lines = vec![self.title_line(look), border(look)];
        let seen = self.body.iter().skip(offset).take(room).cloned();
        lines.extend(seen);
        if !paper {
            let height = usize::from(look.height.max(BANDS));
            lines.resize(height - 3, Line::default());
        }
        if !paper || !self.rule.is_empty() {
            lines.push(border(look));
            lines.extend(self.rule_lines(look));
        }
        if !paper {
            lines.push(self.keys_line(look, offset));
        }
        if !paper {
            lines.truncate(usize::from(look.height));
        }
        lines.into_iter().map(|line| finished(line, look)).collect()
    }

    fn title_line(&self, look: &Look) -> Line<'static> {
        let mut line = self.title.clone();
        let free = usize::from(look.width).saturating_sub(line.width());
        let state = self.state.width();
        if state > 0 && free > state + 1 {
            line.push_span(Span::raw(" ".repeat(free - state)));
            line.push_span(Span::raw(self.state.clone()));
        }
        line
    }

    /// The rule: on paper all of it, on a screen what of it fits on one line and matters most.
    fn rule_lines(&self, look: &Look) -> Vec<Line<'static>> {
        let strong = |text: String| Line::from(look.text(Role::Strong, text));
        if look.height == 0 {
            let rows = wrapped(&self.rule, " ", look);
            return rows.into_iter().map(strong).collect();
        }
        vec![strong(shortened(&self.rule, usize::from(look.width)))]
    }

    fn keys_line(&self, look: &Look, offset: usize) -> Line<'static> {
        let width = usize::from(look.width);
        let more = self.last_offset(look);
        let mut spans = vec![];
        let mut used = 0;
        let scroll = (more > 0).then(|| {
            let end = if offset < more { "more below" } else { "end" };
            // Where the arrows choose something, only whole pages are scrolled.
            let chooses = self.keys.iter().any(|(key, _)| key == ARROWS);
            let key = if chooses {
                "PgUp PgDn"
            } else {
                look.sign(Sign::UpDown)
            };
            (key.to_string(), end.to_string())
        });
        let size = |(key, word): &(String, String)| key.width() + 1 + word.width();
        // That there is more must be seen, whatever else has room.
        let kept = scroll.as_ref().map_or(0, |scroll| size(scroll) + 2);
        for pair in self.keys.iter().chain(scroll.as_ref()) {
            let (key, word) = pair;
            let size = size(pair);
            let gap = if used == 0 { 1 } else { 2 };
            let kept = if scroll.as_ref() == Some(pair) { 0 } else { kept };
            if used + gap + size + kept > width {
                continue;
            }
            spans.push(Span::raw(" ".repeat(gap)));
            spans.push(look.text(Role::Strong, key.clone()));
            spans.push(Span::raw(format!(" {word}")));
            used += gap + size;
        }
        Line::from(spans)
    }
}

/// A rule without what the screen above it says too, as far as the width demands it: first the comment, then
/// the chain. What is left out is shown by a sign.
fn shortened(rule: &str, width: usize) -> String {
    let fits = |text: &String| text.width() <= width;
    let bare = without_comment(rule).unwrap_or_else(|| rule.to_string());
    [rule.to_string(), bare.clone()]
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| without_chain(&bare))
}

fn without_comment(rule: &str) -> Option<String> {
    let (head, tail) = rule.split_once(" -m comment --comment ")?;
    // A comment of several words stands in quotes.
    let (_, rest) = match tail.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\" ")?,
        None => tail.split_once(' ')?,
    };
    Some(format!("{head} … {rest}"))
}

fn without_chain(rule: &str) -> String {
    let rest = rule
        .trim_start()
        .strip_prefix("-A ")
        .and_then(|rest| rest.split_once(' '));
    match rest {
        Some((_, rest)) if rest.starts_with('…') => format!(" {rest}"),
        Some((_, rest)) => format!(" … {rest}"),
        None => rule.to_string(),
    }
}

fn border(look: &Look) -> Line<'static> {
    let sign = match look.glyphs {
        Glyphs::Unicode => "─",
        Glyphs::Ascii => "-",
    };
    Line::from(sign.repeat(usize::from(look.width)))
}

/// A line as it may be shown: safe, hidden where asked, in the right characters, not too wide.
fn finished(line: Line<'static>, look: &Look) -> Line<'static> {
    let spans = line.spans.into_iter().map(|span| {
        let mut text = printable(&span.content).into_owned();
        if look.hide {
            text = hide::addresses(&text);
        }
        if look.glyphs == Glyphs::Ascii {
            text = text.chars().map(as_ascii).collect();
        }
        Span::styled(text, span.style)
    });
    cut(Line::from(spans.collect::<Vec<_>>()), look)
}

/// The line, at most as wide as the place; what is missing is shown by a sign.
pub fn cut(line: Line<'static>, look: &Look) -> Line<'static> {
    let width = usize::from(look.width);
    if line.width() <= width {
        return line;
    }
    let mut room = width.saturating_sub(1);
    let mut spans = Vec::new();
    for span in line.spans {
        let mut text = String::new();
        let mut full = false;
        for character in span.content.chars() {
            let cells = character.width().unwrap_or(0);
            if cells > room {
                full = true;
                break;
            }
            room -= cells;
            text.push(character);
        }
        spans.push(Span::styled(text, span.style));
        if full {
            break;
        }
    }
    spans.push(Span::raw(look.sign(Sign::Cut)));
    Line::from(spans)
}

/// A name or rule cut to so many cells, so that columns stay in line.
pub fn fit(text: &str, cells: usize, look: &Look) -> String {
    let place = Look {
        width: u16::try_from(cells).unwrap_or(u16::MAX),
        ..look.clone()
    };
    let line = cut(Line::from(printable(text).into_owned()), &place);
    let cut: String = line.spans.iter().map(|span| span.content.as_ref()).collect();
    let free = cells.saturating_sub(cut.width());
    format!("{cut}{}", " ".repeat(free))
}

/// Words on as many lines as they need; the first begins with `head`, the others stand below it.
pub fn wrapped(text: &str, head: &str, look: &Look) -> Vec<String> {
    let width = usize::from(look.width).max(20);
    let indent = " ".repeat(head.width());
    let mut lines = Vec::new();
    let mut line = head.to_string();
    let mut fresh = true;
    for word in text.split_whitespace() {
        if !fresh && line.width() + 1 + word.width() > width {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            fresh = true;
        }
        if !fresh {
            line.push(' ');
        }
        line.push_str(word);
        fresh = false;
    }
    lines.push(line);
    lines
}

/// The sign in one byte that is most like it, as wide.
pub const fn as_ascii(character: char) -> char {
    match character {
        '\0'..='\u{7f}' => character,
        '─' | '–' | '—' | '╌' | '·' => '-',
        '═' | '▒' => '=',
        '│' | '┊' | '║' | '╎' => '|',
        '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '✓' | '▓' => '+',
        '▶' | '→' | '▸' => '>',
        '◀' | '←' => '<',
        '↑' | '▲' => '^',
        '↓' | '▼' => 'v',
        '✗' | '×' | '✕' => 'x',
        '…' => '~',
        '█' => '#',
        '░' => '.',
        '“' | '”' => '"',
        '‘' | '’' => '\'',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::print;

    fn page() -> Page {
        Page {
            title: Line::from(" EXPLAIN client → svc/web"),
            state: "rules v7".into(),
            body: (1..=30).map(|n| Line::from(format!(" line {n}  10.96.0.10:80"))).collect(),
            rule: "-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-AAAAAAAAAAAAAAAA".into(),
            keys: [("e", "explain"), ("t", "trace"), ("q", "quit")]
                .map(|(key, word)| (key.to_string(), word.to_string()))
                .to_vec(),
            focus: Some(25),
        }
    }

    #[test]
    fn a_page_is_as_big_as_its_place_and_its_focus_is_seen() {
        for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60), (10, 3)] {
            for look in [Look::sized(width, height), Look::sized(width, height).ascii()] {
                let lines = page().draw(&look, 0);
                assert_eq!(lines.len(), usize::from(height));
                assert!(lines.iter().all(|line| line.width() <= usize::from(width)));
                let text = print::to_string(&lines, &look);
                assert!(height < 6 || text.contains("26"), "{text}");
                assert!(look.glyphs == Glyphs::Unicode || text.is_ascii(), "{text}");
            }
        }
    }

    #[test]
    fn that_there_is_more_below_is_seen_beside_any_number_of_keys() {
        let mut crowded = page();
        crowded.keys = "abcdefghijklmn"
            .chars()
            .map(|key| (key.to_string(), "a long word".to_string()))
            .collect();
        for width in [60, 80, 100] {
            let look = Look::sized(width, 20);
            let text = print::to_string(&crowded.draw(&look, 0), &look);
            assert!(text.contains("more below"), "{text}");
        }
    }

    #[test]
    fn a_small_screen() {
        insta::assert_snapshot!(print::to_string(
            &page().draw(&Look::sized(60, 12), 0),
            &Look::sized(60, 12)
        ));
    }

    #[test]
    fn of_a_long_rule_the_match_and_the_target_are_seen_first() {
        let dice = "-m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-A";
        let rule = format!(" -A KUBE-SVC-WEB -m comment --comment \"default/web -> 10.0.0.1:80\" {dice}");
        assert_eq!(shortened(&rule, 200), rule);
        assert_eq!(shortened(&rule, 100), format!(" -A KUBE-SVC-WEB … {dice}"));
        assert_eq!(shortened(&rule, 80), format!(" … {dice}"));
        let plain = format!("-A KUBE-SVC-WEB {dice}");
        assert_eq!(shortened(&plain, 80), format!(" … {dice}"));
        let one_word = format!("-A KUBE-SVC-WEB -s 10.0.0.1/32 -m comment --comment web {dice}");
        assert_eq!(
            shortened(&one_word, 90),
            format!(" … -s 10.0.0.1/32 … {dice}")[..].to_string()
        );
        assert_eq!(shortened("-A X", 2), "-A X");
        assert_eq!(shortened("no rule at all", 4), "no rule at all");
    }

    #[test]
    fn paper_has_all_lines_and_no_keys() {
        let text = print::page(&page(), &Look::sized(80, 24));
        assert!(text.contains("line 30") && !text.contains("quit"), "{text}");
    }

    #[test]
    fn words_go_on_below_the_first() {
        let look = Look::sized(20, 24);
        assert_eq!(
            wrapped("one two three 漢字漢字 five", " * ", &look),
            [" * one two three", "   漢字漢字 five"]
        );
        assert_eq!(wrapped("", " * ", &look), [" * "]);
    }

    #[test]
    fn arrows_that_choose_do_not_scroll() {
        let look = Look::sized(80, 12);
        let mut chooser = page();
        let last = |page: &Page| print::to_string(&page.draw(&look, 0)[11..], &look);
        assert!(!last(&chooser).contains("PgDn"));
        chooser.keys.insert(0, (ARROWS.into(), "choose".into()));
        assert!(last(&chooser).contains("PgDn more below"), "{}", last(&chooser));
    }

    #[test]
    fn names_of_any_width_fit_their_column() {
        let look = Look::sized(80, 24);
        assert_eq!(fit("web", 5, &look), "web  ");
        assert_eq!(fit("web-12345", 5, &look), "web-…");
        assert_eq!(fit("漢字漢字", 5, &look), "漢字…");
        assert_eq!(fit("\u{1b}[31m", 3, &look), "\\u…");
    }
}
