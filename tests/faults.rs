//! Faults of the machine: limits, refusals, full disks, broken cables, signals. The program keeps serving, or
//! ends with an error that says what to do, on either engine.
//!
//! Much of it needs root; if that or a tool is missing, the test reports so. Nothing outside the test is
//! touched: disks and networks belong to namespaces that end with it.

#![cfg(target_os = "linux")]

#[path = "faults/calls.rs"]
mod calls;
mod common;
#[path = "faults/crash.rs"]
mod crash;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/network.rs"]
mod network;
#[path = "faults/pause.rs"]
mod pause;
#[path = "faults/remote.rs"]
mod remote;

/// Whether a command of preparation works here; said aloud if not.
fn works(words: &[&str]) -> bool {
    let done = common::namespace::run(words);
    done.inspect_err(|why| common::skip(why)).is_ok()
}
