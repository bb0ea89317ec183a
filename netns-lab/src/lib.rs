//! Pods and nodes out of network namespaces, veth pairs and a bridge.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`model`] | pure: topology, names, addresses, plan, ledger, objects, reports |
//! | [`edge`] | the kernel, processes and files; nothing here decides anything |
//! | [`dns`] | the name server of a lab: objects → names → answers, and its sockets |
//! | [`engine`] | looks at the host, takes the steps of a plan, takes a lab down |
//! | [`talk`] | pure: a talk in Markdown → steps, what they must show, how they are shown |
//! | [`app`] | the app in a pod |
//! | [`cmd`] | one file for each sub-command |
//! | [`cli`] | the command line's shape |
//!
//! `model` uses nothing of the others, `edge` only `model`, `engine` both, `cmd` all.

pub mod app;
pub mod cli;
pub mod cmd;
pub mod dns;
pub mod edge;
pub mod engine;
pub mod model;
pub mod talk;
