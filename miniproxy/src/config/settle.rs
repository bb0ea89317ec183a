//! A draft → settings: kube-proxy's defaults for what was not said, and its refusals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::draft::Draft;
use super::{
    Compat, ConfigProblem, Conntrack, DetectLocal, Gates, Given, NodePortAddress, Settings, duration,
};
use crate::address::{parse_ip, parse_network};

/// The port of `/healthz` where none is given.
pub const HEALTHZ_PORT: u16 = 10_256;
/// The port of `/metrics` where none is given.
pub const METRICS_PORT: u16 = 10_249;

/// The feature gates that change rules; a note says of every other that it changes none.
pub(super) const RULE_GATES: [&str; 6] = [
    "AllAlpha",
    "AllBeta",
    "TopologyAwareHints",
    "ServiceTrafficDistribution",
    "LoadBalancerIPMode",
    "PreferSameTrafficDistribution",
];

/// Interface names are shorter than the kernel's 16 bytes.
const INTERFACE_NAME: usize = 15;

impl Draft {
    /// Judges everything that was given.
    ///
    /// # Errors
    /// Every value that kube-proxy refuses, and what this program cannot do.
    pub fn settle(&self, compat: Compat) -> Result<Settings, Vec<ConfigProblem>> {
        let mut judge = Judge {
            compat,
            problems: Vec::new(),
        };
        let settings = judge.settings(self);
        if judge.problems.is_empty() {
            Ok(settings)
        } else {
            Err(judge.problems)
        }
    }
}

/// Collects what is wrong while it reads on.
struct Judge {
    compat: Compat,
    problems: Vec<ConfigProblem>,
}

impl Judge {
    fn settings(&mut self, draft: &Draft) -> Settings {
        let defaults = Settings::defaults(self.compat);
        self.mode(draft);
        self.refuse_snat(draft);
        let bind_address = self.ip("bindAddress", draft.bind_address.as_ref(), defaults.bind_address);
        let (sync_period, min_sync_period) = self.periods(draft, &defaults);
        let everywhere: IpAddr = if bind_address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let here: IpAddr = if bind_address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        };
        let healthz = draft.healthz_bind_address.as_ref();
        let metrics = draft.metrics_bind_address.as_ref();
        Settings {
            compat: self.compat,
            node_name: self.node_name(draft.hostname_override.as_ref()),
            bind_address,
            healthz_bind_address: self.listen("healthzBindAddress", healthz, (everywhere, HEALTHZ_PORT)),
            metrics_bind_address: self.listen("metricsBindAddress", metrics, (here, METRICS_PORT)),
            detect_local: self.detect_local(draft),
            masquerade_all: switch(draft.masquerade_all.as_ref(), defaults.masquerade_all),
            masquerade_bit: self.masquerade_bit(draft, defaults.masquerade_bit),
            localhost_node_ports: switch(draft.localhost_node_ports.as_ref(), defaults.localhost_node_ports),
            node_port_addresses: self.node_port_addresses(draft),
            sync_period,
            min_sync_period,
            conntrack: self.conntrack(draft, &defaults.conntrack),
            gates: self.gates(draft),
        }
    }

    fn refuse<T>(&mut self, given: &Given<T>, field: &str, what: impl Into<String>, expected: &str) {
        self.problems.push(ConfigProblem {
            place: given.place.clone(),
            field: field.to_string(),
            what: what.into(),
            expected: expected.to_string(),
        });
    }

    fn mode(&mut self, draft: &Draft) {
        let Some(mode) = draft.mode.as_ref().filter(|mode| mode.value != "iptables") else {
            return;
        };
        let what = match mode.value.as_str() {
            "ipvs" | "nftables" => format!("miniproxy has no {} mode", mode.value),
            "userspace" => "kube-proxy has had no userspace mode since 1.26".to_string(),
            "kernelspace" => "kernelspace is for Windows".to_string(),
            other => format!("{other:?}"),
        };
        self.refuse(mode, "mode", what, "iptables, or nothing");
    }

    fn refuse_snat(&mut self, draft: &Draft) {
        if let Some(given) = draft.snat_node_internal_ip.as_ref().filter(|given| given.value) {
            let what = "miniproxy cannot choose the address that it masquerades with";
            self.refuse(given, "iptables.snatNodeInternalIP", what, "false, or nothing");
        }
    }

    fn node_name(&mut self, given: Option<&Given<String>>) -> Option<String> {
        let given = given?;
        let name = given.value.trim().to_lowercase();
        if name.is_empty() {
            self.refuse(given, "hostnameOverride", "only blanks", "the name of a Node");
        }
        Some(name)
    }

    fn ip(&mut self, field: &str, given: Option<&Given<String>>, default: IpAddr) -> IpAddr {
        let Some(given) = given else {
            return default;
        };
        parse_ip(&given.value).unwrap_or_else(|| {
            self.refuse(given, field, format!("{:?}", given.value), "an IP address");
            default
        })
    }

    /// `address:port`, or an address alone.
    fn listen(&mut self, field: &str, given: Option<&Given<String>>, default: (IpAddr, u16)) -> SocketAddr {
        let default_address = SocketAddr::from(default);
        let Some(given) = given else {
            return default_address;
        };
        let text = given.value.as_str();
        if let Some(ip) = parse_ip(text.trim_start_matches('[').trim_end_matches(']')) {
            return SocketAddr::new(ip, default.1);
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => address,
            _ => {
                let expected = "an address and a port, such as 0.0.0.0:10256 or [::]:10256";
                self.refuse(given, field, format!("{text:?}"), expected);
                default_address
            }
        }
    }

    fn detect_local(&mut self, draft: &Draft) -> DetectLocal {
        let networks = self.cluster_cidr(draft);
        let bridge = self.interface(
            "detectLocal.bridgeInterface",
            draft.bridge_interface.as_ref(),
            INTERFACE_NAME,
        );
        let prefix = draft.interface_name_prefix.as_ref();
        // One place is for the + that stands for the rest of the name.
        let prefix = self.interface("detectLocal.interfaceNamePrefix", prefix, INTERFACE_NAME - 1);
        let Some(mode) = &draft.detect_local_mode else {
            return DetectLocal::ClusterCidr(networks);
        };
        match (mode.value.as_str(), bridge, prefix) {
            ("ClusterCIDR", ..) => DetectLocal::ClusterCidr(networks),
            ("NodeCIDR", ..) => DetectLocal::NodeCidr,
            ("BridgeInterface", Some(name), _) => DetectLocal::BridgeInterface(name),
            ("InterfaceNamePrefix", _, Some(prefix)) => DetectLocal::InterfaceNamePrefix(prefix),
            ("BridgeInterface", None, _) => {
                self.refuse(
                    mode,
                    "detectLocal.bridgeInterface",
                    "no name",
                    "the name of the pods' bridge",
                );
                DetectLocal::ClusterCidr(networks)
            }
            ("InterfaceNamePrefix", _, None) => {
                let expected = "how the names of the pods' interfaces begin";
                self.refuse(mode, "detectLocal.interfaceNamePrefix", "no name", expected);
                DetectLocal::ClusterCidr(networks)
            }
            (other, ..) => {
                let expected = "ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
                self.refuse(mode, "detectLocalMode", format!("{other:?}"), expected);
                DetectLocal::ClusterCidr(networks)
            }
        }
    }

    /// The name becomes part of a rule: only what can be a name may pass.
    fn interface(&mut self, field: &str, given: Option<&Given<String>>, longest: usize) -> Option<String> {
        let given = given?;
        let name = given.value.as_str();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
        if name.len() > longest || name.starts_with('-') || !name.bytes().all(plain) {
            let expected = format!("at most {longest} of A-Z, a-z, 0-9 and . _ - @ :");
            self.refuse(given, field, format!("{name:?}"), &expected);
        }
        Some(name.to_string())
    }

    fn cluster_cidr(&mut self, draft: &Draft) -> Vec<IpNet> {
        let Some(given) = &draft.cluster_cidr else {
            return Vec::new();
        };
        let read: Option<Vec<IpNet>> = given.value.split(',').map(parse_network).collect();
        match read.as_deref() {
            // "From elsewhere" would be from nowhere, and iptables-nft takes no such rule.
            Some(networks) if networks.iter().any(|network| network.prefix_len() == 0) => {
                let what = format!("{:?} holds every address", given.value);
                self.refuse(given, "clusterCIDR", what, "the pods' networks alone");
            }
            Some([_]) => {}
            Some([one, other]) if one.addr().is_ipv4() != other.addr().is_ipv4() => {}
            _ => {
                let expected =
                    "one network such as 10.244.0.0/16, or one of each IP family with a comma between";
                self.refuse(given, "clusterCIDR", format!("{:?}", given.value), expected);
            }
        }
        read.unwrap_or_default()
    }

    fn masquerade_bit(&mut self, draft: &Draft, default: u8) -> u8 {
        let Some(given) = &draft.masquerade_bit else {
            return default;
        };
        match u8::try_from(given.value) {
            Ok(bit) if bit < 32 => bit,
            _ => {
                self.refuse(
                    given,
                    "iptables.masqueradeBit",
                    given.value.to_string(),
                    "0 to 31",
                );
                default
            }
        }
    }

    fn node_port_addresses(&mut self, draft: &Draft) -> Vec<NodePortAddress> {
        let mut addresses = Vec::new();
        for (index, given) in draft.node_port_addresses.iter().enumerate() {
            let text = given.value.as_str();
            let words = (self.compat == Compat::Latest).then(|| word(text)).flatten();
            if let Some(meaning) = words.or_else(|| {
                let network = parse_network(text)?;
                Some(vec![NodePortAddress::Network(network)])
            }) {
                addresses.extend(meaning);
                continue;
            }
            let expected = match self.compat {
                Compat::V1_30 if word(text).is_some() => {
                    "a network such as 192.0.2.0/24; newer kube-proxies take this word, and so does --compat latest"
                }
                Compat::V1_30 => "a network such as 192.0.2.0/24 (a single address is a /32)",
                Compat::Latest => "a network such as 192.0.2.0/24, or primary, localhost or all",
            };
            self.refuse(
                given,
                &format!("nodePortAddresses[{index}]"),
                format!("{text:?}"),
                expected,
            );
        }
        addresses
    }

    fn periods(&mut self, draft: &Draft, defaults: &Settings) -> (Duration, Duration) {
        let sync = self.time(
            "iptables.syncPeriod",
            draft.sync_period.as_ref(),
            defaults.sync_period,
        );
        let least = self.time(
            "iptables.minSyncPeriod",
            draft.min_sync_period.as_ref(),
            defaults.min_sync_period,
        );
        if least > sync
            && let Some(given) = draft.min_sync_period.as_ref().or(draft.sync_period.as_ref())
        {
            let what = format!("{least:?} is longer than syncPeriod, which is {sync:?}");
            self.refuse(given, "iptables.minSyncPeriod", what, "at most syncPeriod");
        }
        (sync, least)
    }

    /// A duration in which 0 means the default, as in kube-proxy's file.
    fn time(&mut self, field: &str, given: Option<&Given<String>>, default: Duration) -> Duration {
        self.timeout(field, given, Some(default)).unwrap_or(default)
    }

    /// A duration in which 0 means "leave it alone".
    fn timeout(
        &mut self,
        field: &str,
        given: Option<&Given<String>>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        let Some(given) = given else {
            return default;
        };
        let Some(length) = duration::parse(&given.value).and_then(|length| u64::try_from(length).ok()) else {
            let expected = "a duration such as 30s, 1m30s or 100ms, not negative";
            self.refuse(given, field, format!("{:?}", given.value), expected);
            return default;
        };
        (length != 0).then(|| Duration::from_nanos(length))
    }

    fn conntrack(&mut self, draft: &Draft, defaults: &Conntrack) -> Conntrack {
        Conntrack {
            max_per_core: self.size(
                "conntrack.maxPerCore",
                draft.max_per_core.as_ref(),
                defaults.max_per_core,
            ),
            min: self.size("conntrack.min", draft.conntrack_min.as_ref(), defaults.min),
            tcp_established_timeout: self.timeout(
                "conntrack.tcpEstablishedTimeout",
                draft.tcp_established_timeout.as_ref(),
                defaults.tcp_established_timeout,
            ),
            tcp_close_wait_timeout: self.timeout(
                "conntrack.tcpCloseWaitTimeout",
                draft.tcp_close_wait_timeout.as_ref(),
                defaults.tcp_close_wait_timeout,
            ),
            tcp_be_liberal: switch(draft.tcp_be_liberal.as_ref(), defaults.tcp_be_liberal),
            udp_timeout: self.timeout("conntrack.udpTimeout", draft.udp_timeout.as_ref(), None),
            udp_stream_timeout: self.timeout(
                "conntrack.udpStreamTimeout",
                draft.udp_stream_timeout.as_ref(),
                None,
            ),
        }
    }

    fn size(&mut self, field: &str, given: Option<&Given<i64>>, default: u32) -> u32 {
        let Some(given) = given else {
            return default;
        };
        // The API keeps it in 32 bits with a sign.
        let size = i32::try_from(given.value)
            .ok()
            .and_then(|size| u32::try_from(size).ok());
        size.unwrap_or_else(|| {
            self.refuse(given, field, given.value.to_string(), "0 to 2147483647");
            default
        })
    }

    /// Gates that no rule depends on are known to the reader's kube-proxy, not to us: they pass.
    fn gates(&mut self, draft: &Draft) -> Gates {
        let mut gates = Gates::defaults(self.compat);
        // The groups first, whatever the order of the file: a gate's own word is stronger.
        let of_group = |name: &str| {
            let found = draft.feature_gates.iter().find(|(known, _)| known == name);
            found.map(|(_, given)| given.value)
        };
        if self.compat == Compat::V1_30 {
            if let Some(on) = of_group("AllAlpha") {
                gates.service_traffic_distribution = on;
            }
            if let Some(on) = of_group("AllBeta") {
                gates.topology_aware_hints = on;
                gates.load_balancer_ip_mode = on;
            }
        }
        for (name, given) in &draft.feature_gates {
            let gate = match name.as_str() {
                "TopologyAwareHints" => &mut gates.topology_aware_hints,
                "ServiceTrafficDistribution" => &mut gates.service_traffic_distribution,
                "LoadBalancerIPMode" => &mut gates.load_balancer_ip_mode,
                "PreferSameTrafficDistribution" if self.compat == Compat::Latest => {
                    &mut gates.prefer_same_node
                }
                _ => continue,
            };
            if self.compat == Compat::Latest && !given.value {
                let what = "the newest kube-proxy has it always on";
                self.refuse(given, &format!("featureGates.{name}"), what, "true, or nothing");
            } else {
                *gate = given.value;
            }
        }
        gates
    }
}

/// The words that newer versions take among node port addresses.
fn word(text: &str) -> Option<Vec<NodePortAddress>> {
    let networks: &[&str] = match text {
        "primary" => return Some(vec![NodePortAddress::Primary]),
        "localhost" => &["127.0.0.0/8", "::1/128"],
        "all" => &["0.0.0.0/0", "::/0"],
        _ => return None,
    };
    let networks = networks.iter().filter_map(|network| parse_network(network));
    Some(networks.map(NodePortAddress::Network).collect())
}

fn switch(given: Option<&Given<bool>>, default: bool) -> bool {
    given.map_or(default, |given| given.value)
}
