//! What one IP family should have, Service by Service, so that one that changed costs only itself.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use labkit::xtables::Family;

use crate::model::{LARGE_CLUSTER_ENDPOINTS, Model, ProxyConfig, ServicePort};
use crate::registry::ServiceKey;
use crate::rules::build::part;
use crate::rules::fixed;
use crate::rules::keep::{self, PortKey};
use crate::rules::part::Part;
use crate::rules::set::{Found, TableName, Wanted};
use crate::spread;

/// The ports of one Service and their rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceRules {
    /// The ports; empty where the rules were found and are left as they are.
    pub ports: Vec<ServicePort>,
    /// The rules of each port.
    pub parts: Vec<(PortKey, Part)>,
}

impl ServiceRules {
    fn of(config: &ProxyConfig, ports: Vec<ServicePort>, large: bool) -> Self {
        Self {
            parts: parts(config, &ports, large),
            ports,
        }
    }

    /// The names of the chains that only this Service has.
    pub fn own_chains(&self) -> impl Iterator<Item = &String> {
        let parts = self.parts.iter();
        parts.flat_map(|(_, part)| part.own.iter().map(|(chain, _)| chain))
    }

    /// As a rule set by itself, to be read by [`crate::rules::view`].
    pub fn alone(&self) -> Found {
        let mut wanted = Wanted::default();
        for (_, part) in &self.parts {
            wanted.add(part);
        }
        Found {
            tables: wanted.tables,
        }
    }

    fn endpoints(&self) -> usize {
        self.ports.iter().map(|port| port.endpoints.len()).sum()
    }
}

fn parts(config: &ProxyConfig, ports: &[ServicePort], large: bool) -> Vec<(PortKey, Part)> {
    let key = |port: &ServicePort| (port.name.to_string(), port.protocol);
    ports
        .iter()
        .map(|port| (key(port), part(config, port, large)))
        .collect()
}

/// All Services of one family by name, with their rules.
pub type Services = BTreeMap<ServiceKey, Rc<ServiceRules>>;

/// What one family should have.
#[derive(Debug)]
pub struct Desired {
    config: ProxyConfig,
    services: Services,
    /// Services that are left as they were found.
    kept: BTreeSet<ServiceKey>,
    /// Endpoints of all service ports.
    endpoints: usize,
    large: bool,
}

impl Desired {
    /// Nothing yet but what no Service changes.
    pub fn new(family: Family) -> Self {
        Self {
            config: ProxyConfig::defaults(family),
            services: Services::new(),
            kept: BTreeSet::new(),
            endpoints: 0,
            large: false,
        }
    }

    /// The configuration the rules are made with.
    pub fn config(&self) -> &ProxyConfig {
        &self.config
    }

    /// All Services.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Services that are left as they were found.
    pub fn kept(&self) -> &BTreeSet<ServiceKey> {
        &self.kept
    }

    /// Takes a configuration and all Services anew; those that are kept and that `keeps` names stay.
    pub fn replace(
        &mut self,
        config: ProxyConfig,
        services: Vec<(ServiceKey, Vec<ServicePort>)>,
        keeps: impl Fn(&ServiceKey) -> bool,
    ) {
        self.config = config;
        self.kept.retain(keeps);
        let kept = &self.kept;
        self.services.retain(|key, _| kept.contains(key));
        let new = services.into_iter();
        let new: Vec<(ServiceKey, Vec<ServicePort>)> = new
            .filter(|(key, ports)| !ports.is_empty() && !kept.contains(key))
            .collect();
        let ports = new.iter().flat_map(|(_, ports)| ports);
        self.endpoints = ports.map(|port| port.endpoints.len()).sum();
        self.large = self.endpoints > LARGE_CLUSTER_ENDPOINTS;
        let (config, large) = (&self.config, self.large);
        let rules = spread::map(&new, |(_, ports)| parts(config, ports, large));
        let new = new.into_iter().zip(rules);
        self.services
            .extend(new.map(|((key, ports), parts)| (key, Rc::new(ServiceRules { ports, parts }))));
    }

    /// Takes a Service as it is now, without ports when it is gone; true when its rules may differ.
    pub fn update(&mut self, key: &ServiceKey, ports: Vec<ServicePort>) -> bool {
        let kept = self.kept.remove(key);
        let before = self.services.get(key);
        if !kept && before.map_or(&[][..], |before| &before.ports) == ports.as_slice() {
            return false;
        }
        self.endpoints -= before.map_or(0, |before| before.endpoints());
        if ports.is_empty() {
            self.services.remove(key);
        } else {
            let rules = ServiceRules::of(&self.config, ports, self.large);
            self.endpoints += rules.endpoints();
            self.services.insert(key.clone(), Rc::new(rules));
        }
        true
    }

    /// After updates: whether endpoints have comments may have changed, and then all Services did.
    pub fn settle(&mut self) -> bool {
        let large = self.endpoints > LARGE_CLUSTER_ENDPOINTS;
        if large == self.large {
            return false;
        }
        self.large = large;
        for (key, rules) in &mut self.services {
            if !self.kept.contains(key) {
                *rules = Rc::new(ServiceRules::of(&self.config, rules.ports.clone(), large));
            }
        }
        true
    }

    /// Leaves Services as they are in `found`: those that `keeps` names and that have rules there.
    pub fn keep(&mut self, found: &Found, keeps: impl Fn(&ServiceKey, bool) -> bool) {
        let parts = keep::parts(found, |namespace, name| {
            let key = (namespace.to_string(), name.to_string());
            keeps(&key, self.services.contains_key(&key))
        });
        let mut kept: BTreeMap<ServiceKey, ServiceRules> = BTreeMap::new();
        for (port, part) in parts {
            let (namespace, name) = keep::service_of(&port);
            let rules = kept.entry((namespace.to_string(), name.to_string())).or_default();
            rules.parts.push((port, part));
        }
        for (key, rules) in kept {
            let before = self.services.insert(key.clone(), Rc::new(rules));
            self.endpoints -= before.map_or(0, |before| before.endpoints());
            self.kept.insert(key);
        }
    }

    /// Every rule of the family.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = self.shared();
        let parts = self
            .services
            .values()
            .flat_map(|rules| rules.parts.iter().map(|(_, part)| part));
        wanted.add_own(parts.flat_map(|part| part.own.iter().cloned()));
        wanted
    }

    /// The chains that all Services share, and the own chains of these.
    pub fn wanted_of(&self, services: &BTreeSet<ServiceKey>) -> Wanted {
        let mut wanted = self.shared();
        let nat = wanted.tables.entry(TableName::Nat).or_default();
        let rules = services.iter().filter_map(|key| self.services.get(key));
        for part in rules.flat_map(|rules| rules.parts.iter().map(|(_, part)| part)) {
            nat.extend(part.own.iter().cloned());
        }
        wanted
    }

    /// The service ports, as what is told of them is computed from.
    pub fn model(&self) -> Model {
        Model {
            config: self.config.clone(),
            ports: self
                .services
                .values()
                .flat_map(|rules| rules.ports.clone())
                .collect(),
        }
    }

    /// All rules by table, and all our chains, counted.
    pub fn totals(&self) -> (BTreeMap<TableName, usize>, usize) {
        let shared = self.shared();
        let mut rules: BTreeMap<TableName, usize> = TableName::ALL
            .map(|table| (table, shared.rule_count(table)))
            .into();
        let mut chains = shared.tables.values().map(BTreeMap::len).sum();
        let parts = self
            .services
            .values()
            .flat_map(|rules| rules.parts.iter().map(|(_, part)| part));
        for (_, own) in parts.flat_map(|part| &part.own) {
            *rules.entry(TableName::Nat).or_default() += own.len();
            chains += 1;
        }
        (rules, chains)
    }

    fn shared(&self) -> Wanted {
        let mut wanted = fixed::base(&self.config);
        for part in self
            .services
            .values()
            .flat_map(|rules| rules.parts.iter().map(|(_, part)| part))
        {
            wanted.add_shared(part);
        }
        wanted
            .chain(TableName::Nat, fixed::SERVICES)
            .extend(fixed::node_port_rules(&self.config));
        wanted
    }
}
