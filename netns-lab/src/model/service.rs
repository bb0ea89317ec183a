//! A Service as somebody wrote it → as the API server would have stored it: every field has its
//! default, and addresses and node ports are allocated.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
    ServiceStatus, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::endpoints::{cluster_ips, namespace_of};
use super::refusal::Refusal;
use super::registry::Object;
use super::service_check::{check, is_reached_from_outside, kind, protocol, wants_health_port};

/// What node ports are taken from, and how many at its beginning are for those who choose.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
const CHOSEN_NODE_PORTS: u16 = 86;

/// Three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// What a lab gives addresses from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    /// The ranges of virtual IPs, the first family first.
    pub services: Vec<IpNet>,
    /// Addresses of load balancers; where there are none, nobody gives any.
    pub balancers: Vec<IpNet>,
}

/// What others have, and who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    addresses: BTreeMap<IpAddr, String>,
    node_ports: BTreeMap<u16, String>,
}

impl InUse {
    /// Notes down what a registry's object has, unless it is the Service of this namespace and name.
    pub fn note(&mut self, object: &Value, but: (&str, &str)) {
        let Some(Object::Service(service)) = Object::of(object) else {
            return;
        };
        let (namespace, name) = key(&service);
        if (namespace.as_str(), name.as_str()) == but {
            return;
        }
        let owner = format!("{namespace}/{name}");
        let spec = service.spec.as_ref();
        let cluster = spec.into_iter().flat_map(cluster_ips);
        for ip in cluster.chain(ingress(&service)) {
            self.addresses.entry(ip).or_insert_with(|| owner.clone());
        }
        let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let health = spec.and_then(|spec| spec.health_check_node_port);
        for port in ports.filter_map(|port| port.node_port).chain(health) {
            if let Ok(port @ 1..) = u16::try_from(port) {
                self.node_ports.entry(port).or_insert_with(|| owner.clone());
            }
        }
    }
}

fn key(service: &Service) -> (String, String) {
    let name = service.metadata.name.clone().unwrap_or_default();
    (namespace_of(&service.metadata).to_string(), name)
}

/// The addresses that load balancers have for a Service.
pub fn ingress(service: &Service) -> Vec<IpAddr> {
    let status = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref());
    let entries = status.flat_map(|balancer| balancer.ingress.iter().flatten());
    entries
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        .collect()
}

/// The Service as it is stored; `before` is what stands there under its name.
///
/// # Errors
/// The first field that the API server would have refused.
pub fn settle(
    mut service: Service,
    before: Option<&Service>,
    pools: &Pools,
    in_use: &InUse,
    now: &Time,
) -> Result<Service, Refusal> {
    if let (Some(spec), Some(old)) = (&mut service.spec, before.and_then(|old| old.spec.as_ref())) {
        keep(spec, old);
        refuse_other_address(spec, old)?;
    }
    check(&service)?;
    let made = before.and_then(|old| old.metadata.creation_timestamp.clone());
    let metadata = &mut service.metadata;
    metadata.namespace = Some(namespace_of(metadata).to_string());
    metadata.creation_timestamp = Some(made.unwrap_or_else(|| now.clone()));
    let Some(mut spec) = service.spec.take() else {
        return Err(Refusal::new("spec", "nothing", "a spec with ports"));
    };
    defaults(&mut spec);
    let mut allocator = Allocator {
        pools,
        in_use: in_use.clone(),
    };
    if kind(&spec) != "ExternalName" {
        allocator.families(&mut spec)?;
        allocator.cluster_ips(&mut spec)?;
        allocator.node_ports(&mut spec)?;
    }
    let given = before.map(ingress).unwrap_or_default();
    let balancer = allocator.balancer(&spec, &given)?;
    service.status = Some(ServiceStatus {
        load_balancer: Some(balancer),
        ..Default::default()
    });
    service.spec = Some(spec);
    Ok(service)
}

/// The API server lets no Service have another cluster IP than before.
fn refuse_other_address(spec: &ServiceSpec, old: &ServiceSpec) -> Result<(), Refusal> {
    if kind(spec) == "ExternalName" || kind(old) == "ExternalName" {
        return Ok(());
    }
    let ip = |spec: &ServiceSpec| spec.cluster_ip.clone().unwrap_or_default();
    if ip(old).is_empty() || ip(spec) == ip(old) {
        return Ok(());
    }
    let expected = format!("{}, which cannot change: delete the Service first", ip(old));
    Err(Refusal::new("spec.clusterIP", ip(spec), expected))
}

/// What was allocated stays, where the new text does not say otherwise.
fn keep(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if kind(spec) == "ExternalName" || kind(old) == "ExternalName" {
        return;
    }
    let unset = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if unset(&spec.cluster_ip) && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        let asks = spec.ip_family_policy.is_some() || spec.ip_families.is_some();
        if !asks {
            spec.cluster_ips.clone_from(&old.cluster_ips);
            spec.ip_families.clone_from(&old.ip_families);
            spec.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if matches!(kind(spec), "NodePort" | "LoadBalancer") {
        let known: BTreeMap<_, _> = old
            .ports
            .iter()
            .flatten()
            .map(|port| ((port.port, protocol(port).to_string()), port.node_port))
            .collect();
        for port in spec.ports.iter_mut().flatten() {
            let key = (port.port, protocol(port).to_string());
            if port.node_port.unwrap_or_default() == 0 {
                port.node_port = known.get(&key).copied().flatten();
            }
        }
    }
    if wants_health_port(spec)
        && wants_health_port(old)
        && spec.health_check_node_port.unwrap_or_default() == 0
    {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

fn defaults(spec: &mut ServiceSpec) {
    let set = |field: &mut Option<String>, value: &str| {
        if field.as_deref().unwrap_or_default().is_empty() {
            *field = Some(value.to_string());
        }
    };
    set(&mut spec.type_, "ClusterIP");
    set(&mut spec.session_affinity, "None");
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec
            .session_affinity_config
            .get_or_insert_with(SessionAffinityConfig::default);
        let client = config.client_ip.get_or_insert_with(ClientIPConfig::default);
        client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
    }
    if kind(spec) != "ExternalName" {
        set(&mut spec.internal_traffic_policy, "Cluster");
    }
    if is_reached_from_outside(spec) {
        set(&mut spec.external_traffic_policy, "Cluster");
    }
    if kind(spec) == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    for port in spec.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
        if matches!(&port.target_port, None | Some(IntOrString::Int(0))) {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

struct Allocator<'a> {
    pools: &'a Pools,
    in_use: InUse,
}

impl Allocator<'_> {
    fn has(&self, family: &str) -> bool {
        self.pools
            .services
            .iter()
            .any(|range| family_of(range.addr()) == family)
    }

    /// Which families the Service has, in their order.
    fn families(&self, spec: &mut ServiceSpec) -> Result<(), Refusal> {
        let first = self
            .pools
            .services
            .first()
            .map_or("IPv4", |range| family_of(range.addr()));
        let mut families = spec.ip_families.clone().unwrap_or_default();
        if families.is_empty() {
            let given = cluster_ips(spec);
            families = given.iter().map(|ip| family_of(*ip).to_string()).collect();
            families.dedup();
        }
        if families.is_empty() {
            families.push(first.to_string());
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let selects = spec
            .selector
            .as_ref()
            .is_some_and(|selector| !selector.is_empty());
        // Nobody knows of which family the endpoints will be that somebody writes by hand.
        let open = headless && !selects;
        let policy = match spec
            .ip_family_policy
            .as_deref()
            .filter(|policy| !policy.is_empty())
        {
            Some(policy) => policy.to_string(),
            None if open || families.len() > 1 => "RequireDualStack".to_string(),
            None => "SingleStack".to_string(),
        };
        if policy == "SingleStack" && families.len() > 1 {
            let expected = "PreferDualStack or RequireDualStack, or one family";
            return Err(Refusal::new("spec.ipFamilyPolicy", policy, expected));
        }
        let lacking = families.iter().position(|family| !open && !self.has(family));
        if let Some(index) = lacking {
            let field = format!("spec.ipFamilies[{index}]");
            let expected = format!("{first}: the lab has no other Services");
            return Err(Refusal::new(field, families[index].clone(), expected));
        }
        if policy != "SingleStack" && families.len() == 1 {
            let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
            if open || self.has(other) {
                families.push(other.to_string());
            } else if policy == "RequireDualStack" {
                let expected = "SingleStack: the lab is not up with --dual-stack";
                return Err(Refusal::new("spec.ipFamilyPolicy", policy, expected));
            }
        }
        spec.ip_families = Some(families);
        spec.ip_family_policy = Some(policy);
        Ok(())
    }

    fn cluster_ips(&mut self, spec: &mut ServiceSpec) -> Result<(), Refusal> {
        if spec.cluster_ip.as_deref() == Some("None") {
            spec.cluster_ips = Some(vec!["None".into()]);
            return Ok(());
        }
        let given = cluster_ips(spec);
        let mut chosen = Vec::new();
        for (index, family) in spec.ip_families.iter().flatten().enumerate() {
            let ip = match given.get(index) {
                Some(ip) => self.claim(*ip, index)?,
                None => self.next(family)?,
            };
            self.in_use.addresses.insert(ip, "this Service".into());
            chosen.push(ip.to_string());
        }
        spec.cluster_ip = chosen.first().cloned();
        spec.cluster_ips = Some(chosen);
        Ok(())
    }

    fn claim(&self, ip: IpAddr, index: usize) -> Result<IpAddr, Refusal> {
        let field = format!("spec.clusterIPs[{index}]");
        let inside = self
            .pools
            .services
            .iter()
            .any(|range| range.contains(&ip) && is_usable(range, ip));
        if !inside {
            let ranges: Vec<_> = self.pools.services.iter().map(ToString::to_string).collect();
            let expected = format!("an address of {}", ranges.join(" or "));
            return Err(Refusal::new(field, ip.to_string(), expected));
        }
        match self.in_use.addresses.get(&ip) {
            Some(owner) => Err(Refusal::new(
                field,
                ip.to_string(),
                format!("another address: {owner} has it"),
            )),
            None => Ok(ip),
        }
    }

    /// The first free address behind those that are kept for people who choose one.
    fn next(&self, family: &str) -> Result<IpAddr, Refusal> {
        let range = self
            .pools
            .services
            .iter()
            .find(|range| family_of(range.addr()) == family);
        let free = |ip: &IpAddr| !self.in_use.addresses.contains_key(ip);
        let found = range.and_then(|range| {
            let kept = kept_addresses(range);
            let behind = range.hosts().skip(kept).take(1 << 16).find(free);
            behind.or_else(|| range.hosts().take(kept).find(free))
        });
        found.ok_or_else(|| {
            let expected = "a lab with a larger --service-cidr, or fewer Services";
            Refusal::new("spec.clusterIP", format!("no {family} address is free"), expected)
        })
    }

    fn node_ports(&mut self, spec: &mut ServiceSpec) -> Result<(), Refusal> {
        let wanted = match kind(spec) {
            "NodePort" => true,
            "LoadBalancer" => spec.allocate_load_balancer_node_ports.unwrap_or(true),
            _ => false,
        };
        let mut ports = spec.ports.take().unwrap_or_default();
        let mut own: BTreeMap<i32, u16> = BTreeMap::new();
        if !wanted {
            let given = ports.iter_mut().filter(|port| port.node_port == Some(0));
            given.for_each(|port| port.node_port = None);
        }
        // Those that are asked for first, so that none of them is given to another port.
        let asked = |port: &ServicePort| port.node_port.is_some_and(|number| number != 0);
        let (first, then): (Vec<usize>, Vec<usize>) =
            (0..ports.len()).partition(|index| asked(&ports[*index]));
        for index in first.into_iter().chain(then) {
            self.one_node_port(&mut ports[index], index, wanted, &mut own)?;
        }
        spec.ports = (!ports.is_empty()).then_some(ports);
        if wants_health_port(spec) {
            let given = spec.health_check_node_port.filter(|port| *port != 0);
            let port = self.node_port("spec.healthCheckNodePort", given)?;
            spec.health_check_node_port = Some(i32::from(port));
        }
        Ok(())
    }

    /// TCP and UDP on one port get one node port, as DNS likes it.
    fn one_node_port(
        &mut self,
        port: &mut ServicePort,
        index: usize,
        wanted: bool,
        own: &mut BTreeMap<i32, u16>,
    ) -> Result<(), Refusal> {
        let given = port.node_port.filter(|number| *number != 0);
        if given.is_none() && !wanted {
            return Ok(());
        }
        let field = format!("spec.ports[{index}].nodePort");
        let shared = own.get(&port.port).copied();
        let number = match (given, shared) {
            (None, Some(shared)) => shared,
            (Some(given), _) if own.values().any(|known| i32::from(*known) == given) => {
                u16::try_from(given).unwrap_or_default()
            }
            (given, _) => self.node_port(&field, given)?,
        };
        own.insert(port.port, number);
        port.node_port = Some(i32::from(number));
        Ok(())
    }

    fn node_port(&mut self, field: &str, given: Option<i32>) -> Result<u16, Refusal> {
        let (first, last) = (*NODE_PORTS.start(), *NODE_PORTS.end());
        let range = format!("{first} to {last}");
        let Some(given) = given else {
            let mut behind = (first + CHOSEN_NODE_PORTS..=last).chain(NODE_PORTS);
            let free = behind.find(|number| !self.in_use.node_ports.contains_key(number));
            let number = free.ok_or_else(|| Refusal::new(field, "all are taken", range))?;
            self.in_use.node_ports.insert(number, "this Service".into());
            return Ok(number);
        };
        let inside = u16::try_from(given).ok();
        let inside = inside.filter(|number| NODE_PORTS.contains(number));
        let number = inside.ok_or_else(|| Refusal::new(field, given.to_string(), range))?;
        if let Some(owner) = self.in_use.node_ports.get(&number) {
            let expected = format!("another node port: {owner} has it");
            return Err(Refusal::new(field, given.to_string(), expected));
        }
        self.in_use.node_ports.insert(number, "this Service".into());
        Ok(number)
    }

    /// An address of the pool for each family; the one that it had, where it had one.
    fn balancer(&self, spec: &ServiceSpec, before: &[IpAddr]) -> Result<LoadBalancerStatus, Refusal> {
        if kind(spec) != "LoadBalancer" || spec.load_balancer_class.is_some() {
            return Ok(LoadBalancerStatus::default());
        }
        let asked = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
        let asked = asked.map(|text| self.claim_balancer(text)).transpose()?;
        let mut entries = Vec::new();
        for family in spec.ip_families.iter().flatten() {
            let pool = self
                .pools
                .balancers
                .iter()
                .find(|range| family_of(range.addr()) == family);
            let Some(pool) = pool else { continue };
            let free = |ip: &IpAddr| pool.contains(ip) && !self.in_use.addresses.contains_key(ip);
            let wanted = asked.iter().chain(before).copied().find(free);
            let ip = wanted.or_else(|| pool.hosts().take(1 << 16).find(free));
            entries.extend(ip.map(|ip| LoadBalancerIngress {
                ip: Some(ip.to_string()),
                ip_mode: Some("VIP".into()),
                ..Default::default()
            }));
        }
        Ok(LoadBalancerStatus {
            ingress: (!entries.is_empty()).then_some(entries),
        })
    }

    fn claim_balancer(&self, text: &str) -> Result<IpAddr, Refusal> {
        let field = "spec.loadBalancerIP";
        let ip: IpAddr = text
            .parse()
            .map_err(|_| Refusal::new(field, format!("{text:?}"), "an IP address"))?;
        if let Some(owner) = self.in_use.addresses.get(&ip) {
            return Err(Refusal::new(
                field,
                text,
                format!("another address: {owner} has it"),
            ));
        }
        Ok(ip)
    }
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// As the API server does: a 16th of the range, 16 to 256 addresses, is not given away unasked.
fn kept_addresses(range: &IpNet) -> usize {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let size = 1_usize.checked_shl(bits).unwrap_or(usize::MAX);
    if size < 16 {
        0
    } else {
        (size / 16).clamp(16, 256).min(size / 2)
    }
}

fn is_usable(range: &IpNet, ip: IpAddr) -> bool {
    ip != range.network() && (ip.is_ipv6() || ip != range.broadcast())
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
