use std::net::{IpAddr, SocketAddr};

use labkit::xtables::Family;
use proptest::prelude::*;

use super::*;
use crate::model::{Endpoint, ProxyConfig, ServicePortName, TrafficPolicy};
use crate::rules::build::build;
use crate::rules::set::Found;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(target: &str, serving: bool) -> Endpoint {
    let address = at(target);
    Endpoint {
        target: target.to_string(),
        ip: address.ip(),
        port: address.port(),
        ready: serving,
        serving,
        terminating: false,
        local: false,
        zone_hints: vec![],
        node_hints: vec![],
    }
}

fn port(protocol: Protocol, address: &str, endpoints: &[&str]) -> ServicePort {
    let frontend = at(address);
    ServicePort {
        name: ServicePortName {
            namespace: "default".into(),
            name: format!("dns-{}", frontend.ip()),
            port: "dns".into(),
        },
        protocol,
        cluster_ip: frontend.ip(),
        port: frontend.port(),
        node_port: None,
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        follow_hints: false,
        endpoints: endpoints.iter().map(|target| endpoint(target, true)).collect(),
    }
}

fn model(ports: Vec<ServicePort>) -> Model {
    Model {
        config: ProxyConfig::defaults(Family::V4),
        ports,
    }
}

fn node() -> NodeAddresses {
    let own = ["192.0.2.10/32", "10.244.0.1/32", "127.0.0.0/8"];
    own.iter()
        .map(|network| network.parse::<IpNet>().unwrap())
        .collect()
}

/// A flow to this address that is answered from there.
fn flow(destination: &str, answers: &str) -> Flow {
    Flow {
        protocol: UDP,
        source: at("10.244.0.9:40000"),
        destination: at(destination),
        reply_source: at(answers),
        reply_destination: at("10.244.0.9:40000"),
        zone: Zone::Usual,
        id: Some(1),
    }
}

const DNS: &str = "10.96.0.10:53";
const ONE: &str = "10.244.0.2:5353";
const TWO: &str = "10.244.0.3:5353";
const NODE: &str = "192.0.2.10:30053";

fn dns(endpoints: &[&str]) -> ServicePort {
    let mut dns = port(Protocol::Udp, DNS, endpoints);
    dns.node_port = Some(30053);
    dns.external_ips = vec![ip("198.51.100.7")];
    dns.load_balancer_ips = vec![ip("203.0.113.7")];
    dns
}

#[track_caller]
fn assert_stale(frontends: &Frontends, cases: &[(&str, &str, bool)]) {
    for (destination, answers, expected) in cases {
        let found = frontends.is_stale(&flow(destination, answers), &node());
        assert_eq!(found, *expected, "{destination} answered by {answers}");
    }
}

#[test]
fn a_flow_to_each_kind_of_address_lives_as_long_as_its_endpoint_serves() {
    let frontends = Frontends::of(&model(vec![dns(&[ONE])]));
    assert_stale(
        &frontends,
        &[
            (DNS, ONE, false),
            (DNS, TWO, true),
            // Never translated: it began before the rules.
            (DNS, DNS, true),
            // The endpoint's address alone is not enough.
            (DNS, "10.244.0.2:5354", true),
            ("198.51.100.7:53", ONE, false),
            ("198.51.100.7:53", TWO, true),
            ("203.0.113.7:53", TWO, true),
            (NODE, ONE, false),
            (NODE, TWO, true),
            (NODE, NODE, true),
            ("127.0.0.1:30053", TWO, true),
            // Another port of the same address, and an endpoint asked by its own.
            ("10.96.0.10:54", TWO, false),
            (ONE, ONE, false),
        ],
    );
}

#[test]
fn the_number_of_a_node_port_elsewhere_is_nobodys() {
    let mut other = port(Protocol::Udp, "10.96.0.99:30053", &[TWO]);
    other.name.name = "other".into();
    let frontends = Frontends::of(&model(vec![dns(&[ONE]), other]));
    assert_stale(
        &frontends,
        &[
            ("198.18.0.1:30053", "198.18.0.1:30053", false),
            ("198.18.0.1:30053", "172.17.0.2:53", false),
            ("10.96.0.99:30053", TWO, false),
            ("10.96.0.99:30053", ONE, true),
        ],
    );
}

#[test]
fn node_ports_answer_only_where_they_are_told_to() {
    let mut model = model(vec![dns(&[ONE])]);
    model.config.node_port_addresses = Some(vec![ip("192.0.2.10")]);
    assert_stale(
        &Frontends::of(&model),
        &[(NODE, TWO, true), ("10.244.0.1:30053", TWO, false)],
    );
    model.config.node_port_addresses = None;
    model.config.localhost_node_ports = false;
    assert_stale(
        &Frontends::of(&model),
        &[(NODE, TWO, true), ("127.0.0.1:30053", TWO, false)],
    );
}

#[test]
fn serving_counts_and_not_ready() {
    let mut leaving = dns(&[ONE]);
    leaving.endpoints[0].ready = false;
    leaving.endpoints[0].terminating = true;
    leaving.internal_policy = TrafficPolicy::Local;
    let frontends = Frontends::of(&model(vec![leaving.clone()]));
    assert_stale(&frontends, &[(DNS, ONE, false)]);
    leaving.endpoints[0].serving = false;
    let frontends = Frontends::of(&model(vec![leaving]));
    assert_stale(&frontends, &[(DNS, ONE, true), (NODE, ONE, false)]);
}

#[test]
fn a_service_scaled_to_zero_or_deleted_keeps_no_flow() {
    let was = dns(&[ONE]);
    let mut before = Before::default();
    before.add_port(&was);
    before.add_port(&port(Protocol::Tcp, "10.96.0.20:80", &[ONE]));
    for now in [vec![dns(&[])], vec![]] {
        let mut frontends = Frontends::of(&model(now));
        frontends.add_before(&before);
        assert_stale(
            &frontends,
            &[
                (DNS, ONE, true),
                ("198.51.100.7:53", ONE, true),
                ("203.0.113.7:53", ONE, true),
                // To an endpoint that was behind it; the bare number says nothing.
                (NODE, ONE, true),
                (NODE, TWO, false),
                (NODE, NODE, false),
                ("198.18.0.1:30053", "198.18.0.1:30053", false),
                ("10.96.0.20:80", ONE, false),
            ],
        );
    }
}

#[test]
fn a_node_port_outlives_an_external_ip_of_the_same_address_and_number() {
    let mut other = port(Protocol::Udp, "10.96.0.99:30053", &[TWO]);
    other.external_ips = vec![ip("192.0.2.10")];
    let mut before = Before::default();
    before.add_port(&other);
    let mut frontends = Frontends::of(&model(vec![dns(&[ONE])]));
    frontends.add_before(&before);
    assert_stale(&frontends, &[(NODE, ONE, false), (NODE, TWO, true)]);
}

#[test]
fn rules_of_the_kernel_tell_the_same_as_an_earlier_model() {
    let mut empty = port(Protocol::Udp, "10.96.0.30:53", &[]);
    empty.external_ips = vec![ip("198.51.100.30")];
    let tcp = port(Protocol::Tcp, "10.96.0.20:80", &[ONE]);
    let ports = vec![dns(&[ONE, TWO]), tcp, empty];
    let mut expected = Before::default();
    for port in &ports {
        expected.add_port(port);
    }
    let found = Found::from(&build(&model(ports)));
    assert_eq!(Before::of_rules(&found), expected);
}

#[test]
fn only_udp_and_only_what_leaves_flows_behind_needs_a_look() {
    let tcp = |endpoints: &[&str]| port(Protocol::Tcp, "10.96.0.20:80", endpoints);
    let mut moved = dns(&[ONE]);
    moved.external_ips.clear();
    let mut policy = dns(&[ONE]);
    policy.external_policy = TrafficPolicy::Local;
    let cases = [
        ("nothing", vec![dns(&[ONE])], vec![dns(&[ONE])], false),
        ("one more", vec![dns(&[ONE])], vec![dns(&[ONE, TWO])], false),
        ("policy", vec![dns(&[ONE])], vec![policy], false),
        ("one less", vec![dns(&[ONE, TWO])], vec![dns(&[ONE])], true),
        ("another", vec![dns(&[ONE])], vec![dns(&[TWO])], true),
        ("from none", vec![dns(&[])], vec![dns(&[ONE])], true),
        ("to none", vec![dns(&[ONE])], vec![dns(&[])], true),
        ("an address less", vec![dns(&[ONE])], vec![moved], true),
        ("deleted", vec![dns(&[ONE])], vec![], true),
        ("deleted, none served", vec![dns(&[])], vec![], true),
        ("new", vec![], vec![dns(&[ONE])], true),
        ("new, none serves", vec![], vec![dns(&[])], false),
        ("TCP", vec![tcp(&[ONE])], vec![tcp(&[TWO])], false),
        ("TCP deleted", vec![tcp(&[ONE])], vec![], false),
    ];
    for (what, before, after, expected) in cases {
        assert_eq!(needs(&before, &after), expected, "{what}");
    }
}

const ADDRESSES: [&str; 5] = ["10.96.0.1", "10.96.0.2", "192.0.2.10", "198.18.0.1", "10.244.0.2"];

/// Few numbers, so that they meet.
fn some_address() -> impl Strategy<Value = SocketAddr> {
    let port = prop_oneof![Just(53), Just(54), Just(30053), Just(30054)];
    (0..ADDRESSES.len(), port)
        .prop_map(|(index, port): (usize, u16)| SocketAddr::new(ip(ADDRESSES[index]), port))
}

prop_compose! {
    fn some_port()(
        udp in prop::bool::weighted(0.8),
        frontend in some_address(),
        external in prop::option::of(some_address()),
        node_port in prop::option::of(prop_oneof![Just(30053_u16), Just(30054)]),
        endpoints in prop::collection::vec((some_address(), any::<bool>()), 0..4),
    ) -> ServicePort {
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        let mut port = port(protocol, &frontend.to_string(), &[]);
        port.external_ips = external.iter().map(SocketAddr::ip).collect();
        port.node_port = node_port;
        port.endpoints = endpoints.iter().map(|(target, serving)| endpoint(&target.to_string(), *serving)).collect();
        port
    }
}

prop_compose! {
    fn some_flow()(
        protocol in prop_oneof![4 => Just(UDP), 1 => Just(6), 1 => Just(132)],
        destination in some_address(),
        answers in some_address(),
    ) -> Flow {
        Flow { protocol, ..flow(&destination.to_string(), &answers.to_string()) }
    }
}

fn is_frontend(port: &ServicePort, destination: SocketAddr) -> bool {
    is_udp(port)
        && (addresses(port).any(|address| address == destination)
            || port.node_port == Some(destination.port()))
}

proptest! {
    #[test]
    fn what_goes_was_udp_to_a_frontend_and_not_to_one_who_serves(
        now in prop::collection::vec(some_port(), 0..5),
        earlier in prop::collection::vec(some_port(), 0..3),
        flows in prop::collection::vec(some_flow(), 0..40),
    ) {
        let mut frontends = Frontends::of(&model(now.clone()));
        let mut before = Before::default();
        for port in &earlier {
            before.add_port(port);
        }
        frontends.add_before(&before);
        let gone = stale(&frontends, &node(), flows.clone());
        for flow in &gone {
            prop_assert_eq!(flow.protocol, UDP);
            let to = flow.destination;
            prop_assert!(now.iter().chain(&earlier).any(|port| is_frontend(port, to)), "{:?}", flow);
            let at_address: Vec<&ServicePort> =
                now.iter().filter(|port| is_udp(port) && addresses(port).any(|address| address == to)).collect();
            let meant: Vec<&ServicePort> = if at_address.is_empty() {
                now.iter().filter(|port| is_frontend(port, to)).collect()
            } else {
                at_address
            };
            let served = meant.iter().any(|port| serving(port).any(|endpoint| endpoint == flow.reply_source));
            prop_assert!(!served, "{:?}", flow);
        }
        // And a flow to an address that is nobody's endpoint never stays.
        for flow in flows.iter().filter(|flow| flow.protocol == UDP && !gone.contains(flow)) {
            let mut meant = now.iter().filter(|port| is_udp(port) && addresses(port).any(|address| address == flow.destination));
            prop_assert!(
                meant.clone().next().is_none() || meant.any(|port| serving(port).any(|endpoint| endpoint == flow.reply_source)),
                "{:?}", flow
            );
        }
    }
}
