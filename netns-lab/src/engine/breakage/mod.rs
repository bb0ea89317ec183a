//! Breaks a lab on purpose, tells whether it is mended, and puts back what was changed.
//!
//! What will be changed is written down before it is: whoever dies in between leaves enough for `fix`
//! and for `down`.

mod check;
mod drops;
mod ground;
mod link;
mod prepare;

use labkit::rundir::RunDirectory;
use labkit::{Failure, fault};

use crate::edge::breakage::{record, undo};
use crate::model::breakage::Name;
use crate::model::breakage::record::{Broken, Record};
use crate::model::ledger::Ledger;

pub use check::is_mended;
pub use ground::Ground;
pub use link::{clear_links, set_link};

/// Breaks a lab in this way and returns what was done. `_run` is the lock on all labs.
///
/// # Errors
/// What is missing for it; or what the kernel refused, and then it is undone.
pub fn make(_run: &RunDirectory, ledger: &Ledger, name: Name, secret: bool) -> Result<Broken, Failure> {
    let ground = Ground::of(ledger)?;
    let lab = &ledger.lab.name;
    let mut record = record::read(lab)?;
    if record.failure(name).is_some_and(|broken| !broken.secret) {
        return Err(Failure::failed(format!("{name} is broken already")).hint(format!(
            "how far it is: netns-lab break {name} --check; undo it: netns-lab fix {name}"
        )));
    }
    if record.failure(name).is_some() {
        return Err(
            Failure::failed("something is broken by surprise already, and two of a kind cannot be")
                .hint("undo it: netns-lab fix"),
        );
    }
    let plan = prepare::prepare(&ground, name)?;
    let broken = Broken {
        name,
        secret,
        hints: 0,
        target: plan.target,
        changes: plan.changes,
    };
    record.failures.push(broken.clone());
    record::write(lab, &record)?;
    fault::point("break:recorded");
    for change in &broken.changes {
        if let Err(failure) = crate::edge::breakage::make(lab, change) {
            // Half a failure would be one that nobody ordered.
            put_back(ledger, &mut record, &broken)?;
            return Err(failure.context(format!("cannot make {name}")));
        }
        fault::point("break:changed");
    }
    Ok(broken)
}

/// Those that can be had by surprise: nothing must be done after them, and nothing is missing.
///
/// # Errors
/// When the lab is not here.
pub fn possible(ledger: &Ledger) -> Result<Vec<Name>, Failure> {
    let ground = Ground::of(ledger)?;
    let record = record::read(&ledger.lab.name)?;
    let mut names = Name::ALL.to_vec();
    // The selector takes effect with the next sync only, and to say so would be to tell.
    names.retain(|name| {
        *name != Name::WrongSelector
            && record.failure(*name).is_none()
            && prepare::prepare(&ground, *name).is_ok()
    });
    Ok(names)
}

/// Undoes one failure and forgets it.
///
/// # Errors
/// What could not be put back; it then stays on record, and the next call goes on.
pub fn fix(_run: &RunDirectory, ledger: &Ledger, broken: &Broken) -> Result<(), Failure> {
    let mut record = record::read(&ledger.lab.name)?;
    put_back(ledger, &mut record, broken)
}

fn put_back(ledger: &Ledger, record: &mut Record, broken: &Broken) -> Result<(), Failure> {
    let lab = &ledger.lab.name;
    let mut failures = Vec::new();
    for change in broken.changes.iter().rev() {
        failures.extend(undo(lab, change).err());
        fault::point("fix:undone");
    }
    if let Some(failure) = Failure::all(failures) {
        return Err(failure
            .context(format!("cannot undo {}", broken.name))
            .hint("once the reason is gone, `netns-lab fix` again goes on"));
    }
    forget(ledger, record, broken.name)?;
    fault::point("fix:forgotten");
    Ok(())
}

/// Drops a failure from the record: it was undone, or is mended.
///
/// # Errors
/// When the disk refuses.
pub fn forget(ledger: &Ledger, record: &mut Record, name: Name) -> Result<(), Failure> {
    record.failures.retain(|known| known.name != name);
    record::write(&ledger.lab.name, record)
}

/// Undoes all of a lab that is about to go, but for what its own namespaces take along.
///
/// A record that cannot be read must not keep the lab up: rules carry the lab's mark, links and
/// routes go with the bridge.
pub fn undo_all(ledger: &Ledger) -> Vec<Failure> {
    let lab = &ledger.lab.name;
    let mut record = match record::read(lab) {
        Ok(record) => record,
        Err(failure) => {
            tracing::warn!(%failure, "what is broken on purpose cannot be read");
            return Vec::new();
        }
    };
    record.links.retain(|fault| fault.namespace.is_none());
    let all = record.failures.iter().rev();
    let changes = all.flat_map(|broken| broken.changes.iter().rev());
    let here = changes.filter(|change| change.namespace.is_none());
    let mut failures: Vec<_> = here.filter_map(|change| undo(lab, change).err()).collect();
    failures.extend(clear_links(ledger, &record).err());
    fault::point("down:mended");
    failures
}
