//! Settings: what the operator may say, and what holds otherwise; every default is a named constant.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::proto::negotiate::{BLKSIZE_MAX, BLKSIZE_MIN, Limits};
use crate::proto::timing::Patience;
use crate::time::Duration;

/// Blocks under way towards one client: beyond 64 nothing is gained, and small receive rings overflow.
pub const WINDOWSIZE_MAX_DEFAULT: u16 = 64;
/// Transfers at a time, over all shards: a slot of under 1 KiB each, so some 60 MiB at the worst.
pub const TRANSFERS_MAX_DEFAULT: usize = 65_536;
/// Transfers whose peer has yet to prove that it is there, per shard. At 100,000 forged requests a
/// second, a real client still has 0.3 s to answer before it is the oldest.
pub const UNVALIDATED_MAX: usize = 32_768;
/// The same for one IPv4 address or one IPv6 /64: a lab behind one address may start all at once.
pub const UNVALIDATED_PER_PREFIX_MAX: u32 = 16_384;
/// For so long nobody of them has to make room for another: a round trip of a crowd, whose ACKs wait in queues. If
/// the oldest were pushed out sooner, each would be before its ACK could arrive, and nobody be served.
pub const UNVALIDATED_AGE_MIN: Duration = Duration::from_millis(50);
/// Uploads at a time, per shard: each has buffers of its own.
pub const UPLOADS_MAX: usize = 256;
/// Octets of uploads' blocks that overtook others, per shard: four windows of 64 of the largest blocks would fill a
/// half. Blocks beyond that are as good as lost, and their clients repeat them.
pub const OVERTAKING_OCTETS_MAX: usize = 32 << 20;
/// Local addresses of a host from which a shard answers by a socket of their own. Loopback alone has
/// sixteen million; whoever uses more shares a slower one.
pub const ANSWER_ADDRESSES_MAX: usize = 64;
/// Beyond this a request holds no file's name and no client's options, and is not looked at.
pub const REQUEST_OCTETS_MAX: usize = 8_192;
/// Longest request, in octets, of which a repeat is kept while its transfer runs: there may be one for each
/// transfer, and no firmware comes near it.
pub const REPEAT_OCTETS_MAX: usize = 1024;
/// ERROR 5 to strangers, per shard and second: a courtesy, not to be used as a reflector.
pub const STRANGER_ERRORS_PER_SECOND: u32 = 100;
/// Log lines about refused and malformed requests, per shard and second.
pub const REFUSAL_LINES_PER_SECOND: u32 = 20;
/// Log lines about transfers that did not complete, per shard and second: what an outage leaves, and no
/// more than that of what a forger makes.
pub const FAILURE_LINES_PER_SECOND: u32 = 100;
/// No network worth the name holds a copy of a datagram back for longer. A request that comes again so soon
/// after the transfer was asked for may be such a copy, and the transfer must stand still for as long
/// before it is taken for the word of a client that has begun anew: several times as long as a lost window
/// takes to be repeated.
/// One that comes so soon after its transfer is over is passed over if that was an upload, which nobody sends twice
/// in a row; who has read a file may well ask for it again, so that it is answered, but as with `--strict`.
pub const LATE_COPY_MAX: Duration = Duration::from_millis(500);
/// For how long an older transfer must stand still: what its client sent may have overtaken the request.
pub const REBOOT_QUIET: Duration = Duration::from_millis(100);
/// How long a finished upload answers repeats of its last block: longer than the wait of every client
/// that is known, which is 5 s, and than the first four of one that doubles its wait from a second on.
/// A client that negotiated its wait is given two of those, if that is longer.
pub const LINGER: Duration = Duration::from_secs(16);
/// How long a finished read is remembered, and a transfer that ended with an ERROR, so that late copies of
/// the last ACK and the rest of a window are no stranger's.
pub const LINGER_READ: Duration = Duration::from_secs(1);
/// How long a client that vanished amid its transfer stays silent: as long as servers send to it, as a rule.
pub const SILENCE_OF_THE_VANISHED: Duration = Duration::from_secs(60);
/// Finished transfers remembered, per shard; beyond that the oldest is forgotten.
pub const LINGERING_MAX: usize = 16_384;
/// Clients remembered, per shard, whose transfer an ERROR ended: for a round trip or two, and of many at once the
/// latest. tftp-hpa's client acknowledges an ERROR, and an ACK may be on its way behind a client's own.
pub const DEPARTED_MAX: usize = 1_024;
/// How long a draining server waits for repeats of an upload's last block.
pub const DRAIN_LINGER: Duration = Duration::from_secs(2);
/// How long a draining server waits for clients to prove that they are there: for the answer to a first repeat.
/// Their requests may be forged.
pub const DRAIN_UNVALIDATED: Duration = Duration::from_secs(2);
/// How long running transfers may go on after SIGTERM.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Retransmissions to an unproven peer with `--strict`, or whose request may be a late copy.
pub const STRICT_RETRIES: u8 = 1;
/// What part of the memory the DATA packets that transfers share may take: one in so many. The files
/// behind them want their place in the page cache, and the machine may have other work.
const FRAME_CACHE_SHARE: u64 = 4;
/// The least of it: a kernel and an initial RAM disk, even on a small machine.
const FRAME_CACHE_OCTETS_MIN: u64 = 64 << 20;
/// The same where nobody says how much memory there is.
const FRAME_CACHE_OCTETS_UNKNOWN: u64 = 256 << 20;
/// Octets of the IP, UDP and TFTP headers around a block.
const HEADERS_IPV4: u32 = 20 + 8 + 4;
const HEADERS_IPV6: u32 = 40 + 8 + 4;

/// What a shard is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long to wait, and how often.
    pub patience: Patience,
    /// Largest block size; `None` is what fits the MTU of the interface that the request came in on.
    pub blksize_max: Option<u16>,
    /// Most blocks under way.
    pub windowsize_max: u16,
    /// Most transfers at a time, over all shards.
    pub transfers_max: usize,
    /// Answer every transfer from the port that was asked.
    pub single_port: bool,
    /// Ports that transfers are answered from, both ends included.
    pub port_range: Option<(u16, u16)>,
    /// Settings for some clients; the longest prefix that matches counts.
    pub subnets: Vec<Subnet>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patience: Patience::DEFAULT,
            blksize_max: None,
            windowsize_max: WINDOWSIZE_MAX_DEFAULT,
            transfers_max: TRANSFERS_MAX_DEFAULT,
            single_port: false,
            port_range: None,
            subnets: Vec::new(),
        }
    }
}

impl Settings {
    /// What holds for the client at `peer`, whose request came in over an interface with this MTU.
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
            // Who waits that long may miss one answer before the transfer is over.
            timeout_max: self.patience.idle / 2,
        };
        let mut patience = self.patience;
        if let Some(floor) = subnet.and_then(|subnet| subnet.retransmit_floor) {
            patience.lockstep_floor = floor;
        }
        (limits, patience)
    }
}

/// The largest block that travels in one IP packet; Ethernet is assumed where the MTU is not known.
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

/// Memory for the DATA packets that transfers share: a part of what there is.
#[must_use]
pub fn frame_cache_octets_default() -> usize {
    let octets = memory().map_or(FRAME_CACHE_OCTETS_UNKNOWN, |memory| {
        (memory / FRAME_CACHE_SHARE).max(FRAME_CACHE_OCTETS_MIN)
    });
    usize::try_from(octets).unwrap_or(usize::MAX)
}

/// Octets of memory that there are for this process: the machine's, or what its control groups or its limit
/// of address space (`ulimit -v`) allow, if that is less; `None` where nobody says.
#[must_use]
pub fn memory() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let limit = getrlimit(Resource::As).current;
    memory_octets(read).into_iter().chain(limit).min()
}

/// The memory that the process may use, as Linux says it in files.
fn memory_octets(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    });
    // Version 2 of the control groups has one line, which begins so; a limit holds for all below it.
    let own = read(Path::new("/proc/self/cgroup"));
    let group = own
        .as_deref()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::/")))
        .unwrap_or_default();
    let limits = Path::new(group).ancestors().filter_map(|group| {
        let path = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        // Without a limit it says "max".
        read(&path)?.trim().parse().ok()
    });
    limits.chain(machine).min()
}

/// Settings for the clients of one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// An address in it.
    pub address: IpAddr,
    /// How many leading bits of the address are the subnet's.
    pub prefix: u8,
    /// Largest block size.
    pub blksize_max: Option<u16>,
    /// Most blocks under way.
    pub windowsize_max: Option<u16>,
    /// Least retransmission time in lock-step.
    pub retransmit_floor: Option<Duration>,
}

impl Subnet {
    /// Its first address, and how many bits of it count.
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

    /// Whether `peer` belongs to it.
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

    /// Goal: each setting of a subnet holds for its clients, and for nobody else; what it does not set is as
    /// everywhere.
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
