//! A DROP in FORWARD, of the iptables that all use or of the one that nobody looks at.

use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use labkit::xtables::{Family, Flavour, Xtables};
use labkit::{Failure, tool};

use super::ground::Ground;
use super::prepare::{Plan, chain_change, everywhere};
use crate::edge::breakage::{chains, in_an_empty_one};
use crate::model::breakage::record::{TableFate, What};
use crate::model::name::Label;
use crate::model::rule;

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";

/// A DROP where everybody looks.
pub(super) fn forward(ground: &Ground) -> Result<Plan, Failure> {
    everywhere(ground, "on each node", |_| {
        let before = chains::read(&ground.iptables, TABLE, CHAIN)?.unwrap_or_default();
        Ok(vec![drop_first(ground, &ground.iptables, &before)])
    })
}

/// A DROP where nobody looks.
pub(super) fn other(ground: &Ground) -> Result<Plan, Failure> {
    let (program, flavour) = other_iptables(&ground.iptables)?;
    everywhere(ground, "on each node", |_| {
        let fate = fate(flavour);
        // To read a table of iptables-legacy is to make it.
        let before = match fate {
            TableFate::WasThere => chains::read(&program, TABLE, CHAIN)?.unwrap_or_default(),
            TableFate::Goes | TableFate::Stays => Vec::new(),
        };
        let mut what = drop_first(ground, &program, &before);
        if let What::Chain { table_fate, .. } = &mut what {
            *table_fate = fate;
        }
        Ok(vec![what])
    })
}

/// What becomes of the table that the rule is put into here.
fn fate(flavour: Flavour) -> TableFate {
    match flavour {
        Flavour::Nft if !chains::nf_table_exists(TABLE) => TableFate::Goes,
        Flavour::Legacy if !chains::legacy_table_exists(TABLE) => TableFate::Stays,
        _ => TableFate::WasThere,
    }
}

/// A DROP with the lab's mark, so that even a `down` that knows nothing else finds it.
fn drop_first(ground: &Ground, program: &Path, before: &[String]) -> What {
    let dropping = drop_rule(&ground.lab, ground.pods);
    let after: Vec<String> = std::iter::once(dropping).chain(before.iter().cloned()).collect();
    chain_change(program, TABLE, CHAIN, before, &after)
}

/// The rule that loses all that goes to pods.
fn drop_rule(lab: &Label, pods: Ipv4Net) -> String {
    format!("-d {pods} -m comment --comment \"{}\" -j DROP", rule::mark(lab))
}

fn other_iptables(ours: &Path) -> Result<(PathBuf, Flavour), Failure> {
    let ours = Xtables::detect(Some(ours))?;
    let name = match ours.flavour {
        Flavour::Nft => "iptables-legacy",
        Flavour::Legacy => "iptables-nft",
    };
    let lacks = |why: String| {
        Failure::host_lacks(format!("{name} {why}, and a DROP in it is what this failure is"))
            .hint(tool::install_hint("iptables"))
    };
    let found = tool::find(name).ok_or_else(|| lacks("was not found".into()))?;
    let other = Xtables::detect(Some(&found))?;
    if other.flavour == ours.flavour {
        return Err(lacks(format!("is of the same flavour as {}", ours.typed())));
    }
    let program = other.iptables(Family::V4);
    // A kernel may lack the one of them; to ask it here would make tables that stay.
    match in_an_empty_one(|| chains::dump(&program, TABLE)) {
        Ok(_) => Ok((program, other.flavour)),
        Err(failure) => Err(lacks(format!("does not work here ({})", failure.message()))),
    }
}
