//! What is refused keeps what it had; all else is in force.

use std::time::Duration;

use labkit::xtables::Family;
use miniproxy::rules::set::{Found, TableName};

use crate::world::{World, web};

fn has(world: &World, service: &str) -> bool {
    let found: &Found = &world.kernel[&Family::V4];
    let rules = found.chain(TableName::Nat, "KUBE-SERVICES").unwrap_or_default();
    let comment = format!("default/{service}:http cluster IP");
    let dispatch = rules.iter().find(|rule| rule.comment_text() == Some(&comment));
    dispatch.is_some_and(|rule| match &rule.target {
        Some(miniproxy::rules::rule::Target::Jump(chain)) => found
            .chain(TableName::Nat, chain)
            .is_some_and(|rules| !rules.is_empty()),
        _ => false,
    })
}

#[test]
fn a_service_that_turns_bad_keeps_its_last_good_version() {
    let mut world = World::new(true);
    world.publish("web.json", &web("web", 80, &["10.0.0.1"]));
    world.publish("shop.json", &web("shop", 81, &["10.0.0.2"]));
    world.run();
    let mut bad = web("web", 80, &["10.0.0.1"]);
    bad[0]["spec"]["clusterIP"] = "256.1.1.1".into();
    bad[0]["spec"]["clusterIPs"] = serde_json::json!(["256.1.1.1"]);
    world.publish("web.json", &bad);
    world.publish("shop.json", &web("shop", 81, &["10.0.0.2", "10.0.0.3"]));
    world.run_for(Duration::from_secs(1));
    assert!(has(&world, "web"));
    let problems = world.store.problems();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].to_string().contains("spec.clusterIP"),
        "{}",
        problems[0]
    );
    world.assert_in_force();
    world.withdraw("web.json");
    world.run_for(Duration::from_secs(1));
    assert!(!has(&world, "web") && has(&world, "shop"));
}

/// A fresh start knows no last good version; the kernel does.
#[test]
fn a_fresh_start_leaves_the_rules_of_what_it_cannot_read() {
    let mut world = World::new(true);
    world.publish("web.json", &web("web", 80, &["10.0.0.1"]));
    world.publish("shop.json", &web("shop", 81, &["10.0.0.2"]));
    world.run();
    for (text, kept) in [
        (
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"ports":[{"port":0}]}}"#,
            true,
        ),
        ("{ half", true),
        (
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"other"},"spec":{"ports":[{"port":0}]}}"#,
            false,
        ),
    ] {
        let mut fresh = World::new(true);
        fresh.kernel = world.kernel.clone();
        fresh.publish("shop.json", &web("shop", 81, &["10.0.0.2", "10.0.0.3"]));
        fresh.publish_text("web.json", text);
        fresh.run();
        assert_eq!(has(&fresh, "web"), kept, "{text}");
        assert!(has(&fresh, "shop"));
        // Good again, and then gone.
        fresh.publish("web.json", &web("web", 80, &["10.0.0.7"]));
        fresh.run_for(Duration::from_secs(1));
        fresh.assert_in_force();
        fresh.withdraw("web.json");
        fresh.run_for(Duration::from_secs(1));
        fresh.assert_in_force();
        assert!(!has(&fresh, "web"));
    }
}

#[test]
fn what_was_kept_goes_with_its_file() {
    let mut world = World::new(true);
    world.publish("web.json", &web("web", 80, &["10.0.0.1"]));
    world.run();
    let mut fresh = World::new(true);
    fresh.kernel = world.kernel.clone();
    fresh.publish("shop.json", &web("shop", 81, &["10.0.0.2"]));
    fresh.publish_text("web.json", "{ half");
    fresh.run();
    assert!(has(&fresh, "web"));
    fresh.withdraw("web.json");
    fresh.run_for(Duration::from_secs(1));
    fresh.assert_in_force();
    assert!(!has(&fresh, "web"));
}
