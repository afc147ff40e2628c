//! A directory tree that is served: names as clients write them, found under its root and nowhere else.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::file::{FileSink, Terms, name_refusal, opened, write_refusal};
use super::resolve::{Resolver, Tree};
use super::{Backend, OpenError, Opened, Patience, Refusal, Sink, Writes};

/// How a directory is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectoryOptions {
    /// What clients may write.
    pub writes: Writes,
    /// Whether a name that is not found is looked for without regard to ASCII case.
    pub case_insensitive: bool,
    /// Most octets of an upload.
    pub upload_octets_max: Option<u64>,
}

/// Serves the regular files under a directory.
///
/// A name is a path under the root; leading and repeated slashes and `.` mean nothing, and `..` stops
/// at the root. Only where that finds nothing, the name is tried as one that begins with the root's own
/// path, then with `\` for `/` and without a drive letter, and at last, if wanted, without regard to case.
#[derive(Debug)]
pub struct Directory {
    tree: Tree,
    /// The root's own path, as given and as it really is, without the leading slash.
    own_paths: Vec<Vec<u8>>,
    options: DirectoryOptions,
    unnamed: bool,
}

impl Directory {
    /// Serves `root`.
    ///
    /// # Errors
    /// If there is no such directory, or it may not be entered.
    pub fn new(root: &Path, options: DirectoryOptions) -> io::Result<Self> {
        Self::with_resolver(root, options, Resolver::Kernel)
    }

    /// The same, with the way of looking paths up.
    pub(crate) fn with_resolver(
        root: &Path,
        options: DirectoryOptions,
        resolver: Resolver,
    ) -> io::Result<Self> {
        let clear = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "let the server's user read and enter it, as with `chmod o+rx`"
                }
                _ => "give a directory, as in `bootstorm serve DIR`",
            };
            io::Error::new(
                error.kind(),
                format!("cannot serve {}: {error}; {advice}", root.display()),
            )
        };
        let tree = Tree::open(root, resolver)
            // A directory that may not be entered can be opened as a starting point, and serves nothing.
            .and_then(|tree| tree.directory(b"").map(|_| tree))
            .map_err(io::Error::from)
            .map_err(clear)?;
        let mut own_paths: Vec<Vec<u8>> = [root.to_path_buf(), root.canonicalize().map_err(clear)?]
            .iter()
            .filter(|path| path.is_absolute())
            .map(|path| normal(path.as_os_str().as_bytes()))
            .filter(|path| !path.is_empty())
            .collect();
        own_paths.dedup();
        Ok(Self {
            tree,
            own_paths,
            options,
            unnamed: true,
        })
    }

    fn open_path(&self, path: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        let file = self
            .tree
            .file(path, patience)
            .map_err(|errno| match (errno, patience) {
                (Errno::AGAIN, Patience::Now) => OpenError::WouldBlock,
                (errno, _) => name_refusal(errno).into(),
            })?;
        opened(file).map_err(|error| write_refusal(&error).into())
    }

    /// What else a client may have meant by `path`, which begins like the root's own.
    fn own_path_stripped<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let stripped = |own: &Vec<u8>| path.strip_prefix(own.as_slice())?.strip_prefix(b"/");
        self.own_paths.iter().find_map(stripped)
    }

    /// The path that is there and differs from `path` in case alone; an exact match goes first.
    fn spelled_as_there(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut found = Vec::new();
        for component in path
            .split(|&octet| octet == b'/')
            .filter(|component| !component.is_empty())
        {
            let name = match component {
                b".." => Cow::Borrowed(component),
                _ => name_as_there(&self.tree.directory(&found)?, component)?,
            };
            if !found.is_empty() {
                found.push(b'/');
            }
            found.extend_from_slice(&name);
        }
        Ok(found)
    }

    /// Begins an upload to `path`.
    fn create_path(&self, path: &[u8], terms: Terms) -> Result<FileSink, Errno> {
        let slash = path.iter().rposition(|&octet| octet == b'/');
        let (parent, name) = slash.map_or((&b""[..], path), |slash| {
            (&path[..slash], &path[slash + 1..])
        });
        if matches!(name, b"" | b"..") || climbs_out(path) {
            return Err(Errno::ACCESS);
        }
        if !self.options.case_insensitive {
            return FileSink::create(self.tree.directory(parent)?, name, terms);
        }
        let directory = self.tree.directory(&self.spelled_as_there(parent)?)?;
        let name = match name_as_there(&directory, name) {
            Err(Errno::NOENT) => Cow::Borrowed(name),
            other => other?,
        };
        FileSink::create(directory, &name, terms)
    }
}

impl Backend for Directory {
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        if name.contains(&0) {
            return Err(Refusal::NotFound.into());
        }
        let plain = normal(name);
        let result = self.open_path(&plain, patience);
        if !is_not_found(&result) {
            return result;
        }
        let slashed = slashed(&plain);
        let meant = [self.own_path_stripped(&plain), slashed.as_deref()];
        for path in meant.into_iter().flatten() {
            let result = self.open_path(path, patience);
            if !is_not_found(&result) {
                return result;
            }
        }
        if self.options.case_insensitive {
            // Directories have to be read through for this.
            if patience == Patience::Now {
                return Err(OpenError::WouldBlock);
            }
            for path in [Some(plain.as_slice())].into_iter().chain(meant).flatten() {
                match self.spelled_as_there(path) {
                    Ok(path) => return self.open_path(&path, patience),
                    // Nobody looked whether it is there.
                    Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                        return Err(name_refusal(errno).into());
                    }
                    Err(_) => {}
                }
            }
        }
        Err(Refusal::NotFound.into())
    }

    /// A name for writing means the same as one for reading, except that `\` always separates: nobody
    /// wants a new file with a backslash in its name. Nor does anybody want one that was meant to stand
    /// outside the root, so `..` at the root is refused. Directories are never made.
    fn create(&self, name: &[u8], announced: Option<u64>) -> Result<Box<dyn Sink>, Refusal> {
        if self.options.writes == Writes::Off {
            return Err(Refusal::Denied);
        }
        if name.contains(&0) {
            return Err(Refusal::NotFound);
        }
        let terms = Terms {
            replaces: self.options.writes == Writes::Overwrite,
            announced,
            octets_max: self.options.upload_octets_max,
            unnamed: self.unnamed,
        };
        let plain = normal(name);
        let path = if plain.contains(&b'\\') {
            slashed(&plain).unwrap_or(plain)
        } else {
            plain
        };
        let mut created = self.create_path(&path, terms).map_err(name_refusal);
        if let (Err(Refusal::NotFound), Some(path)) = (&created, self.own_path_stripped(&path)) {
            created = self.create_path(path, terms).map_err(name_refusal);
        }
        created.map(|sink| Box::new(sink) as Box<dyn Sink>)
    }
}

const fn is_not_found(result: &Result<Opened, OpenError>) -> bool {
    matches!(result, Err(OpenError::Refused(Refusal::NotFound)))
}

/// `path` without the components that mean nothing, and without a slash before the first.
fn normal(path: &[u8]) -> Vec<u8> {
    let components = path.split(|&octet| octet == b'/');
    components
        .filter(|component| !matches!(*component, b"" | b"."))
        .collect::<Vec<_>>()
        .join(&b'/')
}

/// Whether `..` in `path` asks for what is above the root.
fn climbs_out(path: &[u8]) -> bool {
    let mut components = path.split(|&octet| octet == b'/');
    let depth = components.try_fold(0_usize, |depth, component| match component {
        b".." => depth.checked_sub(1),
        _ => Some(depth + 1),
    });
    depth.is_none()
}

/// `path` as a Windows client means it; `None` if that is the same.
fn slashed(path: &[u8]) -> Option<Vec<u8>> {
    let slashes: Vec<u8> = path
        .iter()
        .map(|&octet| if octet == b'\\' { b'/' } else { octet })
        .collect();
    let rest = match slashes.as_slice() {
        [drive, b':', rest @ ..] if drive.is_ascii_alphabetic() => rest,
        whole => whole,
    };
    let meant = normal(rest);
    (meant != path).then_some(meant)
}

/// The name in `directory` that equals `wanted`, or else does so but for ASCII case: the least such
/// name, so that the answer does not depend on the order that a directory happens to have.
fn name_as_there<'a>(directory: &OwnedFd, wanted: &'a [u8]) -> Result<Cow<'a, [u8]>, Errno> {
    match statat(directory, wanted, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(Cow::Borrowed(wanted)),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let mut least: Option<Vec<u8>> = None;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.eq_ignore_ascii_case(wanted) && least.as_deref().is_none_or(|least| name < least) {
            least = Some(name.to_vec());
        }
    }
    least.map(Cow::Owned).ok_or(Errno::NOENT)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
