//! Sending: transfers with something to send take turns, one burst at a time.

use std::sync::Arc;

use super::slot::{Flow, Held, Slot, Stage};
use super::{Shard, SlotId};
use crate::engine::{Engine, Path, Payload, Sent, SocketId};
use crate::metrics::Suppressed;
use crate::proto::block::BlockIndex;
use crate::proto::transfer::Transfer;
use crate::proto::transmit::Transmit;
use crate::store::{Answer, Frames, FramesKey, ReadFailure, Refusal};
use crate::time::{Duration, Instant};
use crate::wire::{self, ErrorCode};

/// Blocks that one transfer may send per turn: as many as a kernel segments at once (128 since Linux 6.9), or
/// two windows of the usual size. An engine that can pass fewer to the kernel makes several calls.
const BURST_BLOCKS_MAX: u64 = 128;
/// Maximum turns per round of the loop. With ten thousand clients, ACKs must not wait until all have been
/// served, because their timers would have expired by then.
const TURNS_PER_ROUND_MAX: usize = 512;
/// Maximum time a round spends sending: a window sent datagram by datagram takes many times as long as one
/// segmented by the kernel.
const ROUND_MAX: Duration = Duration::from_millis(5);
/// Turns between two readings of the clock.
const TURNS_PER_LOOK: usize = 8;
/// Interval at which transfers waiting for the engine are scanned: scanning ten thousand takes a millisecond.
const ARMED_EVERY: Duration = Duration::from_millis(500);
/// How long a transfer waits before it asks again for frames that the store was too busy to provide.
const BUSY_RETRY: Duration = Duration::from_millis(10);
/// Maximum size of an ERROR in octets: all its texts are this program's own and short.
const ERROR_OCTETS_MAX: usize = 128;

/// The result of a transfer's turn.
enum Turn {
    /// Something was sent; there may be more.
    Sent,
    /// Nothing to send, or not yet.
    Idle,
    /// The engine accepts no more.
    Full,
}

impl<E: Engine> Shard<E> {
    /// Serves the transfers with something to send in turn, until all are served, no socket accepts more, or
    /// it is time to check for arrivals.
    pub(super) fn pump(&mut self, now: Instant) {
        self.serve_in_turn(now);
        self.latest = None;
    }

    fn serve_in_turn(&mut self, now: Instant) {
        let engine = &self.engine;
        self.backlog.look_for_room(|socket| engine.has_room(socket));
        for turn in 1..=TURNS_PER_ROUND_MAX {
            // Alternate between transfers that waited for room and those that did not.
            let id = if turn % 2 == 0 {
                self.backlog.pop().or_else(|| self.ready_with_room())
            } else {
                self.ready_with_room().or_else(|| self.backlog.pop())
            };
            let Some(id) = id else {
                return;
            };
            if let Some(slot) = self.table.get_mut(id) {
                slot.queued = false;
            }
            match self.transmit(id, now) {
                // Its next burst comes after all other queued transfers.
                Turn::Sent => self.sent(id, now),
                Turn::Idle => self.arm(id),
                Turn::Full => self.wait_for_room(id, now),
            }
            let looks = std::mem::take(&mut self.fetched) || turn % TURNS_PER_LOOK == 0;
            if looks && self.engine.now() - now >= ROUND_MAX {
                return;
            }
        }
    }

    /// The next transfer to serve; any before it whose socket has a backlog are moved to that backlog.
    fn ready_with_room(&mut self) -> Option<SlotId> {
        loop {
            let id = self.ready.pop_front()?;
            // Since it was queued, the kernel has sent for so many others that it may be evicted from the cache.
            if let Some(&next) = self.ready.front() {
                self.table.prefetch_slot(next);
            }
            let socket = self.table.get(id).map(|slot| slot.socket);
            if !socket.is_some_and(|socket| self.backlog.join(socket, id)) {
                return Some(id);
            }
        }
    }

    /// Handles a full socket: moves the transfer to the backlog.
    fn wait_for_room(&mut self, id: SlotId, now: Instant) {
        self.metrics.send_full += 1;
        if let Some(slot) = self.table.get_mut(id) {
            slot.queued = true;
            self.backlog.stopped(slot.socket, id);
        }
        self.arm_backlog(now);
    }

    /// Makes sure that transfers waiting for room do not wait beyond their deadlines. Scanning occasionally
    /// is enough, and only transfers that have stalled for a while need it: one interrupted recently within a
    /// window has its blocks retransmitted soon enough after sending.
    fn arm_backlog(&mut self, now: Instant) {
        if self
            .backlog_armed_at
            .is_some_and(|at| now - at < ARMED_EVERY)
        {
            return;
        }
        self.backlog_armed_at = Some(now);
        // Most of them may not have been moved to the backlog yet.
        let waiting = self.backlog.waiting().chain(self.ready.iter().copied());
        for id in waiting.collect::<Vec<_>>() {
            let slot = self.table.get(id);
            let moved_at = slot.and_then(|slot| match &slot.stage {
                Stage::Running(transfer, _) => Some(transfer.moved_at()),
                _ => None,
            });
            if moved_at.is_some_and(|at| now - at >= ARMED_EVERY) {
                self.arm(id);
            }
        }
    }

    fn transmit(&mut self, id: SlotId, now: Instant) -> Turn {
        let Some(Slot {
            stage: Stage::Running(transfer, flow),
            opening,
            socket,
            path,
            heard_at,
            answering,
            silent,
            ..
        }) = self.table.get_mut(id)
        else {
            return Turn::Idle;
        };
        let (socket, path) = (*socket, *path);
        let before = transfer.retransmissions();
        let Some(transmit) = transfer.poll_transmit(BURST_BLOCKS_MAX) else {
            return Turn::Idle;
        };
        let head = match transmit {
            Transmit::Opening(_) => opening.first_chunk().copied().unwrap_or_default(),
            Transmit::Blocks { .. } => [0, 3],
            Transmit::Ack(_) => [0, 4],
        };
        let (sent, count) = match (transmit, flow) {
            (Transmit::Opening(_), _) => {
                (self.engine.send(socket, &path, Payload::Packet(opening)), 1)
            }
            (Transmit::Ack(_), Flow::In(inflow)) if inflow.is_backlogged() => {
                return Turn::Idle;
            }
            (Transmit::Ack(block), flow) => {
                if let Flow::Check(check) = flow {
                    check.asked(now);
                }
                let ack = wire::write_ack(transfer.params().rollover().wire(block));
                (self.engine.send(socket, &path, Payload::Packet(&ack)), 1)
            }
            (Transmit::Blocks { first, count }, Flow::Out(out)) => {
                let params = *transfer.params();
                let Some(frames) = out.frames.holding(first, self.latest.take()) else {
                    let extent = Frames::extent_of(first, params.blksize());
                    return self.fetch(id, extent, now);
                };
                let count = count.min(frames.blocks_from(first));
                let burst = Payload::Frames {
                    frames: &frames,
                    first,
                    count,
                };
                let sent = self.engine.send(socket, &path, burst);
                // Once they are sent, only the frame cache decides how long they stay.
                if matches!(out.frames, Held::Waited(_)) && sent != Sent::Full {
                    out.frames = Held::Known(Arc::downgrade(&frames));
                }
                self.latest = Some(frames);
                (sent, count)
            }
            (Transmit::Blocks { .. }, Flow::In(_) | Flow::Check(_)) => return Turn::Idle,
        };
        let left = match sent {
            Sent::Datagrams(left) => left as u64,
            Sent::Full => return Turn::Full,
            Sent::Failed(errno) => {
                *self.metrics.send_errors.entry(errno).or_default() += 1;
                // The protocol treats them as lost in the network; the timer retransmits.
                transfer.transmitted(count, now);
                return Turn::Sent;
            }
        };
        tracing::trace!(peer = %path.peer, ?transmit, left, "sent");
        transfer.transmitted(left, now);
        self.metrics.sent.count(&head, left);
        self.metrics.retransmissions += transfer.retransmissions() - before;
        if std::mem::take(answering) {
            let took = self.engine.now() - *heard_at;
            let latencies = &mut self.metrics.latencies;
            let latency = if std::mem::take(silent) {
                &mut latencies.first_datagram
            } else {
                &mut latencies.ack_to_burst
            };
            latency.record(took);
        }
        if matches!(transmit, Transmit::Blocks { .. }) {
            self.expect(id);
        }
        Turn::Sent
    }

    /// If what was just sent was read for this transfer alone, and it now waits for its client, has the store read the
    /// first extent that the next window needs: the client is busy with this one.
    fn expect(&mut self, id: SlotId) {
        let latest = self.latest.as_ref();
        if latest.is_none_or(|frames| frames.are_laid_out()) {
            return;
        }
        let Some(Slot {
            stage: Stage::Running(Transfer::Send(sender), Flow::Out(out)),
            ..
        }) = self.table.get(id)
        else {
            return;
        };
        let params = sender.params();
        let windows = 2 * u64::from(params.windowsize());
        let last = BlockIndex::last_of(out.body.len(), params.blksize());
        let next = sender.acked().plus(windows).min(last);
        let extent = Frames::extent_of(next, params.blksize());
        if extent >= out.extents_asked && sender.poll_transmit(1).is_none() {
            let key = out.key(params, out.extents_asked);
            self.fetched |= self.store.expect(&key, &self.mailbox);
        }
    }

    /// Asks the store for the frames that the transfer needs next.
    fn fetch(&mut self, id: SlotId, extent: u64, now: Instant) -> Turn {
        let Some(Slot {
            stage: Stage::Running(Transfer::Send(sender), Flow::Out(out)),
            ..
        }) = self.table.get_mut(id)
        else {
            return Turn::Idle;
        };
        let key = out.key(sender.params(), extent);
        let answer = if extent < out.extents_asked {
            self.store.frames_again(&key, &self.mailbox)
        } else {
            // It makes room before it takes more.
            let needed = Frames::extent_of(sender.acked().plus(1), key.blksize);
            if needed > 0 && out.may_be_alone() {
                self.store.passed(&out.key(sender.params(), needed));
            }
            self.store.frames(&key, &self.mailbox)
        };
        if !matches!(answer, Answer::Now(_)) {
            sender.held_up();
        }
        if !matches!(answer, Answer::Busy) {
            out.extents_asked = out.extents_asked.max(extent + 1);
        }
        match answer {
            Answer::Now(Ok(frames)) => {
                self.fetched = true;
                out.frames = Held::Waited(frames);
                // The missing frames are available now, so the turn continues.
                self.transmit(id, now)
            }
            Answer::Now(Err(failure)) => {
                self.unreadable(id, failure, now);
                Turn::Idle
            }
            Answer::Later => {
                out.waiting = true;
                self.waiting.entry(key).or_default().push(id);
                Turn::Idle
            }
            Answer::Busy => {
                // The timer fires and `settle` queues it again.
                if let Some(slot) = self.table.get_mut(id) {
                    slot.armed = Some(now + BUSY_RETRY);
                    self.timers.insert(now + BUSY_RETRY, id);
                }
                Turn::Idle
            }
        }
    }

    /// Handles the store's frames, or its failure, for all transfers waiting for them.
    pub(super) fn frames_came(
        &mut self,
        key: &FramesKey,
        result: &Result<Arc<Frames>, ReadFailure>,
        now: Instant,
    ) {
        for id in self.waiting.remove(key).unwrap_or_default() {
            match self.table.get_mut(id) {
                Some(Slot {
                    stage: Stage::Running(_, Flow::Out(out)),
                    ..
                }) => out.waiting = false,
                _ => continue,
            }
            match result {
                Ok(frames) => {
                    if let Some(Slot {
                        stage: Stage::Running(Transfer::Send(sender), Flow::Out(out)),
                        ..
                    }) = self.table.get_mut(id)
                    {
                        // ACKs may have come meanwhile.
                        sender.held_up();
                        out.frames = Held::Waited(frames.clone());
                    }
                    self.settle(id, now);
                }
                Err(failure) => self.unreadable(id, *failure, now),
            }
        }
    }

    fn unreadable(&mut self, id: SlotId, failure: ReadFailure, now: Instant) {
        match failure {
            ReadFailure::Changed => self.fail(id, ErrorCode::UNDEFINED, "file changed", now),
            ReadFailure::Failed(errno) => self.give_up(id, Refusal::Failed(errno), now),
        }
    }

    pub(super) fn send_error(
        &mut self,
        socket: SocketId,
        path: &Path,
        code: ErrorCode,
        text: &str,
    ) {
        let mut buffer = [0; ERROR_OCTETS_MAX];
        if let Ok(len) = wire::write_error(&mut buffer, code, text.as_bytes()) {
            self.send_packet(socket, path, &buffer[..len]);
            *self.metrics.errors_sent.entry(code.label()).or_default() += 1;
        }
    }

    /// Sends one small packet that is not retransmitted: if it is lost, the peer asks again.
    pub(super) fn send_packet(&mut self, socket: SocketId, path: &Path, packet: &[u8]) {
        match self.engine.send(socket, path, Payload::Packet(packet)) {
            Sent::Datagrams(left) => self.metrics.sent.count(packet, left as u64),
            Sent::Full => self.suppress(Suppressed::Full),
            Sent::Failed(errno) => *self.metrics.send_errors.entry(errno).or_default() += 1,
        }
    }
}

impl Held {
    /// The frames, if they contain `block` and are still in memory. If they are the `latest`, no reference is counted:
    /// shards on other cores count theirs in the same place.
    fn holding(&self, block: BlockIndex, latest: Option<Arc<Frames>>) -> Option<Arc<Frames>> {
        let frames = match (self, latest) {
            (Self::None, _) => return None,
            (Self::Waited(frames), _) => frames.clone(),
            (Self::Known(known), Some(latest)) if known.as_ptr() == Arc::as_ptr(&latest) => latest,
            (Self::Known(known), _) => known.upgrade()?,
        };
        frames.contain(block).then_some(frames)
    }
}
