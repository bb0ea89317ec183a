//! What was broken and how it is put back: written down before anything is changed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::catalogue::Name;
use super::hunk::Hunk;
use super::link::LinkFault;

/// The file of a lab's failures in its folder.
pub const FILE: &str = "broken.json";

/// All that is broken in a lab on purpose.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The failures, in the order in which they were made.
    #[serde(default)]
    pub failures: Vec<Broken>,
    /// The faults of pods' links.
    #[serde(default)]
    pub links: Vec<LinkFault>,
}

/// One failure that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Which.
    pub name: Name,
    /// Chosen by chance, and not told yet.
    #[serde(default)]
    pub secret: bool,
    /// How many hints were given.
    #[serde(default)]
    pub hints: usize,
    /// What it hit, to say so.
    pub target: String,
    /// What was changed, in the order in which it was.
    pub changes: Vec<Change>,
}

/// One thing that was changed. The node is named; none is the network namespace of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The namespace under `/run/netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What there.
    #[serde(flatten)]
    pub what: What,
}

/// Something that can be changed and put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum What {
    /// A setting of the kernel.
    Sysctl {
        /// Its name.
        key: String,
        /// What it was.
        before: String,
        /// What it is now.
        after: String,
    },
    /// A place in a chain.
    Chain {
        /// The iptables program.
        program: PathBuf,
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// What of it.
        hunk: Hunk,
        /// What becomes of its table.
        #[serde(default)]
        table_fate: TableFate,
    },
    /// Bridge ports that sent back by the port a frame came in, and do not now.
    Hairpin {
        /// Their names.
        links: Vec<String>,
    },
    /// A link that was up.
    Link {
        /// Its name.
        name: String,
    },
    /// A route.
    Route {
        /// The kernel's own message about it, in hexadecimal digits.
        message: String,
        /// A `throw` route stands in its place, since a default route would do instead.
        throw: bool,
    },
    /// A flow in the connection table.
    Flow(Flow),
    /// A file of the registry.
    File {
        /// Its name.
        name: String,
        /// What it held.
        before: String,
        /// What it holds now.
        after: String,
    },
}

/// What becomes of a table when a rule in it is undone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TableFate {
    /// It was there before.
    #[default]
    WasThere,
    /// It was made for the rule, and goes with it.
    Goes,
    /// It was made for the rule, and the kernel has no way to remove it before its namespace ends.
    Stays,
}

/// A UDP flow that was translated to somebody who is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// From where.
    pub client: SocketAddrV4,
    /// To which virtual address.
    pub service: SocketAddrV4,
    /// To whom it was translated.
    pub dead: SocketAddrV4,
}

impl Broken {
    /// Whether an empty table of iptables-legacy is left where people still are.
    pub fn leaves_a_table(&self) -> bool {
        let stays = |change: &Change| {
            matches!(
                change.what,
                What::Chain {
                    table_fate: TableFate::Stays,
                    ..
                }
            )
        };
        self.changes.iter().any(stays)
    }
}

impl Record {
    /// Whether nothing is broken.
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty() && self.links.is_empty()
    }

    /// The failure of a name.
    pub fn failure(&self, name: Name) -> Option<&Broken> {
        self.failures.iter().find(|broken| broken.name == name)
    }

    /// Whether something is broken by surprise, so that nobody may tell what.
    pub fn has_secret(&self) -> bool {
        self.failures.iter().any(|broken| broken.secret)
    }

    /// What `status` says of it, one line each.
    pub fn told(&self) -> Vec<String> {
        let failures = self.failures.iter().map(|broken| {
            if broken.secret {
                "broken on purpose: a surprise (`netns-lab break --hint` helps, `netns-lab fix` undoes it)"
                    .into()
            } else {
                format!(
                    "broken on purpose: {}, {} (`netns-lab fix {}` undoes it)",
                    broken.name, broken.target, broken.name
                )
            }
        });
        failures.chain(self.links.iter().map(LinkFault::told)).collect()
    }
}

/// The last free address of a range, which no pod has: a pod that is no more had it.
pub fn nobodys(range: ipnet::Ipv4Net, taken: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
    let mut free = (first + 2..last).rev().map(Ipv4Addr::from);
    free.find(|ip| !taken.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_address_is_nobodys() {
        let range = "10.244.0.0/29".parse().unwrap();
        let ip = |last| Ipv4Addr::new(10, 244, 0, last);
        assert_eq!(nobodys(range, &[ip(6), ip(2)]), Some(ip(5)));
        let all: Vec<_> = (2..7).map(ip).collect();
        assert_eq!(nobodys(range, &all), None);
    }

    #[test]
    fn a_record_comes_back_from_its_file() {
        let flow = Flow {
            client: "10.244.0.2:40053".parse().unwrap(),
            service: "10.96.0.81:53".parse().unwrap(),
            dead: "10.244.0.254:8081".parse().unwrap(),
        };
        let whats = [
            What::Flow(flow),
            What::Link {
                name: "veth-web-1".into(),
            },
            What::Chain {
                program: "/usr/sbin/iptables".into(),
                table: "nat".into(),
                chain: "KUBE-POSTROUTING".into(),
                hunk: Hunk::between(&["a".into()], &[]),
                table_fate: TableFate::Stays,
            },
        ];
        let record = Record {
            failures: vec![Broken {
                name: Name::StaleConntrack,
                secret: true,
                hints: 1,
                target: "x".into(),
                changes: whats
                    .into_iter()
                    .map(|what| Change {
                        namespace: None,
                        what,
                    })
                    .collect(),
            }],
            links: Vec::new(),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert!(!record.told()[0].contains("conntrack"), "a surprise is not told");
    }
}
