//! Names: what people call labs, pods and nodes, and what the kernel must call their links.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The lab one gets without `--name`; its pods and links carry no lab name.
pub const DEFAULT_LAB: &str = "lab";

/// The longest name of a link: `IFNAMSIZ` less the final NUL (`linux/if.h`).
pub const INTERFACE_BYTES: usize = 15;

/// The host outside of a cluster of several nodes, to those who name it in a command.
pub const OUTSIDE: &str = "outside";
/// The name of the network between the nodes.
pub const UNDERLAY: &str = "underlay";

/// The longest DNS label (RFC 1123, as Kubernetes checks it).
const LABEL_BYTES: usize = 63;

/// A DNS label: 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last a `-`.
///
/// Names of labs, pods and nodes are labels, so that they are safe as file names, as link names,
/// in a command line and on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a text is no [`Label`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a DNS label (1 to 63 of a-z, 0-9 and \"-\", starting and ending with a letter or a digit), got {0:?}"
)]
pub struct NotALabel(String);

impl Label {
    /// The text, if it is a DNS label.
    pub fn new(text: &str) -> Result<Self, NotALabel> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        let good = bytes.len() <= LABEL_BYTES
            && ends.is_some_and(|(first, last)| inner(*first) && inner(*last))
            && bytes.iter().all(|byte| inner(*byte) || *byte == b'-');
        if good {
            Ok(Self(text.to_string()))
        } else {
            Err(NotALabel(text.chars().take(LABEL_BYTES + 1).collect()))
        }
    }

    /// The name of the `number`-th pod of `N-pods`.
    pub fn web(number: usize) -> Self {
        Self(format!("web-{number}"))
    }

    /// The container of a pod that names none.
    pub fn app() -> Self {
        Self(super::container::APP.to_string())
    }

    /// The pod of the name server, and its Service.
    pub fn kube_dns() -> Self {
        Self("kube-dns".to_string())
    }

    /// The container of the name server.
    pub fn dns() -> Self {
        Self("dns".to_string())
    }

    /// The lab without a `--name`.
    pub fn default_lab() -> Self {
        Self(DEFAULT_LAB.to_string())
    }

    /// The name of a lab's only node, unless a topology says another.
    pub fn default_node(lab: &Self) -> Self {
        Self::node(lab, 1)
    }

    /// The name of the `number`-th node, unless a topology says another: `node-1` in the default
    /// lab, `LAB-node-1` in others, so that two labs' nodes can be in one cluster.
    pub fn node(lab: &Self, number: usize) -> Self {
        let plain = format!("node-{number}");
        if lab.as_str() == DEFAULT_LAB {
            return Self(plain);
        }
        // Cut so that it stays a label; a `-` at the cut does no harm before the next one.
        let lab: String = lab
            .0
            .chars()
            .take(LABEL_BYTES - "-".len() - plain.len())
            .collect();
        Self(format!("{lab}-{plain}"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = NotALabel;

    fn try_from(text: String) -> Result<Self, NotALabel> {
        Self::new(&text)
    }
}

impl std::str::FromStr for Label {
    type Err = NotALabel;

    fn from_str(text: &str) -> Result<Self, NotALabel> {
        Self::new(text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name under `/run/netns`: the pod's own in the default lab, `LAB-POD` in another.
pub fn namespace(lab: &Label, pod: &Label) -> String {
    if lab.as_str() == DEFAULT_LAB {
        pod.to_string()
    } else {
        format!("{lab}-{pod}")
    }
}

/// The name under `/run/netns` of what is no pod: as [`namespace`], but a node that carries the
/// lab's name already does not get it twice.
pub fn host_namespace(lab: &Label, host: &Label) -> String {
    let prefix = format!("{lab}-");
    if host.as_str().starts_with(&prefix) {
        host.to_string()
    } else {
        namespace(lab, host)
    }
}

/// The underlay's end of a machine's veth pair. Only machines have links there, so that the lab's
/// name is not needed.
pub fn underlay_interface(host: &str) -> String {
    fit("veth", host)
}

/// The name under `/run/netns` of what joins the nodes.
pub fn underlay_namespace(lab: &Label) -> String {
    namespace(lab, &Label(UNDERLAY.to_string()))
}

/// The name under `/run/netns` of the host outside.
pub fn outside_namespace(lab: &Label) -> String {
    namespace(lab, &Label(OUTSIDE.to_string()))
}

/// The Kubernetes namespace of the objects that a lab publishes: `default` for the default lab, the
/// lab's name for others, so that one miniproxy can read the registries of several labs.
pub fn object_namespace(lab: &Label) -> &str {
    match lab.as_str() {
        DEFAULT_LAB => "default",
        // Somebody's lab may be called that; the name of the default lab is free.
        "default" => DEFAULT_LAB,
        other => other,
    }
}

/// The node's end of the pod's veth pair: `veth-POD`, or a hash where that is too long.
pub fn host_interface(lab: &Label, pod: &Label) -> String {
    fit("veth", &namespace(lab, pod))
}

/// The bridge of a lab: `cni0` for the default lab, as on most nodes, `cni-LAB` for others.
pub fn bridge(lab: &Label) -> String {
    if lab.as_str() == DEFAULT_LAB {
        "cni0".to_string()
    } else {
        fit("cni", lab.as_str())
    }
}

/// The link group of a lab: all its links carry it, so that one message deletes them all.
///
/// A high bit is set: people who number groups by hand start at 1, and 0 is every link's default.
/// The highest is not: `ip` prints such groups as negative numbers.
pub fn link_group(lab: &Label) -> u32 {
    let hash = stable_hash(lab.as_str().as_bytes());
    let folded = u32::try_from((hash >> 32) ^ (hash & 0xffff_ffff)).unwrap_or(u32::MAX);
    (folded & 0x1fff_ffff) | 0x2000_0000
}

/// Set in the group of links that are on their way out.
pub const LEAVING_BIT: u32 = 0x4000_0000;

/// The alias that marks a lab's bridge.
pub fn bridge_alias(lab: &Label) -> String {
    format!("netns-lab {lab}")
}

fn fit(prefix: &str, name: &str) -> String {
    let plain = format!("{prefix}-{name}");
    if plain.len() <= INTERFACE_BYTES {
        return plain;
    }
    // 11 hex digits after `veth`: 44 bits, and a clash is looked for all the same.
    let digits = format!("{:016x}", stable_hash(name.as_bytes()));
    format!("{prefix}{}", &digits[..INTERFACE_BYTES - prefix.len()])
}

/// FNV-1a, 64 bits, with a final mix: stable for ever, which `std`'s hasher does not promise.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    #[test]
    fn names_of_the_default_lab_are_the_plain_ones() {
        let lab = Label::default_lab();
        assert_eq!(namespace(&lab, &label("web-1")), "web-1");
        assert_eq!(host_interface(&lab, &label("web-1")), "veth-web-1");
        assert_eq!(bridge(&lab), "cni0");
        assert_eq!(object_namespace(&lab), "default");
        assert_eq!(Label::default_node(&lab).as_str(), "node-1");
    }

    #[test]
    fn names_of_another_lab_carry_its_name() {
        let lab = label("blue");
        assert_eq!(namespace(&lab, &label("db")), "blue-db");
        assert_eq!(host_interface(&lab, &label("db")), "veth-blue-db");
        assert_eq!(bridge(&lab), "cni-blue");
        assert_eq!(object_namespace(&lab), "blue");
        assert_eq!(Label::default_node(&lab).as_str(), "blue-node-1");
        let long = label(&"a".repeat(63));
        assert!(Label::new(Label::default_node(&long).as_str()).is_ok());
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for text in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "a/b",
            "..",
            "a\u{1b}",
            "é",
            &"a".repeat(64),
        ] {
            assert!(Label::new(text).is_err(), "{text:?}");
        }
        assert!(Label::new(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn a_hostile_name_is_escaped_in_its_error() {
        assert!(
            !Label::new("\u{1b}[2J")
                .unwrap_err()
                .to_string()
                .contains('\u{1b}')
        );
    }

    proptest! {
        #[test]
        fn a_thousand_long_names_never_collide(stem in "[a-z][a-z0-9-]{0,40}[a-z]", lab in "[a-z]{1,20}") {
            let lab = label(&lab);
            let pods: Vec<_> = (0..1000).map(|number| label(&format!("{stem}-{number}"))).collect();
            let names: BTreeSet<_> = pods.iter().map(|pod| host_interface(&lab, pod)).collect();
            prop_assert_eq!(names.len(), pods.len());
            prop_assert!(names.iter().all(|name| name.len() <= INTERFACE_BYTES));
            prop_assert!(bridge(&lab).len() <= INTERFACE_BYTES);
            prop_assert!(link_group(&lab) != 0 && link_group(&lab) & LEAVING_BIT == 0);
        }
    }
}
