//! Many worlds taken together.

use std::collections::BTreeMap;

use super::{Kind, Mishap, Report};
use crate::time::Duration;

/// What came of many worlds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// By their weather.
    pub kinds: BTreeMap<Kind, KindSummary>,
    /// Worlds by their mishap.
    pub mishaps: BTreeMap<Mishap, u64>,
    /// For each bound, the most that was used of it, and the seed that did.
    pub uses: BTreeMap<String, (f64, u64)>,
    /// Datagrams of all servers and clients.
    pub datagrams: u64,
    /// Datagrams that the weather took.
    pub lost: u64,
    /// Attempts that did not complete.
    pub failed: u64,
}

/// What came of the worlds of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct KindSummary {
    /// How many worlds.
    pub worlds: u64,
    /// Transfers that completed.
    pub complete: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Datagrams that the servers sent more than once.
    pub retransmissions: u64,
    /// Worlds without a mishap, and in them the datagrams that were due of servers and clients, and those
    /// that were sent.
    pub calm: u64,
    due: (u64, u64),
    sent: (u64, u64),
}

impl Summary {
    /// Takes one more world in.
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
    /// Datagrams sent for each that was due, by servers and by clients, in worlds without a mishap; `None`
    /// where none was due.
    #[must_use]
    pub fn economy(&self) -> (Option<f64>, Option<f64>) {
        let ratio = |sent: u64, due: u64| (due > 0).then(|| sent as f64 / due as f64);
        (
            ratio(self.sent.0, self.due.0),
            ratio(self.sent.1, self.due.1),
        )
    }
}
