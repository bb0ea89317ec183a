//! The pure part: data in, data out. Nothing here opens a file or a socket, or asks for the time.

pub mod address;
pub mod breakage;
pub mod check;
pub mod container;
pub mod deployment;
pub mod doctor;
pub mod document;
pub mod endpoints;
pub mod files;
pub mod kind;
pub mod layout;
pub mod ledger;
pub mod life;
pub mod name;
pub mod node;
pub mod object;
pub mod observed;
pub mod plan;
pub mod pod_files;
pub mod quantity;
pub mod refusal;
pub mod registry;
pub mod report;
pub mod rule;
#[cfg(test)]
pub(crate) mod samples;
pub mod schedule;
pub mod service;
pub mod service_check;
pub mod settings;
pub mod sight;
pub mod slice;
pub mod step;
pub mod topology;
pub mod view;
pub mod way;
