use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::layout::lay_out;
use crate::model::ledger::{ProcessId, VERSION};
use crate::model::name::{self, Label};
use crate::model::observed::{Address, Route};
use crate::model::samples;
use crate::model::topology::{Overlay, Topology};

/// A small model of the kernel and of the ledger: what taking a step would make of them.
struct World {
    lab: Lab,
    observed: Observed,
    ledger: Option<Ledger>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let lab = samples::lab();
        let settings = [(IP_FORWARD, "0"), (SEND_REDIRECTS, "1"), (BRIDGE_NF, "1")];
        let settings = settings.map(|(key, value)| (key.to_string(), value.to_string()));
        let view = View {
            settings: settings.into(),
            ..Default::default()
        };
        Self {
            observed: Observed {
                views: [(lab.nodes[0].host(), view)].into(),
                bridge_netfilter: true,
                ..Default::default()
            },
            lab,
            ledger: None,
            next: 10,
        }
    }

    fn of_nodes(nodes: usize, dual_stack: bool, overlay: Option<Overlay>) -> Self {
        Self {
            lab: samples::lab_of(nodes, dual_stack, overlay),
            observed: Observed {
                bridge_netfilter: true,
                ..Default::default()
            },
            ledger: None,
            next: 10,
        }
    }

    /// The view of the lab's first node.
    fn first(&mut self) -> &mut View {
        let host = self.lab.nodes[0].host();
        self.observed.views.get_mut(&host).unwrap()
    }

    fn plan(&self, number: usize) -> Vec<Step> {
        self.plan_to(&Topology::web_pods(number))
    }

    fn plan_to(&self, topology: &Topology) -> Vec<Step> {
        let pods = lay_out(&self.lab, topology, self.ledger.as_ref()).unwrap();
        let wanted = Wanted {
            lab: &self.lab,
            pods: &pods,
        };
        plan(&wanted, self.ledger.as_ref(), &self.observed)
    }

    fn up(&mut self, number: usize) -> Vec<Step> {
        self.up_to(&Topology::web_pods(number))
    }

    fn up_to(&mut self, topology: &Topology) -> Vec<Step> {
        let pods = lay_out(&self.lab, topology, self.ledger.as_ref()).unwrap();
        let steps = self.plan_to(topology);
        let mut ledger = self.ledger.take().unwrap_or_else(|| Ledger {
            version: VERSION,
            lab: self.lab.clone(),
            node_namespace: self.lab.caller_node().map(|_| 1),
            iptables: "/usr/sbin/iptables".into(),
            unsettled: false,
            leaving: false,
            hosts: Vec::new(),
            pods: Vec::new(),
            released: Vec::new(),
            agent: None,
        });
        ledger.lab = self.lab.clone();
        for step in &steps {
            if !self.take_on_host(&mut ledger, step) {
                self.take(&mut ledger, step);
            }
        }
        ledger.pods = pods
            .iter()
            .map(|pod| PodRecord {
                pod: pod.clone(),
                ..ledger.pod(&pod.spec.name).unwrap().clone()
            })
            .collect();
        self.ledger = Some(ledger);
        steps
    }

    fn on(&mut self, host: &Host) -> &mut View {
        self.observed.views.get_mut(host).unwrap()
    }

    fn add_link(&mut self, host: &Host, link: Link) -> u32 {
        self.next += 1;
        let index = u32::try_from(self.next).unwrap();
        let group = self.lab.group();
        let links = &mut self.on(host).links;
        assert!(
            links.iter().all(|other| other.name != link.name),
            "{link:?} is there"
        );
        links.push(Link { index, group, ..link });
        index
    }

    /// Takes a step that concerns a namespace that is not a pod's; `false` if it is another one.
    fn take_on_host(&mut self, ledger: &mut Ledger, step: &Step) -> bool {
        match step {
            Step::Set { key, value, .. } => {
                self.first().settings.insert((*key).into(), (*value).into());
            }
            Step::AddRule(node, rule) => assert!(self.on(&node.host()).rules.insert(rule.clone())),
            Step::RemoveHost(record) => {
                self.observed.namespaces.remove(&record.namespace);
                ledger.hosts.retain(|other| other.namespace != record.namespace);
            }
            Step::AddHost(host, namespace) => self.add_host(ledger, host, namespace),
            Step::Configure(host, settings) => {
                let settings = settings
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.to_string()));
                self.on(host).settings.extend(settings);
            }
            Step::Attach(host, machine) => self.attach(host, machine),
            Step::AddBridge(node) => {
                let alias = name::bridge_alias(&self.lab.name);
                let name = node.bridge.clone();
                self.add_link(
                    &node.host(),
                    Link {
                        name,
                        alias,
                        ..Default::default()
                    },
                );
            }
            Step::AddTunnel(node) => {
                let link = Link {
                    name: VXLAN.into(),
                    up: true,
                    ..Default::default()
                };
                let index = self.add_link(&node.host(), link);
                let net = format!("{}/32", way::tunnel_address(node)).parse().unwrap();
                self.on(&node.host()).addresses.push(Address { index, net });
            }
            Step::RaiseBridge(node) => {
                let view = self.on(&node.host());
                let bridge = view
                    .links
                    .iter_mut()
                    .find(|link| link.name == node.bridge)
                    .unwrap();
                bridge.up = true;
                let index = bridge.index;
                let second = node.bridge_address6().map(Into::into);
                for net in [Some(node.bridge_address().into()), second].into_iter().flatten() {
                    view.addresses.push(Address { index, net });
                }
            }
            Step::RouteServices(node, ranges) => {
                let view = self.on(&node.host());
                let index = view.link(&node.bridge).unwrap().index;
                view.routes.extend(ranges.iter().map(|destination| Route {
                    destination: *destination,
                    via: Vec::new(),
                    index,
                }));
            }
            Step::AddWay(host, way) => {
                let view = self.on(host);
                let index = view.link(way.device).unwrap().index;
                view.routes.retain(|route| route.destination != way.destination);
                view.routes.push(Route {
                    destination: way.destination,
                    via: way.via.clone(),
                    index,
                });
            }
            Step::RemoveWay(host, route) => self.on(host).routes.retain(|other| other != route),
            _ => return false,
        }
        true
    }

    fn add_host(&mut self, ledger: &mut Ledger, host: &Host, namespace: &str) {
        self.next += 1;
        let taken = self.observed.namespaces.insert(namespace.to_string(), self.next);
        assert_eq!(taken, None, "{namespace} is there");
        ledger.hosts.push(HostRecord {
            namespace: namespace.to_string(),
            namespace_inode: Some(self.next),
        });
        self.observed.views.insert(host.clone(), View::default());
        if *host == Host::Underlay {
            let link = Link {
                name: UNDERLAY_BRIDGE.into(),
                up: true,
                ..Default::default()
            };
            self.add_link(host, link);
        }
    }

    fn attach(&mut self, host: &Host, machine: &Machine) {
        let master = self.on(&Host::Underlay).link(UNDERLAY_BRIDGE).unwrap().index;
        let name = machine.interface.clone();
        self.on(&Host::Underlay).links.retain(|link| link.name != name);
        let port = Link {
            name,
            master,
            up: true,
            ..Default::default()
        };
        self.add_link(&Host::Underlay, port);
        self.unplug(host);
        let own = Link {
            name: OWN_END.into(),
            up: true,
            ..Default::default()
        };
        let index = self.add_link(host, own);
        let second = machine.ip6.map(|ip| format!("{ip}/64").parse().unwrap());
        for net in [Some(format!("{}/16", machine.ip).parse().unwrap()), second]
            .into_iter()
            .flatten()
        {
            self.on(host).addresses.push(Address { index, net });
        }
    }

    /// What goes with a machine's own end: its routes, and the tunnel that is bound to it.
    fn unplug(&mut self, host: &Host) {
        let view = self.on(host);
        let going = |link: &&Link| [OWN_END, VXLAN].contains(&link.name.as_str());
        let gone: BTreeSet<u32> = view.links.iter().filter(going).map(|link| link.index).collect();
        view.links.retain(|link| !gone.contains(&link.index));
        view.routes.retain(|route| !gone.contains(&route.index));
        view.addresses.retain(|address| !gone.contains(&address.index));
    }

    fn take(&mut self, ledger: &mut Ledger, step: &Step) {
        match step {
            Step::LoadBridgeNetfilter => self.observed.bridge_netfilter = true,
            Step::MakeNetnsDirectory => self.observed.netns_directory = true,
            Step::RemovePod(record) => {
                let pod = &record.pod;
                for view in self.observed.views.values_mut() {
                    view.links.retain(|link| link.name != pod.interface);
                }
                self.observed.namespaces.remove(&pod.namespace);
                self.observed.running.retain(|(other, _)| *other != pod.spec.name);
                self.observed.held.remove(&pod.spec.name);
                ledger.pods.retain(|other| other.pod.spec.name != pod.spec.name);
            }
            Step::AddPod(node, pod) => {
                self.next += 1;
                let inode = self.next;
                assert!(
                    self.observed
                        .namespaces
                        .insert(pod.namespace.clone(), inode)
                        .is_none()
                );
                let master = self.on(&node.host()).link(&node.bridge).unwrap().index;
                let name = pod.interface.clone();
                self.add_link(
                    &node.host(),
                    Link {
                        name,
                        master,
                        up: true,
                        ..Default::default()
                    },
                );
                assert!(self.observed.held.insert(pod.spec.name.clone()));
                ledger.pods.push(PodRecord {
                    namespace_inode: Some(inode),
                    ..PodRecord::announced(pod.clone())
                });
            }
            Step::StopContainer(pod, name) => {
                let key = (pod.spec.name.clone(), name.clone());
                assert!(self.observed.running.remove(&key));
            }
            Step::StartContainer(pod, container) => {
                let key = (pod.spec.name.clone(), container.name.clone());
                assert!(self.observed.running.insert(key));
                let process = ProcessId {
                    pid: 1,
                    start_time: 1,
                };
                let mut records = ledger.pods.iter_mut();
                let record = records.find(|record| record.pod.spec.name == pod.spec.name);
                record.unwrap().set_process(&container.name, Some(process));
            }
            Step::Publish { file, content } => {
                self.observed.published.insert(file.clone(), content.clone());
            }
            Step::Withdraw(file) => assert!(self.observed.published.remove(file).is_some()),
            Step::OfferService(_) => self.observed.has_service = true,
            Step::StartAgent => self.observed.agent = true,
            other => panic!("{other} is not taken"),
        }
    }
}

fn sentences(steps: &[Step]) -> String {
    let lines: Vec<_> = steps.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn the_first_up_in_sentences() {
    insta::assert_snapshot!(sentences(&World::new().up(3)));
}

#[test]
fn three_then_five_adds_two_and_touches_nothing_else() {
    let mut world = World::new();
    world.up(3);
    insta::assert_snapshot!(sentences(&world.up(5)));
}

#[test]
fn three_then_two_removes_one() {
    let mut world = World::new();
    world.up(3);
    insta::assert_snapshot!(sentences(&world.up(2)));
}

#[test]
fn a_dead_app_is_started_again_and_only_that() {
    let mut world = World::new();
    world.up(3);
    world.observed.running.remove(&(Label::web(2), Label::app()));
    let steps = world.up(3);
    assert_eq!(steps.len(), 2, "{}", sentences(&steps));
    assert!(matches!(&steps[0], Step::StartContainer(pod, _) if pod.spec.name == Label::web(2)));
}

#[test]
fn a_pod_whose_holder_is_dead_is_made_again_with_its_address() {
    let mut world = World::new();
    world.up(3);
    world.observed.held.remove(&Label::web(2));
    let steps = world.up(3);
    assert!(matches!(&steps[0], Step::RemovePod(record) if record.pod.spec.name == Label::web(2)));
    assert!(
        steps
            .iter()
            .any(|step| matches!(step, Step::AddPod(_, pod) if pod.spec.name == Label::web(2)))
    );
    assert_eq!(steps.len(), 4, "{}", sentences(&steps));
}

#[test]
fn containers_come_and_go_one_by_one() {
    let with = |containers: &str| {
        let text = format!(r#"{{"pods":[{{"name":"db","containers":[{containers}]}}]}}"#);
        Topology::from_json(text.as_bytes()).unwrap()
    };
    let mut world = World::new();
    world.up_to(&with(r#"{"name":"app"},{"name":"side","command":["sleep","1"]}"#));
    let steps = world.up_to(&with(r#"{"name":"app"},{"name":"side","command":["sleep","2"]}"#));
    insta::assert_snapshot!(sentences(&steps));
}

#[test]
fn a_namespace_deleted_by_hand_is_made_again_with_its_address() {
    let mut world = World::new();
    world.up(3);
    world.observed.namespaces.remove("web-1");
    insta::assert_snapshot!(sentences(&world.up(3)));
}

#[test]
fn a_namespace_of_someone_else_under_our_name_is_not_taken_for_ours() {
    let mut world = World::new();
    world.up(1);
    world.observed.namespaces.insert("web-1".into(), 99);
    let steps = world.plan(1);
    assert!(steps.iter().any(|step| matches!(step, Step::RemovePod(_))));
}

#[test]
fn flushed_rules_come_back() {
    let mut world = World::new();
    world.up(3);
    world.first().rules.clear();
    let steps = world.up(3);
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| matches!(step, Step::AddRule(..))));
}

proptest! {
    #[test]
    fn whatever_the_order_the_second_up_has_nothing_to_do(
        numbers in proptest::collection::vec(1_usize..20, 1..6),
        broken in proptest::collection::vec((0_usize..5, 1_usize..20), 0..4),
    ) {
        let mut world = World::new();
        for number in numbers {
            world.up(number);
            for (what, which) in &broken {
                damage(&mut world, *what, *which);
            }
            world.up(number);
            let again = world.up(number);
            prop_assert!(again.is_empty(), "{}", sentences(&again));
            let pods = &world.ledger.as_ref().unwrap().pods;
            prop_assert_eq!(pods.len(), number);
            prop_assert_eq!(pods.iter().map(|record| record.pod.ip).collect::<BTreeSet<_>>().len(), number);
            prop_assert_eq!(world.observed.running.len(), number);
        }
    }
}

fn damage(world: &mut World, what: usize, which: usize) {
    let pod = Label::web(which);
    match what {
        0 => {
            world.observed.running.remove(&(pod, Label::app()));
        }
        1 => {
            for view in world.observed.views.values_mut() {
                view.links.retain(|link| link.name != format!("veth-{pod}"));
            }
        }
        2 => {
            world.observed.namespaces.remove(pod.as_str());
        }
        3 => world.first().routes.clear(),
        _ => world.first().rules.clear(),
    }
}

#[test]
fn two_nodes_in_sentences() {
    insta::assert_snapshot!(sentences(&World::of_nodes(2, true, None).up(3)));
}

#[test]
fn two_nodes_by_a_tunnel_in_sentences() {
    insta::assert_snapshot!(sentences(&World::of_nodes(2, false, Some(Overlay::Vxlan)).up(1)));
}

#[test]
fn a_node_that_comes_and_goes_changes_the_ways_of_the_others() {
    let mut world = World::of_nodes(2, false, None);
    world.up(4);
    world.lab.nodes = samples::grown(&world.lab, 3);
    let grown = sentences(&world.up(6));
    world.lab.nodes = samples::grown(&world.lab, 2);
    insta::assert_snapshot!(format!("{grown}\n---\n{}", sentences(&world.up(4))));
}

#[test]
fn a_node_deleted_by_hand_is_made_again_with_its_pods() {
    let mut world = World::of_nodes(2, false, None);
    world.up(2);
    let placed: Vec<_> = world.ledger.as_ref().unwrap().pods.clone();
    world.observed.namespaces.remove("node-2");
    insta::assert_snapshot!(sentences(&world.up(2)));
    let again = &world.ledger.as_ref().unwrap().pods;
    for (before, now) in placed.iter().zip(again) {
        assert_eq!(before.pod, now.pod);
    }
    assert_eq!(sentences(&world.up(2)), "");
}

proptest! {
    #[test]
    fn several_nodes_are_whole_after_any_change_and_any_damage(
        sizes in proptest::collection::vec((1_usize..5, 1_usize..12), 1..5),
        broken in proptest::collection::vec((0_usize..8, 0_usize..5), 0..4),
        dual_stack: bool,
        tunnel: bool,
    ) {
        let mut world = World::of_nodes(2, dual_stack, tunnel.then_some(Overlay::Vxlan));
        for (nodes, pods) in sizes {
            world.lab.nodes = samples::grown(&world.lab, nodes);
            world.up(pods);
            for (what, which) in &broken {
                damage_node(&mut world, *what, *which);
            }
            world.up(pods);
            let again = world.up(pods);
            prop_assert!(again.is_empty(), "{}", sentences(&again));
            // The underlay, outside, and the nodes.
            prop_assert_eq!(world.ledger.as_ref().unwrap().hosts.len(), nodes + 2);
            for node in &world.lab.nodes {
                let view = &world.observed.views[&node.host()];
                let others = view.routes.iter().filter(|route| !route.via.is_empty());
                let families = if dual_stack { 2 } else { 1 };
                prop_assert_eq!(others.count(), nodes * families, "the others, and outside");
            }
        }
    }
}

fn damage_node(world: &mut World, what: usize, which: usize) {
    let hosts = world.lab.hosts();
    let (host, namespace) = hosts[which % hosts.len()].clone();
    let namespace = namespace.to_string();
    match what {
        0 => {
            world.observed.namespaces.remove(&namespace);
            if host == Host::Underlay {
                // All pairs of links end with one of their ends.
                let machines: Vec<_> = world.lab.machines().map(|(host, _)| host).collect();
                machines.iter().for_each(|host| world.unplug(host));
            }
        }
        1 => world.unplug(&host),
        2 => world.on(&host).routes.clear(),
        3 => world.on(&host).rules.clear(),
        4 => {
            let settings = &mut world.on(&host).settings;
            settings.values_mut().for_each(|value| *value = "7".into());
        }
        5 => world.on(&host).links.iter_mut().for_each(|link| link.up = false),
        other => damage(world, other % 5, which),
    }
}
