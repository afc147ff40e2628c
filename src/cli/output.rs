//! A file that a command is to write at its end. It is opened at the beginning, so that nobody waits for a
//! run whose report then has no place to go.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Trouble;

/// The file; what it held before stays until it is written.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    /// `None` for standard output.
    file: Option<File>,
}

impl Output {
    /// Opens the file at `path`, which need not exist yet.
    pub(super) fn open(path: &Path) -> Result<Self, Trouble> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| cannot_write(path, &error))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: Some(file),
        })
    }

    /// The same, but that `-` is standard output.
    pub(super) fn open_or_standard(path: &Path) -> Result<Self, Trouble> {
        if path == Path::new("-") {
            return Ok(Self {
                path: path.to_path_buf(),
                file: None,
            });
        }
        Self::open(path)
    }

    /// Writes it anew.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Trouble> {
        let written = match &self.file {
            None => {
                let mut output = io::stdout().lock();
                write(&mut output).and_then(|()| writeln!(output))
            }
            Some(file) => to_file(file, write),
        };
        written.map_err(|error| cannot_write(&self.path, &error))
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
    fn a_file_is_written_anew_each_time_and_stays_until_then() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("report");
        std::fs::write(&path, "an older and longer report").expect("a file");
        let output = Output::open(&path).expect("it is there");
        let held = || std::fs::read_to_string(&path).expect("a file");
        assert_eq!(held(), "an older and longer report");
        for text in ["first", "2nd"] {
            output
                .write(|output| write!(output, "{text}"))
                .expect("it can be written");
            assert_eq!(held(), text);
        }
        assert!(Output::open(folder.path()).is_err(), "no file");
    }
}
