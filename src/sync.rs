//! The synchronization primitives of shards, store and engines, kept in one place so that others can replace
//! them: a model checker's (`tests/loom.rs`), or traceable ones for the thread sanitizer
//! (`tests/sanitizers`).
//!
//! Reference counts always come from the standard library: they impose no order of events, and the checker's
//! own lack weak references.

#[cfg(followed)]
mod followed;

#[cfg(followed)]
pub(crate) use followed::{Condvar, Mutex, MutexGuard};
#[cfg(not(followed))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::sync::{atomic, mpsc};
pub(crate) use std::thread;
