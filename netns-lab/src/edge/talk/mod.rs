//! Where a talk happens: a private machine or this one, and the commands that run there.

pub mod notes;
pub mod running;
pub mod world;
