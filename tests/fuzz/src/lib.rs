//! What each fuzz target does with its bytes: nothing may panic, and what is read must mean the same
//! after a way through text. `scripts/fuzz` feeds the targets from libFuzzer, `cargo test` from the
//! files of `regressions/`.
//!
//! | target | bytes | what must hold |
//! | --- | --- | --- |
//! | [`registry`] | files of objects, parted by a zero byte | rules from it are read back as they were meant, whatever its names say |
//! | [`config`] | a `KubeProxyConfiguration` | settings are within kube-proxy's bounds, and rules from them can be read back |
//! | [`dump`] | the output of `iptables-save` | it survives the way to text and back, and differs from nothing but others |
//! | [`explain`] | a line `TARGET [CALLER]`, then rules in any state | there is an answer, its shares are shares, and it can be drawn |
//! | [`trace`] | a packet's line, then a dump | the tracer ends, and its shares add up to 1 |
#![forbid(unsafe_code)]

mod config;
mod document;
mod dump;
mod explain;
mod registry;
mod trace;

pub use config::config;
pub use dump::dump;
pub use explain::explain;
pub use registry::registry;
pub use trace::trace;

/// What is done with one input.
pub type Target = fn(&[u8]);

/// Every target by its name, as `scripts/fuzz` takes it.
pub const TARGETS: [(&str, Target); 5] = [
    ("registry", registry),
    ("config", config),
    ("dump", dump),
    ("trace", trace),
    ("explain", explain),
];

/// What a target does that was built by plain `cargo build`: it runs the inputs that it is given, once.
pub fn run_files(target: Target) {
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(bytes) => target(&bytes),
            Err(error) => eprintln!("{}: {error}", path.display()),
        }
    }
}
