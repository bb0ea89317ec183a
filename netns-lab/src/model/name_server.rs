//! The name server of a lab: a pod beside those of the topology, and the Service that leads to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use super::address;
use super::container::ContainerSpec;
use super::ledger::{Lab, Pod};
use super::name::{self, Label};
use super::topology::{App, PodSpec, Port, name_server_labels, name_server_ports};
use crate::dns::upstream::UpstreamServer;

/// The namespace of what belongs to the cluster itself.
pub const NAMESPACE: &str = "kube-system";
/// The file of its Service.
pub const SERVICE_FILE: &str = "kube-system_kube-dns.service.json";
/// Where in the Services' range its virtual IP is.
const PLACE: u32 = 10;

/// What a lab's name server is told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameServer {
    /// Who knows names of elsewhere; without one they do not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamServer>,
}

/// The pods that a lab has: those of its topology, then its own.
pub fn with_system_pods(lab: &Lab, pods: &[PodSpec]) -> Vec<PodSpec> {
    let own = lab.dns.as_ref().map(pod);
    pods.iter().cloned().chain(own).collect()
}

fn pod(server: &NameServer) -> PodSpec {
    let mut command = vec!["netns-lab".to_string(), "dns".to_string()];
    if let Some(upstream) = &server.upstream {
        command.extend(["--upstream".to_string(), upstream.to_string()]);
    }
    PodSpec {
        name: Label::kube_dns(),
        node_name: None,
        cpu: None,
        memory: None,
        labels: name_server_labels(),
        app: App::None,
        ports: Vec::new(),
        containers: vec![ContainerSpec {
            command,
            ports: name_server_ports(),
            // The registry is its owner's only; it has no capability all the same.
            user: Some(0),
            ..ContainerSpec::named(Label::dns())
        }],
    }
}

/// The namespace of a pod's object.
pub fn namespace_of<'a>(lab: &'a Lab, pod: &Pod) -> &'a str {
    if pod.system {
        NAMESPACE
    } else {
        name::object_namespace(&lab.name)
    }
}

/// The Service of the lab's name server, if the range of Services has room for it.
pub fn service(lab: &Lab) -> Option<Service> {
    lab.dns.as_ref()?;
    let place = usize::try_from(PLACE).ok()?;
    let first = (address::room(lab.service_cidr) >= place).then(|| address::host(lab.service_cidr, PLACE))?;
    let second = lab.service_cidr6.map(|range| address::host6(range, PLACE));
    let ips: Vec<_> = std::iter::once(IpAddr::from(first))
        .chain(second.map(IpAddr::from))
        .collect();
    let families = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
    let labels = || {
        let labels = name_server_labels().into_iter();
        labels
            .map(|(key, value)| (key.into(), value.into()))
            .collect::<BTreeMap<String, String>>()
    };
    Some(Service {
        metadata: ObjectMeta {
            name: Some(Label::kube_dns().to_string()),
            namespace: Some(NAMESPACE.into()),
            labels: Some(labels()),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some(first.to_string()),
            cluster_ips: Some(ips.iter().map(ToString::to_string).collect()),
            ip_families: Some(families.map(Into::into).collect()),
            ip_family_policy: Some(
                if ips.len() > 1 {
                    "RequireDualStack"
                } else {
                    "SingleStack"
                }
                .into(),
            ),
            selector: Some(labels()),
            ports: Some(name_server_ports().iter().map(service_port).collect()),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn service_port(port: &Port) -> ServicePort {
    let number = i32::from(port.container_port.get());
    ServicePort {
        name: Some(port.name.as_str().into()),
        protocol: Some(port.protocol.name().into()),
        port: number,
        target_port: Some(IntOrString::Int(number)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples;

    fn lab(upstream: Option<&str>) -> Lab {
        Lab {
            dns: Some(NameServer {
                upstream: upstream.map(|text| text.parse().unwrap()),
            }),
            ..samples::lab_of(2, true, None)
        }
    }

    #[test]
    fn its_service_has_the_tenth_address_of_each_family() {
        let spec = service(&lab(None)).unwrap().spec.unwrap();
        assert_eq!(spec.cluster_ips.unwrap(), ["10.96.0.10", "fd00:10:96::a"]);
        let ports: Vec<_> = spec.ports.unwrap().into_iter().map(|port| port.name).collect();
        assert_eq!(ports, [Some("dns".to_string()), Some("dns-tcp".to_string())]);
        assert_eq!(service(&samples::lab()), None);
    }

    #[test]
    fn it_is_the_last_pod_and_knows_whom_to_ask() {
        let pods = with_system_pods(&lab(Some("192.0.2.1")), &[]);
        assert_eq!(pods.len(), 1);
        assert_eq!(
            pods[0].containers[0].command,
            ["netns-lab", "dns", "--upstream", "192.0.2.1:53"]
        );
        assert!(with_system_pods(&samples::lab(), &[]).is_empty());
        for port in name_server_ports() {
            assert_eq!(port.container_port.get(), 53);
        }
    }
}
