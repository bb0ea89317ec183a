//! Whether a change can have left anything stale at all.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::{addresses, is_udp, serving};
use crate::model::ServicePort;

/// Whether flows of one Service may be stale after it has changed so; `before` and `after` are all
/// its ports of one family, none where it was not there or is not there any more.
///
/// A table with a million entries takes a second to list: a change that concerns only TCP, and the
/// most usual one, a further endpoint, must not.
pub fn needs(before: &[ServicePort], after: &[ServicePort]) -> bool {
    let (before, after) = (udp(before), udp(after));
    let gone = |old: &&ServicePort| !after.iter().any(|new| new.name == old.name);
    before.iter().any(gone)
        || after.iter().any(|new| {
            let old = before.iter().find(|old| old.name == new.name);
            // To a new one flows may have begun while nobody translated them.
            old.map_or_else(|| serving(new).next().is_some(), |old| port_needs(old, new))
        })
}

fn udp(ports: &[ServicePort]) -> Vec<&ServicePort> {
    ports.iter().filter(|port| is_udp(port)).collect()
}

fn port_needs(before: &ServicePort, after: &ServicePort) -> bool {
    let old: HashSet<SocketAddr> = serving(before).collect();
    let new: HashSet<SocketAddr> = serving(after).collect();
    let began = old.is_empty() && !new.is_empty();
    began || !old.is_subset(&new) || frontends(before) != frontends(after)
}

fn frontends(port: &ServicePort) -> (HashSet<SocketAddr>, Option<u16>) {
    (addresses(port).collect(), port.node_port)
}
