//! Rings restricted to what the engine needs, and explanations of why one is unavailable.

use std::io;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{EnterFlags, IoUring, cqueue};

/// A ring created disabled, so that it can be restricted before any request passes through it. System call
/// filters do not see a ring's operations; the restriction takes their place.
pub(super) struct Disabled(IoUring);

impl Disabled {
    /// A ring for this thread only, with `submissions` and `completions` entries in its queues.
    ///
    /// # Errors
    /// A readable message if the kernel, or a supervisor of this process, refuses.
    pub(super) fn new(submissions: u32, completions: u32) -> io::Result<Self> {
        IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(completions)
            .dontfork()
            .build(submissions)
            .map(Self)
            .map_err(|error| refused(&error))
    }

    /// The ring, for registrations before it is enabled.
    pub(super) const fn ring(&self) -> &IoUring {
        &self.0
    }

    /// The enabled ring. It accepts only these operations, with these flags, and only these registration
    /// calls.
    ///
    /// # Errors
    /// As above.
    pub(super) fn enable(
        self,
        operations: &[u8],
        flags: Flags,
        registrations: &[u8],
    ) -> io::Result<IoUring> {
        let mut restrictions: Vec<_> = operations
            .iter()
            .map(|&operation| Restriction::sqe_op(operation))
            .chain(
                registrations
                    .iter()
                    .map(|&call| Restriction::register_op(call)),
            )
            .collect();
        restrictions.push(Restriction::sqe_flags_allowed(flags.bits()));
        let submitter = self.0.submitter();
        submitter
            .register_restrictions(&mut restrictions)
            .and_then(|()| submitter.register_enable_rings())
            .map_err(|error| refused(&error))?;
        Ok(self.0)
    }
}

/// Submits what is queued and lets the kernel complete what is ready, without waiting for more.
pub(super) fn advance(ring: &mut IoUring) -> io::Result<()> {
    let queued = ring.submission().len() as u32;
    let flags = EnterFlags::GETEVENTS.bits();
    // SAFETY: as many submissions as the queue holds, no argument, and no flag that needs one.
    let entered = unsafe {
        ring.submitter()
            .enter::<libc::sigset_t>(queued, 0, flags, None)
    };
    entered.map(drop)
}

/// Takes the next completion.
pub(super) fn next(ring: &mut IoUring) -> Option<cqueue::Entry> {
    ring.completion().next()
}

/// A readable reason why the kernel provides no ring. The error's kind and number are kept.
pub(super) fn refused(error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is not permitted here (by a container's profile or kernel.io_uring_disabled)"
        }
        Some(libc::EINVAL) => "io_uring of this kernel is too old: Linux 6.1 is needed",
        Some(libc::ENOMEM) => "too little memory for io_uring may be locked (see ulimit -l)",
        _ => return io::Error::new(error.kind(), format!("io_uring cannot be had: {error}")),
    };
    io::Error::new(error.kind(), why)
}

#[cfg(test)]
mod tests {
    use io_uring::opcode;

    use super::*;
    use crate::testing::skip;

    #[test]
    fn refusals_are_told_in_words() {
        for (errno, part) in [
            (libc::ENOSYS, "no io_uring"),
            (libc::EPERM, "not permitted"),
            (libc::EINVAL, "too old"),
            (libc::ENOMEM, "memory"),
            (libc::EMFILE, "cannot be had"),
        ] {
            let told = refused(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_restricted_ring_does_nothing_else() {
        let ring = Disabled::new(4, 8)
            .and_then(|ring| ring.enable(&[opcode::PollAdd::CODE], Flags::empty(), &[]));
        let mut ring = match ring {
            Ok(ring) => ring,
            Err(why) => return skip(&why.to_string()),
        };
        // SAFETY: an operation that uses no memory.
        unsafe { ring.submission().push(&opcode::Nop::new().build()) }.expect("room for one");
        ring.submit_and_wait(1).expect("a working ring");
        let answer = ring.completion().next().expect("an answer");
        assert_eq!(answer.result(), -libc::EACCES);
        assert!(ring.submitter().register_files_sparse(1).is_err());
    }
}
