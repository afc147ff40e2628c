//! What unit tests share: skipping aloud.

use std::env;
use std::io::{self, Write};

/// Says why a test does not test, or fails where all of them are required.
///
/// # Panics
/// If BOOTSTORM_REQUIRE_TOOLS is set.
pub(crate) fn skip(why: &str) {
    let required = env::var_os("BOOTSTORM_REQUIRE_TOOLS").is_some();
    assert!(!required, "{why}, and BOOTSTORM_REQUIRE_TOOLS is set");
    // Not `eprintln!`, which the test runner swallows when the test passes.
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}
