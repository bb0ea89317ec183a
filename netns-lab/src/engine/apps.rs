//! The part of an `up` that concerns processes: containers that end, holders and containers that start.

use std::collections::BTreeMap;
use std::sync::Mutex;

use labkit::{Failure, fault};

use super::launch::{self, Start};
use super::up::{Up, note};
use crate::edge::{cgroup, process, registry, store};
use crate::model::ledger::{ContainerRecord, ProcessId};
use crate::model::life::KILLED;
use crate::model::name::Label;
use crate::model::name_server;
use crate::model::plan::Step;
use crate::model::pod_files;

impl Up<'_> {
    /// Ends containers, and starts holders and containers.
    pub(super) fn apps(&mut self) -> Result<(), Failure> {
        let stopped = self.select(|step| match step {
            Step::StopContainer(pod, name) => Some((pod.spec.name.clone(), name.clone())),
            // One of that name may have been added by hand.
            Step::StartContainer(pod, spec) => Some((pod.spec.name.clone(), spec.name.clone())),
            _ => None,
        });
        // Their exit codes go with them.
        let ended = self.ended();
        self.end_containers(&stopped)?;
        self.count_restarts(ended);
        self.name_service()?;
        let starts = self.starts();
        if starts.is_empty() {
            return Ok(());
        }
        let names = registry::names(&self.lab().name);
        let ledger = &self.ledger;
        launch::on_workers(
            &starts,
            || Ok(()),
            |(), start| {
                let files = pod_files::all(ledger, start.pod, &names);
                store::prepare_pod(&ledger.lab.name, &start.pod.spec.name, &files)
            },
        )?;
        let started = Mutex::new(Vec::new());
        let result = launch::containers(self.lab(), &starts, self.progress, &started);
        note(&mut self.ledger, started.into_inner().unwrap_or_default());
        fault::point("up:apps");
        result
    }

    /// Offers or withdraws the Service of the name server, of which pods are told when they start.
    fn name_service(&self) -> Result<(), Failure> {
        let lab = &self.ledger.lab.name;
        let mut told = false;
        for step in self.steps {
            match step {
                Step::Publish { file, content } if file == name_server::SERVICE_FILE => {
                    store::publish(lab, file, content)?;
                }
                Step::Withdraw(file) if file == name_server::SERVICE_FILE => store::withdraw(lab, file)?,
                _ => continue,
            }
            fault::point("up:host-name-service");
            told = true;
        }
        if told {
            registry::refresh_pod_files(&self.ledger)?;
        }
        Ok(())
    }

    /// Containers of the topology that have ended by themselves and are started again.
    fn ended(&self) -> Vec<(Label, ContainerRecord)> {
        let starts = self.select(|step| match step {
            Step::StartContainer(pod, spec) => Some((&pod.spec.name, &spec.name)),
            _ => None,
        });
        let known = starts.into_iter().filter_map(|(pod, name)| {
            let record = self.ledger.pod(pod)?.container(name)?;
            let ended = record.process.is_some_and(|process| !process::runs(process));
            let exit_code = store::exit_code(&self.ledger.lab.name, pod, name);
            (record.added.is_none() && ended).then(|| {
                let record = ContainerRecord {
                    exit_code: Some(exit_code.unwrap_or(KILLED)),
                    ..record.clone()
                };
                (pod.clone(), record)
            })
        });
        known.collect()
    }

    fn count_restarts(&mut self, ended: Vec<(Label, ContainerRecord)>) {
        for (pod, before) in ended {
            let mut records = self.ledger.pods.iter_mut();
            if let Some(record) = records.find(|record| record.pod.spec.name == pod) {
                record.containers.push(ContainerRecord {
                    process: None,
                    restarts: before.restarts.saturating_add(1),
                    ..before
                });
            }
        }
    }

    fn end_containers(&mut self, stopped: &[(Label, Label)]) -> Result<(), Failure> {
        let known = |(pod, name): &(Label, Label)| self.ledger.pod(pod)?.process(name);
        let processes: Vec<ProcessId> = stopped.iter().filter_map(known).collect();
        process::end(&processes);
        for (pod, name) in stopped {
            cgroup::remove(&self.ledger.lab.name, pod, name)?;
            store::forget_exit_code(&self.ledger.lab.name, pod, name)?;
            let mut records = self.ledger.pods.iter_mut();
            if let Some(record) = records.find(|record| record.pod.spec.name == *pod) {
                record.containers.retain(|container| container.name != *name);
            }
        }
        Ok(())
    }

    /// What is to be started, pod by pod in the order of the topology.
    fn starts(&self) -> Vec<Start<'_>> {
        let mut starts: BTreeMap<usize, Start> = BTreeMap::new();
        for step in self.steps {
            let (pod, container) = match step {
                Step::AddPod(_, pod) => (pod, None),
                Step::StartContainer(pod, container) => (pod, Some(container.clone())),
                _ => continue,
            };
            let mut records = self.ledger.pods.iter();
            let Some(place) = records.position(|record| record.pod.spec.name == pod.spec.name) else {
                continue;
            };
            let start = starts.entry(place).or_insert_with(|| Start {
                pod,
                holder: self.ledger.pods[place].holder,
                containers: Vec::new(),
            });
            start.containers.extend(container);
        }
        starts.into_values().collect()
    }
}
