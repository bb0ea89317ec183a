//! The nodes of a lab that are network namespaces of their own.

use std::path::PathBuf;

use crate::registry::Registry;

/// The annotation of a Node by which a lab tells where that node's network namespace is; a Node
/// without it is where the command runs.
pub const NAMESPACE_ANNOTATION: &str = "netns-lab/network-namespace";

/// The annotation of a Pod by which a lab tells the end of its cable that is on its node.
pub const INTERFACE_ANNOTATION: &str = "netns-lab/host-interface";

/// A node and its network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The name of the Node.
    pub node: String,
    /// The file that stands for its network namespace, such as `/run/netns/lab-node-1`.
    pub namespace: PathBuf,
}

/// The nodes that have a network namespace of their own, in the order of names.
pub fn homes(registry: &Registry) -> Vec<Home> {
    let nodes = registry.nodes.iter();
    let homes = nodes.filter_map(|(name, node)| {
        let annotations = node.metadata.annotations.as_ref()?;
        Some(Home {
            node: name.clone(),
            namespace: annotations.get(NAMESPACE_ANNOTATION)?.into(),
        })
    });
    homes.collect()
}

/// The network namespace of the host outside: a lab names it as it names its nodes, `lab-node-1` and
/// `lab-outside`. `None` in a lab whose node is here.
pub fn outside(homes: &[Home]) -> Option<PathBuf> {
    let home = homes.first()?;
    let path = home.namespace.to_str()?.strip_suffix(home.node.as_str())?;
    Some(PathBuf::from(format!("{path}outside")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::SourceFile;

    #[test]
    fn a_node_says_where_it_is_or_is_here() {
        let node = |name: &str, annotations: &str| {
            SourceFile {
            path: format!("{name}.json"),
            bytes: format!(
                r#"{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "{name}", "annotations": {annotations}}}}}"#
            )
            .into_bytes(),
        }
        };
        let files = [
            node(
                "node-2",
                r#"{"netns-lab/network-namespace": "/run/netns/lab-node-2"}"#,
            ),
            node(
                "node-1",
                r#"{"netns-lab/network-namespace": "/run/netns/lab-node-1"}"#,
            ),
            node("here", "{}"),
        ];
        let homes = homes(&Registry::read(&files).unwrap());
        assert_eq!(outside(&homes), Some("/run/netns/lab-outside".into()));
        assert_eq!(outside(&[]), None);
        let names: Vec<_> = homes.iter().map(|home| home.node.as_str()).collect();
        assert_eq!(names, ["node-1", "node-2"]);
        assert_eq!(homes[0].namespace, PathBuf::from("/run/netns/lab-node-1"));
    }
}
