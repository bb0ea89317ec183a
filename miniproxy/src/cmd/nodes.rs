//! Which nodes a command is about, and the same work done on each of them at once.

use std::thread;

use labkit::{Failure, Kind};

use crate::cli::RegistryArgs;
use crate::edge::netns;
use crate::edge::registry::{Source, labs};
use crate::lab::{self, Home};

/// The nodes of the lab that have a network namespace of their own; none where the registry was named
/// by its path, or where the node is here. `only` leaves one of them.
///
/// # Errors
/// When there is no lab, or when `only` is none of its nodes.
pub(super) fn homes(args: &RegistryArgs, only: Option<&str>) -> Result<Vec<Home>, Failure> {
    if !args.paths.is_empty() {
        return Ok(Vec::new());
    }
    let homes = homes_in(&super::source(args)?)?;
    let Some(only) = only.filter(|_| !homes.is_empty()) else {
        return Ok(homes);
    };
    let names: Vec<_> = homes.iter().map(|home| home.node.clone()).collect();
    let chosen: Vec<_> = homes.into_iter().filter(|home| home.node == only).collect();
    if chosen.is_empty() {
        let names = names.join(", ");
        return Err(Failure::usage(format!(
            "the lab has no node {only}; its nodes are: {names}"
        )));
    }
    Ok(chosen)
}

/// The nodes of all labs that are up.
///
/// # Errors
/// When a lab cannot be read.
pub(super) fn of_all_labs() -> Result<Vec<Home>, Failure> {
    let mut homes = Vec::new();
    for (_, registry) in labs()? {
        homes.extend(homes_in(&Source {
            paths: vec![registry],
        })?);
    }
    Ok(homes)
}

fn homes_in(source: &Source) -> Result<Vec<Home>, Failure> {
    // What is wrong with other objects is told by whoever reads them for what they say.
    Ok(lab::homes(source.load()?.registry()))
}

/// Does the work on a thread in each node's network namespace; the answers are in the nodes' order.
pub(super) fn on_each<T: Send>(
    homes: &[Home],
    work: impl Fn(&Home) -> Result<T, Failure> + Sync,
) -> Vec<(String, Result<T, Failure>)> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = homes
            .iter()
            .map(|home| {
                scope.spawn(move || {
                    netns::enter(&home.namespace)?;
                    work(home)
                })
            })
            .collect();
        let answers = threads.into_iter().map(|thread| {
            let lost = || Failure::failed("a thread of a node ended in the middle");
            thread.join().unwrap_or_else(|_| Err(lost()))
        });
        homes.iter().map(|home| home.node.clone()).zip(answers).collect()
    })
}

/// The failures of nodes as one, each with its node's name.
pub(super) fn failures<T>(answers: Vec<(String, Result<T, Failure>)>) -> (Vec<(String, T)>, Vec<Failure>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (node, answer) in answers {
        match answer {
            Ok(answer) => good.push((node, answer)),
            Err(failure) if failure.kind() == Kind::ClosedPipe => bad.push(failure),
            Err(failure) => bad.push(failure.context(node)),
        }
    }
    (good, bad)
}
