//! The real shard in simulated weather: whatever the network does, octets stay true, every transfer
//! ends, nothing is left behind, and no more datagrams are sent than the weather explains.
//!
//! `SEED=16 cargo test --test weather any_weather` plays one run of the first test with its trace printed.

use bootstorm::engine::sim::Weather;
use bootstorm::proto::outcome::Outcome;
use bootstorm::shard::Operation;
use bootstorm::simulate::{Calamity, Report, Scenario, run};
use bootstorm::time::Duration;

/// Runs without `SEED`.
const RUNS: u64 = 3_000;
/// Virtual time by which everything is over: a transfer may take its retransmissions, in lock-step
/// seconds apart, and the idle time of 30 s after the last that got through.
const SETTLED_MAX: Duration = Duration::from_secs(3_600);

const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Goal: in any weather, with any terms, everything that `check` asks holds.
/// Method: everything is drawn from a seed; a failure names the seed.
#[test]
fn any_weather() {
    if let Ok(seed) = std::env::var("SEED") {
        let seed = seed.parse().expect("SEED is a number");
        let scenario = Scenario {
            trace: true,
            ..drawn(seed)
        };
        let report = run(&scenario);
        println!("{}\n{scenario:#?}", report.trace.join("\n"));
        return check(&scenario, &report);
    }
    let mut complete = 0;
    for seed in 0..RUNS {
        let scenario = drawn(seed);
        let result = std::panic::catch_unwind(|| {
            let report = run(&scenario);
            check(&scenario, &report);
            report.complete()
        });
        match result {
            Ok(count) => complete += count,
            Err(_) => {
                panic!("seed {seed}: SEED={seed} cargo test --test weather any_weather")
            }
        }
    }
    // Were the weather such that hardly anything completes, most of the checks would be void.
    assert!(complete as u64 > RUNS, "{complete} transfers completed");
}

/// What the seed makes of everything that can be chosen.
fn drawn(seed: u64) -> Scenario {
    let mut random = fastrand::Rng::with_seed(seed);
    let blksize = *random
        .choice(&[None, Some(8), Some(64), Some(512), Some(1428)])
        .unwrap_or(&None);
    let blocks = random.u64(0..random.clone().u64(1..=120));
    let octets = u64::from(blksize.unwrap_or(512));
    let rest = *random.choice(&[0, 1, octets - 1]).unwrap_or(&0);
    let windowsize = *random.choice(&[1, 2, 4, 7, 16, 64]).unwrap_or(&1);
    let operation = if random.bool() {
        Operation::Read
    } else {
        Operation::Write
    };
    let calamity = *random
        .choice(&[
            Calamity::ClientsVanish,
            Calamity::ReadsFail,
            Calamity::DiskFull,
            Calamity::ServerStops,
            Calamity::ServerVanishes,
        ])
        .unwrap_or(&Calamity::ServerStops);
    let mut scenario = Scenario {
        seed,
        weather: drawn_weather(&mut random),
        clients: random.u32(1..=8),
        within: millis(random.u64(0..20)),
        operation,
        len: blocks * octets + rest,
        blksize,
        windowsize,
        disk: *random
            .choice(&[Duration::ZERO, micros(50), millis(5), millis(200)])
            .unwrap_or(&Duration::ZERO),
        calamity: (random.u8(..) < 40).then_some((micros(random.u64(0..50_000)), calamity)),
        ..Scenario::default()
    };
    scenario.settings.single_port = random.bool();
    scenario
}

/// Each plague with a chance of its own, so that most runs have one or two.
fn drawn_weather(random: &mut fastrand::Rng) -> Weather {
    let mut weather = Weather::FAIR;
    weather.delay = *random
        .choice(&[micros(50), micros(500), millis(12)])
        .unwrap_or(&weather.delay);
    let mut plague = |most: f64| {
        if random.u8(..) < 64 {
            random.f64() * most
        } else {
            0.0
        }
    };
    weather.loss = plague(0.1);
    weather.burst = plague(0.01);
    weather.duplicate = plague(0.1);
    weather.reorder = plague(0.05);
    weather.corrupt = plague(0.05);
    weather.full = plague(0.1);
    weather.jitter = micros(plague(4_000.0) as u64);
    weather.duplicate_delay = micros(plague(1_000.0) as u64);
    if random.u8(..) < 16 {
        weather.datagram_octets_max = random.usize(40..1_000);
    }
    weather
}

/// What holds for every run.
fn check(scenario: &Scenario, report: &Report) {
    assert_eq!(report.corrupt, 0, "contents differ");
    assert_eq!(
        report.endings.len(),
        scenario.clients as usize,
        "no outcome"
    );
    assert_eq!(report.left_over, 0, "slots left in a table");
    assert_eq!(report.work_left, 0, "the store was left with work");
    assert!(report.settled < SETTLED_MAX, "took {:?}", report.settled);
    let ended: u64 = report.metrics.ended.values().sum();
    let begun = report.metrics.reads + report.metrics.writes;
    assert_eq!(report.metrics.active, 0, "{:?}", report.metrics);
    assert!(begun <= ended, "{:?}", report.metrics);
    let sent = report.server.datagrams + report.client.datagrams;
    let most = datagrams_max(scenario, report);
    assert!(sent <= most, "{sent} datagrams, at most {most} explained");
    if scenario.calamity.is_none() && is_passable(scenario) {
        let mut outcomes = report.endings.iter().map(|ending| ending.outcome);
        assert!(
            outcomes.all(|outcome| outcome == Outcome::Complete),
            "{:?}",
            report.endings
        );
    }
}

/// Whether the weather lets everything through in the end: stretches of loss may outlast any patience,
/// for in lock-step each datagram of one is a second or more.
fn is_passable(scenario: &Scenario) -> bool {
    let octets = usize::from(scenario.blksize.unwrap_or(512)) + 4;
    scenario.weather.datagram_octets_max >= octets.max(100) && scenario.weather.burst == 0.0
}

/// Windows that a transfer may send in vain for other reasons than the weather's blows: while the
/// round trip and the lateness of blocks are yet to be learned, and into the silence of a slow disk or
/// of a peer that has vanished, where each wait is twice the one before.
const WINDOWS_IN_VAIN: u64 = 16;

/// Datagrams that the weather explains, both ends together. Without it, each block goes once, each
/// window is acknowledged once, and the opening takes three. Each datagram lost, delivered twice or held
/// back makes the sender go back at most once, by a window at most, and draws an ACK or two.
fn datagrams_max(scenario: &Scenario, report: &Report) -> u64 {
    let window = if scenario.blksize.is_some() {
        u64::from(scenario.windowsize)
    } else {
        1
    };
    let once = 3 + report.blocks + report.blocks.div_ceil(window);
    let window = window.min(report.blocks);
    let in_vain = (window + 1) * WINDOWS_IN_VAIN;
    let blows =
        report.server.lost + report.client.lost + report.server.disturbed + report.client.disturbed;
    u64::from(scenario.clients) * (once + in_vain) + blows * (window + 2)
}
