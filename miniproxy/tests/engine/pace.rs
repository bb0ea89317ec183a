//! When writes happen.

use std::time::Duration;

use crate::world::{World, web};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn endpoints(count: u8) -> Vec<String> {
    (1..=count).map(|last| format!("10.0.0.{last}")).collect()
}

fn change(world: &mut World, count: u8) {
    let endpoints = endpoints(count);
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    world.publish("web.json", &web("web", 80, &endpoints));
}

#[test]
fn a_burst_waits_for_no_throttle() {
    let mut world = World::new(true);
    change(&mut world, 1);
    world.run_for(ms(3000));
    world.writes.clear();
    for count in 2..=11 {
        change(&mut world, count);
        let before = world.now;
        world.run();
        world.assert_in_force();
        assert!(world.now - before < ms(5));
        world.run_for(ms(100));
    }
    assert_eq!(world.writes.len(), 10);
}

#[test]
fn a_minimum_that_was_asked_for_is_kept_and_changes_in_between_are_one_write() {
    let mut world = World::with_min_interval(true, Some(ms(5000)));
    change(&mut world, 1);
    world.run_for(ms(10_000));
    world.writes.clear();
    for count in 2..=11 {
        change(&mut world, count);
        world.run_for(ms(100));
    }
    assert_eq!(world.writes.len(), 1, "the first goes at once");
    world.run_for(ms(5000));
    assert_eq!(world.writes.len(), 2, "the other nine together");
    world.assert_in_force();
}

#[test]
fn everything_is_compared_now_and_then() {
    let mut world = World::new(true);
    change(&mut world, 3);
    world.run();
    world.reads = 0;
    world.run_for(Duration::from_secs(95));
    assert_eq!(world.reads, 6, "each half minute, both families");
    assert_eq!(world.writes.len(), 2, "and nothing written for it");
}

#[test]
fn drift_that_no_count_tells_is_repaired_all_the_same() {
    let mut world = World::new(true);
    change(&mut world, 3);
    world.run();
    let count = world.count;
    world.foreign_text("*nat\n-D KUBE-SERVICES 1\nCOMMIT\n");
    world.count = count;
    world.run_for(Duration::from_secs(40));
    world.assert_in_force();
}
