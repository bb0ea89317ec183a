//! A UDP client that keeps its socket follows its Service; everything else in the connection table stays.

use lab_tests::machine::{Machine, Running, eventually};
use lab_tests::registry::{REGISTRY, headless_of_selector, publish, service, slice};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

use crate::support::{From, load};

const VIP: &str = "10.96.0.53";
const EXTERNAL: &str = "198.51.100.53";
const NODE_PORT: u16 = 30053;
/// Where the pods of a lab echo datagrams and lines.
const ECHO: u16 = 8081;
const PODS: [&str; 2] = ["10.244.0.2", "10.244.0.3"];

fn dns() -> Value {
    let mut dns = headless_of_selector(service("dns", VIP, "", &[("dns", "UDP", 53, json!(ECHO))]));
    dns["spec"]["type"] = json!("NodePort");
    dns["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    dns["spec"]["externalIPs"] = json!([EXTERNAL]);
    dns
}

/// A lab of three pods, whose first two serve; the third is a client.
fn lab() -> Machine {
    let machine = Machine::builder().uplink().start();
    machine.lab(["up", "3-pods"]).ok();
    machine
}

#[track_caller]
fn serve_by(machine: &Machine, addresses: &[&str]) {
    publish(
        machine,
        "dns.slice",
        &slice("dns-1", "dns", addresses, ("dns", "UDP", ECHO)),
    );
}

#[track_caller]
fn lab_with_dns() -> Machine {
    let machine = lab();
    publish(&machine, "dns.service", &dns());
    serve_by(&machine, &PODS);
    machine.proxy(["sync"]).ok().says("default/dns:dns");
    machine
}

fn talk<'a>(machine: &Machine, from: From<'a>, target: &'a str, source: u16) -> Running {
    let source = source.to_string();
    let words = ["lab-helper", "talk", target, &source];
    match from {
        From::Node => machine.command(words).start(),
        From::Pod(pod) => {
            let enter = ["ip", "netns", "exec", pod];
            machine.command(enter.into_iter().chain(words)).start()
        }
    }
}

/// Which of the two pods answers.
#[track_caller]
fn answerer(client: &Running) -> usize {
    client.wait_for(" answers");
    let said = client.said();
    let first = said.lines().next().unwrap_or_default();
    assert!(["web-1 answers", "web-2 answers"].contains(&first), "{said}");
    usize::from(first == "web-2 answers")
}

/// The lines of the connection table that hold all of these texts, without what moves by itself.
#[track_caller]
fn entries(machine: &Machine, family: &str, texts: &[&str]) -> Vec<String> {
    let all = machine
        .run(["conntrack", "-L", "-f", family, "-o", "id"])
        .ok()
        .stdout;
    let holds = |line: &&str| texts.iter().all(|text| line.contains(text));
    // udp 17 29 src=…: the third word is the time that is left; use= counts who looks at it now.
    let still = |line: &str| -> String {
        let words = line
            .split_whitespace()
            .filter(|word| word.parse::<u32>().is_err());
        words
            .filter(|word| !word.starts_with('[') && !word.starts_with("use="))
            .collect::<Vec<_>>()
            .join(" ")
    };
    all.lines().filter(holds).map(still).collect()
}

#[test]
fn the_same_socket_reaches_another_endpoint_when_its_own_is_gone() {
    let targets = [
        (From::Node, format!("{VIP}:53")),
        (From::Node, format!("{EXTERNAL}:53")),
        (From::Node, format!("10.244.0.1:{NODE_PORT}")),
        (From::Node, format!("127.0.0.1:{NODE_PORT}")),
        (From::Pod("web-3"), format!("{VIP}:53")),
        (From::Pod("web-3"), format!("10.244.0.1:{NODE_PORT}")),
    ];
    let machine = lab_with_dns();
    let clients: Vec<Running> = (0..12)
        .zip(targets.iter().cycle())
        .map(|(index, (from, target))| talk(&machine, *from, target, 5000 + index))
        .collect();
    let chosen: Vec<usize> = clients.iter().map(answerer).collect();
    let kept_before = entries(&machine, "ipv4", &["udp", &format!("src={}", PODS[1])]);

    serve_by(&machine, &PODS[1..]);
    let lost = chosen.iter().filter(|pod| **pod == 0).count();
    let ran = machine.proxy(["sync"]).ok();
    if lost > 0 {
        let flows = if lost == 1 { "flow" } else { "flows" };
        let ran = ran.says(&format!("{lost} stale UDP {flows} deleted"));
        assert_eq!(ran.stderr, "", "{ran}");
    }
    for client in &clients {
        client.wait_for("web-2 answers");
    }
    let kept_after = entries(&machine, "ipv4", &["udp", &format!("src={}", PODS[1])]);
    for entry in &kept_before {
        assert!(kept_after.contains(entry), "{entry} is gone:\n{kept_after:#?}");
    }
    machine.proxy(["sync"]).ok().never_says("stale");
    for (client, pod) in clients.iter().zip(chosen) {
        let expected = ["web-1 answers\nweb-2 answers\n", "web-2 answers\n"][pod];
        // Between the removal and the sync nobody is silent: the pod itself lives on.
        assert_eq!(client.said(), expected);
    }
}

#[test]
fn a_service_that_comes_later_answers_who_already_asked() {
    let machine = lab();
    // Out by the default route, where nobody answers; the kernel remembers that it went there.
    let targets = [format!("{VIP}:53"), format!("10.244.0.1:{NODE_PORT}")];
    let pod = From::Pod("web-3");
    let clients = [
        talk(&machine, pod, &targets[0], 5001),
        talk(&machine, pod, &targets[1], 5002),
    ];
    clients[0].wait_for("nobody answers");
    clients[1].wait_for("refused");
    publish(&machine, "dns.service", &dns());
    serve_by(&machine, &PODS[..1]);
    machine.proxy(["sync"]).ok().says("stale UDP flow");
    for client in &clients {
        client.wait_for("web-1 answers");
    }
}

#[test]
fn a_service_scaled_to_zero_or_deleted_keeps_no_entry() {
    let delete = format!("rm {REGISTRY}/dns.service.json {REGISTRY}/dns.slice.json");
    for deleted in [false, true] {
        let machine = lab_with_dns();
        let targets = [format!("{VIP}:53"), format!("10.244.0.1:{NODE_PORT}")];
        let clients = [From::Node, From::Pod("web-3")].map(|from| {
            targets.each_ref().map(|target| {
                let source = 5000 + u16::from(target.ends_with(":53"));
                talk(&machine, from, target, source)
            })
        });
        clients.as_flattened().iter().for_each(|client| {
            answerer(client);
        });
        assert_eq!(
            entries(&machine, "ipv4", &["udp", "src=10.244.0.", "sport=8081"]).len(),
            4
        );
        if deleted {
            machine.sh(&delete).ok();
        } else {
            serve_by(&machine, &[]);
        }
        machine.proxy(["sync"]).ok().says("4 stale UDP flows deleted");
        for client in clients.as_flattened() {
            // From the cluster IP of a deleted Service the way leads out, where nobody answers.
            let words = client.said();
            let expected = if words.contains("refused") {
                "refused"
            } else {
                "nobody answers"
            };
            client.wait_for(if deleted { expected } else { "refused" });
        }
        // Answers that were on their way make entries of their own, from the pod to its client.
        for asked in ["dport=53 ", "dport=30053 "] {
            let left = entries(&machine, "ipv4", &["udp", asked, "sport=8081"]);
            assert!(left.is_empty(), "{left:#?}");
        }
    }
}

#[test]
fn connections_over_tcp_live_on_when_their_endpoint_is_gone() {
    let machine = lab();
    let web = headless_of_selector(service(
        "lines",
        "10.96.0.82",
        "",
        &[("http", "TCP", 80, json!(8080))],
    ));
    publish(&machine, "lines.service", &web);
    let serve_by = |addresses: &[&str]| {
        let slice = slice("lines-1", "lines", addresses, ("http", "TCP", 8080));
        publish(&machine, "lines.slice", &slice);
    };
    serve_by(&PODS);
    machine.proxy(["sync"]).ok();
    let mut held = machine
        .command(["lab-helper", "hold", "http", "10.96.0.82:80", "12"])
        .start();
    held.wait_for("holding 12");
    let before = entries(&machine, "ipv4", &["tcp", "dst=10.96.0.82", "ESTABLISHED"]);
    serve_by(&[]);
    machine.proxy(["sync"]).ok().never_says("stale");
    let after = entries(&machine, "ipv4", &["tcp", "dst=10.96.0.82", "ESTABLISHED"]);
    for entry in before
        .iter()
        .filter(|entry| after.iter().all(|other| other != *entry))
    {
        // The short-lived ones beside them end by themselves.
        assert!(after.len() >= 12, "{entry} is gone");
    }
    std::thread::sleep(Duration::from_millis(600));
    held.close_input();
    assert_eq!(held.end(Duration::from_secs(20)), 0, "{}", held.said());
    held.wait_for("rounds");
    let said = held.said();
    let counts: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("a tally");
    assert_eq!(counts["held"]["failures"], json!({}), "{said}");
}

/// Entries of every kind: protocol, zone, whom they asked, who answers, what becomes of them.
const TABLE: &str = "
udp  0 10.96.0.53    53    10.244.0.2    8081  stays
udp  0 10.96.0.53    53    10.244.0.99   8081  goes
udp  7 10.96.0.53    53    10.244.0.99   8081  goes
udp  7 10.96.0.53    53    10.244.0.2    8081  stays
tcp  0 10.96.0.53    53    10.244.0.99   8081  stays
sctp 0 10.96.0.53    53    10.244.0.99   8081  stays
udp  0 10.96.0.53    54    10.244.0.99   8081  stays
udp  0 198.51.100.53 53    10.244.0.99   8081  goes
udp  0 10.244.0.1    30053 10.244.0.2    8081  stays
udp  0 10.244.0.1    30053 10.244.0.99   8081  goes
tcp  0 10.244.0.1    30053 10.244.0.99   8081  stays
udp  0 198.18.0.1    30053 198.18.0.1    30053 stays
udp  0 198.18.0.1    30053 172.17.0.2    53    stays
udp  0 198.18.0.1    53    198.18.0.1    53    stays
udp  0 fd00:96::53   53    fd00:244::2   8081  stays
udp  0 fd00:96::53   53    fd00:244::99  8081  goes
udp  0 fd00:97::53   53    fd00:244::99  8081  stays
";

#[test]
fn of_a_table_of_every_kind_only_the_stale_ones_go() {
    let machine = lab_with_dns();
    publish_v6(&machine);
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .collect();
    let script: Vec<String> = rows
        .iter()
        .zip(20_000..)
        .map(|(row, source)| insertion(row, source))
        .collect();
    machine.sh(&script.join("\n")).ok();
    machine.proxy(["sync"]).ok();
    for (row, source) in rows.iter().zip(20_000..) {
        let left = entries(&machine, family(row[2]), &[&format!("sport={source} ")]);
        assert_eq!(left.len(), usize::from(row[6] == "stays"), "{row:?}: {left:?}");
    }
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "ipv6" } else { "ipv4" }
}

fn insertion(row: &[&str], source: u16) -> String {
    let [protocol, zone, to, to_port, from, from_port, _] = row else {
        panic!("seven words: {row:?}")
    };
    let client = if family(to) == "ipv6" {
        "fd00::9"
    } else {
        "192.0.2.77"
    };
    let state = match *protocol {
        "sctp" => "--state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
        "tcp" => "--state ESTABLISHED",
        _ => "",
    };
    format!(
        "conntrack -I -p {protocol} -w {zone} -t 300 -u SEEN_REPLY {state} -s {client} -d {to} \
         --sport {source} --dport {to_port} --reply-src {from} --reply-dst {client} \
         --reply-port-src {from_port} --reply-port-dst {source}"
    )
}

#[track_caller]
fn publish_v6(machine: &Machine) {
    let mut service = service("dns6", "fd00:96::53", "", &[("dns", "UDP", 53, json!(ECHO))]);
    service["spec"]["ipFamilies"] = json!(["IPv6"]);
    publish(machine, "dns6.service", &headless_of_selector(service));
    let mut slice = slice("dns6-1", "dns6", &["fd00:244::2"], ("dns", "UDP", ECHO));
    slice["addressType"] = json!("IPv6");
    publish(machine, "dns6.slice", &slice);
}

/// More than fit into one message or one answer, and no slower for the many that stay.
#[test]
fn thousands_of_flows_are_sorted_out_at_once() {
    const FLOWS: usize = 15_000;
    let machine = lab_with_dns();
    let tally = load(&machine, From::Node, "udp", &format!("{VIP}:53"), FLOWS);
    assert_eq!(tally.answered(), FLOWS as u64, "{tally:?}");
    serve_by(&machine, &PODS[..1]);
    let gone = tally.answers["web-2"];
    let ran = machine
        .proxy(["sync"])
        .ok()
        .says(&format!("{gone} stale UDP flows deleted"));
    eprintln!("{gone} of {FLOWS} flows deleted in a sync of {:?}", ran.took);
    assert!(ran.took < Duration::from_secs(5), "{ran}");
    assert!(entries(&machine, "ipv4", &["udp", &format!("src={}", PODS[1])]).is_empty());
    let left = entries(&machine, "ipv4", &["udp", &format!("dst={VIP}")]).len();
    assert_eq!(left as u64, FLOWS as u64 - gone);
}

/// While flows come and go all the time, those to a serving endpoint are never lost.
#[test]
fn syncs_under_traffic_lose_no_answer() {
    let machine = lab_with_dns();
    let client = talk(&machine, From::Pod("web-3"), &format!("{VIP}:53"), 5009);
    answerer(&client);
    for turn in 0..10 {
        serve_by(&machine, &PODS[turn % 2..=turn % 2]);
        machine.proxy(["sync"]).ok();
        let expected = ["web-1 answers", "web-2 answers"][turn % 2];
        eventually(expected, || client.said().lines().last() == Some(expected));
    }
    assert!(
        !client.said().contains("nobody") && !client.said().contains("refused"),
        "{}",
        client.said()
    );
    client.stop(Signal::SIGKILL);
}
