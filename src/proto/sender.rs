//! The side that has the file: a server that is read from, a client that writes.
//!
//! ```text
//!               OACK or request
//!   Opening ───────────────────────► Streaming ──── last block acknowledged ───► Complete
//!      │         acknowledged           │  ▲
//!      │                                │  └─ ACK inside the window, or silence: resume after it
//!      └── silence: Unanswered          └──── silence for the idle time: TimedOut
//! ```
//!
//! The sender plans and its caller acts: [`Sender::poll_transmit`] only describes what is to be sent,
//! and [`Sender::transmitted`] takes note of what really left. A full queue thus loses nothing.

use super::block::BlockIndex;
use super::negotiate::Params;
use super::outcome::Outcome;
use super::timing::{End, Patience, Retransmission, earlier};
use super::transmit::{Opening, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{ErrorCode, WireBlock};

/// Silences in a row after which only one block is repeated, and not the window: who is there answers to one
/// as well, and who only pretended to be draws no more than that. It is by turns the last one, which says
/// that an ACK was lost or a gap is open, and the first, for receivers that say nothing of gaps.
const WINDOW_REPEATS_MAX: u8 = 2;
/// Go-backs for a gap that closed by itself, beyond which blocks are spaced out: a receiver that keeps no
/// block out of order needs them in order, which a path that reorders only gives to blocks that do not
/// race each other.
const STRIKES_BEFORE_SPACING: u8 = 2;
/// Most strikes that count: then there is a round trip between blocks, and half of that for each less.
const STRIKES_MAX: u8 = STRIKES_BEFORE_SPACING + 4;
/// So many blocks that arrived without one take a strike away.
const BLOCKS_PER_STRIKE: u64 = 64;

/// Sends a body of known length.
#[derive(Debug)]
pub struct Sender {
    params: Params,
    patience: Patience,
    /// What is to be acknowledged before the first block, if anything; and whether it is due.
    opening: Option<Opening>,
    opening_due: bool,
    last: BlockIndex,
    /// Everything up to here has arrived.
    acked: BlockIndex,
    /// The next to send; behind `sent` after a go-back.
    next: BlockIndex,
    /// The highest ever sent.
    sent: BlockIndex,
    /// The highest sent more than once.
    copied: BlockIndex,
    /// Whether the peer has proved that it is there.
    validated: bool,
    retries: u8,
    timer: Retransmission,
    /// When to send again what is under way.
    deadline: Option<Instant>,
    moved_at: Instant,
    /// The first block of a burst that was sent once, and when: an ACK of it, or of a later one of the
    /// burst, measures the round trip.
    sample: Option<(BlockIndex, Instant)>,
    /// When the block after `acked` was last sent.
    window_sent_at: Instant,
    /// Whether this window was resumed already: further equal ACKs say nothing new.
    resumed: bool,
    /// Go-backs since the last window that got through whole.
    resumes: u8,
    resumed_at: Option<Instant>,
    /// A gap was reported less than a round trip after the last go-back: obey then, unless it closes.
    resume_at: Option<Instant>,
    /// Go-backs that turned out to be for nothing, less those lived down.
    strikes: u8,
    /// Up to here counts nothing for taking a strike away.
    struck_at: BlockIndex,
    /// The next block waits until then.
    paced_until: Option<Instant>,
    retransmissions: u64,
    outcome: Option<Outcome>,
}

impl Sender {
    /// Answers a read request for `len` octets, with an OACK first if there is one.
    #[must_use]
    pub fn answer(params: Params, len: u64, oack: bool, patience: Patience, now: Instant) -> Self {
        Self::new(params, len, oack.then_some(Opening::Oack), patience, now)
    }

    /// Asks to write `len` octets; the terms come with [`Sender::agree`], or never.
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
            retransmissions: 0,
            outcome: None,
        }
    }

    /// Takes the terms of the OACK that answers a write request.
    pub fn agree(&mut self, params: Params, len: u64, now: Instant) {
        if self.opening == Some(Opening::Request) {
            self.params = params;
            self.last = BlockIndex::last_of(len, params.blksize());
            self.timer.agree(&params, &self.patience, End::Sender);
            self.opened(now);
        }
    }

    /// An ACK arrived. Says what round trip it measured, if it did.
    pub fn handle_ack(&mut self, wire: WireBlock, now: Instant) -> Option<Duration> {
        if self.outcome.is_some() {
            return None;
        }
        if self.opening.is_some() {
            // RFC 2347: an OACK is acknowledged by "an ACK packet with the block number set to 0"; so is a WRQ.
            return if wire.0 == 0 { self.opened(now) } else { None };
        }
        // The first index from `acked` on that bears the number: an old ACK comes out beyond `sent`.
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

    /// ERROR arrived: the transfer is over, and it is never answered.
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

    /// The time that [`Sender::poll_timeout`] named has come.
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
            self.silence(now);
        }
    }

    /// What to send next: at most `segments` blocks in one go. Says the same until told of by
    /// [`Sender::transmitted`].
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

    /// Of what [`Sender::poll_transmit`] described, this many datagrams left.
    pub fn transmitted(&mut self, count: u64, now: Instant) {
        if count == 0 {
            return;
        }
        self.deadline = Some(now + self.timer.interval());
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

    /// When to call [`Sender::handle_timeout`], if nothing arrives before.
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

    /// Whether the peer has proved that it is there.
    #[must_use]
    pub const fn is_validated(&self) -> bool {
        self.validated
    }

    /// Everything up to this block has arrived.
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

    /// When the peer last moved the transfer on.
    #[must_use]
    pub const fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// Datagrams sent more than once.
    #[must_use]
    pub const fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    fn opened(&mut self, now: Instant) -> Option<Duration> {
        self.opening = None;
        self.opening_due = false;
        let measured = self.measure(BlockIndex::ZERO, now);
        self.moved(now);
        measured
    }

    /// New blocks have arrived, up to `index`.
    fn advance(&mut self, index: BlockIndex, now: Instant) -> Option<Duration> {
        let measured = self.measure(index, now);
        self.moved(now);
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
            // A jump ahead, past the point that a go-back had come to: the receiver had kept the rest.
            self.next = index.plus(1);
        } else if self.answers_a_copy(now) {
            // The blocks beyond may be in; if they are not, the next ones will draw the same ACK again.
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

    /// Was the last go-back for nothing? The blocks sent with it cannot have been acknowledged sooner than
    /// in a round trip; what is, had only been overtaken.
    fn judge(&mut self, index: BlockIndex, now: Instant) {
        let soonest = self.timer.least_round_trip();
        if self.resumed_at.is_some_and(|at| now - at < soonest) {
            self.strike(index);
        } else if index.past(self.struck_at) >= BLOCKS_PER_STRIKE {
            self.strikes = self.strikes.saturating_sub(1);
            self.struck_at = index;
        }
    }

    /// Whether an ACK inside the window comes just when the first blocks of the last go-back have arrived:
    /// some receivers acknowledge each block that they had already, and going back for that would send
    /// them more such blocks, for ever. The first time, it may as well report another gap.
    fn answers_a_copy(&self, now: Instant) -> bool {
        let usual = self.timer.least_round_trip() * 5 / 4;
        self.resumes > 1 && self.resumed_at.is_some_and(|at| now - at <= usual)
    }

    fn strike(&mut self, index: BlockIndex) {
        self.strikes = (self.strikes + 1).min(STRIKES_MAX);
        self.struck_at = index;
    }

    /// An ACK that says nothing new, unless it reports that the window's first block is missing.
    fn repeated(&mut self, now: Instant) {
        // RFC 1123 §4.2.3.1: a duplicate ACK must never cause a send, or each is answered for ever.
        if self.params.is_lockstep() || self.sent == self.acked || self.resumed {
            return;
        }
        // EDK2 acknowledges each block that it had already by an ACK of the last one. After a window that was
        // sent twice such ACKs are due; going back for them would send the next one twice as well, and so on
        // to the end of the file. A true gap is left to the timer; once that has fired, such ACKs are all in.
        let answers_copies = self.acked > BlockIndex::ZERO && self.acked <= self.copied;
        if answers_copies && self.timer.silences() == 0 {
            return;
        }
        // A report about blocks sent just now cannot be here yet: the network made this one, or the
        // receiver answers a repeat of the window before, or it lost its patience while ACKs wait in a
        // crowd's queue, and the one for the whole window stands behind this. Wait until that is overdue.
        let overdue = self.timer.overdue().unwrap_or_default();
        self.gap_reported(self.window_sent_at + overdue, now);
    }

    /// Resumes after `acked`, at `soonest`, unless the gap closes before; and at most once in a round
    /// trip, for a report that crosses the blocks of the last go-back on its way knows nothing of them.
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
        self.deadline = Some(now + self.timer.interval());
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
            // A receiver that never reports a gap may drop most of each window, if blocks overtake each other.
            if self.timer.silences() > 1 && !self.params.is_lockstep() {
                self.strike(self.acked);
            }
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

    fn moved(&mut self, now: Instant) {
        self.validated = true;
        self.moved_at = now;
        self.timer.progress();
        self.deadline = None;
    }

    /// The last block that may be under way.
    fn window_end(&self) -> BlockIndex {
        if self.is_probing() {
            return self.probe();
        }
        // A peer that has yet to prove itself gets one datagram at a time.
        let window = if self.validated {
            u64::from(self.params.windowsize())
        } else {
            1
        };
        self.acked.plus(window).min(self.last)
    }

    /// Whether the peer has been silent for so long that it gets single blocks.
    const fn is_probing(&self) -> bool {
        self.timer.silences() > WINDOW_REPEATS_MAX
    }

    /// The block that a silent peer gets.
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

    #[test]
    fn an_ack_of_what_was_never_sent_is_ignored() {
        let Ok(Packet::Rrq(request)) =
            Packet::parse(b"\x00\x01x\x00octet\x00blksize\x008\x00windowsize\x004\x00")
        else {
            panic!("a request");
        };
        let limits = Limits {
            blksize_max: 8,
            windowsize_max: 4,
        };
        let answer = negotiate::answer(&request, &limits, Asked::Read(80), &mut [0; 256]).unwrap();
        let now = Instant::ZERO;
        let mut sender = Sender::answer(answer.params, 80, true, Patience::DEFAULT, now);
        sender.transmitted(1, now);
        sender.handle_ack(WireBlock(0), now);
        sender.transmitted(4, now);
        sender.handle_ack(WireBlock(7), now);
        assert_eq!(
            (sender.acked(), sender.sent()),
            (BlockIndex(0), BlockIndex(4))
        );
        sender.handle_ack(WireBlock(4), now);
        assert_eq!(sender.acked(), BlockIndex(4));
    }
}
