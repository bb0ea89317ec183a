//! One connection, watched from all sides: marked by a rule, traced by the kernel, seen on cables.
//!
//! | module | what it touches |
//! | --- | --- |
//! | [`spots`] | each node on which it is traced, in a thread of its own |
//! | [`mark`] | the TRACE rules, which are gone afterwards, also after a kill |
//! | [`events`] | trace events of nf_tables and events of the connection table, over netlink |
//! | [`log`], [`logger`] | the same of iptables-legacy, and the setting that it needs |
//! | [`owner`] | whose a rule is that was left behind |
//! | [`places`] | which handle is which rule of which number |
//! | [`cable`] | the packets on pods' cables |
//! | [`call`] | the connection itself |
//! | [`pcapng`] | a file of packets for Wireshark |
//! | [`signals`] | Ctrl-C, which waits until the rules are gone |

pub mod cable;
pub mod call;
pub mod events;
pub mod log;
pub mod logger;
pub mod mark;
pub mod owner;
pub mod pcapng;
pub mod places;
pub mod signals;
pub mod spots;
