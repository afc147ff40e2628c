//! The local file as a store: the one path that was named, or standard output. The system's error is kept for
//! the user when something fails, because the protocol has only a code for it.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::local;
use crate::store::{Backend, OpenError, Opened, Patience, ReadFailure, Refusal, Sink, Source};

/// The file at this end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalFile {
    /// The file at a path; when written, it appears only once complete.
    Path(PathBuf),
    /// Standard output, written as the octets arrive.
    StandardOutput,
}

impl fmt::Display for LocalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::StandardOutput => f.write_str("standard output"),
        }
    }
}

/// The system's error from the latest failure.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<io::Error>>>);

impl Trouble {
    pub(super) fn take(&self) -> Option<io::Error> {
        self.place().take()
    }

    fn note(&self, error: io::Error) {
        *self.place() = Some(error);
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store of one file, whatever name is requested.
pub(super) struct Files {
    file: LocalFile,
    trouble: Trouble,
}

impl Files {
    pub(super) const fn new(file: LocalFile, trouble: Trouble) -> Self {
        Self { file, trouble }
    }

    fn noted(&self, error: io::Error) -> Refusal {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        self.trouble.note(error);
        Refusal::Failed(errno)
    }
}

impl Backend for Files {
    fn open(&self, _: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        if patience == Patience::Now {
            return Err(OpenError::WouldBlock);
        }
        let opened = match &self.file {
            LocalFile::Path(path) => local::source(path),
            LocalFile::StandardOutput => Err(io::ErrorKind::InvalidInput.into()),
        };
        let Opened {
            source,
            len,
            identity,
        } = opened.map_err(|error| self.noted(error))?;
        let trouble = self.trouble.clone();
        Ok(Opened {
            source: Box::new(Watched { source, trouble }),
            len,
            identity,
        })
    }

    fn create(&self, _: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        let sink = match &self.file {
            LocalFile::Path(path) if path.is_dir() => {
                Err(io::Error::from_raw_os_error(libc::EISDIR))
            }
            LocalFile::Path(path) => local::sink(path, announced),
            LocalFile::StandardOutput => Ok(Box::new(StandardOutput) as _),
        };
        let sink = sink.map_err(|error| self.noted(error))?;
        let trouble = self.trouble.clone();
        Ok(Box::new(WatchedSink { sink, trouble }))
    }
}

/// A source whose failures are recorded.
struct Watched {
    source: Box<dyn Source>,
    trouble: Trouble,
}

impl Watched {
    fn noted(&self, failure: ReadFailure) -> ReadFailure {
        self.trouble.note(match failure {
            ReadFailure::Changed => io::Error::other("it changed while it was sent"),
            ReadFailure::Failed(errno) => io::Error::from_raw_os_error(errno),
        });
        failure
    }
}

impl Source for Watched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, ReadFailure> {
        self.source
            .read_at(buffer, offset)
            .map_err(|failure| self.noted(failure))
    }

    fn check(&self) -> Result<(), ReadFailure> {
        self.source.check().map_err(|failure| self.noted(failure))
    }
}

/// A sink whose failures are recorded.
struct WatchedSink {
    sink: Box<dyn Sink>,
    trouble: Trouble,
}

impl Sink for WatchedSink {
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        self.sink
            .write(octets)
            .inspect_err(|&refusal| note(&self.trouble, refusal))
    }

    fn publish(self: Box<Self>) -> Result<(), Refusal> {
        let Self { sink, trouble } = *self;
        sink.publish()
            .inspect_err(|&refusal| note(&trouble, refusal))
    }
}

fn note(trouble: &Trouble, refusal: Refusal) {
    trouble.note(io::Error::from_raw_os_error(match refusal {
        Refusal::NotFound => libc::ENOENT,
        Refusal::Denied => libc::EACCES,
        Refusal::Exists => libc::EEXIST,
        Refusal::DiskFull => libc::ENOSPC,
        Refusal::Short | Refusal::Long => libc::EIO,
        Refusal::Failed(errno) => errno,
    }));
}

struct StandardOutput;

impl Sink for StandardOutput {
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        io::stdout().write_all(octets).map_err(failed)
    }

    fn publish(self: Box<Self>) -> Result<(), Refusal> {
        io::stdout().flush().map_err(failed)
    }
}

fn failed(error: io::Error) -> Refusal {
    Refusal::Failed(error.raw_os_error().unwrap_or(libc::EIO))
}
