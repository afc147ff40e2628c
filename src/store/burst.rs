//! Consecutive datagrams as they are handed to the system: contiguous in memory, or payload whose headers
//! are gathered in between when it is sent.

use std::borrow::Cow;
use std::io::IoSlice;

use crate::proto::block::{BlockIndex, Rollover};
use crate::wire::{HEADER_OCTETS, WireBlock, write_data_header};

/// The longest block that is copied to be sent alone: what an Ethernet packet holds.
const COPIED_OCTETS_MAX: usize = 1500;

/// Consecutive datagrams of equal length; the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct Burst<'a> {
    octets: &'a [u8],
    segment: usize,
    count: usize,
    /// How the datagrams' headers are numbered, if they are not among the octets.
    numbering: Option<Numbering>,
}

#[derive(Debug, Clone, Copy)]
struct Numbering {
    first: BlockIndex,
    rollover: Rollover,
}

impl<'a> Burst<'a> {
    /// Limit of the datagrams that [`Burst::with_parts`] hands over at once: what Linux segments at most
    /// (UDP_MAX_SEGMENTS, since 6.9).
    pub const PARTED_MAX: usize = 128;

    /// One datagram.
    #[must_use]
    pub const fn single(octets: &'a [u8]) -> Self {
        Self {
            octets,
            segment: octets.len(),
            count: 1,
            numbering: None,
        }
    }

    /// Back-to-back datagrams of `segment` octets each; the last may be shorter.
    #[must_use]
    pub const fn contiguous(octets: &'a [u8], segment: usize) -> Self {
        let each = if segment == 0 { 1 } else { segment };
        Self {
            octets,
            segment,
            count: octets.len().div_ceil(each),
            numbering: None,
        }
    }

    /// `count` DATA packets from block `first` on, of which `payload` is the payload. All blocks are as long
    /// as `segment` allows but the last, which has what is left.
    pub(super) const fn gathered(
        payload: &'a [u8],
        segment: usize,
        count: usize,
        first: BlockIndex,
        rollover: Rollover,
    ) -> Self {
        Self {
            octets: payload,
            segment,
            count,
            numbering: Some(Numbering { first, rollover }),
        }
    }

    /// The number of datagrams.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The length in octets of each datagram but the last, headers included; 0 if it was given as 0.
    #[must_use]
    pub const fn segment(&self) -> usize {
        self.segment
    }

    /// The length in octets of all datagrams together, headers included.
    #[must_use]
    pub const fn total(&self) -> usize {
        match self.numbering {
            None => self.octets.len(),
            Some(_) => self.octets.len() + self.count * HEADER_OCTETS,
        }
    }

    /// The octets of all datagrams, if they are consecutive in memory.
    #[must_use]
    pub const fn as_contiguous(&self) -> Option<&'a [u8]> {
        match self.numbering {
            None => Some(self.octets),
            Some(_) => None,
        }
    }

    /// The octets of all datagrams, copied together if need be.
    #[must_use]
    pub fn to_contiguous(self) -> Cow<'a, [u8]> {
        if self.numbering.is_none() {
            return Cow::Borrowed(self.octets);
        }
        let mut octets = Vec::with_capacity(self.total());
        let mut rest = self;
        while rest.count > 0 {
            let (front, back) = rest.split_at(Self::PARTED_MAX);
            front.with_parts(|parts| parts.iter().for_each(|part| octets.extend_from_slice(part)));
            rest = back;
        }
        Cow::Owned(octets)
    }

    /// The first `count` datagrams, and the others.
    #[must_use]
    pub fn split_at(&self, count: usize) -> (Self, Self) {
        let count = count.min(self.count);
        let header = if self.numbering.is_some() {
            HEADER_OCTETS
        } else {
            0
        };
        let middle = count.saturating_mul(self.segment - header);
        let (front, back) = self.octets.split_at(middle.min(self.octets.len()));
        let front = Self {
            octets: front,
            count,
            ..*self
        };
        let back = Self {
            octets: back,
            count: self.count - count,
            numbering: self.numbering.map(|numbering| Numbering {
                first: numbering.first.plus(count as u64),
                ..numbering
            }),
            ..*self
        };
        (front, back)
    }

    /// Calls `use_parts` with the parts whose octets make up the datagrams, in order. Of datagrams that are
    /// gathered, at most [`Burst::PARTED_MAX`] are handed over.
    pub fn with_parts<T>(&self, use_parts: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let Some(Numbering { first, rollover }) = self.numbering else {
            return use_parts(&[IoSlice::new(self.octets)]);
        };
        if self.count == 1 {
            return with_parts_of_one(rollover.wire(first), self.octets, use_parts);
        }
        let count = self.count.min(Self::PARTED_MAX);
        let mut headers = [[0; HEADER_OCTETS]; Self::PARTED_MAX];
        for (header, index) in headers[..count].iter_mut().zip(0..) {
            *header = write_data_header(rollover.wire(first.plus(index)));
        }
        let mut parts = [IoSlice::new(&[]); 2 * Self::PARTED_MAX];
        let mut payload = self.octets;
        for (parts, header) in parts.chunks_exact_mut(2).zip(&headers[..count]) {
            let block;
            (block, payload) = payload.split_at(payload.len().min(self.segment - HEADER_OCTETS));
            parts[0] = IoSlice::new(header);
            parts[1] = IoSlice::new(block);
        }
        use_parts(&parts[..2 * count])
    }
}

/// Calls `use_parts` with the parts of a single packet: one, if the block is short, since copying it costs less
/// than handing over two.
fn with_parts_of_one<T>(
    number: WireBlock,
    block: &[u8],
    use_parts: impl FnOnce(&[IoSlice<'_>]) -> T,
) -> T {
    let header = write_data_header(number);
    let mut packet = [0; HEADER_OCTETS + COPIED_OCTETS_MAX];
    match packet.get_mut(HEADER_OCTETS..HEADER_OCTETS + block.len()) {
        Some(place) => {
            place.copy_from_slice(block);
            packet[..HEADER_OCTETS].copy_from_slice(&header);
            use_parts(&[IoSlice::new(&packet[..HEADER_OCTETS + block.len()])])
        }
        None => use_parts(&[IoSlice::new(&header), IoSlice::new(block)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: gathered datagrams are what contiguous ones are, however they are split. Method: blocks of
    /// three octets around the roll-over, the last of them short, empty or whole.
    #[test]
    fn gathered_datagrams_equal_contiguous_ones() {
        let payload: Vec<u8> = (0..=255).cycle().take(3 * 300).collect();
        let (segment, first) = (HEADER_OCTETS + 3, BlockIndex(65_500));
        for (len, count) in [(900, 300), (899, 300), (900, 301), (0, 1), (1, 1), (2, 1)] {
            let mut expected = Vec::new();
            for index in 0..count {
                let number = Rollover::ToOne.wire(first.plus(index as u64));
                expected.extend(write_data_header(number));
                let block = 3 * index..len.min(3 * index + 3);
                expected.extend_from_slice(payload.get(block).unwrap_or_default());
            }
            let gathered = Burst::gathered(&payload[..len], segment, count, first, Rollover::ToOne);
            let contiguous = Burst::contiguous(&expected, segment);
            assert_eq!(gathered.as_contiguous(), None);
            assert_eq!(gathered.total(), contiguous.total());
            for each in [1, 2, 7, 128, 1000] {
                for burst in [gathered, contiguous] {
                    assert_eq!(burst.count(), count);
                    let mut rest = burst;
                    let mut octets = Vec::new();
                    while rest.count() > 0 {
                        let (front, back) = rest.split_at(each);
                        assert_eq!(front.count(), each.min(rest.count()));
                        octets.extend_from_slice(&front.to_contiguous());
                        rest = back;
                    }
                    assert!(octets == expected, "{len} {count} {each}");
                }
            }
        }
    }

    #[test]
    fn a_single_datagram_may_be_empty() {
        let burst = Burst::single(&[]);
        assert_eq!((burst.count(), burst.segment()), (1, 0));
        assert_eq!(burst.as_contiguous(), Some(&[][..]));
        let none = Burst::contiguous(&[], 512);
        assert_eq!(none.count(), 0);
        let without_length = Burst::contiguous(b"abc", 0);
        assert_eq!((without_length.count(), without_length.segment()), (3, 0));
    }
}
