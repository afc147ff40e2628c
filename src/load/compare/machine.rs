//! Machine settings for comparisons: dedicated cores for each side, and adoption of orphans.

use std::io;

use crate::processors;

/// Does `work` on these cores, as do the threads and processes that it starts; on all if the list is
/// empty.
///
/// # Errors
/// If the system does not have such a core for this process.
pub(super) fn pinned<T>(cores: &[usize], work: impl FnOnce() -> T) -> io::Result<T> {
    if cores.is_empty() {
        return Ok(work());
    }
    let before = processors::allowed()?;
    processors::stay_on(cores)?;
    let done = work();
    processors::stay_on(&before)?;
    Ok(done)
}

/// Makes this process adopt every descendant that outlives its parent, so that a server that goes into
/// the background can still be found and ended.
#[cfg(target_os = "linux")]
pub(super) fn adopt_orphans() -> io::Result<()> {
    use rustix::process::{getpid, set_child_subreaper};

    Ok(set_child_subreaper(Some(getpid()))?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn adopt_orphans() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
