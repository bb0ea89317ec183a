//! A host as data that steps change, for tests of plans.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::ledger::{ProcessId, VERSION};
use crate::model::name;
use crate::model::observed::{Address, Route};

/// A small model of the kernel and of the ledger: what taking a step would make of them.
pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) observed: Observed,
    pub(super) ledger: Option<Ledger>,
    pub(super) next: u64,
}

impl World {
    pub(super) fn new() -> Self {
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

    pub(super) fn of_nodes(nodes: usize, dual_stack: bool, overlay: Option<Overlay>) -> Self {
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
    pub(super) fn first(&mut self) -> &mut View {
        let host = self.lab.nodes[0].host();
        self.observed.views.get_mut(&host).unwrap()
    }

    pub(super) fn plan(&self, number: usize) -> Vec<Step> {
        self.plan_to(&Topology::web_pods(number))
    }

    pub(super) fn plan_to(&self, topology: &Topology) -> Vec<Step> {
        let pods = lay_out(&self.lab, topology, self.ledger.as_ref()).unwrap();
        let wanted = Wanted {
            lab: &self.lab,
            pods: &pods,
        };
        plan(&wanted, self.ledger.as_ref(), &self.observed)
    }

    pub(super) fn up(&mut self, number: usize) -> Vec<Step> {
        self.up_to(&Topology::web_pods(number))
    }

    pub(super) fn up_to(&mut self, topology: &Topology) -> Vec<Step> {
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
            rollouts: BTreeMap::new(),
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

    pub(super) fn on(&mut self, host: &Host) -> &mut View {
        self.observed.views.get_mut(host).unwrap()
    }

    pub(super) fn add_link(&mut self, host: &Host, link: Link) -> u32 {
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
    pub(super) fn take_on_host(&mut self, ledger: &mut Ledger, step: &Step) -> bool {
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
            Step::AddWay(host, way) => self.add_way(host, way),
            Step::RemoveWay(host, route) => self.on(host).routes.retain(|other| other != route),
            _ => return false,
        }
        true
    }

    fn add_way(&mut self, host: &Host, way: &way::Way) {
        let view = self.on(host);
        let index = view.link(way.device).unwrap().index;
        view.routes.retain(|route| route.destination != way.destination);
        if let Some(tunnel) = &way.tunnel {
            view.far_ends.insert((tunnel.node, tunnel.mac));
            view.neighbours.extend(way.via.iter().map(|ip| (*ip, tunnel.mac)));
        }
        view.routes.push(Route {
            destination: way.destination,
            via: way.via.clone(),
            index,
        });
    }

    pub(super) fn add_host(&mut self, ledger: &mut Ledger, host: &Host, namespace: &str) {
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

    pub(super) fn attach(&mut self, host: &Host, machine: &Machine) {
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
    pub(super) fn unplug(&mut self, host: &Host) {
        let view = self.on(host);
        let going = |link: &&Link| [OWN_END, VXLAN].contains(&link.name.as_str());
        let gone: BTreeSet<u32> = view.links.iter().filter(going).map(|link| link.index).collect();
        view.links.retain(|link| !gone.contains(&link.index));
        view.routes.retain(|route| !gone.contains(&route.index));
        view.addresses.retain(|address| !gone.contains(&address.index));
    }

    pub(super) fn take(&mut self, ledger: &mut Ledger, step: &Step) {
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
