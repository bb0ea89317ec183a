//! Rules as data, from what Services want to the text that iptables reads. Pure: no I/O, no clock.
//!
//! | module | from → to |
//! | --- | --- |
//! | [`name`] | a service port or endpoint → its chain's name |
//! | [`rule`] | the parts of one rule, and when two rules mean the same |
//! | [`part`] | what one service port contributes |
//! | [`set`] | tables of chains of rules |
//! | [`build`] | service ports and endpoints → the rule set kube-proxy would write |
//! | [`fixed`] | the part of that rule set that no Service changes |
//! | [`text`] | rules → `iptables-restore` text |
//! | [`parse`], [`dump`] | `iptables-save` text → rule set |
//! | [`pasted`] | rules as people have them: cut off, with noise → rule sets and doubts |
//! | [`delta`] | what the kernel has, what is wanted → the smallest change |
//! | [`documents`] | a change → `iptables-restore` documents, none of them too large |
//! | [`removal`] | the change that takes all of ours away → documents, likewise |
//! | [`exchange`] | some service ports, as they were and as they should be → the same |
//! | [`edit`] | two lists of rules → the steps between them |
//! | [`known`] | what the kernel has after a change that it took |
//! | [`keep`] | a rule set → what single service ports have in it |
//! | [`trace`] | a rule set and a packet → what becomes of it |
//! | [`view`] | a rule set → the Services that can be read out of it |

pub mod build;
pub mod delta;
pub mod documents;
pub mod dump;
pub mod edit;
pub mod exchange;
pub mod fixed;
pub mod keep;
pub mod known;
pub mod name;
pub mod parse;
pub mod part;
pub mod pasted;
pub mod removal;
pub mod rule;
pub mod set;
pub mod text;
pub mod trace;
pub mod view;
