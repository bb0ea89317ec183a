//! Words and what they mean.

use std::net::IpAddr;

use ipnet::IpNet;
use labkit::xtables::Family;

use super::*;
use crate::model::Protocol;
use crate::rules::parse::parse;
use crate::rules::trace::{OUTSIDE_INTERFACE, SOME_INTERFACE, Transport};

fn named(namespace: Option<&str>, name: &str, port: Option<PortRef>, surely_service: bool) -> Target {
    Target::Named {
        namespace: namespace.map(str::to_string),
        name: name.to_string(),
        port,
        surely_service,
    }
}

fn at(ip: &str, port: Option<u16>) -> Target {
    Target::Address {
        ip: ip.parse().unwrap(),
        port,
    }
}

#[test]
fn targets_are_read_in_all_their_forms() {
    let name = |name: &str| Some(PortRef::Name(name.into()));
    let number = |number| Some(PortRef::Number(number));
    let table = [
        ("svc/web", named(None, "web", None, true)),
        ("web", named(None, "web", None, false)),
        ("ns/web:http", named(Some("ns"), "web", name("http"), false)),
        ("svc/ns/web", named(Some("ns"), "web", None, true)),
        ("web:80", named(None, "web", number(80), false)),
        ("http://web:80/", named(None, "web", number(80), false)),
        ("web.ns.svc.cluster.local", named(Some("ns"), "web", None, false)),
        (
            "node-1.example.org:30080",
            named(None, "node-1.example.org", number(30080), false),
        ),
        ("10.96.0.80:80", at("10.96.0.80", Some(80))),
        ("10.96.0.80", at("10.96.0.80", None)),
        ("[fd00::1]:80", at("fd00::1", Some(80))),
        ("[fd00::1]", at("fd00::1", None)),
        ("fd00::1", at("fd00::1", None)),
        ("node:30080", Target::Node { port: 30080 }),
    ];
    for (text, expected) in table {
        assert_eq!(Target::parse(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn what_is_no_target_is_refused_with_a_hint() {
    for text in [
        "",
        ":",
        "/",
        "svc/",
        "a/b/c",
        "10.96.0.80:0",
        "10.96.0.80:99999",
        "[fd00::1",
        "[x]:80",
        "node:http",
        "10.96.0.800:80",
        "w\u{1b}[31m",
        "web:ht tp",
        "web:",
        "node:",
    ] {
        let failure = Target::parse(text).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{text:?}");
        assert_eq!(failure.hints().len(), 1, "{text:?}");
    }
}

#[test]
fn callers_are_read_in_all_their_forms() {
    let named = |namespace: Option<&str>, name: &str| Caller::Named {
        namespace: namespace.map(str::to_string),
        name: name.into(),
    };
    let table = [
        ("web-1", named(None, "web-1")),
        ("pod/web-1", named(None, "web-1")),
        ("ns/web-1", named(Some("ns"), "web-1")),
        ("node/node-1", named(None, "node-1")),
        ("node", Caller::Node),
        ("outside", Caller::Outside),
        ("10.244.0.7", Caller::Address("10.244.0.7".parse().unwrap())),
        ("[fd00::7]", Caller::Address("fd00::7".parse().unwrap())),
    ];
    for (text, expected) in table {
        assert_eq!(Caller::parse(text).unwrap(), expected, "{text}");
    }
    for text in ["", "a/b/c", "\u{202e}", "a b"] {
        assert_eq!(Caller::parse(text).unwrap_err().exit_code(), 2, "{text:?}");
    }
}

/// What the rules alone tell.
fn book() -> Book {
    let dump = r#"*nat
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-A
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:dns-tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-B
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "kube-system/kube-dns:metrics cluster IP" -m tcp --dport 9153 -j KUBE-SVC-C
-A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment "default/web: cluster IP" -m tcp --dport 80 -j KUBE-SVC-D
-A KUBE-SERVICES -d 198.51.100.4/32 -p tcp -m comment --comment "default/web: loadbalancer IP" -m tcp --dport 80 -j KUBE-EXT-D
-A KUBE-SERVICES -d 10.96.0.81/32 -p tcp -m comment --comment "prod/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-E
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:" -m tcp --dport 30080 -j KUBE-EXT-D
-A KUBE-SVC-D ! -s 10.244.0.0/16 -d 10.96.0.80/32 -p tcp -m comment --comment "default/web: cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
COMMIT
*filter
-A KUBE-SERVICES -d 10.96.0.82/32 -p tcp -m comment --comment "default/empty:http has no endpoints" -m tcp --dport 80 -j REJECT
COMMIT
"#;
    let mut book = Book::default();
    book.add_rules(&parse(dump).unwrap());
    book
}

fn resolved(book: &Book, target: &str, from: Option<&str>) -> Result<Call, Failure> {
    let target = Target::parse(target)?;
    let caller = from.map(Caller::parse).transpose()?;
    resolve(book, Family::V4, &target, caller.as_ref(), None)
}

#[test]
fn rules_alone_tell_where_a_service_is() {
    let book = book();
    let table = [
        ("web", "10.96.0.80:80", Protocol::Tcp),
        ("svc/prod/web", "10.96.0.81:80", Protocol::Tcp),
        ("kube-dns:dns", "10.96.0.10:53", Protocol::Udp),
        ("kube-dns:53", "10.96.0.10:53", Protocol::Tcp),
        ("kube-system/kube-dns:9153", "10.96.0.10:9153", Protocol::Tcp),
        ("empty", "10.96.0.82:80", Protocol::Tcp),
        ("10.96.0.80", "10.96.0.80:80", Protocol::Tcp),
        ("198.51.100.4", "198.51.100.4:80", Protocol::Tcp),
        ("node:30080", "192.0.2.1:30080", Protocol::Tcp),
    ];
    for (target, address, protocol) in table {
        let call = resolved(&book, target, None).unwrap();
        assert_eq!(call.address(), address, "{target}");
        assert_eq!(call.packet.protocol, Transport::Of(protocol), "{target}");
        assert!(call.port.is_some(), "{target}");
        assert!(call.sender.chosen.is_some(), "{target}");
        let pods: IpNet = "10.244.0.0/16".parse().unwrap();
        assert!(
            pods.contains(&call.packet.source),
            "{target}: {}",
            call.packet.source
        );
    }
    let node = resolved(&book, "node:30080", Some("outside")).unwrap();
    assert_eq!(node.door, Door::NodePort);
    assert!(node.own.contains(&"192.0.2.1".parse::<IpAddr>().unwrap()));
    assert_eq!(node.notes.len(), 1);
}

#[test]
fn names_that_nobody_or_several_have_are_refused_with_the_nearest() {
    let mut book = book();
    for (name, why) in [("db", "is headless"), ("mail", "is of type ExternalName")] {
        book.without_address
            .push(("default".into(), name.into(), why.into()));
    }
    let table = [
        ("svc/wbe", "there is no Service wbe", "did you mean web?"),
        (
            "kube-dns",
            "kube-system/kube-dns is not one port: which one?",
            "it has:",
        ),
        ("web:81", "Service default/web has no such port", "it has:"),
        (
            "svc/web/80",
            "there is no Service web/80",
            "a port stands behind a colon: svc/web:80",
        ),
        (
            "nowhere/web",
            "there is no Service nowhere/web",
            "did you mean default/web?",
        ),
        (
            "db",
            "Service default/db is headless; it has no virtual IP, and no rule is for it",
            "ask for one of those",
        ),
        (
            "svc/default/mail",
            "Service default/mail is of type ExternalName; it has no virtual IP, and no rule is for it",
            "ask for one of those",
        ),
        (
            "10.96.0.99",
            "10.96.0.99 is no Service's address: its port is missing",
            "such as",
        ),
    ];
    for (target, message, hint) in table {
        let failure = resolved(&book, target, None).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{target}");
        assert_eq!(failure.message(), message, "{target}");
        assert!(
            failure.hints()[0].starts_with(hint),
            "{target}: {:?}",
            failure.hints()
        );
    }
    let failure = resolved(&book, "web", Some("web-1")).unwrap_err();
    assert!(failure.hints()[0].contains("--from ADDRESS"), "{failure}");
}

#[test]
fn callers_become_packets() {
    let mut book = book();
    book.here = Some("node-1".into());
    book.own.insert("192.168.0.2".parse().unwrap());
    book.nodes.push(KnownNode {
        name: "node-2".into(),
        addresses: vec!["192.168.0.3".parse().unwrap()],
    });
    book.pods.push(KnownPod {
        namespace: "default".into(),
        name: "client".into(),
        addresses: vec!["10.244.0.7".parse().unwrap()],
        node: Some("node-1".into()),
        interface: None,
    });
    let away = Some(SOME_INTERFACE);
    let table = [
        (None, "10.244.0.7", away, SenderKind::Pod),
        (Some("client"), "10.244.0.7", away, SenderKind::Pod),
        (Some("node"), "192.168.0.2", None, SenderKind::Node),
        (Some("node-1"), "192.168.0.2", None, SenderKind::Node),
        (Some("node-2"), "192.168.0.3", away, SenderKind::OtherNode),
        (
            Some("outside"),
            "203.0.113.9",
            Some(OUTSIDE_INTERFACE),
            SenderKind::Outside,
        ),
        (Some("10.244.0.9"), "10.244.0.9", away, SenderKind::Pod),
        (Some("192.168.0.2"), "192.168.0.2", None, SenderKind::Node),
        (Some("8.8.8.8"), "8.8.8.8", away, SenderKind::Address),
    ];
    for (from, source, arriving, kind) in table {
        let call = resolved(&book, "web", from).unwrap();
        assert_eq!(call.packet.source.to_string(), source, "{from:?}");
        assert_eq!(call.packet.arriving.as_deref(), arriving, "{from:?}");
        assert_eq!(call.sender.kind, kind, "{from:?}");
    }
    assert_eq!(
        resolved(&book, "node:30080", None).unwrap().address(),
        "192.168.0.2:30080"
    );
    assert_eq!(
        resolved(&book, "node-2:30080", None).unwrap().address(),
        "192.168.0.3:30080"
    );
}

#[test]
fn a_caller_and_its_target_are_of_one_family() {
    let target = Target::parse("10.96.0.80:80").unwrap();
    let caller = Caller::parse("fd00:244::9").unwrap();
    let refused = resolve(&Book::default(), Family::V4, &target, Some(&caller), None).unwrap_err();
    assert!(refused.to_string().contains("IPv6"), "{refused}");
}
