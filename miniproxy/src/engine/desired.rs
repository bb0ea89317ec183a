//! What one IP family should have, Service by Service, so that one that changed costs only itself.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use labkit::xtables::Family;

use crate::model::{LARGE_CLUSTER_ENDPOINTS, Model, ProxyConfig, ServicePort};
use crate::registry::ServiceKey;
use crate::rules::build::part;
use crate::rules::fixed;
use crate::rules::keep::{self, PortKey};
use crate::rules::part::{ByChain, Part};
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

    /// Its rules alone, to be read by [`crate::rules::view`].
    pub fn by_chain(&self) -> ByChain<'_> {
        ByChain::of(self.parts.iter().map(|(_, part)| part))
    }

    fn size(&self) -> Size {
        let mut size = Size {
            ports: self.parts.len(),
            endpoints: self.ports.iter().map(|port| port.endpoints.len()).sum(),
            ..Size::default()
        };
        for (_, part) in &self.parts {
            size.chains += part.own.len();
            size.nat += part.own.iter().map(|(_, rules)| rules.len()).sum::<usize>();
            let in_nat = part.shared.iter().filter(|(table, ..)| *table == TableName::Nat);
            let in_nat = in_nat.count();
            size.nat += in_nat;
            size.filter += part.shared.len() - in_nat;
        }
        size
    }
}

/// What Services come to, so that nobody has to count them all again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    ports: usize,
    endpoints: usize,
    chains: usize,
    filter: usize,
    nat: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.ports += other.ports;
        self.endpoints += other.endpoints;
        self.chains += other.chains;
        self.filter += other.filter;
        self.nat += other.nat;
    }

    fn take(&mut self, other: Self) {
        self.ports -= other.ports;
        self.endpoints -= other.endpoints;
        self.chains -= other.chains;
        self.filter -= other.filter;
        self.nat -= other.nat;
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
    /// What all Services come to.
    size: Size,
    large: bool,
}

impl Desired {
    /// Nothing yet but what no Service changes.
    pub fn new(family: Family) -> Self {
        Self {
            config: ProxyConfig::defaults(family),
            services: Services::new(),
            kept: BTreeSet::new(),
            size: Size::default(),
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
        let endpoints: usize = ports.map(|port| port.endpoints.len()).sum();
        self.large = endpoints > LARGE_CLUSTER_ENDPOINTS;
        let (config, large) = (&self.config, self.large);
        let rules = spread::map(&new, |(_, ports)| parts(config, ports, large));
        let new = new.into_iter().zip(rules);
        self.services
            .extend(new.map(|((key, ports), parts)| (key, Rc::new(ServiceRules { ports, parts }))));
        self.size = Size::default();
        for rules in self.services.values() {
            self.size.add(rules.size());
        }
    }

    /// Puts a Service in the place of what it was, or takes it away.
    fn put(&mut self, key: &ServiceKey, rules: Option<ServiceRules>) {
        self.size
            .add(rules.as_ref().map(ServiceRules::size).unwrap_or_default());
        let before = match rules {
            Some(rules) => self.services.insert(key.clone(), Rc::new(rules)),
            None => self.services.remove(key),
        };
        self.size
            .take(before.map(|before| before.size()).unwrap_or_default());
    }

    /// Takes a Service as it is now, without ports when it is gone; true when its rules may differ.
    pub fn update(&mut self, key: &ServiceKey, ports: Vec<ServicePort>) -> bool {
        let kept = self.kept.remove(key);
        let before = self.services.get(key);
        if !kept && before.map_or(&[][..], |before| &before.ports) == ports.as_slice() {
            return false;
        }
        let rules = (!ports.is_empty()).then(|| ServiceRules::of(&self.config, ports, self.large));
        self.put(key, rules);
        true
    }

    /// After updates: whether endpoints have comments may have changed, and then all Services did.
    pub fn settle(&mut self) -> bool {
        let large = self.size.endpoints > LARGE_CLUSTER_ENDPOINTS;
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
            self.put(&key, Some(rules));
            self.kept.insert(key);
        }
    }

    /// Every rule of the family.
    pub fn wanted(&self) -> Wanted {
        let mut wanted = self.base();
        let last = std::mem::take(wanted.chain(TableName::Nat, fixed::SERVICES));
        let parts = || {
            let services = self.services.values();
            services.flat_map(|rules| rules.parts.iter().map(|(_, part)| part))
        };
        for part in parts() {
            wanted.add_shared(part);
        }
        wanted.chain(TableName::Nat, fixed::SERVICES).extend(last);
        let parts = parts();
        wanted.add_own(parts.flat_map(|part| part.own.iter().cloned()));
        wanted
    }

    /// How many service ports there are.
    pub fn port_count(&self) -> usize {
        self.size.ports
    }

    /// The service ports that `about` says yes to, as what is told of them is computed from.
    pub fn model_of(&self, about: impl Fn(&ServicePort) -> bool) -> Model {
        let ports = self.services.values().flat_map(|rules| &rules.ports);
        Model {
            config: self.config.clone(),
            ports: ports.filter(|port| about(port)).cloned().collect(),
        }
    }

    /// All rules by table, and all our chains, counted.
    pub fn totals(&self) -> (BTreeMap<TableName, usize>, usize) {
        let base = self.base();
        let rules = TableName::ALL.map(|table| {
            let of_services = match table {
                TableName::Filter => self.size.filter,
                TableName::Nat => self.size.nat,
                TableName::Raw | TableName::Mangle | TableName::Security => 0,
            };
            (table, base.rule_count(table) + of_services)
        });
        let chains: usize = base.tables.values().map(BTreeMap::len).sum();
        (rules.into(), chains + self.size.chains)
    }

    /// What is there with or without Services; of nat `KUBE-SERVICES` what must come last.
    fn base(&self) -> Wanted {
        let mut wanted = fixed::base(&self.config);
        *wanted.chain(TableName::Nat, fixed::SERVICES) = fixed::node_port_rules(&self.config);
        wanted
    }
}
