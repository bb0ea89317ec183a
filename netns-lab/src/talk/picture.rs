//! A recording as a picture that moves by itself: SVG, dark on white, nothing fetched.
//!
//! It loops. Where nothing moves (on paper, in a viewer without SMIL) the first page stands still.

use std::time::Duration;

use super::cast::{CLEAR, HEIGHT, LONGEST};

/// As wide as what is printed into a pipe.
const COLUMNS: usize = 80;
/// A cell, in user units.
const CELL: (usize, usize) = (9, 18);
const MARGIN: usize = 12;
/// How long a page stands that the recording gives its longest pause: people read it.
const HOLD: Duration = Duration::from_secs(6);

/// A row of text, and when it is seen.
#[derive(Debug, PartialEq)]
struct Row {
    line: usize,
    text: String,
    from: Duration,
    to: Duration,
}

/// The picture of a recording: each event with its time and kind, as an asciicast has them.
pub(super) fn draw(title: &str, events: &[(Duration, &'static str, String)]) -> String {
    let (rows, still, end) = rows(events);
    let height = rows.iter().map(|row| row.line + 1).max().unwrap_or(1) * CELL.1 + 2 * MARGIN;
    let width = COLUMNS * CELL.0 + 2 * MARGIN;
    let body: String = rows.iter().map(|row| text(row, still, end)).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {width} {height}\">\n\
         <title>{}</title>\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\" fill=\"#111\">\n\
         {body}</g>\n</svg>\n",
        escaped(title)
    )
}

/// All rows, a moment at which the first page stands, and the end.
fn rows(events: &[(Duration, &'static str, String)]) -> (Vec<Row>, Duration, Duration) {
    let (mut rows, mut open): (Vec<Row>, Vec<Row>) = (Vec::new(), Vec::new());
    let mut screen = vec![String::new()];
    let (mut now, mut last, mut still) = (Duration::ZERO, Duration::ZERO, None);
    for (at, kind, data) in events {
        let pause = at.saturating_sub(last);
        now += if pause >= LONGEST { HOLD } else { pause };
        if pause >= LONGEST {
            still.get_or_insert(now.saturating_sub(LONGEST));
        }
        last = *at;
        if *kind != "o" {
            continue;
        }
        write(&mut screen, data);
        // Letters that are being typed would each be a row of their own.
        if data.ends_with('\n') || data == CLEAR {
            show(&screen, now, &mut open, &mut rows);
        }
    }
    let end = now + HOLD;
    show(&[], end, &mut open, &mut rows);
    rows.retain(|row| row.to > row.from && !row.text.trim().is_empty());
    (rows, still.unwrap_or(end.saturating_sub(LONGEST)), end)
}

fn write(screen: &mut Vec<String>, data: &str) {
    if data == CLEAR {
        *screen = vec![String::new()];
        return;
    }
    for letter in data.chars().filter(|letter| *letter != '\r') {
        match (letter, screen.last_mut()) {
            ('\n', _) | (_, None) => screen.push(String::new()),
            (letter, Some(line)) => line.push(letter),
        }
    }
    // The row below the last is where the cursor is.
    let surplus = screen.len().saturating_sub(usize::from(HEIGHT) + 1);
    screen.drain(..surplus);
}

/// Rows that are no longer as they were end now; what stands there instead begins.
fn show(screen: &[String], now: Duration, open: &mut Vec<Row>, rows: &mut Vec<Row>) {
    let same = |row: &Row| screen.get(row.line) == Some(&row.text);
    let (stay, go): (Vec<_>, Vec<_>) = open.drain(..).partition(same);
    rows.extend(go.into_iter().map(|row| Row { to: now, ..row }));
    *open = stay;
    for (row, text) in screen.iter().enumerate() {
        if !open.iter().any(|known| known.line == row) {
            open.push(Row {
                line: row,
                text: text.clone(),
                from: now,
                to: now,
            });
        }
    }
}

fn text(row: &Row, still: Duration, end: Duration) -> String {
    let part = |time: Duration| format!("{:.4}", time.as_secs_f64() / end.as_secs_f64());
    let visible = |seen: bool| if seen { "visible" } else { "hidden" };
    let stands = visible(row.from <= still && still < row.to);
    // The first value is that of the beginning; times that are equal would be refused.
    let (values, times) = if row.from.is_zero() {
        ("visible;hidden".to_string(), format!("0;{}", part(row.to)))
    } else {
        (
            "hidden;visible;hidden".to_string(),
            format!("0;{};{}", part(row.from), part(row.to)),
        )
    };
    format!(
        "<text x=\"{MARGIN}\" y=\"{}\" xml:space=\"preserve\" visibility=\"{stands}\">{}<animate \
         attributeName=\"visibility\" calcMode=\"discrete\" dur=\"{:.1}s\" repeatCount=\"indefinite\" \
         values=\"{values}\" keyTimes=\"{times}\"/></text>\n",
        MARGIN + row.line * CELL.1 + 14,
        escaped(&row.text),
        end.as_secs_f64(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, text: &str) -> (Duration, &'static str, String) {
        (Duration::from_millis(ms), "o", text.to_string())
    }

    #[test]
    fn what_stays_is_one_row_and_what_scrolls_is_drawn_anew() {
        let events = [
            at(0, CLEAR),
            at(0, "a <b>\r\n"),
            at(500, "c"),
            at(540, "d\r\n"),
            at(3000, CLEAR),
        ];
        let (rows, still, end) = rows(&events);
        let seconds = |time: Duration| time.as_secs_f64();
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.line, row.text.as_str(), seconds(row.from), seconds(row.to)))
            .collect();
        assert_eq!(told, [(0, "a <b>", 0.0, 6.54), (1, "cd", 0.54, 6.54)]);
        assert!(rows.iter().all(|row| row.from <= still && still < row.to));
        assert_eq!(end, Duration::from_millis(12_540));
        insta::assert_snapshot!(draw("T & U", &events));
    }

    #[test]
    fn the_last_rows_are_those_that_are_seen() {
        let lines: Vec<_> = (0..40).map(|number| format!("{number}\r\n")).collect();
        let text = lines.concat();
        let (rows, ..) = rows(&[at(0, CLEAR), at(10, &text)]);
        assert_eq!(rows.first().map(|row| row.text.as_str()), Some("10"));
        assert_eq!(rows.last().map(|row| row.line), Some(usize::from(HEIGHT) - 1));
    }
}
