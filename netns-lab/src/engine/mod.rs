//! Plans carried out: look at the host, take the steps, take a lab down again.

mod apps;
pub mod breakage;
pub mod down;
pub mod hosts;
pub mod join;
pub mod launch;
pub mod observe;
pub mod progress;
pub mod retire;
pub mod revive;
pub mod salvage;
pub mod settle;
pub mod talk;
pub mod up;
pub mod visit;
