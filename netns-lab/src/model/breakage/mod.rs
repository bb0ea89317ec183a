//! Failures to order: what each is, what it looks like, and how it is put back.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`catalogue`] | the words: titles, signatures, hints, needs |
//! | [`record`] | what was changed, written down before it is |
//! | [`hunk`] | a change of one chain, and its exact way back |
//! | [`service`] | the Service that a failure hits, in files and in rules |
//! | [`link`] | link faults, and what of them the kernel can do |

pub mod catalogue;
pub mod hunk;
pub mod link;
pub mod record;
pub mod service;

pub use catalogue::{Entry, Name, Signature};
