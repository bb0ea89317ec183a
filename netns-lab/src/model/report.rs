//! What `up` and `status` show: one data structure, as a table or as JSON.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use labkit::table::Table;
use labkit::text::count;
use serde::Serialize;

use super::address;
use super::ledger::{Lab, Pod};

/// A lab as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabReport {
    /// Its name.
    pub lab: String,
    /// Its nodes.
    pub nodes: Vec<NodeReport>,
    /// The range of virtual IPs.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// The bridge.
    pub bridge: String,
    /// Where its registry is.
    pub registry: String,
    /// Its pods.
    pub pods: Vec<PodReport>,
    /// Why the lab is not as it was made, if it is not.
    pub problems: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// The range of its pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Its address on the bridge.
    pub ip: Ipv4Addr,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodReport {
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its MAC.
    pub mac: String,
    /// The labels that Services select by.
    pub labels: BTreeMap<String, String>,
    /// Whether its namespace is there and its app, if it has one, runs.
    pub ready: bool,
    /// Its name under `/run/netns`.
    pub netns: String,
    /// The node's end of its veth pair.
    pub interface: String,
    /// The process of its app.
    pub pid: Option<i32>,
}

impl LabReport {
    /// The report of a lab; `state` says of each pod whether it is ready, and its process.
    pub fn new(
        lab: &Lab,
        registry: String,
        pods: &[(Pod, bool, Option<i32>)],
        problems: Vec<String>,
    ) -> Self {
        Self {
            lab: lab.name.to_string(),
            nodes: vec![NodeReport {
                name: lab.node.to_string(),
                pod_cidr: lab.pod_cidr.to_string(),
                ip: address::bridge_address(lab.pod_cidr),
            }],
            service_cidr: lab.service_cidr.to_string(),
            bridge: lab.bridge.clone(),
            registry,
            pods: pods
                .iter()
                .map(|(pod, ready, pid)| pod_report(lab, pod, *ready, *pid))
                .collect(),
            problems,
        }
    }

    /// The lab for people.
    pub fn table(&self) -> String {
        let ready = self.pods.iter().filter(|pod| pod.ready).count();
        let mut text = format!(
            "lab {}: {}, {ready} ready, on the bridge {}\npods {}, Services {}, registry {}\n\n",
            self.lab,
            count(self.pods.len(), "pod"),
            self.bridge,
            self.nodes.first().map_or("", |node| node.pod_cidr.as_str()),
            self.service_cidr,
            self.registry
        );
        let mut table = Table::new(&["POD", "IP", "READY", "NETNS", "INTERFACE", "LABELS"]);
        for pod in &self.pods {
            let labels: Vec<_> = pod
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            table.row([
                pod.name.as_str(),
                &pod.ip.to_string(),
                if pod.ready { "yes" } else { "no" },
                &pod.netns,
                &pod.interface,
                &labels.join(","),
            ]);
        }
        text.push_str(&table.render());
        for problem in &self.problems {
            text.push_str(&format!("\nwarning: {problem}"));
        }
        if !self.problems.is_empty() {
            text.push('\n');
        }
        text
    }
}

fn pod_report(lab: &Lab, pod: &Pod, ready: bool, pid: Option<i32>) -> PodReport {
    let labels = pod.spec.labels.iter();
    PodReport {
        name: pod.spec.name.to_string(),
        node: lab.node.to_string(),
        ip: pod.ip,
        mac: address::mac_text(pod.mac()),
        labels: labels
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect(),
        ready,
        netns: pod.namespace.clone(),
        interface: pod.interface.clone(),
        pid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ledger::lay_out;
    use crate::model::name::Label;
    use crate::model::topology::Topology;

    fn report() -> LabReport {
        let lab = Lab {
            name: Label::default_lab(),
            node: Label::default_node(),
            pod_cidr: "10.244.0.0/24".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            bridge: "cni0".into(),
        };
        let pods = lay_out(&lab, &Topology::web_pods(2), None).unwrap();
        let pods: Vec<_> = pods
            .into_iter()
            .zip([true, false])
            .map(|(pod, ready)| (pod, ready, ready.then_some(42)))
            .collect();
        LabReport::new(
            &lab,
            "/run/netns-lab/lab/registry".into(),
            &pods,
            vec!["the agent does not run: `netns-lab up`".into()],
        )
    }

    #[test]
    fn as_a_table() {
        insta::assert_snapshot!(report().table());
    }

    #[test]
    fn as_json() {
        insta::assert_json_snapshot!(report());
    }
}
