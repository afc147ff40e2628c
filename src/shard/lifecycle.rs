//! State changes of a transfer: the checks after each event, and how it ends.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use super::check::Flaw;
use super::slot::{Flow, Operation, Origin, Slot, Stage};
use super::upload::Next;
use super::{Shard, SlotId, log};
use crate::config;
use crate::engine::Engine;
use crate::proto::outcome::Outcome;
use crate::proto::transfer::Transfer;
use crate::store::Refusal;
use crate::time::Instant;
use crate::wire::{ErrorCode, Mode};

impl<E: Engine> Shard<E> {
    /// Called after each event of a transfer: notes that the peer is validated, gives the store what it
    /// should write, arms the timer, queues what is to be sent, and handles the end.
    pub(super) fn settle(&mut self, id: SlotId, now: Instant) {
        let Some(slot) = self.table.get_mut(id) else {
            return;
        };
        let is_to_vanish = slot.is_to_vanish();
        let Stage::Running(transfer, flow) = &mut slot.stage else {
            return;
        };
        if slot.unvalidated && transfer.is_validated() {
            slot.unvalidated = false;
            self.unvalidated.leave(slot.path.peer.ip());
            // The client's request or the server's OACK has been answered.
            slot.opening = Box::default();
        }
        if let Some(outcome) = transfer.outcome() {
            return self.finish(id, outcome, now);
        }
        if let (Flow::Check(check), Transfer::Receive(receiver)) = (&mut *flow, &mut *transfer) {
            let whole = receiver.is_whole();
            let announced = slot.errand.as_ref().and_then(|errand| errand.announced);
            let flaw = check.flaw(whole).or_else(|| {
                let short = whole && announced.is_some_and(|announced| announced != check.octets());
                short.then_some(Flaw::Short)
            });
            if let Some(flaw) = flaw {
                if let Some(errand) = &mut slot.errand {
                    errand.flaw = Some(flaw);
                }
                return self.fail(id, ErrorCode::UNDEFINED, flaw.text(), now);
            }
            receiver.publish();
        }
        if is_to_vanish {
            return self.finish(id, Outcome::Stopped, now);
        }
        if let (Flow::In(inflow), Transfer::Receive(receiver)) = (flow, &*transfer) {
            let announced = slot.errand.as_ref().and_then(|errand| errand.announced);
            let octets = inflow.octets();
            let belied =
                |announced| octets > announced || (receiver.is_whole() && octets < announced);
            if announced.is_some_and(belied) {
                return self.fail(
                    id,
                    ErrorCode::UNDEFINED,
                    "the length is not the one announced",
                    now,
                );
            }
            if inflow.is_too_long() {
                return self.give_up(id, Refusal::Long, now);
            }
            match inflow.next(receiver.is_whole()) {
                Next::Write(upload, chunk) => {
                    self.store.write(id.ticket(), upload, chunk, &self.mailbox)
                }
                Next::Publish(upload) => self.store.publish(id.ticket(), upload, &self.mailbox),
                Next::Nothing => {}
            }
        }
        self.schedule(id);
    }

    /// Called after a transfer has sent something. That changes neither what has arrived nor whether the peer is
    /// validated, so of all that [`Self::settle`] looks at, only the end can be new: nothing else was left to do.
    pub(super) fn sent(&mut self, id: SlotId, now: Instant) {
        let stage = self.table.get(id).map(|slot| &slot.stage);
        let Some(Stage::Running(transfer, _)) = stage else {
            return;
        };
        match transfer.outcome() {
            Some(outcome) => self.finish(id, outcome, now),
            None => self.schedule(id),
        }
    }

    /// Queues the transfer if it can send something now. It arms its timer after that; one that was queued
    /// before, or has nothing to send, arms it now.
    fn schedule(&mut self, id: SlotId) {
        let Some(slot) = self.table.get_mut(id) else {
            return;
        };
        let Stage::Running(transfer, flow) = &slot.stage else {
            return;
        };
        let held_up = match flow {
            Flow::Out(out) => out.waiting,
            Flow::In(inflow) => inflow.is_backlogged(),
            Flow::Check(_) => false,
        };
        if !slot.queued && !held_up && transfer.poll_transmit(1).is_some() {
            slot.queued = true;
            self.ready.push_back(id);
        } else {
            slot.arm(id, &mut self.timers);
        }
    }

    /// Makes sure that the timer wheel checks the transfer no later than its deadline.
    pub(super) fn arm(&mut self, id: SlotId) {
        if let Some(slot) = self.table.get_mut(id) {
            slot.arm(id, &mut self.timers);
        }
    }

    /// Aborts a transfer with an ERROR to the peer.
    pub(super) fn fail(&mut self, id: SlotId, code: ErrorCode, text: &str, now: Instant) {
        self.abort(id, code, text, Outcome::Refused(code), now);
    }

    pub(super) fn abort(
        &mut self,
        id: SlotId,
        code: ErrorCode,
        text: &str,
        outcome: Outcome,
        now: Instant,
    ) {
        let Some(slot) = self.table.get_mut(id) else {
            return;
        };
        if slot.is_lingering() {
            return;
        }
        // A server that has not answered yet is sent no ERROR.
        let mut heard = true;
        if let Some(errand) = &mut slot.errand {
            errand.text = text.as_bytes().to_vec();
            heard = errand.answered;
        }
        let (socket, path) = (slot.socket, slot.path);
        if heard {
            self.send_error(socket, &path, code, text);
        }
        self.finish(id, outcome, now);
    }

    pub(super) fn give_up(&mut self, id: SlotId, refusal: Refusal, now: Instant) {
        let (code, text) = refusal.error();
        // The operator needs the system's error; the client does not.
        if let (Refusal::Failed(errno), Some(slot)) = (refusal, self.table.get(id))
            && slot.errand.is_none()
            && self.failure_lines.take(now)
        {
            log::failure(slot, errno, self.failure_lines.take_denied());
        }
        self.fail(id, code, text, now);
    }

    /// Ends a transfer: counts and logs it, and keeps it lingering if its last packet may be requested again
    /// or packets of its client may still be in flight.
    pub(super) fn finish(&mut self, id: SlotId, outcome: Outcome, now: Instant) {
        let Some(slot) = self.table.get_mut(id) else {
            return;
        };
        if slot.is_lingering() {
            return;
        }
        let vanished = outcome == Outcome::Stopped && slot.is_to_vanish();
        let ending = log::ending(slot, outcome, now);
        let unvalidated = std::mem::take(&mut slot.unvalidated);
        if unvalidated {
            self.unvalidated.leave(slot.path.peer.ip());
        }
        if slot.operation == Operation::Write && slot.errand.is_none() {
            self.uploads -= 1;
        }
        let sent = matches!(&slot.stage, Stage::Running(Transfer::Send(_), _));
        *if sent {
            &mut self.metrics.octets_sent
        } else {
            &mut self.metrics.octets_received
        } += ending.octets;
        *self.metrics.ended.entry(log::name(outcome)).or_default() += 1;
        self.census.leave();
        let trifling = unvalidated && outcome != Outcome::Unanswered;
        if trifling || outcome == Outcome::Probed {
            // Evictions and size probes are logged only on request.
            log::trifle(&ending);
        } else if outcome == Outcome::Complete || self.failure_lines.take(now) {
            log::transfer(&ending, self.failure_lines.take_denied());
        }
        if outcome == Outcome::Complete {
            self.metrics.latencies.transfer.record(ending.elapsed);
        }
        if slot.errand.is_some() {
            self.endings.push((id, ending));
        }
        let (linger, last) = match &slot.stage {
            Stage::Running(Transfer::Receive(receiver), _) if outcome == Outcome::Complete => {
                let params = receiver.params();
                let linger = config::LINGER.max(params.timeout().unwrap_or_default() * 2);
                (linger, Some(params.rollover().wire(receiver.received())))
            }
            _ => (config::LINGER_READ, None),
        };
        let errand = slot.errand.as_ref();
        let linger = match errand {
            // A vanished client answers nothing, not even with "unknown transfer".
            Some(_) if vanished => config::SILENCE_OF_THE_VANISHED,
            Some(errand) => errand.linger,
            None => linger,
        };
        let is_remembered = match outcome {
            Outcome::Complete => true,
            Outcome::Stopped => vanished,
            // The rest of the window is still in flight, and has been answered with an ERROR.
            Outcome::Refused(_) => errand.is_none() && matches!(slot.stage, Stage::Running(..)),
            _ => false,
        };
        if !is_remembered || linger.is_zero() {
            let peer = slot.path.peer;
            if matches!(outcome, Outcome::PeerError(_) | Outcome::Probed) {
                self.depart(peer, now);
            }
            return self.remove(id);
        }
        slot.opening = Box::default();
        // A client that restarted meanwhile repeats its request; a late copy is dropped.
        slot.again = None;
        slot.armed = Some(now + linger);
        self.timers.insert(now + linger, id);
        if last.is_some() {
            let until = now + config::DRAIN_LINGER;
            self.expects_repeats_until = self.expects_repeats_until.max(Some(until));
        }
        if let Some(done) = self.table.linger(id, last, now) {
            self.discard(done);
        }
        self.lingering.push_back(id);
        if self.lingering.len() > config::LINGERING_MAX
            && let Some(oldest) = self.lingering.pop_front()
            && self.table.get(oldest).is_some_and(Slot::is_lingering)
        {
            self.remove(oldest);
        }
    }

    /// An ERROR was received from or sent to this client, and more of its packets may be in flight.
    pub(super) fn depart(&mut self, peer: SocketAddr, now: Instant) {
        self.departed.enter(self.fingerprints.hash_one(peer), now);
    }

    pub(super) fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.table.remove(id) else {
            return;
        };
        if matches!(slot.stage, Stage::Opening(_)) && slot.mode == Mode::Netascii {
            // Scanning a long text file takes a while, which is wasted once the client has left.
            self.store.withdraw(id.ticket(), &self.mailbox);
        }
        if slot
            .errand
            .is_some_and(|errand| errand.origin == Origin::Own)
        {
            self.sockets.remove(&slot.socket);
            self.engine.close(slot.socket);
        }
        self.discard(slot.stage);
    }

    /// Returns to the store what a transfer was reading from or writing to, if anything.
    fn discard(&mut self, stage: Stage) {
        match stage {
            Stage::Running(Transfer::Send(sender), Flow::Out(out))
                if out.leaves_something(sender.params()) =>
            {
                let next = out.key(sender.params(), out.extents_asked);
                self.store.left(&next);
            }
            Stage::Running(_, Flow::In(inflow)) => {
                self.kept_octets -= inflow.kept_octets();
                if let Some(upload) = inflow.into_upload() {
                    // Discarding a long file occupies the disk for a while.
                    self.store.discard(upload);
                }
            }
            _ => {}
        }
    }
}
