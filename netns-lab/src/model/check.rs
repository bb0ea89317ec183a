//! What stands in the way of a lab, found before anything is changed.

use ipnet::Ipv4Net;

use super::address::overlap;
use super::ledger::{Lab, Ledger, Pod};
use super::name;
use super::observed::Observed;

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
    found.extend(link_clashes(lab, pods, observed));
    found.extend(namespace_clashes(pods, ledger, observed));
    found.extend(range_clashes(lab, observed));
    found
}

fn link_clashes(lab: &Lab, pods: &[Pod], observed: &Observed) -> Vec<Clash> {
    let mut found = Vec::new();
    let bridge = observed.link(&lab.bridge);
    if bridge.is_some_and(|link| !link.is_bridge_of(lab)) {
        found.push(Clash {
            what: format!("a link named {} is there and is not this lab's", lab.bridge),
            hint: format!("choose another name: --bridge {}-lab", shortened(&lab.bridge)),
        });
    }
    for pod in pods {
        if observed
            .link(&pod.interface)
            .is_some_and(|link| link.group != lab.group())
        {
            found.push(Clash {
                what: format!("a link named {} is there and is not this lab's", pod.interface),
                hint: "choose another name for the lab: --name blue".into(),
            });
        }
    }
    let mut names: Vec<_> = pods
        .iter()
        .map(|pod| &pod.interface)
        .chain([&lab.bridge])
        .collect();
    names.sort();
    let twice = names
        .iter()
        .zip(names.iter().skip(1))
        .find(|(name, next)| name == next);
    if let Some((name, _)) = twice {
        found.push(Clash {
            what: format!("two links of the lab would be named {name}"),
            hint: "choose other names: --bridge or --name, or rename a pod".into(),
        });
    }
    found
}

fn shortened(name: &str) -> &str {
    let end = name.len().min(name::INTERFACE_BYTES - "-lab".len());
    name.get(..end).unwrap_or("br")
}

fn namespace_clashes(pods: &[Pod], ledger: Option<&Ledger>, observed: &Observed) -> Vec<Clash> {
    let foreign = pods.iter().filter(|pod| {
        let Some(inode) = observed.namespaces.get(&pod.namespace) else {
            return false;
        };
        let record = ledger.and_then(|ledger| ledger.pod(&pod.spec.name));
        // Without a recorded inode the ledger announced it, and the command died before it
        // could say more. A stub without a namespace behind it belongs to whoever announced it.
        !record.is_some_and(|record| {
            record
                .namespace_inode
                .is_none_or(|ours| ours == *inode || *inode == 0)
        })
    });
    foreign
        .map(|pod| Clash {
            what: format!(
                "a network namespace named {} is there and is not this lab's",
                pod.namespace
            ),
            hint: "choose another name for the lab: --name blue".into(),
        })
        .collect()
}

fn range_clashes(lab: &Lab, observed: &Observed) -> Vec<Clash> {
    let ranges = [
        ("pods", lab.pod_cidr, "--pod-cidr 10.50.0.0/24"),
        ("Services", lab.service_cidr, "--service-cidr 10.51.0.0/16"),
    ];
    let ours = observed
        .link(&lab.bridge)
        .filter(|link| link.group == lab.group());
    let ours = ours.map(|link| link.index);
    let mut found = Vec::new();
    for (whose, range, flag) in ranges {
        let addresses = observed
            .addresses
            .iter()
            .map(|address| (address.index, address.net, "address"));
        let routes = observed
            .routes
            .iter()
            .map(|route| (route.index, route.destination, "route"));
        let other = addresses
            .chain(routes)
            .find(|(index, net, _)| Some(*index) != ours && !is_default(*net) && overlap(range, *net));
        if let Some((index, net, kind)) = other {
            found.push(Clash {
                what: format!(
                    "the {whose}' range {range} overlaps the host's {kind} {net} on {}",
                    observed.link_name(index)
                ),
                hint: format!("choose another range, such as {flag}"),
            });
        }
    }
    found
}

fn is_default(net: Ipv4Net) -> bool {
    net.prefix_len() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ledger::lay_out;
    use crate::model::name::Label;
    use crate::model::observed::{Address, Link, Route};
    use crate::model::topology::Topology;

    fn lab() -> Lab {
        Lab {
            name: Label::default_lab(),
            node: Label::default_node(&Label::default_lab()),
            pod_cidr: "10.244.0.0/24".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            bridge: "cni0".into(),
        }
    }

    fn found(observed: &Observed) -> Vec<String> {
        let lab = lab();
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
        let observed = Observed {
            links: vec![link(2, "eth0")],
            addresses: vec![Address {
                index: 2,
                net: "192.168.1.7/24".parse().unwrap(),
            }],
            routes: vec![Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                index: 2,
            }],
            ..Default::default()
        };
        assert_eq!(found(&observed), Vec::<String>::new());
    }

    #[test]
    fn each_clash_names_its_flag() {
        let mut observed = Observed {
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
                index: 5,
            }],
            ..Default::default()
        };
        observed.namespaces.insert("web-1".into(), 7);
        insta::assert_snapshot!(found(&observed).join("\n"));
    }
}
