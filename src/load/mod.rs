//! The load generator: thousands of clients at once against any TFTP server, and an honest account of
//! what they saw.
//!
//! A [`Load`] is made of [`Group`]s of clients. [`plan`] says when their transfers begin, [`profile`] how
//! they ask and wait, `weather` what befalls their packets; `run` drives them on shards of this program's
//! own engine, [`ramp`] has more and more of them come, and [`report`] tells how they went. `places` gives
//! each client an address or a socket, so that ten thousand need few descriptors. [`compare`] has several
//! servers bear the same by turns.

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

/// What is to be done to a server.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server, at the port that takes requests.
    pub server: SocketAddr,
    /// Those who do it, all at the same time.
    pub groups: Vec<Group>,
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

impl Load {
    /// These groups, driven by one thread.
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

/// Clients that have something in common.
#[derive(Debug, Clone)]
pub struct Group {
    /// What the report calls it; may be empty where there is one group alone.
    pub name: String,
    /// Which way the files go.
    pub work: Work,
    /// The files.
    pub files: Vec<File>,
    /// How clients ask and wait, and how many of them do so, against the others.
    pub profiles: Vec<(Profile, u32)>,
    /// When transfers begin.
    pub pace: Pace,
    /// When no more begin.
    pub bounds: Bounds,
    /// What befalls their packets.
    pub weather: Weather,
    /// The probability that a client vanishes amid its transfer.
    pub abandon: f64,
}

impl Group {
    /// So many clients, each of which reads one of the files, once.
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

/// Which way the files go.
#[derive(Debug, Clone)]
pub enum Work {
    /// From the server.
    Read,
    /// To the server: these octets, from memory.
    Write(Contents),
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
