//! `/configz`: the configuration in force, in kube-proxy's words. It shows its inner types, whose
//! fields begin with capitals.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{DetectLocal, NodePortAddress, Settings};

/// What is answered: the fields that are heeded.
pub fn configz(settings: &Settings) -> String {
    let (mode, cidr, bridge, prefix) = detection(&settings.detect_local);
    let conntrack = &settings.conntrack;
    let optional = |time: Option<Duration>| go(time.unwrap_or_default());
    json!({"kubeproxy.config.k8s.io": {
        "FeatureGates": gates(settings),
        "BindAddress": settings.bind_address,
        "HealthzBindAddress": settings.healthz_bind_address,
        "MetricsBindAddress": settings.metrics_bind_address,
        "HostnameOverride": settings.node_name.as_deref().unwrap_or_default(),
        "ClusterCIDR": cidr,
        "IPTables": {
            "MasqueradeBit": settings.masquerade_bit,
            "MasqueradeAll": settings.masquerade_all,
            "LocalhostNodePorts": settings.localhost_node_ports,
            "SyncPeriod": go(settings.sync_period),
            "MinSyncPeriod": go(settings.min_sync_period),
        },
        "Mode": "iptables",
        "Conntrack": {
            "MaxPerCore": conntrack.max_per_core,
            "Min": conntrack.min,
            "TCPEstablishedTimeout": optional(conntrack.tcp_established_timeout),
            "TCPCloseWaitTimeout": optional(conntrack.tcp_close_wait_timeout),
            "TCPBeLiberal": conntrack.tcp_be_liberal,
            "UDPTimeout": optional(conntrack.udp_timeout),
            "UDPStreamTimeout": optional(conntrack.udp_stream_timeout),
        },
        "NodePortAddresses": node_port_addresses(&settings.node_port_addresses),
        "DetectLocalMode": mode,
        "DetectLocal": {"BridgeInterface": bridge, "InterfaceNamePrefix": prefix},
    }})
    .to_string()
}

/// The mode, the pods' networks, the bridge, the beginning of the interfaces' names.
fn detection(detect_local: &DetectLocal) -> (&'static str, String, &str, &str) {
    match detect_local {
        DetectLocal::ClusterCidr(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            ("ClusterCIDR", networks.join(","), "", "")
        }
        DetectLocal::NodeCidr => ("NodeCIDR", String::new(), "", ""),
        DetectLocal::BridgeInterface(name) => ("BridgeInterface", String::new(), name, ""),
        DetectLocal::InterfaceNamePrefix(prefix) => ("InterfaceNamePrefix", String::new(), "", prefix),
    }
}

fn gates(settings: &Settings) -> Value {
    let gates = &settings.gates;
    json!({
        "LoadBalancerIPMode": gates.load_balancer_ip_mode,
        "PreferSameTrafficDistribution": gates.prefer_same_node,
        "ServiceTrafficDistribution": gates.service_traffic_distribution,
        "TopologyAwareHints": gates.topology_aware_hints,
    })
}

fn node_port_addresses(addresses: &[NodePortAddress]) -> Vec<String> {
    let word = |address: &NodePortAddress| match address {
        NodePortAddress::Network(network) => network.to_string(),
        NodePortAddress::Primary => "primary".to_string(),
    };
    addresses.iter().map(word).collect()
}

/// A duration as Go writes it: `24h0m0s`, `1.5s`, `250ms`.
fn go(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if time.is_zero() || seconds >= 1.0 {
        let (minutes, hours) = (time.as_secs() / 60 % 60, time.as_secs() / 3600);
        // Exact to the nanosecond: what is shown is the shortest text that means this number.
        let rest = Duration::new(time.as_secs() % 60, time.subsec_nanos()).as_secs_f64();
        return match (hours, minutes) {
            (0, 0) => format!("{rest}s"),
            (0, _) => format!("{minutes}m{rest}s"),
            _ => format!("{hours}h{minutes}m{rest}s"),
        };
    }
    let nanoseconds = f64::from(time.subsec_nanos());
    match time.subsec_nanos() {
        1_000_000.. => format!("{}ms", nanoseconds / 1e6),
        1_000.. => format!("{}\u{b5}s", nanoseconds / 1e3),
        _ => format!("{nanoseconds}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Compat;

    #[test]
    fn durations_are_those_of_go() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(go(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_defaults_are_told_by_kube_proxys_names() {
        let told: Value = serde_json::from_str(&configz(&Settings::defaults(Compat::V1_30))).unwrap();
        let told = &told["kubeproxy.config.k8s.io"];
        assert_eq!(told["IPTables"]["SyncPeriod"], "30s");
        assert_eq!(told["HealthzBindAddress"], "0.0.0.0:10256");
        assert_eq!(told["Conntrack"]["TCPEstablishedTimeout"], "24h0m0s");
        assert_eq!(told["DetectLocalMode"], "ClusterCIDR");
    }
}
