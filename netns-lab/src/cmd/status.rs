//! `netns-lab status`: what labs are now, not what they were made as.

use std::collections::BTreeSet;

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use super::find;
use crate::cli::StatusArgs;
use crate::edge::{breakage, namespace, process, store};
use crate::engine::observe::observe;
use crate::engine::settle::{self, Place};
use crate::model::breakage::record::Record;
use crate::model::layout::lay_out;
use crate::model::ledger::{Ledger, PodRecord};
use crate::model::name::Label;
use crate::model::node::Host;
use crate::model::plan::{self, Step, Wanted};
use crate::model::report::{ContainerReport, LabReport, PodNow, State};

/// Runs `status`.
pub(super) fn run(args: &StatusArgs) -> Result<Outcome, Failure> {
    let name = args.lab.as_ref().or(args.name.as_ref());
    let reports: Vec<_> = find::ledgers(name)?
        .iter()
        .map(|ledger| report(ledger, &look(ledger)))
        .collect();
    if reports.is_empty() {
        if args.output == OutputFormat::Json {
            shell::emit_json(&serde_json::json!({ "labs": [] }))?;
        }
        return Err(find::no_lab(name));
    }
    match args.output {
        OutputFormat::Json => match &reports[..] {
            [one] => shell::emit_json(one)?,
            many => shell::emit_json(&serde_json::json!({ "labs": many }))?,
        },
        OutputFormat::Table => {
            let tables: Vec<_> = reports.iter().map(LabReport::table).collect();
            shell::emit(&tables.join("\n"))?;
        }
    }
    Ok(Outcome::Done)
}

/// What was seen of a lab.
#[derive(Default)]
pub(super) struct Look {
    /// What `up` would have to repair.
    damage: Vec<Step>,
    /// The containers that run, where that was looked at already.
    running: Option<BTreeSet<(Label, Label)>>,
}

/// Looks at a lab. Where it cannot be seen from here, nothing is known.
fn look(ledger: &Ledger) -> Look {
    let seen = || -> Option<Look> {
        if ledger.leaving || !matches!(settle::place(ledger), Ok(Place::Here)) {
            return None;
        }
        let lab = &ledger.lab;
        let pods = lay_out(lab, &ledger.topology(), Some(ledger)).ok()?;
        let observed = observe(lab, &pods, Some(ledger), Some(&ledger.iptables));
        let observed = observed
            .inspect_err(|failure| tracing::debug!(%failure, "status sees less"))
            .ok()?;
        let steps = plan::plan(&Wanted { lab, pods: &pods }, Some(ledger), &observed);
        Some(Look {
            damage: steps.into_iter().filter(Step::is_repair).collect(),
            running: Some(observed.running),
        })
    };
    seen().unwrap_or_default()
}

/// A lab as it is now, with what is to be repaired.
pub(super) fn report(ledger: &Ledger, look: &Look) -> LabReport {
    // Repairs would give away what a learner is to find out.
    let record = breakage::record::read(&ledger.lab.name);
    let secret = record.as_ref().is_ok_and(Record::has_secret);
    let damage = if secret { &[] } else { &look.damage[..] };
    let down: BTreeSet<_> = damage
        .iter()
        .filter_map(|step| match step {
            Step::RaiseBridge(node) => Some(node.name()),
            _ => None,
        })
        .collect();
    let lost: BTreeSet<_> = damage
        .iter()
        .filter_map(|step| match step {
            Step::AddPod(_, pod) => Some(&pod.spec.name),
            _ => None,
        })
        .collect();
    let pods: Vec<_> = ledger
        .pods
        .iter()
        .map(|record| {
            let connected = !down.contains(&record.pod.node) && !lost.contains(&record.pod.spec.name);
            pod_now(record, look, connected)
        })
        .collect();
    let mut problems = problems(ledger, record);
    problems.extend(unready(ledger, &pods));
    let state = State {
        registry: store::registry(&ledger.lab.name).display().to_string(),
        problems,
        repairs: damage.iter().map(ToString::to_string).collect(),
        broken: broken_nodes(damage),
    };
    LabReport::new(&ledger.lab, &pods, state)
}

/// A pod as it is now, if it is `connected` with its node.
fn pod_now(record: &PodRecord, look: &Look, connected: bool) -> PodNow {
    let name = &record.pod.spec.name;
    let runs = |container: &Label| match &look.running {
        Some(running) => running.contains(&(name.clone(), container.clone())),
        None => record.process(container).is_some_and(process::runs),
    };
    let first = record.containers.first().filter(|first| runs(&first.name));
    let wanted = record.wanted();
    let containers: Vec<_> = wanted
        .iter()
        .map(|wanted| {
            let known = record.container(&wanted.name);
            ContainerReport {
                name: wanted.name.to_string(),
                running: runs(&wanted.name),
                restarts: known.map_or(0, |known| known.restarts),
                added: known.is_some_and(|known| known.added.is_some()),
            }
        })
        .collect();
    // A look that found the pod whole has seen its namespace, too.
    let there = look.running.is_some() || has_namespace(record);
    let said = !record.unready && record.leaving.is_none();
    PodNow {
        pod: record.pod.clone(),
        ready: there && connected && said && containers.iter().all(|container| container.running),
        pid: first.and_then(|first| first.process).map(|process| process.pid),
        containers,
    }
}

/// Why pods are not ready that no repair would help, and what would.
fn unready(ledger: &Ledger, pods: &[PodNow]) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut found = Vec::new();
    for (record, now) in ledger.pods.iter().zip(pods) {
        let name = &record.pod.spec.name;
        if record.leaving.is_some() {
            found.push(format!("{name} is being ended"));
        } else if record.unready {
            found.push(format!(
                "{name} was said to be not ready: `netns-lab pod ready {name}` takes it back"
            ));
        }
        let ended = now.containers.iter().filter(|one| one.added && !one.running);
        found.extend(ended.map(|one| {
            format!(
                "the container {} of {name} has ended and is started again after a pause (`netns-lab logs {name} -c \
                 {}` tells what it said)",
                one.name, one.name
            )
        }));
    }
    if let more @ 1.. = found.len().saturating_sub(SHOWN) {
        found.truncate(SHOWN);
        found.push(format!(
            "and {more} more such pods (`netns-lab get pods` lists them)"
        ));
    }
    found
}

/// The nodes that have something to be repaired.
fn broken_nodes(damage: &[Step]) -> BTreeSet<Label> {
    let hosts = damage.iter().filter_map(|step| match step {
        Step::AddHost(host, _) => Some(host.clone()),
        other => other.host(),
    });
    hosts
        .filter_map(|host| match host {
            Host::Node(name) => Some(name),
            _ => None,
        })
        .collect()
}

fn has_namespace(record: &PodRecord) -> bool {
    record.namespace_inode.is_some() && namespace::inode(&record.pod.namespace) == record.namespace_inode
}

fn problems(ledger: &Ledger, broken: Result<Record, Failure>) -> Vec<String> {
    let name = &ledger.lab.name;
    let mut problems = Vec::new();
    if ledger.leaving {
        problems.push(format!("`netns-lab down {name}` did not finish: run it again"));
    } else if ledger.unsettled {
        problems.push(format!(
            "`netns-lab up` did not finish: `netns-lab up --name {name}` repairs the lab"
        ));
    }
    // What was broken on purpose is no riddle to whoever asks how the lab is.
    problems.extend(broken.map_or_else(
        |failure| vec![failure.message().to_string()],
        |record| record.told(),
    ));
    match settle::place(ledger) {
        Ok(Place::Here) => {}
        Ok(Place::Elsewhere(pid)) => {
            let way = settle::elsewhere(ledger, pid).hints().join("; ");
            problems.push(format!(
                "its node is another network namespace than this one: {way}"
            ));
        }
        Ok(Place::Gone) => problems.push(format!("its node is gone: `netns-lab down {name}`")),
        Err(failure) => problems.push(failure.message().to_string()),
    }
    let agent = ledger.agent.is_some_and(process::runs);
    if !agent && !ledger.pods.is_empty() && !ledger.unsettled && !ledger.leaving {
        problems.push(format!("its agent does not run: `netns-lab up --name {name}`"));
    }
    problems
}
