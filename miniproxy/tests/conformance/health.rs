//! The answers of health check node ports, at every address where the real kube-proxy was asked.

use std::net::IpAddr;

use labkit::xtables::Family;
use miniproxy::observe::Answer;
use miniproxy::observe::service_health::{At, Check, checks};
use serde_json::Value;

use crate::cases::{Case, recorded};

fn answer(checks: &[Check], port: u16, address: IpAddr) -> Option<Answer> {
    let reached = |check: &&Check| match &check.at {
        _ if check.port != port => false,
        At::Everywhere => true,
        At::Addresses(all) => all.contains(&address),
    };
    checks.iter().find(reached).map(|check| check.answer(true))
}

/// In the words of the record.
fn told(answer: Option<Answer>) -> Value {
    let Some(answer) = answer else {
        return serde_json::json!({"error": "ConnectionRefusedError"});
    };
    serde_json::json!({
        "body": serde_json::from_str::<Value>(&answer.body).expect("JSON"),
        "contentType": answer.header("content-type"),
        "status": answer.status,
        "weight": answer.header("x-load-balancing-endpoint-weight"),
    })
}

fn step(case: &Case, step: usize) -> usize {
    let Some(side) = case.file(&format!("side.{step}.json")) else {
        return 0;
    };
    let side: Value = serde_json::from_str(&side).expect("JSON");
    let Some(ports) = side["healthCheckNodePorts"].as_object() else {
        return 0;
    };
    let options = case.options().expect("a configuration");
    let registry = case.registry(step);
    let models = Family::ALL.map(|family| options.model(&registry, family));
    let checks = checks(&models);
    let mut compared = 0;
    for (port, addresses) in ports {
        for (address, recorded) in addresses.as_object().expect("addresses") {
            let ours = answer(&checks, port.parse().unwrap(), address.parse().unwrap());
            assert_eq!(
                &told(ours),
                recorded,
                "{} step {step}: port {port} at {address}",
                case.name
            );
            compared += 1;
        }
    }
    compared
}

#[test]
fn health_check_node_ports_answer_as_recorded() {
    let compared: usize = recorded()
        .iter()
        .map(|case| {
            let steps = case.recorded_steps();
            steps.into_iter().map(|number| step(case, number)).sum::<usize>()
        })
        .sum();
    assert!(compared >= 80, "only {compared} answers were recorded");
}
