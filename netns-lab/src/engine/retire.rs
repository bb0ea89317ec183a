//! Ends pods so that nobody loses a connection: first the rules, then the apps.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use labkit::{Failure, fault};

use super::revive::health;
use super::visit::visit;
use crate::edge::{process, rules, store};
use crate::model::ledger::{Leaving, Ledger, PodRecord, ProcessId};
use crate::model::life::Health;
use crate::model::name::Label;
use crate::model::node::Node;
use crate::model::object;

/// How often the rules are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long an end may take.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// For rules to lead elsewhere.
    pub rules: Duration,
    /// For open connections to end, from then on.
    pub connections: Duration,
}

/// Writes down that pods go, and publishes that they do.
pub fn announce(ledger: &mut Ledger, pods: &[Label], leaving: Leaving, now: &Time) -> Result<(), Failure> {
    let own = process::own();
    for record in &mut ledger.pods {
        if pods.contains(&record.pod.spec.name) {
            (record.leaving, record.ender) = (Some(leaving), own);
        }
    }
    store::write_ledger(ledger)?;
    fault::point("life:announced");
    for record in going(ledger, pods) {
        let health = Health {
            terminating: Some(now.clone()),
            ..health(&ledger.lab.name, record)
        };
        let content = object::pod(&ledger.lab, &record.pod, &health);
        store::publish_own(&ledger.lab.name, &object::pod_file(&record.pod), &content)?;
    }
    fault::point("life:published");
    Ok(())
}

/// Waits until no rule leads to pods that go, then until their containers have ended.
///
/// Nobody may hold the lock meanwhile: a proxy needs it.
pub fn finish(ledger: &Ledger, pods: &[Label], grace: Grace) {
    let addresses: Vec<_> = going(ledger, pods).map(|record| record.pod.ip).collect();
    await_rules(ledger, &addresses, grace.rules);
    fault::point("life:unrouted");
    let containers = |record: &PodRecord| -> Vec<ProcessId> {
        let containers = record.containers.iter();
        containers.filter_map(|container| container.process).collect()
    };
    let processes: Vec<_> = going(ledger, pods).flat_map(containers).collect();
    process::end_gracefully(&processes, grace.connections);
    fault::point("life:ended");
}

fn going<'a>(ledger: &'a Ledger, pods: &'a [Label]) -> impl Iterator<Item = &'a PodRecord> {
    let mut records = ledger.pods.iter();
    std::iter::from_fn(move || records.find(|record| pods.contains(&record.pod.spec.name)))
}

/// Where no rule leads there from the start, whatever else leads there has the whole time.
fn await_rules(ledger: &Ledger, addresses: &[Ipv4Addr], patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut led = false;
    loop {
        match leads(ledger, addresses) {
            Ok(true) => led = true,
            Ok(false) if led => return,
            Ok(false) => {}
            Err(failure) => tracing::debug!(%failure, "the rules cannot be read"),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK_AGAIN));
    }
}

fn leads(ledger: &Ledger, addresses: &[Ipv4Addr]) -> Result<bool, Failure> {
    let nodes: Vec<_> = ledger.lab.nodes.iter().map(Node::host).collect();
    let found = visit(&ledger.lab, &nodes, |_| {
        rules::lead_to(&ledger.iptables, addresses)
    })?;
    Ok(found.contains(&true))
}
