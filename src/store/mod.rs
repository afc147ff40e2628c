//! Names to bodies: what a shard asks for, and gets without ever waiting for a disk.
//!
//! Whatever may block (opening, reading, writing, publishing) is done by a small pool of threads with
//! a bounded queue; the shard gets the result at once when it is at hand ([`Answer::Now`]), or
//! later through its [`Mailbox`]. One opening is shared by all who read the same file, and so are the
//! DATA packets made from it ([`Frames`]).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Waker;

use crate::proto::block::{BlockIndex, Rollover};
use crate::wire::{ErrorCode, Mode};

/// Names a shard's question, so that the answer finds the transfer that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Where a shard's answers go: into its channel, and it is woken.
#[derive(Debug, Clone)]
pub struct Mailbox {
    sender: Sender<Done>,
    waker: Waker,
}

impl Mailbox {
    /// A mailbox that puts into `sender` and then wakes by `waker`.
    #[must_use]
    pub const fn new(sender: Sender<Done>, waker: Waker) -> Self {
        Self { sender, waker }
    }

    /// Delivers; a shard that has ended no longer cares.
    pub fn deliver(&self, done: Done) {
        if self.sender.send(done).is_ok() {
            self.waker.wake_by_ref();
        }
    }
}

/// An answer that is at hand, or one that will come through the mailbox.
#[derive(Debug)]
pub enum Answer<T> {
    /// Here it is.
    Now(T),
    /// It will be delivered.
    Later,
    /// Too much is waiting already; ask again in a while.
    Busy,
}

/// What comes through a [`Mailbox`].
#[derive(Debug)]
pub enum Done {
    /// The answer to [`Store::open`].
    Opened(Ticket, Result<Arc<Body>, Refusal>),
    /// The answer to [`Store::frames`]; it serves every transfer of the shard that waits for `key`.
    Framed(FramesKey, Result<Arc<Frames>, ReadFailure>),
    /// The answer to [`Store::create`].
    Created(Ticket, Result<Upload, Refusal>),
    /// The answer to [`Store::write`]: the upload and the emptied buffer come back.
    Written(Ticket, Upload, Vec<u8>, Result<(), Refusal>),
    /// The answer to [`Store::publish`].
    Published(Ticket, Result<(), Refusal>),
}

/// Why a name cannot be opened, or an upload cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing there.
    NotFound,
    /// Something there, but not for the asker: not readable, not a regular file, outside the root.
    Denied,
    /// Something there already, and uploads may not replace.
    Exists,
    /// No room: the disk, the quota, or the operator's limit on uploads.
    DiskFull,
    /// The system failed in another way: its error number.
    Failed(i32),
}

impl Refusal {
    /// The ERROR packet that says so: exact codes (U-Boot restarts for ever on any but 1 and 2), and
    /// texts that never hold a path of the server.
    #[must_use]
    pub const fn error(self) -> (ErrorCode, &'static str) {
        match self {
            Self::NotFound => (ErrorCode::NOT_FOUND, "file not found"),
            Self::Denied => (ErrorCode::ACCESS, "access denied"),
            Self::Exists => (ErrorCode::EXISTS, "file already exists"),
            Self::DiskFull => (ErrorCode::DISK_FULL, "disk full or upload too large"),
            Self::Failed(_) => (ErrorCode::UNDEFINED, "the server cannot do this now"),
        }
    }
}

/// Why the octets of a body cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// The file became shorter, or was written over in place, since it was opened.
    Changed,
    /// The system failed: its error number.
    Failed(i32),
}
