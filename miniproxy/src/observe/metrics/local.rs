//! Who insists on endpoints of this node and has none.

use crate::endpoints::Choice;
use crate::model::{Model, TrafficPolicy};

/// Service ports that want local endpoints only, have endpoints, and have none on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// By `internalTrafficPolicy`.
    pub internal: usize,
    /// By `externalTrafficPolicy`.
    pub external: usize,
}

impl NoLocalEndpoints {
    /// Counts them.
    pub fn of(model: &Model) -> Self {
        let mut count = Self::default();
        for port in model.ports.iter().filter(|port| port.uses_local_endpoints()) {
            let choice = Choice::of(port, &model.config);
            if choice.has_endpoints && choice.local.is_empty() {
                count.internal += usize::from(port.internal_policy == TrafficPolicy::Local);
                count.external += usize::from(port.external_policy == TrafficPolicy::Local);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use labkit::xtables::Family;

    use super::*;
    use crate::model::{Endpoint, Protocol, ProxyConfig, ServicePort, ServicePortName};

    const CLUSTER: TrafficPolicy = TrafficPolicy::Cluster;
    const LOCAL: TrafficPolicy = TrafficPolicy::Local;

    fn endpoint(last: u8, local: bool) -> Endpoint {
        Endpoint {
            target: format!("10.0.0.{last}:8080"),
            ip: Ipv4Addr::new(10, 0, 0, last).into(),
            port: 8080,
            ready: true,
            serving: true,
            terminating: false,
            local,
            zone_hints: vec![],
            node_hints: vec![],
        }
    }

    /// A Service with a node port, an endpoint for each of `here`: on this node, or on another one.
    fn model(internal: TrafficPolicy, external: TrafficPolicy, here: &[bool]) -> Model {
        let port = ServicePort {
            name: ServicePortName {
                namespace: "default".into(),
                name: "web".into(),
                port: "http".into(),
            },
            protocol: Protocol::Tcp,
            cluster_ip: IpAddr::from([10, 96, 0, 80]),
            port: 80,
            node_port: Some(30080),
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            affinity_seconds: None,
            internal_policy: internal,
            external_policy: external,
            health_check_node_port: None,
            follow_hints: false,
            endpoints: (1..)
                .zip(here)
                .map(|(last, local)| endpoint(last, *local))
                .collect(),
        };
        Model {
            config: ProxyConfig::defaults(Family::V4),
            ports: vec![port],
        }
    }

    /// Internal and external policy, which endpoints are here, and what is counted.
    type Case<'a> = (TrafficPolicy, TrafficPolicy, &'a [bool], (usize, usize));

    #[test]
    fn a_policy_without_what_it_insists_on_counts_unless_there_is_nothing_anywhere() {
        let (both, elsewhere, nothing) = ([true, false], [false, false], []);
        let cases: [Case; 7] = [
            (LOCAL, CLUSTER, &both, (0, 0)),
            (CLUSTER, LOCAL, &both, (0, 0)),
            (LOCAL, LOCAL, &both, (0, 0)),
            (LOCAL, CLUSTER, &elsewhere, (1, 0)),
            (CLUSTER, LOCAL, &elsewhere, (0, 1)),
            (LOCAL, LOCAL, &elsewhere, (1, 1)),
            (LOCAL, LOCAL, &nothing, (0, 0)),
        ];
        for (internal, external, here, (inside, outside)) in cases {
            let count = NoLocalEndpoints::of(&model(internal, external, here));
            let expected = NoLocalEndpoints {
                internal: inside,
                external: outside,
            };
            assert_eq!(count, expected, "{internal:?} {external:?} {here:?}");
        }
    }
}
