use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::ledger::{ProcessId, VERSION, lay_out};
use crate::model::name::{self, Label};
use crate::model::observed::{Address, Kernel, Route};
use crate::model::topology::Topology;

fn lab() -> Lab {
    Lab {
        name: Label::default_lab(),
        node: Label::default_node(&Label::default_lab()),
        pod_cidr: "10.244.0.0/24".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        bridge: "cni0".into(),
    }
}

fn empty_host() -> Observed {
    Observed {
        kernel: Kernel {
            ip_forward: Some("0".into()),
            send_redirects: Some("1".into()),
            bridge_nf_call_iptables: Some("1".into()),
            netns_directory: false,
        },
        ..Default::default()
    }
}

/// A small model of the kernel and of the ledger: what taking a step would make of them.
struct World {
    observed: Observed,
    ledger: Option<Ledger>,
    next: u64,
}

impl World {
    fn new() -> Self {
        Self {
            observed: empty_host(),
            ledger: None,
            next: 10,
        }
    }

    fn up(&mut self, number: usize) -> Vec<Step> {
        self.up_to(&Topology::web_pods(number))
    }

    fn up_to(&mut self, topology: &Topology) -> Vec<Step> {
        let lab = lab();
        let pods = lay_out(&lab, topology, self.ledger.as_ref()).unwrap();
        let wanted = Wanted {
            lab: &lab,
            pods: &pods,
        };
        let steps = plan(&wanted, self.ledger.as_ref(), &self.observed);
        let mut ledger = self.ledger.take().unwrap_or_else(|| Ledger {
            version: VERSION,
            lab: lab.clone(),
            node_namespace: 1,
            iptables: "/usr/sbin/iptables".into(),
            unsettled: false,
            leaving: false,
            pods: Vec::new(),
            agent: None,
        });
        for step in &steps {
            self.take(step, &mut ledger);
        }
        self.ledger = Some(ledger);
        steps
    }

    fn take(&mut self, step: &Step, ledger: &mut Ledger) {
        self.next += 1;
        let seen = &mut self.observed;
        match step {
            Step::Set { key, .. } if *key == IP_FORWARD => seen.kernel.ip_forward = Some("1".into()),
            Step::Set { key, .. } if *key == SEND_REDIRECTS => seen.kernel.send_redirects = Some("0".into()),
            Step::LoadBridgeNetfilter | Step::Set { .. } => {
                seen.kernel.bridge_nf_call_iptables = Some("1".into());
            }
            Step::MakeNetnsDirectory => seen.kernel.netns_directory = true,
            Step::AddRule(rule) => assert!(seen.rules.insert(rule.clone())),
            Step::RemovePod(record) => {
                seen.links.retain(|link| link.name != record.pod.interface);
                seen.namespaces.remove(&record.pod.namespace);
                seen.running.retain(|(pod, _)| *pod != record.pod.spec.name);
                seen.held.remove(&record.pod.spec.name);
                ledger
                    .pods
                    .retain(|other| other.pod.spec.name != record.pod.spec.name);
            }
            Step::AddBridge(lab) => seen.links.push(Link {
                index: 7,
                name: lab.bridge.clone(),
                group: lab.group(),
                alias: name::bridge_alias(&lab.name),
                ..Default::default()
            }),
            Step::AddPod(lab, pod) => {
                assert!(seen.namespaces.insert(pod.namespace.clone(), self.next).is_none());
                seen.links.push(Link {
                    index: u32::try_from(self.next).unwrap(),
                    name: pod.interface.clone(),
                    group: lab.group(),
                    alias: String::new(),
                    master: 7,
                    up: true,
                    hairpin_off: false,
                });
                assert!(seen.held.insert(pod.spec.name.clone()));
                ledger.pods.push(PodRecord {
                    namespace_inode: Some(self.next),
                    ..PodRecord::announced(pod.clone())
                });
            }
            Step::RaiseBridge(lab) => {
                seen.links
                    .iter_mut()
                    .filter(|link| link.index == 7)
                    .for_each(|link| link.up = true);
                seen.addresses.push(Address {
                    index: 7,
                    net: lab.bridge_address(),
                });
            }
            Step::RouteServices(lab) => seen.routes.push(Route {
                destination: lab.service_cidr,
                index: 7,
            }),
            Step::StopContainer(pod, name) => {
                assert!(seen.running.remove(&(pod.spec.name.clone(), name.clone())));
            }
            Step::StartContainer(pod, container) => {
                let key = (pod.spec.name.clone(), container.name.clone());
                assert!(seen.running.insert(key));
                let process = ProcessId {
                    pid: 1,
                    start_time: 1,
                };
                let mut records = ledger.pods.iter_mut();
                let record = records.find(|record| record.pod.spec.name == pod.spec.name);
                record.unwrap().set_process(&container.name, Some(process));
            }
            Step::Publish { file, content } => {
                seen.published.insert(file.clone(), content.clone());
            }
            Step::Withdraw(file) => assert!(seen.published.remove(file).is_some()),
            Step::OfferService(_) => seen.has_service = true,
            Step::StartAgent => seen.agent = true,
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
    let steps = world_plan(&world, 1);
    assert!(steps.iter().any(|step| matches!(step, Step::RemovePod(_))));
}

fn world_plan(world: &World, number: usize) -> Vec<Step> {
    let lab = lab();
    let pods = lay_out(&lab, &Topology::web_pods(number), world.ledger.as_ref()).unwrap();
    let wanted = Wanted {
        lab: &lab,
        pods: &pods,
    };
    plan(&wanted, world.ledger.as_ref(), &world.observed)
}

#[test]
fn flushed_rules_come_back() {
    let mut world = World::new();
    world.up(3);
    world.observed.rules.clear();
    let steps = world.up(3);
    assert_eq!(steps.len(), 3);
    assert!(steps.iter().all(|step| matches!(step, Step::AddRule(_))));
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
        1 => world
            .observed
            .links
            .retain(|link| link.name != format!("veth-{pod}")),
        2 => {
            world.observed.namespaces.remove(pod.as_str());
        }
        3 => world.observed.routes.clear(),
        _ => world.observed.rules.clear(),
    }
}
