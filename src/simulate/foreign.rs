//! Third-party receivers: simple clients that imitate those in the field, bugs included.
//!
//! They run no shard. Each is a node of the network with a socket, its own timer, and as little protocol
//! as the client it imitates.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::World;
use crate::engine::SocketId;
use crate::engine::sim::NodeId;
use crate::time::{Duration, Instant};
use crate::wire::{self, Mode, Opcode, Packet};

/// They repeat their last packet after this much silence.
const SILENCE: Duration = Duration::from_secs(1);
/// They give up after this many consecutive silences.
const SILENCES_MAX: u32 = 30;
/// Octets of their longest request.
const REQUEST_OCTETS_MAX: usize = 256;

/// How a receiver reacts to an unexpected block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Drops it, and acknowledges the last block in order whenever the new one is ahead: a literal
    /// reading of RFC 7440.
    StrictGoBack,
    /// The same, also for blocks that it already has, as EDK2 does.
    Edk2,
    /// Drops it without a reply: only its timer makes it send.
    Silent,
    /// Keeps it without a reply, and acknowledges a window's worth once the gap has closed, as barebox
    /// does.
    Caching,
    /// Supports no options, and acknowledges every DATA packet, as the first RFC 1350 clients did.
    Lockstep512,
    /// Drops it, and sends every ACK twice, with the previous ACK in between.
    RepeatsOldAcks,
}

impl Style {
    /// All styles.
    pub const ALL: [Self; 6] = [
        Self::StrictGoBack,
        Self::Edk2,
        Self::Silent,
        Self::Caching,
        Self::Lockstep512,
        Self::RepeatsOldAcks,
    ];
}

/// A third-party receiver that reads one file.
#[derive(Debug)]
pub struct Foreign {
    style: Style,
    node: NodeId,
    socket: SocketId,
    address: SocketAddr,
    server: SocketAddr,
    request: Vec<u8>,
    blksize: usize,
    windowsize: u64,
    /// The pause before each ACK, if any.
    pause: Duration,
    /// An ACK that is held until the pause is over.
    held: Option<(Instant, u64)>,
    /// The server's port for this transfer, once it has answered.
    peer: Option<SocketAddr>,
    received: u64,
    acked: u64,
    kept: BTreeMap<u64, Vec<u8>>,
    body: Vec<u8>,
    whole: bool,
    ended_at: Option<Instant>,
    failed: bool,
    deadline: Instant,
    silences: u32,
}

impl Foreign {
    /// Joins the world and immediately requests a file from the server.
    #[must_use]
    pub fn request(
        world: &mut World,
        node: NodeId,
        style: Style,
        server: SocketAddr,
        filename: &[u8],
        (blksize, windowsize): (u16, u16),
    ) -> Self {
        let (socket, address) = world.network().bind(node, 0);
        let mut buffer = [0; REQUEST_OCTETS_MAX];
        let options = style != Style::Lockstep512;
        let written = wire::write_request(&mut buffer, Opcode::Rrq, filename, Mode::Octet)
            .and_then(|mut writer| {
                if options {
                    writer.number(b"blksize", blksize.into())?;
                    writer.number(b"windowsize", windowsize.into())?;
                }
                Ok(writer.len())
            });
        // A name that does not fit makes an empty request, which gets no answer.
        let request = buffer[..written.unwrap_or(0)].to_vec();
        let mut foreign = Self {
            style,
            node,
            socket,
            address,
            server,
            request,
            blksize: usize::from(if options { blksize } else { 512 }),
            windowsize: u64::from(if options { windowsize } else { 1 }),
            pause: Duration::ZERO,
            held: None,
            peer: None,
            received: 0,
            acked: 0,
            kept: BTreeMap::new(),
            body: Vec::new(),
            whole: false,
            ended_at: None,
            failed: false,
            deadline: world.now(),
            silences: 0,
        };
        foreign.speak(world);
        foreign
    }

    /// Sets a pause before each ACK.
    #[must_use]
    pub const fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Its socket: if several receivers share a node, datagrams that arrive here go to
    /// [`Foreign::handle`].
    #[must_use]
    pub const fn socket(&self) -> SocketId {
        self.socket
    }

    /// When [`Foreign::expire`] must be called, if nothing arrives before.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let held = self.held.map(|(at, _)| at);
        let deadline = self.is_waiting().then_some(self.deadline);
        match (held, deadline) {
            (Some(held), Some(deadline)) => Some(held.min(deadline)),
            (held, deadline) => held.or(deadline),
        }
    }

    /// The file, once it is complete.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        self.whole.then_some(&self.body)
    }

    /// When the file was complete.
    #[must_use]
    pub const fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// Whether the transfer is still running.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        !self.whole && !self.failed
    }

    /// Reads what has arrived at the node, which only this receiver uses, and checks the timer.
    pub fn turn(&mut self, world: &mut World) {
        while let Some((_, path, octets)) = world.network().receive(self.node) {
            self.handle(world, path.peer, &octets);
        }
        self.expire(world);
    }

    /// Handles a received datagram.
    pub fn handle(&mut self, world: &mut World, from: SocketAddr, octets: &[u8]) {
        if *self.peer.get_or_insert(from) != from {
            return;
        }
        match Packet::parse(octets) {
            Ok(Packet::Oack(_)) if self.received == 0 => self.acknowledge(world, 0),
            Ok(Packet::Data { block, payload }) => self.data(world, block.0, payload),
            Ok(Packet::Error { .. }) => self.failed = true,
            _ => {}
        }
    }

    /// Checks the timer.
    pub fn expire(&mut self, world: &mut World) {
        let now = world.now();
        if let Some((_, block)) = self.held.take_if(|(at, _)| *at <= now) {
            self.send_ack(world, block);
        }
        if self.is_waiting() && self.deadline <= now {
            self.silences += 1;
            if self.silences > SILENCES_MAX {
                self.failed = true;
            } else {
                self.speak(world);
            }
        }
    }

    fn data(&mut self, world: &mut World, wire: u16, payload: &[u8]) {
        let ahead = wire.wrapping_sub(self.received as u16);
        if ahead == 1 && !self.whole {
            self.silences = 0;
            self.append(payload);
            while let Some(kept) = self.kept.remove(&(self.received + 1)) {
                self.append(&kept);
            }
            if self.whole {
                self.ended_at = Some(world.now());
            }
            if self.whole || self.received - self.acked >= self.windowsize {
                self.acknowledge(world, self.received);
            }
            self.arm(world);
            return;
        }
        let is_ahead = ahead > 1 && ahead < 0x8000;
        match self.style {
            // All styles answer repeats of the last block, so that the server learns of the end.
            _ if self.whole && ahead == 0 => self.acknowledge(world, self.received),
            _ if self.whole => {}
            Style::StrictGoBack | Style::RepeatsOldAcks if is_ahead => {
                self.acknowledge(world, self.received);
            }
            Style::Edk2 => self.acknowledge(world, self.received),
            Style::Caching if is_ahead => {
                self.kept
                    .insert(self.received + u64::from(ahead), payload.to_vec());
            }
            Style::Lockstep512 => {
                self.acknowledge(
                    world,
                    self.received
                        .saturating_sub(u64::from(ahead.wrapping_neg())),
                );
            }
            _ => {}
        }
    }

    fn append(&mut self, payload: &[u8]) {
        self.body.extend_from_slice(payload);
        self.received += 1;
        self.whole = payload.len() < self.blksize;
    }

    fn acknowledge(&mut self, world: &mut World, block: u64) {
        if self.pause.is_zero() {
            self.send_ack(world, block);
        } else {
            let at = world.now() + self.pause;
            self.held = Some((at, block));
            world.alarm_at(at);
        }
    }

    fn send_ack(&mut self, world: &mut World, block: u64) {
        let before = self.acked;
        self.acked = self.acked.max(block);
        self.ack(world, block);
        if self.style == Style::RepeatsOldAcks {
            self.ack(world, before);
            self.ack(world, block);
        }
        self.arm(world);
    }

    fn ack(&self, world: &World, block: u64) {
        self.send(world, &wire::write_ack(wire::WireBlock(block as u16)));
    }

    /// Repeats its last packet: the request, or an ACK of what it has.
    fn speak(&mut self, world: &mut World) {
        if self.peer.is_none() {
            self.send(world, &self.request);
        } else if self.received > 0 || self.style != Style::Lockstep512 {
            self.acked = self.received;
            self.ack(world, self.received);
        }
        self.arm(world);
    }

    fn send(&self, world: &World, octets: &[u8]) {
        let to = self.peer.unwrap_or(self.server);
        world.network().inject(self.address, to, octets);
    }

    fn arm(&mut self, world: &mut World) {
        self.deadline = world.now() + SILENCE;
        world.alarm_at(self.deadline);
    }
}
