//! Objects → names and their records.
//!
//! Source: Kubernetes DNS-Based Service Discovery, version 1.1.0
//! (docs/specification.md of github.com/kubernetes/dns); numbers in comments are its sections.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::store::Objects;
use crate::model::endpoints::{Endpoint, cluster_ips, namespace_of};
use crate::model::name::Label;

/// The version of the specification that is followed.
const SCHEMA_VERSION: &str = "1.1.0";

/// What is said of a name. Names are in lower case and without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A port, and the name of the host that has it.
    Srv(u16, String),
    /// The name of an address.
    Ptr(String),
    /// Another name.
    Cname(String),
    /// A text.
    Txt(String),
    /// A name server.
    Ns(String),
}

/// All names of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    domain: String,
    serial: u32,
    /// A name without records is there: it has names below it.
    names: BTreeMap<String, Vec<Data>>,
}

impl Zone {
    /// The names of these objects under a domain; `serial` grows with each change.
    pub fn new(objects: &Objects<'_>, domain: &str, serial: u32) -> Self {
        let mut zone = Self {
            domain: domain.to_ascii_lowercase(),
            serial,
            names: BTreeMap::new(),
        };
        // 2.2
        zone.add(&zone.below("dns-version"), Data::Txt(SCHEMA_VERSION.into()));
        zone.add(&zone.domain.clone(), Data::Ns(zone.name_server()));
        zone.touch(&zone.below("svc"));
        zone.touch(&zone.below("pod"));
        let of_services = objects
            .services
            .iter()
            .map(|service| namespace_of(&service.metadata));
        for namespace in objects.pods.keys().copied().chain(of_services) {
            zone.touch(&zone.below(&format!("{namespace}.svc")));
            zone.touch(&zone.below(&format!("{namespace}.pod")));
        }
        for service in &objects.services {
            zone.add_service(objects, service);
        }
        // Two slices may list one endpoint, and two Services one name.
        for records in zone.names.values_mut() {
            records.sort();
            records.dedup();
        }
        zone
    }

    /// The domain, without the final dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Grows with each change.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The name of the server itself.
    pub fn name_server(&self) -> String {
        self.below("ns.dns")
    }

    /// What is known of a name in lower case, if it is there at all.
    pub fn find(&self, name: &str) -> Option<Vec<Data>> {
        match self.names.get(name) {
            Some(records) => Some(records.clone()),
            None => self.pod_address(name).map(|data| vec![data]),
        }
    }

    /// Whether a name is the domain or below it.
    pub fn has_in_domain(&self, name: &str) -> bool {
        name.strip_suffix(&self.domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// 2.6: the address is in the name; whether a pod has it is not asked, but its namespace must be
    /// there.
    fn pod_address(&self, name: &str) -> Option<Data> {
        let (address, rest) = name.split_once('.')?;
        let namespace = rest.strip_suffix(&format!(".pod.{}", self.domain))?;
        if namespace.contains('.') || !self.names.contains_key(rest) {
            return None;
        }
        address_of_dashes(address).map(of_address)
    }

    fn below(&self, name: &str) -> String {
        format!("{name}.{}", self.domain)
    }

    fn add(&mut self, name: &str, data: Data) {
        self.touch(name);
        self.names.entry(name.to_string()).or_default().push(data);
    }

    /// Makes a name be there, and all names above it up to the domain.
    fn touch(&mut self, name: &str) {
        let mut name = name;
        while !self.names.contains_key(name) {
            self.names.insert(name.to_string(), Vec::new());
            match name.split_once('.') {
                Some((_, above)) if name != self.domain => name = above,
                _ => return,
            }
        }
    }

    fn add_service(&mut self, objects: &Objects<'_>, service: &Service) {
        let (Some(spec), Some(name)) = (&service.spec, service.metadata.name.as_deref()) else {
            return;
        };
        let namespace = namespace_of(&service.metadata);
        // A name that is no label could make a name that is somebody else's.
        if Label::new(name).is_err() || Label::new(namespace).is_err() {
            return;
        }
        let full = self.below(&format!("{name}.{namespace}.svc"));
        if spec.type_.as_deref() == Some("ExternalName") {
            // 2.5
            if let Some(target) = spec.external_name.as_deref().and_then(host_name) {
                self.add(&full, Data::Cname(target));
            }
            return;
        }
        let addresses = cluster_ips(spec);
        if addresses.is_empty() {
            if is_headless(spec) {
                self.add_headless(&full, &objects.endpoints(service));
            }
            return;
        }
        self.add_with_address(&full, spec, &addresses);
        if (namespace, name) == ("kube-system", "kube-dns") {
            let own = self.name_server();
            for ip in addresses {
                self.add(&own, of_address(ip));
            }
        }
    }

    /// 2.3
    fn add_with_address(&mut self, full: &str, spec: &ServiceSpec, addresses: &[IpAddr]) {
        for ip in addresses {
            self.add(full, of_address(*ip));
            self.add(&reverse(*ip), Data::Ptr(full.to_string()));
        }
        for port in spec.ports.iter().flatten() {
            let number = u16::try_from(port.port).ok();
            let name = port.name.as_deref().unwrap_or_default();
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            if let (Some(number), Some(name)) = (number, port_name(name, protocol, full)) {
                self.add(&name, Data::Srv(number, full.to_string()));
            }
        }
    }

    /// 2.4: a name for each endpoint; without any the Service has no name either.
    fn add_headless(&mut self, full: &str, endpoints: &[Endpoint]) {
        for endpoint in endpoints {
            let own = format!("{}.{full}", endpoint_name(endpoint));
            self.add(full, of_address(endpoint.ip));
            self.add(&own, of_address(endpoint.ip));
            self.add(&reverse(endpoint.ip), Data::Ptr(own.clone()));
            for (name, protocol, number) in &endpoint.ports {
                if let Some(name) = port_name(name, protocol, full) {
                    self.add(&name, Data::Srv(*number, own.clone()));
                }
            }
        }
    }
}

fn of_address(ip: IpAddr) -> Data {
    match ip {
        IpAddr::V4(ip) => Data::A(ip),
        IpAddr::V6(ip) => Data::Aaaa(ip),
    }
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// What an endpoint is called within its Service: as it asks, else as its Pod, else its address.
fn endpoint_name(endpoint: &Endpoint) -> String {
    let asked = endpoint.hostname.iter().chain(&endpoint.pod);
    let mut good = asked.filter(|name| Label::new(name).is_ok());
    let own = good.next().cloned();
    own.unwrap_or_else(|| dashes(endpoint.ip))
}

/// The address as a label: `10-244-0-2`, `fd00--2`.
fn dashes(ip: IpAddr) -> String {
    let text = ip.to_string().replace([':', '.'], "-");
    // A label has no `-` at its ends.
    let front = if text.starts_with('-') { "0" } else { "" };
    let back = if text.ends_with('-') { "0" } else { "" };
    format!("{front}{text}{back}")
}

fn address_of_dashes(text: &str) -> Option<IpAddr> {
    let v4 = || text.replace('-', ".").parse().ok().map(IpAddr::V4);
    let v6 = || text.replace('-', ":").parse().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

/// `_http._tcp.web.default.svc.cluster.local`; a port without a name has no record.
fn port_name(name: &str, protocol: &str, full: &str) -> Option<String> {
    let protocol = protocol.to_ascii_lowercase();
    let good = Label::new(name).is_ok() && Label::new(&protocol).is_ok();
    good.then(|| format!("_{name}._{protocol}.{full}"))
}

/// The name under which an address has its own name.
pub fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let digits = ip.octets().into_iter().rev();
            let labels = digits.map(|byte| format!("{:x}.{:x}.", byte & 0xf, byte >> 4));
            labels.collect::<String>() + "ip6.arpa"
        }
    }
}

/// A name of hosts as a CNAME has it: in lower case, without the final dot.
fn host_name(text: &str) -> Option<String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let good = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inner)
    };
    (name.len() <= 253 && name.split('.').all(good)).then_some(name)
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(crate) mod tests;
