//! `miniproxy diff`: the kernel, a dump, a registry: the same rules or not?

use std::path::Path;

use labkit::shell::{OutputFormat, emit, emit_json};
use labkit::text::count;
use labkit::xtables::{Family, Xtables};
use labkit::{Failure, Outcome};
use serde::Serialize;

use super::nodes;
use super::render::family;
use super::sync::{options, remark};
use crate::cli::{DiffArgs, NodeArgs, RegistryArgs};
use crate::edge::dump;
use crate::edge::tables::Tables;
use crate::lab::Home;
use crate::node::NodeOptions;
use crate::registry::store::Store;
use crate::report::difference::{Finding, Sides, compare};
use crate::rules::parse;
use crate::rules::set::Found;

/// What differs, and what to say of objects that are refused.
type Answer = (Vec<Finding>, Option<Failure>);

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
    let (findings, refused) = match (&args.left, &args.right) {
        (None, _) => kernel_and_registry(args, &args.node)?,
        (Some(left), None) => {
            let bytes = read(left)?;
            let family = chosen_family(args, &bytes)?;
            let objects = Objects::read(args, &args.node, &args.registry)?;
            let sides = Sides {
                left: "the dump",
                right: "the registry",
            };
            let findings = compare(&dump(left, &bytes)?, &objects.rules(family), sides);
            (objects.of_good(findings), objects.refused)
        }
        (Some(left), Some(right)) => two_files(args, left, right)?,
    };
    match args.output {
        OutputFormat::Json => emit_json(&findings)?,
        OutputFormat::Table => emit(&text(&findings))?,
    }
    let outcome = if findings.is_empty() {
        Outcome::Done
    } else {
        Outcome::No
    };
    refused.map_or(Ok(outcome), Err)
}

/// A registry as one node sees it, without the objects that are refused.
struct Objects {
    node: NodeOptions,
    store: Store,
    refused: Option<Failure>,
}

impl Objects {
    fn read(args: &DiffArgs, node: &NodeArgs, paths: &RegistryArgs) -> Result<Self, Failure> {
        let (store, refused) = super::objects(paths, args.strict)?;
        let node = options(node)?;
        remark(&node, store.registry());
        Ok(Self { node, store, refused })
    }

    fn rules(&self, family: Family) -> Found {
        Found::from(&self.node.wanted(self.store.registry(), family))
    }

    /// A refused Service keeps the rules that it has: they are no difference.
    fn of_good(&self, mut findings: Vec<Finding>) -> Vec<Finding> {
        let (refusals, services) = (self.store.refusals(), &self.store.registry().services);
        findings.retain(|finding| {
            let port = finding.service.as_deref().unwrap_or_default();
            let (namespace, rest) = port.split_once('/').unwrap_or_default();
            let name = rest.split(':').next().unwrap_or(rest);
            let key = (namespace.to_string(), name.to_string());
            port.is_empty() || !refusals.keeps(&key, services.contains_key(&key))
        });
        findings
    }
}

/// The kernel of each node and the registry.
fn on_nodes(args: &DiffArgs, homes: &[Home]) -> Result<Outcome, Failure> {
    let answers = nodes::on_each(homes, |home| {
        kernel_and_registry(args, &args.node.named(&home.node))
    });
    let (done, mut failures) = nodes::failures(answers);
    let mut parts = Vec::new();
    for (node, (findings, refused)) in done {
        // The same registry: what is refused is refused for all of them.
        failures.extend(refused.filter(|_| parts.is_empty()));
        parts.push(Part { node, findings });
    }
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

fn kernel_and_registry(args: &DiffArgs, node: &NodeArgs) -> Result<Answer, Failure> {
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let families = match args.family {
        Some(number) => vec![family(number)?],
        None => Family::ALL.to_vec(),
    };
    let objects = Objects::read(args, node, &args.registry)?;
    let mut findings = Vec::new();
    for family in families {
        let wanted = objects.rules(family);
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
    Ok((objects.of_good(findings), objects.refused))
}

fn two_files(args: &DiffArgs, left: &Path, right: &Path) -> Result<Answer, Failure> {
    let is_registry =
        |path: &Path| path.is_dir() || path.extension().is_some_and(|extension| extension == "json");
    // Once each: a pipe has nothing to say a second time.
    let bytes = |path: &Path| (!is_registry(path)).then(|| read(path)).transpose();
    let (left_bytes, right_bytes) = (bytes(left)?, bytes(right)?);
    let objects = |path: &Path, bytes: Option<&Vec<u8>>| {
        let paths = RegistryArgs {
            paths: vec![path.to_path_buf()],
            lab: None,
        };
        let read = || Objects::read(args, &args.node, &paths);
        bytes.is_none().then(read).transpose()
    };
    let left_objects = objects(left, left_bytes.as_ref())?;
    let right_objects = objects(right, right_bytes.as_ref())?;
    let side = |path: &Path, bytes: Option<&Vec<u8>>, objects: Option<&Objects>, family| match objects {
        Some(objects) => Ok(objects.rules(family)),
        None => dump(path, bytes.map_or(&[], Vec::as_slice)),
    };
    let first_dump = left_bytes.as_ref().or(right_bytes.as_ref());
    let family = chosen_family(args, first_dump.map_or(&[], Vec::as_slice))?;
    let names = [left.display().to_string(), right.display().to_string()];
    let mut findings = compare(
        &side(left, left_bytes.as_ref(), left_objects.as_ref(), family)?,
        &side(right, right_bytes.as_ref(), right_objects.as_ref(), family)?,
        Sides {
            left: &names[0],
            right: &names[1],
        },
    );
    let mut refused = Vec::new();
    for objects in [left_objects, right_objects].into_iter().flatten() {
        findings = objects.of_good(findings);
        refused.extend(objects.refused);
    }
    Ok((findings, Failure::all(refused)))
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
