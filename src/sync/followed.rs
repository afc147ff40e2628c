//! Locks that the thread sanitizer can follow.
//!
//! The standard library is shipped without sanitizer instrumentation, so the sanitizer misses every lock
//! acquisition that had to wait. An atomic beside each lock therefore reports it again.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, LockResult, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    order: Order,
    inner: sync::Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            order: Order(AtomicBool::new(false)),
            inner: sync::Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        told(&self.order, self.inner.lock())
    }
}

pub(crate) struct MutexGuard<'a, T> {
    // The fields are dropped in this order.
    told: Told<'a>,
    inner: sync::MutexGuard<'a, T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(sync::Condvar::new())
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let MutexGuard { told: taken, inner } = guard;
        let order = taken.0;
        drop(taken);
        told(order, self.0.wait(inner))
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Orders each holder of a lock after all previous holders.
#[derive(Debug, Default)]
struct Order(AtomicBool);

/// Reports, when dropped, that the lock is released.
struct Told<'a>(&'a Order);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// Reports that a lock was acquired.
fn told<'a, T>(
    order: &'a Order,
    taken: LockResult<sync::MutexGuard<'a, T>>,
) -> LockResult<MutexGuard<'a, T>> {
    order.0.load(Ordering::Acquire);
    let guard = |inner| MutexGuard {
        told: Told(order),
        inner,
    };
    match taken {
        Ok(inner) => Ok(guard(inner)),
        Err(poisoned) => Err(PoisonError::new(guard(poisoned.into_inner()))),
    }
}
