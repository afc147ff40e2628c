//! Bodies: what is read, opened once and shared by all who read it.
//!
//! A body lives as long as somebody reads it, and its frames with it. The last few are held beyond that,
//! for machines boot one after the other as well, and each would find the image cold again.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use super::frames::FrameCache;
use super::{Identity, Opened, ReadFailure, Source};
use crate::sync::{Mutex, MutexGuard};
use crate::wire::Mode;

/// An open file as it goes over the wire in one mode.
pub struct Body {
    /// Never used twice, so that frames of a body that is gone are never taken for another's.
    id: u64,
    len: u64,
    identity: Identity,
    source: Box<dyn Source>,
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
            cache,
        }
    }

    /// Octets on the wire.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A body is not a collection; an empty one is sent like any other.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// What makes two openings one body.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Fills `buffer` from `offset` on, and makes sure that the file is still the one that was opened.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadFailure> {
        if self.source.read_at(buffer, offset)? < buffer.len() {
            return Err(ReadFailure::Changed);
        }
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

/// The bodies that somebody holds.
pub(super) struct Bodies {
    known: Mutex<Known>,
}

struct Known {
    bodies: HashMap<(Identity, Mode), Weak<Body>>,
    /// The last ones asked for, the very last at the end.
    held: VecDeque<Arc<Body>>,
    /// Dead entries are swept when the table has grown to this many, which makes a sweep as good as free.
    sweep_at: usize,
}

impl Bodies {
    /// Tables smaller than this are not worth sweeping.
    const SWEEP_MIN: usize = 64;
    /// Bodies held although nobody may be reading them: a descriptor each.
    pub(super) const HELD_MAX: usize = 64;

    pub(super) fn new() -> Self {
        Self {
            known: Mutex::new(Known {
                bodies: HashMap::new(),
                held: VecDeque::with_capacity(Self::HELD_MAX + 1),
                sweep_at: Self::SWEEP_MIN,
            }),
        }
    }

    /// The body of this file in this mode, if somebody holds it.
    pub(super) fn find(&self, identity: Identity, mode: Mode) -> Option<Arc<Body>> {
        let mut known = self.lock();
        let body = known.bodies.get(&(identity, mode))?.upgrade()?;
        let displaced = known.hold(&body);
        drop(known);
        drop(displaced);
        Some(body)
    }

    /// The body of this file: the one that somebody holds, or else a new one.
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
        // What dies here asks the cache to forget it, and closes its file.
        drop(displaced);
        body
    }

    /// Lets go of bodies whose files nobody can ask for any more, so that their disk space is not held
    /// back. This asks the system about each, which is why nobody else waits for it.
    pub(super) fn release_nameless(&self) {
        let mut gone: Vec<Arc<Body>> = self.lock().held.iter().cloned().collect();
        gone.retain(|body| body.source.is_nameless());
        if !gone.is_empty() {
            let is_gone = |body: &Arc<Body>| gone.iter().any(|gone| Arc::ptr_eq(gone, body));
            self.lock().held.retain(|body| !is_gone(body));
        }
    }

    /// Lets go of all bodies that nobody reads, and of their descriptors.
    pub(super) fn release_held(&self) {
        let held = std::mem::take(&mut self.lock().held);
        drop(held);
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.lock().bodies.len()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Holds the body as the last one asked for; gives back the one that had to go for it.
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
