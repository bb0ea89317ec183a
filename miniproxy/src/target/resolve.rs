//! A target, a caller and what is known of names → the packet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use labkit::Failure;
use labkit::xtables::Family;

use super::nearest::nearest;
use super::{Book, Caller, KnownPort, PortRef, Target};
use crate::model::{Protocol, host_port};
use crate::rules::trace::{Packet, Transport};

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
    if source.is_ipv4() != found.ip.is_ipv4() {
        return Err(Failure::usage(format!(
            "{source} cannot call {}: one is an IPv4 address, the other an IPv6 address",
            found.ip
        ))
        .hint("name a caller of the target's family with --from"));
    }
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
pub(super) struct Meant {
    pub(super) ip: IpAddr,
    number: u16,
    door: Door,
    pub(super) port: Option<KnownPort>,
}

pub(super) struct Asked<'a> {
    pub(super) book: &'a Book,
    pub(super) family: Family,
    transport: Option<Transport>,
    pub(super) own: BTreeSet<IpAddr>,
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
        let of_transport: Vec<&&KnownPort> = fitting.iter().copied().filter(|port| transport(port)).collect();
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
        let is_meant =
            |of: &str, called: &str| called == name && namespace.is_none_or(|namespace| namespace == of);
        let mut bare = self.book.without_address.iter();
        if let Some((of, called, why)) = bare.find(|(of, called, _)| is_meant(of, called)) {
            return Failure::usage(format!(
                "Service {of}/{called} {why}; it has no virtual IP, and no rule is for it"
            ))
            .hint("ask for one of those addresses, such as 10.244.0.5:80");
        }
        let elsewhere = |port: &&KnownPort| namespace.is_some() && port.name.name == name;
        if let Some(port) = self.book.ports.iter().find(elsewhere) {
            return Failure::usage(format!("there is no Service {asked}")).hint(format!(
                "did you mean {}/{}?",
                port.name.namespace, port.name.name
            ));
        }
        let as_port = |port: &&KnownPort| {
            Some(port.name.name.as_str()) == namespace
                && (port.name.port == name || port.port.to_string() == name)
        };
        if let Some(port) = self.book.ports.iter().find(as_port) {
            return Failure::usage(format!("there is no Service {asked}")).hint(format!(
                "a port stands behind a colon: svc/{}:{name}",
                port.name.name
            ));
        }
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
        if at.is_empty() && self.may_be_this_node(ip, number) {
            self.own.insert(ip);
            self.notes.push(format!(
                "{ip} is taken for an address of this node: {number} is a node port"
            ));
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

    /// A node port of a node of which no address is known, as with a dump alone.
    fn may_be_this_node(&self, ip: IpAddr, number: u16) -> bool {
        let of_pods = self.book.pod_networks.iter().any(|network| network.contains(&ip));
        let is_node_port = self.book.ports.iter().any(|port| port.node_port == Some(number));
        self.own.is_empty() && !of_pods && is_node_port && self.book.name_of(ip).is_none()
    }

    /// A port of the node whose rules are looked at.
    pub(super) fn here(&mut self, number: u16) -> Meant {
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
}

fn same_address(ports: &[&&KnownPort]) -> bool {
    ports.windows(2).all(|two| two[0].cluster_ip == two[1].cluster_ip)
}
