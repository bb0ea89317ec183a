//! `netns-lab arp`: who has an address, by the only way a bridge knows.

use std::net::Ipv4Addr;
use std::thread;

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};
use nix::sched::{CloneFlags, setns};

use super::find::{self, Spot};
use crate::cli::ArpArgs;
use crate::edge::{arp, joined, namespace};
use crate::engine::settle::{self, Place};
use crate::model::ledger::Ledger;
use crate::model::name::OUTSIDE;
use crate::model::node::{Node, OWN_END};

/// Where a question is asked from.
struct Asker {
    words: String,
    link: String,
    own: Ipv4Addr,
    namespace: Option<std::fs::File>,
}

/// Runs `arp`.
pub(super) fn run(args: &ArpArgs) -> Result<Outcome, Failure> {
    let (ledger, asker) = asker(args)?;
    if asker.own == args.address {
        return Err(
            Failure::usage(format!("{} is {}'s own address", args.address, asker.words))
                .hint("ask from somewhere else: --from POD"),
        );
    }
    let mac = thread::scope(|scope| {
        joined(scope.spawn(|| {
            if let Some(namespace) = &asker.namespace {
                let entered = setns(namespace, CloneFlags::CLONE_NEWNET);
                entered.map_err(|error| Failure::failed(format!("cannot enter {}: {error}", asker.words)))?;
            }
            arp::who_has(&asker.link, asker.own, args.address)
        }))
    })?;
    let who = who(&ledger, args.address);
    let mac = mac.map(|mac| mac.to_string());
    match args.output {
        OutputFormat::Json => shell::emit_json(&serde_json::json!({
            "address": args.address,
            "mac": mac,
            "owner": mac.is_some().then_some(who.clone()).flatten(),
            "askedFrom": asker.words,
        }))?,
        OutputFormat::Table => shell::emit(&match &mac {
            Some(mac) => {
                let who = who.map_or_else(String::new, |who| format!(" ({who})"));
                format!("{} is at {mac}{who}\n", args.address)
            }
            None => format!(
                "nobody answered for {} on {}, asked from {}{}\n",
                args.address,
                asker.link,
                asker.words,
                note(&ledger, args.address)
            ),
        })?,
    }
    Ok(if mac.is_some() { Outcome::Done } else { Outcome::No })
}

fn asker(args: &ArpArgs) -> Result<(Ledger, Asker), Failure> {
    let (ledger, spot) = if let Some(name) = &args.from {
        find::place(args.name.as_ref(), name)?
    } else {
        let ledger = find::lab(args.name.as_ref())?;
        let first = ledger.lab.nodes.first().cloned();
        let node = first.ok_or_else(|| Failure::failed("the lab has no node"))?;
        (ledger, Spot::Node(node))
    };
    let open = |namespace: &str| namespace::open(namespace).map(Some);
    let asker = match &spot {
        Spot::Pod(record) => Asker {
            words: format!("pod {}", record.pod.spec.name),
            link: OWN_END.into(),
            own: record.pod.ip,
            namespace: open(&record.pod.namespace)?,
        },
        Spot::Outside(machine) => Asker {
            words: OUTSIDE.into(),
            link: OWN_END.into(),
            own: machine.ip,
            namespace: open(&machine.namespace)?,
        },
        Spot::Node(node) => node_asker(&ledger, node, args.address)?,
    };
    Ok((ledger, asker))
}

/// A node asks on its bridge, or on the underlay where the address is there.
fn node_asker(ledger: &Ledger, node: &Node, address: Ipv4Addr) -> Result<Asker, Failure> {
    let words = format!("node {}", node.name());
    let (Some(machine), Some(underlay)) = (&node.machine, &ledger.lab.underlay) else {
        if let Place::Elsewhere(pid) = settle::place(ledger)? {
            return Err(settle::elsewhere(ledger, pid));
        }
        return Ok(Asker {
            words,
            link: node.bridge.clone(),
            own: node.bridge_address().addr(),
            namespace: None,
        });
    };
    let on_underlay = underlay.cidr.contains(&address);
    let (link, own) = if on_underlay {
        (OWN_END.to_string(), machine.ip)
    } else {
        (node.bridge.clone(), node.bridge_address().addr())
    };
    Ok(Asker {
        words,
        link,
        own,
        namespace: Some(namespace::open(&machine.namespace)?),
    })
}

/// Whose address it is.
fn who(ledger: &Ledger, address: Ipv4Addr) -> Option<String> {
    let lab = &ledger.lab;
    let mut nodes = lab.nodes.iter();
    if let Some(node) = nodes.find(|node| address == node.bridge_address().addr() || address == node.ip()) {
        return Some(format!("node {}", node.name()));
    }
    let underlay = lab.underlay.as_ref();
    if underlay.is_some_and(|underlay| underlay.outside.ip == address) {
        return Some(OUTSIDE.to_string());
    }
    let record = ledger.pods.iter().find(|record| record.pod.ip == address)?;
    Some(format!("pod {}", record.pod.spec.name))
}

/// A word for those who wonder.
fn note(ledger: &Ledger, address: Ipv4Addr) -> &'static str {
    if ledger.lab.service_cidr.contains(&address) {
        ":\na virtual IP is on no interface, it is only a number in iptables rules"
    } else {
        ""
    }
}
