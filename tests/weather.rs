//! Tries.
use bootstorm::engine::sim::Weather;
use bootstorm::shard::Operation;
use bootstorm::simulate::{Scenario, run};
use bootstorm::time::Duration;

#[test]
fn try_it() {
    let base = Weather::FAIR;
    let weathers = [
        ("fair", base.clone()),
        (
            "dup5",
            Weather {
                duplicate: 0.05,
                ..base.clone()
            },
        ),
        (
            "jitter",
            Weather {
                delay: Duration::from_millis(1),
                jitter: Duration::from_millis(3),
                ..base.clone()
            },
        ),
        (
            "jit+dup",
            Weather {
                delay: Duration::from_millis(1),
                jitter: Duration::from_millis(3),
                duplicate: 0.05,
                ..base.clone()
            },
        ),
        (
            "reorder1",
            Weather {
                reorder: 0.01,
                ..base.clone()
            },
        ),
        (
            "loss1",
            Weather {
                loss: 0.01,
                ..base.clone()
            },
        ),
        (
            "loss5",
            Weather {
                loss: 0.05,
                ..base.clone()
            },
        ),
        (
            "burst",
            Weather {
                burst: 0.005,
                ..base.clone()
            },
        ),
        (
            "full",
            Weather {
                full: 0.05,
                ..base.clone()
            },
        ),
    ];
    for op in [Operation::Read, Operation::Write] {
        for (name, weather) in weathers {
            for windowsize in [1, 4, 16, 64] {
                let report = run(&Scenario {
                    weather: weather.clone(),
                    windowsize,
                    operation: op,
                    trace: false,
                    ..Scenario::default()
                });
                println!(
                    "{op} {name:8} w={windowsize:<3} t={:<10.3} settle={:<8.1} data={} acks={} blocks={} x{:.3} corrupt={} left={} {:?}",
                    report.elapsed.as_secs_f64(),
                    report.settled.as_secs_f64(),
                    report.server.data + report.client.data,
                    report.server.acks + report.client.acks,
                    report.blocks,
                    report.data_per_block(),
                    report.corrupt,
                    report.left_over,
                    report.endings.iter().map(|e| e.outcome).collect::<Vec<_>>()
                );
                for line in report.trace.iter().take(0) {
                    println!("{line}");
                }
            }
        }
        break;
    }
}
