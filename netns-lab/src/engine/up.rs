//! Takes the steps of a plan.
//!
//! The ledger says what will be made before anything is; a command that dies anywhere leaves
//! enough for the next one to repair or to remove.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, ScopedJoinHandle};

use labkit::rundir::RunDirectory;
use labkit::{Failure, fault, footprint, shell};

use super::down::{self, holder};
use super::hosts::Hosts;
use super::launch::{self, Started};
use super::progress::Progress;
use super::settle;
use super::visit::visit;
use crate::edge::node::Node;
use crate::edge::{self, host, joined, process, store};
use crate::model::container::ContainerSpec;
use crate::model::ledger::{ContainerRecord, HostRecord, Lab, Leaving, Ledger, Pod, PodRecord, ProcessId};
use crate::model::name::Label;
use crate::model::node::Host;
use crate::model::object;
use crate::model::observed::Observed;
use crate::model::plan::Step;
use crate::model::settings::BRIDGE_NF;

/// A plan on its way: what it was made from, and what has come of it.
pub struct Up<'a> {
    /// The lock on all labs.
    pub run: &'a RunDirectory,
    /// What was seen before.
    pub observed: &'a Observed,
    /// The steps, in their order.
    pub steps: &'a [Step],
    /// The ledger as it will be: intents now, facts as they come.
    pub ledger: Ledger,
    /// Told on the way.
    pub progress: &'a mut Progress,
}

impl Up<'_> {
    /// Takes all steps and returns the ledger of the lab that stands then.
    pub fn take(mut self, wanted: &[Pod]) -> Result<Ledger, Failure> {
        self.announce(wanted)?;
        let lab = self.ledger.lab.clone();
        let hosts = Hosts {
            lab: &lab,
            observed: self.observed,
            steps: self.steps,
        };
        let has_rules = self.steps.iter().any(|step| matches!(step, Step::AddRule(..)));
        // The tables of a node of its own go with it.
        if has_rules && lab.caller_node().is_some() {
            footprint::hold(self.run, &holder(&self.ledger.lab.name))?;
            fault::point("up:footprint");
        }
        let program = self.ledger.iptables.clone();
        self.machine()?;
        self.remove(&hosts)?;
        hosts.add(&mut self.ledger)?;
        thread::scope(|scope| {
            // An iptables process takes longer than making a pod: both at once.
            let writing = scope.spawn(|| hosts.add_rules(&program));
            let made = self.network(&hosts);
            self.finish(made, writing, wanted)
        })?;
        self.record(wanted)?;
        Ok(self.ledger)
    }

    fn finish(
        &mut self,
        made: Result<(), Failure>,
        writing: ScopedJoinHandle<'_, Result<(), Failure>>,
        wanted: &[Pod],
    ) -> Result<(), Failure> {
        let written = joined(writing);
        made?;
        written?;
        fault::point("up:rules");
        self.progress.phase("rules");
        self.apps()?;
        self.progress.phase("apps");
        self.registry(wanted)
    }

    pub(super) fn select<'s, T>(&'s self, pick: impl Fn(&'s Step) -> Option<T>) -> Vec<T> {
        self.steps.iter().filter_map(pick).collect()
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.ledger.lab
    }

    /// Writes down all that will be made, and forgets facts that will not hold any more.
    fn announce(&mut self, wanted: &[Pod]) -> Result<(), Failure> {
        store::make_lab_directory(&self.ledger.lab.name)?;
        fault::point("up:folder");
        self.ledger.unsettled = true;
        for step in self.steps {
            if let Step::RemovePod(gone) = step {
                let records = self.ledger.pods.iter_mut();
                records
                    .filter(|record| record.pod == gone.pod)
                    .for_each(|record| record.namespace_inode = None);
            }
        }
        self.announce_hosts();
        for pod in wanted {
            if self.ledger.pod(&pod.spec.name).is_none() {
                self.ledger.pods.push(PodRecord::announced(pod.clone()));
            }
        }
        store::write_ledger(&self.ledger)?;
        fault::point("up:announced");
        Ok(())
    }

    /// The same for the namespaces of nodes, of the underlay and of outside.
    fn announce_hosts(&mut self) {
        for step in self.steps {
            if let Step::RemoveHost(gone) = step {
                let records = self.ledger.hosts.iter_mut();
                records
                    .filter(|record| record.namespace == gone.namespace)
                    .for_each(|record| record.namespace_inode = None);
            }
        }
        for (_, namespace) in self.ledger.lab.hosts() {
            if !self
                .ledger
                .hosts
                .iter()
                .any(|record| record.namespace == namespace)
            {
                self.ledger.hosts.push(HostRecord {
                    namespace: namespace.to_string(),
                    namespace_inode: None,
                });
            }
        }
    }

    /// Everything but processes and files.
    fn network(&mut self, hosts: &Hosts) -> Result<(), Failure> {
        hosts.prepare()?;
        self.progress.phase("host");
        let made = hosts.add_pods(self.progress)?;
        for record in &mut self.ledger.pods {
            if let Some(inode) = made.get(&record.pod.spec.name) {
                record.namespace_inode = Some(*inode);
                record.holder = None;
                record.containers.clear();
                record.unready = false;
                (record.leaving, record.ender) = (None, None);
            }
        }
        self.progress.phase("pods");
        hosts.finish()?;
        self.progress.phase("bridge");
        Ok(())
    }

    /// What concerns the whole machine, and the settings of the namespace that is the only node.
    fn machine(&mut self) -> Result<(), Failure> {
        let node = self.ledger.node_namespace;
        for step in self.steps {
            match step {
                Step::Set { key, value, .. } => {
                    if let Some(node) = node {
                        host::set(key, value, node)?;
                    }
                    fault::point("up:setting");
                }
                Step::LoadBridgeNetfilter => {
                    if host::load_bridge_netfilter()? {
                        if let Some(node) = node {
                            host::set(BRIDGE_NF, "1", node)?;
                        }
                    } else {
                        shell::tell(
                            "warning: the kernel module br_netfilter is not loaded and could not be: a pod that \
                             calls a Service\n         gets no answer (the node does)\n hint: sudo modprobe \
                             br_netfilter, outside of any sandbox; then `netns-lab up` again",
                        );
                    }
                    fault::point("up:module");
                }
                Step::MakeNetnsDirectory => {
                    host::prepare_netns_directory()?;
                    fault::point("up:netns-directory");
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn remove(&mut self, hosts: &Hosts) -> Result<(), Failure> {
        self.remove_pods()?;
        // After the pods' apps, which would see their network go.
        hosts.remove(self.run)
    }

    fn remove_pods(&mut self) -> Result<(), Failure> {
        let gone: Vec<&PodRecord> = self.select(|step| match step {
            Step::RemovePod(record) => Some(record),
            _ => None,
        });
        if gone.is_empty() {
            return Ok(());
        }
        let agent = self.ledger.agent;
        process::end(
            &gone
                .iter()
                .flat_map(|record| record.processes())
                .chain(agent)
                .collect::<Vec<_>>(),
        );
        fault::point("up:removed-apps");
        self.remove_links(&gone)?;
        fault::point("up:removed-links");
        let failures = down::remove_namespaces(gone.iter().copied());
        if let Some(failure) = Failure::all(failures) {
            return Err(failure);
        }
        fault::point("up:removed-namespaces");
        for record in &gone {
            down::forget_pod(&self.ledger.lab.name, record)?;
        }
        Ok(())
    }

    /// Deletes the nodes' ends of pods that are going, on nodes that stay; with the others they go
    /// anyway.
    fn remove_links(&self, gone: &[&PodRecord]) -> Result<(), Failure> {
        let leaving: BTreeSet<&str> = gone.iter().map(|record| record.pod.interface.as_str()).collect();
        let lab = self.lab();
        let removed: BTreeSet<&str> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::RemoveHost(record) => Some(record.namespace.as_str()),
                _ => None,
            })
            .collect();
        let stays = |host: &&Host| match host {
            Host::Node(name) => lab.node(name).is_some_and(|node| {
                let machine = node.machine.as_ref();
                machine.is_none_or(|machine| !removed.contains(machine.namespace.as_str()))
            }),
            _ => false,
        };
        let hosts: Vec<_> = self.observed.views.keys().filter(stays).cloned().collect();
        visit(lab, &hosts, |host| {
            let links = self
                .observed
                .views
                .get(host)
                .into_iter()
                .flat_map(|view| &view.links);
            let links: Vec<_> = links
                .filter(|link| link.group == lab.group() && leaving.contains(link.name.as_str()))
                .collect();
            let here = gone
                .iter()
                .filter(|record| lab.node(&record.pod.node).is_some_and(|one| one.host() == *host));
            let here: Vec<_> = here.map(|record| &record.pod).collect();
            if links.is_empty() && here.is_empty() {
                return Ok(());
            }
            let node = Node::open()?;
            // Entries of others' links stay; those of ours outlive the pods, not the bridge.
            let bridges: Vec<u32> = self
                .observed
                .views
                .get(host)
                .into_iter()
                .flat_map(|view| &view.links)
                .filter(|link| {
                    link.group == lab.group() && lab.nodes.iter().any(|node| node.bridge == link.name)
                })
                .map(|link| link.index)
                .collect();
            node.delete_links(&links, lab.group())?;
            node.forget_neighbours(&bridges, &here)
        })
        .map(|_| ())
    }

    fn registry(&mut self, wanted: &[Pod]) -> Result<(), Failure> {
        let lab = &self.ledger.lab;
        for step in self.steps {
            match step {
                Step::Publish { file, content } => store::publish_own(&lab.name, file, content)?,
                Step::Withdraw(file) => store::withdraw(&lab.name, file)?,
                Step::OfferService(_) => offer_service(lab)?,
                _ => continue,
            }
            fault::point("up:published");
        }
        tracing::debug!(pods = wanted.len(), "the registry is up to date");
        self.progress.phase("registry");
        Ok(())
    }

    /// Writes down what stands now, and starts the agent on it.
    fn record(&mut self, wanted: &[Pod]) -> Result<(), Failure> {
        // In the order of the topology, with what it says now.
        let mut records: BTreeMap<Label, PodRecord> = self
            .ledger
            .pods
            .drain(..)
            .map(|record| (record.pod.spec.name.clone(), record))
            .collect();
        self.ledger.pods = wanted
            .iter()
            .filter_map(|pod| {
                let mut record = records.remove(&pod.spec.name)?;
                in_order(&mut record.containers, &pod.containers());
                record.leaving = record.leaving_by_others();
                Some(PodRecord {
                    pod: pod.clone(),
                    ..record
                })
            })
            .collect();
        // Pods that another command ends are its business until it has.
        let others = records.into_values();
        let others = others.filter(|record| record.leaving_by_others() == Some(Leaving::ForGood));
        self.ledger.pods.extend(others);
        let standing: Vec<_> = self
            .ledger
            .lab
            .hosts()
            .into_iter()
            .map(|(_, name)| name.to_string())
            .collect();
        self.ledger
            .hosts
            .retain(|record| standing.contains(&record.namespace));
        if self.steps.iter().any(|step| matches!(step, Step::StartAgent)) {
            process::end(&self.ledger.agent.into_iter().collect::<Vec<_>>());
            self.ledger.agent = start_agent(&self.ledger.lab)?;
            fault::point("up:agent");
        }
        self.ledger.unsettled = false;
        store::write_ledger(&self.ledger)?;
        fault::point("up:recorded");
        self.progress.phase("record");
        Ok(())
    }
}

/// Writes down what was started.
pub fn note(ledger: &mut Ledger, started: Vec<Started>) {
    let mut by_pod: BTreeMap<Label, Vec<Started>> = BTreeMap::new();
    for one in started {
        by_pod.entry(one.pod.clone()).or_default().push(one);
    }
    for record in &mut ledger.pods {
        for one in by_pod.remove(&record.pod.spec.name).unwrap_or_default() {
            match one.container {
                None => record.holder = Some(one.process),
                Some(name) => record.set_process(&name, Some(one.process)),
            }
        }
    }
}

/// Those of the topology first, in its order, then those that were added.
fn in_order(records: &mut [ContainerRecord], wanted: &[ContainerSpec]) {
    records.sort_by_key(|record| {
        let place = wanted.iter().position(|wanted| wanted.name == record.name);
        place.unwrap_or(wanted.len())
    });
}

fn offer_service(lab: &Lab) -> Result<(), Failure> {
    // A file of this name without a Service in it is somebody's work; leave it.
    if store::registry(&lab.name).join(object::SERVICE_FILE).exists() {
        return Ok(());
    }
    match object::first_service(lab, &edge::now()) {
        Some(content) => store::publish(&lab.name, object::SERVICE_FILE, &content),
        None => Ok(()),
    }
}

/// Starts the agent: where the lab has an underlay, in that namespace, which is its own, so that the
/// agent can be told by where it is.
fn start_agent(lab: &Lab) -> Result<Option<ProcessId>, Failure> {
    if lab.underlay.is_none() {
        return launch::agent(lab);
    }
    let started = visit(lab, &[Host::Underlay], |_| launch::agent(lab))?;
    Ok(started.into_iter().flatten().next())
}

/// Ends processes that a dead command started and could not write down.
pub fn end_strays(ledger: &Ledger) {
    if ledger.unsettled {
        process::end(&settle::strays(ledger));
    }
}
