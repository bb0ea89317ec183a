//! What a sync does to the node besides rules: settings of the kernel, and flows that are stale.

use labkit::Failure;
use labkit::rundir::RunDirectory;
use labkit::shell::note_once;
use labkit::text::count;
use labkit::xtables::Family;
use serde::Serialize;

use crate::conntrack::{Before, Frontends};
use crate::edge::{conntrack, sysctls};
use crate::model::Model;
use crate::node::NodeOptions;
use crate::registry::Registry;
use crate::sysctls::wanted;

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Done {
    /// `net.ipv4.conf.all.route_localnet=1 (was 0)`
    pub settings: Vec<String>,
    /// UDP flows deleted from the connection table.
    pub stale_flows: usize,
}

/// Sets what this node's proxy wants set. After the rules, for one of them keeps strangers away from
/// 127.0.0.0/8 once packets to it are let in.
pub(super) fn settle(
    run: &RunDirectory,
    node: &NodeOptions,
    registry: &Registry,
) -> Result<Vec<String>, Failure> {
    let localhost = node.config(registry, Family::V4).localhost_node_ports;
    let wanted = wanted(&node.settings, localhost, sysctls::cpus());
    let applied = sysctls::apply(run, &wanted)?;
    for note in applied.notes.into_iter().chain(sysctls::bridge_note()) {
        note_once(&note);
    }
    Ok(applied.changed)
}

/// Deletes flows to where Services are not any more; how many there were.
pub(super) fn reconcile(model: &Model, before: &Before) -> Result<usize, Failure> {
    let mut frontends = Frontends::of(model);
    frontends.add_before(before);
    conntrack::reconcile(model.config.family, &frontends)
}

impl Done {
    /// One line for each thing.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for setting in &self.settings {
            text.push_str(&format!("set {setting}\n"));
        }
        if self.stale_flows > 0 {
            text.push_str(&format!(
                "{} deleted\n",
                count(self.stale_flows, "stale UDP flow")
            ));
        }
        text
    }
}
