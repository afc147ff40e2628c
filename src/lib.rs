//! bootstorm: TFTP for the moment when a thousand machines power on at once.

pub mod cli;
pub mod client;
pub mod config;
pub mod conformance;
pub mod control;
mod descriptors;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod load;
pub mod metrics;
pub mod processors;
pub mod proto;
pub mod server;
pub mod shard;
pub mod simulate;
pub mod store;
mod sync;
#[cfg(test)]
mod testing;
pub mod time;
pub mod wire;
