//! Whether a failure is mended, by the state that was broken and not by its record: a learner may
//! have found another way than `fix`.

use std::path::Path;

use ipnet::Ipv4Net;
use labkit::Failure;

use super::ground::Ground;
use crate::edge::breakage::{chains, flows, inside, routes};
use crate::edge::{links, namespace, store, sysctl};
use crate::model::breakage::Name;
use crate::model::breakage::hunk::{self, Hunk};
use crate::model::breakage::record::{Broken, Change, What};
use crate::model::breakage::service;

/// Whether nothing of a failure is left.
///
/// # Errors
/// When that cannot be seen.
pub fn is_mended(ground: &Ground, broken: &Broken) -> Result<bool, Failure> {
    for change in &broken.changes {
        if !is_right(ground, broken.name, change)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_right(ground: &Ground, name: Name, change: &Change) -> Result<bool, Failure> {
    if let Some(gone) = &change.namespace
        && namespace::inode(gone).is_none()
    {
        return Ok(true);
    }
    inside(change.namespace.as_deref(), || match &change.what {
        What::Sysctl { key, after, .. } => Ok(sysctl::read(key).is_none_or(|now| now != *after)),
        What::Chain {
            program,
            table,
            chain,
            hunk,
            ..
        } => chain_is_right(ground, name, (program, table, chain), hunk),
        What::Hairpin { links } => {
            let now = links::all()?;
            Ok(!now
                .iter()
                .any(|link| links.contains(&link.name) && link.hairpin_off))
        }
        What::Link { name } => {
            let now = links::all()?;
            Ok(now.iter().all(|link| link.name != *name || link.up))
        }
        What::Route { message, .. } => {
            let lost = routes::of_message(message)?.destination;
            if name == Name::NoVipRoute {
                let some = lost.hosts().nth(9).unwrap_or(lost.network());
                return routes::reaches(some);
            }
            let leads = |route: &routes::Route| is_way(route.destination, lost) && route.leads();
            Ok(routes::list()?.iter().any(leads))
        }
        What::Flow(flow) => flows::is_stale(flow).map(|stale| !stale),
        What::File { name, .. } => Ok(selects_again(ground, name)),
    })
}

/// A default route leads out of the lab, not to the pods of a node.
fn is_way(route: Ipv4Net, lost: Ipv4Net) -> bool {
    route.prefix_len() > 0 && route.contains(&lost)
}

/// The program, the table and the chain.
type Place<'a> = (&'a Path, &'a str, &'a str);

fn chain_is_right(
    ground: &Ground,
    name: Name,
    (program, table, chain): Place<'_>,
    hunk: &Hunk,
) -> Result<bool, Failure> {
    let dump = chains::dump(program, table)?;
    // Without the chain there are no rules of Services, and so none that are wrong.
    let Some(now) = hunk::chain(&dump, chain) else {
        return Ok(true);
    };
    Ok(match name {
        Name::WrongProbabilities => service::are_fair(&now),
        Name::MasqueradeMissing => now.iter().any(|line| service::jump(line) == Some("MASQUERADE")),
        Name::NoReject => {
            let filter = chains::dump(program, "filter")?;
            let rejecting = hunk::chain(&filter, chain).unwrap_or_default();
            let speaks = |line: &String| hunk.removed.iter().any(|lost| same_port(line, lost));
            now.iter().any(speaks) || rejecting.iter().any(speaks)
        }
        _ => !hunk
            .added
            .iter()
            .any(|dropping| has_effect(ground, dropping, &now)),
    })
}

/// Whether two rules speak of the same port of the same Service.
fn same_port(line: &str, lost: &str) -> bool {
    let words = |line: &str| -> Vec<String> {
        let mut words = line.split(' ');
        let mut found = Vec::new();
        while let Some(word) = words.next() {
            if ["-d", "-p", "--dport"].contains(&word) {
                found.push(format!("{word} {}", words.next().unwrap_or_default()));
            }
        }
        found.sort();
        found
    };
    words(line) == words(lost)
}

/// Whether a DROP stands, and nothing before it accepts all that it drops.
fn has_effect(ground: &Ground, dropping: &str, now: &[String]) -> bool {
    let Some(at) = now.iter().position(|line| line == dropping) else {
        return false;
    };
    let (pods, bridge) = (ground.pods, &ground.bridge);
    let accepting = [
        "-j ACCEPT".to_string(),
        format!("-d {pods} -j ACCEPT"),
        format!("-o {bridge} -j ACCEPT"),
        format!("-d {pods} -o {bridge} -j ACCEPT"),
    ];
    !now[..at]
        .iter()
        .any(|line| accepting.contains(&without_comment(line)))
}

fn without_comment(line: &str) -> String {
    let Some((head, rest)) = line.split_once("-m comment --comment ") else {
        return line.to_string();
    };
    let tail = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\" ").map_or("", |(_, tail)| tail),
        None => rest.split_once(' ').map_or("", |(_, tail)| tail),
    };
    format!("{head}{tail}")
}

fn selects_again(ground: &Ground, file: &str) -> bool {
    let files = store::registry_files(&ground.lab);
    let mut services = service::services(&files).into_iter();
    let Some(target) = services.find(|target| target.file == file) else {
        // Somebody has removed it, and its selector with it.
        return true;
    };
    ground.all_pods().any(|(_, pod)| {
        target.selects(|key| {
            let mut labels = pod.spec.labels.iter();
            labels
                .find(|(known, _)| known.as_str() == key)
                .map(|(_, value)| value.as_str())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_same_port_are_told() {
        let lost = "-d 10.96.0.80/32 -p tcp -m comment --comment \"default/web:http cluster IP\" -m tcp --dport 80 \
                    -j KUBE-SVC-X";
        let reject = "-d 10.96.0.80/32 -p tcp -m comment --comment \"default/web:http has no endpoints\" -m tcp \
                      --dport 80 -j REJECT --reject-with icmp-port-unreachable";
        assert!(same_port(reject, lost));
        assert!(!same_port(&reject.replace("80 -j", "81 -j"), lost));
    }

    #[test]
    fn comments_do_not_count() {
        for (line, plain) in [
            (
                "-d 1.2.3.0/24 -m comment --comment \"a b\" -j ACCEPT",
                "-d 1.2.3.0/24 -j ACCEPT",
            ),
            ("-m comment --comment a -j ACCEPT", "-j ACCEPT"),
            ("-j ACCEPT", "-j ACCEPT"),
        ] {
            assert_eq!(without_comment(line), plain);
        }
    }
}
