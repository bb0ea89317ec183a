//! What the tracer says about small rule sets, and about wrong ones.

mod any;

use super::super::parse::parse;
use super::super::rule::{Match, Probability, Rule, Side, Target};
use super::super::set::{Chains, Wanted};
use super::*;
use crate::model::Protocol;

fn packet(source: &str, to: &str, arriving: Option<&str>) -> Packet {
    let to: SocketAddr = to.parse().unwrap();
    Packet {
        source: source.parse().unwrap(),
        protocol: Protocol::Tcp.into(),
        destination: to.ip(),
        port: to.port(),
        arriving: arriving.map(str::to_string),
        remembered: None,
    }
}

fn node() -> NodeFacts {
    NodeFacts::new(["192.168.0.2".parse().unwrap()])
}

/// A dump of nat and filter with these rules.
fn dump(nat: &[&str], filter: &[&str]) -> Found {
    let mut text = String::new();
    for (table, rules) in [("nat", nat), ("filter", filter)] {
        text.push_str(&format!("*{table}\n{}\nCOMMIT\n", rules.join("\n")));
    }
    parse(&text).unwrap()
}

fn pod(found: &Found, to: &str) -> Trace {
    trace(found, &node(), &packet("10.244.0.5", to, Some("cni0")))
}

/// A Service whose balancing chain throws these dice; `None` is a rule without.
fn dice(chances: &[Option<&str>]) -> Found {
    let mut nat = vec!["-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j SVC".to_string()];
    for (index, chance) in chances.iter().enumerate() {
        let chance = chance.map_or(String::new(), |chance| {
            format!("-m statistic --mode random --probability {chance} ")
        });
        nat.push(format!("-A SVC {chance}-j SEP{index}"));
        nat.push(format!(
            "-A SEP{index} -p tcp -m tcp -j DNAT --to-destination 10.244.0.{index}:8080"
        ));
    }
    let lines: Vec<&str> = nat.iter().map(String::as_str).collect();
    dump(&lines, &[])
}

#[test]
fn dice_give_the_shares_they_give_and_not_those_that_were_meant() {
    let third = Some("0.3333333333");
    let table = [
        (vec![third, Some("0.5"), None], vec![1.0 / 3.0; 3], 0.0),
        (
            vec![third, third, third],
            vec![0.333_333, 0.222_222, 0.148_148],
            0.296_296,
        ),
        (vec![Some("1.0"), Some("0.5"), third], vec![1.0], 0.0),
        (vec![None, None], vec![1.0], 0.0),
        (vec![Some("0"), Some("0.5")], vec![0.5], 0.5),
    ];
    for (chances, shares, lost) in table {
        let trace = pod(&dice(&chances), "10.96.0.1:80");
        let found: Vec<f64> = trace.endpoints().into_values().collect();
        assert_eq!(found.len(), shares.len(), "{chances:?}: {found:?}");
        for (found, expected) in found.iter().zip(&shares) {
            assert!((found - expected).abs() < 1e-5, "{chances:?}: {found} {expected}");
        }
        assert!(
            (trace.falls_through - lost).abs() < 1e-5,
            "{chances:?}: {}",
            trace.falls_through
        );
        assert!((trace.share(Verdict::Accept) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn hops_say_where_a_packet_came_by_with_the_chance_of_each() {
    let found = dice(&[Some("0.25"), None]);
    let trace = pod(&found, "10.96.0.1:80");
    let hops: Vec<(String, usize, f64, f64, &str)> = trace
        .hops
        .iter()
        .map(|hop| {
            let number = hop.place.number.unwrap();
            (
                hop.place.chain.clone(),
                number,
                hop.reached,
                hop.matched,
                hop.did.as_str(),
            )
        })
        .collect();
    let expected = [
        ("PREROUTING", 1, 1.0, 1.0, "goes to SVC"),
        ("SVC", 1, 1.0, 0.25, "goes to SEP0"),
        ("SEP0", 1, 0.25, 0.25, "sends it to 10.244.0.0:8080"),
        ("SVC", 2, 0.75, 0.75, "goes to SEP1"),
        ("SEP1", 1, 0.75, 0.75, "sends it to 10.244.0.1:8080"),
    ];
    assert_eq!(hops.len(), expected.len());
    for (hop, expected) in hops.iter().zip(expected) {
        assert_eq!(
            (hop.0.as_str(), hop.1, hop.4),
            (expected.0, expected.1, expected.4)
        );
        assert!(
            (hop.2 - expected.2).abs() < 1e-9 && (hop.3 - expected.3).abs() < 1e-9,
            "{hop:?}"
        );
    }
    assert_eq!(
        trace.hops[1].rule,
        "-m statistic --mode random --probability 0.2500000000 -j SEP0"
    );
}

#[test]
fn the_nearest_rule_and_its_first_failed_condition_tell_why_not() {
    let found = dice(&[None]);
    let mut udp = packet("10.244.0.5", "10.96.0.1:80", Some("cni0"));
    udp.protocol = Protocol::Udp.into();
    let table = [
        (
            packet("10.244.0.5", "10.96.0.1:81", Some("cni0")),
            "--dport 80",
            "destination port 81",
        ),
        (
            packet("10.244.0.5", "10.96.0.9:80", Some("cni0")),
            "-d 10.96.0.1",
            "destination 10.96.0.9",
        ),
        (udp, "-m tcp -p tcp", "protocol udp"),
    ];
    for (packet, failed, instead) in table {
        let trace = trace(&found, &node(), &packet);
        let nearest = trace.nearest.unwrap();
        assert_eq!(
            (nearest.place.chain.as_str(), nearest.place.number),
            ("PREROUTING", Some(1))
        );
        assert_eq!(
            (nearest.failed.as_deref(), nearest.packet.as_str()),
            (Some(failed), instead)
        );
        assert_eq!(nearest.met, 2);
        assert_eq!(trace.outcomes[0].destination, None);
    }
    // What is for the virtual IP is lost; what is for elsewhere goes there.
    let fallen = |to| pod(&found, to).falls_through.to_string();
    assert_eq!(
        (fallen("10.96.0.1:81"), fallen("10.96.0.9:80")),
        ("1".into(), "0".into())
    );
    // Sent by the node itself it never sees PREROUTING.
    let own = trace(&found, &node(), &packet("192.168.0.2", "10.96.0.1:80", None));
    let nearest = own.nearest.unwrap();
    assert_eq!((nearest.failed, nearest.met), (None, 3));
    assert_eq!(nearest.packet, "no rule leads it to PREROUTING");
    assert_eq!(pod(&found, "10.96.0.1:80").nearest, None);
}

#[test]
fn a_chain_reached_halfway_is_nearer_than_one_that_was_not() {
    let found = dump(
        &[
            "-A PREROUTING -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j FW",
            "-A PREROUTING -d 10.96.0.9/32 -p tcp -m tcp --dport 81 -j EXT",
            "-A FW -s 203.0.113.0/24 -j EXT",
            "-A EXT -p tcp -j DNAT --to-destination 10.244.0.1:80",
        ],
        &["-A FORWARD -d 10.96.0.9/32 -j DROP"],
    );
    let nearest = pod(&found, "10.96.0.9:80").nearest.unwrap();
    assert_eq!((nearest.place.chain.as_str(), nearest.met), ("FW", 3));
    assert_eq!(nearest.failed.as_deref(), Some("-s 203.0.113.0/24"));
    assert_eq!(nearest.packet, "source 10.244.0.5");
}

/// Names of modules are no conditions, and a rule for another address is not near because it asks more.
#[test]
fn a_rule_for_another_address_is_not_nearer_by_asking_more() {
    let found = dump(
        &[
            "-A PREROUTING -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j SVC",
            "-A PREROUTING -d 203.0.113.20/32 -p tcp -m tcp --dport 80 -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j SVC",
            "-A SVC -p tcp -j DNAT --to-destination 10.244.0.1:80",
        ],
        &[],
    );
    let nearest = |to: &str, protocol: Protocol| {
        let mut packet = packet("10.244.0.5", to, Some("cni0"));
        packet.protocol = protocol.into();
        trace(&found, &node(), &packet).nearest.unwrap()
    };
    for (to, protocol, failed) in [
        ("10.96.0.9:81", Protocol::Tcp, "--dport 80"),
        ("10.96.0.9:80", Protocol::Udp, "-m tcp -p tcp"),
    ] {
        let nearest = nearest(to, protocol);
        assert_eq!(
            (nearest.place.number, nearest.failed.as_deref()),
            (Some(1), Some(failed))
        );
    }
    // What surely differs is told before what nobody can tell.
    let nearest = nearest("203.0.113.20:81", Protocol::Tcp);
    assert_eq!(
        (nearest.place.number, nearest.failed.as_deref()),
        (Some(2), Some("--dport 80"))
    );
}

#[test]
fn a_rule_that_takes_the_packet_before_is_the_reason() {
    let found = dump(
        &[
            "-A PREROUTING -d 10.96.0.9/32 -j ACCEPT",
            "-A PREROUTING -d 10.96.0.9/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.0.1:80",
        ],
        &[],
    );
    let nearest = pod(&found, "10.96.0.9:80").nearest.unwrap();
    assert_eq!((nearest.place.number, nearest.failed), (Some(1), None));
    assert!(
        nearest.packet.contains("no nat rule behind it"),
        "{}",
        nearest.packet
    );
}

#[test]
fn a_condition_nobody_knows_makes_a_doubt_and_not_a_guess() {
    let found = dump(
        &[],
        &[
            "-A FORWARD -m set --match-set bad src -j DROP",
            "-A FORWARD -d 10.1.1.1/32 -m limit --limit 5/min -j LOG --log-prefix \"x \"",
        ],
    );
    let doubted = pod(&found, "10.1.1.1:80");
    assert!(doubted.outcomes.is_empty());
    let [doubt] = doubted.doubts.as_slice() else {
        panic!("{doubted:?}");
    };
    assert!((doubt.probability - 1.0).abs() < 1e-12);
    assert_eq!((doubt.rules.len(), doubt.rules[0].why), (1, Why::Condition));
    assert_eq!(doubt.rules[0].place.number, Some(1));
    assert_eq!(doubt.rules[0].rule, "-m set --match-set bad src -j DROP");
    let possible: Vec<Verdict> = doubt.possible.iter().map(|outcome| outcome.verdict).collect();
    assert_eq!(possible, [Verdict::Accept, Verdict::Drop]);
    assert!((doubted.unknown() - 1.0).abs() < 1e-12);
}

#[test]
fn a_doubt_is_as_big_as_what_it_is_about_and_no_bigger() {
    let mut found = dice(&[Some("0.25"), None]);
    let more = dump(
        &[],
        &["-A FORWARD -d 10.244.0.0/32 -m set --match-set bad src -j REJECT"],
    );
    found.tables.extend(
        more.tables
            .into_iter()
            .filter(|(table, _)| *table == TableName::Filter),
    );
    let trace = pod(&found, "10.96.0.1:80");
    assert!((trace.unknown() - 0.25).abs() < 1e-9 && (trace.share(Verdict::Accept) - 0.75).abs() < 1e-9);
    assert!(
        trace.doubts[0]
            .possible
            .iter()
            .all(|outcome| (outcome.probability - 0.25).abs() < 1e-9)
    );
}

#[test]
fn a_doubt_that_changes_nothing_is_none() {
    let rules: [&[&str]; 4] = [
        &["-A FORWARD -m set --match-set x src -j LOG"],
        &["-A FORWARD -m set --match-set x src -j ACCEPT"],
        &[
            "-A FORWARD -o docker0 -j OTHER",
            "-A OTHER -p icmp -j DROP",
            "-A OTHER -j RETURN",
        ],
        &["-A FORWARD -m rpfilter -j DROP", "-A FORWARD -j DROP"],
    ];
    for filter in rules {
        let trace = pod(&dump(&[], filter), "10.1.1.1:80");
        assert!(trace.doubts.is_empty(), "{filter:?}: {:?}", trace.doubts);
        assert_eq!(trace.outcomes.len(), 1, "{filter:?}");
        assert!((trace.outcomes[0].probability - 1.0).abs() < 1e-12);
    }
}

#[test]
fn what_no_kernel_would_load_is_in_doubt_and_ends() {
    let table: [(&[&str], Why); 5] = [
        (&["-A FORWARD -j A", "-A A -j B", "-A B -j A"], Why::Loop),
        (&["-A FORWARD -j GONE"], Why::MissingChain),
        (&["-A FORWARD -j CT --notrack"], Why::Target),
        (&["-A FORWARD -j DNAT --to-destination 10.0.0.1:80"], Why::Target),
        (&["-A FORWARD -j MASQUERADE"], Why::Target),
    ];
    for (filter, why) in table {
        let trace = pod(&dump(&[], filter), "10.1.1.1:80");
        assert!((trace.unknown() - 1.0).abs() < 1e-12, "{filter:?}");
        assert_eq!(trace.doubts[0].rules[0].why, why, "{filter:?}");
    }
}

#[test]
fn foreign_words_that_are_certain_are_read() {
    let table = [
        ("-p icmp -j DROP", Verdict::Accept),
        ("! -p udp -j DROP", Verdict::Drop),
        ("-p tcp -m multiport --dports 80,443 -j DROP", Verdict::Drop),
        ("-p tcp -m multiport ! --dports 80,443 -j DROP", Verdict::Accept),
        ("-p tcp -m tcp --dport 1:79 -j DROP", Verdict::Accept),
        ("-m state --state ESTABLISHED -j DROP", Verdict::Accept),
        (
            "-m conntrack --ctstate NEW -m nfacct --nfacct-name n -j DROP",
            Verdict::Drop,
        ),
        ("-m conntrack ! --ctstate DNAT -j DROP", Verdict::Drop),
        ("-j REJECT --reject-with icmp-host-prohibited", Verdict::Reject),
        ("-i cni+ -j DROP", Verdict::Drop),
        ("! -i cni+ -j DROP", Verdict::Accept),
        ("-o lo -j DROP", Verdict::Accept),
        ("-m mark --mark 0x1/0x1 -j DROP", Verdict::Accept),
        ("-g STOP", Verdict::Drop),
        ("-j STOP", Verdict::Drop),
    ];
    for (rule, verdict) in table {
        let rule = format!("-A FORWARD {rule}");
        let trace = pod(&dump(&[], &[&rule, "-A STOP -j DROP"]), "10.1.1.1:80");
        assert!((trace.share(verdict) - 1.0).abs() < 1e-12, "{rule}: {trace:?}");
    }
}

#[test]
fn goto_does_not_come_back_and_return_does() {
    let found = dump(
        &[],
        &[
            "-A FORWARD -j A",
            "-A FORWARD -j REJECT",
            "-A A -g B",
            "-A A -j DROP",
            "-A B -p udp -j DROP",
        ],
    );
    assert!((pod(&found, "10.1.1.1:80").share(Verdict::Reject) - 1.0).abs() < 1e-12);
}

#[test]
fn a_policy_holds_where_no_rule_decides() {
    let found = dump(&[], &["-A FORWARD -d 10.1.1.1/32 -j ACCEPT"]);
    let node = node().policy(TableName::Filter, "FORWARD", Verdict::Drop);
    let of = |to| trace(&found, &node, &packet("10.244.0.5", to, Some("cni0")));
    let place = |trace: &Trace| trace.outcomes[0].by.clone().unwrap().number;
    let (accepted, dropped) = (of("10.1.1.1:80"), of("10.1.1.2:80"));
    assert_eq!(
        (accepted.outcomes[0].verdict, place(&accepted)),
        (Verdict::Accept, Some(1))
    );
    assert_eq!(
        (dropped.outcomes[0].verdict, place(&dropped)),
        (Verdict::Drop, None)
    );
}

#[test]
fn what_a_node_sends_itself_comes_in_by_loopback() {
    let found = dump(
        &[],
        &["-A OUTPUT -o lo -j ACCEPT", "-A INPUT -i lo -p tcp -j REJECT"],
    );
    let of = |source, to, arriving| trace(&found, &node(), &packet(source, to, arriving)).outcomes[0].verdict;
    assert_eq!(of("127.0.0.1", "127.0.0.1:80", None), Verdict::Reject);
    assert_eq!(of("192.168.0.2", "192.168.0.2:80", None), Verdict::Reject);
    assert_eq!(of("192.168.0.2", "192.168.0.3:80", None), Verdict::Accept);
    assert_eq!(of("192.168.0.3", "192.168.0.2:80", Some("eth0")), Verdict::Accept);
}

#[test]
fn foreign_rules_masquerade_too() {
    let rules = [
        "-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE",
        "-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j SNAT --to-source 192.168.0.2",
    ];
    for rule in rules {
        let found = dump(&[rule], &[]);
        assert!(pod(&found, "10.1.1.1:80").outcomes[0].masqueraded);
        assert!(!pod(&found, "10.244.3.1:80").outcomes[0].masqueraded);
    }
}

#[test]
fn it_serialises_with_names_as_kubernetes_writes_them() {
    let trace = pod(&dice(&[None]), "10.96.0.1:80");
    let json = serde_json::to_value(&trace).unwrap();
    assert_eq!(json["fallsThrough"], 0.0);
    assert_eq!(json["outcomes"][0]["destination"], "10.244.0.0:8080");
    assert_eq!(json["outcomes"][0]["verdict"], "accept");
    assert_eq!(json["hops"][0]["chain"], "PREROUTING");
    assert_eq!(json["hops"][0]["number"], 1);
}

#[test]
fn chains_made_to_explode_are_given_up() {
    let mut nat = vec!["-A PREROUTING -j C0".to_string()];
    for depth in 0..40 {
        for _ in 0..2 {
            nat.push(format!("-A C{depth} -j C{}", depth + 1));
        }
    }
    nat.push("-A C40 -p udp -j RETURN".to_string());
    let lines: Vec<&str> = nat.iter().map(String::as_str).collect();
    let found = dump(&lines, &[]);
    let trace = trace_within(
        &found,
        &node(),
        &packet("10.0.0.1", "10.1.1.1:80", Some("x")),
        10_000,
    );
    assert_eq!(trace.doubts[0].rules[0].why, Why::TooLong);
    assert!((trace.unknown() - 1.0).abs() < 1e-12);
}

#[test]
fn fifty_thousand_rules_are_walked_once() {
    let mut nat = Chains::new();
    let mut services: Vec<Rule> = Vec::new();
    let mut rejects: Vec<Rule> = Vec::new();
    for index in 0..10_000_u32 {
        let vip = IpAddr::from((0x0a60_0000 + index).to_be_bytes());
        let to_vip = Rule::new()
            .host(Side::Destination, vip)
            .protocol(Protocol::Tcp)
            .port(80);
        services.push(to_vip.clone().jump("SVC"));
        rejects.push(to_vip.to(Target::Reject));
    }
    let endpoints = 5_000_u32;
    let mut dice = Vec::new();
    for index in 0..endpoints {
        let chain = format!("SEP{index}");
        let ip = IpAddr::from((0x0af4_0000 + index).to_be_bytes());
        let hairpin = Rule::new().host(Side::Source, ip).jump("MARK");
        let dnat = Rule::new().to(Target::Dnat(SocketAddr::new(ip, 80).to_string()));
        let die = Match::Statistic(Probability::one_in(endpoints - index));
        dice.push(Rule::new().with(die).jump(&chain));
        nat.insert(chain, vec![hairpin, dnat]);
    }
    nat.insert("PREROUTING".into(), vec![Rule::new().jump("SERVICES")]);
    nat.insert("SERVICES".into(), services);
    nat.insert("SVC".into(), dice);
    let filter = Chains::from([("FORWARD".to_string(), rejects)]);
    let found = Found::from(&Wanted {
        tables: BTreeMap::from([(TableName::Nat, nat), (TableName::Filter, filter)]),
        ..Wanted::default()
    });
    let trace = trace(
        &found,
        &node(),
        &packet("203.0.113.1", "10.96.39.15:80", Some("eth0")),
    );
    assert_eq!(trace.endpoints().len(), 5_000);
}

#[test]
fn a_route_that_is_known_decides_where_a_packet_leaves() {
    let found = dump(&[], &["-A FORWARD ! -o cni0 -j DROP"]);
    let packet = packet("10.244.0.5", "10.244.0.9:80", Some("cni0"));
    assert!((trace(&found, &node(), &packet).unknown() - 1.0).abs() < 1e-12);
    let near = node().route("10.244.0.0/24".parse().unwrap(), "cni0");
    for (node, verdict) in [
        (near.clone(), Verdict::Accept),
        (
            near.route("10.244.0.9/32".parse().unwrap(), "eth1"),
            Verdict::Drop,
        ),
    ] {
        assert!((trace(&found, &node, &packet).share(verdict) - 1.0).abs() < 1e-12);
    }
}
