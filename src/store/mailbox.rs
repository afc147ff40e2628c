//! How a store answers a shard: at once, or later through its mailbox.

use std::sync::Arc;
use std::task::Waker;

use super::{Body, Frames, FramesKey, ReadFailure, Refusal, Upload};
use crate::sync::mpsc::Sender;

/// Identifies a shard's request, so that the answer finds the transfer that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The destination of a shard's answers: sends them into its channel and wakes it.
#[derive(Debug, Clone)]
pub struct Mailbox {
    address: Arc<Address>,
}

#[derive(Debug)]
struct Address {
    sender: Sender<Done>,
    waker: Waker,
}

impl Mailbox {
    /// A mailbox that sends to `sender` and then wakes `waker`.
    #[must_use]
    pub fn new(sender: Sender<Done>, waker: Waker) -> Self {
        Self {
            address: Arc::new(Address { sender, waker }),
        }
    }

    /// Delivers an answer; if the shard has ended, the answer is dropped.
    pub fn deliver(&self, done: Done) {
        if self.address.sender.send(done).is_ok() {
            self.address.waker.wake_by_ref();
        }
    }

    /// Whether both are clones of one mailbox.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.address, &other.address)
    }
}

/// An answer that is available, or one that will come through the mailbox.
#[derive(Debug)]
pub enum Answer<T> {
    /// The answer is available.
    Now(T),
    /// It will be delivered.
    Later,
    /// Too many requests are waiting; ask again later.
    Busy,
}

/// What comes through a [`Mailbox`].
#[derive(Debug)]
pub enum Done {
    /// The answer to [`Store::open`](super::Store::open).
    Opened(Ticket, Result<Arc<Body>, Refusal>),
    /// The answer to [`Store::frames`](super::Store::frames); it serves every transfer of the shard that waits for `key`.
    Framed(FramesKey, Result<Arc<Frames>, ReadFailure>),
    /// The answer to [`Store::create`](super::Store::create).
    Created(Ticket, Result<Upload, Refusal>),
    /// The answer to [`Store::write`](super::Store::write): returns the upload and the emptied buffer.
    Written(Ticket, Upload, Vec<u8>, Result<(), Refusal>),
    /// The answer to [`Store::publish`](super::Store::publish).
    Published(Ticket, Result<(), Refusal>),
}
