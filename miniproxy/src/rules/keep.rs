//! A rule set → what single service ports have in it, so that they can be left as they are.
//!
//! A Service whose object was refused keeps the rules it has: its chains must not be taken for stale
//! ones, nor its rules in shared chains.

use std::collections::{BTreeMap, BTreeSet};

use super::fixed;
use super::name::ChainKind;
use super::part::Part;
use super::rule::{Match, Rule, Target};
use super::set::{Chains, Found, TableName};
use crate::model::Protocol;

/// `namespace/name:port` and the protocol: what tells one service port from all others.
pub type PortKey = (String, Protocol);

/// Namespace and name of the Service that a port's key belongs to.
pub fn service_of(key: &PortKey) -> (&str, &str) {
    let (namespace, rest) = key.0.split_once('/').unwrap_or(("", &key.0));
    (namespace, rest.split(':').next().unwrap_or(rest))
}

/// What each service port has that `wanted` says yes to, by namespace and name of its Service.
pub fn parts(found: &Found, wanted: impl Fn(&str, &str) -> bool) -> BTreeMap<PortKey, Part> {
    let empty = Chains::new();
    let nat = found.tables.get(&TableName::Nat).unwrap_or(&empty);
    let mut parts: BTreeMap<PortKey, Part> = BTreeMap::new();
    for table in TableName::ALL {
        for chain in fixed::chains(table) {
            for rule in found.chain(table, chain).unwrap_or_default() {
                let Some(key) = owner(rule) else { continue };
                let (namespace, name) = service_of(&key);
                if wanted(namespace, name) {
                    parts.entry(key).or_default().share(table, chain, rule.clone());
                }
            }
        }
    }
    for part in parts.values_mut() {
        let entries = part.shared.iter().filter_map(|(_, _, rule)| own_chain(rule));
        let mut ahead: Vec<String> = entries.map(str::to_string).collect();
        let mut seen = BTreeSet::new();
        while let Some(chain) = ahead.pop() {
            if !seen.insert(chain.clone()) {
                continue;
            }
            if let Some(rules) = nat.get(&chain) {
                ahead.extend(rules.iter().filter_map(own_chain).map(str::to_string));
                part.own.push((chain, rules.clone()));
            }
        }
    }
    parts
}

/// The chain of a single service port that a rule leads to.
fn own_chain(rule: &Rule) -> Option<&str> {
    match &rule.target {
        Some(Target::Jump(chain)) if ChainKind::of(chain).is_some() => Some(chain),
        _ => None,
    }
}

/// The service port that a rule of a shared chain is for, by its comment and its protocol.
///
/// A health check's rule is TCP whatever its Service speaks; it is one of its Service's all the same.
fn owner(rule: &Rule) -> Option<PortKey> {
    let comment = rule.comment_text()?;
    let name = comment.split(' ').next()?;
    let (namespace, rest) = name.split_once('/')?;
    if namespace.is_empty() || rest.is_empty() {
        return None;
    }
    let protocol = rule.matches.iter().find_map(|condition| match condition {
        Match::Protocol(protocol) => Some(*protocol),
        _ => None,
    })?;
    Some((name.to_string(), protocol))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use labkit::xtables::Family;

    use super::super::build::part;
    use super::super::set::Wanted;
    use super::*;
    use crate::model::{Endpoint, ProxyConfig, ServicePort, ServicePortName, TrafficPolicy};

    fn port(name: &str, ip: [u8; 4]) -> ServicePort {
        let endpoint = |target: &str, last| Endpoint {
            target: target.into(),
            ip: Ipv4Addr::new(10, 0, 0, last).into(),
            port: 8080,
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            zone_hints: vec![],
            node_hints: vec![],
        };
        ServicePort {
            name: ServicePortName {
                namespace: "default".into(),
                name: name.into(),
                port: "http".into(),
            },
            protocol: Protocol::Tcp,
            cluster_ip: IpAddr::from(ip),
            port: 80,
            node_port: Some(30080),
            external_ips: vec![],
            load_balancer_ips: vec![Ipv4Addr::new(198, 51, 100, 7).into()],
            source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            follow_hints: false,
            endpoints: vec![endpoint("10.0.0.1:8080", 1), endpoint("10.0.0.2:8080", 2)],
        }
    }

    #[test]
    fn a_service_is_found_whole_and_no_other() {
        let config = ProxyConfig::defaults(Family::V4);
        let (web, shop) = (port("web", [10, 96, 0, 80]), port("shop", [10, 96, 0, 81]));
        let mut wanted = fixed::base(&config);
        let (web, shop) = (part(&config, &web, false), part(&config, &shop, false));
        wanted.add(&web);
        wanted.add(&shop);
        let found = Found::from(&wanted);
        let kept = parts(&found, |namespace, name| (namespace, name) == ("default", "web"));
        assert_eq!(
            kept.keys().collect::<Vec<_>>(),
            [&("default/web:http".to_string(), Protocol::Tcp)]
        );
        let kept = kept.into_values().next().unwrap();
        let chains = |part: &Part| part.own.iter().cloned().collect::<BTreeMap<_, _>>();
        assert_eq!(chains(&kept), chains(&web));
        let shared = |part: &Part| {
            let mut wanted = Wanted::default();
            wanted.add_shared(part);
            wanted
        };
        assert_eq!(shared(&kept), shared(&web));
    }
}
