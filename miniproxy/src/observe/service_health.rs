//! `healthCheckNodePort`: where a load balancer asks whether this node has ready endpoints of a
//! Service that wants its traffic to stay on the node.
//!
//! kube-proxy keeps one such server for each IP family, and both want the same port. What then
//! happens was recorded: the IPv4 one comes first, and the IPv6 one gets what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use labkit::xtables::Family;

use super::Answer;
use crate::model::Model;

/// One Service's port to ask at, in one IP family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The IP family whose endpoints are counted.
    pub family: Family,
    /// The port.
    pub port: u16,
    /// Where it is asked.
    pub at: At,
    /// Addresses on this node that take new connections.
    pub local_endpoints: usize,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// On every address, of both IP families.
    Everywhere,
    /// On these only.
    Addresses(Vec<IpAddr>),
}

/// What should be served, of all families: IPv4 first.
pub fn checks(models: &[Model]) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for model in models {
        for check in of_family(model) {
            let rival = checks
                .iter()
                .find(|other| other.name == check.name && other.namespace == check.namespace);
            if rival.is_none_or(|rival| can_share(&rival.at, &check.at)) {
                checks.push(check);
            }
        }
    }
    checks
}

/// A socket that listens everywhere leaves no room for another one at its port.
fn can_share(one: &At, other: &At) -> bool {
    let empty = |at: &At| matches!(at, At::Addresses(addresses) if addresses.is_empty());
    let everywhere = |at: &At| *at == At::Everywhere;
    empty(one) || empty(other) || !(everywhere(one) || everywhere(other))
}

fn of_family(model: &Model) -> impl Iterator<Item = Check> {
    let at = match &model.config.node_port_addresses {
        None => At::Everywhere,
        Some(addresses) => At::Addresses(addresses.clone()),
    };
    // One server for each Service, whatever the number of its ports.
    let mut services: BTreeMap<(&str, &str), (u16, BTreeSet<IpAddr>)> = BTreeMap::new();
    for port in &model.ports {
        let Some(number) = port.health_check_node_port else {
            continue;
        };
        let key = (port.name.namespace.as_str(), port.name.name.as_str());
        let (_, local) = services.entry(key).or_insert((number, BTreeSet::new()));
        // Ready is what takes new connections: not what is on its way out.
        let ready = port
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.local && endpoint.ready);
        local.extend(ready.map(|endpoint| endpoint.ip));
    }
    let family = model.config.family;
    services
        .into_iter()
        .map(move |((namespace, name), (port, local))| Check {
            namespace: namespace.to_string(),
            name: name.to_string(),
            family,
            port,
            at: at.clone(),
            local_endpoints: local.len(),
        })
}

impl Check {
    /// The answer to whatever is asked at this port.
    pub fn answer(&self, proxy_is_healthy: bool) -> Answer {
        let count = self.local_endpoints;
        let good = count != 0 && proxy_is_healthy;
        // Names that Kubernetes allows need no escapes; others must not break out.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let body = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {proxy_is_healthy}\n}}",
            quoted(&self.namespace),
            quoted(&self.name)
        );
        let mut answer = Answer::json(if good { 200 } else { 503 }, body);
        answer
            .headers
            .push(("x-load-balancing-endpoint-weight", count.to_string()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Protocol, ProxyConfig, ServicePort, ServicePortName, TrafficPolicy};

    fn endpoint(ip: &str, ready: bool, local: bool) -> Endpoint {
        Endpoint {
            target: crate::model::host_port(ip, 8080),
            ip: ip.parse().unwrap(),
            port: 8080,
            ready,
            serving: true,
            terminating: !ready,
            local,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }

    fn port(name: &str, endpoints: Vec<Endpoint>) -> ServicePort {
        ServicePort {
            name: ServicePortName {
                namespace: "default".into(),
                name: "web".into(),
                port: name.into(),
            },
            protocol: Protocol::Tcp,
            cluster_ip: "10.96.0.10".parse().unwrap(),
            port: 80,
            node_port: Some(30080),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Local,
            health_check_node_port: Some(32000),
            follow_hints: false,
            endpoints,
        }
    }

    fn model(family: Family, addresses: Option<&[&str]>, ports: Vec<ServicePort>) -> Model {
        let mut config = ProxyConfig::defaults(family);
        config.node_port_addresses =
            addresses.map(|addresses| addresses.iter().map(|ip| ip.parse().unwrap()).collect());
        Model { config, ports }
    }

    #[test]
    fn addresses_are_counted_once_and_only_those_that_are_ready_and_here() {
        let http = vec![
            endpoint("10.0.0.1", true, true),
            endpoint("10.0.0.2", false, true),
            endpoint("10.0.0.3", true, false),
        ];
        let admin = vec![endpoint("10.0.0.1", true, true), endpoint("10.0.0.4", true, true)];
        let model = model(Family::V4, None, vec![port("http", http), port("admin", admin)]);
        let checks = checks(&[model]);
        assert_eq!(checks.len(), 1, "{checks:?}");
        assert_eq!((checks[0].port, checks[0].local_endpoints), (32000, 2));
        assert_eq!(checks[0].at, At::Everywhere);
    }

    #[test]
    fn of_two_families_the_second_gets_what_is_left() {
        let v4 = |addresses| {
            model(
                Family::V4,
                addresses,
                vec![port("", vec![endpoint("10.0.0.1", true, true)])],
            )
        };
        let v6 = |addresses| {
            model(
                Family::V6,
                addresses,
                vec![port("", vec![endpoint("fd00::1", true, true)])],
            )
        };
        let families = |models: &[Model]| -> Vec<Family> {
            let checks = checks(models);
            checks.iter().map(|check| check.family).collect()
        };
        let (here, there): (&[&str], &[&str]) = (&["192.0.2.10"], &["2001:db8::10"]);
        assert_eq!(families(&[v4(None), v6(None)]), [Family::V4]);
        assert_eq!(families(&[v4(Some(here)), v6(None)]), [Family::V4]);
        assert_eq!(
            families(&[v4(Some(here)), v6(Some(there))]),
            [Family::V4, Family::V6]
        );
        assert_eq!(families(&[v4(Some(&[])), v6(None)]), [Family::V4, Family::V6]);
        assert_eq!(
            families(&[model(Family::V4, None, vec![]), v6(None)]),
            [Family::V6]
        );
    }

    #[test]
    fn the_answer_is_kube_proxys_to_the_byte() {
        let two = vec![endpoint("10.0.0.1", true, true), endpoint("10.0.0.2", true, true)];
        let check = checks(&[model(Family::V4, None, vec![port("", two)])]).swap_remove(0);
        let answer = check.answer(true);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("2"));
        assert_eq!(
            answer.body,
            "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
        );
        assert_eq!(check.answer(false).status, 503);
        let none = Check {
            local_endpoints: 0,
            ..check
        };
        let answer = none.answer(true);
        assert_eq!(
            (answer.status, answer.header("x-load-balancing-endpoint-weight")),
            (503, Some("0"))
        );
    }
}
