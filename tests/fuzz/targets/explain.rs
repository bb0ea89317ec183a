//! The target `explain`; see the library.
#![cfg_attr(feature = "libfuzzer", no_main)]
#![cfg_attr(
    feature = "libfuzzer",
    allow(unsafe_code, reason = "the macro exports the function that libFuzzer calls")
)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| miniproxy_fuzz::explain(bytes));

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    miniproxy_fuzz::run_files(miniproxy_fuzz::explain);
}
