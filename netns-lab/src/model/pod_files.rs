//! The files that a process in a pod sees in `/etc`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::endpoints::{cluster_ips, namespace_of};
use super::ledger::{Ledger, Pod};
use super::name::{self, Label};
use super::name_server::namespace_of as namespace_of_pod;
use super::node::Machine;
use crate::dns::CLUSTER_DOMAIN;
use crate::dns::store::Objects;

/// What pods are told of names: the Services, and who else can be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    services: Vec<Named>,
    servers: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    namespace: String,
    addresses: Vec<IpAddr>,
}

impl Names {
    /// The names in a registry. Where it has the Service kube-system/kube-dns, that is asked.
    pub fn new(objects: &Objects<'_>) -> Self {
        let mut names = Self::default();
        for service in &objects.services {
            let (Some(spec), Some(name)) = (&service.spec, service.metadata.name.as_deref()) else {
                continue;
            };
            let namespace = namespace_of(&service.metadata);
            // What is no label could be another line of the file.
            if name::Label::new(name).is_err() || name::Label::new(namespace).is_err() {
                continue;
            }
            let mut addresses = cluster_ips(spec);
            if (namespace, name) == ("kube-system", "kube-dns") {
                names.servers.clone_from(&addresses);
            }
            if spec.cluster_ip.as_deref() == Some("None") {
                let endpoints = objects.endpoints(service);
                addresses = endpoints.into_iter().map(|endpoint| endpoint.ip).collect();
            }
            names.services.push(Named {
                name: name.to_string(),
                namespace: namespace.to_string(),
                addresses,
            });
        }
        names
    }

    fn has(&self, name: &str, namespace: &str) -> bool {
        let mut services = self.services.iter();
        services.any(|service| service.name == name && service.namespace == namespace)
    }
}

/// Names and contents of a pod's files.
pub fn all(ledger: &Ledger, pod: &Pod, names: &Names) -> [(&'static str, String); 3] {
    let namespace = namespace_of_pod(&ledger.lab, pod);
    [
        ("hostname", format!("{}\n", pod.spec.name)),
        ("hosts", hosts(ledger, pod, names, namespace)),
        ("resolv.conf", resolv_conf(&names.servers, namespace)),
    ]
}

/// Without a `nameserver` line the resolver asks 127.0.0.1, where nobody listens, and so says at
/// once that it knows no name, instead of after half a minute.
const NO_SERVER: &str = "# There is no name server in this lab; /etc/hosts has pods and Services.\n";

fn resolv_conf(servers: &[IpAddr], namespace: &str) -> String {
    if servers.is_empty() {
        return NO_SERVER.to_string();
    }
    let mut text = String::new();
    for ip in servers {
        text.push_str(&format!("nameserver {ip}\n"));
    }
    text.push_str(&format!(
        "search {namespace}.svc.{CLUSTER_DOMAIN} svc.{CLUSTER_DOMAIN} {CLUSTER_DOMAIN}\noptions ndots:5\n"
    ));
    text
}

/// The same of a node or of the host outside. Neither knows the pods' names, as on a real one.
pub fn of_machine(ledger: &Ledger, name: &Label, machine: &Machine) -> [(&'static str, String); 3] {
    let mut text = LOCALHOST.to_string();
    text.push_str(&lines(machine.ip, machine.ip6, name.as_str()));
    for (host, other) in ledger.lab.machines().filter(|(_, other)| *other != machine) {
        text.push_str(&lines(other.ip, other.ip6, &host.to_string()));
    }
    [
        ("hostname", format!("{name}\n")),
        ("hosts", text),
        ("resolv.conf", NO_SERVER.to_string()),
    ]
}

const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n";

fn lines(ip: Ipv4Addr, ip6: Option<Ipv6Addr>, name: &str) -> String {
    let second = ip6.map_or_else(String::new, |ip| format!("{ip}\t{name}\n"));
    format!("{ip}\t{name}\n{second}")
}

fn hosts(ledger: &Ledger, pod: &Pod, names: &Names, namespace: &str) -> String {
    let own = lines(pod.ip, pod.ip6, pod.spec.name.as_str());
    let mut text = format!("{LOCALHOST}{own}");
    // Whoever can ask need not look up here.
    let services = names.services.iter().filter(|_| names.servers.is_empty());
    for service in services {
        let words = service_names(service, namespace);
        for ip in &service.addresses {
            text.push_str(&format!("{ip}\t{words}\n"));
        }
    }
    for record in ledger.topology_pods() {
        let other = &record.pod;
        // A Service of the same name is what a program means.
        if other.spec.name != pod.spec.name && !names.has(other.spec.name.as_str(), namespace) {
            text.push_str(&lines(other.ip, other.ip6, other.spec.name.as_str()));
        }
    }
    text
}

/// As the search path would find it: by its name alone in its own namespace only.
fn service_names(service: &Named, namespace: &str) -> String {
    let long = format!("{}.{}", service.name, service.namespace);
    let mut words = format!("{long} {long}.svc {long}.svc.{CLUSTER_DOMAIN}");
    if service.namespace == namespace {
        words = format!("{} {words}", service.name);
    }
    words
}

#[cfg(test)]
#[path = "pod_files_tests.rs"]
mod tests;
