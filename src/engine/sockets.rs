//! The open sockets of a kernel-based engine, and sending through them: a burst takes one system call where
//! the kernel segments it (generic segmentation offload, GSO); where it or the path cannot, datagrams are
//! sent one by one.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use slab::Slab;

use super::socket;
use super::{Bind, Path, Payload, Sent, SocketId, Statistics};
use crate::store::Burst;
use crate::time::{Duration, Instant};

/// Octets per burst to an IPv4 peer: 65,535 less the headers.
const BURST_OCTETS_MAX_IPV4: usize = 65_535 - HEADERS_OCTETS_IPV4;

/// Octets per burst to an IPv6 peer.
const BURST_OCTETS_MAX_IPV6: usize = 65_535 - HEADERS_OCTETS_IPV6;

/// Octets of the IPv4 and UDP headers.
const HEADERS_OCTETS_IPV4: usize = 20 + 8;

/// Octets of the IPv6 and UDP headers.
const HEADERS_OCTETS_IPV6: usize = 40 + 8;

/// Delay before retrying what failed for lack of memory, since no readiness event reports that.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(1);

/// How long an interface's MTU is cached.
const MTU_LIFE: Duration = Duration::from_secs(5);

/// Limit of peers remembered as not accepting bursts; beyond it, all are forgotten and learned again, at one
/// failed call each.
const REFUSALS_MAX: usize = 4096;

/// How long such a peer is remembered: routes and devices change.
const REFUSAL_LIFE: Duration = Duration::from_secs(600);

/// Bits of a socket's number for its index in the table: the default limit of descriptors per process
/// (2^20).
const PLACE_BITS: u32 = 20;

/// The sockets of one engine, each with engine-specific state, and what sending has taught about paths.
#[derive(Debug)]
pub(super) struct Sockets<S> {
    epoch: std::time::Instant,
    table: Slab<Socket<S>>,
    /// Counts the sockets ever opened, to tell a socket from an earlier one with the same index.
    generation: u32,
    /// An unbound socket for asking the kernel about interfaces.
    probe: UdpSocket,
    mtus: HashMap<u32, Mtu>,
    /// How many datagrams the kernel cuts one burst into at most; `None` if they are sent one by one.
    segments_max: Option<usize>,
    /// Peers to which bursts failed.
    refusals: HashMap<IpAddr, Refusal>,
    /// When to retry what failed for lack of memory.
    retry_at: Option<Instant>,
    /// Datagrams dropped by full queues of sockets closed since.
    drops: u64,
    pub(super) statistics: Statistics,
}

/// An open socket.
#[derive(Debug)]
pub(super) struct Socket<S> {
    pub(super) id: SocketId,
    pub(super) udp: UdpSocket,
    /// Whether its addresses are IPv6; those of IPv4 peers are then mapped.
    pub(super) ipv6: bool,
    /// Whether it is bound to one local address, so that all its datagrams leave from there anyway.
    bound: bool,
    /// Whether the kernel chose its port.
    pub(super) has_any_port: bool,
    /// Octets that it may have on their way to the device, as the kernel counts them; 0 if unknown.
    pub(super) send_buffer: usize,
    /// Whether it reports only a datagram's peer.
    pub(super) peers_only: bool,
    /// The engine's own state for it.
    pub(super) state: S,
}

/// What one system call is to send.
#[derive(Debug)]
pub(super) struct Call<'a, S> {
    pub(super) socket: &'a Socket<S>,
    pub(super) path: &'a Path,
    pub(super) burst: &'a Burst<'a>,
    /// The length in octets of the datagrams that the kernel is to cut it into, if there are several.
    pub(super) cut: Option<u16>,
    /// Datagrams of the payload before it.
    pub(super) before: usize,
}

/// A send that ended early.
#[derive(Debug)]
pub(super) struct Stopped {
    /// Datagrams sent before the error.
    pub(super) sent: usize,
    /// The error that ended the send.
    pub(super) error: io::Error,
}

impl Stopped {
    /// Whether the socket's send buffer is full, so that the kernel will report when it has room.
    pub(super) fn is_full(&self) -> bool {
        self.error.kind() == io::ErrorKind::WouldBlock
    }
}

impl<S> Sockets<S> {
    /// An empty table, whose epoch is now.
    pub(super) fn new() -> io::Result<Self> {
        let probe = socket::unbound()?;
        Ok(Self {
            epoch: std::time::Instant::now(),
            table: Slab::new(),
            generation: 0,
            segments_max: socket::segments_max(&probe),
            probe,
            mtus: HashMap::new(),
            refusals: HashMap::new(),
            retry_at: None,
            drops: 0,
            statistics: Statistics::default(),
        })
    }

    /// From now on, sends every datagram with its own call.
    pub(super) const fn stop_gso(&mut self) {
        self.segments_max = None;
    }

    /// Whether the kernel segments bursts into datagrams.
    pub(super) const fn gso(&self) -> bool {
        self.segments_max.is_some()
    }

    /// Reads the monotonic clock, which takes no system call.
    pub(super) fn now(&self) -> Instant {
        let nanos = self.epoch.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(super) fn open(&mut self, bind: Bind, state: S) -> io::Result<&Socket<S>> {
        let udp = socket::open(&bind)?;
        let send_buffer = socket::send_buffer(&udp).unwrap_or(0);
        let entry = self.table.vacant_entry();
        let id = number(entry.key(), self.generation)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        self.generation = self.generation.wrapping_add(1);
        let ipv6 = bind.address.is_ipv6();
        Ok(entry.insert(Socket {
            id,
            udp,
            ipv6,
            bound: !bind.address.ip().is_unspecified(),
            has_any_port: bind.address.port() == 0,
            send_buffer,
            peers_only: bind.peers_only,
            state,
        }))
    }

    /// Removes a socket; dropping it closes it.
    pub(super) fn remove(&mut self, id: SocketId) -> Option<Socket<S>> {
        self.drops += u64::from(socket::drops(&self.get(id)?.udp));
        self.table.try_remove(place(id))
    }

    pub(super) fn get(&self, id: SocketId) -> Option<&Socket<S>> {
        self.table.get(place(id)).filter(|socket| socket.id == id)
    }

    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket<S>> {
        self.table
            .get_mut(place(id))
            .filter(|socket| socket.id == id)
    }

    pub(super) fn local_addr(&self, id: SocketId) -> io::Result<SocketAddr> {
        self.get(id).ok_or_else(not_open)?.udp.local_addr()
    }

    /// The size of a socket's receive queue in octets, as the system grants it.
    pub(super) fn receive_buffer(&self, id: SocketId) -> io::Result<usize> {
        socket::receive_buffer(&self.get(id).ok_or_else(not_open)?.udp)
    }

    /// Datagrams dropped by full receive queues. The kernel counts up to 2^32 for each socket.
    pub(super) fn drops(&self) -> u64 {
        let sockets = self.table.iter();
        let open = sockets.map(|(_, socket)| u64::from(socket::drops(&socket.udp)));
        self.drops + open.sum::<u64>()
    }

    /// The largest IP packet that the interface sends unfragmented, in octets.
    pub(super) fn mtu(&mut self, interface: u32) -> Option<u32> {
        if interface == 0 {
            return None;
        }
        let now = self.now();
        if let Some(mtu) = self.mtus.get(&interface).filter(|mtu| mtu.until > now) {
            return mtu.octets;
        }
        // This also removes interfaces that no longer exist.
        self.mtus.retain(|_, mtu| mtu.until > now);
        let octets = socket::mtu(&self.probe, interface);
        let until = now + MTU_LIFE;
        self.mtus.insert(interface, Mtu { octets, until });
        octets
    }

    /// Sends; returns how many datagrams were sent. `other` may see to a call in its own way, or return `false` to
    /// leave it to sendmsg(2).
    pub(super) fn send(
        &mut self,
        id: SocketId,
        path: &Path,
        payload: &Payload<'_>,
        mut other: impl FnMut(&Call<'_, S>) -> bool,
    ) -> Result<usize, Stopped> {
        let burst = payload.burst();
        if burst.segment() == 0 && !matches!(payload, Payload::Packet(_)) {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(Stopped { sent: 0, error });
        }
        if burst.count() == 1 {
            return match self.transmit(id, path, (&burst, 0), None, &mut other) {
                Ok(()) => Ok(1),
                Err(error) => Err(Stopped { sent: 0, error }),
            };
        }
        self.send_segments(id, path, burst, &mut other)
    }

    /// The result of a send that an error ended; makes the next wait end when a retry is worthwhile.
    /// `watched` means that the kernel will report when the socket has room.
    pub(super) fn stopped(&mut self, stopped: &Stopped, watched: bool) -> Sent {
        let errno = stopped.error.raw_os_error().unwrap_or(libc::EIO);
        let full = stopped.is_full();
        if !watched && (stopped.sent > 0 || full || errno == libc::ENOBUFS) {
            self.retry_soon();
        }
        match stopped.sent {
            0 if full || errno == libc::ENOBUFS => Sent::Full,
            0 => Sent::Failed(errno),
            sent => Sent::Datagrams(sent),
        }
    }

    /// Makes the next wait end soon, for a retry.
    pub(super) fn retry_soon(&mut self) {
        let retry_at = self.now() + RETRY_AFTER;
        self.retry_at.get_or_insert(retry_at);
    }

    /// Limit for a wait that begins now and is to end by `until`: it does not go beyond the next retry.
    pub(super) fn timeout(&self, until: Option<Instant>, now: Instant) -> Option<Duration> {
        let deadline = [until, self.retry_at].into_iter().flatten().min()?;
        Some(deadline.since(now))
    }

    /// Whether a retry is pending.
    pub(super) const fn is_retrying(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When the next wait ends even if nothing arrives.
    #[cfg(test)]
    pub(super) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Clears a retry that is due; returns whether one was.
    pub(super) fn is_time_to_retry(&mut self) -> bool {
        let is_due = self.retry_at.is_some_and(|retry_at| retry_at <= self.now());
        if is_due {
            self.retry_at = None;
        }
        is_due
    }

    /// Sends the segments, with as few calls as possible.
    fn send_segments(
        &mut self,
        id: SocketId,
        path: &Path,
        burst: Burst<'_>,
        other: &mut impl FnMut(&Call<'_, S>) -> bool,
    ) -> Result<usize, Stopped> {
        let segment = burst.segment();
        let mut per_call = self.segments_per_call(path, segment);
        let mut refusal = None;
        let mut rest = burst;
        let mut sent = 0;
        while rest.count() > 0 {
            let (front, back) = rest.split_at(per_call);
            let cut = u16::try_from(segment).ok().filter(|_| front.count() > 1);
            match self.transmit(id, path, (&front, sent), cut, other) {
                Ok(()) => {
                    sent += front.count();
                    rest = back;
                    // Only now is it known that the burst itself was refused, not its contents.
                    if let Some(refused_from) = refusal.take() {
                        self.remember_refusal(path.peer.ip(), refused_from);
                    }
                }
                Err(error) if cut.is_some() && refused_from(&error, segment).is_some() => {
                    refusal = refused_from(&error, segment);
                    per_call = 1;
                }
                Err(error) => return Err(Stopped { sent, error }),
            }
        }
        Ok(sent)
    }

    /// How many segments one call may send.
    fn segments_per_call(&mut self, path: &Path, segment: usize) -> usize {
        let peer = path.peer.ip().to_canonical();
        let refused = self
            .refusals
            .get(&peer)
            .is_some_and(|refusal| segment >= refusal.from && self.now() < refusal.until);
        let Some(segments_max) = self.segments_max.filter(|_| !refused) else {
            return 1;
        };
        let (headers, octets_max) = match peer {
            IpAddr::V4(_) => (HEADERS_OCTETS_IPV4, BURST_OCTETS_MAX_IPV4),
            IpAddr::V6(_) => (HEADERS_OCTETS_IPV6, BURST_OCTETS_MAX_IPV6),
        };
        // The kernel segments only into unfragmented packets; datagrams that need fragments are sent singly.
        let whole = self
            .mtu(path.local.interface)
            .is_none_or(|mtu| segment.saturating_add(headers) <= mtu as usize);
        if whole {
            (octets_max / segment).clamp(1, segments_max)
        } else {
            1
        }
    }

    fn remember_refusal(&mut self, peer: IpAddr, refused_from: usize) {
        self.statistics.gso_fallbacks += 1;
        if self.statistics.gso_fallbacks == 1 {
            // Others may follow; the counters show them.
            tracing::info!(%peer, octets = refused_from, "bursts are refused on a path: datagrams that long go singly");
        }
        if self.refusals.len() >= REFUSALS_MAX {
            self.refusals.clear();
        }
        let now = self.now();
        let refusal = Refusal {
            from: refused_from,
            until: now + REFUSAL_LIFE,
        };
        let known = self.refusals.entry(peer.to_canonical()).or_insert(refusal);
        let from = if known.until > now {
            refused_from.min(known.from)
        } else {
            refused_from
        };
        *known = Refusal { from, ..refusal };
    }

    /// One system call for a burst, which so many datagrams precede; repeated only if a signal interrupts it.
    fn transmit(
        &mut self,
        id: SocketId,
        path: &Path,
        (burst, before): (&Burst<'_>, usize),
        cut: Option<u16>,
        other: &mut impl FnMut(&Call<'_, S>) -> bool,
    ) -> io::Result<()> {
        let socket = self
            .table
            .get(place(id))
            .filter(|socket| socket.id == id)
            .ok_or_else(not_open)?;
        let mut path = *path;
        if socket.bound {
            path.local.address = None;
        }
        let call = Call {
            socket,
            path: &path,
            burst,
            cut,
            before,
        };
        if other(&call) {
            return Ok(());
        }
        loop {
            self.statistics.sends += 1;
            let sent =
                burst.with_parts(|parts| socket::send(&socket.udp, socket.ipv6, &path, parts, cut));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(()) => {
                    self.statistics.gso_sends += u64::from(cut.is_some());
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A socket's number: its index in the table, with the low bits of its generation above, so that the number
/// of a closed socket is not mistaken for another's.
fn number(place: usize, generation: u32) -> Option<SocketId> {
    let place = u32::try_from(place)
        .ok()
        .filter(|place| place >> PLACE_BITS == 0)?;
    Some(SocketId(generation << PLACE_BITS | place))
}

/// The index of the socket with this number.
const fn place(id: SocketId) -> usize {
    (id.0 & ((1 << PLACE_BITS) - 1)) as usize
}

/// The MTU of an interface, as reported by the kernel.
#[derive(Debug, Clone, Copy)]
struct Mtu {
    octets: Option<u32>,
    until: Instant,
}

/// Records that a peer's path refuses bursts.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    /// The segment length, in octets, from which datagrams are sent singly.
    from: usize,
    until: Instant,
}

/// The error for a socket that is closed or never existed.
fn not_open() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// The length from which a peer's segments should be sent singly after this error, if the error may concern
/// the burst and not its contents: a packet above the path's MTU (EMSGSIZE), or a device or a kernel that
/// cannot segment at all.
fn refused_from(error: &io::Error, segment: usize) -> Option<usize> {
    match error.raw_os_error()? {
        libc::EMSGSIZE => Some(segment),
        libc::EIO | libc::EINVAL => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Local;
    use super::*;

    fn path() -> Path {
        Path {
            peer: "127.0.0.1:9".parse().expect("an address"),
            local: Local::default(),
        }
    }

    #[test]
    fn segments_above_the_mtu_go_singly() {
        let (mut sockets, path) = (Sockets::<()>::new().expect("a socket"), path());
        sockets.segments_max = Some(128);
        let until = Instant::from_nanos(u64::MAX);
        sockets.mtus.insert(
            7,
            Mtu {
                octets: Some(1500),
                until,
            },
        );
        let at = |path: &Path| Path {
            local: Local {
                interface: 7,
                ..path.local
            },
            ..*path
        };
        let ipv4 = at(&path);
        assert_eq!(sockets.segments_per_call(&ipv4, 1472), 44);
        assert_eq!(sockets.segments_per_call(&ipv4, 1473), 1);
        assert_eq!(sockets.segments_per_call(&ipv4, 516), 126);
        assert_eq!(sockets.segments_per_call(&ipv4, 511), 128);
        assert_eq!(sockets.segments_per_call(&ipv4, usize::MAX), 1);
        let ipv6 = Path {
            peer: "[::1]:9".parse().expect("an address"),
            ..ipv4
        };
        assert_eq!(sockets.segments_per_call(&ipv6, 1452), 45);
        assert_eq!(sockets.segments_per_call(&ipv6, 1453), 1);
    }

    #[test]
    fn refusals_are_bounded_and_keep_the_shortest_length() {
        let (mut sockets, path) = (Sockets::<()>::new().expect("a socket"), path());
        sockets.segments_max = Some(64);
        for refused_from in [1400, 900, 1200] {
            sockets.remember_refusal(path.peer.ip(), refused_from);
        }
        assert_eq!(sockets.segments_per_call(&path, 900), 1);
        assert_eq!(sockets.segments_per_call(&path, 899), 64);
        // Refusals expire.
        let refusal = sockets
            .refusals
            .get_mut(&path.peer.ip())
            .expect("remembered");
        refusal.until = Instant::ZERO;
        assert_eq!(sockets.segments_per_call(&path, 900), 64);
        for peer in 0..=REFUSALS_MAX as u32 {
            sockets.remember_refusal(std::net::Ipv4Addr::from(peer).into(), 0);
            assert!(sockets.refusals.len() <= REFUSALS_MAX);
        }
    }

    #[test]
    fn numbers_of_sockets_hold_place_and_generation() {
        let id = number(5, 3).expect("a number");
        assert_eq!(place(id), 5);
        assert_ne!(number(5, 4), Some(id));
        assert_eq!(number(1 << 20, 0), None);
        assert!(number((1 << 20) - 1, u32::MAX).is_some());
    }
}
