//! Bodies: files opened once and shared by all their readers.
//!
//! A body and its frames live as long as a reader holds it. The last few bodies are held beyond that,
//! because machines that boot one after the other would each find the image cold again.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use super::cache::FrameCache;
use super::{Identity, Opened, ReadFailure, Source};
use crate::sync::{Mutex, MutexGuard};
use crate::wire::Mode;

/// An open file in its on-the-wire form for one mode.
pub struct Body {
    /// Never reused, so that frames of a dropped body are never mistaken for another's.
    id: u64,
    len: u64,
    identity: Identity,
    source: Box<dyn Source>,
    begun: AtomicBool,
    cache: Weak<FrameCache>,
}

impl Body {
    pub(super) fn new(opened: Opened, cache: Weak<FrameCache>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Opened {
            source,
            len,
            identity,
        } = opened;
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            len,
            identity,
            source,
            begun: AtomicBool::new(false),
            cache,
        }
    }

    /// Length on the wire, in octets.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A body is not a collection; an empty one is sent like any other.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Two openings with equal identities share one body.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Fills `buffer` from `offset` on. The octets are the file's only if it [checks](Self::check) afterwards.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadFailure> {
        if self.source.read_at(buffer, offset)? < buffer.len() {
            return Err(ReadFailure::Changed);
        }
        Ok(())
    }

    /// Fills `buffer` from `offset` on and checks, if that takes no longer than to copy the octets; `false` if it
    /// may, or if anything is wrong.
    pub(super) fn read_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        self.source.read_now(buffer, offset)
    }

    /// Whether this is the first call, for a body whose first octets were read at once: it is to
    /// [begin](Self::begin) then.
    pub(super) fn is_to_begin(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }

    /// Does what a first read does beyond reading, and may take longer.
    pub(super) fn begin(&self) {
        self.source.begin();
    }

    /// Whether calls on the file may wait for more than a local disk.
    pub(super) fn is_remote(&self) -> bool {
        self.source.is_remote()
    }

    /// Whether reading in parts costs no more than reading at once.
    pub(super) fn is_random_access(&self) -> bool {
        self.source.is_random_access()
    }

    /// Checks that the file is still the one that was opened, and so was whatever was read before.
    pub(super) fn check(&self) -> Result<(), ReadFailure> {
        self.source.check()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.forget(self.id);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("id", &self.id)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The bodies in use.
pub(super) struct Bodies {
    known: Mutex<Known>,
}

struct Known {
    bodies: HashMap<(Identity, Mode), Weak<Body>>,
    /// The bodies requested last, the most recent at the end.
    held: VecDeque<Arc<Body>>,
    /// Table size at which dead entries are swept; chosen so that the cost of a sweep is negligible.
    sweep_at: usize,
    /// Whether a thread is asking the system which held bodies are nameless: local ones, and remote ones.
    asking: [bool; 2],
}

impl Bodies {
    /// Tables smaller than this are not worth sweeping.
    const SWEEP_MIN: usize = 64;
    /// Limit of bodies held without readers: each costs a descriptor.
    pub(super) const HELD_MAX: usize = 64;

    pub(super) fn new() -> Self {
        Self {
            known: Mutex::new(Known {
                bodies: HashMap::new(),
                held: VecDeque::with_capacity(Self::HELD_MAX + 1),
                sweep_at: Self::SWEEP_MIN,
                asking: [false; 2],
            }),
        }
    }

    /// The body of this file in this mode, if it is in use.
    pub(super) fn find(&self, identity: Identity, mode: Mode) -> Option<Arc<Body>> {
        let mut known = self.lock();
        let body = known.bodies.get(&(identity, mode))?.upgrade()?;
        let displaced = known.hold(&body);
        drop(known);
        drop(displaced);
        Some(body)
    }

    /// The body of this file: the existing one if it is in use, or else a new one.
    pub(super) fn share(&self, opened: Opened, mode: Mode, cache: &Arc<FrameCache>) -> Arc<Body> {
        let key = (opened.identity, mode);
        let mut known = self.lock();
        if let Some(body) = known.bodies.get(&key).and_then(Weak::upgrade) {
            let displaced = known.hold(&body);
            drop(known);
            drop(displaced);
            return body;
        }
        if known.bodies.len() >= known.sweep_at {
            known.bodies.retain(|_, body| body.strong_count() > 0);
            known.sweep_at = (known.bodies.len() * 2).max(Self::SWEEP_MIN);
        }
        let body = Arc::new(Body::new(opened, Arc::downgrade(cache)));
        known.bodies.insert(key, Arc::downgrade(&body));
        let displaced = known.hold(&body);
        drop(known);
        // Dropping the displaced body makes the cache forget it and closes its file.
        drop(displaced);
        body
    }

    /// Releases bodies whose files no client can request any more, to free their disk space. This asks the
    /// system about each body, so it does not hold the lock meanwhile. One thread at a time asks for those that are
    /// remote, and one for the others: if a file system does not answer, the other threads go on.
    pub(super) fn release_nameless(&self, is_remote: bool) {
        let mut known = self.lock();
        if std::mem::replace(&mut known.asking[usize::from(is_remote)], true) {
            return;
        }
        let mut gone: Vec<Arc<Body>> = known.held.iter().cloned().collect();
        drop(known);
        let _asking = Asking(self, is_remote);
        gone.retain(|body| body.is_remote() == is_remote);
        gone.retain(|body| body.source.is_nameless());
        let is_gone = |body: &Arc<Body>| gone.iter().any(|gone| Arc::ptr_eq(gone, body));
        self.lock().held.retain(|body| !is_gone(body));
    }

    /// Releases all bodies without readers, and their descriptors; returns whether any was remote.
    pub(super) fn release_held(&self) -> bool {
        let held = std::mem::take(&mut self.lock().held);
        held.iter().any(|body| body.is_remote())
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.lock().bodies.len()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that asks which bodies are nameless, until it has its answers.
struct Asking<'a>(&'a Bodies, bool);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking[usize::from(self.1)] = false;
    }
}

impl Known {
    /// Holds the body as the most recent one; returns the one it displaced.
    fn hold(&mut self, body: &Arc<Body>) -> Option<Arc<Body>> {
        match self.held.iter().rposition(|held| Arc::ptr_eq(held, body)) {
            Some(place) => {
                let last = self.held.remove(place);
                self.held.extend(last);
            }
            None => self.held.push_back(Arc::clone(body)),
        }
        if self.held.len() > Bodies::HELD_MAX {
            return self.held.pop_front();
        }
        None
    }
}
