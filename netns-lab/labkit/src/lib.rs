//! What `netns-lab` and `miniproxy` share, and neither owns.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`failure`] | one failure type, its hints and its exit code |
//! | [`shell`] | program entry, stdout that survives a closed pipe, logging, completions and man pages |
//! | [`text`] | strings from files made safe for a terminal |
//! | [`table`] | aligned columns |
//! | [`files`] | atomic writes, private directories, no symlinks |
//! | [`rundir`] | `/run/netns-lab`: one lock, gone when empty |
//! | [`locate`] | the line and column of a field in a JSON text |
//! | [`tool`] | one child process: stdin in, stdout out, an error that names it |
//! | [`watched`] | a child that does not take for ever |
//! | [`xtables`] | which iptables the host uses |
//! | [`netlink`] | the bytes of netlink messages, for what no crate has words for |
//! | [`nftables`] | the few netlink calls that tell what of nf_tables is there |
//! | [`footprint`] | tables that did not exist before us do not exist after us |
//! | [`screen`] | what all screens share: one look, one page, one loop of keys |
//! | [`fault`] | a crash on demand, for the tests of `kill -9` |

pub mod failure;
pub mod fault;
pub mod files;
pub mod footprint;
pub mod locate;
pub mod netlink;
pub mod nftables;
pub mod record;
pub mod rundir;
pub mod screen;
pub mod shell;
pub mod table;
pub mod text;
pub mod tool;
pub mod watched;
pub mod xtables;

pub use failure::{Failure, Kind, Outcome};
