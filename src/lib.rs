//! bootstorm: TFTP for the moment when a thousand machines power on at once.
//!
//! Everything that the program `bootstorm` does is also available to other programs: a server for tests, a
//! client, a load generator, the protocol without sockets. Start at
//!
//! - [`server::Server`], which serves a directory from a thread per core, as [`server::ServerOptions`] say;
//! - [`control::serve`], the same with signals, a drain and the admin side;
//! - [`client::Transfer`], which reads or writes a file;
//! - [`load`], which runs thousands of clients against any server, and [`conformance`], which tests one;
//! - [`simulate`], which runs server and clients in a simulated network, reproducibly from a seed;
//! - [`wire`] and [`proto`], packets and transfers without I/O or a clock of their own; [`shard`]
//!   is the loop that drives them.
//!
//! # A server inside a test
//!
//! On a free port, for as long as the test needs it; `examples/serve.rs` has the same with comments.
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
