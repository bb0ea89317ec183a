//! What was seen: of a node, its links, its connection table, and of both flavours of iptables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use super::call::Call;
use super::names::Lookup;
use crate::conntrack::Flow;
use crate::explain::Host;
use crate::lab::NAMESPACE_ANNOTATION;
use crate::model::ServicePort;
use crate::registry::model::cluster_ips;
use crate::registry::{Registry, ServiceKey};
use crate::rules::set::Found;

/// A link of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Somebody set it up.
    pub up: bool,
    /// It is the port of a bridge.
    pub is_port: bool,
    /// Its bridge sends back by it what came in by it; `None` where it is no port of a bridge.
    pub hairpin: Option<bool>,
}

/// ICMP redirects of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirects {
    /// How many it has sent.
    pub sent: u64,
    /// The interfaces whose `send_redirects` is on; `all` among them.
    pub on: BTreeSet<String>,
}

/// The rules of one IP family on one node, and what they should be.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// As iptables-save prints them.
    pub text: String,
    /// The same of the other flavour, with its program; only where it has any.
    pub other: Option<(String, String)>,
    /// What this Service's part should be.
    pub wanted: Found,
    /// The ports of the Service, as the node sees them.
    pub ports: Vec<ServicePort>,
}

/// A pod, and where its cable is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `default/web-1`
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The end of its cable on its node, where that is known.
    pub interface: Option<String>,
    /// Its network namespace is there; `None` where nobody knows where it should be.
    pub there: Option<bool>,
    /// The TCP ports that are listened on in it, where it was looked.
    pub listens: Option<Vec<u16>>,
}

/// What was seen of a node itself.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Interfaces, routes, settings.
    pub host: Host,
    /// Its links.
    pub links: Vec<Link>,
    /// Its IPv6 routes.
    pub routes6: Vec<(IpNet, String)>,
    /// How it tells senders of shorter ways.
    pub redirects: Redirects,
    /// UDP flows of the Service that lead to nobody who serves.
    pub stale: Vec<Flow>,
    /// Entries of the connection table, and how many it can hold.
    pub conntrack: Option<(u64, u64)>,
    /// Addresses that this node has no route to.
    pub unroutable: Vec<IpAddr>,
    /// What could not be looked at.
    pub blind: Vec<String>,
}

/// A node with its rules.
#[derive(Debug, Clone, Default)]
pub struct Spot {
    /// The node's name.
    pub node: String,
    /// What to type before a command so that it runs there: nothing, or `netns-lab exec node-1 -- `.
    pub prefix: String,
    /// The iptables program to type.
    pub program: String,
    /// The rules by family; none where there are none to be read.
    pub rules: BTreeMap<Family, Rules>,
    /// The node itself; `None` where only a dump is given.
    pub seen: Option<Seen>,
    /// The pods on it.
    pub pods: Vec<Pod>,
}

/// Everything that a judgement is made from.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The Service.
    pub service: ServiceKey,
    /// The objects.
    pub registry: &'a Registry,
    /// The nodes.
    pub spots: Vec<Spot>,
    /// Calls that were made; a lost one was lost twice.
    pub calls: Vec<Call>,
    /// What pods were told of the Service's name; a wrong answer was given twice.
    pub lookups: Vec<Lookup>,
}

impl Evidence<'_> {
    /// `default/web`
    pub fn name(&self) -> String {
        format!("{}/{}", self.service.0, self.service.1)
    }

    /// The addresses of the cluster's name server; none where it has no such Service.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        let key = ("kube-system".to_string(), "kube-dns".to_string());
        let service = self.registry.services.get(&key);
        let addresses = service.map_or_else(Vec::new, |service| cluster_ips(service));
        let addresses = addresses.iter().filter_map(|ip| crate::address::parse_ip(ip));
        addresses.collect()
    }

    /// Whether pods are network namespaces of a lab.
    pub fn is_lab(&self) -> bool {
        let mut pods = self.spots.iter().flat_map(|spot| &spot.pods);
        pods.any(|pod| pod.there.is_some())
    }

    /// Whether the objects are those of a lab, wherever the rules are from.
    pub fn is_of_lab(&self) -> bool {
        let mut pods = self.registry.pods.values().flat_map(|pods| pods.values());
        pods.any(|pod| {
            let told = pod.metadata.annotations.as_ref();
            told.is_some_and(|told| told.contains_key(NAMESPACE_ANNOTATION))
        })
    }

    /// All endpoints that should take calls, once each.
    pub fn endpoints(&self) -> Vec<(IpAddr, u16)> {
        let ports = self
            .spots
            .iter()
            .flat_map(|spot| spot.rules.values())
            .flat_map(|rules| &rules.ports);
        let ready = ports
            .flat_map(|port| &port.endpoints)
            .filter(|endpoint| endpoint.ready);
        let mut all: Vec<_> = ready.map(|endpoint| (endpoint.ip, endpoint.port)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The pod that has an address, and its node.
    pub fn pod_at(&self, ip: IpAddr) -> Option<(&Spot, &Pod)> {
        self.spots.iter().find_map(|spot| {
            let pod = spot.pods.iter().find(|pod| pod.addresses.contains(&ip))?;
            Some((spot, pod))
        })
    }

    /// What an address is called: the pod's name, else itself.
    pub fn called(&self, ip: IpAddr) -> String {
        self.pod_at(ip)
            .map_or_else(|| ip.to_string(), |(_, pod)| format!("{} ({ip})", pod.name))
    }
}
