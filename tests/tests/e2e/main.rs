//! The end-to-end tests: real programs, real kernel, real packets, each test in a machine of its own.
//!
//! One executable for all of them links once, runs its tests side by side, and can be carried into
//! a virtual machine as one file.

mod bench;
mod breaks;
mod breaks_undone;
mod churn;
mod cli;
mod conformance;
mod conntrack;
mod containers;
mod counters;
mod demo;
mod docs;
mod explain;
mod faults;
mod hairpin;
mod harness;
mod kill;
mod kube_dns;
mod life;
mod live;
mod names;
mod no_trace;
mod nodes;
mod nowhere;
mod objects;
mod overlap;
mod policies;
mod random;
mod refusals;
mod replay;
mod reply;
mod restore_faults;
mod sandbox;
mod screens;
mod serving;
mod shares;
mod soak;
mod soak_changes;
mod support;
mod sysctls;
mod talk;
mod talk_content;
mod topologies;
mod trace;
mod trace_flows;
mod vm;
mod why;
