//! EndpointSlices of Services that have a selector, as the EndpointSlice controller would write
//! them. A lab has no such controller: its rules and its name server find the Pods themselves, and
//! these slices are only shown.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoints::{self, addresses, is_ready, namespace_of, selects};

/// The label by which a slice belongs to a Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The most endpoints that the controller puts into one slice.
const LARGEST: usize = 100;

/// The address family and the ports of endpoints that may share a slice.
type Group = (&'static str, Vec<(String, String, u16)>);

/// The slices of a Service that its selector makes of these Pods.
pub fn of_service(service: &Service, pods: &[Pod]) -> Vec<EndpointSlice> {
    let families = families(service);
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods
        .iter()
        .filter(|pod| selects(service, pod) && !endpoints::is_over(pod))
    {
        let ports = endpoints::ports(service, pod);
        for ip in addresses(pod) {
            let family = family_of(ip);
            if families.contains(&family) {
                let group = groups.entry((family, ports.clone())).or_default();
                group.push(endpoint(service, pod, ip));
            }
        }
    }
    let slices = groups.iter().flat_map(|(group, all)| {
        let parts = all.chunks(LARGEST);
        parts.map(move |part| (group, part))
    });
    slices
        .enumerate()
        .map(|(place, (group, part))| slice(service, group, part, place))
        .collect()
}

fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let said = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let known = ["IPv4", "IPv6"].into_iter();
    let mut found: Vec<_> = known
        .filter(|family| said.iter().any(|one| one == family))
        .collect();
    if found.is_empty() {
        let ips = spec.map(endpoints::cluster_ips).unwrap_or_default();
        found = ips.into_iter().map(family_of).collect();
    }
    if found.is_empty() {
        found.push("IPv4");
    }
    found
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn endpoint(service: &Service, pod: &Pod, ip: IpAddr) -> Endpoint {
    let unready_too = service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses);
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(unready_too == Some(true) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn slice(service: &Service, group: &Group, part: &[Endpoint], place: usize) -> EndpointSlice {
    let (family, ports) = group;
    let owner = service.metadata.name.clone().unwrap_or_default();
    let port = |(name, protocol, number): &(String, String, u16)| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(i32::from(*number)),
        ..Default::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!(
                "{owner}-{}",
                suffix(&format!("{owner}/{family}/{place}"))
            )),
            namespace: Some(namespace_of(&service.metadata).to_string()),
            labels: Some(BTreeMap::from([
                (SERVICE_LABEL.to_string(), owner),
                (MANAGER_LABEL.to_string(), MANAGER.to_string()),
            ])),
            creation_timestamp: service.metadata.creation_timestamp.clone(),
            ..Default::default()
        },
        address_type: (*family).to_string(),
        endpoints: part.to_vec(),
        ports: Some(ports.iter().map(port).collect()),
    }
}

/// Five letters as the API server makes them up, here always the same ones.
fn suffix(of: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = of.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let letters = (0..5).map(|_| {
        let place = usize::try_from(hash % 27).unwrap_or_default();
        hash /= 27;
        char::from(LETTERS[place])
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ips: &[&str], ready: bool) -> Pod {
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let value = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"phase": "Running", "podIPs": ips,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        serde_json::from_value(value).unwrap()
    }

    fn service(families: &[&str]) -> Service {
        let value = json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"ipFamilies": families, "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_family_has_a_slice_with_all_pods_of_the_selector() {
        let pods = [
            pod("web-1", &["10.244.0.2", "fd00::2"], true),
            pod("web-2", &["10.244.0.3", "fd00::3"], false),
        ];
        let slices = of_service(&service(&["IPv4", "IPv6"]), &pods);
        assert_eq!(slices.len(), 2);
        assert_ne!(slices[0].metadata.name, slices[1].metadata.name);
        assert_eq!(slices[0].address_type, "IPv4");
        let ready: Vec<_> = slices[0]
            .endpoints
            .iter()
            .map(|one| {
                (
                    one.addresses[0].as_str(),
                    one.conditions.clone().unwrap().ready.unwrap(),
                )
            })
            .collect();
        assert_eq!(ready, [("10.244.0.2", true), ("10.244.0.3", false)]);
        assert_eq!(slices[1].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(of_service(&service(&["IPv4"]), &pods).len(), 1);
        assert!(of_service(&service(&["IPv4"]), &[]).is_empty());
    }

    #[test]
    fn a_slice_has_at_most_a_hundred() {
        let pods: Vec<_> = (0..201)
            .map(|number| pod(&format!("web-{number}"), &[&format!("10.244.1.{number}")], true))
            .collect();
        let sizes: Vec<_> = of_service(&service(&[]), &pods)
            .iter()
            .map(|slice| slice.endpoints.len())
            .collect();
        assert_eq!(sizes, [100, 100, 1]);
    }
}
