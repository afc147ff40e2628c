//! Long texts that are read through for their length: a slice at a time, and always the one that has come
//! least far, so that the shorter is done first and the longest holds up nobody. A text is read through once
//! for all who wait for it, and no longer than somebody does.

use std::sync::PoisonError;

use super::text::Scan;
use super::{Identity, Mailbox, Opened, Ticket};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Most texts that are read through at a time: a descriptor each, and every one may take its time.
pub(super) const SCANS_MAX: usize = 64;

/// Most who wait for them, as many as may wait for reads.
pub(super) const WAITING_MAX: usize = 1024;

/// What is being read through, and for whom.
pub(super) struct Scans {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// In the order they were asked for.
    entries: Vec<Entry>,
    next_id: u64,
    closed: bool,
}

struct Entry {
    id: u64,
    identity: Identity,
    /// `None` while a thread is at it.
    scan: Option<Scan>,
    /// How far it had come when it was last put back.
    scanned: u64,
    waiting: Vec<(Ticket, Mailbox)>,
}

/// A text that is to be read on for a slice.
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

    /// Has the text read through, or waits with those who had it so already; says whether there was room.
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
                // To close a file may take a while, which nobody else need wait for.
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

    /// Nobody waits for that answer any more; a text that nobody waits for is left.
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

    /// The text to go on with, as soon as there is one; `None` once all is to end.
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

    /// The text to go on with, if there is one.
    pub(super) fn next_now(&self) -> Option<Work> {
        self.lock().take()
    }

    /// A slice of it is done, and more is to come.
    pub(super) fn put_back(&self, work: Work) {
        let mut state = self.lock();
        match state.entries.iter_mut().find(|entry| entry.id == work.id) {
            Some(entry) => {
                entry.scanned = work.scan.scanned();
                entry.scan = Some(work.scan);
                drop(state);
                self.changed.notify_one();
            }
            // Nobody waits for it any more.
            None => {
                drop(state);
                drop(work);
            }
        }
    }

    /// All of it is done, or it failed: who waits for it.
    pub(super) fn finish(&self, id: u64) -> Vec<(Ticket, Mailbox)> {
        let mut state = self.lock();
        let at = state.entries.iter().position(|entry| entry.id == id);
        at.map(|at| state.entries.remove(at).waiting)
            .unwrap_or_default()
    }

    /// Ends the threads; what is not done is dropped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.entries);
        drop(state);
        self.changed.notify_all();
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Of those that have come least far, the first that was asked for.
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
