//! Helpers shared by unit tests: skipping with a message.

use std::env;
use std::io::{self, Write};

/// Reports why a test is skipped, or fails if all tests are required.
///
/// # Panics
/// If BOOTSTORM_REQUIRE_TOOLS is set.
pub(crate) fn skip(why: &str) {
    let required = env::var_os("BOOTSTORM_REQUIRE_TOOLS").is_some();
    assert!(!required, "{why}, and BOOTSTORM_REQUIRE_TOOLS is set");
    // Not `eprintln!`, which the test runner swallows when the test passes.
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}
