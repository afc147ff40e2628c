//! bootstorm: TFTP for the moment when a thousand machines power on at once.
//!
//! All that the program `bootstorm` does is here for other programs as well: a server for one's own tests,
//! a client, a load generator, the protocol without any socket. Start at
//!
//! - [`server::Server`], which serves a directory from a thread per core, as [`server::ServerOptions`] say;
//! - [`control::serve`], the same with signals, a drain and the admin side;
//! - [`client::Transfer`], which gets or puts a file;
//! - [`load`], thousands of clients against any server, and [`conformance`], which examines one;
//! - [`simulate`], server and clients in a network that a seed makes;
//! - [`wire`] and [`proto`], packets and transfers that are told the time and do no input or output; [`shard`]
//!   is the loop that drives them.
//!
//! # A server inside a test
//!
//! At a port that is free, for as long as it is wanted; `examples/serve.rs` has the same with comments.
//!
//! ```
//! use bootstorm::client::{Job, LocalFile, Offer, Transfer, Turn};
//! use bootstorm::server::{Server, ServerOptions};
//! use bootstorm::shard::Operation;
//! use bootstorm::wire::Mode;
//!
//! # let scratch = tempfile::tempdir()?;
//! # let (root, copy) = (scratch.path().join("root"), scratch.path().join("copy"));
//! # std::fs::create_dir(&root)?;
//! # std::fs::write(root.join("image"), "octets")?;
//! let options = ServerOptions {
//!     root,
//!     listen: vec!["127.0.0.1:0".parse()?],
//!     ..ServerOptions::default()
//! };
//! let server = Server::start(&options, |ended| drop(ended.expect("it serves")))?;
//!
//! let job = Job {
//!     servers: server.addresses().to_vec(),
//!     operation: Operation::Read,
//!     remote: b"image".to_vec(),
//!     local: LocalFile::Path(copy.clone()),
//!     mode: Mode::Octet,
//!     offer: Offer::default(),
//! };
//! let mut transfer = Transfer::start(job, Default::default())?;
//! while !matches!(transfer.turn()?, Turn::Done(_)) {}
//! assert_eq!(std::fs::read(copy)?, b"octets");
//!
//! server.drain();
//! server.join();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod cli;
pub mod client;
pub mod config;
pub mod conformance;
pub mod control;
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
