//! Makes failures and puts back what they changed. Everything here acts on the network namespace of
//! its thread; [`inside`] chooses it.

pub mod chains;
pub mod flows;
pub mod links;
pub mod record;
pub mod routes;
pub mod shaping;

use std::thread;

use labkit::Failure;
use nix::sched::{CloneFlags, setns, unshare};

use super::{joined, namespace, store, sysctl};
use crate::model::breakage::record::{Change, TableFate, What};
use crate::model::name::Label;

/// Does something in a network namespace, on a thread of its own; where none is named, here.
pub fn inside<T: Send>(
    namespace: Option<&str>,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let Some(name) = namespace else { return work() };
    let file = namespace::open(name)?;
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| {
                Failure::failed(format!("cannot enter the network namespace {name}: {error}"))
                    .hint("use sudo")
            })?;
            work()
        });
        joined(there)
    })
}

/// Does something in a network namespace that is made for it and goes with it, so that what it makes
/// the kernel make is nobody's.
pub fn in_an_empty_one<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
                Failure::failed(format!("cannot make a network namespace: {error}")).hint("use sudo")
            })?;
            work()
        });
        joined(there)
    })
}

/// Makes one change.
///
/// # Errors
/// What the kernel or a tool said.
pub fn make(lab: &Label, change: &Change) -> Result<(), Failure> {
    inside(change.namespace.as_deref(), || match &change.what {
        What::Sysctl { key, after, .. } => sysctl::write(key, after),
        What::Chain {
            program,
            table,
            chain,
            hunk,
            ..
        } => chains::write(program, table, chain, &hunk.edits()),
        What::Hairpin { links } => links.iter().try_for_each(|name| links::set_hairpin(name, false)),
        What::Link { name } => links::set_up(name, false),
        What::Route { message, throw } => routes::take_out(message, *throw),
        What::Flow(flow) => flows::insert(flow),
        What::File { name, after, .. } => store::publish(lab, name, after.as_bytes()),
    })
}

/// Puts back what one change changed; what somebody else has changed since stays as it is, and what
/// was never changed, too.
///
/// # Errors
/// What the kernel or a tool said.
pub fn undo(lab: &Label, change: &Change) -> Result<(), Failure> {
    if let Some(name) = &change.namespace
        && namespace::inode(name).is_none()
    {
        // The node is gone, and with it all that was changed there.
        return Ok(());
    }
    inside(change.namespace.as_deref(), || match &change.what {
        What::Sysctl { key, before, after } => match sysctl::read(key) {
            Some(now) if now == *after => sysctl::write(key, before),
            _ => Ok(()),
        },
        What::Chain {
            program,
            table,
            chain,
            hunk,
            table_fate,
        } => {
            if let Some(now) = chains::read(program, table, chain)? {
                chains::write(program, table, chain, &hunk.way_back(&now))?;
            }
            if *table_fate == TableFate::Goes {
                chains::remove_nf_table(table)?;
            }
            Ok(())
        }
        What::Hairpin { links } => links
            .iter()
            .filter(|name| links::exists(name))
            .try_for_each(|name| links::set_hairpin(name, true)),
        What::Link { name } if links::exists(name) => links::set_up(name, true),
        What::Link { .. } => Ok(()),
        What::Route { message, throw } => routes::put_back(message, *throw),
        What::Flow(flow) => flows::delete(flow),
        What::File { name, before, after } => {
            let files = store::registry_files(lab);
            match files.get(name) {
                Some(now) if now == after.as_bytes() => store::publish(lab, name, before.as_bytes()),
                _ => Ok(()),
            }
        }
    })
}
