//! Names: the name server against the specification, and the objects that names are of.

use std::time::{Duration, Instant};

use lab_tests::machine::{Machine, Running};
use lab_tests::registry::{REGISTRY, publish, service, slice};
use lab_tests::run::{Ran, wait_for};
use serde_json::{Value, json};

use crate::support::{cleanup_and_down, lab_with_rules};

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
fn inside<'a>(machine: &Machine, pod: &'a str, argv: impl IntoIterator<Item = &'a str>) -> Ran {
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

/// Each record of the specification, asked for by a resolver library with letters of either case.
#[test]
fn a_resolver_finds_what_the_specification_promises() {
    let (machine, _server) = lab_with_server();
    let ports = [
        ("https", "TCP", 443, json!(8080)),
        ("dns", "UDP", 53, json!("echo-udp")),
    ];
    publish(
        &machine,
        "kubernetes",
        &service("kubernetes", "10.96.0.1", "web", &ports),
    );
    let mut headless = service("headless", "None", "web", &ports);
    publish(&machine, "headless", &headless);
    headless["metadata"]["name"] = json!("by-slice");
    headless["spec"]
        .as_object_mut()
        .expect("a spec")
        .remove("selector");
    publish(&machine, "by-slice", &headless);
    let mut listed = slice("by-slice-1", "by-slice", &["10.3.0.100"], ("https", "TCP", 443));
    listed["endpoints"][0]["hostname"] = json!("my-pet");
    publish(&machine, "slice", &listed);
    let external = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "foo"},
        "spec": {"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}});
    publish(&machine, "external", &external);
    wait_for("the last object", Duration::from_secs(2), || {
        let found = resolve(&machine, "A", "foo.default.svc.cluster.local.", &[]);
        found["answers"].is_array().then_some(())
    });

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
    let mut worst = Duration::ZERO;
    for number in 1..=10 {
        let ip = format!("10.96.7.{number}");
        publish(&machine, "quick", &object(&ip));
        let since = Instant::now();
        // Each question starts two processes, which is most of what is measured here.
        while !dig(&machine, &["+short", "quick.default.svc.cluster.local"])
            .stdout
            .contains(&ip)
        {
            assert!(since.elapsed() < Duration::from_secs(2), "{ip} never came");
        }
        worst = worst.max(since.elapsed());
    }
    machine.run(["rm", &format!("{REGISTRY}/quick.json")]).ok();
    let since = Instant::now();
    while dig(&machine, &["+short", "quick.default.svc.cluster.local"])
        .stdout
        .contains("10.96")
    {
        assert!(since.elapsed() < Duration::from_secs(2), "it never went");
    }
    eprintln!("at most {worst:?}");
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

/// Names of elsewhere do not exist, unless somebody is named who knows them.
#[test]
fn elsewhere_is_asked_only_if_said() {
    let machine = lab_with_rules("2-pods");
    machine.sh("mkdir -p /run/elsewhere").ok();
    let world = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "www", "namespace": "example"}, "spec": {"clusterIP": "192.0.2.53"}});
    machine
        .command(["sh", "-c", "cat > /run/elsewhere/world.json"])
        .input(&world.to_string())
        .run()
        .ok();
    let elsewhere = [
        "--registry",
        "/run/elsewhere",
        "--domain",
        "com",
        "--listen",
        "127.0.0.1:5300",
    ];
    let _world = machine
        .command(["netns-lab", "dns"].iter().chain(&elsewhere).copied())
        .start();
    let foo = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "foo"},
        "spec": {"type": "ExternalName", "externalName": "www.example.svc.com"}});
    publish(&machine, "foo", &foo);
    // The server is in a pod, whom it asks is on the node's loopback: two network namespaces.
    let _server = serve(&machine, &["--netns", "web-2", "--upstream", "127.0.0.1:5300"]);
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

#[test]
fn expose_allocates_and_rules_follow() {
    let machine = lab_with_rules("3-pods");
    let door = machine
        .lab([
            "expose",
            "web",
            "--name",
            "door",
            "--port",
            "80",
            "--target-port",
            "8080",
            "--type",
            "NodePort",
            "--affinity",
            "ClientIP",
            "-o",
            "json",
        ])
        .ok()
        .json();
    let spec = &door["spec"];
    assert_eq!(
        (&spec["clusterIP"], &spec["ports"][0]["nodePort"]),
        (&json!("10.96.1.1"), &json!(30_086))
    );
    assert_eq!(
        spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
    assert_eq!(
        machine.lab(["get", "svc", "door", "-o", "json"]).ok().json(),
        door
    );
    machine
        .proxy(["sync"])
        .ok()
        .says("default/door 10.96.1.1:80/TCP -> 3 endpoints (new)");
    for target in ["10.96.1.1:80", "10.244.0.1:30086"] {
        machine
            .run(["curl", "-sS", "--max-time", "5", target])
            .ok()
            .says("sees you as");
    }
    machine
        .lab(["expose", "web", "--name", "door", "--port", "80"])
        .exits(1)
        .complains("already exists");
    machine
        .lab([
            "expose",
            "web",
            "--name",
            "other",
            "--port",
            "80",
            "--type",
            "NodePort",
            "--node-port",
            "30086",
        ])
        .exits(2)
        .complains("spec.ports[0].nodePort: 30086; expected another node port: default/door has it");
    machine
        .lab(["expose", "web-1", "--port", "81", "--name", "Bad"])
        .exits(2)
        .complains("metadata.name");
    machine
        .lab(["expose", "nobody", "--port", "80"])
        .exits(1)
        .complains("apps of this lab: web");
    machine
        .lab(["expose", "web-1", "--port", "99"])
        .ok()
        .complains("--target-port");
    machine
        .lab(["get", "svc"])
        .ok()
        .says("door")
        .says("80:30086/TCP")
        .never_says("other");
    // Another lab on the same node: its own addresses, the same node ports.
    machine.lab(["up", "1-pod", "--name", "blue"]).ok();
    let words = [
        "expose", "web", "--lab", "blue", "--name", "x", "--port", "80", "--type", "NodePort", "-o", "json",
    ];
    let other = machine.lab(words).ok().json();
    assert_eq!(
        (
            &other["spec"]["clusterIP"],
            &other["spec"]["ports"][0]["nodePort"]
        ),
        (&json!("10.97.1.1"), &json!(30_087))
    );
    assert_eq!(other["metadata"]["namespace"], "blue");
}

const FRONT: &str = "
# A front with its pods.
apiVersion: apps/v1
kind: Deployment
metadata: {name: front}
spec:
  replicas: 2
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      containers:
      - name: nginx
        image: nginx
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  selector: {app: front}
  ports: [{port: 80}]
";

#[test]
fn apply_takes_what_kubectl_takes() {
    let machine = lab_with_rules("1-pod");
    let apply = |text: &str| {
        machine
            .command(["netns-lab", "apply", "-f", "-"])
            .input(text)
            .run()
    };
    apply(FRONT)
        .ok()
        .says("deployment.apps/front created\nservice/front created\n");
    machine
        .proxy(["sync"])
        .ok()
        .says("default/front 10.96.1.1:80/TCP -> 2 endpoints (new)");
    inside(
        &machine,
        "web-1",
        ["curl", "-sS", "--max-time", "5", "http://front"],
    )
    .ok()
    .says("front-");
    apply(FRONT)
        .ok()
        .says("deployment.apps/front unchanged\nservice/front unchanged\n");
    let names = || {
        let pods = machine.lab(["get", "pods", "-o", "json"]).ok().json();
        let pods = pods["items"].as_array().expect("pods").clone();
        pods.iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_string())
            .collect::<Vec<_>>()
    };
    let two = names();
    assert_eq!(two.len(), 3, "{two:?}");
    apply(&FRONT.replace("replicas: 2", "replicas: 4"))
        .ok()
        .says("configured");
    let four = names();
    assert!(
        two.iter().all(|pod| four.contains(pod)) && four.len() == 5,
        "{four:?}"
    );
    machine.lab(["get", "deploy"]).ok().says("4/4");
    // A pod of a Deployment that is deleted is replaced; a pod of nobody is not.
    machine.lab(["delete", "pod", &two[0]]).ok();
    assert!(!names().contains(&two[0]) && names().len() == 5);
    machine.lab(["delete", "po", "web-1"]).ok();
    assert_eq!(names().len(), 4);
    let wrong = FRONT
        .replace("port: 80}", "port: 70000}")
        .replace("image: nginx", "imge: nginx");
    apply(&wrong)
        .exits(2)
        .complains("stdin:3: Deployment \"front\": spec.template.spec.containers[0].imge: unknown field")
        .complains("stdin:17: Service \"front\": spec.ports[0].port: 70000; expected 1 to 65535")
        .complains("nothing was changed");
    apply("kind: ConfigMap\napiVersion: v1\n")
        .exits(2)
        .complains("stdin:1: kind: \"ConfigMap\"");
    apply("a: [\n").exits(2).complains("stdin:");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "labels": {"app": "db"}},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 5432}]}]}});
    apply(&pod.to_string()).ok().says("pod/db created");
    machine.lab(["delete", "deploy", "front"]).ok();
    assert_eq!(names(), ["db"]);
    machine
        .lab(["delete", "pod", "db"])
        .exits(1)
        .complains("at least one pod");
    assert_eq!(names(), ["db"]);
    machine
        .lab(["delete", "svc", "nobody"])
        .exits(1)
        .complains("not found");
    cleanup_and_down(&machine);
    machine.run(["test", "-e", "/run/netns-lab"]).exits(1);
}

#[test]
fn get_prints_what_a_terminal_may_see() {
    let machine = lab_with_rules("2-pods");
    let red = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "red", "annotations": {"a": "\u{1b}[31m\n- yes"}, "labels": {"on": "yes"}},
        "spec": {"type": "ExternalName", "externalName": "\u{1b}[2Jx"}});
    publish(&machine, "red", &red);
    for output in ["table", "wide", "json", "yaml"] {
        machine
            .lab(["get", "-o", output])
            .ok()
            .says("red")
            .never_says("\u{1b}");
    }
    let yaml = machine.lab(["get", "svc", "red", "-o", "yaml"]).ok();
    assert!(
        !yaml.stdout.contains("on: yes"),
        "a text that reads as true must be quoted: {yaml}"
    );
    machine
        .lab(["get", "pods", "web-9"])
        .exits(1)
        .complains("not found");
    machine.lab(["get", "svc", "-A"]).ok().says("NAMESPACE");
    machine.lab(["get", "gods"]).exits(2);
    machine.lab(["get", "nodes"]).ok().says("node-1  Ready");
}
