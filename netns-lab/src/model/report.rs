//! What `up` and `status` show: one data structure, as a table or as JSON.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use labkit::table::Table;
use labkit::text::{count, printable};
use serde::Serialize;

use super::address;
use super::ledger::{Lab, Pod};
use super::name::DEFAULT_LAB;

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
    /// What `up` would do to bring back what is gone, in sentences.
    pub repairs: Vec<String>,
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
    /// Whether its namespace, its link and its routes are there and its app, if it has one, runs.
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
        repairs: Vec<String>,
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
            repairs,
        }
    }

    /// The lab for people.
    pub fn table(&self) -> String {
        let ready = self.pods.iter().filter(|pod| pod.ready).count();
        let pod_cidr = self.nodes.first().map_or("", |node| node.pod_cidr.as_str());
        let pods = count(self.pods.len(), "pod");
        let mut text = format!(
            "{}{}\n",
            wrapped(&format!(
                "lab {}: {pods}, {ready} ready, on the bridge {}",
                self.lab, self.bridge
            )),
            wrapped(&format!(
                "pods {pod_cidr}, Services {}, registry {}",
                self.service_cidr, self.registry
            )),
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
        let problems = self.problems.iter().map(|problem| format!("warning: {problem}"));
        let notes: Vec<_> = problems.chain(self.repair_note()).collect();
        if !notes.is_empty() {
            text.push('\n');
            text.extend(notes.iter().map(|note| wrapped(note)));
        }
        text
    }

    /// The first few of the repairs, and how many more there are.
    fn repair_note(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let mut shown = self.repairs.iter().take(SHOWN).cloned().collect::<Vec<_>>();
        if shown.is_empty() {
            return None;
        }
        if let more @ 1.. = self.repairs.len().saturating_sub(SHOWN) {
            shown.push(format!("and {}", count(more, "more step")));
        }
        let named = if self.lab == DEFAULT_LAB {
            String::new()
        } else {
            format!(" --name {}", self.lab)
        };
        Some(format!(
            "`netns-lab up{named}` would repair: {}",
            shown.join("; ")
        ))
    }
}

/// A line, broken at spaces so that it fits a terminal; only a longer word stays whole.
pub(crate) fn wrapped(text: &str) -> String {
    const WIDTH: usize = 80;
    let text = printable(text);
    let (mut lines, mut width) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if width > 0 && width + 1 + length > WIDTH {
            lines.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += length;
    }
    lines + "\n"
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
            node: Label::default_node(&Label::default_lab()),
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
            (1..6).map(|number| format!("add the pod web-{number}")).collect(),
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
