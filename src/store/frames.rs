//! DATA packets laid out once and shared by all who send them, and the cache that keeps them.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::body::Body;
use super::{Mailbox, ReadFailure};
use crate::proto::block::{BlockIndex, Rollover};
use crate::wire::{HEADER_OCTETS, write_data_header};

/// Octets in an extent, about: large enough that reading it is one good disk request and that sending
/// it takes many bursts, small enough that a client's first block does not wait long for the rest.
pub const EXTENT_OCTETS: u64 = 512 * 1024;

/// Names a run of DATA packets: what they hold, and how they are cut and numbered.
#[derive(Debug, Clone)]
pub struct FramesKey {
    /// Whose octets.
    pub body: Arc<Body>,
    /// Octets in every block but the last.
    pub blksize: u16,
    /// How the blocks are numbered.
    pub rollover: Rollover,
    /// Which run: [`Frames::extent_of`] a block.
    pub extent: u64,
}

impl FramesKey {
    /// The first block of the extent, and how many blocks it holds; `None` if it lies past the end.
    fn blocks(&self) -> Option<(BlockIndex, u64)> {
        let each = blocks_per_extent(self.blksize);
        let first = BlockIndex::FIRST.plus(self.extent.checked_mul(each)?);
        let last = BlockIndex::last_of(self.body.len(), self.blksize);
        (first <= last).then(|| (first, each.min(last.past(first) + 1)))
    }

    /// How much memory the frames take.
    fn octets(&self) -> usize {
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

/// A run of immutable DATA packets, one behind the other, headers included.
pub struct Frames {
    first: BlockIndex,
    blocks: u64,
    segment: usize,
    octets: Box<[u8]>,
}

impl Frames {
    /// The extent that holds `block`.
    #[must_use]
    pub fn extent_of(block: BlockIndex, blksize: u16) -> u64 {
        block.before().0 / blocks_per_extent(blksize)
    }

    /// Length of every packet but the last of the transfer.
    #[must_use]
    pub const fn segment(&self) -> usize {
        self.segment
    }

    /// Up to `count` packets from block `first` on, and how many they are: fewer at the end of the
    /// extent, none if it does not hold `first`.
    #[must_use]
    pub fn slice(&self, first: BlockIndex, count: u64) -> (&[u8], u64) {
        let skipped = first.past(self.first);
        if first < self.first || skipped >= self.blocks {
            return (&[], 0);
        }
        let count = count.min(self.blocks - skipped);
        let start = skipped as usize * self.segment;
        let end = ((skipped + count) as usize * self.segment).min(self.octets.len());
        self.octets
            .get(start..end)
            .map_or((&[], 0), |octets| (octets, count))
    }

    /// Reads and frames an extent.
    pub(super) fn read(key: &FramesKey) -> Result<Self, ReadFailure> {
        let blksize = usize::from(key.blksize);
        let segment = blksize + HEADER_OCTETS;
        let Some((first, blocks)) = key.blocks() else {
            return Ok(Self {
                first: BlockIndex::FIRST,
                blocks: 0,
                segment,
                octets: Box::default(),
            });
        };
        let mut octets = vec![0; key.octets()].into_boxed_slice();
        // The payload is read in one go to the far end, and each block then moved forward to its
        // place. No block is written over before it is moved: block `i` of `n` ends, in its place,
        // 4(i+1) octets after the payload before it, and the next one begins 4n after the same.
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
        Ok(Self {
            first,
            blocks,
            segment,
            octets,
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

fn blocks_per_extent(blksize: u16) -> u64 {
    (EXTENT_OCTETS / (u64::from(blksize) + HEADER_OCTETS as u64)).max(1)
}

/// A key as the cache keeps it: it does not hold the body, or no body would ever end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Slot {
    body: u64,
    blksize: u16,
    to_one: bool,
    extent: u64,
}

/// Frames that were used of late, and those that are being made.
pub(super) struct FrameCache {
    octets_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Slot, Entry>,
    /// Ready entries by their last use, the oldest first.
    recency: BTreeMap<u64, Slot>,
    uses: u64,
    /// Octets of ready entries.
    held: usize,
    /// Octets, ready or pending, that were read ahead and that nobody has asked for yet.
    ahead: usize,
}

struct Entry {
    octets: usize,
    /// Read ahead, and nobody has asked for it yet.
    ahead: bool,
    progress: Progress,
}

enum Progress {
    /// A job makes them; these wait for it, each once.
    Pending(Vec<Mailbox>),
    Ready {
        frames: Arc<Frames>,
        used: u64,
    },
}

/// What the cache says to one who asks.
pub(super) enum Asked {
    Ready(Arc<Frames>),
    Waiting,
    Busy,
}

impl FrameCache {
    /// What an entry costs beside its octets, about: without it, a great many tiny files would take
    /// far more memory than the bound says.
    const ENTRY_OCTETS: usize = 256;

    pub(super) fn new(octets_max: usize) -> Self {
        Self {
            octets_max,
            state: Mutex::default(),
        }
    }

    /// Looks `key` up. If nobody has asked for it before, it and the extent behind it are put to
    /// `queue`, which says whether it took them.
    ///
    /// The queue is filled under the lock: an entry that the queue refuses is then gone before
    /// anybody can wait for it.
    pub(super) fn ask(
        &self,
        key: &FramesKey,
        mailbox: &Mailbox,
        mut queue: impl FnMut(FramesKey, Why) -> bool,
    ) -> Asked {
        let mut state = self.lock();
        let (asked, first_time) = state.ask(key, mailbox, &mut queue);
        if first_time {
            state.read_ahead(key, self.octets_max, queue);
        }
        asked
    }

    /// Takes what a job made; returns it with those who wait for it.
    pub(super) fn finish(
        &self,
        key: &FramesKey,
        result: Result<Frames, ReadFailure>,
    ) -> (Result<Arc<Frames>, ReadFailure>, Vec<Mailbox>) {
        let result = result.map(Arc::new);
        let mut state = self.lock();
        let (waiting, evicted) = state.finish(key.slot(), result.as_ref().ok(), self.octets_max);
        // Memory is given back after the lock, since others wait for it.
        drop(state);
        drop(evicted);
        (result, waiting)
    }

    /// Drops everything of a body that is gone.
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

    /// Octets of ready entries.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lock().held
    }

    /// Entries, ready or pending.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why frames are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody waits.
    Asked,
    /// Somebody will probably ask soon.
    Ahead,
}

impl State {
    /// The answer, and whether it is the first time that anybody asks for this extent.
    fn ask(
        &mut self,
        key: &FramesKey,
        mailbox: &Mailbox,
        queue: &mut impl FnMut(FramesKey, Why) -> bool,
    ) -> (Asked, bool) {
        let slot = key.slot();
        let Some(entry) = self.entries.get_mut(&slot) else {
            if !queue(key.clone(), Why::Asked) {
                return (Asked::Busy, false);
            }
            let progress = Progress::Pending(vec![mailbox.clone()]);
            self.entries.insert(
                slot,
                Entry {
                    octets: key.octets(),
                    ahead: false,
                    progress,
                },
            );
            return (Asked::Waiting, true);
        };
        let first_time = std::mem::take(&mut entry.ahead);
        if first_time {
            self.ahead -= entry.octets;
        }
        let asked = match &mut entry.progress {
            Progress::Pending(waiting) => {
                if !waiting.iter().any(|other| other.is(mailbox)) {
                    waiting.push(mailbox.clone());
                }
                Asked::Waiting
            }
            Progress::Ready { frames, used } => {
                self.uses += 1;
                self.recency.remove(used);
                self.recency.insert(self.uses, slot);
                *used = self.uses;
                Asked::Ready(Arc::clone(frames))
            }
        };
        (asked, first_time)
    }

    /// Queues the extent behind `key`, as long as what nobody has asked for stays within half the cache.
    fn read_ahead(
        &mut self,
        key: &FramesKey,
        octets_max: usize,
        mut queue: impl FnMut(FramesKey, Why) -> bool,
    ) {
        let next = FramesKey {
            extent: key.extent.saturating_add(1),
            ..key.clone()
        };
        let octets = next.octets();
        let room = self.ahead + octets <= octets_max / 2;
        if octets == 0 || !room || self.entries.contains_key(&next.slot()) {
            return;
        }
        let slot = next.slot();
        if queue(next, Why::Ahead) {
            self.ahead += octets;
            self.entries.insert(
                slot,
                Entry {
                    octets,
                    ahead: true,
                    progress: Progress::Pending(Vec::new()),
                },
            );
        }
    }

    /// Those who wait for `slot`, and the entries that had to make room.
    fn finish(
        &mut self,
        slot: Slot,
        frames: Option<&Arc<Frames>>,
        octets_max: usize,
    ) -> (Vec<Mailbox>, Vec<Entry>) {
        let mut evicted = Vec::new();
        let Some(entry) = self.remove(slot) else {
            return (Vec::new(), evicted);
        };
        let Entry {
            octets,
            ahead,
            progress: Progress::Pending(waiting),
        } = entry
        else {
            return (Vec::new(), evicted);
        };
        let cost = octets + FrameCache::ENTRY_OCTETS;
        if let Some(frames) = frames.filter(|_| cost <= octets_max) {
            while self.held + cost > octets_max {
                let Some((_, &oldest)) = self.recency.first_key_value() else {
                    break;
                };
                evicted.extend(self.remove(oldest));
            }
            self.uses += 1;
            self.recency.insert(self.uses, slot);
            self.held += cost;
            if ahead {
                self.ahead += octets;
            }
            let progress = Progress::Ready {
                frames: Arc::clone(frames),
                used: self.uses,
            };
            self.entries.insert(
                slot,
                Entry {
                    octets,
                    ahead,
                    progress,
                },
            );
        }
        (waiting, evicted)
    }

    fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.entries.remove(&slot)?;
        if entry.ahead {
            self.ahead -= entry.octets;
        }
        if let Progress::Ready { used, .. } = &entry.progress {
            self.recency.remove(used);
            self.held -= entry.octets + FrameCache::ENTRY_OCTETS;
        }
        Some(entry)
    }
}
