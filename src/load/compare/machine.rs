//! What comparisons ask of the machine: cores of its own for each side, and that orphans come here.

use std::io;

/// Does `work` on these cores, as do the threads and processes that it starts; on all if there are none.
///
/// # Errors
/// If the system does not have such a core for this process.
pub(super) fn pinned<T>(cores: &[usize], work: impl FnOnce() -> T) -> io::Result<T> {
    if cores.is_empty() {
        return Ok(work());
    }
    system::pinned(cores, work)
}

/// The cores that this process may use; empty if the system does not tell.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    system::allowed()
}

/// From now on, whoever outlives its parent becomes a child of this process: a server that goes into the
/// background is still found, and ended.
pub(super) fn adopt_orphans() -> io::Result<()> {
    system::adopt_orphans()
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use rustix::process::{getpid, set_child_subreaper};
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub(super) fn pinned<T>(cores: &[usize], work: impl FnOnce() -> T) -> io::Result<T> {
        let before = sched_getaffinity(None)?;
        let mut wanted = CpuSet::new();
        for &core in cores.iter().filter(|&&core| core < CpuSet::MAX_CPU) {
            wanted.set(core);
        }
        sched_setaffinity(None, &wanted)?;
        let done = work();
        sched_setaffinity(None, &before)?;
        Ok(done)
    }

    pub(super) fn allowed() -> Vec<usize> {
        let Ok(set) = sched_getaffinity(None) else {
            return Vec::new();
        };
        (0..CpuSet::MAX_CPU)
            .filter(|&core| set.is_set(core))
            .collect()
    }

    pub(super) fn adopt_orphans() -> io::Result<()> {
        Ok(set_child_subreaper(Some(getpid()))?)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;

    pub(super) fn pinned<T>(_: &[usize], _: impl FnOnce() -> T) -> io::Result<T> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) const fn allowed() -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn adopt_orphans() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
