//! Busy polling: decides whether a wait should spin instead of sleeping. Falling asleep and being woken
//! takes longer than the next datagram of a single nearby client needs to arrive, and costs as much
//! processor time as polling for it.
//!
//! The kernel does the same for idle virtual machines (KVM's halt polling) and for receive queues
//! (`SO_BUSY_POLL`). It pays off for a single client only: with many clients, the datagrams that arrive
//! during a sleep are handled in one batch afterwards, which is cheaper.

use std::net::SocketAddr;

use super::Inbox;
use crate::time::Duration;

/// The longest time a wait spins, and the limit of a short wait: a round trip on loopback, to a virtual
/// machine on the same host or to a neighbour on a fast network, plus the client's processing time.
const AWAKE_MAX: Duration = Duration::from_micros(50);

/// Short waits in a row before one spins, so that a wait that spun in vain costs less than these
/// waits did.
const SHORT_WAITS_MIN: u8 = 8;

/// Decides from past waits how the next one begins.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// The peer whose single datagram ended the previous wait.
    peer: Option<SocketAddr>,
    /// Consecutive short waits that a single datagram of that peer ended.
    short_waits: u8,
}

impl BusyPoll {
    /// How long the next wait spins before it sleeps, if at all; the wait may last for `timeout`.
    pub(super) fn stays_awake(&self, timeout: Duration) -> Option<Duration> {
        let is_due = self.short_waits >= SHORT_WAITS_MIN && !timeout.is_zero();
        is_due.then(|| timeout.min(AWAKE_MAX))
    }

    /// Records a wait: how long it lasted and what it received.
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

    /// An instance whose next wait spins.
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

    /// Records `count` waits, each ended by one datagram from each of these peers.
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
