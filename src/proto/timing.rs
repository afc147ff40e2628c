//! How long to wait for a peer: adaptive retransmission timeouts, and the limits of patience.

use std::num::NonZeroU8;

use super::negotiate::Params;
use crate::time::{Duration, Instant};

/// The operator's settings for timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Minimum retransmission timeout towards a client in lock-step. A Raspberry Pi 4 takes a repeated DATA
    /// for the next block and hangs, so nothing is retransmitted early.
    pub lockstep_floor: Duration,
    /// Minimum retransmission timeout of a receiver with a window. The receiver times out slightly before the
    /// sender would, so that a lost tail costs one ACK and not a whole window from each side. In
    /// milliseconds, to save space: every transfer holds these settings.
    pub receiver_floor_millis: u16,
    /// A transfer that has not advanced for this long is over. It is long because flash is slow to write.
    pub idle: Duration,
    /// Retransmission timeout of this end in seconds, used even if the peer did not agree to it.
    pub own_timeout: Option<NonZeroU8>,
    /// Retransmissions to a peer that is not yet validated. A forged request draws this many datagrams and
    /// one more.
    pub unvalidated_retries: u8,
    /// The retransmission schedule of a known client; `None` for RFC 6298.
    pub repeats: Option<&'static Repeats>,
}

impl Patience {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        lockstep_floor: Duration::from_secs(1),
        receiver_floor_millis: 10,
        idle: Duration::from_secs(30),
        own_timeout: None,
        unvalidated_retries: 3,
        repeats: None,
    };

    /// The same with a fixed retransmission timeout for this end, in seconds; `None` and 0 set none.
    #[must_use]
    pub fn with_own_timeout(self, seconds: Option<u8>) -> Self {
        Self {
            own_timeout: seconds.and_then(NonZeroU8::new),
            ..self
        }
    }
}

/// The retransmission schedule of a known client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    /// How long the client waits after each consecutive try, in milliseconds: one entry per try, at least
    /// one. If the client is more patient than that, the last entry is repeated.
    pub waits_millis: &'static [u16],
    /// Whether the client retransmits its ACKs too, or only its request.
    pub acks: bool,
    /// Whether the client waits longer if RTTs are longer.
    pub adapts: bool,
}

impl Repeats {
    /// How long the client waits after `silences` consecutive timeouts.
    pub(super) const fn wait(&self, silences: u8) -> Duration {
        let last = self.waits_millis.len() - 1;
        let place = if (silences as usize) < last {
            silences as usize
        } else {
            last
        };
        Duration::from_millis(self.waits_millis[place] as u64)
    }

    /// How long the client tries before it gives up.
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

/// Retransmission timeout before the first RTT sample (RFC 6298 §2.1).
const INTERVAL_FIRST: Duration = Duration::from_secs(1);
/// Consecutive timeouts for which a retransmission timeout below one second, set by the client, is kept.
/// After that it is doubled up to one second: otherwise a forged request with ten milliseconds would draw
/// thousands of datagrams.
const FIXED_SILENCES: u8 = 4;
/// Minimum time that a peer which is not yet validated has to answer the last retransmission. The client may
/// have set a timeout of ten milliseconds, and its RTT may exceed all of those together.
const LAST_WAIT_MIN: Duration = Duration::from_secs(1);
/// Consecutive timeouts in lock-step, each ended as if the answer had only been slow, after which the backoff
/// is kept. One may be a loss all the same. But if no RTT is measured between them, the RTT exceeds the
/// timeout, and each block would be sent at least twice, to the end of the file.
const STRAINS_MAX: u8 = 2;
/// The same for a sender with windows that has an RTT sample: its timeouts are shorter, and losses in windows
/// to a receiver that reports no gap leave many RTTs unmeasured.
const STRAINS_MAX_OF_WINDOWS: u8 = 8;
/// Backoff stops here, so that several tries fit into the idle time.
const INTERVAL_MAX: Duration = Duration::from_secs(8);
/// Minimum retransmission timeout of a sender whose receiver negotiated a window and so copes with
/// duplicates.
const WINDOWED_SENDER_FLOOR: Duration = Duration::from_millis(20);
/// Minimum RTTVAR margin: even after steady RTTs, the next one may meet a disk or a busy machine (RFC 6298
/// §2.3's G).
const VARIATION_MIN: Duration = Duration::from_millis(10);
/// Minimum initial RTTVAR. One sample does not show how much RTTs vary, and when many clients start at once,
/// RTTs grow by tens of milliseconds from one to the next. On a steady path the minimum applies again within
/// eight samples. For senders only: a sender that times out too early sends a window, a receiver only an ACK
/// that the sender ignores.
const VARIATION_FIRST_MIN: Duration = Duration::from_millis(12);
/// Reset SRTT when a sample is this many times smaller: no path speeds up so much, so SRTT did not come from
/// RTTs.
const OUT_OF_PROPORTION: u64 = 8;
/// Upper bound of a lap, so that the timeout of two laps leaves room for several tries within the idle time.
const LAP_MAX: Duration = Duration::from_secs(2);
/// Upper bound of an RTT sample: every transfer that stands still for so long is over.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(3_600);

/// Which end of a transfer the timer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Sender,
    Receiver,
}

/// The retransmission timeout: RFC 6298 over the given samples, with exponential backoff.
#[derive(Debug, Clone)]
pub(super) struct Retransmission {
    /// A fixed timeout set by the client or by the operator of this end.
    fixed: Option<Duration>,
    repeats: Option<&'static Repeats>,
    floor: Duration,
    smoothed: Option<Smoothed>,
    end: End,
    silences: u8,
    /// Consecutive timeouts, since the last RTT sample, that may have been spurious.
    strains: u8,
    /// Number of times the timeout is doubled.
    doublings: u8,
    /// Number of strains after which the backoff is kept until the next RTT sample (Karn and Partridge 1987)
    /// instead of ending with the silence: first before any RTT sample, then after one.
    strains_max: [u8; 2],
}

/// In nanoseconds, which take half the space of a [`Duration`].
#[derive(Debug, Clone, Copy)]
struct Smoothed {
    mean: u64,
    variation: u64,
    least: u64,
    /// The last lap, if this end had a queue; 0 if it had none, or that is not known.
    lap: u64,
}

impl Smoothed {
    /// By how much an RTT may exceed SRTT without being overdue.
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
        Self {
            fixed: params.timeout().or_else(|| {
                let seconds = patience.own_timeout?;
                Some(Duration::from_secs(seconds.get().into()))
            }),
            repeats: patience.repeats,
            floor,
            smoothed: None,
            end,
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

    /// Applies the terms agreed since; RTT samples are kept. A sender whose request was answered only after a
    /// retransmission may have a long RTT, so it waits twice as long for the first window; a spurious ACK
    /// costs less.
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

    /// The current retransmission timeout.
    pub(super) fn interval(&self) -> Duration {
        if let Some(fixed) = self.fixed {
            // A timeout in microseconds is honoured for as long as the client can plausibly mean it.
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

    /// The retransmission timeout derived from RTT samples.
    fn measured(&self) -> Duration {
        let base = self.smoothed.map_or(INTERVAL_FIRST, |s| {
            // A queue filled by many clients may double before the next RTT is measured.
            let usual = s.mean + s.margin().max(s.mean);
            // And a queue at this end, which is no part of an RTT, may move to the other end within a lap.
            Duration::from_nanos(usual.max(2 * s.lap))
        });
        let base = base.max(self.floor);
        // If the floor exceeds the ceiling, the operator meant it.
        let doubled = match self.doublings {
            0 => base,
            doublings => base.saturating_mul(1 << doublings.min(16)),
        };
        doubled.min(INTERVAL_MAX.max(self.floor))
    }

    /// How long to wait for an answer to the last retransmission before the peer is considered nonexistent.
    pub(super) fn interval_at_last(&self) -> Duration {
        self.interval().max(LAST_WAIT_MIN)
    }

    /// How long to wait for the rest of a window that has begun to arrive: its blocks leave together, so
    /// queueing caused by many clients does not delay one relative to another.
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

    /// After how long an answer is overdue, whatever timeout the client set; `None` before the first RTT
    /// sample.
    pub(super) fn overdue(&self) -> Option<Duration> {
        self.smoothed
            .map(|s| Duration::from_nanos(s.mean + s.margin()))
    }

    /// Takes an RTT sample from something that was sent once (the caller applies Karn's algorithm).
    ///
    /// The answer may still have been lost and retransmitted after the peer's own timeout: such a sample is
    /// far too large. The first plausible sample after it resets SRTT.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        self.doublings = self.silences;
        self.strains = 0;
        let round_trip = round_trip.min(ROUND_TRIP_MAX).as_nanos() as u64;
        let old = self
            .smoothed
            .filter(|old| old.mean <= round_trip * OUT_OF_PROPORTION);
        self.smoothed = Some(match old {
            None => {
                // In lock-step the floor is longer.
                let variation_min = match self.end {
                    End::Sender => VARIATION_FIRST_MIN.as_nanos() as u64,
                    End::Receiver => 0,
                };
                Smoothed {
                    mean: round_trip,
                    variation: (round_trip / 2).max(variation_min),
                    least: round_trip,
                    lap: 0,
                }
            }
            Some(old) => Smoothed {
                mean: (old.mean * 7 + round_trip) / 8,
                variation: (old.variation * 3 + old.mean.abs_diff(round_trip)) / 4,
                least: old.least.min(round_trip),
                lap: old.lap,
            },
        });
    }

    /// Takes a lap, the time from one ACK to the next, after the latter gave this RTT sample. The rest of it is how
    /// long the transfer waited at this end for its turn to send: no queue worth mentioning, unless it is longer
    /// than an RTT.
    pub(super) fn lap(&mut self, took: Duration, round_trip: Duration) {
        if let Some(smoothed) = &mut self.smoothed {
            let waited = took.saturating_sub(round_trip).as_nanos() as u64;
            let is_queue = waited > smoothed.mean;
            smoothed.lap = if is_queue {
                took.min(LAP_MAX).as_nanos() as u64
            } else {
                0
            };
        }
    }

    /// Forgets the last lap: the transfer does not wait for its turn alone any more.
    pub(super) const fn forget_lap(&mut self) {
        if let Some(smoothed) = &mut self.smoothed {
            smoothed.lap = 0;
        }
    }

    /// Handles a timeout: the next wait is twice as long.
    pub(super) const fn silence(&mut self) {
        self.silences = self.silences.saturating_add(1);
        self.doublings = self.doublings.saturating_add(1);
    }

    /// Whether this end retransmits its last ACK on a timeout.
    pub(super) fn repeats_acks(&self) -> bool {
        self.repeats.is_none_or(|repeats| repeats.acks)
    }

    /// The number of consecutive timeouts.
    pub(super) const fn silences(&self) -> u8 {
        self.silences
    }

    /// Handles progress: the silence is over. If everything in flight has arrived (`whole`), the answer may
    /// only have been slow; otherwise something was really lost.
    pub(super) fn progress(&mut self, whole: bool) {
        if self.silences > 1 {
            self.forget_lap();
        }
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

    /// SRTT, once there is an RTT sample.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.smoothed.map(|s| Duration::from_nanos(s.mean))
    }

    /// The shortest RTT measured; zero before the first sample.
    pub(super) fn least_round_trip(&self) -> Duration {
        self.smoothed
            .map_or(Duration::ZERO, |s| Duration::from_nanos(s.least))
    }

    /// How long a transfer may stand still: at least two of the timeouts that were set. A server agrees to no
    /// timeout that does not fit twice into its operator's patience.
    pub(super) fn idle(&self, patience: &Patience) -> Duration {
        self.fixed
            .map_or(patience.idle, |fixed| patience.idle.max(fixed * 2))
    }
}

/// The earlier of two times, either of which may be missing.
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
        // RTTVAR (3·40 + |80 − 160|) / 4 = 50, SRTT (7·80 + 160) / 8 = 90.
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

    #[test]
    fn a_sender_that_waits_for_its_turn_waits_two_laps_for_an_answer() {
        let mut timer = Retransmission::new(&windowed(), &Patience::DEFAULT, End::Sender);
        timer.lap(millis(100), millis(1));
        assert_eq!(timer.interval(), INTERVAL_FIRST, "no round trip is known");
        timer.sample(millis(1));
        timer.sample(millis(1));
        timer.lap(millis(100), millis(1));
        assert_eq!(timer.interval(), millis(200));
        assert_eq!(timer.round_trip(), Some(millis(1)));
        timer.silence();
        assert_eq!(timer.interval(), millis(400), "each wait is longer");
        timer.progress(true);
        assert_eq!(timer.interval(), millis(200), "it was only slow");
        timer.lap(3 * LAP_MAX, millis(1));
        assert_eq!(timer.interval(), 2 * LAP_MAX);
        // 1 ms, and four times RTTVAR.
        let usual = millis(37);
        timer.lap(millis(101), millis(100));
        assert_eq!(timer.interval(), usual, "a round trip, and no wait");
        timer.lap(millis(100), millis(1));
        timer.silence();
        timer.silence();
        timer.progress(true);
        assert_eq!(timer.interval(), usual, "it waited for two in vain");
    }

    /// Goal: if each answer arrives after the retransmission, no RTT is measured, and the timeout grows until
    /// one is. Method: an RTT longer than the first timeout, or than the previous RTTs.
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

    /// A lost ACK that the peer retransmits by its own timer measures that timer, not the path.
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

    /// RFC 2349: a peer that asks for 255 s may fall silent for as long, and may miss one answer.
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
