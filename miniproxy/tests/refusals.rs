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
        broken(service(), "/spec/ipFamilyPolicy", json!("Foo")),
        broken(service(), "/spec/trafficDistribution", json!("PreferNear")),
        broken(slice(), "/addressType", json!("IPv5")),
        broken(slice(), "/addressType", json!("")),
        broken(slice(), "/endpoints/0/nodeName", json!("A_b")),
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

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    object = broken(object, pointer, value).0;
    object
}

#[track_caller]
fn assert_each_is_named(cases: &[(&str, Value)]) {
    for (field, object) in cases {
        let problems = read(std::slice::from_ref(object)).expect_err(field);
        assert_eq!(
            (problems.len(), problems[0].field.as_str()),
            (1, *field),
            "{problems:?}"
        );
        assert!(
            problems[0].object.is_some() && problems[0].line > 1,
            "{}",
            problems[0]
        );
    }
}

/// Fields that are good by themselves and not in the company of others.
#[test]
fn what_makes_no_sense_together_is_named() {
    let spec = |more: Value| {
        let mut service = service();
        let fields = more.as_object().unwrap().clone();
        service["spec"].as_object_mut().unwrap().extend(fields);
        service
    };
    let balancer = |more: Value| with(spec(more), "/spec/type", json!("LoadBalancer"));
    let status = |entry: Value| {
        let mut service = balancer(json!({}));
        service["status"] = json!({"loadBalancer": {"ingress": [entry]}});
        service
    };
    let port = json!([{"port": 80, "nodePort": 30_080}]);
    let twice =
        json!([{"name": "a", "port": 80, "nodePort": 30_080}, {"name": "b", "port": 81, "nodePort": 30_080}]);
    let ports = json!([{"name": "a", "port": 80}, {"name": "a", "port": 81}]);
    let hint = json!([{"addresses": ["10.244.0.2"], "hints": {"forZones": [{"name": ""}]}}]);
    let cases = [
        (
            "spec.loadBalancerSourceRanges[0]",
            balancer(json!({"loadBalancerSourceRanges": ["10.0.0.0/33"]})),
        ),
        ("spec.externalIPs[0]", spec(json!({"externalIPs": ["garbage"]}))),
        (
            "spec.externalIPs[1]",
            spec(json!({"externalIPs": ["203.0.113.1", "127.0.0.1"]})),
        ),
        ("spec.externalIPs[0]", spec(json!({"externalIPs": ["0.0.0.0"]}))),
        ("spec.externalIPs[0]", spec(json!({"externalIPs": ["fe80::1"]}))),
        (
            "status.loadBalancer.ingress[0].ip",
            status(json!({"ip": "127.0.0.1"})),
        ),
        ("status.loadBalancer.ingress[0].ip", status(json!({"ip": "::"}))),
        (
            "status.loadBalancer.ingress[0].ipMode",
            status(json!({"ip": "203.0.113.1", "ipMode": "vip"})),
        ),
        ("spec.ports[0].nodePort", spec(json!({"ports": port}))),
        ("spec.ports[1].nodePort", balancer(json!({"ports": twice}))),
        ("spec.clusterIP", balancer(json!({"clusterIP": "None"}))),
        (
            "spec.externalTrafficPolicy",
            spec(json!({"externalTrafficPolicy": "Local"})),
        ),
        (
            "spec.healthCheckNodePort",
            balancer(json!({"healthCheckNodePort": 30_081})),
        ),
        (
            "spec.healthCheckNodePort",
            balancer(json!({"ports": port, "healthCheckNodePort": 30_080, "externalTrafficPolicy": "Local"})),
        ),
        ("spec.clusterIPs[0]", spec(json!({"clusterIPs": ["10.96.0.81"]}))),
        (
            "spec.ipFamilies[1]",
            spec(json!({"ipFamilies": ["IPv4", "IPv4"]})),
        ),
        ("spec.externalName", spec(json!({"type": "ExternalName"}))),
        ("ports[1].name", with(slice(), "/ports", ports)),
        (
            "endpoints[0].addresses",
            with(slice(), "/endpoints/0/addresses", json!([])),
        ),
        (
            "endpoints[0].addresses[0]",
            with(slice(), "/endpoints/0/addresses/0", json!("169.254.169.254")),
        ),
        (
            "endpoints[0].addresses[0]",
            with(slice(), "/endpoints/0/addresses/0", json!("224.0.0.1")),
        ),
        (
            "endpoints[0].hints.forZones[0].name",
            with(slice(), "/endpoints", hint),
        ),
        (
            "spec.clusterIPs[2]",
            with(
                service(),
                "/spec/clusterIPs",
                json!(["10.96.0.80", "fd00::80", "10.96.0.81"]),
            ),
        ),
    ];
    assert_each_is_named(&cases);
}

#[test]
fn what_a_node_cannot_be_is_named() {
    let node = |more: Value| {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
        node.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        node
    };
    let cases = [
        ("spec.podCIDR", node(json!({"spec": {"podCIDR": "10.244.0.0"}}))),
        ("spec.podCIDRs[0]", node(json!({"spec": {"podCIDRs": ["x"]}}))),
        (
            "spec.podCIDRs[1]",
            node(json!({"spec": {"podCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}})),
        ),
        (
            "spec.podCIDR",
            node(json!({"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24"]}})),
        ),
        (
            "status.addresses[0].address",
            node(json!({"status": {"addresses": [{"type": "InternalIP", "address": "node-1"}]}})),
        ),
    ];
    assert_each_is_named(&cases);
}

/// kube-proxy reads on behind an entry that it cannot read, and then so do we.
#[test]
fn of_a_list_with_something_good_the_rest_is_passed_over_and_told() {
    let mut sloppy = with(service(), "/spec/type", json!("LoadBalancer"));
    sloppy["spec"]["loadBalancerSourceRanges"] = json!(["all\u{1b}", " 198.51.100.0/24 "]);
    sloppy["spec"]["externalIPs"] = json!(["203.0.113.1", ""]);
    let registry = read(&[sloppy]).unwrap();
    let told = miniproxy::registry::check::passed_over(&registry);
    assert_eq!(
        told,
        [
            r#"Service default/web: spec.externalIPs[1]: "" cannot be read and is passed over, as kube-proxy does"#,
            r#"Service default/web: spec.loadBalancerSourceRanges[0]: "all\u{1b}" cannot be read and is passed over, as kube-proxy does"#,
        ]
    );
}

#[test]
fn a_port_on_the_nodes_is_of_one_service_only() {
    let first = with(service(), "/spec/type", json!("NodePort"));
    let first = with(first, "/spec/ports", json!([{"port": 80, "nodePort": 30_080}]));
    let other = with(first.clone(), "/metadata/name", json!("other"));
    let other = with(other, "/spec/clusterIP", json!("10.96.0.81"));
    let problems = read(&[first.clone(), other.clone()]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].field, "spec.ports[0].nodePort");
    assert!(
        problems[0]
            .what
            .contains("node port 30080/TCP belongs to Service default/web")
    );
    // Of another protocol it is another port.
    let udp = with(other.clone(), "/spec/ports/0/protocol", json!("UDP"));
    assert_eq!(read(&[first.clone(), udp]).unwrap().services.len(), 2);
    let mut check = with(other, "/spec/type", json!("LoadBalancer"));
    check["spec"]["ports"] = json!([{"port": 80}]);
    check["spec"]["externalTrafficPolicy"] = json!("Local");
    check["spec"]["healthCheckNodePort"] = json!(30_080);
    let problems = read(&[first, check]).unwrap_err();
    assert_eq!(problems[0].field, "spec.healthCheckNodePort", "{}", problems[0]);
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
