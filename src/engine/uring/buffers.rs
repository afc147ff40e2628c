//! Receive buffers, lent to the kernel one by one, which it fills with arriving datagrams.

use std::alloc::{self, Layout};
use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::engine::Inbox;

/// Number of buffers: four times what one socket delivers per batch (32), so that a few busy sockets do not
/// starve each other. The kernel requires a power of two.
const BUFFERS: u16 = 128;

/// Octets per buffer: the largest datagram, preceded by its metadata. Pages that no datagram reaches are
/// never allocated.
const BUFFER_OCTETS: usize = Inbox::DATAGRAM_OCTETS_MAX + 512;

/// Alignment of the buffer list that the kernel requires: a page, whatever its size.
const ALIGNMENT: usize = 65_536;

/// Buffers lent to the kernel, and the list through which they are lent.
pub(super) struct Buffers {
    list: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// Number of buffers lent so far; wraps around.
    lent: u16,
    /// Whether the memory is kept when this is dropped.
    leaked: bool,
}

impl Buffers {
    /// The buffer group's number; there is only one.
    pub(super) const GROUP: u16 = 0;

    /// Registers buffers with a ring and lends them all. While a request of that ring that selects buffers
    /// is in progress, they must not be dropped unless [leaked](Buffers::leak).
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

    /// The first `len` octets of a buffer that the kernel has filled and that was not lent again.
    pub(super) fn filled(&self, number: u16, len: usize) -> Option<&[u8]> {
        if number >= BUFFERS || len > BUFFER_OCTETS {
            return None;
        }
        // SAFETY: the octets lie within the memory, which was zeroed and so is initialised; the kernel does
        // not write to a buffer between reporting it as filled and receiving it again through `lend`, which
        // borrows this value mutably.
        Some(unsafe { slice::from_raw_parts(self.start(number).as_ptr(), len) })
    }

    /// Lends a buffer to the kernel, for the first time or again.
    pub(super) fn lend(&mut self, number: u16) {
        if number >= BUFFERS {
            return;
        }
        let place = usize::from(self.lent % BUFFERS);
        let start = self.start(number);
        self.lent = self.lent.wrapping_add(1);
        // SAFETY: the entry is within the list; the kernel reads it only once the count below says so. The
        // fields are set one by one because the first entry shares its last field with the count.
        unsafe {
            let entry = &mut *self.list.as_ptr().add(place);
            entry.set_addr(start.as_ptr() as u64);
            entry.set_len(BUFFER_OCTETS as u32);
            entry.set_bid(number);
        }
        // SAFETY: the count lies in the list's first entry and is aligned; the kernel and the engine both
        // access it atomically.
        unsafe {
            let count = BufRingEntry::tail(self.list.as_ptr()).cast_mut();
            AtomicU16::from_ptr(count).store(self.lent, Ordering::Release);
        }
    }

    /// Keeps the memory for ever, since the kernel may still write to it.
    pub(super) const fn leak(&mut self) {
        self.leaked = true;
    }

    /// The start of a buffer.
    fn start(&self, number: u16) -> NonNull<u8> {
        // SAFETY: callers have checked that the number is below BUFFERS, so the result is within the memory.
        unsafe { self.memory.add(usize::from(number) * BUFFER_OCTETS) }
    }

    const fn list_layout() -> Layout {
        let octets = BUFFERS as usize * size_of::<BufRingEntry>();
        // SAFETY: a power of two, and few octets.
        unsafe { Layout::from_size_align_unchecked(octets, ALIGNMENT) }
    }

    const fn memory_layout() -> Layout {
        // A larger alignment would make the allocator write the zeros itself and so touch all pages.
        // SAFETY: a power of two, and a few megabytes.
        unsafe { Layout::from_size_align_unchecked(BUFFERS as usize * BUFFER_OCTETS, 16) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated with these layouts; by the contract of `new`, the kernel no longer uses them.
        unsafe {
            alloc::dealloc(self.list.as_ptr().cast(), Self::list_layout());
            alloc::dealloc(self.memory.as_ptr(), Self::memory_layout());
        }
    }
}

/// Zeroed memory.
fn allocate(layout: Layout) -> io::Result<NonNull<u8>> {
    // SAFETY: no layout of this file is empty.
    let memory = unsafe { alloc::alloc_zeroed(layout) };
    NonNull::new(memory).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
