//! A transfer as the table keeps it: its peer, its state, and the source or destination of its octets.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use super::check::{Check, Expected, Flaw};
use super::table::SlotId;
use super::timers::Wheel;
use super::upload::Inflow;
use crate::config;
use crate::engine::{Path, SocketId};
use crate::proto::block::BlockIndex;
use crate::proto::negotiate::{Params, Wanted, Wish};
use crate::proto::outcome::Outcome;
use crate::proto::timing::Patience;
use crate::proto::transfer::Transfer;
use crate::store::{Body, Frames, FramesKey};
use crate::time::{Duration, Instant};
use crate::wire::{Escaped, Mode, WireBlock};

/// What the client requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The file goes from the server to the client.
    Read,
    /// The file goes from the client to the server.
    Write,
}

impl Operation {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A transfer that this end is to request.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server, at its request port.
    pub server: SocketAddr,
    /// The direction of the file.
    pub operation: Operation,
    /// The file's name on the server.
    pub remote: Vec<u8>,
    /// Which socket and address this end sends from.
    pub origin: Origin,
    /// The source or destination of the octets at this end.
    pub local: LocalSide,
    /// The transfer mode.
    pub mode: Mode,
    /// The options to request; `tsize` of a write is filled in.
    pub wanted: Wanted,
    /// The order in which they are requested.
    pub order: [Wish; 4],
    /// Timeouts and retry limits.
    pub patience: Patience,
    /// How long repeats of the server's last packet are answered after the end.
    pub linger: Duration,
}

/// Where the packets of a transfer that this end requests are sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Its own socket.
    Own,
    /// A socket of [`Shard::open_shared`](super::Shard::open_shared), and the local address that
    /// distinguishes the transfer from others there; without an address, it must be the only one.
    Shared(SocketId, Option<IpAddr>),
}

impl Origin {
    const fn address(self) -> Option<IpAddr> {
        match self {
            Self::Own => None,
            Self::Shared(_, address) => address,
        }
    }
}

/// This end's side of a file.
#[derive(Debug, Clone)]
pub enum LocalSide {
    /// The file of this name in the store.
    Stored(Vec<u8>),
    /// For a write: the file of this name in the store.
    Offered {
        /// Its name.
        name: Vec<u8>,
        /// How far the client goes.
        manner: Manner,
    },
    /// For a read: the octets are compared with what is expected, and not stored.
    Checked {
        /// The expected content.
        expected: Arc<Expected>,
        /// How far the client goes.
        manner: Manner,
    },
}

/// How far a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// To the end.
    Whole,
    /// It aborts with ERROR 8 once options are acknowledged, as firmware does to learn the length.
    Probe,
    /// It vanishes silently in the middle of the file: after this part has arrived, or before it is sent, in
    /// fractions of 2³². If the length of the file is unknown, it stops after the first block.
    Vanish(u32),
}

/// The result of a finished transfer.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The direction of the file.
    pub operation: Operation,
    /// The peer.
    pub peer: SocketAddr,
    /// The file's name, as requested.
    pub filename: Box<[u8]>,
    /// The transfer mode.
    pub mode: Mode,
    /// The negotiated parameters; those of RFC 1350 if none were negotiated.
    pub params: Params,
    /// Octets that arrived, counted by acknowledged blocks.
    pub octets: u64,
    /// Blocks that arrived.
    pub blocks: u64,
    /// Datagrams sent more than once.
    pub retransmissions: u64,
    /// The smoothed RTT, if this end received the file and measured one.
    pub round_trip: Option<Duration>,
    /// From the request to the end.
    pub elapsed: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The text of the peer's ERROR, or why this end aborted.
    pub text: Vec<u8>,
    /// What was wrong with the octets, if they are checked.
    pub flaw: Option<Flaw>,
    /// From the request to the OACK, if the server acknowledged options.
    pub oack: Option<Duration>,
    /// From the request to the first block, if blocks are checked.
    pub first_block: Option<Duration>,
    /// Duplicate blocks, if blocks are checked.
    pub duplicates: u64,
}

/// A running transfer, as shown to operators.
#[derive(Debug, Clone)]
pub struct Running {
    /// The direction of the file.
    pub operation: Operation,
    /// The peer.
    pub peer: SocketAddr,
    /// The file's name, as requested.
    pub filename: Box<[u8]>,
    /// The negotiated parameters; `None` while the file is being opened.
    pub params: Option<Params>,
    /// Octets that arrived.
    pub octets: u64,
    /// The length of the file in octets, if known.
    pub total: Option<u64>,
    /// Time since the request.
    pub elapsed: Duration,
    /// Datagrams sent more than once.
    pub retransmissions: u64,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operation,
            peer,
            filename,
            octets,
            outcome,
            ..
        } = self;
        write!(
            f,
            "{operation} {peer} \"{}\" {octets} {outcome}",
            Escaped(filename)
        )
    }
}

/// The key that maps a datagram to its transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The transfer requested by this client.
    Peer(SocketAddr),
    /// The transfer that this end requested from this socket and address.
    Own(SocketId, Option<IpAddr>),
}

/// Every datagram is hashed once: hashing two numbers takes half the time of the many fields of an address.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (address, rest) = match *self {
            Self::Peer(peer) => (Some(peer.ip()), u64::from(peer.port())),
            Self::Own(socket, address) => (address, u64::from(socket.0)),
        };
        match address {
            Some(IpAddr::V4(address)) => {
                state.write_u64(u64::from(address.to_bits()) << 32 | rest);
            }
            Some(IpAddr::V6(address)) => {
                state.write_u128(address.to_bits());
                state.write_u64(rest);
            }
            None => state.write_u64(rest),
        }
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    /// The socket that this end sends from.
    pub(super) socket: SocketId,
    pub(super) path: Path,
    pub(super) operation: Operation,
    pub(super) mode: Mode,
    /// The name as requested, cut to what a log line shows.
    pub(super) filename: Box<[u8]>,
    /// Distinguishes a repeat of the request from another request, or from one to another address.
    pub(super) fingerprint: u64,
    /// Whether the request may be a late copy of the previous one.
    pub(super) doubtful: bool,
    /// The packet that opens the transfer (request or OACK), kept until it is answered.
    pub(super) opening: Box<[u8]>,
    pub(super) errand: Option<Box<Errand>>,
    pub(super) started: Instant,
    /// When the request arrived, or was last repeated before it was answered.
    pub(super) asked_at: Instant,
    pub(super) stage: Stage,
    /// When the timer wheel next checks this slot.
    pub(super) armed: Option<Instant>,
    /// Whether it is in the queue of transfers with something to send.
    pub(super) queued: bool,
    /// A repeat of the request, which counts as a restart if the transfer stalls for a while.
    pub(super) again: Option<Box<Again>>,
    /// When the packet arrived that the next transmission may answer, and whether it does.
    pub(super) heard_at: Instant,
    pub(super) answering: bool,
    /// Whether nothing has been sent yet.
    pub(super) silent: bool,
    /// Whether it counts as unvalidated.
    pub(super) unvalidated: bool,
}

/// A repeat of the request that started a transfer.
#[derive(Debug)]
pub(super) struct Again {
    /// Where it arrived.
    pub(super) socket: SocketId,
    pub(super) path: Path,
    pub(super) request: Box<[u8]>,
    /// The socket to answer it from.
    pub(super) answers: SocketId,
    /// When it is judged, by its only timer.
    pub(super) judged_at: Instant,
}

/// The part of a slot that only a client needs.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) wanted: Wanted,
    pub(super) remote: Vec<u8>,
    pub(super) patience: Patience,
    pub(super) server: IpAddr,
    pub(super) origin: Origin,
    pub(super) order: [Wish; 4],
    pub(super) linger: Duration,
    pub(super) manner: Manner,
    pub(super) flaw: Option<Flaw>,
    /// Whether the port that the server answers from is known.
    pub(super) answered: bool,
    /// From the request to the first OACK.
    pub(super) oack: Option<Duration>,
    /// The length that the server announced.
    pub(super) announced: Option<u64>,
    /// The text of the peer's ERROR, or why this end aborted.
    pub(super) text: Vec<u8>,
}

#[derive(Debug)]
// Nearly every slot is running: a box would only add an indirection.
#[allow(clippy::large_enum_variant)]
pub(super) enum Stage {
    /// The store was asked to open or create the file; the request is kept meanwhile.
    Opening(Box<[u8]>),
    Running(Transfer, Flow),
    /// Over, except for repeats of the peer's last packet: a repeated last DATA is acknowledged again.
    Lingering {
        /// The last acknowledged block.
        last: Option<WireBlock>,
        since: Instant,
    },
}

/// Source or destination of the octets.
#[derive(Debug)]
pub(super) enum Flow {
    Out(Outflow),
    In(Box<Inflow>),
    Check(Box<Check>),
}

#[derive(Debug)]
pub(super) struct Outflow {
    pub(super) body: Arc<Body>,
    pub(super) frames: Held,
    /// The extents before this one have been asked for.
    pub(super) extents_asked: u64,
    /// Whether requested frames have not arrived from the store yet.
    pub(super) waiting: bool,
}

impl Outflow {
    pub(super) fn new(body: Arc<Body>) -> Self {
        Self {
            body,
            frames: Held::None,
            extents_asked: 0,
            waiting: false,
        }
    }

    /// Whether frames may have been read for this transfer alone.
    pub(super) fn may_be_alone(&self) -> bool {
        let frames = match &self.frames {
            Held::None => return true,
            Held::Waited(frames) => Some(frames.clone()),
            Held::Known(frames) => frames.upgrade(),
        };
        frames.is_none_or(|frames| !frames.are_laid_out())
    }

    /// Whether the store may hold something that was read for this transfer alone: what it sends from, or what
    /// was read ahead for it.
    pub(super) fn leaves_something(&self, params: &Params) -> bool {
        let last = BlockIndex::last_of(self.body.len(), params.blksize());
        let all = self.extents_asked > Frames::extent_of(last, params.blksize());
        self.extents_asked > 0 && (!all || self.may_be_alone())
    }

    /// What the store calls this extent of the body.
    pub(super) fn key(&self, params: &Params, extent: u64) -> FramesKey {
        FramesKey {
            body: self.body.clone(),
            blksize: params.blksize(),
            rollover: params.rollover(),
            extent,
        }
    }
}

/// The frames that a transfer sends from. Ten thousand idle transfers must not keep ten thousand file extents
/// in memory, so a transfer keeps a weak reference and the frame cache owns the frames. Only frames that it
/// waited for are held until they are sent, so that it progresses however small the cache is.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    None,
    Waited(Arc<Frames>),
    Known(Weak<Frames>),
}

impl Slot {
    /// The key of its datagrams.
    pub(super) const fn key(&self) -> Key {
        match &self.errand {
            Some(errand) => Key::Own(self.socket, errand.origin.address()),
            None => Key::Peer(self.path.peer),
        }
    }

    /// Makes sure that the timer wheel checks it, by this number, no later than its deadline.
    pub(super) fn arm(&mut self, id: SlotId, timers: &mut Wheel<SlotId>) {
        let Stage::Running(transfer, _) = &self.stage else {
            return;
        };
        if let Some(deadline) = transfer.poll_timeout()
            && self.armed.is_none_or(|armed| deadline < armed)
        {
            self.armed = Some(deadline);
            timers.insert(deadline, id);
        }
    }

    /// Whether it answers from this socket, or may do so after a repeat of its request.
    pub(super) fn uses(&self, socket: SocketId) -> bool {
        let again = self.again.as_ref();
        self.socket == socket || again.is_some_and(|again| again.answers == socket)
    }

    /// Whether a repeated request belongs to this transfer: the peer has sent nothing but the request.
    pub(super) const fn is_fresh(&self) -> bool {
        match &self.stage {
            Stage::Opening(_) => true,
            Stage::Running(transfer, _) => !transfer.is_validated(),
            Stage::Lingering { .. } => false,
        }
    }

    /// Whether a repeat of its request arriving now, after the end, may be a copy delayed in the network.
    pub(super) fn may_be_a_late_copy(&self, now: Instant) -> bool {
        self.is_lingering() && now - self.asked_at < config::LATE_COPY_MAX
    }

    /// Whether the peer may still repeat its last block because the ACK was lost.
    pub(super) const fn acknowledges_repeats(&self) -> bool {
        matches!(self.stage, Stage::Lingering { last: Some(_), .. })
    }

    /// How long the transfer must stall before a repeat of its request counts as a restart; `None` if it
    /// already counts.
    pub(super) fn quiet_at(&self, now: Instant) -> Option<Instant> {
        let Stage::Running(transfer, flow) = &self.stage else {
            return None;
        };
        // A transfer waiting for our disk is not stalled by its client.
        let waits = match (transfer, flow) {
            (Transfer::Receive(receiver), _) => receiver.is_whole(),
            (Transfer::Send(_), Flow::Out(out)) => out.waiting,
            (Transfer::Send(_), _) => false,
        };
        if waits {
            return Some(now + config::REBOOT_QUIET);
        }
        let quiet = if now - self.asked_at < config::LATE_COPY_MAX {
            config::LATE_COPY_MAX
        } else {
            config::REBOOT_QUIET
        };
        Some(transfer.moved_at() + quiet).filter(|&at| at > now)
    }

    /// Total octets of the file, if known.
    pub(super) fn total(&self) -> Option<u64> {
        match &self.stage {
            Stage::Running(_, Flow::Out(out)) => Some(out.body.len()),
            _ => self.errand.as_ref().and_then(|errand| errand.announced),
        }
    }

    /// The transfer as shown to operators; `None` once it is over.
    pub(super) fn running(&self, now: Instant) -> Option<Running> {
        let (params, retransmissions) = match &self.stage {
            Stage::Opening(_) => (None, 0),
            Stage::Running(transfer, _) => (Some(*transfer.params()), transfer.retransmissions()),
            Stage::Lingering { .. } => return None,
        };
        Some(Running {
            operation: self.operation,
            peer: self.path.peer,
            filename: self.filename.clone(),
            params,
            octets: self.arrived().1,
            total: self.total(),
            elapsed: now - self.started,
            retransmissions,
        })
    }

    /// Whether its client has come as far as it goes and vanishes now.
    pub(super) fn is_to_vanish(&self) -> bool {
        let Some(errand) = &self.errand else {
            return false;
        };
        let Manner::Vanish(part) = errand.manner else {
            return false;
        };
        let point = |len: u64| ((u128::from(len) * u128::from(part)) >> 32) as u64;
        let (blocks, octets) = self.arrived();
        match &self.stage {
            Stage::Running(Transfer::Receive(_), Flow::Check(check)) => {
                let len = errand.announced.or_else(|| check.expected_len());
                blocks > 0 && octets >= point(len.unwrap_or_default())
            }
            // Windows are sent whole, so it vanishes before the window that contains that point.
            Stage::Running(Transfer::Send(sender), Flow::Out(out)) => {
                let params = sender.params();
                let window = u64::from(params.windowsize()) * u64::from(params.blksize());
                sender.is_validated() && octets + window > point(out.body.len())
            }
            _ => false,
        }
    }

    /// Whether a draining server need not wait for it.
    pub(super) fn is_dispensable(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Lingering { last: None, .. } => true,
            Stage::Lingering { since, .. } => now - since >= config::DRAIN_LINGER,
            _ => false,
        }
    }

    /// Whether it is over and no longer answers anything.
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Lingering { last: None, .. })
    }

    pub(super) const fn is_lingering(&self) -> bool {
        matches!(self.stage, Stage::Lingering { .. })
    }

    /// Blocks and octets of the file that have arrived at the receiving end.
    pub(super) fn arrived(&self) -> (u64, u64) {
        match &self.stage {
            Stage::Running(Transfer::Send(sender), Flow::Out(out)) => {
                let blocks = sender.acked().0;
                (
                    blocks,
                    blocks
                        .saturating_mul(u64::from(sender.params().blksize()))
                        .min(out.body.len()),
                )
            }
            Stage::Running(Transfer::Receive(receiver), Flow::In(inflow)) => {
                (receiver.received().0, inflow.octets())
            }
            Stage::Running(Transfer::Receive(receiver), Flow::Check(check)) => {
                (receiver.received().0, check.octets())
            }
            _ => (0, 0),
        }
    }
}
