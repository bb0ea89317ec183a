//! `miniproxy explain`: where a packet would go, and why.

use std::process::Command;
use std::time::Duration;

use labkit::screen::{Mode, hide, print, terminal};
use labkit::shell::{self, emit};
use labkit::{Failure, Outcome};

use super::question::Asked;
use crate::cli::ExplainArgs;
use crate::explain::Report;
use crate::explain::page::page;
use crate::explain::plain::plain;
use crate::explain::show::{Explained, World};
use crate::target::Caller;

/// Answers; exit code 1 when not every new connection would get through, or nobody can tell where it is sent.
pub(super) fn run(args: &ExplainArgs) -> Result<Outcome, Failure> {
    let asked = Asked::new(&args.question)?;
    let report = asked.report(None)?;
    let outcome = if report.gets_through() {
        Outcome::Done
    } else {
        Outcome::No
    };
    let look = args.screen.look();
    match args.screen.mode() {
        Mode::Json => emit(&json(&report, look.hide)?)?,
        Mode::Plain => {
            let text = plain(&report);
            emit(&if look.hide { hide::addresses(&text) } else { text })?;
        }
        Mode::Once => print::once(&page(&report, &look, None), &look)?,
        Mode::Live => {
            let mut callers = Callers::new(&asked, &report);
            let mut shown = Explained::new(report, &mut callers);
            terminal::run(&mut shown, look, Duration::from_secs(60))?;
        }
    }
    Ok(outcome)
}

/// The report as JSON.
pub(super) fn json(report: &Report, hidden: bool) -> Result<String, Failure> {
    let text = shell::json(report)?;
    Ok(if hidden { hide::addresses(&text) } else { text })
}

/// The pods that call one after the other.
struct Callers<'a> {
    asked: &'a Asked,
    pods: Vec<String>,
    next: usize,
    now: String,
}

impl<'a> Callers<'a> {
    fn new(asked: &'a Asked, report: &Report) -> Self {
        Self {
            asked,
            pods: asked.pods(),
            next: 0,
            now: report.packet.source.clone(),
        }
    }
}

impl World for Callers<'_> {
    fn next_caller(&mut self) -> Option<Report> {
        for _ in 0..self.pods.len() {
            let pod = self.pods.get(self.next % self.pods.len())?.clone();
            self.next += 1;
            let caller = Caller::parse(&pod).ok()?;
            if let Ok(report) = self.asked.report(Some(&caller))
                && report.packet.source != self.now
            {
                self.now.clone_from(&report.packet.source);
                return Some(report);
            }
        }
        None
    }

    fn other(&self, name: &str) -> Option<Command> {
        let question = self.asked.question();
        if question.rules.is_some() {
            return None;
        }
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.arg(name).arg(&question.target);
        for path in &question.registry.paths {
            command.arg("--registry").arg(path);
        }
        if name == "trace" {
            command.arg("--from").arg(&self.now);
        }
        Some(command)
    }
}
