//! What a seed determines of a fleet's world: the weather, the mishap, the files, and the clients'
//! requests.

use std::ops::Range;

use super::Fleet;
use crate::engine::sim::{Pace, Weather};
use crate::proto::negotiate::{ORDER_DEFAULT, Wanted};
use crate::proto::profile::{PROFILES, Profile};
use crate::proto::timing::Patience;
use crate::shard::{Manner, Operation};
use crate::store::memory::Faults;
use crate::time::{Duration, Instant};

/// Kinds of weather.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Everything arrives, in order.
    Fair,
    /// The same, with a round-trip time of 25 ms.
    Far,
    /// One datagram in twenty arrives twice.
    Duplicate,
    /// Each datagram takes 1 to 4 ms, so datagrams overtake each other.
    Jitter,
    /// One datagram in a hundred is held back by ten round trips.
    Reorder,
    /// One datagram in a hundred is lost.
    Loss1,
    /// One datagram in twenty is lost.
    Loss5,
    /// Losses come in bursts.
    Burst,
    /// One datagram in fifty is corrupted.
    Corrupt,
    /// One send in twenty finds the queue full.
    Full,
    /// Each datagram takes CPU time on the server.
    Busy,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Fair,
        Self::Far,
        Self::Duplicate,
        Self::Jitter,
        Self::Reorder,
        Self::Loss1,
        Self::Loss5,
        Self::Burst,
        Self::Corrupt,
        Self::Full,
        Self::Busy,
    ];

    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fair => "fair",
            Self::Far => "far",
            Self::Duplicate => "duplicate",
            Self::Jitter => "jitter",
            Self::Reorder => "reorder",
            Self::Loss1 => "loss 1 %",
            Self::Loss5 => "loss 5 %",
            Self::Burst => "burst",
            Self::Corrupt => "corrupt",
            Self::Full => "full",
            Self::Busy => "busy",
        }
    }

    /// How it affects datagrams.
    #[must_use]
    pub const fn weather(self) -> Weather {
        let mut weather = Weather::FAIR;
        match self {
            Self::Fair | Self::Busy => {}
            Self::Far => weather.delay = Duration::from_micros(12_500),
            Self::Duplicate => {
                weather.duplicate = 0.05;
                weather.duplicate_delay = Duration::from_micros(150);
            }
            Self::Jitter => {
                weather.delay = Duration::from_millis(1);
                weather.jitter = Duration::from_millis(3);
            }
            Self::Reorder => weather.reorder = 0.01,
            Self::Loss1 => weather.loss = 0.01,
            Self::Loss5 => weather.loss = 0.05,
            Self::Burst => {
                weather.burst = 0.002;
                weather.burst_end = 0.5;
            }
            Self::Corrupt => weather.corrupt = 0.02,
            Self::Full => weather.full = 0.05,
        }
        weather
    }

    /// Whether nothing is lost or late, so that every attempt succeeds.
    #[must_use]
    pub const fn spares_all(self) -> bool {
        !matches!(
            self,
            Self::Loss1 | Self::Loss5 | Self::Burst | Self::Corrupt
        )
    }

    /// Whether clients with equal work do not depend on chance, so that they must get equal shares.
    pub(super) const fn is_equal(self) -> bool {
        matches!(self, Self::Fair | Self::Far | Self::Jitter | Self::Full)
    }
}

/// What fails in a world in addition to the weather, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mishap {
    /// Nothing.
    None,
    /// The disk is very slow.
    SlowDisk,
    /// Reads fail with EIO.
    ReadsFail,
    /// Reads return less data than there is.
    ShortReads,
    /// The clock leaps ahead, as after a suspend.
    ClockLeaps,
    /// The server's machine stalls.
    ServerStalls,
    /// The server's process ends without notice, and a new one starts at the same address.
    ServerRestarts,
    /// Some clients are disconnected.
    ClientsVanish,
}

impl Mishap {
    const ALL: [Self; 7] = [
        Self::SlowDisk,
        Self::ReadsFail,
        Self::ShortReads,
        Self::ClockLeaps,
        Self::ServerStalls,
        Self::ServerRestarts,
        Self::ClientsVanish,
    ];

    /// The mishap's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "no mishap",
            Self::SlowDisk => "slow disk",
            Self::ReadsFail => "reads fail",
            Self::ShortReads => "short reads",
            Self::ClockLeaps => "clock leaps",
            Self::ServerStalls => "server stalls",
            Self::ServerRestarts => "server restarts",
            Self::ClientsVanish => "clients vanish",
        }
    }
}

/// The clients' window sizes. Those of one size share a host, so that their cost is counted separately.
pub const WINDOWSIZES: [u16; 4] = [1, 4, 16, 64];
/// The number of files on a world's server.
const FILES: usize = 8;
/// One client in this many writes, but never more than the server accepts at a time.
const WRITERS_EACH: u32 = 10;
const WRITERS_MAX: u32 = 200;
/// One client in this many vanishes, in worlds where clients vanish.
const VANISH_EACH: u32 = 20;
/// The number of clients that start together with the same work.
pub(super) const COHORT: usize = 16;
/// The length of the file that they read, in octets: a hundred blocks.
const COHORT_FILE_OCTETS: u64 = 142_800;
/// Third-party receivers per world: enough for each style twice, in both window sizes.
pub(super) const FOREIGN: usize = 24;
/// A server that needs a microsecond to receive a datagram, and less to send in bursts.
const BUSY: Pace = Pace {
    receive: Duration::from_micros(1),
    send: Duration::from_nanos(600),
    queue_max: usize::MAX,
};

/// Everything that is drawn at random.
pub(super) struct Lot {
    pub(super) kind: Kind,
    pub(super) mishap: Mishap,
    pub(super) mishap_at: Instant,
    pub(super) mishap_for: Duration,
    pub(super) single_port: bool,
    /// Whether the server must wait for its disk, or has all files in memory.
    pub(super) cold: bool,
    pub(super) pace: Pace,
    /// The lengths of the files, by number.
    pub(super) files: Vec<u64>,
    pub(super) askings: Vec<Asking>,
    /// The clients that are alike and start together.
    pub(super) cohort: Range<usize>,
}

/// The request of one client.
pub(super) struct Asking {
    pub(super) at: Instant,
    pub(super) profile: Profile,
    /// Its index in [`WINDOWSIZES`], and so its host.
    pub(super) class: usize,
    pub(super) operation: Operation,
    pub(super) file: usize,
    pub(super) manner: Manner,
}

impl Lot {
    pub(super) fn draw(fleet: &Fleet) -> Self {
        let mut random = fastrand::Rng::with_seed(fleet.seed);
        let kind = Kind::ALL[random.usize(..Kind::ALL.len())];
        // Half of the worlds have no mishap: only there can datagrams be accounted for exactly.
        let mishap = if random.bool() {
            Mishap::None
        } else {
            Mishap::ALL[random.usize(..Mishap::ALL.len())]
        };
        let within = Duration::from_millis([0, 200, 2_000, 10_000][random.usize(..4)]);
        let mishap_at = Instant::ZERO + Duration::from_micros(random.u64(..2_000_000));
        let mishap_for = Duration::from_millis([50, 500, 3_000, 40_000][random.usize(..4)]);
        let mut files: Vec<u64> = (0..FILES).map(|_| length(&mut random)).collect();
        files.push(COHORT_FILE_OCTETS);
        let mut lot = Self {
            kind,
            mishap,
            mishap_at,
            mishap_for,
            single_port: random.bool(),
            cold: mishap == Mishap::SlowDisk || fleet.seed.is_multiple_of(2),
            pace: if kind == Kind::Busy {
                BUSY
            } else {
                Pace::AT_ONCE
            },
            files,
            askings: Vec::new(),
            cohort: 0..0,
        };
        let writers_each = WRITERS_EACH.max(fleet.clients / WRITERS_MAX);
        for _ in 0..fleet.clients {
            let at = Instant::ZERO + Duration::from_nanos(random.u64(0..=within.as_nanos() as u64));
            let profile = profile(&mut random);
            let file = random.usize(..FILES);
            let writes = random.u32(..writers_each) == 0;
            let vanishes = mishap == Mishap::ClientsVanish && random.u32(..VANISH_EACH) == 0;
            lot.askings.push(Asking {
                at,
                class: class(&profile),
                profile,
                operation: if writes {
                    Operation::Write
                } else {
                    Operation::Read
                },
                file,
                manner: if vanishes && !writes {
                    Manner::Vanish(random.u32(..))
                } else {
                    Manner::Whole
                },
            });
        }
        if kind.is_equal() && mishap == Mishap::None {
            let first = lot.askings.len();
            let profile = own(16, 1_428);
            lot.askings.extend((0..COHORT).map(|_| Asking {
                at: mishap_at,
                class: class(&profile),
                profile,
                operation: Operation::Read,
                file: FILES,
                manner: Manner::Whole,
            }));
            lot.cohort = first..lot.askings.len();
        }
        lot
    }

    /// The faults of the server's files without a mishap.
    pub(super) fn faults(&self) -> Faults {
        Faults {
            read_would_block: self.cold,
            ..Faults::default()
        }
    }
}

/// Mostly a few dozen blocks, sometimes almost nothing, rarely a kernel.
fn length(random: &mut fastrand::Rng) -> u64 {
    match random.u8(..16) {
        0 => 0,
        1 => 1,
        2 => 512 * random.u64(1..4),
        3 => 1_468 * random.u64(1..20),
        4 => random.u64(100_000..300_000),
        _ => random.u64(1_000..30_000),
    }
}

/// Most are firmware and boot loaders; the others behave like this program's own client.
fn profile(random: &mut fastrand::Rng) -> Profile {
    let blksize = [64, 512, 1_428][random.usize(..3)];
    match random.u8(..10) {
        0 => own(16, blksize),
        1 => own(64, blksize),
        _ => PROFILES[random.usize(..PROFILES.len())],
    }
}

const fn own(windowsize: u16, blksize: u16) -> Profile {
    Profile {
        name: "bootstorm",
        wanted: Wanted {
            blksize: Some(blksize),
            windowsize: Some(windowsize),
            timeout: None,
            tsize: Some(0),
        },
        order: ORDER_DEFAULT,
        probes: false,
        patience: Patience::DEFAULT,
        ..Profile::DEFAULT
    }
}

fn class(profile: &Profile) -> usize {
    let windowsize = profile.wanted.windowsize.unwrap_or(1);
    let class = WINDOWSIZES.iter().position(|&size| size >= windowsize);
    class.unwrap_or(WINDOWSIZES.len() - 1)
}
