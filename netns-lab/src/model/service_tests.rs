use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pools() -> Pools {
    Pools {
        services: vec!["10.96.0.0/16".parse().unwrap()],
        balancers: vec!["172.18.255.0/24".parse().unwrap()],
    }
}

fn dual() -> Pools {
    let mut pools = pools();
    pools.services.push("fd00:10:96::/112".parse().unwrap());
    pools
}

fn now() -> Time {
    Time("2026-01-02T03:04:05Z".parse().unwrap())
}

fn service(spec: &Value) -> Service {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn settled(spec: impl std::borrow::Borrow<Value>, pools: &Pools, in_use: &InUse) -> Result<Value, String> {
    settle(service(spec.borrow()), None, pools, in_use, &now())
        .map(|service| serde_json::to_value(service).unwrap())
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn every_field_has_its_default() {
    let whole = settled(
        json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}),
        &pools(),
        &InUse::default(),
    );
    insta::assert_json_snapshot!(whole.unwrap());
}

#[test]
fn a_load_balancer_gets_all_that_there_is() {
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"},
        "ports": [
            {"name": "http", "port": 80, "targetPort": "http"},
            {"name": "dns", "port": 53}, {"name": "dns-udp", "port": 53, "protocol": "UDP"},
        ],
    });
    insta::assert_json_snapshot!(settled(spec, &dual(), &InUse::default()).unwrap());
}

#[test]
fn what_others_have_is_not_given_again() {
    let mut in_use = InUse::default();
    let other = json!({"ports": [{"port": 80}], "type": "NodePort"});
    let other = settled(other, &pools(), &in_use).unwrap();
    assert_eq!(other["spec"]["clusterIP"], "10.96.1.1");
    assert_eq!(other["spec"]["ports"][0]["nodePort"], 30_086);
    in_use.note(&other, ("default", "shop"));
    let own = settled(
        json!({"ports": [{"port": 80}], "type": "NodePort"}),
        &pools(),
        &in_use,
    )
    .unwrap();
    assert_eq!(own["spec"]["clusterIP"], "10.96.1.2");
    assert_eq!(own["spec"]["ports"][0]["nodePort"], 30_087);
    let taken = json!({"ports": [{"port": 80}], "clusterIP": "10.96.1.1"});
    assert_eq!(
        settled(taken, &pools(), &in_use).unwrap_err(),
        "spec.clusterIPs[0]: 10.96.1.1; expected another address: default/web has it"
    );
    let taken = json!({"ports": [{"port": 80, "nodePort": 30_086}], "type": "NodePort"});
    assert_eq!(
        settled(taken, &pools(), &in_use).unwrap_err(),
        "spec.ports[0].nodePort: 30086; expected another node port: default/web has it"
    );
    // Its own it may keep.
    let mut none = InUse::default();
    none.note(&other, ("default", "web"));
    assert_eq!(none, InUse::default());
}

#[test]
fn a_change_keeps_what_was_allocated() {
    let spec = json!({"ports": [{"port": 80}], "type": "NodePort", "selector": {"app": "web"}});
    let first = settle(service(&spec), None, &pools(), &InUse::default(), &now()).unwrap();
    let mut in_use = InUse::default();
    let next = json!({"spec": {"clusterIP": "10.96.1.2", "ports": [{"port": 1, "nodePort": 30_087}]},
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}});
    in_use.note(&next, ("default", "web"));
    let spec =
        json!({"ports": [{"port": 81, "name": "new"}, {"port": 80, "name": "old"}], "type": "NodePort"});
    let later = Time("2026-02-02T03:04:05Z".parse().unwrap());
    let second = settle(service(&spec), Some(&first), &pools(), &in_use, &later).unwrap();
    assert_eq!(second.metadata.creation_timestamp, Some(now()));
    let spec = second.spec.unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.1.1"));
    let node_ports: Vec<_> = spec.ports.unwrap().iter().map(|port| port.node_port).collect();
    assert_eq!(node_ports, [Some(30_088), Some(30_086)]);
    // To ClusterIP: the node ports go.
    let spec = json!({"ports": [{"port": 80}]});
    let third = settle(service(&spec), Some(&first), &pools(), &in_use, &later).unwrap();
    assert_eq!(third.spec.unwrap().ports.unwrap()[0].node_port, None);
}

#[test]
fn headless_and_external_names_have_no_address() {
    let headless = settled(
        json!({"clusterIP": "None", "selector": {"app": "web"}}),
        &pools(),
        &InUse::default(),
    )
    .unwrap();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4"]));
    let open = settled(json!({"clusterIP": "None"}), &pools(), &InUse::default()).unwrap();
    assert_eq!(open["spec"]["ipFamilyPolicy"], "RequireDualStack");
    let external = json!({"type": "ExternalName", "externalName": "db.example.com"});
    let external = settled(external, &pools(), &InUse::default()).unwrap();
    assert!(external["spec"].get("clusterIP").is_none() && external["spec"].get("ipFamilies").is_none());
}

#[test]
fn what_the_api_server_refuses_is_refused_by_its_field() {
    let port = json!([{"port": 80}]);
    for (spec, field) in [
        (json!({}), "spec.ports:"),
        (json!({"ports": [{"port": 70_000}]}), "spec.ports[0].port:"),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            "spec.ports[0].name:",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "no_name"}]}),
            "spec.ports[0].targetPort:",
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            "spec.ports[0].protocol:",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30_100}]}),
            "spec.ports[0].nodePort:",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 80}], "type": "NodePort"}),
            "spec.ports[0].nodePort:",
        ),
        (json!({"ports": port, "type": "Cluster"}), "spec.type:"),
        (
            json!({"ports": port, "clusterIP": "10.97.0.1"}),
            "spec.clusterIPs[0]:",
        ),
        (
            json!({"ports": port, "clusterIP": "10.96.0.0"}),
            "spec.clusterIPs[0]:",
        ),
        (json!({"ports": port, "clusterIP": "x"}), "spec.clusterIP:"),
        (
            json!({"ports": port, "clusterIP": "None", "type": "NodePort"}),
            "spec.clusterIP:",
        ),
        (
            json!({"ports": port, "externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy:",
        ),
        (
            json!({"ports": port, "healthCheckNodePort": 30_200}),
            "spec.healthCheckNodePort:",
        ),
        (
            json!({"ports": port, "sessionAffinityConfig": {"clientIP": {}}}),
            "spec.sessionAffinityConfig:",
        ),
        (
            json!({"ports": port, "ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy:",
        ),
        (
            json!({"ports": port, "ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]:",
        ),
        (json!({"ports": port, "selector": {"a b": "c"}}), "spec.selector:"),
        (
            json!({"type": "ExternalName", "externalName": "a b"}),
            "spec.externalName:",
        ),
        (
            json!({"ports": port, "externalIPs": ["127.0.0.1"]}),
            "spec.externalIPs[0]:",
        ),
    ] {
        let refusal = settled(spec.clone(), &pools(), &InUse::default()).unwrap_err();
        assert!(refusal.starts_with(field), "{spec}: {refusal}");
    }
    let mut wrong = service(&json!({"ports": port}));
    wrong.metadata.name = Some("1web".into());
    assert!(settle(wrong, None, &pools(), &InUse::default(), &now()).is_err());
}

proptest! {
    /// However many: no address and no node port twice, all within their ranges, and what is stored
    /// is stored the same when it is applied again.
    #[test]
    fn nothing_is_given_twice(kinds in proptest::collection::vec(0_usize..3, 1..20), prefix in 24_u8..=28) {
        let range: IpNet = format!("10.96.0.0/{prefix}").parse().unwrap();
        let pools = Pools { services: vec![range], balancers: vec!["172.18.255.240/28".parse().unwrap()] };
        let mut in_use = InUse::default();
        let (mut addresses, mut ports) = (Vec::new(), Vec::new());
        for (index, kind) in kinds.into_iter().enumerate() {
            let (kind, policy) =
                [("ClusterIP", ""), ("NodePort", "Cluster"), ("LoadBalancer", "Local")][kind];
            let spec = json!({"type": kind, "ports": [{"port": 80}], "externalTrafficPolicy": policy});
            let mut own = service(&spec);
            own.metadata.name = Some(format!("web-{index}"));
            let Ok(own) = settle(own, None, &pools, &in_use, &now()) else { break };
            prop_assert_eq!(&settle(own.clone(), Some(&own), &pools, &in_use, &now()).unwrap(), &own);
            let spec = own.spec.clone().unwrap();
            addresses.extend(cluster_ips(&spec));
            addresses.extend(ingress(&own));
            ports.extend(spec.ports.unwrap().iter().filter_map(|port| port.node_port));
            ports.extend(spec.health_check_node_port);
            in_use.note(&serde_json::to_value(&own).unwrap(), ("", ""));
        }
        let mut once = addresses.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), addresses.len());
        prop_assert!(ports.iter().all(|port| (30_000..=32_767).contains(port)));
        let many = ports.len();
        ports.sort_unstable();
        ports.dedup();
        prop_assert_eq!(ports.len(), many);
    }
}
