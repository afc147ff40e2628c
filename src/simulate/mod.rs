//! The real shard in a simulated network, in virtual time; the same seed reproduces the same run.

pub mod fleet;
mod foreign;
mod world;

pub use foreign::{Foreign, Style};
pub use world::{Host, World};

use std::net::{IpAddr, SocketAddr};

use crate::config::{LINGER, Settings};
use crate::engine::sim::{Traffic, Weather};
use crate::metrics::Metrics;
use crate::proto::negotiate::{ORDER_DEFAULT, Wanted};
use crate::proto::outcome::Outcome;
use crate::proto::timing::Patience;
use crate::shard::{Ending, LocalSide, Operation, Origin, Plan};
use crate::store::memory::{Contents, Faults, Memory, pattern_octet};
use crate::store::{ReadFailure, Writes};
use crate::time::{Duration, Instant};
use crate::wire::Mode;

/// The address of the simulated server.
pub const SERVER: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 69);
/// The address of the simulated clients.
pub const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
/// The MTU of every interface.
const MTU: u32 = 1500;
/// Virtual time after which a simulation counts as hung.
const ELAPSED_MAX: Duration = Duration::from_secs(24 * 3600);

/// What may fail in the middle of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calamity {
    /// The clients are disconnected.
    ClientsVanish,
    /// The server can no longer read its files.
    ReadsFail,
    /// The server's disk is full.
    DiskFull,
    /// The server ends every transfer and takes no more requests.
    ServerStops,
    /// The server is disconnected.
    ServerVanishes,
}

/// The scenario to simulate: several clients that make the same request to one server.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The random seed: the same seed reproduces the same run.
    pub seed: u64,
    /// The impairment of datagrams.
    pub weather: Weather,
    /// The number of clients.
    pub clients: u32,
    /// The time within which all clients start.
    pub within: Duration,
    /// The direction of the transfers.
    pub operation: Operation,
    /// The file's length in octets.
    pub len: u64,
    /// The block size to request; `None` requests no options at all.
    pub blksize: Option<u16>,
    /// The window size to request.
    pub windowsize: u16,
    /// The latency of every disk operation.
    pub disk: Duration,
    /// What fails, and when.
    pub calamity: Option<(Duration, Calamity)>,
    /// The server's settings.
    pub settings: Settings,
    /// Whether to record every datagram.
    pub trace: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            weather: Weather::FAIR,
            clients: 1,
            within: Duration::ZERO,
            operation: Operation::Read,
            len: 1_000_000,
            blksize: Some(1428),
            windowsize: 1,
            disk: Duration::from_micros(50),
            calamity: None,
            settings: Settings::default(),
            trace: false,
        }
    }
}

/// The outcome of a simulation.
#[derive(Debug, Clone)]
pub struct Report {
    /// Virtual time from the first request to the last ending at a client.
    pub elapsed: Duration,
    /// Virtual time until the server's and the clients' tables were empty.
    pub settled: Duration,
    /// How each client's transfer ended.
    pub endings: Vec<Ending>,
    /// Completed transfers with wrong contents.
    pub corrupt: usize,
    /// The traffic that the server sent.
    pub server: Traffic,
    /// The traffic that the clients sent.
    pub client: Traffic,
    /// The server's metrics.
    pub metrics: Metrics,
    /// Slots left in any table after the last event.
    pub left_over: usize,
    /// Work left in any store after the last event.
    pub work_left: usize,
    /// Blocks in the file, the last one included.
    pub blocks: u64,
    /// Every datagram, if requested.
    pub trace: Vec<String>,
}

impl Report {
    /// The number of completed transfers.
    #[must_use]
    pub fn complete(&self) -> usize {
        self.endings
            .iter()
            .filter(|ending| ending.outcome == Outcome::Complete)
            .count()
    }

    /// DATA packets sent by both ends, per block that had to be transferred: 1.0 is a transfer without a
    /// wasted DATA.
    #[must_use]
    pub fn data_per_block(&self) -> f64 {
        let data = self.server.data + self.client.data;
        data as f64 / (self.blocks * self.endings.len().max(1) as u64) as f64
    }
}

/// The faults of all files: with a disk, reads wait for it; without, a shard reads on its own thread.
fn faults(scenario: &Scenario) -> Faults {
    Faults {
        read_would_block: !scenario.disk.is_zero(),
        ..Faults::default()
    }
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    let mut world = World::new(scenario.seed, scenario.weather, scenario.disk);
    if scenario.trace {
        world.network().trace();
    }
    let image = Contents::Pattern {
        seed: scenario.seed,
        len: scenario.len,
    };
    let (server_files, client_files) = (Memory::new(Writes::Create), Memory::new(Writes::Create));
    let source = if scenario.operation == Operation::Read {
        &server_files
    } else {
        &client_files
    };
    source.insert(b"image", image);
    let faults = faults(scenario);
    for files in [&server_files, &client_files] {
        files.set_faults(faults);
    }
    let server = world.add_host(
        "S",
        SERVER.ip(),
        server_files.clone(),
        scenario.settings.clone(),
    );
    let client = world.add_host("C", CLIENT, client_files.clone(), Settings::default());
    world.listen(server, SERVER);

    let mut random = fastrand::Rng::with_seed(scenario.seed);
    for number in 0..scenario.clients {
        let at =
            Instant::ZERO + Duration::from_nanos(random.u64(0..=scenario.within.as_nanos() as u64));
        let copy = format!("copy-{number}").into_bytes();
        let (remote, local) = match scenario.operation {
            Operation::Read => (b"image".to_vec(), copy),
            Operation::Write => (copy, b"image".to_vec()),
        };
        let wanted = scenario
            .blksize
            .map_or_else(Wanted::default, |blksize| Wanted {
                blksize: Some(blksize),
                windowsize: Some(scenario.windowsize),
                timeout: None,
                tsize: Some(0),
            });
        let plan = Plan {
            server: SERVER,
            operation: scenario.operation,
            remote,
            origin: Origin::Own,
            local: LocalSide::Stored(local),
            mode: Mode::Octet,
            wanted,
            patience: Patience::DEFAULT,
            linger: LINGER,
            order: ORDER_DEFAULT,
        };
        world.start_at(at, client, plan);
    }

    let mut endings = Vec::new();
    let mut elapsed = Duration::ZERO;
    let mut calamity = scenario.calamity;
    if let Some((after, _)) = calamity {
        world.alarm_at(Instant::ZERO + after);
    }
    while world.step() && world.now() - Instant::ZERO < ELAPSED_MAX {
        let due = calamity.take_if(|(after, _)| Instant::ZERO + *after <= world.now());
        match due.map(|(_, calamity)| calamity) {
            None => {}
            Some(Calamity::ClientsVanish) => world.cut_off(client),
            Some(Calamity::ServerVanishes) => world.cut_off(server),
            Some(Calamity::ServerStops) => world.shard_mut(server).stop(),
            Some(Calamity::ReadsFail) => server_files.set_faults(Faults {
                read: Some(ReadFailure::Failed(libc::EIO)),
                ..faults
            }),
            Some(Calamity::DiskFull) => server_files.set_faults(Faults {
                disk_octets: Some(0),
                ..faults
            }),
        }
        let ended = world.take_endings(client);
        if !ended.is_empty() {
            elapsed = world.now() - Instant::ZERO;
        }
        endings.extend(ended);
    }
    let copies = match scenario.operation {
        Operation::Read => client_files.uploads(),
        Operation::Write => server_files.uploads(),
    };
    let corrupt = copies
        .values()
        .filter(|copy| !is_image(copy, scenario))
        .count();
    let missing = endings
        .iter()
        .filter(|ending| ending.outcome == Outcome::Complete)
        .count()
        .saturating_sub(copies.len());
    // The server may have negotiated smaller blocks than requested.
    let agreed = endings.iter().find(|ending| ending.blocks > 0);
    let asked = scenario.blksize.unwrap_or(512);
    let blksize = agreed.map_or(asked, |ending| ending.params.blksize());
    Report {
        elapsed,
        settled: world.now() - Instant::ZERO,
        endings,
        corrupt: corrupt + missing,
        server: world.sent(server),
        client: world.sent(client),
        metrics: world.metrics(server),
        left_over: world.slots(),
        work_left: world.finish_store_work(),
        blocks: scenario.len / u64::from(blksize) + 1,
        trace: world.network().take_trace(),
    }
}

/// The outcome of serving a third-party receiver.
#[derive(Debug, Clone)]
pub struct Served {
    /// Whether the receiver has the complete and correct file.
    pub complete: bool,
    /// The virtual time until then.
    pub elapsed: Duration,
    /// The traffic that the server sent.
    pub server: Traffic,
    /// The traffic that the receiver sent.
    pub client: Traffic,
    /// Slots left in the server's table after the last event.
    pub left_over: usize,
    /// Every datagram, if requested.
    pub trace: Vec<String>,
}

/// Serves a scenario's file to one third-party receiver.
#[must_use]
pub fn serve(scenario: &Scenario, style: Style) -> Served {
    let mut world = World::new(scenario.seed, scenario.weather, scenario.disk);
    if scenario.trace {
        world.network().trace();
    }
    let files = Memory::new(Writes::Off);
    let image = Contents::Pattern {
        seed: scenario.seed,
        len: scenario.len,
    };
    files.insert(b"image", image);
    files.set_faults(faults(scenario));
    let server = world.add_host("S", SERVER.ip(), files, scenario.settings.clone());
    world.listen(server, SERVER);
    let node = world.network().add_node("C", CLIENT, MTU);
    let terms = (scenario.blksize.unwrap_or(512), scenario.windowsize);
    let mut foreign = Foreign::request(&mut world, node, style, SERVER, b"image", terms);
    while world.step() && world.now() - Instant::ZERO < ELAPSED_MAX {
        foreign.turn(&mut world);
    }
    Served {
        complete: foreign.body().is_some_and(|body| is_image(body, scenario)),
        elapsed: foreign.ended_at().unwrap_or_default() - Instant::ZERO,
        server: world.sent(server),
        client: world.network().sent(node),
        left_over: world.slots(),
        trace: world.network().take_trace(),
    }
}

fn is_image(copy: &[u8], scenario: &Scenario) -> bool {
    let mut offsets = 0u64..;
    copy.len() as u64 == scenario.len
        && copy
            .iter()
            .zip(&mut offsets)
            .all(|(&octet, offset)| octet == pattern_octet(scenario.seed, offset))
}
