use super::*;
use crate::model::layout::lay_out;
use crate::model::samples;
use crate::model::topology::Topology;

fn report(lab: &Lab, topology: &Topology, state: State) -> LabReport {
    let pods = lay_out(lab, topology, None).unwrap();
    let pods: Vec<_> = pods
        .into_iter()
        .zip([true, false].into_iter().cycle())
        .map(|(pod, ready)| now(pod, ready))
        .collect();
    LabReport::new(lab, &pods, state)
}

/// As if `run` had added a container to the first pod.
fn now(pod: Pod, ready: bool) -> PodNow {
    let of = |name: &str, added| ContainerReport {
        name: name.into(),
        running: ready,
        restarts: 0,
        added,
    };
    let added = (pod.spec.name.as_str() == "web-1").then(|| of("side", true));
    PodNow {
        pid: ready.then_some(42),
        containers: std::iter::once(of("app", false)).chain(added).collect(),
        pod,
        ready,
    }
}

fn small() -> LabReport {
    let state = State {
        registry: "/run/netns-lab/lab/registry".into(),
        problems: vec!["the agent does not run: `netns-lab up`".into()],
        repairs: (1..6).map(|number| format!("add the pod web-{number}")).collect(),
        broken: BTreeSet::new(),
    };
    report(&samples::lab(), &Topology::web_pods(2), state)
}

#[test]
fn as_a_table() {
    insta::assert_snapshot!(small().table());
}

#[test]
fn as_json() {
    insta::assert_json_snapshot!(small());
}

/// Of two nodes one has figures and a zone; something of the other is gone.
fn several() -> LabReport {
    let mut lab = samples::lab_of(2, true, None);
    let first = &mut lab.nodes[0].spec;
    first.pods = Some(10);
    first.cpu = Some(Cpu(4000));
    first.memory = Some(Memory(8 << 30));
    first.zone = Some("a".to_string().try_into().unwrap());
    let mut topology = Topology::web_pods(4);
    for pod in &mut topology.pods {
        pod.cpu = Some(Cpu(250));
    }
    let state = State {
        registry: "/run/netns-lab/lab/registry".into(),
        broken: [lab.nodes[1].name().clone()].into(),
        ..State::default()
    };
    report(&lab, &topology, state)
}

#[test]
fn several_nodes_as_a_table() {
    insta::assert_snapshot!(several().table());
}

#[test]
fn several_nodes_as_json() {
    insta::assert_json_snapshot!(several());
}
