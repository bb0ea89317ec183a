//! `sync --watch --serve`: what is asked over HTTP, and what is answered.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab_tests::machine::{Machine, Running, eventually};
use lab_tests::programs::repository;
use lab_tests::registry::{service, slice};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::reply::{Reply, ask};

const HEALTH: &str = "http://127.0.0.1:10256";
const NUMBERS: &str = "http://127.0.0.1:10249";

/// kube-proxy 1.30's, all of those that concern iptables.
const NAMES: [(&str, &str); 17] = [
    ("kubeproxy_network_programming_duration_seconds", "histogram"),
    ("kubeproxy_proxy_healthz_total", "counter"),
    ("kubeproxy_proxy_livez_total", "counter"),
    ("kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge"),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter"),
    ("kubeproxy_sync_proxy_rules_iptables_last", "gauge"),
    (
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
        "counter",
    ),
    (
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "counter",
    ),
    ("kubeproxy_sync_proxy_rules_iptables_total", "gauge"),
    (
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "gauge",
    ),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge"),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge"),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge"),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "counter"),
];

/// A machine with a registry, and a proxy that serves.
struct Node {
    machine: Machine,
    registry: PathBuf,
}

impl Node {
    fn start() -> Self {
        let machine = Machine::start();
        let registry = machine.folder().join("registry");
        fs::create_dir(&registry).expect("our own folder");
        let node = Self { machine, registry };
        node.publish("node", &a_node(&json!([])));
        node
    }

    /// Replaces a file in one step.
    fn publish(&self, name: &str, object: &Value) {
        let new = self.registry.join(format!(".{name}.new"));
        fs::write(&new, object.to_string()).expect("our own folder");
        fs::rename(new, self.registry.join(format!("{name}.json"))).expect("our own folder");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.registry.join(format!("{name}.json"))).expect("it was published");
    }

    fn watch(&self, flags: &[&str]) -> Running {
        let registry = self.registry.display().to_string();
        let fixed = ["miniproxy", "sync", "--watch", "--registry", &registry];
        let watch = self.machine.command(fixed.iter().chain(flags)).start();
        watch.wait_for("following ");
        eventually("the first sync", || self.rules().contains("KUBE-SERVICES"));
        watch
    }

    fn rules(&self) -> String {
        self.machine.run(["iptables-save"]).ok().stdout
    }

    fn ask(&self, url: &str) -> Reply {
        ask(&self.machine, url)
    }

    /// The value of one series.
    fn number(&self, series: &str) -> f64 {
        let text = self.ask(&format!("{NUMBERS}/metrics")).body;
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = found.unwrap_or_else(|| panic!("no {series} in:\n{text}"));
        value.parse().expect("a number")
    }

    /// Every TCP socket that listens.
    fn listening(&self) -> Vec<String> {
        let tables = self.machine.sh("cat /proc/net/tcp /proc/net/tcp6").ok().stdout;
        let listening = tables
            .lines()
            .filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        listening.map(str::to_string).collect()
    }
}

fn a_node(taints: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": "node-a" },
        "spec": { "taints": taints },
        "status": { "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }] },
    })
}

fn load_balancer() -> Value {
    let ports = [
        ("http", "TCP", 80, json!(8080)),
        ("admin", "TCP", 81, json!(8081)),
    ];
    let mut service = service("web", "10.96.0.70", "web", &ports);
    let spec = service["spec"].as_object_mut().expect("a Service");
    spec.remove("selector");
    spec.insert("type".into(), json!("LoadBalancer"));
    spec.insert("externalTrafficPolicy".into(), json!("Local"));
    spec.insert("healthCheckNodePort".into(), json!(32000));
    spec["ports"][0]["nodePort"] = json!(30080);
    spec["ports"][1]["nodePort"] = json!(30081);
    service
}

/// Endpoints of it, each with its Node and whether it is ready.
fn endpoints(all: &[(&str, &str, bool)]) -> Value {
    let addresses: Vec<&str> = all.iter().map(|(address, ..)| *address).collect();
    let mut slice = slice("web-1", "web", &addresses, ("http", "TCP", 8080));
    for (index, (_, node, ready)) in all.iter().enumerate() {
        let conditions = json!({ "ready": ready, "serving": true, "terminating": !ready });
        slice["endpoints"][index]["nodeName"] = json!(node);
        slice["endpoints"][index]["conditions"] = conditions;
    }
    slice
}

#[test]
fn health_and_mode_are_served_with_kube_proxys_words() {
    let node = Node::start();
    let watch = node.watch(&["--serve"]);
    let health = node.ask(&format!("{HEALTH}/healthz"));
    assert_eq!(health.status, 200, "{health:?}");
    assert_eq!(health.header("content-type"), Some("application/json"));
    assert_eq!(health.header("x-content-type-options"), Some("nosniff"));
    assert!(health.body.starts_with("{\"lastUpdated\": \"20"), "{health:?}");
    assert!(health.body.ends_with("\", \"nodeEligible\": true}"), "{health:?}");
    let live = node.ask(&format!("{HEALTH}/livez"));
    assert!(
        live.status == 200 && !live.body.contains("nodeEligible"),
        "{live:?}"
    );
    // As kube-proxy's, it answers in both families.
    assert_eq!(node.ask("http://[::1]:10256/livez").status, 200);
    assert_eq!(node.ask(&format!("{HEALTH}/metrics")).status, 404);
    assert_eq!(node.ask(&format!("{NUMBERS}/proxyMode")).body, "iptables");
    assert_eq!(node.ask(&format!("{NUMBERS}/healthz")).body, "ok");
    // The metrics are for this node only.
    assert_eq!(node.ask("http://[::1]:10249/metrics").status, 0);

    // A node that is about to be removed is not sent new connections; the proxy itself is well.
    node.publish(
        "node",
        &a_node(&json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }])),
    );
    eventually("not eligible", || {
        node.ask(&format!("{HEALTH}/healthz")).status == 503
    });
    assert_eq!(node.ask(&format!("{HEALTH}/livez")).status, 200);
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
    assert_eq!(node.listening(), Vec::<String>::new());
}

/// The kernel counts all changes; only those of kube-proxy's own rules are a reason to read them.
#[test]
fn what_others_do_in_tables_of_their_own_makes_nobody_read() {
    let node = Node::start();
    let watch = node.watch(&["--serve"]);
    let reads = "miniproxy_kernel_reads_total{ip_family=\"IPv4\"}";
    eventually("the first sync is counted", || node.number(reads) >= 1.0);
    // The kernel is asked how much has changed four times a second.
    std::thread::sleep(Duration::from_millis(600));
    let before = node.number(reads);
    for number in 0..8 {
        node.machine
            .sh(&format!(
                "nft add table ip mine{number}; iptables -t nat -N OTHERS{number}"
            ))
            .ok();
        node.publish(
            "web",
            &service(
                "web",
                &format!("10.96.0.{}", 80 + number),
                "web",
                &[("http", "TCP", 80, json!(80))],
            ),
        );
        eventually("the change is in force", || {
            node.rules().contains(&format!("10.96.0.{}/32", 80 + number))
        });
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(
        (node.number(reads) - before).abs() < f64::EPSILON,
        "{before} {}",
        node.number(reads)
    );
    node.machine.sh("iptables -t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES").ok();
    eventually("it is repaired", || {
        node.number(reads) > before
            && node.rules().contains(
                "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
            )
    });
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
}

#[test]
fn metrics_have_kube_proxys_names_and_count_syncs() {
    let node = Node::start();
    let watch = node.watch(&["--serve"]);
    let reply = node.ask(&format!("{NUMBERS}/metrics"));
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    for (name, kind) in NAMES {
        assert!(
            reply.body.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} {kind}:\n{}",
            reply.body
        );
    }
    assert!(!reply.body.contains("# EOF") && reply.body.ends_with('\n'));
    let syncs = "kubeproxy_sync_proxy_rules_duration_seconds_count";
    let rules = "kubeproxy_sync_proxy_rules_iptables_total{table=\"nat\"}";
    let queued = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";
    eventually("the first sync is counted", || node.number(syncs) >= 2.0);
    let before = [syncs, rules, queued].map(|series| node.number(series));
    node.publish("web", &load_balancer());
    node.publish("web-slice", &endpoints(&[("10.244.0.2", "node-b", true)]));
    let external = "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"}";
    eventually("the sync is counted", || {
        (node.number(external) - 1.0).abs() < f64::EPSILON
    });
    let after = [syncs, rules, queued].map(|series| node.number(series));
    assert!(
        before.iter().zip(&after).all(|(before, after)| before < after),
        "{before:?} {after:?}"
    );
    assert!(node.number("kubeproxy_sync_proxy_rules_last_timestamp_seconds") >= after[2]);
    assert!(node.number("miniproxy_chains{ip_family=\"IPv4\"}") > 10.0);
    node.ask(&format!("{HEALTH}/healthz"));
    assert!(node.number("kubeproxy_proxy_healthz_total{code=\"200\"}") >= 1.0);
    // With newer versions' labels.
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
    let watch = node.watch(&["--serve", "--compat", "latest"]);
    let v4 = "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    eventually("a sync", || node.number(v4) >= 1.0);
    let health: Value = serde_json::from_str(&node.ask(&format!("{HEALTH}/healthz")).body).expect("JSON");
    assert_eq!(health["status"]["IPv4"]["healthy"], true, "{health}");
    drop(watch);
}

#[test]
fn a_health_check_node_port_follows_its_local_endpoints() {
    let node = Node::start();
    let watch = node.watch(&["--serve"]);
    let url = "http://127.0.0.1:32000/";
    assert_eq!(node.ask(url).status, 0);
    node.publish("web", &load_balancer());
    let here = |ready| {
        [
            ("10.244.0.2", "node-a", true),
            ("10.244.0.3", "node-a", ready),
            ("10.244.1.2", "node-b", true),
        ]
    };
    node.publish("web-slice", &endpoints(&here(true)));
    let weight = |count: &str| {
        let reply = node.ask(url);
        reply.header("x-load-balancing-endpoint-weight") == Some(count)
    };
    eventually("two endpoints", || weight("2"));
    let reply = node.ask(url);
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/json"))
    );
    let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(reply.body, body);
    let accept = "-A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web:http health check node port\" -m tcp --dport 32000 -j ACCEPT";
    assert!(node.rules().contains(accept), "{}", node.rules());
    // One that is on its way out does not count, and a Service with none is not sent anything.
    node.publish("web-slice", &endpoints(&here(false)));
    eventually("one endpoint", || weight("1"));
    node.publish("web-slice", &endpoints(&here(false)[2..]));
    eventually("no endpoint", || weight("0"));
    assert_eq!(node.ask(url).status, 503);
    // Another port, and no Service.
    let mut moved = load_balancer();
    moved["spec"]["healthCheckNodePort"] = json!(32001);
    node.publish("web", &moved);
    eventually("moved", || {
        node.ask("http://[::1]:32001/x?y").status == 503 && node.ask(url).status == 0
    });
    node.remove("web");
    eventually("closed", || node.ask("http://127.0.0.1:32001/").status == 0);
    assert_eq!(node.listening().len(), 2, "{:?}", node.listening());
    drop(watch);
}

#[test]
fn a_proxy_that_cannot_write_is_not_healthy() {
    let node = Node::start();
    let folder = node.machine.folder();
    let broken = folder.join("broken");
    let restore = format!(
        "#!/bin/sh\n[ ! -e {} ] || exit 4\nexec iptables-restore \"$@\"\n",
        broken.display()
    );
    let script = format!(
        "mkdir {0}/own; for name in iptables iptables-save ip6tables ip6tables-save ip6tables-restore; do \
         ln -s \"$(readlink -f {0}/$name)\" {0}/own/$name; done; \
         cat > {0}/own/iptables-restore; chmod +x {0}/own/iptables-restore",
        folder.display()
    );
    node.machine
        .command(["sh", "-euc", &script])
        .input(&restore)
        .run()
        .ok();
    let config = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                  iptables:\n  syncPeriod: 1s\n  minSyncPeriod: 0s\n";
    let config = node.machine.file("config.yaml", config);
    let program = folder.join("own/iptables").display().to_string();
    node.publish("web-slice", &endpoints(&[("10.244.0.2", "node-a", true)]));
    node.publish("web", &load_balancer());
    let watch = node.watch(&["--serve", "--config", &config, "--iptables", &program]);
    let check = "http://127.0.0.1:32000/";
    eventually("healthy", || node.ask(check).status == 200);

    fs::write(&broken, "").expect("our own folder");
    let mut changed = load_balancer();
    changed["spec"]["ports"][0]["port"] = json!(8080);
    node.publish("web", &changed);
    // Two sync periods.
    eventually("not healthy", || {
        node.ask(&format!("{HEALTH}/livez")).status == 503
    });
    assert_eq!(node.ask(&format!("{HEALTH}/healthz")).status, 503);
    let reply = node.ask(check);
    assert!(
        reply.status == 503 && reply.body.ends_with("\"serviceProxyHealthy\": false\n}"),
        "{reply:?}"
    );
    assert!(node.number("kubeproxy_sync_proxy_rules_iptables_restore_failures_total") >= 1.0);

    fs::remove_file(&broken).expect("it is there");
    eventually("healthy again", || {
        node.ask(&format!("{HEALTH}/healthz")).status == 200 && node.ask(check).status == 200
    });
    drop(watch);
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    let node = Node::start();
    node.publish("web", &load_balancer());
    let watch = node.watch(&[]);
    eventually("the rules", || node.rules().contains("--dport 32000"));
    assert_eq!(node.listening(), Vec::<String>::new());
    assert_eq!(watch.stop(Signal::SIGTERM), 0);
    let sync = node.machine.proxy(["sync", "--serve"]);
    sync.exits(2).complains("--watch");
}

#[test]
fn a_port_that_is_taken_is_said_and_the_rules_are_written_all_the_same() {
    let node = Node::start();
    node.publish("web", &load_balancer());
    let first = node.watch(&["--serve"]);
    eventually("the port", || node.ask("http://127.0.0.1:32000/").status == 503);
    let second = node.watch(&["--serve"]);
    second.wait_for("warning: healthzBindAddress: cannot listen on 0.0.0.0:10256: Address already in use");
    second.wait_for("warning: metricsBindAddress: cannot listen on 127.0.0.1:10249: ");
    second.wait_for("warning: healthCheckNodePort of default/web: cannot listen on [::]:32000: ");
    // The port is free, and is taken without anybody's help.
    assert_eq!(first.stop(Signal::SIGTERM), 0);
    let asked = Instant::now();
    eventually("taken over", || {
        ["http://127.0.0.1:10256/livez", "http://127.0.0.1:10249/healthz"]
            .iter()
            .all(|url| node.ask(url).status == 200)
            && node.ask("http://127.0.0.1:32000/").status == 503
    });
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    let began = Instant::now();
    assert_eq!(second.stop(Signal::SIGTERM), 0);
    assert!(began.elapsed() < Duration::from_secs(3));
}

/// The recorded answers of one case; `None` where no port was asked.
fn recorded(folder: &Path) -> Option<Value> {
    let side: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("side.1.json")).ok()?).expect("JSON");
    let ports = side["healthCheckNodePorts"].clone();
    ports
        .as_object()
        .is_some_and(|ports| !ports.is_empty())
        .then_some(ports)
}

fn in_words_of_the_record(reply: &Reply) -> Value {
    if reply.status == 0 {
        return json!({ "error": "ConnectionRefusedError" });
    }
    json!({
        "body": serde_json::from_str::<Value>(&reply.body).expect("JSON"),
        "contentType": reply.header("content-type"),
        "status": reply.status,
        "weight": reply.header("x-load-balancing-endpoint-weight"),
    })
}

#[test]
fn health_check_node_ports_answer_as_kube_proxys_did() {
    let machine = Machine::start();
    let links = "ip link add eth0 type bridge; ip link set eth0 up; ip addr add 192.0.2.10/24 dev eth0; \
                 ip addr add 2001:db8:0:1::10/64 dev eth0 nodad";
    machine.sh(links).ok();
    let mut asked = 0;
    let cases = fs::read_dir(repository().join("tests/conformance/recorded")).expect("the cases");
    for folder in cases.flatten().map(|entry| entry.path()) {
        let Some(ports) = recorded(&folder) else { continue };
        let path = |name: &str| folder.join(name).display().to_string();
        let (config, registry) = (path("config.yaml"), path("registry.1.json"));
        let flags = ["--serve", "--config", &config, "--registry", &registry];
        let watch = machine
            .command(["miniproxy", "sync", "--watch"].iter().chain(&flags))
            .start();
        for (port, addresses) in ports.as_object().expect("ports") {
            for (address, expected) in addresses.as_object().expect("addresses") {
                let host = match address.parse().expect("an address") {
                    IpAddr::V4(ip) => ip.to_string(),
                    IpAddr::V6(ip) => format!("[{ip}]"),
                };
                let what = format!("{}: {port} at {address}: {expected}", folder.display());
                eventually(&what, || {
                    let reply = ask(&machine, &format!("http://{host}:{port}/"));
                    in_words_of_the_record(&reply) == *expected
                });
                asked += 1;
            }
        }
        assert_eq!(watch.stop(Signal::SIGTERM), 0);
        machine.proxy(["cleanup"]).ok();
    }
    assert!(asked >= 60, "only {asked} answers were recorded");
}
