//! Loads values into the processor's cache before they are used.

// A prefetch takes an address.
#![allow(unsafe_code)]

/// Octets of a line of the processor's cache.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Begins to load all of a value. Unlike a read, it does not delay what follows, so that many values load at a time.
/// Without effect on other architectures than x86-64, where Rust has no stable way to do it.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        let load = |octet| {
            // SAFETY: a prefetch accesses nothing and faults on no address; its instruction is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(octet)) };
        };
        // The value may begin anywhere in a line, so that its last octet may lie in one more.
        let last = size_of::<T>().saturating_sub(1);
        (0..last).step_by(LINE).for_each(load);
        load(last);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
