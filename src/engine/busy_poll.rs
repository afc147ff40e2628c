//! Busy polling: decides whether a wait should spin instead of sleeping. Falling asleep and being woken can take
//! longer than the next datagram of a few nearby clients needs to arrive, above all in a virtual machine, and
//! then costs about as much processor time as polling for it.
//!
//! The kernel does the same for idle virtual machines (KVM's halt polling) and for receive queues
//! (`SO_BUSY_POLL`). Where waking up is quick, or many clients' datagrams are handled in batches after a sleep,
//! it costs processor time and gains little. So some waits sleep, some spin, and those that follow do what
//! brought more datagrams in the time.

use std::thread;

use super::Inbox;
use crate::time::{Duration, Instant};

/// The longest time a wait spins: a round trip on loopback, to a virtual machine on the same host or to a
/// neighbour on a fast network, plus the client's waking up and working.
const AWAKE_MAX: Duration = Duration::from_micros(100);

/// The limit of a short wait. After a longer one, nobody is near.
const SHORT_MAX: Duration = Duration::from_micros(200);

/// Waits in a row of a trial that all sleep, or all spin.
const STRETCH: u16 = 8;

/// The last wait of a trial. Its stretches alternate, so that a load that changes meanwhile changes for both ways.
/// There are no more, since every other one makes a lone client wait for this end to wake.
const TRIAL: u16 = 4 * STRETCH;

/// The last wait before both ways are tried again.
const OVER: u16 = TRIAL + 2_000;

/// Clients that a wait hears from on average, if it sleeps, from which on none spin: it is woken once for all of them.
const CROWD: u32 = 3;

/// Chosen waits in a row that spin in vain before the others sleep: clients that went away, or are slower now, cost
/// no more than that.
const VAIN_MAX: u8 = 4;

/// Called between two polls: whether to poll once more, since it is not yet `until`. Others that wait for this core,
/// such as a client on the same machine, may run first, as far as the scheduler lets them.
pub(super) fn goes_on(until: Instant, now: impl Fn() -> Instant) -> bool {
    thread::yield_now();
    now() < until
}

/// Decides from past waits how the next one begins.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    /// Consecutive short waits, since the first one that was to be compared.
    waits: u16,
    /// Whether the current wait spins, and whether it can last at all.
    spins: bool,
    lasts: bool,
    /// When the previous wait ended.
    ended: Option<Instant>,
    /// What the current trial has found of waits that sleep, and of those that spin.
    tried: [Tried; 2],
    /// How many clients its waits that slept heard from, all added up.
    heard: u32,
    /// Whether spinning was quicker, by so much that it is worth the processor time.
    pays: bool,
    /// Chosen waits in a row that spun in vain.
    vain: u8,
}

/// What is known of waits of one kind.
#[derive(Debug, Default)]
struct Tried {
    /// The time from wait to wait, the work in between included.
    took: Duration,
    /// What came in that time.
    datagrams: u32,
}

impl BusyPoll {
    /// Whether the current or next wait that lasts is one of a trial that spins.
    const fn tries_to_spin(&self) -> bool {
        self.waits < TRIAL && self.waits / STRETCH % 2 == 1
    }

    /// Begins a wait that may last for `timeout`; returns how long it is to spin before it sleeps, if at all.
    pub(super) fn begin(&mut self, timeout: Duration) -> Option<Duration> {
        self.lasts = !timeout.is_zero();
        self.spins = self.lasts && (self.tries_to_spin() || self.pays);
        self.spins.then(|| timeout.min(AWAKE_MAX))
    }

    /// Ends the wait that began at `began`, woke at `woke`, and has received by `ended` what is in the inbox.
    pub(super) fn end(&mut self, began: Instant, woke: Instant, ended: Instant, inbox: &Inbox) {
        let lasted = woke - began;
        let since = self.ended.replace(ended).unwrap_or(began);
        if !self.lasts && self.waits == 0 {
            return;
        }
        let tried = &mut self.tried[usize::from(self.tries_to_spin())];
        // One long piece of work must not decide a trial.
        tried.took += (ended - since).min(SHORT_MAX);
        tried.datagrams = tried.datagrams.saturating_add(inbox.len() as u32);
        if self.waits < TRIAL && !self.tries_to_spin() {
            self.heard = self.heard.saturating_add(clients(inbox));
        }
        if !self.lasts {
            return;
        }
        if lasted > SHORT_MAX && !self.spins {
            *self = Self::default();
            return;
        }
        if self.pays && self.waits >= TRIAL {
            self.vain = if lasted > AWAKE_MAX { self.vain + 1 } else { 0 };
            self.pays = self.vain < VAIN_MAX;
        }
        self.waits += 1;
        match self.waits {
            TRIAL => self.pays = self.is_quicker_to_spin(),
            OVER => *self = Self::default(),
            _ => {}
        }
    }

    /// Whether few clients were heard from at once, and datagrams came faster to waits that spun, by a quarter of the
    /// time at least.
    fn is_quicker_to_spin(&self) -> bool {
        let [asleep, awake] = &self.tried;
        if self.heard >= CROWD * u32::from(TRIAL / 2) {
            return false;
        }
        let each = |tried: &Tried| tried.took.checked_div(tried.datagrams);
        each(asleep)
            .zip(each(awake))
            .is_some_and(|(asleep, awake)| awake <= asleep * 3 / 4)
    }
}

/// How many clients these datagrams are from, if those of each arrived together.
fn clients(inbox: &Inbox) -> u32 {
    let mut latest = None;
    let datagrams = (0..inbox.len()).filter_map(|place| inbox.get(place));
    datagrams.fold(0, |clients, datagram| {
        let peer = Some(datagram.path.peer);
        clients + u32::from(std::mem::replace(&mut latest, peer) != peer)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Local, Path, SocketId};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// An instance whose next wait spins.
    pub(in super::super) fn awake() -> BusyPoll {
        let mut waits = Waits::default();
        (0..STRETCH).for_each(|_| {
            waits.one(TIMEOUT, |_| (SHORT_MAX, 1));
        });
        waits.busy_poll
    }

    /// Waits one after the other, with some work in between.
    #[derive(Default)]
    struct Waits {
        busy_poll: BusyPoll,
        now: Instant,
        /// Whether all datagrams are from one client, instead of each from another.
        lone: bool,
    }

    impl Waits {
        /// One wait, as long and with as many datagrams as is said of one that spins, or does not; returns which
        /// it was.
        fn one(&mut self, timeout: Duration, is: impl Fn(bool) -> (Duration, usize)) -> bool {
            let began = self.now + micros(5);
            let spins = self.busy_poll.begin(timeout).is_some();
            let (lasted, datagrams) = is(spins);
            let mut inbox = Inbox::new();
            for port in 1..=datagrams {
                let path = Path {
                    peer: ([127, 0, 0, 1], if self.lone { 1 } else { port as u16 }).into(),
                    local: Local::default(),
                };
                inbox.push(SocketId(1), path, false, 4);
            }
            self.now = began + lasted;
            self.busy_poll.end(began, self.now, self.now, &inbox);
            spins
        }

        /// Waits that are quicker if they spin, until that is found out.
        fn until_it_pays() -> Self {
            let mut waits = Self::default();
            for _ in 0..TRIAL {
                waits.one(TIMEOUT, |spins| (micros(if spins { 20 } else { 80 }), 1));
            }
            assert!(waits.busy_poll.pays);
            waits
        }
    }

    /// Goal: waits do what brought more datagrams in the time, and find out again later. Method: clients whose
    /// datagrams arrive, one or several a wait, after the times given in microseconds, asleep and awake.
    #[test]
    fn waits_spin_where_that_is_quicker() {
        let cases = [
            ((75, 1), (54, 1), true),
            ((75, 1), (56, 1), false),
            ((95, 2), (33, 1), false),
            ((95, 2), (32, 1), true),
            ((95, 3), (2, 1), false),
            ((75, 0), (75, 1), false),
            ((75, 1), (75, 0), false),
            ((150, 1), (250, 1), false),
        ];
        for (asleep, awake, pays) in cases {
            let mut waits = Waits::default();
            let one = |_| {
                waits.one(TIMEOUT, |spins| {
                    let (lasted, datagrams) = if spins { awake } else { asleep };
                    (micros(lasted), datagrams)
                })
            };
            let spun: Vec<_> = (0..2 * OVER).map(one).collect();
            let stretch = |spins| vec![spins; STRETCH.into()];
            let trial = [stretch(false), stretch(true)].concat().repeat(2);
            let once = [trial, vec![pays; (OVER - TRIAL).into()]].concat();
            assert!(spun == once.repeat(2), "{asleep:?} {awake:?}");
        }
    }

    #[test]
    fn a_window_of_one_client_is_no_crowd() {
        for (lone, pays) in [(true, true), (false, false)] {
            let mut waits = Waits {
                lone,
                ..Waits::default()
            };
            for _ in 0..TRIAL {
                waits.one(TIMEOUT, |spins| (micros(if spins { 20 } else { 80 }), 16));
            }
            assert_eq!(waits.busy_poll.pays, pays);
        }
    }

    #[test]
    fn a_load_that_changes_during_a_trial_does_not_decide_it() {
        for (asleep, awake, pays) in [(60, 60, false), (60, 40, true)] {
            let mut waits = Waits::default();
            for wait in 1..=TRIAL {
                let less = if wait > TRIAL / 2 { 2 } else { 1 };
                let lasted = |spins| micros(if spins { awake } else { asleep } / less);
                waits.one(TIMEOUT, |spins| (lasted(spins), 1));
            }
            assert_eq!(waits.busy_poll.pays, pays, "{asleep} {awake}");
        }
    }

    #[test]
    fn a_wait_spins_no_longer_than_it_may_last() {
        let mut busy_poll = awake();
        assert_eq!(busy_poll.begin(TIMEOUT), Some(AWAKE_MAX));
        assert_eq!(busy_poll.begin(micros(3)), Some(micros(3)));
        assert_eq!(busy_poll.begin(Duration::ZERO), None);
    }

    #[test]
    fn polls_that_do_not_wait_decide_nothing() {
        let mut waits = Waits::default();
        for _ in 0..OVER {
            assert!(!waits.one(Duration::ZERO, |_| (micros(1), 1)));
        }
        for _ in 0..TRIAL {
            waits.one(TIMEOUT, |spins| (micros(if spins { 20 } else { 80 }), 1));
        }
        assert!(waits.busy_poll.pays);
    }

    #[test]
    fn to_receive_much_is_not_to_wait_long() {
        let mut busy_poll = BusyPoll::default();
        let (mut now, inbox) = (Instant::ZERO, Inbox::new());
        for _ in 0..OVER / 2 {
            busy_poll.begin(TIMEOUT);
            let woke = now + micros(50);
            busy_poll.end(now, woke, woke + 3 * SHORT_MAX, &inbox);
            now = woke + 3 * SHORT_MAX;
        }
        assert_eq!(busy_poll.waits, OVER / 2);
    }

    #[test]
    fn a_long_sleep_or_spinning_in_vain_lets_them_sleep() {
        let mut waits = Waits::until_it_pays();
        for turn in 1..=5 * VAIN_MAX {
            let lasted = AWAKE_MAX + micros(if turn % VAIN_MAX == 0 { 0 } else { 50 });
            assert!(
                waits.one(TIMEOUT, |_| (lasted, 1)),
                "not often enough in a row"
            );
        }
        for _ in 0..VAIN_MAX {
            assert!(waits.one(TIMEOUT, |_| (10 * SHORT_MAX, 1)));
        }
        assert!(!waits.one(TIMEOUT, |_| (SHORT_MAX, 1)));
        assert!(waits.busy_poll.waits > TRIAL, "as if it had not paid");
        waits.one(TIMEOUT, |_| (SHORT_MAX + Duration::from_nanos(1), 1));
        assert_eq!(waits.busy_poll.waits, 0, "nobody is near");
    }
}
