//! What is to be changed for each failure. Nothing is changed here.

use std::net::SocketAddrV4;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use labkit::Failure;

use super::drops;
use super::ground::{Ground, Spot};
use crate::edge::breakage::{chains, inside, routes};
use crate::edge::watcher::watcher;
use crate::edge::{links, namespace, store, sysctl};
use crate::model::breakage::Name;
use crate::model::breakage::catalogue::Need;
use crate::model::breakage::hunk::{self, Hunk};
use crate::model::breakage::record::{Change, Flow, TableFate, What, nobodys};
use crate::model::breakage::service::{self, Port, Target};
use crate::model::settings::BRIDGE_NF;

/// The port of the pod whose flow goes stale.
const CLIENT_PORT: u16 = 40_053;

/// What a failure changes, and what it hits, in words.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) target: String,
    pub(super) changes: Vec<Change>,
}

/// Plans a failure.
///
/// # Errors
/// What is missing for it, and what to type.
pub(super) fn prepare(ground: &Ground, name: Name) -> Result<Plan, Failure> {
    if name.entry().needs.contains(&Need::NoWatch) {
        unwatched(ground)?;
    }
    match name {
        Name::BrNetfilterOff => everywhere(ground, "on each node", |_| {
            bridge_netfilter().map(|what| vec![what])
        }),
        Name::HairpinOff => everywhere(ground, "of all pods", hairpin),
        Name::MasqueradeMissing => everywhere(ground, "of all Services", |_| masquerade(ground)),
        Name::ForwardDrop => drops::forward(ground),
        Name::OtherIptablesDrop => drops::other(ground),
        Name::WrongProbabilities => probabilities(ground),
        Name::NoReject => no_reject(ground),
        Name::DeadEndpoint => dead_endpoint(ground),
        Name::StaleConntrack => stale_flow(ground),
        Name::NoNodeRoute => node_route(ground),
        Name::NoVipRoute => everywhere(ground, "from each node", |_| vip_route(ground)),
        Name::WrongSelector => selector(ground),
    }
}

/// The same on each node, each in its own namespace.
pub(super) fn everywhere(
    ground: &Ground,
    target: &str,
    plan: impl Fn(&Spot) -> Result<Vec<What>, Failure> + Sync,
) -> Result<Plan, Failure> {
    let mut changes = Vec::new();
    for spot in &ground.spots {
        let whats = inside(spot.namespace.as_deref(), || plan(spot))?;
        changes.extend(whats.into_iter().map(|what| change(spot, what)));
    }
    if changes.is_empty() {
        return Err(
            Failure::failed("there is nothing that this could break: it is so already")
                .hint("`netns-lab status` tells what is amiss, `netns-lab up` repairs it"),
        );
    }
    Ok(Plan {
        target: target.into(),
        changes,
    })
}

fn change(spot: &Spot, what: What) -> Change {
    Change {
        namespace: spot.namespace.clone(),
        what,
    }
}

fn bridge_netfilter() -> Result<What, Failure> {
    let Some(before) = sysctl::read(BRIDGE_NF) else {
        return Err(
            Failure::host_lacks("br_netfilter is not loaded, so it cannot be switched off")
                .hint("sudo modprobe br_netfilter, outside of any sandbox; then `netns-lab up` again"),
        );
    };
    if before == "0" {
        return Err(Failure::failed(format!("{BRIDGE_NF} is 0 already"))
            .hint("`netns-lab up` sets it to 1; then it can be broken"));
    }
    Ok(What::Sysctl {
        key: BRIDGE_NF.into(),
        before,
        after: "0".into(),
    })
}

fn hairpin(spot: &Spot) -> Result<Vec<What>, Failure> {
    let links = links::all()?;
    let on = |name: &String| links.iter().any(|link| link.name == *name && !link.hairpin_off);
    let ports: Vec<String> = spot
        .pods
        .iter()
        .map(|pod| pod.interface.clone())
        .filter(on)
        .collect();
    Ok(if ports.is_empty() {
        Vec::new()
    } else {
        vec![What::Hairpin { links: ports }]
    })
}

pub(super) fn chain_change(
    program: &Path,
    table: &str,
    chain: &str,
    before: &[String],
    after: &[String],
) -> What {
    What::Chain {
        program: program.to_path_buf(),
        table: table.into(),
        chain: chain.into(),
        hunk: Hunk::between(before, after),
        table_fate: TableFate::WasThere,
    }
}

fn masquerade(ground: &Ground) -> Result<Vec<What>, Failure> {
    const CHAIN: &str = "KUBE-POSTROUTING";
    let before = chains::read(&ground.iptables, "nat", CHAIN)?.ok_or_else(no_rules)?;
    let at = before
        .iter()
        .position(|line| service::jump(line) == Some("MASQUERADE"));
    let at = at.ok_or_else(|| {
        Failure::failed(format!("{CHAIN} has no MASQUERADE already")).hint("write it: miniproxy sync")
    })?;
    let mut after = before.clone();
    after.remove(at);
    Ok(vec![chain_change(
        &ground.iptables,
        "nat",
        CHAIN,
        &before,
        &after,
    )])
}

fn no_rules() -> Failure {
    Failure::failed("no Service has rules on the node").hint("write them first: miniproxy sync")
}

/// What is written again at once cannot be broken.
fn unwatched(ground: &Ground) -> Result<(), Failure> {
    let caller = namespace::current()?.metadata().map(|found| found.ino()).ok();
    let nodes = ground.spots.iter();
    let nodes = nodes.filter_map(|spot| namespace::inode(spot.namespace.as_deref()?));
    let Some(pid) = watcher(&nodes.chain(caller).collect()) else {
        return Ok(());
    };
    Err(Failure::failed(format!(
        "`miniproxy sync --watch` runs (process {pid}) and would mend this at once"
    ))
    .hint(format!("end it first, its rules stay: kill {pid}"))
    .hint("others can be had beside it: hairpin-off, forward-drop, dead-endpoint, no-vip-route"))
}

/// A Service and a port of it that has rules on a node.
struct Ruled {
    target: Target,
    port: Port,
    /// The rule that leads to the Service's chain.
    rule: String,
    /// The chain's rules.
    chain: Vec<String>,
    chain_name: String,
}

fn services(ground: &Ground) -> Vec<Target> {
    service::services(&store::registry_files(&ground.lab))
}

/// The first of these Services with at least so many endpoints in the rules of this network namespace.
fn ruled(services: Vec<Target>, dump: &str, wanted: impl Fn(&Port, &[String]) -> bool) -> Option<Ruled> {
    let dispatch = hunk::chain(dump, "KUBE-SERVICES")?;
    services.into_iter().find_map(|target| {
        target.ports.clone().into_iter().find_map(|port| {
            let rule = target.rule(&dispatch, &port)?;
            let name = service::jump(&rule)?.to_string();
            let chain = hunk::chain(dump, &name)?;
            wanted(&port, &chain).then(|| Ruled {
                target: target.clone(),
                port,
                rule,
                chain,
                chain_name: name,
            })
        })
    })
}

fn endpoints(chain: &[String]) -> usize {
    chain.iter().filter(|line| service::chooses(line)).count()
}

fn on_first<T: Send>(
    ground: &Ground,
    work: impl FnOnce(&Spot) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let first = ground.spots.first();
    let first = first.ok_or_else(|| Failure::failed(format!("the lab {} has no node", ground.lab)))?;
    inside(first.namespace.as_deref(), || work(first))
}

fn too_few(wanted: usize) -> Failure {
    Failure::failed(format!(
        "no Service has rules with {wanted} or more endpoints on the node"
    ))
    .hint("have enough pods (netns-lab up 3-pods), then write the rules: miniproxy sync")
}

fn dump(ground: &Ground) -> Result<String, Failure> {
    chains::dump(&ground.iptables, "nat")
}

/// Words for a Service and its port: `default/web 10.96.0.80:80`.
fn named(found: &Ruled) -> String {
    format!("{} {}:{}", found.target.name, found.target.ip, found.port.port)
}

/// Each node has its own endpoints in its rules, by topology; so each is looked at.
fn of_one_service(
    ground: &Ground,
    wanted: usize,
    plan: impl Fn(&str, &Ruled) -> What + Sync,
) -> Result<Plan, Failure> {
    let mut target = String::new();
    let mut changes = Vec::new();
    for spot in &ground.spots {
        let found = inside(spot.namespace.as_deref(), || {
            let dump = dump(ground)?;
            let found = ruled(services(ground), &dump, |_, chain| endpoints(chain) >= wanted);
            Ok(found.map(|found| (named(&found), plan(&dump, &found))))
        })?;
        if let Some((name, what)) = found {
            target = name;
            changes.push(change(spot, what));
        }
    }
    if changes.is_empty() {
        return Err(too_few(wanted));
    }
    Ok(Plan { target, changes })
}

fn probabilities(ground: &Ground) -> Result<Plan, Failure> {
    of_one_service(ground, 2, |_, found| {
        let after = service::equal_rolls(&found.chain);
        chain_change(&ground.iptables, "nat", &found.chain_name, &found.chain, &after)
    })
}

fn no_reject(ground: &Ground) -> Result<Plan, Failure> {
    of_one_service(ground, 0, |dump, found| {
        let before = hunk::chain(dump, "KUBE-SERVICES").unwrap_or_default();
        let mut after = before.clone();
        after.retain(|line| *line != found.rule);
        chain_change(&ground.iptables, "nat", "KUBE-SERVICES", &before, &after)
    })
}

/// The pod behind the last endpoint, so that a learner's first guess is wrong.
fn dead_endpoint(ground: &Ground) -> Result<Plan, Failure> {
    let (service, addresses) = on_first(ground, |_| {
        let dump = dump(ground)?;
        let found =
            ruled(services(ground), &dump, |_, chain| endpoints(chain) >= 1).ok_or_else(|| too_few(1))?;
        let chains = found.chain.iter().filter(|line| service::chooses(line));
        let addresses: Vec<SocketAddrV4> = chains.filter_map(|line| destination(&dump, line)).collect();
        Ok((named(&found), addresses))
    })?;
    let last = addresses
        .iter()
        .rev()
        .find_map(|address| ground.pod_at(*address.ip()));
    let (spot, pod) = last.ok_or_else(|| {
        Failure::failed(format!("none of the endpoints of {service} is a pod of this lab"))
            .hint("`netns-lab status` lists the pods")
    })?;
    Ok(Plan {
        target: format!("{} of {service}", pod.spec.name),
        changes: vec![change(
            spot,
            What::Link {
                name: pod.interface.clone(),
            },
        )],
    })
}

fn destination(dump: &str, line: &str) -> Option<SocketAddrV4> {
    let chain = hunk::chain(dump, service::jump(line)?)?;
    service::destination(&chain)?.parse().ok()
}

fn stale_flow(ground: &Ground) -> Result<Plan, Failure> {
    let spot = ground.spots.iter().find(|spot| !spot.pods.is_empty());
    let (spot, pod) = spot
        .and_then(|spot| Some((spot, spot.pods.first()?)))
        .ok_or_else(|| Failure::failed("the lab has no pod").hint("netns-lab up 3-pods"))?;
    let (service, ip, port, endpoint) = inside(spot.namespace.as_deref(), || {
        let dump = dump(ground)?;
        let all = service::all_services(&store::registry_files(&ground.lab));
        let udp = |port: &Port, chain: &[String]| port.protocol == "udp" && endpoints(chain) > 0;
        let found = ruled(all, &dump, udp).ok_or_else(no_udp)?;
        let chosen = found.chain.iter().find(|line| service::chooses(line));
        let endpoint = chosen
            .and_then(|line| destination(&dump, line))
            .ok_or_else(no_udp)?;
        Ok((named(&found), found.target.ip, found.port.port, endpoint))
    })?;
    let taken: Vec<_> = ground.all_pods().map(|(_, pod)| pod.ip).collect();
    let dead = nobodys(spot.pod_cidr, &taken)
        .ok_or_else(|| Failure::failed(format!("each address of {} has a pod", spot.pod_cidr)))?;
    let flow = Flow {
        client: SocketAddrV4::new(pod.ip, CLIENT_PORT),
        service: SocketAddrV4::new(ip, port),
        dead: SocketAddrV4::new(dead, endpoint.port()),
    };
    Ok(Plan {
        target: format!("{service}/udp, from port {CLIENT_PORT} of {}", pod.spec.name),
        changes: vec![change(spot, What::Flow(flow))],
    })
}

fn no_udp() -> Failure {
    Failure::failed("no Service with a UDP port has rules on the node")
        .hint("make one: netns-lab expose web --name web-udp --port 53 --target-port 8081 --protocol UDP")
        .hint("then write its rules: miniproxy sync")
}

fn node_route(ground: &Ground) -> Result<Plan, Failure> {
    let [first, second, ..] = ground.spots.as_slice() else {
        return Err(
            Failure::failed(format!("the lab {} has one node, and this takes two", ground.lab))
                .hint("make a lab of two: netns-lab up 2-nodes-6-pods --name two"),
        );
    };
    let range = second.pod_cidr.trunc();
    let what = inside(first.namespace.as_deref(), || {
        let found = routes::list()?
            .into_iter()
            .find(|route| route.destination == range && route.leads());
        let found = found.ok_or_else(|| {
            Failure::failed(format!("{} has no route to {range}", first.name))
                .hint("`netns-lab up` repairs the lab")
        })?;
        Ok(What::Route {
            message: found.message(),
            throw: false,
        })
    })?;
    Ok(Plan {
        target: format!("from {} to the pods of {}", first.name, second.name),
        changes: vec![change(first, what)],
    })
}

fn vip_route(ground: &Ground) -> Result<Vec<What>, Failure> {
    let all = routes::list()?;
    let found = all
        .iter()
        .find(|route| route.destination == ground.services && route.leads());
    let found = found.ok_or_else(|| {
        Failure::failed(format!("the node has no route to {} already", ground.services))
            .hint("`netns-lab up` repairs the lab")
    })?;
    // Another route would do as well, and nothing would be broken.
    let others = all
        .iter()
        .any(|route| *route != *found && route.leads() && route.destination.contains(&ground.services));
    Ok(vec![What::Route {
        message: found.message(),
        throw: others,
    }])
}

fn selector(ground: &Ground) -> Result<Plan, Failure> {
    let files = store::registry_files(&ground.lab);
    let labels: Vec<_> = ground.all_pods().map(|(_, pod)| &pod.spec.labels).collect();
    let selects = |target: &Target| {
        labels.iter().any(|labels| {
            target.selects(|key| {
                let found = labels.iter().find(|(known, _)| known.as_str() == key);
                found.map(|(_, value)| value.as_str())
            })
        })
    };
    let found = service::services(&files).into_iter().find(selects);
    let changed = found.and_then(|target| {
        let before = files.get(&target.file)?;
        let after = service::with_wrong_selector(before)?;
        Some((target, String::from_utf8(before.clone()).ok()?, after))
    });
    let (target, before, after) = changed.ok_or_else(|| {
        Failure::failed("no Service of the registry selects a pod of the lab").hint(
            "`netns-lab up` makes the first one where there is none: netns-lab down, netns-lab up 3-pods",
        )
    })?;
    Ok(Plan {
        target: target.name.clone(),
        changes: vec![Change {
            namespace: None,
            what: What::File {
                name: target.file,
                before,
                after,
            },
        }],
    })
}
