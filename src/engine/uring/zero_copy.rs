//! Zero-copy sends: the device reads bursts in place, without a copy by the kernel.
//!
//! With a second completion, the notification, the kernel reports that it no longer needs the memory, and
//! whether it had to copy after all, as it does on loopback and virtual links; copying at once is then
//! cheaper, and zero-copy avoids the interface for a while. These completions use a ring of their own, where
//! they wake no thread: they are taken when the next burst leaves or the next wait ends.
//!
//! Where the kernel supports it (Linux 6.15), the frames' memory is registered in advance, so that the
//! kernel need not look up its pages for each burst.

use std::collections::HashMap;
use std::io::{self, IoSlice};
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

/// Limit of bursts in flight; further ones are copied. At 64 KiB each they keep a device of 100 Gbit/s busy
/// for 300 µs.
const IN_FLIGHT_MAX: usize = 64;

/// The shortest burst for which zero-copy is cheaper than copying, in octets: its overhead is some 4 µs for
/// any length, and copying and sending 13 KiB takes as long.
const BURST_OCTETS_MIN: usize = 16 * 1024;

/// Consecutive copied bursts after which an interface counts as copying. A few bursts are copied on any
/// interface: those to this host itself, and those that are being captured.
pub(super) const COPIED_IN_A_ROW: u8 = 8;

/// How long a copying interface is avoided at first; doubled each time that it still copies.
const REST_MIN: Duration = Duration::from_secs(1);

/// The longest that it is avoided: devices and their features change.
const REST_MAX: Duration = Duration::from_secs(600);

/// Limit of remembered interfaces; beyond it, all are forgotten and tried again.
const HABITS_MAX: usize = 256;

/// How often the ring is polled for the last completions on drop.
const LAST_TRIES: u32 = 10;

/// Makes the kernel report whether it copied (IORING_SEND_ZC_REPORT_USAGE, Linux 6.2).
const REPORT_USAGE: u16 = 1 << 3;

/// Tells the kernel that the octets lie in registered memory (IORING_RECVSEND_FIXED_BUF; with SENDMSG_ZC
/// since Linux 6.15).
const FIXED_BUFFER: u16 = 1 << 2;

/// Offset in a submission of the registered buffer's index, in octets: the kernel's `buf_index`.
const BUFFER_INDEX_AT: usize = 40;

/// Tags the probe for kernel support of [`FIXED_BUFFER`] here. No burst has this key.
const PROBE: usize = usize::MAX;

/// The kernel's report that it copied (IORING_NOTIF_USAGE_ZC_COPIED).
const USAGE_COPIED: u32 = 1 << 31;

/// Sends bursts of shared frames without copying, where that works.
pub(super) struct ZeroCopy {
    ring: IoUring,
    in_flight: Slab<InFlight>,
    /// The registered frame memory; `None` if the kernel does not support it.
    registered: Option<Registered>,
    /// What is known of each interface.
    habits: HashMap<u32, Habit>,
    /// Whether the ring is usable.
    works: bool,
    /// Bursts sent through this ring.
    pub(super) sends: u64,
    /// Bursts sent from registered memory.
    pub(super) registered_sends: u64,
    /// Bursts that the kernel copied after all.
    pub(super) copied: u64,
}

/// A burst that the kernel may still read.
struct InFlight {
    /// Kept so that the memory is not reused.
    _frames: Arc<Frames>,
    interface: u32,
    /// Whether the send failed: the notification's report of a copy is then meaningless.
    failed: bool,
}

/// Whether the kernel copies what leaves by an interface.
#[derive(Debug, Default)]
struct Habit {
    /// Consecutive bursts that it copied, up to the limit.
    copied: u8,
    /// Until when the interface is avoided, and for how long in total.
    rests: Option<(Instant, Duration)>,
}

impl Habit {
    /// Records whether a burst was copied.
    fn note(&mut self, copied: bool, now: Instant) {
        if !copied {
            *self = Self::default();
            return;
        }
        self.copied = COPIED_IN_A_ROW.min(self.copied + 1);
        // Bursts in flight when the interface was given up tell nothing new.
        if self.copied == COPIED_IN_A_ROW && !self.copies(now) {
            let rest = self
                .rests
                .map_or(REST_MIN, |(_, rest)| REST_MAX.min(rest * 2));
            self.rests = Some((now + rest, rest));
        }
    }

    /// Whether the interface is to be avoided for now.
    fn copies(&self, now: Instant) -> bool {
        self.rests.is_some_and(|(until, _)| now < until)
    }
}

/// The route of a burst.
pub(super) struct Route<'a> {
    pub(super) udp: &'a UdpSocket,
    pub(super) ipv6: bool,
    pub(super) path: &'a Path,
}

impl ZeroCopy {
    pub(super) fn new() -> io::Result<Self> {
        let submissions = 4;
        // Each burst has a result and a notification.
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

    /// Whether the kernel sends from registered memory. One that does rejects the invalid descriptor; any
    /// other rejects the flag.
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

    /// Sends `octets`, a part of `frames`, split into segments. `None` means that copying is better or that
    /// this failed: then nothing was sent.
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
        let result = message.with(&[IoSlice::new(octets)], |header| {
            let fixed = place.map_or(0, |_| FIXED_BUFFER);
            let mut entry = opcode::SendMsgZc::new(fd, header)
                .ioprio(REPORT_USAGE | fixed)
                .flags(libc::MSG_DONTWAIT as u32)
                .build()
                .user_data(key as u64);
            if let Some(place) = place {
                name_buffer(&mut entry, place);
            }
            // SAFETY: the header and all that it points to, except the octets, are read before the result
            // comes, and `finish` returns only with that or after making sure that the entry is never
            // submitted. The octets live until the notification, since `in_flight` holds the frames that
            // they are a part of.
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
                // The kernel or the socket does not support it: do not retry soon.
                if errno == libc::EINVAL || errno == libc::EOPNOTSUPP {
                    self.give_up(interface);
                }
                None
            }
        }
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

    /// Takes pending notifications, and periodically makes the kernel release memory that no frames use any
    /// more.
    pub(super) fn reap(&mut self) {
        if let Some(registered) = &mut self.registered {
            registered.tidy(&self.ring);
        }
        self.take_notifications();
    }

    fn take_notifications(&mut self) {
        // A ring that was given up may hold an entry whose header is gone; entering it would submit that.
        if self.works && !self.in_flight.is_empty() && advance(&mut self.ring).is_ok() {
            self.take(usize::MAX);
        }
    }

    /// Submits the entry with this key and takes its result, which is available at once because the kernel
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
                // Queued entries are never submitted: the ring is not entered again.
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
            // Without the "more" flag, no notification follows, or this is it.
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
        // Loopback always copies; no need to try.
        let copies = is_loopback(route.udp, interface);
        if copies {
            self.give_up(interface);
        } else {
            self.habit(interface);
        }
        copies
    }

    /// Avoids an interface for the longest time.
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

    /// Marks an interface as not copying.
    #[cfg(test)]
    pub(super) fn believe_in(&mut self, interface: u32) {
        *self.habit(interface) = Habit::default();
    }
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
            self.take_notifications();
            std::thread::sleep(Duration::from_millis(1));
            tries += 1;
        }
        // Memory that a device may still read must not be reused.
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

    /// Goal: an interface is avoided once it copies repeatedly, longer each time, and is used again when it
    /// does not copy. Method: bursts a millisecond apart.
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
                // Bursts in flight at that moment change nothing.
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

    /// Goal: entries queued in a ring that was given up never reach the kernel, whatever else is in flight:
    /// the header of that submission is gone.
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
