//! The plan: the steps that lead from what a host has to what is wanted.
//!
//! One plan serves the doing, `--dry-run` and the tests; the same host planned again after all
//! steps were taken gives an empty plan.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{HostRecord, Lab, Leaving, Ledger, Pod, PodRecord};
use super::life::{Health, KILLED};
use super::name::Label;
use super::name_server;
use super::node::{Host, Machine, Node, OWN_END, UNDERLAY_BRIDGE, VXLAN};
use super::object;
use super::observed::{Link, Observed, View};
use super::rule::rules;
use super::settings::{self, BRIDGE_NF, IP_FORWARD, SEND_REDIRECTS};
pub use super::step::Step;
use super::way;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Its pods.
    pub pods: &'a [Pod],
}

/// The steps from `observed` (and what the ledger remembers) to `wanted`.
pub fn plan(wanted: &Wanted, ledger: Option<&Ledger>, observed: &Observed) -> Vec<Step> {
    let planner = Planner::new(wanted, ledger, observed);
    let mut steps = planner.machine_steps();
    steps.extend(planner.host_steps());
    let (gone, kept) = planner.sort_out();
    steps.extend(gone.into_iter().cloned().map(Step::RemovePod));
    steps.extend(planner.network_steps(&kept));
    steps.extend(planner.container_steps(&kept));
    steps.extend(planner.registry_steps(&kept));
    let apps_change = steps.iter().any(|step| {
        matches!(
            step,
            Step::StartContainer(..) | Step::StopContainer(..) | Step::AddPod(..) | Step::RemovePod(_)
        )
    });
    let host_changes = steps
        .iter()
        .any(|step| matches!(step, Step::AddHost(Host::Underlay, _)));
    if apps_change || host_changes || !(observed.agent || wanted.pods.is_empty()) {
        steps.push(Step::StartAgent);
    }
    steps
}

/// The pods by name: with a thousand of them, looking through a list each time would be the most
/// of the work.
type ByName<'a> = BTreeMap<&'a Label, &'a Pod>;

struct Planner<'a> {
    lab: &'a Lab,
    pods: &'a [Pod],
    by_name: ByName<'a>,
    ledger: Option<&'a Ledger>,
    records: BTreeMap<&'a Label, &'a PodRecord>,
    observed: &'a Observed,
    /// Namespaces of the lab that are there and are the ones it made.
    whole: BTreeSet<Host>,
    /// The view of a namespace that is to be made.
    nothing: View,
}

impl<'a> Planner<'a> {
    fn new(wanted: &Wanted<'a>, ledger: Option<&'a Ledger>, observed: &'a Observed) -> Self {
        let records = ledger.iter().flat_map(|ledger| &ledger.pods);
        let lab = wanted.lab;
        Self {
            lab,
            pods: wanted.pods,
            by_name: wanted.pods.iter().map(|pod| (&pod.spec.name, pod)).collect(),
            ledger,
            records: records.map(|record| (&record.pod.spec.name, record)).collect(),
            observed,
            whole: whole_hosts(lab, ledger, observed),
            nothing: View::default(),
        }
    }

    fn view(&self, host: &Host) -> &View {
        let seen = self
            .observed
            .views
            .get(host)
            .filter(|_| self.whole.contains(host));
        seen.unwrap_or(&self.nothing)
    }

    /// What concerns the whole machine, and the settings of the namespace that is the only node.
    fn machine_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(node) = self.lab.caller_node() {
            let settings = &self.view(&node.host()).settings;
            let set = |key: &'static str, value| Step::Set {
                key,
                value,
                from: settings.get(key).cloned(),
            };
            let now = |key: &str| settings.get(key).map(String::as_str);
            if now(IP_FORWARD) != Some("1") {
                steps.push(set(IP_FORWARD, "1"));
            }
            if now(SEND_REDIRECTS) == Some("1") {
                steps.push(set(SEND_REDIRECTS, "0"));
            }
            if now(BRIDGE_NF).is_some_and(|now| now != "1") {
                steps.push(set(BRIDGE_NF, "1"));
            }
        }
        if !self.observed.bridge_netfilter {
            steps.push(Step::LoadBridgeNetfilter);
        }
        if !self.observed.netns_directory {
            steps.push(Step::MakeNetnsDirectory);
        }
        steps
    }

    /// The namespaces that are not pods', their settings, their way to the underlay, and rules.
    fn host_steps(&self) -> Vec<Step> {
        let hosts = self.lab.hosts();
        let mut steps: Vec<_> = self
            .hosts_to_remove(&hosts)
            .cloned()
            .map(Step::RemoveHost)
            .collect();
        for (host, namespace) in &hosts {
            if !self.whole.contains(host) {
                steps.push(Step::AddHost(host.clone(), (*namespace).to_string()));
            }
            steps.extend(self.settings(host));
        }
        for (host, machine) in self.lab.machines() {
            if !self.is_attached(&host, machine) {
                steps.push(Step::Attach(host.clone(), machine.clone()));
            }
        }
        for node in &self.lab.nodes {
            let standing = &self.view(&node.host()).rules;
            let missing = rules(self.lab, node)
                .into_iter()
                .filter(|rule| !standing.contains(rule));
            steps.extend(missing.map(|rule| Step::AddRule(node.clone(), rule)));
        }
        steps
    }

    /// Those that nobody wants any more, and those that are not what the lab made.
    fn hosts_to_remove(&self, hosts: &[(Host, &str)]) -> impl Iterator<Item = &'a HostRecord> {
        let staying: BTreeSet<String> = hosts
            .iter()
            .filter(|(host, _)| self.whole.contains(host))
            .map(|(_, namespace)| (*namespace).to_string())
            .collect();
        let records = self.ledger.into_iter().flat_map(|ledger| &ledger.hosts);
        records.filter(move |record| !staying.contains(&record.namespace))
    }

    fn settings(&self, host: &Host) -> Option<Step> {
        let now = &self.view(host).settings;
        let fresh = !self.whole.contains(host);
        let mut wanted = settings::wanted(self.lab, host);
        wanted.retain(|(key, value)| match now.get(*key) {
            Some(now) => now != value,
            // A kernel that has no such setting will not get it by another `up`.
            None => fresh || !settings::is_optional(key),
        });
        (!wanted.is_empty()).then(|| Step::Configure(host.clone(), wanted))
    }

    /// Whether a machine has its address, and a port of the underlay's bridge leads to it.
    fn is_attached(&self, host: &Host, machine: &Machine) -> bool {
        let underlay = self.view(&Host::Underlay);
        let own = self.view(host);
        let port = underlay
            .link(UNDERLAY_BRIDGE)
            .zip(underlay.link(&machine.interface))
            .is_some_and(|(bridge, port)| port.is_port_of(self.lab, bridge));
        let second = machine.ip6.is_none_or(|ip| {
            own.link(OWN_END)
                .is_some_and(|link| own.has_address(link.index, ip))
        });
        port && own.has_on(OWN_END, machine.ip) && second
    }

    /// The bridge of a node, if it is there and ours.
    fn bridge(&self, node: &Node) -> Option<&Link> {
        self.view(&node.host())
            .link(&node.bridge)
            .filter(|link| link.is_bridge_of(self.lab))
    }

    /// Records to remove, and wanted pods that are there and whole.
    fn sort_out(&self) -> (Vec<&'a PodRecord>, BTreeSet<&'a Label>) {
        let (mut gone, mut kept) = (Vec::new(), BTreeSet::new());
        let mut ports: BTreeMap<&Label, BTreeMap<&str, &Link>> = BTreeMap::new();
        for node in &self.lab.nodes {
            let links = self.view(&node.host()).links.iter();
            ports.insert(
                node.name(),
                links.map(|link| (link.name.as_str(), link)).collect(),
            );
        }
        for record in self.ledger.into_iter().flat_map(|ledger| &ledger.pods) {
            let pod = self.by_name.get(&record.pod.spec.name).copied();
            let same = |pod: &&Pod| {
                let now = &record.pod;
                (pod.ip, pod.ip6, &pod.node) == (now.ip, now.ip6, &now.node)
            };
            if self.is_left_alone(record, pod.filter(same)) {
                kept.extend(pod.map(|pod| &pod.spec.name));
                continue;
            }
            match pod.filter(same) {
                Some(pod) if record.leaving.is_none() && self.is_whole(record, &ports) => {
                    kept.insert(&pod.spec.name);
                }
                _ => gone.push(record),
            }
        }
        (gone, kept)
    }

    /// Whether another command ends the pod, and what comes of that is what is wanted.
    fn is_left_alone(&self, record: &PodRecord, wanted: Option<&Pod>) -> bool {
        match record.leaving_by_others() {
            Some(Leaving::ToReturn) => wanted.is_some(),
            Some(Leaving::ForGood) => !self.by_name.contains_key(&record.pod.spec.name),
            None => false,
        }
    }

    fn is_of_others(&self, pod: &Pod, kept: &BTreeSet<&Label>) -> bool {
        let record = self.records.get(&pod.spec.name);
        record.is_some_and(|record| record.ender.is_some()) && kept.contains(&pod.spec.name)
    }

    fn is_whole(&self, record: &PodRecord, ports: &BTreeMap<&Label, BTreeMap<&str, &Link>>) -> bool {
        let pod = &record.pod;
        let namespace = self.observed.namespaces.get(&pod.namespace).copied();
        let port = ports
            .get(&pod.node)
            .and_then(|ports| ports.get(pod.interface.as_str()));
        let bridge = self.lab.node_of(pod).and_then(|node| self.bridge(node));
        record.namespace_inode.is_some()
            && namespace == record.namespace_inode
            && self.observed.held.contains(&pod.spec.name)
            && !self.observed.cut_off.contains(&pod.spec.name)
            && bridge
                .zip(port)
                .is_some_and(|(bridge, port)| port.is_port_of(self.lab, bridge) && !port.hairpin_off)
    }

    /// Bridges, pods, and the ways between them; a bridge comes up after its pods are there.
    fn network_steps(&self, kept: &BTreeSet<&Label>) -> Vec<Step> {
        let mut steps = Vec::new();
        for node in &self.lab.nodes {
            if self.bridge(node).is_none() {
                steps.push(Step::AddBridge(node.clone()));
            }
            if self.has_overlay() && !self.has_tunnel(node) {
                steps.push(Step::AddTunnel(node.clone()));
            }
        }
        for pod in self.pods.iter().filter(|pod| !kept.contains(&pod.spec.name)) {
            let node = self.lab.node_of(pod);
            steps.extend(node.map(|node| Step::AddPod(node.clone(), pod.clone())));
        }
        for node in &self.lab.nodes {
            steps.extend(self.raising(node));
        }
        for (host, _) in self.lab.hosts() {
            steps.extend(self.ways(&host));
        }
        steps
    }

    fn has_overlay(&self) -> bool {
        self.lab
            .underlay
            .as_ref()
            .is_some_and(|underlay| underlay.overlay.is_some())
    }

    fn has_tunnel(&self, node: &Node) -> bool {
        let view = self.view(&node.host());
        // It is bound to the link that leads to the underlay, and goes with it.
        node.machine
            .as_ref()
            .is_some_and(|machine| self.is_attached(&node.host(), machine))
            && view.has_on(VXLAN, way::tunnel_address(node))
    }

    fn raising(&self, node: &Node) -> Vec<Step> {
        let view = self.view(&node.host());
        let bridge = self.bridge(node);
        let mut steps = Vec::new();
        let addresses = [
            Some(node.bridge_address().addr().into()),
            node.bridge_address6().map(|net| net.addr().into()),
        ];
        let raised = bridge.is_some_and(|link| {
            let mut wanted = addresses.into_iter().flatten();
            link.up && wanted.all(|ip: std::net::IpAddr| view.has_address(link.index, ip))
        });
        if !raised {
            steps.push(Step::RaiseBridge(node.clone()));
        }
        let ranges = self.lab.service_ranges();
        let routed = bridge.is_some_and(|link| {
            ranges.iter().all(|range| {
                let mut routes = view.routes.iter();
                routes.any(|route| route.index == link.index && route.destination == *range)
            })
        });
        if !routed {
            steps.push(Step::RouteServices(node.clone(), ranges));
        }
        steps
    }

    fn ways(&self, host: &Host) -> Vec<Step> {
        let view = self.view(host);
        let wanted = way::ways(self.lab, host);
        let stale = way::stale(self.lab, &wanted, view);
        let mut steps: Vec<_> = stale
            .into_iter()
            .map(|route| Step::RemoveWay(host.clone(), route.clone()))
            .collect();
        // What leads through a link that is made again goes with it.
        let renewed = |way: &way::Way| match host {
            Host::Node(name) if way.device == VXLAN => {
                !self.lab.node(name).is_some_and(|node| self.has_tunnel(node))
            }
            _ => false,
        };
        let unattached = self
            .lab
            .machines()
            .any(|(other, machine)| other == *host && !self.is_attached(host, machine));
        let missing = wanted.into_iter().filter(|way| {
            let stands = view.routes.iter().any(|route| way.is(route, view));
            unattached || renewed(way) || !(stands && way.finds_far_end(view))
        });
        steps.extend(missing.map(|way| Step::AddWay(host.clone(), way)));
        steps
    }

    fn container_steps(&self, kept: &BTreeSet<&Label>) -> Vec<Step> {
        let mut steps = Vec::new();
        for pod in self.pods.iter().filter(|pod| !self.is_of_others(pod, kept)) {
            let name = &pod.spec.name;
            let running = &self.observed.running;
            let stays = kept.contains(name);
            let runs = |container: &Label| stays && running.contains(&(name.clone(), container.clone()));
            let before = self.records.get(name);
            let had = before.map_or_else(Vec::new, |record| record.pod.containers());
            let wanted = pod.containers();
            let (same, other): (Vec<_>, Vec<_>) = had.iter().partition(|had| wanted.contains(had));
            let stopped = other.iter().filter(|had| runs(&had.name));
            steps.extend(stopped.map(|had| Step::StopContainer(pod.clone(), had.name.clone())));
            let missing = wanted
                .iter()
                .filter(|wanted| !(same.contains(wanted) && runs(&wanted.name)));
            steps.extend(missing.map(|wanted| Step::StartContainer(pod.clone(), wanted.clone())));
        }
        steps
    }

    /// One that is made again is well; one that stays is as it was.
    fn health(&self, pod: &Pod, kept: &BTreeSet<&Label>) -> Health {
        let record = self.records.get(&pod.spec.name);
        let record = record.filter(|_| kept.contains(&pod.spec.name));
        let Some(record) = record else {
            return Health::default();
        };
        let mut health = Health::of(record);
        // What of the topology has ended this plan starts again; the agent sees to the others.
        for added in &health.added {
            let own = health.containers.entry(added.name.clone()).or_default();
            let key = (pod.spec.name.clone(), added.name.clone());
            own.ended = !self.observed.running.contains(&key);
            own.backing_off = own.ended;
            if own.ended {
                own.exit_code = self.observed.exit_codes.get(&key).copied().unwrap_or(KILLED);
            }
        }
        health
    }

    fn registry_steps(&self, kept: &BTreeSet<&Label>) -> Vec<Step> {
        let (lab, observed) = (self.lab, self.observed);
        let nodes = lab
            .nodes
            .iter()
            .map(|node| (object::node_file(node), object::node(node)));
        let pods = self.pods.iter().filter(|pod| !self.is_of_others(pod, kept));
        let pods = pods.map(|pod| {
            (
                object::pod_file(pod),
                object::pod(lab, pod, &self.health(pod, kept)),
            )
        });
        let names = object::name_service(lab);
        let names = names.map(|content| (name_server::SERVICE_FILE.to_string(), content));
        let mut steps: Vec<_> = nodes
            .chain(pods)
            .chain(names)
            .filter(|(file, content)| observed.published.get(file) != Some(content))
            .map(|(file, content)| Step::Publish { file, content })
            .collect();
        let gone = self
            .records
            .values()
            .filter(|record| !self.by_name.contains_key(&record.pod.spec.name))
            .filter(|record| !self.is_left_alone(record, None));
        steps.extend(gone.map(|record| Step::Withdraw(object::pod_file(&record.pod))));
        let before = self.ledger.into_iter().flat_map(|ledger| &ledger.lab.nodes);
        let gone = before.filter(|node| lab.node(node.name()).is_none());
        steps.extend(gone.map(|node| Step::Withdraw(object::node_file(node))));
        let had = self.ledger.is_some_and(|ledger| ledger.lab.dns.is_some());
        if had && lab.dns.is_none() {
            steps.push(Step::Withdraw(name_server::SERVICE_FILE.to_string()));
        }
        if !observed.has_service && super::address::first_service(lab.service_cidr).is_some() {
            steps.push(Step::OfferService(lab.clone()));
        }
        steps
    }
}

/// The namespaces that are there and are the ones that the lab made.
fn whole_hosts(lab: &Lab, ledger: Option<&Ledger>, observed: &Observed) -> BTreeSet<Host> {
    let caller = lab.caller_node().map(Node::host);
    let recorded = |namespace: &str| ledger?.host(namespace)?.namespace_inode;
    let made = lab.hosts().into_iter().filter(|(host, namespace)| {
        let ours =
            recorded(namespace).is_some_and(|inode| observed.namespaces.get(*namespace) == Some(&inode));
        // The underlay is nothing but its bridge.
        let joined = *host != Host::Underlay
            || observed.views.get(host).is_some_and(|view| {
                view.link(UNDERLAY_BRIDGE)
                    .is_some_and(|bridge| bridge.up && bridge.group == lab.group())
            });
        ours && joined && observed.views.contains_key(host)
    });
    made.map(|(host, _)| host).chain(caller).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
