//! What stands in the way of a lab, found before anything is changed.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};

use super::address::overlap;
use super::ledger::{Lab, Ledger, Pod};
use super::name;
use super::node::{Host, Node};
use super::observed::{Observed, View};

/// One thing that is in the way, and the flag that avoids it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// What, in words.
    pub what: String,
    /// What to type.
    pub hint: String,
}

/// Everything on the host that the lab would collide with.
///
/// What carries the lab's mark, or is in its ledger, is its own and no clash.
pub fn clashes(lab: &Lab, pods: &[Pod], ledger: Option<&Ledger>, observed: &Observed) -> Vec<Clash> {
    let mut found = Vec::new();
    if overlap(lab.pod_cidr, lab.service_cidr) {
        found.push(Clash {
            what: format!(
                "the pods' range {} and the Services' range {} overlap",
                lab.pod_cidr, lab.service_cidr
            ),
            hint: "choose another --pod-cidr or --service-cidr".into(),
        });
    }
    found.extend(underlay_clashes(lab));
    // Nobody else has anything in a namespace that is the lab's own.
    let caller = lab.caller_node().map(Node::host);
    if let Some(view) = caller.and_then(|host| observed.views.get(&host)) {
        found.extend(link_clashes(lab, pods, view));
        found.extend(range_clashes(lab, view));
    }
    found.extend(twice(
        "links",
        pods.iter()
            .map(|pod| pod.interface.as_str())
            .chain([lab.bridge.as_str()]),
        "choose other names: --bridge or --name, or rename a pod",
    ));
    let hosts = lab.hosts();
    found.extend(twice(
        "namespaces",
        namespaces(&hosts, pods).map(|(name, _)| name),
        "choose other names: --name, or rename a pod or a node",
    ));
    found.extend(namespace_clashes(&hosts, pods, ledger, observed));
    found
}

/// The ranges between nodes are fixed; the others must keep away from them.
fn underlay_clashes(lab: &Lab) -> Vec<Clash> {
    let fixed = lab.underlay.iter().flat_map(|underlay| {
        [
            ("nodes'", underlay.cidr),
            ("load balancers'", underlay.load_balancer_pool),
        ]
    });
    let mut found = Vec::new();
    for (whose, range) in fixed {
        for (flag, other) in [("--pod-cidr", lab.pod_cidr), ("--service-cidr", lab.service_cidr)] {
            if overlap(range, other) {
                found.push(Clash {
                    what: format!("{other} overlaps the {whose} range {range}"),
                    hint: format!("choose another range: {flag}"),
                });
            }
        }
    }
    found
}

fn link_clashes(lab: &Lab, pods: &[Pod], view: &View) -> Vec<Clash> {
    let mut found = Vec::new();
    let bridge = view.link(&lab.bridge);
    if bridge.is_some_and(|link| !link.is_bridge_of(lab)) {
        found.push(Clash {
            what: format!("a link named {} is there and is not this lab's", lab.bridge),
            hint: format!("choose another name: --bridge {}-lab", shortened(&lab.bridge)),
        });
    }
    let foreign: BTreeSet<&str> = view
        .links
        .iter()
        .filter(|link| link.group != lab.group())
        .map(|link| link.name.as_str())
        .collect();
    for pod in pods {
        if foreign.contains(pod.interface.as_str()) {
            found.push(Clash {
                what: format!("a link named {} is there and is not this lab's", pod.interface),
                hint: "choose another name for the lab: --name blue".into(),
            });
        }
    }
    found
}

/// The first name that two things of the lab would have.
fn twice<'a>(what: &str, names: impl Iterator<Item = &'a str>, hint: &str) -> Option<Clash> {
    let mut seen = BTreeSet::new();
    let mut names = names;
    let name = names.find(|name| !seen.insert(*name))?;
    Some(Clash {
        what: format!("two {what} of the lab would be named {name}"),
        hint: hint.into(),
    })
}

/// All namespaces that the lab wants, and the pod of each that is one's.
fn namespaces<'a>(
    hosts: &'a [(Host, &'a str)],
    pods: &'a [Pod],
) -> impl Iterator<Item = (&'a str, Option<&'a Pod>)> {
    let hosts = hosts.iter().map(|(_, namespace)| (*namespace, None));
    hosts.chain(pods.iter().map(|pod| (pod.namespace.as_str(), Some(pod))))
}

fn shortened(name: &str) -> &str {
    let end = name.len().min(name::INTERFACE_BYTES - "-lab".len());
    name.get(..end).unwrap_or("br")
}

fn namespace_clashes(
    hosts: &[(Host, &str)],
    pods: &[Pod],
    ledger: Option<&Ledger>,
    observed: &Observed,
) -> Vec<Clash> {
    let of_pods = ledger.iter().flat_map(|ledger| &ledger.pods);
    let of_pods = of_pods.map(|record| (record.pod.namespace.as_str(), record.namespace_inode));
    let of_hosts = ledger.iter().flat_map(|ledger| &ledger.hosts);
    let of_hosts = of_hosts.map(|record| (record.namespace.as_str(), record.namespace_inode));
    let recorded: BTreeMap<&str, Option<u64>> = of_pods.chain(of_hosts).collect();
    let foreign = namespaces(hosts, pods).filter(|(name, _)| {
        let Some(inode) = observed.namespaces.get(*name) else {
            return false;
        };
        // Without a recorded inode the ledger announced it, and the command died before it
        // could say more. A stub without a namespace behind it belongs to whoever announced it.
        !recorded
            .get(name)
            .is_some_and(|record| record.is_none_or(|ours| ours == *inode || *inode == 0))
    });
    foreign
        .map(|(name, _)| Clash {
            what: format!("a network namespace named {name} is there and is not this lab's"),
            hint: "choose another name for the lab: --name blue".into(),
        })
        .collect()
}

fn range_clashes(lab: &Lab, view: &View) -> Vec<Clash> {
    let ranges = [
        ("pods", lab.pod_cidr, "--pod-cidr 10.50.0.0/24"),
        ("Services", lab.service_cidr, "--service-cidr 10.51.0.0/16"),
    ];
    let ours = view.link(&lab.bridge).filter(|link| link.group == lab.group());
    let ours = ours.map(|link| link.index);
    let mut found = Vec::new();
    for (whose, range, flag) in ranges {
        let addresses = view
            .addresses
            .iter()
            .map(|address| (address.index, address.net, "address"));
        let routes = view
            .routes
            .iter()
            .map(|route| (route.index, route.destination, "route"));
        let other = addresses
            .chain(routes)
            .find(|(index, net, _)| Some(*index) != ours && clash_with(range, *net));
        if let Some((index, net, kind)) = other {
            found.push(Clash {
                what: format!(
                    "the {whose}' range {range} overlaps the host's {kind} {net} on {}",
                    view.link_name(index)
                ),
                hint: format!("choose another range, such as {flag}"),
            });
        }
    }
    found
}

fn clash_with(range: Ipv4Net, net: IpNet) -> bool {
    match net {
        // A default route leads everywhere, and says nothing of a range.
        IpNet::V4(net) => net.prefix_len() > 0 && overlap(range, net),
        IpNet::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layout::lay_out;
    use crate::model::observed::{Address, Link, Route};
    use crate::model::samples;
    use crate::model::topology::Topology;

    fn seen(view: View) -> Observed {
        Observed {
            views: [(samples::lab().nodes[0].host(), view)].into(),
            ..Default::default()
        }
    }

    fn found(observed: &Observed) -> Vec<String> {
        let lab = samples::lab();
        let pods = lay_out(&lab, &Topology::web_pods(2), None).unwrap();
        let clashes = clashes(&lab, &pods, None, observed);
        clashes
            .into_iter()
            .map(|clash| format!("{} ({})", clash.what, clash.hint))
            .collect()
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_ordinary_host_has_none() {
        let observed = seen(View {
            links: vec![link(2, "eth0")],
            addresses: vec![Address {
                index: 2,
                net: "192.168.1.7/24".parse().unwrap(),
            }],
            routes: vec![Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                via: vec!["192.168.1.1".parse().unwrap()],
                index: 2,
            }],
            ..Default::default()
        });
        assert_eq!(found(&observed), Vec::<String>::new());
    }

    #[test]
    fn each_clash_names_its_flag() {
        let mut observed = seen(View {
            links: vec![
                link(2, "eth0"),
                link(3, "cni0"),
                link(4, "veth-web-2"),
                link(5, "tun0"),
            ],
            addresses: vec![Address {
                index: 2,
                net: "10.96.3.4/20".parse().unwrap(),
            }],
            routes: vec![Route {
                destination: "10.240.0.0/12".parse().unwrap(),
                via: Vec::new(),
                index: 5,
            }],
            ..Default::default()
        });
        observed.namespaces.insert("web-1".into(), 7);
        insta::assert_snapshot!(found(&observed).join("\n"));
    }
}
