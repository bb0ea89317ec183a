//! `netns-lab doctor`: what this host has for a lab, and how to get what it lacks.

use std::path::Path;

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};

use crate::cli::DoctorArgs;
use crate::edge::{probe, store};
use crate::engine::observe::observe;
use crate::model::address;
use crate::model::check::clashes;
use crate::model::doctor::{self, Facts, Status};
use crate::model::layout::{lay_out, only_node};
use crate::model::ledger::Lab;
use crate::model::name::{self, Label};
use crate::model::topology::{NodeSpec, Topology};

/// The exit code of a host that lacks something.
const LACKS: u8 = 3;

/// Runs `doctor`.
pub(super) fn run(args: &DoctorArgs) -> Result<Outcome, Failure> {
    let mut facts = probe::facts(args.iptables.as_deref())?;
    look_at_labs(&mut facts);
    let checks = doctor::checks(&facts);
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    match args.output {
        OutputFormat::Json => shell::emit_json(&serde_json::json!({ "ok": !failed, "checks": checks }))?,
        OutputFormat::Table => shell::emit(&format!(
            "{}\n{}\n",
            doctor::table(&checks),
            doctor::verdict(&facts, &checks)
        ))?,
    }
    Ok(if failed {
        Outcome::Code(LACKS)
    } else {
        Outcome::Done
    })
}

/// Runs `trial`.
pub(super) fn trial(iptables: &Path) -> Result<Outcome, Failure> {
    probe::trial(iptables).map_err(Failure::failed)?;
    Ok(Outcome::Done)
}

/// Whether the default lab could be made, or is there already.
fn look_at_labs(facts: &mut Facts) {
    let Ok(labs) = store::labs() else {
        facts.hidden_labs = true;
        return;
    };
    facts.lab_is_up = !labs.is_empty();
    let default = Label::default_lab();
    if labs.contains(&default) {
        return;
    }
    let ledgers = labs.iter().filter_map(|lab| store::ledger(lab).ok().flatten());
    let taken: Vec<_> = ledgers
        .filter(|ledger| ledger.node_namespace.is_some())
        .flat_map(|ledger| [ledger.lab.pod_cidr, ledger.lab.service_cidr])
        .collect();
    let ranges = address::default_pod_cidr(3, &taken).zip(address::default_service_cidr(&taken));
    let Some((pod_cidr, service_cidr)) = ranges else {
        return;
    };
    let bridge = name::bridge(&default);
    let node = NodeSpec::named(Label::default_node(&default));
    let lab = Lab {
        nodes: vec![only_node(node, pod_cidr, &bridge)],
        bridge,
        name: default,
        pod_cidr,
        pod_cidr6: None,
        service_cidr,
        service_cidr6: None,
        underlay: None,
        dns: None,
    };
    let found = lay_out(&lab, &Topology::web_pods(3), None).ok().and_then(|pods| {
        Some(clashes(
            &lab,
            &pods,
            None,
            &observe(&lab, &pods, None, None).ok()?,
        ))
    });
    facts.clashes = found
        .unwrap_or_default()
        .into_iter()
        .map(|clash| (clash.what, clash.hint))
        .collect();
}
