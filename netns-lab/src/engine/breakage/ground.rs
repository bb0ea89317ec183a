//! The parts of a lab that failures are made of.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use labkit::Failure;

use crate::engine::settle::{self, Place};
use crate::model::ledger::{Ledger, Pod};
use crate::model::name::Label;
use crate::model::node::Node;

/// A node of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// Its name.
    pub name: Label,
    /// Its namespace under `/run/netns`; none is that of the caller.
    pub namespace: Option<String>,
    /// The range of its pods.
    pub pod_cidr: Ipv4Net,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// A lab as failures see it.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The lab.
    pub lab: Label,
    /// Its nodes.
    pub spots: Vec<Spot>,
    /// The range of all pods.
    pub pods: Ipv4Net,
    /// The range of virtual IPs.
    pub services: Ipv4Net,
    /// The name of the bridge of each node.
    pub bridge: String,
    /// The iptables program of the lab.
    pub iptables: PathBuf,
}

impl Ground {
    /// The ground of a lab that stands and can be changed from here.
    ///
    /// # Errors
    /// When the lab is half made or half gone, or its node is elsewhere.
    pub fn of(ledger: &Ledger) -> Result<Self, Failure> {
        let lab = &ledger.lab;
        match settle::place(ledger)? {
            Place::Here => {}
            Place::Elsewhere(pid) => return Err(settle::elsewhere(ledger, pid)),
            Place::Gone => {
                return Err(
                    Failure::failed(format!("the node of the lab {} is gone", lab.name))
                        .hint(format!("`netns-lab down {}`", lab.name)),
                );
            }
        }
        if ledger.leaving {
            return Err(Failure::failed(format!("the lab {} is going down", lab.name))
                .hint(format!("finish that: netns-lab down {}", lab.name)));
        }
        if ledger.unsettled {
            return Err(Failure::failed(format!(
                "the lab {} is not whole: an `up` did not finish",
                lab.name
            ))
            .hint(format!("finish it first: netns-lab up --name {}", lab.name)));
        }
        Ok(Self {
            lab: lab.name.clone(),
            spots: spots(ledger),
            pods: lab.pod_cidr.trunc(),
            services: lab.service_cidr.trunc(),
            bridge: lab.bridge.clone(),
            iptables: ledger.iptables.clone(),
        })
    }

    /// All pods.
    pub fn all_pods(&self) -> impl Iterator<Item = (&Spot, &Pod)> {
        self.spots
            .iter()
            .flat_map(|spot| spot.pods.iter().map(move |pod| (spot, pod)))
    }

    /// The pod that has an address, and its node.
    pub fn pod_at(&self, ip: Ipv4Addr) -> Option<(&Spot, &Pod)> {
        self.all_pods().find(|(_, pod)| pod.ip == ip)
    }
}

fn spots(ledger: &Ledger) -> Vec<Spot> {
    let pods_of = |node: &Node| {
        // The name server is broken by nobody.
        let pods = ledger.topology_pods().map(|record| &record.pod);
        pods.filter(|pod| pod.node == *node.name()).cloned().collect()
    };
    let nodes = ledger.lab.nodes.iter();
    nodes
        .map(|node| Spot {
            name: node.name().clone(),
            namespace: node.machine.as_ref().map(|machine| machine.namespace.clone()),
            pod_cidr: node.pod_cidr,
            pods: pods_of(node),
        })
        .collect()
}
