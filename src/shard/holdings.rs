//! What a shard holds at a moment, for those who make sure that it lets go of everything.

use super::Shard;
use super::slot::{Slot, Stage};
use crate::engine::Engine;
use crate::time::{Duration, Instant};

/// What a shard holds. In the end, all of it is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Slots in the table, lingering ones included.
    pub slots: usize,
    /// Transfers counted against the operator's limit, over all shards that share the census.
    pub census: usize,
    /// Transfers whose peer has yet to prove that it is there.
    pub unvalidated: usize,
    /// Uploads that clients asked for.
    pub uploads: usize,
    /// Memory that uploads' blocks take which overtook others, in octets.
    pub kept_octets: usize,
    /// Runs of frames that somebody waits for.
    pub waiting: usize,
    /// Transfers that stand in the queue to send.
    pub ready: usize,
    /// Entries among the timers.
    pub timers: usize,
}

impl<E: Engine> Shard<E> {
    /// What it holds now.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        Holdings {
            slots: self.table.len(),
            census: self.census.count(),
            unvalidated: self.unvalidated.count(),
            uploads: self.uploads,
            kept_octets: self.kept_octets,
            waiting: self.waiting.len(),
            ready: self.ready.len(),
            timers: self.timers.len(),
        }
    }

    /// How long the transfer that is furthest past its idle time has been so; zero if none is.
    #[must_use]
    pub fn overdue(&self) -> Duration {
        let now = self.engine.now();
        let overdue = self.table.slots().map(|slot| self.overdue_of(slot, now));
        overdue.max().unwrap_or_default()
    }

    fn overdue_of(&self, slot: &Slot, now: Instant) -> Duration {
        let patience = slot
            .errand
            .as_ref()
            .map_or(self.settings.patience, |errand| errand.patience);
        let (moved_at, asked) = match &slot.stage {
            Stage::Opening(_) => (slot.started, None),
            Stage::Running(transfer, _) => (transfer.moved_at(), transfer.params().timeout()),
            Stage::Lingering { .. } => return Duration::ZERO,
        };
        let idle = patience.idle.max(asked.unwrap_or_default() * 2);
        now - (moved_at + idle)
    }
}
