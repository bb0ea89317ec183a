use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::dns::store::Store;

pub(crate) fn zone(objects: &[Value]) -> Zone {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut store = Store::default();
    store.update("all.json", Some(list.to_string().as_bytes()));
    Zone::new(&store.objects(), "cluster.local", 1)
}

pub(crate) fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "clusterIP": ip,
            "selector": {"app": "web"},
            "ports": [
                {"name": "https", "port": 443, "targetPort": "tls"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    })
}

pub(crate) fn pod(name: &str, ip: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "tls", "containerPort": 8443}]}]},
        "status": {
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    })
}

fn find(zone: &Zone, name: &str) -> Option<Vec<String>> {
    let found = zone.find(name)?;
    Some(found.iter().map(|data| format!("{data:?}")).collect())
}

fn texts(records: &[&str]) -> Vec<String> {
    records.iter().map(ToString::to_string).collect()
}

/// Sections 2.2 and 2.3 with the examples of the specification.
#[test]
fn a_service_with_an_address() {
    let zone = zone(&[service("kubernetes", "10.3.0.1")]);
    let name = "kubernetes.default.svc.cluster.local";
    assert_eq!(
        find(&zone, "dns-version.cluster.local"),
        Some(texts(&["Txt(\"1.1.0\")"]))
    );
    assert_eq!(find(&zone, name), Some(texts(&["A(10.3.0.1)"])));
    let srv = "Srv(443, \"kubernetes.default.svc.cluster.local\")";
    assert_eq!(find(&zone, &format!("_https._tcp.{name}")), Some(texts(&[srv])));
    assert_eq!(
        find(&zone, &format!("_dns._udp.{name}")),
        Some(texts(&["Srv(53, \"kubernetes.default.svc.cluster.local\")"]))
    );
    let ptr = "Ptr(\"kubernetes.default.svc.cluster.local\")";
    assert_eq!(find(&zone, "1.0.3.10.in-addr.arpa"), Some(texts(&[ptr])));
    // What is above a name is there without records; what is below is not.
    for name in [
        "default.svc.cluster.local",
        "svc.cluster.local",
        "default.pod.cluster.local",
    ] {
        assert_eq!(find(&zone, name), Some(vec![]), "{name}");
    }
    assert_eq!(find(&zone, &format!("_tcp.{name}")), Some(vec![]));
    for name in [
        "web.default.svc.cluster.local",
        "other.svc.cluster.local",
        "x.kubernetes.default.svc.cluster.local",
    ] {
        assert_eq!(find(&zone, name), None, "{name}");
    }
}

/// Section 2.4: a name for each ready endpoint.
#[test]
fn a_service_without_an_address() {
    let mut named = pod("my-pod", "10.3.0.100", true);
    named["spec"]["hostname"] = json!("my-pet");
    named["spec"]["subdomain"] = json!("headless");
    let zone = zone(&[
        service("headless", "None"),
        named,
        pod("web-2", "10.3.0.101", true),
        pod("web-3", "10.3.0.102", false),
    ]);
    let name = "headless.default.svc.cluster.local";
    assert_eq!(
        find(&zone, name),
        Some(texts(&["A(10.3.0.100)", "A(10.3.0.101)"]))
    );
    assert_eq!(
        find(&zone, &format!("my-pet.{name}")),
        Some(texts(&["A(10.3.0.100)"]))
    );
    assert_eq!(
        find(&zone, &format!("web-2.{name}")),
        Some(texts(&["A(10.3.0.101)"]))
    );
    assert_eq!(find(&zone, &format!("web-3.{name}")), None);
    assert_eq!(
        find(&zone, &format!("_https._tcp.{name}")),
        Some(texts(&[
            "Srv(8443, \"my-pet.headless.default.svc.cluster.local\")",
            "Srv(8443, \"web-2.headless.default.svc.cluster.local\")",
        ]))
    );
    assert_eq!(
        find(&zone, "100.0.3.10.in-addr.arpa"),
        Some(texts(&["Ptr(\"my-pet.headless.default.svc.cluster.local\")"]))
    );
}

#[test]
fn who_is_not_ready_is_published_where_the_service_says_so() {
    let mut all = service("all", "None");
    all["spec"]["publishNotReadyAddresses"] = json!(true);
    let mut over = pod("over", "10.3.0.103", true);
    over["status"]["phase"] = json!("Succeeded");
    let mut leaving = pod("leaving", "10.3.0.104", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let zone = zone(&[
        all,
        service("ready", "None"),
        pod("web-1", "10.3.0.102", false),
        over,
        leaving,
    ]);
    assert_eq!(
        find(&zone, "all.default.svc.cluster.local"),
        Some(texts(&["A(10.3.0.102)", "A(10.3.0.104)"]))
    );
    // Without endpoints a headless Service has no name.
    assert_eq!(find(&zone, "ready.default.svc.cluster.local"), None);
}

#[test]
fn slices_count_where_there_are_any() {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6",
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "headless"}},
        "endpoints": [
            {"addresses": ["fd00::7"], "hostname": "db-0", "targetRef": {"kind": "Pod", "name": "pod-0"}},
            {"addresses": ["fd00::8"], "targetRef": {"kind": "Pod", "name": "pod-1"}},
            {"addresses": ["fd00::"]},
            {"addresses": ["fd00::9"], "conditions": {"ready": false}},
        ],
        "ports": [{"name": "https", "port": 9443, "protocol": "TCP"}],
    });
    let zone = zone(&[service("headless", "None"), pod("web-1", "10.3.0.1", true), slice]);
    let name = "headless.default.svc.cluster.local";
    assert_eq!(
        find(&zone, name),
        Some(texts(&["Aaaa(fd00::)", "Aaaa(fd00::7)", "Aaaa(fd00::8)"]))
    );
    for own in ["db-0", "pod-1", "fd00--0"] {
        assert!(find(&zone, &format!("{own}.{name}")).is_some(), "{own}");
    }
    assert_eq!(
        find(
            &zone,
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
        ),
        Some(texts(&["Ptr(\"db-0.headless.default.svc.cluster.local\")"]))
    );
}

/// Sections 2.5 and 2.6.
#[test]
fn external_names_and_addresses_in_names() {
    let external = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "foo"},
        "spec": {"type": "ExternalName", "externalName": "WWW.example.com."},
    });
    let zone = zone(&[external, pod("web-1", "10.3.0.1", true)]);
    assert_eq!(
        find(&zone, "foo.default.svc.cluster.local"),
        Some(texts(&["Cname(\"www.example.com\")"]))
    );
    assert_eq!(
        find(&zone, "10-3-0-9.default.pod.cluster.local"),
        Some(texts(&["A(10.3.0.9)"]))
    );
    assert_eq!(
        find(&zone, "fd00--9.default.pod.cluster.local"),
        Some(texts(&["Aaaa(fd00::9)"]))
    );
    assert_eq!(find(&zone, "10-3-0.default.pod.cluster.local"), None);
    assert_eq!(find(&zone, "10-3-0-9.other.pod.cluster.local"), None);
}

#[test]
fn both_families_and_the_server_itself() {
    let mut dns = service("kube-dns", "10.96.0.10");
    dns["metadata"]["namespace"] = json!("kube-system");
    dns["spec"]["clusterIPs"] = json!(["10.96.0.10", "fd00:10:96::a"]);
    let zone = zone(&[dns]);
    let both = Some(texts(&["A(10.96.0.10)", "Aaaa(fd00:10:96::a)"]));
    assert_eq!(find(&zone, "kube-dns.kube-system.svc.cluster.local"), both);
    assert_eq!(find(&zone, "ns.dns.cluster.local"), both);
    assert_eq!(
        find(&zone, "cluster.local"),
        Some(texts(&["Ns(\"ns.dns.cluster.local\")"]))
    );
    assert!(zone.has_in_domain("cluster.local") && !zone.has_in_domain("xcluster.local"));
}

/// A half-written file changes nothing; a name that is no label cannot become another's.
#[test]
fn what_is_broken_takes_no_part() {
    let mut store = Store::default();
    let text = |name: &str| service(name, "10.96.0.80").to_string();
    store.update("web.json", Some(text("web").as_bytes()));
    store.update("web.json", Some(&text("web").as_bytes()[..40]));
    store.update("bad.json", Some(text("a.other.svc").as_bytes()));
    let zone = Zone::new(&store.objects(), "cluster.local", 1);
    assert!(zone.find("web.default.svc.cluster.local").is_some());
    assert_eq!(zone.find("a.other.svc.default.svc.cluster.local"), None);
    store.update("web.json", None);
    let zone = Zone::new(&store.objects(), "cluster.local", 2);
    assert_eq!(zone.find("web.default.svc.cluster.local"), None);
}

proptest! {
    /// Each name's parent is there, each host of an SRV has an address, each PTR leads back.
    #[test]
    fn names_hang_together(
        pods in proptest::collection::btree_map(0_u8..20, any::<bool>(), 0..8),
        headless in any::<bool>(),
    ) {
        let mut objects = vec![service("web", if headless { "None" } else { "10.96.0.80" })];
        objects.extend(pods.iter().map(|(number, ready)| pod(&format!("web-{number}"), &format!("10.244.0.{number}"), *ready)));
        let zone = zone(&objects);
        let ready = pods.values().filter(|ready| **ready).count();
        let addresses = zone.find("web.default.svc.cluster.local").map_or(0, |found| found.len());
        prop_assert_eq!(addresses, if headless { ready } else { 1 });
        for (name, records) in &zone.names {
            if let Some((_, above)) = name.split_once('.').filter(|_| zone.has_in_domain(name) && name != "cluster.local") {
                prop_assert!(zone.names.contains_key(above), "{} hangs in the air", name);
            }
            for data in records {
                match data {
                    Data::Srv(_, host) | Data::Ptr(host) => {
                        prop_assert!(zone.find(host).is_some_and(|found| !found.is_empty()), "{}", host);
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn an_address_survives_its_way_into_a_name(bits in any::<u128>(), v4 in any::<bool>()) {
        let ip = if v4 {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap_or_default()))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        };
        let name = dashes(ip);
        prop_assert!(Label::new(&name).is_ok(), "{name}");
        prop_assert!(hickory_proto::rr::Name::from_ascii(reverse(ip) + ".").unwrap().parse_arpa_name().unwrap().addr() == ip);
    }
}
