//! `miniproxy diff`: the kernel, a dump, a registry: the same rules or not?

use std::path::Path;

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
use crate::report::difference::{Finding, Sides, compare};
use crate::rules::parse;
use crate::rules::set::Found;

/// What differs on one node of several.
#[derive(Serialize)]
struct Part {
    node: String,
    findings: Vec<Finding>,
}

/// Prints the findings; exit code 0 when there is none, 1 when there is any.
pub(super) fn run(args: &DiffArgs) -> Result<Outcome, Failure> {
    if args.left.is_none() {
        let homes = nodes::homes(&args.registry, args.node.node.as_deref())?;
        if !homes.is_empty() {
            return on_nodes(args, &homes);
        }
    }
    let findings = match (&args.left, &args.right) {
        (None, _) => kernel_and_registry(args, &args.node)?,
        (Some(left), None) => {
            let bytes = read(left)?;
            let family = chosen_family(args, &bytes)?;
            compare(
                &dump(left, &bytes)?,
                &registry(&args.node, &args.registry, family)?,
                Sides {
                    left: "the dump",
                    right: "the registry",
                },
            )
        }
        (Some(left), Some(right)) => two_files(args, left, right)?,
    };
    match args.output {
        OutputFormat::Json => emit_json(&findings)?,
        OutputFormat::Table => emit(&text(&findings))?,
    }
    Ok(if findings.is_empty() {
        Outcome::Done
    } else {
        Outcome::No
    })
}

/// The kernel of each node and the registry.
fn on_nodes(args: &DiffArgs, homes: &[Home]) -> Result<Outcome, Failure> {
    let answers = nodes::on_each(homes, |home| {
        kernel_and_registry(args, &args.node.named(&home.node))
    });
    let (done, failures) = nodes::failures(answers);
    let parts: Vec<Part> = done
        .into_iter()
        .map(|(node, findings)| Part { node, findings })
        .collect();
    match args.output {
        OutputFormat::Json => emit_json(&parts)?,
        OutputFormat::Table => {
            for part in &parts {
                emit(&format!("{}: {}", part.node, text(&part.findings)))?;
            }
        }
    }
    let same = parts.iter().all(|part| part.findings.is_empty());
    let outcome = if same { Outcome::Done } else { Outcome::No };
    Failure::all(failures).map_or(Ok(outcome), Err)
}

fn kernel_and_registry(args: &DiffArgs, node: &NodeArgs) -> Result<Vec<Finding>, Failure> {
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let families = match args.family {
        Some(number) => vec![family(number)?],
        None => Family::ALL.to_vec(),
    };
    let mut findings = Vec::new();
    for family in families {
        let wanted = registry(node, &args.registry, family)?;
        let Some(found) = xtables.read(family, None)? else {
            continue;
        };
        findings.extend(compare(
            &found,
            &wanted,
            Sides {
                left: "the kernel",
                right: "the registry",
            },
        ));
    }
    Ok(findings)
}

fn two_files(args: &DiffArgs, left: &Path, right: &Path) -> Result<Vec<Finding>, Failure> {
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
    Ok(compare(
        &side(left, left_bytes.as_ref(), family)?,
        &side(right, right_bytes.as_ref(), family)?,
        Sides {
            left: &names[0],
            right: &names[1],
        },
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

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "the same: every rule means what it should\n".to_string();
    }
    let mut text: String = findings.iter().map(Finding::text).collect();
    text.push_str(&format!(
        "{} (- is the left side, + the right)\n",
        count(findings.len(), "difference")
    ));
    text
}
