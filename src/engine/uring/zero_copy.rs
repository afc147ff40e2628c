//! Bursts that the device takes from where they lie, without the kernel copying them.
//!
//! The kernel tells by a second completion when it needs the memory no more, and whether it had to
//! copy all the same, as it does on the loopback and on virtual links; then copying at once is cheaper
//! and the interface is left alone for a while. These completions come by a ring of their own, where
//! they wake nobody: they are taken when the next burst leaves or the next wait ends.
//!
//! Where the kernel can (Linux 6.15), it is told of the frames' memory in advance, and so need not look up
//! its pages for each burst.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};
use slab::Slab;

use super::registered::{Registered, UPDATE};
use super::ring::{Disabled, advance, next};
use crate::engine::Path;
use crate::engine::socket::linux::{Message, is_loopback};
use crate::engine::socket::mapped;
use crate::store::Frames;

/// Bursts under way at most; more are copied. At 64 KiB each they keep a device of 100 Gbit/s busy
/// for 300 µs.
const IN_FLIGHT_MAX: usize = 64;

/// The shortest burst for which telling the kernel costs less than copying, in octets: that takes some
/// 4 µs however long the burst is, and 13 KiB are copied and sent in as much.
const BURST_OCTETS_MIN: usize = 16 * 1024;

/// Bursts in a row that were copied, after which an interface is taken for one that copies. A few are copied
/// by any: those to this host itself, and those that somebody watches.
pub(super) const COPIED_IN_A_ROW: u8 = 8;

/// How long an interface that copied is left alone at first; twice as long each time that it still does.
const REST_MIN: Duration = Duration::from_secs(1);

/// The longest that it is left alone: devices and their features change.
const REST_MAX: Duration = Duration::from_secs(600);

/// Interfaces remembered; when there are more, all are forgotten and tried anew.
const HABITS_MAX: usize = 256;

/// How often the ring is asked for the last completions when it ends.
const LAST_TRIES: u32 = 10;

/// What tells the kernel to report whether it copied (IORING_SEND_ZC_REPORT_USAGE, Linux 6.2).
const REPORT_USAGE: u16 = 1 << 3;

/// What tells the kernel that the octets lie in registered memory (IORING_RECVSEND_FIXED_BUF; with
/// SENDMSG_ZC since Linux 6.15).
const FIXED_BUFFER: u16 = 1 << 2;

/// Where a submission names the registered memory, in octets from its start: the kernel's `buf_index`.
const BUFFER_INDEX_AT: usize = 40;

/// Tags the question whether the kernel knows [`FIXED_BUFFER`] here. No burst has it.
const PROBE: usize = usize::MAX;

/// What the kernel then reports (IORING_NOTIF_USAGE_ZC_COPIED).
const USAGE_COPIED: u32 = 1 << 31;

/// Sends bursts of shared frames without copying, where that works.
pub(super) struct ZeroCopy {
    ring: IoUring,
    in_flight: Slab<InFlight>,
    /// The frames' memory, as far as the kernel knows it; `None` if it takes none.
    registered: Option<Registered>,
    /// What is known of interfaces.
    habits: HashMap<u32, Habit>,
    /// Whether the ring is of use.
    works: bool,
    /// Bursts sent so.
    pub(super) sends: u64,
    /// Those of them from registered memory.
    pub(super) registered_sends: u64,
    /// Those of them that the kernel copied.
    pub(super) copied: u64,
}

/// A burst that the kernel may still read.
struct InFlight {
    /// Kept so that the memory is not used for anything else.
    _frames: Arc<Frames>,
    interface: u32,
    /// Whether it did not leave: then what the notification says of copying means nothing.
    failed: bool,
}

/// Whether the kernel copies what leaves by an interface.
#[derive(Debug, Default)]
struct Habit {
    /// Bursts in a row that it copied, as far as they count.
    copied: u8,
    /// Until when the interface is left alone, and for how long that is.
    rests: Option<(Instant, Duration)>,
}

impl Habit {
    /// Takes note of a burst: whether it was copied.
    fn note(&mut self, copied: bool, now: Instant) {
        if !copied {
            *self = Self::default();
            return;
        }
        self.copied = COPIED_IN_A_ROW.min(self.copied + 1);
        // What was under way when the interface was given up says nothing new.
        if self.copied == COPIED_IN_A_ROW && !self.copies(now) {
            let rest = self
                .rests
                .map_or(REST_MIN, |(_, rest)| REST_MAX.min(rest * 2));
            self.rests = Some((now + rest, rest));
        }
    }

    /// Whether the interface is to be left alone.
    fn copies(&self, now: Instant) -> bool {
        self.rests.is_some_and(|(until, _)| now < until)
    }
}

/// Where a burst goes.
pub(super) struct Route<'a> {
    pub(super) udp: &'a UdpSocket,
    pub(super) ipv6: bool,
    pub(super) path: &'a Path,
}

impl ZeroCopy {
    pub(super) fn new() -> io::Result<Self> {
        let submissions = 4;
        // A result and a notification for each.
        let disabled = Disabled::new(submissions, 2 * IN_FLIGHT_MAX as u32)?;
        let registered = Registered::new(disabled.ring());
        let ring = disabled.enable(&[opcode::SendMsgZc::CODE], Flags::empty(), &[UPDATE])?;
        let mut zero_copy = Self {
            ring,
            in_flight: Slab::with_capacity(IN_FLIGHT_MAX),
            registered,
            habits: HashMap::new(),
            works: true,
            sends: 0,
            registered_sends: 0,
            copied: 0,
        };
        if !zero_copy.knows_fixed_buffers() {
            zero_copy.registered = None;
        }
        Ok(zero_copy)
    }

    /// Whether the kernel takes messages from registered memory. One that does complains of a
    /// descriptor that is none, any other of the flag.
    fn knows_fixed_buffers(&mut self) -> bool {
        // SAFETY: a msghdr of zeros is one without address, data and control messages.
        let header: libc::msghdr = unsafe { mem::zeroed() };
        let entry = opcode::SendMsgZc::new(Fd(-1), &raw const header)
            .ioprio(FIXED_BUFFER)
            .build()
            .user_data(PROBE as u64);
        // SAFETY: the header outlives the entry's result, which `finish` waits for.
        let queued = unsafe { self.ring.submission().push(&entry) };
        queued.is_ok() && self.finish(PROBE) == Err(libc::EBADF)
    }

    /// Sends `octets`, a part of `frames`, cut into segments. `None` means that copying is better or
    /// that this failed: then nothing has left.
    pub(super) fn send(
        &mut self,
        route: &Route<'_>,
        frames: &Arc<Frames>,
        octets: &[u8],
        segment: u16,
    ) -> Option<io::Result<()>> {
        if !self.works || octets.len() < BURST_OCTETS_MIN {
            return None;
        }
        let interface = route.path.local.interface;
        if interface == 0 || self.is_copying(route) {
            return None;
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.take_notifications();
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let peer = if route.ipv6 {
            mapped(route.path.peer)
        } else {
            route.path.peer
        };
        let message = Message::new(route.ipv6, peer, &route.path.local, Some(segment)).ok()?;
        let key = self.in_flight.insert(InFlight {
            _frames: Arc::clone(frames),
            interface,
            failed: false,
        });
        let fd = Fd(route.udp.as_raw_fd());
        let place = match &mut self.registered {
            Some(registered) => registered.place(&self.ring, frames.lasting()),
            None => None,
        };
        let result = message.with(octets, |header| {
            let fixed = place.map_or(0, |_| FIXED_BUFFER);
            let mut entry = opcode::SendMsgZc::new(fd, header)
                .ioprio(REPORT_USAGE | fixed)
                .flags(libc::MSG_DONTWAIT as u32)
                .build()
                .user_data(key as u64);
            if let Some(place) = place {
                name_buffer(&mut entry, place);
            }
            // SAFETY: the header and all that it points to, but for the octets, is read before the
            // result comes, and `finish` returns only with that or after making sure that the entry
            // is never submitted. The octets live until the notification, since `in_flight` holds
            // the frames that they are a part of.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                return Err(libc::EBUSY);
            }
            self.finish(key)
        });
        match result {
            Ok(()) => {
                self.sends += 1;
                self.registered_sends += u64::from(place.is_some());
                Some(Ok(()))
            }
            // No room: a copy would find none either.
            Err(libc::EAGAIN) => Some(Err(io::Error::from_raw_os_error(libc::EAGAIN))),
            Err(errno) => {
                // A kernel or a socket that cannot do it: not worth another try soon.
                if errno == libc::EINVAL || errno == libc::EOPNOTSUPP {
                    self.give_up(interface);
                }
                None
            }
        }
    }

    /// Whether it is of use: the ring was not given up.
    pub(super) const fn works(&self) -> bool {
        self.works
    }

    /// Whether the kernel may still read what was sent.
    #[cfg(test)]
    pub(super) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether the kernel takes messages from memory that it knows in advance.
    #[cfg(test)]
    pub(super) const fn registers(&self) -> bool {
        self.registered.is_some()
    }

    /// Takes the notifications that have come, and now and then has the kernel let go of memory that is
    /// no frames' any more.
    pub(super) fn reap(&mut self) {
        if let Some(registered) = &mut self.registered {
            registered.tidy(&self.ring);
        }
        self.take_notifications();
    }

    fn take_notifications(&mut self) {
        // A ring that was given up may hold an entry whose header is gone: to enter it would submit that.
        if self.works && !self.in_flight.is_empty() && advance(&mut self.ring).is_ok() {
            self.take(usize::MAX);
        }
    }

    /// Submits the entry with this key and takes its result, which the kernel has at once because it
    /// was told not to wait for room.
    fn finish(&mut self, key: usize) -> Result<(), i32> {
        loop {
            let entered = advance(&mut self.ring);
            if let Some(result) = self.take(key) {
                return if result < 0 { Err(-result) } else { Ok(()) };
            }
            let tried_again = [io::ErrorKind::Interrupted, io::ErrorKind::ResourceBusy];
            if let Err(error) = entered
                && !tried_again.contains(&error.kind())
            {
                // What is queued is submitted by nobody else: the ring is not entered again.
                self.works = false;
                tracing::warn!(%error, "bursts are copied from now on: the ring that sent them without failed");
                return Err(error.raw_os_error().unwrap_or(libc::EIO));
            }
        }
    }

    /// Takes all completions; returns the result of the entry with this key, if it is among them.
    fn take(&mut self, key: usize) -> Option<i32> {
        let mut result = None;
        while let Some(completion) = next(&mut self.ring) {
            let (flags, place) = (completion.flags(), completion.user_data() as usize);
            if !cqueue::notif(flags) {
                if place == key {
                    result = Some(completion.result());
                }
                if let Some(burst) = self.in_flight.get_mut(place) {
                    burst.failed = completion.result() < 0;
                }
            }
            // Without "more" no notification follows, or this is it.
            if cqueue::more(flags) {
                continue;
            }
            if let Some(burst) = self.in_flight.try_remove(place)
                && cqueue::notif(flags)
                && !burst.failed
            {
                let copied = completion.result() as u32 & USAGE_COPIED != 0;
                self.copied += u64::from(copied);
                self.habit(burst.interface).note(copied, Instant::now());
            }
        }
        result
    }

    /// Whether the kernel copies what leaves by the route's interface.
    fn is_copying(&mut self, route: &Route<'_>) -> bool {
        let interface = route.path.local.interface;
        if let Some(habit) = self.habits.get(&interface) {
            return habit.rests.is_some() && habit.copies(Instant::now());
        }
        // What comes back is copied; that needs no trying.
        let copies = is_loopback(route.udp, interface);
        if copies {
            self.give_up(interface);
        } else {
            self.habit(interface);
        }
        copies
    }

    /// Leaves an interface alone for as long as any is.
    fn give_up(&mut self, interface: u32) {
        *self.habit(interface) = Habit {
            copied: COPIED_IN_A_ROW,
            rests: Some((Instant::now() + REST_MAX, REST_MAX)),
        };
    }

    /// What is known of an interface.
    fn habit(&mut self, interface: u32) -> &mut Habit {
        if self.habits.len() >= HABITS_MAX && !self.habits.contains_key(&interface) {
            self.habits.clear();
        }
        self.habits.entry(interface).or_default()
    }

    /// Takes an interface for one that does not copy.
    #[cfg(test)]
    pub(super) fn believe_in(&mut self, interface: u32) {
        *self.habit(interface) = Habit::default();
    }
}

/// Has a submission speak of registered memory, which the builder of this operation cannot.
const fn name_buffer(entry: &mut squeue::Entry, place: u16) {
    const {
        assert!(BUFFER_INDEX_AT + size_of::<u16>() <= size_of::<squeue::Entry>());
        assert!(BUFFER_INDEX_AT.is_multiple_of(align_of::<u16>()));
        assert!(align_of::<squeue::Entry>() >= align_of::<u16>());
    }
    // SAFETY: an entry is laid out as the kernel wants it, and the place lies within it, aligned; there
    // are two octets of a number, whatever they are.
    unsafe {
        let start: *mut u8 = (&raw mut *entry).cast();
        start.add(BUFFER_INDEX_AT).cast::<u16>().write(place);
    }
}

impl Drop for ZeroCopy {
    fn drop(&mut self) {
        let mut tries = 0;
        while self.works && !self.in_flight.is_empty() && tries < LAST_TRIES {
            self.take_notifications();
            std::thread::sleep(Duration::from_millis(1));
            tries += 1;
        }
        // What a device may still read is not given to others.
        mem::take(&mut self.in_flight)
            .into_iter()
            .for_each(|(_, burst)| mem::forget(burst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::uring::tests::longest_burst;
    use crate::testing::skip;

    /// Goal: an interface is left alone once it copies time after time, for longer and longer, and is
    /// believed in again when it does not. Method: bursts a millisecond apart.
    #[test]
    fn an_interface_that_copies_rests_for_longer_each_time() {
        let mut habit = Habit::default();
        let mut now = Instant::now();
        let mut rested = Vec::new();
        let mut bursts = 0;
        while rested.len() < 12 {
            bursts += 1;
            habit.note(true, now);
            now += Duration::from_millis(1);
            if let Some((until, _)) = habit.rests.filter(|_| habit.copies(now)) {
                rested.push((bursts, until.duration_since(now).as_secs() + 1));
                // Those under way at that moment change nothing.
                habit.note(true, now);
                assert_eq!(habit.rests.map(|(until, _)| until), Some(until));
                (now, bursts) = (until, 0);
            }
        }
        let expected = [
            (8, 1),
            (1, 2),
            (1, 4),
            (1, 8),
            (1, 16),
            (1, 32),
            (1, 64),
            (1, 128),
            (1, 256),
        ];
        assert_eq!(rested[..9], expected);
        assert_eq!(rested[9..], [(1, 512), (1, 600), (1, 600)]);

        habit.note(false, now);
        for _ in 1..COPIED_IN_A_ROW {
            habit.note(true, now);
            assert!(!habit.copies(now));
        }
        habit.note(true, now);
        assert!(habit.copies(now));
    }

    /// Goal: what a ring that was given up has in its queue never reaches the kernel, whatever else is under
    /// way: the header of that submission is gone.
    #[test]
    fn a_ring_that_was_given_up_is_not_entered_again() {
        let mut zero_copy = match ZeroCopy::new() {
            Ok(zero_copy) => zero_copy,
            Err(why) => return skip(&why.to_string()),
        };
        let (frames, ..) = longest_burst();
        zero_copy.in_flight.insert(InFlight {
            _frames: frames,
            interface: 0,
            failed: false,
        });
        // SAFETY: a msghdr of zeros is one without address, data and control messages.
        let header: libc::msghdr = unsafe { mem::zeroed() };
        let entry = opcode::SendMsgZc::new(Fd(-1), &raw const header)
            .build()
            .user_data(PROBE as u64);
        // SAFETY: the header outlives the ring's use, which ends with this function at the latest.
        unsafe { zero_copy.ring.submission().push(&entry) }.expect("room for one");
        zero_copy.works = false;
        zero_copy.reap();
        assert_eq!(zero_copy.ring.submission().len(), 1, "it was submitted");
    }
}
