//! Nothing is lost, nothing is told twice, and a change costs what differs.

use std::time::Duration;

use labkit::xtables::Family;
use miniproxy::rules::delta::Delta;
use proptest::prelude::*;

use crate::world::{Fault, World, web};

const A_MINUTE: Duration = Duration::from_secs(60);

fn ten_services(counted: bool) -> World {
    let mut world = World::new(counted);
    for index in 0..10 {
        world.publish(
            &format!("{index}.json"),
            &web(&format!("web-{index}"), 10 + index, &["10.0.0.1", "10.0.0.2"]),
        );
    }
    world.run();
    world.assert_in_force();
    world
}

fn only_write(world: &World) -> &Delta {
    assert_eq!(world.writes.len(), 1, "{:?}", world.writes);
    &world.writes[0].1
}

#[test]
fn the_first_sync_takes_everything_and_tells_it_once() {
    let mut world = ten_services(true);
    assert_eq!(world.reads, 2, "one for each family");
    assert_eq!(world.told().len(), 10);
    world.run_for(Duration::from_secs(5));
    assert!(world.told().is_empty());
    assert_eq!(world.writes.len(), 2);
}

#[test]
fn an_endpoint_more_is_a_write_of_its_own_chains() {
    let mut world = ten_services(true);
    (world.reads, world.writes, world.reports) = Default::default();
    world.publish("3.json", &web("web-3", 13, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    world.run_for(Duration::from_secs(1));
    world.assert_in_force();
    assert_eq!(world.reads, 0, "what was written is known");
    let delta = only_write(&world);
    assert_eq!(delta.chain_count(), 2, "{}", delta.document());
    assert_eq!(
        world.told(),
        ["default/web-3:http 10.96.0.13:80/TCP -> 3 endpoints (+10.0.0.3:8080)"]
    );
}

#[test]
fn a_service_more_and_a_service_less_are_single_rules_in_the_shared_chain() {
    let mut world = ten_services(true);
    (world.reads, world.writes, world.reports) = Default::default();
    world.publish("new.json", &web("web-45", 50, &["10.0.0.9"]));
    world.run_for(Duration::from_secs(1));
    world.assert_in_force();
    let text = only_write(&world).document();
    assert_eq!(text.matches("KUBE-SERVICES").count(), 1, "{text}");
    assert!(text.contains("-I KUBE-SERVICES "), "{text}");
    world.writes.clear();
    world.withdraw("4.json");
    world.run_for(Duration::from_secs(1));
    world.assert_in_force();
    let text = only_write(&world).document();
    assert!(
        text.contains("-D KUBE-SERVICES ") && text.matches("-X ").count() == 3,
        "{text}"
    );
    assert_eq!(world.reads, 0);
    assert_eq!(
        world.told(),
        [
            "default/web-45:http 10.96.0.50:80/TCP -> 1 endpoint (new)",
            "default/web-4:http 10.96.0.14:80/TCP removed",
        ]
    );
}

#[test]
fn a_file_that_says_the_same_again_is_no_change() {
    let mut world = ten_services(true);
    (world.reads, world.writes, world.reports) = Default::default();
    world.publish("3.json", &web("web-3", 13, &["10.0.0.2", "10.0.0.1"]));
    world.run_for(Duration::from_secs(1));
    assert!(world.writes.is_empty() && world.told().is_empty());
}

#[test]
fn the_family_that_does_not_change_is_left_alone() {
    let mut world = ten_services(true);
    world.writes.clear();
    world.publish("3.json", &web("web-3", 13, &[]));
    world.run_for(Duration::from_secs(1));
    assert!(world.writes.iter().all(|(family, _)| *family == Family::V4));
    world.assert_in_force();
}

#[test]
fn a_change_that_does_not_fit_is_followed_by_a_full_write_at_once() {
    for fault in [Fault::Refused, Fault::After(1), Fault::TakenAndKilled] {
        let mut world = ten_services(true);
        (world.reads, world.writes, world.reports) = Default::default();
        world.faults = vec![fault];
        world.publish("3.json", &web("web-3", 13, &["10.0.0.7"]));
        world.run();
        world.assert_in_force();
        assert_eq!(world.waits, [Duration::ZERO], "{fault:?}");
        assert!(world.reads >= 1, "{fault:?}: what the kernel has was read again");
        assert_eq!(world.told().len(), 1, "{fault:?}: told once");
    }
}

#[test]
fn failures_wait_longer_and_longer_and_lose_nothing() {
    let mut world = ten_services(true);
    world.reports.clear();
    world.faults = vec![Fault::Refused; 6];
    world.publish("3.json", &web("web-3", 13, &["10.0.0.7"]));
    world.run();
    assert!(world.told().is_empty(), "what is not in force is not told");
    world.withdraw("5.json");
    world.run_for(A_MINUTE);
    world.assert_in_force();
    let waits: Vec<u128> = world.waits.iter().map(Duration::as_millis).collect();
    assert_eq!(waits, [0, 1000, 2000, 4000, 8000, 16_000]);
    assert_eq!(world.told().len(), 2);
    // After a success the next failure begins anew.
    (world.waits, world.faults) = (vec![], vec![Fault::Refused; 2]);
    world.publish("3.json", &web("web-3", 13, &["10.0.0.8"]));
    world.run_for(A_MINUTE);
    let waits: Vec<u128> = world.waits.iter().map(Duration::as_millis).collect();
    assert_eq!(waits, [0, 1000]);
}

#[test]
fn a_first_sync_that_fails_half_way_goes_on_from_there() {
    for fault in [
        Fault::Refused,
        Fault::After(1),
        Fault::After(2),
        Fault::TakenAndKilled,
    ] {
        let mut world = World::new(true);
        world.faults = vec![fault];
        world.publish("web.json", &web("web", 80, &["10.0.0.1"]));
        world.run();
        world.run_for(Duration::from_secs(5));
        world.assert_in_force();
    }
}

#[test]
fn what_others_change_is_noticed_and_mended() {
    let mut world = ten_services(true);
    world.reports.clear();
    world.foreign_text("*nat\n-D KUBE-SERVICES 2\nCOMMIT\n");
    world.run_for(Duration::from_secs(1));
    world.assert_in_force();
    let repaired: Vec<bool> = world.reports.iter().map(|report| report.repaired).collect();
    assert!(repaired.contains(&true), "{:?}", world.reports);
    assert!(world.told().is_empty(), "a repair is no change of a Service");
}

#[test]
fn without_a_count_rules_are_read_before_each_write_and_compared_each_second() {
    let mut world = ten_services(false);
    world.reads = 0;
    world.publish("3.json", &web("web-3", 13, &["10.0.0.7"]));
    world.run_for(Duration::from_millis(10));
    assert_eq!(world.reads, 1);
    world.foreign_text("*nat\n-D KUBE-SERVICES 2\nCOMMIT\n");
    world.run_for(Duration::from_millis(1100));
    world.assert_in_force();
}

#[test]
fn a_flush_is_noticed_by_the_canary() {
    let mut world = ten_services(false);
    world.kernel.insert(Family::V4, crate::memory::empty());
    world.run_for(Duration::from_millis(260));
    world.assert_in_force();
}

#[test]
fn a_write_that_is_overtaken_is_compared_again_and_insists_in_the_end() {
    let mut world = ten_services(true);
    world.reports.clear();
    world.writes.clear();
    world.faults = vec![Fault::Overtaken; 3];
    world.publish("new.json", &web("web-45", 50, &["10.0.0.9"]));
    world.run();
    world.assert_in_force();
    let text = only_write(&world).document();
    assert!(
        !text.contains("-I KUBE-SERVICES"),
        "no edit by number when others write:\n{text}"
    );
    assert_eq!(world.told().len(), 1);
}

#[test]
fn a_change_in_the_middle_of_ours_is_looked_at() {
    let mut world = ten_services(true);
    world.reads = 0;
    world.faults = vec![Fault::Mixed];
    world.publish("3.json", &web("web-3", 13, &["10.0.0.7"]));
    world.run_for(Duration::from_secs(1));
    world.assert_in_force();
    assert!(world.reads >= 2, "both families are compared again");
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8, Vec<u8>),
    Withdraw(u8),
    Break(u8),
    Fault(Fault),
    Foreign,
    Damage,
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        Just(Fault::Refused),
        (0_usize..3).prop_map(Fault::After),
        Just(Fault::TakenAndKilled),
        Just(Fault::Overtaken),
        Just(Fault::Mixed),
    ];
    prop_oneof![
        4 => (0_u8..6, prop::collection::vec(1_u8..9, 0..4)).prop_map(|(which, ips)| Step::Publish(which, ips)),
        1 => (0_u8..6).prop_map(Step::Withdraw),
        1 => (0_u8..6).prop_map(Step::Break),
        2 => fault.prop_map(Step::Fault),
        1 => Just(Step::Foreign),
        1 => Just(Step::Damage),
        4 => (0_u16..2000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: in the end the kernel has what the registry wants.
    #[test]
    fn in_the_end_all_is_in_force(counted: bool, steps in prop::collection::vec(step(), 1..25)) {
        let mut world = World::new(counted);
        world.publish("none.json", &[]);
        for step in steps {
            match step {
                Step::Publish(which, ips) => {
                    let ips: Vec<String> = ips.iter().map(|ip| format!("10.0.0.{ip}")).collect();
                    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
                    world.publish(&format!("{which}.json"), &web(&format!("web-{which}"), 10 + which, &ips));
                }
                Step::Withdraw(which) => world.withdraw(&format!("{which}.json")),
                Step::Break(which) => {
                    // Only over something good: what was never good leaves the kernel's rules alone.
                    if world.store.registry().services.keys().any(|(_, name)| *name == format!("web-{which}")) {
                        world.publish_text(&format!("{which}.json"), "{ half");
                    }
                }
                Step::Fault(fault) => world.faults.push(fault),
                Step::Foreign => world.foreign(),
                Step::Damage => {
                    let there = world.kernel[&Family::V4]
                        .chain(miniproxy::rules::set::TableName::Nat, "KUBE-SERVICES")
                        .is_some_and(|rules| !rules.is_empty());
                    if there {
                        world.foreign_text("*nat\n-D KUBE-SERVICES 1\nCOMMIT\n");
                    }
                }
                Step::Pass(ms) => world.run_for(Duration::from_millis(ms.into())),
            }
        }
        world.faults.clear();
        world.run_for(3 * A_MINUTE);
        world.assert_in_force();
        let others = world.kernel[&Family::V4].chain(miniproxy::rules::set::TableName::Filter, "FORWARD").unwrap();
        prop_assert!(others.iter().filter(|rule| rule.comment_text() == Some("somebody else")).count() <= 50);
    }
}
