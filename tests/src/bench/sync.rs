//! `scripts/bench sync`: what a sync of many Services takes, beside what it takes at least.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::change::{self, Change};
use super::first::{self, First};
use super::generate::Scale;
use super::options::{Options, Part, USAGE};
use super::path::{self, Data};
use super::scratch::Scratch;
use super::{aims, asks_for_help, usage, verdict};
use crate::load::say;
use crate::machine::Flavour;

pub(super) fn run(words: &[&str]) -> ExitCode {
    let Some(options) = Options::read(words).filter(|_| !asks_for_help(words)) else {
        return usage(words, USAGE);
    };
    let scratch = match Scratch::new() {
        Ok(scratch) => scratch,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: no folder for the registries: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut bench = Bench {
        options: &options,
        scratch: &scratch,
        rows: json!({}),
        missed: Vec::new(),
    };
    for part in &options.parts {
        match part {
            Part::First => bench.first(),
            Part::Change => bench.change(),
            Part::Path => bench.path(),
        }
    }
    let (text, code) = verdict(&bench.missed);
    if options.json {
        bench.rows["missed"] = json!(bench.missed);
        say(&format!("{:#}", bench.rows));
    } else {
        say(&text);
    }
    code
}

struct Bench<'a> {
    options: &'a Options,
    scratch: &'a Scratch,
    rows: Value,
    missed: Vec<String>,
}

impl Bench<'_> {
    fn first(&mut self) {
        self.say(first::HEAD);
        let mut rows = Vec::new();
        for (scale, flavour) in self.pairs() {
            progress(&format!("first sync, {scale} {}", flavour.name()));
            let row = First::measured(scale, flavour, self.options, self.scratch.path());
            self.say(&row.line());
            self.missed.extend(aims::of_first(&row));
            rows.push(row.to_json());
        }
        self.rows["first"] = rows.into();
        self.say("");
    }

    fn change(&mut self) {
        self.say(change::HEAD);
        let mut rows = Vec::new();
        for (scale, flavour) in self.pairs() {
            progress(&format!("changes, {scale} {}", flavour.name()));
            let row = Change::measured(scale, flavour, self.options, self.scratch.path());
            self.say(&row.line());
            self.missed.extend(aims::of_change(&row));
            rows.push(row);
        }
        self.say(&format!("\n{}", change::BURST_HEAD));
        for row in &rows {
            self.say(&row.burst_line());
        }
        self.rows["change"] = rows.iter().map(Change::to_json).collect();
        self.say("");
    }

    /// One row for each flavour, with as many Services as the largest scale has.
    fn path(&mut self) {
        self.say(path::HEAD);
        let services = self.options.scales.iter().map(|scale| scale.services).max();
        let mut rows = Vec::new();
        for flavour in &self.options.flavours {
            progress(&format!("connections, {}", flavour.name()));
            let row = Data::measured(services.unwrap_or(1), *flavour, self.options, self.scratch.path());
            self.say(&row.line());
            self.missed.extend(aims::of_path(&row));
            rows.push(row.to_json());
        }
        self.rows["path"] = rows.into();
        self.say("");
    }

    fn pairs(&self) -> Vec<(Scale, Flavour)> {
        let flavours = &self.options.flavours;
        let scales = self.options.scales.iter();
        scales
            .flat_map(|scale| flavours.iter().map(|flavour| (*scale, *flavour)))
            .collect()
    }

    fn say(&self, text: &str) {
        if !self.options.json {
            say(text);
        }
    }
}

/// What is measured now, on one line of a terminal that the row then takes.
fn progress(what: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "{what} …\r");
    }
}
