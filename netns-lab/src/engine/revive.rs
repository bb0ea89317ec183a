//! Starts containers again that have ended, and tells how pods are.

use std::sync::Mutex;

use labkit::{Failure, fault};

use super::launch::{self, Start};
use super::progress::Progress;
use super::up::note;
use crate::edge::{cgroup, process, registry, store};
use crate::model::ledger::{Ledger, PodRecord, ProcessId};
use crate::model::life::{ContainerHealth, Health, KILLED};
use crate::model::name::Label;
use crate::model::{object, pod_files};

/// How a pod is now.
pub fn health(lab: &Label, record: &PodRecord) -> Health {
    let mut health = Health::of(record);
    health.unready |= !record.holder.is_some_and(process::runs);
    for wanted in record.wanted() {
        let known = record.container(&wanted.name);
        let runs = known.and_then(|known| known.process).is_some_and(process::runs);
        let own = ContainerHealth {
            ended: !runs,
            backing_off: !runs && known.is_some_and(|known| known.streak > 0),
            restarts: known.map_or(0, |known| known.restarts),
            exit_code: if runs {
                known.and_then(|known| known.exit_code).unwrap_or(KILLED)
            } else {
                exit_code(lab, &record.pod.spec.name, &wanted.name)
            },
        };
        health.containers.insert(wanted.name, own);
    }
    health
}

/// What the first process of a container that has ended has left; one that was killed left nothing.
fn exit_code(lab: &Label, pod: &Label, container: &Label) -> u8 {
    store::exit_code(lab, pod, container).unwrap_or(KILLED)
}

/// Publishes how a pod is now. One that is being ended has said what there is to say.
pub fn publish(ledger: &Ledger, pod: &Label) -> Result<(), Failure> {
    let Some(record) = ledger.pod(pod).filter(|record| record.leaving.is_none()) else {
        return Ok(());
    };
    let content = object::pod(&ledger.lab, &record.pod, &health(&ledger.lab.name, record));
    store::publish_own(&ledger.lab.name, &object::pod_file(&record.pod), &content)
}

/// Starts a container of a pod again, in the place of `dead`; `None` when that is not wanted any more.
///
/// `streak` is how often it has ended of late, this time not counted. The ledger says what comes
/// before it is there.
pub fn container(
    ledger: &mut Ledger,
    pod: &Label,
    name: &Label,
    dead: ProcessId,
    streak: u32,
) -> Result<Option<ProcessId>, Failure> {
    let lab = ledger.lab.clone();
    let Some(record) = ledger.pod(pod).cloned() else {
        return Ok(None);
    };
    let holder = record.holder.filter(|holder| process::runs(*holder));
    let specs = record.wanted();
    let spec = specs.into_iter().find(|spec| spec.name == *name);
    let wanted = record.leaving.is_none() && record.process(name) == Some(dead);
    let (Some(holder), Some(spec), true) = (holder, spec, wanted) else {
        return Ok(None);
    };
    let code = exit_code(&lab.name, pod, name);
    let settled = !ledger.unsettled;
    ledger.unsettled = true;
    let mut records = ledger.pods.iter_mut();
    let found = records.find(|record| record.pod.spec.name == *pod);
    for container in found.into_iter().flat_map(|record| &mut record.containers) {
        if container.name == *name {
            container.process = None;
            container.exit_code = Some(code);
            container.restarts = container.restarts.saturating_add(1);
            container.streak = streak.saturating_add(1);
        }
    }
    store::write_ledger(ledger)?;
    fault::point("agent:announced");
    store::forget_exit_code(&lab.name, pod, name)?;
    cgroup::remove(&lab.name, pod, name)?;
    let files = pod_files::all(ledger, &record.pod, &registry::names(&lab.name));
    store::prepare_pod(&lab.name, pod, &files)?;
    let start = Start {
        pod: &record.pod,
        holder: Some(holder),
        containers: vec![spec],
    };
    let started = Mutex::new(Vec::new());
    let result = launch::containers(&lab, &[start], &Progress::default(), &started);
    note(ledger, started.into_inner().unwrap_or_default());
    fault::point("agent:started");
    ledger.unsettled = !settled;
    store::write_ledger(ledger)?;
    fault::point("agent:recorded");
    if let Err(failure) = result {
        // It is seen to have ended, and tried again.
        tracing::debug!(%failure, "a container did not start");
    }
    Ok(ledger.pod(pod).and_then(|record| record.process(name)))
}
