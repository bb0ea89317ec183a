//! Where `why` calls from, and the calls.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;

use crate::edge::{facts, netns, place, probe};
use crate::lab::{self, Home, INTERFACE_ANNOTATION, NAMESPACE_ANNOTATION};
use crate::model::{Protocol, ServicePort, TrafficPolicy};
use crate::registry::Registry;
use crate::why::call::{Call, Kind, Via, Word};
use crate::why::evidence::{Evidence, Pod, Spot};

/// Where a lab's namespaces are; a registry of strangers sends us nowhere else.
const NAMESPACES: &str = "/run/netns/";
/// The most nodes, ports and backends that are called from and to: all of it is over in seconds.
const NODES: usize = 4;
const PORTS: usize = 3;
const BACKENDS: usize = 12;
/// The calls from one place to one address of the Service.
const CALLS: usize = 4;

/// One place to call from.
#[derive(Debug, Clone)]
pub(super) struct Place {
    kind: Kind,
    pub(super) name: String,
    node: String,
    pub(super) namespace: Option<PathBuf>,
    addresses: Vec<IpAddr>,
}

impl Place {
    pub(super) fn is_pod(&self) -> bool {
        matches!(self.kind, Kind::Backend | Kind::Pod)
    }
}

/// The network namespace of a pod, where its object tells.
fn namespace(pod: &k8s_openapi::api::core::v1::Pod) -> Option<PathBuf> {
    let path = pod.metadata.annotations.as_ref()?.get(NAMESPACE_ANNOTATION)?;
    path.starts_with(NAMESPACES).then(|| PathBuf::from(path))
}

/// The pods of a node: `only` leaves those that say so.
pub(super) fn pods(registry: &Registry, node: &str, looks: bool) -> Vec<Pod> {
    let all = registry.nodes.len() < 2;
    let mut found = Vec::new();
    for (space, pods) in &registry.pods {
        for (name, pod) in pods {
            let of = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            if of != Some(node) && !(all && of.is_none()) {
                continue;
            }
            let status = pod.status.as_ref();
            let several = status.and_then(|status| status.pod_ips.as_ref());
            let several = several.into_iter().flatten().map(|ip| ip.ip.as_str());
            let one = status.and_then(|status| status.pod_ip.as_deref());
            let mut addresses: Vec<IpAddr> =
                several.chain(one).filter_map(crate::address::parse_ip).collect();
            addresses.dedup();
            let annotations = pod.metadata.annotations.as_ref();
            let path = namespace(pod).filter(|_| looks);
            found.push(Pod {
                name: format!("{space}/{name}"),
                addresses,
                interface: annotations
                    .and_then(|all| all.get(INTERFACE_ANNOTATION))
                    .filter(|_| path.is_some())
                    .cloned(),
                there: path.as_ref().map(|path| path.exists()),
                listens: path.as_deref().and_then(listening),
            });
        }
    }
    found
}

fn listening(namespace: &Path) -> Option<Vec<u16>> {
    thread::scope(|scope| {
        let look = scope.spawn(|| netns::enter(namespace).ok().and_then(|()| place::listening()));
        look.join().ok().flatten()
    })
}

/// Places of every kind: on each node a pod of the Service, another pod, the node; and outside.
pub(super) fn places(evidence: &Evidence<'_>, homes: &[Home]) -> Vec<Place> {
    let endpoints: Vec<IpAddr> = evidence.endpoints().into_iter().map(|(ip, _)| ip).collect();
    let mut places = Vec::new();
    for spot in evidence.spots.iter().take(NODES) {
        for kind in [Kind::Backend, Kind::Pod] {
            let fits = |pod: &&Pod| {
                let backend = pod.addresses.iter().any(|ip| endpoints.contains(ip));
                pod.there == Some(true) && backend == (kind == Kind::Backend)
            };
            let Some(pod) = spot.pods.iter().find(fits) else {
                continue;
            };
            places.push(Place {
                kind,
                name: pod.name.clone(),
                node: spot.node.clone(),
                namespace: named(evidence.registry, &pod.name).and_then(namespace),
                addresses: pod.addresses.clone(),
            });
        }
        let home = homes.iter().find(|home| home.node == spot.node);
        places.push(Place {
            kind: Kind::Node,
            name: spot.node.clone(),
            node: spot.node.clone(),
            namespace: home.map(|home| home.namespace.clone()),
            addresses: Vec::new(),
        });
    }
    places.extend(outside(homes));
    places
}

fn named<'a>(registry: &'a Registry, name: &str) -> Option<&'a k8s_openapi::api::core::v1::Pod> {
    let (space, name) = name.split_once('/')?;
    registry.pods.get(space)?.get(name).map(AsRef::as_ref)
}

fn outside(homes: &[Home]) -> Option<Place> {
    let namespace = lab::outside(homes)?;
    namespace.exists().then(|| Place {
        kind: Kind::Outside,
        name: "outside".into(),
        node: "outside".into(),
        namespace: Some(namespace),
        addresses: Vec::new(),
    })
}

/// Whom a place calls: the Service some times, each backend once.
fn targets(evidence: &Evidence<'_>, place: &Place) -> Vec<(SocketAddr, Protocol, Via)> {
    let mut targets = Vec::new();
    for port in ports(evidence, &place.node).into_iter().take(PORTS) {
        let mut add = |to: SocketAddr| {
            targets.extend(std::iter::repeat_n((to, port.protocol, Via::Service), CALLS));
        };
        if place.kind == Kind::Outside {
            doors(evidence, port).into_iter().for_each(&mut add);
            continue;
        }
        let six = port.cluster_ip.is_ipv6();
        if !place.addresses.is_empty() && !place.addresses.iter().any(|ip| ip.is_ipv6() == six) {
            continue;
        }
        let local = port
            .endpoints
            .iter()
            .any(|endpoint| endpoint.local && endpoint.ready);
        if port.internal_policy == TrafficPolicy::Cluster || local {
            add(SocketAddr::new(port.cluster_ip, port.port));
        }
        let ready = port.endpoints.iter().filter(|endpoint| endpoint.ready);
        for endpoint in ready.take(BACKENDS) {
            let to = SocketAddr::new(endpoint.ip, endpoint.port);
            targets.push((to, port.protocol, Via::Backend));
        }
    }
    targets
}

/// The ports of the Service as the node of a place sees them.
fn ports<'a>(evidence: &'a Evidence<'_>, node: &str) -> Vec<&'a ServicePort> {
    let own = evidence.spots.iter().find(|spot| spot.node == node);
    let spot = own.or(evidence.spots.first());
    let rules = spot.into_iter().flat_map(|spot| spot.rules.values());
    rules.flat_map(|rules| &rules.ports).collect()
}

/// Where a host outside reaches a port: at external IPs, at load balancers, at the nodes.
fn doors(evidence: &Evidence<'_>, port: &ServicePort) -> Vec<SocketAddr> {
    let takes = |spot: &&Spot| {
        let mut own = spot.rules.values().flat_map(|rules| &rules.ports);
        let own = own.find(|own| own.name == port.name && own.cluster_ip == port.cluster_ip);
        let local = own.is_some_and(|own| own.endpoints.iter().any(|endpoint| endpoint.local));
        port.external_policy == TrafficPolicy::Cluster || local
    };
    let mut doors = Vec::new();
    // Whoever is called there may be any of the nodes.
    if evidence.spots.iter().all(|spot| takes(&spot)) {
        let everybody = port.source_ranges.is_empty();
        let balancers = port.load_balancer_ips.iter().filter(|_| everybody);
        let addresses = port.external_ips.iter().chain(balancers);
        doors.extend(addresses.map(|ip| SocketAddr::new(*ip, port.port)));
    }
    let nodes = evidence.spots.iter().take(NODES).filter(takes);
    doors.extend(node_doors(evidence, port, nodes));
    doors
}

fn node_doors<'a>(
    evidence: &Evidence<'_>,
    port: &ServicePort,
    nodes: impl Iterator<Item = &'a Spot>,
) -> Vec<SocketAddr> {
    let Some(number) = port.node_port else {
        return Vec::new();
    };
    let addresses = nodes.filter_map(|spot| {
        let status = evidence.registry.nodes.get(&spot.node)?.status.as_ref()?;
        let addresses = status.addresses.iter().flatten();
        addresses
            .filter_map(|address| crate::address::parse_ip(&address.address))
            .find(|ip| ip.is_ipv4() == port.cluster_ip.is_ipv4())
    });
    addresses.map(|ip| SocketAddr::new(ip, number)).collect()
}

/// Calls from everywhere at once.
pub(super) fn call_all(evidence: &Evidence<'_>, places: &[Place]) -> Vec<Call> {
    let work: Vec<_> = places
        .iter()
        .map(|place| (place, targets(evidence, place)))
        .collect();
    at_once(&work)
}

/// Makes lost calls once more; who answers now was only late.
pub(super) fn call_again(calls: &mut [Call], places: &[Place], lost: impl Fn(&Call) -> bool) {
    let mut again: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, call) in calls.iter().enumerate().filter(|(_, call)| lost(call)) {
        let place = places
            .iter()
            .position(|place| place.name == call.from && place.kind == call.kind);
        if let Some(place) = place {
            again.entry(place).or_default().push(index);
        }
    }
    let target = |index: &usize| {
        let call = &calls[*index];
        let protocol = if call.udp { Protocol::Udp } else { Protocol::Tcp };
        (call.to, protocol, call.via)
    };
    let work: Vec<_> = again
        .iter()
        .map(|(place, indexes)| (&places[*place], indexes.iter().map(target).collect()))
        .collect();
    let second = at_once(&work);
    for (index, call) in again.into_values().flatten().zip(second) {
        calls[index] = call;
    }
}

type Work<'a> = (&'a Place, Vec<(SocketAddr, Protocol, Via)>);

/// The calls of all places, in the order in which they are given.
fn at_once(work: &[Work<'_>]) -> Vec<Call> {
    thread::scope(|scope| {
        let threads: Vec<_> = work
            .iter()
            .map(|(place, targets)| scope.spawn(move || from(place, targets)))
            .collect();
        let done = threads
            .into_iter()
            .zip(work)
            .flat_map(|(thread, (place, targets))| {
                let not_tried = || targets.iter().map(|target| call(place, *target, None)).collect();
                thread.join().unwrap_or_else(|_| not_tried())
            });
        done.collect()
    })
}

/// The calls of one place: in its namespace a thread for each, which is where their thread is.
fn from(place: &Place, targets: &[(SocketAddr, Protocol, Via)]) -> Vec<Call> {
    let entered = place.namespace.as_deref().map_or(Ok(()), netns::enter);
    if entered.is_err() {
        return targets.iter().map(|target| call(place, *target, None)).collect();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = targets
            .iter()
            .map(|target| scope.spawn(|| can_try(place, target.0).then(|| probe::call(target.0, target.1))))
            .collect();
        let probes = threads.into_iter().map(|thread| thread.join().ok().flatten());
        targets
            .iter()
            .zip(probes)
            .map(|(target, probe)| call(place, *target, probe))
            .collect()
    })
}

/// What has no way from outside to the cluster's addresses is no failure of the Service.
fn can_try(place: &Place, to: SocketAddr) -> bool {
    place.kind != Kind::Outside || facts::source_towards(to.ip()).is_some()
}

fn call(place: &Place, target: (SocketAddr, Protocol, Via), probe: Option<probe::Probe>) -> Call {
    let (to, protocol, via) = target;
    Call {
        kind: place.kind,
        from: place.name.clone(),
        node: place.node.clone(),
        to,
        udp: protocol == Protocol::Udp,
        via,
        word: probe.as_ref().map_or(Word::NotTried, |probe| probe.word),
        ms: probe.as_ref().map_or(0, |probe| {
            u64::try_from(probe.took.as_millis()).unwrap_or(u64::MAX)
        }),
        answered_by: probe.and_then(|probe| probe.who),
    }
}
