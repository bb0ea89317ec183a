//! The parts of a report, each from what is known of its part of the lab.

use super::address;
use super::ledger::Lab;
use super::node::Node;
use super::quantity::{Cpu, Memory};
use super::report::{Amounts, NodeReport, OutsideReport, PodNow, PodReport, Resources};
use super::schedule::Use;

pub(super) fn node_report(node: &Node, used: Use, ready: bool) -> NodeReport {
    let spec = &node.spec;
    NodeReport {
        name: node.name().to_string(),
        pod_cidr: node.pod_cidr.to_string(),
        pod_cidr6: node.pod_cidr6.map(|range| range.to_string()),
        ip: node.ip(),
        ip6: node.ip6(),
        netns: node.machine.as_ref().map(|machine| machine.namespace.clone()),
        zone: spec.zone.as_ref().map(|zone| zone.as_str().to_string()),
        ready,
        resources: Resources {
            used: Amounts {
                pods: used.pods,
                cpu: Some(used.cpu).filter(|used| used.0 > 0 || spec.cpu.is_some()),
                memory: Some(used.memory).filter(|used| used.0 > 0 || spec.memory.is_some()),
            },
            capacity: Amounts {
                pods: node.max_pods(),
                cpu: spec.cpu,
                memory: spec.memory,
            },
        },
    }
}

/// The sum of all nodes; of what one of them has without a limit, there is no sum.
pub(super) fn total(nodes: &[NodeReport]) -> Resources {
    let all = || nodes.iter().map(|node| &node.resources);
    let some_cpu = all().filter_map(|node| node.used.cpu).map(|cpu| cpu.0);
    let some_memory = all().filter_map(|node| node.used.memory).map(|memory| memory.0);
    Resources {
        used: Amounts {
            pods: all().map(|node| node.used.pods).sum(),
            cpu: some_cpu.reduce(u64::saturating_add).map(Cpu),
            memory: some_memory.reduce(u64::saturating_add).map(Memory),
        },
        capacity: Amounts {
            pods: all().map(|node| node.capacity.pods).sum(),
            cpu: all()
                .map(|node| node.capacity.cpu)
                .reduce(|sum, cpu| Some(Cpu(sum?.0.saturating_add(cpu?.0))))
                .flatten(),
            memory: all()
                .map(|node| node.capacity.memory)
                .reduce(|sum, memory| Some(Memory(sum?.0.saturating_add(memory?.0))))
                .flatten(),
        },
    }
}

pub(super) fn outside(lab: &Lab) -> Option<OutsideReport> {
    let underlay = lab.underlay.as_ref()?;
    let pool6 = underlay.load_balancer_pool6;
    Some(OutsideReport {
        netns: underlay.outside.namespace.clone(),
        ip: underlay.outside.ip,
        ip6: underlay.outside.ip6,
        load_balancer_pool: underlay.load_balancer_pool.to_string(),
        load_balancer_pool6: pool6.map(|pool| pool.to_string()),
    })
}

pub(super) fn pod_report(now: &PodNow) -> PodReport {
    let PodNow {
        pod,
        ready,
        pid,
        containers,
    } = now;
    let labels = pod.spec.labels.iter();
    PodReport {
        name: pod.spec.name.to_string(),
        node: pod.node.to_string(),
        ip: pod.ip,
        ip6: pod.ip6,
        mac: address::mac_text(pod.mac()),
        labels: labels
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect(),
        ready: *ready,
        netns: pod.namespace.clone(),
        interface: pod.interface.clone(),
        pid: *pid,
        containers: containers.clone(),
        system: pod.system,
    }
}
