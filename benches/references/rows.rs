//! The work: what is asked of every server, and how dear it may be beside the bare loop.

use crate::common::Terms;

/// One piece of work.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) terms: Terms,
    /// Octets of the file that all clients read. No more than 65,535 blocks: the bare loop knows
    /// a block by its sixteen bits.
    pub(super) octets: usize,
    pub(super) clients: u32,
    /// Transfers of all clients together.
    pub(super) transfers: u64,
    pub(super) unit: Unit,
    /// What the server's cost may be, as a multiple of the bare loop's.
    pub(super) limit: f64,
}

/// What the cost is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Gigabyte,
    RoundTrip,
    Transfer,
}

impl Unit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gigabyte => "CPU-s/GB",
            Self::RoundTrip => "CPU us/round trip",
            Self::Transfer => "CPU us/transfer",
        }
    }
}

/// The limit where the kernel's copy is most of the work.
const LIMIT_BURSTS: f64 = 1.3;
/// The limit where a system call for each datagram is.
const LIMIT_ROUND_TRIPS: f64 = 1.15;
/// The limit where every transfer is a file found, terms agreed and a slot taken.
const LIMIT_REQUESTS: f64 = 1.5;

const MIB: usize = 1 << 20;

/// Clients in the rows that are not about their number: enough that the server rarely sleeps.
const CLIENTS: u32 = 64;

pub(super) const ROWS: &[Row] = &[
    burst("1428/64", (1428, 64), 32 * MIB, 128),
    burst("512/64", (512, 64), 16 * MIB, 128),
    burst("8192/64", (8192, 64), 32 * MIB, 128),
    burst("65464/4", (65_464, 4), 32 * MIB, 128),
    burst("65464/1", (65_464, 1), 32 * MIB, 128),
    lockstep("lockstep-64", 2 * MIB, 64),
    lockstep("lockstep-1000", MIB / 4, 1_000),
    lockstep("lockstep-10000", MIB / 16, 10_000),
    Row {
        name: "requests",
        terms: None,
        octets: 1 << 10,
        clients: 200,
        transfers: 60_000,
        unit: Unit::Transfer,
        limit: LIMIT_REQUESTS,
    },
    crowd("crowd-64", 64, 4_000),
    crowd("crowd-1000", 1_000, 4_000),
    crowd("crowd-10000", 10_000, 10_000),
];

/// The row that a crowd's growth is counted from, and those that it is counted for.
pub(super) const CROWDS: [&str; 3] = ["crowd-64", "crowd-1000", "crowd-10000"];

/// Whole windows to a few clients.
const fn burst(name: &'static str, terms: (u16, u16), octets: usize, transfers: u64) -> Row {
    Row {
        name,
        terms: Some(terms),
        octets,
        clients: CLIENTS,
        transfers,
        unit: Unit::Gigabyte,
        limit: LIMIT_BURSTS,
    }
}

/// One block, one ACK: each client reads its file once.
const fn lockstep(name: &'static str, octets: usize, clients: u32) -> Row {
    Row {
        name,
        terms: Some((512, 1)),
        octets,
        clients,
        transfers: clients as u64,
        unit: Unit::RoundTrip,
        limit: LIMIT_ROUND_TRIPS,
    }
}

/// More and more clients of one image, small enough that ten thousand are served in seconds.
const fn crowd(name: &'static str, clients: u32, transfers: u64) -> Row {
    Row {
        name,
        terms: Some((1428, 16)),
        octets: MIB,
        clients,
        transfers,
        unit: Unit::Gigabyte,
        limit: LIMIT_BURSTS,
    }
}
