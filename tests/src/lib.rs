//! What the end-to-end tests stand on: private machines, witnesses, load, statistics.
//!
//! A test starts a [`machine::Machine`], runs the programs in it as a person would type them, and
//! asks plain tools (`ip`, `iptables-save`, `ping`) what came of it. Machines share nothing, so all
//! tests run side by side; a machine's end takes everything in it along.

pub mod bench;
pub mod chains;
pub mod changes;
pub mod connects;
pub mod cost;
pub mod docs;
pub mod floor;
pub mod foreign;
pub mod load;
pub mod machine;
mod netlink;
pub mod programs;
pub mod registry;
pub mod resolve;
pub mod run;
pub mod stats;
pub mod steady;
pub mod talk;
pub mod uplink;
pub mod witness;
