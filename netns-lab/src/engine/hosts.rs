//! The part of an `up` that concerns nodes, the underlay and outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};

use labkit::rundir::RunDirectory;
use labkit::{Failure, fault};

use super::launch::on_workers;
use super::visit::visit;
use super::{down, progress::Progress};
use crate::edge::node::Node;
use crate::edge::pod::{self, Bridge, End};
use crate::edge::rules::Rules;
use crate::edge::{host, links, namespace};
use crate::model::address;
use crate::model::ledger::{HostRecord, Lab, Ledger, Pod};
use crate::model::name::Label;
use crate::model::node::{Host, Machine, Node as LabNode, OWN_END, UNDERLAY_BRIDGE};
use crate::model::observed::{Observed, View};
use crate::model::plan::Step;
use crate::model::rule::Rule;

/// With more pods than these their entries for each other could fill the kernel's table of
/// neighbours; with fewer, whoever is gone is asked for in vain, as it should be seen.
const FEW_PODS: usize = 200;

/// A plan, as far as it concerns namespaces that are not pods'.
pub struct Hosts<'a> {
    /// The lab as it will be.
    pub lab: &'a Lab,
    /// What was seen before.
    pub observed: &'a Observed,
    /// The steps.
    pub steps: &'a [Step],
}

impl Hosts<'_> {
    /// Removes those that are not wanted or not whole.
    pub fn remove(&self, run: &RunDirectory) -> Result<(), Failure> {
        let gone: Vec<&HostRecord> = self.select(|step| match step {
            Step::RemoveHost(record) => Some(record),
            _ => None,
        });
        Failure::all(down::remove_hosts(run, gone)).map_or(Ok(()), Err)
    }

    /// Makes namespaces and notes down their inodes.
    pub fn add(&self, ledger: &mut Ledger) -> Result<(), Failure> {
        let new = self.select(|step| match step {
            Step::AddHost(host, namespace) => Some((host, namespace)),
            _ => None,
        });
        let made = on_workers(
            &new,
            || Ok(()),
            |(), (host, namespace)| {
                let inode = pod::new_machine(namespace)?;
                if let (Host::Underlay, Some(underlay)) = (host, &self.lab.underlay) {
                    let first = address::host(underlay.cidr, 0);
                    Node::open()?.add_underlay(self.lab, first)?;
                }
                fault::point("up:host-made");
                Ok(((*namespace).clone(), inode))
            },
        )?;
        let made: BTreeMap<String, u64> = made.into_iter().collect();
        for record in &mut ledger.hosts {
            if let Some(inode) = made.get(&record.namespace) {
                record.namespace_inode = Some(*inode);
            }
        }
        Ok(())
    }

    /// Writes the rules that are missing, each node's in its namespace.
    pub fn add_rules(&self, program: &std::path::Path) -> Result<(), Failure> {
        let mut missing: BTreeMap<Host, Vec<Rule>> = BTreeMap::new();
        for step in self.steps {
            if let Step::AddRule(node, rule) = step {
                missing.entry(node.host()).or_default().push(rule.clone());
            }
        }
        let hosts: Vec<_> = missing.keys().cloned().collect();
        visit(self.lab, &hosts, |host| {
            let rules = missing.get(host).map_or(&[][..], Vec::as_slice);
            // Only the namespace that `up` was called in has rules of others.
            if self.is_own(host) {
                Rules::new(program).append(rules)
            } else {
                Rules::new(program).add(rules)
            }
        })
        .map(|_| ())
    }

    /// Settings, the way to the underlay, bridges and tunnels: all that pods need.
    pub fn prepare(&self) -> Result<(), Failure> {
        let before = |step: &&Step| {
            matches!(
                step,
                Step::Configure(..) | Step::Attach(..) | Step::AddBridge(_) | Step::AddTunnel(_)
            )
        };
        let by_host = self.by_host(before);
        let hosts: Vec<_> = by_host.keys().cloned().collect();
        let highest = self.view(&Host::Underlay).map_or(0, View::highest_index);
        let indexes = AtomicU32::new(highest.max(UNDERLAY_FIRST) + 1);
        visit(self.lab, &hosts, |host| {
            for step in by_host.get(host).into_iter().flatten() {
                self.take(host, step, &indexes)?;
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Bridges up, and the ways between nodes.
    pub fn finish(&self) -> Result<(), Failure> {
        let after = |step: &&Step| {
            matches!(
                step,
                Step::RaiseBridge(_) | Step::RouteServices(..) | Step::AddWay(..) | Step::RemoveWay(..)
            )
        };
        let by_host = self.by_host(after);
        let hosts: Vec<_> = by_host.keys().cloned().collect();
        visit(self.lab, &hosts, |host| {
            let node = Node::open()?;
            for step in by_host.get(host).into_iter().flatten() {
                match step {
                    Step::RaiseBridge(lab_node) => {
                        host::set_up_bridge(&lab_node.bridge)?;
                        node.raise_bridge(lab_node)?;
                        fault::point("up:bridge-up");
                    }
                    Step::RouteServices(lab_node, ranges) => {
                        node.route_services(lab_node, ranges)?;
                        fault::point("up:route");
                    }
                    Step::AddWay(_, way) => {
                        node.add_way(way)?;
                        fault::point("up:host-way");
                    }
                    Step::RemoveWay(_, route) => node.remove_way(route)?,
                    _ => {}
                }
            }
            Ok(())
        })
        .map(|_| ())
    }

    fn take(&self, host: &Host, step: &Step, indexes: &AtomicU32) -> Result<(), Failure> {
        match step {
            Step::Configure(_, settings) => {
                host::configure(settings)?;
                fault::point("up:host-configured");
            }
            Step::Attach(_, machine) => {
                self.attach(host, machine, indexes)?;
                fault::point("up:host-attached");
            }
            Step::AddBridge(node) => {
                Node::open()?.add_bridge(self.lab, node)?;
                fault::point("up:bridge");
            }
            Step::AddTunnel(node) => {
                if let Some(machine) = &node.machine {
                    Node::open()?.add_tunnel(self.lab, node, machine)?;
                    fault::point("up:host-tunnel");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Joins the namespace that this thread is in to the underlay.
    fn attach(&self, host: &Host, machine: &Machine, indexes: &AtomicU32) -> Result<(), Failure> {
        let Some(underlay) = &self.lab.underlay else {
            return Ok(());
        };
        let node = Node::open()?;
        if self.view(host).is_some_and(|view| view.link(OWN_END).is_some()) {
            node.delete_link(OWN_END)?;
        }
        let own = namespace::current()?;
        pod::enter(&namespace::open(&underlay.namespace)?)?;
        let there = Node::open()?;
        let port = self
            .view(&Host::Underlay)
            .and_then(|view| view.link(&machine.interface));
        if port.is_some() {
            // Its other end may be anywhere, or nowhere.
            there.delete_link(&machine.interface)?;
        }
        let index = there.index(UNDERLAY_BRIDGE)?;
        let mut bridge = Bridge::here(self.lab, index, indexes)?;
        pod::enter(&own)?;
        let end = End::machine(underlay, host.to_string(), machine);
        let number = indexes.fetch_add(1, Ordering::Relaxed);
        bridge.join(&end, number)
    }

    /// Makes pods and returns the inodes of their namespaces.
    pub fn add_pods(&self, progress: &Progress) -> Result<BTreeMap<Label, u64>, Failure> {
        let pods: Vec<(&LabNode, &Pod)> = self.select(|step| match step {
            Step::AddPod(node, pod) => Some((node, pod)),
            _ => None,
        });
        let sites = self.sites(&pods)?;
        // In the order of the topology, whichever thread is quicker.
        let mut next: BTreeMap<&Label, u32> = BTreeMap::new();
        let jobs: Vec<(&LabNode, &Pod, u32)> = pods
            .into_iter()
            .filter_map(|(node, pod)| {
                let first = sites.get(node.name())?.first;
                let number = next.entry(node.name()).or_insert(first);
                *number += 1;
                Some((node, pod, *number - 1))
            })
            .collect();
        let total = jobs.len();
        let many = total + self.observed.held.len() > FEW_PODS;
        let made = on_workers(
            &jobs,
            || Ok(BTreeMap::<&Label, Bridge>::new()),
            |open, (node, pod, index)| {
                let name = node.name();
                let missing = || Failure::failed(format!("the node {name} is not there"));
                let site = sites.get(name).ok_or_else(missing)?;
                if !open.contains_key(name) {
                    pod::enter(&site.namespace)?;
                    open.insert(name, Bridge::here(self.lab, site.bridge, &site.spare)?);
                }
                let bridge = open.get_mut(name).ok_or_else(missing)?;
                let end = End::pod(self.lab, node, pod);
                let end = if many { end.acquainted(node) } else { end };
                let inode = bridge.make_pod(pod, &end, *index)?;
                fault::point("up:pod");
                progress.tick("made pods", total);
                Ok((pod.spec.name.clone(), inode))
            },
        )?;
        Ok(made.into_iter().collect())
    }

    /// What is to be known of each node that gets pods.
    fn sites<'s>(&self, pods: &[(&'s LabNode, &Pod)]) -> Result<BTreeMap<&'s Label, Site>, Failure> {
        let mut numbers: BTreeMap<&Label, u32> = BTreeMap::new();
        for (node, _) in pods {
            *numbers.entry(node.name()).or_default() += 1;
        }
        let hosts: Vec<_> = numbers.keys().map(|name| Host::Node((*name).clone())).collect();
        let looked = visit(self.lab, &hosts, |host| {
            let links = links::all()?;
            let bridge = links.iter().find(|link| link.name == self.lab.bridge);
            let bridge = bridge
                .ok_or_else(|| Failure::failed(format!("{host} has no bridge {}", self.lab.bridge)))?
                .index;
            let first = links.iter().map(|link| link.index).max().unwrap_or(0) + 1;
            Ok((host.clone(), (namespace::current()?, bridge, first)))
        })?;
        let mut looked: BTreeMap<Host, _> = looked.into_iter().collect();
        let sites = numbers.into_iter().filter_map(|(name, number)| {
            let (namespace, bridge, first) = looked.remove(&Host::Node(name.clone()))?;
            let site = Site {
                namespace,
                bridge,
                first,
                spare: AtomicU32::new(first.saturating_add(number)),
            };
            Some((name, site))
        });
        Ok(sites.collect())
    }

    fn is_own(&self, host: &Host) -> bool {
        self.lab.machines().any(|(other, _)| other == *host)
    }

    fn view(&self, host: &Host) -> Option<&View> {
        let renewed: BTreeSet<&Host> = self
            .select(|step| match step {
                Step::AddHost(host, _) => Some(host),
                _ => None,
            })
            .into_iter()
            .collect();
        self.observed.views.get(host).filter(|_| !renewed.contains(host))
    }

    fn select<'s, T>(&'s self, pick: impl Fn(&'s Step) -> Option<T>) -> Vec<T> {
        self.steps.iter().filter_map(pick).collect()
    }

    /// The steps of a kind, for each namespace in the order of the plan.
    fn by_host(&self, kind: impl Fn(&&Step) -> bool) -> BTreeMap<Host, Vec<&Step>> {
        let mut found: BTreeMap<Host, Vec<&Step>> = BTreeMap::new();
        for step in self.steps.iter().filter(kind) {
            if let Some(host) = step.host() {
                found.entry(host).or_default().push(step);
            }
        }
        found
    }
}

/// Below it are the links that the underlay has from its begin.
const UNDERLAY_FIRST: u32 = 10;

/// A node that gets pods.
struct Site {
    namespace: File,
    bridge: u32,
    /// The index of the first pod's link.
    first: u32,
    /// Indexes that are free after all pods', for those whose own is taken.
    spare: AtomicU32,
}
