//! The promises that every world must keep, by name.
//!
//! - *contents*: every completed transfer has every octet of the file, uploads included;
//! - *liveness*: every client that can finish does, within a bound of simulated time;
//! - *no needless failure*: where nothing is lost and nothing breaks, the first attempt succeeds;
//! - *economy*: no more datagrams than the weather and the mishap explain, counted separately for the
//!   server and the clients, and for each window size;
//! - *fairness*: clients with equal work in equal weather get equal shares;
//! - *idle rule*: no transfer stays past its deadline;
//! - *nothing is left*: in the end the table, the timers, every counter and the store are empty.

use super::lot::COHORT;
use super::{Cost, Kind, Mishap, Report, Storm, WINDOWSIZES, upload_name};
use crate::engine::sim::Traffic;
use crate::shard::{Expected, Holdings, Operation};
use crate::time::{Duration, Instant};

/// Jain's index is 1 if all shares are equal, and 1/16 if one of 16 clients gets everything.
const FAIRNESS_MIN: f64 = 0.95;
/// The same if chance decides whose sends find the queue full: one world in five hundred is below 0.95.
const FAIRNESS_FULL_MIN: f64 = 0.9;
/// If sends sometimes find the queue full, the server may resend one datagram in this many: the ACK that
/// a client repeats meanwhile requests data that is only waiting.
const FULL_EACH: u64 = 50;
/// The same for the clients: in the middle of a window they wait for a round trip and ten milliseconds,
/// which may be less than the rest of the window waits for room.
const FULL_EACH_CLIENT: u64 = 4;
/// How long past its deadline a transfer may be found: the timer wheel's tick, and one or two loop
/// iterations.
const OVERDUE_MAX: Duration = Duration::from_millis(100);
/// Simulated time from the last client's start within which every client must have the file. In
/// lock-step, every lost datagram costs up to five seconds, and the longest files have six hundred
/// blocks.
const FINISHED_WITHIN: Duration = Duration::from_secs(400);
/// The same where one datagram in twenty is lost, which affects one block in ten: sixty of six hundred,
/// and some of them twice.
const FINISHED_WITHIN_LOSS5: Duration = Duration::from_secs(700);
/// The extra time after the end of a mishap: an affected client first waits until it gives up, a minute
/// at most, and then starts again.
const STRUCK_WAITS: Duration = Duration::from_secs(100);
/// The windows that the server may send in vain to an affected client: its window, two repeats after two
/// silences, and then one block per silence, at intervals that double up to the idle time.
const STRUCK_WINDOWS: u64 = 3;
const STRUCK_DATAGRAMS: u64 = 16;
/// The datagrams that such a client may send in vain: repeats, at intervals that double from a hundredth
/// of a second up to a minute.
const STRUCK_CLIENT_DATAGRAMS: u64 = 24;
/// If datagrams overtake each other, a receiver with a window may request late ones again: one in five.
const LATE_EACH: u64 = 5;
/// The repeats that a lost or delayed datagram may cost a client in lock-step within the server's one
/// second: pxelinux repeats after 0.1, 0.3 and 0.7 s, and once more while the repeat is in flight.
const REPEATS_PER_BLOW: u64 = 4;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The promise's name.
    pub promise: &'static str,
    /// What was observed instead.
    pub what: String,
}

/// The use of a bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// The bound's name.
    pub bound: String,
    /// The fraction used: 1.0 is all of it.
    pub part: f64,
}

#[derive(Debug, Default)]
pub(super) struct Promises {
    overdue: Duration,
    overdue_before: Duration,
    uses: Vec<Use>,
    broken: Vec<Broken>,
}

impl Promises {
    pub(super) fn broken(&mut self, promise: &'static str, what: String) {
        self.broken.push(Broken { promise, what });
    }

    /// Reports transfers that are overdue at two consecutive checks. After a clock leap, the first check
    /// may come before the shard's turn, or while the shard waits for room to send.
    pub(super) fn look_at_idle(&mut self, overdue: Duration) {
        self.overdue = self.overdue.max(overdue.min(self.overdue_before));
        self.overdue_before = overdue;
    }

    /// Records how much of a bound was used; exceeding it breaks the promise.
    fn bound(&mut self, promise: &'static str, detail: &str, seen: f64, most: f64) {
        let bound = format!("{promise}{detail}");
        if seen > most {
            self.broken(promise, format!("{bound}: {seen}, at most {most}"));
        }
        let part = if most > 0.0 { seen / most } else { 0.0 };
        self.uses.push(Use { bound, part });
    }
}

impl Storm {
    /// Checks the finished world against all promises.
    pub(super) fn report(mut self) -> Report {
        self.contents();
        self.liveness();
        self.economy();
        self.fairness();
        self.nothing_is_left();
        let overdue = self.promises.overdue.as_secs_f64();
        self.promises
            .bound("idle rule", "", overdue, OVERDUE_MAX.as_secs_f64());
        let settled = self.world.now() - Instant::ZERO;
        let foreign = self.foreigners.iter();
        let foreign = foreign.filter(|(_, one)| one.body().is_some()).count() as u64;
        let network = self.world.network();
        let mut client = network.sent(self.foreign_node);
        let (mut sent, mut due) = ((0, 0), (0, 0));
        for (&host, cost) in self.hosts.iter().zip(&self.costs) {
            let by = self.world.sent(host);
            client = sum(client, by);
            sent.0 += network.addressed(self.world.node(host)).datagrams;
            sent.1 += by.datagrams;
            due.0 += cost.server;
            due.1 += cost.client;
        }
        Report {
            fleet: self.fleet,
            kind: self.lot.kind,
            mishap: self.lot.mishap,
            complete: self.complete + foreign,
            failed: self.failed,
            settled,
            server: self.world.sent(self.server),
            client,
            due,
            sent,
            retransmissions: self.world.metrics(self.server).retransmissions,
            uses: self.promises.uses,
            broken: self.promises.broken,
        }
    }

    fn contents(&mut self) {
        let uploads = self.files.uploads();
        for (number, client) in self.clients.iter().enumerate() {
            let Expected::Octets(expected) = &*self.expected[client.asking.file] else {
                continue;
            };
            let upload = uploads.get(&upload_name(number));
            let is_due = client.asking.operation == Operation::Write && client.done_at.is_some();
            if upload.map_or(is_due, |octets| **octets != **expected) {
                self.promises
                    .broken("contents", format!("the upload of client {number}"));
            }
        }
        for (number, (file, foreign)) in self.foreigners.iter().enumerate() {
            if let (Some(body), Expected::Octets(expected)) =
                (foreign.body(), &*self.expected[*file])
                && body != &**expected
            {
                self.promises
                    .broken("contents", format!("foreign receiver {number}"));
            }
        }
    }

    fn liveness(&mut self) {
        let mut last = Instant::ZERO;
        let mut begun = Instant::ZERO;
        for (number, client) in self.clients.iter().enumerate() {
            begun = begun.max(client.asking.at);
            match client.done_at {
                Some(at) => last = last.max(at),
                None => self.promises.broken(
                    "liveness",
                    format!(
                        "client {number} ({}, {}) has not finished in {} attempts",
                        client.asking.profile.name, client.asking.operation, client.attempts
                    ),
                ),
            }
        }
        // Third-party receivers try only once: they may fail where something breaks.
        if self.lot.mishap == Mishap::None {
            for (number, (_, foreign)) in self.foreigners.iter().enumerate() {
                match foreign.ended_at() {
                    Some(at) => last = last.max(at),
                    None => self
                        .promises
                        .broken("liveness", format!("foreign receiver {number}")),
                }
            }
        } else {
            begun = begun.max(self.lot.mishap_at + self.lot.mishap_for);
        }
        let mut most = if self.lot.kind == Kind::Loss5 {
            FINISHED_WITHIN_LOSS5
        } else {
            FINISHED_WITHIN
        };
        if self.lot.mishap != Mishap::None {
            most += STRUCK_WAITS;
        }
        let took = (last - begun).as_secs_f64();
        self.promises
            .bound("liveness", "", took, most.as_secs_f64());
    }

    fn economy(&mut self) {
        let calm = if self.lot.mishap == Mishap::None {
            ""
        } else {
            ", mishap"
        };
        for (class, &windowsize) in WINDOWSIZES.iter().enumerate() {
            let node = self.world.node(self.hosts[class]);
            let network = self.world.network();
            let (to, by) = (network.addressed(node), network.sent(node));
            let cost = self.costs[class];
            let (server, client) = most(self.lot.kind, windowsize, &cost, &to, &by);
            let kind = self.lot.kind.name();
            for (end, sent, most) in [
                ("server", to.datagrams, server),
                ("clients", by.datagrams, client),
            ] {
                let detail = format!(" of the {end}, {kind}{calm}, windowsize {windowsize}");
                self.promises
                    .bound("economy", &detail, sent as f64, most as f64);
            }
        }
    }

    fn fairness(&mut self) {
        let cohort = self.lot.cohort.clone();
        if cohort.len() < COHORT {
            return;
        }
        let rates = self.clients[cohort]
            .iter()
            .map(|client| 1.0 / client.took.as_secs_f64().max(f64::MIN_POSITIVE));
        let (sum, squares) = rates.fold((0.0, 0.0), |(sum, squares), rate| {
            (sum + rate, squares + rate * rate)
        });
        let index: f64 = sum * sum / (COHORT as f64 * squares);
        let least = match self.lot.kind {
            Kind::Full => FAIRNESS_FULL_MIN,
            _ => FAIRNESS_MIN,
        };
        self.promises
            .bound("fairness", "", 1.0 - index, 1.0 - least);
    }

    fn nothing_is_left(&mut self) {
        let hosts = std::iter::once(&self.server).chain(&self.hosts);
        for (number, &host) in hosts.enumerate() {
            let holdings = self.world.holdings(host);
            if holdings != Holdings::default() {
                let what = format!("host {number}: {holdings:?}");
                self.promises.broken("nothing is left", what);
            }
        }
        let (work, frames) = (self.world.finish_store_work(), self.world.frames_pending());
        if (work, frames) != (0, 0) {
            let what = format!("{work} jobs of the stores, {frames} frames in the making");
            self.promises.broken("nothing is left", what);
        }
        let active = self.world.metrics(self.server).active();
        if active != 0 {
            let what = format!("{active} transfers by the counters");
            self.promises.broken("nothing is left", what);
        }
    }
}

/// The maximum number of datagrams to the clients of a window size, and from them.
///
/// Every necessary datagram is sent once. A *blow* is a datagram that the weather lost, duplicated or
/// delayed. It makes the sender go back by a window at most; one blow in four does so twice, for a report
/// and for the sender's timer. It also makes a client repeat one packet for each of its timeouts. Clients
/// affected by something else have a separate allowance.
fn most(kind: Kind, windowsize: u16, cost: &Cost, to: &Traffic, by: &Traffic) -> (u64, u64) {
    let window = u64::from(windowsize);
    let blows = to.lost + to.disturbed + by.lost + by.disturbed;
    let one_in = |each| {
        (
            cost.server.div_ceil(each) + 1,
            cost.client.div_ceil(each) + 1,
        )
    };
    let late = match kind {
        Kind::Jitter if window > 1 => one_in(LATE_EACH),
        Kind::Full if window > 1 => (one_in(FULL_EACH).0, one_in(FULL_EACH_CLIENT).1),
        _ => (0, 0),
    };
    let struck = (
        cost.struck * (STRUCK_WINDOWS * window + STRUCK_DATAGRAMS),
        cost.struck * STRUCK_CLIENT_DATAGRAMS,
    );
    // A writer sends windows too.
    let back = blows * window + (blows * window).div_ceil(4);
    let server = cost.server + late.0 + struck.0 + back;
    let client = cost.client + late.1 + struck.1 + back.max(blows * REPEATS_PER_BLOW);
    (server, client)
}

fn sum(one: Traffic, other: Traffic) -> Traffic {
    Traffic {
        datagrams: one.datagrams + other.datagrams,
        data: one.data + other.data,
        acks: one.acks + other.acks,
        octets: one.octets + other.octets,
        lost: one.lost + other.lost,
        disturbed: one.disturbed + other.disturbed,
    }
}
