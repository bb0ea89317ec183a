use proptest::prelude::*;

use super::*;
use crate::model::samples;
use crate::model::topology::Topology;

/// Nodes of which each takes so many pods.
fn nodes(room: &[usize]) -> Vec<Node> {
    let mut nodes = samples::lab_of(room.len(), false, None).nodes;
    for (node, room) in nodes.iter_mut().zip(room) {
        node.spec.pods = Some(*room);
    }
    nodes
}

fn pods(number: usize) -> Vec<PodSpec> {
    Topology::web_pods(number).pods
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn places(found: &[Label]) -> String {
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    names.join(" ")
}

#[test]
fn pods_are_spread() {
    let found = schedule(&nodes(&[10, 10]), &pods(5), &BTreeMap::new()).unwrap();
    assert_eq!(places(&found), "node-1 node-2 node-1 node-2 node-1");
}

#[test]
fn a_node_of_twice_the_room_gets_twice_the_pods() {
    let found = schedule(&nodes(&[10, 20]), &pods(6), &BTreeMap::new()).unwrap();
    assert_eq!(found.iter().filter(|name| name.as_str() == "node-2").count(), 4);
}

#[test]
fn who_is_placed_stays_though_others_leave() {
    let placed = [(Label::web(2), label("node-1")), (Label::web(3), label("node-1"))];
    let found = schedule(&nodes(&[10, 10]), &pods(3), &placed.into()).unwrap();
    assert_eq!(places(&found), "node-2 node-1 node-1");
}

#[test]
fn a_named_node_is_heeded_before_all_else() {
    let mut wanted = pods(3);
    wanted[2].node_name = Some(label("node-1"));
    let found = schedule(
        &nodes(&[1, 2]),
        &wanted,
        &[(Label::web(1), label("node-1"))].into(),
    )
    .unwrap();
    assert_eq!(places(&found), "node-2 node-2 node-1");
    wanted[0].node_name = Some(label("node-1"));
    let refused = schedule(&nodes(&[1, 2]), &wanted, &BTreeMap::new()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no room for pod web-3: node-1 takes 1 pods, and has them"
    );
    wanted[0].node_name = Some(label("elsewhere"));
    let refused = schedule(&nodes(&[1, 2]), &wanted, &BTreeMap::new()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pod web-1: there is no node elsewhere; expected one of node-1, node-2"
    );
}

#[test]
fn cpu_and_memory_count_too() {
    let mut all = nodes(&[10, 10]);
    all[0].spec.cpu = Some(Cpu(1000));
    all[1].spec.memory = Some(Memory(1 << 30));
    let mut wanted = pods(3);
    for pod in &mut wanted {
        pod.cpu = Some(Cpu(600));
        pod.memory = Some(Memory(600 << 20));
    }
    let refused = schedule(&all, &wanted, &BTreeMap::new()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no room for pod web-3: node-1 has 400m of 1 CPU left, and 600m is asked for; node-2 has 424Mi of \
         1Gi memory left, and 600Mi is asked for"
    );
}

proptest! {
    #[test]
    fn nobody_is_given_more_than_he_has(
        room in proptest::collection::vec(1_usize..8, 1..5),
        number in 0_usize..20,
        placed in proptest::collection::btree_map(0_usize..20, 0_usize..5, 0..10),
    ) {
        let all = nodes(&room);
        let placed = placed
            .into_iter()
            .map(|(pod, node)| (Label::web(pod), label(&format!("node-{node}"))))
            .collect();
        let wanted = pods(number);
        match schedule(&all, &wanted, &placed) {
            Ok(found) => {
                prop_assert_eq!(found.len(), number);
                for (node, room) in all.iter().zip(&room) {
                    prop_assert!(found.iter().filter(|name| *name == node.name()).count() <= *room);
                }
                // Whoever is placed and has room there has not moved.
                let again = wanted.iter().map(|pod| pod.name.clone()).zip(found.clone()).collect();
                prop_assert_eq!(schedule(&all, &wanted, &again), Ok(found));
            }
            Err(_) => prop_assert!(room.iter().sum::<usize>() < number),
        }
    }
}
