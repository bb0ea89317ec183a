//! The edge: the only files that talk to the kernel, start processes or touch the disk.

pub mod arp;
pub mod breakage;
pub mod cgroup;
pub mod container;
pub mod credentials;
pub mod datagram;
pub mod enter;
pub mod first;
pub mod host;
pub mod image;
pub mod links;
pub mod load;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod privilege;
pub mod probe;
pub mod process;
pub mod registry;
pub mod rootfs;
pub mod rules;
pub mod sandbox;
pub mod stdio;
pub mod store;
pub mod sysctl;
pub mod talk;
pub mod view;
pub mod watcher;
pub mod ways;

use std::thread::ScopedJoinHandle;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use labkit::Failure;

/// Now, in whole seconds, as objects have it.
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The result of a thread; a panic in it becomes a failure here.
pub fn joined<T>(handle: ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    handle
        .join()
        .unwrap_or_else(|_| Err(Failure::failed("a worker thread ended abnormally")))
}
