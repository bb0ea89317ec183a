//! The report as a screen.

use labkit::screen::look::{Role, Sign};
use labkit::screen::page::fit;
use labkit::screen::{Line, Look, Mark, Page, Span};

use super::{Backend, Masquerade, NOTHING, Report, Roll, Step, Verdict, fraction, heading, percent};

/// A line of the body, with the rule that it is about.
struct Row {
    line: Line<'static>,
    rule: Option<String>,
}

impl Row {
    fn of(line: impl Into<Line<'static>>) -> Self {
        Self {
            line: line.into(),
            rule: None,
        }
    }

    fn about(mut self, rule: &str) -> Self {
        self.rule = Some(rule.to_string());
        self
    }
}

/// The screen, with the rule of this number (of those on it) chosen; the dice where none is.
pub fn page(report: &Report, look: &Look, chosen: Option<usize>) -> Page {
    let mut rows = rows(report, look);
    let with_rule: Vec<usize> = (0..rows.len())
        .filter(|index| rows[*index].rule.is_some())
        .collect();
    let at = match chosen {
        Some(chosen) => with_rule
            .get(chosen.min(with_rule.len().saturating_sub(1)))
            .copied(),
        None => first(report, &rows).or_else(|| with_rule.last().copied()),
    };
    let rule = at.and_then(|at| rows[at].rule.clone()).unwrap_or_default();
    if let Some(row) = at.and_then(|at| rows.get_mut(at)) {
        mark_chosen(row, look);
    }
    Page {
        title: heading::title(report, look),
        state: heading::state(report, look),
        body: rows.into_iter().map(|row| row.line).collect(),
        rule: format!(" {rule}"),
        keys: Vec::new(),
        focus: at.filter(|_| chosen.is_some()),
    }
}

/// How many rules on the screen can be chosen, and which one is at first.
pub fn choices(report: &Report, look: &Look) -> (usize, usize) {
    let rows = rows(report, look);
    let with_rule: Vec<usize> = (0..rows.len())
        .filter(|index| rows[*index].rule.is_some())
        .collect();
    let first = first(report, &rows).and_then(|at| with_rule.iter().position(|index| *index == at));
    (
        with_rule.len(),
        first.unwrap_or(with_rule.len().saturating_sub(1)),
    )
}

/// The rule to look at first: the first dice, or the one that came nearest.
fn first(report: &Report, rows: &[Row]) -> Option<usize> {
    let text = match (report.dice.first(), &report.nearest) {
        (Some(roll), _) => &roll.text,
        (None, Some(near)) => &near.text,
        (None, None) => return None,
    };
    rows.iter().rposition(|row| row.rule.as_ref() == Some(text))
}

fn mark_chosen(row: &mut Row, look: &Look) {
    let here = Span::styled(look.sign(Sign::Here).to_string(), look.style(Role::Strong));
    match row.line.spans.first_mut() {
        Some(first) if first.content.starts_with(' ') => {
            let rest = first.content[1..].to_string();
            first.content = rest.into();
            row.line.spans.insert(0, here);
        }
        _ => {}
    }
}

fn rows(report: &Report, look: &Look) -> Vec<Row> {
    let mut rows = packet(report, look);
    rows.extend(way(report, look));
    rows.extend(dice(report, look));
    rows.extend(outcome(report, look));
    rows.extend(doubts(report, look));
    rows.extend(checks(report, look));
    rows.extend(after(report, look));
    rows
}

const LABEL: usize = 9;

/// A heading in capitals, and what it heads, as many lines as it takes.
fn fact(look: &Look, label: &str, role: Role, text: &str) -> Vec<Row> {
    let room = usize::from(look.width).saturating_sub(LABEL + 1).max(20);
    let lines = wrapped(text, room);
    let rows = lines.into_iter().enumerate().map(|(index, line)| {
        let label = if index == 0 { label } else { "" };
        Row::of(vec![
            look.text(Role::Strong, format!(" {label:<width$}", width = LABEL - 1)),
            look.text(role, line),
        ])
    });
    rows.collect()
}

/// Words on lines of so many cells; a longer word has a line of its own.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > room {
            lines.push(word.to_string());
        } else if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn packet(report: &Report, look: &Look) -> Vec<Row> {
    let packet = &report.packet;
    let to = heading::destination(packet);
    let way = match (&packet.interface, packet.made_here) {
        (_, true) => ", made here".to_string(),
        (Some(interface), false) => format!(", in by {interface}"),
        (None, false) => String::new(),
    };
    let text = format!(
        "{} {} {to}  {} NEW{way}",
        packet.source,
        look.sign(Sign::To),
        packet.protocol
    );
    let mut rows = fact(look, "PACKET", Role::Plain, &text);
    if let Some(why) = &packet.chosen {
        rows.extend(fact(look, "", Role::Quiet, &format!("(sent by {why})")));
    }
    // Why all of what follows is needed; it takes the place of a blank line.
    let owner = report.checks.iter().find(|check| check.name == "noOwner");
    match owner {
        Some(check) => rows.extend(fact(look, "", Role::Quiet, &format!("({})", check.text))),
        None => rows.push(Row::of("")),
    }
    rows
}

/// Chains have names of 25 letters; where there is room for two of them beside what is asked, they stay.
fn columns(look: &Look) -> (usize, usize) {
    match look.width {
        0..=69 => (16, 0),
        70..=99 => (22, 24),
        100..=139 => (25, 34),
        _ => (28, 60),
    }
}

fn hop(report: &Report, step: &Step, look: &Look) -> Row {
    let (chain, asks) = columns(look);
    let lead = if look.width >= 100 {
        format!(" {:<7}", step.table)
    } else {
        " ".into()
    };
    let number = format!("#{}", step.rule);
    let asked = if asks > 0 {
        fit(&step.asks, asks, look) + " "
    } else {
        String::new()
    };
    let to = look.sign(Sign::To);
    let did = match step.did.strip_prefix("goes to ") {
        Some(target) => format!("{to} {target}"),
        None => step.did.clone(),
    };
    let share = if step.perhaps && step.matched < 1e-9 {
        " (perhaps)".into()
    } else if step.matched < 0.999_999 && !report.dice.is_empty() {
        format!(" ({})", percent(step.matched))
    } else {
        String::new()
    };
    Row::of(vec![look.text(
        Role::Plain,
        format!(
            "{lead}{} {number:<4} {asked}{did}{share}",
            fit(&step.chain, chain, look)
        ),
    )])
    .about(&step.text)
}

/// Rules of the nat table on the way to the dice.
fn way(report: &Report, look: &Look) -> Vec<Row> {
    let chosen = |step: &&Step| {
        let dice = report
            .dice
            .iter()
            .any(|roll| roll.chain == step.chain && roll.rule == step.rule);
        let backend = report.backends.iter().any(|backend| backend.chain == step.chain);
        step.table == "nat" && !dice && !backend && !is_after(step)
    };
    let mut rows: Vec<Row> = report
        .hops
        .iter()
        .filter(chosen)
        .map(|step| hop(report, step, look))
        .collect();
    if !rows.is_empty() {
        rows.push(Row::of(""));
    }
    rows
}

fn is_after(step: &Step) -> bool {
    step.table != "nat" || step.chain.contains("POSTROUTING")
}

/// Rules of other tables, and of the way out.
fn after(report: &Report, look: &Look) -> Vec<Row> {
    let mut rows = Vec::new();
    let all = report.hops.iter().filter(|step| {
        is_after(step)
            || (step.table == "nat" && report.backends.iter().any(|backend| backend.chain == step.chain))
    });
    for step in all {
        if rows.is_empty() {
            rows.push(Row::of(""));
            rows.push(Row::of(look.text(Role::Strong, " OTHER RULES IT MATCHES")));
        }
        rows.push(hop(report, step, look));
    }
    rows
}

fn dice(report: &Report, look: &Look) -> Vec<Row> {
    if report.dice.is_empty() {
        return Vec::new();
    }
    let wide = look.width >= 100;
    let narrow = look.width < 70;
    let mut rows = Vec::new();
    let mut chain = "";
    for roll in &report.dice {
        if roll.chain != chain {
            chain = &roll.chain;
            let heading = match (wide, narrow) {
                (true, _) => " DICE   rule  rolls    still here   share of ALL new connections    goes to",
                (_, true) => " DICE   rule  rolls   of ALL",
                _ => " DICE   rule  rolls    still here   of ALL",
            };
            rows.push(Row::of(look.text(Role::Strong, heading)));
            if report.dice.iter().any(|other| other.chain != roll.chain) {
                rows.push(Row::of(look.text(Role::Quiet, format!("        in {chain}"))));
            }
        }
        rows.push(roll_row(report, roll, look).about(&roll.text));
    }
    rows.push(falls(report, look));
    rows.extend(not_known(report, look));
    if let Some(chance) = report.dice.iter().find_map(|roll| roll.rolls).filter(|_| wide) {
        let stored = (chance * 2_147_483_648.0).round();
        let text = format!(
            "        the kernel keeps {} as {stored:.0}/2^31 = {chance:.11}",
            fraction(chance)
        );
        rows.push(Row::of(look.text(Role::Quiet, text)));
    }
    rows.push(Row::of(""));
    rows
}

fn roll_row(report: &Report, roll: &Roll, look: &Look) -> Row {
    let backend = &report.backends[roll.goes_to];
    let mark = Mark::of(roll.goes_to);
    let number = format!("#{}", roll.rule);
    let rolls = roll.rolls.map_or("no dice".into(), fraction);
    let share = percent(roll.share);
    let still = percent(roll.still_here);
    let text = match look.width {
        0..=69 => format!("        {number:<5} {rolls:<7} {share:>6}  "),
        70..=99 => format!("        {number:<5} {rolls:<8} {still:>10} {share:>9}   "),
        _ => {
            let cells = (roll.share * 20.0).round();
            // A share of 1 has 20 cells: the cast cannot truncate.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bar: String = std::iter::repeat_n(mark.fill(look), cells.clamp(0.0, 20.0) as usize).collect();
            format!("        {number:<5} {rolls:<8} {still:>10}   {share:>6} {bar:<20}    ")
        }
    };
    Row::of(vec![
        look.text(Role::Plain, text),
        mark.named(look, &label(backend)),
        look.text(Role::Plain, counted(roll)),
    ])
}

fn counted(roll: &Roll) -> String {
    roll.packets
        .filter(|packets| *packets > 0)
        .map(|packets| format!("  ({packets})"))
        .unwrap_or_default()
}

fn label(backend: &Backend) -> String {
    match &backend.name {
        Some(name) => format!("{name} {}", backend.address),
        None => backend.address.clone(),
    }
}

fn falls(report: &Report, look: &Look) -> Row {
    let lost = report.falls_through > 1e-9;
    let (role, sign) = match (lost, report.not_known > NOTHING) {
        (true, _) => (Role::Lost, look.sign(Sign::No)),
        (false, false) => (Role::Good, look.sign(Sign::Yes)),
        (false, true) => (Role::Plain, "?"),
    };
    let word = if lost { " LOST" } else { "" };
    rest(
        "falls through",
        report.falls_through,
        role,
        &format!("{sign}{word}"),
        look,
    )
}

fn not_known(report: &Report, look: &Look) -> Option<Row> {
    (report.not_known > NOTHING).then(|| rest("not known", report.not_known, Role::Lost, "?", look))
}

/// A share that no backend gets, below theirs.
fn rest(what: &str, share: f64, role: Role, sign: &str, look: &Look) -> Row {
    let width = match look.width {
        0..=69 => 20,
        70..=99 => 32,
        _ => 33,
    };
    let text = format!(
        "        {what}{:>width$}   {sign}",
        percent(share),
        width = width - what.len()
    );
    Row::of(look.text(role, text))
}

fn outcome(report: &Report, look: &Look) -> Vec<Row> {
    let mut rows = Vec::new();
    let packet = &report.packet;
    if report.verdict == Verdict::Dnat {
        let text = format!(
            "dst {} {} {}, the only edit{}",
            heading::destination(packet),
            look.sign(Sign::Rewrite),
            match report.backends.as_slice() {
                [only] => only.address.as_str(),
                _ => "the winner's address and port",
            },
            match (report.end_known, report.not_understood.is_empty()) {
                (true, _) => "",
                (_, true) => ", if rules that are not here let it pass",
                _ => ", if what is in DOUBT lets it pass",
            }
        );
        rows.extend(fact(look, "DNAT", Role::Plain, &text));
        if !report.losses().is_empty() {
            let text = format!("{} {}", look.sign(Sign::No), report.sentence);
            rows.extend(fact(look, "VERDICT", Role::Lost, &text));
        }
    } else {
        let role = if report.verdict.connects() {
            Role::Plain
        } else {
            Role::Lost
        };
        let sign = look.sign(if report.verdict.connects() {
            Sign::To
        } else {
            Sign::No
        });
        let text = format!("{sign} {}: {}", report.verdict.word(), report.sentence);
        rows.extend(fact(look, "VERDICT", role, &text));
    }
    let dot = format!(" {} ", look.sign(Sign::Dot));
    let mut parts: Vec<String> = report
        .ends
        .iter()
        .filter_map(|end| {
            let share = if report.ends.len() > 1 {
                format!(" {}", percent(end.share))
            } else {
                String::new()
            };
            end.by.as_ref().map(|by| format!("{by}: {}{share}", end.verdict))
        })
        .collect();
    if report.verdict == Verdict::Dnat {
        parts.push(match report.masquerade {
            Masquerade::No => "no masquerade".into(),
            Masquerade::Yes => format!("mark {}: masquerade", report.mark),
            Masquerade::Some => format!("mark {} for some: masquerade", report.mark),
            Masquerade::Unknown => "masquerade in doubt".into(),
        });
    }
    if report.verdict.connects() {
        parts.push(match &report.backend_sees {
            Some(ip) => format!("backend sees {ip} ({})", report.backend_sees_what),
            None => format!("backend sees {}", report.backend_sees_what),
        });
    }
    if !parts.is_empty() {
        rows.extend(fact(look, "AFTER", Role::Plain, &parts.join(&dot)));
    }
    rows.extend(fact(look, "BACK", Role::Plain, &report.way_back));
    if let Some(near) = &report.nearest {
        let text = format!("{} #{}: {}", near.chain, near.rule, near.what);
        let mut lines = fact(look, "WHY NOT", Role::Plain, &text).into_iter();
        rows.extend(lines.next().map(|row| row.about(&near.text)));
        rows.extend(lines);
    }
    rows.push(Row::of(""));
    rows
}

fn doubts(report: &Report, look: &Look) -> Vec<Row> {
    let mut rows = Vec::new();
    for rule in &report.not_understood {
        let number = rule.rule.map(|number| format!(" #{number}")).unwrap_or_default();
        let owner = rule.owner.map(|owner| format!(" of {owner}")).unwrap_or_default();
        let text = format!(
            "{} {}{number}{owner}: {} ({})",
            rule.table,
            rule.chain,
            rule.why,
            percent(rule.share)
        );
        let mut lines = fact(look, "DOUBT", Role::Plain, &text).into_iter();
        rows.extend(lines.next().map(|row| row.about(&rule.text)));
        rows.extend(lines);
    }
    for note in &report.notes {
        rows.extend(fact(look, "NOTE", Role::Quiet, note));
    }
    rows
}

fn checks(report: &Report, look: &Look) -> Vec<Row> {
    let told = report.checks.iter().map(|check| {
        let sign = match check.ok {
            Some(true) => look.sign(Sign::Yes),
            Some(false) => look.sign(Sign::No),
            None => "?",
        };
        // A blank that no line is broken at.
        format!("{sign}\u{a0}{}", check.text.replace(' ', "\u{a0}"))
    });
    let text = told.collect::<Vec<_>>().join(" ");
    let mut rows = fact(look, "CHECKS", Role::Plain, &text);
    for row in &mut rows {
        for span in &mut row.line.spans {
            span.content = span.content.replace('\u{a0}', " ").into();
        }
    }
    rows
}
