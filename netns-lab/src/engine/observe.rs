//! Looks at the host: all that a plan is made from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use labkit::Failure;

use crate::edge::node::Node;
use crate::edge::rules::Rules;
use crate::edge::{host, joined, namespace, process, store};
use crate::model::ledger::{Lab, Ledger, Pod};
use crate::model::name::Label;
use crate::model::observed::Observed;
use crate::model::rule;

/// What the host has of a lab, and what could be in its way.
///
/// A lab without a ledger has made nothing, so that nothing of it is looked for. `iptables` is the
/// program to look with; none leaves the rules out.
pub fn observe(
    lab: &Lab,
    pods: &[Pod],
    ledger: Option<&Ledger>,
    iptables: Option<&Path>,
) -> Result<Observed, Failure> {
    thread::scope(|scope| {
        let standing = scope.spawn(|| match iptables.filter(|_| ledger.is_some()) {
            Some(program) => Rules::new(program).standing(&rule::rules(lab)),
            None => Ok(Vec::new()),
        });
        let node = Node::open()?;
        let published = if ledger.is_some() {
            store::registry_files(&lab.name)
        } else {
            BTreeMap::new()
        };
        let mut observed = Observed {
            links: node.links()?,
            addresses: node.addresses()?,
            routes: node.routes()?,
            namespaces: namespaces(pods, ledger),
            running: running(ledger),
            held: held(ledger),
            cut_off: cut_off(lab, ledger),
            agent: ledger.and_then(|ledger| ledger.agent).is_some_and(process::runs),
            rules: BTreeSet::new(),
            kernel: host::observe(),
            has_service: store::has_service(&published),
            published,
        };
        observed.rules = joined(standing)?.into_iter().collect();
        Ok(observed)
    })
}

fn namespaces(pods: &[Pod], ledger: Option<&Ledger>) -> BTreeMap<String, u64> {
    let recorded = ledger
        .iter()
        .flat_map(|ledger| &ledger.pods)
        .map(|record| &record.pod);
    let names: BTreeSet<_> = pods.iter().chain(recorded).map(|pod| &pod.namespace).collect();
    names
        .into_iter()
        .filter_map(|name| Some((name.clone(), namespace::look(name)?)))
        .collect()
}

/// The pods whose holder runs in a namespace that has no way to the bridge any more.
fn cut_off(lab: &Lab, ledger: Option<&Ledger>) -> BTreeSet<Label> {
    let gateway = lab.bridge_address().addr();
    let records = ledger.iter().flat_map(|ledger| &ledger.pods);
    let lost = records.filter(|record| {
        record
            .holder
            .is_some_and(|id| process::runs(id) && !process::has_default_route(id, gateway))
    });
    lost.map(|record| record.pod.spec.name.clone()).collect()
}

/// The pods whose recorded holder runs.
fn held(ledger: Option<&Ledger>) -> BTreeSet<Label> {
    let records = ledger.iter().flat_map(|ledger| &ledger.pods);
    let held = records.filter(|record| record.holder.is_some_and(process::runs));
    held.map(|record| record.pod.spec.name.clone()).collect()
}

/// The recorded containers that run, each with its pod.
pub fn running(ledger: Option<&Ledger>) -> BTreeSet<(Label, Label)> {
    let records = ledger.iter().flat_map(|ledger| &ledger.pods);
    let containers = records.flat_map(|record| {
        let alive = record.containers.iter();
        let alive = alive.filter(|container| container.process.is_some_and(process::runs));
        alive.map(|container| (record.pod.spec.name.clone(), container.name.clone()))
    });
    containers.collect()
}
