//! What a topology says in two places must agree.

use labkit::locate::{parse_path, position};

use super::name::{Label, OUTSIDE, UNDERLAY};
use super::topology::{PodSpec, Topology};

/// Checks a topology that was read from a text.
///
/// # Errors
/// `3:9: pods[0].nodeName: what is wrong; what was expected`.
pub fn agree(topology: &Topology, text: &str) -> Result<(), String> {
    contradiction(topology).map_or(Ok(()), |(path, what)| {
        let (line, column) = position(text, &parse_path(&path));
        Err(format!("{line}:{column}: {path}: {what}"))
    })
}

/// The first field that contradicts another one, and what is wrong with it.
fn contradiction(topology: &Topology) -> Option<(String, String)> {
    let mut pods = topology.pods.iter().enumerate();
    pods.find_map(|(index, pod)| {
        let name = name_taken(topology, &pod.name).map(|what| ("name", what));
        let (field, what) = name.or_else(|| no_such_node(topology, pod).map(|what| ("nodeName", what)))?;
        Some((format!("pods[{index}].{field}"), what))
    })
}

fn name_taken(topology: &Topology, name: &Label) -> Option<String> {
    if !topology.has_own_nodes() {
        return None;
    }
    // Each has a namespace of that name.
    let owner = match name.as_str() {
        OUTSIDE => "the host outside",
        UNDERLAY => "the underlay",
        _ if topology.nodes.iter().any(|node| node.name == *name) => "a node",
        _ => return None,
    };
    Some(format!("{owner} is named {name}, too; expected another name"))
}

fn no_such_node(topology: &Topology, pod: &PodSpec) -> Option<String> {
    let wanted = pod.node_name.as_ref()?;
    let nodes: Vec<&str> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
    let missing = !nodes.is_empty() && !nodes.contains(&wanted.as_str());
    missing.then(|| format!("there is no node {wanted}; expected one of {}", nodes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_is_told_with_its_place() {
        let refusal = |text: &str| Topology::from_json(text.as_bytes()).unwrap_err();
        let nodes = r#""nodes": [{"name": "n1"}, {"name": "n2"}]"#;
        assert_eq!(
            refusal(&format!(
                "{{{nodes},\n  \"pods\": [{{\"name\": \"a\"}}, {{\"name\": \"b\", \"nodeName\": \"n9\"}}]\n}}"
            )),
            "2:53: pods[1].nodeName: there is no node n9; expected one of n1, n2"
        );
        let isolated = r#"{"isolated": true, "nodes": [{"name": "a"}], "pods": [{"name": "a"}]}"#;
        assert!(
            refusal(isolated).contains("pods[0].name: a node is named a"),
            "{isolated}"
        );
        let underlay = r#"{"isolated": true, "nodes": [{"name": "underlay"}], "pods": [{"name": "x"}]}"#;
        assert!(
            refusal(underlay).contains("nodes[0].name: underlay is the network"),
            "{underlay}"
        );
        for name in ["n1", "underlay", "outside"] {
            let said = refusal(&format!("{{{nodes}, \"pods\": [{{\"name\": \"{name}\"}}]}}"));
            assert!(
                said.contains("pods[0].name: ") && said.contains("too; expected another"),
                "{said}"
            );
        }
        // A lab without nodes of its own has none of these names.
        assert!(Topology::from_json(br#"{"pods": [{"name": "outside"}]}"#).is_ok());
    }
}
