//! Clients as they are: the options that firmware and boot loaders ask for, in their order, and how
//! long they wait.

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
pub static PROFILES: [Profile; 8] = [
    Profile {
        name: "ipxe",
        wanted: wanted(true, Some(1432), None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        probes: false,
        patience: patience(250, 15_750),
    },
    Profile {
        name: "edk2",
        wanted: wanted(true, Some(1468), Some(4), None),
        order: [Tsize, Blksize, Windowsize, Timeout],
        probes: true,
        patience: patience(4_000, 24_000),
    },
    Profile {
        name: "uboot",
        wanted: wanted(true, Some(1468), None, Some(5)),
        order: [Timeout, Tsize, Blksize, Windowsize],
        probes: false,
        patience: patience(5_000, 50_000),
    },
    Profile {
        name: "grub",
        wanted: wanted(true, Some(1024), None, None),
        order: [Blksize, Tsize, Timeout, Windowsize],
        probes: false,
        patience: patience(400, 32_000),
    },
    Profile {
        name: "pxelinux",
        wanted: wanted(true, Some(1408), None, None),
        order: [Tsize, Blksize, Timeout, Windowsize],
        probes: false,
        patience: patience(110, 60_000),
    },
    Profile {
        name: "rpi",
        wanted: wanted(true, Some(1468), None, None),
        order: [Tsize, Blksize, Timeout, Windowsize],
        probes: false,
        patience: patience(1_000, 30_000),
    },
    Profile {
        name: "curl",
        wanted: wanted(true, Some(512), None, Some(5)),
        order: [Tsize, Blksize, Timeout, Windowsize],
        probes: false,
        patience: patience(5_000, 30_000),
    },
    Profile {
        name: "plain",
        wanted: wanted(false, None, None, None),
        order: ORDER_DEFAULT,
        probes: false,
        patience: patience(1_000, 30_000),
    },
];

/// The profile of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::negotiate::ask;
    use crate::wire::{Mode, Opcode, Packet, write_request};

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
        uboot: RRQ "n" octet timeout=5 tsize=0 blksize=1468
        grub: RRQ "n" octet blksize=1024 tsize=0
        pxelinux: RRQ "n" octet tsize=0 blksize=1408
        rpi: RRQ "n" octet tsize=0 blksize=1468
        curl: RRQ "n" octet tsize=0 blksize=512 timeout=5
        plain: RRQ "n" octet
        "#);
    }
}
