//! Busy polling: whether a wait is better spent awake. To fall asleep and be woken takes longer than the next
//! datagram of a single client nearby, and costs as much processor time as asking for it again and again.
//!
//! The kernel does the same for virtual machines that go idle (KVM's halt polling) and for receive queues
//! (`SO_BUSY_POLL`). It is worth it for a single client only: where many keep a shard busy, what arrives during
//! a sleep is handled together afterwards, which is cheaper.

use std::net::SocketAddr;

use super::Inbox;
use crate::time::Duration;

/// The longest that a wait stays awake, and what counts as a short one: a round trip on loopback, to a virtual
/// machine on the same host or to a neighbour on a fast network, with what a client needs for its answer.
const AWAKE_MAX: Duration = Duration::from_micros(50);

/// Short waits in a row before one stays awake, so that a wait that stayed awake in vain costs less than those
/// had used.
const SHORT_WAITS_MIN: u8 = 8;

/// Decides from the waits so far how the next one begins.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// The peer whose single datagram ended the wait before.
    peer: Option<SocketAddr>,
    /// Waits in a row that were short and ended by a single datagram of that peer.
    short_waits: u8,
}

impl BusyPoll {
    /// How long the next wait stays awake before it sleeps, if it does so at all; it may last for `timeout`.
    pub(super) fn stays_awake(&self, timeout: Duration) -> Option<Duration> {
        let is_due = self.short_waits >= SHORT_WAITS_MIN && !timeout.is_zero();
        is_due.then(|| timeout.min(AWAKE_MAX))
    }

    /// Takes note of a wait: how long it lasted, and what it brought.
    pub(super) fn note(&mut self, lasted: Duration, inbox: &Inbox) {
        let single = inbox.get(0).filter(|_| inbox.len() == 1);
        let peer = single.map(|datagram| datagram.path.peer);
        let goes_on = peer.is_some() && peer == self.peer && lasted <= AWAKE_MAX;
        self.peer = peer;
        self.short_waits = if goes_on {
            SHORT_WAITS_MIN.min(self.short_waits + 1)
        } else {
            0
        };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Local, Path, SocketId};
    use super::*;

    /// One whose next wait stays awake.
    pub(in super::super) fn awake() -> BusyPoll {
        let mut busy_poll = BusyPoll::default();
        note(
            &mut busy_poll,
            1 + usize::from(SHORT_WAITS_MIN),
            AWAKE_MAX,
            &[1],
        );
        busy_poll
    }

    /// Takes note of `count` waits, each ended by a datagram of each of these peers.
    fn note(busy_poll: &mut BusyPoll, count: usize, lasted: Duration, peers: &[u16]) {
        let mut inbox = Inbox::new();
        for &port in peers {
            let path = Path {
                peer: ([127, 0, 0, 1], port).into(),
                local: Local::default(),
            };
            inbox.push(SocketId(1), path, false, 4);
        }
        for _ in 0..count {
            busy_poll.note(lasted, &inbox);
        }
    }

    #[test]
    fn a_single_peer_that_is_quick_keeps_waits_awake() {
        let timeout = Duration::from_secs(1);
        let mut busy_poll = BusyPoll::default();
        note(
            &mut busy_poll,
            usize::from(SHORT_WAITS_MIN),
            AWAKE_MAX,
            &[1],
        );
        assert_eq!(busy_poll.stays_awake(timeout), None, "one too few");
        note(&mut busy_poll, 1, AWAKE_MAX, &[1]);
        assert_eq!(busy_poll.stays_awake(timeout), Some(AWAKE_MAX));
        let short = Duration::from_micros(3);
        assert_eq!(busy_poll.stays_awake(short), Some(short));
        assert_eq!(busy_poll.stays_awake(Duration::ZERO), None);
    }

    #[test]
    fn a_long_wait_another_peer_or_a_second_datagram_lets_them_sleep() {
        let longer = AWAKE_MAX + Duration::from_nanos(1);
        let cases: [(Duration, &[u16]); 4] = [
            (longer, &[1]),
            (AWAKE_MAX, &[2]),
            (AWAKE_MAX, &[1, 1]),
            (AWAKE_MAX, &[]),
        ];
        for (lasted, peers) in cases {
            let mut busy_poll = awake();
            note(&mut busy_poll, 1, lasted, peers);
            let awake = busy_poll.stays_awake(AWAKE_MAX);
            assert_eq!(awake, None, "{lasted:?} {peers:?}");
        }
    }
}
