//! Memory that the kernel fills with datagrams as they arrive, lent to it buffer by buffer.

use std::alloc::{self, Layout};
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::engine::Inbox;

/// Buffers: four times what one socket delivers in one go (32), so that a few busy ones do not
/// stop one another. A power of two, as the kernel wants it.
const BUFFERS: u16 = 128;

/// Octets in a buffer: the largest datagram, and in front of it what is told about it. Memory that
/// no datagram was long enough to touch is never really taken.
const BUFFER_OCTETS: usize = Inbox::DATAGRAM_OCTETS_MAX + 512;

/// What the kernel wants the list of buffers to be aligned to: a page, of whatever size.
const ALIGNMENT: usize = 65_536;

/// Buffers that are lent to the kernel, and the list by which that is done.
pub(super) struct Buffers {
    list: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// How many buffers were lent so far; it wraps.
    lent: u16,
    /// Whether the memory outlives this.
    leaked: bool,
}

impl Buffers {
    /// The group's number. There is one.
    pub(super) const GROUP: u16 = 0;

    /// Registers buffers with a ring, all lent. They must not be dropped while a request of that ring
    /// that takes buffers is under way, or else [leaked](Buffers::leak).
    pub(super) fn new(ring: &IoUring) -> io::Result<Self> {
        let mut buffers = Self {
            list: allocate(Self::list_layout())?.cast(),
            memory: allocate(Self::memory_layout())?,
            lent: 0,
            leaked: false,
        };
        // SAFETY: the list has as many entries as stated and is aligned to a page; both it and the
        // buffers live until the ring's requests have ended, or for ever.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.list.as_ptr() as u64,
                BUFFERS,
                Self::GROUP,
                0,
            )
        }?;
        (0..BUFFERS).for_each(|number| buffers.lend(number));
        Ok(buffers)
    }

    /// The first `len` octets of a buffer, which the kernel has filled and not been lent again.
    pub(super) fn filled(&self, number: u16, len: usize) -> Option<&[u8]> {
        if number >= BUFFERS || len > BUFFER_OCTETS {
            return None;
        }
        // SAFETY: the octets lie within the memory, which was zeroed and is initialised so; the
        // kernel writes to no buffer between telling that it is filled and its being lent again,
        // which takes this value mutably.
        Some(unsafe { slice::from_raw_parts(self.start(number).as_ptr(), len) })
    }

    /// Lends a buffer to the kernel, again or for the first time.
    pub(super) fn lend(&mut self, number: u16) {
        if number >= BUFFERS {
            return;
        }
        let place = usize::from(self.lent % BUFFERS);
        let start = self.start(number);
        self.lent = self.lent.wrapping_add(1);
        // SAFETY: the place is one of the list's; the kernel reads it only once the count below says
        // so. The fields are set one by one because the first entry shares its last one with the count.
        unsafe {
            let entry = &mut *self.list.as_ptr().add(place);
            entry.set_addr(start.as_ptr() as u64);
            entry.set_len(BUFFER_OCTETS as u32);
            entry.set_bid(number);
        }
        // SAFETY: the count lies in the list's first entry, aligned; kernel and engine both use it
        // atomically.
        unsafe {
            let count = BufRingEntry::tail(self.list.as_ptr()).cast_mut();
            AtomicU16::from_ptr(count).store(self.lent, Ordering::Release);
        }
    }

    /// Never gives the memory back, since the kernel may still write to it.
    pub(super) const fn leak(&mut self) {
        self.leaked = true;
    }

    /// Where a buffer begins.
    fn start(&self, number: u16) -> NonNull<u8> {
        // SAFETY: callers have checked that the number is below BUFFERS, so it stays in the memory.
        unsafe { self.memory.add(usize::from(number) * BUFFER_OCTETS) }
    }

    const fn list_layout() -> Layout {
        let octets = BUFFERS as usize * size_of::<BufRingEntry>();
        // SAFETY: a power of two, and few octets.
        unsafe { Layout::from_size_align_unchecked(octets, ALIGNMENT) }
    }

    const fn memory_layout() -> Layout {
        // A larger alignment would have the allocator write the zeros, and so take all the memory.
        // SAFETY: a power of two, and a few megabytes.
        unsafe { Layout::from_size_align_unchecked(BUFFERS as usize * BUFFER_OCTETS, 16) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated with these layouts, and by the promise made to `new` nobody uses it.
        unsafe {
            alloc::dealloc(self.list.as_ptr().cast(), Self::list_layout());
            alloc::dealloc(self.memory.as_ptr(), Self::memory_layout());
        }
    }
}

/// Memory of zeros.
fn allocate(layout: Layout) -> io::Result<NonNull<u8>> {
    // SAFETY: no layout of this file is empty.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(memory).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
