//! The receiver of a file: a server that answers a write, or a client that reads.
//!
//! ```text
//!            request, OACK or ACK 0                    last block is in
//!   Opening ────────────────────────► Receiving ─────────────────────────► Publishing
//!      │          first block            │  ▲                                   │ published
//!      └── silence: Unanswered           │  └─ a gap, or silence: ACK           ▼
//!                                        └──── idle: TimedOut                Complete (repeats are re-ACKed)
//! ```
//!
//! The caller keeps out-of-order blocks ([`Verdict::Ahead`]), and a gap is reported once, after a time in
//! which late blocks usually arrive. Reordering therefore costs nothing, whereas a receiver that treats it
//! as loss makes the sender send each window many times.

use super::block::BlockIndex;
use super::negotiate::Params;
use super::outcome::Outcome;
use super::timing::{End, Patience, Retransmission, earlier};
use super::transmit::{Opening, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{ErrorCode, WireBlock};

/// How late a block may be before it counts as missing, before the first RTT sample.
const LATENESS_UNKNOWN: Duration = Duration::from_millis(5);
/// Minimum tolerated lateness: below it, the receiver's own scheduling decides.
const LATENESS_MIN: Duration = Duration::from_millis(1);
/// Maximum tolerated lateness, however late blocks have arrived.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// What to do with the payload of a DATA packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The expected block: append it, then the kept ones up to [`Receiver::received`].
    Next(BlockIndex),
    /// An out-of-order block: keep it until the blocks before it have arrived.
    Ahead(BlockIndex),
    /// Nothing to do: a duplicate, or a block from elsewhere.
    Ignore,
    /// Longer than the agreed block size: the peer broke the terms, and the transfer is over.
    TooLong,
    /// Shorter than the agreed block size, although another block is the last: likewise.
    TooShort,
}

/// Receives a body.
#[derive(Debug)]
pub struct Receiver {
    params: Params,
    patience: Patience,
    /// What opens the transfer, until something answers it; `None` is ACK 0 for a writer without options.
    opening: Option<Opening>,
    /// Whether that, or ACK 0, has been sent.
    opening_sent: bool,
    /// Every block up to this one has arrived.
    received: BlockIndex,
    /// The block that the last ACK named.
    acked: BlockIndex,
    acked_at: Instant,
    /// When to send the last ACK again, if nothing new arrives first.
    repeat_at: Option<Instant>,
    ahead: Ahead,
    /// The block that is shorter than the block size, once it has arrived.
    last: Option<BlockIndex>,
    published: bool,
    /// Whether the opening or an ACK of `received` is due to be sent.
    due: bool,
    validated: bool,
    retries: u8,
    timer: Retransmission,
    /// When to retransmit if nothing arrives.
    deadline: Option<Instant>,
    moved_at: Instant,
    /// When the last opening or ACK was sent for the first time; `None` once a new block has answered it.
    sample: Option<Instant>,
    gap: Option<Gap>,
    /// The lateness observed on this path, with some margin.
    lateness: Duration,
    retransmissions: u64,
    outcome: Option<Outcome>,
}

/// A missing block, while later ones have arrived.
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
    /// Answers a write request, with an OACK if there is one, otherwise with ACK 0.
    #[must_use]
    pub fn answer(params: Params, oack: bool, patience: Patience, now: Instant) -> Self {
        Self::new(params, oack.then_some(Opening::Oack), patience, now)
    }

    /// Asks to read; [`Receiver::agree`] supplies the terms, if the server sends an OACK.
    #[must_use]
    pub fn request(patience: Patience, now: Instant) -> Self {
        Self::new(Params::RFC1350, Some(Opening::Request), patience, now)
    }

    fn new(params: Params, opening: Option<Opening>, patience: Patience, now: Instant) -> Self {
        Self {
            params,
            patience,
            opening,
            opening_sent: false,
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

    /// Applies the terms of the OACK that answers a read request, and acknowledges it with ACK 0. A repeated
    /// OACK is acknowledged again, as long as no block came after it.
    pub fn agree(&mut self, params: Params, now: Instant) {
        if self.opening == Some(Opening::Request) {
            self.params = params;
            self.timer.agree(&params, &self.patience, End::Receiver);
            self.opening = None;
            self.opening_sent = false;
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

    /// Handles DATA with `len` octets of payload.
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
        // The window starts after the last ACK. It holds at most half of the numbers, so a retransmitted
        // block of the previous window resolves to an index beyond it.
        let in_window = index.filter(|&index| {
            index <= self.acked.plus(window) && self.last.is_none_or(|last| index <= last)
        });
        let Some(index) = in_window else {
            self.repeated(wire, now);
            return Verdict::Ignore;
        };
        if len != usize::from(self.params.blksize())
            && let Some(broken) = self.broken_terms(index, len)
        {
            self.end(Outcome::Refused(ErrorCode::ILLEGAL));
            return broken;
        }
        if index > expected {
            return self.overtook(index, len, now);
        }
        self.measure(now);
        self.moved(now);
        // A server without options answers a request with DATA 1 and no OACK.
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

    /// Drops an out-of-order block ([`Verdict::Ahead`]) that the caller had no room for, as if it were lost.
    pub fn forget(&mut self, index: BlockIndex) {
        self.ahead.clear(index.past(self.received) - 1);
        self.last = self.last.filter(|&last| last != index);
    }

    /// Records that the whole file is stored safely: the last block may be acknowledged.
    pub fn publish(&mut self) {
        if self.is_whole() && self.outcome.is_none() {
            self.published = true;
            self.due = true;
        }
    }

    /// Handles an ERROR: the transfer is over, and no answer is ever sent.
    pub fn handle_error(&mut self, code: ErrorCode) {
        self.end(Outcome::PeerError(code));
    }

    /// Handles the expiry of the time that [`Receiver::poll_timeout`] returned.
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

    /// Records that what [`Receiver::poll_transmit`] described was sent, if `count` is 1.
    pub fn transmitted(&mut self, count: u64, now: Instant) {
        if count == 0 {
            return;
        }
        self.due = false;
        // Only a block that the sender cannot send before it has this ACK measures the RTT: after a partial
        // window, the rest may already be in flight.
        let window = u64::from(self.params.windowsize());
        let whole_window = self.received.past(self.acked) >= window;
        // Karn's algorithm: what was sent twice measures nothing.
        let opening = self.received == BlockIndex::ZERO && !self.opening_sent;
        self.opening_sent = true;
        self.sample = (whole_window || opening).then_some(now);
        self.acked = self.received;
        self.acked_at = now;
        if self.is_whole() {
            self.end(Outcome::Complete);
        } else {
            self.deadline = Some(now + self.interval());
        }
    }

    /// When to call [`Receiver::handle_timeout`], if nothing arrives first.
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

    /// How the transfer ended, once it has. After [`Outcome::Complete`], repeats of the last block still make
    /// [`Receiver::poll_transmit`] return an ACK.
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

    /// Every block up to this one has arrived.
    #[must_use]
    pub const fn received(&self) -> BlockIndex {
        self.received
    }

    /// The block that the last ACK named.
    #[must_use]
    pub const fn acked(&self) -> BlockIndex {
        self.acked
    }

    /// Whether every block has arrived, including the last one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.last == Some(self.received)
    }

    /// When the peer last advanced the transfer.
    #[must_use]
    pub const fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// SRTT, once there is an RTT sample.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.timer.round_trip()
    }

    /// Number of datagrams retransmitted.
    #[must_use]
    pub const fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    /// Handles a duplicate block. Only the block that the last ACK named shows that this ACK was lost;
    /// duplicates of earlier blocks are the rest of a retransmitted window.
    fn repeated(&mut self, wire: WireBlock, now: Instant) {
        let is_last_acked =
            self.acked > BlockIndex::ZERO && self.params.rollover().wire(self.acked) == wire;
        if !is_last_acked || self.acked != self.received {
            return;
        }
        // The sender cannot have missed an ACK that was sent less than one RTT ago: the network duplicated
        // the block, and with a window the sender would take another ACK for a gap report. If the next blocks
        // are overdue, the block was a retransmission. In lock-step another ACK does no harm.
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
        // A sender of blocks has received the OACK. It still needs the report that block 1 was lost: ACK 0.
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

    /// How a block that is not of the negotiated size breaks the terms, if it does. Only the last block of a
    /// transfer gets here.
    #[cold]
    fn broken_terms(&self, index: BlockIndex, len: usize) -> Option<Verdict> {
        if len > usize::from(self.params.blksize()) {
            Some(Verdict::TooLong)
        } else {
            self.contradicts(index).then_some(Verdict::TooShort)
        }
    }

    /// Whether a short block contradicts another last block, or a later block that has arrived. RFC 1350 §2:
    /// "a data packet of less than 512 bytes signals termination of a transfer".
    fn contradicts(&self, index: BlockIndex) -> bool {
        let distance = index.past(self.received) - 1;
        self.last.is_some_and(|last| last != index) || self.ahead.any_after(distance)
    }

    /// Records a block shorter than the block size as the last one.
    fn note_last(&mut self, index: BlockIndex, len: usize) {
        if len < usize::from(self.params.blksize()) {
            self.last = Some(index);
        }
    }

    /// The missing block has arrived: update the lateness of this path, and start on the next gap.
    fn gap_moved(&mut self, now: Instant) {
        if let Some(gap) = self.gap.take() {
            let round_trip = self.timer.round_trip().unwrap_or_default();
            let came_by_itself = match gap.report {
                Report::DueAt(_) => true,
                // A block that was requested takes one RTT to arrive.
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
        if self.opening.is_none() && !self.timer.repeats_acks() {
            // The sender has to retransmit, or the transfer ends.
            self.deadline = None;
            return;
        }
        if !self.validated {
            if self.is_out_of_retries() {
                self.end(Outcome::Unanswered);
                return;
            }
            self.retries = self.retries.saturating_add(1);
        }
        self.timer.silence();
        self.deadline = Some(now + self.interval());
        self.sample = None;
        self.due = true;
        self.retransmissions += 1;
    }

    /// Whether the peer is not validated and has used up its retransmissions.
    fn is_out_of_retries(&self) -> bool {
        !self.validated
            && self.retries >= self.patience.unvalidated_retries
            && self.opening != Some(Opening::Request)
    }

    /// How long to wait for an answer to what is sent now.
    fn interval(&self) -> Duration {
        if self.is_out_of_retries() {
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
        self.timer.progress(true);
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

/// Which blocks from the expected one on have arrived: one bit each, the lowest for the expected block
/// itself. Empty, and without memory, as long as blocks arrive in order.
#[derive(Debug, Default)]
struct Ahead {
    words: std::collections::VecDeque<u64>,
    /// Bits of the first word that precede the expected block.
    skipped: u32,
}

impl Ahead {
    /// Sets the bit of the block `distance` after the expected one; false if it was set before.
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

    /// Clears the bit of the block `distance` after the expected one.
    fn clear(&mut self, distance: u64) {
        let place = distance + u64::from(self.skipped);
        if let Some(word) = self.words.get_mut((place / 64) as usize) {
            *word &= !(1 << (place % 64));
        }
    }

    /// Whether any block more than `distance` after the expected one has arrived.
    fn any_after(&self, distance: u64) -> bool {
        let place = distance + 1 + u64::from(self.skipped);
        let mut words = self.words.iter().skip((place / 64) as usize);
        let first = words.next().map_or(0, |word| word >> (place % 64));
        first != 0 || words.any(|&word| word != 0)
    }

    /// Whether the expected block has arrived.
    fn first(&self) -> bool {
        self.words
            .front()
            .is_some_and(|word| word >> self.skipped & 1 == 1)
    }

    /// Makes the block after the expected one the expected one.
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

    /// A server without options answers with DATA 1; a later block cannot be the first answer.
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

    /// What the queue did not accept is still due.
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

    /// The receiver keeps blocks of one window and none beyond it.
    #[test]
    fn a_block_beyond_the_window_is_ignored() {
        let mut receiver = offered(4);
        assert_eq!(data(&mut receiver, 5, 0), Verdict::Ignore);
        assert_eq!(data(&mut receiver, 4, 0), Verdict::Ahead(BlockIndex(4)));
        assert_eq!(data(&mut receiver, 1, 0), Verdict::Next(BlockIndex(1)));
        assert_eq!(data(&mut receiver, 5, 0), Verdict::Ignore);
    }

    /// Goal: a short block is not the last one if a later block has arrived, and nothing waits for it.
    /// Method: at every place in the window, in order or not; the later block may be short too.
    #[test]
    fn a_short_block_before_others_breaks_the_terms() {
        for (order, short) in [
            (&[2, 1][..], 1),
            (&[3, 2], 2),
            (&[1, 3, 2], 2),
            (&[1, 2, 70, 69], 69),
            (&[1, 66, 3, 2, 65], 65),
        ] {
            for last_is_short in [false, true] {
                let mut receiver = offered(200);
                let last = order.iter().max().unwrap();
                for &block in order {
                    assert_eq!(receiver.outcome(), None);
                    let is_short = block == short || (last_is_short && block == *last);
                    let verdict =
                        receiver.handle_data(WireBlock(block), if is_short { 3 } else { 8 }, at(1));
                    assert_eq!(verdict == Verdict::TooShort, block == short, "{order:?}");
                }
                let illegal = Outcome::Refused(ErrorCode::ILLEGAL);
                assert_eq!(receiver.outcome(), Some(illegal));
                assert_eq!(receiver.poll_timeout(), None);
            }
        }
        // A duplicate is ignored, even a short one, and so is a block beyond the last one.
        let mut receiver = offered(4);
        data(&mut receiver, 1, 1);
        data(&mut receiver, 3, 1);
        assert_eq!(
            receiver.handle_data(WireBlock(1), 3, at(1)),
            Verdict::Ignore
        );
        let mut receiver = offered(4);
        let last = receiver.handle_data(WireBlock(2), 3, at(1));
        assert_eq!(last, Verdict::Ahead(BlockIndex(2)));
        assert_eq!(data(&mut receiver, 3, 1), Verdict::Ignore);
    }

    /// Goal: in the widest window, a retransmitted block of the previous window is not taken for a new one.
    #[test]
    fn repeats_of_a_whole_window_are_known_for_what_they_are() {
        let mut receiver = offered(u16::MAX);
        let window = receiver.params().windowsize();
        for block in 1..=window {
            data(&mut receiver, block, 1);
        }
        assert_eq!(send(&mut receiver, 1), Some(window.into()));
        for block in 1..=window {
            assert_eq!(data(&mut receiver, block, 2), Verdict::Ignore, "{block}");
        }
    }

    /// Goal: out-of-order blocks are identified by their numbers, however far ahead they are. Method: windows
    /// of 200 blocks, longer than three words of bits, in any order and with duplicates.
    #[test]
    fn blocks_may_come_in_any_order() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut receiver = offered(200);
        for window in 0..20_u16 {
            let before = window * 200;
            let mut order: Vec<u16> = (before + 1..=before + 200).collect();
            random.shuffle(&mut order);
            let mut seen = std::collections::BTreeSet::new();
            for &block in &order {
                let expected = match seen.insert(block) {
                    true if block == receiver.received().0 as u16 + 1 => {
                        Verdict::Next(BlockIndex(block.into()))
                    }
                    true => Verdict::Ahead(BlockIndex(block.into())),
                    false => Verdict::Ignore,
                };
                assert_eq!(data(&mut receiver, block, 0), expected);
                let seldom = random.u8(..) < 64;
                let copy = order[random.usize(..order.len())];
                if seldom && seen.contains(&copy) {
                    assert_eq!(data(&mut receiver, copy, 0), Verdict::Ignore);
                }
                let whole = (before + 1..).take_while(|block| seen.contains(block));
                let received = u64::from(before) + whole.count() as u64;
                assert_eq!(receiver.received(), BlockIndex(received));
            }
            assert_eq!(send(&mut receiver, 0), Some(u64::from(before) + 200));
        }
    }

    /// A forged request draws as many retransmissions of the OACK as are allowed, and each is counted.
    #[test]
    fn an_oack_that_nobody_answers_is_repeated_and_given_up() {
        let mut receiver = offered(4);
        while let Some(now) = receiver.poll_timeout() {
            receiver.handle_timeout(now);
            receiver.transmitted(receiver.poll_transmit().is_some().into(), now);
        }
        assert_eq!(receiver.outcome(), Some(Outcome::Unanswered));
        let retries = Patience::DEFAULT.unvalidated_retries;
        assert_eq!(receiver.retransmissions(), u64::from(retries));
    }

    /// A gap is reported once, and only when late blocks should have arrived: after three quarters of the
    /// RTT, or after five milliseconds if no RTT was measured, and never within one millisecond.
    #[test]
    fn a_gap_is_reported_when_late_blocks_are_overdue() {
        for (round_trip, patience) in [(0, 1), (80, 60), (800, 100)] {
            let mut receiver = offered(4);
            data(&mut receiver, 1, round_trip);
            let missed = round_trip + 1;
            data(&mut receiver, 3, missed);
            assert_eq!(receiver.poll_timeout(), Some(at(missed + patience)));
            receiver.handle_timeout(at(missed + patience - 1));
            assert_eq!(send(&mut receiver, missed + patience - 1), None);
            receiver.handle_timeout(at(missed + patience));
            assert_eq!(send(&mut receiver, missed + patience), Some(1));
            data(&mut receiver, 4, missed + patience);
            receiver.handle_timeout(at(missed + patience + patience));
            assert_eq!(send(&mut receiver, missed + patience + patience), None);
        }
        let mut receiver = unmeasured();
        data(&mut receiver, 3, 1_011);
        assert_eq!(receiver.poll_timeout(), Some(at(1_011 + 5)));
    }

    /// A path that delays blocks by itself is allowed that lateness, and a quarter more.
    #[test]
    fn the_lateness_of_blocks_is_learnt() {
        let mut receiver = unmeasured();
        data(&mut receiver, 3, 1_011);
        data(&mut receiver, 2, 1_019);
        data(&mut receiver, 5, 1_020);
        assert_eq!(receiver.poll_timeout(), Some(at(1_020 + 10)));
        // A smaller lateness changes nothing.
        data(&mut receiver, 4, 1_021);
        data(&mut receiver, 7, 1_022);
        assert_eq!(receiver.poll_timeout(), Some(at(1_022 + 10)));
    }

    /// A block that arrives within three quarters of an RTT of the report was not sent because of it: it was
    /// late.
    #[test]
    fn a_block_that_was_asked_for_is_not_late() {
        for (after, patience) in [(59, 100), (60, 60)] {
            let mut receiver = offered(4);
            data(&mut receiver, 1, 80);
            data(&mut receiver, 3, 81);
            receiver.handle_timeout(at(141));
            assert_eq!(send(&mut receiver, 141), Some(1));
            data(&mut receiver, 2, 141 + after);
            data(&mut receiver, 5, 210);
            assert_eq!(receiver.poll_timeout(), Some(at(210 + patience)));
        }
    }

    /// Each gap after the one that closed gets its own time.
    #[test]
    fn the_next_gap_begins_when_the_first_one_ends() {
        let mut receiver = offered(8);
        data(&mut receiver, 1, 80);
        data(&mut receiver, 3, 81);
        data(&mut receiver, 5, 82);
        data(&mut receiver, 2, 90);
        assert_eq!(receiver.moved_at(), at(90));
        assert_eq!(receiver.received(), BlockIndex(3));
        assert_eq!(receiver.poll_timeout(), Some(at(90 + 60)));
        data(&mut receiver, 4, 91);
        assert!(
            receiver.poll_timeout() > Some(at(91 + 100)),
            "no gap is left"
        );
    }

    /// The sender repeats its last block if the ACK of it was lost. A copy made by the network comes sooner
    /// than a retransmission could, and another ACK would be taken for a gap report.
    #[test]
    fn a_copy_of_the_last_block_is_believed_when_the_next_is_overdue() {
        let mut receiver = offered(4);
        for block in 1..=4 {
            data(&mut receiver, block, 80);
        }
        assert_eq!(send(&mut receiver, 80), Some(4));
        let deadline = receiver.poll_timeout();
        data(&mut receiver, 3, 90);
        assert_eq!(receiver.poll_timeout(), deadline, "not the last");
        data(&mut receiver, 4, 90);
        assert_eq!(send(&mut receiver, 90), None);
        // The first sample of 80 ms makes an answer overdue after 80 + 4 · 40 ms (RFC 6298 §2.2).
        assert_eq!(receiver.poll_timeout(), Some(at(80 + 240)));
        receiver.handle_timeout(at(80 + 239));
        assert_eq!(send(&mut receiver, 80 + 239), None);
        assert_eq!(receiver.retransmissions(), 0);
        receiver.handle_timeout(at(80 + 240));
        assert_eq!(send(&mut receiver, 80 + 240), Some(4));
        assert_eq!(receiver.retransmissions(), 1);
        data(&mut receiver, 4, 320 + 240);
        assert_eq!(send(&mut receiver, 320 + 240), Some(4), "overdue already");
        data(&mut receiver, 5, 570);
        data(&mut receiver, 4, 580);
        assert_eq!(send(&mut receiver, 580), None, "a newer block is in");
    }

    #[test]
    fn a_new_block_ends_the_wait_for_a_repeat() {
        for next in [5, 6] {
            let mut receiver = offered(4);
            for block in 1..=4 {
                data(&mut receiver, block, 80);
            }
            send(&mut receiver, 80);
            data(&mut receiver, 4, 90);
            data(&mut receiver, next, 100);
            while let Some(now) = receiver.poll_timeout().filter(|&now| now < at(400)) {
                receiver.handle_timeout(now);
                receiver.transmitted(1, now);
            }
            assert_eq!(receiver.retransmissions(), 0);
        }
    }

    /// Karn's algorithm: after ACK 0 was sent twice, the next block may answer either copy.
    #[test]
    fn an_ack_of_the_oack_that_was_repeated_measures_nothing() {
        let repeated_after = |again: fn(&mut Receiver)| {
            let mut receiver = Receiver::request(Patience::DEFAULT, at(0));
            receiver.transmitted(1, at(0));
            receiver.agree(terms(4), at(900));
            assert_eq!(send(&mut receiver, 900), Some(0));
            again(&mut receiver);
            assert_eq!(send(&mut receiver, 1_900), Some(0));
            data(&mut receiver, 1, 1_901);
            receiver.timer.round_trip()
        };
        let measured = Some(Duration::from_millis(900));
        assert_eq!(repeated_after(|it| it.handle_timeout(at(1_900))), measured);
        assert_eq!(repeated_after(|it| it.agree(terms(4), at(1_900))), measured);
    }

    /// There is no block 0: before the first ACK there is none whose loss it could indicate.
    #[test]
    fn block_zero_says_nothing() {
        let mut receiver = offered(4);
        let deadline = receiver.poll_timeout();
        assert_eq!(data(&mut receiver, 0, 2_000), Verdict::Ignore);
        assert_eq!(receiver.poll_transmit(), None);
        assert_eq!(receiver.poll_timeout(), deadline);
    }

    /// The ACK of an OACK may be lost, and the server then repeats the OACK; once blocks arrive, it was not
    /// lost.
    #[test]
    fn a_repeated_oack_is_acknowledged_until_blocks_come() {
        let terms = terms(4);
        let mut receiver = Receiver::request(Patience::DEFAULT, at(0));
        receiver.transmitted(1, at(0));
        receiver.agree(terms, at(80));
        assert_eq!(send(&mut receiver, 80), Some(0));
        receiver.agree(terms, at(81));
        assert_eq!(send(&mut receiver, 81), Some(0));
        receiver.agree(Params::RFC1350, at(82));
        assert_eq!(send(&mut receiver, 82), None, "other terms");
        data(&mut receiver, 1, 83);
        receiver.agree(terms, at(84));
        assert_eq!(send(&mut receiver, 84), None);
        let mut receiver = offered(4);
        receiver.agree(terms, at(80));
        assert_eq!(send(&mut receiver, 80), None, "it offered the terms itself");
    }

    /// The last ACK may be lost too; after a failed transfer, nothing more is sent.
    #[test]
    fn after_the_end_only_the_last_block_is_acknowledged_again() {
        let mut receiver = offered(4);
        receiver.handle_data(WireBlock(1), 3, at(80));
        receiver.publish();
        assert_eq!(send(&mut receiver, 81), Some(1));
        assert_eq!(receiver.outcome(), Some(Outcome::Complete));
        data(&mut receiver, 1, 82);
        assert_eq!(send(&mut receiver, 82), Some(1));

        let mut receiver = offered(4);
        receiver.end(Outcome::Stopped);
        assert_eq!(data(&mut receiver, 1, 80), Verdict::Ignore);
        receiver.publish();
        assert_eq!(receiver.received(), BlockIndex::ZERO);
        assert_eq!(receiver.poll_transmit(), None);
    }

    /// The terms of a write with blocks of 8 octets, windows of `windowsize` and a timeout of one second.
    fn terms(windowsize: u16) -> Params {
        let request =
            format!("\0\x02x\0octet\0blksize\x008\0windowsize\0{windowsize}\0timeout\x001\0");
        let Ok(Packet::Wrq(request)) = Packet::parse(request.as_bytes()) else {
            panic!("a request");
        };
        let limits = Limits {
            blksize_max: 8,
            windowsize_max: windowsize,
            timeout_max: negotiate::TIMEOUT_MAX,
        };
        negotiate::answer(&request, &limits, Asked::Write, &mut [0; 256])
            .unwrap()
            .params
    }

    /// A receiver that has sent its OACK.
    fn offered(windowsize: u16) -> Receiver {
        let mut receiver = Receiver::answer(terms(windowsize), true, Patience::DEFAULT, at(0));
        receiver.transmitted(1, at(0));
        receiver
    }

    /// The same after block 1, without an RTT sample because the OACK was sent twice.
    fn unmeasured() -> Receiver {
        let mut receiver = offered(8);
        receiver.handle_timeout(at(1_000));
        receiver.transmitted(1, at(1_000));
        data(&mut receiver, 1, 1_010);
        receiver
    }

    /// A block that could not be kept must be sent again, and the last block may then be a different one.
    #[test]
    fn a_block_that_was_not_kept_comes_again() {
        let mut receiver = offered(4);
        assert_eq!(data(&mut receiver, 3, 80), Verdict::Ahead(BlockIndex(3)));
        receiver.forget(BlockIndex(3));
        let short = receiver.handle_data(WireBlock(2), 5, at(80));
        assert_eq!(short, Verdict::Ahead(BlockIndex(2)));
        receiver.forget(BlockIndex(2));
        data(&mut receiver, 1, 81);
        assert_eq!(receiver.received(), BlockIndex(1));
        data(&mut receiver, 2, 82);
        assert!(!receiver.is_whole());
        let last = receiver.handle_data(WireBlock(3), 7, at(83));
        assert_eq!(last, Verdict::Next(BlockIndex(3)));
        assert!(receiver.is_whole());
    }

    /// Only the last block is short: another short one before it ends the transfer, in whichever order they
    /// arrive, also with many blocks between them.
    #[test]
    fn two_blocks_cannot_be_the_last() {
        for (short, other) in [
            (2, 3),
            (2, 65),
            (2, 66),
            (2, 150),
            (64, 65),
            (65, 66),
            (66, 130),
        ] {
            for other_is_short in [false, true] {
                for advance in [0, 1, 63] {
                    let mut receiver = offered(300);
                    data(&mut receiver, 300, 80);
                    for block in 1..=advance + 1 {
                        data(&mut receiver, block, 80);
                    }
                    receiver.forget(BlockIndex(300));
                    let len = if other_is_short { 5 } else { 8 };
                    let ahead = receiver.handle_data(WireBlock(advance + other), len, at(81));
                    assert_eq!(
                        ahead,
                        Verdict::Ahead(BlockIndex(u64::from(advance + other)))
                    );
                    let again = receiver.handle_data(WireBlock(advance + other), 3, at(81));
                    assert_eq!(again, Verdict::Ignore, "the first copy counts");
                    let verdict = receiver.handle_data(WireBlock(advance + short), 5, at(82));
                    assert_eq!(verdict, Verdict::TooShort, "{short} {other} {advance}");
                    let ended = Outcome::Refused(ErrorCode::ILLEGAL);
                    assert_eq!(receiver.outcome(), Some(ended));
                }
            }
        }
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Delivers a full block.
    fn data(receiver: &mut Receiver, block: u16, millis: u64) -> Verdict {
        receiver.handle_data(WireBlock(block), 8, at(millis))
    }

    /// Sends the ACK that is due; returns the block that it names.
    fn send(receiver: &mut Receiver, millis: u64) -> Option<u64> {
        let Transmit::Ack(block) = receiver.poll_transmit()? else {
            panic!("an ACK");
        };
        receiver.transmitted(1, at(millis));
        Some(block.0)
    }
}
