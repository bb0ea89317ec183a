//! Each in a network namespace of its own, where only these sockets are.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::process::Command;

use super::*;
use crate::config::Compat;

/// Set for a test that runs in its own namespace already.
const INSIDE: &str = "MINIPROXY_TEST_INSIDE";

/// Whether the caller is to go on: if not, it has been run in a fresh network namespace and passed.
fn alone(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let namespace = if nix::unistd::Uid::effective().is_root() {
        "-n"
    } else {
        "-Urn"
    };
    let run = Command::new("unshare")
        .args([namespace, "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("edge::serve::tests::{test}")])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{complained}"
    );
    false
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn start() -> (Servers, Settings) {
    let settings = Settings {
        healthz_bind_address: free(),
        metrics_bind_address: free(),
        ..Settings::defaults(Compat::V1_30)
    };
    let (servers, problems) = Servers::start(&settings).unwrap();
    assert_eq!(problems, Vec::<String>::new());
    (servers, settings)
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = StdStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn beside_the_metrics_stand_the_configuration_and_who_asked() {
    let (_servers, settings) = start();
    let ask = |path| ask(settings.metrics_bind_address, path).unwrap();
    assert!(ask("/configz").contains("\"MasqueradeBit\":14"));
    assert!(!ask("/metrics/slis").contains("kubernetes_healthcheck"));
    ask("/healthz");
    assert!(ask("/metrics/slis").contains("kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1"));
    assert!(
        !ask("/metrics").contains("nodeports_accepted"),
        "newer versions only"
    );
}

fn check(address: SocketAddr, name: &str, local_endpoints: usize) -> Check {
    Check {
        namespace: "default".into(),
        name: name.into(),
        family: Family::V4,
        port: address.port(),
        at: At::Addresses(vec![address.ip()]),
        local_endpoints,
    }
}

#[test]
fn both_servers_answer_their_paths_and_no_others() {
    if !alone("both_servers_answer_their_paths_and_no_others") {
        return;
    }
    let (servers, settings) = start();
    servers.queued(Family::V4);
    let (health, numbers) = (settings.healthz_bind_address, settings.metrics_bind_address);
    assert!(
        ask(health, "/healthz")
            .unwrap()
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    assert!(
        ask(health, "/livez?verbose")
            .unwrap()
            .contains("\"currentTime\": ")
    );
    assert!(ask(health, "/metrics").unwrap().starts_with("HTTP/1.1 404 "));
    assert!(ask(numbers, "/proxyMode").unwrap().ends_with("\r\n\r\niptables"));
    assert!(ask(numbers, "/healthz").unwrap().ends_with("\r\n\r\nok"));
    let text = ask(numbers, "/metrics").unwrap();
    assert!(
        text.contains("kubeproxy_proxy_healthz_total{code=\"200\"} 1\n"),
        "{text}"
    );
    servers.node(false);
    assert!(ask(health, "/healthz").unwrap().starts_with("HTTP/1.1 503 "));
    assert!(ask(health, "/livez").unwrap().starts_with("HTTP/1.1 200 "));
    let began = Instant::now();
    drop(servers);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(ask(health, "/livez").is_err() && ask(numbers, "/metrics").is_err());
}

#[test]
fn checks_come_change_and_go() {
    if !alone("checks_come_change_and_go") {
        return;
    }
    let (servers, _) = start();
    let (one, other) = (free(), free());
    assert_eq!(servers.checks(vec![check(one, "web", 2)]), Vec::<String>::new());
    let answer = ask(one, "/whatever").unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("x-load-balancing-endpoint-weight: 2\r\n"),
        "{answer}"
    );
    // A new number is the same socket's answer, also on a connection that is open already.
    assert!(
        servers
            .checks(vec![check(one, "web", 0), check(other, "db", 1)])
            .is_empty()
    );
    assert!(ask(one, "/").unwrap().starts_with("HTTP/1.1 503 "));
    assert!(ask(other, "/").unwrap().contains("\"name\": \"db\""));
    // The port moves to another Service.
    assert!(servers.checks(vec![check(one, "db", 1)]).is_empty());
    assert!(ask(one, "/").unwrap().contains("\"name\": \"db\""));
    assert!(ask(other, "/").is_err());
    assert!(servers.checks(Vec::new()).is_empty());
    assert!(ask(one, "/").is_err());
}

#[test]
fn a_port_that_is_taken_is_told_and_tried_again() {
    if !alone("a_port_that_is_taken_is_told_and_tried_again") {
        return;
    }
    let (servers, _) = start();
    let taken = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let problems = servers.checks(vec![check(address, "web", 1)]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let start = format!("healthCheckNodePort of default/web: cannot listen on {address}: ");
    assert!(problems[0].starts_with(&start), "{problems:?}");
    drop(taken);
    assert!(servers.checks(vec![check(address, "web", 1)]).is_empty());
    assert!(ask(address, "/").unwrap().starts_with("HTTP/1.1 200 "));
    // Two Services, one port: the first has it.
    let problems = servers.checks(vec![check(address, "web", 1), check(address, "web-2", 1)]);
    assert!(
        problems[0].contains("that is the healthCheckNodePort of default/web;"),
        "{problems:?}"
    );
}

#[test]
fn a_main_port_that_is_taken_is_told_by_its_field() {
    if !alone("a_main_port_that_is_taken_is_told_by_its_field") {
        return;
    }
    let taken = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let settings = Settings {
        healthz_bind_address: taken.local_addr().unwrap(),
        metrics_bind_address: free(),
        ..Settings::defaults(Compat::V1_30)
    };
    let (servers, problems) = Servers::start(&settings).unwrap();
    assert!(
        problems[0].starts_with("healthzBindAddress: cannot listen on 127.0.0.1:"),
        "{problems:?}"
    );
    assert!(
        ask(settings.metrics_bind_address, "/proxyMode")
            .unwrap()
            .ends_with("iptables")
    );
    // It is tried again without being told to.
    drop(taken);
    let end = Instant::now() + Duration::from_secs(10);
    while ask(settings.healthz_bind_address, "/livez").is_err() {
        assert!(Instant::now() < end, "never opened");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(servers);
}

#[test]
fn silent_clients_keep_nobody_out() {
    if !alone("silent_clients_keep_nobody_out") {
        return;
    }
    let (servers, settings) = start();
    let address = settings.healthz_bind_address;
    let silent: Vec<StdStream> = (0..300).map(|_| StdStream::connect(address).unwrap()).collect();
    let began = Instant::now();
    assert!(ask(address, "/livez").unwrap().starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop((silent, servers));
}
