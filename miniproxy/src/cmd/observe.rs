//! What a watch tells whoever asks over HTTP. Without `--serve` every method does nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use labkit::Failure;
use labkit::shell::tell;
use labkit::xtables::Family;

use crate::edge::serve::Servers;
use crate::model::Model;
use crate::node::NodeOptions;
use crate::observe::health::eligible;
use crate::observe::metrics::{Metrics, NoLocalEndpoints, Rules, Sync};
use crate::observe::service_health::checks;

/// The servers, if there are any.
pub(super) struct Observer {
    servers: Option<Servers>,
    /// What was last said about ports that are not open, so that it is said once.
    complaints: Vec<String>,
}

/// One family's sync that came to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Synced {
    /// The family.
    pub family: Family,
    /// Everything was compared or written, not only what changed.
    pub full: bool,
    /// How long it took.
    pub duration: Duration,
    /// Rules in force.
    pub total: Rules,
    /// Rules that were sent.
    pub sent: Rules,
    /// Our chains in force.
    pub chains: usize,
}

impl Observer {
    /// Begins to serve, if that is wanted.
    pub(super) fn start(node: &NodeOptions, serve: bool) -> Result<Self, Failure> {
        let mut observer = Self {
            servers: None,
            complaints: Vec::new(),
        };
        if serve {
            let (servers, problems) = Servers::start(&node.settings)?;
            observer.servers = Some(servers);
            for problem in problems {
                tell(&format!("warning: {problem}"));
            }
        }
        Ok(observer)
    }

    /// Whether anybody can ask: what is only for them need not be computed else.
    pub(super) fn serves(&self) -> bool {
        self.servers.is_some()
    }

    /// The numbers, for those that are not told by a method of this.
    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.servers.as_ref().map(Servers::metrics)
    }

    /// The registry changed: so many Services, so many EndpointSlices. A sync has to follow.
    pub(super) fn queued(&self, services: usize, endpoints: usize) {
        let Some(servers) = &self.servers else { return };
        for family in Family::ALL {
            servers.queued(family);
        }
        servers.metrics().changed(services, endpoints);
        servers.metrics().pending(services, endpoints);
    }

    /// One family is as the registry wants it; also one that this host does not have, which needs
    /// nothing and must not count as late.
    pub(super) fn synced(&self, synced: &Synced) {
        let Some(servers) = &self.servers else { return };
        servers.updated(synced.family);
        servers.metrics().pending(0, 0);
        servers.metrics().synced(&Sync {
            family: synced.family,
            full: synced.full,
            duration: synced.duration,
            at: servers.now().wall,
            total: synced.total,
            sent: synced.sent,
            chains: synced.chains,
        });
    }

    /// One family could not be written.
    pub(super) fn failed(&self, family: Family, full: bool, duration: Duration) {
        if let Some(metrics) = self.metrics() {
            metrics.failed(family, full, duration);
        }
    }

    /// What is in force: to be told after each sync that succeeded, with the models of all families
    /// and our Node.
    pub(super) fn registry(&mut self, models: &[Model], node: Option<&Node>) {
        let Some(servers) = &self.servers else { return };
        servers.node(eligible(node));
        for model in models {
            let count = NoLocalEndpoints::of(model);
            servers.metrics().no_local_endpoints(model.config.family, count);
        }
        let problems = servers.checks(checks(models));
        for problem in problems
            .iter()
            .filter(|problem| !self.complaints.contains(problem))
        {
            tell(&format!("warning: {problem}"));
        }
        self.complaints = problems;
    }
}
