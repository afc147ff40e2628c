//! Profiles of real clients: which options firmware and boot loaders ask for, in which order, how long they
//! wait, which ports they use, and where they are slow.

use crate::proto::negotiate::{ORDER_DEFAULT, Wanted, Wish};
use crate::proto::timing::{Patience, Repeats};
use crate::time::Duration;

/// How a client asks and waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The client's name.
    pub name: &'static str,
    /// The options that the client asks for.
    pub wanted: Wanted,
    /// The order of those options in the request.
    pub order: [Wish; 4],
    /// Whether the client first asks for the length alone, leaves with ERROR 8, and then asks without it.
    pub probes: bool,
    /// The client's timeouts and retransmission limits.
    pub patience: Patience,
    /// The client's source ports, first and last; `None` for any free port.
    pub ports: Option<(u16, u16)>,
    /// The delay before an ACK is sent.
    pub slow: Duration,
    /// The flash memory that the client writes to, if that takes a while.
    pub flash: Option<Flash>,
}

/// Memory that is slow to write: the client pauses now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flash {
    /// Number of blocks between pauses, at least 1.
    pub blocks: u16,
    /// Length of a pause.
    pub pause: Duration,
}

impl Profile {
    /// How a client asks by default: blocks that fit Ethernet with room for a tunnel, and a window that small
    /// receive rings hold.
    pub const DEFAULT: Self = Self {
        name: "default",
        wanted: wanted(true, Some(1428), Some(16), None),
        order: ORDER_DEFAULT,
        probes: false,
        patience: Patience {
            // Like most clients: many clients that retransmit early would add to a busy server's work.
            receiver_floor_millis: 1_000,
            idle: Duration::from_secs(10),
            ..Patience::DEFAULT
        },
        ports: None,
        slow: Duration::ZERO,
        flash: None,
    };

    /// A client that asks for no options, like those before RFC 2347.
    const PLAIN: Self = Self {
        name: "plain",
        wanted: wanted(false, None, None, None),
        patience: Patience {
            receiver_floor_millis: 1_000,
            ..Patience::DEFAULT
        },
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

/// Waits according to `repeats`, until the schedule is over.
const fn patience(repeats: &'static Repeats) -> Patience {
    Patience {
        lockstep_floor: repeats.wait(0),
        receiver_floor_millis: repeats.waits_millis[0],
        idle: repeats.whole(),
        own_timeout: None,
        unvalidated_retries: repeats.waits_millis.len() as u8,
        repeats: Some(repeats),
    }
}

/// The known clients.
pub static PROFILES: [Profile; 12] = [
    Profile {
        name: "ipxe",
        wanted: wanted(true, Some(1432), None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        patience: patience(&IPXE),
        ..Profile::PLAIN
    },
    Profile {
        name: "edk2",
        wanted: wanted(true, Some(1468), Some(4), None),
        order: [Tsize, Blksize, Windowsize, Timeout],
        patience: patience(&EDK2),
        probes: true,
        ..Profile::PLAIN
    },
    // Loaded by the same firmware, but with a block size of its own choice.
    Profile {
        name: "shim",
        wanted: wanted(false, Some(512), Some(4), None),
        order: [Blksize, Windowsize, Tsize, Timeout],
        patience: patience(&EDK2),
        ..Profile::PLAIN
    },
    Profile {
        name: "uboot",
        wanted: wanted(true, Some(1468), None, Some(5)),
        order: [Timeout, Tsize, Blksize, Windowsize],
        patience: patience(&UBOOT),
        ports: Some(UBOOT_PORTS),
        ..Profile::PLAIN
    },
    // With CONFIG_SYS_DIRECT_FLASH_TFTP, which writes blocks to flash as they arrive.
    Profile {
        name: "uboot-flash",
        wanted: wanted(true, Some(1468), None, Some(5)),
        order: [Timeout, Tsize, Blksize, Windowsize],
        patience: patience(&UBOOT),
        ports: Some(UBOOT_PORTS),
        flash: Some(NOR_FLASH),
        ..Profile::PLAIN
    },
    Profile {
        name: "grub",
        wanted: wanted(true, Some(1024), None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        patience: patience(&GRUB),
        ports: Some(GRUB_PORTS),
        ..Profile::PLAIN
    },
    Profile {
        name: "pxelinux",
        wanted: wanted(true, Some(1408), None, None),
        order: [Tsize, Blksize, Timeout, Windowsize],
        patience: patience(&PXELINUX),
        ports: Some(EPHEMERAL_PORTS),
        ..Profile::PLAIN
    },
    Profile {
        name: "rpi",
        wanted: wanted(true, Some(1468), None, None),
        order: [Tsize, Blksize, Timeout, Windowsize],
        ports: Some(EPHEMERAL_PORTS),
        ..Profile::PLAIN
    },
    Profile {
        name: "curl",
        wanted: wanted(true, Some(512), None, Some(5)),
        order: [Tsize, Blksize, Timeout, Windowsize],
        patience: patience(&CURL),
        ..Profile::PLAIN
    },
    // Asks for the options it is told to, and for none by default.
    Profile {
        name: "atftp",
        wanted: wanted(false, None, None, None),
        order: [Tsize, Timeout, Blksize, Windowsize],
        patience: patience(&ATFTP),
        ..Profile::PLAIN
    },
    Profile {
        name: "busybox",
        wanted: wanted(true, None, None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        patience: patience(&BUSYBOX),
        ..Profile::PLAIN
    },
    Profile::PLAIN,
];

/// Doubles from a quarter of a second, and gives up when the next wait would exceed ten seconds.
static IPXE: Repeats = Repeats {
    adapts: true,
    ..every(&[250, 500, 1_000, 2_000, 4_000, 8_000])
};
static EDK2: Repeats = every(&[4_000; 6]);
/// Twice CONFIG_NET_RETRY_COUNT; then it starts again, which is another transfer here.
static UBOOT: Repeats = every(&[5_000; 10]);
/// Never repeats an ACK: the server has to retransmit.
static GRUB: Repeats = Repeats {
    acks: false,
    ..every(&GRUB_WAITS)
};
static PXELINUX: Repeats = every(&PXELINUX_WAITS);
/// As with --max-time 30: curl divides the time that it is given into waits of some five seconds.
static CURL: Repeats = every(&[5_000; 6]);
static ATFTP: Repeats = every(&[5_000; 5]);
static BUSYBOX: Repeats = every(&BUSYBOX_WAITS);

/// These waits, for both requests and ACKs.
const fn every(waits_millis: &'static [u16]) -> Repeats {
    Repeats {
        waits_millis,
        acks: true,
        adapts: false,
    }
}

/// 20 ms more after each try.
const GRUB_WAITS: [u16; 40] = {
    let mut waits = [400; 40];
    let mut place = 1;
    while place < waits.len() {
        waits[place] = waits[place - 1] + 20;
        place += 1;
    }
    waits
};
/// In BIOS ticks, some 55 ms each.
const PXELINUX_WAITS: [u16; 31] = {
    let mut waits = [
        2, 2, 3, 3, 4, 5, 6, 7, 9, 10, 12, 15, 18, 21, 26, 31, 37, 44, 53, 64, 77, 92, 110, 132,
        159, 191, 229, 255, 255, 255, 255,
    ];
    let mut place = 0;
    while place < waits.len() {
        waits[place] *= 55;
        place += 1;
    }
    waits
};
/// Half as long again after each try, up to two seconds.
const BUSYBOX_WAITS: [u16; 12] = {
    let mut waits = [100; 12];
    let mut place = 1;
    while place < waits.len() {
        let longer = waits[place - 1] + waits[place - 1] / 2;
        waits[place] = if longer < 2_000 { longer } else { 2_000 };
        place += 1;
    }
    waits
};

/// U-Boot asks from 1024 + milliseconds % 3072.
const UBOOT_PORTS: (u16, u16) = (1024, 4095);
/// GRUB counts up from here.
const GRUB_PORTS: (u16, u16) = (25_300, 32_767);
/// PXELINUX and the Raspberry Pi count up from the first of IANA's dynamic ports.
const EPHEMERAL_PORTS: (u16, u16) = (49_152, 57_343);
/// A sector of 64 KiB, which takes about half a second to erase and write.
const NOR_FLASH: Flash = Flash {
    blocks: 45,
    pause: Duration::from_millis(500),
};

/// The profile with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::negotiate::{Params, ask};
    use crate::proto::receiver::Receiver;
    use crate::proto::timing::{End, Retransmission};
    use crate::time::Instant;
    use crate::wire::{Mode, Opcode, Packet, WireBlock, write_request};

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
        busybox: RRQ "n" octet tsize=0
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

    /// Goal: each profile retransmits its request when its model does, as often, and gives up when the model
    /// does. Method: a request by each that nothing answers.
    #[test]
    fn clients_ask_again_as_they_do() {
        let five = "0 5000 10000 15000 20000";
        let own = "0 1000 3000 7000 15000";
        let known = [
            ("ipxe", "0 250 750 1750 3750 7750", 6, 15_750),
            ("edk2", "0 4000 8000 12000 16000 20000", 6, 24_000),
            ("shim", "0 4000 8000 12000 16000 20000", 6, 24_000),
            ("uboot", five, 10, 50_000),
            ("uboot-flash", five, 10, 50_000),
            ("grub", "0 400 820 1260 1720 2200", 40, 31_600),
            ("pxelinux", "0 110 220 385 550 770", 31, 131_010),
            ("rpi", own, 6, 30_000),
            ("curl", five, 6, 30_000),
            ("atftp", five, 5, 25_000),
            ("busybox", "0 100 250 475 812 1317", 12, 12_911),
            ("plain", own, 6, 30_000),
        ];
        for (profile, (name, first, tries, gone)) in PROFILES.iter().zip(known) {
            let mut receiver = Receiver::request(profile.patience, Instant::ZERO);
            let (asked, ended) = sends(&mut receiver, Instant::ZERO);
            assert_eq!(profile.name, name);
            assert!(told(&asked).starts_with(first), "{name}: {asked:?}");
            assert_eq!((asked.len(), ended), (tries, gone), "{name}");
        }
    }

    /// Goal: each profile repeats its ACK when its model does. Method: only the first block arrives.
    #[test]
    fn clients_acknowledge_again_as_they_do() {
        for (name, first, tries) in [
            ("ipxe", "0 250 750 1750 3750 7750", 6),
            ("edk2", "0 4000 8000 12000 16000 20000", 6),
            ("grub", "0", 1),
            ("pxelinux", "0 110 220 385 550 770", 31),
            ("uboot", "0 5000 10000", 10),
        ] {
            let profile = find(name).unwrap();
            let mut receiver = Receiver::request(profile.patience, Instant::ZERO);
            receiver.transmitted(1, Instant::ZERO);
            receiver.handle_data(WireBlock(1), 512, Instant::ZERO);
            let (acknowledged, _) = sends(&mut receiver, Instant::ZERO);
            assert!(told(&acknowledged).starts_with(first), "{name}");
            assert_eq!(acknowledged.len(), tries, "{name}");
        }
    }

    /// Goal: iPXE waits longer if RTTs are long, the others do not. Method: an RTT of half a second.
    #[test]
    fn a_long_way_is_waited_for_by_who_measures_it() {
        for (name, waits) in [("ipxe", 1_500), ("pxelinux", 110)] {
            let profile = find(name).unwrap();
            let mut timer = Retransmission::new(&Params::RFC1350, &profile.patience, End::Receiver);
            timer.sample(Duration::from_millis(500));
            assert_eq!(timer.interval().as_millis(), waits, "{name}");
        }
    }

    /// Ports, and other differences between clients.
    #[test]
    fn clients_have_habits() {
        let habits = PROFILES.iter().map(|profile| {
            let probes = if profile.probes { ", probes" } else { "" };
            let ports = profile.ports.map(|ports| format!(", ports {ports:?}"));
            let flash = profile
                .flash
                .map(|flash| format!(", {:?} after {} blocks", flash.pause, flash.blocks));
            format!(
                "{}{probes}{}{}",
                profile.name,
                ports.unwrap_or_default(),
                flash.unwrap_or_default(),
            )
        });
        insta::assert_snapshot!(habits.collect::<Vec<_>>().join("\n"), @r"
        ipxe
        edk2, probes
        shim
        uboot, ports (1024, 4095)
        uboot-flash, ports (1024, 4095), 500ms after 45 blocks
        grub, ports (25300, 32767)
        pxelinux, ports (49152, 57343)
        rpi, ports (49152, 57343)
        curl
        atftp
        busybox
        plain
        ");
    }

    /// When the receiver sends while nothing arrives, and when it gives up, in milliseconds.
    fn sends(receiver: &mut Receiver, mut now: Instant) -> (Vec<u64>, u64) {
        let mut sent = Vec::new();
        loop {
            if receiver.poll_transmit().is_some() {
                receiver.transmitted(1, now);
                sent.push(now.as_nanos() / 1_000_000);
            }
            let Some(next) = receiver.poll_timeout() else {
                return (sent, now.as_nanos() / 1_000_000);
            };
            now = next;
            receiver.handle_timeout(now);
        }
    }

    fn told(times: &[u64]) -> String {
        let times: Vec<_> = times.iter().map(u64::to_string).collect();
        times.join(" ")
    }
}
