//! A lab in words.

use labkit::text::count;

use super::Graph;

impl Graph {
    /// One fact a line, for screen readers and for pasting.
    pub fn sentences(&self) -> String {
        let mut lines = vec![format!(
            "The lab {} has {}.",
            self.lab,
            count(self.nodes.len(), "node")
        )];
        if let Some(underlay) = &self.underlay {
            lines.push(format!(
                "The bridge {}, {}, joins the nodes.",
                underlay.name, underlay.address
            ));
        }
        if let Some(end) = &self.outside {
            lines.push(format!(
                "Outside, {}, is at the port {} of that bridge.",
                end.ip, end.interface
            ));
        }
        for node in &self.nodes {
            if let Some(end) = &node.uplink {
                lines.push(format!(
                    "The node {}, {}, is at the port {} of that bridge.",
                    node.name, end.ip, end.interface
                ));
            }
            lines.push(format!(
                "The node {} has the bridge {}, {}, with {}.",
                node.name,
                node.bridge.name,
                node.bridge.address,
                count(node.pods.len(), "pod")
            ));
            lines.extend(node.pods.iter().map(|pod| {
                format!(
                    "The pod {}, {}, is at the port {} of {} of the node {}, with its {}.",
                    pod.name, pod.ip, pod.interface, node.bridge.name, node.name, pod.own
                )
            }));
        }
        lines.push(format!(
            "The virtual IPs are those of {}; no interface has them.",
            self.service_cidr
        ));
        lines.join("\n") + "\n"
    }
}
