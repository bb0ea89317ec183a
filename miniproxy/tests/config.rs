//! kube-proxy's configuration: what is read, what is refused and by which words, what is ignored.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::format_collect,
    reason = "a test fails by panicking, and has no callers"
)]

use std::time::Duration;

use miniproxy::config::draft::Draft;
use miniproxy::config::{Compat, ConfigProblem, DetectLocal, NodePortAddress, Settings};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn settle_for(compat: Compat, body: &str) -> Result<Settings, Vec<ConfigProblem>> {
    Draft::read("kp.yaml", &format!("{HEAD}{body}"))?.settle(compat)
}

fn settle(body: &str) -> Result<Settings, Vec<ConfigProblem>> {
    settle_for(Compat::V1_30, body)
}

/// What kubeadm writes on a new cluster: every field, most of them empty.
const KUBEADM: &str = r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn what_kubeadm_writes_means_the_defaults() {
    let draft = Draft::read("kp.yaml", KUBEADM).unwrap();
    let defaults = Settings {
        detect_local: DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]),
        ..Settings::default()
    };
    assert_eq!(draft.settle(Compat::V1_30).unwrap(), defaults);
    assert_eq!(
        draft.notes,
        [
            "kp.yaml:8: clientConnection.kubeconfig is ignored: the objects come from files, not from an API server"
        ]
    );
}

#[test]
fn a_config_map_is_taken_as_it_is() {
    let indented: String = KUBEADM.lines().map(|line| format!("    {line}\n")).collect();
    let yaml = format!(
        "apiVersion: v1\ndata:\n  config.conf: |-\n{indented}  kubeconfig.conf: |-\n    apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kube-proxy\n"
    );
    let json = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.conf": KUBEADM}});
    let expected = Draft::read("x", KUBEADM).unwrap().settle(Compat::V1_30).unwrap();
    for text in [yaml, serde_json::to_string_pretty(&json).unwrap()] {
        let draft = Draft::read("cm", &text).unwrap();
        assert_eq!(draft.settle(Compat::V1_30).unwrap(), expected);
        assert!(
            draft.notes[0].starts_with("cm(config.conf):8: "),
            "{:?}",
            draft.notes
        );
    }
    let empty = Draft::read("cm", "kind: ConfigMap\ndata: {}\n").unwrap_err();
    assert!(
        empty[0].what.contains("no KubeProxyConfiguration"),
        "{}",
        empty[0]
    );
}

#[test]
fn every_field_that_is_heeded_arrives() {
    let settings = settle(
        "hostnameOverride: \" Node-A \"\nbindAddress: \"::\"\nhealthzBindAddress: 10.0.0.1\nmetricsBindAddress: \"[::]:9999\"\n\
         clusterCIDR: 10.244.0.0/16,fd00::/48\nnodePortAddresses: [192.0.2.0/24, \"::1/128\"]\n\
         iptables: {masqueradeBit: 3, masqueradeAll: true, localhostNodePorts: false, syncPeriod: 1m30s, minSyncPeriod: 1ns}\n\
         conntrack: {maxPerCore: 0, min: 7, tcpEstablishedTimeout: 2h, tcpCloseWaitTimeout: 0s, tcpBeLiberal: true, udpTimeout: 40s, udpStreamTimeout: 200s}\n\
         featureGates: {TopologyAwareHints: false, LoadBalancerIPMode: false, ServiceTrafficDistribution: true}\n",
    )
    .unwrap();
    assert_eq!(settings.node_name.as_deref(), Some("node-a"));
    assert_eq!(settings.bind_address.to_string(), "::");
    assert_eq!(settings.healthz_bind_address.to_string(), "10.0.0.1:10256");
    assert_eq!(settings.metrics_bind_address.to_string(), "[::]:9999");
    let DetectLocal::ClusterCidr(networks) = &settings.detect_local else {
        panic!("{:?}", settings.detect_local)
    };
    assert_eq!(networks.len(), 2);
    assert_eq!(settings.node_port_addresses.len(), 2);
    assert_eq!((settings.masquerade_bit, settings.masquerade_all), (3, true));
    assert!(!settings.localhost_node_ports);
    assert_eq!(settings.sync_period, Duration::from_secs(90));
    assert_eq!(settings.min_sync_period, Duration::from_nanos(1));
    let conntrack = settings.conntrack;
    assert_eq!((conntrack.max_per_core, conntrack.min), (0, 7));
    assert_eq!(conntrack.tcp_established_timeout, Some(Duration::from_secs(7200)));
    assert_eq!(conntrack.tcp_close_wait_timeout, None);
    assert_eq!(conntrack.udp_timeout, Some(Duration::from_secs(40)));
    assert_eq!(conntrack.udp_stream_timeout, Some(Duration::from_secs(200)));
    assert!(conntrack.tcp_be_liberal);
    let gates = settings.gates;
    assert!(
        !gates.topology_aware_hints && !gates.load_balancer_ip_mode && gates.service_traffic_distribution
    );
}

#[test]
fn servers_listen_in_the_family_of_the_bind_address() {
    let settings = settle("bindAddress: \"2001:db8::1\"\n").unwrap();
    assert_eq!(settings.healthz_bind_address.to_string(), "[::]:10256");
    assert_eq!(settings.metrics_bind_address.to_string(), "[::1]:10249");
}

#[test]
fn each_detector_is_there() {
    let mode = |body: &str| settle(body).unwrap().detect_local;
    assert_eq!(mode(""), DetectLocal::ClusterCidr(vec![]));
    assert_eq!(mode("detectLocalMode: NodeCIDR\n"), DetectLocal::NodeCidr);
    assert_eq!(
        mode("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n"),
        DetectLocal::BridgeInterface("cni0".into())
    );
    assert_eq!(
        mode("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n"),
        DetectLocal::InterfaceNamePrefix("veth".into())
    );
}

#[test]
fn what_is_wrong_is_refused_by_line_and_field() {
    let cases = [
        ("mode: ipvs", "mode"),
        ("mode: nftables", "mode"),
        ("mode: userspace", "mode"),
        ("mode: kernelspace", "mode"),
        ("mode: iptabels", "mode"),
        ("bindAddress: localhost", "bindAddress"),
        ("healthzBindAddress: 0.0.0.0:0", "healthzBindAddress"),
        ("healthzBindAddress: web:80", "healthzBindAddress"),
        ("metricsBindAddress: 0.0.0.0:70000", "metricsBindAddress"),
        ("clusterCIDR: 10.244.0.0", "clusterCIDR"),
        ("clusterCIDR: 10.244.0.0/16,10.245.0.0/16", "clusterCIDR"),
        ("clusterCIDR: 10.244.0.0/16,fd00::/48,fd01::/48", "clusterCIDR"),
        ("clusterCIDR: [10.244.0.0/16]", "clusterCIDR"),
        ("hostnameOverride: \" \"", "hostnameOverride"),
        ("hostnameOverride: 17", "hostnameOverride"),
        ("detectLocalMode: Bridge", "detectLocalMode"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
        (
            "detectLocalMode: InterfaceNamePrefix",
            "detectLocal.interfaceNamePrefix",
        ),
        (
            "detectLocal: {bridgeInterface: \"x -j ACCEPT\"}",
            "detectLocal.bridgeInterface",
        ),
        (
            "detectLocal: {interfaceNamePrefix: fifteen-letters}",
            "detectLocal.interfaceNamePrefix",
        ),
        (
            "nodePortAddresses: [10.0.0.0/8, 192.0.2.10]",
            "nodePortAddresses[1]",
        ),
        ("nodePortAddresses: [primary]", "nodePortAddresses[0]"),
        ("nodePortAddresses: 10.0.0.0/8", "nodePortAddresses"),
        ("iptables: {masqueradeBit: 32}", "iptables.masqueradeBit"),
        ("iptables: {masqueradeBit: -1}", "iptables.masqueradeBit"),
        ("iptables: {masqueradeBit: \"14\"}", "iptables.masqueradeBit"),
        ("iptables: {masqueradeAll: \"true\"}", "iptables.masqueradeAll"),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod"),
        ("iptables: {syncPeriod: 30}", "iptables.syncPeriod"),
        (
            "iptables: {syncPeriod: 10s, minSyncPeriod: 11s}",
            "iptables.minSyncPeriod",
        ),
        ("iptables: {syncPeriod: 500ms}", "iptables.minSyncPeriod"),
        (
            "iptables: {snatNodeInternalIP: true}",
            "iptables.snatNodeInternalIP",
        ),
        ("iptables: {masquerade: true}", "iptables.masquerade"),
        ("iptables: true", "iptables"),
        ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore"),
        ("conntrack: {min: 3000000000}", "conntrack.min"),
        ("conntrack: {udpTimeout: forever}", "conntrack.udpTimeout"),
        (
            "featureGates: {TopologyAwareHints: maybe}",
            "featureGates.TopologyAwareHints",
        ),
        ("clusterCidr: 10.244.0.0/16", "clusterCidr"),
        ("ipvs: {schedular: rr}", "ipvs.schedular"),
    ];
    for (body, field) in cases {
        let problems = settle(&format!("{body}\n")).expect_err(body);
        assert_eq!(problems.len(), 1, "{body}: {problems:?}");
        let problem = &problems[0];
        assert_eq!(problem.field, field, "{problem}");
        assert!(problem.to_string().starts_with("kp.yaml:3: "), "{problem}");
        assert!(problem.to_string().contains("; expected "), "{problem}");
    }
}

#[test]
fn a_file_that_is_something_else_is_told_so() {
    for text in [
        "",
        "- a\n",
        "kind: Deployment\napiVersion: apps/v1\n",
        "kind: KubeProxyConfiguration\n",
        "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1\n",
        "a: [",
        "\u{0}",
    ] {
        let problems = Draft::read("kp.yaml", text).expect_err(text);
        assert!(
            problems[0].expected.contains("KubeProxyConfiguration"),
            "{text:?}: {}",
            problems[0]
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = settle("mode: ipvs\nbindAddress: x\niptables:\n  masqueradeBit: 99\n").unwrap_err();
    let places: Vec<String> = problems.iter().map(|problem| problem.place.to_string()).collect();
    assert_eq!(places, ["kp.yaml:3", "kp.yaml:4", "kp.yaml:6"]);
}

#[test]
fn the_newest_takes_words_and_has_gates_always_on() {
    let settings = settle_for(
        Compat::Latest,
        "nodePortAddresses: [primary, localhost, 10.0.0.0/8]\n",
    )
    .unwrap();
    assert_eq!(settings.node_port_addresses.len(), 4);
    assert_eq!(settings.node_port_addresses[0], NodePortAddress::Primary);
    assert!(settings.gates.service_traffic_distribution && settings.gates.prefer_same_node);
    let off = settle_for(Compat::Latest, "featureGates: {TopologyAwareHints: false}\n").unwrap_err();
    assert_eq!(off[0].field, "featureGates.TopologyAwareHints");
}

#[test]
fn a_gate_that_no_rule_depends_on_is_noted() {
    let draft = Draft::read(
        "kp.yaml",
        &format!("{HEAD}featureGates: {{NFTablesProxyMode: true}}\noomScoreAdj: -999\n"),
    );
    assert_eq!(
        draft.unwrap().notes,
        [
            "kp.yaml:3: featureGates.NFTablesProxyMode is ignored: no rule depends on it",
            "kp.yaml:4: oomScoreAdj is ignored: the priority of the process is left to who starts it",
        ]
    );
}

#[test]
fn groups_of_gates_count_and_a_gates_own_word_counts_more() {
    let gates = settle("featureGates: {AllAlpha: true, AllBeta: false, LoadBalancerIPMode: true}\n")
        .unwrap()
        .gates;
    assert!(gates.service_traffic_distribution && !gates.topology_aware_hints && gates.load_balancer_ip_mode);
}
