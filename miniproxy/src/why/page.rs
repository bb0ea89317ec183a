//! The findings as a screen.

use labkit::screen::page::fit;
use labkit::screen::{Flow, Key, Line, Look, Page, Role, Show, Sign};
use labkit::text::count;
use ratatui::text::Span;

use super::call::{Place, Via};
use super::report::Report;

/// The findings, shown until a key ends them.
#[derive(Debug)]
pub struct Screen {
    /// What is shown.
    pub report: Report,
    /// What the keys `e` and `t` run, with the target as their last word.
    pub target: String,
}

impl Show for Screen {
    fn page(&mut self, look: &Look) -> Page {
        page(&self.report, look)
    }

    fn key(&mut self, key: Key) -> Flow {
        let word = match key {
            Key::Char('e') => "explain",
            Key::Char('t') => "trace",
            _ => return Flow::Pass,
        };
        let Ok(program) = std::env::current_exe() else {
            return Flow::Pass;
        };
        let mut command = std::process::Command::new(program);
        command.args([word, &self.target]);
        Flow::Run(Box::new(command))
    }
}

/// The page of a report.
pub fn page(report: &Report, look: &Look) -> Page {
    let mut body = Vec::new();
    if report.is_well() {
        body.push(Line::from(vec![
            look.text(Role::Good, format!(" {} ", look.sign(Sign::Yes))),
            look.text(Role::Strong, report.sentence.clone()),
        ]));
    }
    for finding in &report.findings {
        let sure = if finding.certain { "" } else { " (likely)" };
        body.push(Line::from(vec![
            look.text(Role::Lost, format!(" {} ", look.sign(Sign::No))),
            look.text(Role::Strong, format!("{}{sure}", finding.cause)),
        ]));
        body.extend(wrapped(&finding.sentence, "   ", look));
        for seen in &finding.evidence {
            body.extend(wrapped(seen, &format!("   {} ", look.sign(Sign::Dot)), look));
        }
        for command in &finding.cure {
            body.push(Line::from(vec![
                Span::raw("   cure: "),
                look.text(Role::Hot, command.clone()),
            ]));
        }
        body.push(Line::default());
    }
    if !report.unknown.is_empty() {
        body.push(Line::from(look.text(Role::Lost, " I don't know, but I saw:")));
        for seen in &report.unknown {
            body.extend(wrapped(seen, &format!("   {} ", look.sign(Sign::Dot)), look));
        }
        body.push(Line::default());
    }
    table(report, look, &mut body);
    names(report, look, &mut body);
    for (head, lines) in [("note", &report.notes), ("not looked at", &report.not_looked_at)] {
        for line in lines {
            body.extend(wrapped(line, &format!(" {head}: "), look));
        }
    }
    let keys = [("e", "explain"), ("t", "trace"), ("q", "quit")];
    Page {
        title: Line::from(look.text(Role::Strong, format!(" WHY svc/{}", report.service))),
        state: state(report),
        body,
        rule: rule(report),
        keys: keys
            .map(|(key, word)| (key.to_string(), word.to_string()))
            .to_vec(),
        focus: None,
    }
}

fn state(report: &Report) -> String {
    match (report.findings.len(), report.unknown.is_empty()) {
        (0, true) => "nothing is wrong ".into(),
        (0, false) => "unexplained ".into(),
        (1, _) => "1 cause ".into(),
        (several, _) => format!("{several} causes "),
    }
}

/// The rule that the first finding is about, word for word.
fn rule(report: &Report) -> String {
    let mut evidence = report.findings.iter().flat_map(|finding| &finding.evidence);
    let rule = evidence.find_map(|seen| seen.find("-A ").map(|at| seen[at..].to_string()));
    rule.unwrap_or_default()
}

fn table(report: &Report, look: &Look, body: &mut Vec<Line<'static>>) {
    let shown = |via: Via| report.places.iter().filter(move |place| place.via == via);
    let lost = |place: &&Place| place.answered < place.calls;
    // Straight calls are told where they are lost: the others say nothing that a reader asks.
    let rows: Vec<&Place> = shown(Via::Service)
        .chain(shown(Via::Backend).filter(lost))
        .collect();
    if rows.is_empty() {
        return;
    }
    let head = format!(
        "   {} {} {} {} PLACE",
        fit("FROM", 17, look),
        fit("GOT", 4, look),
        fit("SAID", 17, look),
        fit("TO", 16, look)
    );
    body.push(Line::from(look.text(Role::Strong, head)));
    for place in rows {
        let (sign, role) = if lost(&place) {
            (Sign::No, Role::Lost)
        } else {
            (Sign::Yes, Role::Good)
        };
        let got = format!("{}/{}", place.answered, place.calls);
        let said = format!("{} {} ms", place.word.text(), place.ms);
        body.push(Line::from(vec![
            look.text(role, format!(" {} ", look.sign(sign))),
            Span::raw(format!(
                "{} {} {} {} {}",
                fit(&place.from, 17, look),
                fit(&got, 4, look),
                fit(&said, 17, look),
                fit(&place.to, 16, look),
                place.place.text()
            )),
        ]));
    }
    body.push(Line::default());
}

/// What pods were told of the name: the same answer once, with how many got it.
fn names(report: &Report, look: &Look, body: &mut Vec<Line<'static>>) {
    let mut told: Vec<(bool, String, usize)> = Vec::new();
    for lookup in &report.names {
        let what = format!("{} {}", lookup.name, lookup.answer());
        match told.iter_mut().find(|(_, known, _)| *known == what) {
            Some((_, _, pods)) => *pods += 1,
            None => told.push((lookup.is_right(), what, 1)),
        }
    }
    for (right, what, pods) in told {
        let (sign, role) = if right {
            (Sign::Yes, Role::Good)
        } else {
            (Sign::No, Role::Lost)
        };
        body.push(Line::from(vec![
            look.text(role, format!(" {} ", look.sign(sign))),
            Span::raw(format!("{what} (asked in {})", count(pods, "pod"))),
        ]));
    }
}

/// Words on as many lines as they need; the first begins with `head`, the others stand below it.
fn wrapped(text: &str, head: &str, look: &Look) -> Vec<Line<'static>> {
    let width = usize::from(look.width).max(20);
    let indent = " ".repeat(head.chars().count());
    let mut lines = vec![head.to_string()];
    let mut fresh = true;
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if !fresh && last + 1 + word.chars().count() > width {
            lines.push(indent.clone());
            fresh = true;
        }
        if let Some(line) = lines.last_mut() {
            if !fresh {
                line.push(' ');
            }
            line.push_str(word);
        }
        fresh = false;
    }
    lines.into_iter().map(Line::from).collect()
}
