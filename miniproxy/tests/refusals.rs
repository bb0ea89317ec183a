//! What the API server would have refused is refused here: by file, line, column and field.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::single_match_else,
    clippy::format_collect,
    reason = "a test fails by panicking, and has no callers"
)]

use miniproxy::registry::{Registry, SourceFile};
use serde_json::{Value, json};

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
           "spec": {"clusterIP": "10.96.0.80", "ports": [{"port": 80}]}})
}

fn slice() -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
           "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
           "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": ["10.244.0.2"]}]})
}

fn read(objects: &[Value]) -> Result<Registry, Vec<miniproxy::registry::problem::Problem>> {
    let files: Vec<SourceFile> = objects
        .iter()
        .enumerate()
        .map(|(index, object)| SourceFile {
            path: format!("{index}.json"),
            bytes: serde_json::to_vec_pretty(object).unwrap(),
        })
        .collect();
    Registry::read(&files)
}

/// The object with one field replaced, and the field that should be named.
fn broken(mut object: Value, pointer: &str, value: Value) -> (Value, String) {
    match object.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    let mut field = String::new();
    for part in pointer.trim_start_matches('/').split('/') {
        if part.parse::<usize>().is_ok() {
            field.push_str(&format!("[{part}]"));
        } else {
            field.push_str(&format!("{}{part}", if field.is_empty() { "" } else { "." }));
        }
    }
    (object, field)
}

#[test]
fn each_bad_field_is_named_with_its_line() {
    let cases = [
        broken(service(), "/metadata/name", json!("Web")),
        broken(service(), "/metadata/name", json!("1web")),
        broken(service(), "/metadata/name", json!("")),
        broken(service(), "/metadata/name", json!("web\n-A INPUT -j ACCEPT")),
        broken(service(), "/metadata/namespace", json!("a.b")),
        broken(service(), "/spec/clusterIP", json!("10.96.0.300")),
        broken(service(), "/spec/clusterIP", json!("127.0.0.1")),
        broken(service(), "/spec/clusterIP", json!("10.96.0.80 -j ACCEPT")),
        broken(service(), "/spec/ports/0/port", json!(0)),
        broken(service(), "/spec/ports/0/port", json!(65_536)),
        broken(service(), "/spec/ports/0/port", json!("80")),
        broken(service(), "/spec/ports/0/protocol", json!("tcp")),
        broken(service(), "/spec/ports/0/name", json!("\u{1b}[31m")),
        broken(service(), "/spec/ports/0/targetPort", json!(70_000)),
        broken(service(), "/spec/ports/0/targetPort", json!("no such name")),
        broken(service(), "/spec/ports/0/nodePort", json!(-1)),
        broken(service(), "/spec/ports", json!([])),
        broken(service(), "/spec/type", json!("Clusterip")),
        broken(service(), "/spec/sessionAffinity", json!("clientip")),
        broken(service(), "/spec/externalIPs", json!("203.0.113.1")),
        broken(slice(), "/addressType", json!("IPv5")),
        broken(slice(), "/endpoints/0/addresses/0", json!("fd00::1")),
        broken(slice(), "/endpoints/0/addresses/0", json!("0.0.0.0")),
        broken(slice(), "/ports/0/port", json!(99_999)),
    ];
    for (object, field) in cases {
        let problems = read(std::slice::from_ref(&object)).expect_err(&field);
        assert_eq!(problems.len(), 1, "{problems:?}");
        let problem = &problems[0];
        assert_eq!(problem.field, field, "{problem}");
        let text = serde_json::to_string_pretty(&object).unwrap();
        let key = field
            .rsplit(['.', ']', '['])
            .find(|part| !part.is_empty() && part.parse::<usize>().is_err());
        let line = text.lines().nth(problem.line - 1).unwrap_or_default();
        let near = line.contains(key.unwrap()) || line.trim_start().starts_with('"');
        assert!(near && problem.column >= 1, "{problem}: line is {line:?}");
        assert!(
            !problem.to_string().contains('\u{1b}') && problem.to_string().lines().count() == 1,
            "{problem}"
        );
    }
}

#[test]
fn two_objects_of_one_name_and_two_services_of_one_address_are_refused() {
    let problems = read(&[service(), service()]).unwrap_err();
    assert!(
        problems[0]
            .to_string()
            .contains("there is another Service default/web, in 0.json"),
        "{}",
        problems[0]
    );
    let (other, _) = broken(service(), "/metadata/name", json!("other"));
    let problems = read(&[service(), other]).unwrap_err();
    assert!(
        problems[0]
            .to_string()
            .contains("10.96.0.80 belongs to Service default/web"),
        "{}",
        problems[0]
    );
}

#[test]
fn two_ports_need_two_names_and_one_name_is_used_once() {
    let two = |first: Value, second: Value| broken(service(), "/spec/ports", json!([first, second])).0;
    let unnamed = read(&[two(json!({"port": 80}), json!({"port": 81, "name": "b"}))]).unwrap_err();
    assert_eq!(unnamed[0].field, "spec.ports[0].name");
    let same = read(&[two(
        json!({"port": 80, "name": "a"}),
        json!({"port": 81, "name": "a"}),
    )])
    .unwrap_err();
    assert_eq!(same[0].field, "spec.ports[1].name");
    let number = read(&[two(
        json!({"port": 80, "name": "a"}),
        json!({"port": 80, "name": "b"}),
    )])
    .unwrap_err();
    assert_eq!(number[0].field, "spec.ports[1].port");
    let tcp_and_udp = two(
        json!({"port": 53, "name": "a"}),
        json!({"port": 53, "name": "b", "protocol": "UDP"}),
    );
    assert_eq!(read(&[tcp_and_udp]).unwrap().services.len(), 1);
}

#[test]
fn a_family_that_ip_families_denies_is_refused() {
    let (object, _) = broken(service(), "/spec/ipFamilies", json!(["IPv6"]));
    let problems = read(&[object]).unwrap_err();
    assert_eq!(problems[0].field, "spec.clusterIP");
    assert!(problems[0].expected.contains("IPv6"), "{}", problems[0]);
}

#[test]
fn headless_and_external_name_services_are_good_and_have_no_rules() {
    let (headless, _) = broken(service(), "/spec/clusterIP", json!("None"));
    let (mut external, _) = broken(
        service(),
        "/spec",
        json!({"type": "ExternalName", "externalName": "example.org"}),
    );
    external["metadata"]["name"] = json!("elsewhere");
    let registry = read(&[headless, external]).unwrap();
    let model = miniproxy::node::NodeOptions::default().model(&registry, labkit::xtables::Family::V4);
    assert_eq!(model.ports.len(), 0);
}
