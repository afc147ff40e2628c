//! Counters, one set a shard, plain numbers that only their shard touches; merged when read.

use std::collections::BTreeMap;
use std::fmt;

/// Why something was passed over in silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suppressed {
    /// Not a request, to the listening port.
    NotARequest,
    /// To a broadcast or multicast address.
    Broadcast,
    /// From port 0, which cannot be answered.
    PortZero,
    /// A repeat of a request whose transfer has just begun.
    RepeatedRequest,
    /// A request while the server is full.
    Full,
    /// A request while the server is draining.
    Draining,
    /// A packet from a stranger, beyond the rate at which they are told.
    Stranger,
    /// A packet that its transfer has no use for.
    Unexpected,
}

/// What a shard counts. All values only ever grow, but for those called `active` and `unvalidated`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Read requests that began a transfer.
    pub reads: u64,
    /// Write requests that began a transfer.
    pub writes: u64,
    /// Requests that were refused, by error code.
    pub refused: BTreeMap<u16, u64>,
    /// Transfers running.
    pub active: u64,
    /// Those of them whose peer has yet to prove that it is there.
    pub unvalidated: u64,
    /// Transfers that ended, by how.
    pub ended: BTreeMap<&'static str, u64>,
    /// Octets of files that were acknowledged by their readers.
    pub octets_sent: u64,
    /// Octets of files that arrived.
    pub octets_received: u64,
    /// Datagrams in.
    pub datagrams_received: u64,
    /// Datagrams out.
    pub datagrams_sent: u64,
    /// Datagrams out more than once.
    pub retransmissions: u64,
    /// Datagrams passed over in silence, by why.
    pub suppressed: BTreeMap<Suppressed, u64>,
    /// Sends that the system refused, by error number.
    pub send_errors: BTreeMap<i32, u64>,
    /// How often a send found the queue full.
    pub send_full: u64,
    /// Datagrams that the kernel dropped because a receive queue was full.
    pub receive_drops: u64,
}

impl Metrics {
    /// Adds another shard's counts to these.
    pub fn merge(&mut self, other: &Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.active += other.active;
        self.unvalidated += other.unvalidated;
        self.octets_sent += other.octets_sent;
        self.octets_received += other.octets_received;
        self.datagrams_received += other.datagrams_received;
        self.datagrams_sent += other.datagrams_sent;
        self.retransmissions += other.retransmissions;
        self.send_full += other.send_full;
        self.receive_drops += other.receive_drops;
        merge_map(&mut self.refused, &other.refused);
        merge_map(&mut self.ended, &other.ended);
        merge_map(&mut self.suppressed, &other.suppressed);
        merge_map(&mut self.send_errors, &other.send_errors);
    }
}

fn merge_map<K: Copy + Ord>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (&key, &count) in from {
        *into.entry(key).or_default() += count;
    }
}

/// A line a counter, those that are zero left out.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = [
            ("reads", self.reads),
            ("writes", self.writes),
            ("active", self.active),
            ("unvalidated", self.unvalidated),
            ("octets sent", self.octets_sent),
            ("octets received", self.octets_received),
            ("datagrams sent", self.datagrams_sent),
            ("datagrams received", self.datagrams_received),
            ("retransmissions", self.retransmissions),
            ("sends that found the queue full", self.send_full),
            ("datagrams dropped by the kernel", self.receive_drops),
        ];
        f.write_str("counters")?;
        for (name, count) in plain {
            line(f, name, &"", count)?;
        }
        self.ended
            .iter()
            .try_for_each(|(how, &count)| line(f, "ended", how, count))?;
        self.refused
            .iter()
            .try_for_each(|(code, &count)| line(f, "refused with error", code, count))?;
        self.suppressed
            .iter()
            .try_for_each(|(why, &count)| line(f, "suppressed", why, count))?;
        self.send_errors
            .iter()
            .try_for_each(|(errno, &count)| line(f, "send error", errno, count))
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    label: &dyn fmt::Display,
    count: u64,
) -> fmt::Result {
    if count == 0 {
        Ok(())
    } else {
        write!(f, "\n  {:<40}{count:>16}", format!("{name} {label}"))
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
            Self::Stranger => "stranger",
            Self::Unexpected => "unexpected",
        })
    }
}
