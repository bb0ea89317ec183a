//! Adds one container to a pod that is there.

use std::sync::Mutex;

use labkit::{Failure, fault};

use super::launch::{self, Start};
use super::progress::Progress;
use super::revive;
use super::up::note;
use crate::edge::{cgroup, process, registry, store};
use crate::model::container::ContainerSpec;
use crate::model::ledger::{ContainerRecord, Ledger};
use crate::model::name::Label;
use crate::model::pod_files;

/// Starts a container in a pod and writes it down; the ledger first, as with all that is made.
///
/// One that runs `once` is nobody's to start again, and its end is no matter to the pod.
pub fn add_container(
    mut ledger: Ledger,
    pod: &Label,
    spec: &ContainerSpec,
    once: bool,
) -> Result<(), Failure> {
    let lab = ledger.lab.clone();
    let gone = || {
        Failure::failed(format!("the pod {pod} is not whole"))
            .hint(format!("`netns-lab up --name {}` repairs the lab", lab.name))
    };
    let record = ledger.pod(pod).cloned().ok_or_else(gone)?;
    let holder = record
        .holder
        .filter(|holder| process::runs(*holder))
        .ok_or_else(gone)?;
    refuse_taken(&ledger, pod, spec)?;
    let settled = !ledger.unsettled;
    ledger.unsettled = true;
    forget(&mut ledger, pod, &spec.name);
    if let Some(record) = ledger.pods.iter_mut().find(|record| record.pod.spec.name == *pod) {
        record.containers.push(ContainerRecord {
            added: Some(spec.clone()),
            once,
            ..ContainerRecord::announced(spec.name.clone())
        });
    }
    store::write_ledger(&ledger)?;
    fault::point("run:announced");
    store::prepare_pod(
        &lab.name,
        pod,
        &pod_files::all(&ledger, &record.pod, &registry::names(&lab.name)),
    )?;
    let started = Mutex::new(Vec::new());
    let start = Start {
        pod: &record.pod,
        holder: Some(holder),
        containers: vec![spec.clone()],
    };
    let result = launch::containers(&lab, &[start], &Progress::default(), &started);
    note(&mut ledger, started.into_inner().unwrap_or_default());
    fault::point("run:started");
    if let Err(failure) = result {
        take_back(&mut ledger, pod, spec, settled)?;
        return Err(failure.hint("nothing was left behind"));
    }
    ledger.unsettled = !settled;
    store::write_ledger(&ledger)?;
    fault::point("run:recorded");
    revive::publish(&ledger, pod)?;
    // It has the ledger by heart, and this container is not in it.
    ledger.agent.iter().for_each(|agent| process::nudge(*agent));
    Ok(())
}

fn refuse_taken(ledger: &Ledger, pod: &Label, spec: &ContainerSpec) -> Result<(), Failure> {
    let Some(record) = ledger.pod(pod) else {
        return Ok(());
    };
    let of_topology = record
        .pod
        .containers()
        .iter()
        .any(|wanted| wanted.name == spec.name);
    let runs = record.process(&spec.name).is_some_and(process::runs);
    if of_topology || runs {
        return Err(
            Failure::failed(format!("the pod {pod} has a container {} already", spec.name))
                .hint("choose another --name"),
        );
    }
    Ok(())
}

fn forget(ledger: &mut Ledger, pod: &Label, container: &Label) {
    let mut records = ledger.pods.iter_mut();
    if let Some(record) = records.find(|record| record.pod.spec.name == *pod) {
        record.containers.retain(|record| record.name != *container);
    }
}

/// One that did not start leaves nothing.
fn take_back(ledger: &mut Ledger, pod: &Label, spec: &ContainerSpec, settled: bool) -> Result<(), Failure> {
    let process = ledger.pod(pod).and_then(|record| record.process(&spec.name));
    process::end(&process.into_iter().collect::<Vec<_>>());
    cgroup::remove(&ledger.lab.name, pod, &spec.name)?;
    store::forget_container(&ledger.lab.name, pod, &spec.name)?;
    forget(ledger, pod, &spec.name);
    ledger.unsettled = !settled;
    store::write_ledger(ledger)
}
