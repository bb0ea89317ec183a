//! What a lab is made of, drawn: nodes, bridges, cables, pods.

mod sentences;
mod svg;

use serde::Serialize;

use super::ledger::{Lab, Pod};
use super::node::{OWN_END, UNDERLAY_BRIDGE};

/// A lab as boxes and cables, in an order that only changes with the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Graph {
    /// The version of this shape.
    pub schema: u32,
    /// What this is.
    pub kind: &'static str,
    /// The lab.
    pub lab: String,
    /// The range of virtual IPs, which are on no interface.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// What joins the nodes, where they are namespaces of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay: Option<Switch>,
    /// The host outside of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<End>,
    /// The nodes.
    pub nodes: Vec<NodeBox>,
}

/// A bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Switch {
    /// Its name.
    pub name: String,
    /// Its address, or the range of those who are on it.
    pub address: String,
}

/// What is at the end of a cable, and the cable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// The bridge's end of the cable.
    pub interface: String,
    /// Its own end.
    pub own: &'static str,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeBox {
    /// Its name.
    pub name: String,
    /// Its cable to the underlay; none where it is the machine itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<End>,
    /// Its bridge.
    pub bridge: Switch,
    /// The pods on that.
    pub pods: Vec<End>,
}

/// How a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// A tree of lines.
    #[default]
    Text,
    /// For Markdown pages.
    Mermaid,
    /// For Graphviz.
    Dot,
    /// A picture.
    Svg,
}

impl Graph {
    /// The graph of a lab with these pods.
    pub fn of<'a>(lab: &Lab, pods: impl Iterator<Item = &'a Pod>) -> Self {
        let pods: Vec<_> = pods.collect();
        let nodes = lab.nodes.iter().map(|node| {
            let mut here: Vec<_> = pods.iter().filter(|pod| pod.node == *node.name()).collect();
            here.sort_by_key(|pod| pod.ip);
            NodeBox {
                name: node.name().to_string(),
                uplink: node.machine.as_ref().map(|machine| End {
                    name: node.name().to_string(),
                    ip: machine.ip.to_string(),
                    interface: plain(&machine.interface),
                    own: OWN_END,
                }),
                bridge: Switch {
                    name: plain(&node.bridge),
                    address: node.bridge_address().to_string(),
                },
                pods: here
                    .into_iter()
                    .map(|pod| End {
                        name: pod.spec.name.to_string(),
                        ip: pod.ip.to_string(),
                        interface: plain(&pod.interface),
                        own: OWN_END,
                    })
                    .collect(),
            }
        });
        Self {
            schema: 1,
            kind: "lab-graph",
            lab: lab.name.to_string(),
            service_cidr: lab.service_cidr.to_string(),
            underlay: lab.underlay.as_ref().map(|underlay| Switch {
                name: UNDERLAY_BRIDGE.to_string(),
                address: underlay.cidr.to_string(),
            }),
            outside: lab.underlay.as_ref().map(|underlay| End {
                name: "outside".to_string(),
                ip: underlay.outside.ip.to_string(),
                interface: plain(&underlay.outside.interface),
                own: OWN_END,
            }),
            nodes: nodes.collect(),
        }
    }

    /// The graph as text of this format.
    pub fn draw(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Mermaid => self.mermaid(),
            Format::Dot => self.dot(),
            Format::Svg => svg::draw(self),
        }
    }

    fn title(&self) -> String {
        format!("lab {}", self.lab)
    }

    fn ghost(&self) -> String {
        format!("{}: virtual IPs, on no interface", self.service_cidr)
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.title());
        if let Some(underlay) = &self.underlay {
            text += &format!("bridge {} {}\n", underlay.name, underlay.address);
        }
        if let Some(end) = &self.outside {
            text += &format!("  {} == {} {} {}\n", end.interface, end.own, end.name, end.ip);
        }
        for node in &self.nodes {
            text += &match &node.uplink {
                Some(end) => format!(
                    "  {} == {} node {} {}\n",
                    end.interface, end.own, node.name, end.ip
                ),
                None => format!("node {}\n", node.name),
            };
            let margin = if node.uplink.is_some() { "    " } else { "  " };
            text += &format!("{margin}bridge {} {}\n", node.bridge.name, node.bridge.address);
            for pod in &node.pods {
                text += &format!(
                    "{margin}  {} == {} pod {} {}\n",
                    pod.interface, pod.own, pod.name, pod.ip
                );
            }
        }
        text + &format!("{}\n", self.ghost())
    }

    fn mermaid(&self) -> String {
        let mut text = format!("---\ntitle: {}\n---\nflowchart TB\n", self.title());
        if let Some(underlay) = &self.underlay {
            text += &format!(
                "  underlay{{{{\"{}<br/>{}\"}}}}\n",
                underlay.name, underlay.address
            );
        }
        if let Some(end) = &self.outside {
            text += &format!(
                "  underlay ---|{}| outside[\"{}<br/>{}\"]\n",
                end.interface, end.name, end.ip
            );
        }
        for (n, node) in self.nodes.iter().enumerate() {
            text += &format!("  subgraph n{n} [\"node {}\"]\n", node.name);
            text += &format!(
                "    b{n}{{{{\"{}<br/>{}\"}}}}\n",
                node.bridge.name, node.bridge.address
            );
            for (p, pod) in node.pods.iter().enumerate() {
                text += &format!(
                    "    b{n} ---|{}| p{n}_{p}[\"{}<br/>{}\"]\n",
                    pod.interface, pod.name, pod.ip
                );
            }
            text += "  end\n";
            if let Some(end) = &node.uplink {
                text += &format!("  underlay ---|{}| n{n}\n", end.interface);
            }
        }
        text += &format!("  vip[\"{}\"]\n  style vip stroke-dasharray: 4 4\n", self.ghost());
        text
    }

    fn dot(&self) -> String {
        let mut text = format!(
            "graph lab {{\n  label=\"{}\"; labelloc=t; bgcolor=white; compound=true;\n  \
             node [shape=box, fontname=\"sans-serif\"]; edge [fontname=\"sans-serif\", fontsize=10];\n",
            self.title()
        );
        if let Some(underlay) = &self.underlay {
            text += &format!(
                "  underlay [shape=hexagon, label=\"{}\\n{}\"];\n",
                underlay.name, underlay.address
            );
        }
        if let Some(end) = &self.outside {
            text += &format!("  outside [label=\"{}\\n{}\"];\n", end.name, end.ip);
            text += &format!("  underlay -- outside [label=\"{}\"];\n", end.interface);
        }
        for (n, node) in self.nodes.iter().enumerate() {
            text += &format!("  subgraph cluster_n{n} {{\n    label=\"node {}\";\n", node.name);
            let bridge = &node.bridge;
            text += &format!(
                "    b{n} [shape=hexagon, label=\"{}\\n{}\"];\n",
                bridge.name, bridge.address
            );
            for (p, pod) in node.pods.iter().enumerate() {
                text += &format!("    p{n}_{p} [label=\"{}\\n{}\"];\n", pod.name, pod.ip);
                text += &format!("    b{n} -- p{n}_{p} [label=\"{}\"];\n", pod.interface);
            }
            text += "  }\n";
            if let Some(end) = &node.uplink {
                text += &format!(
                    "  underlay -- b{n} [label=\"{}\", lhead=cluster_n{n}];\n",
                    end.interface
                );
            }
        }
        text + &format!("  vip [style=dashed, label=\"{}\"];\n}}\n", self.ghost())
    }
}

/// A name from a file, without what means something in one of the formats.
fn plain(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.chars().map(|c| if good(c) { c } else { '?' }).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
