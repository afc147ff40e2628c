//! Asks the kernel to begin writing a file to its disk.
//!
//! An upload is acknowledged once it is on the disk. The kernel would keep most of it in memory until then, and
//! the client would wait while all of it is written at once; on a slow disk, until it gives up.

// No safe crate offers sync_file_range(2).
#![allow(unsafe_code)]

use std::fs::File;

/// Begins to write `octets` octets from `offset` on; waits for the disk only while its queue is full. Best effort:
/// where there is no such call, or it fails, syncing the file writes them, and reports what failed.
#[cfg(target_os = "linux")]
pub(super) fn begin(file: &File, offset: u64, octets: u64) {
    use std::os::fd::AsRawFd;

    if let (Ok(offset), Ok(octets)) = (offset.try_into(), octets.try_into()) {
        // SAFETY: the call takes numbers alone, and the descriptor is open as long as the file is borrowed.
        let _ = unsafe {
            libc::sync_file_range(
                file.as_raw_fd(),
                offset,
                octets,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn begin(_: &File, _: u64, _: u64) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::store::Sink;
    use crate::store::file::{FileSink, Terms, WRITEBACK_OCTETS};

    /// Number of cachestat(2) (Linux 6.5) on x86-64, ARM and RISC-V.
    const CACHESTAT: libc::c_long = 451;

    /// Memory pages of the file that are neither on the disk nor on their way there; `None` if this kernel does
    /// not tell.
    fn dirty_pages(file: &File) -> Option<u64> {
        /// Offset and length, where 0 means up to the end.
        #[repr(C)]
        struct Range([u64; 2]);
        /// In memory, dirty, being written, evicted, and recently evicted.
        #[repr(C)]
        struct Pages([u64; 5]);

        let (range, mut pages) = (Range([0; 2]), Pages([0; 5]));
        // SAFETY: both have the layout that the kernel expects, and outlive the call.
        let answer = unsafe {
            libc::syscall(
                CACHESTAT,
                file.as_raw_fd(),
                &raw const range,
                &raw mut pages,
                0,
            )
        };
        (answer == 0).then_some(pages.0[1])
    }

    /// Goal: an upload is on its way to the disk long before it ends. Method: what is written to a file that is
    /// not complete, until nothing of it is dirty; by itself, the kernel would wait for half a minute.
    #[test]
    fn an_upload_goes_to_the_disk_as_it_arrives() {
        // Not where temporary files are: those may be in memory alone.
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        std::fs::create_dir_all(&target).expect("room");
        let folder = tempfile::tempdir_in(target).expect("a directory");
        let directory = || File::open(folder.path()).expect("it").into();
        let terms = Terms {
            replaces: true,
            announced: None,
            octets_max: None,
            unnamed: false,
        };
        let mut sink = FileSink::create(directory(), b"new", terms).expect("a file");
        let there = std::fs::read_dir(folder.path()).expect("entries").next();
        let file = File::open(there.expect("a hidden file").expect("it").path()).expect("it");
        if dirty_pages(&file).is_none() {
            return crate::testing::skip("this kernel does not tell what is not on the disk yet");
        }
        let half = vec![7; WRITEBACK_OCTETS as usize / 2];
        sink.write(&half).expect("room");
        if dirty_pages(&file) == Some(0) {
            return crate::testing::skip("this file system does not tell, or has no disk");
        }
        sink.write(&half).expect("room");
        let began = (0..1_000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            dirty_pages(&file) == Some(0)
        });
        assert!(began, "{:?} pages wait", dirty_pages(&file));
    }
}
