//! Receiving: each datagram belongs to a transfer, starts one, or belongs to none.

use std::hash::BuildHasher;

use super::slot::{Flow, Key, Stage};
use super::{Purpose, Shard, SlotId};
use crate::config;
use crate::engine::{Datagram, Engine};
use crate::metrics::Suppressed;
use crate::proto::outcome::Outcome;
use crate::proto::receiver::Verdict;
use crate::proto::transfer::Transfer;
use crate::time::Instant;
use crate::wire::{self, ErrorCode, Packet};

impl<E: Engine> Shard<E> {
    /// Handles a datagram: passes it to its transfer, starts one, or rejects it.
    pub(super) fn handle(&mut self, datagram: &Datagram<'_>, now: Instant) {
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
        let key = match purpose {
            Purpose::Requests {
                answers,
                everywhere,
            } if wire::is_request(datagram.octets) => {
                let answers = if everywhere {
                    self.answers_at(datagram.path.local, answers, now)
                } else {
                    answers
                };
                return self.request(datagram, answers, now);
            }
            // Other packets belong to the listening port only if transfers are answered from it.
            Purpose::Requests { answers, .. } if answers != datagram.socket => {
                return self.before_the_answer(datagram, now);
            }
            Purpose::Requests { .. } | Purpose::Answers => Key::Peer(datagram.path.peer),
            Purpose::Shared { by_address: true } => {
                Key::Own(datagram.socket, datagram.path.local.address)
            }
            Purpose::Errand | Purpose::Shared { .. } => Key::Own(datagram.socket, None),
        };
        match self.table.find(&key) {
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
    fn before_the_answer(&mut self, datagram: &Datagram<'_>, now: Instant) {
        let id = self.table.find(&Key::Peer(datagram.path.peer));
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
