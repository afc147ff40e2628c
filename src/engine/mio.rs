//! The engine for every Unix: readiness from mio, one system call per datagram received and, where the
//! kernel segments bursts (generic segmentation offload, GSO), one per burst sent.
//!
//! Sockets are watched edge-triggered: a readable socket is read until it is empty, in turns with the
//! others, and only then polled for again. A plain loop of recvmsg(2) measures best; recvmmsg(2) and a poll
//! per datagram both cost more.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::task::Waker;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::alarm::{Alarm, Bell};
use super::busy_poll::{self, BusyPoll};
use super::socket::{self, Received};
use super::sockets::{Socket, Sockets, Stopped};
use super::{Bind, Engine, Inbox, Path, Payload, Sent, SocketId, Statistics};
use crate::time::{Duration, Instant};

/// Limit of events per poll; the next poll returns the rest.
const EVENTS_MAX: usize = 256;

/// Longest sleep of one poll: a longer one overflows the milliseconds of epoll_wait(2).
const POLL_MAX: Duration = Duration::from_secs(3600);

/// Limit of receive calls on a socket per turn, so that a storm of requests on one socket does not delay the
/// acknowledgments on another.
const TURN_CALLS_MAX: usize = 64;

/// Limit of receive calls per wait, including failed ones (ICMP errors of earlier sends), so that the wait
/// ends whatever the kernel returns.
const RECEIVES_MAX: usize = 2 * Inbox::DATAGRAMS_MAX;

/// Limit of stored refusals: as many as a crowd of clients can get in one round.
const REFUSALS_MAX: usize = 65_536;

/// The waker's token; sockets use their [`SocketId`], which is shorter.
const WAKER: Token = Token(usize::MAX);

/// Moves datagrams with mio and plain socket calls.
#[derive(Debug)]
pub struct MioEngine {
    poll: Poll,
    events: Events,
    alarm: Arc<Alarm<mio::Waker>>,
    sockets: Sockets<Watch>,
    /// Sockets that may have more to receive, in the order of their turns.
    readable: VecDeque<SocketId>,
    /// Calls left in the turn of the first of them: a full inbox does not end a turn, or the clients of a
    /// socket would wait another whole round whenever the inbox filled up there.
    turn_left: usize,
    /// Whether sockets report the ICMP errors of earlier sends.
    reports: bool,
    noted: Noted,
    /// Whether one call receives several coalesced datagrams.
    gro: bool,
    /// Whether waits end on time to within microseconds.
    precise: bool,
    /// Decides how waits begin, if they may begin by spinning.
    busy_poll: Option<BusyPoll>,
}

impl MioEngine {
    /// An engine without sockets, whose epoch is now.
    ///
    /// # Errors
    /// If the system provides no descriptor.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = mio::Waker::new(poll.registry(), WAKER)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            alarm: Arc::new(Alarm::new(alarm)),
            sockets: Sockets::new()?,
            readable: VecDeque::new(),
            turn_left: TURN_CALLS_MAX,
            reports: false,
            noted: Noted::default(),
            gro: false,
            precise: false,
            busy_poll: None,
        })
    }

    /// The same engine, but every datagram is sent with its own call.
    #[must_use]
    pub const fn without_gso(mut self) -> Self {
        self.sockets.stop_gso();
        self
    }

    /// The same engine, but its sockets report ICMP errors for their datagrams. For a client, which has one
    /// peer and need not wait for one that is not there.
    #[must_use]
    pub fn with_reports(self) -> Self {
        Self {
            reports: true,
            ..self
        }
    }

    /// The same engine, but one call receives several consecutive datagrams where the system supports it
    /// (generic receive offload, GRO). For a client: a server receives short packets from many peers.
    #[must_use]
    pub fn with_gro(self) -> Self {
        Self { gro: true, ..self }
    }

    /// The same engine, but waits end on time to within microseconds, at one more system call each.
    #[must_use]
    pub fn with_precise_waits(self) -> Self {
        Self {
            precise: true,
            ..self
        }
    }

    /// The same engine, but its waits spin for some microseconds where that is quicker. For a server: a
    /// client's only peer is a server, and a client is measured by its own work.
    #[must_use]
    pub fn with_busy_polling(self) -> Self {
        Self {
            busy_poll: Some(BusyPoll::default()),
            ..self
        }
    }

    /// The latest report about an earlier send, as an error number, if one came since the last call.
    pub const fn take_report(&mut self) -> Option<i32> {
        self.noted.report.take()
    }

    /// The paths whose peer port is closed, as reported since the last call; some are dropped if the caller
    /// does not ask for long.
    pub fn take_refusals(&mut self) -> Vec<(SocketId, Path)> {
        std::mem::take(&mut self.noted.refusals)
    }

    /// The result of a send that an error ended.
    fn stopped(&mut self, id: SocketId, stopped: &Stopped) -> Sent {
        let watched = stopped.is_full() && self.watch_for_room(id);
        self.sockets.stopped(stopped, watched)
    }

    /// Makes the next polls report when the socket has room. It is not always watched for that, because each
    /// datagram that leaves the device would then wake the engine.
    fn watch_for_room(&mut self, id: SocketId) -> bool {
        let Some(socket) = self.sockets.get_mut(id) else {
            return false;
        };
        let interests = Interest::READABLE | Interest::WRITABLE;
        let fd = socket.udp.as_raw_fd();
        let watched = self
            .poll
            .registry()
            .reregister(&mut SourceFd(&fd), token(id), interests);
        socket.state.full = watched.is_ok();
        socket.state.full
    }

    /// Polls for readiness, and sleeps from now at most until `until`.
    fn poll(&mut self, until: Option<Instant>, now: Instant) -> io::Result<()> {
        let timeout = if self.readable.is_empty() {
            self.sockets
                .timeout(until, now)
                .map_or(POLL_MAX, |timeout| timeout.min(POLL_MAX))
        } else {
            Duration::ZERO
        };
        let busy_poll = self.busy_poll.as_mut();
        let awake = busy_poll.and_then(|busy| busy.begin(timeout));
        match awake {
            None => self.sleep(timeout)?,
            Some(awake) => {
                if !self.poll_busily(now + awake)? {
                    // Other programs may have run meanwhile.
                    self.sleep(timeout.saturating_sub(self.now() - now))?;
                }
            }
        }
        self.sockets.is_time_to_retry();
        for event in &self.events {
            if event.token() == WAKER {
                self.alarm.reset();
                continue;
            }
            let Some(id) = from_token(event.token()) else {
                continue;
            };
            let Some(socket) = self.sockets.get_mut(id) else {
                continue;
            };
            if socket.state.full && event.is_writable() {
                socket.state.full = false;
                let fd = socket.udp.as_raw_fd();
                let interests = Interest::READABLE;
                self.poll
                    .registry()
                    .reregister(&mut SourceFd(&fd), token(id), interests)?;
            }
            // A send may already have consumed the error, and receiving then does not return it.
            if event.is_error() && self.reports {
                self.noted.take(socket);
            }
            if (event.is_readable() || event.is_error()) && !socket.state.readable {
                socket.state.readable = true;
                self.readable.push_back(id);
            }
        }
        Ok(())
    }

    /// Polls for readiness in a loop until then; returns whether something came.
    fn poll_busily(&mut self, until: Instant) -> io::Result<bool> {
        loop {
            self.ask(Duration::ZERO)?;
            if !self.events.is_empty() {
                return Ok(true);
            }
            if !busy_poll::goes_on(until, || self.sockets.now()) {
                return Ok(false);
            }
        }
    }

    /// Polls for readiness, and sleeps until something is ready or the timeout expires.
    fn sleep(&mut self, timeout: Duration) -> io::Result<()> {
        let slept =
            self.precise && !timeout.is_zero() && socket::wait_precisely(&self.poll, timeout);
        self.ask(if slept { Duration::ZERO } else { timeout })
    }

    fn ask(&mut self, timeout: Duration) -> io::Result<()> {
        self.sockets.statistics.polls += 1;
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            answer => answer,
        }
    }

    /// Receives from the readable sockets in turn, until all are empty or the inbox is full.
    fn receive(&mut self, inbox: &mut Inbox) {
        let mut calls_left = RECEIVES_MAX;
        while calls_left > 0
            && inbox.room().is_some()
            && let Some(id) = self.readable.pop_front()
        {
            let turn = std::mem::replace(&mut self.turn_left, TURN_CALLS_MAX);
            let Some(socket) = self.sockets.get_mut(id) else {
                continue;
            };
            let calls_max = calls_left.min(turn);
            let plainly = socket.peers_only && !self.gro;
            let mut calls = 0;
            while socket.state.readable
                && calls < calls_max
                && let Some(room) = inbox.room()
            {
                calls += 1;
                let received = if plainly {
                    socket::receive_plainly(&socket.udp, room)
                } else {
                    socket::receive(&socket.udp, room)
                };
                match received {
                    Ok(Received {
                        len,
                        path,
                        broadcast,
                        segment,
                    }) => match segment {
                        Some(segment) => inbox.push_row(id, path, broadcast, len, segment),
                        None => inbox.push(id, path, broadcast, len),
                    },
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        socket.state.readable = false;
                    }
                    // The error of an earlier send; datagrams may be queued behind it.
                    Err(error) => {
                        self.noted.report = error.raw_os_error();
                        if self.reports {
                            self.noted.take(socket);
                        }
                    }
                }
            }
            if socket.state.readable && calls < turn {
                self.turn_left = turn - calls;
                self.readable.push_front(id);
            } else if socket.state.readable {
                self.readable.push_back(id);
            }
            calls_left -= calls;
            self.sockets.statistics.receives += calls as u64;
        }
    }
}

impl Engine for MioEngine {
    fn name(&self) -> &'static str {
        "mio"
    }

    fn now(&self) -> Instant {
        self.sockets.now()
    }

    fn open(&mut self, bind: Bind) -> io::Result<SocketId> {
        let socket = self.sockets.open(bind, Watch::default())?;
        let (id, fd) = (socket.id, socket.udp.as_raw_fd());
        if self.gro {
            socket::receive_rows(&socket.udp);
        }
        let told = if self.reports {
            socket::report_errors(&socket.udp, socket.ipv6)
        } else {
            Ok(())
        };
        let watched = told.and_then(|()| {
            self.poll
                .registry()
                .register(&mut SourceFd(&fd), token(id), Interest::READABLE)
        });
        if let Err(error) = watched {
            self.close(id);
            return Err(error);
        }
        Ok(id)
    }

    fn close(&mut self, socket: SocketId) {
        // Dropping the socket closes it, and that ends the watch.
        if self.sockets.remove(socket).is_some() {
            if self.readable.front() == Some(&socket) {
                self.turn_left = TURN_CALLS_MAX;
            }
            self.readable.retain(|&id| id != socket);
        }
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.sockets.local_addr(socket)
    }

    fn mtu(&mut self, interface: u32) -> Option<u32> {
        self.sockets.mtu(interface)
    }

    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        let sent = match self.sockets.send(socket, path, &payload, |_| false) {
            // The failure of an earlier send, reported by this one. It is reported once, so send again.
            Err(Stopped { sent: 0, error }) if self.reports && is_report(&error) => {
                self.noted.report = error.raw_os_error();
                self.sockets.send(socket, path, &payload, |_| false)
            }
            sent => sent,
        };
        match sent {
            Ok(sent) => Sent::Datagrams(sent),
            Err(stopped) => self.stopped(socket, &stopped),
        }
    }

    fn has_room(&self, socket: SocketId) -> bool {
        let watched = self
            .sockets
            .get(socket)
            .is_some_and(|socket| socket.state.full);
        !watched && !self.sockets.is_retrying()
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    /// Clears the inbox, then fills it.
    ///
    /// The system sleeps in whole milliseconds, rounded up: a wait that times out ends up to 1 ms late. A
    /// signal or a malformed datagram ends it early.
    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        inbox.clear();
        let began = self.now();
        self.poll(until, began)?;
        let woke = self.busy_poll.as_ref().map(|_| self.now());
        self.receive(inbox);
        if let (Some(busy_poll), Some(woke)) = (&mut self.busy_poll, woke) {
            busy_poll.end(began, woke, self.sockets.now(), inbox);
        }
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        self.sockets.drops()
    }

    fn gso(&self) -> bool {
        self.sockets.gso()
    }

    fn statistics(&self) -> Statistics {
        self.sockets.statistics
    }

    fn receive_buffer(&self, socket: SocketId) -> io::Result<usize> {
        self.sockets.receive_buffer(socket)
    }
}

/// ICMP errors of earlier sends, kept on request.
#[derive(Debug, Default)]
struct Noted {
    /// The latest error number.
    report: Option<i32>,
    /// Paths whose peer port is closed.
    refusals: Vec<(SocketId, Path)>,
}

impl Noted {
    /// Takes all reports of a socket.
    fn take(&mut self, socket: &Socket<Watch>) {
        while let Some((errno, path)) = socket::report(&socket.udp) {
            self.report = Some(errno);
            if errno == libc::ECONNREFUSED && self.refusals.len() < REFUSALS_MAX {
                self.refusals.push((socket.id, path));
            }
        }
    }
}

/// What the engine tracks per socket.
#[derive(Debug, Default)]
struct Watch {
    /// Whether it is in the queue of turns.
    readable: bool,
    /// Whether it is watched for room to send.
    full: bool,
}

/// Whether an error is an ICMP report about an earlier datagram.
fn is_report(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNREFUSED)
}

const fn token(id: SocketId) -> Token {
    Token(id.0 as usize)
}

fn from_token(token: Token) -> Option<SocketId> {
    u32::try_from(token.0).ok().map(SocketId)
}

impl Bell for mio::Waker {
    fn ring(&self) -> io::Result<()> {
        self.wake()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::super::Local;
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::testing::skip;

    /// The smallest MTU of IPv6, in octets.
    #[cfg(target_os = "linux")]
    const MTU_MIN_IPV6: u32 = 1280;

    fn engine_and_socket(address: &str) -> (MioEngine, SocketId, Path) {
        let mut engine = MioEngine::new().expect("an engine");
        let address = SocketAddr::new(address.parse().expect("an address"), 0);
        let id = engine.open(Bind::to(address)).expect("a socket");
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
            return skip("this kernel does not cut bursts");
        }
        // The kernel now assumes a narrow path, which the interface's MTU does not show.
        socket::narrow(&engine.sockets.get(id).expect("open").udp, MTU_MIN_IPV6)
            .expect("an IPv6 socket");
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
        let udp = &engine.sockets.get(id).expect("open").udp;
        // Many fragments overflow the smallest send buffer.
        socket::narrow(udp, MTU_MIN_IPV6).expect("an IPv6 socket");
        socket2::SockRef::from(udp)
            .set_send_buffer_size(1)
            .expect("a smaller buffer");
        assert_eq!(
            engine.send(id, &path, Payload::Packet(&[0; 60_000])),
            Sent::Full
        );
        assert!(engine.sockets.retry_at().is_some());

        let mut inbox = Inbox::new();
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
        assert_eq!(engine.sockets.retry_at(), None);
    }

    #[test]
    fn a_socket_that_was_full_ends_the_wait_once_when_it_has_room() {
        let (mut engine, id, path) = engine_and_socket("127.0.0.1");
        let full = |sent| Stopped {
            sent,
            error: io::Error::from_raw_os_error(libc::EAGAIN),
        };
        assert_eq!(engine.stopped(id, &full(3)), Sent::Datagrams(3));
        assert_eq!(engine.stopped(id, &full(0)), Sent::Full);
        assert_eq!(engine.sockets.retry_at(), None);

        let mut inbox = Inbox::new();
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
        assert!(!engine.sockets.get(id).expect("open").state.full);

        // What is sent now must not wake the engine when it has left.
        let elsewhere = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let peer = elsewhere.local_addr().expect("bound");
        engine.send(id, &Path { peer, ..path }, Payload::Packet(b"x"));
        let until = engine.now() + Duration::from_millis(2);
        engine
            .wait(Some(until), &mut inbox)
            .expect("a working engine");
        assert!(engine.now() >= until);
    }

    /// Goal: a wait that begins by spinning ends on time, on a datagram and on the waker like any other, and
    /// then sleeps unless it was short.
    #[test]
    fn a_wait_that_begins_awake_is_a_wait() {
        let (engine, id, path) = engine_and_socket("127.0.0.1");
        let mut engine = engine.with_busy_polling();
        let mut inbox = Inbox::new();
        for brings in [1, 0] {
            engine.busy_poll = Some(busy_poll::tests::awake());
            if brings > 0 {
                engine.send(id, &path, Payload::Packet(b"x"));
            }
            let until = engine.now() + Duration::from_millis(2);
            engine
                .wait(Some(until), &mut inbox)
                .expect("a working engine");
            assert_eq!(inbox.len(), brings);
            assert!(brings > 0 || engine.now() >= until);
        }
        engine.busy_poll = Some(busy_poll::tests::awake());
        engine.waker().wake();
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
    }

    #[test]
    fn an_error_amid_a_burst_is_met_again_by_the_next_try() {
        let (mut engine, id, _) = engine_and_socket("127.0.0.1");
        let unreachable = |sent| Stopped {
            sent,
            error: io::Error::from_raw_os_error(libc::ENETUNREACH),
        };
        assert_eq!(
            engine.stopped(id, &unreachable(0)),
            Sent::Failed(libc::ENETUNREACH)
        );
        assert_eq!(engine.sockets.retry_at(), None);
        assert_eq!(engine.stopped(id, &unreachable(5)), Sent::Datagrams(5));
        engine
            .wait(None, &mut Inbox::new())
            .expect("a working engine");
    }

    /// Goal: a socket whose turn is cut short by a full inbox continues it in the next wait. Method: more
    /// datagrams than fit, queued on many sockets, fewer on each than its turn takes.
    #[test]
    fn a_full_inbox_ends_nobodys_turn() {
        const EACH: usize = 40;
        const SOCKETS: usize = Inbox::DATAGRAMS_MAX / EACH + 2;
        let mut engine = MioEngine::new().expect("an engine");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        for _ in 0..SOCKETS {
            let any = "127.0.0.1:0".parse().expect("an address");
            let id = engine.open(Bind::to(any)).expect("a socket");
            let address = engine.local_addr(id).expect("open");
            for _ in 0..EACH {
                sender.send_to(b"x", address).expect("room");
            }
        }
        let mut inbox = Inbox::new();
        let mut came: Vec<SocketId> = Vec::new();
        while came.len() < SOCKETS * EACH {
            engine.wait(None, &mut inbox).expect("a working engine");
            let datagrams = (0..inbox.len()).filter_map(|place| inbox.get(place));
            came.extend(datagrams.map(|datagram| datagram.socket));
        }
        let turns = came.chunk_by(|a, b| a == b).count();
        assert_eq!(turns, SOCKETS, "each socket had one turn");
    }

    #[test]
    fn sockets_and_the_waker_have_different_tokens() {
        let id = SocketId(5);
        assert_eq!(from_token(token(id)), Some(id));
        assert_eq!(from_token(WAKER), None);
    }
}
