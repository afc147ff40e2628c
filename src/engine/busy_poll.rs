//! Busy polling: decides whether a wait should spin instead of sleeping. Where falling asleep and being woken
//! takes long, as in most virtual machines, it takes longer than the next datagram of a few nearby clients
//! needs to arrive, and costs as much processor time as polling for it.
//!
//! The kernel does the same for idle virtual machines (KVM's halt polling) and for receive queues
//! (`SO_BUSY_POLL`). Where waking up is quick, or clients are many and their datagrams are handled in batches
//! after a sleep, it costs processor time and gains nothing. So some waits sleep, some spin, and those that
//! follow do what brought more datagrams in the time.

use super::Inbox;
use crate::time::{Duration, Instant};

/// The longest time a wait spins: a round trip on loopback, to a virtual machine on the same host or to a
/// neighbour on a fast network, plus the client's waking up and working.
const AWAKE_MAX: Duration = Duration::from_micros(100);

/// The limit of a short wait. A longer one lasts too long for spinning to change much.
const SHORT_MAX: Duration = Duration::from_micros(200);

/// The last wait of the trial that sleeps; as many spin before one way is chosen.
const ASLEEP_TRIAL: u16 = 16;

/// The last wait of the trial that spins.
const AWAKE_TRIAL: u16 = 2 * ASLEEP_TRIAL;

/// The last wait before both ways are tried again: a few hundredths of a second later.
const OVER: u16 = AWAKE_TRIAL + 2_000;

/// Decides from past waits how the next one begins.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// Consecutive short waits, since the first one that was to be compared.
    waits: u16,
    /// When the current trial began, and the datagrams that it received.
    began: Instant,
    datagrams: u32,
    /// The time that each datagram took in the trial that slept.
    asleep: Duration,
    /// Whether spinning was quicker, by so much that it is worth the processor time.
    pays: bool,
}

impl BusyPoll {
    /// How long the next wait spins before it sleeps, if at all; the wait may last for `timeout`.
    pub(super) fn stays_awake(&self, timeout: Duration) -> Option<Duration> {
        let spins = self.pays || (ASLEEP_TRIAL..AWAKE_TRIAL).contains(&self.waits);
        (spins && !timeout.is_zero()).then(|| timeout.min(AWAKE_MAX))
    }

    /// Records a wait: when it began and ended, and what it received.
    pub(super) fn note(&mut self, began: Instant, ended: Instant, inbox: &Inbox) {
        if ended - began > SHORT_MAX {
            *self = Self::default();
            return;
        }
        if self.waits == 0 {
            self.began = began;
        }
        self.waits += 1;
        self.datagrams += inbox.len() as u32;
        match self.waits {
            ASLEEP_TRIAL => self.asleep = self.end_trial(ended),
            // By a quarter at least.
            AWAKE_TRIAL => self.pays = self.end_trial(ended) <= self.asleep / 4 * 3,
            OVER => *self = Self::default(),
            _ => {}
        }
    }

    /// Ends a trial; returns the time that each of its datagrams took.
    fn end_trial(&mut self, now: Instant) -> Duration {
        let took = now - std::mem::replace(&mut self.began, now);
        match std::mem::take(&mut self.datagrams) {
            0 => Duration::MAX,
            datagrams => took / datagrams,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Local, Path, SocketId};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// An instance whose next wait spins.
    pub(in super::super) fn awake() -> BusyPoll {
        let mut waits = Waits::default();
        (0..ASLEEP_TRIAL).for_each(|_| waits.one(SHORT_MAX, 1));
        waits.busy_poll
    }

    /// Waits one after the other, with some work in between.
    #[derive(Default)]
    struct Waits {
        busy_poll: BusyPoll,
        now: Instant,
    }

    impl Waits {
        /// Records one that received so many datagrams.
        fn one(&mut self, lasted: Duration, datagrams: usize) {
            let mut inbox = Inbox::new();
            for port in 1..=datagrams {
                let path = Path {
                    peer: ([127, 0, 0, 1], port as u16).into(),
                    local: Local::default(),
                };
                inbox.push(SocketId(1), path, false, 4);
            }
            let began = self.now + Duration::from_micros(5);
            self.now = began + lasted;
            self.busy_poll.note(began, self.now, &inbox);
        }

        fn is_next_awake(&self) -> bool {
            self.busy_poll.stays_awake(TIMEOUT).is_some()
        }
    }

    /// Goal: waits do what brought more datagrams in the time, and find out again later. Method: clients whose
    /// datagrams arrive, one or several a wait, after the times given in microseconds, asleep and awake.
    #[test]
    fn waits_spin_where_that_is_quicker() {
        let cases = [
            ((75, 1), (54, 1), true),
            ((75, 1), (56, 1), false),
            ((95, 4), (20, 1), false),
            ((95, 4), (10, 1), true),
            ((75, 0), (75, 0), false),
            ((75, 0), (75, 1), true),
        ];
        for (asleep, awake, pays) in cases {
            let mut waits = Waits::default();
            let mut spun = Vec::new();
            for _ in 0..2 * OVER {
                let spins = waits.is_next_awake();
                let (micros, datagrams) = if spins { awake } else { asleep };
                waits.one(Duration::from_micros(micros), datagrams);
                spun.push(spins);
            }
            let trial = usize::from(ASLEEP_TRIAL);
            let chosen = usize::from(OVER) - 2 * trial;
            let once = [(false, trial), (true, trial), (pays, chosen)];
            let once = once.map(|(spins, count)| vec![spins; count]).concat();
            assert!(spun == once.repeat(2), "{asleep:?} {awake:?}");
        }
    }

    #[test]
    fn a_wait_spins_no_longer_than_it_may_last() {
        let busy_poll = awake();
        assert_eq!(busy_poll.stays_awake(TIMEOUT), Some(AWAKE_MAX));
        let short = Duration::from_micros(3);
        assert_eq!(busy_poll.stays_awake(short), Some(short));
        assert_eq!(busy_poll.stays_awake(Duration::ZERO), None);
    }

    #[test]
    fn a_long_wait_lets_them_sleep() {
        let mut waits = Waits::default();
        (0..OVER / 2).for_each(|_| {
            let micros = if waits.is_next_awake() { 20 } else { 80 };
            waits.one(Duration::from_micros(micros), 1);
        });
        assert!(waits.is_next_awake());
        waits.one(SHORT_MAX, 1);
        assert!(waits.is_next_awake(), "still short");
        waits.one(SHORT_MAX + Duration::from_nanos(1), 1);
        assert!(!waits.is_next_awake());
    }
}
