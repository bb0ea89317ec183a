//! The screens: one Service, and all of them.

use labkit::screen::page::{fit, wrapped};
use labkit::screen::{Glyphs, Line, Look, Mark, Page, Role, Sign, Span};

use super::changes::Change;
use super::overview::{Overview, Summary};
use super::report::{Report, Row};
use super::sentences::by;

/// What the page needs besides the facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Face {
    /// The time of day, or `frozen`.
    pub state: String,
    /// The row that `k`, `b` and Enter mean.
    pub chosen: Option<usize>,
    /// What the last key did.
    pub told: Option<String>,
}

/// The widths of what gives way on a small screen.
struct Columns {
    name: usize,
    address: usize,
    bar: usize,
}

impl Columns {
    fn of(look: &Look, report: &Report) -> Self {
        let width = usize::from(look.width);
        let longest = report
            .backends
            .iter()
            .map(|row| row.name.chars().count())
            .max()
            .unwrap_or(8);
        let name = longest.clamp(8, if width < 90 { 16 } else { 24 });
        let longest = report
            .backends
            .iter()
            .map(|row| row.address.chars().count())
            .max()
            .unwrap_or(0);
        let address = if width < 90 { 0 } else { longest.max(7) + 2 };
        let mark = if look.glyphs == Glyphs::Ascii { 4 } else { 2 };
        // Beside an address there is a space, however long the name.
        let name = name + mark + usize::from(address > 0);
        let used = 2 + name + address + 43;
        Self {
            name,
            address,
            bar: width.saturating_sub(used).min(40),
        }
    }
}

/// One Service.
pub fn of_service(report: &Report, face: &Face, look: &Look) -> Page {
    let columns = Columns::of(look, report);
    let mut body = vec![heading(&columns, report, look)];
    for (index, row) in report.backends.iter().enumerate() {
        body.push(backend(index, row, report, &columns, face, look));
    }
    body.push(lost(report, &columns, look));
    body.push(total(report, &columns));
    body.extend(said(
        " VERDICT  ",
        &signed(report.verdict.sentence.clone(), look),
        Role::Strong,
        look,
    ));
    for note in &report.notes {
        body.extend(said(" NOTE     ", note, Role::Plain, look));
    }
    body.extend(
        face.told
            .iter()
            .map(|told| Line::from(format!(" KEY      {told}"))),
    );
    body.push(Line::default());
    body.extend(curves(report, look));
    body.push(table(report, look));
    body.push(counters(report));
    body.push(Line::default());
    body.extend(changes(&report.changes, look, false));
    let address = report.address.clone().unwrap_or_default();
    let title = format!(
        " WATCH  svc/{}  {address}/{}",
        report.service,
        report.protocol.to_lowercase()
    );
    Page {
        title: Line::from(look.text(Role::Strong, title)),
        state: state(report.generation, face, look),
        body,
        rule: rule(report, face),
        keys: keys(&[("z", "zero"), ("space", "freeze"), ("q", "quit")]),
        focus: focus(face, look),
    }
}

/// A sentence on as many lines as it needs.
fn said(head: &str, text: &str, role: Role, look: &Look) -> Vec<Line<'static>> {
    let rows = wrapped(text, head, look).into_iter();
    rows.map(|mut row| {
        let text = row.split_off(head.len());
        Line::from(vec![Span::raw(row), look.text(role, text)])
    })
    .collect()
}

/// The chosen row where it is too far down to be seen at first; what is seen anyway holds nobody
/// who scrolls.
fn focus(face: &Face, look: &Look) -> Option<usize> {
    // Below the heading; title, rule and keys take five lines.
    let line = face.chosen? + 1;
    (line + 5 >= usize::from(look.height)).then_some(line)
}

fn keys(keys: &[(&str, &str)]) -> Vec<(String, String)> {
    keys.iter()
        .map(|(key, word)| ((*key).to_string(), (*word).to_string()))
        .collect()
}

fn state(generation: Option<u32>, face: &Face, look: &Look) -> String {
    let dot = look.sign(Sign::Dot);
    let rules = generation.map_or(String::new(), |number| format!("rules v{number} {dot} "));
    format!("{rules}{}", face.state)
}

/// The rule of the chosen backend, else the first.
fn rule(report: &Report, face: &Face) -> String {
    let chosen = face.chosen.and_then(|index| report.backends.get(index));
    let line = chosen.and_then(|row| row.rule.as_ref());
    format!(" {}", line.unwrap_or(&report.rule))
}

/// The Greek letter has no form in ASCII that is one letter wide.
fn signed(text: String, look: &Look) -> String {
    match look.glyphs {
        Glyphs::Ascii => text.replace("χ²", "chi2"),
        Glyphs::Unicode => text,
    }
}

fn heading(columns: &Columns, report: &Report, look: &Look) -> Line<'static> {
    let address = fit(
        if columns.address == 0 { "" } else { "address" },
        columns.address,
        look,
    );
    let scale = top(report);
    let scale = if columns.bar < 12 {
        String::new()
    } else {
        format!("0{:>width$.0}%", scale * 100.0, width = columns.bar - 2)
    };
    Line::from(format!(
        "  {}{address}{:>5} {:>9} {:>6} {:>6} {:>8}   {scale}",
        fit("backend", columns.name, look),
        "rule",
        "new conns",
        "/s",
        "share",
        "expected"
    ))
}

/// The share at the right end of the bars: one that all bands fit into.
fn top(report: &Report) -> f64 {
    let highest = report
        .backends
        .iter()
        .map(|row| row.share.max(row.expected))
        .fold(0.0, f64::max);
    let steps = [0.1, 0.2, 0.5, 1.0];
    steps
        .into_iter()
        .find(|step| highest * 1.2 <= *step)
        .unwrap_or(1.0)
}

fn backend(
    index: usize,
    row: &Row,
    report: &Report,
    columns: &Columns,
    face: &Face,
    look: &Look,
) -> Line<'static> {
    let mark = Mark::of(index);
    let here = if face.chosen == Some(index) {
        look.sign(Sign::Here)
    } else {
        " "
    };
    let name = fit(&format!("{} {}", mark.shape(look), row.name), columns.name, look);
    let address = fit(
        if columns.address == 0 { "" } else { &row.address },
        columns.address,
        look,
    );
    let figures = format!(
        "{address}{:>5} {:>9} {:>6} {:>6} {:>8}   ",
        row.rolls.as_deref().unwrap_or("gone"),
        row.connections,
        row.per_second,
        per_cent(row.share),
        per_cent(row.expected),
    );
    let end = if row.lost > 0 {
        // Who answers nobody has no share that could be compared.
        let lost = format!("{} {} lost", look.sign(Sign::No), row.lost);
        look.text(Role::Lost, fit(&lost, columns.bar, look))
    } else {
        let bar = bar(row, top(report), columns.bar, mark, look);
        Span::styled(bar, mark.style(look))
    };
    Line::from(vec![
        Span::raw(format!("{here} ")),
        Span::styled(name, mark.style(look)),
        Span::raw(figures),
        end,
    ])
}

fn per_cent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A bar as long as the share, with the band of luck drawn over it.
fn bar(row: &Row, top: f64, cells: usize, mark: Mark, look: &Look) -> String {
    let at = |share: f64| cell(share / top, cells);
    let edge = if look.glyphs == Glyphs::Ascii { '|' } else { '┊' };
    let (low, high) = (at(row.luck[0]), at(row.luck[1]));
    let full = at(row.share);
    let cell_of = |index: usize| {
        if row.in_rules && (index == low || index == high) {
            edge
        } else if index < full {
            mark.fill(look)
        } else {
            ' '
        }
    };
    (0..cells).map(cell_of).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "between 0 and the width of a screen"
)]
fn cell(part: f64, cells: usize) -> usize {
    (part.clamp(0.0, 1.0) * cells as f64).round() as usize
}

fn lost(report: &Report, columns: &Columns, look: &Look) -> Line<'static> {
    let lost = &report.lost;
    let name = fit(&format!("{} lost", look.sign(Sign::No)), columns.name, look);
    let role = if lost.connections > 0 {
        Role::Lost
    } else {
        Role::Plain
    };
    let gap = " ".repeat(columns.address);
    let why = if lost.connections == 0 || columns.bar < 24 {
        String::new()
    } else {
        format!("{} no rule, {} no answer", lost.no_backend, lost.unanswered)
    };
    let figures = format!(
        "{gap}{:>5} {:>9} {:>6} {:>6} {:>8}   {why}",
        "-",
        lost.connections,
        lost.per_second,
        per_cent(lost.share),
        per_cent(lost.no_backend_expected)
    );
    Line::from(vec![
        Span::raw("  "),
        look.text(role, name),
        look.text(role, figures),
    ])
}

fn total(report: &Report, columns: &Columns) -> Line<'static> {
    let gap = " ".repeat(2 + columns.name + columns.address);
    let legend = if columns.bar < 22 {
        "┊ ┊ luck, 95 %"
    } else {
        "┊ ┊ = luck alone, 95 %"
    };
    Line::from(format!(
        "{gap}{:>5} {:>9} {:>6} {:>15}   {legend}",
        "all", report.connections, report.per_second, ""
    ))
}

fn curves(report: &Report, look: &Look) -> Vec<Line<'static>> {
    let rows = report
        .backends
        .iter()
        .enumerate()
        .filter(|(_, row)| row.in_rules || row.connections > 0);
    let rows: Vec<_> = rows.take(6).collect();
    let highest = rows
        .iter()
        .flat_map(|(_, row)| &row.history)
        .copied()
        .max()
        .unwrap_or(0);
    let lines = rows.iter().enumerate().map(|(line, (index, row))| {
        let mark = Mark::of(*index);
        let head = if line == 0 { " LAST 30 s  " } else { "            " };
        let curve: String = row
            .history
            .iter()
            .map(|count| level(*count, highest, look))
            .collect();
        let tail = if line == 0 {
            format!("   highest: {highest} /s")
        } else {
            String::new()
        };
        Line::from(vec![
            Span::raw(head),
            Span::styled(fit(&mark.shape(look), 4, look), mark.style(look)),
            Span::styled(curve, mark.style(look)),
            Span::raw(tail),
        ])
    });
    lines.collect()
}

/// How high one second stands among all.
fn level(count: u64, highest: u64, look: &Look) -> char {
    const UNICODE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const ASCII: [char; 8] = ['.', ':', '-', '=', '+', '*', '%', '#'];
    if count == 0 {
        return if look.glyphs == Glyphs::Ascii { '_' } else { ' ' };
    }
    let step = usize::try_from((count * 8).div_ceil(highest.max(1)))
        .unwrap_or(8)
        .clamp(1, 8)
        - 1;
    if look.glyphs == Glyphs::Ascii {
        ASCII[step]
    } else {
        UNICODE[step]
    }
}

fn table(report: &Report, look: &Look) -> Line<'static> {
    let mut spans = vec![Span::raw(" CONNTRACK  ")];
    for (index, row) in report.backends.iter().enumerate().take(12) {
        let mark = Mark::of(index);
        spans.push(Span::styled(
            format!("{} {}  ", mark.shape(look), row.open),
            mark.style(look),
        ));
    }
    spans.push(Span::raw("open   "));
    let role = if report.stale > 0 {
        Role::Strong
    } else {
        Role::Plain
    };
    spans.push(look.text(role, format!("stale (backend gone) {}", report.stale)));
    Line::from(spans)
}

fn counters(report: &Report) -> Line<'static> {
    let counters = &report.counters;
    Line::from(format!(
        " COUNTERS   entered {}  taken {}  fell through {}  refused {}  restarts {}",
        counters.entered, counters.taken, counters.lost, counters.refused, counters.restarts
    ))
}

fn changes(changes: &[Change], look: &Look, named: bool) -> Vec<Line<'static>> {
    if changes.is_empty() {
        return vec![Line::from(" RULES      no change since counting began")];
    }
    let mut lines = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        let head = if index == 0 { " RULES     " } else { "           " };
        let version = change
            .generation
            .map_or(String::new(), |number| format!(" v{number}"));
        let node = change
            .node
            .as_ref()
            .map_or(String::new(), |node| format!(" {node}"));
        let service = if named {
            format!(" {}", change.service)
        } else {
            String::new()
        };
        lines.push(Line::from(vec![
            Span::raw(head),
            look.text(
                Role::Strong,
                format!(
                    " {}{version}{node}{service}  {}",
                    change.time,
                    change.what.join(", ")
                ),
            ),
            Span::raw(format!("  by {}", by(change))),
        ]));
        let went = change.removed.iter().map(|line| ('-', line));
        let came = change.added.iter().map(|line| ('+', line));
        let rules = went.chain(came).map(|(sign, line)| {
            Line::from(format!(
                "              {sign} #{} {} {}",
                line.number, line.backend, line.rolls
            ))
        });
        lines.extend(rules);
    }
    lines
}

/// All Services.
pub fn of_all(overview: &Overview, face: &Face, look: &Look) -> Page {
    let width = usize::from(look.width);
    let longest = overview
        .services
        .iter()
        .map(|service| service.service.chars().count())
        .max()
        .unwrap_or(8);
    let name = longest.clamp(12, if width < 90 { 26 } else { 48 });
    let mut body = vec![Line::from(format!(
        "  {} {:>4} {:>8} {:>9} {:>6} {:>5} {:>5} {:>5}  verdict",
        fit("Service", name, look),
        "",
        "backends",
        "new conns",
        "/s",
        "lost",
        "open",
        "stale"
    ))];
    body.extend(
        overview
            .services
            .iter()
            .enumerate()
            .map(|(index, service)| summary(index, service, name, face, look)),
    );
    for note in &overview.notes {
        body.extend(said(" NOTE     ", note, Role::Plain, look));
    }
    body.push(Line::default());
    body.extend(changes(&overview.changes, look, true));
    Page {
        title: Line::from(look.text(Role::Strong, " WATCH  all Services")),
        state: face.state.clone(),
        body,
        rule: String::new(),
        keys: keys(&[("z", "zero"), ("space", "freeze"), ("q", "quit")]),
        focus: focus(face, look),
    }
}

fn summary(index: usize, service: &Summary, name: usize, face: &Face, look: &Look) -> Line<'static> {
    let here = if face.chosen == Some(index) {
        look.sign(Sign::Here)
    } else {
        " "
    };
    let role = if service.lost > 0 { Role::Lost } else { Role::Plain };
    // Beside the figures there is room for a word, or for a sentence.
    let verdict = if look.width < 130 && look.height > 0 {
        service.verdict.word.text().to_string()
    } else {
        signed(service.verdict.sentence.clone(), look)
    };
    Line::from(vec![
        Span::raw(format!(
            "{here} {} {:>4} {:>8} {:>9} {:>6} ",
            fit(&service.service, name, look),
            service.protocol,
            service.backends,
            service.connections,
            service.per_second
        )),
        look.text(role, format!("{:>5}", service.lost)),
        Span::raw(format!(" {:>5} {:>5}  {verdict}", service.open, service.stale)),
    ])
}
