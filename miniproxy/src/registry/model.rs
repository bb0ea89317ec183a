//! Objects → the service ports of one IP family, as kube-proxy sees them.
//!
//! Source: `pkg/proxy/servicechangetracker.go`, `serviceport.go` and `endpointslicecache.go` of
//! Kubernetes 1.30.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};
use labkit::xtables::Family;

use super::slice::{Slice, SliceEndpoint};
use super::{Registry, ServiceKey, name_of, namespace_of, select};
use crate::address::{parse_ip, parse_network};
use crate::config::Compat;
use crate::model::{
    Endpoint, Hints, Model, Protocol, ProxyConfig, ServicePort, ServicePortName, TrafficPolicy, host_port,
};
use crate::spread;

/// Objects with one of these labels are for another proxy, or for none.
const NOT_OURS: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];
const HINTS_ANNOTATIONS: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];
/// The API's default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

/// What one node's proxy of one family sees.
pub fn model(registry: &Registry, config: ProxyConfig) -> Model {
    let services: Vec<&ServiceKey> = registry.services.keys().collect();
    let ports = spread::map(&services, |service| service_ports(registry, service, &config));
    Model {
        ports: ports.into_iter().flatten().collect(),
        config,
    }
}

/// The ports of one Service; none when there is no such Service, or none for this proxy.
pub fn service_ports(registry: &Registry, key: &ServiceKey, config: &ProxyConfig) -> Vec<ServicePort> {
    let Some(service) = registry.services.get(key) else {
        return Vec::new();
    };
    if !is_ours(service.metadata.labels.as_ref()) {
        return Vec::new();
    }
    // Slices for another proxy only are slices all the same: Pods do not stand in for them.
    let slices = registry.slices.get(key).filter(|slices| !slices.is_empty());
    let own = slices.map(|slices| {
        let slices = slices.iter().map(|(_, slice)| slice.as_ref());
        slices.filter(|slice| slice.is_ours).collect()
    });
    let seen = Seen {
        registry,
        service,
        own,
        config,
    };
    let mut ports = seen.ports();
    ports.sort_by(|one, other| (&one.name.port, one.protocol).cmp(&(&other.name.port, other.protocol)));
    ports
}

/// The virtual IPs of a Service, without `None` and empty ones.
pub fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let mut all: Vec<String> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .cloned()
        .collect();
    all.retain(|ip| !ip.is_empty() && ip != "None");
    // Two spellings of one address are one address.
    for ip in &mut all {
        if let Some(address) = parse_ip(ip) {
            *ip = address.to_string();
        }
    }
    all.sort();
    all.dedup();
    all
}

/// Whether an object with these labels is for this proxy.
pub(super) fn is_ours(labels: Option<&BTreeMap<String, String>>) -> bool {
    !labels.is_some_and(|labels| NOT_OURS.iter().any(|label| labels.contains_key(*label)))
}

fn of_family<'a>(texts: impl Iterator<Item = &'a str>, family: Family) -> impl Iterator<Item = IpAddr> {
    texts
        .filter_map(parse_ip)
        .filter(move |ip| ip.is_ipv4() == (family == Family::V4))
}

/// One Service as one family's proxy sees it.
struct Seen<'a> {
    registry: &'a Registry,
    service: &'a Service,
    /// The slices for this proxy that name it; `None` when none names it at all.
    own: Option<Vec<&'a Slice>>,
    config: &'a ProxyConfig,
}

impl Seen<'_> {
    fn ports(&self) -> Vec<ServicePort> {
        let Some(spec) = &self.service.spec else {
            return Vec::new();
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            return Vec::new();
        }
        let Some(cluster_ip) = self.cluster_ip(spec) else {
            return Vec::new();
        };
        let pods = if self.own.is_none() {
            let pods = self.registry.pods.get(namespace_of(&self.service.metadata));
            let pods = pods.into_iter().flat_map(BTreeMap::values).map(Arc::as_ref);
            select::matching_pods(self.service, pods)
        } else {
            None
        };
        let mut ports = Vec::new();
        for api in spec.ports.iter().flatten() {
            let endpoints = match &pods {
                Some(pods) => select::endpoints(
                    self.service,
                    api,
                    pods,
                    self.config.family,
                    &self.config.node_name,
                ),
                None => self.slice_endpoints(api),
            };
            ports.extend(self.port(spec, api, cluster_ip, merged(endpoints, self.config.compat)));
        }
        ports
    }

    /// The cluster IP of this family: by the order of `ipFamilies`, else the one that fits.
    fn cluster_ip(&self, spec: &ServiceSpec) -> Option<IpAddr> {
        if matches!(spec.cluster_ip.as_deref(), None | Some("" | "None")) {
            return None;
        }
        let several = spec.cluster_ips.as_deref().filter(|several| !several.is_empty());
        let several = several.unwrap_or(spec.cluster_ip.as_slice());
        let families = spec.ip_families.as_deref().unwrap_or_default();
        let candidates = match families
            .iter()
            .position(|family| family == self.config.family.name())
        {
            Some(index) => several.get(index..=index)?,
            // As before there were two families: the one address, if it is of ours.
            None if families.is_empty() => spec.cluster_ip.as_slice(),
            None => return None,
        };
        of_family(candidates.iter().map(String::as_str), self.config.family).next()
    }

    fn port(
        &self,
        spec: &ServiceSpec,
        api: &ApiPort,
        cluster_ip: IpAddr,
        endpoints: Vec<Endpoint>,
    ) -> Option<ServicePort> {
        let status = self
            .service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref());
        let ingress = status
            .iter()
            .flat_map(|balancer| balancer.ingress.iter().flatten());
        // ipMode Proxy: the balancer wants the traffic itself.
        let heed = self.config.heed_ip_mode;
        let vips = ingress.filter(|entry| !heed || matches!(entry.ip_mode.as_deref(), None | Some("VIP")));
        let local = |policy: Option<&str>| {
            if policy == Some("Local") {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            }
        };
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let external_ips: Vec<IpAddr> = of_family(
            spec.external_ips.iter().flatten().map(String::as_str),
            self.config.family,
        )
        .collect();
        let from_outside = matches!(kind, "NodePort" | "LoadBalancer")
            || spec.external_ips.iter().flatten().next().is_some();
        let external_policy = if from_outside {
            local(spec.external_traffic_policy.as_deref())
        } else {
            TrafficPolicy::Cluster
        };
        let health = spec
            .health_check_node_port
            .filter(|_| kind == "LoadBalancer" && external_policy == TrafficPolicy::Local);
        Some(ServicePort {
            name: ServicePortName {
                namespace: namespace_of(&self.service.metadata).to_string(),
                name: name_of(&self.service.metadata).to_string(),
                port: api.name.clone().unwrap_or_default(),
            },
            protocol: protocol_of(api.protocol.as_deref())?,
            cluster_ip,
            port: number(Some(api.port))?,
            node_port: number(api.node_port),
            external_ips,
            load_balancer_ips: of_family(vips.filter_map(|entry| entry.ip.as_deref()), self.config.family)
                .collect(),
            source_ranges: self.source_ranges(spec),
            affinity_seconds: affinity(spec),
            internal_policy: local(spec.internal_traffic_policy.as_deref()),
            external_policy,
            health_check_node_port: number(health),
            follow_hints: follows_hints(self.service, self.config.hints),
            endpoints,
        })
    }

    fn source_ranges(&self, spec: &ServiceSpec) -> Vec<IpNet> {
        let ranges = spec.load_balancer_source_ranges.iter().flatten();
        let parsed = ranges.filter_map(|range| parse_network(range.trim()));
        let v4 = self.config.family == Family::V4;
        parsed
            .filter(|range| range.addr().is_ipv4() == v4)
            .map(|range| range.trunc())
            .collect()
    }

    fn slice_endpoints(&self, port: &ApiPort) -> Vec<Endpoint> {
        let name = port.name.as_deref().unwrap_or_default();
        let protocol = protocol_of(port.protocol.as_deref());
        let mut found = Vec::new();
        let slices = self.own.iter().flatten();
        for slice in slices.filter(|slice| slice.family == Some(self.config.family)) {
            let ports = slice.ports.iter();
            for port in ports.filter(|port| port.name == name && port.protocol == protocol) {
                let endpoints = slice.endpoints.iter();
                found.extend(endpoints.map(|endpoint| self.slice_endpoint(endpoint, port.number)));
            }
        }
        found
    }

    fn slice_endpoint(&self, endpoint: &SliceEndpoint, port: u16) -> Endpoint {
        let target = match self.config.compat {
            // 1.30 hashes an address as it is spelt.
            Compat::V1_30 => host_port(&endpoint.address, port),
            Compat::Latest => host_port(&endpoint.ip.to_string(), port),
        };
        Endpoint {
            target,
            ip: endpoint.ip,
            port,
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            local: endpoint.node.as_deref() == Some(self.config.node_name.as_str()),
            zone_hints: endpoint.zone_hints.to_vec(),
            node_hints: endpoint.node_hints.to_vec(),
        }
    }
}

/// Sorted by the text of their targets. Of two with the same target a local one wins, and in newer
/// kube-proxies one that is not on its way out: a pod may get the address of one that is.
fn merged(mut endpoints: Vec<Endpoint>, compat: Compat) -> Vec<Endpoint> {
    // Mostly no two have the same.
    endpoints.sort_by(|one, other| one.target.cmp(&other.target));
    if !endpoints.windows(2).any(|two| two[0].target == two[1].target) {
        return endpoints;
    }
    let mut by_target: BTreeMap<String, Endpoint> = BTreeMap::new();
    for endpoint in endpoints {
        let wins = match compat {
            Compat::V1_30 => endpoint.local,
            Compat::Latest => !endpoint.terminating,
        };
        if wins || !by_target.contains_key(&endpoint.target) {
            by_target.insert(endpoint.target.clone(), endpoint);
        }
    }
    by_target.into_values().collect()
}

fn protocol_of(text: Option<&str>) -> Option<Protocol> {
    Protocol::parse(text.filter(|text| !text.is_empty()).unwrap_or("TCP"))
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client_ip = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    Some(
        seconds
            .and_then(|seconds| u32::try_from(seconds).ok())
            .unwrap_or(AFFINITY_SECONDS),
    )
}

fn follows_hints(service: &Service, hints: Hints) -> bool {
    match hints {
        Hints::Ignored => return false,
        Hints::Annotated => {}
        Hints::ByZone | Hints::ByNode => return true,
    }
    let annotations = service.metadata.annotations.as_ref();
    let value = HINTS_ANNOTATIONS
        .iter()
        .find_map(|name| annotations.and_then(|annotations| annotations.get(*name)));
    value.is_some_and(|value| !matches!(value.as_str(), "" | "disabled" | "Disabled"))
}
