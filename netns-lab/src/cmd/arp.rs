//! `netns-lab arp`: who has an address, by the only way a bridge knows.

use std::net::Ipv4Addr;
use std::thread;

use labkit::shell::{self, OutputFormat};
use labkit::{Failure, Outcome};
use nix::sched::{CloneFlags, setns};

use super::find;
use crate::cli::ArpArgs;
use crate::edge::{arp, joined, namespace};
use crate::engine::settle::{self, Place};
use crate::model::ledger::Ledger;

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
    if let Some(name) = &args.from {
        let (ledger, record) = find::pod(args.name.as_ref(), name)?;
        let asker = Asker {
            words: format!("pod {name}"),
            link: "eth0".into(),
            own: record.pod.ip,
            namespace: Some(namespace::open(&record.pod.namespace)?),
        };
        return Ok((ledger, asker));
    }
    let ledger = find::lab(args.name.as_ref())?;
    if let Place::Elsewhere(pid) = settle::place(&ledger)? {
        return Err(settle::elsewhere(&ledger, pid));
    }
    let asker = Asker {
        words: format!("node {}", ledger.lab.node),
        link: ledger.lab.bridge.clone(),
        own: ledger.lab.bridge_address().addr(),
        namespace: None,
    };
    Ok((ledger, asker))
}

/// Whose address it is.
fn who(ledger: &Ledger, address: Ipv4Addr) -> Option<String> {
    if address == ledger.lab.bridge_address().addr() {
        return Some(format!("node {}", ledger.lab.node));
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
