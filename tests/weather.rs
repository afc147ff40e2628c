//! The real shard in simulated weather: whatever the network does, octets are correct, every transfer ends,
//! nothing is left behind, and no more datagrams are sent than the weather explains.
//!
//! `SEED=16 cargo test --test weather any_weather` plays one run of the first test with its trace printed.

use bootstorm::config::{LINGER, Settings};
use bootstorm::engine::sim::{Pace, Weather};
use bootstorm::proto::negotiate::{ORDER_DEFAULT, Wanted};
use bootstorm::proto::outcome::Outcome;
use bootstorm::proto::timing::Patience;
use bootstorm::shard::{Ending, LocalSide, Operation, Origin, Plan};
use bootstorm::simulate::{
    CLIENT, Calamity, Report, SERVER, Scenario, Served, Style, World, run, serve,
};
use bootstorm::store::Writes;
use bootstorm::store::memory::{Contents, Memory};
use bootstorm::time::{Duration, Instant};
use bootstorm::wire::Mode;

/// Runs without `SEED`.
const RUNS: u64 = 2_000;
/// Virtual time by which everything is over: a transfer may take its retransmissions, in lock-step
/// seconds apart, and the idle time of 30 s after the last that got through.
const SETTLED_MAX: Duration = Duration::from_secs(3_600);

const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Goal: in any weather, with any terms, every condition in `check` holds. Method: everything is drawn from a
/// seed; a failure names the seed.
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

/// Goal: if nothing goes wrong, nothing is sent that RFC 1350 and RFC 7440 do not require. Method: every size
/// around the edges of blocks and windows, counted to the datagram.
#[test]
fn fair_weather_takes_no_datagram_too_many() {
    for operation in [Operation::Read, Operation::Write] {
        for (blksize, windowsize) in [None, Some(64)]
            .into_iter()
            .flat_map(|blksize| [1, 2, 7, 64].map(|windowsize| (blksize, windowsize)))
        {
            for blocks in [0, 1, 2, 6, 7, 8, 63, 64, 65, 129] {
                for rest in [0, 1] {
                    let scenario = Scenario {
                        operation,
                        blksize,
                        windowsize,
                        len: blocks * u64::from(blksize.unwrap_or(512)) + rest,
                        ..Scenario::default()
                    };
                    let report = run(&scenario);
                    check(&scenario, &report);
                    assert_eq!(report.complete(), 1);
                    let window = if blksize.is_some() { windowsize } else { 1 };
                    // The request, the OACK, and ACK 0 where it is the client that acknowledges the OACK; without
                    // options, a write is opened by ACK 0 and a read by DATA 1.
                    let opening = match (operation, blksize) {
                        (Operation::Read, Some(_)) => 3,
                        (Operation::Write, _) => 2,
                        (Operation::Read, None) => 1,
                    };
                    let least = opening + report.blocks + report.blocks.div_ceil(window.into());
                    let sent = report.server.datagrams + report.client.datagrams;
                    assert_eq!(sent, least, "{scenario:?}");
                }
            }
        }
    }
}

/// Goal: one forged request makes the server send four datagrams at most. Method: clients that disappear once
/// their request is in flight, in any weather.
#[test]
fn a_forged_request_draws_four_datagrams_at_most() {
    let mut most = 0;
    for seed in 0..300 {
        let scenario = Scenario {
            clients: 1,
            within: Duration::ZERO,
            calamity: Some((Duration::ZERO, Calamity::ClientsVanish)),
            disk: Duration::ZERO,
            ..drawn(seed)
        };
        let report = run(&scenario);
        check(&scenario, &report);
        assert_eq!(report.complete(), 0);
        let sent = report.server.datagrams;
        assert!(sent <= 4, "seed {seed}: {sent} datagrams");
        most = most.max(sent);
    }
    assert_eq!(most, 4, "no request was answered to the end");
}

/// The weathers of the tables, by name.
fn weathers() -> Vec<(&'static str, Weather)> {
    let fair = Weather::FAIR;
    let jitter = Weather {
        delay: millis(1),
        jitter: millis(3),
        ..fair
    };
    let duplicate = Weather {
        duplicate: 0.05,
        duplicate_delay: micros(150),
        ..fair
    };
    let loss = |loss| Weather {
        loss,
        ..Weather::FAIR
    };
    let burst = Weather {
        burst: 0.005,
        burst_end: 0.5,
        ..fair
    };
    let reorder = Weather {
        reorder: 0.01,
        ..fair
    };
    let full = Weather { full: 0.05, ..fair };
    let wan = |loss| Weather {
        delay: micros(12_500),
        loss,
        ..Weather::FAIR
    };
    let jitter_duplicate = Weather {
        duplicate: 0.05,
        ..jitter
    };
    // Longer than anybody waits before the first measurement.
    let far = Weather {
        delay: millis(750),
        ..fair
    };
    vec![
        ("fair", fair),
        ("duplicate 5 %", duplicate),
        ("jitter 1-4 ms", jitter),
        ("jitter, duplicate", jitter_duplicate),
        ("reorder 1 %", reorder),
        ("loss 1 %", loss(0.01)),
        ("loss 5 %", loss(0.05)),
        ("burst", burst),
        ("full", full),
        ("WAN 25 ms", wan(0.0)),
        ("WAN, loss 1 %", wan(0.01)),
        ("far 1.5 s", far),
    ]
}

/// The window sizes of the tables.
const WINDOWSIZES: [u16; 4] = [1, 4, 16, 64];
/// Blocks of the file in the tables; they are small, for their size costs the simulated network nothing.
const TABLE_BLOCKS: u64 = 701;
const TABLE_BLKSIZE: u16 = 64;
/// Each cell of a table is the mean over this many seeds.
const TABLE_SEEDS: u64 = 5;

fn table_scenario(weather: &Weather, operation: Operation, windowsize: u16, seed: u64) -> Scenario {
    Scenario {
        seed,
        weather: *weather,
        operation,
        len: (TABLE_BLOCKS - 1) * u64::from(TABLE_BLKSIZE) + 1,
        blksize: Some(TABLE_BLKSIZE),
        windowsize,
        ..Scenario::default()
    }
}

/// Goal: any change in the cost of retransmission shows as a line of a table. Method: virtual seconds, and
/// DATA and ACK packets for each block, over weathers and window sizes.
#[test]
fn table_of_our_ends() {
    for operation in [Operation::Read, Operation::Write] {
        let mut table = format!("{:18}", format!("{operation}s"));
        for windowsize in WINDOWSIZES {
            table += &format!("{:>24}", format!("windowsize {windowsize}"));
        }
        for (name, weather) in weathers() {
            table += &format!("\n{name:18}");
            for windowsize in WINDOWSIZES {
                let (mut seconds, mut data, mut acks) = (0.0, 0, 0);
                for seed in 1..=TABLE_SEEDS {
                    let report = run(&table_scenario(&weather, operation, windowsize, seed));
                    assert_eq!((report.complete(), report.corrupt), (1, 0), "{name}");
                    seconds += report.elapsed.as_secs_f64();
                    data += report.server.data + report.client.data;
                    acks += report.server.acks + report.client.acks;
                }
                let each = |count: u64| count as f64 / (TABLE_SEEDS * TABLE_BLOCKS) as f64;
                let seconds = seconds / TABLE_SEEDS as f64;
                let cell = format!("{seconds:.3} s {:.3}+{:.3}", each(data), each(acks));
                table += &format!("{cell:>24}");
            }
        }
        insta::assert_snapshot!(format!("our_ends_{operation}s"), table);
    }
}

/// Goal: other implementations' receivers get the file in any weather, and no weather makes a storm. Method:
/// a table of virtual seconds, and DATA for each block, over weathers, habits and window sizes.
#[test]
fn table_of_foreign_receivers() {
    let mut table = format!("{:32}", "");
    for windowsize in WINDOWSIZES {
        table += &format!("{:>20}", format!("windowsize {windowsize}"));
    }
    for (name, weather) in weathers() {
        for style in Style::ALL {
            table += &format!("\n{name:18}{:14}", format!("{style:?}"));
            for windowsize in WINDOWSIZES {
                if style == Style::Lockstep512 && windowsize > 1 {
                    continue;
                }
                let mut scenario = table_scenario(&weather, Operation::Read, windowsize, 1);
                if style == Style::Lockstep512 {
                    scenario.len = (TABLE_BLOCKS - 1) * 512 + 1;
                }
                let served = serve(&scenario, style);
                let what = format!("{name}, {style:?}, windowsize {windowsize}");
                assert!(served.complete, "{what}");
                assert_eq!(served.left_over, 0, "{what}");
                let data = served.server.data;
                let most = foreign_data_max(&weather, &served, windowsize);
                assert!(
                    data <= most,
                    "{what}: {data} DATA, at most {most} explained"
                );
                let seconds = served.elapsed.as_secs_f64();
                let data = data as f64 / TABLE_BLOCKS as f64;
                let cell = format!("{seconds:.3} s {data:.3}");
                table += &format!("{cell:>20}");
            }
        }
    }
    insta::assert_snapshot!("foreign_receivers", table);
}

/// DATA packets that may be sent to a receiver that keeps no block out of order. Copies cost nothing.
/// A DATA lost or late makes it drop a window at most, and its answers to blocks that it had already may
/// look like another gap. An ACK lost is said again after a second of silence,
/// in which the sender's timer, doubling from 20 ms, fires up to six times. Where blocks overtake each
/// other it drops most of every window that is sent in one go, until they are spaced out: soon enough for
/// four times the blocks.
fn foreign_data_max(weather: &Weather, served: &Served, windowsize: u16) -> u64 {
    let window = u64::from(windowsize);
    if !weather.jitter.is_zero() {
        return TABLE_BLOCKS * if window == 1 { 1 } else { 4 };
    }
    let late = if weather.reorder > 0.0 {
        served.server.disturbed + served.client.disturbed
    } else {
        0
    };
    // A round trip longer than the first wait is known after a window, or in lock-step after three blocks.
    let far = if weather.delay > millis(500) {
        window.max(3)
    } else {
        0
    };
    TABLE_BLOCKS + far + window * (2 * (served.server.lost + late) + 6 * served.client.lost)
}

/// Goal: neither duplicated nor reordered datagrams make a storm. Method: the weathers in which a naive pair
/// sends 1,402 and 34,862 datagrams for 701 blocks.
#[test]
fn nothing_lost_nothing_sent_again() {
    for (name, weather) in weathers() {
        let most = match name {
            "fair" | "full" | "WAN 25 ms" => TABLE_BLOCKS,
            "duplicate 5 %" => TABLE_BLOCKS + 1,
            "jitter 1-4 ms" | "jitter, duplicate" => TABLE_BLOCKS * 12 / 10,
            // Held back by ten round trips, a block is as good as lost.
            "reorder 1 %" => TABLE_BLOCKS * 15 / 10,
            // One window until the round trip is known, or three blocks.
            "far 1.5 s" => TABLE_BLOCKS * 11 / 10,
            _ => continue,
        };
        for operation in [Operation::Read, Operation::Write] {
            for windowsize in WINDOWSIZES {
                for seed in 1..=TABLE_SEEDS {
                    let scenario = table_scenario(&weather, operation, windowsize, seed);
                    let report = run(&scenario);
                    let data = report.server.data + report.client.data;
                    assert!(
                        data <= most,
                        "{name}, {operation}, windowsize {windowsize}, seed {seed}: {data} DATA"
                    );
                }
            }
        }
    }
}

/// Goal: a crowd's queue that moves from the server to the clients, or back, is not taken for a loss: round trips
/// become a dozen times as long from one to the next. Method: two processors, of which one is slow, by turns.
#[test]
fn a_queue_that_moves_to_the_other_end_is_no_loss() {
    const CROWD: usize = 300;
    let pace = |receive, send| Pace {
        receive: micros(receive),
        send: micros(send),
        queue_max: usize::MAX,
    };
    let files = Memory::new(Writes::Create);
    let len = 1 << 20;
    files.insert(b"image", Contents::Pattern { seed: 1, len });
    let mut world = World::new(1, Weather::FAIR, Duration::ZERO);
    let server = world.add_host("S", SERVER.ip(), files, Settings::default());
    let copies = Memory::new(Writes::Create);
    let clients = world.add_host("C", CLIENT, copies, Settings::default());
    world.listen(server, SERVER);
    for number in 0..CROWD {
        let plan = Plan {
            server: SERVER,
            operation: Operation::Read,
            remote: b"image".to_vec(),
            origin: Origin::Own,
            local: LocalSide::Stored(format!("copy-{number}").into_bytes()),
            mode: Mode::Octet,
            wanted: Wanted {
                blksize: Some(1428),
                windowsize: Some(16),
                ..Wanted::default()
            },
            patience: Patience::DEFAULT,
            linger: LINGER,
            order: ORDER_DEFAULT,
        };
        world.start_at(Instant::ZERO, clients, plan);
    }
    let mut endings = Vec::new();
    let (mut moves, mut next) = (0, Instant::ZERO);
    let mut again_at_first = 0;
    world.alarm_at(next);
    while world.step() && endings.len() < CROWD {
        if world.now() >= next {
            let (at_server, at_clients) = if moves % 2 == 0 {
                (pace(1, 20), pace(1, 1))
            } else {
                (pace(1, 1), pace(20, 1))
            };
            world.set_pace(server, at_server);
            world.set_pace(clients, at_clients);
            if moves == 1 {
                again_at_first = world.metrics(server).retransmissions;
            }
            moves += 1;
            next += millis(400);
            world.alarm_at(next);
        }
        endings.extend(world.take_endings(clients));
    }
    let is_complete = |ending: &Ending| ending.outcome == Outcome::Complete;
    assert!(endings.iter().all(is_complete), "{moves} moves");
    assert!(moves > 6, "only {moves} moves");
    let (again, data) = (
        world.metrics(server).retransmissions,
        world.sent(server).data,
    );
    assert_eq!(again, again_at_first, "laps are known by then");
    // Until they are, round trips of a moment grow to a tenth of a second.
    assert!(again * 200 < data, "{again} of {data} DATA were sent again");
}

/// Goal: octets are correct despite loss, delay and duplication around the rollover of block numbers, and
/// also in the widest windows, where a late copy is most easily taken for another block.
#[test]
fn block_numbers_begin_anew_in_any_weather() {
    for (name, weather) in weathers() {
        let (windowsize, blocks) = match name {
            "WAN, loss 1 %" => (16, 66_000),
            "jitter, duplicate" => (u16::MAX, 140_000),
            _ => continue,
        };
        for operation in [Operation::Read, Operation::Write] {
            let mut scenario = Scenario {
                blksize: Some(8),
                len: blocks * 8 + 1,
                ..table_scenario(&weather, operation, windowsize, 1)
            };
            scenario.settings.windowsize_max = u16::MAX;
            let report = run(&scenario);
            let result = (report.complete(), report.corrupt);
            assert_eq!(result, (1, 0), "{name}, {operation}");
        }
    }
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
    let begun = report.metrics.accepted();
    assert_eq!(report.metrics.active(), 0, "{:?}", report.metrics);
    assert!(begun <= ended, "{:?}", report.metrics);
    let sent = report.server.datagrams + report.client.datagrams;
    let most = datagrams_max(scenario, report);
    assert!(
        sent <= most,
        "{sent} datagrams, at most {most} explained: {:?} {:?}",
        report.server,
        report.client
    );
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
/// back makes the sender go back at most twice, for a report and for its timer, each time by a window at
/// most, and draws as many ACKs.
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
    u64::from(scenario.clients) * (once + in_vain) + blows * 2 * (window + 1)
}

/// Goal: clients in equal weather get equal shares. Method: Jain's index over the rates of 16 clients that
/// begin at once, by their completion times.
#[test]
fn sixteen_clients_share_fairly() {
    for (name, weather) in weathers() {
        // Where a block that is lost or late costs more than all the others, luck decides.
        if !["fair", "jitter 1-4 ms", "full"].contains(&name) {
            continue;
        }
        for operation in [Operation::Read, Operation::Write] {
            for windowsize in [1, 16] {
                let scenario = Scenario {
                    clients: 16,
                    ..table_scenario(&weather, operation, windowsize, 1)
                };
                let report = run(&scenario);
                let rates = report
                    .endings
                    .iter()
                    .map(|ending| 1.0 / ending.elapsed.as_secs_f64());
                let (sum, squares) = rates.fold((0.0, 0.0), |(sum, squares), rate| {
                    (sum + rate, squares + rate * rate)
                });
                let index = sum * sum / (16.0 * squares);
                assert_eq!(report.complete(), 16, "{name}");
                assert!(
                    index >= FAIRNESS_MIN,
                    "{name}, {operation}, {windowsize}: {index}"
                );
            }
        }
    }
}

/// Jain's index is 1 where all are equal, and 1/16 where one of 16 has everything.
const FAIRNESS_MIN: f64 = 0.95;
