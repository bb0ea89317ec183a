//! One connection, watched from all sides: marked by a rule, traced by the kernel, seen on cables.
//!
//! | module | what it touches |
//! | --- | --- |
//! | [`mark`] | the two TRACE rules, which are gone afterwards, also after a kill |
//! | [`events`] | trace events of nf_tables and events of the connection table, over netlink |
//! | [`places`] | which handle is which rule of which number |
//! | [`cable`] | the packets on pods' cables |
//! | [`call`] | the connection itself |
//! | [`pcapng`] | a file of packets for Wireshark |
//! | [`signals`] | Ctrl-C, which waits until the rules are gone |

pub mod cable;
pub mod call;
pub mod events;
pub mod mark;
pub mod pcapng;
pub mod places;
pub mod signals;
