//! The counters in OpenMetrics text format, for scrapers. Clients and files are never labels, so that
//! outsiders cannot determine the number of time series.

use std::fmt::{self, Write};

use crate::metrics::{Latency, Metrics};
use crate::server::EngineInfo;
use crate::store::StoreStatistics;
use crate::time::Duration;

/// The media type of the output of [`render`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Histogram bucket bounds in seconds: from the server's processing time to a client with slow flash.
const BUCKETS: [f64; 16] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 10e-3, 50e-3, 250e-3, 1.0, 5.0,
    15.0, 60.0, 300.0,
];

/// All counters as text.
pub(super) fn render(metrics: &Metrics, engine: EngineInfo, cache: StoreStatistics) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, metrics, engine, cache);
    page
}

fn write_page(
    page: &mut String,
    metrics: &Metrics,
    engine: EngineInfo,
    cache: StoreStatistics,
) -> fmt::Result {
    family(
        page,
        "tftp_requests",
        "counter",
        "Requests, by what came of them.",
    )?;
    for ((operation, result), count) in &metrics.requests {
        writeln!(
            page,
            "tftp_requests_total{{op=\"{operation}\",result=\"{result}\"}} {count}"
        )?;
    }
    family(
        page,
        "tftp_transfers_active",
        "gauge",
        "Transfers that run.",
    )?;
    writeln!(
        page,
        "tftp_transfers_active{{op=\"read\"}} {}",
        metrics.active_reads
    )?;
    writeln!(
        page,
        "tftp_transfers_active{{op=\"write\"}} {}",
        metrics.active_writes
    )?;
    family(
        page,
        "tftp_transfers_ended",
        "counter",
        "Transfers that are over, by how they ended.",
    )?;
    for (how, count) in &metrics.ended {
        writeln!(
            page,
            "tftp_transfers_ended_total{{outcome=\"{how}\"}} {count}"
        )?;
    }
    family(
        page,
        "tftp_unvalidated_transfers",
        "gauge",
        "Transfers whose peer has yet to prove that it is there.",
    )?;
    writeln!(page, "tftp_unvalidated_transfers {}", metrics.unvalidated)?;
    family(
        page,
        "tftp_transfer_bytes",
        "counter",
        "Octets of files that arrived, there or here.",
    )?;
    writeln!(
        page,
        "tftp_transfer_bytes_total{{direction=\"sent\"}} {}",
        metrics.octets_sent
    )?;
    writeln!(
        page,
        "tftp_transfer_bytes_total{{direction=\"received\"}} {}",
        metrics.octets_received
    )?;
    family(
        page,
        "tftp_packets",
        "counter",
        "Datagrams, by what they hold.",
    )?;
    for (direction, packets) in [("sent", metrics.sent), ("received", metrics.received)] {
        for (kind, count) in packets.by_type() {
            writeln!(
                page,
                "tftp_packets_total{{type=\"{kind}\",direction=\"{direction}\"}} {count}"
            )?;
        }
    }
    family(
        page,
        "tftp_retransmits",
        "counter",
        "Datagrams sent more than once.",
    )?;
    writeln!(page, "tftp_retransmits_total {}", metrics.retransmissions)?;
    family(page, "tftp_errors", "counter", "ERROR packets, by code.")?;
    for (direction, errors) in [
        ("sent", &metrics.errors_sent),
        ("received", &metrics.errors_received),
    ] {
        for (code, count) in errors {
            writeln!(
                page,
                "tftp_errors_total{{code=\"{code}\",direction=\"{direction}\"}} {count}"
            )?;
        }
    }
    family(
        page,
        "tftp_suppressed",
        "counter",
        "Datagrams passed over in silence.",
    )?;
    for (reason, count) in &metrics.suppressed {
        writeln!(page, "tftp_suppressed_total{{reason=\"{reason}\"}} {count}")?;
    }
    family(
        page,
        "tftp_send_errors",
        "counter",
        "Sends that the system refused, by error number.",
    )?;
    for (errno, count) in &metrics.send_errors {
        writeln!(page, "tftp_send_errors_total{{errno=\"{errno}\"}} {count}")?;
    }
    family(
        page,
        "tftp_send_full",
        "counter",
        "Sends that found the queue full and were tried again.",
    )?;
    writeln!(page, "tftp_send_full_total {}", metrics.send_full)?;
    family(
        page,
        "tftp_receive_drops",
        "counter",
        "Datagrams dropped by the kernel: a receive queue was full.",
    )?;
    writeln!(page, "tftp_receive_drops_total {}", metrics.receive_drops)?;
    for (name, help, count) in [
        (
            "tftp_gso_sends",
            "Bursts sent by one call.",
            metrics.engine.gso_sends,
        ),
        (
            "tftp_gso_fallbacks",
            "Bursts that were refused, and sent singly then.",
            metrics.engine.gso_fallbacks,
        ),
        (
            "tftp_zero_copy_sends",
            "Bursts that the device took from where they lie.",
            metrics.engine.zero_copy_sends,
        ),
        (
            "tftp_zero_copy_copied",
            "Bursts of these that the kernel copied all the same.",
            metrics.engine.zero_copy_copied,
        ),
    ] {
        family(page, name, "counter", help)?;
        writeln!(page, "{name}_total {count}")?;
    }
    let latencies = &metrics.latencies;
    histogram(
        page,
        "tftp_first_byte_seconds",
        "From a request to the first datagram of its answer.",
        &latencies.first_datagram,
    )?;
    histogram(
        page,
        "tftp_ack_burst_seconds",
        "From an ACK to the blocks that it let go.",
        &latencies.ack_to_burst,
    )?;
    histogram(
        page,
        "tftp_ack_rtt_seconds",
        "From a block to its ACK.",
        &latencies.round_trip,
    )?;
    histogram(
        page,
        "tftp_transfer_duration_seconds",
        "Transfers that completed.",
        &latencies.transfer,
    )?;
    for (name, kind, help, value) in [
        (
            "tftp_frame_cache_hits",
            "counter",
            "Requests for frames that were there.",
            cache.hits,
        ),
        (
            "tftp_frame_cache_misses",
            "counter",
            "Requests for frames that were not there.",
            cache.misses,
        ),
        (
            "tftp_frame_cache_framed_bytes",
            "counter",
            "Octets of frames made for several transfers.",
            cache.framed_octets,
        ),
        (
            "tftp_frame_cache_plain_bytes",
            "counter",
            "Octets read plainly, for one transfer.",
            cache.plain_octets,
        ),
        (
            "tftp_frame_cache_evictions",
            "counter",
            "Frames that had to make room.",
            cache.evictions,
        ),
        (
            "tftp_frame_cache_bytes",
            "gauge",
            "Memory taken by frames.",
            cache.resident_octets,
        ),
        (
            "tftp_frame_cache_pending",
            "gauge",
            "Frames that are being made.",
            cache.pending,
        ),
    ] {
        family(page, name, kind, help)?;
        let suffix = if kind == "counter" { "_total" } else { "" };
        writeln!(page, "{name}{suffix} {value}")?;
    }
    family(
        page,
        "tftp_engine",
        "info",
        "What moves the datagrams. With zero_copy, bursts may leave without a copy; tftp_zero_copy_sends tells how many did.",
    )?;
    let EngineInfo {
        name,
        gso,
        zero_copy,
    } = engine;
    writeln!(
        page,
        "tftp_engine_info{{engine=\"{name}\",gso=\"{gso}\",zero_copy=\"{zero_copy}\"}} 1"
    )?;
    page.push_str("# EOF\n");
    Ok(())
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(page, "# TYPE {name} {kind}\n# HELP {name} {help}")
}

fn histogram(page: &mut String, name: &str, help: &str, latency: &Latency) -> fmt::Result {
    family(page, name, "histogram", help)?;
    for bound in BUCKETS {
        let count = latency.count_up_to(Duration::from_secs_f64(bound));
        writeln!(page, "{name}_bucket{{le=\"{bound}\"}} {count}")?;
    }
    writeln!(page, "{name}_bucket{{le=\"+Inf\"}} {}", latency.count())?;
    writeln!(page, "{name}_count {}", latency.count())?;
    writeln!(page, "{name}_sum {}", latency.sum().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every family is declared once, every sample belongs to one, and the page ends as required.
    #[test]
    fn the_page_is_well_formed() {
        let mut metrics = Metrics::default();
        metrics.requests.insert(("read", "accepted"), 7);
        metrics
            .latencies
            .round_trip
            .record(Duration::from_micros(300));
        let page = render(&metrics, EngineInfo::default(), StoreStatistics::default());
        assert!(page.ends_with("# EOF\n"));
        let families: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|rest| rest.split(' ').next())
            .collect();
        let mut unique = families.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), families.len(), "a family is announced twice");
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                families.iter().any(|family| line.starts_with(family)),
                "no family for {line}"
            );
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "no number: {line}");
        }
        assert!(page.contains("tftp_requests_total{op=\"read\",result=\"accepted\"} 7\n"));
        assert!(page.contains("tftp_ack_rtt_seconds_bucket{le=\"0.0005\"} 1\n"));
        assert!(page.contains("tftp_ack_rtt_seconds_bucket{le=\"0.00025\"} 0\n"));
    }
}
