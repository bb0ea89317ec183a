//! What syncs on several nodes did, as one answer.

use labkit::text::count;
use labkit::xtables::Xtables;
use serde::Serialize;

use super::sync::{Report, changes, chosen};

/// One node's part.
#[derive(Serialize)]
pub(super) struct Part<'a> {
    /// The node, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<&'a str>,
    #[serde(flatten)]
    pub(super) report: &'a Report,
}

/// All nodes.
#[derive(Serialize)]
pub(super) struct Parts<'a> {
    nodes: Vec<Part<'a>>,
}

/// The same data as in a sync of one node, for each of them.
pub(super) fn json(reports: &[(String, Report)]) -> Parts<'_> {
    let parts = reports.iter().map(|(node, report)| Part {
        node: Some(node),
        report,
    });
    Parts {
        nodes: parts.collect(),
    }
}

/// Nodes that have the same to say say it together.
pub(super) fn text(programs: &[Xtables], reports: &[(String, Report)]) -> String {
    let mut text = String::new();
    let mut told: Vec<String> = programs.iter().map(chosen).collect();
    told.dedup();
    text.extend(told);
    for (names, said) in together(reports, changes) {
        if !said.is_empty() {
            text.push_str(&format!("{}:\n", whose(&names, reports.len())));
            text.extend(said.lines().map(|line| format!("  {line}\n")));
        }
    }
    for (names, said) in together(reports, in_force) {
        text.push_str(&format!("{}: {said}", whose(&names, reports.len())));
    }
    for (names, said) in together(reports, |report| report.host.text()) {
        let whose = whose(&names, reports.len());
        text.extend(said.lines().flat_map(|line| [&whose, ": ", line, "\n"]));
    }
    if let (Some((node, _)), Some(xtables)) = (reports.first(), programs.first()) {
        let iptables = xtables.typed();
        text.push_str(&format!("next: netns-lab exec {node} -- {iptables} -t nat -L\n"));
    }
    text
}

fn in_force(report: &Report) -> String {
    let ports = count(report.services, "service port");
    if report.written.is_empty() {
        format!("nothing to do: the rules of {ports} are in place\n")
    } else {
        format!("{ports} in force; written: {}\n", report.written_text())
    }
}

/// What is said, with those who say it, in the order of who says it first.
fn together(reports: &[(String, Report)], said: impl Fn(&Report) -> String) -> Vec<(Vec<&str>, String)> {
    let mut groups: Vec<(Vec<&str>, String)> = Vec::new();
    for (node, report) in reports {
        let words = said(report);
        match groups.iter_mut().find(|(_, known)| *known == words) {
            Some((names, _)) => names.push(node),
            None => groups.push((vec![node], words)),
        }
    }
    groups
}

/// `node-1, node-2`, or `all 10 nodes`.
fn whose(names: &[&str], all: usize) -> String {
    if names.len() == all && all > 1 {
        return format!("all {all} nodes");
    }
    match names {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use labkit::xtables::Flavour;

    use super::*;

    #[test]
    fn who_has_the_same_to_say_says_it_together() {
        let program = Xtables {
            flavour: Flavour::Nft,
            program: PathBuf::from("/nowhere/iptables-nft"),
            reason: "plain `iptables` is this one".into(),
            mixed: false,
        };
        let report = |services| Report {
            services,
            ..Report::default()
        };
        let reports: Vec<_> = [("node-1", 2), ("node-2", 3), ("node-3", 2)]
            .map(|(node, services)| (node.to_string(), report(services)))
            .into();
        insta::assert_snapshot!(text(&[program.clone(), program], &reports), @r"
        using iptables (nf_tables): plain `iptables` is this one
        node-1, node-3: nothing to do: the rules of 2 service ports are in place
        node-2: nothing to do: the rules of 3 service ports are in place
        next: netns-lab exec node-1 -- /nowhere/iptables-nft -t nat -L
        ");
        assert_eq!(whose(&["a", "b"], 2), "all 2 nodes");
        assert_eq!(whose(&["a", "b", "c", "d", "e"], 9), "a, b, c and 2 more");
    }
}
