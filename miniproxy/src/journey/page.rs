//! The story as a screen.

use labkit::screen::look::{Role, Sign};
use labkit::screen::page::{fit, wrapped};
use labkit::screen::{Line, Look, Page, Span};

use super::make::REST;
use super::{Hop, Report, Word};

/// Lines of a page that are not of its body.
const BANDS: usize = 5;

/// The screen with so many hops of the story told; all of them where `None`.
pub fn page(report: &Report, look: &Look, told: Option<usize>, all: bool) -> Page {
    let hops = shown(report, all);
    let count = told.unwrap_or(hops.len()).min(hops.len());
    let at = match told {
        Some(_) => count.checked_sub(1),
        None => hops
            .iter()
            .position(|hop| hop.dice || hop.what == REST)
            .or_else(|| hops.len().checked_sub(1)),
    };
    let mut body = cables(report, look, told.is_none() || count >= hops.len());
    body.push(Line::default());
    let columns = Columns::of(look, report);
    body.push(Line::from(look.text(Role::Strong, columns.header(look))));
    let mut focus = None;
    let mut node = None;
    for (index, hop) in hops.iter().take(count).enumerate() {
        if hop.node != node {
            node.clone_from(&hop.node);
            let name = node.clone().unwrap_or_default();
            body.push(Line::from(look.text(Role::Strong, format!(" on {name}"))));
        }
        if Some(index) == at {
            focus = Some(body.len());
        }
        body.push(columns.row(index, hop, look, Some(index) == at));
    }
    if count == hops.len() {
        body.extend(ending(report, look));
        if look.height > 0 && body.len() + BANDS > usize::from(look.height) {
            // What matters most is seen before anybody scrolls.
            let verdict = verdict(report, look);
            focus = focus.map(|line| line + verdict.len());
            body.splice(0..0, verdict);
        }
    }
    let rule = at
        .and_then(|at| hops.get(at))
        .map(|hop| hop.text.clone())
        .unwrap_or_default();
    Page {
        title: title(report, look),
        state: state(report, look),
        body,
        rule: format!(" {rule}"),
        keys: Vec::new(),
        focus: focus.filter(|_| told.is_some()),
    }
}

/// How many hops the story has.
pub fn hop_count(report: &Report, all: bool) -> usize {
    shown(report, all).len()
}

/// Jumps into chains that say nothing more about this packet are left out.
fn shown(report: &Report, all: bool) -> Vec<&Hop> {
    let tells = |index: usize, hop: &Hop| {
        let returns = report
            .hops
            .get(index + 1)
            .is_none_or(|next| next.what == "RETURN" || next.hook != hop.hook);
        let leads_nowhere = hop.what.starts_with("jump ") && {
            let chain = hop.what.trim_start_matches("jump ");
            let later = &report.hops[index + 1..];
            !later
                .iter()
                .any(|later| later.chain == chain && later.node == hop.node)
        };
        let silent = hop.what == "policy ACCEPT"
            && (hop.table == "raw" || hop.table == "mangle" || hop.chain == "POSTROUTING");
        !(silent || leads_nowhere || (hop.what.starts_with("jump ") && returns && hop.chain != "PREROUTING"))
    };
    let hops = report.hops.iter().enumerate();
    hops.filter(|(index, hop)| all || tells(*index, hop))
        .map(|(_, hop)| hop)
        .collect()
}

fn title(report: &Report, look: &Look) -> Line<'static> {
    let call = &report.call;
    let to = call
        .service
        .as_deref()
        .map_or_else(|| call.destination.clone(), |name| format!("svc/{}", short(name)));
    Line::from(vec![
        look.text(Role::Strong, " TRACE "),
        look.text(
            Role::Plain,
            format!("{} {} {to}", short(&call.from), look.sign(Sign::To)),
        ),
    ])
}

/// What everybody calls it, in the namespace that everybody is in.
fn short(name: &str) -> &str {
    name.strip_prefix("default/").unwrap_or(name)
}

fn state(report: &Report, look: &Look) -> String {
    let id = report
        .trace_id
        .as_ref()
        .map(|id| format!("id {id} {} ", look.sign(Sign::Dot)))
        .unwrap_or_default();
    format!(
        "{id}{:.1} ms {} {} ",
        report.milliseconds,
        look.sign(Sign::Dot),
        report.outcome.word()
    )
}

fn cables(report: &Report, look: &Look, whole: bool) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for cable in &report.cables {
        if cable.end == "backend" && !whole {
            continue;
        }
        let arrow = if cable.end == "backend" {
            Sign::Rewrite
        } else {
            Sign::To
        };
        let same = cable.end == "backend" && report.same_packet;
        let sequence = cable.sequence.map(|number| format!("  seq {number}"));
        let (label, said) = match (look.width, same) {
            (0..76, true) => (fit(&format!(" {}", cable.end), 9, look), "  same seq".to_string()),
            (0..76, false) => (
                fit(&format!(" {}", cable.end), 9, look),
                sequence.unwrap_or_default(),
            ),
            (width, _) => {
                let label = fit(&format!(" {}'s cable", cable.end), 17, look);
                let same = match (same, width) {
                    (false, _) => "",
                    // The sequence number beside it says the rest where there is no room.
                    (true, 0..96) => "  same",
                    (true, _) => "  same packet",
                };
                (label, sequence.unwrap_or_default() + same)
            }
        };
        lines.push(Line::from(vec![
            look.text(Role::Strong, label),
            look.text(Role::Plain, format!("{} {} ", cable.source, look.sign(arrow))),
            look.text(Role::Strong, cable.destination.clone()),
            look.text(Role::Plain, said),
        ]));
    }
    if lines.is_empty() {
        lines.push(Line::from(format!(
            " {} {} {}",
            report.call.source,
            look.sign(Sign::To),
            report.call.destination
        )));
    }
    lines
}

/// How wide each column is; the destination is never left out.
struct Columns {
    chain: usize,
    rule: usize,
    what: usize,
    table: bool,
}

impl Columns {
    fn of(look: &Look, report: &Report) -> Self {
        let width = usize::from(look.width);
        let table = width >= 76;
        let (chain, mut what) = match width {
            0..76 => (12, 13),
            76..96 => (26, 21),
            _ => (30, 34),
        };
        let longest = report.hops.iter().map(|hop| hop.destination_now.len()).max();
        if table {
            // Number, gaps, the rule's number and the arrow.
            let used = 4 + chain + 1 + 5 + 1 + 3 + longest.unwrap_or(0);
            what = what.min(width.saturating_sub(used)).max(12);
        }
        Self {
            chain,
            rule: if table { 5 } else { 4 },
            what,
            table,
        }
    }

    fn header(&self, look: &Look) -> String {
        format!(
            "  #  {} {} {}  {}",
            fit(
                if self.table { "table and chain" } else { "chain" },
                self.chain,
                look
            ),
            fit("rule", self.rule, look),
            fit("what happened", self.what, look),
            "destination now"
        )
    }

    fn row(&self, index: usize, hop: &Hop, look: &Look, chosen: bool) -> Line<'static> {
        let chain = if self.table && !hop.table.is_empty() {
            format!("{} {}", hop.table, hop.chain)
        } else {
            hop.chain.clone()
        };
        let rule = match (hop.rule, hop.table.is_empty()) {
            (Some(number), _) => format!("#{number}"),
            (None, true) => String::new(),
            (None, false) if hop.what.starts_with("policy") => "pol".into(),
            (None, false) => "?".into(),
        };
        let here = if chosen { look.sign(Sign::Here) } else { " " };
        let arrow = if hop.rewrites {
            look.sign(Sign::Rewrite)
        } else {
            "  "
        };
        let role = match () {
            () if hop.dice || hop.rewrites || hop.what == REST => Role::Strong,
            () if hop.what.contains("DROP") || hop.what.contains("REJECT") => Role::Lost,
            () => Role::Plain,
        };
        Line::from(vec![
            Span::raw(format!("{here}{:>2}  ", index + 1)),
            look.text(
                Role::Plain,
                format!(
                    "{} {} ",
                    fit(&chain, self.chain, look),
                    fit(&rule, self.rule, look)
                ),
            ),
            look.text(role, fit(&hop.what, self.what, look)),
            look.text(role, format!("{arrow} {}", hop.destination_now)),
        ])
    }
}

fn ending(report: &Report, look: &Look) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    let reply = &report.reply;
    let from = reply.source.as_deref().or(reply.seen_as.as_deref());
    if let Some(from) = from {
        lines.push(Line::from(vec![
            look.text(Role::Strong, " REPLY  "),
            look.text(
                Role::Plain,
                format!("{from} {} {}", look.sign(Sign::To), report.call.source),
            ),
        ]));
    }
    let label = if from.is_some() { "        " } else { " REPLY  " };
    lines.push(Line::from(vec![
        look.text(Role::Strong, label),
        look.text(Role::Plain, reply.sentence.clone()),
    ]));
    if let Some(entry) = &report.conntrack {
        let assured = if entry.assured { " [ASSURED]" } else { "" };
        lines.push(Line::from(vec![
            look.text(Role::Strong, " CT     "),
            look.text(
                Role::Plain,
                format!(
                    "asked {}  real {}  {}{assured}",
                    report.call.destination,
                    entry.expects_from,
                    entry.state.unwrap_or_default()
                ),
            ),
        ]));
    }
    if !report.not_taken.is_empty() {
        let roads: Vec<String> = report
            .not_taken
            .iter()
            .take(4)
            .map(|road| {
                let to = road
                    .backend
                    .as_ref()
                    .and_then(|backend| backend.name.as_deref())
                    .map_or(&*road.goes_to, short);
                format!("#{} {to}", road.rule)
            })
            .collect();
        let more = report.not_taken.len().saturating_sub(4);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        lines.push(Line::from(vec![
            look.text(Role::Strong, " NOT    "),
            look.text(Role::Plain, format!("taken: {}{more}", roads.join(", "))),
        ]));
    }
    if let Some(lost) = super::plain::lost(report) {
        lines.push(Line::from(look.text(Role::Hot, format!(" LOST   {lost}"))));
    }
    lines.extend(verdict(report, look));
    lines
}

/// How it ended, and what would cure it.
fn verdict(report: &Report, look: &Look) -> Vec<Line<'static>> {
    let (sign, role) = match report.outcome {
        Word::Answered => (Sign::Yes, Role::Good),
        _ => (Sign::No, Role::Lost),
    };
    let head = format!(" {} ", look.sign(sign));
    let rows = wrapped(&report.sentence, &head, look).into_iter();
    let mut lines: Vec<Line<'static>> = rows.map(|row| Line::from(look.text(role, row))).collect();
    let cures = report
        .cure
        .iter()
        .flat_map(|cure| wrapped(cure, " CURE   ", look));
    lines.extend(cures.map(Line::from));
    lines
}
