//! The findings as a screen.

use labkit::screen::page::{fit, wrapped};
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
        let head = format!(" {} ", look.sign(Sign::Yes));
        headed(&mut body, &report.sentence, &head, Role::Good, Role::Strong, look);
        body.push(Line::default());
    }
    for finding in &report.findings {
        let sure = if finding.certain { "" } else { " (likely)" };
        body.push(Line::from(vec![
            look.text(Role::Lost, format!(" {} ", look.sign(Sign::No))),
            look.text(Role::Strong, format!("{}{sure}", finding.cause)),
        ]));
        plain(&mut body, &finding.sentence, "   ", look);
        for seen in &finding.evidence {
            plain(&mut body, seen, &format!("   {} ", look.sign(Sign::Dot)), look);
        }
        for command in &finding.cure {
            headed(&mut body, command, "   cure: ", Role::Plain, Role::Hot, look);
        }
        body.push(Line::default());
    }
    if !report.unknown.is_empty() {
        body.push(Line::from(look.text(Role::Lost, " I don't know, but I saw:")));
        for seen in &report.unknown {
            plain(&mut body, seen, &format!("   {} ", look.sign(Sign::Dot)), look);
        }
        body.push(Line::default());
    }
    table(report, look, &mut body);
    names(report, look, &mut body);
    for (head, lines) in [("note", &report.notes), ("not looked at", &report.not_looked_at)] {
        for line in lines {
            plain(&mut body, line, &format!(" {head}: "), look);
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

/// Words on as many lines as they need.
fn plain(body: &mut Vec<Line<'static>>, text: &str, head: &str, look: &Look) {
    body.extend(wrapped(text, head, look).into_iter().map(Line::from));
}

/// The same, with what they begin with in a role of its own.
fn headed(body: &mut Vec<Line<'static>>, text: &str, head: &str, of_head: Role, of_text: Role, look: &Look) {
    for line in wrapped(text, head, look) {
        let at = head.len().min(line.len());
        let (first, rest) = line.split_at_checked(at).unwrap_or(("", &line));
        body.push(Line::from(vec![
            look.text(of_head, first.to_string()),
            look.text(of_text, rest.to_string()),
        ]));
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
