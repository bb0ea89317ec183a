//! The only places that touch the outside: files, processes, the kernel, time.
//!
//! | module | what it touches |
//! | --- | --- |
//! | [`addresses`] | the host: its name, its addresses, a sysctl |
//! | [`config`] | the configuration file |
//! | [`kernel`] | the kernel's tables as the engine acts on them: lock, count of changes, parts |
//! | [`processes`] | other miniproxies on this node |
//! | [`registry`] | the registry's files |
//! | [`tables`] | the kernel's tables, by iptables-save and iptables-restore |
//! | [`watch`] | the registry's directories, by inotify |

pub mod addresses;
pub mod config;
pub mod kernel;
pub mod processes;
pub mod registry;
pub mod tables;
pub mod watch;
