//! Who sends a packet: the pod, node or stranger that was asked for, or a pod that stands for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use labkit::Failure;
use labkit::xtables::Family;

use super::nearest::nearest;
use super::resolve::{Asked, Meant, Sender, SenderKind};
use super::{Caller, KnownPod};
use crate::rules::trace::{OUTSIDE_INTERFACE, SOME_INTERFACE};

/// An address, the interface by which its packets arrive, and whose it is.
type Sent = (IpAddr, Option<String>, Sender);

/// Stands for somebody outside.
fn somebody(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 9).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9).into(),
    }
}

impl Asked<'_> {
    pub(super) fn sender(&mut self, caller: Option<&Caller>, target: &Meant) -> Result<Sent, Failure> {
        let away = Some(SOME_INTERFACE.to_string());
        let plain = |kind, name: Option<&str>| Sender {
            kind,
            name: name.map(str::to_string),
            node: None,
            chosen: None,
        };
        Ok(match caller {
            None => self.chosen(target),
            Some(Caller::Outside) => (
                somebody(self.family),
                Some(OUTSIDE_INTERFACE.to_string()),
                plain(SenderKind::Outside, Some("outside")),
            ),
            Some(Caller::Node) => self.sent_here(target),
            Some(Caller::Address(ip)) => self.sent_by(*ip, target),
            Some(Caller::Named { namespace, name }) => {
                let pod = self.pod(namespace.as_deref(), name)?;
                if let Some(ip) = pod {
                    self.sent_by(ip, target)
                } else if Some(name) == self.book.here.as_ref() {
                    self.sent_here(target)
                } else {
                    let node = self.book.nodes.iter().find(|node| node.name == *name);
                    match node.and_then(|node| node.addresses.first()) {
                        Some(ip) => (*ip, away, plain(SenderKind::OtherNode, Some(name.as_str()))),
                        None => return Err(self.nobody(name, namespace.as_deref())),
                    }
                }
            }
        })
    }

    /// The address of a pod of this name; `None` when there is no such pod.
    fn pod(&self, namespace: Option<&str>, name: &str) -> Result<Option<IpAddr>, Failure> {
        let of_name = self.book.pods.iter().filter(|pod| pod.name == name);
        let fitting: Vec<_> = of_name
            .filter(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace))
            .collect();
        let in_default = fitting.iter().find(|pod| pod.namespace == "default");
        let pod = match (fitting.as_slice(), in_default) {
            ([], _) => return Ok(None),
            ([only], _) => only,
            (_, Some(default)) => default,
            (several, None) => {
                let names: Vec<String> = several
                    .iter()
                    .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                    .collect();
                return Err(Failure::usage(format!("several pods are called {name}"))
                    .hint(format!("name one: {}", names.join(", "))));
            }
        };
        match pod.addresses.first() {
            Some(ip) => Ok(Some(*ip)),
            None => Err(Failure::usage(format!(
                "pod {}/{} has no {} address",
                pod.namespace,
                pod.name,
                self.family.name()
            ))),
        }
    }

    fn nobody(&self, name: &str, namespace: Option<&str>) -> Failure {
        let failure = Failure::usage(match namespace {
            Some(namespace) => format!("there is no pod {namespace}/{name}"),
            None => format!("there is neither a pod nor a node {name}"),
        });
        let pods = self.book.pods.iter().map(|pod| pod.name.as_str());
        let nodes = self.book.nodes.iter().map(|node| node.name.as_str());
        let near = nearest(name, pods.chain(nodes));
        if !near.is_empty() {
            return failure.hint(format!("did you mean {}?", near.join(" or ")));
        }
        if self.book.pods.is_empty() {
            return failure.hint("rules alone name no pods: use --from ADDRESS, or --registry PATH");
        }
        failure.hint("or one of: node, outside, an address")
    }

    fn sent_here(&mut self, target: &Meant) -> Sent {
        let sender = Sender {
            kind: SenderKind::Node,
            name: Some(self.book.here.clone().unwrap_or_else(|| "node".into())),
            node: self.book.here.clone(),
            chosen: None,
        };
        let source = if target.ip.is_loopback() || self.own.contains(&target.ip) {
            target.ip
        } else {
            self.here(0).ip
        };
        (source, None, sender)
    }

    fn sent_by(&mut self, ip: IpAddr, target: &Meant) -> Sent {
        if self.own.contains(&ip) || ip.is_loopback() {
            let (_, arriving, sender) = self.sent_here(target);
            return (ip, arriving, sender);
        }
        let pod = self.book.pod_at(ip);
        let in_pods = self.book.pod_networks.iter().any(|network| network.contains(&ip));
        let sender = Sender {
            kind: if pod.is_some() || in_pods {
                SenderKind::Pod
            } else {
                SenderKind::Address
            },
            name: self.book.name_of(ip),
            node: pod.and_then(|pod| pod.node.clone()),
            chosen: None,
        };
        (ip, Some(SOME_INTERFACE.to_string()), sender)
    }

    /// A pod that is no endpoint of the Service: of what is known, or an address as pods have.
    fn chosen(&mut self, target: &Meant) -> Sent {
        let endpoints = target.port.as_ref().map(|port| &port.endpoints);
        let other =
            |ip: &IpAddr| *ip != target.ip && !endpoints.is_some_and(|endpoints| endpoints.contains(ip));
        // One on this node takes the shorter way, which is the one to begin with.
        let here = |pod: &&KnownPod| self.book.here.is_none() || pod.node == self.book.here;
        let pods = self.book.pods.iter().filter(here).chain(&self.book.pods);
        let free = pods
            .filter_map(|pod| pod.addresses.first())
            .find(|ip| other(ip))
            .copied();
        if let Some(ip) = free {
            let (ip, arriving, mut sender) = self.sent_by(ip, target);
            sender.chosen = Some("a pod that is no endpoint of it".into());
            return (ip, arriving, sender);
        }
        let v4 = self.family == Family::V4;
        let networks = self
            .book
            .pod_networks
            .iter()
            .filter(|network| network.addr().is_ipv4() == v4);
        let network = networks.max_by_key(|network| network.prefix_len());
        let ip = network.map_or_else(
            || some_pod(self.family),
            |network| last_but_one(*network, |ip| other(ip) && self.book.pod_at(*ip).is_none()),
        );
        let sender = Sender {
            kind: SenderKind::Pod,
            name: None,
            node: None,
            chosen: Some("an address as pods have; choose another with --from".into()),
        };
        (ip, Some(SOME_INTERFACE.to_string()), sender)
    }
}

/// An address as pods have it, where no rule tells the pods' network.
fn some_pod(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, 255, 250).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0xfffa).into(),
    }
}

/// An address near the end of a network, where pods are rare, that is good.
fn last_but_one(network: ipnet::IpNet, good: impl Fn(&IpAddr) -> bool) -> IpAddr {
    let last = network.broadcast();
    let before = |steps: u32| match last {
        IpAddr::V4(ip) => IpAddr::from(Ipv4Addr::from_bits(ip.to_bits().saturating_sub(steps))),
        IpAddr::V6(ip) => IpAddr::from(Ipv6Addr::from_bits(
            ip.to_bits().saturating_sub(u128::from(steps)),
        )),
    };
    let mut candidates = (5..250).map(before).filter(|ip| network.contains(ip));
    candidates.find(good).unwrap_or(last)
}
