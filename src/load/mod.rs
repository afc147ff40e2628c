//! The load generator: thousands of clients at once against any TFTP server, and an honest account of
//! what they saw.
//!
//! [`plan`] says when transfers begin, `run` drives them on shards of this program's own engine, and
//! [`report`] tells how they went. `places` gives each client an address or a socket, so that ten
//! thousand need few descriptors. [`compare`] does it to several servers by turns.

pub mod compare;
mod places;
pub mod plan;
mod process;
pub mod profile;
pub mod report;
mod run;
mod tally;
mod weather;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::proto::negotiate::{Wanted, Wish};
use crate::proto::timing::Patience;
use crate::shard::Expected;
use crate::time::Duration;

pub use process::Usage;
pub use run::{Live, run};
pub use tally::{Failure, Tally};

use plan::{Bounds, Pace};

/// What is to be done to a server.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server, at the port that takes requests.
    pub server: SocketAddr,
    /// Which way the files go.
    pub work: Work,
    /// The files.
    pub files: Vec<File>,
    /// When transfers begin.
    pub pace: Pace,
    /// When no more begin.
    pub bounds: Bounds,
    /// The options to ask for.
    pub wanted: Wanted,
    /// The order in which they are asked for.
    pub order: [Wish; 4],
    /// Whether each client first asks for the length alone.
    pub probes: bool,
    /// How long each client waits, and how often.
    pub patience: Patience,
    /// What goes wrong at the clients.
    pub mishaps: Mishaps,
    /// Threads that drive clients, each with its share; at least 1.
    pub threads: usize,
    /// Makes the same run again, as far as the clock allows.
    pub seed: u64,
    /// Whether datagrams that arrive in a row are taken by one call. Without it, loopback makes the
    /// server's core cut what a network card would cut.
    pub gro: bool,
    /// The server's process, to be watched.
    pub server_pid: Option<u32>,
}

/// What goes wrong at the clients, or slowly.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Mishaps {
    /// The probability that a DATA or ACK packet is lost, on either way.
    pub loss: f64,
    /// How long a client takes before an ACK leaves.
    pub slow: Duration,
    /// The probability that a client vanishes amid its transfer.
    pub abandon: f64,
}

/// Which way the files go.
#[derive(Debug, Clone)]
pub enum Work {
    /// From the server.
    Read,
    /// To the server: these octets, from memory.
    Write(Arc<[u8]>),
}

/// A file at the server.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name; `{number}` stands for the transfer's number.
    pub name: Vec<u8>,
    /// How often it is asked for, against the others.
    pub weight: u32,
    /// What a read of it should bring.
    pub expected: Arc<Expected>,
}
