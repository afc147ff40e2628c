//! Fleets in simulated worlds: every promise of `simulate::fleet` holds in every weather and mishap.
//!
//! `bootstorm simulate --fleet 40 --seed 7` plays one of these worlds again.

use std::collections::BTreeSet;

use bootstorm::simulate::fleet::{Fleet, Kind, Mishap, run, run_all};

/// Clients in each world.
const CLIENTS: u32 = 40;
/// Enough worlds to meet each weather and each mishap.
const WORLDS: u64 = 60;

/// Goal: fleets get their files, in any weather and mishap, and leave nothing behind. Method: worlds drawn
/// from seeds; each checks its promises, and names those that it broke.
#[test]
fn every_promise_is_kept() {
    let (mut kinds, mut mishaps) = (BTreeSet::new(), BTreeSet::new());
    let mut complete = 0;
    let mut broken = Vec::new();
    run_all(0..WORLDS, CLIENTS, 2, |report| {
        kinds.insert(report.kind);
        mishaps.insert(report.mishap);
        complete += report.complete;
        if !report.broken.is_empty() {
            broken.push(format!(
                "--fleet {CLIENTS} --seed {} ({}, {}): {:#?}",
                report.fleet.seed,
                report.kind.name(),
                report.mishap.name(),
                report.broken
            ));
        }
        true
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert_eq!(kinds.len(), Kind::ALL.len(), "a weather was not met");
    assert_eq!(mishaps.len(), 8, "a mishap was not met: {mishaps:?}");
    assert!(mishaps.contains(&Mishap::ServerRestarts));
    assert!(complete > WORLDS * u64::from(CLIENTS) * 9 / 10);
}

/// Goal: a world that is played again is the same world; otherwise a seed would be of no use. Method: one
/// with losses and a restart of the server, twice, compared datagram by datagram.
#[test]
fn the_same_seed_makes_the_same_world() {
    let seed = (0..)
        .find(|&seed| {
            let report = run(Fleet { seed, clients: 0 });
            report.mishap == Mishap::ServerRestarts && report.kind == Kind::Loss5
        })
        .expect("there are many seeds");
    let worlds = [(); 2].map(|()| run(Fleet { seed, clients: 50 }));
    let [one, other] = worlds.map(|report| (report.server, report.client, report.settled));
    assert_eq!(one, other);
}
