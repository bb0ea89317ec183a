//! The lab's name server: what it says, and how.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`store`] | pure: files that come, change and go → the objects in force |
//! | [`zone`] | pure: objects → names and records, by Kubernetes' DNS specification 1.1.0 |
//! | [`answer`] | pure: a zone and a question's bytes → an answer's bytes |
//! | [`server`] | the sockets |
//! | [`upstream`] | who is asked for names of elsewhere |
//! | [`watch`] | the registry's directory, followed |

pub mod answer;
pub mod server;
pub mod store;
pub mod upstream;
pub mod watch;
pub mod zone;

/// The domain of a cluster unless said otherwise.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
