//! Files of the command line client's user: any path, read as it is and replaced atomically.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::file::{FileSink, Terms, opened, write_refusal};
use super::{Backend, OpenError, Opened, Patience, Refusal, Sink};

/// Opens the regular file at `path` for reading.
///
/// # Errors
/// The system's error; also if it is not a regular file.
pub fn source(path: &Path) -> io::Result<Opened> {
    // Check first: opening a FIFO would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    opened(File::open(path)?, false)
}

/// Begins a file that replaces the one at `path` once it is complete.
///
/// Links are followed. Anything but a regular file, such as `/dev/null`, is written to directly.
///
/// # Errors
/// The system's error.
pub fn sink(path: &Path, announced: Option<u64>) -> io::Result<Box<dyn Sink>> {
    let followed = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if followed
        .metadata()
        .is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
    {
        return Ok(Box::new(Straight(
            File::options().write(true).open(followed)?,
        )));
    }
    let Some(name) = followed.file_name() else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let parent = followed
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(parent, flags, Mode::empty())?;
    let terms = Terms {
        replaces: true,
        announced,
        octets_max: None,
        unnamed: true,
    };
    Ok(Box::new(FileSink::create(
        directory,
        name.as_bytes(),
        terms,
    )?))
}

/// Names are paths, as in a shell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl Backend for Local {
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        match patience {
            Patience::Now => Err(OpenError::WouldBlock),
            Patience::Disk | Patience::Long => {
                source(path(name)).map_err(|error| local_refusal(&error).into())
            }
        }
    }

    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        sink(path(name), announced).map_err(|error| local_refusal(&error))
    }
}

/// A target that is written to directly, with nothing to publish.
struct Straight(File);

impl Sink for Straight {
    fn write(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        self.0
            .write_all(octets)
            .map_err(|error| write_refusal(&error))
    }

    fn publish(self: Box<Self>) -> Result<(), Refusal> {
        Ok(())
    }
}

fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

fn local_refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => Refusal::Denied,
        _ => write_refusal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("file");
        std::fs::write(&path, "old").expect("written");
        let mut aborted = sink(&path, Some(3)).expect("begun");
        aborted.write(b"new").expect("written");
        drop(aborted);
        assert_eq!(std::fs::read(&path).expect("there"), b"old");
        let mut whole = sink(&path, Some(100)).expect("begun");
        whole.write(b"new").expect("written");
        whole.publish().expect("published");
        assert_eq!(std::fs::read(&path).expect("there"), b"new");
        assert_eq!(
            std::fs::read_dir(scratch.path()).expect("listed").count(),
            1
        );
        assert_eq!(source(&path).expect("opened").len, 3);
    }

    #[test]
    fn what_is_no_file_is_written_straight_and_never_read() {
        let mut null = sink(Path::new("/dev/null"), None).expect("begun");
        null.write(b"octets").expect("written");
        null.publish().expect("published");
        assert!(source(Path::new("/dev/null")).is_err());
        assert!(source(Path::new("/")).is_err());
        assert!(sink(Path::new("/"), None).is_err());
        assert_eq!(
            Local.create(b"/none/such/file", None).err(),
            Some(Refusal::NotFound)
        );
    }
}
