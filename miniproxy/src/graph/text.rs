//! For a terminal.

use labkit::screen::look::{Look, Sign};

use super::Drawing;
use crate::explain::Report;

/// Lines of text.
pub fn text(report: &Report, look: &Look) -> String {
    let drawing = Drawing::of(report);
    let to = look.sign(Sign::To);
    let ascii = look.sign(Sign::To).is_ascii();
    let down = if ascii { "|" } else { "│" };
    let mut lines = vec![format!("{} {to} {}", drawing.caller, drawing.service)];
    lines.extend(drawing.rules.iter().map(|rules| format!("  {down} {rules}")));
    for question in &drawing.questions {
        let shape = labkit::screen::Mark::of(question.index).shape(look);
        let name = question.backend.split_once(' ').map_or("", |(_, rest)| rest);
        let never = if question.never { "  never hit" } else { "" };
        lines.push(format!("  {down}"));
        lines.push(format!(
            "  <{}>  {} {to} {shape} {name}{never}   {}",
            question.asks, question.yes, question.place
        ));
        lines.extend(question.no.as_ref().map(|no| format!("  {down} {no}")));
    }
    for stop in &drawing.ends {
        let sign = if stop.open { "?" } else { look.sign(Sign::No) };
        lines.push(format!("  {sign} {}", stop.words));
    }
    if drawing.ends.is_empty() && drawing.questions.is_empty() {
        lines.push(format!("  {to} {}", drawing.verdict));
    }
    lines.join("\n") + "\n"
}
