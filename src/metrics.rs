//! Counters: one set per shard, plain numbers that only their shard updates; merged when read.

use std::collections::BTreeMap;
use std::fmt;

use hdrhistogram::Histogram;

use crate::time::Duration;

/// Why something was silently ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suppressed {
    /// A packet to the listening port that is no request.
    NotARequest,
    /// Sent to a broadcast or multicast address.
    Broadcast,
    /// Sent from port 0, which cannot be answered.
    PortZero,
    /// A repeat of a request whose transfer has just started.
    RepeatedRequest,
    /// A request that arrived while the server was full.
    Full,
    /// A request that arrived while the server was draining.
    Draining,
    /// It arrived before all shards listened, where they share one port.
    Early,
    /// A packet from an unknown sender beyond the ERROR rate limit, or from a client that has just left.
    Stranger,
    /// A packet that its transfer does not expect.
    Unexpected,
}

/// A shard's counters. All values only increase, except those called `active` and `unvalidated`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Requests, by operation (`read`, `write`, `unknown`) and result: `accepted`, or the name of the error.
    pub requests: BTreeMap<(&'static str, &'static str), u64>,
    /// Running reads.
    pub active_reads: u64,
    /// Running writes.
    pub active_writes: u64,
    /// Running transfers whose peer is not validated yet.
    pub unvalidated: u64,
    /// Finished transfers, by outcome.
    pub ended: BTreeMap<&'static str, u64>,
    /// Octets of files acknowledged by their readers.
    pub octets_sent: u64,
    /// Octets of files received.
    pub octets_received: u64,
    /// Datagrams received.
    pub received: Packets,
    /// Datagrams sent.
    pub sent: Packets,
    /// ERROR packets received, by code.
    pub errors_received: BTreeMap<&'static str, u64>,
    /// ERROR packets sent, by code.
    pub errors_sent: BTreeMap<&'static str, u64>,
    /// Datagrams retransmitted.
    pub retransmissions: u64,
    /// Datagrams silently ignored, by reason.
    pub suppressed: BTreeMap<Suppressed, u64>,
    /// Sends that the system refused, by error number.
    pub send_errors: BTreeMap<i32, u64>,
    /// How often a send found the queue full.
    pub send_full: u64,
    /// Datagrams that the kernel dropped because a receive queue was full.
    pub receive_drops: u64,
    /// I/O statistics of the engine.
    pub engine: Statistics,
    /// Latencies.
    pub latencies: Latencies,
}

impl Metrics {
    /// Running transfers.
    #[must_use]
    pub const fn active(&self) -> u64 {
        self.active_reads + self.active_writes
    }

    /// Requests that started a transfer.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        let accepted =
            |((_, result), count): (&(&str, &str), &u64)| (*result == "accepted").then_some(*count);
        self.requests.iter().filter_map(accepted).sum()
    }

    /// Adds another shard's counts to these.
    pub fn merge(&mut self, other: &Self) {
        self.active_reads += other.active_reads;
        self.active_writes += other.active_writes;
        self.unvalidated += other.unvalidated;
        self.octets_sent += other.octets_sent;
        self.octets_received += other.octets_received;
        self.received.merge(&other.received);
        self.sent.merge(&other.sent);
        self.retransmissions += other.retransmissions;
        self.send_full += other.send_full;
        self.receive_drops += other.receive_drops;
        self.engine.merge(&other.engine);
        self.latencies.merge(&other.latencies);
        merge_map(&mut self.requests, &other.requests);
        merge_map(&mut self.errors_received, &other.errors_received);
        merge_map(&mut self.errors_sent, &other.errors_sent);
        merge_map(&mut self.ended, &other.ended);
        merge_map(&mut self.suppressed, &other.suppressed);
        merge_map(&mut self.send_errors, &other.send_errors);
    }
}

/// Statistics of an engine that uses the kernel's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// System calls to poll for readiness.
    pub polls: u64,
    /// System calls that only receive, including those that found nothing.
    pub receives: u64,
    /// System calls that send, including failed ones.
    pub sends: u64,
    /// The sends among them with more than one datagram.
    pub gso_sends: u64,
    /// How often a burst was refused and its datagrams were then sent singly.
    pub gso_fallbacks: u64,
    /// Bursts passed to the device in place, without a system call counted in `sends`.
    pub zero_copy_sends: u64,
    /// Those of them from memory registered with the kernel.
    pub zero_copy_registered: u64,
    /// Those of them that the kernel copied nevertheless.
    pub zero_copy_copied: u64,
}

impl Statistics {
    fn merge(&mut self, other: &Self) {
        self.polls += other.polls;
        self.receives += other.receives;
        self.sends += other.sends;
        self.gso_sends += other.gso_sends;
        self.gso_fallbacks += other.gso_fallbacks;
        self.zero_copy_sends += other.zero_copy_sends;
        self.zero_copy_registered += other.zero_copy_registered;
        self.zero_copy_copied += other.zero_copy_copied;
    }
}

/// Datagrams by packet type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packets([u64; Self::TYPES.len()]);

impl Packets {
    /// The types as named in the counters: by opcode, starting with what is no packet.
    pub const TYPES: [&'static str; 7] = ["other", "rrq", "wrq", "data", "ack", "error", "oack"];

    /// Counts `count` datagrams that all start like `octets`.
    pub fn count(&mut self, octets: &[u8], count: u64) {
        let opcode = match octets {
            [0, opcode @ 1..=6, ..] => usize::from(*opcode),
            _ => 0,
        };
        self.0[opcode] += count;
    }

    /// Each type with its count.
    pub fn by_type(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::TYPES.into_iter().zip(self.0)
    }

    /// The total.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another set of counts.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(own, other)| *own += other);
    }
}

fn merge_map<K: Copy + Ord>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (&key, &count) in from {
        *into.entry(key).or_default() += count;
    }
}

impl Metrics {
    /// Each counter that is not zero, with its name.
    #[must_use]
    pub fn rows(&self) -> Vec<(String, u64)> {
        let plain = [
            ("active reads", self.active_reads),
            ("active writes", self.active_writes),
            ("unvalidated", self.unvalidated),
            ("octets sent", self.octets_sent),
            ("octets received", self.octets_received),
            ("retransmissions", self.retransmissions),
            ("sends that found the queue full", self.send_full),
            ("datagrams dropped by the kernel", self.receive_drops),
            ("bursts sent by one call", self.engine.gso_sends),
            (
                "bursts refused, then sent singly",
                self.engine.gso_fallbacks,
            ),
            ("bursts sent without a copy", self.engine.zero_copy_sends),
            ("of them, copied all the same", self.engine.zero_copy_copied),
        ];
        let mut rows: Vec<_> = plain.map(|(name, count)| (name.to_owned(), count)).to_vec();
        let mut row = |name: &str, label: &dyn fmt::Display, count: u64| {
            rows.push((format!("{name} {label}"), count));
        };
        for ((operation, result), &count) in &self.requests {
            row("requests to", &format_args!("{operation}: {result}"), count);
        }
        for (how, &count) in &self.ended {
            row("ended", how, count);
        }
        for (name, count) in self.sent.by_type() {
            row("sent", &name, count);
        }
        for (name, count) in self.received.by_type() {
            row("received", &name, count);
        }
        for (code, &count) in &self.errors_sent {
            row("error sent", code, count);
        }
        for (code, &count) in &self.errors_received {
            row("error received", code, count);
        }
        for (why, &count) in &self.suppressed {
            row("suppressed", why, count);
        }
        for (errno, &count) in &self.send_errors {
            row("send error", errno, count);
        }
        rows.retain(|&(_, count)| count > 0);
        rows
    }
}

/// One line per counter, omitting zeros.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counters")?;
        for (name, count) in self.rows() {
            write!(f, "\n  {name:<40}{count:>16}")?;
        }
        write!(f, "{}", self.latencies)
    }
}

/// Latencies: one histogram for each question that operators ask.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Latencies {
    /// From the arrival of a request to the first datagram of its answer: this end's processing time.
    pub first_datagram: Latency,
    /// From the arrival of an ACK to the blocks that it released: this end's processing time. The engine may submit
    /// them together with others, some 50 µs later.
    pub ack_to_burst: Latency,
    /// From a block to its ACK, for blocks that were sent only once.
    pub round_trip: Latency,
    /// From the request to the last ACK, for transfers that completed.
    pub transfer: Latency,
}

impl Latencies {
    /// Whether no latency has been recorded yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named().iter().all(|(_, latency)| latency.count() == 0)
    }

    fn merge(&mut self, other: &Self) {
        self.first_datagram.merge(&other.first_datagram);
        self.ack_to_burst.merge(&other.ack_to_burst);
        self.round_trip.merge(&other.round_trip);
        self.transfer.merge(&other.transfer);
    }

    /// Each histogram with its display name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, &Latency); 4] {
        [
            ("request to first datagram", &self.first_datagram),
            ("ACK to next burst", &self.ack_to_burst),
            ("round trip", &self.round_trip),
            ("whole transfer", &self.transfer),
        ]
    }
}

/// A table of percentiles in milliseconds.
impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        let shown = self
            .named()
            .into_iter()
            .filter(|(_, latency)| latency.count() > 0);
        let titles = ["count", "p50", "p90", "p99", "p99.9", "max"];
        write!(f, "\n  {:<28}", "latencies in ms")?;
        titles
            .iter()
            .try_for_each(|title| write!(f, "{title:>12}"))?;
        for (name, latency) in shown {
            write!(f, "\n  {name:<28}{:>12}", latency.count())?;
            for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
                write!(
                    f,
                    "{:>12.3}",
                    latency.quantile(quantile).as_secs_f64() * 1e3
                )?;
            }
        }
        Ok(())
    }
}

/// Durations from a microsecond to an hour, each recorded to within one percent.
#[derive(Clone, PartialEq)]
pub struct Latency(Histogram<u64>);

/// Shorter durations count as this.
const LATENCY_NANOS_MIN: u64 = 1_000;
/// Longer durations count as this.
const LATENCY_NANOS_MAX: u64 = 3_600_000_000_000;
/// Two significant digits: about 30 KiB per histogram.
const LATENCY_DIGITS: u8 = 2;

impl Latency {
    /// Records a duration. Never allocates.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos.max(1));
    }

    /// The number of durations recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this fraction of all, from 0 to 1, did not exceed.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(part))
    }

    /// Durations, the fractions of all that did not exceed them, and their counts, with a fixed number of
    /// steps for each halving of the remaining fraction.
    pub fn percentiles(
        &self,
        parts_per_halving: u32,
    ) -> impl Iterator<Item = (Duration, f64, u64)> + '_ {
        let mut count = 0;
        self.0.iter_quantiles(parts_per_halving).map(move |step| {
            count += step.count_since_last_iteration();
            let value = Duration::from_nanos(step.value_iterated_to());
            (value, step.quantile_iterated_to(), count)
        })
    }

    /// The mean and the standard deviation.
    #[must_use]
    pub fn mean_and_deviation(&self) -> (Duration, Duration) {
        let duration = |nanos: f64| Duration::from_nanos(nanos as u64);
        (duration(self.0.mean()), duration(self.0.stdev()))
    }

    /// How many durations did not exceed `limit`.
    #[must_use]
    pub fn count_up_to(&self, limit: Duration) -> u64 {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.0.count_between(0, nanos)
    }

    /// The sum of all durations, to the precision of the buckets.
    #[must_use]
    pub fn sum(&self) -> Duration {
        let nanos: f64 = self
            .0
            .iter_recorded()
            .map(|bucket| bucket.value_iterated_to() as f64 * bucket.count_at_value() as f64)
            .sum();
        Duration::from_secs_f64(nanos / 1e9)
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds: no value can be out of range.
        let _ = self.0.add(&other.0);
    }
}

impl Default for Latency {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(LATENCY_NANOS_MIN, LATENCY_NANOS_MAX, LATENCY_DIGITS);
        Self(histogram.expect("the bounds are constants, and in order"))
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latency({} recorded)", self.count())
    }
}

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotARequest => "not_a_request",
            Self::Broadcast => "broadcast",
            Self::PortZero => "port_zero",
            Self::RepeatedRequest => "repeated_request",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Early => "early",
            Self::Stranger => "stranger",
            Self::Unexpected => "unexpected",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_histograms_hold_both_halves() {
        let (mut fast, mut slow) = (Metrics::default(), Metrics::default());
        for _ in 0..99 {
            fast.latencies.round_trip.record(Duration::from_micros(100));
        }
        slow.latencies.round_trip.record(Duration::from_secs(7200));
        fast.merge(&slow);
        let merged = &fast.latencies.round_trip;
        assert_eq!(merged.count(), 100);
        assert!(
            merged.quantile(0.5).abs_diff(Duration::from_micros(100)) < Duration::from_micros(2)
        );
        assert!(
            merged.quantile(1.0) >= Duration::from_secs(3500),
            "an hour is as long as it gets"
        );
        assert_eq!(merged.count_up_to(Duration::from_millis(1)), 99);
    }

    #[test]
    fn only_what_happened_is_shown() {
        let metrics = Metrics {
            active_reads: 3,
            ..Metrics::default()
        };
        let shown = metrics.to_string();
        assert!(shown.contains("active reads"), "{shown}");
        assert!(
            !shown.contains("writes") && !shown.contains("latencies"),
            "{shown}"
        );
    }
}
