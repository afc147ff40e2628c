//! What the table keeps of a transfer: whom it is with, where it stands, and where its octets come
//! from or go to.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use super::check::{Check, Expected, Flaw};
use super::upload::Inflow;
use crate::config;
use crate::engine::{Path, SocketId};
use crate::proto::negotiate::{Params, Wanted, Wish};
use crate::proto::outcome::Outcome;
use crate::proto::timing::Patience;
use crate::proto::transfer::Transfer;
use crate::store::{Body, Frames};
use crate::time::{Duration, Instant};
use crate::wire::{Escaped, Mode, WireBlock};

/// What the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The file goes from the server to the client.
    Read,
    /// The file goes from the client to the server.
    Write,
}

impl Operation {
    /// The word for it.
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

/// A transfer that this end is to ask for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server, at the port that takes requests.
    pub server: SocketAddr,
    /// Which way the file goes.
    pub operation: Operation,
    /// The file's name at the server.
    pub remote: Vec<u8>,
    /// Where this end's packets leave from.
    pub origin: Origin,
    /// What becomes of the octets at this end, or where they come from.
    pub local: LocalSide,
    /// How it is written on the wire.
    pub mode: Mode,
    /// The options to ask for; `tsize` of a write is filled in.
    pub wanted: Wanted,
    /// The order in which they are asked for.
    pub order: [Wish; 4],
    /// How long to wait, and how often.
    pub patience: Patience,
    /// How long it answers repeats of the server's last packet once it is over.
    pub linger: Duration,
}

/// Where the packets of a transfer that this end asks for leave from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A socket of its own.
    Own,
    /// A socket of [`Shard::open_shared`](super::Shard::open_shared), and the address of this host that
    /// tells the transfer from the others there; without one, it must be alone.
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
    /// For a read: it is held against what is expected, and not kept.
    Checked {
        /// What should come.
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
    /// It leaves with ERROR 8 once options are acknowledged, as firmware does that asks for the length.
    Probe,
    /// It vanishes without a word amid the file: once this part of it has arrived, or before it is sent, in
    /// fractions of 2³². Of a file whose length nobody tells, it takes the first block.
    Vanish(u32),
}

/// How a transfer went, once it is over.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Which way the file went.
    pub operation: Operation,
    /// The other end.
    pub peer: SocketAddr,
    /// The file's name, as asked for.
    pub filename: Box<[u8]>,
    /// How it was written on the wire.
    pub mode: Mode,
    /// The terms; those of RFC 1350 if it never came to any.
    pub params: Params,
    /// Octets that arrived: of the blocks acknowledged.
    pub octets: u64,
    /// Blocks that arrived.
    pub blocks: u64,
    /// Datagrams sent more than once.
    pub retransmissions: u64,
    /// The smoothed round trip, where this end got the file and measured one.
    pub round_trip: Option<Duration>,
    /// From the request to the end.
    pub elapsed: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// What the peer's ERROR said, or why this end gave up.
    pub text: Vec<u8>,
    /// What was wrong with the octets, where they are checked.
    pub flaw: Option<Flaw>,
    /// From the request to the OACK, if the server acknowledged options.
    pub oack: Option<Duration>,
    /// From the request to the first block, where blocks are checked.
    pub first_block: Option<Duration>,
    /// Blocks that came more than once, where they are checked.
    pub duplicates: u64,
}

/// A transfer that runs, as operators see it.
#[derive(Debug, Clone)]
pub struct Running {
    /// Which way the file goes.
    pub operation: Operation,
    /// The other end.
    pub peer: SocketAddr,
    /// The file's name, as asked for.
    pub filename: Box<[u8]>,
    /// The terms; `None` while the file is being opened.
    pub params: Option<Params>,
    /// Octets that arrived.
    pub octets: u64,
    /// Octets that there are, where that is known.
    pub total: Option<u64>,
    /// Since the request.
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

/// Where a datagram belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// To the transfer that this client asked for.
    Peer(SocketAddr),
    /// To the transfer that this end asked for, from this socket and address.
    Own(SocketId, Option<IpAddr>),
}

/// Each datagram is hashed once: two numbers take half the time of the many fields of an address.
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
    /// Where this end's packets leave from.
    pub(super) socket: SocketId,
    pub(super) path: Path,
    pub(super) operation: Operation,
    pub(super) mode: Mode,
    /// The name as asked for, cut to what a log line shows.
    pub(super) filename: Box<[u8]>,
    /// Tells a repeat of the request from another request, or one to another address.
    pub(super) fingerprint: u64,
    /// Whether that may be a late copy of the one before.
    pub(super) doubtful: bool,
    /// The packet that opens the transfer, kept until something answers it: request or OACK.
    pub(super) opening: Box<[u8]>,
    pub(super) errand: Option<Box<Errand>>,
    pub(super) started: Instant,
    /// When the request came, or was repeated before anything answered it.
    pub(super) asked_at: Instant,
    pub(super) stage: Stage,
    /// When the wheel next looks at this slot.
    pub(super) armed: Option<Instant>,
    /// Whether it stands in the queue of those that have something to send.
    pub(super) queued: bool,
    /// The same request once more, which counts if the transfer stands still for a while.
    pub(super) again: Option<Box<Again>>,
    /// When the packet arrived that what is sent next may answer, and whether it does.
    pub(super) heard_at: Instant,
    pub(super) answering: bool,
    /// Whether nothing was sent yet.
    pub(super) silent: bool,
    /// Whether it counts among those that have yet to prove themselves.
    pub(super) unvalidated: bool,
}

/// A repeat of the request that began a transfer.
#[derive(Debug)]
pub(super) struct Again {
    /// Where it came to.
    pub(super) socket: SocketId,
    pub(super) path: Path,
    pub(super) request: Box<[u8]>,
    /// Where its answer is to leave from.
    pub(super) answers: SocketId,
    /// When it is judged, by the one timer that it has.
    pub(super) judged_at: Instant,
}

/// What a client's slot knows beyond a server's.
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
    /// What the peer's ERROR said, or why this end gave up.
    pub(super) text: Vec<u8>,
}

#[derive(Debug)]
// Nearly every slot runs: a box would only add a detour.
#[allow(clippy::large_enum_variant)]
pub(super) enum Stage {
    /// The store was asked to open or create the file; the request waits.
    Opening(Box<[u8]>),
    Running(Transfer, Flow),
    /// Over, but for repeats of the peer's last packet: a last DATA is acknowledged again.
    Lingering {
        /// The block that was acknowledged last.
        last: Option<WireBlock>,
        since: Instant,
    },
}

/// Where the octets come from, or go to.
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
    /// Whether the store was asked for frames that are not here yet.
    pub(super) waiting: bool,
}

/// The frames that a transfer sends from. Ten thousand idle transfers must not hold ten thousand
/// stretches of files in memory, so a transfer only knows them, and the frame cache holds them. Those
/// that it waited for it does hold until they are sent, so that it comes forward however small the
/// cache is.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    None,
    Waited(Arc<Frames>),
    Known(Weak<Frames>),
}

impl Slot {
    /// Where datagrams for it belong.
    pub(super) const fn key(&self) -> Key {
        match &self.errand {
            Some(errand) => Key::Own(self.socket, errand.origin.address()),
            None => Key::Peer(self.path.peer),
        }
    }

    /// Whether its answers leave from a socket, or those to a repeat of its request may.
    pub(super) fn uses(&self, socket: SocketId) -> bool {
        let again = self.again.as_ref();
        self.socket == socket || again.is_some_and(|again| again.answers == socket)
    }

    /// Whether a repeat of its request belongs to it: nothing but the request has come from the peer.
    pub(super) const fn is_fresh(&self) -> bool {
        match &self.stage {
            Stage::Opening(_) => true,
            Stage::Running(transfer, _) => !transfer.is_validated(),
            Stage::Lingering { .. } => false,
        }
    }

    /// Whether a repeat of its request that comes now, after the end, may be a copy that the network held back.
    pub(super) fn may_be_a_late_copy(&self, now: Instant) -> bool {
        self.is_lingering() && now - self.asked_at < config::LATE_COPY_MAX
    }

    /// Whether the peer may still send its last block again, for want of the ACK.
    pub(super) const fn acknowledges_repeats(&self) -> bool {
        matches!(self.stage, Stage::Lingering { last: Some(_), .. })
    }

    /// Until when the transfer must stand still for a repeat of its request to be a new beginning;
    /// `None` if it is one already.
    pub(super) fn quiet_at(&self, now: Instant) -> Option<Instant> {
        let Stage::Running(transfer, flow) = &self.stage else {
            return None;
        };
        // Who waits for our disk stands still through no fault of its own.
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

    /// Octets that there are in all, where that is known.
    pub(super) fn total(&self) -> Option<u64> {
        match &self.stage {
            Stage::Running(_, Flow::Out(out)) => Some(out.body.len()),
            _ => self.errand.as_ref().and_then(|errand| errand.announced),
        }
    }

    /// What operators see of it; `None` once it is over.
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

    /// Whether its client has come as far as it goes, and vanishes now.
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
            // Windows leave whole, so it goes before the one with that point in it.
            Stage::Running(Transfer::Send(sender), Flow::Out(out)) => {
                let params = sender.params();
                let window = u64::from(params.windowsize()) * u64::from(params.blksize());
                sender.is_validated() && octets + window > point(out.body.len())
            }
            _ => false,
        }
    }

    /// Whether a server that wants to end need not wait for it.
    pub(super) fn is_dispensable(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Lingering { last: None, .. } => true,
            Stage::Lingering { since, .. } => now - since >= config::DRAIN_LINGER,
            _ => false,
        }
    }

    /// Whether its transfer is over, and it answers nothing any more.
    pub(super) const fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Lingering { last: None, .. })
    }

    pub(super) const fn is_lingering(&self) -> bool {
        matches!(self.stage, Stage::Lingering { .. })
    }

    /// Blocks and octets of the file that arrived at the end that gets it.
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
