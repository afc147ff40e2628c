//! bootstorm: TFTP for the moment when a thousand machines power on at once.

pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod proto;
pub mod store;
pub mod time;
pub mod wire;
