//! Regular files: reading one as it was when opened, and writing one that appears whole or not at all.

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
use super::{Identity, Opened, ReadFailure, Refusal, Sink, Source};
use crate::sync::{Mutex, MutexGuard};

/// Longest name of a file, in octets, on any file system worth the name.
const NAME_OCTETS_MAX: usize = 255;

/// How many hidden names are tried before giving up.
const HIDDEN_ATTEMPTS_MAX: u32 = 16;

/// How many of them are the same each time, so that what a server left that was killed is found again.
/// The others are random: whoever fills these few keeps nobody from uploading.
const HIDDEN_FIXED: u32 = 8;

/// What a system error means to a client.
pub(super) fn refusal(errno: Errno) -> Refusal {
    match errno {
        // No file can have a name that is too long or not in the file system's encoding.
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::ILSEQ => Refusal::NotFound,
        // ENXIO is what opening a socket gives.
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

/// What a system error means to a client that named a file: some file systems answer names that they
/// cannot have with `EINVAL`, which says something else where no name is given.
pub(super) fn name_refusal(errno: Errno) -> Refusal {
    match errno {
        Errno::INVAL => Refusal::NotFound,
        other => refusal(other),
    }
}

/// Makes a source of an open regular file.
pub(super) fn opened(file: File) -> io::Result<Opened> {
    let identity = identity(&file)?;
    Ok(Opened {
        len: identity.len,
        identity,
        source: Box::new(FileSource {
            file,
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
    opened: Identity,
    /// The file as it was when its octets were last found to be the old ones; `None` once they were not,
    /// whatever it becomes later: what was read in between may be of either kind.
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

    /// Whether the file can be the one that was opened. Longer, it may have grown, or be another that was
    /// copied over it; with the old length and time stamp, it may have a new name or none, or be another
    /// with the time stamp of the old: what was read tells.
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
        // Not at the beginning, for which a client waits.
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
        // Somebody else may have found it changed meanwhile.
        *trusted = trusted.filter(|_| holds).map(|_| now);
        trusted.map(drop).ok_or(ReadFailure::Changed)
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
    /// Whether a file of that name is replaced.
    pub(super) replaces: bool,
    /// The length that was announced.
    pub(super) announced: Option<u64>,
    /// Most octets.
    pub(super) octets_max: Option<u64>,
    /// Whether the file may be one without a name until it is published.
    pub(super) unnamed: bool,
}

/// A file under way in the directory where it will appear.
pub(super) struct FileSink {
    directory: OwnedFd,
    name: Vec<u8>,
    file: File,
    /// The name of the temporary file, which goes when this does; `None` as long as it has none.
    hidden: Option<Vec<u8>>,
    terms: Terms,
    /// The permissions of the file that is replaced.
    permissions: Option<Mode>,
    written: u64,
    /// Whether the disk has set aside what was announced.
    reserved: bool,
}

impl FileSink {
    /// Begins the file `name`, one component, in `directory`. That takes no disk yet, however long it
    /// was announced: the sender's address may be forged.
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
            reserved: false,
        })
    }

    /// Takes the disk that was announced, once, or says that it is not there.
    fn reserve(&mut self) -> Result<(), Errno> {
        if let Some(announced) = self.terms.announced
            && !std::mem::replace(&mut self.reserved, true)
        {
            // Looked at again: others may have taken it since.
            require_free(&self.file, announced)?;
            allocate(&self.file, announced)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Errno> {
        // What was reserved beyond the end is given back; the file may be as long as announced until then.
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
        // The file is there and whole; that its name outlives a power cut is the best that can be
        // tried, and not every file system can.
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

    /// Takes the name unless another has it. A link, unlike a rename, never replaces.
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
                // A file system without links.
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                let name = self.name.as_slice();
                rustix::fs::renameat_with(directory, hidden, directory, name, flags)?;
                // The next upload may have the hidden name by now.
                self.hidden = None;
                Ok(())
            }
            other => other,
        }
    }

    /// Takes the name from whoever has it.
    fn replace(&mut self) -> Result<(), Errno> {
        if self.hidden.is_none() {
            // Before it has a name, so that nobody takes it for left over.
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
        // Whoever sends data has shown that its address is its own.
        if !octets.is_empty() {
            self.reserve().map_err(refusal)?;
        }
        self.file
            .write_all(octets)
            .map_err(|error| write_refusal(&error))?;
        self.written = written;
        Ok(())
    }

    fn publish(mut self: Box<Self>) -> Result<(), Refusal> {
        self.settle().map_err(refusal)
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nobody is left to be told.
            let _ = unlinkat(&self.directory, hidden.as_slice(), AtFlags::empty());
        }
    }
}

/// What a failed write means to a client.
pub(super) fn write_refusal(error: &io::Error) -> Refusal {
    Errno::from_io_error(error).map_or(Refusal::Failed(libc::EIO), refusal)
}

/// The permissions of the regular file `name`, `None` if nothing is there, `EACCES` if anything else is.
fn regular_there(directory: &OwnedFd, name: &[u8]) -> Result<Option<Mode>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            // Without set-user-ID and its like: who could write the octets does not become the owner.
            Ok(Some(
                Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o777),
            ))
        }
        Ok(_) => Err(Errno::ACCESS),
    }
}

/// An empty file in `directory`: unnamed where that is possible, which leaves nothing even if this
/// process is killed, else hidden. Readable by all, less the process's umask.
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
            // What file systems and kernels without it say.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(errno) => return Err(errno),
        }
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    let make = |hidden: &[u8]| {
        let file = openat(directory, hidden, flags, permissions)?;
        mark_as_ours(&file)?;
        // Before it was marked, somebody may have removed it.
        if fstat(&file)?.st_nlink == 0 {
            return Err(Errno::EXIST);
        }
        Ok(file)
    };
    let (hidden, file) = try_hidden(directory, name, make)?;
    Ok((file.into(), Some(hidden)))
}

/// Does `make` with hidden names made from `name` until one is free; returns that one.
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
    // Not EEXIST, which would say something about the name that was asked for.
    Err(Errno::AGAIN)
}

/// Locks a temporary file for as long as it is open, which is no longer than this process lives: that
/// tells it from one that is left over. `EEXIST` if somebody takes it for such a one just now.
fn mark_as_ours(file: impl AsFd) -> Result<(), Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Errno::EXIST),
        // A file system without locks: nothing is ever taken for left over there.
        _ => Ok(()),
    }
}

/// Removes a temporary file whose server is no more; fails if it has one, or is something else.
fn remove_left_over(directory: &OwnedFd, hidden: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, hidden, flags, Mode::empty())?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Whoever had the lock until now may have published the file, and another taken the name.
    let (locked, named) = (
        fstat(&file)?,
        statat(directory, hidden, AtFlags::SYMLINK_NOFOLLOW)?,
    );
    let is_file = FileType::from_raw_mode(locked.st_mode) == FileType::RegularFile;
    if !is_file || (locked.st_dev, locked.st_ino) != (named.st_dev, named.st_ino) {
        return Err(Errno::BUSY);
    }
    // As long as the lock is held here, nobody else does this.
    unlinkat(directory, hidden, AtFlags::empty())
}

/// Makes sure that the disk that `place` is on has `octets` to give.
fn require_free(place: impl AsFd, octets: u64) -> Result<(), Errno> {
    // File systems that do not know their size say 0 blocks.
    let disk = fstatvfs(place)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if disk.f_blocks > 0 && octets > free {
        return Err(Errno::NOSPC);
    }
    Ok(())
}

/// Takes `octets` of disk for `file`, where the file system can. Some take what there is before they
/// notice that it is too little, so look first.
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

    /// Octets of the files below.
    const LEN: usize = 3 << 20;

    impl Case {
        fn new(octets: &[u8]) -> Self {
            let folder = tempfile::tempdir().expect("a directory");
            std::fs::write(folder.path().join("file"), octets).expect("room");
            let file = File::open(folder.path().join("file")).expect("a file");
            let source = opened(file).expect("it is regular").source;
            Self { folder, source }
        }

        /// Writes the file anew, until the kernel's clock has moved on: it may tick slowly.
        fn write(&self, octets: &[u8]) {
            let path = self.folder.path().join("file");
            let changed = || identity(&File::open(&path).expect("it")).map(|now| now.changed);
            let before = changed().expect("a time");
            while changed().expect("a time") == before {
                std::fs::write(&path, octets).expect("room");
            }
        }

        /// Reads `len` octets and looks whether the file is well, as framing does.
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

    /// Goal: a file that is appended to ends where it ended, and what has happened to its name does not matter.
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

    /// Goal: another file copied over the one that is read is told from one that has grown, at whatever moment
    /// of copying it is looked at, and for good. Method: files that begin alike as far as they were read,
    /// longer ones and such as have the old length; the last look is after the old time stamp was set again.
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

    /// What is the disk's fault is told as such, a quota that is used up included; what is broken is
    /// not blamed on the client's name or its upload's length.
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
