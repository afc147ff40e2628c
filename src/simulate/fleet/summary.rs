//! A summary of many worlds.

use std::collections::BTreeMap;

use super::{Kind, Mishap, Report};
use crate::time::Duration;

/// The outcome of many worlds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The summaries by kind of weather.
    pub kinds: BTreeMap<Kind, KindSummary>,
    /// The number of worlds by mishap.
    pub mishaps: BTreeMap<Mishap, u64>,
    /// For each bound, the highest fraction of it that was used, and the seed of that world.
    pub uses: BTreeMap<String, (f64, u64)>,
    /// Datagrams sent by all servers and clients.
    pub datagrams: u64,
    /// Datagrams lost to the weather.
    pub lost: u64,
    /// Attempts that did not complete.
    pub failed: u64,
}

/// The outcome of the worlds of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindSummary {
    /// The number of worlds.
    pub worlds: u64,
    /// Completed transfers.
    pub complete: u64,
    /// The simulated time.
    pub simulated: Duration,
    /// Datagrams that the servers sent more than once.
    pub retransmissions: u64,
    /// Worlds without a mishap; in these, the datagrams needed from servers and clients, and those that
    /// were sent.
    pub calm: u64,
    due: (u64, u64),
    sent: (u64, u64),
}

impl Summary {
    /// Adds one more world.
    pub fn add(&mut self, report: &Report) {
        let kind = self.kinds.entry(report.kind).or_default();
        kind.worlds += 1;
        kind.complete += report.complete;
        kind.simulated += report.settled;
        kind.retransmissions += report.retransmissions;
        if report.mishap == Mishap::None {
            kind.calm += 1;
            kind.due.0 += report.due.0;
            kind.due.1 += report.due.1;
            kind.sent.0 += report.sent.0;
            kind.sent.1 += report.sent.1;
        }
        *self.mishaps.entry(report.mishap).or_default() += 1;
        self.datagrams += report.server.datagrams + report.client.datagrams;
        self.lost += report.server.lost + report.client.lost;
        self.failed += report.failed;
        for one in &report.uses {
            let worst = self
                .uses
                .entry(one.bound.clone())
                .or_insert((0.0, report.fleet.seed));
            if one.part > worst.0 {
                *worst = (one.part, report.fleet.seed);
            }
        }
    }

    /// All kinds together.
    #[must_use]
    pub fn total(&self) -> KindSummary {
        let mut total = KindSummary::default();
        for kind in self.kinds.values() {
            total.worlds += kind.worlds;
            total.complete += kind.complete;
            total.simulated += kind.simulated;
            total.retransmissions += kind.retransmissions;
            total.calm += kind.calm;
            total.due.0 += kind.due.0;
            total.due.1 += kind.due.1;
            total.sent.0 += kind.sent.0;
            total.sent.1 += kind.sent.1;
        }
        total
    }
}

impl KindSummary {
    /// Datagrams sent per datagram needed, by servers and by clients, in worlds without a mishap; `None`
    /// where none was needed.
    #[must_use]
    pub fn economy(&self) -> (Option<f64>, Option<f64>) {
        let ratio = |sent: u64, due: u64| (due > 0).then(|| sent as f64 / due as f64);
        (
            ratio(self.sent.0, self.due.0),
            ratio(self.sent.1, self.due.1),
        )
    }
}
