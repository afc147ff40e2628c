//! Checking the octets of a transfer without storing them: each block is compared with the expected content
//! as it arrives, in any order.

use std::fmt;
use std::sync::Arc;

use crate::proto::block::BlockIndex;
use crate::store::memory;
use crate::time::{Duration, Instant};

/// The expected content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// These octets.
    Octets(Box<[u8]>),
    /// This number of octets, of any value.
    Length(u64),
    /// The load generator's own pattern, of any length, generated from [`PATTERN_SEED`].
    Pattern,
    /// Any content.
    Anything,
}

/// The seed of the pattern that the load generator writes and expects.
pub const PATTERN_SEED: u64 = 0;

impl Expected {
    /// The expected length, if known.
    #[must_use]
    pub const fn len(&self) -> Option<u64> {
        match self {
            Self::Octets(octets) => Some(octets.len() as u64),
            Self::Length(len) => Some(*len),
            Self::Pattern | Self::Anything => None,
        }
    }

    /// Whether the file should be empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.len(), Some(0))
    }

    /// Whether `payload` matches at `offset`. Octets beyond the end are covered by the length check.
    fn holds(&self, payload: &[u8], offset: u64) -> bool {
        let octets = match self {
            Self::Octets(octets) => octets,
            Self::Pattern => return memory::pattern_holds(PATTERN_SEED, offset, payload),
            Self::Length(_) | Self::Anything => return true,
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = octets.get(offset..).unwrap_or_default();
        let both = rest.len().min(payload.len());
        rest[..both] == payload[..both]
    }
}

/// What was wrong with the received octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    /// They differ from the expected ones.
    Corrupt,
    /// There are fewer than expected.
    Short,
    /// There are more than expected.
    Long,
}

impl Flaw {
    /// Its description.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Corrupt => "the octets are not the right ones",
            Self::Short => "the file is too short",
            Self::Long => "the file is too long",
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Corrupt => "corrupt",
            Self::Short => "short",
            Self::Long => "long",
        })
    }
}

/// State of the check of the octets received so far.
#[derive(Debug)]
pub(super) struct Check {
    expected: Arc<Expected>,
    blksize: u64,
    /// The last block and its length, once received.
    last: Option<(BlockIndex, u64)>,
    received: BlockIndex,
    flaw: Option<Flaw>,
    /// From the start to the first block.
    pub(super) first_block: Option<Duration>,
    /// Duplicate blocks.
    pub(super) duplicates: u64,
    /// When the ACK was sent that the next block will answer.
    asked_at: Option<Instant>,
}

impl Check {
    pub(super) fn new(expected: Arc<Expected>, blksize: u16) -> Self {
        Self {
            expected,
            blksize: u64::from(blksize),
            last: None,
            received: BlockIndex::ZERO,
            flaw: None,
            first_block: None,
            duplicates: 0,
            asked_at: None,
        }
    }

    /// Applies the block size of the server's answer; no block has arrived before.
    pub(super) fn agree(&mut self, blksize: u16) {
        self.blksize = u64::from(blksize);
    }

    /// Checks a block, in order or not.
    pub(super) fn look(&mut self, block: BlockIndex, payload: &[u8]) {
        if !self
            .expected
            .holds(payload, block.before().0 * self.blksize)
        {
            self.flaw = Some(Flaw::Corrupt);
        }
        if (payload.len() as u64) < self.blksize {
            self.last = Some((block, payload.len() as u64));
        }
    }

    /// Every block up to `received` has arrived, the first one `since_start` after the request; returns how
    /// long the newest took since the ACK that requested it.
    pub(super) fn advance(
        &mut self,
        received: BlockIndex,
        since_start: Duration,
        now: Instant,
    ) -> Option<Duration> {
        self.received = received;
        self.first_block.get_or_insert(since_start);
        self.asked_at.take().map(|at| now - at)
    }

    /// An ACK was sent.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked_at.get_or_insert(now);
    }

    /// Octets received in order.
    pub(super) fn octets(&self) -> u64 {
        match self.last {
            Some((last, len)) if last <= self.received => last.before().0 * self.blksize + len,
            _ => self.received.0 * self.blksize,
        }
    }

    /// What is wrong with the file so far, or with the whole file.
    pub(super) fn flaw(&self, whole: bool) -> Option<Flaw> {
        if self.flaw.is_some() {
            return self.flaw;
        }
        match self.expected.len() {
            Some(len) if self.octets() > len => Some(Flaw::Long),
            Some(len) if whole && self.octets() < len => Some(Flaw::Short),
            _ => None,
        }
    }

    /// The expected length, if known.
    pub(super) fn expected_len(&self) -> Option<u64> {
        self.expected.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Expected) -> Check {
        Check::new(Arc::new(expected), 4)
    }

    #[test]
    fn blocks_are_held_against_their_place_in_any_order() {
        let mut check = check(Expected::Octets((*b"abcdefghij").into()));
        check.look(BlockIndex(3), b"ij");
        check.look(BlockIndex(2), b"efgh");
        assert_eq!(check.octets(), 0);
        check.look(BlockIndex(1), b"abcd");
        check.advance(BlockIndex(3), Duration::ZERO, Instant::ZERO);
        assert_eq!((check.octets(), check.flaw(true)), (10, None));
        check.look(BlockIndex(2), b"efgX");
        assert_eq!(check.flaw(false), Some(Flaw::Corrupt));
    }

    #[test]
    fn the_pattern_is_known_wherever_a_block_begins() {
        let mut octets = [0; 100];
        memory::pattern_fill(PATTERN_SEED, 0, &mut octets);
        for blksize in [8_u16, 9, 13, 50] {
            let mut check = Check::new(Arc::new(Expected::Pattern), blksize);
            for (block, payload) in (1..).zip(octets.chunks(blksize.into())) {
                check.look(BlockIndex(block), payload);
            }
            assert_eq!(check.flaw(true), None, "{blksize}");
        }
        for place in 0..octets.len() {
            let mut check = Check::new(Arc::new(Expected::Pattern), 13);
            octets[place] ^= 1;
            for (block, payload) in (1..).zip(octets.chunks(13)) {
                check.look(BlockIndex(block), payload);
            }
            octets[place] ^= 1;
            assert_eq!(check.flaw(true), Some(Flaw::Corrupt), "{place}");
        }
        let mut displaced = Check::new(Arc::new(Expected::Pattern), 8);
        displaced.look(BlockIndex(2), &octets[..8]);
        assert_eq!(displaced.flaw(false), Some(Flaw::Corrupt));
    }

    #[test]
    fn lengths_are_compared_at_the_end() {
        let mut few = check(Expected::Length(5));
        few.look(BlockIndex(1), b"abc");
        few.advance(BlockIndex(1), Duration::ZERO, Instant::ZERO);
        assert_eq!((few.flaw(false), few.flaw(true)), (None, Some(Flaw::Short)));
        let mut many = check(Expected::Octets((*b"abcde").into()));
        many.look(BlockIndex(1), b"abcd");
        many.look(BlockIndex(2), b"ef");
        many.advance(BlockIndex(2), Duration::ZERO, Instant::ZERO);
        assert_eq!(many.flaw(false), Some(Flaw::Long));
        assert_eq!(check(Expected::Anything).flaw(true), None);
    }
}
