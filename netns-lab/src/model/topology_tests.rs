use super::*;

fn refused(text: &str) -> String {
    Topology::from_json(text.as_bytes()).unwrap_err()
}

#[test]
fn n_pods_is_a_number_and_a_word() {
    assert_eq!(Topology::number_of_pods("3-pods"), Some(Ok(3)));
    assert_eq!(Topology::number_of_pods("1-pod"), Some(Ok(1)));
    assert_eq!(Topology::number_of_pods("three-pods"), None);
    assert!(Topology::number_of_pods("03-pods").unwrap().is_err());
    assert_eq!(Topology::number_of_pods("-pods"), None);
    assert!(Topology::number_of_pods("0-pods").unwrap().is_err());
    assert_eq!(
        Topology::number_of_pods("10001-pods"),
        Some(Err("a lab takes at most 10000 pods".into()))
    );
    assert!(
        Topology::number_of_pods("99999999999999999999999-pods")
            .unwrap()
            .is_err()
    );
}

#[test]
fn n_nodes_m_pods_is_two_numbers_and_two_words() {
    let lab = Label::default_lab();
    let meant = |text| Topology::from_words(text, &lab);
    let two = meant("2-nodes-6-pods").unwrap().unwrap();
    assert_eq!((two.nodes.len(), two.pods.len(), two.isolated), (2, 6, true));
    assert!(meant("1-node-1-pod").unwrap().unwrap().isolated);
    assert!(!meant("3-pods").unwrap().unwrap().has_own_nodes());
    for text in [
        "0-nodes-1-pod",
        "101-nodes-1-pod",
        "2-nodes-0-pods",
        "02-nodes-1-pod",
    ] {
        assert!(meant(text).unwrap().is_err(), "{text}");
    }
    for text in ["two-nodes-1-pod", "2-nodes-x-pods", "2-nodes-3", "-nodes-1-pods"] {
        assert_eq!(meant(text), None, "{text}");
    }
}

#[test]
fn what_n_pods_means_is_what_its_json_means() {
    let topology = Topology::web_pods(3);
    let text = serde_json::to_vec(&topology).unwrap();
    assert_eq!(Topology::from_json(&text), Ok(topology));
}

#[test]
fn a_short_file_is_enough() {
    let topology = Topology::from_json(br#"{"pods":[{"name":"db"}]}"#).unwrap();
    assert_eq!(topology.nodes, Vec::new());
    assert_eq!(topology.pods[0].ports, default_ports());
}

#[test]
fn errors_say_where_and_what_was_expected() {
    insta::assert_snapshot!(refused("{\n  \"pods\": [{\"name\": \"Web\"}]\n}"), @r#"2:26: pods[0].name: expected a DNS label (1 to 63 of a-z, 0-9 and "-", starting and ending with a letter or a digit), got "Web""#);
    insta::assert_snapshot!(refused("{\"pods\": [{\"name\": \"a\", \"image\": 1}]}"), @"1:31: pods[0].image: unknown field `image`; expected one of `name`, `nodeName`, `cpu`, `memory`, `labels`, `app`, `ports`, `containers`");
    insta::assert_snapshot!(refused("{\"pods\": [\n {\"name\": \"a\"},\n {\"name\": \"a\"}]}"), @"3:15: pods[1].name: two pods are named a; expected another name");
    insta::assert_snapshot!(refused("{\"pods\": []}"), @"1:12: pods: a lab has at least one pod");
    insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\",\"ports\":[{\"name\":\"x\",\"containerPort\":70000}]}]}"), @"1:65: pods[0].ports[0].containerPort: expected a port from 1 to 65535, got 70000");
    insta::assert_snapshot!(refused("{\"nodes\":[{\"name\":\"a\"},{\"name\":\"a\"}],\"pods\": [{\"name\":\"a\"}]}"), @"1:36: nodes[1].name: two nodes are named a; expected another name");
    insta::assert_snapshot!(refused("{\"nodes\":[{\"name\":\"outside\"}],\"pods\": [{\"name\":\"a\"}]}"), @"1:29: nodes[0].name: outside is the host beside the nodes; expected another name");
    insta::assert_snapshot!(refused("{\"nodes\":[{\"name\":\"a\",\"pods\":0}],\"pods\": [{\"name\":\"a\"}]}"), @"1:31: nodes[0].pods: expected a number of pods from 1 to 1023, got 0");
    insta::assert_snapshot!(refused("{\"nodes\":[{\"name\":\"a\",\"cpu\":\"lots\"}],\"pods\": [{\"name\":\"a\"}]}"), @r#"1:34: nodes[0].cpu: expected CPUs such as "2", "0.5" or "500m", got "lots""#);
    insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\"}]"), @"1:23: the file ends in the middle; expected the rest of the JSON");
    insta::assert_snapshot!(refused("[]"), @r#"1:1: a list; expected an object such as {"pods": [{"name": "db"}]}"#);
    insta::assert_snapshot!(refused(""), @r#"1:1: the file is empty; expected an object such as {"pods": [{"name": "db"}]}"#);
    insta::assert_snapshot!(refused("{\"nodes\": [\"node-1\"], \"pods\": []}"), @r#"1:19: nodes[0]: string "node-1"; expected an object such as {"name": "node-1"}"#);
    insta::assert_snapshot!(refused("{\"nodes\": [[\"node-1\"]], \"pods\": []}"), @r#"1:11: nodes[0]: a list; expected an object such as {"name": "node-1"}"#);
    insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\",\"labels\":{\"x\":\"1\",\"x\":\"2\"}}]}"), @"1:48: pods[0].labels: the label x is there twice; expected it once");
    insta::assert_snapshot!(refused("{\"pods\": [{\"name\":\"a\"}]} x"), @"1:26: more text after the end; expected nothing there");
}

#[test]
fn hostile_labels_are_refused() {
    for (key, value) in [
        ("a b", "x"),
        ("app", "a\u{1b}"),
        ("/x", "y"),
        ("", "y"),
        ("app", "-"),
    ] {
        let text = serde_json::json!({"pods": [{"name": "a", "labels": {key: value}}]}).to_string();
        assert!(Topology::from_json(text.as_bytes()).is_err(), "{key:?}={value:?}");
    }
}

/// The fields of an object, as the refusal of an unknown one lists them.
fn known_fields(with_unknown: &str) -> Vec<String> {
    let refusal = Topology::from_json(with_unknown.as_bytes()).unwrap_err();
    let (_, list) = refusal.split_once("expected one of ").expect(&refusal);
    let mut fields: Vec<_> = list.split('`').skip(1).step_by(2).map(str::to_string).collect();
    fields.sort();
    fields
}

#[test]
fn the_schema_knows_the_fields_that_are_read() {
    let schema = include_str!("../../../docs/topology.schema.json");
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let of_schema = |object: &serde_json::Value| {
        assert_eq!(object["additionalProperties"], false, "{object}");
        let mut fields: Vec<_> = object["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        fields.sort();
        fields
    };
    let pod = |inside: &str| format!(r#"{{"pods":[{{"name":"a",{inside}}}]}}"#);
    for (name, text) in [
        ("", r#"{"zzz":1}"#.to_string()),
        ("node", r#"{"nodes":[{"zzz":1}],"pods":[]}"#.to_string()),
        ("pod", pod(r#""zzz":1"#)),
        ("port", pod(r#""ports":[{"zzz":1}]"#)),
        ("container", pod(r#""containers":[{"zzz":1}]"#)),
    ] {
        let object = if name.is_empty() {
            &schema
        } else {
            &schema["$defs"][name]
        };
        assert_eq!(of_schema(object), known_fields(&text), "{name}");
    }
}
