//! Goes through the namespaces of a lab that are not pods', on threads that enter them.

use std::collections::BTreeMap;
use std::fs::File;

use labkit::Failure;

use super::launch::on_workers;
use crate::edge::{namespace, pod};
use crate::model::ledger::Lab;
use crate::model::node::Host;

/// A thread, and where it is.
struct Visitor {
    home: Option<File>,
}

/// Does `work` in each of these namespaces, on threads that are in it then.
///
/// The namespace that the command was called in is the node of no name; whoever stays there needs
/// no privilege.
pub fn visit<T: Send>(
    lab: &Lab,
    hosts: &[Host],
    work: impl Fn(&Host) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let names: BTreeMap<Host, &str> = lab.hosts().into_iter().collect();
    on_workers(
        hosts,
        || Ok(Visitor { home: None }),
        |visitor, host| {
            match (names.get(host), &visitor.home) {
                (Some(name), None) => {
                    visitor.home = Some(namespace::current()?);
                    pod::enter(&namespace::open(name)?)?;
                }
                (Some(name), Some(_)) => pod::enter(&namespace::open(name)?)?,
                (None, Some(home)) => {
                    pod::enter(home)?;
                    visitor.home = None;
                }
                (None, None) => {}
            }
            work(host)
        },
    )
}
