//! Settings: what the operator can set, and the defaults; every default is a named constant.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::proto::negotiate::{BLKSIZE_MAX, BLKSIZE_MIN, Limits};
use crate::proto::timing::Patience;
use crate::time::Duration;

/// Maximum window in blocks: more than 64 gains nothing, and small receive rings overflow.
pub const WINDOWSIZE_MAX_DEFAULT: u16 = 64;
/// Maximum concurrent transfers over all shards: a slot of under 1 KiB each, so at most some 60 MiB.
pub const TRANSFERS_MAX_DEFAULT: usize = 65_536;
/// Maximum transfers with a peer that is not yet validated, per shard. At 100,000 forged requests a second, a
/// real client still has 0.3 s to answer before it is the oldest.
pub const UNVALIDATED_MAX: usize = 32_768;
/// The same for one IPv4 address or one IPv6 /64: all clients of a lab behind one address may start at once.
pub const UNVALIDATED_PER_PREFIX_MAX: u32 = 16_384;
/// Minimum age at which such a transfer may be evicted: the RTT when many clients' ACKs wait in queues. If
/// the oldest were evicted sooner, each would be evicted before its ACK could arrive, and no client would be
/// served.
pub const UNVALIDATED_AGE_MIN: Duration = Duration::from_millis(50);
/// Maximum concurrent uploads per shard: each has its own buffers.
pub const UPLOADS_MAX: usize = 256;
/// Descriptors of an upload: its file, and the directory that it will appear in.
const UPLOAD_DESCRIPTORS: u64 = 2;
/// The fraction of all descriptors that uploads may take, as a divisor: whoever reads needs some too.
const UPLOADS_SHARE: u64 = 2;
/// Maximum octets of out-of-order upload blocks per shard: four windows of 64 of the largest blocks would
/// fill half. Blocks beyond that are dropped, and their clients retransmit them.
pub const OVERTAKING_OCTETS_MAX: usize = 32 << 20;
/// Maximum local addresses of a host from which a shard answers by separate sockets. Loopback alone has
/// sixteen million addresses; further addresses share a slower socket.
pub const ANSWER_ADDRESSES_MAX: usize = 64;
/// A longer request cannot be a file name and a client's options, and is not parsed.
pub const REQUEST_OCTETS_MAX: usize = 8_192;
/// Longest request, in octets, of which a repeat is kept while its transfer runs: there may be one per
/// transfer, and no firmware comes near this length.
pub const REPEAT_OCTETS_MAX: usize = 1024;
/// ERROR 5 to unknown senders, per shard and second: a courtesy that must not serve as a reflector.
pub const STRANGER_ERRORS_PER_SECOND: u32 = 100;
/// Log lines about refused and malformed requests, per shard and second.
pub const REFUSAL_LINES_PER_SECOND: u32 = 20;
/// Log lines about transfers that did not complete, per shard and second: enough for an outage, and a limit
/// on what forged requests can cause.
pub const FAILURE_LINES_PER_SECOND: u32 = 100;
/// Longest time a network may delay a duplicate datagram. A request repeated within it is not taken as a
/// restart of the client until the transfer has been idle as long, which is several times what a lost window
/// takes to be retransmitted.
/// A request repeated this soon after its transfer ended is ignored if that was an upload, which no client
/// sends twice in a row. A client may well read a file again, so a read is answered, but as with `--strict`.
pub const LATE_COPY_MAX: Duration = Duration::from_millis(500);
/// How long an older transfer must be idle first: its client's datagrams may have overtaken the request.
pub const REBOOT_QUIET: Duration = Duration::from_millis(100);
/// How long a finished upload answers repeats of its last block: longer than the timeout of every known
/// client, which is 5 s, and than the first four of a client that doubles its timeout from one second on. A
/// client that negotiated its timeout gets two of those, if that is longer.
pub const LINGER: Duration = Duration::from_secs(16);
/// How long a finished read, or a transfer that ended with an ERROR, is remembered, so that late copies of
/// the last ACK and the rest of a window are not treated as an unknown sender's.
pub const LINGER_READ: Duration = Duration::from_secs(1);
/// How long a client that vanished during its transfer stays silent: usually as long as servers send to it.
pub const SILENCE_OF_THE_VANISHED: Duration = Duration::from_secs(60);
/// Finished transfers remembered, per shard; beyond that the oldest is dropped.
pub const LINGERING_MAX: usize = 16_384;
/// Clients remembered, per shard, whose transfer an ERROR ended: for one or two RTTs, and the latest ones if
/// there are many. tftp-hpa's client acknowledges an ERROR, and an ACK may be in flight behind a client's
/// own.
pub const DEPARTED_MAX: usize = 1_024;
/// How long a draining server waits for repeats of an upload's last block.
pub const DRAIN_LINGER: Duration = Duration::from_secs(2);
/// How long a draining server waits for clients to be validated: for the answer to a first retransmission.
/// Their requests may be forged.
pub const DRAIN_UNVALIDATED: Duration = Duration::from_secs(2);
/// How long running transfers may go on after SIGTERM.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Retransmissions to a peer that is not yet validated, with `--strict` or if its request may be a late copy.
pub const STRICT_RETRIES: u8 = 1;
/// The fraction of memory available to the shared DATA packets, as a divisor. The files behind them need
/// their place in the page cache, and the machine may have other work.
const FRAME_CACHE_SHARE: u64 = 4;
/// Minimum of that: a kernel and an initial RAM disk, even on a small machine.
const FRAME_CACHE_OCTETS_MIN: u64 = 64 << 20;
/// The same if the amount of memory is unknown.
const FRAME_CACHE_OCTETS_UNKNOWN: u64 = 256 << 20;
/// Octets of the IP, UDP and TFTP headers around a block.
const HEADERS_IPV4: u32 = 20 + 8 + 4;
const HEADERS_IPV6: u32 = 40 + 8 + 4;

/// What a shard is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Timeouts and retransmission limits.
    pub patience: Patience,
    /// Maximum block size; `None` for what fits the MTU of the interface that received the request.
    pub blksize_max: Option<u16>,
    /// Maximum window in blocks.
    pub windowsize_max: u16,
    /// Maximum concurrent transfers, over all shards.
    pub transfers_max: usize,
    /// Maximum concurrent uploads, per shard.
    pub uploads_max: usize,
    /// Answer every transfer from the port that received the request.
    pub single_port: bool,
    /// Ports from which transfers are answered, inclusive.
    pub port_range: Option<(u16, u16)>,
    /// Settings for some clients; the longest matching prefix applies.
    pub subnets: Vec<Subnet>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patience: Patience::DEFAULT,
            blksize_max: None,
            windowsize_max: WINDOWSIZE_MAX_DEFAULT,
            transfers_max: TRANSFERS_MAX_DEFAULT,
            uploads_max: UPLOADS_MAX,
            single_port: false,
            port_range: None,
            subnets: Vec::new(),
        }
    }
}

impl Settings {
    /// The same for so many shards in a process that may have so many descriptors.
    #[must_use]
    pub fn within(self, descriptors: u64, shards: usize) -> Self {
        let uploads = descriptors / UPLOADS_SHARE / UPLOAD_DESCRIPTORS / shards.max(1) as u64;
        let uploads = usize::try_from(uploads).unwrap_or(usize::MAX).max(1);
        Self {
            uploads_max: self.uploads_max.min(uploads),
            ..self
        }
    }

    /// The settings for the client at `peer`, whose request came in over an interface with this MTU.
    #[must_use]
    pub fn terms(&self, peer: IpAddr, mtu: Option<u32>) -> (Limits, Patience) {
        let subnet = self
            .subnets
            .iter()
            .filter(|subnet| subnet.holds(peer))
            .max_by_key(|subnet| subnet.prefix);
        let blksize_max = subnet
            .and_then(|subnet| subnet.blksize_max)
            .or(self.blksize_max);
        let limits = Limits {
            blksize_max: blksize_max.unwrap_or_else(|| blksize_of_mtu(peer, mtu)),
            windowsize_max: subnet
                .and_then(|subnet| subnet.windowsize_max)
                .unwrap_or(self.windowsize_max),
            // A client with that timeout may miss one answer before the transfer is over.
            timeout_max: self.patience.idle / 2,
        };
        let mut patience = self.patience;
        if let Some(floor) = subnet.and_then(|subnet| subnet.retransmit_floor) {
            patience.lockstep_floor = floor;
        }
        (limits, patience)
    }
}

/// The largest block that fits into one IP packet; Ethernet is assumed if the MTU is not known.
#[must_use]
pub fn blksize_of_mtu(peer: IpAddr, mtu: Option<u32>) -> u16 {
    let headers = if peer.is_ipv4() {
        HEADERS_IPV4
    } else {
        HEADERS_IPV6
    };
    let octets = mtu.unwrap_or(1500).saturating_sub(headers);
    u16::try_from(octets)
        .unwrap_or(BLKSIZE_MAX)
        .clamp(BLKSIZE_MIN, BLKSIZE_MAX)
}

/// Memory for the shared DATA packets: a fraction of what is available.
#[must_use]
pub fn frame_cache_octets_default() -> usize {
    let octets = memory().map_or(FRAME_CACHE_OCTETS_UNKNOWN, |memory| {
        (memory / FRAME_CACHE_SHARE).max(FRAME_CACHE_OCTETS_MIN)
    });
    usize::try_from(octets).unwrap_or(usize::MAX)
}

/// Octets of memory available to this process: the machine's, or what its control groups or its address space
/// limit (`ulimit -v`) allow, if that is less; `None` if unknown.
#[must_use]
pub fn memory() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let limit = getrlimit(Resource::As).current;
    memory_octets(read).into_iter().chain(limit).min()
}

/// The memory that the process may use, as Linux reports it in files.
fn memory_octets(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    });
    // Control groups v2 have one line with this prefix; a limit applies to the whole subtree.
    let own = read(Path::new("/proc/self/cgroup"));
    let group = own
        .as_deref()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::/")))
        .unwrap_or_default();
    let limits = Path::new(group).ancestors().filter_map(|group| {
        let path = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        // Without a limit the file says "max".
        read(&path)?.trim().parse().ok()
    });
    limits.chain(machine).min()
}

/// Settings for the clients of one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// An address in the subnet.
    pub address: IpAddr,
    /// The number of leading address bits that identify the subnet.
    pub prefix: u8,
    /// Maximum block size.
    pub blksize_max: Option<u16>,
    /// Maximum window in blocks.
    pub windowsize_max: Option<u16>,
    /// Minimum retransmission timeout in lock-step.
    pub retransmit_floor: Option<Duration>,
}

impl Subnet {
    /// The subnet's first address and its prefix length.
    #[must_use]
    pub fn network(&self) -> (IpAddr, u8) {
        let rest = |bits: u32| bits.saturating_sub(self.prefix.into());
        let first = match self.address {
            IpAddr::V4(own) => {
                let mask = u32::MAX.checked_shl(rest(32)).unwrap_or(0);
                IpAddr::from((own.to_bits() & mask).to_be_bytes())
            }
            IpAddr::V6(own) => {
                let mask = u128::MAX.checked_shl(rest(128)).unwrap_or(0);
                IpAddr::from((own.to_bits() & mask).to_be_bytes())
            }
        };
        (first, self.prefix)
    }

    /// Whether `peer` belongs to the subnet.
    #[must_use]
    pub fn holds(&self, peer: IpAddr) -> bool {
        match (self.address, peer) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                let differs = own.to_bits() ^ peer.to_bits();
                differs.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                let differs = own.to_bits() ^ peer.to_bits();
                differs.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_size_follows_the_mtu_of_the_path() {
        let settings = Settings::default();
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(settings.terms(v4, Some(1500)).0.blksize_max, 1468);
        assert_eq!(settings.terms(v6, Some(1500)).0.blksize_max, 1448);
        assert_eq!(settings.terms(v4, Some(65_536)).0.blksize_max, BLKSIZE_MAX);
        assert_eq!(settings.terms(v4, None).0.blksize_max, 1468);
    }

    #[test]
    fn uploads_take_half_of_the_descriptors_at_the_most() {
        let uploads =
            |descriptors, shards| Settings::default().within(descriptors, shards).uploads_max;
        assert_eq!(uploads(256, 1), 64);
        assert_eq!(uploads(256, 2), 32);
        assert_eq!(uploads(3, 4), 1, "one is always possible");
        assert_eq!(uploads(4 * UPLOADS_MAX as u64, 1), UPLOADS_MAX);
        assert_eq!(uploads(u64::MAX, 1), UPLOADS_MAX);
    }

    /// Goal: each setting of a subnet applies to its clients and to no others; what it does not set keeps the
    /// global value.
    #[test]
    fn a_subnet_has_settings_of_its_own() {
        let floor = Duration::from_millis(250);
        let subnet = Subnet {
            address: "10.1.0.0".parse().unwrap(),
            prefix: 16,
            blksize_max: Some(1024),
            windowsize_max: Some(8),
            retransmit_floor: Some(floor),
        };
        let bare = Subnet {
            address: "10.2.0.0".parse().unwrap(),
            blksize_max: None,
            windowsize_max: None,
            retransmit_floor: None,
            ..subnet
        };
        let settings = Settings {
            windowsize_max: 32,
            subnets: vec![subnet, bare],
            ..Settings::default()
        };
        let terms = |peer: &str| settings.terms(peer.parse().unwrap(), Some(1500));
        let own = Limits {
            blksize_max: 1024,
            windowsize_max: 8,
            timeout_max: Patience::DEFAULT.idle / 2,
        };
        let patient = Patience {
            lockstep_floor: floor,
            ..Patience::DEFAULT
        };
        assert_eq!(terms("10.1.2.3"), (own, patient));
        let everybody = Limits {
            blksize_max: 1468,
            windowsize_max: 32,
            timeout_max: Patience::DEFAULT.idle / 2,
        };
        for peer in ["10.2.2.3", "10.3.2.3"] {
            assert_eq!(terms(peer), (everybody, Patience::DEFAULT), "{peer}");
        }
    }

    #[test]
    fn memory_is_the_machines_or_the_control_groups() {
        let files = |files: &'static [(&str, &str)]| {
            memory_octets(move |path| {
                let found = files.iter().find(|(name, _)| Path::new(name) == path);
                found.map(|(_, text)| (*text).to_owned())
            })
        };
        const MACHINE: (&str, &str) = (
            "/proc/meminfo",
            "MemTotal:       24683628 kB\nMemFree:         1000 kB\n",
        );
        const GROUP: (&str, &str) = ("/proc/self/cgroup", "0::/system/tftp.service\n");
        const OWN: &str = "/sys/fs/cgroup/system/tftp.service/memory.max";
        const UPPER: &str = "/sys/fs/cgroup/system/memory.max";
        const ROOT: &str = "/sys/fs/cgroup/memory.max";
        let machine = Some(24_683_628 * 1024);
        assert_eq!(files(&[]), None);
        assert_eq!(files(&[("/proc/meminfo", "MemTotal: much\n")]), None);
        assert_eq!(files(&[MACHINE]), machine);
        assert_eq!(files(&[MACHINE, GROUP, (OWN, "max\n")]), machine);
        assert_eq!(files(&[MACHINE, GROUP, (OWN, "1048576\n")]), Some(1 << 20));
        assert_eq!(
            files(&[MACHINE, GROUP, (OWN, "max\n"), (UPPER, "4096\n")]),
            Some(4096)
        );
        assert_eq!(files(&[MACHINE, (ROOT, "8192\n")]), Some(8192));
        assert!(frame_cache_octets_default() as u64 >= FRAME_CACHE_OCTETS_MIN);
    }

    #[test]
    fn the_longest_prefix_counts() {
        let subnet = |address: &str, prefix, blksize_max| Subnet {
            address: address.parse().unwrap(),
            prefix,
            blksize_max: Some(blksize_max),
            windowsize_max: None,
            retransmit_floor: None,
        };
        let subnets = vec![
            subnet("10.0.0.0", 8, 1024),
            subnet("10.1.0.0", 16, 512),
            subnet("2001:db8::", 32, 1228),
        ];
        let settings = Settings {
            subnets,
            ..Settings::default()
        };
        let blksize = |peer: &str| {
            settings
                .terms(peer.parse().unwrap(), Some(1500))
                .0
                .blksize_max
        };
        assert_eq!(blksize("10.1.2.3"), 512);
        assert_eq!(blksize("10.2.2.3"), 1024);
        assert_eq!(blksize("11.2.2.3"), 1468);
        assert_eq!(blksize("2001:db8:1::1"), 1228);
    }
}
