//! The transfer table: finds slots by number or by a datagram's key.

use std::hash::{BuildHasher, RandomState};

use super::index::HashIndex;
use super::pages::Pages;
use super::slot::{Key, Operation, Slot, Stage};
use crate::store::Ticket;
use crate::time::Instant;
use crate::wire::WireBlock;

/// Identifies a slot and the transfer now in it: a late timer or answer of an earlier transfer finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId {
    index: u32,
    generation: u32,
}

impl SlotId {
    /// The slot as identified in requests to the store.
    pub(super) const fn ticket(self) -> Ticket {
        Ticket((self.generation as u64) << 32 | self.index as u64)
    }

    pub(super) const fn of_ticket(ticket: Ticket) -> Self {
        Self {
            index: ticket.0 as u32,
            generation: (ticket.0 >> 32) as u32,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Slots, each with the generation of its transfer.
    slots: Pages<(u32, Slot)>,
    /// Slots by the hash of their keys. The keys are in the slots, which are accessed anyway, so that ten
    /// thousand entries fit into a core's own cache.
    by_key: HashIndex,
    /// Randomly keyed, because clients choose their addresses.
    hasher: RandomState,
    generation: u32,
    /// Running transfers, counted because scanning all slots takes milliseconds.
    reads: usize,
    writes: usize,
}

/// A key that is about to be looked up.
#[derive(Debug)]
pub(super) struct Sought {
    key: Key,
    hash: u32,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Begins to look a key up. With thousands of transfers, hardly any slot is in the processor's cache, and not
    /// every place of the index, so several keys are begun before the first is found.
    pub(super) fn seek(&self, key: Key) -> Sought {
        let hash = self.hash(&key);
        self.by_key.prefetch(hash);
        Sought { key, hash }
    }

    /// Begins to load the slot of a key, if there is one.
    pub(super) fn prefetch(&self, sought: &Sought) {
        if let Some(index) = self.by_key.find(sought.hash, |_| true) {
            self.slots.prefetch(index);
        }
    }

    /// Begins to load a slot.
    pub(super) fn prefetch_slot(&self, id: SlotId) {
        self.slots.prefetch(id.index);
    }

    pub(super) fn find(&self, sought: &Sought) -> Option<SlotId> {
        let is_it = |index| self.slots[index].1.key() == sought.key;
        let index = self.by_key.find(sought.hash, is_it)?;
        let generation = self.slots[index].0;
        Some(SlotId { index, generation })
    }

    /// Inserts a slot; its key must be free.
    pub(super) fn insert(&mut self, slot: Slot) -> SlotId {
        self.generation = self.generation.wrapping_add(1);
        let key = slot.key();
        let sought = self.seek(key);
        debug_assert!(self.find(&sought).is_none(), "a key names one transfer");
        *self.count(slot.operation) += 1;
        let index = self.slots.insert((self.generation, slot));
        self.by_key.insert(sought.hash, index);
        SlotId {
            index,
            generation: self.generation,
        }
    }

    pub(super) fn get(&self, id: SlotId) -> Option<&Slot> {
        let (generation, slot) = self.slots.get(id.index)?;
        (*generation == id.generation).then_some(slot)
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        let (generation, slot) = self.slots.get_mut(id.index)?;
        (*generation == id.generation).then_some(slot)
    }

    /// When the slot's transfer was requested, if it exists and is unvalidated.
    pub(super) fn unvalidated_since(&self, id: SlotId) -> Option<Instant> {
        let slot = self.get(id).filter(|slot| slot.unvalidated)?;
        Some(slot.started)
    }

    pub(super) fn remove(&mut self, id: SlotId) -> Option<Slot> {
        let hash = self.hash(&self.get(id)?.key());
        self.by_key.remove(hash, id.index);
        let (_, slot) = self.slots.remove(id.index)?;
        self.slots.give_back();
        if !slot.is_lingering() {
            *self.count(slot.operation) -= 1;
        }
        Some(slot)
    }

    /// Makes a running slot linger; returns its previous stage.
    pub(super) fn linger(
        &mut self,
        id: SlotId,
        last: Option<WireBlock>,
        now: Instant,
    ) -> Option<Stage> {
        let slot = self.get_mut(id)?;
        debug_assert!(!slot.is_lingering(), "a transfer ends once");
        let operation = slot.operation;
        let done = std::mem::replace(&mut slot.stage, Stage::Lingering { last, since: now });
        *self.count(operation) -= 1;
        Some(done)
    }

    /// The number of running reads or writes.
    pub(super) fn running(&self, operation: Operation) -> usize {
        let count = match operation {
            Operation::Read => self.reads,
            Operation::Write => self.writes,
        };
        let runs = |slot: &&Slot| slot.operation == operation && !slot.is_lingering();
        debug_assert_eq!(count, self.slots().filter(runs).count());
        count
    }

    fn hash(&self, key: &Key) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    const fn count(&mut self, operation: Operation) -> &mut usize {
        match operation {
            Operation::Read => &mut self.reads,
            Operation::Write => &mut self.writes,
        }
    }

    pub(super) fn ids(&self) -> Vec<SlotId> {
        let id = |(index, &(generation, _)): (u32, &(u32, Slot))| SlotId { index, generation };
        self.slots.iter().map(id).collect()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().map(|(_, (_, slot))| slot)
    }
}
