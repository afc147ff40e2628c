//! The processors that a thread may run on, as numbers. Threads and processes that it starts later inherit
//! them.

use std::io;

/// The processors that the calling thread may run on.
///
/// # Errors
/// If the system does not report them.
pub fn allowed() -> io::Result<Vec<usize>> {
    platform::allowed()
}

/// Restricts the calling thread to these processors.
///
/// # Errors
/// If the system refuses, for example because one of them was taken away meanwhile.
pub fn stay_on(processors: &[usize]) -> io::Result<()> {
    platform::stay_on(processors)
}

#[cfg(target_os = "linux")]
mod platform {
    use std::io;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub(super) fn allowed() -> io::Result<Vec<usize>> {
        let set = sched_getaffinity(None)?;
        let all = 0..CpuSet::MAX_CPU;
        Ok(all.filter(|&number| set.is_set(number)).collect())
    }

    pub(super) fn stay_on(processors: &[usize]) -> io::Result<()> {
        let mut set = CpuSet::new();
        // A number beyond the set is beyond every machine, and would cause a panic.
        let numbers = processors
            .iter()
            .filter(|&&number| number < CpuSet::MAX_CPU);
        numbers.for_each(|&number| set.set(number));
        Ok(sched_setaffinity(None, &set)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::io;

    pub(super) fn allowed() -> io::Result<Vec<usize>> {
        Err(unsupported())
    }

    pub(super) fn stay_on(_: &[usize]) -> io::Result<()> {
        Err(unsupported())
    }

    fn unsupported() -> io::Error {
        let text = "processors can be chosen on Linux alone";
        io::Error::new(io::ErrorKind::Unsupported, text)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use super::*;

    /// Goal: a thread stays on the given processors, and no other thread changes. Method: a separate thread.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_stays_where_it_is_told_to() {
        let before = allowed().expect("Linux tells");
        let last = *before.last().expect("one at least");
        let pinned = std::thread::spawn(move || {
            stay_on(&[last])?;
            allowed()
        });
        let pinned = pinned.join().expect("a thread");
        assert_eq!(pinned.expect("it may"), [last]);
        assert_eq!(allowed().expect("Linux tells"), before);
        assert!(stay_on(&[usize::MAX]).is_err(), "none is none");
    }
}
