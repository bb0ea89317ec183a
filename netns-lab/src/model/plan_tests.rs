use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::layout::lay_out;
use crate::model::ledger::{Leaving, ProcessId};
use crate::model::name::Label;
use crate::model::samples;
use crate::model::topology::{Overlay, Topology};

#[path = "plan_world.rs"]
mod world;
use world::World;

fn sentences(steps: &[Step]) -> String {
    let lines: Vec<_> = steps.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn a_tunnel_that_forgot_its_far_end_is_told_again() {
    let mut world = World::of_nodes(2, false, Some(Overlay::Vxlan));
    world.up(2);
    assert_eq!(world.plan(2), []);
    world.first().far_ends.clear();
    assert!(matches!(&world.plan(2)[..], [Step::AddWay(..)]));
    world.up(2);
    world.first().neighbours.clear();
    assert!(matches!(&world.plan(2)[..], [Step::AddWay(..)]));
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
                for host in &machines {
                    world.unplug(host);
                }
            }
        }
        1 => world.unplug(&host),
        2 => world.on(&host).routes.clear(),
        3 => world.on(&host).rules.clear(),
        4 => {
            let settings = &mut world.on(&host).settings;
            for value in settings.values_mut() {
                *value = "7".into();
            }
        }
        5 => world.on(&host).links.iter_mut().for_each(|link| link.up = false),
        other => damage(world, other % 5, which),
    }
}

/// A world in which another command ends `web-2`.
fn ended_by_others(leaving: Leaving) -> World {
    let mut world = World::new();
    world.up(3);
    let record = &mut world.ledger.as_mut().unwrap().pods[1];
    record.leaving = Some(leaving);
    record.ender = Some(ProcessId {
        pid: 7,
        start_time: 7,
    });
    world.observed.running.remove(&(Label::web(2), Label::app()));
    world
}

#[test]
fn what_another_command_ends_is_left_to_it() {
    let world = ended_by_others(Leaving::ToReturn);
    assert_eq!(world.plan(3), []);
    let world = ended_by_others(Leaving::ForGood);
    let mut others = Topology::web_pods(3);
    others.pods.remove(1);
    assert_eq!(world.plan_to(&others), []);
    others.pods.extend(Topology::web_pods(4).pods.pop());
    let pods = lay_out(&world.lab, &others, world.ledger.as_ref()).unwrap();
    assert_eq!(
        pods[2].ip.to_string(),
        "10.244.0.5",
        "web-2 has its address still"
    );
}

#[test]
fn what_is_wanted_otherwise_is_taken_over() {
    let gone = |steps: Vec<Step>| steps.iter().any(|step| matches!(step, Step::RemovePod(_)));
    let world = ended_by_others(Leaving::ForGood);
    assert!(gone(world.plan(3)), "a pod of that name is wanted");
    let world = ended_by_others(Leaving::ToReturn);
    assert!(gone(world.plan(1)), "it is not to return");
}
