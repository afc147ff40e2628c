//! What the tests share: asking for other people's programs, and skipping aloud without them.
#![allow(dead_code)] // Each test file is a crate of its own and uses only a part.

#[cfg(target_os = "linux")]
pub(crate) mod binary;
#[cfg(target_os = "linux")]
pub(crate) mod namespace;
pub(crate) mod peer;

use std::env;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

/// The environment variable that turns every skip into a failure.
pub(crate) const REQUIRE_TOOLS: &str = "BOOTSTORM_REQUIRE_TOOLS";

/// Where the program `tool` is; `None`, said aloud, if it is not installed.
///
/// ```ignore
/// let Some(curl) = common::require("curl") else { return };
/// ```
///
/// # Panics
/// If it is missing and [`REQUIRE_TOOLS`] is set.
pub(crate) fn require(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|folder| folder.join(tool))
        .find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("`{tool}` is not installed"));
    }
    found
}

/// The file or folder at `path`, which comes with Debian's `package`; `None`, said aloud, if it is
/// not there.
///
/// # Panics
/// If it is missing and [`REQUIRE_TOOLS`] is set.
pub(crate) fn require_path(path: &'static str, package: &str) -> Option<&'static Path> {
    let path = Path::new(path);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("the package {package} is not installed"));
    None
}

/// A socket whose port refuses all datagrams: it is connected to an address that sends none. As long as it is
/// there, no other program gets the port, as one might whose socket takes any port that is free.
pub(crate) fn refusing(any: &str) -> io::Result<UdpSocket> {
    const DISCARD: u16 = 9;
    let socket = UdpSocket::bind(any)?;
    socket.connect((socket.local_addr()?.ip(), DISCARD))?;
    Ok(socket)
}

/// Says why a test does not test.
///
/// # Panics
/// If [`REQUIRE_TOOLS`] is set.
pub(crate) fn skip(why: &str) {
    assert!(
        env::var_os(REQUIRE_TOOLS).is_none(),
        "{why}, and {REQUIRE_TOOLS} is set"
    );
    // Not `eprintln!`, which the test runner swallows when the test passes.
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}
