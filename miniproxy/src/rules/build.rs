//! Service ports and endpoints in, the rules kube-proxy would write out.
//!
//! Source: `syncProxyRules` in `pkg/proxy/iptables/proxier.go` and `CategorizeEndpoints` in
//! `pkg/proxy/topology.go` of Kubernetes 1.30.

use labkit::xtables::Family;

use super::fixed::{self, EXTERNAL_SERVICES, MARK_MASQ, NODE_PORTS, PROXY_FIREWALL, SERVICES};
use super::name::{ChainKind, ChainNames};
use super::part::Part;
use super::rule::{Match, Probability, Rule, Side, Target};
use super::set::{TableName, Wanted};
use crate::endpoints::Choice;
use crate::model::{
    Endpoint, LocalDetector, Model, Protocol, ProxyConfig, ServicePort, TrafficPolicy, host_port,
};
use crate::spread;

/// All rules for one IP family.
pub fn build(model: &Model) -> Wanted {
    let mut wanted = fixed::base(&model.config);
    let large = model.large_cluster();
    let mut own = Vec::new();
    for part in spread::map(&model.ports, |port| part(&model.config, port, large)) {
        wanted.add_shared(&part);
        own.extend(part.own);
    }
    wanted.add_own(own);
    wanted
        .chain(TableName::Nat, SERVICES)
        .extend(fixed::node_port_rules(&model.config));
    wanted
}

/// The rules of one service port; `large` as [`Model::large_cluster`] says.
pub fn part(config: &ProxyConfig, port: &ServicePort, large: bool) -> Part {
    let mut part = Part::default();
    PortRules::new(config, port, large).write(&mut part);
    part.own.shrink_to_fit();
    part.shared.shrink_to_fit();
    part
}

/// The rules of one service port: what was decided about it, and the words they are written with.
struct PortRules<'a> {
    config: &'a ProxyConfig,
    port: &'a ServicePort,
    choice: Choice<'a>,
    /// `namespace/name:port`, which begins every comment.
    name: String,
    chains: ChainNames,
    /// The chain of each reachable endpoint, in their order.
    endpoint_chains: Vec<String>,
    /// Whether each endpoint's rules carry a comment.
    endpoint_comments: bool,
}

impl<'a> PortRules<'a> {
    fn new(config: &'a ProxyConfig, port: &'a ServicePort, large: bool) -> Self {
        let choice = Choice::of(port, config);
        let chains = ChainNames::of(&port.name, port.protocol);
        let reachable = choice.reachable.iter();
        Self {
            config,
            port,
            name: port.name.to_string(),
            endpoint_chains: reachable
                .map(|endpoint| chains.endpoint(&endpoint.target))
                .collect(),
            chains,
            choice,
            endpoint_comments: !large,
        }
    }

    fn write(&self, part: &mut Part) {
        self.dispatch_cluster_ip(part);
        self.dispatch_external_ips(part);
        self.dispatch_load_balancer(part);
        self.dispatch_node_port(part);
        self.health_check(part);
        self.mark_cluster_traffic(part);
        self.external_chain(part);
        self.firewall_chain(part);
        if !self.choice.cluster.is_empty() && self.port.uses_cluster_endpoints() {
            self.balance(part, ChainKind::Service, &self.choice.cluster);
        }
        if !self.choice.local.is_empty() && self.port.uses_local_endpoints() {
            self.balance(part, ChainKind::ServiceLocal, &self.choice.local);
        }
        for (endpoint, chain) in self.choice.reachable.iter().zip(&self.endpoint_chains) {
            self.endpoint(part, endpoint, chain.clone());
        }
    }

    fn chain(&self, kind: ChainKind) -> String {
        self.chains.service(kind)
    }

    fn policy_chain(&self, policy: TrafficPolicy) -> String {
        self.chain(if policy == TrafficPolicy::Local {
            ChainKind::ServiceLocal
        } else {
            ChainKind::Service
        })
    }

    fn has_internal(&self) -> bool {
        self.choice.has_endpoints
            && (self.port.internal_policy == TrafficPolicy::Cluster || !self.choice.local.is_empty())
    }

    fn has_external(&self) -> bool {
        self.choice.has_endpoints
            && (self.port.external_policy == TrafficPolicy::Cluster || !self.choice.local.is_empty())
    }

    fn uses_firewall(&self) -> bool {
        self.choice.has_endpoints
            && !self.port.load_balancer_ips.is_empty()
            && !self.port.source_ranges.is_empty()
    }

    /// `-m comment … -m tcp -p tcp -d IP --dport PORT`
    fn to_address(&self, comment: &str, ip: std::net::IpAddr) -> Rule {
        Rule::with_room(4)
            .comment(format!("{} {comment}", self.name))
            .protocol(self.port.protocol)
            .host(Side::Destination, ip)
            .port(self.port.port)
    }

    /// What a packet that finds no endpoint is told, and the comment that says why.
    fn refusal(&self) -> (&'static str, Target) {
        if self.choice.has_endpoints {
            ("has no local endpoints", Target::Drop)
        } else {
            ("has no endpoints", Target::Reject)
        }
    }

    fn dispatch_cluster_ip(&self, part: &mut Part) {
        if self.has_internal() {
            let rule = self.to_address("cluster IP", self.port.cluster_ip);
            let chain = self.policy_chain(self.port.internal_policy);
            part.share(TableName::Nat, SERVICES, rule.jump(chain));
        } else {
            let (comment, target) = self.refusal();
            let rule = self.to_address(comment, self.port.cluster_ip).to(target);
            part.share(TableName::Filter, SERVICES, rule);
        }
    }

    fn dispatch_external_ips(&self, part: &mut Part) {
        for ip in &self.port.external_ips {
            if self.choice.has_endpoints {
                let rule = self
                    .to_address("external IP", *ip)
                    .jump(self.chain(ChainKind::External));
                part.share(TableName::Nat, SERVICES, rule);
            }
            self.refuse_external(part, *ip);
        }
    }

    fn refuse_external(&self, part: &mut Part, ip: std::net::IpAddr) {
        if !self.has_external() {
            let (comment, target) = self.refusal();
            let rule = self.to_address(comment, ip).to(target);
            part.share(TableName::Filter, EXTERNAL_SERVICES, rule);
        }
    }

    fn dispatch_load_balancer(&self, part: &mut Part) {
        let entry = if self.uses_firewall() {
            ChainKind::Firewall
        } else {
            ChainKind::External
        };
        for ip in &self.port.load_balancer_ips {
            if self.choice.has_endpoints {
                let rule = self.to_address("loadbalancer IP", *ip).jump(self.chain(entry));
                part.share(TableName::Nat, SERVICES, rule);
            }
            if self.uses_firewall() {
                let comment = format!("traffic not accepted by {}", self.chain(ChainKind::Firewall));
                let rule = self.to_address(&comment, *ip).to(Target::Drop);
                part.share(TableName::Filter, PROXY_FIREWALL, rule);
            }
        }
        for ip in &self.port.load_balancer_ips {
            self.refuse_external(part, *ip);
        }
    }

    fn dispatch_node_port(&self, part: &mut Part) {
        let Some(node_port) = self.port.node_port else {
            return;
        };
        if self.choice.has_endpoints {
            let external = self.chain(ChainKind::External);
            let begin = || Rule::new().comment(&self.name).protocol(self.port.protocol);
            if self.counts_localhost() {
                let rule = begin()
                    .network(Side::Destination, fixed::localnet(), false)
                    .port(node_port)
                    .with(Match::Counter(fixed::LOCALHOST_ACCEPTED.into()));
                part.share(TableName::Nat, NODE_PORTS, rule.jump(&external));
            }
            part.share(TableName::Nat, NODE_PORTS, begin().port(node_port).jump(external));
        }
        if !self.has_external() {
            let (comment, target) = self.refusal();
            let rule = Rule::new()
                .comment(format!("{} {comment}", self.name))
                .with(Match::LocalAddress(Side::Destination))
                .protocol(self.port.protocol)
                .port(node_port)
                .to(target);
            part.share(TableName::Filter, EXTERNAL_SERVICES, rule);
        }
    }

    fn counts_localhost(&self) -> bool {
        self.config.family == Family::V4 && self.config.localhost_node_ports && self.config.counters.localhost
    }

    fn health_check(&self, part: &mut Part) {
        let Some(port) = self.port.health_check_node_port else {
            return;
        };
        let comment = format!("{} health check node port", self.name);
        let rule = Rule::new()
            .comment(comment)
            .protocol(Protocol::Tcp)
            .port(port)
            .to(Target::Accept);
        part.share(TableName::Filter, NODE_PORTS, rule);
    }

    /// Traffic to the cluster IP that does not come from a pod must come back through this node.
    fn mark_cluster_traffic(&self, part: &mut Part) {
        if !self.has_internal() {
            return;
        }
        let rule = self.to_address("cluster IP", self.port.cluster_ip);
        let rule = if self.config.masquerade_all {
            rule
        } else {
            match self.local_traffic(true) {
                Some(condition) => rule.with(condition),
                None => return,
            }
        };
        let chain = self.policy_chain(self.port.internal_policy);
        part.chain(chain).push(rule.jump(MARK_MASQ));
    }

    /// The condition that tells local pods' traffic, or (`negated`) all other traffic.
    fn local_traffic(&self, negated: bool) -> Option<Match> {
        match &self.config.local_detector {
            LocalDetector::None => None,
            LocalDetector::Cidr(network) => Some(Match::Address {
                side: Side::Source,
                network: *network,
                negated,
            }),
            LocalDetector::Interface(name) => Some(Match::Interface {
                side: Side::Source,
                name: name.clone(),
                negated,
            }),
        }
    }

    fn external_chain(&self, part: &mut Part) {
        if !self.choice.has_endpoints || !self.port.externally_accessible() {
            return;
        }
        let name = &self.name;
        let service = self.chain(ChainKind::Service);
        let mut rules = Vec::new();
        if self.port.external_policy == TrafficPolicy::Cluster {
            let comment = format!("masquerade traffic for {name} external destinations");
            rules.push(Rule::new().comment(comment).jump(MARK_MASQ));
        } else {
            if let Some(condition) = self.local_traffic(false) {
                let comment = format!("pod traffic for {name} external destinations");
                rules.push(Rule::new().comment(comment).with(condition).jump(&service));
            }
            for (verb, target) in [("masquerade", MARK_MASQ), ("route", &service)] {
                let comment = format!("{verb} LOCAL traffic for {name} external destinations");
                rules.push(
                    Rule::new()
                        .comment(comment)
                        .with(Match::LocalAddress(Side::Source))
                        .jump(target),
                );
            }
        }
        if self.has_external() {
            rules.push(Rule::new().jump(self.policy_chain(self.port.external_policy)));
        }
        *part.chain(self.chain(ChainKind::External)) = rules;
    }

    fn firewall_chain(&self, part: &mut Part) {
        if !self.uses_firewall() {
            return;
        }
        let admit = || Rule::new().comment(format!("{} loadbalancer IP", self.name));
        let external = self.chain(ChainKind::External);
        let ranges = &self.port.source_ranges;
        let mut rules: Vec<Rule> = ranges
            .iter()
            .map(|range| admit().network(Side::Source, *range, false).jump(&external))
            .collect();
        // The node calls itself through the load balancer's address: then that is its source too.
        if self
            .config
            .node_ip
            .is_some_and(|ip| ranges.iter().any(|range| range.contains(&ip)))
        {
            for ip in &self.port.load_balancer_ips {
                rules.push(admit().host(Side::Source, *ip).jump(&external));
            }
        }
        rules.push(Rule::new().comment(format!(
            "other traffic to {} will be dropped by {PROXY_FIREWALL}",
            self.name
        )));
        *part.chain(self.chain(ChainKind::Firewall)) = rules;
    }

    /// The dice: each rule takes 1/(those that are left), the last takes the rest.
    fn balance(&self, part: &mut Part, kind: ChainKind, endpoints: &[&Endpoint]) {
        let rules = part.chain(self.chain(kind));
        let begin = |endpoint: &Endpoint| {
            if self.endpoint_comments {
                Rule::new().comment(format!("{} -> {}", self.name, endpoint.target))
            } else {
                Rule::new()
            }
        };
        if let Some(seconds) = self.port.affinity_seconds {
            for endpoint in endpoints {
                let list = self.endpoint_chain(endpoint);
                let remembered = Match::RecentCheck {
                    list: list.clone(),
                    seconds,
                    reap: true,
                };
                rules.push(begin(endpoint).with(remembered).jump(list));
            }
        }
        for (endpoint, left) in endpoints.iter().zip((1..=endpoints.len()).rev()) {
            let rule = match u32::try_from(left) {
                Ok(left) if left > 1 => begin(endpoint).with(Match::Statistic(Probability::one_in(left))),
                _ => begin(endpoint),
            };
            rules.push(rule.jump(self.endpoint_chain(endpoint)));
        }
    }

    /// The chain of an endpoint that is used, and so is reachable.
    fn endpoint_chain(&self, endpoint: &Endpoint) -> String {
        let reachable = &self.choice.reachable;
        let found = reachable.binary_search_by(|known| known.target.cmp(&endpoint.target));
        match found.ok().and_then(|at| self.endpoint_chains.get(at)) {
            Some(chain) => chain.clone(),
            None => self.chains.endpoint(&endpoint.target),
        }
    }

    fn endpoint(&self, part: &mut Part, endpoint: &Endpoint, chain: String) {
        let begin = || {
            if self.endpoint_comments {
                Rule::new().comment(&self.name)
            } else {
                Rule::new()
            }
        };
        // Hairpin: a pod that reaches itself must see an answer from somebody else.
        let hairpin = begin().host(Side::Source, endpoint.ip).jump(MARK_MASQ);
        // The kernel knows one spelling of an address; only the hash keeps the slice's.
        let destination = host_port(&endpoint.ip.to_string(), endpoint.port);
        let mut dnat = begin();
        if self.port.affinity_seconds.is_some() {
            dnat = dnat.with(Match::RecentSet { list: chain.clone() });
        }
        let dnat = dnat.protocol(self.port.protocol).to(Target::Dnat(destination));
        *part.chain(chain) = vec![hairpin, dnat];
    }
}
