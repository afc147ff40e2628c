//! The side that gets the file: a server that is written to, a client that reads.
//!
//! ```text
//!            request, OACK or ACK 0                    last block is in
//!   Opening ────────────────────────► Receiving ─────────────────────────► Publishing
//!      │          first block            │  ▲                                   │ published
//!      └── silence: Unanswered           │  └─ a gap, or silence: ACK           ▼
//!                                        └──── idle: TimedOut                Complete (repeats are re-ACKed)
//! ```
//!
//! Blocks that overtake others are kept by the caller ([`Verdict::Ahead`]), and a gap is reported once,
//! after a time in which late blocks usually come. A path that reorders thus costs nothing, where a
//! receiver that calls every overtaking a loss makes the sender send each window many times.

use super::block::BlockIndex;
use super::negotiate::Params;
use super::outcome::Outcome;
use super::timing::{End, Patience, Retransmission, earlier};
use super::transmit::{Opening, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{ErrorCode, WireBlock};

/// How late a block may be before it is missed, while no round trip was measured.
const LATENESS_UNKNOWN: Duration = Duration::from_millis(5);
/// Least lateness granted: below it, the receiver's own scheduling decides.
const LATENESS_MIN: Duration = Duration::from_millis(1);
/// Most lateness granted, however late blocks were seen to come.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// What to do with the payload of a DATA packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The block that was waited for: append it, then the kept ones up to [`Receiver::received`].
    Next(BlockIndex),
    /// A block that overtook others: keep it until the blocks before it are in.
    Ahead(BlockIndex),
    /// Nothing: it was here before, or belongs elsewhere.
    Ignore,
    /// Longer than the block size agreed on: the peer broke the terms, and the transfer is over.
    TooLong,
}

/// Receives a body.
#[derive(Debug)]
pub struct Receiver {
    params: Params,
    patience: Patience,
    /// What opens the transfer, while nothing has answered it; `None` is ACK 0 for a writer without options.
    opening: Option<Opening>,
    /// Everything up to here is in.
    received: BlockIndex,
    /// The block that the last ACK named.
    acked: BlockIndex,
    acked_at: Instant,
    /// When to send the last ACK again, if nothing new has come by then.
    repeat_at: Option<Instant>,
    ahead: Ahead,
    /// The block that was shorter than the others.
    last: Option<BlockIndex>,
    published: bool,
    /// Something is to be sent: the opening or an ACK of `received`.
    due: bool,
    validated: bool,
    retries: u8,
    timer: Retransmission,
    /// When silence is answered by a repeat.
    deadline: Option<Instant>,
    moved_at: Instant,
    /// When the last fresh opening or ACK was sent, while no new block has answered it.
    sample: Option<Instant>,
    gap: Option<Gap>,
    /// The lateness seen on this path, with some margin.
    lateness: Duration,
    retransmissions: u64,
    outcome: Option<Outcome>,
}

/// A block is missing that others have overtaken.
#[derive(Debug, Clone, Copy)]
struct Gap {
    since: Instant,
    report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    DueAt(Instant),
    SentAt(Instant),
}

impl Receiver {
    /// Answers a write request, with an OACK if there is one, else with ACK 0.
    #[must_use]
    pub fn answer(params: Params, oack: bool, patience: Patience, now: Instant) -> Self {
        Self::new(params, oack.then_some(Opening::Oack), patience, now)
    }

    /// Asks to read; the terms come with [`Receiver::agree`], or never.
    #[must_use]
    pub fn request(patience: Patience, now: Instant) -> Self {
        Self::new(Params::RFC1350, Some(Opening::Request), patience, now)
    }

    fn new(params: Params, opening: Option<Opening>, patience: Patience, now: Instant) -> Self {
        Self {
            params,
            patience,
            opening,
            received: BlockIndex::ZERO,
            acked: BlockIndex::ZERO,
            acked_at: now,
            repeat_at: None,
            ahead: Ahead::default(),
            last: None,
            published: false,
            due: true,
            validated: false,
            retries: 0,
            timer: Retransmission::new(&params, &patience, End::Receiver),
            deadline: None,
            moved_at: now,
            sample: None,
            gap: None,
            lateness: Duration::ZERO,
            retransmissions: 0,
            outcome: None,
        }
    }

    /// Takes the terms of the OACK that answers a read request: they are acknowledged by ACK 0.
    /// A repeat of the OACK is acknowledged again, as long as no block came after it.
    pub fn agree(&mut self, params: Params, now: Instant) {
        if self.opening == Some(Opening::Request) {
            self.params = params;
            self.timer.agree(&params, &self.patience, End::Receiver);
            self.opening = None;
            self.measure(now);
            self.moved(now);
            self.deadline = Some(now + self.timer.interval());
            self.due = true;
        } else if self.received == BlockIndex::ZERO
            && self.opening.is_none()
            && params == self.params
        {
            self.due = true;
        }
    }

    /// DATA arrived, with `len` octets of payload.
    pub fn handle_data(&mut self, wire: WireBlock, len: usize, now: Instant) -> Verdict {
        if self
            .outcome
            .is_some_and(|outcome| outcome != Outcome::Complete)
        {
            return Verdict::Ignore;
        }
        let expected = self.received.plus(1);
        let rollover = self.params.rollover();
        let index = rollover.resolve(wire, expected);
        let window = u64::from(self.params.windowsize());
        // What counts from the last ACK is the window; within it, a number means one block only.
        let in_window = index.filter(|&index| {
            index <= self.acked.plus(window) && self.last.is_none_or(|last| index <= last)
        });
        let Some(index) = in_window else {
            self.repeated(wire, now);
            return Verdict::Ignore;
        };
        if len > usize::from(self.params.blksize()) {
            self.end(Outcome::Refused(ErrorCode::ILLEGAL));
            return Verdict::TooLong;
        }
        if index > expected {
            return self.overtook(index, len, now);
        }
        self.measure(now);
        self.moved(now);
        // A server that knows no options answers a request with DATA 1 and no OACK.
        self.opening = None;
        self.note_last(index, len);
        self.received = index;
        self.ahead.slide();
        while self.ahead.first() {
            self.received = self.received.plus(1);
            self.ahead.slide();
        }
        self.gap_moved(now);
        self.deadline = if self.is_whole() {
            // The last ACK waits until the file is published.
            None
        } else if self.received.past(self.acked) >= window {
            self.due = true;
            Some(now + self.timer.interval())
        } else {
            Some(now + self.timer.interval_within_window())
        };
        Verdict::Next(index)
    }

    /// The whole file is in and safe: the last block may be acknowledged.
    pub fn publish(&mut self) {
        if self.is_whole() && self.outcome.is_none() {
            self.published = true;
            self.due = true;
        }
    }

    /// ERROR arrived: the transfer is over, and it is never answered.
    pub fn handle_error(&mut self, code: ErrorCode) {
        self.end(Outcome::PeerError(code));
    }

    /// The time that [`Receiver::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.outcome.is_some() {
            return;
        }
        if let Some(gap) = &mut self.gap
            && let Report::DueAt(at) = gap.report
            && at <= now
        {
            gap.report = Report::SentAt(now);
            self.due = true;
        }
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.acknowledge_again();
        }
        if self.is_whole() {
            return;
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

    /// What to send next.
    #[must_use]
    pub fn poll_transmit(&self) -> Option<Transmit> {
        if !self.due
            || self
                .outcome
                .is_some_and(|outcome| outcome != Outcome::Complete)
        {
            return None;
        }
        if self.is_whole() && !self.published {
            return None;
        }
        Some(
            self.opening
                .map_or(Transmit::Ack(self.received), Transmit::Opening),
        )
    }

    /// What [`Receiver::poll_transmit`] described has left, if `count` is 1.
    pub fn transmitted(&mut self, count: u64, now: Instant) {
        if count == 0 {
            return;
        }
        self.due = false;
        // Only what the sender cannot send before it has this says how long the way there and back is:
        // after a part of a window, the rest may be on its way already.
        let window = u64::from(self.params.windowsize());
        let whole_window = self.received.past(self.acked) >= window;
        let opening = self.received == BlockIndex::ZERO && self.retries == 0;
        self.sample = (whole_window || opening).then_some(now);
        self.acked = self.received;
        self.acked_at = now;
        if self.is_whole() {
            self.end(Outcome::Complete);
        } else {
            self.deadline = Some(now + self.timer.interval());
        }
    }

    /// When to call [`Receiver::handle_timeout`], if nothing arrives before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outcome.is_some() || self.is_whole() {
            return None;
        }
        let report = self.gap.and_then(|gap| match gap.report {
            Report::DueAt(at) => Some(at),
            Report::SentAt(_) => None,
        });
        let soon = earlier(report, self.repeat_at);
        earlier(earlier(self.deadline, soon), Some(self.idle_at()))
    }

    /// How the transfer ended, once it has. After [`Outcome::Complete`], repeats of the last block
    /// still make [`Receiver::poll_transmit`] acknowledge them.
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

    /// Everything up to this block is in.
    #[must_use]
    pub const fn received(&self) -> BlockIndex {
        self.received
    }

    /// The block that the last ACK named.
    #[must_use]
    pub const fn acked(&self) -> BlockIndex {
        self.acked
    }

    /// Whether every block is in, the last one included.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.last == Some(self.received)
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

    /// A block that is in already. Only the one that the last ACK named says that this ACK was lost;
    /// repeats of earlier ones are the rest of a window that is on its way again.
    fn repeated(&mut self, wire: WireBlock, now: Instant) {
        let is_last_acked =
            self.acked > BlockIndex::ZERO && self.params.rollover().wire(self.acked) == wire;
        if !is_last_acked || self.acked != self.received {
            return;
        }
        // Nobody can have missed an ACK that left less than a round trip ago: the network delivered the
        // block twice, and with a window the sender would take another ACK for the report of a gap. If
        // the next blocks are overdue, it was no such copy. In lock-step another ACK does no harm.
        let known_at = self.acked_at + self.timer.overdue().unwrap_or_default();
        if self.params.is_lockstep() || self.is_whole() || known_at <= now {
            self.acknowledge_again();
        } else {
            self.repeat_at = Some(known_at);
        }
    }

    fn acknowledge_again(&mut self) {
        self.repeat_at = None;
        self.due = true;
        self.retransmissions += 1;
    }

    fn overtook(&mut self, index: BlockIndex, len: usize, now: Instant) -> Verdict {
        self.repeat_at = None;
        if !self.ahead.set(index.past(self.received) - 1) {
            return Verdict::Ignore;
        }
        // Whoever sends blocks has the OACK. What it lacks is the report that block 1 was lost: ACK 0.
        if self.opening == Some(Opening::Oack) {
            self.opening = None;
        }
        self.note_last(index, len);
        let tolerance = self.tolerance();
        self.gap.get_or_insert(Gap {
            since: now,
            report: Report::DueAt(now + tolerance),
        });
        Verdict::Ahead(index)
    }

    /// A shorter block is the last. A sender that says so twice is believed the first time.
    fn note_last(&mut self, index: BlockIndex, len: usize) {
        if len < usize::from(self.params.blksize()) && self.last.is_none() {
            self.last = Some(index);
        }
    }

    /// The block that was missed has come: learn how late blocks are here, and look at the next gap.
    fn gap_moved(&mut self, now: Instant) {
        if let Some(gap) = self.gap.take() {
            let round_trip = self.timer.round_trip().unwrap_or_default();
            let came_by_itself = match gap.report {
                Report::DueAt(_) => true,
                // What was asked for takes a round trip to come.
                Report::SentAt(at) => now - at < round_trip * 3 / 4,
            };
            if came_by_itself {
                self.lateness = self
                    .lateness
                    .max((now - gap.since) * 5 / 4)
                    .min(LATENESS_MAX);
            }
        }
        if self.ahead.any() {
            let tolerance = self.tolerance();
            self.gap = Some(Gap {
                since: now,
                report: Report::DueAt(now + tolerance),
            });
        }
    }

    fn tolerance(&self) -> Duration {
        let guess = self
            .timer
            .round_trip()
            .map_or(LATENESS_UNKNOWN, |mean| mean * 3 / 4);
        guess.clamp(LATENESS_MIN, LATENESS_MAX).max(self.lateness)
    }

    fn silence(&mut self, now: Instant) {
        if !self.validated {
            if self.retries >= self.patience.unvalidated_retries
                && self.opening != Some(Opening::Request)
            {
                self.end(Outcome::Unanswered);
                return;
            }
            self.retries = self.retries.saturating_add(1);
        }
        self.timer.silence();
        self.deadline = Some(now + self.timer.interval());
        self.sample = None;
        self.due = true;
        self.retransmissions += 1;
    }

    const fn end(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
        }
    }

    fn measure(&mut self, now: Instant) {
        if let Some(at) = self.sample.take() {
            self.timer.sample(now - at);
        }
    }

    fn moved(&mut self, now: Instant) {
        self.repeat_at = None;
        self.validated = true;
        self.moved_at = now;
        self.retries = 0;
        self.timer.progress();
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

/// Which of the blocks after the next expected one are in: one bit each, the lowest for the expected
/// block itself. Empty, and without memory, as long as blocks come in order.
#[derive(Debug, Default)]
struct Ahead {
    words: std::collections::VecDeque<u64>,
    /// Bits of the first word that lie before the expected block.
    skipped: u32,
}

impl Ahead {
    /// Notes the block `distance` after the expected one; false if it was noted before.
    fn set(&mut self, distance: u64) -> bool {
        let place = distance + u64::from(self.skipped);
        let (word, bit) = ((place / 64) as usize, 1 << (place % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        fresh
    }

    /// Whether the expected block is in.
    fn first(&self) -> bool {
        self.words
            .front()
            .is_some_and(|word| word >> self.skipped & 1 == 1)
    }

    /// The block after the expected one becomes the expected one.
    fn slide(&mut self) {
        if self.words.is_empty() {
            return;
        }
        if let Some(word) = self.words.front_mut() {
            *word &= !(1 << self.skipped);
        }
        self.skipped += 1;
        if self.skipped == 64 {
            self.skipped = 0;
            self.words.pop_front();
        }
        if !self.any() {
            self.words.clear();
            self.skipped = 0;
        }
    }

    fn any(&self) -> bool {
        self.words.iter().any(|&word| word != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::negotiate::{self, Asked, Limits};
    use crate::wire::Packet;

    /// A server that knows no options answers with DATA 1; anything later is nobody's first word.
    #[test]
    fn before_the_first_answer_only_block_one_counts() {
        let now = Instant::ZERO;
        let mut receiver = Receiver::request(Patience::DEFAULT, now);
        assert_eq!(
            receiver.handle_data(WireBlock(2), 512, now),
            Verdict::Ignore
        );
        assert!(!receiver.is_validated());
        let first = receiver.handle_data(WireBlock(1), 512, now);
        assert_eq!(first, Verdict::Next(BlockIndex::FIRST));
        assert!(receiver.is_validated());
    }

    /// What the queue did not take is still due.
    #[test]
    fn what_has_not_left_is_not_sent() {
        let now = Instant::ZERO;
        let mut receiver = Receiver::request(Patience::DEFAULT, now);
        let due = receiver.poll_transmit();
        assert!(due.is_some());
        receiver.transmitted(0, now);
        assert_eq!(receiver.poll_transmit(), due);
        receiver.transmitted(1, now);
        assert_eq!(receiver.poll_transmit(), None);
    }

    /// Whoever keeps blocks has a place for each of one window, and none for more.
    #[test]
    fn a_block_beyond_the_window_is_ignored() {
        let Ok(Packet::Wrq(request)) =
            Packet::parse(b"\x00\x02x\x00octet\x00blksize\x008\x00windowsize\x004\x00")
        else {
            panic!("a request");
        };
        let limits = Limits {
            blksize_max: 8,
            windowsize_max: 4,
        };
        let answer = negotiate::answer(&request, &limits, Asked::Write, &mut [0; 256]).unwrap();
        let now = Instant::ZERO;
        let mut receiver = Receiver::answer(answer.params, true, Patience::DEFAULT, now);
        receiver.transmitted(1, now);
        let verdict =
            |receiver: &mut Receiver, block| receiver.handle_data(WireBlock(block), 8, now);
        assert_eq!(verdict(&mut receiver, 5), Verdict::Ignore);
        assert_eq!(verdict(&mut receiver, 4), Verdict::Ahead(BlockIndex(4)));
        assert_eq!(verdict(&mut receiver, 1), Verdict::Next(BlockIndex(1)));
        assert_eq!(verdict(&mut receiver, 5), Verdict::Ignore);
    }
}
