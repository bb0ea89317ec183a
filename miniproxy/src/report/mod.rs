//! What people and scripts are told, from the same data. Pure.

pub mod changes;
pub mod columns;
pub mod difference;
mod pair;
mod words;
