//! How long to wait for a peer: retransmission times that fit the peer, and the limits of patience.

use std::num::NonZeroU8;

use super::negotiate::Params;
use crate::time::{Duration, Instant};

/// What the operator set about waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Least retransmission time towards a client in lock-step. A Raspberry Pi 4 takes a repeated
    /// DATA for the next block and hangs, so nothing is repeated early.
    pub lockstep_floor: Duration,
    /// Least retransmission time of a receiver with a window. It asks a little earlier than the sender
    /// would repeat, so that a lost tail costs one ACK and not a whole window from each side.
    /// Milliseconds, for every transfer holds these settings, and so they take no more room.
    pub receiver_floor_millis: u16,
    /// A transfer that has not moved for this long is over. Long, for flash is slow to write.
    pub idle: Duration,
    /// Seconds that this end waits before it repeats, even where the other did not agree to them.
    pub own_timeout: Option<NonZeroU8>,
    /// Retransmissions to a peer that has yet to prove that it is there. Forged requests draw this
    /// many datagrams and one more.
    pub unvalidated_retries: u8,
    /// When a client of known habits repeats itself; `None` for RFC 6298's arithmetic.
    pub repeats: Option<&'static Repeats>,
}

impl Patience {
    /// What holds unless the operator says otherwise.
    pub const DEFAULT: Self = Self {
        lockstep_floor: Duration::from_secs(1),
        receiver_floor_millis: 10,
        idle: Duration::from_secs(30),
        own_timeout: None,
        unvalidated_retries: 3,
        repeats: None,
    };

    /// The same, where this end always waits so many seconds before it repeats; none, and 0, say nothing.
    #[must_use]
    pub fn with_own_timeout(self, seconds: Option<u8>) -> Self {
        Self {
            own_timeout: seconds.and_then(NonZeroU8::new),
            ..self
        }
    }
}

/// When a client of known habits says again what was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// How long it waits after each try in a row, in milliseconds: as many as it has tries, at least one. If
    /// its patience lasts longer, so does the last of them.
    pub waits_millis: &'static [u16],
    /// Whether it repeats its ACKs too, or its request alone.
    pub acks: bool,
    /// Whether it waits longer where round trips are longer.
    pub adapts: bool,
}

impl Repeats {
    /// How long it waits after so many silences in a row.
    pub(super) const fn wait(&self, silences: u8) -> Duration {
        let last = self.waits_millis.len() - 1;
        let place = if (silences as usize) < last {
            silences as usize
        } else {
            last
        };
        Duration::from_millis(self.waits_millis[place] as u64)
    }

    /// How long it takes until it gives up.
    pub(super) const fn whole(&self) -> Duration {
        let mut millis = 0;
        let mut place = 0;
        while place < self.waits_millis.len() {
            millis += self.waits_millis[place] as u64;
            place += 1;
        }
        Duration::from_millis(millis)
    }
}

/// Before the first measurement (RFC 6298 §2.1).
const INTERVAL_FIRST: Duration = Duration::from_secs(1);
/// Silences in a row through which a time shorter than a second, set by the client, is kept; then it is
/// doubled up to a second, for ten milliseconds of a forged request would draw thousands of datagrams.
const FIXED_SILENCES: u8 = 4;
/// Least time that a peer which has yet to prove itself has to answer the last repeat. The client may have set a
/// wait of ten milliseconds, and be farther away than all of them together.
const LAST_WAIT_MIN: Duration = Duration::from_secs(1);
/// Silences in a row before doubling lasts in lock-step, if each ended as if the answer had only been slow. One
/// may be a loss all the same; but where no round trip is measured between them, it is longer than the wait, and
/// each block would be sent at least twice, to the end of the file.
const STRAINS_MAX: u8 = 2;
/// The same of a sender with windows that has measured before: its waits are shorter, and what is lost in windows
/// to a receiver that reports no gap leaves many of them unmeasured.
const STRAINS_MAX_OF_WINDOWS: u8 = 8;
/// Doubling ends here, so that several tries fit the idle time.
const INTERVAL_MAX: Duration = Duration::from_secs(8);
/// Least retransmission time of a sender whose receiver negotiated a window and so copes with repeats.
const WINDOWED_SENDER_FLOOR: Duration = Duration::from_millis(20);
/// However steady the round trips were, the next one may meet a disk or a busy machine (RFC 6298 §2.3's G).
const VARIATION_MIN: Duration = Duration::from_millis(10);
/// The least variation to begin with. One sample says nothing of how much round trips vary, and those of a
/// crowd that begins grow by tens of milliseconds in one; a steady path is back at the least within eight.
/// A sender's alone: if that is too early it sends a window, and a receiver an ACK that the sender passes over.
const VARIATION_FIRST_MIN: Duration = Duration::from_millis(12);
/// No path is so many times faster than it was: the mean came of something else than round trips.
const OUT_OF_PROPORTION: u64 = 8;
/// What takes longer is no round trip: every transfer that stands still for so long is over.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(3_600);

/// Which end of a transfer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Sender,
    Receiver,
}

/// The retransmission time: RFC 6298's arithmetic over the samples given, doubling on silence.
#[derive(Debug, Clone)]
pub(super) struct Retransmission {
    /// The client set the time, or whoever runs this end; it is kept.
    fixed: Option<Duration>,
    repeats: Option<&'static Repeats>,
    floor: Duration,
    variation_first_min: Duration,
    smoothed: Option<Smoothed>,
    silences: u8,
    /// Silences in a row that may have been for nothing, since a round trip was measured.
    strains: u8,
    /// Doublings of the time.
    doublings: u8,
    /// After how many of those they last until a round trip is measured again (Karn and Partridge 1987), and do
    /// not end with the silence: first while none was ever measured, then at all other times.
    strains_max: [u8; 2],
}

/// In nanoseconds, which take half the room of a [`Duration`].
#[derive(Debug, Clone, Copy)]
struct Smoothed {
    mean: u64,
    variation: u64,
    least: u64,
}

impl Smoothed {
    /// By how much a round trip may be longer than the mean without being overdue.
    fn margin(&self) -> u64 {
        let least = const { VARIATION_MIN.as_nanos() as u64 };
        (self.variation * 4).max(least)
    }
}

impl Retransmission {
    pub(super) fn new(params: &Params, patience: &Patience, end: End) -> Self {
        let floor = match end {
            _ if params.is_lockstep() => patience.lockstep_floor,
            End::Sender => WINDOWED_SENDER_FLOOR,
            End::Receiver => Duration::from_millis(patience.receiver_floor_millis.into()),
        };
        // In lock-step the floor is longer.
        let variation_first_min = match end {
            End::Sender => VARIATION_FIRST_MIN,
            End::Receiver => Duration::ZERO,
        };
        Self {
            fixed: params.timeout().or_else(|| {
                let seconds = patience.own_timeout?;
                Some(Duration::from_secs(seconds.get().into()))
            }),
            repeats: patience.repeats,
            floor,
            variation_first_min,
            smoothed: None,
            silences: 0,
            strains: 0,
            doublings: 0,
            strains_max: match end {
                _ if params.is_lockstep() => [STRAINS_MAX; 2],
                End::Sender => [0, STRAINS_MAX_OF_WINDOWS],
                End::Receiver => [0; 2],
            },
        }
    }

    /// Takes the terms agreed since; what was measured stays. A sender whose request was answered only when it had
    /// been repeated may be far away, and waits twice as long with its first window; an ACK costs less.
    pub(super) fn agree(&mut self, params: &Params, patience: &Patience, end: End) {
        let kept = match end {
            End::Sender => self.silences.min(1),
            End::Receiver => 0,
        };
        *self = Self {
            smoothed: self.smoothed,
            silences: kept,
            doublings: kept,
            ..Self::new(params, patience, end)
        };
    }

    /// How long to wait now.
    pub(super) fn interval(&self) -> Duration {
        if let Some(fixed) = self.fixed {
            // What is asked for by the microsecond is kept for as long as it can be meant so.
            let doublings = self.silences.saturating_sub(FIXED_SILENCES).min(16);
            return fixed
                .saturating_mul(1 << doublings)
                .min(INTERVAL_FIRST.max(fixed));
        }
        match self.repeats {
            None => self.measured(),
            Some(repeats) if repeats.adapts && self.smoothed.is_some() => {
                self.measured().max(repeats.wait(self.silences))
            }
            Some(repeats) => repeats.wait(self.silences),
        }
    }

    /// How long to wait by what was measured.
    fn measured(&self) -> Duration {
        // The queue of a crowd may grow to twice its length before the next round trip is measured.
        let base = self.smoothed.map_or(INTERVAL_FIRST, |s| {
            Duration::from_nanos(s.mean + s.margin().max(s.mean))
        });
        let base = base.max(self.floor);
        // Where the floor lies above the ceiling, the operator meant it.
        base.saturating_mul(1 << self.doublings.min(16))
            .min(INTERVAL_MAX.max(self.floor))
    }

    /// How long to wait for an answer to the last repeat, before the peer is taken for one that never was there.
    pub(super) fn interval_at_last(&self) -> Duration {
        self.interval().max(LAST_WAIT_MIN)
    }

    /// How long to wait for the rest of a window that has begun to come: its blocks leave together, and
    /// what a crowd's queue may add to a round trip does not come between them.
    pub(super) fn interval_within_window(&self) -> Duration {
        match (self.fixed, self.round_trip()) {
            (None, Some(mean)) if self.repeats.is_none() => {
                let base = (mean + VARIATION_MIN).max(self.floor);
                match self.doublings {
                    0 => base,
                    doublings => base
                        .saturating_mul(1 << doublings.min(16))
                        .min(INTERVAL_MAX),
                }
            }
            _ => self.interval(),
        }
    }

    /// After how long an answer is overdue, whatever the client set; `None` while nothing was measured.
    pub(super) fn overdue(&self) -> Option<Duration> {
        self.smoothed
            .map(|s| Duration::from_nanos(s.mean + s.margin()))
    }

    /// A round trip measured on something that was sent once (Karn's rule is the caller's to keep).
    ///
    /// The answer may have been lost nevertheless, and said again after a wait of the peer's own: such a
    /// sample is out of all proportion. The first in proportion again puts an end to it.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        self.doublings = self.silences;
        self.strains = 0;
        let round_trip = round_trip.min(ROUND_TRIP_MAX).as_nanos() as u64;
        let old = self
            .smoothed
            .filter(|old| old.mean <= round_trip * OUT_OF_PROPORTION);
        self.smoothed = Some(match old {
            None => Smoothed {
                mean: round_trip,
                variation: (round_trip / 2).max(self.variation_first_min.as_nanos() as u64),
                least: round_trip,
            },
            Some(old) => Smoothed {
                mean: (old.mean * 7 + round_trip) / 8,
                variation: (old.variation * 3 + old.mean.abs_diff(round_trip)) / 4,
                least: old.least.min(round_trip),
            },
        });
    }

    /// Nothing came in time: wait twice as long.
    pub(super) const fn silence(&mut self) {
        self.silences = self.silences.saturating_add(1);
        self.doublings = self.doublings.saturating_add(1);
    }

    /// Whether silence has this end say its last ACK again.
    pub(super) fn repeats_acks(&self) -> bool {
        self.repeats.is_none_or(|repeats| repeats.acks)
    }

    /// How often in a row nothing came in time.
    pub(super) const fn silences(&self) -> u8 {
        self.silences
    }

    /// Something moved: the silence is over. If all that was under way has arrived (`whole`), the answer may only
    /// have been slow; otherwise something was missing indeed.
    pub(super) fn progress(&mut self, whole: bool) {
        if self.silences > 0 {
            self.strains = if whole {
                self.strains.saturating_add(1)
            } else {
                0
            };
        }
        self.silences = 0;
        let [at_first, later] = self.strains_max;
        let most = self.smoothed.map_or(at_first, |_| later);
        if self.strains <= most {
            self.doublings = 0;
        }
    }

    /// The smoothed round trip, if one was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed.map(|s| Duration::from_nanos(s.mean))
    }

    /// The shortest round trip measured, zero while none was.
    pub(super) fn least_round_trip(&self) -> Duration {
        self.smoothed
            .map_or(Duration::ZERO, |s| Duration::from_nanos(s.least))
    }

    /// How long a transfer may stand still: never less than two of the waits that were set. A server agrees
    /// to none that its operator's patience does not hold twice.
    pub(super) fn idle(&self, patience: &Patience) -> Duration {
        patience.idle.max(self.fixed.unwrap_or_default() * 2)
    }
}

/// The earlier of two moments, where either may be missing.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::negotiate::{Wanted, accept};
    use crate::wire::Options;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn lockstep_starts_at_a_second_doubles_and_starts_afresh() {
        let mut timer = Retransmission::new(&Params::RFC1350, &Patience::DEFAULT, End::Sender);
        let mut waits = Vec::new();
        for _ in 0..5 {
            waits.push(timer.interval().as_secs());
            timer.silence();
        }
        assert_eq!(waits, [1, 2, 4, 8, 8]);
        timer.progress(true);
        timer.sample(millis(1));
        assert_eq!(
            timer.interval(),
            Duration::from_secs(1),
            "a quick client is not repeated to early"
        );
    }

    #[test]
    fn samples_follow_rfc_6298() {
        let patience = Patience {
            lockstep_floor: millis(1),
            ..Patience::DEFAULT
        };
        let mut timer = Retransmission::new(&Params::RFC1350, &patience, End::Sender);
        timer.sample(millis(80));
        assert_eq!(timer.interval(), millis(80 + 4 * 40));
        timer.sample(millis(160));
        // Variation (3·40 + |80 − 160|) / 4 = 50, mean (7·80 + 160) / 8 = 90.
        assert_eq!(timer.interval(), millis(90 + 4 * 50));
        assert_eq!(timer.overdue(), Some(millis(90 + 4 * 50)));
    }

    #[test]
    fn a_receiver_that_has_waited_long_does_so_until_it_has_measured_again() {
        let windowed = windowed();
        let waits = |end| {
            let mut timer = Retransmission::new(&windowed, &Patience::DEFAULT, end);
            timer.sample(millis(0));
            let first = timer.interval();
            timer.silence();
            timer.progress(true);
            let after_silence = timer.interval();
            timer.sample(millis(0));
            (first, after_silence, timer.interval())
        };
        assert_eq!(waits(End::Receiver), (millis(10), millis(20), millis(10)));
        assert_eq!(waits(End::Sender), (millis(48), millis(48), millis(36)));
    }

    /// Goal: where each answer comes after the repeat, none is ever measured, and the wait grows until one is.
    /// Method: a round trip that is longer than the first wait, or than those measured before.
    #[test]
    fn a_round_trip_longer_than_the_wait_is_measured_in_the_end() {
        let repeats = |params: &Params, before: Option<Duration>, round_trip| {
            let mut timer = Retransmission::new(params, &Patience::DEFAULT, End::Sender);
            before.into_iter().for_each(|before| timer.sample(before));
            let mut repeats = 0;
            for _ in 0..100 {
                let mut waited = timer.interval();
                let in_time = waited >= round_trip;
                while waited < round_trip {
                    timer.silence();
                    waited += timer.interval();
                    repeats += 1;
                }
                if in_time {
                    timer.sample(round_trip);
                }
                timer.progress(true);
            }
            repeats
        };
        let far = millis(1_500);
        assert_eq!(repeats(&Params::RFC1350, None, far), 3);
        assert_eq!(repeats(&Params::RFC1350, Some(millis(20)), far), 3);
        assert_eq!(repeats(&windowed(), None, far), 1);
        assert_eq!(repeats(&windowed(), Some(millis(10)), millis(100)), 9);
    }

    /// An ACK that was lost and said again by the peer's own timer measures that timer, not the path.
    #[test]
    fn a_mean_out_of_proportion_is_given_up() {
        let after = |slow, quick| {
            let mut timer = Retransmission::new(&Params::RFC1350, &Patience::DEFAULT, End::Sender);
            timer.sample(millis(slow));
            timer.sample(millis(quick));
            (timer.round_trip(), timer.least_round_trip())
        };
        assert_eq!(after(800, 100).0, Some((millis(800) * 7 + millis(100)) / 8));
        assert_eq!(after(801, 100), (Some(millis(100)), millis(100)));
        assert_eq!(after(80, 160).1, millis(80));
        assert_eq!(after(160, 80).1, millis(80));
    }

    #[test]
    fn what_was_measured_outlasts_the_agreement() {
        let mut timer = Retransmission::new(&Params::RFC1350, &Patience::DEFAULT, End::Sender);
        assert_eq!(timer.round_trip(), None);
        timer.sample(millis(80));
        let windowed = windowed();
        timer.agree(&windowed, &Patience::DEFAULT, End::Sender);
        assert_eq!(timer.round_trip(), Some(millis(80)));
        assert_eq!(
            timer.interval(),
            millis(80 + 4 * 40),
            "no floor of lock-step"
        );
    }

    /// RFC 2349: whoever asks for 255 s may fall silent for as long, and may miss one answer.
    #[test]
    fn nobody_is_given_up_before_two_waits() {
        let wanted = Wanted {
            timeout: Some(255),
            ..Wanted::default()
        };
        let agreed = accept(Options::new(b"timeout\x00255\0"), &wanted).expect("agreed");
        let timer = Retransmission::new(&agreed.params, &Patience::DEFAULT, End::Sender);
        assert_eq!(timer.idle(&Patience::DEFAULT), Duration::from_secs(510));
        let timer = Retransmission::new(&Params::RFC1350, &Patience::DEFAULT, End::Sender);
        assert_eq!(timer.idle(&Patience::DEFAULT), Patience::DEFAULT.idle);
    }

    /// Terms with windows of 16.
    fn windowed() -> Params {
        let wanted = Wanted {
            windowsize: Some(16),
            ..Wanted::default()
        };
        let oack = Options::new(b"windowsize\x0016\0");
        accept(oack, &wanted).expect("agreed").params
    }
}
