//! The screen that stays: a rule is chosen, read in full, and the next pod calls.

use std::process::Command;

use labkit::screen::look::Role;
use labkit::screen::{Flow, Key, Line, Look, Page, Show};
use labkit::text::printable;

use super::Report;
use super::page::{choices, page};

/// What is on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Main,
    Rule,
    Json,
    Help,
}

/// What the screen asks of its surroundings.
pub trait World {
    /// The same question from the next pod that is known; `None` when none is.
    fn next_caller(&mut self) -> Option<Report>;

    /// The command that shows the same in another way (`trace`, `watch`); `None` where only a dump is known.
    fn other(&self, command: &str) -> Option<Command>;
}

/// The screen's state.
pub struct Explained<'w> {
    report: Report,
    view: View,
    chosen: Option<usize>,
    look: Look,
    world: &'w mut dyn World,
    failed: Option<String>,
}

impl<'w> Explained<'w> {
    /// Begins with this report.
    pub fn new(report: Report, world: &'w mut dyn World) -> Self {
        Self {
            report,
            view: View::Main,
            chosen: None,
            look: Look::default(),
            world,
            failed: None,
        }
    }

    fn choose(&mut self, step: isize) -> Flow {
        let (count, first) = choices(&self.report, &self.look);
        if count == 0 {
            return Flow::Pass;
        }
        let from = self.chosen.unwrap_or(first);
        self.chosen = Some(from.saturating_add_signed(step).min(count - 1));
        Flow::Draw
    }

    fn sub_page(&self, look: &Look, what: &str, lines: Vec<String>) -> Page {
        let main = page(&self.report, look, self.chosen);
        Page {
            title: Line::from(look.text(Role::Strong, format!(" EXPLAIN {what}"))),
            state: String::new(),
            body: lines.into_iter().map(Line::from).collect(),
            rule: main.rule,
            keys: keys(&[("b", "back"), ("q", "quit")]),
            focus: None,
        }
    }

    fn run(&mut self, name: &str) -> Flow {
        if let Some(command) = self.world.other(name) {
            return Flow::Run(Box::new(command));
        }
        self.failed = Some(format!("{name} needs the node itself: here is only a dump"));
        Flow::Draw
    }
}

impl Show for Explained<'_> {
    fn page(&mut self, look: &Look) -> Page {
        self.look = look.clone();
        match self.view {
            View::Main => {
                let mut page = page(&self.report, look, self.chosen);
                if let Some(failed) = &self.failed {
                    page.state = format!("{failed} ");
                }
                let live = [("t", "trace"), ("w", "watch")];
                let live = live
                    .into_iter()
                    .filter(|(_, command)| self.world.other(command).is_some());
                let first = [
                    ("\u{2191}\u{2193}", "rule"),
                    ("\u{21b5}", "full rule"),
                    ("p", "next pod"),
                ];
                let last = [("j", "json"), ("?", "help"), ("q", "quit")];
                page.keys = keys(&first.into_iter().chain(live).chain(last).collect::<Vec<_>>());
                page
            }
            View::Rule => {
                let rule = page(&self.report, look, self.chosen).rule;
                let mut lines = in_lines(rule.trim(), look);
                if let Some(step) = self.report.hops.iter().find(|step| step.text == rule.trim()) {
                    lines.push(String::new());
                    lines.push(format!(
                        " table {}, chain {}, rule {} of {}",
                        step.table, step.chain, step.rule, step.of
                    ));
                    lines.push(format!(" asks for {}", step.asks));
                    lines.push(format!(" {}", step.did));
                    lines.push(format!(
                        " {} of all new connections come to it, {} match",
                        super::percent(step.reached),
                        super::percent(step.matched)
                    ));
                    lines.extend(step.packets.map(|packets| format!(" {packets} packets so far")));
                }
                self.sub_page(look, "one rule", lines)
            }
            View::Json => {
                let text = serde_json::to_string_pretty(&self.report).unwrap_or_default();
                self.sub_page(
                    look,
                    "as JSON",
                    text.lines().map(|line| format!(" {line}")).collect(),
                )
            }
            View::Help => self.sub_page(
                look,
                "help",
                HELP.lines().map(|line| format!(" {line}")).collect(),
            ),
        }
    }

    fn key(&mut self, key: Key) -> Flow {
        self.failed = None;
        if self.view != View::Main {
            return match key {
                Key::Char('b' | 'j' | '?') | Key::Enter | Key::Escape | Key::Backspace => {
                    self.view = View::Main;
                    Flow::Draw
                }
                _ => Flow::Pass,
            };
        }
        match key {
            Key::Up => self.choose(-1),
            Key::Down => self.choose(1),
            Key::Enter => self.go(View::Rule),
            Key::Char('j') => self.go(View::Json),
            Key::Char('?') => self.go(View::Help),
            Key::Char('t') => self.run("trace"),
            Key::Char('w') => self.run("watch"),
            Key::Char('p') => {
                match self.world.next_caller() {
                    Some(report) => {
                        self.report = report;
                        self.chosen = None;
                    }
                    None => self.failed = Some("no other pod is known".into()),
                }
                Flow::Draw
            }
            _ => Flow::Pass,
        }
    }

    fn back(&mut self, failed: Option<std::io::Error>) {
        self.failed = failed.map(|error| error.to_string());
    }
}

impl Explained<'_> {
    fn go(&mut self, view: View) -> Flow {
        self.view = view;
        Flow::Draw
    }
}

const HELP: &str = "\
PACKET    the first packet of a connection; only that one reads the nat table
DICE      each rule rolls on what the rules before it left:
          rolls x still here = share of ALL new connections
DNAT      the one edit: the packet gets the winner's address and port
AFTER     what the filter table says, and whose address the backend sees
BACK      the reply: no nat rule is read, conntrack knows
WHY NOT   the rule that came closest, and the field in which it differs
DOUBT     rules that this program does not understand, and what hangs on them
CHECKS    what must be so besides the rules

up/down   choose a rule; its real text stands below
enter     all of that rule
p         the same call from the next pod
t  w      trace one for real; watch what really happens
j         the report as JSON
b         back";

fn keys(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, word)| ((*key).to_string(), (*word).to_string()))
        .collect()
}

/// A long rule, broken where the screen ends.
fn in_lines(text: &str, look: &Look) -> Vec<String> {
    let text = printable(text).into_owned();
    let room = usize::from(look.width).saturating_sub(2).max(10);
    let letters: Vec<char> = text.chars().collect();
    letters
        .chunks(room)
        .map(|chunk| format!(" {}", chunk.iter().collect::<String>()))
        .collect()
}
