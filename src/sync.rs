//! What threads share things by, named in one place, so that a model checker can stand in for it
//! (`tests/loom.rs`).
//!
//! Reference counts are the standard library's wherever they are: they guard no order of events, and the
//! checker's own know no weak ones.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic, mpsc};
pub(crate) use std::thread;
