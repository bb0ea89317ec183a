//! `scripts/bench`: see `lab_tests::bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lab_tests::bench::main()
}
