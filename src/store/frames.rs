//! DATA packets framed once and shared by all transfers that send them, and the cache that keeps them.
//!
//! All requests go through the cache, so that requests for the same cold extent are merged. For a single
//! client that costs more than letting the kernel gather headers and payload, by a third or more for blocks
//! of 1428 octets; the third client makes up for it (`benches/policy.rs`). A large file that one client
//! reads once must not flush the image that every client boots. So an extent requested once is on probation,
//! and is evicted before any that was requested again; those are protected, up to a share of the cache,
//! beyond which the least recently used one returns to probation. In either group the least recently used
//! extent is evicted first, except those still being sent: evicting them would free no memory.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError};

use super::arena::{Arena, CELL_OCTETS, Chunk, Lasting};
use super::body::Body;
use super::{Mailbox, ReadFailure, StoreStatistics};
use crate::proto::block::{BlockIndex, Rollover};
use crate::sync::{Mutex, MutexGuard};
use crate::wire::{HEADER_OCTETS, write_data_header};

/// Approximate octets per extent: large enough that reading it is one efficient disk request and few bursts
/// are cut short by its end, small enough to serve clients at many places of many files.
pub const EXTENT_OCTETS: u64 = CELL_OCTETS as u64;

/// Approximate octets of the first extent: a window or so, since a client waits for all of it before it gets
/// the first block.
pub(super) const FIRST_EXTENT_OCTETS: u64 = 64 * 1024;

/// Extents read ahead of the first client: one to hide a disk that is faster than the client, and one more
/// for when the disk stalls.
const EXTENTS_AHEAD: u64 = 2;

/// Limit of unrequested read-ahead, as a fraction (one in this many) of the cache: at most half of the
/// probation share, so that it does not flush extents requested once.
const AHEAD_SHARE: usize = 8;

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

    /// Memory that the frames take, in octets.
    pub(super) fn octets(&self) -> usize {
        let Some((first, blocks)) = self.blocks() else {
            return 0;
        };
        let payload =
            (self.body.len() - first.offset(self.blksize)).min(blocks * u64::from(self.blksize));
        // An extent is about EXTENT_OCTETS long, or one block: it fits any address space.
        payload as usize + blocks as usize * HEADER_OCTETS
    }

    fn slot(&self) -> Slot {
        Slot {
            body: self.body.id(),
            blksize: self.blksize,
            to_one: self.rollover == Rollover::ToOne,
            extent: self.extent,
        }
    }
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

/// A run of immutable, contiguous DATA packets, headers included.
pub struct Frames {
    first: BlockIndex,
    blocks: u64,
    segment: usize,
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

    /// Length of every packet except the transfer's last.
    #[must_use]
    pub const fn segment(&self) -> usize {
        self.segment
    }

    /// Up to `count` packets from block `first` on, and their number: fewer at the end of the extent, none
    /// if it does not contain `first`.
    #[must_use]
    pub fn slice(&self, first: BlockIndex, count: u64) -> (&[u8], u64) {
        let skipped = first.past(self.first);
        if first < self.first || skipped >= self.blocks {
            return (&[], 0);
        }
        let count = count.min(self.blocks - skipped);
        let start = skipped as usize * self.segment;
        let octets = self.chunk.octets();
        let end = ((skipped + count) as usize * self.segment).min(octets.len());
        octets
            .get(start..end)
            .map_or((&[], 0), |octets| (octets, count))
    }

    /// Their memory, if it outlives them: later frames in the same cell share it.
    #[must_use]
    pub fn lasting(&self) -> Option<Lasting<'_>> {
        self.chunk.lasting()
    }

    /// Reads an extent into `chunk`, whose length is the one the key gives, and frames it in place.
    pub(super) fn read(key: &FramesKey, mut chunk: Chunk) -> Result<Self, ReadFailure> {
        let blksize = usize::from(key.blksize);
        let segment = blksize + HEADER_OCTETS;
        let (first, blocks) = key.blocks().unwrap_or((BlockIndex::FIRST, 0));
        if blocks > 0 {
            let octets = chunk.octets_mut();
            // The payload is read at once into the far end, and each block is then moved forward to its
            // place. No block is overwritten before it is moved: block `i` of `n` ends, in its place, 4(i+1)
            // octets after the payload before it, and the next one begins 4n after the same point.
            let unmoved = blocks as usize * HEADER_OCTETS;
            key.body
                .read(&mut octets[unmoved..], first.offset(key.blksize))?;
            for index in 0..blocks as usize {
                let from = unmoved + index * blksize;
                let end = (from + blksize).min(octets.len());
                let header = index * segment;
                octets.copy_within(from..end, header + HEADER_OCTETS);
                let number = key.rollover.wire(first.plus(index as u64));
                octets[header..header + HEADER_OCTETS].copy_from_slice(&write_data_header(number));
            }
        }
        Ok(Self {
            first,
            blocks,
            segment,
            chunk,
        })
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames")
            .field("first", &self.first)
            .field("blocks", &self.blocks)
            .field("segment", &self.segment)
            .finish_non_exhaustive()
    }
}

fn blocks_within(octets: u64, blksize: u16) -> u64 {
    (octets / (u64::from(blksize) + HEADER_OCTETS as u64)).max(1)
}

/// A key as the cache keeps it: it does not hold the body, or no body would ever be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Slot {
    body: u64,
    blksize: u16,
    to_one: bool,
    extent: u64,
}

/// Recently used frames, and those being made.
pub(super) struct FrameCache {
    octets_max: usize,
    arena: Arc<Arena>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Slot, Entry>,
    /// Ready entries requested once or never, least recently used first.
    probation: BTreeMap<u64, Slot>,
    /// Ready entries requested more than once, least recently used first.
    protected: BTreeMap<u64, Slot>,
    /// Octets of the protected entries.
    protected_octets: usize,
    uses: u64,
    /// Octets, ready or pending, that were read ahead and not requested yet.
    ahead: usize,
    hits: u64,
    misses: u64,
    framed_octets: u64,
    evictions: u64,
    /// Entries that are not ready.
    pending: u64,
}

struct Entry {
    octets: usize,
    asked: Asks,
    progress: Progress,
}

/// How often an entry was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Read ahead only.
    Never,
    Once,
    Again,
}

enum Progress {
    /// A job is making them; each waiting mailbox is listed once.
    Pending(Vec<Mailbox>),
    Ready {
        frames: Arc<Frames>,
        used: u64,
        protected: bool,
    },
}

/// The cache's answer to a request.
pub(super) enum Asked {
    Ready(Arc<Frames>),
    Waiting,
    Busy,
}

/// Why frames are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A transfer is waiting.
    Asked,
    /// A request is expected soon.
    Ahead,
}

impl FrameCache {
    pub(super) fn new(octets_max: usize) -> Self {
        Self {
            octets_max,
            arena: Arena::new(octets_max),
            state: Mutex::default(),
        }
    }

    /// Looks `key` up. On the first request for it, passes it and the extents behind it to `queue`, which
    /// returns whether it accepted them.
    ///
    /// The queue is filled under the lock: an entry that the queue refuses is gone before anyone can wait
    /// for it.
    pub(super) fn ask(
        &self,
        key: &FramesKey,
        mailbox: &Mailbox,
        mut queue: impl FnMut(FramesKey, Why) -> bool,
    ) -> Asked {
        let mut state = self.lock();
        let (asked, first_time) = state.ask(key, mailbox, self.protected_max(), &mut queue);
        match asked {
            Asked::Ready(_) => state.hits += 1,
            Asked::Waiting => state.misses += 1,
            Asked::Busy => {}
        }
        if first_time {
            state.read_ahead(key, self.octets_max, queue);
        }
        asked
    }

    /// Memory for `octets` of frames. Evicts the least recently used entries to make room; if none can be
    /// evicted, or the frames never fit, they serve only their current waiters.
    pub(super) fn room(&self, octets: usize) -> Chunk {
        if self.arena.fits(octets) {
            loop {
                if let Some(chunk) = self.arena.take(octets) {
                    return chunk;
                }
                // Free the memory after releasing the lock, since others wait for it.
                let evicted = self.lock().evict();
                if evicted.is_none() {
                    break;
                }
            }
        }
        self.arena.exceed(octets)
    }

    /// Stores a job's result; returns it with its waiters.
    pub(super) fn finish(
        &self,
        key: &FramesKey,
        result: Result<Frames, ReadFailure>,
    ) -> (Result<Arc<Frames>, ReadFailure>, Vec<Mailbox>) {
        let result = result.map(Arc::new);
        let waiting = self
            .lock()
            .finish(key, result.as_ref().ok(), self.protected_max());
        (result, waiting)
    }

    /// Removes all entries of a dropped body.
    pub(super) fn forget(&self, body: u64) {
        let mut state = self.lock();
        let least = Slot {
            body,
            blksize: 0,
            to_one: false,
            extent: 0,
        };
        let most = Slot {
            body,
            blksize: u16::MAX,
            to_one: true,
            extent: u64::MAX,
        };
        let slots: Vec<Slot> = state
            .entries
            .range(least..=most)
            .map(|(&slot, _)| slot)
            .collect();
        let dropped: Vec<Entry> = slots
            .into_iter()
            .filter_map(|slot| state.remove(slot))
            .collect();
        drop(state);
        drop(dropped);
    }

    pub(super) fn statistics(&self) -> StoreStatistics {
        let resident = self.arena.resident();
        let state = self.lock();
        StoreStatistics {
            hits: state.hits,
            misses: state.misses,
            framed_octets: state.framed_octets,
            evictions: state.evictions,
            resident_octets: resident as u64,
            pending: state.pending,
        }
    }

    /// Entries, ready or pending.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.lock().entries.len()
    }

    /// Limit of protected octets: the rest is left to new entries, which could otherwise never stay long
    /// enough to be requested again.
    const fn protected_max(&self) -> usize {
        self.octets_max / 4 * 3
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The answer, and whether this is the first request for this extent.
    fn ask(
        &mut self,
        key: &FramesKey,
        mailbox: &Mailbox,
        protected_max: usize,
        queue: &mut impl FnMut(FramesKey, Why) -> bool,
    ) -> (Asked, bool) {
        let slot = key.slot();
        let Some(entry) = self.entries.get_mut(&slot) else {
            if !queue(key.clone(), Why::Asked) {
                return (Asked::Busy, false);
            }
            let waiting = vec![mailbox.clone()];
            self.add_pending(slot, key.octets(), Asks::Once, waiting);
            return (Asked::Waiting, true);
        };
        let first_time = entry.asked == Asks::Never;
        if first_time {
            entry.asked = Asks::Once;
            self.ahead -= entry.octets;
        } else {
            entry.asked = Asks::Again;
        }
        let asked = match &mut entry.progress {
            Progress::Pending(waiting) => {
                if !waiting.iter().any(|other| other.is(mailbox)) {
                    waiting.push(mailbox.clone());
                }
                Asked::Waiting
            }
            Progress::Ready { frames, .. } => {
                let asked = Asked::Ready(Arc::clone(frames));
                self.touch(slot, protected_max);
                asked
            }
        };
        (asked, first_time)
    }

    /// Queues the extents behind `key`, as long as unrequested read-ahead stays within its share.
    fn read_ahead(
        &mut self,
        key: &FramesKey,
        octets_max: usize,
        mut queue: impl FnMut(FramesKey, Why) -> bool,
    ) {
        for step in 1..=EXTENTS_AHEAD {
            let next = FramesKey {
                extent: key.extent.saturating_add(step),
                ..key.clone()
            };
            let (slot, octets) = (next.slot(), next.octets());
            if self.entries.contains_key(&slot) {
                continue;
            }
            let room = self.ahead + octets <= octets_max / AHEAD_SHARE;
            if octets == 0 || !room || !queue(next, Why::Ahead) {
                return;
            }
            self.ahead += octets;
            self.add_pending(slot, octets, Asks::Never, Vec::new());
        }
    }

    fn add_pending(&mut self, slot: Slot, octets: usize, asked: Asks, waiting: Vec<Mailbox>) {
        self.pending += 1;
        let progress = Progress::Pending(waiting);
        self.entries.insert(
            slot,
            Entry {
                octets,
                asked,
                progress,
            },
        );
    }

    /// Returns the waiters for frames that have been made or have failed. The frames are kept if they are
    /// within the bound.
    fn finish(
        &mut self,
        key: &FramesKey,
        frames: Option<&Arc<Frames>>,
        protected_max: usize,
    ) -> Vec<Mailbox> {
        if frames.is_some() {
            self.framed_octets += key.octets() as u64;
        }
        let slot = key.slot();
        let Some(entry) = self.entries.get_mut(&slot) else {
            return Vec::new();
        };
        let Progress::Pending(waiting) = &mut entry.progress else {
            return Vec::new();
        };
        let waiting = std::mem::take(waiting);
        match frames.filter(|frames| !frames.chunk.is_excess()) {
            Some(frames) => {
                self.pending -= 1;
                self.uses += 1;
                entry.progress = Progress::Ready {
                    frames: Arc::clone(frames),
                    used: self.uses,
                    protected: false,
                };
                self.probation.insert(self.uses, slot);
                self.touch(slot, protected_max);
            }
            None => {
                self.remove(slot);
            }
        }
        waiting
    }

    /// Makes a ready entry the most recently used one of its group.
    fn touch(&mut self, slot: Slot, protected_max: usize) {
        self.uses += 1;
        let Some(Entry {
            asked,
            progress:
                Progress::Ready {
                    frames,
                    used,
                    protected,
                },
            ..
        }) = self.entries.get_mut(&slot)
        else {
            return;
        };
        let group = if *protected {
            &mut self.protected
        } else {
            &mut self.probation
        };
        group.remove(used);
        *used = self.uses;
        if *asked != Asks::Again {
            self.probation.insert(self.uses, slot);
            return;
        }
        self.protected.insert(self.uses, slot);
        if !std::mem::replace(protected, true) {
            self.protected_octets += frames.chunk.cost();
        }
        while self.protected_octets > protected_max {
            let Some((_, oldest)) = self.protected.pop_first() else {
                return;
            };
            self.demote(oldest);
        }
    }

    /// Puts an entry that was removed from the protected ones back on probation.
    fn demote(&mut self, slot: Slot) {
        self.uses += 1;
        if let Some(Entry {
            asked,
            progress:
                Progress::Ready {
                    frames,
                    used,
                    protected,
                },
            ..
        }) = self.entries.get_mut(&slot)
        {
            *asked = Asks::Once;
            *used = self.uses;
            *protected = false;
            self.protected_octets -= frames.chunk.cost();
            self.probation.insert(self.uses, slot);
        }
    }

    /// Evicts the least valuable entry whose eviction frees memory, if there is one.
    fn evict(&mut self) -> Option<Entry> {
        let mut slots = self.probation.values().chain(self.protected.values());
        let slot = *slots.find(|slot| self.is_idle(slot))?;
        self.evictions += 1;
        self.remove(slot)
    }

    /// Whether only the cache holds these frames right now. A transfer may take them before they are
    /// evicted, or release them just after; then another entry, or one more, is evicted.
    fn is_idle(&self, slot: &Slot) -> bool {
        matches!(
            self.entries.get(slot),
            Some(Entry {
                progress: Progress::Ready { frames, .. },
                ..
            }) if Arc::strong_count(frames) == 1
        )
    }

    fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.entries.remove(&slot)?;
        if entry.asked == Asks::Never {
            self.ahead -= entry.octets;
        }
        match &entry.progress {
            Progress::Pending(_) => self.pending -= 1,
            Progress::Ready {
                used,
                protected: false,
                ..
            } => {
                self.probation.remove(used);
            }
            Progress::Ready { frames, used, .. } => {
                self.protected.remove(used);
                self.protected_octets -= frames.chunk.cost();
            }
        }
        Some(entry)
    }
}
