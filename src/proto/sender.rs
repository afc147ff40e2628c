//! The sender of a file: a server that answers a read, or a client that writes.
//!
//! ```text
//!               OACK or request
//!   Opening ───────────────────────► Streaming ──── last block acknowledged ───► Complete
//!      │         acknowledged           │  ▲
//!      │                                │  └─ ACK inside the window, or silence: resume after it
//!      └── silence: Unanswered          └──── silence for the idle time: TimedOut
//! ```
//!
//! The sender plans and its caller acts: [`Sender::poll_transmit`] only describes what to send, and
//! [`Sender::transmitted`] records what was really sent. A full queue therefore loses nothing.

use super::block::BlockIndex;
use super::negotiate::Params;
use super::outcome::Outcome;
use super::timing::{End, Patience, Retransmission, earlier};
use super::transmit::{Opening, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{ErrorCode, WireBlock};

/// Consecutive timeouts after which single probes, alternately the last and the first block, are sent instead
/// of the whole window: a real client answers one block as well, and a forged address draws no more than
/// that. The last block shows that an ACK was lost or a gap is open; the first is for receivers that do not
/// report gaps.
const WINDOW_REPEATS_MAX: u8 = 2;
/// Spurious retransmissions tolerated before blocks are paced. A receiver that discards out-of-order blocks
/// needs them in order, and a reordering path delivers only widely spaced blocks in order.
const STRIKES_BEFORE_SPACING: u8 = 2;
/// Maximum number of strikes: the pacing interval is then one RTT, and half of that for each strike less.
const STRIKES_MAX: u8 = STRIKES_BEFORE_SPACING + 4;
/// Laps of which at least so many fit into the idle time, so that timeouts of two laps leave room for some tries.
const LAPS_MIN: u32 = 8;
/// Blocks acknowledged without a strike that remove one strike.
const BLOCKS_PER_STRIKE: u64 = 64;

/// Sends a body of known length.
#[derive(Debug)]
pub struct Sender {
    params: Params,
    patience: Patience,
    /// What must be acknowledged before the first block, if anything; and whether it is due to be sent.
    opening: Option<Opening>,
    opening_due: bool,
    last: BlockIndex,
    /// Every block up to this one is acknowledged.
    acked: BlockIndex,
    /// The next block to send; lower than `sent` after a go-back.
    next: BlockIndex,
    /// The highest block ever sent.
    sent: BlockIndex,
    /// The highest block sent more than once.
    copied: BlockIndex,
    /// Whether the peer is validated: it has proved that it exists.
    validated: bool,
    retries: u8,
    timer: Retransmission,
    /// When to retransmit what is in flight.
    deadline: Option<Instant>,
    moved_at: Instant,
    /// The first block of a burst that was sent only once, and when: an ACK of it, or of a later block of the
    /// burst, measures the RTT.
    sample: Option<(BlockIndex, Instant)>,
    /// When the block after `acked` was last sent.
    window_sent_at: Instant,
    /// Whether this window was already resumed: further duplicate ACKs carry no new information.
    resumed: bool,
    /// Go-backs since the last window that was delivered completely.
    resumes: u8,
    resumed_at: Option<Instant>,
    /// When to act on a gap that was reported less than one RTT after the last go-back, unless it closes.
    resume_at: Option<Instant>,
    /// Spurious go-backs, less those that have expired.
    strikes: u8,
    /// The block from which progress towards removing a strike is counted.
    struck_at: BlockIndex,
    /// The next block is held back until this time.
    paced_until: Option<Instant>,
    /// Whether the next block had to be fetched since the last ACK.
    held_up: bool,
    retransmissions: u64,
    outcome: Option<Outcome>,
}

impl Sender {
    /// Answers a read request for `len` octets, with an OACK first if `oack` is set.
    #[must_use]
    pub fn answer(params: Params, len: u64, oack: bool, patience: Patience, now: Instant) -> Self {
        Self::new(params, len, oack.then_some(Opening::Oack), patience, now)
    }

    /// Asks to write `len` octets; [`Sender::agree`] supplies the terms, if the server sends an OACK.
    #[must_use]
    pub fn request(len: u64, patience: Patience, now: Instant) -> Self {
        Self::new(Params::RFC1350, len, Some(Opening::Request), patience, now)
    }

    fn new(
        params: Params,
        len: u64,
        opening: Option<Opening>,
        patience: Patience,
        now: Instant,
    ) -> Self {
        Self {
            params,
            patience,
            opening,
            opening_due: opening.is_some(),
            last: BlockIndex::last_of(len, params.blksize()),
            acked: BlockIndex::ZERO,
            next: BlockIndex::FIRST,
            sent: BlockIndex::ZERO,
            copied: BlockIndex::ZERO,
            validated: false,
            retries: 0,
            timer: Retransmission::new(&params, &patience, End::Sender),
            deadline: None,
            moved_at: now,
            sample: None,
            window_sent_at: now,
            resumed: false,
            resumes: 0,
            resumed_at: None,
            resume_at: None,
            strikes: 0,
            struck_at: BlockIndex::ZERO,
            paced_until: None,
            held_up: false,
            retransmissions: 0,
            outcome: None,
        }
    }

    /// Applies the terms of the OACK that answers a write request.
    pub fn agree(&mut self, params: Params, len: u64, now: Instant) {
        if self.opening == Some(Opening::Request) {
            self.params = params;
            self.last = BlockIndex::last_of(len, params.blksize());
            self.timer.agree(&params, &self.patience, End::Sender);
            self.opened(now);
        }
    }

    /// Handles an ACK. Returns the RTT that it measured, if any.
    pub fn handle_ack(&mut self, wire: WireBlock, now: Instant) -> Option<Duration> {
        if self.outcome.is_some() {
            return None;
        }
        if self.opening.is_some() {
            // RFC 2347: an OACK is acknowledged by "an ACK packet with the block number set to 0"; so is a WRQ.
            return if wire.0 == 0 { self.opened(now) } else { None };
        }
        // The first index from `acked` on with this number. An old ACK resolves to an index beyond `sent`,
        // because a window holds at most half of the numbers.
        let index = self.params.rollover().resolve(wire, self.acked)?;
        if index > self.sent {
            return None;
        }
        if index > self.acked {
            return self.advance(index, now);
        }
        self.repeated(now);
        None
    }

    /// Handles an ERROR: the transfer is over, and no answer is ever sent.
    pub fn handle_error(&mut self, code: ErrorCode) {
        // A client that only wants the size takes the OACK and leaves with ERROR 0 or 8.
        let probed = self.opening == Some(Opening::Oack)
            && matches!(code, ErrorCode::UNDEFINED | ErrorCode::OPTIONS);
        self.end(if probed {
            Outcome::Probed
        } else {
            Outcome::PeerError(code)
        });
    }

    /// Handles the expiry of the time that [`Sender::poll_timeout`] returned.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        if self.paced_until.is_some_and(|at| at <= now) {
            self.paced_until = None;
        }
        if self.resume_at.is_some_and(|at| at <= now) {
            self.resume(now);
        }
        if self.idle_at() <= now {
            self.end(if self.validated {
                Outcome::TimedOut
            } else {
                Outcome::Unanswered
            });
        } else if self.deadline.is_some_and(|at| at <= now) {
            if self.validated && self.poll_transmit(1).is_some() {
                // The rest of the window has not left, for want of frames or room, or is due only now. The peer
                // cannot answer it yet, and what has left is repeated after it, if need be.
                self.deadline = None;
            } else {
                self.silence(now);
            }
        }
    }

    /// What to send next: at most `segments` blocks at once. Returns the same until [`Sender::transmitted`]
    /// is called.
    #[must_use]
    pub fn poll_transmit(&self, segments: u64) -> Option<Transmit> {
        if self.outcome.is_some() {
            return None;
        }
        if let Some(opening) = self.opening {
            return self.opening_due.then_some(Transmit::Opening(opening));
        }
        if self.resume_at.is_some() || self.paced_until.is_some() {
            return None;
        }
        let limit = self.window_end();
        let segments = if self.is_spaced() { 1 } else { segments };
        let count = limit.plus(1).past(self.next).min(segments);
        (count > 0).then_some(Transmit::Blocks {
            first: self.next,
            count,
        })
    }

    /// Records that `count` datagrams of what [`Sender::poll_transmit`] described were sent.
    pub fn transmitted(&mut self, count: u64, now: Instant) {
        if count == 0 {
            return;
        }
        self.deadline = Some(now + self.interval());
        if self.opening.is_some() {
            if self.retries == 0 {
                self.sample = Some((BlockIndex::ZERO, now));
            }
            self.opening_due = false;
            return;
        }
        if self.next == self.acked.plus(1) {
            self.window_sent_at = now;
        }
        let end = self.next.plus(count - 1);
        let copies = end.min(self.sent).plus(1).past(self.next);
        if copies > 0 {
            self.copied = self.copied.max(end.min(self.sent));
        }
        self.retransmissions += copies;
        if end > self.sent {
            self.sample = Some((self.next.max(self.sent.plus(1)), now));
        }
        self.sent = self.sent.max(end);
        self.next = end.plus(1);
        if self.is_spaced() {
            let round_trip = self.timer.round_trip().unwrap_or_default();
            self.paced_until = Some(now + round_trip / (1 << (STRIKES_MAX - self.strikes)));
        }
    }

    /// Records that what [`Sender::poll_transmit`] described has to be fetched first, or has just been: such a wait
    /// says nothing about how long others take to send.
    pub const fn held_up(&mut self) {
        self.held_up = true;
    }

    /// When to call [`Sender::handle_timeout`], if nothing arrives first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        let soon = earlier(self.resume_at, self.paced_until);
        earlier(earlier(self.deadline, soon), Some(self.idle_at()))
    }

    /// How the transfer ended, once it has.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// The terms.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Whether the peer is validated: it has proved that it exists.
    #[must_use]
    pub const fn is_validated(&self) -> bool {
        self.validated
    }

    /// Every block up to this one is acknowledged.
    #[must_use]
    pub const fn acked(&self) -> BlockIndex {
        self.acked
    }

    /// The highest block sent so far.
    #[must_use]
    pub const fn sent(&self) -> BlockIndex {
        self.sent
    }

    /// The last block of the body.
    #[must_use]
    pub const fn last(&self) -> BlockIndex {
        self.last
    }

    /// When the peer last advanced the transfer.
    #[must_use]
    pub const fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// Number of datagrams retransmitted.
    #[must_use]
    pub const fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    fn opened(&mut self, now: Instant) -> Option<Duration> {
        self.opening = None;
        self.opening_due = false;
        let measured = self.measure(BlockIndex::ZERO, now);
        self.moved(true, now);
        measured
    }

    /// Handles an ACK of new blocks, up to `index`.
    fn advance(&mut self, index: BlockIndex, now: Instant) -> Option<Duration> {
        let measured = self.measure(index, now);
        // Blocks that are sent again, spaced or not there yet take their time without a queue. In lock-step,
        // timeouts are long enough.
        let held_up = std::mem::take(&mut self.held_up);
        let was_queued = !held_up && self.copied <= self.acked && !self.is_spaced();
        if let Some(round_trip) = measured
            && was_queued
            && !self.params.is_lockstep()
        {
            let lap = (now - self.moved_at).min(self.patience.idle / LAPS_MIN);
            self.timer.lap(lap, round_trip);
        }
        self.moved(index == self.sent, now);
        self.acked = index;
        self.judge(index, now);
        if index >= self.last {
            self.end(Outcome::Complete);
            return measured;
        }
        self.resume_at = None;
        if index == self.sent {
            // Nothing is missing.
            self.resumed = false;
            self.resumes = 0;
            self.next = index.plus(1);
        } else if index.plus(1) >= self.next {
            // The ACK jumps past the point that the go-back had reached: the receiver had kept the rest.
            self.next = index.plus(1);
        } else if self.answers_a_copy(now) {
            // The receiver may have the blocks beyond; if not, the next ones will draw the same ACK again.
            self.resumed = false;
        } else {
            // RFC 7440 §4: the sender resumes after the block that an ACK inside the window names.
            self.gap_reported(now, now);
        }
        if self.sent > self.acked {
            self.deadline = Some(now + self.timer.interval());
        }
        measured
    }

    /// Decides whether the last go-back was spurious. Its blocks cannot be acknowledged in less than one RTT;
    /// whatever is acknowledged sooner had only been reordered.
    fn judge(&mut self, index: BlockIndex, now: Instant) {
        let too_soon = |at| now - at < self.timer.least_round_trip();
        if self.resumed_at.is_some_and(too_soon) {
            self.strike(index);
        } else if index.past(self.struck_at) >= BLOCKS_PER_STRIKE {
            self.strikes = self.strikes.saturating_sub(1);
            self.struck_at = index;
        }
    }

    /// Whether an ACK inside the window arrives just when the first blocks of the last go-back are answered.
    /// Some receivers acknowledge each duplicate block, and going back for such an ACK would send them more
    /// duplicates, in an endless loop. After a first go-back, the ACK may as well report another gap.
    fn answers_a_copy(&self, now: Instant) -> bool {
        let usual = self.timer.least_round_trip() * 5 / 4;
        self.resumes > 1 && self.resumed_at.is_some_and(|at| now - at <= usual)
    }

    fn strike(&mut self, index: BlockIndex) {
        self.strikes = (self.strikes + 1).min(STRIKES_MAX);
        self.struck_at = index;
        if self.is_spaced() {
            self.timer.forget_lap();
        }
    }

    /// Handles a duplicate ACK: it is ignored unless it reports that the window's first block is missing.
    fn repeated(&mut self, now: Instant) {
        // RFC 1123 §4.2.3.1: a duplicate ACK must never trigger a send, or each is answered for ever.
        if self.params.is_lockstep() || self.sent == self.acked || self.resumed {
            return;
        }
        // EDK2 answers each duplicate block with an ACK of the last one. Such ACKs follow a window that was
        // sent twice; going back for them would send the next window twice as well, and so on to the end of
        // the file. A real gap is left to the timer; once that has fired, all such ACKs have arrived.
        let answers_copies = self.acked > BlockIndex::ZERO && self.acked <= self.copied;
        if answers_copies && self.timer.silences() == 0 {
            return;
        }
        // A report about blocks sent just now cannot have arrived yet. Either the network duplicated this
        // ACK, or the receiver answers a retransmission of the previous window, or the receiver timed out
        // while ACKs wait in a queue filled by many clients, and the ACK of the whole window follows. Wait
        // until that is overdue.
        let overdue = self.timer.overdue().unwrap_or_default();
        self.gap_reported(self.window_sent_at + overdue, now);
    }

    /// Goes back to the block after `acked`, not before `soonest`, unless the gap closes first; and at most
    /// once per RTT, because a report that crosses the blocks of the last go-back does not reflect them.
    fn gap_reported(&mut self, soonest: Instant, now: Instant) {
        let round_trip = self.timer.round_trip().unwrap_or_default();
        let soonest = self
            .resumed_at
            .map_or(soonest, |at| soonest.max(at + round_trip));
        if soonest > now {
            self.resume_at = Some(soonest);
        } else {
            self.resume(now);
        }
    }

    fn resume(&mut self, now: Instant) {
        self.resume_at = None;
        self.resumed = true;
        self.resumes = self.resumes.saturating_add(1);
        self.resumed_at = Some(now);
        self.sample = None;
        self.next = self.acked.plus(1);
    }

    fn silence(&mut self, now: Instant) {
        if !self.validated {
            if self.retries >= self.patience.unvalidated_retries {
                self.end(Outcome::Unanswered);
                return;
            }
            self.retries += 1;
        }
        self.timer.silence();
        self.sample = None;
        self.deadline = Some(now + self.interval());
        if self.opening.is_some() {
            self.opening_due = true;
            self.retransmissions += 1;
        } else {
            self.next = self.acked.plus(1);
            if self.is_probing() {
                self.next = self.probe();
            }
            self.resumed = false;
            self.resumes = 0;
            self.resume_at = None;
            // A receiver that never reports a gap may drop most of each window if blocks are reordered.
            if self.timer.silences() > 1 && !self.params.is_lockstep() {
                self.strike(self.acked);
            }
        }
    }

    /// How long to wait for an answer to what is sent now.
    fn interval(&self) -> Duration {
        if !self.validated && self.retries >= self.patience.unvalidated_retries {
            self.timer.interval_at_last()
        } else {
            self.timer.interval()
        }
    }

    const fn end(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
        }
    }

    fn measure(&mut self, index: BlockIndex, now: Instant) -> Option<Duration> {
        let (_, at) = self.sample.take_if(|(sampled, _)| *sampled <= index)?;
        self.timer.sample(now - at);
        Some(now - at)
    }

    fn moved(&mut self, whole: bool, now: Instant) {
        self.validated = true;
        self.moved_at = now;
        self.timer.progress(whole);
        self.deadline = None;
    }

    /// The last block that may be in flight.
    fn window_end(&self) -> BlockIndex {
        if self.is_probing() {
            return self.probe();
        }
        // A peer that is not yet validated gets one datagram at a time.
        let window = if self.validated {
            u64::from(self.params.windowsize())
        } else {
            1
        };
        self.acked.plus(window).min(self.last)
    }

    /// Whether so many consecutive timeouts passed that the peer gets single blocks.
    const fn is_probing(&self) -> bool {
        self.timer.silences() > WINDOW_REPEATS_MAX
    }

    /// The block to send as a probe to a silent peer.
    fn probe(&self) -> BlockIndex {
        if self.timer.silences() % 2 == 1 {
            self.sent.max(self.acked.plus(1))
        } else {
            self.acked.plus(1)
        }
    }

    const fn is_spaced(&self) -> bool {
        self.strikes > STRIKES_BEFORE_SPACING
    }

    fn idle_at(&self) -> Instant {
        let idle = if self.validated {
            self.timer.idle(&self.patience)
        } else {
            self.patience.idle
        };
        self.moved_at + idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::negotiate::{self, Asked, Limits};
    use crate::wire::Packet;

    /// Longer than every floor of the timer.
    const ROUND_TRIP: u64 = 80;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn at(count: u64) -> Instant {
        Instant::ZERO + millis(count)
    }

    /// A read of `blocks` blocks of 8 octets in windows of 4; the OACK has been sent.
    fn asked(blocks: u64) -> Sender {
        asked_with(blocks, "windowsize\x004\0")
    }

    /// The same with the given options.
    fn asked_with(blocks: u64, options: &str) -> Sender {
        let request = format!("\0\x01x\0octet\0blksize\x008\0{options}");
        let Ok(Packet::Rrq(request)) = Packet::parse(request.as_bytes()) else {
            panic!("a request");
        };
        let limits = Limits {
            blksize_max: 8,
            windowsize_max: u16::MAX,
            timeout_max: negotiate::TIMEOUT_MAX,
        };
        let len = blocks * 8 - 1;
        let answer = negotiate::answer(&request, &limits, Asked::Read(len), &mut [0; 256]).unwrap();
        let mut sender = Sender::answer(answer.params, len, true, Patience::DEFAULT, at(0));
        sender.transmitted(1, at(0));
        sender
    }

    /// The same, once the OACK is acknowledged.
    fn agreed(blocks: u64) -> Sender {
        let mut sender = asked(blocks);
        let measured = sender.handle_ack(WireBlock(0), at(ROUND_TRIP));
        assert_eq!(measured, Some(millis(ROUND_TRIP)));
        sender
    }

    /// Sends everything that is due; returns the first block and the count.
    fn send(sender: &mut Sender, now: Instant) -> Option<(u64, u64)> {
        let Transmit::Blocks { first, count } = sender.poll_transmit(64)? else {
            panic!("blocks");
        };
        sender.transmitted(count, now);
        Some((first.0, count))
    }

    fn ack(sender: &mut Sender, block: u16, now: u64) -> Option<Duration> {
        sender.handle_ack(WireBlock(block), at(now))
    }

    /// Goal: who waits for a turn longer than for an answer waits two laps for the next answer; who waits for a
    /// disk, is in lock-step, or has lost something, does not. Method: windows that leave 400 ms after the ACK.
    #[test]
    fn a_wait_for_a_turn_lengthens_the_next_wait_for_an_answer() {
        let timeout = |options: &str, wait: &dyn Fn(&mut Sender, u64)| {
            let mut sender = asked_with(100, options);
            ack(&mut sender, 0, ROUND_TRIP);
            let leaves = ROUND_TRIP + 400;
            wait(&mut sender, leaves);
            let (first, count) = send(&mut sender, at(leaves)).expect("blocks");
            let arrives = leaves + ROUND_TRIP;
            ack(&mut sender, (first + count - 1) as u16, arrives);
            send(&mut sender, at(arrives));
            let waits = sender.poll_timeout().expect("it waits") - at(arrives);
            waits.as_millis()
        };
        let windowed = "windowsize\x004\0";
        // SRTT 80 ms, and four times RTTVAR after two equal samples.
        let usual = 80 + 4 * 30;
        assert_eq!(timeout(windowed, &|_, _| ()), 2 * (400 + 80));
        assert_eq!(timeout(windowed, &|sender, _| sender.held_up()), usual);
        let lost = |sender: &mut Sender, leaves| {
            send(sender, at(leaves - 399));
            sender.handle_timeout(at(leaves));
        };
        assert!(timeout(windowed, &lost) < 2 * (400 + 80));
        assert_eq!(timeout("windowsize\x001\0", &|_, _| ()), 1_000);
    }

    /// Causes three spurious go-backs, each revealed by an ACK that comes too soon after it; returns the time
    /// of the last such ACK. Everything up to block 18 is acknowledged.
    fn struck_thrice(sender: &mut Sender) -> u64 {
        let mut now = ROUND_TRIP;
        for first in [1, 7, 13] {
            assert_eq!(send(sender, at(now)), Some((first.into(), 4)));
            ack(sender, first + 1, now + ROUND_TRIP);
            let resumed = send(sender, at(now + ROUND_TRIP));
            assert_eq!(resumed, Some((u64::from(first) + 2, 4)));
            ack(sender, first + 3, now + ROUND_TRIP + 10);
            assert_eq!(sender.poll_transmit(64), None, "twice in a round trip");
            now += 2 * ROUND_TRIP + 10;
            ack(sender, first + 5, now);
        }
        now
    }

    /// Goal: a silence of this end is none of the peer's. Method: half of a window leaves, and the other half only
    /// after more time than all timeouts take together.
    #[test]
    fn blocks_that_wait_for_a_disk_or_for_room_are_no_silence() {
        let mut sender = agreed(100);
        sender.transmitted(2, at(ROUND_TRIP));
        for late in 1..=25 {
            sender.handle_timeout(at(ROUND_TRIP + late * 400));
            let wakes = sender.poll_timeout().expect("it ends some time");
            assert_eq!(wakes, at(ROUND_TRIP) + Patience::DEFAULT.idle);
        }
        let now = ROUND_TRIP + 10_000;
        assert_eq!(send(&mut sender, at(now)), Some((3, 2)));
        assert_eq!(sender.retransmissions(), 0);
        // From now on it is the peer's turn.
        let wakes = sender.poll_timeout().expect("it waits");
        assert!(wakes < at(now + 1_000));
        sender.handle_timeout(wakes);
        assert_eq!(send(&mut sender, wakes), Some((1, 4)));
    }

    #[test]
    fn an_ack_of_what_was_never_sent_is_ignored() {
        let mut sender = agreed(11);
        send(&mut sender, at(80));
        ack(&mut sender, 7, 80);
        assert_eq!(
            (sender.acked(), sender.sent()),
            (BlockIndex(0), BlockIndex(4))
        );
        ack(&mut sender, 4, 80);
        assert_eq!(sender.acked(), BlockIndex(4));
    }

    /// Goal: old ACKs are ignored and new ones are accepted, with the widest windows and any rollover.
    #[test]
    fn the_widest_window_tells_old_acks_from_new_ones() {
        for rollover in ["0", "1"] {
            let options = format!("windowsize\x0065535\0rollover\0{rollover}\0");
            let mut sender = asked_with(200_000, &options);
            let rollover = sender.params().rollover();
            ack(&mut sender, 0, ROUND_TRIP);
            let mut old = vec![WireBlock(0)];
            while sender.outcome().is_none() {
                while send(&mut sender, at(ROUND_TRIP)).is_some() {}
                let before = sender.acked();
                for wire in old.drain(..) {
                    sender.handle_ack(wire, at(ROUND_TRIP));
                    assert_eq!(sender.acked(), before, "{wire} is an old one");
                }
                let sent = sender.sent();
                old.extend([before.plus(1), sent].map(|block| rollover.wire(block)));
                sender.handle_ack(rollover.wire(sent), at(ROUND_TRIP));
                assert_eq!(sender.acked(), sent);
            }
            assert_eq!(sender.outcome(), Some(Outcome::Complete));
        }
    }

    /// RFC 2347: ERROR 8 declines the options. Firmware that only wants the size sends ERROR 0.
    #[test]
    fn only_who_leaves_after_the_oack_asked_for_the_size() {
        let left = |mut sender: Sender, code| {
            sender.handle_error(code);
            sender.outcome()
        };
        for code in [ErrorCode::UNDEFINED, ErrorCode::OPTIONS] {
            assert_eq!(left(asked(4), code), Some(Outcome::Probed));
            assert_eq!(left(agreed(4), code), Some(Outcome::PeerError(code)));
        }
        let full = ErrorCode::DISK_FULL;
        assert_eq!(left(asked(4), full), Some(Outcome::PeerError(full)));
    }

    /// A forged request draws as many retransmissions of the OACK as are allowed, and each is counted.
    #[test]
    fn an_oack_that_nobody_answers_is_repeated_and_given_up() {
        let mut sender = asked(4);
        while sender.outcome().is_none() {
            let now = sender.poll_timeout().unwrap();
            sender.handle_timeout(now);
            if sender.poll_transmit(64).is_some() {
                sender.transmitted(1, now);
            }
        }
        assert_eq!(sender.outcome(), Some(Outcome::Unanswered));
        let retries = Patience::DEFAULT.unvalidated_retries;
        assert_eq!(sender.retransmissions(), u64::from(retries));
    }

    /// Karn's algorithm: an ACK of a block that was sent twice may answer either copy.
    #[test]
    fn only_what_was_sent_once_measures_the_round_trip() {
        let mut sender = agreed(20);
        assert_eq!(send(&mut sender, at(80)), Some((1, 4)));
        assert_eq!(ack(&mut sender, 4, 180), Some(millis(100)));
        assert_eq!(
            sender.timer.round_trip(),
            Some(Duration::from_micros(82_500))
        );
        assert_eq!(send(&mut sender, at(180)), Some((5, 4)));
        assert_eq!(sender.retransmissions(), 0);
        ack(&mut sender, 6, 280);
        assert_eq!(send(&mut sender, at(280)), Some((7, 4)));
        assert_eq!(sender.retransmissions(), 2);
        assert_eq!(ack(&mut sender, 8, 380), None);
        send(&mut sender, at(380));
        assert_eq!(sender.moved_at(), at(380));
        assert!(ack(&mut sender, 12, 480).is_some());
    }

    #[test]
    fn silence_counts_only_while_something_is_under_way() {
        let mut sender = agreed(20);
        send(&mut sender, at(80));
        ack(&mut sender, 4, 160);
        let idle = at(160) + Patience::DEFAULT.idle;
        assert_eq!(sender.poll_timeout(), Some(idle));
        send(&mut sender, at(160));
        ack(&mut sender, 5, 240);
        let interval = sender.timer.interval();
        assert!(interval < Duration::from_secs(1));
        assert_eq!(sender.poll_timeout(), Some(at(240) + interval));
    }

    /// RFC 7440 §4, and no more than that: blocks already in flight are not sent a third time.
    #[test]
    fn a_gap_is_obeyed_once_in_a_round_trip() {
        let mut sender = agreed(20);
        send(&mut sender, at(80));
        ack(&mut sender, 1, 160);
        assert_eq!(send(&mut sender, at(160)), Some((2, 4)));
        ack(&mut sender, 2, 170);
        assert_eq!(sender.poll_transmit(64), None);
        assert_eq!(sender.poll_timeout(), Some(at(160 + ROUND_TRIP)));
        sender.handle_timeout(at(160 + ROUND_TRIP - 1));
        assert_eq!(sender.poll_transmit(64), None);
        sender.handle_timeout(at(160 + ROUND_TRIP));
        assert_eq!(send(&mut sender, at(160 + ROUND_TRIP)), Some((3, 4)));
    }

    /// A receiver that keeps out-of-order blocks jumps over them as soon as the gap is closed.
    #[test]
    fn what_the_receiver_had_kept_is_not_sent_again() {
        for (jump, next) in [(2, (3, 4)), (3, (4, 4))] {
            let mut sender = agreed(20);
            send(&mut sender, at(80));
            ack(&mut sender, 1, 160);
            sender.transmitted(1, at(160));
            ack(&mut sender, jump, 240);
            assert_eq!(send(&mut sender, at(240)), Some(next));
        }
    }

    /// Some receivers acknowledge each duplicate block: going back for those ACKs would never end.
    #[test]
    fn the_second_go_back_is_given_time_to_arrive() {
        for (later, next) in [(100, (9, 2)), (101, (7, 4))] {
            let mut sender = agreed(20);
            send(&mut sender, at(80));
            ack(&mut sender, 2, 160);
            assert_eq!(send(&mut sender, at(160)), Some((3, 4)));
            ack(&mut sender, 4, 240);
            assert_eq!(send(&mut sender, at(240)), Some((5, 4)));
            ack(&mut sender, 6, 240 + later);
            assert_eq!(send(&mut sender, at(240 + later)), Some(next));
        }
    }

    /// RFC 1123 §4.2.3.1 forbids answering a duplicate ACK; one that still stands after the RTT reports a
    /// gap.
    #[test]
    fn an_equal_ack_is_believed_when_its_answer_is_overdue() {
        let mut sender = agreed(20);
        sender.transmitted(2, at(80));
        sender.transmitted(2, at(130));
        ack(&mut sender, 0, 140);
        assert_eq!(sender.poll_transmit(64), None);
        // The first sample of 80 ms makes an answer overdue after 80 + 4 · 40 ms (RFC 6298 §2.2).
        assert_eq!(sender.poll_timeout(), Some(at(80 + 240)));
        sender.handle_timeout(at(320));
        sender.transmitted(2, at(320));
        sender.transmitted(2, at(340));
        let deadline = at(340 + 240);
        ack(&mut sender, 0, 350);
        assert_eq!(sender.poll_timeout(), Some(deadline), "obeyed once");
        sender.handle_timeout(deadline);
        assert_eq!(send(&mut sender, deadline), Some((1, 4)));
    }

    /// EDK2 answers each duplicate block with a duplicate ACK; only blocks that were sent once can be
    /// missing.
    #[test]
    fn an_equal_ack_after_copies_says_nothing() {
        let mut sender = agreed(20);
        send(&mut sender, at(80));
        sender.handle_timeout(at(320));
        assert_eq!(send(&mut sender, at(320)), Some((1, 4)));
        ack(&mut sender, 4, 330);
        sender.transmitted(2, at(330));
        sender.transmitted(2, at(350));
        let deadline = sender.poll_timeout();
        ack(&mut sender, 4, 360);
        assert_eq!(sender.poll_timeout(), deadline);
        ack(&mut sender, 8, 410);
        sender.transmitted(2, at(410));
        sender.transmitted(2, at(430));
        let deadline = sender.poll_timeout();
        ack(&mut sender, 8, 440);
        assert!(sender.poll_timeout() < deadline);
    }

    /// Goal: reordered blocks are sent one by one after three spurious go-backs, and in bursts again once 64
    /// blocks arrived without one.
    #[test]
    fn blocks_are_spaced_until_order_is_kept() {
        let mut sender = agreed(200);
        let mut now = struck_thrice(&mut sender);
        let round_trip = sender.timer.round_trip().unwrap();
        assert_eq!(send(&mut sender, at(now)), Some((19, 1)));
        assert_eq!(sender.poll_transmit(64), None);
        assert_eq!(sender.poll_timeout(), Some(at(now) + round_trip / 8));
        let next = loop {
            now += ROUND_TRIP;
            sender.handle_timeout(at(now));
            let sent = sender.sent().0 as u16;
            ack(&mut sender, sent, now);
            match send(&mut sender, at(now)) {
                Some((_, 1)) => {}
                next => break next,
            }
        };
        // The last of the three came with block 16.
        assert_eq!(sender.acked(), BlockIndex(16 + BLOCKS_PER_STRIKE));
        assert_eq!(next, Some((81, 4)));
    }

    /// A go-back whose ACK arrives no sooner than one RTT later was not spurious.
    #[test]
    fn a_go_back_that_was_needed_is_no_strike() {
        let mut sender = agreed(200);
        let mut now = ROUND_TRIP;
        for first in [1, 7, 13, 19] {
            assert_eq!(send(&mut sender, at(now)), Some((first.into(), 4)));
            ack(&mut sender, first + 1, now + ROUND_TRIP);
            send(&mut sender, at(now + ROUND_TRIP));
            now += 2 * ROUND_TRIP;
            ack(&mut sender, first + 5, now);
        }
        assert_eq!(send(&mut sender, at(now)), Some((25, 4)));
    }

    /// Goal: a silent peer draws two more windows, then alternately the last and the first block, with a
    /// longer wait after each timeout.
    #[test]
    fn a_silent_peer_draws_less_and_less() {
        let mut sender = agreed(20);
        send(&mut sender, at(80));
        let mut drawn = Vec::new();
        while drawn.len() < 7 {
            let now = sender.poll_timeout().unwrap();
            sender.handle_timeout(now);
            if let Some(blocks) = send(&mut sender, now) {
                let wait = sender.poll_timeout().unwrap() - now;
                drawn.push((blocks, wait.as_millis()));
            }
        }
        let (window, last, first) = ((1, 4), (4, 1), (1, 1));
        let expected = [
            (window, 480),
            (window, 960),
            (last, 1920),
            (first, 10),
            (last, 20),
            (first, 40),
            (last, 80),
        ];
        assert_eq!(drawn, expected);
        assert_eq!(sender.retransmissions(), 4 + 4 + 5);
    }
}
