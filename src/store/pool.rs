//! Bounded job queues, served by threads.

use std::collections::VecDeque;
use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A FIFO queue of jobs.
pub(super) struct Queue<Job> {
    /// Limit of waiting jobs; jobs that must not be refused may exceed it.
    jobs_max: usize,
    state: Mutex<State<Job>>,
    changed: Condvar,
}

struct State<Job> {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl<Job> Queue<Job> {
    pub(super) fn new(jobs_max: usize) -> Self {
        Self {
            jobs_max,
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds a job unless too many are waiting; returns whether it did.
    pub(super) fn offer(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= self.jobs_max {
            return false;
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Adds a job of a kind that its owner limits.
    pub(super) fn add(&self, job: Job) {
        let mut state = self.lock();
        if !state.closed {
            state.jobs.push_back(job);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// The next job, if one is waiting.
    pub(super) fn next_now(&self) -> Option<Job> {
        self.lock().jobs.pop_front()
    }

    /// Waits for the next job; `None` once the queue is closed.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the threads and drops waiting jobs; a dropped upload leaves no file.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.jobs);
        drop(state);
        self.changed.notify_all();
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State<Job>> {
        // No code panics under the lock with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_refused_when_full_and_additions_never() {
        let queue = Queue::new(3);
        for job in 0..3 {
            assert!(queue.offer(job));
        }
        assert!(!queue.offer(0));
        queue.add(7);
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.next_now(), Some(0));
        queue.close();
        assert_eq!(queue.next(), None);
        assert!(!queue.offer(0));
    }
}
