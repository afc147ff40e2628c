//! A served directory tree: resolves names as clients write them, only under its root.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::file::{FileSink, Terms, is_hidden_name, name_refusal, opened, write_refusal};
use super::resolve::{Resolver, Tree};
use super::{Backend, OpenError, Opened, Patience, Refusal, Sink, Writes};

/// How many dead ends a case-insensitive lookup meets before it gives up: limits the work that one name can
/// cause where directories differ only in case.
const DEAD_ENDS_MAX: usize = 32;

/// How a directory is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectoryOptions {
    /// What clients may write.
    pub writes: Writes,
    /// Whether a name that is not found is looked up again ignoring ASCII case.
    pub case_insensitive: bool,
    /// Limit of octets per upload.
    pub upload_octets_max: Option<u64>,
}

/// Serves the regular files under a directory.
///
/// A name is a path under the root; leading and repeated slashes and `.` are ignored, and `..` stops at the
/// root. A trailing slash means a directory, and those are neither read nor written. Only if all that finds
/// nothing, the name is tried as one that begins with the root's own path, then with `\` for `/` and without
/// a drive letter, both ways again, and finally, if enabled, ignoring case.
#[derive(Debug)]
pub struct Directory {
    tree: Tree,
    /// The root's own path, as given and canonical, without the leading slash.
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

    /// The same, with the given way of resolving paths.
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
            // A directory without search permission can be opened as a starting point, but serves nothing.
            .and_then(|tree| tree.directory(b"", Patience::Long).map(|_| tree))
            .map_err(io::Error::from)
            .map_err(clear)?;
        let mut own_paths: Vec<Vec<u8>> = [root.to_path_buf(), root.canonicalize().map_err(clear)?]
            .iter()
            .filter(|path| path.is_absolute())
            .map(|path| normal(path.as_os_str().as_bytes()))
            .map(|path| path.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(path))
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
        let found = self
            .tree
            .file(path, patience)
            .map_err(|errno| match (errno, patience) {
                (Errno::AGAIN, Patience::Now | Patience::Disk) => OpenError::WouldBlock,
                (errno, _) => name_refusal(errno).into(),
            })?;
        opened(found.file, found.is_remote).map_err(|error| write_refusal(&error).into())
    }

    /// The possible meanings of `plain`, and of `slashed`, its form from a Windows client: the path itself,
    /// or, if it begins with the root's own path, the rest.
    fn meanings<'a>(
        &self,
        plain: &'a [u8],
        slashed: Option<&'a [u8]>,
    ) -> impl Iterator<Item = &'a [u8]> {
        let meanings = [
            Some(plain),
            self.own_path_stripped(plain),
            slashed,
            slashed.and_then(|slashed| self.own_path_stripped(slashed)),
        ];
        meanings.into_iter().flatten()
    }

    fn own_path_stripped<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        let stripped = |own: &Vec<u8>| match path.strip_prefix(own.as_slice())? {
            b"" => Some(&b""[..]),
            below => below.strip_prefix(b"/"),
        };
        self.own_paths.iter().find_map(stripped)
    }

    /// The existing path that differs from `path` only in case. Each component is tried as it is first, then
    /// in each existing spelling, because the file may be in any of those directories.
    fn spelled_as_there(&self, path: &[u8], patience: Patience) -> Result<Vec<u8>, Errno> {
        let components: Vec<&[u8]> = path
            .split(|&octet| octet == b'/')
            .filter(|component| !component.is_empty())
            .collect();
        let mut found: Vec<Vec<u8>> = Vec::new();
        // For each component found so far, and for the next, the spellings still to try.
        let mut untried: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut failure = Errno::NOENT;
        let mut dead_ends = 0;
        while let Some(&component) = components.get(found.len()) {
            let spellings = match component {
                b".." => Ok(vec![component.to_vec()]),
                _ => self
                    .tree
                    .directory(&found.join(&b'/'), patience)
                    .and_then(|directory| names_as_there(&directory, component)),
            };
            let spellings = spellings.or_else(|errno| match errno {
                // The lookup was not made.
                Errno::MFILE | Errno::NFILE | Errno::AGAIN => Err(errno),
                // A directory in the way says more than a missing file.
                _ => {
                    if failure == Errno::NOENT {
                        failure = errno;
                    }
                    Ok(Vec::new())
                }
            })?;
            if spellings.is_empty() {
                dead_ends += 1;
                if dead_ends == DEAD_ENDS_MAX {
                    return Err(failure);
                }
            }
            untried.push(spellings);
            let next = loop {
                let Some(spellings) = untried.last_mut() else {
                    return Err(failure);
                };
                match spellings.pop() {
                    Some(next) => break next,
                    None => drop(untried.pop()),
                }
            };
            found.truncate(untried.len() - 1);
            found.push(next);
        }
        let mut found = found.join(&b'/');
        if path.ends_with(b"/") {
            found.push(b'/');
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
        let (directory, name) = if self.options.case_insensitive {
            let parent = self.spelled_as_there(parent, Patience::Long)?;
            let directory = self.tree.directory(&parent, Patience::Long)?;
            let there = names_as_there(&directory, name)?.pop();
            (directory, there.map_or(Cow::Borrowed(name), Cow::Owned))
        } else {
            let directory = self.tree.directory(parent, Patience::Long)?;
            (directory, Cow::Borrowed(name))
        };
        if is_hidden_name(&name) {
            return Err(Errno::ACCESS);
        }
        // A link occupies the name, wherever it leads.
        if !terms.replaces && is_link(&directory, &name) {
            return Err(Errno::EXIST);
        }
        FileSink::create(directory, &name, terms)
    }
}

impl Backend for Directory {
    fn open(&self, name: &[u8], patience: Patience) -> Result<Opened, OpenError> {
        if name.contains(&0) {
            return Err(Refusal::NotFound.into());
        }
        let plain = normal(name);
        let slashed = slashed(&plain);
        for path in self.meanings(&plain, slashed.as_deref()) {
            let result = self.open_path(path, patience);
            if !is_not_found(&result) {
                return result;
            }
        }
        if self.options.case_insensitive {
            // This has to read directories.
            if patience == Patience::Now {
                return Err(OpenError::WouldBlock);
            }
            for path in self.meanings(&plain, slashed.as_deref()) {
                match self.spelled_as_there(path, patience) {
                    Ok(path) => return self.open_path(&path, patience),
                    Err(Errno::AGAIN) if patience == Patience::Disk => {
                        return Err(OpenError::WouldBlock);
                    }
                    // Whether it exists was not checked.
                    Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::AGAIN)) => {
                        return Err(name_refusal(errno).into());
                    }
                    Err(_) => {}
                }
            }
        }
        Err(Refusal::NotFound.into())
    }

    /// A name for writing means the same as one for reading, except that `\` always separates: a backslash
    /// in a new file's name is never intended. Nor is a file outside the root meant to end up inside, so
    /// `..` at the root is refused. Directories are never created.
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
        let mut plain = normal(name);
        if plain.contains(&b'\\') {
            plain = slashed(&plain).unwrap_or(plain);
        }
        let slashed = slashed(&plain);
        let created = self
            .meanings(&plain, slashed.as_deref())
            .map(|path| self.create_path(path, terms).map_err(name_refusal))
            .find(|created| !matches!(created, Err(Refusal::NotFound)))
            .unwrap_or(Err(Refusal::NotFound));
        created.map(|sink| Box::new(sink) as Box<dyn Sink>)
    }
}

const fn is_not_found(result: &Result<Opened, OpenError>) -> bool {
    matches!(result, Err(OpenError::Refused(Refusal::NotFound)))
}

/// `path` without components that mean nothing and without leading slashes; a trailing slash, which means a
/// directory, stays.
fn normal(path: &[u8]) -> Vec<u8> {
    let means_nothing = |component: &&[u8]| matches!(*component, b"" | b".");
    let components = path.split(|&octet| octet == b'/');
    let is_directory = components
        .clone()
        .next_back()
        .is_some_and(|last| means_nothing(&last));
    let mut normal = components
        .filter(|component| !means_nothing(component))
        .collect::<Vec<_>>()
        .join(&b'/');
    if is_directory && !normal.is_empty() {
        normal.push(b'/');
    }
    normal
}

/// Whether `..` in `path` leads above the root.
fn climbs_out(path: &[u8]) -> bool {
    let mut components = path.split(|&octet| octet == b'/');
    let depth = components.try_fold(0_usize, |depth, component| match component {
        b".." => depth.checked_sub(1),
        _ => Some(depth + 1),
    });
    depth.is_none()
}

/// `path` in the form that a Windows client means; `None` if that is the same.
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

/// Whether `name` in `directory` is a link.
fn is_link(directory: &OwnedFd, name: &[u8]) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// The names in `directory` that equal `wanted` except for ASCII case, the first to try at the end: an exact
/// match, or else the least, so that the result does not depend on the order of directory entries.
fn names_as_there(directory: &OwnedFd, wanted: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let exact = is_there(directory, wanted)?.then(|| wanted.to_vec());
    let alike = |name: &[u8]| name != wanted && name.eq_ignore_ascii_case(wanted);
    let list = || -> Result<Vec<Vec<u8>>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::new(openat(directory, ".", flags, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if alike(name) {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    };
    let mut names = match list() {
        // Search permission without read permission reveals no other names.
        Err(Errno::ACCESS) if exact.is_some() => Vec::new(),
        names => names?,
    };
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.extend(exact);
    Ok(names)
}

/// Whether there is something of this name. It is found, but not looked at: a file system that does not answer may be
/// mounted there.
#[cfg(target_os = "linux")]
fn is_there(directory: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(not(target_os = "linux"))]
fn is_there(directory: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
