//! The same work on each of many things, on all processors. The results stand in the order of the
//! things, so nobody can tell how many there were.
//!
//! No pool: its threads would live on in the network namespace of the node whose thread began it, and
//! keep that namespace alive after its lab.

use std::num::NonZero;
use std::thread::{self, Builder};

/// Fewer things than this for each thread are done sooner than a thread is started.
const WORTH_A_THREAD: usize = 64;
/// More threads than this wait for each other's memory rather than help.
const AT_MOST: usize = 4;

/// What `work` makes of each thing.
pub fn map<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    map_on(threads(things.len()), things, work)
}

fn threads(things: usize) -> usize {
    let worth = (things / WORTH_A_THREAD).clamp(1, AT_MOST);
    if worth == 1 {
        return 1;
    }
    worth.min(thread::available_parallelism().map_or(1, NonZero::get))
}

fn map_on<T: Sync, R: Send>(threads: usize, things: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = things.len().div_ceil(threads.max(1)).max(1);
    let (own, others) = things.split_at(share.min(things.len()));
    let work = &work;
    let all = |share: &[T]| share.iter().map(work).collect::<Vec<R>>();
    thread::scope(|scope| {
        let begun: Vec<_> = others
            .chunks(share)
            .map(|share| (share, Builder::new().spawn_scoped(scope, move || all(share))))
            .collect();
        let mut results = all(own);
        results.reserve_exact(others.len());
        for (share, thread) in begun {
            results.extend(match thread.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(results)) => results,
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // The system has no thread to spare: it is our work, then.
                Err(_) => all(share),
            });
        }
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_things() {
        for count in [0, 1, 2, 3, 7, 1000] {
            let things: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = things.iter().map(|thing| thing * 2).collect();
            assert_eq!(map(&things, |thing| thing * 2), doubled);
            for threads in 1..6 {
                assert_eq!(map_on(threads, &things, |thing| thing * 2), doubled, "{threads}");
            }
        }
    }
}
