//! Counters in the log: as tables for people or, where lines are JSON objects, as one line per counter.

use crate::metrics::{Latencies, Metrics};

/// Logs the counters.
pub(super) fn counters(metrics: &Metrics, objects: bool) {
    if !objects {
        return tracing::info!("{metrics}");
    }
    for (counter, count) in metrics.rows() {
        tracing::info!(counter, count, "counter");
    }
    latencies(&metrics.latencies, objects);
}

/// Logs the latencies, if anything was served.
pub(super) fn latencies(latencies: &Latencies, objects: bool) {
    if latencies.is_empty() {
        return;
    }
    if !objects {
        return tracing::info!("how long things took{latencies}");
    }
    let named = latencies.named();
    for (what, latency) in named.into_iter().filter(|(_, latency)| latency.count() > 0) {
        let at = |part| latency.quantile(part).as_secs_f64();
        tracing::info!(
            what,
            count = latency.count(),
            p50_seconds = at(0.5),
            p90_seconds = at(0.9),
            p99_seconds = at(0.99),
            p99_9_seconds = at(0.999),
            max_seconds = at(1.0),
            "latency"
        );
    }
}
