//! A picture that stands by itself: white ground, dark text, nothing fetched.

use super::{Drawing, From, Question, fill};
use crate::explain::Report;

const ROW: usize = 96;
const TOP: usize = 70;
const DICE: usize = 330;
const BACKEND: usize = 560;
const WIDTH: usize = 900;
const SIZE: usize = 16;

/// How text looks: smaller where it would not fit.
fn style(words: &str, room: usize) -> String {
    let wide = words.chars().count() * 9;
    let size = if wide > room {
        (SIZE * room / wide).max(7)
    } else {
        SIZE
    };
    format!("font-family=\"sans-serif\" font-size=\"{size}\" fill=\"#111111\"")
}

/// An SVG picture.
pub fn svg(report: &Report) -> String {
    let drawing = Drawing::of(report);
    let rows = drawing.questions.len() + drawing.ends.len().max(usize::from(drawing.questions.is_empty()));
    let height = TOP + ROW * rows.max(1) + 20;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"title\">\n<title id=\"title\">{0}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n<defs><marker id=\"to\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0 L10 5 L0 10 z\" fill=\"#333333\"/></marker></defs>\n<text x=\"20\" y=\"30\" {1} font-weight=\"bold\">{0}</text>\n",
        escaped(&drawing.title),
        style(&drawing.title, WIDTH - 60)
    );
    if let Some(rules) = &drawing.rules {
        text.push_str(&label(20, 54, rules, WIDTH - 60));
    }
    let middle = TOP + ROW / 2;
    text.push_str(&boxed(20, middle, 200, &drawing.caller, "#ffffff"));
    text.push_str(&line((220, middle), (DICE - 70, middle), false));
    for (index, question) in drawing.questions.iter().enumerate() {
        text.push_str(&row(question, TOP + ROW * index + ROW / 2));
        let more = index + 1 < drawing.questions.len() || drawing.left_over().next().is_some();
        if let Some(no) = question.no.as_ref().filter(|_| more) {
            let y = TOP + ROW * index + ROW / 2;
            let last = index + 1 == drawing.questions.len();
            let end = y + ROW - if last { 24 } else { 36 };
            text.push_str(&line((DICE, y + 36), (DICE, end), false));
            text.push_str(&label(DICE + 14, y + ROW / 2 + 5, no, 120));
        }
    }
    let last = TOP + ROW * drawing.questions.len() + ROW / 2;
    for (index, stop) in drawing.ends.iter().enumerate() {
        let (at, wide) = match stop.from {
            From::Dice => (DICE - 70, if stop.open { 220 } else { 140 }),
            From::Backends(_) => (DICE - 70, WIDTH - DICE + 50),
        };
        text.push_str(&boxed(at, last + ROW * index, wide, &stop.words, "#ffffff"));
    }
    if drawing.ends.is_empty() && drawing.questions.is_empty() {
        text.push_str(&boxed(
            DICE - 70,
            last,
            WIDTH - DICE + 50,
            &drawing.verdict,
            "#ffffff",
        ));
    }
    text.push_str("</svg>\n");
    text
}

fn row(question: &Question, y: usize) -> String {
    let mut text = format!(
        "<path d=\"M{} {y} L{DICE} {} L{} {y} L{DICE} {} z\" fill=\"#ffffff\" stroke=\"#111111\" stroke-width=\"1.5\"/>\n",
        DICE - 70,
        y - 36,
        DICE + 70,
        y + 36
    );
    text.push_str(&format!(
        "<text x=\"{DICE}\" y=\"{y}\" {} text-anchor=\"middle\">{}</text>\n<text x=\"{DICE}\" y=\"{}\" {} text-anchor=\"middle\">{}</text>\n",
        style(&question.asks, 90),
        escaped(&question.asks),
        y + 18,
        style(&question.place, 90),
        escaped(&question.place)
    ));
    text.push_str(&line((DICE + 70, y), (BACKEND, y), question.never));
    text.push_str(&label(DICE + 76, y - 8, &question.yes, BACKEND - DICE - 90));
    text.push_str(&boxed(
        BACKEND,
        y,
        WIDTH - BACKEND - 20,
        &question.backend,
        fill(question.index),
    ));
    text
}

fn boxed(x: usize, y: usize, width: usize, words: &str, fill: &str) -> String {
    format!(
        "<rect x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"48\" rx=\"4\" fill=\"{fill}\" stroke=\"#111111\" stroke-width=\"1.5\"/>\n<text x=\"{}\" y=\"{}\" {} text-anchor=\"middle\">{}</text>\n",
        y - 24,
        x + width / 2,
        y + 6,
        style(words, width - 16),
        escaped(words)
    )
}

fn label(x: usize, y: usize, words: &str, room: usize) -> String {
    format!(
        "<text x=\"{x}\" y=\"{y}\" {}>{}</text>\n",
        style(words, room),
        escaped(words)
    )
}

fn line(from: (usize, usize), to: (usize, usize), dashed: bool) -> String {
    let dashes = if dashed { " stroke-dasharray=\"6 5\"" } else { "" };
    format!(
        "<path d=\"M{} {} L{} {}\" stroke=\"#333333\" stroke-width=\"2\" fill=\"none\"{dashes} marker-end=\"url(#to)\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
