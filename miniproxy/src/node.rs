//! Whose rules are built: the node, and how its traffic is told apart.

use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use crate::model::{LocalDetector, Model, ProxyConfig};
use crate::registry::{Registry, model, name_of};
use crate::rules::build::build;
use crate::rules::set::Wanted;

/// What was asked for on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeOptions {
    /// The Node's name; the registry's only one when absent.
    pub name: Option<String>,
    /// The pods' networks.
    pub cluster_cidrs: Vec<IpNet>,
    /// The name to fall back to: the host's.
    pub host_name: String,
}

impl NodeOptions {
    /// The service ports of one family, as this node's proxy sees them.
    pub fn model(&self, registry: &Registry, family: Family) -> Model {
        let mut config = ProxyConfig::defaults(family);
        let of_family = |cidr: &&IpNet| {
            matches!(
                (cidr.addr(), family),
                (IpAddr::V4(_), Family::V4) | (IpAddr::V6(_), Family::V6)
            )
        };
        if let Some(cidr) = self.cluster_cidrs.iter().find(of_family) {
            config.local_detector = LocalDetector::Cidr(cidr.trunc());
        }
        model::model(registry, config, &self.node_name(registry))
    }

    /// Everything the kernel should have for one family.
    pub fn wanted(&self, registry: &Registry, family: Family) -> Wanted {
        build(&self.model(registry, family))
    }

    fn node_name(&self, registry: &Registry) -> String {
        match (&self.name, registry.nodes.as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [only]) => name_of(&only.metadata).to_string(),
            (None, _) => self.host_name.clone(),
        }
    }
}
