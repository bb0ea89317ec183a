//! `miniproxy diff`: the kernel, a dump, a registry: the same rules or not?

use std::path::Path;
use std::time::Duration;

use labkit::screen::{Flow, Key, Look, Mode, Page, Show, print, terminal};
use labkit::shell::{OutputFormat, emit, emit_json};
use labkit::text::count;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Outcome};
use serde::Serialize;

use super::nodes;
use super::render::family;
use super::sync::options;
use crate::cli::{DiffArgs, NodeArgs, RegistryArgs};
use crate::edge::dump;
use crate::edge::tables::Tables;
use crate::lab::Home;
use crate::report::columns::{Compared, choices, compared, page};
use crate::report::difference::{Finding, Sides};
use crate::rules::parse;
use crate::rules::set::Found;

/// What differs on one node of several.
#[derive(Serialize)]
struct Part<'a> {
    node: &'a str,
    findings: &'a [Finding],
}

/// Prints the findings; exit code 0 when there is none, 1 when there is any.
pub(super) fn run(args: &DiffArgs) -> Result<Outcome, Failure> {
    if args.left.is_none() {
        let homes = nodes::homes(&args.registry, args.node.node.as_deref())?;
        if !homes.is_empty() {
            return on_nodes(args, &homes);
        }
    }
    let all = match (&args.left, &args.right) {
        (None, _) => kernel_and_registry(args, &args.node)?,
        (Some(left), None) => {
            let bytes = read(left)?;
            let family = chosen_family(args, &bytes)?;
            let sides = Sides {
                left: "the dump",
                right: "the registry",
            };
            let (found, wanted) = (dump(left, &bytes)?, registry(&args.node, &args.registry, family)?);
            vec![compared(&found, &wanted, sides, wants_screen(args))]
        }
        (Some(left), Some(right)) => vec![two_files(args, left, right)?],
    };
    let findings: Vec<&Finding> = all.iter().flat_map(|one| &one.findings).collect();
    if wants_screen(args) {
        show(args, &all)?;
    } else {
        match args.screen.output {
            OutputFormat::Json => emit_json(&findings)?,
            OutputFormat::Table => emit(&text(&findings))?,
        }
    }
    Ok(outcome(findings.is_empty()))
}

fn outcome(same: bool) -> Outcome {
    if same { Outcome::Done } else { Outcome::No }
}

/// On a terminal, and where it is asked for; scripts get the lines that they know.
fn wants_screen(args: &DiffArgs) -> bool {
    match args.screen.mode() {
        Mode::Live => true,
        Mode::Once => args.side_by_side,
        Mode::Json | Mode::Plain => false,
    }
}

fn show(args: &DiffArgs, all: &[Compared]) -> Result<(), Failure> {
    let look = args.screen.look();
    match args.screen.mode() {
        Mode::Live => terminal::run(&mut Beside { all, chosen: None }, look, Duration::from_secs(60)),
        _ => print::once(&page(all, &look, None), &look),
    }
}

/// The screen that stays: a rule is chosen, its text stands below.
struct Beside<'a> {
    all: &'a [Compared],
    chosen: Option<usize>,
}

impl Show for Beside<'_> {
    fn page(&mut self, look: &Look) -> Page {
        let mut page = page(self.all, look, self.chosen);
        let keys = [("\u{2191}\u{2193}", "rule"), ("q", "quit")];
        page.keys = keys
            .map(|(key, word)| (key.to_string(), word.to_string()))
            .to_vec();
        page
    }

    fn key(&mut self, key: Key) -> Flow {
        let last = choices(self.all).saturating_sub(1);
        self.chosen = match (key, self.chosen) {
            (Key::Down, None) => Some(0),
            (Key::Down, Some(chosen)) => Some((chosen + 1).min(last)),
            (Key::Up, Some(chosen)) => Some(chosen.saturating_sub(1)),
            _ => return Flow::Pass,
        };
        Flow::Draw
    }
}

/// The kernel of each node and the registry.
fn on_nodes(args: &DiffArgs, homes: &[Home]) -> Result<Outcome, Failure> {
    let answers = nodes::on_each(homes, |home| {
        kernel_and_registry(args, &args.node.named(&home.node))
    });
    let (done, failures) = nodes::failures(answers);
    let findings: Vec<(String, Vec<Finding>)> = done
        .iter()
        .map(|(node, all)| {
            (
                node.clone(),
                all.iter().flat_map(|one| one.findings.clone()).collect(),
            )
        })
        .collect();
    if wants_screen(args) {
        let named = |(node, all): (String, Vec<Compared>)| all.into_iter().map(move |one| one.of_node(&node));
        show(args, &done.into_iter().flat_map(named).collect::<Vec<_>>())?;
    } else if args.screen.output == OutputFormat::Json {
        let part = |(node, findings)| Part { node, findings };
        let parts = findings
            .iter()
            .map(|(node, findings)| part((node.as_str(), findings.as_slice())));
        emit_json(&parts.collect::<Vec<_>>())?;
    } else {
        for (node, findings) in &findings {
            emit(&format!("{node}: {}", text(&findings.iter().collect::<Vec<_>>())))?;
        }
    }
    let same = findings.iter().all(|(_, findings)| findings.is_empty());
    Failure::all(failures).map_or(Ok(outcome(same)), Err)
}

fn kernel_and_registry(args: &DiffArgs, node: &NodeArgs) -> Result<Vec<Compared>, Failure> {
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let families = match args.family {
        Some(number) => vec![family(number)?],
        None => Family::ALL.to_vec(),
    };
    let mut all = Vec::new();
    for family in families {
        let wanted = registry(node, &args.registry, family)?;
        let Some(found) = xtables.read(family, None)? else {
            continue;
        };
        let sides = Sides {
            left: "the kernel",
            right: "the registry",
        };
        all.push(compared(&found, &wanted, sides, wants_screen(args)));
    }
    Ok(all)
}

fn two_files(args: &DiffArgs, left: &Path, right: &Path) -> Result<Compared, Failure> {
    let is_registry =
        |path: &Path| path.is_dir() || path.extension().is_some_and(|extension| extension == "json");
    // Once each: a pipe has nothing to say a second time.
    let bytes = |path: &Path| (!is_registry(path)).then(|| read(path)).transpose();
    let (left_bytes, right_bytes) = (bytes(left)?, bytes(right)?);
    let side = |path: &Path, bytes: Option<&Vec<u8>>, family: Family| match bytes {
        Some(bytes) => dump(path, bytes),
        None => registry(
            &args.node,
            &RegistryArgs {
                paths: vec![path.to_path_buf()],
                lab: None,
            },
            family,
        ),
    };
    let first_dump = left_bytes.as_ref().or(right_bytes.as_ref());
    let family = chosen_family(args, first_dump.map_or(&[], Vec::as_slice))?;
    let names = [left.display().to_string(), right.display().to_string()];
    Ok(compared(
        &side(left, left_bytes.as_ref(), family)?,
        &side(right, right_bytes.as_ref(), family)?,
        Sides {
            left: &names[0],
            right: &names[1],
        },
        wants_screen(args),
    ))
}

fn registry(node: &NodeArgs, paths: &RegistryArgs, family: Family) -> Result<Found, Failure> {
    let registry = super::source(paths)?.read()?;
    Ok(Found::from(&options(node)?.wanted(&registry, family)))
}

/// What --family says, else IPv6 for a dump that ip6tables-save wrote.
fn chosen_family(args: &DiffArgs, dump: &[u8]) -> Result<Family, Failure> {
    if let Some(number) = args.family {
        return family(number);
    }
    let first = dump.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let six = String::from_utf8_lossy(first).contains("ip6tables-save");
    Ok(if six { Family::V6 } else { Family::V4 })
}

/// What a dump may be.
const EXPECTED: &str = "expected the output of iptables-save";

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let wrong = |what: String| Failure::usage(format!("{}: {what}", path.display())).hint(EXPECTED);
    let bytes = dump::read(path).map_err(|error| wrong(format!("cannot read it: {error}")))?;
    if bytes.trim_ascii().is_empty() {
        return Err(wrong("it is empty".into()));
    }
    Ok(bytes)
}

fn dump(path: &Path, bytes: &[u8]) -> Result<Found, Failure> {
    let found = parse::parse(&String::from_utf8_lossy(bytes));
    found.map_err(|error| Failure::usage(format!("{}: {error}", path.display())).hint(EXPECTED))
}

fn text(findings: &[&Finding]) -> String {
    if findings.is_empty() {
        return "the same: every rule means what it should\n".to_string();
    }
    let mut text: String = findings.iter().map(|finding| finding.text()).collect();
    text.push_str(&format!(
        "{} (- is the left side, + the right)\n",
        count(findings.len(), "difference")
    ));
    text
}
