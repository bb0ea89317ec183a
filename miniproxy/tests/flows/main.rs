//! Every flow that kube-proxy's own tests know, as tables: who sends to which address of a Service,
//! under which policy and configuration, and what becomes of it by the rules that we build.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and has no callers"
)]

mod addresses;
mod endpoints;
mod node_ports;
mod policies;
mod removal;
mod world;
