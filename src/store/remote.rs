//! Which file systems are local, so that calls on their files wait for a disk at most.
//!
//! On all others (network file systems, FUSE) any call may wait for another machine or program, or for ever,
//! whatever the kernel has cached: opening a file, asking for its state, closing it. Only statfs(2) tells what a
//! file system is, and that may wait as well. So a thread that may wait asks once, and shards go by the device.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Local devices that are remembered; with more than these, opening files on the others takes a thread.
const DEVICES_MAX: usize = 32;

/// Marks a free place: no file system has this number.
const NONE: u64 = 0;

/// Devices found to be of local file systems.
#[derive(Debug, Default)]
pub(super) struct LocalDevices {
    /// Those that are known, usually the first found first.
    known: [AtomicU64; DEVICES_MAX],
}

impl LocalDevices {
    /// Whether `device` is known to be local. Never waits.
    pub(super) fn know(&self, device: u64) -> bool {
        let mut known = self.known.iter();
        device != NONE && known.any(|known| known.load(Ordering::Relaxed) == device)
    }

    /// Whether `file`, on `device`, is on a local file system, which is remembered. May wait.
    ///
    /// It always asks: the number of a device that is unmounted is given to the next one.
    pub(super) fn find_out(&self, file: impl AsFd, device: u64) -> bool {
        let is_local = is_local(file);
        let exchange = |known: &AtomicU64, old, new| {
            known
                .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        };
        if !is_local {
            // Another thread may have found a place for it twice.
            for known in &self.known {
                exchange(known, device, NONE);
            }
        } else if !self.know(device) {
            self.known.iter().any(|known| exchange(known, NONE, device));
        }
        is_local
    }
}

/// Whether the file system is one of the local ones that are known here; others are better taken for remote.
#[cfg(target_os = "linux")]
fn is_local(file: impl AsFd) -> bool {
    /// Magic numbers, from `linux/magic.h` or the file system's own header.
    const LOCAL: &[u32] = &[
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // Btrfs
        0x2fc1_2fc1, // ZFS
        0xca45_1a4e, // bcachefs
        0xf2f5_2010, // F2FS
        0x3153_464a, // JFS
        0x3434,      // NILFS
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0x794c_7630, // overlayfs: layers are rarely remote
        0x7371_7368, // SquashFS
        0xe0f5_e1e2, // EROFS
        0x28cd_3d45, // cramfs
        0x9660,      // ISO 9660
        0x1501_3346, // UDF
        0x2405_1905, // UBIFS
        0x72b6,      // JFFS2
        0x7275,      // romfs
        0x4d44,      // FAT
        0x2011_bab0, // exFAT
        0x7366_746e, // NTFS
        0x5346_544e, // NTFS, the former driver
        0x482b,      // HFS+
        0x4244,      // HFS
        0x5265_4973, // ReiserFS
    ];
    // The type is signed on some machines; all magic numbers have 32 bits.
    rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)))
}

/// There, nothing is done at once anyway.
#[cfg(not(target_os = "linux"))]
fn is_local(_: impl AsFd) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is local is found out once. Method: descriptors that answer for other devices.
    #[test]
    fn local_devices_are_remembered_as_long_as_there_is_room() {
        let local = tempfile::tempfile().expect("a file");
        let devices = LocalDevices::default();
        assert!(!devices.know(NONE) && !devices.know(7));
        for device in 1..=DEVICES_MAX as u64 + 1 {
            assert!(devices.find_out(&local, device));
        }
        assert!(devices.find_out(&local, 7));
        assert!(devices.know(1) && devices.know(DEVICES_MAX as u64));
        assert!(!devices.know(DEVICES_MAX as u64 + 1));
    }

    /// Goal: a file system that is not on the list counts as remote. Method: procfs stands for all of them.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_not_known_to_be_local_is_not_remembered() {
        let strange = std::fs::File::open("/proc/self/status").expect("a process");
        let devices = LocalDevices::default();
        assert!(!devices.find_out(&strange, 5));
        assert!(!devices.know(5));
        // Its number was a local one's before.
        let local = tempfile::tempfile().expect("a file");
        for device in [5, 6] {
            assert!(devices.find_out(&local, device));
        }
        assert!(!devices.find_out(&strange, 5));
        assert!(devices.know(6) && !devices.know(5));
    }
}
