//! The interface between a shard and the outside world: an engine moves datagrams and tells the time; it
//! knows nothing of the protocol.
//!
//! Every engine guarantees the shard:
//! - [`Engine::now`] never goes back, and does not advance between two calls of [`Engine::wait`] unless
//!   time really passed;
//! - [`Engine::wait`] returns as soon as a datagram arrived, the given time has come, the engine's waker
//!   was woken, or a socket that had answered [`Sent::Full`] may take more;
//! - [`Engine::send`] never blocks, and sends the datagrams of a call in order;
//! - a response leaves from the local address that the request was sent to.

mod alarm;
mod busy_poll;
pub mod mio;
pub mod sim;
#[allow(unsafe_code)] // The system calls with control messages; each use argues its case.
mod socket;
mod sockets;
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // What the kernel reads and writes by itself; each use argues its case.
pub mod uring;

pub use crate::metrics::Statistics;
pub use socket::{RECEIVE_BUFFER_OCTETS, route_mtu};

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use crate::proto::block::BlockIndex;
use crate::store::{Burst, Frames};
use crate::time::Instant;

/// Identifies a socket within its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// The local end of a datagram's path: the address it was sent to (or is to leave from), and the interface,
/// 0 if unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Local {
    /// The address; `None` lets the kernel choose.
    pub address: Option<IpAddr>,
    /// The interface index.
    pub interface: u32,
}

/// Both ends of a datagram's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The other end. An IPv4 peer of a dual-stack socket is shown as IPv4, never as mapped IPv6.
    pub peer: SocketAddr,
    /// This end.
    pub local: Local,
}

/// How to open a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// Address and port; port 0 picks a free one. `[::]` accepts IPv4 as well.
    pub address: SocketAddr,
    /// Whether other shards of this process listen on the same address (SO_REUSEPORT).
    pub shared: bool,
    /// Whether only a datagram's peer matters: its local end is then not reported, which is cheaper.
    pub peers_only: bool,
}

impl Bind {
    /// A socket that is not shared with other shards and reports both ends of each path.
    #[must_use]
    pub const fn to(address: SocketAddr) -> Self {
        Self {
            address,
            shared: false,
            peers_only: false,
        }
    }
}

/// What to send along a path.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// One datagram.
    Packet(&'a [u8]),
    /// Back-to-back datagrams of `segment` octets each; the last may be shorter.
    Segments {
        /// All of the datagrams.
        octets: &'a [u8],
        /// Length of each segment but the last, in octets; never 0.
        segment: usize,
    },
    /// Shared DATA packets. They are immutable, so the device may read them in place.
    Frames {
        /// The extent that contains the packets.
        frames: &'a Arc<Frames>,
        /// The first packet to send.
        first: BlockIndex,
        /// How many packets; those beyond the end of `frames` are ignored.
        count: u64,
    },
}

impl<'a> Payload<'a> {
    /// The datagrams.
    #[must_use]
    pub fn burst(&self) -> Burst<'a> {
        match *self {
            Self::Packet(octets) => Burst::single(octets),
            Self::Segments { octets, segment } => Burst::contiguous(octets, segment),
            Self::Frames {
                frames,
                first,
                count,
            } => frames.burst(first, count),
        }
    }
}

/// The result of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// This many datagrams were sent, from the front; fewer than given means that no more fit for now.
    Datagrams(usize),
    /// None was sent: the queue is full. [`Engine::wait`] returns once a retry is worthwhile.
    Full,
    /// None was sent, and a retry would not help: the system's error number. The protocol treats this as a
    /// lost datagram.
    Failed(i32),
}

/// A received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The socket it arrived on.
    pub socket: SocketId,
    /// The path it took.
    pub path: Path,
    /// Whether it was sent to a broadcast or multicast address.
    pub broadcast: bool,
    /// The payload.
    pub octets: &'a [u8],
}

/// Moves datagrams and tells the time.
pub trait Engine {
    /// A short name for logs and metrics: `mio`, `uring`, `sim`.
    fn name(&self) -> &'static str;

    /// The current time.
    fn now(&self) -> Instant;

    /// Opens a UDP socket.
    ///
    /// # Errors
    /// The system's error: address in use, not permitted, not available.
    fn open(&mut self, bind: Bind) -> io::Result<SocketId>;

    /// Closes a socket.
    fn close(&mut self, socket: SocketId);

    /// The address and port that a socket is bound to.
    ///
    /// # Errors
    /// If the socket is not open.
    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr>;

    /// The largest IP packet that the interface sends unfragmented, in octets; `None` if unknown.
    fn mtu(&mut self, interface: u32) -> Option<u32>;

    /// Sends without blocking.
    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent;

    /// Whether the engine delays packets of this socket on purpose: then response times cannot be derived
    /// from the times at which packets pass through the engine.
    fn holds_back(&self, _socket: SocketId) -> bool {
        false
    }

    /// Whether a retry is now worthwhile for a socket that answered [`Sent::Full`].
    fn has_room(&self, socket: SocketId) -> bool;

    /// Wakes [`Engine::wait`] from any thread.
    fn waker(&self) -> Waker;

    /// Waits for an event, at most until `until` (indefinitely if `None`), and fills `inbox`.
    ///
    /// # Errors
    /// Only errors that make the engine unusable.
    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()>;

    /// Number of datagrams that the kernel has dropped since the start because a receive queue was full.
    fn receive_drops(&self) -> u64;

    /// Whether the kernel, if there is one, segments bursts into datagrams.
    fn gso(&self) -> bool;

    /// Counters of the engine's work, if it uses a kernel.
    fn statistics(&self) -> Statistics;

    /// The size of a socket's receive queue in octets, as the system grants it. A queue smaller than
    /// [requested](RECEIVE_BUFFER_OCTETS) drops requests during a boot storm.
    ///
    /// # Errors
    /// If the socket is not open, or its queue has no such size.
    fn receive_buffer(&self, socket: SocketId) -> io::Result<usize>;
}

/// Datagrams received together, in one buffer that is reused.
#[derive(Debug)]
pub struct Inbox {
    arena: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    socket: SocketId,
    path: Path,
    broadcast: bool,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Memory for received datagrams: room for a storm of small ones, and for sixteen of the largest.
    const ARENA_OCTETS: usize = 16 * Self::DATAGRAM_OCTETS_MAX;
    /// The largest datagram that can be received.
    pub const DATAGRAM_OCTETS_MAX: usize = 65_536;
    /// Limit of datagrams per wait, so that none waits long for its answer; a coalesced batch may exceed it.
    pub const DATAGRAMS_MAX: usize = 512;

    /// An empty inbox.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: vec![0; Self::ARENA_OCTETS].into_boxed_slice(),
            used: 0,
            entries: Vec::with_capacity(Self::DATAGRAMS_MAX),
        }
    }

    /// Removes all datagrams.
    pub fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
    }

    /// The number of datagrams in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Room for one more datagram of any size, or `None` if the inbox is full. [`Inbox::push`] turns what
    /// the engine writes there into a datagram.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let room = self
            .arena
            .get_mut(self.used..self.used + Self::DATAGRAM_OCTETS_MAX)?;
        (self.entries.len() < Self::DATAGRAMS_MAX).then_some(room)
    }

    /// Adds the first `len` octets of the [room](Inbox::room) as a datagram.
    pub fn push(&mut self, socket: SocketId, path: Path, broadcast: bool, len: usize) {
        let start = self.used;
        let end = (start + len).min(self.arena.len());
        self.entries.push(Entry {
            socket,
            path,
            broadcast,
            start,
            end,
        });
        self.used = end;
    }

    /// Adds the first `len` octets of the [room](Inbox::room) as datagrams of `segment` octets each; the
    /// last may be shorter.
    pub fn push_row(
        &mut self,
        socket: SocketId,
        path: Path,
        broadcast: bool,
        len: usize,
        segment: usize,
    ) {
        let mut rest = len;
        while rest > 0 {
            let front = rest.min(segment.max(1));
            self.push(socket, path, broadcast, front);
            rest -= front;
        }
    }

    /// Removes the datagrams for which `stays` returns false.
    pub fn retain(&mut self, mut stays: impl FnMut(&Datagram<'_>) -> bool) {
        let arena = &self.arena;
        self.entries.retain(|entry| {
            entry
                .datagram(arena)
                .is_some_and(|datagram| stays(&datagram))
        });
    }

    /// The datagram at index `place`, in order of arrival.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<Datagram<'_>> {
        self.entries.get(place)?.datagram(&self.arena)
    }
}

impl Entry {
    fn datagram<'a>(&self, arena: &'a [u8]) -> Option<Datagram<'a>> {
        Some(Datagram {
            socket: self.socket,
            path: self.path,
            broadcast: self.broadcast,
            octets: arena.get(self.start..self.end)?,
        })
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}
