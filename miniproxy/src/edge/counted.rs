//! The kernel's rules with their counters, by `iptables-save -c`. Only read.

use labkit::xtables::{Family, Flavour, Xtables, legacy_tables_exist};
use labkit::{Failure, tool};

use crate::live::dump::{Counted, CountedReader};
use crate::rules::set::Found;

/// All rules of a family. Rules that are as in `like` are shared with it.
///
/// # Errors
/// When they cannot be listed, or not understood.
pub fn read(xtables: &Xtables, family: Family, like: &Found) -> Result<Counted, Failure> {
    let exist = legacy_tables_exist(family);
    let each: &[&[&str]] = match (xtables.flavour, exist) {
        // Merely to ask would make the legacy tables, for everybody to see.
        (Flavour::Legacy, Some(false)) => &[],
        // Without a list of its tables legacy can only be asked for each by name.
        (Flavour::Legacy, None) => &[&["-c", "-t", "filter"], &["-c", "-t", "nat"]],
        _ => &[&["-c"]],
    };
    let program = xtables.save(family);
    let mut reader = CountedReader::new(Some(like));
    let mut wrong = None;
    for args in each {
        let output = tool::run_by_line(&program, args, |line| {
            let read = reader.line(&String::from_utf8_lossy(line));
            wrong = wrong.take().or(read.err());
        })?;
        if !output.status.success() {
            return Err(super::tables::explained(tool::complaint(&program, args, &output)));
        }
    }
    let counted = match wrong {
        Some(error) => Err(error),
        None => reader.finish(),
    };
    counted.map_err(|error| Failure::failed(format!("cannot understand {}: {error}", program.display())))
}
