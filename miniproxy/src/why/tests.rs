//! Findings from evidence that is made by hand, and the screen that shows them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use labkit::screen::{Look, print};
use labkit::xtables::Family;

use super::call::{Call, Kind, Via, Word, places, who};
use super::evidence::{Evidence, Link, Pod, Redirects, Rules, Seen, Spot};
use super::judge::judge;
use super::names::{Lookup, Resolv, Said};
use super::page::page;
use super::report::Report;
use crate::explain::Host;
use crate::model::{Model, ProxyConfig};
use crate::registry::model::service_ports;
use crate::registry::{Registry, SourceFile};
use crate::rules::build::build;
use crate::rules::delta::Delta;
use crate::rules::set::Found;

const WEB: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
  "spec": {"clusterIP": "10.96.0.80", "selector": {"app": "SELECTED"},
    "ports": [{"port": 80, "targetPort": 8080}]}}"#;

/// Three pods on one node, of which the Service selects those with a label.
fn registry(selected: &str) -> Registry {
    let file = |path: String, text: String| SourceFile {
        path,
        bytes: text.into_bytes(),
    };
    let pod = |n: u8| {
        let text = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "web-{n}", "labels": {{"app": "web"}}}},
            "spec": {{"nodeName": "node", "containers": [{{"name": "app"}}]}},
            "status": {{"phase": "Running", "podIP": "10.244.0.{n}", "podIPs": [{{"ip": "10.244.0.{n}"}}],
              "conditions": [{{"type": "Ready", "status": "True"}}]}}}}"#
        );
        file(format!("web-{n}.json"), text)
    };
    let mut files = vec![file("web.json".into(), WEB.replace("SELECTED", selected))];
    files.extend([2, 3, 4].map(pod));
    Registry::read(&files).unwrap()
}

fn service() -> (String, String) {
    ("default".into(), "web".into())
}

/// The node as it should be; `write` changes the text of its rules.
fn spot(registry: &Registry, write: impl Fn(String) -> String) -> Spot {
    let mut config = ProxyConfig::defaults(Family::V4);
    config.node_name = "node".into();
    let ports = service_ports(registry, &service(), &config);
    let model = Model {
        config,
        ports: ports.clone(),
    };
    let wanted = build(&model);
    let rules = Rules {
        // A dump appends where a restore inserts.
        text: write(
            Delta::from_nothing(wanted.clone())
                .document()
                .replace("\n-I ", "\n-A "),
        ),
        other: None,
        wanted: Found::from(&wanted),
        ports,
    };
    let pod = |n: u8| Pod {
        name: format!("default/web-{n}"),
        addresses: vec![[10, 244, 0, n].into()],
        interface: Some(format!("veth-web-{n}")),
        there: Some(true),
        listens: Some(vec![8080]),
    };
    let link = |n: u8| Link {
        name: format!("veth-web-{n}"),
        up: true,
        is_port: true,
        hairpin: Some(true),
    };
    let sysctls = [
        ("net.bridge.bridge-nf-call-iptables", "1"),
        ("net.ipv4.ip_forward", "1"),
    ];
    Spot {
        node: "node".into(),
        prefix: String::new(),
        program: "iptables".into(),
        rules: BTreeMap::from([(Family::V4, rules)]),
        seen: Some(Seen {
            host: Host {
                interfaces: vec![("cni0".into(), "10.244.0.1/24".parse().unwrap())],
                routes: vec![("10.96.0.0/16".parse().unwrap(), "cni0".into())],
                sysctls: sysctls.map(|(key, value)| (key.into(), value.into())).into(),
                ports: BTreeMap::new(),
                mixed: false,
            },
            links: [2, 3, 4].map(link).to_vec(),
            ..Seen::default()
        }),
        pods: [2, 3, 4].map(pod).to_vec(),
    }
}

fn report(registry: &Registry, spot: Spot) -> Report {
    judge(&Evidence {
        service: service(),
        registry,
        spots: vec![spot],
        calls: Vec::new(),
        lookups: Vec::new(),
    })
}

fn causes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.cause).collect()
}

/// One change of the node, and what it is called.
type Case = (&'static str, fn(&mut Spot));

#[test]
fn a_node_as_it_should_be_has_nothing_wrong() {
    let registry = registry("web");
    let found = report(&registry, spot(&registry, |text| text));
    assert!(found.is_well(), "{}", found.plain());
}

#[test]
fn each_change_of_the_node_is_named() {
    let registry = registry("web");
    let cases: [Case; 7] = [
        ("hairpin-off", |spot| {
            spot.seen.as_mut().unwrap().links[0].hairpin = Some(false);
        }),
        ("dead-endpoint", |spot| {
            spot.seen.as_mut().unwrap().links[1].up = false;
        }),
        ("br-netfilter-off", |spot| {
            let sysctls = &mut spot.seen.as_mut().unwrap().host.sysctls;
            sysctls.insert("net.bridge.bridge-nf-call-iptables".into(), "0".into());
        }),
        ("ip-forward-off", |spot| {
            let sysctls = &mut spot.seen.as_mut().unwrap().host.sysctls;
            sysctls.insert("net.ipv4.ip_forward".into(), "0".into());
        }),
        ("no-vip-route", |spot| {
            spot.seen.as_mut().unwrap().unroutable = vec![[10, 96, 0, 80].into()];
        }),
        ("conntrack-full", |spot| {
            spot.seen.as_mut().unwrap().conntrack = Some((8, 8));
        }),
        ("other-iptables-drop", |spot| {
            let text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -d 10.244.0.0/24 -j DROP\nCOMMIT\n";
            let rules = spot.rules.get_mut(&Family::V4).unwrap();
            rules.other = Some(("iptables-legacy".into(), text.into()));
        }),
    ];
    for (cause, change) in cases {
        let mut changed = spot(&registry, |text| text);
        change(&mut changed);
        let found = report(&registry, changed);
        assert_eq!(causes(&found), [cause], "{}", found.plain());
        assert!(!found.findings[0].cure.is_empty() && found.findings[0].certain);
    }
}

#[test]
fn each_change_of_the_rules_is_named() {
    let registry = registry("web");
    let lines = |text: &str, keep: &dyn Fn(&str) -> bool| {
        let lines = text.lines().filter(|line| keep(line));
        lines
            .flat_map(|line| [line.to_string(), "\n".to_string()])
            .collect::<String>()
    };
    let cases: [(&str, &dyn Fn(String) -> String); 8] = [
        ("masquerade-missing", &|text| {
            lines(&text, &|line| !line.contains("-j MASQUERADE"))
        }),
        ("wrong-probabilities", &|text| {
            text.replace("--probability 0.5000000000", "--probability 0.3333333333")
        }),
        ("no-reject", &|text| {
            lines(&text, &|line| {
                !line.contains("10.96.0.80") || !line.starts_with("-A KUBE-SERVICES")
            })
        }),
        ("no-jump", &|text| {
            lines(&text, &|line| {
                !line.starts_with("-A PREROUTING") && !line.starts_with("-A OUTPUT")
            })
        }),
        ("foreign-nat", &|text| {
            let first = "-A PREROUTING -d 10.96.0.0/16 -j ACCEPT\n-A PREROUTING";
            text.replacen("-A PREROUTING", first, 1)
        }),
        ("foreign-nat", &|text| {
            let first = "-A KUBE-SERVICES -j RETURN\n-A KUBE-SERVICES";
            let (head, nat) = text.split_once("*nat").unwrap();
            format!("{head}*nat{}", nat.replacen("-A KUBE-SERVICES", first, 1))
        }),
        ("stale-rules", &|text| {
            lines(&text, &|line| !line.starts_with("-A KUBE-SVC-"))
        }),
        ("forward-drop", &|text| {
            let first = "-A FORWARD -d 10.244.0.0/24 -j DROP\n-A FORWARD";
            text.replacen("-A FORWARD", first, 1)
        }),
    ];
    for (cause, write) in cases {
        let found = report(&registry, spot(&registry, write));
        assert_eq!(causes(&found), [cause], "{}", found.plain());
    }
}

/// A dump that lacks the rules lacks the proof that there are none.
#[test]
fn a_dump_that_lacks_something_accuses_nobody() {
    let registry = registry("web");
    let told = |write: &dyn Fn(String) -> String| {
        let mut dump = spot(&registry, write);
        dump.seen = None;
        report(&registry, dump)
    };
    let table = |text: &str, name: &str| {
        let start = text.find(&format!("*{name}\n")).unwrap();
        let end = text[start..].find("COMMIT\n").unwrap() + start + 7;
        (start, end)
    };
    let whole = told(&|text| text);
    assert!(whole.is_well(), "{}", whole.plain());
    let (nat, filter) = ("the dump has no table nat", "the dump has no table filter");
    let only_filter = told(&|text| {
        let (start, end) = table(&text, "filter");
        text[start..end].into()
    });
    assert!(only_filter.sentence.contains(nat), "{}", only_filter.plain());
    let only_nat = told(&|text| {
        let (start, end) = table(&text, "nat");
        text[start..end].into()
    });
    assert!(only_nat.is_well() && only_nat.not_looked_at[0].starts_with(filter));
    // Of a rule that only the kernel can judge, nothing hangs on that comes before it.
    let taken = told(&|text| {
        let text = text.replacen(
            "-A PREROUTING",
            "-A PREROUTING -d 10.96.0.0/16 -j ACCEPT\n-A PREROUTING",
            1,
        );
        text.replacen(
            "-A POSTROUTING",
            "-A POSTROUTING ! -o cni0 -j MASQUERADE\n-A POSTROUTING",
            1,
        )
    });
    assert_eq!(causes(&taken), ["foreign-nat"], "{}", taken.plain());
    let spot = spot(&registry, |text| text);
    let text = &spot.rules[&Family::V4].text;
    for length in (0..text.len()).step_by(37) {
        let found = told(&|text| text[..length].into());
        assert!(found.findings.is_empty(), "{length}: {}", found.plain());
    }
}

#[test]
fn rules_of_services_in_both_flavours_are_named() {
    let registry = registry("web");
    let mut both = spot(&registry, |text| text);
    let rules = both.rules.get_mut(&Family::V4).unwrap();
    rules.other = Some(("iptables-legacy".into(), rules.text.clone()));
    assert_eq!(causes(&report(&registry, both)), ["both-iptables"]);
}

#[test]
fn a_selector_without_pods_is_named_though_the_rules_are_old() {
    let right = registry("web");
    let wrong = registry("wex");
    let mut old = spot(&wrong, |text| text);
    let before = spot(&right, |text| text);
    old.rules.get_mut(&Family::V4).unwrap().text = before.rules[&Family::V4].text.clone();
    for changed in [old, spot(&wrong, |text| text)] {
        let found = report(&wrong, changed);
        assert_eq!(causes(&found), ["wrong-selector"], "{}", found.plain());
        assert!(found.plain().contains("app=web"));
        let cure = &found.findings[0].cure[0];
        assert!(cure.contains("jq '.spec.selector = {\"app\":\"web\"}'"), "{cure}");
    }
}

fn call(from: &str, to: &str, via: Via, word: Word) -> Call {
    Call {
        kind: Kind::Pod,
        from: from.into(),
        node: "node".into(),
        to: to.parse::<SocketAddr>().unwrap(),
        udp: false,
        via,
        word,
        ms: 3,
        answered_by: None,
    }
}

/// A question that was asked in a pod, and what it was told.
fn lookup(said: Said, addresses: &[[u8; 4]]) -> Lookup {
    Lookup {
        from: "default/web-2".into(),
        name: "web.default.svc.cluster.local".into(),
        servers: Some(vec![[10, 96, 0, 10].into()]),
        server: Some([10, 96, 0, 10].into()),
        wanted: [10, 96, 0, 80].into(),
        said,
        addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
    }
}

const KUBE_DNS: &str = r#"{"apiVersion": "v1", "kind": "Service",
  "metadata": {"name": "kube-dns", "namespace": "kube-system"},
  "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}}"#;

#[test]
fn names_are_looked_at_where_there_is_a_name_server() {
    let mut registry = registry("web");
    let file = SourceFile {
        path: "kube-dns.json".into(),
        bytes: KUBE_DNS.into(),
    };
    registry
        .services
        .extend(Registry::read(&[file]).unwrap().services);
    let told = |lookup: Lookup, write: fn(&mut Spot)| {
        let mut spot = spot(&registry, |text| text);
        write(&mut spot);
        let report = judge(&Evidence {
            service: service(),
            registry: &registry,
            spots: vec![spot],
            calls: Vec::new(),
            lookups: vec![lookup],
        });
        causes(&report)
    };
    let well: fn(&mut Spot) = |_| {};
    assert_eq!(told(lookup(Said::Addresses, &[[10, 96, 0, 80]]), well), [""; 0]);
    for wrong in [
        lookup(Said::Addresses, &[[10, 96, 0, 81]]),
        lookup(Said::Addresses, &[]),
        lookup(Said::NoSuchName, &[]),
        lookup(Said::Failed, &[]),
    ] {
        assert_eq!(told(wrong, well), ["wrong-name"]);
    }
    assert_eq!(told(lookup(Said::Nothing, &[]), well), ["name-server-silent"]);
    // What stops calls stops questions too: it is one cause, and not two.
    let broken: fn(&mut Spot) = |spot| spot.seen.as_mut().unwrap().links[0].hairpin = Some(false);
    assert_eq!(told(lookup(Said::Nothing, &[]), broken), ["hairpin-off"]);
    let mut astray = lookup(Said::NoSuchName, &[]);
    astray.servers = Some(vec![[9, 9, 9, 9].into()]);
    assert_eq!(told(astray, well), ["wrong-name-server"]);
    let evidence = Evidence {
        service: service(),
        registry: &registry,
        spots: Vec::new(),
        calls: Vec::new(),
        lookups: Vec::new(),
    };
    let resolv = Resolv::parse("nameserver 10.96.0.10\nsearch default.svc.lab svc.lab lab\n");
    let made = Lookup::new(
        &evidence,
        "p",
        Some(resolv),
        [10, 96, 0, 9].into(),
        [10, 96, 0, 80].into(),
    );
    assert_eq!(made.name, "web.default.svc.lab");
    assert_eq!(made.server, Some([10, 96, 0, 10].into()));
}

#[test]
fn redirects_are_told_when_some_were_sent() {
    let registry = registry("web");
    let noted = |sent: u64, on: &[&str]| {
        let mut spot = spot(&registry, |text| text);
        spot.seen.as_mut().unwrap().redirects = Redirects {
            sent,
            on: on.iter().map(|name| (*name).to_string()).collect(),
        };
        let report = report(&registry, spot);
        assert!(report.is_well(), "{}", report.plain());
        report.notes
    };
    let note = noted(7, &["all", "cni0", "eth0"]);
    assert!(
        note[0].contains("conf.all.send_redirects=0; sysctl -w net.ipv4.conf.cni0"),
        "{note:?}"
    );
    for (sent, on) in [(0, &["all"][..]), (7, &[]), (7, &["eth0"])] {
        assert_eq!(noted(sent, on), [""; 0]);
    }
}

#[test]
fn lost_calls_are_told_also_where_nothing_explains_them() {
    let registry = registry("web");
    let made = |via, to, word| {
        judge(&Evidence {
            service: service(),
            registry: &registry,
            spots: vec![spot(&registry, |text| text)],
            calls: vec![call("default/web-2", to, via, word)],
            lookups: Vec::new(),
        })
    };
    let vip = "10.96.0.80:80";
    assert!(made(Via::Service, vip, Word::Answered).is_well());
    assert!(!made(Via::Service, vip, Word::TimedOut).unknown.is_empty());
    let closed = made(Via::Backend, "10.244.0.3:8080", Word::Refused);
    assert_eq!(causes(&closed), ["nobody-listens"]);
    let silent = made(Via::Backend, "10.244.0.3:8080", Word::TimedOut);
    assert_eq!(causes(&silent), ["dead-endpoint"]);
    assert!(!silent.findings[0].certain);
}

#[test]
fn calls_of_a_place_are_summed_up() {
    let to = "10.96.0.80:80";
    let words = [Word::TimedOut, Word::Refused, Word::TimedOut, Word::Answered];
    let summed = places(&words.map(|word| call("a", to, Via::Service, word)));
    assert_eq!(summed.len(), 1);
    assert_eq!(
        (summed[0].word, summed[0].calls, summed[0].answered),
        (Word::Refused, 4, 1)
    );
}

#[test]
fn who_answers_is_read_from_the_app_alone() {
    let answer = "HTTP/1.1 200 OK\r\nX: y\r\n\r\nweb-1 (10.244.0.2) sees you as 10.244.0.1:5\n";
    assert_eq!(who(answer).as_deref(), Some("web-1"));
    assert_eq!(
        who("web-2 v2 (10.244.0.3) sees you as x\n").as_deref(),
        Some("web-2")
    );
    for other in [
        "",
        "<html>",
        "\u{1b}[31m sees you as",
        " sees you as",
        "a\u{7} sees you as",
    ] {
        assert_eq!(who(other), None, "{other:?}");
    }
}

#[test]
fn the_screen_at_each_size() {
    let registry = registry("web");
    let mut changed = spot(&registry, |text| text);
    changed.seen.as_mut().unwrap().links[0].hairpin = Some(false);
    let found = judge(&Evidence {
        service: service(),
        registry: &registry,
        spots: vec![changed],
        calls: vec![
            call("default/web-2", "10.96.0.80:80", Via::Service, Word::TimedOut),
            call("node", "10.96.0.80:80", Via::Service, Word::Answered),
        ],
        lookups: vec![lookup(Said::Addresses, &[[10, 96, 0, 80]])],
    });
    for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
        let look = Look::sized(width, height);
        let text = print::to_string(&page(&found, &look).draw(&look, 0), &look);
        insta::assert_snapshot!(format!("{width}x{height}"), text);
    }
    let look = Look::sized(80, 24).ascii();
    let text = print::to_string(&page(&found, &look).draw(&look, 0), &look);
    insta::assert_snapshot!("ascii", text);
    insta::assert_snapshot!("plain", found.plain());
    insta::assert_json_snapshot!("json", found);
}
