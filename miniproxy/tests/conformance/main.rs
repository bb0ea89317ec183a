//! The rules against what the real kube-proxy wrote from the same objects and the same
//! configuration: every case of `tests/conformance` in the repository, without a kernel.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_collect,
    reason = "a test fails by panicking, and has no callers"
)]

mod cases;
mod health;
mod mutations;
mod refused;

use labkit::xtables::Family;
use miniproxy::report::difference::{Finding, Sides, compare};
use miniproxy::rules::parse::parse;
use miniproxy::rules::set::Found;

use cases::{Case, own, recorded};

const SIDES: Sides<'_> = Sides {
    left: "kube-proxy",
    right: "miniproxy",
};

/// Cases whose rules must not be those that were recorded: what is different, and what we do instead.
const DEVIATIONS: [(&str, &[&str]); 1] = [(
    // A patch of the recorded build prefers a local endpoint for two ports of that name; upstream
    // has no such rule.
    "openshift-dns",
    &[
        "openshift-dns/dns-default:dns",
        "openshift-dns/dns-default:dns-tcp",
    ],
)];

fn differences(case: &Case, step: usize, family: Family) -> Vec<Finding> {
    let options = case
        .options()
        .unwrap_or_else(|problem| panic!("{}: {problem}", case.name));
    let wanted = options.wanted(&case.registry(step), family);
    compare(
        &parse(&case.expected(step, family)).unwrap(),
        &Found::from(&wanted),
        SIDES,
    )
}

#[test]
fn every_recorded_dump_is_reproduced() {
    let (mut dumps, mut wrong) = (0, String::new());
    for case in recorded() {
        if DEVIATIONS.iter().any(|(name, _)| *name == case.name) {
            continue;
        }
        for step in case.recorded_steps() {
            for family in Family::ALL {
                dumps += 1;
                let findings = differences(&case, step, family);
                if !findings.is_empty() {
                    let text: String = findings.iter().map(Finding::text).collect();
                    wrong.push_str(&format!(
                        "{} step {step} {}: {}\n{text}",
                        case.name,
                        family.name(),
                        case.about
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(dumps >= 270, "only {dumps} dumps were found");
}

#[test]
fn what_deviates_does_so_where_it_is_said_and_nowhere_else() {
    for (name, services) in DEVIATIONS {
        let case = recorded().into_iter().find(|case| case.name == name).unwrap();
        let findings = differences(&case, 1, Family::V4);
        let mut named: Vec<String> = findings
            .into_iter()
            .filter_map(|finding| finding.service)
            .collect();
        named.dedup();
        for service in services {
            assert!(named.iter().any(|found| found == service), "{name}: {named:?}");
        }
        assert!(
            named.iter().all(|found| services.contains(&found.as_str())),
            "{name}: {named:?}"
        );
    }
}

/// Our own cases say single rules: those that must be there, and (after `!`) those that must not.
#[test]
fn every_rule_that_the_reference_promises_is_there() {
    let mut rules = 0;
    for case in own() {
        let options = case
            .options()
            .unwrap_or_else(|problem| panic!("{}: {problem}", case.name));
        for family in Family::ALL {
            let wanted = Found::from(&options.wanted(&case.registry(1), family));
            for promise in case.promises(family) {
                rules += 1;
                let chain = wanted.chain(promise.table, &promise.chain).unwrap_or_default();
                let there = chain.contains(&promise.rule);
                assert!(
                    there == promise.there,
                    "{} ({}), {}: {} should be {}; there is:\n{chain:#?}",
                    case.name,
                    case.about,
                    family.name(),
                    promise.line,
                    if promise.there { "there" } else { "absent" },
                );
            }
        }
    }
    assert!(rules >= 35, "only {rules} rules were promised");
}
