//! Names: the name server against the specification.

use std::time::{Duration, Instant};

use lab_tests::machine::{Machine, Running};
use lab_tests::registry::{REGISTRY, publish, service, slice};
use lab_tests::run::{Ran, wait_for};
use serde_json::{Value, json};

use crate::support::lab_with_rules;

/// Where the server of these tests listens.
const SERVER: &str = "10.244.0.3";

/// A lab of three pods, rules, and a name server in web-2.
#[track_caller]
fn lab_with_server() -> (Machine, Running) {
    let machine = lab_with_rules("3-pods");
    let server = serve(&machine, &["--netns", "web-2"]);
    (machine, server)
}

#[track_caller]
fn serve(machine: &Machine, words: &[&str]) -> Running {
    let server = machine
        .command(["netns-lab", "dns"].iter().chain(words).copied())
        .start();
    wait_for("the name server", Duration::from_secs(10), || {
        let ran = machine.run([
            "dig",
            "+time=1",
            "+tries=1",
            "+short",
            &at(words),
            "dns-version.cluster.local",
            "TXT",
        ]);
        (ran.stdout.trim() == "\"1.1.0\"").then_some(())
    });
    server
}

fn at(words: &[&str]) -> String {
    if words.contains(&"127.0.0.1:53") {
        "@127.0.0.1".into()
    } else {
        format!("@{SERVER}")
    }
}

/// Runs a command in a pod as people do, with the pod's own `/etc/hosts` and `/etc/resolv.conf`.
#[track_caller]
pub(crate) fn inside<'a>(machine: &Machine, pod: &'a str, argv: impl IntoIterator<Item = &'a str>) -> Ran {
    machine.lab(["exec", pod, "--"].into_iter().chain(argv))
}

/// What `dig` prints of an answer.
#[track_caller]
fn dig(machine: &Machine, words: &[&str]) -> Ran {
    let fixed = ["dig", "+time=2", "+tries=1", "@10.244.0.3"];
    machine.run(fixed.iter().chain(words).copied()).ok()
}

/// The answers that a resolver finds, sorted; or why it finds none.
#[track_caller]
fn resolve(machine: &Machine, kind: &str, name: &str, search: &[&str]) -> Value {
    let fixed = ["lab-helper", "resolve", SERVER, kind, name];
    machine.run(fixed.iter().chain(search).copied()).ok().json()
}

#[track_caller]
fn assert_found(machine: &Machine, kind: &str, name: &str, wanted: &[&str]) {
    let found = resolve(machine, kind, name, &[]);
    assert_eq!(found["answers"], json!(wanted), "{kind} {name}: {found}");
}

/// Services of each kind that the specification speaks of.
fn publish_all_kinds(machine: &Machine) {
    let ports = [
        ("https", "TCP", 443, json!(8080)),
        ("dns", "UDP", 53, json!("echo-udp")),
    ];
    let first = service("kubernetes", "10.96.0.1", "web", &ports);
    publish(machine, "kubernetes", &first);
    let mut headless = service("headless", "None", "web", &ports);
    publish(machine, "headless", &headless);
    headless["metadata"]["name"] = json!("by-slice");
    headless["spec"]
        .as_object_mut()
        .expect("a spec")
        .remove("selector");
    publish(machine, "by-slice", &headless);
    let mut listed = slice("by-slice-1", "by-slice", &["10.3.0.100"], ("https", "TCP", 443));
    listed["endpoints"][0]["hostname"] = json!("my-pet");
    publish(machine, "slice", &listed);
    let external = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "foo"},
        "spec": {"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}});
    publish(machine, "external", &external);
    wait_for("the last object", Duration::from_secs(2), || {
        let found = resolve(machine, "A", "foo.default.svc.cluster.local.", &[]);
        found["answers"].is_array().then_some(())
    });
}

/// Each record of the specification, asked for by a resolver library with letters of either case.
#[test]
fn a_resolver_finds_what_the_specification_promises() {
    let (machine, _server) = lab_with_server();
    publish_all_kinds(&machine);
    let zone = "default.svc.cluster.local.";
    assert_found(&machine, "TXT", "dns-version.cluster.local.", &["1.1.0"]);
    assert_found(&machine, "A", &format!("kubernetes.{zone}"), &["10.96.0.1"]);
    assert_found(
        &machine,
        "SRV",
        &format!("_https._tcp.kubernetes.{zone}"),
        &["0 100 443 kubernetes.default.svc.cluster.local."],
    );
    assert_found(
        &machine,
        "PTR",
        "1.0.96.10.in-addr.arpa.",
        &["kubernetes.default.svc.cluster.local."],
    );
    let pods = ["10.244.0.2", "10.244.0.3", "10.244.0.4"];
    assert_found(&machine, "A", &format!("headless.{zone}"), &pods);
    assert_found(&machine, "A", &format!("web-3.headless.{zone}"), &["10.244.0.4"]);
    let hosts: Vec<String> = (1..=3)
        .map(|pod| format!("0 100 8081 web-{pod}.headless.{zone}"))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    assert_found(&machine, "SRV", &format!("_dns._udp.headless.{zone}"), &hosts);
    assert_found(&machine, "A", &format!("my-pet.by-slice.{zone}"), &["10.3.0.100"]);
    assert_found(
        &machine,
        "PTR",
        "100.0.3.10.in-addr.arpa.",
        &["my-pet.by-slice.default.svc.cluster.local."],
    );
    assert_found(
        &machine,
        "A",
        "10-244-0-9.default.pod.cluster.local.",
        &["10.244.0.9"],
    );
    let alias = resolve(&machine, "A", &format!("foo.{zone}"), &[]);
    assert!(alias["answers"].to_string().contains("10.96.0.1"), "{alias}");
    // As a pod's resolv.conf has it.
    let search = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc"] {
        assert_eq!(
            resolve(&machine, "A", name, &search)["answers"],
            json!(["10.96.0.1"]),
            "{name}"
        );
    }
    assert_eq!(
        resolve(&machine, "A", "nobody", &search)["noSuchName"],
        json!(true)
    );
    let nothing = resolve(&machine, "AAAA", &format!("kubernetes.{zone}"), &[]);
    assert_eq!(
        (&nothing["nothing"], &nothing["noSuchName"]),
        (&json!(true), &json!(false)),
        "{nothing}"
    );
}

#[test]
fn dig_sees_flags_ttl_and_truncation() {
    let (machine, _server) = lab_with_server();
    dig(&machine, &["web.default.svc.cluster.local"])
        .says("status: NOERROR")
        .says("flags: qr aa rd;")
        .says("web.default.svc.cluster.local. 5 IN\tA\t10.96.0.80")
        .says("EDNS: version: 0");
    dig(&machine, &["nobody.default.svc.cluster.local"])
        .says("status: NXDOMAIN")
        .says("cluster.local.\t\t5\tIN\tSOA\tns.dns.cluster.local. hostmaster.cluster.local.");
    dig(&machine, &["default.svc.cluster.local"])
        .says("status: NOERROR")
        .says("SOA");
    dig(&machine, &["example.com"]).says("status: NXDOMAIN");
    dig(
        &machine,
        &["+edns=1", "+noednsnegotiation", "web.default.svc.cluster.local"],
    )
    .says("status: BADVERS");
    dig(&machine, &["+opcode=update", "web.default.svc.cluster.local"]).says("status: NOTIMP");
    let addresses: Vec<String> = (1..=200).map(|number| format!("10.3.0.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut many = service("many", "None", "x", &[("http", "TCP", 80, json!(80))]);
    many["spec"].as_object_mut().expect("a spec").remove("selector");
    publish(&machine, "many", &many);
    publish(
        &machine,
        "many-1",
        &slice("many-1", "many", &addresses, ("http", "TCP", 80)),
    );
    wait_for("many addresses", Duration::from_secs(2), || {
        let ran = dig(
            &machine,
            &["+ignore", "+noedns", "many.default.svc.cluster.local"],
        );
        ran.stdout.contains("flags: qr aa tc rd;").then_some(())
    });
    let whole = dig(&machine, &["many.default.svc.cluster.local"]).says("(TCP)");
    assert_eq!(whole.stdout.matches("\tA\t10.3.0.").count(), 200, "{whole}");
}

/// Answers follow the registry within 100 ms.
#[test]
fn the_registry_is_followed() {
    let (machine, _server) = lab_with_server();
    let object = |ip: &str| service("quick", ip, "web", &[("http", "TCP", 80, json!(8080))]);
    let mut late = Vec::new();
    for number in 1..=10 {
        let ip = format!("10.96.7.{number}");
        // A question starts two processes, which is most of what it takes.
        let asked = Instant::now();
        dig(&machine, &["+short", "quick.default.svc.cluster.local"]);
        let question = asked.elapsed();
        publish(&machine, "quick", &object(&ip));
        let since = Instant::now();
        while !dig(&machine, &["+short", "quick.default.svc.cluster.local"])
            .stdout
            .contains(&ip)
        {
            assert!(since.elapsed() < Duration::from_secs(2), "{ip} never came");
        }
        late.push(since.elapsed().saturating_sub(question));
    }
    late.sort();
    eprintln!("later than a question takes by {late:?}");
    assert!(late[late.len() / 2] < Duration::from_millis(100), "{late:?}");
    machine.run(["rm", &format!("{REGISTRY}/quick.json")]).ok();
    let since = Instant::now();
    while dig(&machine, &["+short", "quick.default.svc.cluster.local"])
        .stdout
        .contains("10.96")
    {
        assert!(since.elapsed() < Duration::from_secs(2), "it never went");
    }
    // A pod that is not ready is no endpoint any more.
    publish(
        &machine,
        "pods",
        &service("pods", "None", "web", &[("http", "TCP", 80, json!(8080))]),
    );
    let pods = || {
        dig(&machine, &["+short", "pods.default.svc.cluster.local"])
            .stdout
            .lines()
            .count()
    };
    wait_for("three pods", Duration::from_secs(2), || {
        (pods() == 3).then_some(())
    });
    machine.lab(["pod", "unready", "web-1"]).ok();
    wait_for("two pods", Duration::from_secs(2), || (pods() == 2).then_some(()));
}

/// Behind a Service of its own, asked by pods by the virtual IP, over both protocols.
#[test]
fn the_server_behind_its_service_is_what_pods_ask() {
    let (machine, _server) = lab_with_server();
    let mut dns = service(
        "kube-dns",
        "10.96.0.10",
        "x",
        &[("dns", "UDP", 53, json!(53)), ("dns-tcp", "TCP", 53, json!(53))],
    );
    dns["metadata"]["namespace"] = json!("kube-system");
    dns["spec"].as_object_mut().expect("a spec").remove("selector");
    let mut udp = slice("kube-dns-1", "kube-dns", &[SERVER], ("dns", "UDP", 53));
    udp["metadata"]["namespace"] = json!("kube-system");
    udp["ports"]
        .as_array_mut()
        .expect("ports")
        .push(json!({"name": "dns-tcp", "protocol": "TCP", "port": 53}));
    publish(&machine, "kube-dns", &dns);
    publish(&machine, "kube-dns-1", &udp);
    machine.proxy(["sync"]).ok();
    inside(&machine, "web-1", ["cat", "/etc/resolv.conf"])
        .ok()
        .says("nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n");
    inside(&machine, "web-1", ["grep", "-c", "10.96.0.80", "/etc/hosts"]).exits(1);
    for name in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
    ] {
        inside(
            &machine,
            "web-1",
            ["curl", "-sS", "--max-time", "5", &format!("http://{name}")],
        )
        .ok()
        .says("sees you as");
    }
    for words in [&["+short"][..], &["+short", "+tcp"]] {
        let fixed = ["dig", "+search", "web"];
        inside(&machine, "web-3", fixed.iter().chain(words).copied())
            .ok()
            .says("10.96.0.80");
    }
    inside(
        &machine,
        "web-1",
        ["curl", "-sS", "--max-time", "5", "http://nobody"],
    )
    .exits(6);
}

/// A server that knows the name `www.example.svc.com`, on the machine's loopback.
pub(crate) fn elsewhere(machine: &Machine) -> Running {
    machine.sh("mkdir -p /run/elsewhere").ok();
    let world = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "www", "namespace": "example"}, "spec": {"clusterIP": "192.0.2.53"}});
    machine
        .command(["sh", "-c", "cat > /run/elsewhere/world.json"])
        .input(&world.to_string())
        .run()
        .ok();
    let words = format!("netns-lab dns --registry /run/elsewhere --domain com --listen {ELSEWHERE}");
    let world = machine.command(words.split(' ')).start();
    world.wait_for("names of com");
    world
}

/// Where that server is.
pub(crate) const ELSEWHERE: &str = "127.0.0.1:5300";

/// Names of elsewhere do not exist, unless somebody is named who knows them.
#[test]
fn elsewhere_is_asked_only_if_said() {
    let machine = lab_with_rules("2-pods");
    let _world = elsewhere(&machine);
    let foo = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "foo"},
        "spec": {"type": "ExternalName", "externalName": "www.example.svc.com"}});
    publish(&machine, "foo", &foo);
    // The server is in a pod, whom it asks is on the node's loopback: two network namespaces.
    let _server = serve(&machine, &["--netns", "web-2", "--upstream", ELSEWHERE]);
    for words in [&["+short"][..], &["+short", "+tcp"]] {
        let with = |name: &'static str| dig(&machine, &[words, &[name]].concat()).stdout;
        assert_eq!(with("www.example.svc.com"), "192.0.2.53\n");
        assert_eq!(
            with("foo.default.svc.cluster.local"),
            "www.example.svc.com.\n192.0.2.53\n"
        );
    }
    dig(&machine, &["nobody.com"]).says("status: NXDOMAIN");
    dig(&machine, &["nobody.default.svc.cluster.local"])
        .says("status: NXDOMAIN")
        .says("flags: qr aa rd ra;");
}

#[test]
fn services_have_names_in_every_pod_of_every_lab() {
    let machine = lab_with_rules("2-pods");
    let curl = |name: &str| {
        let url = format!("http://{name}");
        inside(&machine, "web-1", ["curl", "-sS", "--max-time", "5", &url])
            .ok()
            .says("sees you as");
    };
    for name in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
    ] {
        curl(name);
    }
    machine
        .lab([
            "expose",
            "web",
            "--name",
            "shop",
            "--port",
            "80",
            "--target-port",
            "http",
        ])
        .ok();
    machine.proxy(["sync"]).ok().says("default/shop");
    curl("shop");
    machine
        .lab(["delete", "service", "shop"])
        .ok()
        .says("service \"shop\" deleted");
    inside(&machine, "web-1", ["getent", "hosts", "shop"]).exits(2);
}
