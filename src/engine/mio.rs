//! The engine for every Unix: readiness from mio, one system call per datagram received and, where the
//! kernel cuts bursts into datagrams (generic segmentation offload, GSO), one per burst sent.
//!
//! Sockets are watched edge-triggered: what became readable is read until it is empty, turn by turn
//! with the others, and polled for again only then. A plain loop of recvmsg(2) is what measures best;
//! recvmmsg(2) and a poll per datagram both cost more.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::socket::{self, Received};
use super::{Bind, Engine, Inbox, Path, Payload, Sent, SocketId};
use crate::time::{Duration, Instant};

/// Events taken from the system by one poll; more are taken by the next.
const EVENTS_MAX: usize = 256;

/// Longest sleep of one poll: longer ones overflow the milliseconds of epoll_wait(2).
const POLL_MAX: Duration = Duration::from_secs(3600);

/// Datagrams that a socket may deliver before it is another's turn, so that a storm of requests on one
/// does not keep the acknowledgments on another waiting.
const TURN_DATAGRAMS_MAX: usize = 64;

/// Calls to receive in one wait, those that fail (with the ICMP errors of earlier sends) included, so
/// that it ends whatever the kernel answers.
const RECEIVES_MAX: usize = 2 * Inbox::DATAGRAMS_MAX;

/// Datagrams in one burst: what kernels took when they learned to cut bursts (128 since Linux 6.9).
const SEGMENTS_MAX: usize = 64;

/// Octets in one burst to an IPv4 peer: 65,535 less the headers.
const BURST_OCTETS_MAX_IPV4: usize = 65_535 - HEADERS_OCTETS_IPV4;

/// Octets in one burst to an IPv6 peer.
const BURST_OCTETS_MAX_IPV6: usize = 65_535 - HEADERS_OCTETS_IPV6;

/// Octets of the IPv4 and UDP headers.
const HEADERS_OCTETS_IPV4: usize = 20 + 8;

/// Octets of the IPv6 and UDP headers.
const HEADERS_OCTETS_IPV6: usize = 40 + 8;

/// How long a send that failed for want of memory, of which no readiness will tell, waits for another try.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// How long the MTU of an interface is believed.
const MTU_LIFE: Duration = Duration::from_secs(5);

/// Peers remembered as beyond the reach of bursts; when there are more, all are forgotten and learned
/// anew, at one failed call each.
const REFUSALS_MAX: usize = 4096;

/// How long a peer is remembered as that: routes and devices change.
const REFUSAL_LIFE: Duration = Duration::from_secs(600);

/// Bits of a socket's number for its place in the table: as many as a process may have descriptors
/// unless told otherwise (2^20).
const PLACE_BITS: u32 = 20;

/// The token of the waker; sockets have theirs from [`SocketId`], which is shorter.
const WAKER: Token = Token(usize::MAX);

/// Moves datagrams by mio and plain socket calls.
#[derive(Debug)]
pub struct MioEngine {
    poll: Poll,
    events: Events,
    waker: Arc<Alarm>,
    epoch: std::time::Instant,
    sockets: Slab<Socket>,
    /// Counts the sockets ever opened, to tell one from another that had its place before.
    generation: u32,
    /// Sockets that may have more to receive, in the order of their turns.
    readable: VecDeque<SocketId>,
    /// When to try again what failed for want of memory.
    retry_at: Option<Instant>,
    /// An unbound socket, to ask the kernel about interfaces.
    probe: UdpSocket,
    mtus: HashMap<u32, Mtu>,
    gso: bool,
    /// Peers to which bursts failed.
    refusals: HashMap<IpAddr, Refusal>,
    drops: u64,
    /// Whether sockets are to be told what became of earlier sends.
    reports: bool,
    report: Option<i32>,
    statistics: MioStatistics,
}

/// What a [`MioEngine`] has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MioStatistics {
    /// System calls to poll for readiness.
    pub polls: u64,
    /// System calls to receive, with those that found nothing.
    pub receives: u64,
    /// System calls to send, with those that failed.
    pub sends: u64,
    /// Those of them that sent more than one datagram.
    pub gso_sends: u64,
    /// How often a burst was refused and its datagrams then went singly.
    pub gso_fallbacks: u64,
}

impl MioEngine {
    /// The size in octets of a receive queue that takes the requests of 10,000 hosts at once.
    pub const RECEIVE_BUFFER_OCTETS: usize = socket::RECEIVE_BUFFER_OCTETS;

    /// An engine without sockets, whose epoch is now.
    ///
    /// # Errors
    /// If the system gives no descriptor.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = mio::Waker::new(poll.registry(), WAKER)?;
        let probe = socket::unbound()?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker: Arc::new(Alarm {
                rung: AtomicBool::new(false),
                alarm,
            }),
            epoch: std::time::Instant::now(),
            sockets: Slab::new(),
            generation: 0,
            readable: VecDeque::new(),
            retry_at: None,
            gso: socket::cuts_segments(&probe),
            probe,
            mtus: HashMap::new(),
            refusals: HashMap::new(),
            drops: 0,
            reports: false,
            report: None,
            statistics: MioStatistics::default(),
        })
    }

    /// The same engine, which sends every datagram by a call of its own.
    #[must_use]
    pub fn without_gso(self) -> Self {
        Self { gso: false, ..self }
    }

    /// The same engine, whose sockets are told by ICMP what became of their datagrams. For a client,
    /// which has one peer, and need not wait for one that is not there.
    #[must_use]
    pub fn with_reports(self) -> Self {
        Self {
            reports: true,
            ..self
        }
    }

    /// The latest report about an earlier send, as an error number, if one came since this was called.
    pub const fn take_report(&mut self) -> Option<i32> {
        self.report.take()
    }

    /// Whether the kernel cuts bursts into datagrams.
    #[must_use]
    pub const fn gso(&self) -> bool {
        self.gso
    }

    /// What it has done so far.
    #[must_use]
    pub const fn statistics(&self) -> MioStatistics {
        self.statistics
    }

    /// The size of a socket's receive queue in octets, as the system grants it. What is less than
    /// the [size for a storm](MioEngine::RECEIVE_BUFFER_OCTETS) loses requests in one.
    ///
    /// # Errors
    /// If the socket is not open.
    pub fn receive_buffer(&self, socket: SocketId) -> io::Result<usize> {
        socket::receive_buffer(&self.socket(socket).ok_or_else(not_open)?.udp)
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.get(place(id)).filter(|socket| socket.id == id)
    }

    /// Sends the segments, as many as possible by one call.
    fn send_segments(&mut self, id: SocketId, path: &Path, octets: &[u8], segment: usize) -> Sent {
        let mut per_call = self.segments_per_call(path, segment);
        let mut refusal = None;
        let mut rest = octets;
        let mut sent = 0;
        while !rest.is_empty() {
            let (front, back) = rest.split_at(rest.len().min(per_call * segment));
            let cut = u16::try_from(segment)
                .ok()
                .filter(|_| front.len() > segment);
            match self.transmit(id, path, front, cut) {
                Ok(()) => {
                    sent += front.len().div_ceil(segment);
                    rest = back;
                    // Only now is it known that it was the burst that was refused.
                    if let Some(refused_from) = refusal.take() {
                        self.remember_refusal(path.peer.ip(), refused_from);
                    }
                }
                Err(error) if cut.is_some() && refused_from(&error, segment).is_some() => {
                    refusal = refused_from(&error, segment);
                    per_call = 1;
                }
                Err(error) => return self.stopped(id, sent, &error),
            }
        }
        Sent::Datagrams(sent)
    }

    /// How many segments may go by one call.
    fn segments_per_call(&mut self, path: &Path, segment: usize) -> usize {
        let peer = path.peer.ip().to_canonical();
        let refused = self
            .refusals
            .get(&peer)
            .is_some_and(|refusal| segment >= refusal.from && self.now() < refusal.until);
        if !self.gso || refused {
            return 1;
        }
        let (headers, octets_max) = match peer {
            IpAddr::V4(_) => (HEADERS_OCTETS_IPV4, BURST_OCTETS_MAX_IPV4),
            IpAddr::V6(_) => (HEADERS_OCTETS_IPV6, BURST_OCTETS_MAX_IPV6),
        };
        // The kernel cuts into whole packets only; what needs fragments goes singly.
        let whole = self
            .mtu(path.local.interface)
            .is_none_or(|mtu| segment.saturating_add(headers) <= mtu as usize);
        if whole {
            (octets_max / segment).clamp(1, SEGMENTS_MAX)
        } else {
            1
        }
    }

    fn remember_refusal(&mut self, peer: IpAddr, refused_from: usize) {
        self.statistics.gso_fallbacks += 1;
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

    /// One system call, repeated only if a signal interrupts it.
    fn transmit(
        &mut self,
        id: SocketId,
        path: &Path,
        octets: &[u8],
        cut: Option<u16>,
    ) -> io::Result<()> {
        let Some(socket) = find(&mut self.sockets, id) else {
            return Err(not_open());
        };
        loop {
            self.statistics.sends += 1;
            match socket::send(&socket.udp, socket.ipv6, path, octets, cut) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(()) => {
                    self.statistics.gso_sends += u64::from(cut.is_some());
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What to say when an error ends a send, having made sure that the next wait ends when it is
    /// worth another try.
    fn stopped(&mut self, id: SocketId, sent: usize, error: &io::Error) -> Sent {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let full = errno == libc::EAGAIN || errno == libc::EWOULDBLOCK;
        if !(full && self.watch_for_room(id)) && (sent > 0 || full || errno == libc::ENOBUFS) {
            let retry_at = self.now() + RETRY_AFTER;
            self.retry_at.get_or_insert(retry_at);
        }
        match sent {
            0 if full || errno == libc::ENOBUFS => Sent::Full,
            0 => Sent::Failed(errno),
            _ => Sent::Datagrams(sent),
        }
    }

    /// Has the next polls tell when the socket takes more. That is not watched for always, because
    /// then each datagram that leaves the device would wake the engine.
    fn watch_for_room(&mut self, id: SocketId) -> bool {
        let Some(socket) = find(&mut self.sockets, id) else {
            return false;
        };
        let interests = Interest::READABLE | Interest::WRITABLE;
        let fd = socket.udp.as_raw_fd();
        let watched = self
            .poll
            .registry()
            .reregister(&mut SourceFd(&fd), token(id), interests);
        socket.full = watched.is_ok();
        socket.full
    }

    /// Asks the system for readiness, and sleeps for it at most until `until`.
    fn poll(&mut self, until: Option<Instant>) -> io::Result<()> {
        let timeout = if self.readable.is_empty() {
            let deadline = [until, self.retry_at].into_iter().flatten().min();
            deadline.map_or(POLL_MAX, |deadline| {
                deadline.since(self.now()).min(POLL_MAX)
            })
        } else {
            Duration::ZERO
        };
        self.statistics.polls += 1;
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            answer => answer?,
        }
        if self.retry_at.is_some_and(|retry_at| retry_at <= self.now()) {
            self.retry_at = None;
        }
        for event in &self.events {
            if event.token() == WAKER {
                self.waker.reset();
                continue;
            }
            let Some(id) = from_token(event.token()) else {
                continue;
            };
            let Some(socket) = find(&mut self.sockets, id) else {
                continue;
            };
            if socket.full && event.is_writable() {
                socket.full = false;
                let fd = socket.udp.as_raw_fd();
                let interests = Interest::READABLE;
                self.poll
                    .registry()
                    .reregister(&mut SourceFd(&fd), token(id), interests)?;
            }
            if (event.is_readable() || event.is_error()) && !socket.readable {
                socket.readable = true;
                self.readable.push_back(id);
            }
        }
        Ok(())
    }

    /// Receives from the readable sockets in turn, until all are empty or the inbox is full.
    fn receive(&mut self, inbox: &mut Inbox) {
        let mut calls_left = RECEIVES_MAX;
        while calls_left > 0
            && inbox.room().is_some()
            && let Some(id) = self.readable.pop_front()
        {
            let Some(socket) = find(&mut self.sockets, id) else {
                continue;
            };
            let calls_max = calls_left.min(TURN_DATAGRAMS_MAX);
            let mut calls = 0;
            while socket.readable
                && calls < calls_max
                && let Some(room) = inbox.room()
            {
                calls += 1;
                match socket::receive(&socket.udp, room) {
                    Ok(Received {
                        len,
                        path,
                        broadcast,
                        drops,
                    }) => {
                        self.drops += socket.new_drops(drops);
                        inbox.push(id, path, broadcast, len);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        socket.readable = false;
                    }
                    // What went wrong with an earlier send; behind it there may be datagrams.
                    Err(error) => self.report = error.raw_os_error(),
                }
            }
            if socket.readable {
                self.readable.push_back(id);
            }
            calls_left -= calls;
            self.statistics.receives += calls as u64;
        }
    }
}

impl Engine for MioEngine {
    fn name(&self) -> &'static str {
        "mio"
    }

    /// Reads the monotonic clock, which takes no system call.
    fn now(&self) -> Instant {
        let nanos = self.epoch.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn open(&mut self, bind: Bind) -> io::Result<SocketId> {
        let udp = socket::open(&bind)?;
        if self.reports {
            socket::report_errors(&udp, bind.address.is_ipv6())?;
        }
        let id = number(self.sockets.vacant_key(), self.generation)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        let fd = udp.as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), token(id), Interest::READABLE)?;
        self.generation = self.generation.wrapping_add(1);
        let ipv6 = bind.address.is_ipv6();
        self.sockets.insert(Socket {
            id,
            udp,
            ipv6,
            readable: false,
            full: false,
            drops: 0,
        });
        Ok(id)
    }

    fn close(&mut self, socket: SocketId) {
        if self.socket(socket).is_some() {
            // Dropping it closes it, and that ends the watch.
            self.sockets.remove(place(socket));
            self.readable.retain(|&id| id != socket);
        }
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.socket(socket).ok_or_else(not_open)?.udp.local_addr()
    }

    fn mtu(&mut self, interface: u32) -> Option<u32> {
        if interface == 0 {
            return None;
        }
        let now = self.now();
        if let Some(mtu) = self.mtus.get(&interface).filter(|mtu| mtu.until > now) {
            return mtu.octets;
        }
        // Interfaces that are gone are forgotten here.
        self.mtus.retain(|_, mtu| mtu.until > now);
        let octets = socket::mtu(&self.probe, interface);
        self.mtus.insert(
            interface,
            Mtu {
                octets,
                until: now + MTU_LIFE,
            },
        );
        octets
    }

    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        match payload {
            Payload::Packet(octets) => match self.transmit(socket, path, octets, None) {
                Ok(()) => Sent::Datagrams(1),
                Err(error) => self.stopped(socket, 0, &error),
            },
            Payload::Segments { segment: 0, .. } => Sent::Failed(libc::EINVAL),
            Payload::Segments { octets, segment } => {
                self.send_segments(socket, path, octets, segment)
            }
        }
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.waker))
    }

    /// Forgets what the inbox held, then fills it.
    ///
    /// The system sleeps by whole milliseconds, rounded up: a wait that ends by the time ends up to
    /// 1 ms late, and does not spin before. A signal or a datagram that proves broken ends it early.
    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        inbox.clear();
        self.poll(until)?;
        self.receive(inbox);
        Ok(())
    }

    /// The kernel tells of drops with the next datagram that it queues, so the latest may be missing.
    fn receive_drops(&self) -> u64 {
        self.drops
    }
}

/// A socket that is open.
#[derive(Debug)]
struct Socket {
    id: SocketId,
    udp: UdpSocket,
    /// Whether its addresses are IPv6, those of IPv4 peers mapped.
    ipv6: bool,
    /// Whether it is in the queue of turns.
    readable: bool,
    /// Whether it is watched for room to send.
    full: bool,
    /// The kernel's count of dropped datagrams, as last told.
    drops: u32,
}

impl Socket {
    /// How many datagrams were dropped since the kernel told last; its count wraps.
    fn new_drops(&mut self, told: Option<u32>) -> u64 {
        let drops = told.unwrap_or(self.drops);
        let new = drops.wrapping_sub(self.drops);
        self.drops = drops;
        u64::from(new)
    }
}

/// The number of a socket: its place in the table, and above that the last bits of its generation, so
/// that the number of one long closed is not taken for another's.
fn number(place: usize, generation: u32) -> Option<SocketId> {
    let place = u32::try_from(place)
        .ok()
        .filter(|place| place >> PLACE_BITS == 0)?;
    Some(SocketId(generation << PLACE_BITS | place))
}

/// The place of the socket with this number.
const fn place(id: SocketId) -> usize {
    (id.0 & ((1 << PLACE_BITS) - 1)) as usize
}

/// The open socket with this number.
fn find(sockets: &mut Slab<Socket>, id: SocketId) -> Option<&mut Socket> {
    sockets.get_mut(place(id)).filter(|socket| socket.id == id)
}

const fn token(id: SocketId) -> Token {
    Token(id.0 as usize)
}

fn from_token(token: Token) -> Option<SocketId> {
    u32::try_from(token.0).ok().map(SocketId)
}

/// The MTU of an interface, as the kernel told.
#[derive(Debug, Clone, Copy)]
struct Mtu {
    octets: Option<u32>,
    until: Instant,
}

/// That bursts to a peer are not taken.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    /// The length, in octets, from which segments go singly.
    from: usize,
    until: Instant,
}

/// Ends a wait from any thread; many calls before the wait ends cost one system call.
#[derive(Debug)]
struct Alarm {
    rung: AtomicBool,
    alarm: mio::Waker,
}

impl Alarm {
    /// Takes the alarm. Who rang before has written before, and who rings later rings anew.
    fn reset(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // If ringing fails, the next one shall try again.
        if !self.rung.swap(true, Ordering::AcqRel) && self.alarm.wake().is_err() {
            self.reset();
        }
    }
}

/// The error of a socket that is closed or never was.
fn not_open() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// From which length on a peer's segments should go singly after this error, if it may be about
/// the burst and not about what is in it: one packet above the path's MTU (EMSGSIZE), or a device or
/// a kernel that cannot cut at all.
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

    /// The smallest MTU of IPv6, in octets.
    #[cfg(target_os = "linux")]
    const MTU_MIN_IPV6: u32 = 1280;

    fn engine_and_socket(address: &str) -> (MioEngine, SocketId, Path) {
        let mut engine = MioEngine::new().expect("an engine");
        let address = SocketAddr::new(address.parse().expect("an address"), 0);
        let id = engine
            .open(Bind {
                address,
                shared: false,
            })
            .expect("a socket");
        let peer = engine.local_addr(id).expect("an open socket");
        (
            engine,
            id,
            Path {
                peer,
                local: Local::default(),
            },
        )
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_refused_burst_goes_singly_and_so_do_the_next_ones_of_that_length() {
        let (mut engine, id, path) = engine_and_socket("::1");
        if !engine.gso() {
            eprintln!("skipped: this kernel does not cut bursts");
            return;
        }
        // The kernel now believes in a narrow path, of which the interface's MTU tells nothing.
        socket::narrow(&engine.sockets[place(id)].udp, MTU_MIN_IPV6).expect("an IPv6 socket");
        let octets: Vec<u8> = (0..10_000).map(|place| (place % 251) as u8).collect();
        let long = Payload::Segments {
            octets: &octets,
            segment: 1400,
        };
        let short = Payload::Segments {
            octets: &octets,
            segment: 1000,
        };

        assert_eq!(engine.send(id, &path, long), Sent::Datagrams(8));
        let first = engine.statistics();
        assert_eq!(
            (first.sends, first.gso_sends, first.gso_fallbacks),
            (1 + 8, 0, 1)
        );
        assert_eq!(engine.send(id, &path, long), Sent::Datagrams(8));
        let second = engine.statistics();
        assert_eq!(
            (second.sends, second.gso_sends, second.gso_fallbacks),
            (1 + 8 + 8, 0, 1)
        );
        assert_eq!(engine.send(id, &path, short), Sent::Datagrams(10));
        assert_eq!(engine.statistics().gso_sends, 1);

        let mut inbox = Inbox::new();
        let mut arrived = Vec::new();
        while arrived.len() < 3 * octets.len() {
            engine.wait(None, &mut inbox).expect("a working engine");
            (0..inbox.len())
                .filter_map(|place| inbox.get(place))
                .for_each(|datagram| arrived.extend_from_slice(datagram.octets));
        }
        assert!(arrived.chunks(octets.len()).all(|chunk| chunk == octets));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_send_without_memory_is_worth_another_try_soon() {
        let (mut engine, id, path) = engine_and_socket("::1");
        let udp = &engine.sockets[place(id)].udp;
        // Many fragments overflow the smallest send buffer.
        socket::narrow(udp, MTU_MIN_IPV6).expect("an IPv6 socket");
        socket2::SockRef::from(udp)
            .set_send_buffer_size(1)
            .expect("a smaller buffer");
        assert_eq!(
            engine.send(id, &path, Payload::Packet(&[0; 60_000])),
            Sent::Full
        );
        assert!(engine.retry_at.is_some());

        let mut inbox = Inbox::new();
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
        assert_eq!(engine.retry_at, None);
    }

    #[test]
    fn a_socket_that_was_full_ends_the_wait_once_when_it_has_room() {
        let (mut engine, id, path) = engine_and_socket("127.0.0.1");
        let full = io::Error::from_raw_os_error(libc::EAGAIN);
        assert_eq!(engine.stopped(id, 3, &full), Sent::Datagrams(3));
        assert_eq!(engine.stopped(id, 0, &full), Sent::Full);
        assert_eq!(engine.retry_at, None);

        let mut inbox = Inbox::new();
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
        assert!(!engine.sockets[place(id)].full);

        // What is sent now wakes nobody when it has left.
        let elsewhere = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let peer = elsewhere.local_addr().expect("bound");
        engine.send(id, &Path { peer, ..path }, Payload::Packet(b"x"));
        let until = engine.now() + Duration::from_millis(2);
        engine
            .wait(Some(until), &mut inbox)
            .expect("a working engine");
        assert!(engine.now() >= until);
    }

    #[test]
    fn an_error_amid_a_burst_is_met_again_by_the_next_try() {
        let (mut engine, id, _) = engine_and_socket("127.0.0.1");
        let error = io::Error::from_raw_os_error(libc::ENETUNREACH);
        assert_eq!(
            engine.stopped(id, 0, &error),
            Sent::Failed(libc::ENETUNREACH)
        );
        assert_eq!(engine.retry_at, None);
        assert_eq!(engine.stopped(id, 5, &error), Sent::Datagrams(5));
        engine
            .wait(None, &mut Inbox::new())
            .expect("a working engine");
    }

    #[test]
    fn segments_above_the_mtu_go_singly() {
        let (mut engine, _, path) = engine_and_socket("127.0.0.1");
        engine.gso = true;
        let until = Instant::from_nanos(u64::MAX);
        engine.mtus.insert(
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
        assert_eq!(engine.segments_per_call(&ipv4, 1472), 44);
        assert_eq!(engine.segments_per_call(&ipv4, 1473), 1);
        assert_eq!(engine.segments_per_call(&ipv4, 516), SEGMENTS_MAX);
        assert_eq!(engine.segments_per_call(&ipv4, usize::MAX), 1);
        let ipv6 = Path {
            peer: "[::1]:9".parse().expect("an address"),
            ..ipv4
        };
        assert_eq!(engine.segments_per_call(&ipv6, 1452), 45);
        assert_eq!(engine.segments_per_call(&ipv6, 1453), 1);
    }

    #[test]
    fn refusals_are_bounded_and_keep_the_shortest_length() {
        let (mut engine, _, path) = engine_and_socket("127.0.0.1");
        engine.gso = true;
        for refused_from in [1400, 900, 1200] {
            engine.remember_refusal(path.peer.ip(), refused_from);
        }
        assert_eq!(engine.segments_per_call(&path, 900), 1);
        assert_eq!(engine.segments_per_call(&path, 899), SEGMENTS_MAX);
        // In time they are forgotten.
        let refusal = engine
            .refusals
            .get_mut(&path.peer.ip())
            .expect("remembered");
        refusal.until = Instant::ZERO;
        assert_eq!(engine.segments_per_call(&path, 900), SEGMENTS_MAX);
        for peer in 0..=REFUSALS_MAX as u32 {
            engine.remember_refusal(std::net::Ipv4Addr::from(peer).into(), 0);
            assert!(engine.refusals.len() <= REFUSALS_MAX);
        }
    }

    #[test]
    fn the_count_of_drops_wraps() {
        let (mut engine, id, _) = engine_and_socket("127.0.0.1");
        let socket = &mut engine.sockets[place(id)];
        let new = [None, Some(u32::MAX - 1), None, Some(1), Some(1), Some(4)];
        let new = new.map(|told| socket.new_drops(told));
        assert_eq!(new, [0, u64::from(u32::MAX - 1), 0, 3, 0, 3]);
    }

    #[test]
    fn numbers_of_sockets_hold_place_and_generation() {
        let id = number(5, 3).expect("a number");
        assert_eq!((place(id), from_token(token(id))), (5, Some(id)));
        assert_ne!(number(5, 4), Some(id));
        assert_eq!(number(1 << 20, 0), None);
        assert_eq!(from_token(WAKER), None);
        assert!(number((1 << 20) - 1, u32::MAX).is_some());
    }
}
