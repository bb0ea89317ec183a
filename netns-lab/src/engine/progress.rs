//! What a command tells while it works: nothing if it is quick, and how long each phase took.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use labkit::shell;
use serde_json::{Map, Value};

/// Silence for this long, then a line each time it has passed again.
const INTERVAL: Duration = Duration::from_secs(1);

/// How far a command is.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    done: AtomicUsize,
    spoken_ms: AtomicU64,
    phases: Vec<(&'static str, Duration)>,
    phase_start: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            done: AtomicUsize::new(0),
            spoken_ms: AtomicU64::new(0),
            phases: Vec::new(),
            phase_start: now,
        }
    }
}

impl Progress {
    /// One more of `total` is done; says so if the command has been silent for a second.
    pub fn tick(&self, what: &str, total: usize) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let spoken = self.spoken_ms.load(Ordering::Relaxed);
        let due = now.saturating_sub(spoken) >= u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let mine = || {
            self.spoken_ms
                .compare_exchange(spoken, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        if due && done < total && mine() {
            shell::tell(&format!("{what}: {done} of {total}"));
        }
    }

    /// Ends a phase and begins the next.
    pub fn phase(&mut self, name: &'static str) {
        let now = Instant::now();
        self.phases.push((name, now - self.phase_start));
        self.phase_start = now;
        self.done.store(0, Ordering::Relaxed);
    }

    /// All phases in milliseconds, and their total.
    pub fn timings(&self) -> Value {
        let ms = |time: Duration| Value::from((time.as_secs_f64() * 1e6).round() / 1e3);
        let mut timings: Map<String, Value> = self
            .phases
            .iter()
            .map(|(name, time)| (format!("{name}_ms"), ms(*time)))
            .collect();
        timings.insert("total_ms".into(), ms(self.start.elapsed()));
        Value::Object(timings)
    }
}
