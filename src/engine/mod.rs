//! The seam between the shard and the world: an engine moves datagrams and tells the time, and knows
//! no protocol.
//!
//! What an engine owes the shard:
//! - [`Engine::now`] never goes back, and does not move between two calls of [`Engine::wait`] unless
//!   time really passed;
//! - [`Engine::wait`] returns when something arrived, when the given time has come, when the engine's
//!   waker was woken, or when a socket that had answered [`Sent::Full`] may take more; and never later;
//! - [`Engine::send`] never blocks, and sends the datagrams of a call in order;
//! - an answer leaves from the local address that the question came to.

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
use crate::store::Frames;
use crate::time::Instant;

/// Names a socket of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// The local end of a datagram's path: the address it came to (or is to leave from), and the
/// interface, 0 where that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Local {
    /// The address; `None` lets the kernel choose.
    pub address: Option<IpAddr>,
    /// The interface's index.
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

/// How a socket is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// Address and port; port 0 picks one. `[::]` takes IPv4 as well.
    pub address: SocketAddr,
    /// Whether other shards of this process listen on the same address (SO_REUSEPORT).
    pub shared: bool,
    /// Whether only a datagram's peer matters: its local end is not told then, which is cheaper.
    pub peers_only: bool,
}

impl Bind {
    /// A socket of this engine alone that is told everything.
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
    /// Datagrams of `segment` octets each, one behind the other, the last of them perhaps shorter.
    Segments {
        /// All of them.
        octets: &'a [u8],
        /// Length of each but the last, in octets; never 0.
        segment: usize,
    },
    /// DATA packets that many share. They never change, so the device may take them from where they lie.
    Frames {
        /// Them and their neighbours.
        frames: &'a Arc<Frames>,
        /// The first of them.
        first: BlockIndex,
        /// How many; those beyond the end of `frames` do not count.
        count: u64,
    },
}

impl<'a> Payload<'a> {
    /// All octets, and the length of each datagram but the last.
    #[must_use]
    pub fn segments(&self) -> (&'a [u8], usize) {
        match *self {
            Self::Packet(octets) => (octets, octets.len()),
            Self::Segments { octets, segment } => (octets, segment),
            Self::Frames {
                frames,
                first,
                count,
            } => (frames.slice(first, count).0, frames.segment()),
        }
    }
}

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// This many datagrams left, from the front; fewer than given means that no more fit just now.
    Datagrams(usize),
    /// None left: the queue is full. [`Engine::wait`] returns once it is worth another try.
    Full,
    /// None left, and none will by trying again: the system's error number.
    /// To the protocol this is a lost datagram.
    Failed(i32),
}

/// A datagram that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The socket it arrived on.
    pub socket: SocketId,
    /// Where it came from and where it arrived.
    pub path: Path,
    /// Whether it was sent to a broadcast or multicast address.
    pub broadcast: bool,
    /// What it holds.
    pub octets: &'a [u8],
}

/// Moves datagrams and tells the time.
pub trait Engine {
    /// A short name for logs and metrics: `mio`, `uring`, `sim`.
    fn name(&self) -> &'static str;

    /// The time.
    fn now(&self) -> Instant;

    /// Opens a UDP socket.
    ///
    /// # Errors
    /// Whatever the system says: address in use, not permitted, not available.
    fn open(&mut self, bind: Bind) -> io::Result<SocketId>;

    /// Closes a socket.
    fn close(&mut self, socket: SocketId);

    /// The address and port that a socket is bound to.
    ///
    /// # Errors
    /// If the socket is not open.
    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr>;

    /// The largest IP packet that leaves the interface whole, in octets; `None` if not known.
    fn mtu(&mut self, interface: u32) -> Option<u32>;

    /// Sends without blocking.
    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent;

    /// Whether it makes packets of this socket wait itself, on purpose: then how long answers take cannot be told
    /// from the times at which packets are given to it and taken from it.
    fn holds_back(&self, _socket: SocketId) -> bool {
        false
    }

    /// Whether a socket that answered [`Sent::Full`] is worth another try by now.
    fn has_room(&self, socket: SocketId) -> bool;

    /// Wakes [`Engine::wait`] from any thread.
    fn waker(&self) -> Waker;

    /// Waits until something happens, at most until `until` (for ever if `None`), and fills `inbox`.
    ///
    /// # Errors
    /// Only what makes the engine unusable.
    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()>;

    /// Datagrams that the kernel dropped because a receive queue was full, since the start.
    fn receive_drops(&self) -> u64;

    /// Whether the kernel, if there is one, cuts bursts into datagrams.
    fn gso(&self) -> bool;

    /// What it has done so far, if there is a kernel to ask.
    fn statistics(&self) -> Statistics;

    /// The size of a socket's receive queue in octets, as the system grants it. What is less than
    /// [what was asked for](RECEIVE_BUFFER_OCTETS) loses requests in a storm of them.
    ///
    /// # Errors
    /// If the socket is not open, or its queue has no such size.
    fn receive_buffer(&self, socket: SocketId) -> io::Result<usize>;
}

/// Datagrams that arrived together, in one stretch of memory that is used again and again.
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
    /// Memory for arriving datagrams: room for a storm of small ones, and for sixteen of the largest.
    const ARENA_OCTETS: usize = 16 * Self::DATAGRAM_OCTETS_MAX;
    /// The largest datagram that can arrive.
    pub const DATAGRAM_OCTETS_MAX: usize = 65_536;
    /// Datagrams taken in one go, so that none waits long for its answer; a row that arrives as one may
    /// go beyond it.
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

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
    }

    /// How many datagrams it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Room for one more datagram of any size, or `None` when the inbox is full. What the engine
    /// writes there becomes a datagram by [`Inbox::push`].
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let room = self
            .arena
            .get_mut(self.used..self.used + Self::DATAGRAM_OCTETS_MAX)?;
        (self.entries.len() < Self::DATAGRAMS_MAX).then_some(room)
    }

    /// Takes the first `len` octets of the [room](Inbox::room) as a datagram.
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

    /// Takes the first `len` octets of the [room](Inbox::room) as datagrams of `segment` octets each, the
    /// last perhaps shorter.
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

    /// Forgets the datagrams that `stays` does not want.
    pub fn retain(&mut self, mut stays: impl FnMut(&Datagram<'_>) -> bool) {
        let arena = &self.arena;
        self.entries.retain(|entry| {
            entry
                .datagram(arena)
                .is_some_and(|datagram| stays(&datagram))
        });
    }

    /// The datagram at `place`, counted from 0 in the order of arrival.
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
