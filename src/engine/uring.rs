//! The engine for Linux with io_uring: multishot receive requests fill lent buffers, so that one system call
//! both waits and receives; bursts leave without a copy where the device supports it.
//!
//! Copied sends use plain sendmsg(2), which a ring does not make cheaper, nor do sends submitted in batches:
//! copying and the network stack are what they cost. Sends without a copy cost so little otherwise that batches
//! pay. All parts of an engine belong to the thread that created it.

mod buffers;
mod files;
mod habits;
mod registered;
mod ring;
mod zero_copy;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::thread;

use io_uring::squeue::{self, Flags};
use io_uring::types::{CancelBuilder, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::{EventfdFlags, eventfd};

use super::alarm::{Alarm, Bell};
use super::busy_poll::{self, BusyPoll};
use super::socket::{self, Received};
use super::sockets::{RETRY_AFTER, Sockets, Stopped};
use super::{Bind, Engine, Inbox, Path, Payload, Sent, SocketId, Statistics};
use crate::time::{Duration, Instant};
use buffers::Buffers;
use ring::{Disabled, advance, next};
use zero_copy::{Piece, ZeroCopy};

/// Submission queue size: a full queue costs an extra system call.
const SUBMISSIONS: u32 = 64;

/// Datagrams that the kernel delivers to one request before it turns to other work.
const DELIVERED_MAX: usize = 32;

/// Completion queue size: one per buffer, plus one for each of some hundred sockets that must be re-armed or
/// have room. The kernel stores any excess, at a cost.
const COMPLETIONS: u32 = 1024;

/// How often the ring is polled for the last completions on drop; once suffices unless a signal interrupts.
const LAST_TRIES: u32 = 10;

/// The kind of a completion; the bits below hold the socket's number.
const KIND_SHIFT: u32 = 32;
const RECEIVED: u64 = 1 << KIND_SHIFT;
const ROOM: u64 = 2 << KIND_SHIFT;
const WOKEN: u64 = 3 << KIND_SHIFT;
const CANCELLED: u64 = 4 << KIND_SHIFT;

/// Moves datagrams with io_uring.
pub struct UringEngine {
    ring: IoUring,
    buffers: Buffers,
    /// Tells a receive request how much room to leave before a datagram: name and control messages.
    header: Box<libc::msghdr>,
    /// The same for sockets that report only the peer.
    short_header: Box<libc::msghdr>,
    alarm: Arc<Alarm<OwnedFd>>,
    /// Whether a request that reports the alarm is armed.
    listening: bool,
    sockets: Sockets<Watch>,
    /// Sockets without a receive request.
    idle: Vec<SocketId>,
    /// Sockets whose request failed; they are re-armed after a delay.
    failed: Vec<SocketId>,
    /// Receive requests in progress, including those of closed sockets.
    receiving: usize,
    /// `None` if the kernel provides no second ring; then all bursts are copied.
    zero_copy: Option<ZeroCopy>,
    /// Decides how waits begin, if they may begin by spinning.
    busy_poll: Option<BusyPoll>,
}

/// What the engine tracks per socket.
#[derive(Debug, Default)]
struct Watch {
    /// Whether a request will report room to send.
    full: bool,
}

impl UringEngine {
    /// An engine without sockets, whose epoch is now, for the calling thread.
    ///
    /// # Errors
    /// If the kernel, or a supervisor of this process, refuses a ring: the text says why; use another
    /// engine then.
    pub fn new() -> io::Result<Self> {
        let disabled = Disabled::new(SUBMISSIONS, COMPLETIONS)?;
        let buffers = Buffers::new(disabled.ring()).map_err(|error| ring::refused(&error))?;
        let operations = [
            opcode::RecvMsgMulti::CODE,
            opcode::PollAdd::CODE,
            opcode::AsyncCancel2::CODE,
        ];
        let ring = disabled.enable(&operations, Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS, &[])?;
        // SAFETY: a msghdr of zeros is one without address, data and control messages.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        header.msg_namelen = socket::linux::NAME_OCTETS as _;
        let short_header = header.clone();
        header.msg_controllen = socket::linux::CONTROL_OCTETS as _;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            ring,
            buffers,
            header,
            short_header,
            alarm: Arc::new(Alarm::new(bell)),
            listening: false,
            sockets: Sockets::new()?,
            idle: Vec::new(),
            failed: Vec::new(),
            receiving: 0,
            zero_copy: ZeroCopy::new()
                .inspect_err(|why| tracing::debug!(%why, "no ring for sending without a copy"))
                .ok(),
            busy_poll: None,
        })
    }

    /// The same engine, but every datagram is sent with its own call.
    #[must_use]
    pub fn without_gso(mut self) -> Self {
        self.sockets.stop_gso();
        self
    }

    /// The same engine, but its waits spin for some microseconds where that is quicker.
    #[must_use]
    pub fn with_busy_polling(mut self) -> Self {
        self.busy_poll = Some(BusyPoll::default());
        self
    }

    /// Whether bursts may leave without a copy, if the device supports it.
    #[must_use]
    pub fn can_zero_copy(&self) -> bool {
        self.sockets.gso() && self.zero_copy.as_ref().is_some_and(ZeroCopy::works)
    }

    /// Sends with as few calls as possible, and without a copy where that is better.
    fn transmit(
        &mut self,
        id: SocketId,
        path: &Path,
        payload: &Payload<'_>,
    ) -> Result<usize, Stopped> {
        let zero_copy = &mut self.zero_copy;
        self.sockets.send(id, path, payload, |call| {
            let Some(zero_copy) = zero_copy else {
                return false;
            };
            let Payload::Frames { frames, first, .. } = payload else {
                // What was queued before leaves before.
                zero_copy.submit();
                return false;
            };
            let (first, id) = (first.plus(call.before as u64), call.socket.id);
            if call.cut.is_some()
                && !zero_copy.has_returned(id)
                && zero_copy.queue(call, frames, first)
            {
                return true;
            }
            zero_copy.submit();
            // The blocks before these may have been refused.
            let is_behind = zero_copy.has_returned(id);
            if is_behind {
                let piece = Piece::of(call, frames, first);
                zero_copy.returned.push_back(piece);
            }
            is_behind
        })
    }

    /// Whether bursts of this socket came back, which go before all others.
    fn has_returned(&self, socket: SocketId) -> bool {
        let zero_copy = self.zero_copy.as_ref();
        zero_copy.is_some_and(|zero_copy| zero_copy.has_returned(socket))
    }

    /// How many bursts came back and are still to be sent.
    fn returned(&self) -> usize {
        let zero_copy = self.zero_copy.as_ref();
        zero_copy.map_or(0, |zero_copy| zero_copy.returned.len())
    }

    /// Submits what is queued, and sends what comes back, as far as there is room. Afterwards nothing is queued, and
    /// what is left waits for room or a retry, which the next waits report. So what was accepted is lost only by an
    /// error, which is as good as a loss in the network.
    fn flush(&mut self) {
        let Some(zero_copy) = &mut self.zero_copy else {
            return;
        };
        zero_copy.submit();
        if zero_copy.returned.is_empty() {
            return;
        }
        let mut waiting = VecDeque::new();
        for mut piece in mem::take(&mut zero_copy.returned) {
            let id = piece.socket;
            let is_behind = waiting.iter().any(|before: &Piece| before.socket == id);
            if is_behind || !self.has_room(id) {
                waiting.push_back(piece);
                continue;
            }
            if let Err(stopped) = self.transmit(id, &piece.path, &piece.payload()) {
                if let Sent::Failed(errno) = self.stopped(id, &stopped) {
                    tracing::debug!(peer = %piece.path.peer, errno, "a burst could not be sent");
                } else {
                    piece.skip(stopped.sent);
                    waiting.push_back(piece);
                }
            }
        }
        let Some(zero_copy) = &mut self.zero_copy else {
            return;
        };
        zero_copy.submit();
        // Those that came back again were first.
        zero_copy.returned.append(&mut waiting);
        let mut left: Vec<_> = zero_copy
            .returned
            .iter()
            .map(|piece| piece.socket)
            .collect();
        left.dedup();
        for id in left {
            if !self.watch_for_room(id) {
                self.sockets.retry_soon();
            }
        }
    }

    /// The result of a send that an error ended.
    fn stopped(&mut self, id: SocketId, stopped: &Stopped) -> Sent {
        let watched = stopped.is_full() && self.watch_for_room(id);
        self.sockets.stopped(stopped, watched)
    }

    /// Makes the next waits report when the socket has room.
    fn watch_for_room(&mut self, id: SocketId) -> bool {
        let Some(socket) = self.sockets.get_mut(id) else {
            return false;
        };
        if !socket.state.full {
            let entry = opcode::PollAdd::new(Fd(socket.udp.as_raw_fd()), libc::POLLOUT as u32)
                .build()
                .user_data(ROOM | u64::from(id.0));
            // SAFETY: the request refers to no memory.
            socket.state.full = unsafe { queue(&mut self.ring, &entry) };
        }
        socket.state.full
    }

    /// Queues the persistent requests: a receive request for each socket, and one for the alarm.
    fn arm(&mut self) {
        if !self.listening {
            let fd = Fd(self.alarm.bell().as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(WOKEN);
            // SAFETY: the request refers to no memory.
            self.listening = unsafe { queue(&mut self.ring, &entry) };
        }
        while let Some(id) = self.idle.pop() {
            let Some(socket) = self.sockets.get(id) else {
                continue;
            };
            let fd = Fd(socket.udp.as_raw_fd());
            let header = if socket.peers_only {
                &raw const *self.short_header
            } else {
                &raw const *self.header
            };
            let entry = opcode::RecvMsgMulti::new(fd, header, Buffers::GROUP)
                .build()
                .user_data(RECEIVED | u64::from(id.0));
            // SAFETY: the headers live as long as the ring, and the buffers until no receive request is in
            // progress, which `receiving` counts.
            if unsafe { queue(&mut self.ring, &entry) } {
                self.receiving += 1;
            } else {
                self.idle.push(id);
                break;
            }
        }
    }

    /// Submits what is queued, and sleeps for a completion at most until `until`.
    fn enter(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.sockets.statistics.polls += 1;
        let entered = match self.sockets.timeout(until, self.now()) {
            None => self.ring.submit_and_wait(1).map(drop),
            Some(Duration::ZERO) => advance(&mut self.ring),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&timeout);
                self.ring
                    .submitter()
                    .submit_with_args(1, &arguments)
                    .map(drop)
            }
        };
        match entered {
            // The timeout expired, a signal came, or completions must be taken first.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            // No memory for requests. They stay queued; retrying at once would only burn processor time.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM)) => {
                thread::sleep(RETRY_AFTER);
                Ok(())
            }
            entered => entered,
        }
    }

    /// Polls in a loop if that beats sleeping; returns whether something came.
    fn poll_busily(&mut self, until: Option<Instant>, now: Instant) -> io::Result<bool> {
        let timeout = self.sockets.timeout(until, now).unwrap_or(Duration::MAX);
        let busy_poll = self.busy_poll.as_mut();
        let Some(awake) = busy_poll.and_then(|busy| busy.begin(timeout)) else {
            return Ok(false);
        };
        loop {
            self.enter(Some(Instant::ZERO))?;
            if !self.ring.completion().is_empty() {
                return Ok(true);
            }
            if !busy_poll::goes_on(now + awake, || self.sockets.now()) {
                return Ok(false);
            }
        }
    }

    /// Handles a completion.
    fn complete(&mut self, completion: &cqueue::Entry, inbox: &mut Inbox) {
        let (tag, ends) = (completion.user_data(), !cqueue::more(completion.flags()));
        let id = SocketId(tag as u32);
        match tag & !u64::from(u32::MAX) {
            RECEIVED => {
                if let Some(number) = cqueue::buffer_select(completion.flags()) {
                    if let Ok(len) = usize::try_from(completion.result()) {
                        self.take_datagram(id, number, len, inbox);
                    }
                    self.buffers.lend(number);
                }
                if ends {
                    self.receiving = self.receiving.saturating_sub(1);
                }
                if ends && self.sockets.get(id).is_some() {
                    // A receive request ends when all buffers are full; other errors may last.
                    let lasting = completion.result() < 0 && completion.result() != -libc::ENOBUFS;
                    if lasting {
                        self.failed.push(id);
                        self.sockets.retry_soon();
                    } else {
                        self.idle.push(id);
                    }
                }
            }
            ROOM => {
                if let Some(socket) = self.sockets.get_mut(id) {
                    socket.state.full = false;
                }
            }
            WOKEN => {
                self.alarm.reset();
                self.listening = !ends;
            }
            _ => {}
        }
    }

    /// Copies a datagram from a filled buffer; ignores it if it is malformed or its socket is closed.
    fn take_datagram(&self, id: SocketId, number: u16, len: usize, inbox: &mut Inbox) {
        let Some(socket) = self.sockets.get(id) else {
            return;
        };
        let header = if socket.peers_only {
            &self.short_header
        } else {
            &self.header
        };
        let Some(Ok(filled)) = self
            .buffers
            .filled(number, len)
            .map(|octets| RecvMsgOut::parse(octets, header))
        else {
            return;
        };
        let payload = filled.payload_data();
        let told = socket::linux::told(filled.name_data(), filled.control_data(), payload.len());
        let (Ok(received), Some(room)) = (told, inbox.room()) else {
            return;
        };
        let Received {
            len,
            path,
            broadcast,
            // GRO is not enabled.
            segment: _,
        } = received;
        let len = len.min(room.len());
        room[..len].copy_from_slice(&payload[..len]);
        inbox.push(id, path, broadcast, len);
    }

    /// Makes the kernel cancel requests and release their sockets.
    fn cancel(&mut self, which: CancelBuilder) {
        let entry = opcode::AsyncCancel2::new(which)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(CANCELLED);
        // SAFETY: the request refers to no memory.
        if unsafe { queue(&mut self.ring, &entry) } {
            // If that fails, they end with the next wait.
            let _ = advance(&mut self.ring);
        }
    }
}

impl Engine for UringEngine {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn now(&self) -> Instant {
        self.sockets.now()
    }

    fn open(&mut self, bind: Bind) -> io::Result<SocketId> {
        let id = self.sockets.open(bind, Watch::default())?.id;
        self.idle.push(id);
        Ok(id)
    }

    fn close(&mut self, socket: SocketId) {
        self.flush();
        if let Some(zero_copy) = &mut self.zero_copy {
            zero_copy.close(socket);
        }
        if let Some(closed) = self.sockets.remove(socket) {
            self.idle.retain(|&id| id != socket);
            self.failed.retain(|&id| id != socket);
            // Requests in progress would keep its port bound.
            self.cancel(CancelBuilder::fd(Fd(closed.udp.as_raw_fd())).all());
        }
    }

    fn local_addr(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.sockets.local_addr(socket)
    }

    fn mtu(&mut self, interface: u32) -> Option<u32> {
        self.sockets.mtu(interface)
    }

    fn send(&mut self, socket: SocketId, path: &Path, payload: Payload<'_>) -> Sent {
        if self.has_returned(socket) {
            return Sent::Full;
        }
        let before = self.returned();
        let sent = self.transmit(socket, path, &payload);
        if self.returned() > before {
            self.flush();
        }
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
        !watched && !self.sockets.is_retrying() && !self.has_returned(socket)
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.alarm))
    }

    /// Clears the inbox, then fills it; the next wait takes what does not fit. A signal or a malformed
    /// datagram ends the wait early.
    fn wait(&mut self, until: Option<Instant>, inbox: &mut Inbox) -> io::Result<()> {
        inbox.clear();
        self.flush();
        let began = self.now();
        let mut until = until;
        self.arm();
        let mut entered = self.poll_busily(until, began)?;
        let mut woke = None;
        let woke = loop {
            if !entered {
                self.arm();
                self.enter(until)?;
            }
            entered = false;
            let woke = *woke.get_or_insert_with(|| self.sockets.now());
            let before = inbox.len();
            while inbox.room().is_some()
                && let Some(completion) = next(&mut self.ring)
            {
                self.complete(&completion, inbox);
            }
            // The kernel delivers only this many at a time, however many wait: under load, ACKs left in the
            // queue would let timers expire.
            if inbox.len() - before < DELIVERED_MAX || inbox.room().is_none() {
                break woke;
            }
            until = Some(Instant::ZERO);
        };
        if let Some(busy_poll) = &mut self.busy_poll {
            busy_poll.end(began, woke, self.sockets.now(), inbox);
        }
        if self.sockets.is_time_to_retry() {
            self.idle.append(&mut self.failed);
        }
        if let Some(zero_copy) = &mut self.zero_copy {
            zero_copy.reap();
        }
        self.flush();
        Ok(())
    }

    fn receive_drops(&self) -> u64 {
        self.sockets.drops()
    }

    fn gso(&self) -> bool {
        self.sockets.gso()
    }

    fn statistics(&self) -> Statistics {
        let statistics = self.sockets.statistics;
        self.zero_copy
            .as_ref()
            .map_or(statistics, |zero_copy| Statistics {
                zero_copy_sends: zero_copy.sends,
                zero_copy_registered: zero_copy.registered_sends,
                zero_copy_copied: zero_copy.copied,
                ..statistics
            })
    }

    fn receive_buffer(&self, socket: SocketId) -> io::Result<usize> {
        self.sockets.receive_buffer(socket)
    }
}

impl Drop for UringEngine {
    /// The kernel ends a ring some time after it is closed; until then its requests would keep the ports
    /// bound and fill the buffers.
    fn drop(&mut self) {
        // What is queued leaves while its sockets are open.
        self.zero_copy = None;
        self.cancel(CancelBuilder::any());
        for _ in 0..LAST_TRIES {
            while let Some(completion) = next(&mut self.ring) {
                let received = completion.user_data() & !u64::from(u32::MAX) == RECEIVED;
                let ends = received && !cqueue::more(completion.flags());
                self.receiving = self.receiving.saturating_sub(usize::from(ends));
            }
            if self.receiving == 0 {
                return;
            }
            let _ = advance(&mut self.ring);
        }
        self.buffers.leak();
    }
}

impl fmt::Debug for UringEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringEngine")
            .field("sockets", &self.sockets)
            .field("receiving", &self.receiving)
            .field("statistics", &self.statistics())
            .finish_non_exhaustive()
    }
}

impl Bell for OwnedFd {
    fn ring(&self) -> io::Result<()> {
        rustix::io::write(self, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

/// Queues a request, making room first if needed; returns whether it was queued.
///
/// # Safety
/// The memory that the request points to must live until the request has ended.
unsafe fn queue(ring: &mut IoUring, entry: &squeue::Entry) -> bool {
    // SAFETY: guaranteed by the caller, here and below.
    if unsafe { ring.submission().push(entry) }.is_ok() {
        return true;
    }
    // SAFETY: as above.
    ring.submit().is_ok() && unsafe { ring.submission().push(entry) }.is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::thread::{UnshareFlags, unshare_unsafe};
    use socket2::{Domain, Protocol, Socket, Type};

    use super::super::Local;
    use super::super::sockets::Call;
    use super::*;
    use crate::proto::block::{BlockIndex, Rollover};
    use crate::store::memory::{Contents, Memory};
    use crate::store::{Answer, Frames, FramesKey, Mailbox, Store, StoreOptions, Ticket, Writes};
    use crate::testing::skip;
    use crate::wire::Mode;

    /// Index of a device that discards what it is sent.
    const SWALLOW: u32 = 77;

    fn zero_copy(engine: &mut UringEngine) -> &mut ZeroCopy {
        engine.zero_copy.as_mut().expect("a second ring")
    }

    /// An engine, a socket at an address and a path from it to itself; skips without io_uring (`None`).
    fn engine_and_socket(address: [u8; 4]) -> Option<(UringEngine, SocketId, Path)> {
        let mut engine = match UringEngine::new() {
            Ok(engine) => engine,
            Err(why) => {
                skip(&why.to_string());
                return None;
            }
        };
        let bind = Bind::to(SocketAddr::from((address, 0)));
        let id = engine.open(bind).expect("a socket");
        let peer = engine.local_addr(id).expect("an open socket");
        let local = Local::default();
        Some((engine, id, Path { peer, local }))
    }

    /// The longest burst of 1428-octet blocks, from inside a file large enough for lasting memory.
    pub(super) fn longest_burst() -> (Arc<Frames>, BlockIndex, u64) {
        let [near, _] = longest_bursts();
        near
    }

    /// The same twice: near the start of a huge page, which suits registered memory, and far from it.
    fn longest_bursts() -> [(Arc<Frames>, BlockIndex, u64); 2] {
        let (len, blksize) = (4 << 20, 1428);
        let memory = Memory::new(Writes::Off);
        memory.insert(b"image", Contents::Pattern { seed: 1, len });
        let options = StoreOptions {
            threads: 0,
            frame_cache_octets: 8 << 20,
        };
        let store = Store::new(memory, options).expect("no thread is started");
        let (sender, _done) = std::sync::mpsc::channel();
        let mailbox = Mailbox::new(sender, Waker::noop().clone());
        let Answer::Now(Ok(body)) = store.open(Ticket(1), b"image", Mode::Octet, &mailbox) else {
            panic!("a file in memory opens at once");
        };
        // An extent is half a huge page: one of two neighbours starts where a huge page does.
        let mut bursts = [1, 2].map(|extent| {
            let mut blocks = (0..).map(|block| BlockIndex::FIRST.plus(block));
            let begins = |&first: &BlockIndex| Frames::extent_of(first, blksize) == extent;
            let first = blocks.find(begins).expect("a long file");
            let key = FramesKey {
                body: Arc::clone(&body),
                blksize,
                rollover: Rollover::ToZero,
                extent,
            };
            loop {
                match store.frames(&key, &mailbox) {
                    Answer::Now(Ok(frames)) if frames.are_laid_out() => break (frames, first, 45),
                    _ => store.run_next(),
                };
            }
        });
        bursts.sort_by_key(|(frames, first, count)| {
            let burst = frames.burst(*first, *count);
            burst.as_contiguous().expect("laid out").as_ptr().addr() % (2 << 20)
        });
        bursts
    }

    /// Goal: bursts that the kernel copies after all still arrive, and their interface is then avoided.
    /// Method: the loopback, which always copies, marked as an interface that does not.
    #[test]
    fn an_interface_that_copies_is_found_out() {
        let Some((mut engine, id, mut path)) = engine_and_socket([127, 0, 0, 1]) else {
            return;
        };
        if !engine.gso() {
            return skip("this kernel does not cut bursts");
        }
        let mut inbox = Inbox::new();
        assert_eq!(
            engine.send(id, &path, Payload::Packet(b"x")),
            Sent::Datagrams(1)
        );
        engine.wait(None, &mut inbox).expect("a working engine");
        path.local = inbox.get(0).expect("what was sent").path.local;
        let (frames, first, count) = longest_burst();
        let burst = Payload::Frames {
            frames: &frames,
            first,
            count,
        };
        let expected = burst.burst().to_contiguous();

        zero_copy(&mut engine).believe_in(path.local.interface);
        for zero_copy_sends in [1, 2, 3, 4, 5, 6, 7, 8, 8, 8] {
            assert_eq!(engine.send(id, &path, burst), Sent::Datagrams(45));
            let mut arrived = Vec::new();
            while arrived.len() < expected.len() {
                engine.wait(None, &mut inbox).expect("a working engine");
                (0..inbox.len())
                    .filter_map(|place| inbox.get(place))
                    .for_each(|datagram| arrived.extend_from_slice(datagram.octets));
            }
            assert!(*arrived == *expected);
            while zero_copy(&mut engine).is_busy() {
                let until = engine.now() + Duration::from_millis(1);
                engine
                    .wait(Some(until), &mut inbox)
                    .expect("a working engine");
            }
            assert_eq!(engine.statistics().zero_copy_sends, zero_copy_sends);
            assert_eq!(engine.statistics().zero_copy_copied, zero_copy_sends);
        }
    }

    /// Goal: a device that reads memory in place gets the octets of a burst, from registered memory where
    /// the kernel supports it, and nothing is copied. Method: a device that discards what it is sent, in a
    /// network namespace of its own. A packet socket that captures a burst causes a copy, so capturing uses
    /// a second burst.
    #[test]
    fn a_device_takes_bursts_from_where_they_lie() {
        with_device_that_swallows("", || {
            (0..2).for_each(take_bursts);
        });
    }

    /// Goal: a device that takes bursts without a copy is not mistaken for one that copies because it is
    /// slow: for a send without room, the kernel reports a copy. Method: the same device behind a queue with
    /// a low rate, filled repeatedly.
    #[test]
    fn a_device_that_is_slow_is_not_taken_for_one_that_copies() {
        let slow = "&& tc qdisc add dev swallow root tbf rate 400mbit burst 128k limit 64m";
        with_engine_at_device(slow, |mut engine, id, path| {
            let (frames, first, count) = longest_burst();
            let burst = Payload::Frames {
                frames: &frames,
                first,
                count,
            };
            let mut inbox = Inbox::new();
            let mut sent = 0;
            let deadline = engine.now() + Duration::from_secs(30);
            let mut wait = |engine: &mut UringEngine| {
                let waited = engine.wait(Some(deadline), &mut inbox);
                waited.expect("a working engine");
                assert!(engine.now() < deadline, "it waits for room in vain");
            };
            for _ in 0..2 * usize::from(habits::COPIED_IN_A_ROW) {
                while engine.send(id, &path, burst) != Sent::Full {
                    sent += 1;
                }
                while !engine.has_room(id) {
                    wait(&mut engine);
                }
            }
            engine.flush();
            let statistics = engine.statistics();
            assert_eq!((statistics.zero_copy_sends, statistics.sends), (sent, 0));
            assert_eq!(statistics.zero_copy_copied, 0);
            // Where there was no room, bursts do not wait for each other: none may overtake another.
            while engine.send(id, &path, burst) == Sent::Full {
                wait(&mut engine);
            }
            assert_eq!(engine.statistics().zero_copy_sends, sent + 1);
        });
    }

    /// Goal: bursts wait for each other only until something else is sent, or a wait begins, and leave before that.
    /// Method: two bursts and a packet, as a packet socket sees them.
    #[test]
    fn bursts_are_submitted_together_and_in_order() {
        with_engine_at_device("", |mut engine, id, path| {
            let watcher = watcher();
            let (frames, first, count) = longest_burst();
            let burst = |from: u64| Payload::Frames {
                frames: &frames,
                first: first.plus(from),
                count,
            };
            for from in [0, count] {
                assert_eq!(engine.send(id, &path, burst(from)), Sent::Datagrams(45));
            }
            assert!(zero_copy(&mut engine).is_busy());
            assert_eq!(engine.statistics().zero_copy_sends, 0, "they wait");
            engine.send(id, &path, Payload::Packet(b"x"));
            assert_eq!(engine.statistics().zero_copy_sends, 2);
            let bursts = [0, count].map(|from| burst(from).burst().to_contiguous());
            let expected = [&*bursts[0], &*bursts[1], b"x"].concat();
            assert!(captured(&watcher, expected.len()) == expected);

            engine.send(id, &path, burst(0));
            let now = engine.now();
            engine
                .wait(Some(now), &mut Inbox::new())
                .expect("a working engine");
            assert_eq!(engine.statistics().zero_copy_sends, 3);
            captured(&watcher, usize::MAX);

            // What is queued when the engine ends leaves while its socket is open, registered or not.
            let address = engine.local_addr(id).expect("open");
            engine.close(id);
            let id = engine.open(Bind::to(address)).expect("the same port");
            engine.send(id, &path, burst(0));
            drop(engine);
            assert!(captured(&watcher, usize::MAX) == *bursts[0]);
        });
    }

    /// Goal: memory is registered only while no burst is queued, since that may empty the slots of others. Method:
    /// bursts from memory that is registered, and from memory that is not.
    #[test]
    fn nothing_is_queued_while_memory_is_registered() {
        with_engine_at_device("", |mut engine, id, path| {
            let send_buffer = engine.sockets.get(id).expect("open").send_buffer;
            let [known, new] = [longest_burst(), longest_burst()];
            let octets = new.0.burst(new.1, new.2).as_contiguous();
            let suits = registered::suits(octets.expect("laid out"), send_buffer);
            if !suits || !zero_copy(&mut engine).registers() {
                return skip("this kernel sends from no registered memory, or the buffer is small");
            }
            for ((frames, first, count), submitted) in [(&known, 0), (&known, 0), (&new, 2)] {
                let (first, count) = (*first, *count);
                let burst = Payload::Frames {
                    frames,
                    first,
                    count,
                };
                assert_eq!(engine.send(id, &path, burst), Sent::Datagrams(45));
                assert_eq!(engine.statistics().zero_copy_sends, submitted);
            }
        });
    }

    /// Goal: nothing that follows overtakes blocks that came back, whatever way it would take. Method: such blocks, as
    /// if there had been no room for them.
    #[test]
    fn what_came_back_goes_first() {
        with_engine_at_device("", |mut engine, id, path| {
            let watcher = watcher();
            let (frames, first, _) = longest_burst();
            let blocks = |from: u64, count| Payload::Frames {
                frames: &frames,
                first: first.plus(from),
                count,
            };
            let burst = frames.burst(first, 45);
            let call = Call {
                socket: engine.sockets.get(id).expect("open"),
                path: &path,
                burst: &burst,
                cut: None,
                before: 0,
            };
            let piece = Piece::of(&call, &frames, first);
            zero_copy(&mut engine).returned.push_back(piece);
            // A burst without a copy, a short one with a copy, and one block.
            for (from, count) in [(45, 50), (95, 2), (97, 1)] {
                let sent = engine.transmit(id, &path, &blocks(from, count));
                assert_eq!(sent.expect("no error"), count as usize);
            }
            assert_eq!(engine.statistics(), Statistics::default());
            assert_eq!(engine.send(id, &path, blocks(98, 1)), Sent::Full);
            engine.flush();
            let expected = frames.burst(first, 98).to_contiguous();
            assert!(captured(&watcher, usize::MAX) == *expected);
            assert!(engine.has_room(id));
        });
    }

    /// Goal: the sender of a burst that the kernel refused learns of it with the next one, and bursts to others still
    /// leave without a copy. Method: a peer that no route leads to, between others.
    #[test]
    fn what_the_kernel_refuses_is_told_with_the_next_burst() {
        with_engine_at_device("", |mut engine, id, path| {
            let there = path;
            let nowhere = Path {
                peer: SocketAddr::from(([10, 2, 0, 9], 9)),
                ..there
            };
            let (frames, first, count) = longest_burst();
            let burst = Payload::Frames {
                frames: &frames,
                first,
                count,
            };
            let wait = |engine: &mut UringEngine| {
                let now = engine.now();
                let waited = engine.wait(Some(now), &mut Inbox::new());
                waited.expect("a working engine");
            };
            for path in [there, nowhere, there] {
                assert_eq!(engine.send(id, &path, burst), Sent::Datagrams(45));
            }
            wait(&mut engine);
            assert!(engine.has_room(id));
            assert_eq!(engine.statistics().zero_copy_sends, 2);
            for zero_copy_sends in [3, 4] {
                let told = engine.send(id, &nowhere, burst);
                assert_eq!(told, Sent::Failed(libc::ENETUNREACH));
                assert_eq!(engine.send(id, &there, burst), Sent::Datagrams(45));
                wait(&mut engine);
                assert_eq!(engine.statistics().zero_copy_sends, zero_copy_sends);
            }
            assert_eq!(engine.statistics().zero_copy_copied, 0);
        });
    }

    /// Goal: blocks leave in order also if there is room for some of them only, whatever way they take. Method: long
    /// windows with a short end, through a send buffer that holds two bursts and a device that is slow, as a packet
    /// socket sees them.
    #[test]
    fn blocks_leave_in_order_when_there_is_little_room() {
        let slow = "&& tc qdisc add dev swallow root tbf rate 400mbit burst 128k limit 64m";
        with_engine_at_device(slow, |mut engine, id, path| {
            zero_copy(&mut engine).submit_singly();
            let udp = &engine.sockets.get(id).expect("open").udp;
            let small = socket2::SockRef::from(udp).set_send_buffer_size(64 << 10);
            small.expect("a smaller buffer");
            let watcher = watcher();
            let (frames, first, _) = longest_burst();
            let (mut next, end) = (first, first.plus(400));
            let mut inbox = Inbox::new();
            let mut captured_octets = Vec::new();
            let deadline = engine.now() + Duration::from_secs(30);
            while next < end {
                let burst = Payload::Frames {
                    frames: &frames,
                    first: next,
                    count: 100.min(end.past(next)),
                };
                match engine.send(id, &path, burst) {
                    Sent::Datagrams(sent) => next = next.plus(sent as u64),
                    Sent::Full => engine
                        .wait(Some(deadline), &mut inbox)
                        .expect("a working engine"),
                    Sent::Failed(errno) => panic!("error {errno}"),
                }
                captured_octets.extend(captured(&watcher, usize::MAX));
                assert!(engine.now() < deadline);
            }
            while !engine.has_room(id) {
                let waited = engine.wait(Some(deadline), &mut inbox);
                waited.expect("a working engine");
                assert!(engine.now() < deadline);
            }
            let expected = frames.burst(first, 400).to_contiguous();
            // Packets are captured as they leave the queue of the device.
            while captured_octets.len() < expected.len() && engine.now() < deadline {
                captured_octets.extend(captured(&watcher, usize::MAX));
                thread::sleep(Duration::from_millis(1));
            }
            assert!(captured_octets == *expected);
            assert!(engine.statistics().zero_copy_sends > 0);
        });
    }

    /// Goal: a socket that is registered with the ring for sending is really closed. Method: its port.
    #[test]
    fn a_port_is_free_although_bursts_left_from_it() {
        with_engine_at_device("", |mut engine, id, path| {
            let (frames, first, count) = longest_burst();
            let burst = Payload::Frames {
                frames: &frames,
                first,
                count,
            };
            let mut id = id;
            for _ in 0..100 {
                let address = engine.local_addr(id).expect("open");
                engine.send(id, &path, burst);
                engine.close(id);
                while zero_copy(&mut engine).is_busy() {
                    zero_copy(&mut engine).reap();
                }
                drop(std::net::UdpSocket::bind(address).expect("a port that is free again"));
                let any = Bind::to(SocketAddr::from((address.ip(), 0)));
                id = engine.open(any).expect("a socket");
            }
            assert_eq!(engine.statistics().zero_copy_sends, 100);
            engine.send(id, &path, burst);
            let address = engine.local_addr(id).expect("open");
            drop(engine);
            std::net::UdpSocket::bind(address).expect("a port that is free again");
        });
    }

    /// Goal: an ICMP message about a narrow path, true or forged, makes no burst fail and fragments no
    /// block. Method: a route as narrow as such a message makes it.
    #[test]
    fn a_path_that_is_said_to_be_narrow_takes_bursts() {
        let narrow = "&& ip route change 10.1.0.0/24 dev swallow src 10.1.0.1 mtu 600";
        with_engine_at_device(narrow, |mut engine, id, path| {
            let burst = Payload::Segments {
                octets: &[0; 10_000],
                segment: 1400,
            };
            let sent = engine.send(id, &path, burst);
            assert_eq!(sent, Sent::Datagrams(8));
            let statistics = engine.statistics();
            assert_eq!((statistics.sends, statistics.gso_sends), (1, 1));
        });
    }

    /// Runs `work` in a network namespace whose one device discards what it is sent; `then` is additional
    /// setup. Skips with a message where that is not possible.
    fn with_device_that_swallows(then: &str, work: impl FnOnce() + Send + 'static) {
        let set_up = format!(
            "ip link add swallow index {SWALLOW} type ifb && ip addr add 10.1.0.1/24 dev swallow \
             && ip link set swallow up {then}"
        );
        let alone = thread::spawn(move || {
            // SAFETY: only this thread changes namespace, and it takes no descriptors along that others use.
            let moved = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            if moved.is_err() {
                return skip("network namespaces are not permitted here");
            }
            let made = Command::new("sh").args(["-c", &set_up]).status();
            if !made.is_ok_and(|status| status.success()) {
                return skip("there is no `ip` or `tc`, or the kernel has no ifb devices");
            }
            work();
        });
        alone.join().expect("a thread that passes");
    }

    /// The same with an engine, a socket and a path through the device.
    fn with_engine_at_device(
        then: &str,
        work: impl FnOnce(UringEngine, SocketId, Path) + Send + 'static,
    ) {
        with_device_that_swallows(then, || {
            let Some((engine, id, path)) = engine_and_socket([10, 1, 0, 1]) else {
                return;
            };
            if !engine.gso() {
                return skip("this kernel does not cut bursts");
            }
            work(engine, id, beyond(&path));
        });
    }

    /// A path to a peer beyond that device.
    fn beyond(path: &Path) -> Path {
        Path {
            peer: SocketAddr::from(([10, 1, 0, 9], 9)),
            local: Local {
                address: Some(path.peer.ip()),
                interface: SWALLOW,
            },
        }
    }

    fn take_bursts(from: usize) {
        let Some((mut engine, id, path)) = engine_and_socket([10, 1, 0, 1]) else {
            return;
        };
        if !engine.gso() {
            return skip("this kernel does not cut bursts");
        }
        let path = beyond(&path);
        let (frames, first, count) = longest_bursts()[from].clone();
        let burst = Payload::Frames {
            frames: &frames,
            first,
            count,
        };
        let send_buffer = engine.sockets.get(id).expect("open").send_buffer;
        let octets = burst.burst().as_contiguous().expect("laid out");
        let suits = registered::suits(octets, send_buffer);
        // Half a huge page is more than the share of any send buffer that is asked for.
        assert!(!suits || from == 0);
        let mut send = |sends| {
            assert_eq!(engine.send(id, &path, burst), Sent::Datagrams(45));
            while zero_copy(&mut engine).is_busy() {
                zero_copy(&mut engine).reap();
            }
            let statistics = engine.statistics();
            assert_eq!(statistics.zero_copy_sends, sends);
            if zero_copy(&mut engine).registers() {
                let registered = if suits { sends } else { 0 };
                assert_eq!(statistics.zero_copy_registered, registered);
            }
            statistics.zero_copy_copied
        };
        assert_eq!(send(1), 0);
        let watcher = watcher();
        assert_eq!(send(2), 1);

        let expected = burst.burst().to_contiguous();
        assert!(captured(&watcher, expected.len()) == *expected);
    }

    /// A packet socket, which gets a copy of all that is sent from now on.
    fn watcher() -> Socket {
        let all = Some(Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be())));
        let watcher = Socket::new(Domain::PACKET, Type::DGRAM, all).expect("as root");
        watcher.set_nonblocking(true).expect("a socket");
        // A packet may count for all of the huge page that it lies in.
        socket::linux::force_receive_buffer(&watcher, 16 << 20);
        watcher
    }

    /// The payload of what a packet socket got, up to a length.
    fn captured(watcher: &Socket, len: usize) -> Vec<u8> {
        let mut arrived = Vec::new();
        let mut packet = vec![0; 1 << 16];
        while arrived.len() < len
            && let Ok(len) = io::Read::read(&mut &*watcher, &mut packet)
        {
            // Skip the IPv4 and UDP headers, whether or not the burst was segmented by then.
            arrived.extend_from_slice(&packet[28..len]);
        }
        arrived
    }

    #[test]
    fn only_bursts_leave_without_a_copy() {
        let Some((engine, ..)) = engine_and_socket([127, 0, 0, 1]) else {
            return;
        };
        // A new ring works; it sends bursts, which need GSO.
        assert_eq!(engine.can_zero_copy(), engine.gso());
        assert!(!engine.without_gso().can_zero_copy());
    }

    #[test]
    fn a_port_is_free_once_its_engine_or_socket_is_gone() {
        let Some((engine, id, path)) = engine_and_socket([127, 0, 0, 1]) else {
            return;
        };
        let address = path.peer;
        let mut inbox = Inbox::new();
        drop((engine, id));
        for _ in 0..50 {
            let mut engine = UringEngine::new().expect("an engine");
            let bind = Bind::to(address);
            let id = engine.open(bind).expect("a free port");
            engine
                .wait(Some(Instant::ZERO), &mut inbox)
                .expect("a working engine");
            engine.close(id);
            engine.open(bind).expect("a port that is free again");
            engine
                .wait(Some(Instant::ZERO), &mut inbox)
                .expect("a working engine");
        }
    }

    /// Goal: a wait that begins by spinning ends on time, on a datagram and on the waker like any other.
    #[test]
    fn a_wait_that_begins_awake_is_a_wait() {
        let Some((engine, id, path)) = engine_and_socket([127, 0, 0, 1]) else {
            return;
        };
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
    fn a_socket_that_was_full_ends_the_wait_once_when_it_has_room() {
        let Some((mut engine, id, _)) = engine_and_socket([127, 0, 0, 1]) else {
            return;
        };
        let full = Stopped {
            sent: 0,
            error: io::Error::from_raw_os_error(libc::EAGAIN),
        };
        assert_eq!(engine.stopped(id, &full), Sent::Full);
        assert_eq!(engine.sockets.retry_at(), None);
        let mut inbox = Inbox::new();
        engine.wait(None, &mut inbox).expect("a working engine");
        assert!(inbox.is_empty());
        assert!(!engine.sockets.get(id).expect("open").state.full);
    }
}
