//! The load generator: runs thousands of concurrent clients against any TFTP server and reports what they
//! saw.
//!
//! A [`Load`] consists of [`Group`]s of clients. [`plan`] schedules when their transfers start,
//! [`profile`] describes how they request and retry, and `weather` impairs their packets. `run` drives
//! them in shards on this program's own engine, [`ramp`] raises the load step by step, and [`report`]
//! presents the results. `places` gives each client an address or a socket, so that ten thousand clients
//! need few descriptors. [`compare`] runs the same workloads against several servers in turn.

mod busy;
pub mod compare;
pub mod contents;
mod mix;
mod places;
pub mod plan;
mod process;
pub mod ramp;
pub mod report;
mod round_trips;
mod run;
mod tally;
pub mod timeline;
mod waits;
mod watch;
mod weather;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::shard::Expected;
use crate::store::memory::Contents;
use crate::time::Duration;

pub use crate::proto::profile;
pub use process::Usage;
pub use run::{Live, run};
pub use tally::{Failure, FirstFailure, Tally};
pub use waits::{Quantile, Waits};
pub use weather::{Disturbed, Weather};

use plan::{Bounds, Pace};
use profile::Profile;

/// A load to run against a server.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server's address, with the port that takes requests.
    pub server: SocketAddr,
    /// The groups of clients; all run at the same time.
    pub groups: Vec<Group>,
    /// Threads that drive clients, each with its share; at least 1.
    pub threads: usize,
    /// The random seed: reproduces the same run, as far as the clock allows.
    pub seed: u64,
    /// Whether to receive consecutive datagrams with one call (GRO). Without it, on loopback the server's
    /// core does the segmentation that a network card would do.
    pub gro: bool,
    /// The server's process ID, if it is to be monitored.
    pub server_pid: Option<u32>,
}

impl Load {
    /// A load of these groups, driven by one thread.
    #[must_use]
    pub const fn new(server: SocketAddr, groups: Vec<Group>) -> Self {
        Self {
            server,
            groups,
            threads: 1,
            seed: 1,
            gro: true,
            server_pid: None,
        }
    }
}

/// A group of clients with the same settings.
#[derive(Debug, Clone)]
pub struct Group {
    /// The group's name in the report; may be empty if there is only one group.
    pub name: String,
    /// The direction of the transfers.
    pub work: Work,
    /// The files.
    pub files: Vec<File>,
    /// The client profiles, with their relative weights.
    pub profiles: Vec<(Profile, u32)>,
    /// When transfers start.
    pub pace: Pace,
    /// When no more transfers start.
    pub bounds: Bounds,
    /// The impairment of the clients' packets.
    pub weather: Weather,
    /// The probability that a client vanishes in the middle of its transfer.
    pub abandon: f64,
}

impl Group {
    /// This many clients, each of which reads one of the files, once.
    #[must_use]
    pub fn new(files: Vec<File>, clients: u32) -> Self {
        Self {
            name: String::new(),
            work: Work::Read,
            files,
            profiles: vec![(Profile::DEFAULT, 1)],
            pace: Pace::Closed {
                clients,
                think: Duration::ZERO,
            },
            bounds: Bounds {
                transfers: Some(clients.into()),
                duration: None,
            },
            weather: Weather::FAIR,
            abandon: 0.0,
        }
    }
}

/// The direction of the transfers.
#[derive(Debug, Clone)]
pub enum Work {
    /// From the server.
    Read,
    /// To the server: these octets, from memory.
    Write(Contents),
}

/// A file on the server.
#[derive(Debug, Clone)]
pub struct File {
    /// The file's name; `{number}` stands for the transfer's number.
    pub name: Vec<u8>,
    /// How often the file is requested, relative to the others.
    pub weight: u32,
    /// What a read of the file should return.
    pub expected: Arc<Expected>,
}
