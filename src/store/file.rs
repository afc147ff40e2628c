//! Regular files: reading one as it was when opened, and writing one that appears complete or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::PoisonError;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::fs::{fchmod, flock, fstat, fstatvfs, fsync, ftruncate};
use rustix::fs::{linkat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::sample::Sample;
use super::writeback;
use super::{Identity, Opened, ReadFailure, Refusal, Sink, Source};
use crate::sync::{Mutex, MutexGuard};

/// Longest file name, in octets, on any common file system.
const NAME_OCTETS_MAX: usize = 255;

/// How many hidden names are tried before giving up.
const HIDDEN_ATTEMPTS_MAX: u32 = 16;

/// How many of them are fixed, so that a later server finds the file of a killed one. The others are random,
/// so that occupying the fixed names cannot block uploads.
const HIDDEN_FIXED: u32 = 8;

/// Octets of an upload that are sent on their way to the disk together: enough for large requests to it, few
/// enough that little is left when the upload ends.
pub(super) const WRITEBACK_OCTETS: u64 = 4 * 1024 * 1024;

/// The refusal that a system error means for a client.
pub(super) fn refusal(errno: Errno) -> Refusal {
    match errno {
        // No file can have a name that is too long or not in the file system's encoding.
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::ILSEQ => Refusal::NotFound,
        // Opening a socket fails with ENXIO.
        Errno::ACCESS
        | Errno::PERM
        | Errno::LOOP
        | Errno::XDEV
        | Errno::NXIO
        | Errno::ISDIR
        | Errno::ROFS => Refusal::Denied,
        Errno::EXIST => Refusal::Exists,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Refusal::DiskFull,
        other => Refusal::Failed(other.raw_os_error()),
    }
}

/// The same for a client that named a file: some file systems answer names that they cannot store with
/// `EINVAL`, which means something else where no name is given.
pub(super) fn name_refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::INVAL => Refusal::NotFound,
        other => refusal(other),
    }
}

/// Wraps an open regular file as a source; `is_remote` as [`Source::is_remote`] says.
pub(super) fn opened(file: File, is_remote: bool) -> io::Result<Opened> {
    let identity = identity(&file)?;
    Ok(Opened {
        len: identity.len,
        identity,
        source: Box::new(FileSource {
            file,
            is_remote,
            opened: identity,
            trusted: Mutex::new(Some(identity)),
            sample: Sample::new(identity.len),
        }),
    })
}

fn identity(file: &File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    let time = |seconds, nanoseconds| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Ok(Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: time(metadata.mtime(), metadata.mtime_nsec()),
        changed: time(metadata.ctime(), metadata.ctime_nsec()),
    })
}

struct FileSource {
    file: File,
    is_remote: bool,
    opened: Identity,
    /// The file's identity when its contents were last verified; `None` once they have changed, whatever the
    /// file becomes later: octets read in between may be old or new.
    trusted: Mutex<Option<Identity>>,
    sample: Sample,
}

impl FileSource {
    fn fill(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_failure(&error)),
            }
        }
        Ok(filled)
    }

    /// Fills the buffer if the page cache holds all of it (`RWF_NOWAIT`, Linux 4.14). If it does not, the
    /// kernel may begin to read, but does not wait for the octets.
    #[cfg(target_os = "linux")]
    fn fill_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        use rustix::io::{ReadWriteFlags, preadv2};
        let len = buffer.len();
        let parts = &mut [io::IoSliceMut::new(buffer)];
        // A read that stops short found a page missing, or the end of a file that is shorter now.
        preadv2(&self.file, parts, offset, ReadWriteFlags::NOWAIT) == Ok(len)
    }

    #[cfg(not(target_os = "linux"))]
    fn fill_now(&self, _: &mut [u8], _: u64) -> bool {
        false
    }

    /// Whether the file can be the one that was opened. If longer, it has grown or another was copied over
    /// it; with the old length and time stamp, it was renamed or deleted, or is another with the old time
    /// stamp: the sample of what was read decides.
    fn may_be(&self, now: Identity) -> Result<bool, ReadFailure> {
        let is_old = now.len == self.opened.len && now.modified == self.opened.modified;
        let may_be = is_old || now.len > self.opened.len;
        Ok(may_be
            && self
                .sample
                .holds(|buffer, offset| self.fill(buffer, offset))?)
    }

    fn trusted(&self) -> MutexGuard<'_, Option<Identity>> {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for FileSource {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure> {
        let filled = self.fill(buffer, offset)?;
        if !self.sample.note(&buffer[..filled], offset) {
            *self.trusted() = None;
            return Err(ReadFailure::Changed);
        }
        // Not at the beginning, which a client waits for.
        if offset > 0 {
            self.sample
                .look_ahead(|buffer, offset| self.fill(buffer, offset));
        }
        Ok(filled)
    }

    fn check(&self) -> Result<(), ReadFailure> {
        let now = identity(&self.file).map_err(|error| read_failure(&error))?;
        let trusted = *self.trusted();
        if trusted == Some(now) {
            return Ok(());
        }
        let holds = trusted.is_some() && self.may_be(now)?;
        let mut trusted = self.trusted();
        // Another thread may have found a change meanwhile.
        *trusted = trusted.filter(|_| holds).map(|_| now);
        trusted.map(drop).ok_or(ReadFailure::Changed)
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        // Without the pieces ahead, a change of what follows might go unnoticed.
        !self.is_remote
            && (offset == 0 || self.sample.looks_ahead())
            && self.fill_now(buffer, offset)
            && self.sample.note(buffer, offset)
            && identity(&self.file).is_ok_and(|now| *self.trusted() == Some(now))
    }

    fn begin(&self) {
        self.sample
            .look_ahead(|buffer, offset| self.fill(buffer, offset));
        // Whatever is wrong, the next read finds it too.
        let _ = self.check();
    }

    fn is_remote(&self) -> bool {
        self.is_remote
    }

    fn is_nameless(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|metadata| metadata.nlink() == 0)
    }
}

fn read_failure(error: &io::Error) -> ReadFailure {
    ReadFailure::Failed(error.raw_os_error().unwrap_or(libc::EIO))
}

/// What an upload may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Whether an existing file of that name is replaced.
    pub(super) replaces: bool,
    /// The announced length.
    pub(super) announced: Option<u64>,
    /// Limit of octets.
    pub(super) octets_max: Option<u64>,
    /// Whether the file may be unnamed until it is published.
    pub(super) unnamed: bool,
}

/// A file being written in the directory where it will appear.
pub(super) struct FileSink {
    directory: OwnedFd,
    name: Vec<u8>,
    file: File,
    /// The temporary file's name, which is removed on drop; `None` while it has none.
    hidden: Option<Vec<u8>>,
    terms: Terms,
    /// The permissions of the file being replaced.
    permissions: Option<Mode>,
    written: u64,
    /// The first so many octets are on the disk or on their way there.
    under_way: u64,
    /// Whether disk space for the announced length was reserved.
    reserved: bool,
}

impl FileSink {
    /// Begins the file `name`, one component, in `directory`. This reserves no disk space yet, whatever
    /// length was announced: the sender's address may be forged.
    pub(super) fn create(directory: OwnedFd, name: &[u8], terms: Terms) -> Result<Self, Errno> {
        let permissions = match regular_there(&directory, name)? {
            Some(_) if !terms.replaces => return Err(Errno::EXIST),
            there => there,
        };
        if let (Some(announced), Some(most)) = (terms.announced, terms.octets_max)
            && announced > most
        {
            return Err(Errno::FBIG);
        }
        if let Some(announced) = terms.announced {
            require_free(&directory, announced)?;
        }
        let (file, hidden) = temporary(&directory, name, terms.unnamed)?;
        Ok(Self {
            directory,
            name: name.to_vec(),
            file,
            hidden,
            terms,
            permissions,
            written: 0,
            under_way: 0,
            reserved: false,
        })
    }

    /// Reserves the announced disk space, once, or reports that there is too little.
    fn reserve(&mut self) -> Result<(), Errno> {
        if let Some(announced) = self.terms.announced
            && !std::mem::replace(&mut self.reserved, true)
        {
            // Check again: other uploads may have taken the space since.
            require_free(&self.file, announced)?;
            allocate(&self.file, announced)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Errno> {
        // Free what was reserved beyond the end; until then the file may be as long as announced.
        ftruncate(&self.file, self.written)?;
        if let Some(permissions) = self.permissions {
            fchmod(&self.file, permissions)?;
        }
        fsync(&self.file)?;
        if self.terms.replaces {
            self.replace()?;
        } else {
            self.appear()?;
        }
        // The file is there and complete; syncing the directory, so that the name survives a power cut, is
        // best effort, since not every file system supports it.
        if let Ok(directory) = openat(
            &self.directory,
            ".",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            let _ = fsync(directory);
        }
        Ok(())
    }

    /// Publishes under the name unless it is taken. A link, unlike a rename, never replaces.
    fn appear(&mut self) -> Result<(), Errno> {
        let Some(hidden) = &self.hidden else {
            return self.link(&self.name);
        };
        let (directory, hidden) = (&self.directory, hidden.as_slice());
        match linkat(
            directory,
            hidden,
            directory,
            self.name.as_slice(),
            AtFlags::empty(),
        ) {
            #[cfg(target_os = "linux")]
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                // A file system without hard links.
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                let name = self.name.as_slice();
                rustix::fs::renameat_with(directory, hidden, directory, name, flags)?;
                // The next upload may use the hidden name by now.
                self.hidden = None;
                Ok(())
            }
            other => other,
        }
    }

    /// Publishes under the name, replacing an existing file.
    fn replace(&mut self) -> Result<(), Errno> {
        if self.hidden.is_none() {
            // Lock it before it has a name, so that no server takes it for a leftover.
            mark_as_ours(&self.file)?;
            let (directory, link) = (&self.directory, |hidden: &[u8]| self.link(hidden));
            self.hidden = Some(try_hidden(directory, &self.name, link)?.0);
        }
        regular_there(&self.directory, &self.name)?;
        if let Some(hidden) = &self.hidden {
            renameat(
                &self.directory,
                hidden.as_slice(),
                &self.directory,
                self.name.as_slice(),
            )?;
            self.hidden = None;
        }
        Ok(())
    }

    /// Gives the unnamed file a name.
    #[cfg(target_os = "linux")]
    fn link(&self, name: &[u8]) -> Result<(), Errno> {
        use rustix::fs::CWD;
        use std::os::fd::AsRawFd;

        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match linkat(CWD, path, &self.directory, name, AtFlags::SYMLINK_FOLLOW) {
            // No /proc here; the direct way needs a capability before Linux 6.10.
            Err(Errno::NOENT) => linkat(&self.file, "", &self.directory, name, AtFlags::EMPTY_PATH),
            other => other,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn link(&self, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }
}

impl Sink for FileSink {
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        let written = self.written + octets.len() as u64;
        if self.terms.octets_max.is_some_and(|most| written > most) {
            return Err(Refusal::DiskFull);
        }
        // A sender of data has proved that its address is its own.
        if !octets.is_empty() {
            self.reserve().map_err(refusal)?;
        }
        self.file
            .write_all(octets)
            .map_err(|error| write_refusal(&error))?;
        self.written = written;
        let whole = self.written - self.written % WRITEBACK_OCTETS;
        if whole > self.under_way {
            writeback::begin(&self.file, self.under_way, whole - self.under_way);
            self.under_way = whole;
        }
        Ok(())
    }

    fn publish(mut self: Box<Self>) -> Result<(), Refusal> {
        self.settle().map_err(refusal)
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // There is no caller left to report an error to.
            let _ = unlinkat(&self.directory, hidden.as_slice(), AtFlags::empty());
        }
    }
}

/// The refusal that a failed write means for a client.
pub(super) fn write_refusal(error: &io::Error) -> Refusal {
    Errno::from_io_error(error).map_or(Refusal::Failed(libc::EIO), refusal)
}

/// The permissions of the regular file `name`; `None` if it does not exist, `EACCES` if it is anything else.
fn regular_there(directory: &OwnedFd, name: &[u8]) -> Result<Option<Mode>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            // Without set-user-ID and the like: a client that writes it must not gain its owner's rights.
            Ok(Some(
                Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o777),
            ))
        }
        Ok(_) => Err(Errno::ACCESS),
    }
}

/// An empty file in `directory`: unnamed where possible, which leaves nothing even if this process is
/// killed, otherwise hidden. Readable by all, subject to the process's umask.
fn temporary(
    directory: &OwnedFd,
    name: &[u8],
    unnamed: bool,
) -> Result<(File, Option<Vec<u8>>), Errno> {
    let permissions = Mode::from_raw_mode(0o644);
    #[cfg(target_os = "linux")]
    if unnamed {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match openat(directory, ".", flags, permissions) {
            Ok(file) => return Ok((file.into(), None)),
            // Errors of file systems and kernels without support.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(errno),
        }
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    let make = |hidden: &[u8]| {
        let file = openat(directory, hidden, flags, permissions)?;
        mark_as_ours(&file)?;
        // Another server may have removed it before it was locked.
        if fstat(&file)?.st_nlink == 0 {
            return Err(Errno::EXIST);
        }
        Ok(file)
    };
    let (hidden, file) = try_hidden(directory, name, make)?;
    Ok((file.into(), Some(hidden)))
}

/// What the hidden name of a temporary file ends with, around eight hexadecimal digits.
const HIDDEN_MARK: &[u8] = b".bootstorm-";
const HIDDEN_END: &[u8] = b".part";
const HIDDEN_DIGITS: usize = 8;

/// Whether a name looks like that of a temporary file. An upload of that name would be taken for a leftover later.
pub(super) fn is_hidden_name(name: &[u8]) -> bool {
    let Some(front) = name.strip_suffix(HIDDEN_END) else {
        return false;
    };
    let digits = front.len().saturating_sub(HIDDEN_DIGITS);
    let (front, digits) = front.split_at(digits);
    name.starts_with(b".")
        && front.ends_with(HIDDEN_MARK)
        && digits.iter().all(u8::is_ascii_hexdigit)
}

/// Calls `make` with hidden names derived from `name` until one is free; returns that one.
fn try_hidden<T>(
    directory: &OwnedFd,
    name: &[u8],
    make: impl Fn(&[u8]) -> Result<T, Errno>,
) -> Result<(Vec<u8>, T), Errno> {
    for attempt in 0..HIDDEN_ATTEMPTS_MAX {
        let number = if attempt < HIDDEN_FIXED {
            attempt
        } else {
            fastrand::u32(HIDDEN_FIXED..)
        };
        let suffix = format!(".bootstorm-{number:08x}.part");
        let kept = name.len().min(NAME_OCTETS_MAX - 1 - suffix.len());
        let hidden = [b".", &name[..kept], suffix.as_bytes()].concat();
        let mut made = make(&hidden);
        if matches!(made, Err(Errno::EXIST)) && remove_left_over(directory, &hidden).is_ok() {
            made = make(&hidden);
        }
        match made {
            Err(Errno::EXIST) => {}
            made => return made.map(|made| (hidden, made)),
        }
    }
    // Not EEXIST, which would be about the requested name.
    Err(Errno::AGAIN)
}

/// Locks a temporary file while it is open, so at most for this process's lifetime: the lock distinguishes
/// it from a leftover. `EEXIST` if another process is just removing it as one.
fn mark_as_ours(file: impl AsFd) -> Result<(), Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Errno::EXIST),
        // A file system without locks: no file is ever taken for a leftover there.
        _ => Ok(()),
    }
}

/// Removes a temporary file whose server is gone; fails if its server is alive or it is something else.
fn remove_left_over(directory: &OwnedFd, hidden: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, hidden, flags, Mode::empty())?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // The lock's last holder may have published the file, and another file may have taken the name.
    let (locked, named) = (
        fstat(&file)?,
        statat(directory, hidden, AtFlags::SYMLINK_NOFOLLOW)?,
    );
    let is_file = FileType::from_raw_mode(locked.st_mode) == FileType::RegularFile;
    if !is_file || (locked.st_dev, locked.st_ino) != (named.st_dev, named.st_ino) {
        return Err(Errno::BUSY);
    }
    // While the lock is held here, no other process removes it.
    unlinkat(directory, hidden, AtFlags::empty())
}

/// Checks that the disk of `place` has `octets` free.
fn require_free(place: impl AsFd, octets: u64) -> Result<(), Errno> {
    // File systems that do not know their size report 0 blocks.
    let disk = fstatvfs(place)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if disk.f_blocks > 0 && octets > free {
        return Err(Errno::NOSPC);
    }
    Ok(())
}

/// Reserves `octets` on disk for `file`, where the file system can. Some use up all free space before they
/// notice that it is too little, so check first.
fn allocate(file: &File, octets: u64) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    if octets > 0 {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, octets) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {}
            other => return other,
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, octets);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is open for reading, and its path.
    struct Case {
        folder: tempfile::TempDir,
        source: Box<dyn Source>,
    }

    /// Length of the files below, in octets.
    const LEN: usize = 3 << 20;

    impl Case {
        fn new(octets: &[u8]) -> Self {
            let folder = tempfile::tempdir().expect("a directory");
            std::fs::write(folder.path().join("file"), octets).expect("room");
            let file = File::open(folder.path().join("file")).expect("a file");
            let source = opened(file, false).expect("it is regular").source;
            Self { folder, source }
        }

        /// Rewrites the file until its change time differs: the kernel's clock may tick slowly.
        fn write(&self, octets: &[u8]) {
            let path = self.folder.path().join("file");
            let changed = || identity(&File::open(&path).expect("it")).map(|now| now.changed);
            let before = changed().expect("a time");
            while changed().expect("a time") == before {
                std::fs::write(&path, octets).expect("room");
            }
        }

        /// Reads `len` octets and checks the file, as framing does.
        fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, ReadFailure> {
            let mut buffer = vec![0; len];
            let filled = self.source.read_at(&mut buffer, offset)?;
            buffer.truncate(filled);
            self.source.check().map(|()| buffer)
        }
    }

    fn octets(seed: u64, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut octets);
        octets
    }

    /// Goal: what the page cache holds is read at once and is the file's; nothing is if the file has changed
    /// in any way since it was last checked, nor beyond its end. Method: parts that are in memory, then out of
    /// it, then an addition, a rewrite and a truncation.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_in_memory_is_read_at_once_if_nothing_has_changed() {
        let whole = octets(4, LEN);
        let case = Case::new(&whole);
        let path = case.folder.path().join("file");
        let read_now = |offset: u64| {
            let mut buffer = [0; 5000];
            let read = case.source.read_now(&mut buffer, offset);
            let there = whole.get(offset as usize..offset as usize + 5000);
            assert!(!read || there == Some(&buffer[..]), "other octets");
            read
        };
        // A file that was just written is in memory.
        if !read_now(0) {
            return crate::testing::skip("this file system does not tell what is in memory");
        }
        assert!(
            !read_now(70_000),
            "no change of what follows would be noticed"
        );
        case.source.begin();
        assert!(read_now(70_000) && read_now(LEN as u64 - 5000));
        assert!(!read_now(LEN as u64 - 4999), "it has no such end");

        let file = File::open(&path).expect("it");
        file.sync_all().expect("on the disk");
        let is_gone = |_| {
            let dont_need = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, dont_need).expect("advised");
            !read_now(1 << 20)
        };
        assert!((0..100).any(is_gone), "it waits for the disk");
        let there = Ok(&whole[1 << 20..][..5000]);
        assert_eq!(case.read(1 << 20, 5000).as_deref(), there);
        assert!(read_now(1 << 20), "it was read just now");

        let mut grown = File::options().append(true).open(&path).expect("it");
        grown.write_all(b"more").expect("room");
        assert!(!read_now(0), "whether it is still the same takes a look");
        assert!(case.read(0, 5000).is_ok());
        assert!(read_now(0));
        let other = octets(5, LEN + 4);
        case.write(&other);
        assert!(!read_now(0));
        assert_eq!(case.read(0, 5000), Err(ReadFailure::Changed));
        case.write(&whole);
        assert!(!read_now(0), "once changed, never trusted");
        grown.set_len(100).expect("cut");
        assert!(!read_now(0));
    }

    /// Goal: what was read at once is known again. Method: a longer file with another octet in a piece that is not
    /// sampled ahead.
    #[test]
    fn what_was_read_at_once_is_sampled() {
        let whole = octets(6, LEN);
        let case = Case::new(&whole);
        let mut buffer = [0; 5000];
        case.source.begin();
        if !case.source.read_now(&mut buffer, 65_536) {
            return crate::testing::skip("this file system does not tell what is in memory");
        }
        let mut other = [&whole[..], b"more"].concat();
        other[65_540] ^= 1;
        case.write(&other);
        assert_eq!(case.read(65_536, 5000), Err(ReadFailure::Changed));
    }

    /// Goal: a file that is appended to is read up to its old end, whatever happens to its name.
    #[test]
    fn what_was_there_is_read_on_while_it_stays() {
        let whole = octets(1, LEN);
        let case = Case::new(&whole);
        let path = case.folder.path().join("file");
        assert_eq!(case.read(0, 5000).as_deref(), Ok(&whole[..5000]));
        for step in 1..6 {
            match step {
                4 => std::fs::rename(&path, path.with_extension("old")).expect("renamed"),
                5 => std::fs::remove_file(path.with_extension("old")).expect("removed"),
                _ => {
                    let file = File::options().append(true).open(&path);
                    file.expect("it").write_all(&[7; 5000]).expect("room");
                }
            }
            let start = step * 300_000;
            let read = case.read(start as u64, 200_000);
            assert!(read.as_deref() == Ok(&whole[start..start + 200_000]));
        }
    }

    /// Goal: another file copied over the one being read is distinguished from one that has grown, at any
    /// moment of the copy, and permanently. Method: files with the same beginning as far as it was read,
    /// longer or of the old length; the last check is after the old time stamp was restored.
    #[test]
    fn what_is_copied_over_is_told_from_what_has_grown() {
        let whole = octets(1, LEN);
        for (alike, more) in [(0, 5000), (300_000, 5000), (0, 0), (300_000, 0)] {
            let other = [&whole[..alike], &octets(2, LEN + more - alike)].concat();
            for copied in [0, 400_000, LEN - 1, LEN, LEN + more / 2, other.len()] {
                let case = Case::new(&whole);
                let path = case.folder.path().join("file");
                let stamp = path.metadata().and_then(|metadata| metadata.modified());
                case.read(0, 100_000).expect("it is well");
                case.read(100_000, 200_000).expect("it is well");

                case.write(&other[..copied]);
                if copied == other.len() {
                    let file = File::options().write(true).open(&path).expect("it");
                    file.set_modified(stamp.expect("a time")).expect("set");
                }
                let read = case.read(300_000, 100_000).map(drop);
                assert_eq!(read, Err(ReadFailure::Changed), "{alike}+{more}, {copied}");
                case.write(&whole);
                assert_eq!(case.source.check(), Err(ReadFailure::Changed));
            }
        }
    }

    /// Disk errors are reported as such, including an exhausted quota; other faults are not blamed on the
    /// client's name or its upload's length.
    #[test]
    fn clients_learn_whose_fault_it_is() {
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert_eq!(refusal(errno), Refusal::DiskFull);
        }
        for errno in [Errno::IO, Errno::STALE, Errno::NOMEM, Errno::MFILE] {
            assert_eq!(refusal(errno), Refusal::Failed(errno.raw_os_error()));
        }
        let unknown = io::Error::other("no number");
        assert_eq!(write_refusal(&unknown), Refusal::Failed(libc::EIO));
    }
}
