//! `miniproxy diff`: the kernel, a dump, a registry: the same rules or not?

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use labkit::screen::page::ARROWS;
use labkit::screen::{Flow, Key, Look, Mode, Page, Show, hide, print, terminal};
use labkit::shell::{self, OutputFormat, emit, note_once};
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
use crate::report::columns::{Compared, choices, compared, page};
use crate::report::difference::{Finding, Sides};
use crate::rules::fixed;
use crate::rules::parse;
use crate::rules::set::Found;

/// What differs, and what to say of objects that are refused.
type Differing = (Vec<Compared>, Option<Failure>);

/// The answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    schema: u32,
    kind: &'static str,
    same: bool,
    left: &'a str,
    right: &'a str,
    findings: Vec<Told<'a>>,
}

/// What differs, and on which node where there are several.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Prints the findings; exit code 0 when there is none, 1 when there is any.
pub(super) fn run(args: &DiffArgs) -> Result<Outcome, Failure> {
    if args.left.is_none() {
        let homes = nodes::homes(&args.registry, args.node.node.as_deref())?;
        if !homes.is_empty() {
            return on_nodes(args, &homes);
        }
    }
    let (all, refused) = match (&args.left, &args.right) {
        (None, _) => kernel_and_registry(args, &args.node)?,
        (Some(left), None) => {
            let bytes = read(left)?;
            let family = chosen_family(args, &[&bytes])?;
            let sides = Sides {
                left: "the dump",
                right: "the registry",
            };
            let objects = Objects::read(args, &args.node, &args.registry)?;
            let found = dump(left, &bytes)?;
            let one = compared(
                &found,
                &objects.rules(family, Some(&found)),
                sides,
                wants_screen(args),
            );
            (vec![objects.of_good(one)], objects.refused)
        }
        (Some(left), Some(right)) => two_files(args, left, right)?,
    };
    tell(args, &all)?;
    let same = all.iter().all(|one| one.findings.is_empty());
    refused.map_or(Ok(outcome(same)), Err)
}

/// On the screen, as JSON or in lines.
fn tell(args: &DiffArgs, all: &[Compared]) -> Result<(), Failure> {
    if wants_screen(args) {
        return show(args, all);
    }
    let text = match args.screen.output {
        OutputFormat::Json => json(all)?,
        OutputFormat::Table => lines(all),
    };
    emit(&if args.screen.hide_addresses {
        hide::addresses(&text)
    } else {
        text
    })
}

fn json(all: &[Compared]) -> Result<String, Failure> {
    let [left, right] = all.first().map_or(["", ""], |one| [&one.names[0], &one.names[1]]);
    let findings = all.iter().flat_map(|one| {
        one.findings.iter().map(|finding| Told {
            node: one.node.as_deref(),
            finding,
        })
    });
    let answer = Answer {
        schema: 1,
        kind: "diff",
        same: all.iter().all(|one| one.findings.is_empty()),
        left,
        right,
        findings: findings.collect(),
    };
    shell::json(&answer)
}

/// What differs, for each node apart where there are several.
fn lines(all: &[Compared]) -> String {
    let mut nodes: Vec<Option<&str>> = all.iter().map(|one| one.node.as_deref()).collect();
    nodes.dedup();
    let of = |node: Option<&str>| {
        let parts = all.iter().filter(|one| one.node.as_deref() == node);
        let told = text(&parts.flat_map(|one| &one.findings).collect::<Vec<_>>());
        node.map_or(told.clone(), |node| format!("{node}: {told}"))
    };
    nodes.into_iter().map(of).collect()
}

/// A registry as one node sees it, without the objects that are refused.
struct Objects {
    node: NodeOptions,
    store: Store,
    refused: Option<Failure>,
    /// The addresses of this host stand in for those of the node that a dump is of.
    borrows_addresses: bool,
}

impl Objects {
    fn read(args: &DiffArgs, node: &NodeArgs, paths: &RegistryArgs) -> Result<Self, Failure> {
        let (store, refused) = super::objects(paths, args.strict)?;
        let node = options(node)?;
        remark(&node, store.registry());
        let borrows_addresses = args.left.is_some()
            && node.settings.needs_host_addresses()
            && args.node.node_addresses.is_empty();
        Ok(Self {
            node,
            store,
            refused,
            borrows_addresses,
        })
    }

    /// The rules that should stand `beside` a dump. Whether packets are counted is up to the kernel
    /// that the dump is of.
    fn rules(&self, family: Family, beside: Option<&Found>) -> Found {
        let mut node = self.node.clone();
        if let Some(dump) = beside {
            if self.borrows_addresses {
                note_once(
                    "note: nodePortAddresses is compared with the addresses of this host; \
                     for another node: --node-addresses",
                );
            }
            node.host.counters = fixed::counters_in(dump);
        }
        Found::from(&node.wanted(self.store.registry(), family))
    }

    /// A refused Service keeps the rules that it has: they are no difference.
    fn of_good(&self, mut one: Compared) -> Compared {
        let (refusals, services) = (self.store.refusals(), &self.store.registry().services);
        one.findings.retain(|finding| {
            let port = finding.service.as_deref().unwrap_or_default();
            let (namespace, rest) = port.split_once('/').unwrap_or_default();
            let name = rest.split(':').next().unwrap_or(rest);
            let key = (namespace.to_string(), name.to_string());
            port.is_empty() || !refusals.keeps(&key, services.contains_key(&key))
        });
        one
    }
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
        let keys = [(ARROWS, "rule"), ("q", "quit")];
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
    let (answered, mut failures) = nodes::failures(answers);
    let mut done = Vec::new();
    for (node, (all, refused)) in answered {
        // The same registry: what is refused is refused for all of them.
        failures.extend(refused.filter(|_| done.is_empty()));
        done.push((node, all));
    }
    let named = |(node, all): (String, Vec<Compared>)| all.into_iter().map(move |one| one.of_node(&node));
    let all: Vec<Compared> = done.into_iter().flat_map(named).collect();
    tell(args, &all)?;
    let same = all.iter().all(|one| one.findings.is_empty());
    Failure::all(failures).map_or(Ok(outcome(same)), Err)
}

fn kernel_and_registry(args: &DiffArgs, node: &NodeArgs) -> Result<Differing, Failure> {
    let xtables = Xtables::detect(args.iptables.as_deref())?;
    let families = match args.family {
        Some(number) => vec![family(number)?],
        None => Family::ALL.to_vec(),
    };
    let objects = Objects::read(args, node, &args.registry)?;
    let mut all = Vec::new();
    for family in families {
        let Some(found) = xtables.read(family, None)? else {
            continue;
        };
        let wanted = objects.rules(family, Some(&found));
        let sides = Sides {
            left: "the kernel",
            right: "the registry",
        };
        all.push(objects.of_good(compared(&found, &wanted, sides, wants_screen(args))));
    }
    Ok((all, objects.refused))
}

fn two_files(args: &DiffArgs, left: &Path, right: &Path) -> Result<Differing, Failure> {
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
    let read = |path: &Path, bytes: &Option<Vec<u8>>| {
        let read = |bytes: &Vec<u8>| dump(path, bytes);
        bytes.as_ref().map(read).transpose()
    };
    let (left_dump, right_dump) = (read(left, &left_bytes)?, read(right, &right_bytes)?);
    let side = |dump: &Option<Found>, objects: &Option<Objects>, beside: &Option<Found>, family| {
        let rules = objects
            .as_ref()
            .map(|objects| objects.rules(family, beside.as_ref()));
        rules.or_else(|| dump.clone()).unwrap_or_default()
    };
    let dumps: Vec<&Vec<u8>> = left_bytes.iter().chain(&right_bytes).collect();
    let family = chosen_family(args, &dumps)?;
    let names = [left.display().to_string(), right.display().to_string()];
    let mut one = compared(
        &side(&left_dump, &left_objects, &right_dump, family),
        &side(&right_dump, &right_objects, &left_dump, family),
        Sides {
            left: &names[0],
            right: &names[1],
        },
        wants_screen(args),
    );
    let mut refused = Vec::new();
    for objects in [left_objects, right_objects].into_iter().flatten() {
        one = objects.of_good(one);
        refused.extend(objects.refused);
    }
    Ok((vec![one], Failure::all(refused)))
}

/// What --family says, else IPv6 for a dump that ip6tables-save wrote.
fn chosen_family(args: &DiffArgs, dumps: &[&Vec<u8>]) -> Result<Family, Failure> {
    if let Some(number) = args.family {
        return family(number);
    }
    let families: Vec<Family> = dumps.iter().filter_map(|dump| told_family(dump)).collect();
    match families.as_slice() {
        [one, other] if one != other => Err(Failure::usage(format!(
            "the first is of {} and the second of {}: nothing in them can be the same",
            one.name(),
            other.name()
        ))
        .hint("compare iptables-save with iptables-save, and ip6tables-save with ip6tables-save")),
        families => Ok(families.first().copied().unwrap_or(Family::V4)),
    }
}

/// What a dump says of its family: in its first line, or by the first address in it.
fn told_family(dump: &[u8]) -> Option<Family> {
    let text = String::from_utf8_lossy(dump);
    if text
        .lines()
        .next()
        .is_some_and(|first| first.contains("ip6tables-save"))
    {
        return Some(Family::V6);
    }
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if matches!(word, "-s" | "-d") {
            let address = words.next()?.split('/').next()?.parse::<IpAddr>().ok()?;
            return Some(if address.is_ipv4() { Family::V4 } else { Family::V6 });
        }
    }
    None
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
