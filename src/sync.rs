//! What shards, store and engines share things by, named in one place, so that others can stand in for it:
//! a model checker's (`tests/loom.rs`), or those that the thread sanitizer can follow (`tests/sanitizers`).
//!
//! Reference counts are the standard library's wherever they are: they guard no order of events, and the
//! checker's own know no weak ones.

#[cfg(followed)]
mod followed;

#[cfg(followed)]
pub(crate) use followed::{Condvar, Mutex, MutexGuard};
#[cfg(not(followed))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::sync::{atomic, mpsc};
pub(crate) use std::thread;
