//! Labs for tests.

use super::address;
use super::layout;
use super::ledger::Lab;
use super::name::Label;
use super::node::Node;
use super::topology::{NodeSpec, Overlay, Topology};

/// The default lab, whose node is the caller's namespace.
pub(crate) fn lab() -> Lab {
    let name = Label::default_lab();
    let pod_cidr = "10.244.0.0/24".parse().unwrap();
    let spec = NodeSpec::named(Label::default_node(&name));
    Lab {
        name,
        nodes: vec![layout::only_node(spec, pod_cidr, "cni0")],
        pod_cidr,
        pod_cidr6: None,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        service_cidr6: None,
        bridge: "cni0".into(),
        underlay: None,
        dns: None,
    }
}

/// A lab of several nodes.
pub(crate) fn lab_of(nodes: usize, dual_stack: bool, overlay: Option<Overlay>) -> Lab {
    let name = Label::default_lab();
    let mut lab = Lab {
        nodes: Vec::new(),
        pod_cidr: address::CLUSTER,
        pod_cidr6: dual_stack.then_some(layout::PODS6),
        service_cidr6: dual_stack.then_some(layout::SERVICES6),
        underlay: Some(layout::underlay(&name, dual_stack, overlay)),
        ..lab()
    };
    lab.nodes = grown(&lab, nodes);
    lab
}

/// The nodes of a lab, when it is to have so many.
pub(crate) fn grown(lab: &Lab, nodes: usize) -> Vec<Node> {
    let text = format!("{nodes}-nodes-1-pod");
    let topology = Topology::from_words(&text, &lab.name).unwrap().unwrap();
    layout::nodes(lab, &topology.nodes, 24).unwrap()
}
