//! The twelve classic failures of a Service, in words.

use std::fmt;

use labkit::table::Table;
use serde::{Deserialize, Serialize};

use crate::model::report::wrapped;

/// Which failure.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// `br_netfilter` does not hand bridged packets to iptables.
    BrNetfilterOff,
    /// The bridge does not send back by the port it came in.
    HairpinOff,
    /// The MASQUERADE of the Services' rules is gone.
    MasqueradeMissing,
    /// A DROP at the head of FORWARD.
    ForwardDrop,
    /// A DROP in the iptables that nobody looks at.
    OtherIptablesDrop,
    /// Each rule of a Service rolls 1/n.
    WrongProbabilities,
    /// A pod is gone, and its rules are there.
    DeadEndpoint,
    /// A UDP flow is remembered whose pod is gone.
    StaleConntrack,
    /// A Service without endpoints, and nothing that refuses.
    NoReject,
    /// A node has no route to the pods of another.
    NoNodeRoute,
    /// The node has no route to virtual IPs.
    NoVipRoute,
    /// The selector of a Service selects nothing.
    WrongSelector,
}

/// What a caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// What the client says.
    pub word: &'static str,
    /// How long that takes.
    pub time: &'static str,
    /// Of which connections.
    pub share: &'static str,
}

/// What a failure cannot be made without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The kernel's `br_netfilter`.
    BridgeNetfilter,
    /// The rules of a Service that has at least so many endpoints.
    Rules(usize),
    /// A Service with a UDP port.
    UdpService,
    /// Another node.
    TwoNodes,
    /// The iptables of the other flavour.
    OtherIptables,
    /// A Service that selects pods.
    Selector,
    /// Nobody who writes the rules again at once.
    NoWatch,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BridgeNetfilter => f.write_str("br_netfilter in the kernel"),
            Self::Rules(0) => f.write_str("rules of a Service"),
            Self::Rules(1) => f.write_str("rules of a Service that has endpoints"),
            Self::Rules(number) => write!(f, "rules of a Service with {number} endpoints"),
            Self::UdpService => f.write_str("rules of a UDP Service, as kube-dns"),
            Self::TwoNodes => f.write_str("two nodes"),
            Self::OtherIptables => f.write_str("the iptables of the other flavour"),
            Self::Selector => f.write_str("a Service that selects pods"),
            Self::NoWatch => f.write_str("no `sync --watch`"),
        }
    }
}

/// One failure in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// It in a few words.
    pub title: &'static str,
    /// What is done, in sentences.
    pub what: &'static str,
    /// What a caller sees.
    #[serde(flatten)]
    pub signature: Signature,
    /// What it needs.
    pub needs: &'static [Need],
    /// Whether it hits IPv6 as well as IPv4.
    pub ipv6: bool,
    /// Hints, each telling more than the one before; the last one is the cure.
    pub hints: [&'static str; 3],
}

impl Name {
    /// All of them, in the order of the list.
    pub const ALL: [Self; 12] = [
        Self::BrNetfilterOff,
        Self::HairpinOff,
        Self::MasqueradeMissing,
        Self::ForwardDrop,
        Self::OtherIptablesDrop,
        Self::WrongProbabilities,
        Self::DeadEndpoint,
        Self::StaleConntrack,
        Self::NoReject,
        Self::NoNodeRoute,
        Self::NoVipRoute,
        Self::WrongSelector,
    ];

    /// It in words.
    pub fn entry(self) -> &'static Entry {
        // Each name is in the table once; a test holds them against each other.
        ENTRIES
            .iter()
            .find(|entry| entry.name == self)
            .unwrap_or(&ENTRIES[0])
    }

    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BrNetfilterOff => "br-netfilter-off",
            Self::HairpinOff => "hairpin-off",
            Self::MasqueradeMissing => "masquerade-missing",
            Self::ForwardDrop => "forward-drop",
            Self::OtherIptablesDrop => "other-iptables-drop",
            Self::WrongProbabilities => "wrong-probabilities",
            Self::DeadEndpoint => "dead-endpoint",
            Self::StaleConntrack => "stale-conntrack",
            Self::NoReject => "no-reject",
            Self::NoNodeRoute => "no-node-route",
            Self::NoVipRoute => "no-vip-route",
            Self::WrongSelector => "wrong-selector",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The list for people.
pub fn table() -> String {
    let mut table = Table::new(&["NAME", "SAYS", "AFTER", "WHICH CALLS"]);
    for entry in &ENTRIES {
        let Signature { word, time, share } = entry.signature;
        table.row([entry.name.as_str(), word, time, share]);
    }
    let mut text = table.render();
    text.push('\n');
    text.push_str(&wrapped(&format!("needed: {}", needs().join("; "))));
    let both = ENTRIES.iter().filter(|entry| entry.ipv6);
    let both: Vec<_> = both.map(|entry| entry.name.as_str()).collect();
    text.push_str(&wrapped(&format!("IPv6 as well as IPv4: {}", both.join(", "))));
    text
}

/// What is needed, and by which: the list is to fit a screen.
fn needs() -> Vec<String> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for entry in &ENTRIES {
        for need in entry.needs {
            let need = need.to_string();
            match found.iter_mut().find(|(known, _)| *known == need) {
                Some((_, names)) => names.push(entry.name.as_str()),
                None => found.push((need, vec![entry.name.as_str()])),
            }
        }
    }
    let said = found
        .into_iter()
        .map(|(need, names)| format!("{need} ({})", names.join(", ")));
    said.collect()
}

const TIMED_OUT: &str = "timed out";
const REFUSED: &str = "refused";
const FULL: &str = "full wait";
const AT_ONCE: &str = "at once";

/// All failures.
pub const ENTRIES: [Entry; 12] = [
    Entry {
        name: Name::BrNetfilterOff,
        title: "bridged packets bypass iptables",
        what: "Sets net.bridge.bridge-nf-call-iptables to 0 on each node. The answer of a pod on the same bridge \
               then comes back untranslated, from an address that the client never called, and is thrown away.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "pod to another pod of its node",
        },
        needs: &[Need::BridgeNetfilter],
        ipv6: false,
        hints: [
            "The node reaches the Service, and so does a pod that is lucky enough to draw itself.",
            "Capture in the client: the answer arrives, but from the pod's address and not from the Service's. \
             Who should have translated it back, and was it asked?",
            "Packets between two ports of a bridge are seen by iptables only if br_netfilter says so: \
             sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ],
    },
    Entry {
        name: Name::HairpinOff,
        title: "a pod does not reach itself",
        what: "Switches hairpin off on the bridge port of each pod. A frame for the port it came from is then \
               not sent, and a pod that draws itself waits in vain.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "1/n, from a pod of the Service",
        },
        needs: &[],
        ipv6: true,
        hints: [
            "Only pods of the Service have the trouble, each with one answer in n.",
            "Count who answers to a pod: every pod but itself. Where must a packet go whose source and \
             destination are behind the same port of the bridge?",
            "A bridge port sends nothing back by itself unless told to: bridge link set dev veth-POD hairpin on \
             (for each pod)",
        ],
    },
    Entry {
        name: Name::MasqueradeMissing,
        title: "Service traffic is not masqueraded",
        what: "Removes the MASQUERADE from KUBE-POSTROUTING on each node. Packets are still marked, but the mark \
               has no effect: a pod that draws itself sees a packet from itself, and a pod of another node \
               answers whoever came by a node port past the node that would translate it back.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "1/n, from a pod of the Service",
        },
        needs: &[Need::Rules(1), Need::NoWatch],
        ipv6: false,
        hints: [
            "A pod of the Service has the trouble with one answer in n, though hairpin is on. So has whoever comes \
             by a node port and draws a pod of another node.",
            "The packet arrives at the pod, but look at its source. KUBE-MARK-MASQ marks such packets; what is the \
             mark good for?",
            "KUBE-POSTROUTING ends without MASQUERADE: miniproxy sync writes it again, or iptables -t nat -A \
             KUBE-POSTROUTING -j MASQUERADE",
        ],
    },
    Entry {
        name: Name::ForwardDrop,
        title: "FORWARD drops packets to pods",
        what: "Puts a DROP of everything to the pods' range at the head of FORWARD on each node.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "all but a node's to its own pods",
        },
        needs: &[],
        ipv6: false,
        hints: [
            "A node reaches the pods that it has itself, and nobody else reaches any. What do packets of others pass \
             that those of the node do not?",
            "The packet is translated and then lost. The counters tell where: iptables -L FORWARD -n -v",
            "A DROP is the first rule of FORWARD: iptables -D FORWARD 1",
        ],
    },
    Entry {
        name: Name::OtherIptablesDrop,
        title: "a DROP in the other iptables",
        what: "Puts a DROP of everything to the pods' range into FORWARD of the other flavour, iptables-legacy \
               beside iptables-nft or the other way round. Packets pass both.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "all but a node's to its own pods",
        },
        needs: &[Need::OtherIptables],
        ipv6: false,
        hints: [
            "No pod reaches the Service, and `iptables -S` has nothing that could drop it.",
            "Rules can stand where `iptables` does not look. Which flavours are there? (`netns-lab doctor` says)",
            "The other flavour holds a DROP: iptables-legacy -D FORWARD 1 (or iptables-nft, where that is the other)",
        ],
    },
    Entry {
        name: Name::WrongProbabilities,
        title: "each rule rolls 1/n",
        what: "Rewrites the rules of one Service so that each of n rolls 1/n. Who rolls on what the others left \
               must roll 1/n, 1/(n-1), … 1; so a part falls through all of them.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "(1-1/n)^n: 29.6 % of 3 pods",
        },
        needs: &[Need::Rules(2), Need::NoWatch],
        ipv6: false,
        hints: [
            "Some calls are lost, from everywhere, and no pod is down. Count many: who answers how often?",
            "The first pod is asked more often than the second, the second more often than the third. Read the \
             --probability of the rules in the Service's chain.",
            "The last rule must take all that is left, and the one before it half of that: miniproxy sync",
        ],
    },
    Entry {
        name: Name::DeadEndpoint,
        title: "a pod is gone, its rules are there",
        what: "Sets the node's end of one pod's cable down. The registry and the rules still have the pod, and \
               nobody answers for its address. (Who waits longer than 3 s is told \"no route to host\".)",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "1/n",
        },
        needs: &[Need::Rules(1)],
        ipv6: true,
        hints: [
            "One call in n is lost, from everywhere. Which pod never answers?",
            "Ask for each pod by ARP: netns-lab arp POD-ADDRESS. Then look at the links: ip link",
            "The cable of one pod is down: ip link set veth-POD up",
        ],
    },
    Entry {
        name: Name::StaleConntrack,
        title: "a UDP flow to a pod that is gone",
        what: "Puts a flow into the connection table, from one port of a pod to a UDP Service, that was \
               translated to a pod which is no more. Rules are read for a flow's first packet only.",
        signature: Signature {
            word: "no answer",
            time: "its timeout",
            share: "one source port of one pod",
        },
        needs: &[Need::UdpService],
        ipv6: false,
        hints: [
            "The Service answers, but not to one source port of one pod. The rules are right.",
            "The kernel has read the rules for this flow once, and remembers what they said: conntrack -L -p udp",
            "An entry leads to an address that no pod has: conntrack -D -p udp --orig-port-src PORT",
        ],
    },
    Entry {
        name: Name::NoReject,
        title: "no endpoints, and nothing refuses",
        what: "Takes one Service out of the rules, as when it has no endpoints, and leaves out the REJECT which \
               belongs there then. The virtual IP is not translated, and packets to it end nowhere.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "all",
        },
        needs: &[Need::Rules(0), Need::NoWatch],
        ipv6: false,
        hints: [
            "Nobody reaches the Service, and nobody is refused either.",
            "Which rule speaks of the virtual IP? iptables-save | grep ADDRESS",
            "No rule does: neither one that translates it nor one that rejects it: miniproxy sync",
        ],
    },
    Entry {
        name: Name::NoNodeRoute,
        title: "no route to the pods of another node",
        what: "Removes the route to the pods of one other node from the first node. Their packets then leave the \
               cluster by the default route, and nobody there knows those pods.",
        signature: Signature {
            word: TIMED_OUT,
            time: FULL,
            share: "between pods of two nodes",
        },
        needs: &[Need::TwoNodes],
        ipv6: false,
        hints: [
            "Pods of the same node reach each other. Which nodes can talk to which?",
            "Ask each node for its way: netns-lab exec NODE -- ip route get POD-ADDRESS",
            "A node lacks the route to the pods of another: netns-lab exec NODE -- ip route, or `netns-lab up`",
        ],
    },
    Entry {
        name: Name::NoVipRoute,
        title: "the node has no route to virtual IPs",
        what: "Removes the route to the Services' range from each node. A packet that the node itself sends \
               needs a route before iptables can translate it; those of pods do not.",
        signature: Signature {
            word: "unreachable",
            time: AT_ONCE,
            share: "all from the node, none from pods",
        },
        needs: &[],
        ipv6: false,
        hints: [
            "Every pod reaches the Service, the node does not, and it knows that at once.",
            "For its own packets the node asks for a route first, and only then iptables: ip route get ADDRESS",
            "There is no route to the virtual IP: ip route replace SERVICE-RANGE dev BRIDGE, or `netns-lab up`",
        ],
    },
    Entry {
        name: Name::WrongSelector,
        title: "a selector that selects nothing",
        what: "Changes the selector in the file of one Service so that no pod has such labels. After the next \
               `miniproxy sync` the Service has no endpoints. (The kernel sends a caller six refusals in a row, then \
               one a second: who calls faster waits in vain.)",
        signature: Signature {
            word: REFUSED,
            time: AT_ONCE,
            share: "all",
        },
        needs: &[Need::Selector],
        ipv6: true,
        hints: [
            "Everybody is refused at once: something answers, and it is no pod.",
            "A rule refuses: iptables-save | grep REJECT. What does it say about endpoints?",
            "Compare the selector of the Service with the labels of the pods (netns-lab status), correct the file, \
             then: miniproxy sync",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_entry_in_order() {
        for (name, entry) in Name::ALL.iter().zip(&ENTRIES) {
            assert_eq!(*name, entry.name);
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
            assert_eq!(
                <Name as clap::ValueEnum>::from_str(name.as_str(), false).unwrap(),
                *name
            );
        }
    }

    #[test]
    fn the_list_fits_a_terminal() {
        let list = table();
        assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
        // With an empty line and the one that says what is next.
        assert!(list.lines().count() <= 24 - 2, "{list}");
        insta::assert_snapshot!(list);
    }

    #[test]
    fn the_hints_of_all() {
        let mut text = String::new();
        for entry in &ENTRIES {
            text.push_str(&format!("{}: {}\n  {}\n", entry.name, entry.title, entry.what));
            for hint in entry.hints {
                text.push_str(&format!("  - {hint}\n"));
            }
        }
        insta::assert_snapshot!(text);
    }
}
