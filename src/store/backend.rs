//! What a store needs of the storage behind it: opening, reading and writing files, and why that fails.

use std::fmt;

use crate::wire::ErrorCode;

/// The storage of files. Its methods may block unless they are told not to.
pub trait Backend: Send + Sync + 'static {
    /// Opens `name` for reading.
    ///
    /// # Errors
    /// Why it cannot be opened; unless with [`Patience::Long`] also that it may take longer.
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError>;

    /// Begins a file that will be called `name`, of length `announced` if given.
    ///
    /// # Errors
    /// Why it cannot be created.
    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal>;
}

/// How long [`Backend::open`] may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Only as long as memory accesses take. What is opened so is [not remote](Source::is_remote).
    Now,
    /// As long as a local disk takes, with no other machine or program to wait for. What is opened so is not remote
    /// either, as far as anyone can tell.
    Disk,
    /// As long as it takes.
    Long,
}

/// Why [`Backend::open`] failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// It may take longer than the caller's patience allows.
    WouldBlock,
    /// It cannot be opened.
    Refused(Refusal),
}

impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// An open file.
pub struct Opened {
    /// Its contents.
    pub source: Box<dyn Source>,
    /// Its length in octets.
    pub len: u64,
    /// Its identity.
    pub identity: Identity,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("len", &self.len)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Openings with equal identities share a body: the same file in the same state. A modification time can be
/// set back; the time of the last status change cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The file system's device number.
    pub device: u64,
    /// The inode on that file system.
    pub inode: u64,
    /// Its length in octets.
    pub len: u64,
    /// Last modification in nanoseconds since 1970, or the value that was set.
    pub modified: i128,
    /// Last change of contents, names or permissions, in nanoseconds since 1970.
    pub changed: i128,
}

/// The contents of an open file.
pub trait Source: Send + Sync {
    /// Fills `buffer` with the octets from `offset` on; returns how many, fewer only at the end.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure>;

    /// Checks that what was read is still what was opened.
    ///
    /// # Errors
    /// [`ReadFailure::Changed`] if it is not.
    fn check(&self) -> Result<(), ReadFailure>;

    /// Reads as [`Self::read_at`] does, and checks, if that takes no longer than to copy the octets. `false` if
    /// it may, if nobody can tell, or if anything is wrong: reading at leisure finds out what.
    fn read_now(&self, buffer: &mut [u8], offset: u64) -> bool {
        let _ = (buffer, offset);
        false
    }

    /// Called once the first octets were [read at once](Self::read_now): does whatever else the first
    /// [`Self::read_at`] calls do.
    fn begin(&self) {}

    /// Whether reading at any offset costs as much as reading on: then a long read may be done in parts.
    fn is_random_access(&self) -> bool {
        true
    }

    /// Whether calls on the file may wait for another machine or program, or for ever, even to drop it: then
    /// neither shards nor those who read local files shall wait for it.
    fn is_remote(&self) -> bool {
        false
    }

    /// Whether the file has no name left, so that no new client can request it and only open descriptors
    /// keep it on the disk.
    fn is_nameless(&self) -> bool {
        false
    }
}

/// A file being written. If dropped before it is published, it leaves nothing.
pub trait Sink: Send {
    /// Appends `octets`.
    ///
    /// # Errors
    /// Why they cannot be written; the sink is then unusable.
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal>;

    /// Makes the file visible under its name, complete and on disk.
    ///
    /// # Errors
    /// Why that failed; nothing is left then.
    fn publish(self: Box<Self>) -> Result<(), Refusal>;
}

/// What clients may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writes {
    /// Nothing.
    #[default]
    Off,
    /// New files.
    Create,
    /// New files, and new contents for existing ones.
    Overwrite,
}

/// Why a name cannot be opened, or an upload cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such file.
    NotFound,
    /// It exists, but the client may not have it: not readable, not a regular file, outside the root.
    Denied,
    /// The file exists, and uploads may not replace it.
    Exists,
    /// No room: the disk, the quota, or the operator's limit on uploads.
    DiskFull,
    /// Fewer octets arrived than announced.
    Short,
    /// More octets arrived than announced.
    Long,
    /// Another system error: its number.
    Failed(i32),
}

impl Refusal {
    /// The refusal's name in the counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Exists => "exists",
            Self::DiskFull => "disk_full",
            Self::Short => "short",
            Self::Long => "long",
            Self::Failed(_) => "failed",
        }
    }

    /// The ERROR packet for it: exact codes (U-Boot restarts for ever on any but 1 and 2), and texts that
    /// never contain a path of the server.
    #[must_use]
    pub const fn error(self) -> (ErrorCode, &'static str) {
        match self {
            Self::NotFound => (ErrorCode::NOT_FOUND, "file not found"),
            Self::Denied => (ErrorCode::ACCESS, "access denied"),
            Self::Exists => (ErrorCode::EXISTS, "file already exists"),
            Self::DiskFull => (ErrorCode::DISK_FULL, "disk full or upload too large"),
            Self::Short => (ErrorCode::UNDEFINED, "upload shorter than announced"),
            Self::Long => (ErrorCode::UNDEFINED, "upload longer than announced"),
            Self::Failed(_) => (ErrorCode::UNDEFINED, "the server cannot do this now"),
        }
    }

    pub(super) const fn is_out_of_descriptors(self) -> bool {
        matches!(self, Self::Failed(libc::EMFILE | libc::ENFILE))
    }
}

/// Why the octets of a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// The file was truncated, or overwritten in place, since it was opened.
    Changed,
    /// A system error: its number.
    Failed(i32),
}
