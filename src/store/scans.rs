//! Scans of long texts to find their encoded length: a slice at a time, always of the text with the least
//! progress, so that shorter texts finish first and the longest delays no other. A text is scanned once for
//! all its waiters, and only while it has any.

use std::sync::PoisonError;

use super::text::Scan;
use super::{Identity, Mailbox, Opened, Ticket};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Limit of concurrent scans: each holds a descriptor and may take long.
pub(super) const SCANS_MAX: usize = 64;

/// Limit of waiters for scans, the same as for reads.
pub(super) const WAITING_MAX: usize = 1024;

/// The texts being scanned, and their waiters.
pub(super) struct Scans {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// In the order of the requests.
    entries: Vec<Entry>,
    next_id: u64,
    closed: bool,
}

struct Entry {
    id: u64,
    identity: Identity,
    /// `None` while a thread works on it.
    scan: Option<Scan>,
    /// Progress when it was last put back.
    scanned: u64,
    waiting: Vec<(Ticket, Mailbox)>,
}

/// A text whose next slice is due.
pub(super) struct Work {
    pub(super) id: u64,
    pub(super) identity: Identity,
    pub(super) scan: Scan,
}

impl Scans {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                entries: Vec::new(),
                next_id: 0,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Starts a scan of the text, or joins one in progress; returns whether there was room.
    pub(super) fn ask(&self, opened: Opened, ticket: Ticket, mailbox: &Mailbox) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        let waiting: usize = state.entries.iter().map(|entry| entry.waiting.len()).sum();
        let known = state
            .entries
            .iter_mut()
            .find(|entry| entry.identity == opened.identity);
        let room = match known {
            Some(entry) => {
                let room = waiting < WAITING_MAX;
                if room {
                    entry.waiting.push((ticket, mailbox.clone()));
                }
                drop(state);
                // Closing a file may take a while, so do it without the lock.
                drop(opened);
                return room;
            }
            None => state.entries.len() < SCANS_MAX,
        };
        if room {
            let id = state.next_id;
            state.next_id += 1;
            state.entries.push(Entry {
                id,
                identity: opened.identity,
                scan: Some(Scan::new(opened.source, opened.len)),
                scanned: 0,
                waiting: vec![(ticket, mailbox.clone())],
            });
            drop(state);
            self.changed.notify_one();
        }
        room
    }

    /// Removes a waiter; a text without waiters is abandoned.
    pub(super) fn withdraw(&self, ticket: Ticket, mailbox: &Mailbox) {
        let mut state = self.lock();
        let is_meant = |(waits, place): &(Ticket, Mailbox)| *waits == ticket && place.is(mailbox);
        let found = state.entries.iter().enumerate().find_map(|(at, entry)| {
            let place = entry.waiting.iter().position(is_meant)?;
            Some((at, place))
        });
        let Some((at, place)) = found else { return };
        state.entries[at].waiting.swap_remove(place);
        let left = state.entries[at]
            .waiting
            .is_empty()
            .then(|| state.entries.remove(at));
        drop(state);
        drop(left);
    }

    /// Waits for the next text to work on; `None` once closed.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(work) = state.take() {
                return Some(work);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next text to work on, if there is one.
    pub(super) fn next_now(&self) -> Option<Work> {
        self.lock().take()
    }

    /// Returns a text after a slice, with more to come.
    pub(super) fn put_back(&self, work: Work) {
        let mut state = self.lock();
        match state.entries.iter_mut().find(|entry| entry.id == work.id) {
            Some(entry) => {
                entry.scanned = work.scan.scanned();
                entry.scan = Some(work.scan);
                drop(state);
                self.changed.notify_one();
            }
            // It has no waiters any more.
            None => {
                drop(state);
                drop(work);
            }
        }
    }

    /// Ends a scan that is complete or has failed; returns its waiters.
    pub(super) fn finish(&self, id: u64) -> Vec<(Ticket, Mailbox)> {
        let mut state = self.lock();
        let at = state.entries.iter().position(|entry| entry.id == id);
        at.map(|at| state.entries.remove(at).waiting)
            .unwrap_or_default()
    }

    /// Ends the threads; unfinished scans are dropped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.entries);
        drop(state);
        self.changed.notify_all();
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics under the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the text with the least progress; among equals, the one requested first.
    fn take(&mut self) -> Option<Work> {
        let idle = self.entries.iter_mut().filter(|entry| entry.scan.is_some());
        let entry = idle.min_by_key(|entry| entry.scanned)?;
        Some(Work {
            id: entry.id,
            identity: entry.identity,
            scan: entry.scan.take()?,
        })
    }
}
