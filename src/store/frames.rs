//! DATA packets, made for all transfers that send them.
//!
//! A file is cut into *extents* of whole blocks. The packets of an extent are either *laid out*, with their
//! headers, consecutively in memory, as they leave; or *plain*: the payload alone, and each send gathers
//! the headers in between. To lay packets out costs one more pass over the octets, and every send of them
//! costs less; which of the two is cheaper depends on how many clients ask (see `cache.rs`).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::ReadFailure;
use super::arena::{CELL_OCTETS, Chunk, Lasting};
use super::body::Body;
use super::burst::Burst;
use crate::proto::block::{BlockIndex, Rollover};
use crate::wire::{HEADER_OCTETS, write_data_header};

/// Approximate octets per extent: large enough that reading it is one efficient disk request and few bursts
/// are cut short by its end, small enough to serve clients at many places of many files.
pub const EXTENT_OCTETS: u64 = CELL_OCTETS as u64;

/// Approximate octets of the first extent: a window or so, since a client waits for all of it before it gets
/// the first block.
pub(super) const FIRST_EXTENT_OCTETS: u64 = 64 * 1024;

/// Octets that are laid out at a time: few enough that a core's own cache still holds what was read when its
/// blocks are moved apart, enough that the calls to the system do not matter.
const PART_OCTETS: usize = 128 * 1024;

/// Identifies a run of DATA packets: their contents, block size and numbering.
#[derive(Debug, Clone)]
pub struct FramesKey {
    /// The body they carry.
    pub body: Arc<Body>,
    /// Octets in every block but the last.
    pub blksize: u16,
    /// How the blocks are numbered.
    pub rollover: Rollover,
    /// Which run: [`Frames::extent_of`] a block.
    pub extent: u64,
}

impl FramesKey {
    /// The first block of the extent and its number of blocks; `None` if it lies past the end.
    fn blocks(&self) -> Option<(BlockIndex, u64)> {
        let (before, count) = match self.extent.checked_sub(1) {
            None => (0, blocks_within(FIRST_EXTENT_OCTETS, self.blksize)),
            Some(full) => {
                let each = blocks_within(EXTENT_OCTETS, self.blksize);
                let first = blocks_within(FIRST_EXTENT_OCTETS, self.blksize);
                (full.checked_mul(each)?.checked_add(first)?, each)
            }
        };
        let first = BlockIndex::FIRST.plus(before);
        let last = BlockIndex::last_of(self.body.len(), self.blksize);
        (first <= last).then(|| (first, count.min(last.past(first) + 1)))
    }

    /// Memory that the packets take, in octets; 0 past the end of the file.
    pub(super) fn octets(&self, layout: Layout) -> usize {
        let Some((first, blocks)) = self.blocks() else {
            return 0;
        };
        let payload =
            (self.body.len() - first.offset(self.blksize)).min(blocks * u64::from(self.blksize));
        // An extent is about EXTENT_OCTETS long, or one block: it fits any address space.
        payload as usize
            + match layout {
                Layout::LaidOut => blocks as usize * HEADER_OCTETS,
                Layout::Plain => 0,
            }
    }

    pub(super) fn slot(&self) -> Slot {
        Slot {
            body: self.body.id(),
            blksize: self.blksize,
            to_one: self.rollover == Rollover::ToOne,
            extent: self.extent,
        }
    }
}

/// A key as the cache keeps it: it does not hold the body, or no body would ever be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    pub(super) body: u64,
    pub(super) blksize: u16,
    pub(super) to_one: bool,
    pub(super) extent: u64,
}

/// How packets lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As they leave, headers included.
    LaidOut,
    /// The payload alone.
    Plain,
}

impl PartialEq for FramesKey {
    fn eq(&self, other: &Self) -> bool {
        self.slot() == other.slot()
    }
}

impl Eq for FramesKey {}

impl Hash for FramesKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.slot().hash(state);
    }
}

/// A run of immutable DATA packets.
pub struct Frames {
    first: BlockIndex,
    blocks: u64,
    blksize: u16,
    rollover: Rollover,
    layout: Layout,
    chunk: Chunk,
}

impl Frames {
    /// The extent that contains `block`.
    #[must_use]
    pub fn extent_of(block: BlockIndex, blksize: u16) -> u64 {
        let before = block.before().0;
        match before.checked_sub(blocks_within(FIRST_EXTENT_OCTETS, blksize)) {
            None => 0,
            Some(beyond) => 1 + beyond / blocks_within(EXTENT_OCTETS, blksize),
        }
    }

    /// Whether they contain `block`.
    #[must_use]
    pub fn contain(&self, block: BlockIndex) -> bool {
        self.first <= block && block.past(self.first) < self.blocks
    }

    /// The number of packets from block `first` on, which they must contain.
    #[must_use]
    pub fn blocks_from(&self, first: BlockIndex) -> u64 {
        self.blocks - first.past(self.first)
    }

    /// Whether the packets lie consecutively in memory, headers included.
    #[must_use]
    pub fn are_laid_out(&self) -> bool {
        self.layout == Layout::LaidOut
    }

    /// Up to `count` packets from block `first` on: fewer at the end of the extent, none if it does not
    /// contain `first`.
    #[must_use]
    pub fn burst(&self, first: BlockIndex, count: u64) -> Burst<'_> {
        let segment = self.segment();
        if !self.contain(first) {
            return Burst::contiguous(&[], segment);
        }
        let skipped = first.past(self.first);
        let count = count.min(self.blocks - skipped) as usize;
        let each = match self.layout {
            Layout::LaidOut => segment,
            Layout::Plain => usize::from(self.blksize),
        };
        let octets = self.chunk.octets();
        let start = (skipped as usize * each).min(octets.len());
        let end = ((skipped as usize + count) * each).min(octets.len());
        let octets = &octets[start..end];
        match self.layout {
            Layout::LaidOut => Burst::contiguous(octets, segment),
            Layout::Plain => Burst::gathered(octets, segment, count, first, self.rollover),
        }
    }

    /// Length of every packet except the transfer's last.
    fn segment(&self) -> usize {
        usize::from(self.blksize) + HEADER_OCTETS
    }

    /// Their memory, if it outlives them: later frames in the same cell share it.
    #[must_use]
    pub fn lasting(&self) -> Option<Lasting<'_>> {
        self.chunk.lasting()
    }

    /// What their memory costs against the bound of the cache.
    pub(super) const fn cost(&self) -> usize {
        self.chunk.cost()
    }

    /// Whether their memory exceeds the bound of the cache, so that they should not be kept.
    pub(super) const fn are_excess(&self) -> bool {
        self.chunk.is_excess()
    }

    /// Reads an extent into `chunk`, whose length is the one the key gives for this layout.
    pub(super) fn read(
        key: &FramesKey,
        layout: Layout,
        mut chunk: Chunk,
    ) -> Result<Self, ReadFailure> {
        let (first, blocks) = key.blocks().unwrap_or((BlockIndex::FIRST, 0));
        if blocks > 0 {
            let octets = chunk.octets_mut();
            match layout {
                Layout::LaidOut => read_and_lay_out(key, first, octets)?,
                Layout::Plain => key.body.read(octets, first.offset(key.blksize))?,
            }
            // The octets are the file's only if it has not changed meanwhile.
            key.body.check()?;
        }
        Ok(Self {
            first,
            blocks,
            blksize: key.blksize,
            rollover: key.rollover,
            layout,
            chunk,
        })
    }

    /// Reads an extent plainly into `chunk`, whose length is the one the key gives for that, or hands it back if
    /// reading may take longer than to copy the octets.
    pub(super) fn read_now(key: &FramesKey, mut chunk: Chunk) -> Result<Self, Chunk> {
        let Some((first, blocks)) = key.blocks() else {
            return Err(chunk);
        };
        let offset = first.offset(key.blksize);
        if !key.body.read_now(chunk.octets_mut(), offset) {
            return Err(chunk);
        }
        Ok(Self {
            first,
            blocks,
            blksize: key.blksize,
            rollover: key.rollover,
            layout: Layout::Plain,
            chunk,
        })
    }

    /// The same packets, laid out in `chunk`, whose length is the one the key gives for that.
    pub(super) fn laid_out(&self, mut chunk: Chunk) -> Self {
        let octets = chunk.octets_mut();
        let mut place = 0;
        let mut rest = self.burst(self.first, self.blocks);
        while rest.count() > 0 {
            let (front, back) = rest.split_at(Burst::PARTED_MAX);
            front.with_parts(|parts| {
                for part in parts {
                    octets[place..place + part.len()].copy_from_slice(part);
                    place += part.len();
                }
            });
            rest = back;
        }
        Self {
            layout: Layout::LaidOut,
            chunk,
            ..*self
        }
    }
}

/// Reads the blocks from `first` on and lays them out in `octets`, part by part.
fn read_and_lay_out(
    key: &FramesKey,
    mut first: BlockIndex,
    octets: &mut [u8],
) -> Result<(), ReadFailure> {
    let blksize = usize::from(key.blksize);
    let segment = blksize + HEADER_OCTETS;
    let part_octets = if key.body.is_random_access() {
        (PART_OCTETS / segment).max(1) * segment
    } else {
        octets.len()
    };
    for part in octets.chunks_mut(part_octets) {
        // The payload is read at once into the far end, and each block is then moved forward to its place.
        // No block is overwritten before it is moved: block `i` of `n` ends, in its place, 4(i+1) octets
        // after the payload before it, and the next one begins 4n after the same point.
        let unmoved = part.len().div_ceil(segment) * HEADER_OCTETS;
        key.body
            .read(&mut part[unmoved..], first.offset(key.blksize))?;
        for (header, from) in (0..part.len())
            .step_by(segment)
            .zip((unmoved..).step_by(blksize))
        {
            let end = (from + blksize).min(part.len());
            part.copy_within(from..end, header + HEADER_OCTETS);
            let number = write_data_header(key.rollover.wire(first));
            part[header..header + HEADER_OCTETS].copy_from_slice(&number);
            first = first.plus(1);
        }
    }
    Ok(())
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames")
            .field("first", &self.first)
            .field("blocks", &self.blocks)
            .field("blksize", &self.blksize)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

fn blocks_within(octets: u64, blksize: u16) -> u64 {
    (octets / (u64::from(blksize) + HEADER_OCTETS as u64)).max(1)
}
