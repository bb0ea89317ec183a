//! `netns-lab pod`: the life of single pods.

use labkit::{Failure, Outcome, shell};

use super::find;
use super::life::{free, here, retire, transition};
use super::objects::Open;
use crate::cli::life::{EndArgs, PodArgs, PodCommand};
use crate::edge::{process, store};
use crate::engine::revive;
use crate::model::deployment;
use crate::model::ledger::{Leaving, PodRecord};
use crate::model::life::Pace;
use crate::model::name::Label;
use crate::model::topology::{App, PodSpec, default_ports};

/// Runs `pod`.
pub(super) fn run(args: PodArgs) -> Result<Outcome, Failure> {
    match args.command {
        PodCommand::Add {
            pod,
            labels,
            cpu,
            memory,
            ports,
            node,
            lab,
        } => add(
            lab.as_ref(),
            PodSpec {
                name: pod,
                node_name: node,
                cpu,
                memory,
                labels: labels.into_iter().collect(),
                app: App::Serve,
                ports: if ports.is_empty() { default_ports() } else { ports },
                containers: Vec::new(),
            },
        ),
        PodCommand::Rm { pods, end, lab } => remove(lab.as_ref(), &pods, &end),
        PodCommand::Kill { pod, container, lab } => kill(lab.as_ref(), &pod, container.as_ref()),
        PodCommand::Restart { pod, end, lab } => restart(lab.as_ref(), &pod, &end),
        PodCommand::Ready { pod, lab } => flip(lab.as_ref(), &pod, true),
        PodCommand::Unready { pod, lab } => flip(lab.as_ref(), &pod, false),
    }?;
    Ok(Outcome::Done)
}

fn add(lab: Option<&Label>, pod: PodSpec) -> Result<(), Failure> {
    let open = Open::new(lab)?;
    let name = &pod.name;
    if open.ledger.pod(name).is_some() {
        return Err(Failure::failed(format!("the lab has a pod {name} already"))
            .hint("`netns-lab get pods` lists what there is"));
    }
    let keys: Vec<_> = pod
        .ports
        .iter()
        .map(|port| (port.container_port.get(), port.protocol))
        .collect();
    let names: Vec<_> = pod.ports.iter().map(|port| port.name.as_str()).collect();
    let twice = |place: usize| keys[..place].contains(&keys[place]) || names[..place].contains(&names[place]);
    if let Some(place) = (0..keys.len()).find(|place| twice(*place)) {
        let port = format!("{}={}/{}", names[place], keys[place].0, keys[place].1.name());
        return Err(
            Failure::usage(format!("--port {port}: its name or its number is there twice"))
                .hint("give each port a name and a number of its own: --port http=80 --port dns=53/UDP"),
        );
    }
    let unknown = pod
        .node_name
        .as_ref()
        .filter(|node| open.ledger.lab.node(node).is_none());
    if let Some(node) = unknown {
        return Err(Failure::failed(format!("the lab has no node {node}"))
            .hint("`netns-lab get nodes` lists what there is"));
    }
    let mut wanted = open.ledger.topology().pods;
    wanted.push(pod);
    let (open, said) = transition(open, &wanted, Pace::AT_ONCE, &EndArgs::default())?;
    open.finish(said.trim_end(), &[])
}

fn remove(lab: Option<&Label>, pods: &[Label], end: &EndArgs) -> Result<(), Failure> {
    let open = opened_with(lab, pods)?;
    let system = |pod: &&Label| open.ledger.pod(pod).is_some_and(|record| record.pod.system);
    if let Some(pod) = pods.iter().find(system) {
        return Err(Failure::failed(format!(
            "the pod {pod} is the lab's own, and not of those that are added and removed"
        ))
        .hint(format!(
            "a lab without names: netns-lab up --name {} --no-dns",
            open.ledger.lab.name
        ))
        .hint(format!("a new process in its place: netns-lab pod kill {pod}")));
    }
    if let Some(pod) = pods.iter().find(|pod| owner(&open, pod).is_some()) {
        let owner = owner(&open, pod).unwrap_or_default();
        return Err(Failure::failed(format!(
            "the pod {pod} is the Deployment {owner}'s, which would replace it"
        ))
        .hint(format!("fewer pods: netns-lab scale {owner} N"))
        .hint(format!("another one in its place: netns-lab delete pod {pod}")));
    }
    let mut wanted = open.ledger.topology().pods;
    wanted.retain(|pod| !pods.contains(&pod.name));
    let (open, said) = transition(open, &wanted, Pace::AT_ONCE, end)?;
    open.finish(said.trim_end(), &[])
}

/// The Deployment that a pod belongs to.
fn owner(open: &Open, pod: &Label) -> Option<String> {
    let spec = &open.ledger.pod(pod)?.pod.spec;
    let names = open.deployments().into_iter();
    let mut names = names.filter_map(|deployment| deployment.metadata.name);
    names.find(|name| deployment::owns(name, spec))
}

/// The lab, if it has all these pods.
fn opened_with(lab: Option<&Label>, pods: &[Label]) -> Result<Open, Failure> {
    let first = pods.first().map(|pod| find::pod(lab, pod)).transpose()?;
    let lab = first.map(|(ledger, _)| ledger.lab.name);
    let open = Open::new(lab.as_ref())?;
    match pods.iter().find(|pod| open.ledger.pod(pod).is_none()) {
        None => Ok(open),
        Some(pod) => {
            Err(Failure::failed(format!("there is no pod {pod}")).hint("`netns-lab status` lists the pods"))
        }
    }
}

fn kill(lab: Option<&Label>, pod: &Label, container: Option<&Label>) -> Result<(), Failure> {
    let open = opened_with(lab, std::slice::from_ref(pod))?;
    here(&open)?;
    let Some(record) = open.ledger.pod(pod) else {
        return Ok(());
    };
    if let Some(name) = container {
        find::container(record, name)?;
    }
    let names = find::container_names(record);
    let Some(name) = container.or(names.first()) else {
        return Err(
            Failure::failed(format!("nothing runs in the pod {pod}")).hint(format!(
                "`netns-lab run {pod} --name NAME -- CMD` adds a container"
            )),
        );
    };
    let running = record.process(name).filter(|process| process::runs(*process));
    let Some(running) = running else {
        return Err(
            Failure::failed(format!("the container {name} of {pod} does not run"))
                .hint("it waits to be started again; at once: netns-lab up"),
        );
    };
    process::end(&[running]);
    shell::emit(&format!(
        "pod/{pod}: the container {name} was killed\nnext: netns-lab get pods\n"
    ))
}

fn restart(lab: Option<&Label>, pod: &Label, end: &EndArgs) -> Result<(), Failure> {
    let open = free(
        opened_with(lab, std::slice::from_ref(pod))?,
        std::slice::from_ref(pod),
    )?;
    let old = open.ledger.pod(pod).map(|record| record.pod.ip);
    let mut open = retire(open, std::slice::from_ref(pod), Leaving::ToReturn, end)?;
    open.shape(open.ledger.topology().pods)?;
    let new = open.ledger.pod(pod).map(|record| record.pod.ip);
    let (Some(old), Some(new)) = (old, new) else {
        return Err(Failure::failed(format!("the pod {pod} was removed meanwhile")));
    };
    open.finish(&format!("pod/{pod} restarted: {new}, no longer {old}"), &[])
}

fn flip(lab: Option<&Label>, pod: &Label, ready: bool) -> Result<(), Failure> {
    let mut open = opened_with(lab, std::slice::from_ref(pod))?;
    let of = |record: &&mut PodRecord| record.pod.spec.name == *pod;
    if let Some(record) = open.ledger.pods.iter_mut().find(of) {
        record.unready = !ready;
    }
    store::write_ledger(&open.ledger)?;
    labkit::fault::point("life:flipped");
    revive::publish(&open.ledger, pod)?;
    let word = if ready { "ready" } else { "not ready" };
    open.finish(&format!("pod/{pod} is {word}"), &[])
}
