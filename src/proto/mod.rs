//! The protocol core, with no socket, file, clock, thread or log line: the caller tells it what arrived and
//! what time it is, and it says what to send and when to call again.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

pub mod block;
pub mod negotiate;
pub mod netascii;
pub mod outcome;
pub mod profile;
pub mod receiver;
pub mod sender;
pub mod timing;
pub mod transfer;
pub mod transmit;
