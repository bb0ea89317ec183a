//! What one change costs, counted in pieces of memory that are asked for: a clock would tell of the
//! machine.

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use labkit::xtables::Family;
use miniproxy::engine::{Action, Outcome};
use serde_json::{Value, json};

use crate::world::{World, web};

/// A world of so many Services, all of them in force, each known by its number.
fn world(services: usize) -> World {
    let mut world = World::new(true);
    let all: Vec<Value> = (0..services).flat_map(|number| service(number, 2)).collect();
    world.publish("all.json", &all);
    world.settle();
    world.run();
    world.assert_in_force();
    world
}

/// A Service with a rule in each kind of shared chain.
fn service(number: usize, endpoints: usize) -> Vec<Value> {
    let ips: Vec<String> = (0..endpoints).map(|last| format!("10.0.0.{last}")).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    let mut objects = web(&format!("web-{number}"), 1, &ips);
    let ip = format!("10.96.{}.{}", 1 + number / 200, 1 + number % 200);
    let spec = &mut objects[0]["spec"];
    (spec["clusterIP"], spec["clusterIPs"]) = (json!(ip), json!([ip]));
    (spec["type"], spec["ports"][0]["nodePort"]) = (json!("NodePort"), json!(20_000 + number));
    objects
}

/// What deciding about a change costs, from the objects to the words that are sent and back.
fn cost_of(world: &mut World, path: &str, objects: &[Value]) -> AllocationInfo {
    let touched = world.touch(path, objects);
    measure(|| {
        world.want(&touched);
        while let Action::Write(family, delta) = world.engine.poll(world.now) {
            assert!(delta.document().len() < 5000, "only what differs is sent");
            let count = world.engine.count();
            let report = world.engine.wrote(family, Outcome::Done(count), world.now);
            assert!(!report.unwrap().full);
        }
        assert!(world.engine.desired(Family::V4).totals().1 > 100);
    })
}

/// The costs of a Service more, of a Service less, and of an endpoint more.
fn costs(services: usize) -> [AllocationInfo; 3] {
    let mut world = world(services);
    world.publish("new.json", &service(services, 2));
    world.run_for(Duration::from_secs(1));
    let more = cost_of(&mut world, "another.json", &service(services + 1, 2));
    let less = cost_of(&mut world, "another.json", &[]);
    let endpoint = cost_of(&mut world, "new.json", &service(services, 3));
    [more, less, endpoint]
}

#[test]
fn a_change_among_many_services_costs_what_it_costs_among_few() {
    let (few, many) = (costs(50), costs(2000));
    for (few, many) in few.iter().zip(&many) {
        // Maps of names are deeper where there are more, and grow by a leaf now and then.
        assert!(many.count_total <= few.count_total + 20, "{few:?} {many:?}");
        // A list of rules that is full moves to a larger place: 8 bytes for each of them.
        assert!(many.bytes_total <= few.bytes_total + 100_000, "{few:?} {many:?}");
    }
}
