//! Clients as they are: the options that firmware and boot loaders ask for, in their order, how long
//! they wait, from which ports they ask, and where they are slow.

use crate::proto::negotiate::{ORDER_DEFAULT, Wanted, Wish};
use crate::proto::timing::Patience;
use crate::time::Duration;

/// How a client asks and waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// The options that it asks for.
    pub wanted: Wanted,
    /// The order in which it does.
    pub order: [Wish; 4],
    /// Whether it first asks for the length alone and leaves with ERROR 8, and then asks without it.
    pub probes: bool,
    /// How long it waits, and how often.
    pub patience: Patience,
    /// The ports that it asks from, the first and the last; `None` for any that is free.
    pub ports: Option<(u16, u16)>,
    /// How long it takes before an ACK leaves.
    pub slow: Duration,
    /// Where it writes what comes, if that takes a while.
    pub flash: Option<Flash>,
}

/// Memory that is slow to write: the client stands still now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flash {
    /// After so many blocks, at least 1,
    pub blocks: u16,
    /// for this long.
    pub pause: Duration,
}

impl Profile {
    /// How a client asks unless something else is said: blocks that fit Ethernet with room for a tunnel,
    /// as many of them under way as small receive rings hold.
    pub const DEFAULT: Self = Self {
        name: "default",
        wanted: wanted(true, Some(1428), Some(16), None),
        order: ORDER_DEFAULT,
        probes: false,
        patience: Patience {
            // Like most: a crowd that repeats at once would make a busy server's work more.
            receiver_floor_millis: 1_000,
            idle: Duration::from_secs(10),
            ..Patience::DEFAULT
        },
        ports: None,
        slow: Duration::ZERO,
        flash: None,
    };

    /// One that asks for nothing, like the clients before RFC 2347.
    const PLAIN: Self = Self {
        name: "plain",
        wanted: wanted(false, None, None, None),
        patience: patience(1_000, 30_000),
        ..Self::DEFAULT
    };
}

use Wish::{Blksize, Timeout, Tsize, Windowsize};

const fn wanted(
    tsize: bool,
    blksize: Option<u16>,
    windowsize: Option<u16>,
    timeout: Option<u8>,
) -> Wanted {
    Wanted {
        blksize,
        windowsize,
        timeout,
        tsize: if tsize { Some(0) } else { None },
    }
}

/// Waits `floor` at first, and twice as long each time, until `idle` is over.
const fn patience(floor: u16, idle: u64) -> Patience {
    Patience {
        lockstep_floor: Duration::from_millis(floor as u64),
        receiver_floor_millis: floor,
        idle: Duration::from_millis(idle),
        ..Patience::DEFAULT
    }
}

/// The clients that are known.
pub static PROFILES: [Profile; 11] = [
    Profile {
        name: "ipxe",
        wanted: wanted(true, Some(1432), None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        patience: patience(250, 15_750),
        ..Profile::PLAIN
    },
    Profile {
        name: "edk2",
        wanted: wanted(true, Some(1468), Some(4), None),
        order: [Tsize, Blksize, Windowsize, Timeout],
        patience: patience(4_000, 24_000),
        probes: true,
        ..Profile::PLAIN
    },
    // Loaded by the same firmware, but with blocks of its own choice.
    Profile {
        name: "shim",
        wanted: wanted(false, Some(512), Some(4), None),
        order: [Blksize, Windowsize, Tsize, Timeout],
        patience: patience(4_000, 24_000),
        ..Profile::PLAIN
    },
    Profile {
        name: "uboot",
        wanted: wanted(true, Some(1468), None, Some(5)),
        order: [Timeout, Tsize, Blksize, Windowsize],
        patience: patience(5_000, 50_000),
        ports: Some(UBOOT_PORTS),
        ..Profile::PLAIN
    },
    // With CONFIG_SYS_DIRECT_FLASH_TFTP, which writes blocks to flash as they come.
    Profile {
        name: "uboot-flash",
        wanted: wanted(true, Some(1468), None, Some(5)),
        order: [Timeout, Tsize, Blksize, Windowsize],
        patience: patience(5_000, 50_000),
        ports: Some(UBOOT_PORTS),
        flash: Some(NOR_FLASH),
        ..Profile::PLAIN
    },
    Profile {
        name: "grub",
        wanted: wanted(true, Some(1024), None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        patience: patience(400, 32_000),
        ports: Some(GRUB_PORTS),
        ..Profile::PLAIN
    },
    Profile {
        name: "pxelinux",
        wanted: wanted(true, Some(1408), None, None),
        order: [Tsize, Blksize, Timeout, Windowsize],
        patience: patience(110, 60_000),
        ports: Some(EPHEMERAL_PORTS),
        ..Profile::PLAIN
    },
    Profile {
        name: "rpi",
        wanted: wanted(true, Some(1468), None, None),
        order: [Tsize, Blksize, Timeout, Windowsize],
        patience: patience(1_000, 30_000),
        ports: Some(EPHEMERAL_PORTS),
        ..Profile::PLAIN
    },
    Profile {
        name: "curl",
        wanted: wanted(true, Some(512), None, Some(5)),
        order: [Tsize, Blksize, Timeout, Windowsize],
        patience: patience(5_000, 30_000),
        ..Profile::PLAIN
    },
    // Asks for what it is told to, and by itself for nothing.
    Profile {
        name: "atftp",
        wanted: wanted(false, None, None, None),
        order: [Tsize, Timeout, Blksize, Windowsize],
        patience: patience(5_000, 25_000),
        ..Profile::PLAIN
    },
    Profile::PLAIN,
];

/// U-Boot asks from 1024 + milliseconds % 3072.
const UBOOT_PORTS: (u16, u16) = (1024, 4095);
/// GRUB counts up from here.
const GRUB_PORTS: (u16, u16) = (25_300, 32_767);
/// PXELINUX and the Raspberry Pi count up from the first of the ports that IANA leaves to everybody.
const EPHEMERAL_PORTS: (u16, u16) = (49_152, 57_343);
/// A sector of 64 KiB, which takes about half a second to erase and write.
const NOR_FLASH: Flash = Flash {
    blocks: 45,
    pause: Duration::from_millis(500),
};

/// The profile of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;
    use crate::proto::negotiate::{accept, ask};
    use crate::proto::receiver::Receiver;
    use crate::proto::timing::{End, Retransmission};
    use crate::time::Instant;
    use crate::wire::{Mode, Opcode, Options, Packet, write_request};

    #[test]
    fn requests_look_like_those_of_the_clients() {
        let requests = PROFILES.map(|profile| {
            let mut buffer = [0; 128];
            let mut writer = write_request(&mut buffer, Opcode::Rrq, b"n", Mode::Octet).unwrap();
            ask(&profile.wanted, profile.order, &mut writer).unwrap();
            let len = writer.len();
            format!(
                "{}: {}",
                profile.name,
                Packet::parse(&buffer[..len]).unwrap()
            )
        });
        insta::assert_snapshot!(requests.join("\n"), @r#"
        ipxe: RRQ "n" octet blksize=1432 tsize=0
        edk2: RRQ "n" octet tsize=0 blksize=1468 windowsize=4
        shim: RRQ "n" octet blksize=512 windowsize=4
        uboot: RRQ "n" octet timeout=5 tsize=0 blksize=1468
        uboot-flash: RRQ "n" octet timeout=5 tsize=0 blksize=1468
        grub: RRQ "n" octet blksize=1024 tsize=0
        pxelinux: RRQ "n" octet tsize=0 blksize=1408
        rpi: RRQ "n" octet tsize=0 blksize=1468
        curl: RRQ "n" octet tsize=0 blksize=512 timeout=5
        atftp: RRQ "n" octet
        plain: RRQ "n" octet
        "#);
    }

    #[test]
    fn clients_are_found_by_their_names() {
        for profile in &PROFILES {
            assert_eq!(find(profile.name), Some(profile));
        }
        assert_eq!(find("nobody"), None);
    }

    /// Goal: each asks again and gives up when its model does.
    /// Method: a request by each, answered by nobody; where else it differs is told in words.
    #[test]
    fn clients_wait_as_long_as_they_do() {
        let oack = b"windowsize\x004\0";
        let wanted = wanted(false, None, Some(4), None);
        let windows = accept(Options::new(oack), &wanted).unwrap().params;
        let waits = [Profile::DEFAULT].iter().chain(&PROFILES).map(|profile| {
            let mut timer = Retransmission::new(&windows, &profile.patience, End::Receiver);
            timer.sample(Duration::ZERO);
            let soonest = timer.interval().as_millis();
            let mut now = Instant::ZERO;
            let mut receiver = Receiver::request(profile.patience, now);
            let mut asked = String::new();
            while let Some(next) = receiver.poll_timeout() {
                if receiver.poll_transmit().is_some() {
                    receiver.transmitted(1, now);
                    write!(asked, " {}", now.as_nanos() / 1_000_000).unwrap();
                    continue;
                }
                now = next;
                receiver.handle_timeout(now);
            }
            let probes = if profile.probes { ", probes" } else { "" };
            let ports = profile.ports.map(|ports| format!(", ports {ports:?}"));
            let flash = profile
                .flash
                .map(|flash| format!(", {:?} after {} blocks", flash.pause, flash.blocks));
            format!(
                "{}: asks at{asked}, in windows after {soonest}, is gone at {} ms{probes}{}{}",
                profile.name,
                now.as_nanos() / 1_000_000,
                ports.unwrap_or_default(),
                flash.unwrap_or_default(),
            )
        });
        insta::assert_snapshot!(waits.collect::<Vec<_>>().join("\n"), @r"
        default: asks at 0 1000 3000 7000, in windows after 1000, is gone at 10000 ms
        ipxe: asks at 0 1000 3000 7000 15000, in windows after 250, is gone at 15750 ms
        edk2: asks at 0 4000 12000 20000, in windows after 4000, is gone at 24000 ms, probes
        shim: asks at 0 4000 12000 20000, in windows after 4000, is gone at 24000 ms
        uboot: asks at 0 5000 13000 21000 29000 37000 45000, in windows after 5000, is gone at 50000 ms, ports (1024, 4095)
        uboot-flash: asks at 0 5000 13000 21000 29000 37000 45000, in windows after 5000, is gone at 50000 ms, ports (1024, 4095), 500ms after 45 blocks
        grub: asks at 0 1000 3000 7000 15000 23000 31000, in windows after 400, is gone at 32000 ms, ports (25300, 32767)
        pxelinux: asks at 0 1000 3000 7000 15000 23000 31000 39000 47000 55000, in windows after 110, is gone at 60000 ms, ports (49152, 57343)
        rpi: asks at 0 1000 3000 7000 15000 23000, in windows after 1000, is gone at 30000 ms, ports (49152, 57343)
        curl: asks at 0 5000 13000 21000 29000, in windows after 5000, is gone at 30000 ms
        atftp: asks at 0 5000 13000 21000, in windows after 5000, is gone at 25000 ms
        plain: asks at 0 1000 3000 7000 15000 23000, in windows after 1000, is gone at 30000 ms
        ");
    }
}
