//! Zero-copy sends: the device reads bursts in place, without a copy by the kernel.
//!
//! Bursts are queued and submitted together: with a system call for each, up to a third of their cost would be the
//! calls.
//! Those that the kernel refuses come back, to be sent again.
//!
//! With a second completion, the notification, the kernel reports that it no longer needs the memory, and whether it
//! had to copy after all. These completions use a ring of their own, where they wake no thread: they are taken when
//! the next bursts leave or the next wait ends.
//!
//! Where the kernel supports it (Linux 6.15), frames' memory is registered in advance, so that the kernel need not
//! look up its pages for each burst. Sockets are registered too.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode};
use slab::Slab;

use super::files::{self, Files};
use super::habits::Habits;
use super::registered::{self, Registered};
use super::ring::{Disabled, advance, next};
use crate::engine::socket::linux::Message;
use crate::engine::socket::mapped;
use crate::engine::sockets::{Call, RETRY_AFTER};
use crate::engine::{Path, Payload, SocketId};
use crate::proto::block::BlockIndex;
use crate::store::Frames;

/// Limit of bursts in flight; further ones are copied. At 64 KiB each they keep a device of 100 Gbit/s busy
/// for 300 µs.
const IN_FLIGHT_MAX: usize = 64;

/// Limit of bursts that are submitted together, and wait for each other: sixteen take some 50 µs.
const BATCH_MAX: usize = 16;

/// Bursts that are submitted one by one after one found no room. In a batch, those behind it may find room, and
/// overtake it: their client would have to ask for it again.
const SINGLES_AFTER_FULL: u32 = 1024;

/// How long bursts to a peer are copied after the kernel refused one for another reason than a lack of room: sendmsg(2)
/// tells why, and whether its datagrams can be sent singly.
const REFUSED_LIFE: Duration = Duration::from_secs(10);

/// Limit of such peers; beyond it, all are forgotten and learned again.
const REFUSED_MAX: usize = 256;

/// The shortest burst for which zero-copy is cheaper than copying, in octets: its overhead is some 4 µs for
/// any length, and copying and sending 13 KiB takes as long.
const BURST_OCTETS_MIN: usize = 16 * 1024;

/// How often the ring is polled for the last completions on drop.
const LAST_TRIES: u32 = 10;

/// Makes the kernel report whether it copied (IORING_SEND_ZC_REPORT_USAGE, Linux 6.2).
const REPORT_USAGE: u16 = 1 << 3;

/// Tells the kernel that the octets lie in registered memory (IORING_RECVSEND_FIXED_BUF; with SENDMSG_ZC
/// since Linux 6.15).
const FIXED_BUFFER: u16 = 1 << 2;

/// Offset in a submission of the registered buffer's index, in octets: the kernel's `buf_index`.
const BUFFER_INDEX_AT: usize = 40;

/// Tags the probe for kernel support of [`FIXED_BUFFER`] here, whose notification may come late. No burst has this key.
const PROBE: u64 = u64::MAX;

/// The kernel's report that it copied (IORING_NOTIF_USAGE_ZC_COPIED).
const USAGE_COPIED: u32 = 1 << 31;

/// Sends bursts of shared frames without copying, where that works.
pub(super) struct ZeroCopy {
    ring: IoUring,
    in_flight: Slab<InFlight>,
    /// The bursts that are queued and not submitted.
    queued: Vec<Queued>,
    /// How many bursts are yet to be submitted one by one.
    singles: u32,
    /// Bursts that the kernel refused, in order, and what was to follow them. Whoever sends takes them from here.
    pub(super) returned: VecDeque<Piece>,
    /// Peers to which bursts are copied, and until when.
    refused: HashMap<IpAddr, Instant>,
    /// The registered frame memory; `None` if the kernel does not support it.
    registered: Option<Registered>,
    files: Files,
    habits: Habits,
    /// Whether the ring is usable.
    works: bool,
    /// Bursts sent through this ring.
    pub(super) sends: u64,
    /// Bursts sent from registered memory.
    pub(super) registered_sends: u64,
    /// Bursts that the kernel copied after all.
    pub(super) copied: u64,
}

/// A burst: blocks of a file that are sent together.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) socket: SocketId,
    pub(super) path: Path,
    frames: Arc<Frames>,
    first: BlockIndex,
    count: u64,
}

impl Piece {
    /// What a call was to send of these frames, from block `first` on.
    pub(super) fn of<S>(call: &Call<'_, S>, frames: &Arc<Frames>, first: BlockIndex) -> Self {
        Self {
            socket: call.socket.id,
            path: *call.path,
            frames: Arc::clone(frames),
            first,
            count: call.burst.count() as u64,
        }
    }

    pub(super) const fn payload(&self) -> Payload<'_> {
        Payload::Frames {
            frames: &self.frames,
            first: self.first,
            count: self.count,
        }
    }

    /// Takes away the first datagrams, which were sent.
    pub(super) const fn skip(&mut self, datagrams: usize) {
        self.first = self.first.plus(datagrams as u64);
        self.count = self.count.saturating_sub(datagrams as u64);
    }
}

/// A burst that is queued, or that the kernel may still read: its frames are kept so that their memory is not reused.
struct InFlight {
    piece: Piece,
    is_registered: bool,
    answer: Answer,
}

/// What the kernel has said about a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Sent,
    /// The notification's report of a copy is then meaningless.
    Refused,
}

/// What the kernel reads when a burst is submitted.
struct Queued {
    key: usize,
    message: Message,
    part: libc::iovec,
    header: libc::msghdr,
}

impl ZeroCopy {
    pub(super) fn new() -> io::Result<Self> {
        // Each burst has a result and a notification.
        let disabled = Disabled::new(BATCH_MAX as u32, 2 * IN_FLIGHT_MAX as u32)?;
        let registered = Registered::new(disabled.ring());
        let files = Files::new(disabled.ring());
        let mut ring = disabled.enable(
            &[opcode::SendMsgZc::CODE],
            Flags::FIXED_FILE,
            &[registered::UPDATE, files::UPDATE],
        )?;
        let takes_registered = takes_registered_memory(&mut ring)?;
        Ok(Self {
            ring,
            in_flight: Slab::with_capacity(IN_FLIGHT_MAX),
            queued: Vec::with_capacity(BATCH_MAX),
            singles: 0,
            returned: VecDeque::new(),
            refused: HashMap::new(),
            registered: registered.filter(|_| takes_registered),
            files,
            habits: Habits::default(),
            works: true,
            sends: 0,
            registered_sends: 0,
            copied: 0,
        })
    }

    /// Queues what a call was to send of these frames, from block `first` on. `false` means that copying is better:
    /// then nothing was queued.
    pub(super) fn queue<S>(
        &mut self,
        call: &Call<'_, S>,
        frames: &Arc<Frames>,
        first: BlockIndex,
    ) -> bool {
        let octets = call.burst.as_contiguous();
        let Some(octets) = octets.filter(|octets| octets.len() >= BURST_OCTETS_MIN) else {
            return false;
        };
        let (socket, interface) = (call.socket, call.path.local.interface);
        if !self.works
            || interface == 0
            || self.habits.avoid(&socket.udp, interface)
            || self.is_refused(call.path.peer.ip())
        {
            return false;
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.enter();
        }
        let place = self.place(octets, frames, socket.send_buffer);
        // All of these may have changed by submitting others; what came back goes first.
        if !self.works || self.in_flight.len() >= IN_FLIGHT_MAX || self.has_returned(socket.id) {
            return false;
        }
        let peer = if socket.ipv6 {
            mapped(call.path.peer)
        } else {
            call.path.peer
        };
        let Ok(message) = Message::new(socket.ipv6, peer, &call.path.local, call.cut) else {
            return false;
        };
        let file = if socket.has_any_port {
            self.files.place(&self.ring, socket.id, &socket.udp)
        } else {
            None
        };
        let key = self.in_flight.insert(InFlight {
            piece: Piece::of(call, frames, first),
            is_registered: place.is_some(),
            answer: Answer::Awaited,
        });
        let header = self.keep(key, message, octets);
        let sends = file.map_or_else(
            || opcode::SendMsgZc::new(Fd(socket.udp.as_raw_fd()), header),
            |file| opcode::SendMsgZc::new(Fixed(file), header),
        );
        let fixed = place.map_or(0, |_| FIXED_BUFFER);
        let mut entry = sends
            .ioprio(REPORT_USAGE | fixed)
            .flags(libc::MSG_DONTWAIT as u32)
            .build()
            .user_data(key as u64);
        if let Some(place) = place {
            name_buffer(&mut entry, place);
        }
        // SAFETY: the header and all that it points to, except the octets, are read when the entry is submitted, and
        // are kept in `queued` until then, or until the ring is gone. The octets live until the notification, since
        // `in_flight` holds the frames that they are a part of.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.queued.pop();
            self.in_flight.remove(key);
            return false;
        }
        self.singles = self.singles.saturating_sub(1);
        if self.singles > 0 || self.queued.len() >= BATCH_MAX {
            self.enter();
        }
        true
    }

    /// The slot of the registered memory that a part of these frames lies in; `None` if it is to be sent from memory
    /// that is not registered.
    fn place(&mut self, octets: &[u8], frames: &Frames, send_buffer: usize) -> Option<u16> {
        let registered = self.registered.as_ref()?;
        let memory = frames.lasting()?;
        if !registered::suits(octets, send_buffer) {
            return None;
        }
        // To register it may empty slots that queued bursts name.
        if !registered.is_settled(&memory) {
            self.submit();
        }
        self.registered.as_mut()?.place(&self.ring, &memory)
    }

    /// Whether bursts to a peer are copied because one was refused.
    fn is_refused(&mut self, peer: IpAddr) -> bool {
        // Usually there is none.
        if self.refused.is_empty() {
            return false;
        }
        let until = self.refused.get(&peer);
        let is_over = until.is_some_and(|&until| until <= Instant::now());
        if is_over {
            self.refused.remove(&peer);
        }
        self.refused.contains_key(&peer)
    }

    /// Keeps what the kernel will read of a burst, and returns where. It stays there: there is room for a batch.
    fn keep(&mut self, key: usize, message: Message, octets: &[u8]) -> *const libc::msghdr {
        debug_assert!(self.queued.len() < BATCH_MAX);
        let part = libc::iovec {
            iov_base: octets.as_ptr().cast_mut().cast(),
            iov_len: octets.len(),
        };
        let header = message.header(&raw const part, 1);
        let place = self.queued.len();
        self.queued.push(Queued {
            key,
            message,
            part,
            header,
        });
        let queued = &mut self.queued[place];
        // Only now are they where the kernel will find them.
        queued.header = queued.message.header(&raw const queued.part, 1);
        &raw const queued.header
    }

    /// Whether bursts of a socket came back, which go before all others.
    pub(super) fn has_returned(&self, socket: SocketId) -> bool {
        self.returned.iter().any(|piece| piece.socket == socket)
    }

    /// Submits what is queued.
    pub(super) fn submit(&mut self) {
        if !self.queued.is_empty() && self.works {
            self.enter();
        }
    }

    /// Makes the kernel let go of a socket that is about to be closed, of which nothing is queued.
    pub(super) fn close(&mut self, socket: SocketId) {
        self.files.remove(&self.ring, socket);
        self.returned.retain(|piece| piece.socket != socket);
    }

    /// Whether the ring is still in use, that is, was not given up.
    pub(super) const fn works(&self) -> bool {
        self.works
    }

    /// Whether the kernel may still read what was sent.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether the kernel sends from registered memory.
    #[cfg(test)]
    pub(super) const fn registers(&self) -> bool {
        self.registered.is_some()
    }

    /// Has the next bursts submitted one by one.
    #[cfg(test)]
    pub(super) const fn submit_singly(&mut self) {
        self.singles = SINGLES_AFTER_FULL;
    }

    /// Marks an interface as not copying.
    #[cfg(test)]
    pub(super) fn believe_in(&mut self, interface: u32) {
        self.habits.believe_in(interface);
    }

    /// Takes pending notifications, and periodically makes the kernel release memory that no frames use any
    /// more.
    pub(super) fn reap(&mut self) {
        if let Some(registered) = &mut self.registered {
            registered.tidy(&self.ring);
        }
        // A ring that was given up may hold entries that were sent in another way since.
        if self.works && !self.in_flight.is_empty() {
            self.enter();
        }
    }

    /// Submits what is queued, and takes all results and notifications. Results are there at once, because the kernel
    /// is told not to wait for room.
    fn enter(&mut self) {
        loop {
            let entered = advance(&mut self.ring);
            self.take();
            match entered {
                Ok(()) if self.ring.submission().is_empty() => break,
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy
                    ) => {}
                Err(error) => return self.fail(&error),
            }
        }
        self.queued.clear();
    }

    /// Gives up the ring: what is still queued is never submitted, since the ring is not entered again.
    fn fail(&mut self, error: &io::Error) {
        self.works = false;
        tracing::warn!(%error, "bursts are copied from now on: the ring that sent them without failed");
        for queued in &self.queued {
            let burst = self.in_flight.get(queued.key);
            if burst.is_some_and(|burst| burst.answer == Answer::Awaited) {
                let burst = self.in_flight.remove(queued.key);
                self.returned.push_back(burst.piece);
            }
        }
    }

    /// Takes all completions.
    fn take(&mut self) {
        while let Some(completion) = next(&mut self.ring) {
            let (flags, key) = (completion.flags(), completion.user_data() as usize);
            if !cqueue::notif(flags) {
                self.answered(key, completion.result());
            }
            // Without the "more" flag, no notification follows, or this is it.
            if cqueue::more(flags) {
                continue;
            }
            if let Some(burst) = self.in_flight.try_remove(key)
                && cqueue::notif(flags)
                && burst.answer != Answer::Refused
            {
                let copied = completion.result() as u32 & USAGE_COPIED != 0;
                self.copied += u64::from(copied);
                self.habits.note(burst.piece.path.local.interface, copied);
            }
        }
    }

    /// Handles the result of a send.
    fn answered(&mut self, key: usize, result: i32) {
        let Some(burst) = self.in_flight.get_mut(key) else {
            return;
        };
        if result >= 0 {
            burst.answer = Answer::Sent;
            self.sends += 1;
            self.registered_sends += u64::from(burst.is_registered);
            return;
        }
        burst.answer = Answer::Refused;
        let piece = burst.piece.clone();
        match -result {
            libc::EAGAIN => self.singles = SINGLES_AFTER_FULL,
            // The kernel or the socket does not support it.
            libc::EINVAL | libc::EOPNOTSUPP => self.habits.give_up(piece.path.local.interface),
            // Too much memory is in use, above all of what may be locked. That passes.
            libc::ENOMEM | libc::ENOBUFS => self.refuse(piece.path.peer.ip(), RETRY_AFTER),
            _ => self.refuse(piece.path.peer.ip(), REFUSED_LIFE),
        }
        self.returned.push_back(piece);
    }

    /// Has bursts to a peer copied for so long: at least the one that comes back.
    fn refuse(&mut self, peer: IpAddr, life: Duration) {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.insert(peer, Instant::now() + life);
    }
}

/// Whether the kernel sends from registered memory. One that does rejects the invalid descriptor; any
/// other rejects the flag.
fn takes_registered_memory(ring: &mut IoUring) -> io::Result<bool> {
    // SAFETY: a msghdr of zeros is one without address, data and control messages.
    let header: libc::msghdr = unsafe { mem::zeroed() };
    let entry = opcode::SendMsgZc::new(Fd(-1), &raw const header)
        .ioprio(FIXED_BUFFER)
        .build()
        .user_data(PROBE);
    // SAFETY: the header outlives the submission: either it succeeds below, or the ring is dropped.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(io::Error::other)?;
    while let Err(error) = advance(ring) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(next(ring).is_some_and(|completion| completion.result() == -libc::EBADF))
}

/// Sets a submission's registered buffer index, which this operation's builder cannot do.
const fn name_buffer(entry: &mut squeue::Entry, place: u16) {
    const {
        assert!(BUFFER_INDEX_AT + size_of::<u16>() <= size_of::<squeue::Entry>());
        assert!(BUFFER_INDEX_AT.is_multiple_of(align_of::<u16>()));
        assert!(align_of::<squeue::Entry>() >= align_of::<u16>());
    }
    // SAFETY: an entry has the kernel's layout, and the offset lies within it, aligned; the two octets there
    // are a number, for which any value is valid.
    unsafe {
        let start: *mut u8 = (&raw mut *entry).cast();
        start.add(BUFFER_INDEX_AT).cast::<u16>().write(place);
    }
}

impl Drop for ZeroCopy {
    fn drop(&mut self) {
        let mut tries = 0;
        while self.works && !self.in_flight.is_empty() && tries < LAST_TRIES {
            self.enter();
            std::thread::sleep(Duration::from_millis(1));
            tries += 1;
        }
        self.files.clear(&self.ring);
        // Memory that a device may still read must not be reused.
        mem::take(&mut self.in_flight)
            .into_iter()
            .for_each(|(_, burst)| mem::forget(burst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sockets::Sockets;
    use crate::engine::uring::tests::longest_burst;
    use crate::engine::{Bind, Local};
    use crate::testing::skip;

    /// Goal: bursts queued in a ring that was given up come back, and never reach the kernel, whatever else is in
    /// flight: they are sent in another way.
    #[test]
    fn a_ring_that_was_given_up_is_not_entered_again() {
        let mut zero_copy = match ZeroCopy::new() {
            Ok(zero_copy) => zero_copy,
            Err(why) => return skip(&why.to_string()),
        };
        let (frames, first, count) = longest_burst();
        let path = Path {
            peer: ([127, 0, 0, 1], 9).into(),
            local: Local {
                address: None,
                interface: 1,
            },
        };
        let mut sockets = Sockets::new().expect("a socket");
        let bind = Bind::to(([127, 0, 0, 1], 0).into());
        let socket = sockets.open(bind, ()).expect("a socket");
        zero_copy.believe_in(1);
        let burst = frames.burst(first, count);
        let call = Call {
            socket,
            path: &path,
            burst: &burst,
            cut: u16::try_from(burst.segment()).ok(),
            before: 0,
        };
        assert!(zero_copy.queue(&call, &frames, first));
        zero_copy.fail(&io::Error::from_raw_os_error(libc::EBADF));
        assert_eq!(zero_copy.returned.len(), 1);
        assert!(!zero_copy.is_busy());
        let piece = zero_copy.returned[0].clone();
        assert_eq!((piece.socket, piece.count), (socket.id, count));
        assert!(!zero_copy.queue(&call, &frames, first), "it is in use");
        zero_copy.in_flight.insert(InFlight {
            piece,
            is_registered: false,
            answer: Answer::Sent,
        });
        zero_copy.submit();
        zero_copy.reap();
        assert_eq!(zero_copy.ring.submission().len(), 1, "it was submitted");
    }
}
