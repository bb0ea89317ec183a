//! What a watch tells whoever asks over HTTP. Without `--serve` every method does nothing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use labkit::Failure;
use labkit::shell::tell;
use labkit::xtables::Family;

use crate::edge::serve::Servers;
use crate::engine::Report;
use crate::engine::desired::Desired;
use crate::model::{Model, ServicePort};
use crate::node::NodeOptions;
use crate::observe::health::eligible;
use crate::observe::metrics::{NoLocalEndpoints, Rules, Sync};
use crate::observe::service_health::checks;
use crate::registry::touched::Touched;

/// The servers, if there are any.
pub(super) struct Observer {
    servers: Option<Servers>,
    /// What was last said about ports that are not open, so that it is said once.
    complaints: Vec<String>,
    /// A change was told of whose end was not told yet.
    waiting: bool,
    /// When the Pods changed whose slices wait for a write.
    triggers: Vec<Timestamp>,
}

/// Whether a service port has a part in what is told of all of them.
pub(super) fn concerns(port: &ServicePort) -> bool {
    port.health_check_node_port.is_some() || port.uses_local_endpoints()
}

impl Observer {
    /// Begins to serve, if that is wanted.
    pub(super) fn start(node: &NodeOptions, serve: bool) -> Result<Self, Failure> {
        let mut observer = Self {
            servers: None,
            complaints: Vec::new(),
            waiting: false,
            triggers: Vec::new(),
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

    /// The registry changed, and a write has to follow.
    pub(super) fn queued(&mut self, touched: &Touched) {
        let Some(servers) = self.servers.as_ref().filter(|_| !touched.services.is_empty()) else {
            return;
        };
        self.waiting = true;
        for family in Family::ALL {
            servers.queued(family);
        }
        servers
            .metrics()
            .changed(touched.service_objects, touched.slice_objects);
        servers
            .metrics()
            .pending(touched.service_objects, touched.slice_objects);
        // What changed before this program began says nothing about how fast it is.
        let now = servers.now();
        let began = now.wall.checked_sub(now.up).unwrap_or(now.wall);
        let times = touched.triggers.iter().filter_map(|time| time.parse().ok());
        self.triggers
            .extend(times.filter(|time: &Timestamp| *time >= began));
    }

    /// So many objects are refused.
    pub(super) fn refused(&self, objects: usize) {
        if let Some(servers) = &self.servers {
            servers.metrics().refused(objects);
        }
    }

    /// Nothing is left to do for any family: also where a change turned out to be none.
    pub(super) fn idle(&mut self) {
        let Some(servers) = self.servers.as_ref().filter(|_| self.waiting) else {
            return;
        };
        self.waiting = false;
        for family in Family::ALL {
            servers.updated(family);
        }
        servers.metrics().pending(0, 0);
    }

    /// One family is as the registry wants it; also one that this host does not have, which needs
    /// nothing and must not count as late.
    pub(super) fn done(&mut self, report: &Report, desired: &Desired) {
        let Some(servers) = &self.servers else { return };
        let (family, metrics) = (report.family, servers.metrics());
        servers.updated(family);
        metrics.pending(0, 0);
        let (total, chains) = desired.totals();
        let sent = report.written.as_ref().map(|written| &written.rules);
        metrics.synced(&Sync {
            family,
            full: report.full,
            duration: report.took,
            at: servers.now().wall,
            total: Rules::of(&total),
            sent: sent.map(Rules::of).unwrap_or_default(),
            chains,
        });
        if report.full {
            metrics.kernel_read(family);
        }
        if report.repaired {
            metrics.repaired(family);
        }
        let now = servers.now().wall;
        let waited = self
            .triggers
            .iter()
            .filter_map(|time| Duration::try_from(now.duration_since(*time)).ok());
        metrics.network_programming(family, &waited.collect::<Vec<_>>());
        if family == Family::V6 {
            self.triggers.clear();
        }
    }

    /// Flows that had gone stale were deleted.
    pub(super) fn reconciled(&self, family: Family, flows: usize, took: Duration) {
        if let Some(servers) = &self.servers {
            servers.metrics().conntrack(family, took, flows);
        }
    }

    /// One family could not be written.
    pub(super) fn failed(&self, family: Family, full: bool, took: Duration) {
        if let Some(servers) = &self.servers {
            servers.metrics().failed(family, full, took);
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
