//! Frame memory registered with the kernel: it pins the pages, and sends from them without looking them up.
//!
//! A memory range is registered when a burst is first sent from it, and stays registered for all later
//! frames in that range. Once the frame cache has returned the range to the system, only the ring keeps it,
//! and releases it within a second of activity: until then the memory counts twice.

use std::collections::HashMap;
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use io_uring::IoUring;

use crate::store::{Lasting, Stay};

/// Limit of registered ranges: the kernel's maximum number of slots, 16 GiB of frames.
const PLACES: u16 = 1 << 14;

/// How often to look for ranges that only the ring still keeps.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Ranges released when the kernel refuses another. The usual reason is the limit on memory that a user may
/// lock (`ulimit -l`), and bursts sent from other memory count against it too: the maximum number in flight
/// takes four mebibytes.
const SPARED: usize = 4;

/// Length and alignment of a huge page, on the machines that have them.
const HUGE_OCTETS: usize = 2 * 1024 * 1024;

/// Share of a socket's send buffer that one burst may take. From a registered huge page, Linux (6.18) counts a burst
/// with its distance from the start of the page too, so that one or two near the end would fill the buffer, and the
/// device would run dry. The same burst from memory that is looked up page by page counts for what it is.
const SHARE: usize = 4;

/// The operation that fills and empties slots (IORING_REGISTER_BUFFERS_UPDATE).
pub(super) const UPDATE: u8 = 16;

/// Whether a burst from registered memory leaves room for others in a socket's send buffer.
pub(super) fn suits(octets: &[u8], send_buffer: usize) -> bool {
    let counts = octets.as_ptr().addr() % HUGE_OCTETS + octets.len();
    counts <= send_buffer / SHARE
}

/// A ring's table of registered memory.
pub(super) struct Registered {
    /// The slot of each range, keyed by the address of its [`Stay`], which is unique while `stays` holds it.
    places: HashMap<usize, u16>,
    /// The content of each slot ever used.
    stays: Vec<Option<Weak<Stay>>>,
    free: Vec<u16>,
    /// Whether the kernel refuses more, most likely because of the limit on locked memory.
    full: bool,
    tidied: Instant,
}

impl Registered {
    /// An empty table for a ring that is not enabled yet; `None` if the kernel provides none.
    pub(super) fn new(ring: &IoUring) -> Option<Self> {
        ring.submitter()
            .register_buffers_sparse(PLACES.into())
            .ok()?;
        Some(Self {
            places: HashMap::new(),
            stays: Vec::new(),
            free: Vec::new(),
            full: false,
            tidied: Instant::now(),
        })
    }

    /// Whether `memory` has a slot, or will not be given one: to try that may empty others.
    pub(super) fn is_settled(&self, memory: &Lasting<'_>) -> bool {
        self.full || self.places.contains_key(&Arc::as_ptr(memory.stay).addr())
    }

    /// The slot of `memory`, registering it if needed. `None` if that is not possible.
    pub(super) fn place(&mut self, ring: &IoUring, memory: &Lasting<'_>) -> Option<u16> {
        let Lasting { octets, stay } = memory;
        let name = Arc::as_ptr(stay).addr();
        if let Some(&place) = self.places.get(&name) {
            return Some(place);
        }
        if self.full {
            return None;
        }
        let place = self.free.pop().or_else(|| {
            let unused = u16::try_from(self.stays.len()).ok();
            unused.filter(|&unused| unused < PLACES)
        });
        let Some(place) = place else {
            self.full = true;
            return None;
        };
        if usize::from(place) == self.stays.len() {
            self.stays.push(None);
        }
        let part = libc::iovec {
            iov_base: octets.as_ptr().cast_mut().cast(),
            iov_len: octets.len(),
        };
        if let Err(error) = update(ring, place, part) {
            tracing::debug!(%error, registered = self.places.len(), "no more memory registered for sending");
            self.free.push(place);
            self.full = true;
            self.empty(ring, |_| true, SPARED);
            return None;
        }
        self.stays[usize::from(place)] = Some(Arc::downgrade(stay));
        self.places.insert(name, place);
        Some(place)
    }

    /// Periodically empties the slots of memory that the frame cache has returned to the system.
    pub(super) fn tidy(&mut self, ring: &IoUring) {
        let nothing_to_do = self.places.is_empty() && !self.full;
        if nothing_to_do || self.tidied.elapsed() < TIDY_EVERY {
            return;
        }
        self.tidied = Instant::now();
        self.let_go(ring);
    }

    fn let_go(&mut self, ring: &IoUring) {
        let emptied = self.empty(ring, |stay| stay.strong_count() == 0, usize::MAX);
        // If nothing is registered here, other users hold the locked memory, and they may have released it.
        self.full &= emptied == 0 && !self.places.is_empty();
    }

    /// Empties up to `count` of the slots that `is_wanted` selects; returns how many.
    fn empty(
        &mut self,
        ring: &IoUring,
        is_wanted: impl Fn(&Weak<Stay>) -> bool,
        count: usize,
    ) -> usize {
        let nothing = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let held = (0..).zip(&mut self.stays);
        let wanted =
            held.filter_map(|(place, stay)| Some((place, stay.take_if(|stay| is_wanted(stay))?)));
        let mut emptied = 0;
        for (place, stay) in wanted.take(count) {
            self.places.remove(&stay.as_ptr().addr());
            // A slot that the kernel does not empty is not reused.
            if update(ring, place, nothing).is_ok() {
                self.free.push(place);
                emptied += 1;
            }
        }
        emptied
    }
}

/// Fills or empties a slot of the ring's table.
fn update(ring: &IoUring, place: u16, part: libc::iovec) -> std::io::Result<()> {
    // SAFETY: from now on the kernel pins the pages and reads from them only, whatever becomes of the
    // addresses; and it does so only for bursts, each of which keeps the frames that it is part of.
    unsafe {
        ring.submitter()
            .register_buffers_update(place.into(), &[part], None)
    }
}

#[cfg(test)]
mod tests {
    use io_uring::squeue::Flags;

    use super::*;
    use crate::engine::uring::ring::Disabled;
    use crate::testing::skip;

    /// A ring with an empty table that may be updated if `registrations` permits it.
    fn ring(registrations: &[u8]) -> Option<(IoUring, Registered)> {
        let disabled = match Disabled::new(4, 8) {
            Ok(disabled) => disabled,
            Err(why) => {
                skip(&why.to_string());
                return None;
            }
        };
        let registered = Registered::new(disabled.ring()).expect("a table");
        let ring = disabled.enable(&[], Flags::empty(), registrations);
        Some((ring.expect("a ring"), registered))
    }

    #[test]
    fn memory_has_its_place_until_it_is_given_back() {
        let Some((ring, mut registered)) = ring(&[UPDATE]) else {
            return;
        };
        let octets = vec![7; 8192];
        let [first, second, third] = [(); 3].map(|()| Arc::new(Stay::default()));
        let place = |registered: &mut Registered, stay: &Arc<Stay>| {
            let octets = &octets;
            registered.place(&ring, &Lasting { octets, stay })
        };
        assert_eq!(place(&mut registered, &first), Some(0));
        assert_eq!(place(&mut registered, &second), Some(1));
        assert_eq!(place(&mut registered, &first), Some(0));
        drop(first);
        registered.let_go(&ring);
        assert_eq!(place(&mut registered, &second), Some(1));
        assert_eq!(
            place(&mut registered, &third),
            Some(0),
            "the place is free again"
        );
    }

    /// Goal: a refusal, as with too little lockable memory, is not an error, is met only once, and releases
    /// some of that memory for others. Method: read-only memory, which the kernel refuses.
    #[test]
    fn what_is_refused_has_no_place() {
        let Some((ring, mut registered)) = ring(&[UPDATE]) else {
            return;
        };
        static REFUSED: [u8; 4096] = [7; 4096];
        let octets = vec![7; 8192];
        let stays = [(); SPARED + 2].map(|()| Arc::new(Stay::default()));
        for stay in &stays {
            let memory = Lasting {
                octets: &octets,
                stay,
            };
            assert!(registered.place(&ring, &memory).is_some());
        }
        let stay = Arc::new(Stay::default());
        let memory = Lasting {
            octets: &REFUSED,
            stay: &stay,
        };
        assert_eq!(registered.place(&ring, &memory), None);
        assert_eq!(registered.places.len(), 2);
        assert!(registered.full);
        assert_eq!(registered.place(&ring, &memory), None);
        assert_eq!(registered.places.len(), 2);
    }

    /// Goal: a ring that had to release everything does not stay without registered memory for ever. Method:
    /// a refusal while nothing is registered, then the second after which the table is tidied.
    #[test]
    fn what_was_refused_is_tried_again_although_nothing_is_registered() {
        let Some((ring, mut registered)) = ring(&[UPDATE]) else {
            return;
        };
        static REFUSED: [u8; 4096] = [7; 4096];
        let octets = vec![7; 8192];
        let stay = Arc::new(Stay::default());
        let [refused, taken] = [&REFUSED[..], &octets].map(|octets| Lasting {
            octets,
            stay: &stay,
        });
        assert_eq!(registered.place(&ring, &refused), None);
        registered.tidy(&ring);
        assert_eq!(registered.place(&ring, &taken), None, "too soon");
        registered.tidied -= TIDY_EVERY;
        registered.tidy(&ring);
        assert_eq!(registered.place(&ring, &taken), Some(0));
    }

    #[test]
    fn a_ring_that_may_register_nothing_has_no_places() {
        let Some((ring, mut registered)) = ring(&[]) else {
            return;
        };
        let octets = vec![7; 4096];
        let stay = Arc::new(Stay::default());
        let memory = Lasting {
            octets: &octets,
            stay: &stay,
        };
        assert_eq!(registered.place(&ring, &memory), None);
    }
}
