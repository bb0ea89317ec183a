use proptest::prelude::*;

use super::*;
use crate::model::ledger::{PodRecord, VERSION};
use crate::model::samples;

fn ledger(lab: &Lab, pods: Vec<Pod>) -> Ledger {
    Ledger {
        version: VERSION,
        lab: lab.clone(),
        node_namespace: None,
        iptables: "/usr/sbin/iptables".into(),
        unsettled: false,
        leaving: false,
        hosts: Vec::new(),
        pods: pods.into_iter().map(PodRecord::announced).collect(),
        released: Vec::new(),
        agent: None,
        rollouts: BTreeMap::new(),
    }
}

#[test]
fn nodes_have_parts_of_the_range_and_pods_addresses_of_their_nodes() {
    let lab = samples::lab_of(3, true, None);
    let pods = lay_out(&lab, &Topology::web_pods(4), None).unwrap();
    let told: Vec<_> = pods
        .iter()
        .map(|pod| format!("{} {} {}", pod.node, pod.ip, pod.ip6.unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "node-1 10.244.0.2 fd00:10:244::2",
            "node-2 10.244.1.2 fd00:10:244:1::2",
            "node-3 10.244.2.2 fd00:10:244:2::2",
            "node-1 10.244.0.3 fd00:10:244::3",
        ]
    );
    assert_eq!(lab.nodes[1].ip().to_string(), "172.18.0.2");
    assert_eq!(
        lab.nodes[1].bridge_address6().unwrap().to_string(),
        "fd00:10:244:1::1/64"
    );
}

#[test]
fn the_range_of_a_node_is_large_enough_for_what_is_asked() {
    let prefix = |text: &str| {
        node_prefix(
            &Topology::from_words(text, &Label::default_lab())
                .unwrap()
                .unwrap(),
        )
    };
    assert_eq!(prefix("2-nodes-6-pods"), 24);
    assert_eq!(prefix("10-nodes-1000-pods"), 24);
    assert_eq!(prefix("1-node-1000-pods"), 21);
    assert_eq!(shortest_prefix("10.50.0.0/24".parse().unwrap(), 3), 26);
}

#[test]
fn too_many_nodes_for_a_range_are_refused() {
    let mut lab = samples::lab_of(1, false, None);
    lab.pod_cidr = "10.244.0.0/23".parse().unwrap();
    let topology = Topology::from_words("3-nodes-3-pods", &lab.name)
        .unwrap()
        .unwrap();
    assert_eq!(
        nodes(&lab, &topology.nodes, 24).unwrap_err().to_string(),
        "10.244.0.0/23 has room for 2 nodes with a /24 each, and 3 are wanted"
    );
}

proptest! {
    #[test]
    fn no_two_share_anything_and_who_stays_keeps_it(
        sizes in proptest::collection::vec((1_usize..6, 1_usize..20), 1..5),
    ) {
        let mut lab = samples::lab_of(1, true, None);
        let mut before: Option<Ledger> = None;
        for (number, number_of_pods) in sizes {
            let kept = lab.nodes.clone();
            lab.nodes = samples::grown(&lab, number);
            for (old, new) in kept.iter().zip(&lab.nodes) {
                prop_assert_eq!(old, new);
            }
            let ranges: BTreeSet<_> = lab.nodes.iter().map(|node| node.pod_cidr).collect();
            let ranges6: BTreeSet<_> = lab.nodes.iter().map(|node| node.pod_cidr6).collect();
            prop_assert_eq!((ranges.len(), ranges6.len()), (number, number));
            let pods = lay_out(&lab, &Topology::web_pods(number_of_pods), before.as_ref()).unwrap();
            let ips: BTreeSet<_> = pods.iter().map(|pod| pod.ip).collect();
            let ips6: BTreeSet<_> = pods.iter().map(|pod| pod.ip6).collect();
            prop_assert_eq!((ips.len(), ips6.len()), (number_of_pods, number_of_pods));
            for pod in &pods {
                let node = lab.node_of(pod).unwrap();
                prop_assert!(node.pod_cidr.contains(&pod.ip));
                prop_assert!(node.pod_cidr6.unwrap().contains(&pod.ip6.unwrap()));
                let old = before.as_ref().and_then(|ledger| ledger.pod(&pod.spec.name));
                if let Some(old) = old.filter(|old| lab.node(&old.pod.node).is_some()) {
                    prop_assert_eq!(&old.pod, pod);
                }
            }
            before = Some(ledger(&lab, pods));
        }
    }
}
