//! Block numbers: an index that never wraps, and its sixteen-bit form on the wire.

use std::fmt;

use crate::wire::WireBlock;

/// A block's position in its transfer, counted from 1 without wrapping; 0 stands for "none yet" and is what
/// an ACK of a WRQ or an OACK names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// Before the first block.
    pub const ZERO: Self = Self(0);
    /// The first block.
    pub const FIRST: Self = Self(1);

    /// The index `count` blocks later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The index of the previous block; zero stays zero.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The number of blocks after `earlier` up to and including this one; zero if `earlier` is later.
    #[must_use]
    pub const fn past(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The last block of a transfer of `len` octets: the one shorter than `blksize`, which is empty if `len`
    /// is a multiple (RFC 1350 §6). `blksize` comes from `Params`, so it is never 0.
    #[must_use]
    pub const fn last_of(len: u64, blksize: u16) -> Self {
        Self(len / blksize as u64 + 1)
    }

    /// The block's offset in the file, in octets.
    #[must_use]
    pub const fn offset(self, blksize: u16) -> u64 {
        self.before().0.saturating_mul(blksize as u64)
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What follows block 65,535 on the wire. RFC 1350 does not say; nearly all implementations go on with 0, and
/// the `rollover` option of tftp-hpa can ask for 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rollover {
    /// 65,535 is followed by 0.
    #[default]
    ToZero,
    /// 65,535 is followed by 1.
    ToOne,
}

impl Rollover {
    /// The number of blocks after which a wire number repeats.
    const fn period(self) -> u64 {
        match self {
            Self::ToZero => 0x1_0000,
            Self::ToOne => 0xffff,
        }
    }

    /// The number of `index` on the wire.
    #[must_use]
    pub const fn wire(self, index: BlockIndex) -> WireBlock {
        let number = match self {
            Self::ToZero => index.0 % 0x1_0000,
            Self::ToOne if index.0 == 0 => 0,
            Self::ToOne => (index.0 - 1) % 0xffff + 1,
        };
        WireBlock(number as u16)
    }

    /// The first index from `from` on with the number `wire`; `None` if there is none.
    ///
    /// It looks ahead only, so `wire` must not be an old number: windows hold at most half of all numbers
    /// (`negotiate::WINDOWSIZE_MAX`), and an older one resolves to an index beyond the window.
    #[must_use]
    pub const fn resolve(self, wire: WireBlock, from: BlockIndex) -> Option<BlockIndex> {
        if matches!(self, Self::ToOne) && wire.0 == 0 {
            return if from.0 == 0 {
                Some(BlockIndex::ZERO)
            } else {
                None
            };
        }
        let period = self.period();
        let ahead = (wire.0 as u64 + period - from.0 % period) % period;
        // Under `ToOne`, only index 0 is wire 0, although it is congruent to 65,535.
        if matches!(self, Self::ToOne) && from.0 == 0 && ahead == 0 {
            return Some(BlockIndex(period));
        }
        match from.0.checked_add(ahead) {
            Some(index) => Some(BlockIndex(index)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_shown_as_the_number_that_it_is() {
        assert_eq!(format!("{:>6}", BlockIndex(70_000)), " 70000");
    }

    /// Goal: `resolve` is the inverse of `wire` for any index and any start within a window. Method: compare
    /// with a linear search.
    #[test]
    fn resolve_agrees_with_brute_force() {
        let mut random = fastrand::Rng::with_seed(7);
        for rollover in [Rollover::ToZero, Rollover::ToOne] {
            let near = [
                0, 1, 2, 65_533, 65_534, 65_535, 65_536, 65_537, 131_069, 131_070, 131_071, 131_072,
            ];
            let far: Vec<_> = (0..40).map(|_| random.u64(0..10_000_000)).collect();
            for from in near.into_iter().chain(far).map(BlockIndex) {
                for wire in [0, 1, 2, 3, 65_534, 65_535, random.u16(..)].map(WireBlock) {
                    let searched = (from.0..from.0 + 0x1_0001)
                        .map(BlockIndex)
                        .find(|&index| rollover.wire(index) == wire);
                    assert_eq!(
                        rollover.resolve(wire, from),
                        searched,
                        "{rollover:?} {wire} from {from}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_wrap_goes_where_it_was_agreed_to_go() {
        let around = [
            0, 1, 65_534, 65_535, 65_536, 65_537, 131_070, 131_071, 131_072,
        ]
        .map(BlockIndex);
        let wires = |rollover: Rollover| around.map(|index| rollover.wire(index).0);
        assert_eq!(
            wires(Rollover::ToZero),
            [0, 1, 65_534, 65_535, 0, 1, 65_534, 65_535, 0]
        );
        assert_eq!(
            wires(Rollover::ToOne),
            [0, 1, 65_534, 65_535, 1, 2, 65_535, 1, 2]
        );
    }

    #[test]
    fn the_end_of_all_numbers_is_no_panic() {
        let last = BlockIndex(u64::MAX);
        for rollover in [Rollover::ToZero, Rollover::ToOne] {
            assert_eq!(rollover.resolve(rollover.wire(last), last), Some(last));
            let after = WireBlock(rollover.wire(last).0 ^ 2);
            assert_eq!(rollover.resolve(after, last), None);
        }
        assert_eq!(last.plus(1), last);
        assert_eq!(BlockIndex::ZERO.before(), BlockIndex::ZERO);
        assert_eq!(BlockIndex::ZERO.offset(512), 0);
        assert_eq!(BlockIndex::FIRST.past(last), 0);
        assert_eq!(last.offset(u16::MAX), u64::MAX);
    }

    #[test]
    fn last_block_is_short_or_empty() {
        assert_eq!(BlockIndex::last_of(0, 512), BlockIndex(1));
        assert_eq!(BlockIndex::last_of(511, 512), BlockIndex(1));
        assert_eq!(BlockIndex::last_of(512, 512), BlockIndex(2));
        assert_eq!(BlockIndex::last_of(5 << 30, 512), BlockIndex(10_485_761));
        assert_eq!(BlockIndex(65_537).offset(512), 65_536 * 512);
    }
}
