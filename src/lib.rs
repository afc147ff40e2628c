//! bootstorm: TFTP for the moment when a thousand machines power on at once.

pub mod engine;
pub mod proto;
pub mod store;
pub mod time;
pub mod wire;
