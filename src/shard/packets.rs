//! Receiving: each datagram belongs to a transfer, starts one, or belongs to none.

use std::hash::BuildHasher;

use super::slot::{Flow, Key, Stage};
use super::table::Sought;
use super::{Purpose, Shard, SlotId};
use crate::config;
use crate::engine::{Datagram, Engine, Inbox};
use crate::metrics::Suppressed;
use crate::proto::outcome::Outcome;
use crate::proto::receiver::Verdict;
use crate::proto::transfer::Transfer;
use crate::time::Instant;
use crate::wire::{self, ErrorCode, Packet};

/// Datagrams whose transfers are loaded into the processor's cache together, before the first is handled: enough to
/// hide how long that takes, few enough that none is evicted again before its turn.
const TOGETHER: usize = 32;

impl<E: Engine> Shard<E> {
    /// Handles what arrived.
    pub(super) fn handle_all(&mut self, inbox: &Inbox, now: Instant) {
        let mut sought = std::mem::take(&mut self.sought);
        for start in (0..inbox.len()).step_by(TOGETHER) {
            let datagrams = || (start..start + TOGETHER).map_while(|place| inbox.get(place));
            sought.clear();
            sought.extend(datagrams().map(|datagram| self.table.seek(self.key(&datagram))));
            sought.iter().for_each(|sought| self.table.prefetch(sought));
            for (datagram, sought) in datagrams().zip(&sought) {
                self.handle(&datagram, sought, now);
            }
        }
        self.sought = sought;
    }

    /// The key of the transfer that a datagram belongs to, if it belongs to one.
    fn key(&self, datagram: &Datagram<'_>) -> Key {
        match self.sockets.get(&datagram.socket) {
            Some(Purpose::Shared { by_address: true }) => {
                Key::Own(datagram.socket, datagram.path.local.address)
            }
            Some(Purpose::Errand | Purpose::Shared { .. }) => Key::Own(datagram.socket, None),
            Some(Purpose::Requests { .. } | Purpose::Answers) | None => {
                Key::Peer(datagram.path.peer)
            }
        }
    }

    /// Handles a datagram: passes it to its transfer, starts one, or rejects it.
    fn handle(&mut self, datagram: &Datagram<'_>, sought: &Sought, now: Instant) {
        self.metrics.received.count(datagram.octets, 1);
        if datagram.broadcast || datagram.path.peer.port() == 0 {
            let reason = if datagram.broadcast {
                Suppressed::Broadcast
            } else {
                Suppressed::PortZero
            };
            return self.suppress(reason);
        }
        let Some(&purpose) = self.sockets.get(&datagram.socket) else {
            return;
        };
        match purpose {
            Purpose::Requests {
                answers,
                everywhere,
            } if wire::is_request(datagram.octets) => {
                let answers = if everywhere {
                    self.answers_at(datagram.path.local, answers, now)
                } else {
                    answers
                };
                return self.request(datagram, sought, answers, now);
            }
            // Other packets belong to the listening port only if transfers are answered from it.
            Purpose::Requests { answers, .. } if answers != datagram.socket => {
                return self.before_the_answer(datagram, sought, now);
            }
            _ => {}
        }
        match self.table.find(sought) {
            Some(id) => self.packet(id, datagram, now),
            // RFC 1350 §4 requires ERROR 5, but the listening port would then answer any stray ERROR or junk.
            None if matches!(purpose, Purpose::Requests { .. }) => {
                self.suppress(Suppressed::NotARequest);
            }
            None => self.stranger(datagram, now),
        }
    }

    /// Handles a non-request packet at the request port while answers leave from other ports. A client not
    /// answered yet knows no other port, and may send its ERROR there.
    fn before_the_answer(&mut self, datagram: &Datagram<'_>, sought: &Sought, now: Instant) {
        let id = self.table.find(sought);
        let opening = id.filter(|&id| {
            let stage = self.table.get(id).map(|slot| &slot.stage);
            matches!(stage, Some(Stage::Opening(_)))
        });
        match (opening, Packet::parse(datagram.octets)) {
            (Some(id), Ok(Packet::Error { code, .. })) => {
                self.finish(id, Outcome::PeerError(code), now);
            }
            _ => self.suppress(Suppressed::NotARequest),
        }
    }

    /// Handles a packet that belongs to a transfer.
    fn packet(&mut self, id: SlotId, datagram: &Datagram<'_>, now: Instant) {
        let Ok(packet) = Packet::parse(datagram.octets) else {
            return self.suppress(Suppressed::Unexpected);
        };
        tracing::trace!(peer = %datagram.path.peer, %packet, "received");
        if !self.belongs(id, datagram, &packet) {
            return self.stranger(datagram, now);
        }
        let Some(slot) = self.table.get_mut(id) else {
            return;
        };
        // How the peer violated the protocol, if it did.
        let mut broken = None;
        match (&mut slot.stage, packet) {
            (Stage::Running(Transfer::Send(sender), _), Packet::Ack { block }) => {
                slot.heard_at = now;
                if let Some(round_trip) = sender.handle_ack(block, now)
                    && !self.engine.holds_back(datagram.socket)
                {
                    self.metrics.latencies.round_trip.record(round_trip);
                }
                // Packets sent later by a timer do not answer it.
                slot.answering = sender.poll_transmit(1).is_some();
            }
            (
                Stage::Running(Transfer::Receive(receiver), Flow::In(inflow)),
                Packet::Data { block, payload },
            ) => {
                if !inflow.has_room(payload.len()) {
                    return self.suppress(Suppressed::Unexpected);
                }
                self.kept_octets -= inflow.kept_octets();
                match receiver.handle_data(block, payload.len(), now) {
                    Verdict::Next(index) => inflow.append(index, payload, receiver.received()),
                    Verdict::Ahead(index) => {
                        let room = config::OVERTAKING_OCTETS_MAX - self.kept_octets;
                        let room = room.saturating_sub(inflow.kept_octets());
                        if !inflow.keep(index, payload, room) {
                            receiver.forget(index);
                        }
                    }
                    Verdict::Ignore => {}
                    Verdict::TooLong => broken = Some("block longer than agreed"),
                    Verdict::TooShort => broken = Some("block shorter than agreed"),
                }
                self.kept_octets += inflow.kept_octets();
            }
            (
                Stage::Running(Transfer::Receive(receiver), Flow::Check(check)),
                Packet::Data { block, payload },
            ) => match receiver.handle_data(block, payload.len(), now) {
                Verdict::Next(index) => {
                    check.look(index, payload);
                    let since_start = now - slot.started;
                    if let Some(took) = check.advance(receiver.received(), since_start, now)
                        && !self.engine.holds_back(datagram.socket)
                    {
                        self.metrics.latencies.round_trip.record(took);
                    }
                }
                Verdict::Ahead(index) => check.look(index, payload),
                Verdict::Ignore => check.duplicates += 1,
                Verdict::TooLong => broken = Some("block longer than agreed"),
                Verdict::TooShort => broken = Some("block shorter than agreed"),
            },
            (Stage::Running(transfer, _), Packet::Error { code, message }) => {
                transfer.handle_error(code);
                *self
                    .metrics
                    .errors_received
                    .entry(code.label())
                    .or_default() += 1;
                if let Some(errand) = &mut slot.errand {
                    errand.text = message.to_vec();
                }
            }
            // The client aborted before it was answered.
            (Stage::Opening(_), Packet::Error { code, .. }) if slot.errand.is_none() => {
                return self.finish(id, Outcome::PeerError(code), now);
            }
            (Stage::Running(..), Packet::Oack(options)) if slot.errand.is_some() => {
                return self.agreed(id, options, now);
            }
            (Stage::Lingering { last, .. }, Packet::Data { block, .. }) if *last == Some(block) => {
                let (socket, path, ack) = (slot.socket, slot.path, wire::write_ack(block));
                return self.send_packet(socket, &path, &ack);
            }
            (Stage::Lingering { .. }, _) => return,
            _ => return self.suppress(Suppressed::Unexpected),
        }
        if let Some(how) = broken {
            return self.fail(id, ErrorCode::ILLEGAL, how, now);
        }
        if let Stage::Running(transfer, _) = &slot.stage
            && transfer.moved_at() == now
        {
            // The client has made progress, so the repeated request was no restart.
            slot.again = None;
        }
        self.settle(id, now);
    }

    /// Handles a packet to a transfer's port from an unknown sender. RFC 1350 §4: "an error packet should be
    /// sent to the source of the incorrect packet, while not disturbing the transfer".
    fn stranger(&mut self, datagram: &Datagram<'_>, now: Instant) {
        let answerable = matches!(
            Packet::parse(datagram.octets),
            Ok(Packet::Ack { .. } | Packet::Data { .. } | Packet::Oack(_))
        );
        let client = self.fingerprints.hash_one(datagram.path.peer);
        if answerable && !self.departed.holds(client, now) && self.stranger_errors.take(now) {
            self.send_error(
                datagram.socket,
                &datagram.path,
                ErrorCode::UNKNOWN_TID,
                "unknown transfer",
            );
        } else {
            self.suppress(Suppressed::Stranger);
        }
    }
}
