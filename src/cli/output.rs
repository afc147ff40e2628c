//! A file that a command writes at its end. It is opened at the start, so that a bad path fails before
//! the run and not after it.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Trouble;

/// The output file; its old contents stay until it is written. If it did not exist before and is never
/// written, it is removed on drop.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    /// `None` for standard output.
    file: Option<File>,
    /// Whether the file is new and still empty.
    is_in_vain: Cell<bool>,
}

impl Output {
    /// Opens the file at `path`, which need not exist yet.
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        if path == Path::new("-") {
            return Err(Trouble::arguments(
                "standard output is not for this; give a file, or ./- for one that is called so",
            ));
        }
        let mut options = OpenOptions::new();
        let (file, is_new) = match options.write(true).create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                options.create_new(false).create(true).truncate(false);
                (options.open(path), false)
            }
            opened => (opened, true),
        };
        Ok(Self {
            path: path.to_path_buf(),
            file: Some(file.map_err(|error| cannot_write(path, &error))?),
            is_in_vain: Cell::new(is_new),
        })
    }

    /// The same, except that `-` means standard output.
    pub(super) fn open_or_standard(path: &Path) -> Result<Self, Trouble> {
        if path == Path::new("-") {
            return Ok(Self {
                path: path.to_path_buf(),
                file: None,
                is_in_vain: Cell::new(false),
            });
        }
        Self::open(path)
    }

    /// Replaces the file's contents.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Trouble> {
        self.is_in_vain.set(false);
        let written = match &self.file {
            None => {
                let mut output = io::stdout().lock();
                write(&mut output).and_then(|()| output.flush())
            }
            Some(file) => to_file(file, write),
        };
        written.map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_in_vain.get() {
            // The file is empty, so it does no harm if it stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn to_file(
    mut file: &File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    // A pipe or a device has no length.
    if file.metadata()?.is_file() {
        io::Seek::rewind(&mut file)?;
        file.set_len(0)?;
    }
    let mut output = BufWriter::new(file);
    write(&mut output)?;
    output.flush()
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Work(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_written_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("report");
        let output = Output::open(&path).expect("it can be");
        assert!(path.exists());
        drop(output);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_written_anew_each_time_and_stays_until_then() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("report");
        fs::write(&path, "an older and longer report").expect("a file");
        let output = Output::open(&path).expect("it is there");
        let held = || fs::read_to_string(&path).expect("a file");
        assert_eq!(held(), "an older and longer report");
        for text in ["first", "2nd"] {
            output
                .write(|output| write!(output, "{text}"))
                .expect("it can be written");
            assert_eq!(held(), text);
        }
        drop(output);
        assert_eq!(held(), "2nd");
        assert!(Output::open(folder.path()).is_err(), "no file");
        assert!(Output::open(Path::new("-")).is_err(), "no file either");
    }
}
