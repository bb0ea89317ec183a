//! Where a traced call comes from, on which nodes it is looked for, and by which cables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use labkit::Failure;
use labkit::xtables::{Family, Xtables};

use super::nodes;
use super::question::place;
use super::sync::options;
use crate::cli::{NodeArgs, TraceArgs};
use crate::edge::facts;
use crate::edge::trace::mark::Wanted;
use crate::edge::trace::spots::Spot;
use crate::journey::Cable;
use crate::lab::{self, Home, INTERFACE_ANNOTATION, NAMESPACE_ANNOTATION};
use crate::model::{Protocol, ServicePort};
use crate::registry::Registry;
use crate::rules::trace::Transport;
use crate::target::{Book, Call, Caller, Door, SenderKind, Target, resolve};

/// So many backends' cables are listened on; a Service with more is traced without the others'.
const CABLES: usize = 64;
/// So many nodes are traced at once.
const NODES: usize = 16;
/// So many ports of backends get rules of their own.
const PORTS: usize = 8;

/// So many addresses of nodes get rules of their own.
const ADDRESSES: usize = 64;

/// A node's name, where it is one of several, and its network namespace; `None` for this one.
type Traced = (Option<String>, Option<PathBuf>);

/// Where a pod's network namespace and its cable are.
struct PodHome {
    namespace: PathBuf,
    interface: String,
    node: Option<String>,
}

/// Who calls whom, and where that can be seen.
pub(super) struct Places {
    pub(super) call: Call,
    pub(super) family: Family,
    /// The caller's name.
    pub(super) caller: String,
    /// The caller's network namespace; `None` for this one.
    pub(super) namespace: Option<PathBuf>,
    /// The caller's address, where its routes do not choose it.
    pub(super) from: Option<IpAddr>,
    /// The cables, and the network namespaces of their nodes.
    pub(super) cables: Vec<(Cable, Option<PathBuf>)>,
    /// Names of addresses.
    pub(super) names: BTreeMap<IpAddr, String>,
    /// The nodes to trace on, the caller's first.
    nodes: Vec<Traced>,
    /// Ports of backends, where the source may be rewritten on the way.
    ports: BTreeSet<u16>,
    /// The addresses of these nodes.
    addresses: BTreeSet<IpAddr>,
}

impl Places {
    /// Reads the words and the registry.
    ///
    /// # Errors
    /// When target or caller are nobody, or nothing can be sent from there.
    pub(super) fn find(args: &TraceArgs) -> Result<Self, Failure> {
        let registry = registry(args)?;
        let target = Target::parse(&args.target)?;
        let family = match (args.family, &target) {
            (Some(number), _) => super::render::family(number)?,
            (None, Target::Address { ip, .. }) if ip.is_ipv6() => Family::V6,
            _ => Family::V4,
        };
        let transport = args.udp.then_some(Transport::Of(Protocol::Udp));
        let from = args.from.as_deref().map(Caller::parse).transpose()?;
        let homes = homes(&registry);
        let nodes: BTreeMap<String, PathBuf> = lab::homes(&registry)
            .into_iter()
            .map(|home| (home.node, home.namespace))
            .collect();
        let (book, ports) = book(&registry, &target, from.as_ref(), family, &nodes)?;
        let from = match from {
            None => Some(usual_caller(&book, &target, transport, family, &homes)?),
            given => given,
        };
        let call = resolve(&book, family, &target, from.as_ref(), transport)?;
        let caller = call
            .sender
            .name
            .clone()
            .unwrap_or_else(|| call.packet.source.to_string());
        let namespace = caller_namespace(&call, &caller, &homes, &nodes, &registry)?;
        let seen = Seen {
            call: &call,
            book: &book,
            homes: &homes,
            nodes: &nodes,
        };
        let on_nodes = seen.on_nodes();
        let ports = seen.rewritten(&ports);
        Ok(Self {
            addresses: if ports.is_empty() {
                BTreeSet::new()
            } else {
                addresses(&on_nodes, family)?
            },
            nodes: on_nodes,
            ports,
            cables: seen.cables(&caller),
            names: names(&book, &call),
            from: (call.sender.kind == SenderKind::Pod).then_some(call.packet.source),
            call,
            family,
            caller,
            namespace,
        })
    }

    /// What is to be traced on each node.
    pub(super) fn spots(&self, protocol: &'static str, source: SocketAddr) -> Vec<Spot> {
        let by_node = self.is_called_by_node();
        let spots = self.nodes.iter().enumerate().map(|(index, (node, home))| Spot {
            node: node.clone(),
            home: home.clone(),
            wanted: Wanted {
                protocol,
                source,
                from_here: by_node && index == 0,
                ports: self.ports.clone(),
                nodes: self.addresses.clone(),
            },
        });
        spots.collect()
    }

    fn is_called_by_node(&self) -> bool {
        matches!(self.call.sender.kind, SenderKind::Node | SenderKind::OtherNode)
    }
}

/// The parts that places are found from.
struct Seen<'a> {
    call: &'a Call,
    book: &'a Book,
    homes: &'a BTreeMap<String, PodHome>,
    nodes: &'a BTreeMap<String, PathBuf>,
}

impl Seen<'_> {
    /// The addresses that may answer.
    fn endpoints(&self) -> BTreeSet<IpAddr> {
        match &self.call.port {
            Some(port) => port.endpoints.clone(),
            None => BTreeSet::from([self.call.packet.destination]),
        }
    }

    /// The caller's node, the one that is called, and those of the backends; all of them where any may
    /// be the first.
    fn on_nodes(&self) -> Vec<Traced> {
        if self.nodes.is_empty() {
            return vec![(None, None)];
        }
        let sender = &self.call.sender;
        let own = match sender.kind {
            SenderKind::Node | SenderKind::OtherNode => sender.name.clone(),
            _ => sender.node.clone(),
        };
        let of_pod = |ip: &IpAddr| self.book.pod_at(*ip).and_then(|pod| pod.node.clone());
        let called = self.book.nodes.iter().find(|node| {
            let addresses = &node.addresses;
            addresses.contains(&self.call.packet.destination)
        });
        let mut wanted: Vec<String> = own.into_iter().collect();
        wanted.extend(called.map(|node| node.name.clone()));
        wanted.extend(self.endpoints().iter().filter_map(of_pod));
        if sender.kind == SenderKind::Outside {
            // Routes of several hops choose one of them.
            wanted.extend(self.nodes.keys().cloned());
        }
        let mut found: Vec<Traced> = Vec::new();
        for name in wanted {
            let Some(home) = self.nodes.get(&name) else {
                continue;
            };
            if found.len() < NODES && !found.iter().any(|(known, _)| known.as_ref() == Some(&name)) {
                found.push((Some(name), Some(home.clone())));
            }
        }
        found
    }

    /// A pod that is no endpoint and calls the virtual IP keeps its address on all the way.
    fn rewritten(&self, ports: &[ServicePort]) -> BTreeSet<u16> {
        let call = self.call;
        let keeps = call.sender.kind == SenderKind::Pod
            && call.door == Door::ClusterIp
            && !self.endpoints().contains(&call.packet.source);
        let Some(called) = call.port.as_ref().filter(|_| !keeps) else {
            return BTreeSet::new();
        };
        let endpoints = ports.iter().filter(|port| port.name == called.name);
        let ports: BTreeSet<u16> = endpoints
            .flat_map(|port| port.endpoints.iter().map(|endpoint| endpoint.port))
            .collect();
        // Another node may be called by its own address, which is rewritten there only.
        ports.into_iter().take(PORTS).chain([call.packet.port]).collect()
    }

    /// The caller's cable, then those of the backends.
    fn cables(&self, caller: &str) -> Vec<(Cable, Option<PathBuf>)> {
        let mut wanted: Vec<(String, IpAddr)> = Vec::new();
        if self.call.sender.kind == SenderKind::Pod {
            wanted.push((caller.to_string(), self.call.packet.source));
        }
        let backends = self.endpoints().into_iter().filter_map(|ip| {
            let pod = self.book.pod_at(ip)?;
            Some((format!("{}/{}", pod.namespace, pod.name), ip))
        });
        wanted.extend(backends.filter(|(pod, _)| pod != caller).take(CABLES));
        let cables = wanted.into_iter().filter_map(|(pod, address)| {
            let home = self.homes.get(&pod)?;
            let cable = Cable {
                is_callers: pod == caller,
                interface: home.interface.clone(),
                pod,
                address,
            };
            let node = home.node.as_ref().and_then(|node| self.nodes.get(node));
            Some((cable, node.cloned()))
        });
        cables.collect()
    }
}

fn registry(args: &TraceArgs) -> Result<Registry, Failure> {
    Ok(super::source(&args.registry)?.load()?.into_registry())
}

/// What is known of names, seen from the node that the packet comes to first, and the ports of Services.
fn book(
    registry: &Registry,
    target: &Target,
    caller: Option<&Caller>,
    family: Family,
    nodes: &BTreeMap<String, PathBuf>,
) -> Result<(Book, Vec<ServicePort>), Failure> {
    let options = options(&NodeArgs::default())?;
    let first = place(registry, &options, target, caller, family).filter(|name| nodes.contains_key(name));
    let here = first.or_else(|| nodes.keys().next().cloned());
    let mut book = Book {
        here: Some(here.unwrap_or_else(|| options.node_name(registry))),
        ..Book::default()
    };
    let ports = options.model(registry, family).ports;
    book.add_registry(registry, &ports, family);
    // Any of them may be called by its address and a node port.
    let addresses = book.nodes.iter().flat_map(|node| node.addresses.iter().copied());
    book.own = addresses.collect();
    if nodes.is_empty() {
        book.own.extend(own_addresses(family)?);
    }
    Ok((book, ports))
}

/// The addresses of this thread's network namespace.
fn own_addresses(family: Family) -> Result<BTreeSet<IpAddr>, Failure> {
    let host = facts::host(&Xtables::detect(None)?)?;
    let own = host.interfaces.iter().map(|(_, network)| network.addr());
    Ok(own.filter(|ip| ip.is_ipv4() == (family == Family::V4)).collect())
}

/// Those that a node may write as the source.
fn addresses(nodes: &[Traced], family: Family) -> Result<BTreeSet<IpAddr>, Failure> {
    let homes: Vec<Home> = nodes
        .iter()
        .filter_map(|(node, home)| {
            Some(Home {
                node: node.clone()?,
                namespace: home.clone()?,
            })
        })
        .collect();
    let mut found = if homes.is_empty() {
        own_addresses(family)?
    } else {
        let (told, mut failures) = nodes::failures(nodes::on_each(&homes, |_| own_addresses(family)));
        if let Some(failure) = failures.pop() {
            return Err(failure);
        }
        told.into_iter().flat_map(|(_, own)| own).collect()
    };
    let is_local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    found.retain(|ip| !is_local(ip));
    Ok(found.into_iter().take(ADDRESSES).collect())
}

/// Who calls where nobody was named: a pod that is no endpoint, else the first pod, else the node.
fn usual_caller(
    book: &Book,
    target: &Target,
    transport: Option<Transport>,
    family: Family,
    homes: &BTreeMap<String, PodHome>,
) -> Result<Caller, Failure> {
    let call = resolve(book, family, target, None, transport)?;
    let usual = call.sender.name.filter(|name| homes.contains_key(name));
    let name = usual.or_else(|| homes.keys().next().cloned());
    Caller::parse(name.as_deref().unwrap_or("node"))
}

fn homes(registry: &Registry) -> BTreeMap<String, PodHome> {
    let mut homes = BTreeMap::new();
    for (namespace, pods) in &registry.pods {
        for (name, pod) in pods {
            let told = pod.metadata.annotations.as_ref();
            let of = |key: &str| told.and_then(|told| told.get(key));
            let (Some(path), Some(interface)) = (of(NAMESPACE_ANNOTATION), of(INTERFACE_ANNOTATION)) else {
                continue;
            };
            let home = PodHome {
                namespace: path.into(),
                interface: interface.clone(),
                node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            };
            homes.insert(format!("{namespace}/{name}"), home);
        }
    }
    homes
}

/// Where the call is made; `None` for here.
fn caller_namespace(
    call: &Call,
    caller: &str,
    homes: &BTreeMap<String, PodHome>,
    nodes: &BTreeMap<String, PathBuf>,
    registry: &Registry,
) -> Result<Option<PathBuf>, Failure> {
    let found = match call.sender.kind {
        SenderKind::Pod => homes.get(caller).map(|home| home.namespace.clone()),
        SenderKind::Node if nodes.is_empty() => return Ok(None),
        SenderKind::Node | SenderKind::OtherNode => nodes.get(caller).cloned(),
        SenderKind::Outside => lab::outside(&lab::homes(registry)).filter(|path| path.exists()),
        SenderKind::Address => None,
    };
    found.map(Some).ok_or_else(|| not_here(caller))
}

fn not_here(caller: &str) -> Failure {
    let said = if caller == "outside" {
        "this lab has no host outside, so that nothing can be sent from it".to_string()
    } else {
        format!("{caller} is no pod of a lab on this machine, so that nothing can be sent from it")
    };
    Failure::usage(said)
        .hint("name one with --from; netns-lab status lists them; or ask without sending: miniproxy explain")
}

fn names(book: &Book, call: &Call) -> BTreeMap<IpAddr, String> {
    let pods = book.pods.iter().flat_map(|pod| {
        let name = format!("{}/{}", pod.namespace, pod.name);
        pod.addresses.iter().map(move |ip| (*ip, name.clone()))
    });
    let nodes = book.nodes.iter().flat_map(|node| {
        let addresses = node.addresses.iter();
        addresses.map(|ip| (*ip, node.name.clone()))
    });
    let mut names: BTreeMap<IpAddr, String> = nodes.chain(pods).collect();
    if call.sender.kind == SenderKind::Outside {
        names.insert(call.packet.source, "outside".into());
    }
    if let Some(port) = &call.port {
        let name = format!("svc-{}", port.name.name);
        names.extend(port.cluster_ip.map(|ip| (ip, name)));
    }
    names
}
