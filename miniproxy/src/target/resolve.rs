//! A target, a caller and what is known of names → the packet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use labkit::Failure;
use labkit::xtables::Family;

use super::nearest::nearest;
use super::{Book, Caller, KnownPort, PortRef, Target};
use crate::model::{Protocol, host_port};
use crate::rules::trace::{Packet, SOME_INTERFACE, Transport};

/// By which of its addresses a Service is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Its virtual IP.
    ClusterIp,
    /// An external IP or a load balancer's.
    External,
    /// A port of a node.
    NodePort,
    /// None: the address of a pod, or of nobody who is known.
    Address,
}

/// What kind of place a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderKind {
    /// A pod.
    Pod,
    /// The node whose rules are looked at.
    Node,
    /// Another node.
    OtherNode,
    /// Somebody outside of the cluster.
    Outside,
    /// An address of which nothing is known.
    Address,
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// What it is.
    pub kind: SenderKind,
    /// `default/web-1`, `node-1`, `outside`; `None` for an address without a name.
    pub name: Option<String>,
    /// The node that a pod is on.
    pub node: Option<String>,
    /// Why it is this one, where nobody was asked for.
    pub chosen: Option<String>,
}

/// A packet, and what its addresses are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The first packet of the connection.
    pub packet: Packet,
    /// By which address.
    pub door: Door,
    /// The port of the Service, where the target is one.
    pub port: Option<KnownPort>,
    /// Who sends.
    pub sender: Sender,
    /// The addresses of the node whose rules are looked at, as far as they are known or assumed.
    pub own: BTreeSet<IpAddr>,
    /// What was assumed.
    pub notes: Vec<String>,
}

impl Call {
    /// `default/web:http`, or the address and port.
    pub fn callee(&self) -> String {
        match &self.port {
            Some(port) => port.name.to_string(),
            None => self.address(),
        }
    }

    /// `10.96.0.10:80`; without a port where the protocol has none.
    pub fn address(&self) -> String {
        let ip = self.packet.destination.to_string();
        if self.packet.protocol.has_ports() {
            host_port(&ip, self.packet.port)
        } else {
            ip
        }
    }
}

/// Stands for a node whose address nobody knows (RFC 5737, RFC 3849).
fn some_node(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Stands for somebody outside.
fn somebody(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 9).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9).into(),
    }
}

/// What the words mean. `transport` is what was asked for; by default that of the Service's port, else
/// TCP. Without a caller a pod is chosen that is no endpoint of the Service.
///
/// # Errors
/// `Usage` for names that nobody has or that several have, with the nearest ones.
pub fn resolve(
    book: &Book,
    family: Family,
    target: &Target,
    caller: Option<&Caller>,
    transport: Option<Transport>,
) -> Result<Call, Failure> {
    let mut asked = Asked {
        book,
        family,
        transport,
        own: book.own.clone(),
        notes: Vec::new(),
    };
    let found = match target {
        Target::Named {
            namespace,
            name,
            port,
            surely_service,
        } => asked.named(namespace.as_deref(), name, port.as_ref(), *surely_service)?,
        Target::Address { ip, port } => asked.address(*ip, *port)?,
        Target::Node { port } => asked.here(*port),
    };
    let (source, arriving, sender) = asked.sender(caller, &found)?;
    let protocol = found.port.as_ref().map_or(Protocol::Tcp, |port| port.protocol);
    let transport = transport.unwrap_or(Transport::Of(protocol));
    Ok(Call {
        packet: Packet {
            source,
            protocol: transport,
            destination: found.ip,
            port: if transport.has_ports() { found.number } else { 0 },
            arriving,
            remembered: None,
        },
        door: found.door,
        port: found.port,
        sender,
        own: asked.own,
        notes: asked.notes,
    })
}

/// An address that was meant.
struct Meant {
    ip: IpAddr,
    number: u16,
    door: Door,
    port: Option<KnownPort>,
}

struct Asked<'a> {
    book: &'a Book,
    family: Family,
    transport: Option<Transport>,
    own: BTreeSet<IpAddr>,
    notes: Vec<String>,
}

impl<'a> Asked<'a> {
    fn named(
        &mut self,
        namespace: Option<&str>,
        name: &str,
        port: Option<&PortRef>,
        surely_service: bool,
    ) -> Result<Meant, Failure> {
        let of_name: Vec<&KnownPort> = self.services(namespace, name);
        if of_name.is_empty() {
            let node = self.book.nodes.iter().find(|node| node.name == name);
            return match (node, port) {
                (Some(node), Some(PortRef::Number(number))) if namespace.is_none() && !surely_service => {
                    let address = node.addresses.first().copied();
                    Ok(self.node_port(address, *number))
                }
                _ => Err(self.no_service(namespace, name)),
            };
        }
        let chosen = self.one_port(&of_name, port)?;
        let Some(ip) = chosen.cluster_ip else {
            return match chosen.node_port {
                Some(number) => Ok(self.here(number)),
                None => Err(Failure::usage(format!(
                    "{} has no address that is known",
                    chosen.name
                ))),
            };
        };
        Ok(Meant {
            ip,
            number: chosen.port,
            door: Door::ClusterIp,
            port: Some(chosen.clone()),
        })
    }

    /// The ports of the Services of this name; of several namespaces `default` is meant.
    fn services(&self, namespace: Option<&str>, name: &str) -> Vec<&'a KnownPort> {
        let of_name = |port: &&KnownPort| port.name.name == name;
        let all: Vec<&KnownPort> = self.book.ports.iter().filter(of_name).collect();
        let inside = |namespace: &str| -> Vec<&'a KnownPort> {
            let ports = self.book.ports.iter().filter(of_name);
            ports.filter(|port| port.name.namespace == namespace).collect()
        };
        match namespace {
            Some(namespace) => inside(namespace),
            None if inside("default").is_empty() => all,
            None => inside("default"),
        }
    }

    fn one_port(&self, ports: &[&'a KnownPort], wanted: Option<&PortRef>) -> Result<&'a KnownPort, Failure> {
        let fits = |port: &&&KnownPort| match wanted {
            None => true,
            Some(PortRef::Number(number)) => port.port == *number,
            Some(PortRef::Name(name)) => port.name.port == *name,
        };
        let transport = |port: &&&KnownPort| match self.transport {
            None | Some(Transport::Icmp) => true,
            Some(Transport::Of(protocol)) => port.protocol == protocol,
        };
        let fitting: Vec<&&KnownPort> = ports.iter().filter(fits).collect();
        let of_transport: Vec<&&KnownPort> =
            fitting.iter().copied().filter(|port| transport(&port)).collect();
        // A protocol that the Service has not is a question that can be answered: no rule.
        let candidates = if of_transport.is_empty() {
            fitting
        } else {
            of_transport
        };
        let choices: Vec<String> = ports
            .iter()
            .map(|port| format!("{} ({}/{})", port.name, port.port, port.protocol.lower()))
            .collect();
        let hint = format!("it has: {}", choices.join(", "));
        let name = ports
            .first()
            .map(|port| format!("{}/{}", port.name.namespace, port.name.name));
        let name = name.unwrap_or_default();
        match candidates.as_slice() {
            [only] => Ok(only),
            [] => Err(Failure::usage(format!("Service {name} has no such port")).hint(hint)),
            // Asked for by ICMP, any port of the one address will do.
            [first, ..] if self.transport == Some(Transport::Icmp) && same_address(&candidates) => Ok(first),
            [tcp, other] if wanted.is_some() && tcp.port == other.port => {
                let tcp_first = tcp.protocol == Protocol::Tcp;
                Ok(if tcp_first { tcp } else { other })
            }
            _ => Err(Failure::usage(format!("{name} is not one port: which one?"))
                .hint(hint)
                .hint("name one by number or name, such as svc/web:http")),
        }
    }

    fn no_service(&self, namespace: Option<&str>, name: &str) -> Failure {
        let asked = match namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_string(),
        };
        let names: BTreeSet<String> = self
            .book
            .ports
            .iter()
            .map(|port| match namespace {
                Some(_) => format!("{}/{}", port.name.namespace, port.name.name),
                None => port.name.name.clone(),
            })
            .chain(self.book.nodes.iter().map(|node| node.name.clone()))
            .collect();
        let failure = Failure::usage(format!("there is no Service {asked}"));
        let near = nearest(&asked, names.iter().map(String::as_str));
        if !near.is_empty() {
            return failure.hint(format!("did you mean {}?", near.join(" or ")));
        }
        if names.is_empty() {
            return failure.hint("no Service is known: name an address and port, or --registry PATH");
        }
        let some: Vec<String> = names.into_iter().take(5).collect();
        failure.hint(format!("known are: {}", some.join(", ")))
    }

    fn address(&mut self, ip: IpAddr, number: Option<u16>) -> Result<Meant, Failure> {
        let at: Vec<&KnownPort> = self
            .book
            .ports
            .iter()
            .filter(|port| port.addresses().any(|address| address == ip))
            .collect();
        let number = match number {
            Some(number) => number,
            None if self.transport == Some(Transport::Icmp) => at.first().map_or(0, |port| port.port),
            None if !at.is_empty() => self.one_port(&at, None)?.port,
            None => {
                return Err(
                    Failure::usage(format!("{ip} is no Service's address: its port is missing"))
                        .hint(format!("such as {}", host_port(&ip.to_string(), 80))),
                );
            }
        };
        let wanted = PortRef::Number(number);
        let port = self.one_port(&at, Some(&wanted)).ok();
        if self.own.contains(&ip) || ip.is_loopback() {
            return Ok(self.node_port(Some(ip), number));
        }
        let door = match port {
            Some(port) if port.cluster_ip == Some(ip) => Door::ClusterIp,
            Some(_) => Door::External,
            None => Door::Address,
        };
        Ok(Meant {
            ip,
            number,
            door,
            port: port.cloned(),
        })
    }

    /// A port of the node whose rules are looked at.
    fn here(&mut self, number: u16) -> Meant {
        let v4 = self.family == Family::V4;
        let mut own = self
            .own
            .iter()
            .filter(|ip| ip.is_ipv4() == v4 && !ip.is_loopback());
        let named = self
            .book
            .nodes
            .iter()
            .filter(|node| Some(&node.name) == self.book.here.as_ref());
        let address = named
            .flat_map(|node| &node.addresses)
            .next()
            .or_else(|| own.next());
        self.node_port(address.copied(), number)
    }

    fn node_port(&mut self, address: Option<IpAddr>, number: u16) -> Meant {
        let ip = address.unwrap_or_else(|| some_node(self.family));
        if address.is_none() {
            self.own.insert(ip);
            self.notes
                .push(format!("the node's own address is not known: {ip} stands for it"));
        }
        let fits = |port: &&KnownPort| {
            let protocol = match self.transport {
                Some(Transport::Of(protocol)) => port.protocol == protocol,
                _ => true,
            };
            protocol && port.node_port == Some(number)
        };
        Meant {
            ip,
            number,
            door: Door::NodePort,
            port: self.book.ports.iter().find(fits).cloned(),
        }
    }

    fn sender(
        &mut self,
        caller: Option<&Caller>,
        target: &Meant,
    ) -> Result<(IpAddr, Option<String>, Sender), Failure> {
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
                away,
                plain(SenderKind::Outside, Some("outside")),
            ),
            Some(Caller::Node) => self.from_here(target),
            Some(Caller::Address(ip)) => self.from_address(*ip, target),
            Some(Caller::Named { namespace, name }) => {
                let pod = self.pod(namespace.as_deref(), name)?;
                if let Some(ip) = pod {
                    self.from_address(ip, target)
                } else if Some(name) == self.book.here.as_ref() {
                    self.from_here(target)
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

    fn from_here(&mut self, target: &Meant) -> (IpAddr, Option<String>, Sender) {
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

    fn from_address(&mut self, ip: IpAddr, target: &Meant) -> (IpAddr, Option<String>, Sender) {
        if self.own.contains(&ip) || ip.is_loopback() {
            let (_, arriving, sender) = self.from_here(target);
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
    fn chosen(&mut self, target: &Meant) -> (IpAddr, Option<String>, Sender) {
        let endpoints = target.port.as_ref().map(|port| &port.endpoints);
        let other =
            |ip: &IpAddr| *ip != target.ip && !endpoints.is_some_and(|endpoints| endpoints.contains(ip));
        // One on this node takes the shorter way, which is the one to begin with.
        let here = |pod: &&super::KnownPod| self.book.here.is_none() || pod.node == self.book.here;
        let pods = self.book.pods.iter().filter(here).chain(&self.book.pods);
        let free = pods
            .flat_map(|pod| pod.addresses.first())
            .find(|ip| other(ip))
            .copied();
        if let Some(ip) = free {
            let (ip, arriving, mut sender) = self.from_address(ip, target);
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

fn same_address(ports: &[&&KnownPort]) -> bool {
    ports.windows(2).all(|two| two[0].cluster_ip == two[1].cluster_ip)
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
