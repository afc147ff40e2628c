//! A sample of a server's admin side: counters from `/metrics`, transfers from `/transfers`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

/// A sample.
#[derive(Debug)]
pub(super) struct Sample {
    /// When it was requested.
    pub(super) taken: Instant,
    /// Each series by its name, with labels as written by the server.
    series: BTreeMap<String, f64>,
    /// Running transfers, as many as the server lists.
    pub(super) transfers: Vec<Transfer>,
}

/// A running transfer.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Transfer {
    pub(super) peer: String,
    pub(super) operation: String,
    pub(super) file: String,
    pub(super) blksize: Option<u16>,
    pub(super) windowsize: Option<u16>,
    pub(super) bytes: u64,
    pub(super) total: Option<u64>,
    pub(super) seconds: f64,
    pub(super) retransmissions: u64,
}

impl Sample {
    /// Parses the two pages.
    ///
    /// # Errors
    /// If they are not those of a bootstorm server.
    pub(super) fn read(taken: Instant, metrics: &str, transfers: &str) -> Result<Self, String> {
        let lines = metrics.lines().filter(|line| !line.starts_with('#'));
        let series: BTreeMap<String, f64> = lines
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        if !series
            .keys()
            .any(|name| name.starts_with("tftp_engine_info{"))
        {
            return Err("this is not the admin side of a bootstorm server".to_owned());
        }
        let transfers = serde_json::from_str(transfers)
            .map_err(|error| format!("/transfers is not understood: {error}"))?;
        Ok(Self {
            taken,
            series,
            transfers,
        })
    }

    /// The sum of the series with this prefix; a full name selects a single one.
    pub(super) fn sum(&self, prefix: &str) -> f64 {
        // The standard library's sum of nothing is -0.
        let values = self.starting(prefix).map(|(_, value)| value);
        values.fold(0.0, |sum, value| sum + value)
    }

    /// The value of a label of the engine.
    pub(super) fn engine(&self, label: &str) -> &str {
        let mut info = self.starting("tftp_engine_info{");
        let labels = info.next().map(|(labels, _)| labels).unwrap_or_default();
        let value = labels
            .split_once(&format!("{label}=\""))
            .map(|(_, rest)| rest);
        value.and_then(|rest| rest.split('"').next()).unwrap_or("?")
    }

    /// Octets of files transferred in one direction (`sent` or `received`), including those of running
    /// transfers.
    pub(super) fn octets(&self, direction: &str) -> f64 {
        let operation = if direction == "sent" { "read" } else { "write" };
        let ended = self.sum(&format!(
            "tftp_transfer_bytes_total{{direction=\"{direction}\"}}"
        ));
        let running = self
            .transfers
            .iter()
            .filter(|transfer| transfer.operation == operation);
        let (count, octets) = running.fold((0.0, 0.0), |(count, octets), transfer| {
            (count + 1.0, octets + transfer.bytes as f64)
        });
        // The list may be incomplete; the others are assumed to have progressed equally far on average.
        let active = self.sum(&format!("tftp_transfers_active{{op=\"{operation}\"}}"));
        ended + octets * (active / f64::max(count, 1.0)).max(1.0)
    }

    /// The bucket bound below which this fraction of a histogram's counts since `before` lies, in
    /// seconds; `None` if nothing was counted.
    pub(super) fn quantile(&self, before: &Self, name: &str, part: f64) -> Option<f64> {
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = self
            .starting(&prefix)
            .filter_map(|(rest, count)| {
                let bound = rest.strip_suffix("\"}")?;
                let bound = if bound == "+Inf" {
                    f64::INFINITY
                } else {
                    bound.parse().ok()?
                };
                let counted_before = before.series.get(&format!("{prefix}{rest}"));
                Some((bound, count - counted_before.unwrap_or(&0.0)))
            })
            .collect();
        buckets.sort_unstable_by(|(one, _), (other, _)| one.total_cmp(other));
        let &(_, all) = buckets.last()?;
        let mut reached = buckets.iter().filter(|(_, count)| *count >= all * part);
        reached
            .next()
            .filter(|_| all > 0.0)
            .map(|(bound, _)| *bound)
    }

    /// The series with this prefix, by the rest of their names.
    fn starting<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.series
            .range(prefix.to_owned()..)
            .map_while(move |(name, value)| Some((name.strip_prefix(prefix)?, *value)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two samples, one second apart.
    pub(in super::super) fn two() -> [Sample; 2] {
        let pages = [
            (1_000_000, 10, 4, 4, 500_000),
            (3_000_000, 30, 4, 8, 1_500_000),
        ];
        let start = Instant::now();
        [0, 1].map(|second| {
            let (sent, complete, slow, quick, bytes) = pages[second as usize];
            let metrics = format!(
                "# TYPE tftp_engine info\n\
                 tftp_engine_info{{engine=\"uring\",gso=\"true\",zero_copy=\"false\"}} 1\n\
                 tftp_transfer_bytes_total{{direction=\"sent\"}} {sent}\n\
                 tftp_transfer_bytes_total{{direction=\"received\"}} 0\n\
                 tftp_transfers_active{{op=\"read\"}} 2\n\
                 tftp_transfers_active{{op=\"write\"}} 0\n\
                 tftp_transfers_ended_total{{outcome=\"complete\"}} {complete}\n\
                 tftp_packets_total{{type=\"data\",direction=\"sent\"}} {sent}\n\
                 tftp_frame_cache_bytes 5000000\n\
                 tftp_ack_rtt_seconds_bucket{{le=\"0.001\"}} {quick}\n\
                 tftp_ack_rtt_seconds_bucket{{le=\"0.0025\"}} {quick}\n\
                 tftp_ack_rtt_seconds_bucket{{le=\"+Inf\"}} {}\n\
                 # EOF\n",
                quick + slow
            );
            let transfers = format!(
                "[{{\"peer\":\"10.0.0.7:1024\",\"operation\":\"read\",\"file\":\"boot.wim\",\"blksize\":1468,\
                 \"windowsize\":16,\"bytes\":{bytes},\"total\":4000000,\"seconds\":1.5,\"retransmissions\":3}}]"
            );
            let taken = start + std::time::Duration::from_secs(second);
            Sample::read(taken, &metrics, &transfers).expect("understood")
        })
    }

    #[test]
    fn counters_labels_and_histograms_are_read() {
        let [before, now] = two();
        assert_eq!(now.engine("engine"), "uring");
        assert_eq!(now.engine("colour"), "?");
        assert_eq!(now.sum("tftp_transfers_active{"), 2.0);
        // The list has one of the two readers.
        assert_eq!(now.octets("sent"), 3_000_000.0 + 2.0 * 1_500_000.0);
        assert_eq!(now.octets("received"), 0.0);
        let name = "tftp_ack_rtt_seconds";
        assert_eq!(now.quantile(&before, name, 0.5), Some(0.001));
        assert_eq!(
            now.quantile(&before, name, 0.99),
            Some(0.001),
            "the slow ones are older"
        );
        assert_eq!(now.quantile(&now, name, 0.5), None);
        assert_eq!(now.quantile(&before, "tftp_other", 0.5), None);
    }

    #[test]
    fn other_pages_are_refused() {
        let now = Instant::now();
        assert!(Sample::read(now, "<html>", "[]").is_err());
        let metrics = "tftp_engine_info{engine=\"mio\"} 1";
        assert!(Sample::read(now, metrics, "[]").is_ok());
        assert!(Sample::read(now, metrics, "{}").is_err());
    }
}
