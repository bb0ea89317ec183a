//! `miniproxy`: a mini kube-proxy. Kubernetes objects in JSON files in, iptables rules out.
//!
//! Data flows one way:
//!
//! ```text
//! files ──► registry ──► model ──► rules::build ──► rules::delta ──► iptables-restore
//!           (objects)   (ports,    (wanted)            ▲              (edge)
//!                        endpoints)                    │
//!                       iptables-save ──► rules::parse ┘ (found)
//! ```
//!
//! Everything but [`edge`] and [`cmd`] is pure: no files, processes, clocks or network.

pub mod address;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod conntrack;
pub mod edge;
pub mod endpoints;
pub mod engine;
pub mod explain;
pub mod graph;
pub mod journey;
pub mod lab;
pub mod live;
pub mod model;
pub mod node;
pub mod observe;
pub mod pace;
pub mod registry;
pub mod report;
pub mod rules;
pub mod spread;
pub mod sysctls;
pub mod target;
pub mod why;
