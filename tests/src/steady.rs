//! A client that calls the same targets all the time, and counts every call that fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Answer, Plan, Protocol, Tally, once, say};

/// Between two calls of one target.
const GAP: Duration = Duration::from_millis(60);
/// How long to wait for a TCP answer, and for a datagram's.
const TIMEOUTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];
/// How often a question in a datagram is asked, as a resolver does: the answer to one that is under
/// way while its endpoint is withdrawn comes from nowhere.
const ATTEMPTS: usize = 3;
/// Source ports of one target's datagrams, which come again after this many calls.
const PORTS: usize = 2000;

/// Calls each target in a thread of its own until stdin ends; the counts as JSON. Says each failure
/// when it happens.
pub fn steady(protocol: Protocol, targets: &[SocketAddr]) -> Value {
    let (stop, again, began) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for (index, target) in targets.iter().enumerate() {
            let (stop, again, tally) = (&stop, &again, &tally);
            scope.spawn(move || {
                let plan = Plan {
                    protocol,
                    target: *target,
                    count: 1,
                    concurrency: 1,
                    timeout: TIMEOUTS[usize::from(protocol == Protocol::Udp)],
                };
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    let outcome = call(&plan, index * PORTS + turn % PORTS, again);
                    if let Err(error) = &outcome {
                        let at = began.elapsed().as_secs_f64();
                        say(&format!("failed after {at:.3} s: {protocol:?} {target}: {error}"));
                    }
                    tally.lock().expect("no thread panics with it").add(outcome);
                    turn += 1;
                    thread::sleep(GAP);
                }
            });
        }
        say(&format!("calling {}", targets.len()));
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        stop.store(true, Ordering::Relaxed);
    });
    let mut report = tally.into_inner().expect("no thread panics with it").to_json();
    report["again"] = json!(again.into_inner());
    report
}

fn call(plan: &Plan, turn: usize, again: &AtomicU64) -> io::Result<Answer> {
    let mut outcome = once(plan, turn);
    for _ in 1..ATTEMPTS {
        if plan.protocol != Protocol::Udp || outcome.is_ok() {
            break;
        }
        again.fetch_add(1, Ordering::Relaxed);
        outcome = once(plan, turn);
    }
    outcome
}
