//! What is said of small rule sets, and how it looks.

use labkit::screen::{Look, print};
use labkit::xtables::Family;
use proptest::prelude::*;

use super::page::page;
use super::plain::plain;
use super::*;
use crate::rules::pasted;
use crate::rules::rule::Probability;
use crate::target::{Book, Caller, Target, resolve};

/// Three endpoints behind a cluster IP and a node port, with counters.
pub(crate) const DICE: &str = r#"*nat
:PREROUTING ACCEPT [0:0]
[9:540] -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[9:540] -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[9:540] -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
[0:0] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
[2:120] -A KUBE-NODEPORTS -p tcp -m comment --comment "default/web" -m tcp --dport 30080 -j KUBE-EXT-WEB
[0:0] -A KUBE-EXT-WEB -m comment --comment "masquerade traffic for default/web external destinations" -j KUBE-MARK-MASQ
[0:0] -A KUBE-EXT-WEB -j KUBE-SVC-WEB
[9:540] -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
[0:0] -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
[0:0] -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
[0:0] -A KUBE-SEP-WEB1 -s 10.244.1.3/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
[4:240] -A KUBE-SEP-WEB1 -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.1.3:8080
[0:0] -A KUBE-SEP-WEB2 -s 10.244.1.4/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
[5:300] -A KUBE-SEP-WEB2 -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.1.4:8080
[0:0] -A KUBE-SEP-WEB3 -s 10.244.1.5/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
[0:0] -A KUBE-SEP-WEB3 -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.1.5:8080
[9:540] -A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-WEB
[0:0] -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
[0:0] -A KUBE-SVC-WEB ! -s 10.244.0.0/16 -d 10.96.0.80/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
[4:240] -A KUBE-SVC-WEB -m comment --comment "default/web -> 10.244.1.3:8080" -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-WEB1
[5:300] -A KUBE-SVC-WEB -m comment --comment "default/web -> 10.244.1.4:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-WEB2
[0:0] -A KUBE-SVC-WEB -m comment --comment "default/web -> 10.244.1.5:8080" -j KUBE-SEP-WEB3
COMMIT
*filter
:FORWARD ACCEPT [0:0]
[0:0] -A KUBE-SERVICES -d 10.96.0.81/32 -p tcp -m comment --comment "default/empty has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
[0:0] -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
COMMIT
"#;

/// The obvious dice, which are wrong: a third each time.
pub(crate) const OBVIOUS: &str = r#"*nat
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-WEB1
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-WEB2
-A KUBE-SVC-WEB -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-WEB3
-A KUBE-SEP-WEB1 -p tcp -j DNAT --to-destination 10.244.1.3:8080
-A KUBE-SEP-WEB2 -p tcp -j DNAT --to-destination 10.244.1.4:8080
-A KUBE-SEP-WEB3 -p tcp -j DNAT --to-destination 10.244.1.5:8080
COMMIT
"#;

pub(crate) fn report(dump: &str, target: &str, from: Option<&str>) -> Report {
    asked(dump, target, from, None)
}

fn asked(
    dump: &str,
    target: &str,
    from: Option<&str>,
    transport: Option<crate::rules::trace::Transport>,
) -> Report {
    let reading = pasted::read(dump);
    let empty = pasted::Pasted::default();
    let pasted = reading.families.get(&Family::V4).unwrap_or(&empty);
    let mut book = Book::default();
    book.add_rules(&pasted.found);
    let caller = from.map(|from| Caller::parse(from).unwrap());
    let target = Target::parse(target).unwrap();
    let call = resolve(&book, Family::V4, &target, caller.as_ref(), transport).unwrap();
    explain(&Question {
        call: &call,
        book: &book,
        pasted,
        family: Family::V4,
        origin: &Origin {
            from: "node.save".into(),
            rules: reading.rules,
            notes: reading.notes.clone(),
        },
        host: None,
        no_route: false,
        steps: crate::rules::trace::STEPS,
    })
}

fn shares(report: &Report) -> Vec<String> {
    report
        .backends
        .iter()
        .map(|backend| percent(backend.share))
        .collect()
}

#[test]
fn the_dice_give_what_they_give() {
    let right = report(DICE, "web", None);
    assert_eq!(shares(&right), ["33.3%"; 3]);
    assert!(right.falls_through.abs() < 1e-12);
    assert_eq!(right.verdict, Verdict::Dnat);
    let obvious = report(OBVIOUS, "web", None);
    assert_eq!(shares(&obvious), ["33.3%", "22.2%", "14.8%"]);
    assert_eq!(percent(obvious.falls_through), "29.6%");
    let mut odds = ["1.00000000000", "0.50000000000", "0.33333333349"].into_iter();
    let backwards: String = OBVIOUS
        .lines()
        .map(|line| {
            let odds = line.contains("--probability").then(|| odds.next().unwrap());
            let line = odds.map_or(line.to_string(), |odds| line.replace("0.33333333349", odds));
            line + "\n"
        })
        .collect();
    let backwards = report(&backwards, "web", None);
    let first = &backwards.backends[0];
    assert!((first.share - 1.0).abs() < 1e-12 && backwards.falls_through.abs() < 1e-12);
    assert_eq!(
        backwards
            .backends
            .iter()
            .filter(|backend| backend.share > 0.0)
            .count(),
        1
    );
}

fn fair(n: u32) -> String {
    let mut dump = String::from("*nat\n-A PREROUTING -d 10.96.0.80/32 -p tcp -m tcp --dport 80 -j SVC\n");
    for index in 0..n {
        let left = n - index;
        let chance = Probability::one_in(left).text();
        let dice = if left > 1 {
            format!("-m statistic --mode random --probability {chance} ")
        } else {
            String::new()
        };
        dump.push_str(&format!("-A SVC {dice}-j SEP{index}\n"));
        dump.push_str(&format!(
            "-A SEP{index} -p tcp -j DNAT --to-destination 10.244.{}.{}:80\n",
            index / 250,
            index % 250 + 1
        ));
    }
    dump + "COMMIT\n"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn shares_are_equal_and_make_one_without_what_falls_through(n in 1_u32..=200) {
        let report = report(&fair(n), "10.96.0.80:80", None);
        prop_assert_eq!(report.backends.len(), n as usize);
        let sum: f64 = report.backends.iter().map(|backend| backend.share).sum();
        prop_assert!((sum - (1.0 - report.falls_through)).abs() < 1e-9);
        for backend in &report.backends {
            prop_assert!((backend.share - 1.0 / f64::from(n)).abs() < 1e-7, "{}", backend.share);
        }
    }

    #[test]
    fn any_bytes_are_answered(text in "(\\*nat\n)?([-A-Z:*\\[\\]a-z0-9./ \"!\n]{0,200})") {
        let dump = format!("{DICE}{text}");
        let report = report(&dump, "10.96.0.80:80", None);
        let sum: f64 = report.backends.iter().map(|backend| backend.share).sum();
        prop_assert!(sum <= 1.0 + 1e-9);
        let _ = plain(&report);
        let _ = page(&report, &Look::sized(80, 24), None);
    }
}

#[test]
fn verdicts_say_what_becomes_of_it() {
    let table = [
        ("web", None, Verdict::Dnat, Masquerade::No),
        ("web", Some("10.244.1.3"), Verdict::Dnat, Masquerade::Some),
        ("web", Some("outside"), Verdict::Dnat, Masquerade::Yes),
        ("node:30080", Some("outside"), Verdict::Dnat, Masquerade::Yes),
        ("node:30081", Some("outside"), Verdict::NoRule, Masquerade::No),
        ("empty", None, Verdict::Reject, Masquerade::No),
        ("10.96.0.80:81", None, Verdict::NoRule, Masquerade::No),
        ("10.244.1.4:8080", None, Verdict::Accept, Masquerade::No),
    ];
    for (target, from, verdict, masquerade) in table {
        let report = report(DICE, target, from);
        assert_eq!(
            (report.verdict, report.masquerade),
            (verdict, masquerade),
            "{target} from {from:?}"
        );
    }
    let ping = asked(DICE, "web", None, Some(crate::rules::trace::Transport::Icmp));
    assert_eq!(ping.verdict, Verdict::NoRule);
    let near = ping.nearest.unwrap();
    assert_eq!(
        (near.chain.as_str(), near.field.as_deref()),
        ("KUBE-SERVICES", Some("-m tcp -p tcp"))
    );
}

#[test]
fn foreign_rules_are_walked_or_named() {
    let calico = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m comment --comment \"cali:x\" -j cali-FORWARD\n-A cali-FORWARD -m set --match-set cali40all src -j ACCEPT\nCOMMIT\n";
    let nat = DICE.split("*filter").next().unwrap();
    let report = report(&format!("{nat}{calico}"), "web", None);
    assert_eq!((report.verdict, report.certain), (Verdict::Dnat, false));
    assert_eq!(shares(&report), ["33.3%"; 3]);
    assert_eq!(report.not_understood[0].owner, Some("Calico"));
    assert!(report.backends.iter().all(|backend| backend.arrives.is_none()));
}

/// Chains as kube-proxy 1.10 wrote them: an external IP, a load balancer with its ranges, mark and drop.
#[test]
fn old_shapes_are_walked() {
    let dump = r#"*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-FW-WEB -s 203.0.113.0/24 -m comment --comment "default/web: loadbalancer IP" -j KUBE-SVC-WEB
-A KUBE-FW-WEB -m comment --comment "default/web: loadbalancer IP" -j KUBE-MARK-DROP
-A KUBE-SERVICES ! -s 10.244.0.0/16 -d 10.96.0.80/32 -p tcp -m comment --comment "default/web: cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.96.0.80/32 -p tcp -m comment --comment "default/web: cluster IP" -m tcp --dport 80 -j KUBE-SVC-WEB
-A KUBE-SERVICES -d 198.51.100.7/32 -p tcp -m comment --comment "default/web: external IP" -m tcp --dport 80 -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j KUBE-SVC-WEB
-A KUBE-SERVICES -d 198.51.100.4/32 -p tcp -m comment --comment "default/web: loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-WEB
-A KUBE-SVC-WEB -m comment --comment "default/web:" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-1 --mask 255.255.255.255 --rsource -j KUBE-SEP-1
-A KUBE-SVC-WEB -m comment --comment "default/web:" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-1
-A KUBE-SVC-WEB -m comment --comment "default/web:" -j KUBE-SEP-2
-A KUBE-SEP-1 -s 10.244.1.3/32 -m comment --comment "default/web:" -j KUBE-MARK-MASQ
-A KUBE-SEP-1 -p tcp -m comment --comment "default/web:" -m recent --set --name KUBE-SEP-1 --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.3:80
-A KUBE-SEP-2 -p tcp -m comment --comment "default/web:" -m recent --set --name KUBE-SEP-2 --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.4:80
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -j KUBE-FIREWALL
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
"#;
    let table = [
        ("web", None, Verdict::Dnat, true),
        ("198.51.100.4:80", Some("outside"), Verdict::Dnat, true),
        ("198.51.100.4:80", Some("8.8.8.8"), Verdict::Drop, true),
        // Whether it comes in by a port of a bridge no dump tells.
        ("198.51.100.7:80", Some("outside"), Verdict::Unknown, false),
    ];
    for (target, from, verdict, certain) in table {
        let report = report(dump, target, from);
        assert_eq!(
            (report.verdict, report.certain),
            (verdict, certain),
            "{target}: {report:?}"
        );
    }
    let affinity = report(dump, "web", None);
    assert_eq!(shares(&affinity), ["50.0%"; 2]);
    assert!(affinity.notes.iter().any(|note| note.contains("10800 s")));
}

/// By which interface a packet leaves no dump tells: the dice are certain all the same.
#[test]
fn a_doubt_on_the_way_out_leaves_the_dice_alone() {
    let rule = "[0:0] -A POSTROUTING -s 10.244.0.0/16 ! -o cni0 -j MASQUERADE\nCOMMIT";
    let report = report(&DICE.replacen("COMMIT", rule, 1), "web", None);
    assert_eq!((report.verdict, report.certain), (Verdict::Dnat, false));
    assert_eq!(report.masquerade, Masquerade::Unknown);
    assert_eq!(shares(&report), ["33.3%"; 3]);
    assert_eq!(report.not_understood.len(), 1);
}

#[test]
fn screens_at_every_size() {
    let report = report(DICE, "web", None);
    for (width, height) in [(80, 24), (100, 30), (60, 20), (200, 60)] {
        let look = Look::sized(width, height);
        let drawn = page(&report, &look, None).draw(&look, 0);
        insta::assert_snapshot!(format!("{width}x{height}"), print::to_string(&drawn, &look));
    }
    let ascii = Look::sized(80, 24).ascii();
    let text = print::page(&page(&report, &ascii, None), &ascii);
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!("ascii", text);
    insta::assert_snapshot!("plain", plain(&report));
    insta::assert_json_snapshot!("json", report);
}

#[test]
fn failures_have_screens_too() {
    let look = Look::sized(80, 24);
    for (name, dump, target) in [
        ("lost", OBVIOUS, "web"),
        ("reject", DICE, "empty"),
        ("no-rule", DICE, "10.96.0.80:81"),
    ] {
        let report = report(dump, target, None);
        insta::assert_snapshot!(name, print::page(&page(&report, &look, None), &look));
    }
}

/// Linear: a dump of a large cluster is read and walked at once.
#[test]
fn twenty_megabytes_are_walked() {
    let mut services = String::new();
    let mut chains = String::new();
    for index in 0..40_000_u32 {
        let ip = std::net::Ipv4Addr::from_bits(0x0a60_0000 + index);
        services.push_str(&format!("[0:0] -A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"ns/service-{index}:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-{index:016}\n"));
        chains.push_str(&format!("[0:0] -A KUBE-SEP-{index:016} -p tcp -m comment --comment \"ns/service-{index}:http\" -m tcp -j DNAT --to-destination 10.244.0.1:{}\n[0:0] -A KUBE-SEP-{index:016} -s 10.244.0.1/32 -m comment --comment \"ns/service-{index}:http\" -j KUBE-MARK-MASQ\n[0:0] -A KUBE-SVC-{index:016} -m comment --comment \"ns/service-{index}:http -> 10.244.0.1:80\" -j KUBE-SEP-{index:016}\n", index % 60_000 + 1));
    }
    let dump = format!("*nat\n-A PREROUTING -j KUBE-SERVICES\n{services}{chains}COMMIT\n");
    assert!(dump.len() > 20_000_000, "{}", dump.len());
    let report = report(&dump, "ns/service-39999", None);
    assert_eq!((report.verdict, report.backends.len()), (Verdict::Dnat, 1));
}
