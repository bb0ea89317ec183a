//! The flags that say how this node proxies. Where kube-proxy has the same flag, it has the same name.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::config::draft::Draft;
use crate::config::{Compat, Given, Place};

const HEADING: &str = "How this node proxies (flags win over the file)";

/// How this node proxies.
#[derive(Debug, Clone, Default, Args)]
pub struct NodeArgs {
    /// kube-proxy's own configuration: a KubeProxyConfiguration in YAML or JSON, or the ConfigMap
    /// that holds it
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Whose rules to write: those of kube-proxy 1.30, or of the newest
    #[arg(long, help_heading = HEADING, value_enum, default_value_t)]
    pub compat: Compat,
    /// The Node we are [default: the registry's only one, else the host name]
    #[arg(long, help_heading = HEADING, visible_alias = "hostname-override", value_name = "NAME")]
    pub node: Option<String>,
    /// The pods' network, one for each IP family: traffic to cluster IPs from elsewhere is masqueraded
    #[arg(long, help_heading = HEADING, value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Option<String>,
    /// How pods' traffic is told from other traffic: ClusterCIDR, NodeCIDR, BridgeInterface,
    /// InterfaceNamePrefix
    #[arg(long, help_heading = HEADING, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// The pods' bridge, for BridgeInterface
    #[arg(long, help_heading = HEADING, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// How the names of pods' interfaces begin, for InterfaceNamePrefix
    #[arg(long, help_heading = HEADING, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Masquerade all traffic to cluster IPs
    #[arg(long, help_heading = HEADING)]
    pub masquerade_all: bool,
    /// Which bit of the packet mark says "masquerade"
    #[arg(long, help_heading = HEADING, value_name = "0-31", allow_negative_numbers = true)]
    pub iptables_masquerade_bit: Option<i64>,
    /// Whether node ports answer on 127.0.0.1 [default: true]
    #[arg(long, help_heading = HEADING, value_name = "BOOL", action = ArgAction::Set)]
    pub iptables_localhost_nodeports: Option<bool>,
    /// Where node ports answer [default: on every address of the node]
    #[arg(long, help_heading = HEADING, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Feature gates, such as TopologyAwareHints=false
    #[arg(long, help_heading = HEADING, value_name = "GATE=BOOL", value_delimiter = ',', value_parser = gate)]
    pub feature_gates: Vec<(String, bool)>,
    /// The addresses of the node's interfaces, for --nodeport-addresses [default: those of this host]
    #[arg(long, help_heading = HEADING, value_name = "IP", value_delimiter = ',')]
    pub node_addresses: Vec<IpAddr>,
}

fn gate(text: &str) -> Result<(String, bool), String> {
    let gate = text
        .split_once('=')
        .and_then(|(name, value)| Some((name.to_string(), value.parse().ok()?)));
    gate.ok_or_else(|| "expected a name and true or false, such as TopologyAwareHints=false".to_string())
}

impl NodeArgs {
    /// The same for one node of several.
    #[must_use]
    pub fn named(&self, node: &str) -> Self {
        Self {
            node: Some(node.to_string()),
            ..self.clone()
        }
    }

    /// Writes what the flags say over what the file said.
    pub fn write_over(&self, draft: &mut Draft) {
        let text = |field: &mut Option<Given<String>>, value: &Option<String>, flag| {
            if let Some(value) = value {
                *field = Some(given(value.clone(), flag));
            }
        };
        text(&mut draft.hostname_override, &self.node, "--node");
        text(&mut draft.cluster_cidr, &self.cluster_cidr, "--cluster-cidr");
        text(
            &mut draft.detect_local_mode,
            &self.detect_local_mode,
            "--detect-local-mode",
        );
        text(
            &mut draft.bridge_interface,
            &self.pod_bridge_interface,
            "--pod-bridge-interface",
        );
        let prefix = &self.pod_interface_name_prefix;
        text(
            &mut draft.interface_name_prefix,
            prefix,
            "--pod-interface-name-prefix",
        );
        if self.masquerade_all {
            draft.masquerade_all = Some(given(true, "--masquerade-all"));
        }
        if let Some(bit) = self.iptables_masquerade_bit {
            draft.masquerade_bit = Some(given(bit, "--iptables-masquerade-bit"));
        }
        if let Some(on) = self.iptables_localhost_nodeports {
            draft.localhost_node_ports = Some(given(on, "--iptables-localhost-nodeports"));
        }
        if !self.nodeport_addresses.is_empty() {
            let addresses = self.nodeport_addresses.iter().cloned();
            draft.node_port_addresses = addresses
                .map(|address| given(address, "--nodeport-addresses"))
                .collect();
        }
        let gates = self.feature_gates.iter().cloned();
        draft
            .feature_gates
            .extend(gates.map(|(name, on)| (name, given(on, "--feature-gates"))));
    }
}

fn given<T>(value: T, flag: &'static str) -> Given<T> {
    Given {
        value,
        place: Place::Flag(flag),
    }
}
