//! The cache of packets, and the policy that decides which are laid out and kept.
//!
//! All requests go through the cache, so that requests for the same cold extent are merged. What only one
//! transfer asks for is read *plain* into memory that is reused as soon as that transfer has passed on.
//! Laying it out takes longer than gathering saves one client, and keeping it takes new memory, which costs
//! more than everything else; nor may a large file that one client reads once flush the image that every
//! client boots. What a second transfer asks for is *laid out* and kept: sending it costs each further client
//! less, and nothing is read again (`benches/policy.rs`).
//!
//! What is plain and in the system's page cache is read on the thread of the shard that asks, if memory for it
//! is there at once: waking a thread costs more than the copy. What a transfer will ask for next is read so while
//! its client receives the window before. For all else there are jobs. More extents are read ahead only for one that several asked for, or that
//! the page cache did not hold, as far as anyone can tell.
//!
//! To recognise a second request, the cache remembers extents that it no longer holds (as 2Q does; Johnson
//! and Shasha, 1994). When memory runs out, an extent is evicted that was not requested for long; but none
//! that is being sent, since that would free nothing. Plain extents have a share of the memory: as long as
//! they take less, what is laid out is evicted first, and beyond that whatever is oldest.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::arena::{Arena, Chunk};
use super::frames::{EXTENT_OCTETS, Frames, FramesKey, Layout, Slot};
use super::{Mailbox, StoreStatistics};
use crate::sync::{Mutex, MutexGuard};

/// Extents read ahead of the first client: one to hide a disk that is faster than the client, and one more
/// for when the disk stalls.
const EXTENTS_AHEAD: u64 = 2;

/// Limit of unrequested read-ahead, as a fraction (one in this many) of the cache: at most half of what
/// plain extents may take, so that it does not flush those.
const AHEAD_SHARE: usize = 8;

/// The part of the cache (one in this many) that plain extents may take from those laid out: enough for
/// hundreds of clients at once that each read a file of their own.
const PLAIN_SHARE: usize = 4;

/// How many extents behind a transfer are looked at when it passes on. It has usually left one; a window of the
/// largest blocks spans many.
const EXTENTS_BEHIND: u64 = 64;

/// Extents that are remembered, for each that fits the cache: an image that is booted again before twice
/// that much other data was read is known again.
const REMEMBERED_PER_EXTENT: usize = 2;

/// Least number of extents that are remembered, so that small files are known again by a small cache.
const REMEMBERED_MIN: usize = 256;

/// Recently used frames, those being made, and those that were there before.
pub(super) struct FrameCache {
    arena: Arc<Arena>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    octets_max: usize,
    entries: BTreeMap<Slot, Entry>,
    /// Ready entries that are plain, least recently requested first.
    plain: BTreeMap<u64, Slot>,
    /// Octets of the plain entries.
    plain_octets: usize,
    /// Ready entries that are laid out, least recently requested first.
    laid_out: BTreeMap<u64, Slot>,
    /// Entries that are only remembered, the oldest first.
    remembered: BTreeMap<u64, Slot>,
    uses: u64,
    /// Octets, ready or pending, that were read ahead and not requested yet.
    ahead: usize,
    hits: u64,
    misses: u64,
    framed_octets: u64,
    plain_octets_read: u64,
    evictions: u64,
    /// Entries that are being read.
    pending: u64,
}

struct Entry {
    /// Octets of the packets, headers included.
    octets: usize,
    /// Whether it was read ahead and not requested since.
    ahead: bool,
    /// Whether the extents behind it are to be read ahead if it turns out not to be in memory.
    leads: bool,
    requests: Requests,
    progress: Progress,
}

/// How many transfers asked for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// None, or one.
    One,
    /// More than one.
    Several,
}

enum Progress {
    /// A job is reading them, or the shard that asked; each waiting mailbox is listed once.
    Pending(Vec<Mailbox>),
    Ready {
        frames: Arc<Frames>,
        used: u64,
        /// Whether they were read without asking a disk, so that nothing is gained by reading ahead.
        at_hand: bool,
        /// Whether a job is laying them out, or found no room for that.
        changing: bool,
    },
    /// Evicted.
    Remembered { used: u64 },
}

/// The cache's answer to a request.
pub(super) enum Asked {
    Ready(Arc<Frames>),
    /// The caller alone asks for them: it is to read them plainly and [`FrameCache::finish`] them, or to queue
    /// a job that does.
    Alone,
    Waiting,
    Busy,
}

/// Who requests frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A transfer that has not asked for them before.
    Another,
    /// One that has: it repeats blocks, or they were evicted meanwhile.
    Same,
}

/// Why a job is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A transfer is waiting.
    Asked,
    /// One is waiting that may be answered at once: nothing is queued yet, but there must be room.
    AskedAlone,
    /// It saves time or work later.
    Ahead,
}

/// How a job makes frames.
pub(super) enum Recipe {
    /// By reading.
    Read(Layout),
    /// By laying out those that are there.
    LayOut(Arc<Frames>),
}

impl FrameCache {
    pub(super) fn new(octets_max: usize) -> Self {
        Self {
            arena: Arena::new(octets_max),
            state: Mutex::new(State {
                octets_max,
                ..State::default()
            }),
        }
    }

    /// Looks `key` up. On the first request for it, passes it and the extents behind it to `queue`, which
    /// returns whether it accepted them; or leaves it to the caller ([`Asked::Alone`]).
    ///
    /// The queue is filled under the lock: an entry that the queue refuses is gone before anyone can wait
    /// for it.
    pub(super) fn ask(
        &self,
        key: &FramesKey,
        asker: Asker,
        mailbox: &Mailbox,
        mut queue: impl FnMut(FramesKey, Why) -> bool,
    ) -> Asked {
        let mut state = self.lock();
        let (asked, first_time) = state.ask(key, asker, mailbox, &mut queue);
        match asked {
            Asked::Ready(_) => state.hits += 1,
            Asked::Alone | Asked::Waiting => state.misses += 1,
            Asked::Busy => {}
        }
        if first_time {
            state.read_ahead(key, queue);
        }
        asked
    }

    /// Enters `key` as read ahead, unless it is known, several will ask for it, or there is no room, also for a job:
    /// the caller is to read it plainly and [`FrameCache::finish`] it, or to queue a job that does.
    pub(super) fn expect(&self, key: &FramesKey, has_room: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        let slot = key.slot();
        !state.entries.contains_key(&slot)
            && !state.follows_a_crowd(slot)
            && state.enter_ahead(key, Requests::One, true, has_room)
    }

    /// A job is about to read `key` from the disk, or for several: queues the extents behind it, unless that
    /// was done when it was asked for, or who asked is gone.
    pub(super) fn read_ahead(&self, key: &FramesKey, queue: impl FnMut(FramesKey, Why) -> bool) {
        let mut state = self.lock();
        let entry = state.entries.get_mut(&key.slot());
        if entry.is_some_and(|entry| std::mem::take(&mut entry.leads)) {
            state.read_ahead(key, queue);
        }
    }

    /// A transfer no longer needs the extents before that of `key`: those that it alone asked for make room.
    pub(super) fn passed(&self, key: &FramesKey) {
        let before = key.slot();
        let after = Slot {
            extent: before.extent.saturating_sub(EXTENTS_BEHIND),
            ..before
        };
        let mut state = self.lock();
        let passed = state.entries.range(after..before);
        let slots: Vec<Slot> = passed
            .filter(|(_, entry)| entry.is_of_one_reader())
            .map(|(&slot, _)| slot)
            .collect();
        let dropped: Vec<_> = slots.into_iter().map(|slot| state.retire(slot)).collect();
        drop(state);
        drop(dropped);
    }

    /// A transfer is over that would have asked for `key` next: what was read for it makes room, also ahead.
    pub(super) fn left(&self, key: &FramesKey) {
        let next = key.slot();
        let beyond = Slot {
            extent: next.extent.saturating_add(1 + EXTENTS_AHEAD),
            ..next
        };
        let last = Slot {
            extent: next.extent.saturating_sub(1),
            ..next
        };
        let mut state = self.lock();
        // It may not be there yet. Others who wait for it read ahead from the next one on.
        if let Some(entry) = state.entries.get_mut(&last) {
            entry.leads = false;
        }
        let ahead: Vec<Slot> = state
            .entries
            .range(next..beyond)
            .filter(|(_, entry)| entry.ahead)
            .map(|(&slot, _)| slot)
            .collect();
        let dropped: Vec<_> = ahead.into_iter().map(|slot| state.retire(slot)).collect();
        drop(state);
        drop(dropped);
        self.passed(key);
    }

    /// How the job for `key` is to make its frames; `None` if there is nothing to do any more.
    pub(super) fn recipe(&self, key: &FramesKey) -> Option<Recipe> {
        self.lock().recipe(key.slot())
    }

    /// Memory for `octets` of frames. Evicts entries to make room; if none can be evicted, or the frames
    /// never fit, they serve only their current waiters.
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

    /// The same if nothing has to be evicted, and no new memory to be touched but a little.
    pub(super) fn room_soon(&self, octets: usize) -> Option<Chunk> {
        self.arena.take_soon(octets)
    }

    /// Stores frames that were made; returns them with their waiters. What is `at_hand` came from memory, and
    /// probably so will the octets behind it.
    pub(super) fn finish(
        &self,
        key: &FramesKey,
        frames: Frames,
        at_hand: bool,
    ) -> (Arc<Frames>, Vec<Mailbox>) {
        let frames = Arc::new(frames);
        let mut state = self.lock();
        let (waiting, displaced) = state.finish(key, Some(&frames), at_hand);
        drop(state);
        drop(displaced);
        (frames, waiting)
    }

    /// Frames could not be made; returns their waiters.
    pub(super) fn fail(&self, key: &FramesKey) -> Vec<Mailbox> {
        self.lock().finish(key, None, false).0
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
            plain_octets: state.plain_octets_read,
            evictions: state.evictions,
            resident_octets: resident as u64,
            pending: state.pending,
        }
    }

    /// Entries, ready or pending.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let state = self.lock();
        state.entries.len() - state.remembered.len()
    }

    /// The extents that are ready, and whether they are laid out.
    #[cfg(test)]
    pub(super) fn ready(&self) -> Vec<(u64, bool)> {
        let state = self.lock();
        let ready = |(slot, entry): (&Slot, &Entry)| match &entry.progress {
            Progress::Ready { frames, .. } => Some((slot.extent, frames.are_laid_out())),
            _ => None,
        };
        state.entries.iter().filter_map(ready).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether it is held for one transfer only, or for none yet.
    fn is_of_one_reader(&self) -> bool {
        let is_plain = matches!(
            &self.progress,
            Progress::Ready { frames, changing: false, .. } if !frames.are_laid_out()
        );
        is_plain && self.requests == Requests::One
    }
}

impl State {
    /// The answer, and whether it is time to read ahead: this is the first time that anyone asks, at least for
    /// long.
    fn ask(
        &mut self,
        key: &FramesKey,
        asker: Asker,
        mailbox: &Mailbox,
        queue: &mut impl FnMut(FramesKey, Why) -> bool,
    ) -> (Asked, bool) {
        let slot = key.slot();
        let Some(entry) = self.entries.get_mut(&slot) else {
            let asked_alone = !self.follows_a_crowd(slot);
            let (asked, why) = if asked_alone {
                (Asked::Alone, Why::AskedAlone)
            } else {
                (Asked::Waiting, Why::Asked)
            };
            if !queue(key.clone(), why) {
                return (Asked::Busy, false);
            }
            let entry = Entry {
                octets: key.octets(Layout::LaidOut),
                ahead: false,
                leads: asked_alone,
                requests: Requests::One,
                progress: Progress::Pending(vec![mailbox.clone()]),
            };
            self.pending += 1;
            self.entries.insert(slot, entry);
            return (asked, !asked_alone);
        };
        let was_ahead = std::mem::take(&mut entry.ahead);
        if was_ahead {
            self.ahead -= entry.octets;
        }
        match &mut entry.progress {
            Progress::Pending(waiting) => {
                // What was read ahead may be remembered from an earlier transfer.
                if !was_ahead && asker == Asker::Another {
                    entry.requests = Requests::Several;
                }
                if !waiting.iter().any(|other| other.is(mailbox)) {
                    waiting.push(mailbox.clone());
                }
                // If it is a job's to find out whether it is in memory, so is what to do then.
                (Asked::Waiting, was_ahead && !entry.leads)
            }
            Progress::Ready {
                frames,
                at_hand,
                changing,
                ..
            } => {
                let at_hand = *at_hand;
                if !was_ahead && asker == Asker::Another {
                    entry.requests = Requests::Several;
                    // If the queue is full, the next one that asks tries again.
                    if !frames.are_laid_out() && !*changing {
                        *changing = queue(key.clone(), Why::Ahead);
                    }
                }
                let asked = Asked::Ready(Arc::clone(frames));
                self.touch(slot);
                (asked, was_ahead && !at_hand)
            }
            Progress::Remembered { used } => {
                if !queue(key.clone(), Why::Asked) {
                    return (Asked::Busy, false);
                }
                self.remembered.remove(used);
                if asker == Asker::Another {
                    entry.requests = Requests::Several;
                }
                entry.progress = Progress::Pending(vec![mailbox.clone()]);
                self.pending += 1;
                // A transfer that lost what it was sending from has asked for the next ones already.
                (Asked::Waiting, asker == Asker::Another)
            }
        }
    }

    /// Queues the extents behind `key`, as long as unrequested read-ahead stays within its share.
    fn read_ahead(&mut self, key: &FramesKey, mut queue: impl FnMut(FramesKey, Why) -> bool) {
        for step in 1..=EXTENTS_AHEAD {
            let next = FramesKey {
                extent: key.extent.saturating_add(step),
                ..key.clone()
            };
            let known = self.entries.get(&next.slot());
            let remembered = match known.map(|entry| &entry.progress) {
                None => None,
                Some(Progress::Remembered { used }) => Some(*used),
                Some(_) => continue,
            };
            // The transfer that it is read for is the second one, if it is remembered.
            let requests = match remembered {
                Some(_) => Requests::Several,
                None => Requests::One,
            };
            if !self.enter_ahead(&next, requests, false, || queue(next.clone(), Why::Ahead)) {
                return;
            }
            if let Some(used) = remembered {
                self.remembered.remove(&used);
            }
        }
    }

    /// Enters `key` as being read ahead if there are octets to read, unrequested read-ahead stays within its share,
    /// and `queue` accepts it; returns whether it did.
    fn enter_ahead(
        &mut self,
        key: &FramesKey,
        requests: Requests,
        leads: bool,
        queue: impl FnOnce() -> bool,
    ) -> bool {
        let octets = key.octets(Layout::LaidOut);
        let has_room = self.ahead + octets <= self.octets_max / AHEAD_SHARE;
        if octets == 0 || !has_room || !queue() {
            return false;
        }
        self.ahead += octets;
        self.pending += 1;
        let entry = Entry {
            octets,
            ahead: true,
            leads,
            requests,
            progress: Progress::Pending(Vec::new()),
        };
        self.entries.insert(key.slot(), entry);
        true
    }

    fn recipe(&self, slot: Slot) -> Option<Recipe> {
        let entry = self.entries.get(&slot)?;
        match &entry.progress {
            Progress::Pending(_) => {
                let several = entry.requests == Requests::Several || self.follows_a_crowd(slot);
                Some(Recipe::Read(if several {
                    Layout::LaidOut
                } else {
                    Layout::Plain
                }))
            }
            Progress::Ready {
                frames,
                changing: true,
                ..
            } => Some(Recipe::LayOut(Arc::clone(frames))),
            Progress::Ready { .. } | Progress::Remembered { .. } => None,
        }
    }

    /// Whether several transfers asked for one of the extents shortly before: they will ask for this one.
    fn follows_a_crowd(&self, slot: Slot) -> bool {
        let after = Slot {
            extent: slot.extent.saturating_sub(EXTENTS_AHEAD + 1),
            ..slot
        };
        let mut before = self.entries.range(after..slot);
        before.any(|(_, entry)| {
            let is_there = !matches!(entry.progress, Progress::Remembered { .. });
            is_there && entry.requests == Requests::Several
        })
    }

    /// Returns the waiters for frames that have been made or have failed, and those whose place they take.
    /// The frames are kept if they are within the bound.
    fn finish(
        &mut self,
        key: &FramesKey,
        frames: Option<&Arc<Frames>>,
        at_hand: bool,
    ) -> (Vec<Mailbox>, Option<Arc<Frames>>) {
        if let Some(frames) = frames {
            *if frames.are_laid_out() {
                &mut self.framed_octets
            } else {
                &mut self.plain_octets_read
            } += key.octets(Layout::LaidOut) as u64;
        }
        let slot = key.slot();
        let kept = frames.filter(|frames| !frames.are_excess());
        let Some(entry) = self.entries.get_mut(&slot) else {
            return (Vec::new(), None);
        };
        match &mut entry.progress {
            Progress::Pending(waiting) => {
                let waiting = std::mem::take(waiting);
                entry.leads = false;
                match kept {
                    Some(frames) => {
                        self.pending -= 1;
                        self.uses += 1;
                        let used = self.uses;
                        entry.progress = Progress::Ready {
                            frames: Arc::clone(frames),
                            used,
                            at_hand,
                            changing: false,
                        };
                        self.enter(slot, used, frames);
                    }
                    None => drop(self.remove(slot)),
                }
                (waiting, None)
            }
            Progress::Ready {
                frames,
                used,
                changing,
                ..
            } => {
                // A job that was queued before may read plainly what has been laid out meanwhile.
                let better = |made: &&Arc<Frames>| made.are_laid_out() || !frames.are_laid_out();
                let Some(made) = kept.filter(better) else {
                    return (Vec::new(), None);
                };
                *changing = false;
                let displaced = std::mem::replace(frames, Arc::clone(made));
                let used = *used;
                self.leave(used, &displaced);
                self.enter(slot, used, made);
                (Vec::new(), Some(displaced))
            }
            Progress::Remembered { .. } => (Vec::new(), None),
        }
    }

    /// Makes a ready entry the most recently requested one of its group.
    fn touch(&mut self, slot: Slot) {
        self.uses += 1;
        if let Some(Progress::Ready { frames, used, .. }) =
            self.entries.get_mut(&slot).map(|entry| &mut entry.progress)
        {
            let group = if frames.are_laid_out() {
                &mut self.laid_out
            } else {
                &mut self.plain
            };
            group.remove(used);
            *used = self.uses;
            group.insert(self.uses, slot);
        }
    }

    /// Lists ready frames in their group.
    fn enter(&mut self, slot: Slot, used: u64, frames: &Frames) {
        if frames.are_laid_out() {
            self.laid_out.insert(used, slot);
        } else {
            self.plain.insert(used, slot);
            self.plain_octets += frames.cost();
        }
    }

    /// Takes them from it.
    fn leave(&mut self, used: u64, frames: &Frames) {
        if frames.are_laid_out() {
            self.laid_out.remove(&used);
        } else {
            self.plain.remove(&used);
            self.plain_octets -= frames.cost();
        }
    }

    /// Evicts the least valuable entry whose eviction frees memory, if there is one; returns its frames.
    fn evict(&mut self) -> Option<Arc<Frames>> {
        let oldest = |group: &BTreeMap<u64, Slot>| {
            let mut entries = group.iter();
            entries
                .find(|(_, slot)| self.is_idle(slot))
                .map(|(&used, &slot)| (used, slot))
        };
        let (plain, laid_out) = (oldest(&self.plain), oldest(&self.laid_out));
        let has_more_than_its_share = self.plain_octets > self.octets_max / PLAIN_SHARE;
        let (_, slot) = match (plain, laid_out) {
            (Some(plain), Some(laid_out)) if has_more_than_its_share => plain.min(laid_out),
            (plain, laid_out) => laid_out.or(plain)?,
        };
        self.evictions += 1;
        self.retire(slot)
    }

    /// Whether only the cache holds these frames right now. A transfer may take them before they are
    /// evicted, or a shard release them at the end of its round; then another entry, or one more, is evicted.
    fn is_idle(&self, slot: &Slot) -> bool {
        matches!(
            self.entries.get(slot),
            Some(Entry {
                progress: Progress::Ready { frames, .. },
                ..
            }) if Arc::strong_count(frames) == 1
        )
    }

    /// Takes the frames of a ready entry; it is remembered, if it was requested at all. One that was read ahead
    /// in vain goes, even if it is not ready yet.
    fn retire(&mut self, slot: Slot) -> Option<Arc<Frames>> {
        let entry = self.entries.get_mut(&slot)?;
        if entry.ahead {
            return match self.remove(slot)?.progress {
                Progress::Ready { frames, .. } => Some(frames),
                _ => None,
            };
        }
        if !matches!(entry.progress, Progress::Ready { .. }) {
            return None;
        }
        self.uses += 1;
        let remembered = Progress::Remembered { used: self.uses };
        let retired = std::mem::replace(&mut entry.progress, remembered);
        self.remembered.insert(self.uses, slot);
        let remembered_max =
            (self.octets_max / EXTENT_OCTETS as usize * REMEMBERED_PER_EXTENT).max(REMEMBERED_MIN);
        if self.remembered.len() > remembered_max
            && let Some((_, oldest)) = self.remembered.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let Progress::Ready { frames, used, .. } = retired else {
            return None;
        };
        self.leave(used, &frames);
        Some(frames)
    }

    fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.entries.remove(&slot)?;
        if entry.ahead {
            self.ahead -= entry.octets;
        }
        match &entry.progress {
            Progress::Pending(_) => self.pending -= 1,
            Progress::Ready { frames, used, .. } => self.leave(*used, frames),
            Progress::Remembered { used } => {
                self.remembered.remove(used);
            }
        }
        Some(entry)
    }
}
