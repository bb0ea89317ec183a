//! Loss, delay and rate of a link, by `tc` and, where the kernel has no `sch_netem`, loss by
//! iptables rules.

use std::path::Path;

use labkit::{Failure, tool};

use super::chains;
use crate::model::breakage::hunk::Edits;

/// Replaces what shapes a link by this, or by nothing.
///
/// # Errors
/// `HostLacks` when there is no `tc`, or the kernel lacks the discipline.
pub fn set(link: &str, qdisc: Option<&[String]>) -> Result<(), Failure> {
    let tc = tool::find("tc").ok_or_else(|| {
        Failure::host_lacks("tc was not found, which shapes links").hint(tool::install_hint("iproute2"))
    })?;
    let Some(qdisc) = qdisc else {
        // Without one there is nothing to delete, and tc says so.
        let output = tool::run(&tc, &["qdisc", "del", "dev", link, "root"], None)?;
        tracing::debug!(?output, "deleting the queueing discipline");
        return Ok(());
    };
    let mut words = ["qdisc", "replace", "dev", link, "root"]
        .map(str::to_string)
        .to_vec();
    words.extend(qdisc.iter().cloned());
    let output = tool::run(&tc, &words, None)?;
    if output.status.success() {
        return Ok(());
    }
    let said = tool::complaint(&tc, &words, &output);
    if is_unknown(&String::from_utf8_lossy(&output.stderr)) {
        let kind = qdisc.first().map_or("netem", String::as_str);
        return Err(lacks(kind));
    }
    Err(Failure::failed(said))
}

fn is_unknown(said: &str) -> bool {
    ["kind is unknown", "No such file or directory"]
        .iter()
        .any(|words| said.contains(words))
}

/// The failure of a kernel that cannot shape links in this way.
pub fn lacks(kind: &str) -> Failure {
    let can = match kind {
        "netem" => "delay packets",
        _ => "limit the rate of a link",
    };
    Failure::host_lacks(format!("this kernel cannot {can}: it has no sch_{kind}")).hint(format!(
        "load it, outside of any sandbox: sudo modprobe sch_{kind}; without it `--loss` and `--down` still work"
    ))
}

/// Whether the kernel has `sch_netem`; tried on a link, and undone.
///
/// # Errors
/// When there is no `tc`, or it fails for another reason.
pub fn has_netem(link: &str) -> Result<bool, Failure> {
    match set(link, Some(&["netem".to_string()])) {
        Ok(()) => Ok(true),
        Err(failure) if failure.message().contains("sch_netem") => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The places that all packets to a pod pass: those of others, and the node's own.
const CHAINS: [&str; 2] = ["FORWARD", "OUTPUT"];

/// Makes the rules that lose packets with this probability, or removes them.
///
/// # Errors
/// What iptables said.
pub fn set_loss_rules(
    program: &Path,
    mark: &str,
    pod: &str,
    probability: Option<f64>,
) -> Result<(), Failure> {
    let words =
        format!("-d {pod}/32 -m comment --comment \"{mark}\" -m statistic --mode random --probability ");
    for chain in CHAINS {
        let now = chains::read(program, "filter", chain)?.unwrap_or_default();
        let edits = Edits {
            delete: now.into_iter().filter(|line| line.starts_with(&words)).collect(),
            insert: probability
                .map(|probability| (1, format!("{words}{probability:.11} -j DROP")))
                .into_iter()
                .collect(),
        };
        chains::write(program, "filter", chain, &edits)?;
    }
    Ok(())
}
