//! When a wait had better stay awake: to sleep and to be woken takes longer than the next datagram of a
//! lone client nearby, and costs no less processor time than to ask for it again and again.
//!
//! The kernel does the same for virtual machines that go idle (KVM's halt polling) and for receive queues
//! (`SO_BUSY_POLL`). It pays for one client at a time alone: where many keep a shard busy, a sleep
//! gathers what the next round handles together.

use std::net::SocketAddr;

use super::Inbox;
use crate::time::Duration;

/// The longest that a wait stays awake, and what counts as a short one: a round trip on loopback or to a
/// neighbour on a fast network, with what a client needs for its answer.
const AWAKE_MAX: Duration = Duration::from_micros(50);

/// Short waits in a row before one stays awake, so that a wait that stayed awake for nothing has cost less
/// than what these had used.
const SHORT_WAITS_MIN: u8 = 8;

/// Tells from the waits so far how the next one is to begin.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// Whose datagram alone ended the wait before.
    peer: Option<SocketAddr>,
    /// Waits in a row that were short, and ended by one datagram of that peer.
    short_waits: u8,
}

impl BusyPoll {
    /// For how long the next wait stays awake before it sleeps, if it does at all; it may last for `timeout`.
    pub(super) fn stays_awake(&self, timeout: Duration) -> Option<Duration> {
        let is_due = self.short_waits >= SHORT_WAITS_MIN && !timeout.is_zero();
        is_due.then(|| timeout.min(AWAKE_MAX))
    }

    /// Takes note of a wait: how long it lasted, and what it brought.
    pub(super) fn note(&mut self, lasted: Duration, inbox: &Inbox) {
        let alone = inbox.get(0).filter(|_| inbox.len() == 1);
        let peer = alone.map(|datagram| datagram.path.peer);
        let goes_on = peer.is_some() && peer == self.peer && lasted <= AWAKE_MAX;
        self.peer = peer;
        self.short_waits = if goes_on {
            SHORT_WAITS_MIN.min(self.short_waits + 1)
        } else {
            0
        };
    }
}
