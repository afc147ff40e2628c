//! A directory tree that is served: names as clients write them, found under its root and nowhere else.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::file::{FileSink, Terms, name_refusal, opened, write_refusal};
use super::resolve::{Resolver, Tree};
use super::{Backend, OpenError, Opened, Patience, Refusal, Sink, Writes};

/// How often a look-up without regard to case comes to where nothing is called so before it gives up: a bound on
/// the work that one name can cause where directories differ in case alone.
const DEAD_ENDS_MAX: usize = 32;

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
/// at the root. A slash at the end makes it a directory's name, and those are neither read nor written. Only
/// where all that finds nothing, the name is tried as one that begins with the root's own path, then with `\`
/// for `/` and without a drive letter, both ways again, and at last, if wanted, without regard to case.
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
        let file = self
            .tree
            .file(path, patience)
            .map_err(|errno| match (errno, patience) {
                (Errno::AGAIN, Patience::Now) => OpenError::WouldBlock,
                (errno, _) => name_refusal(errno).into(),
            })?;
        opened(file).map_err(|error| write_refusal(&error).into())
    }

    /// What a client may mean by `plain`, and by `slashed`, the same as a Windows client means it: the path
    /// itself, or what follows the root's own where it begins so.
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

    /// The path that is there and differs from `path` in case alone. Each component is tried as it is first,
    /// and then in each spelling that is there, for what is sought may be in any of them.
    fn spelled_as_there(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let components: Vec<&[u8]> = path
            .split(|&octet| octet == b'/')
            .filter(|component| !component.is_empty())
            .collect();
        let mut found: Vec<Vec<u8>> = Vec::new();
        // For each component of what was found, and for the next, the spellings that are still to be tried.
        let mut untried: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut failure = Errno::NOENT;
        let mut dead_ends = 0;
        while let Some(&component) = components.get(found.len()) {
            let spellings = match component {
                b".." => Ok(vec![component.to_vec()]),
                _ => self
                    .tree
                    .directory(&found.join(&b'/'))
                    .and_then(|directory| names_as_there(&directory, component)),
            };
            let spellings = spellings.or_else(|errno| match errno {
                // Nobody looked what is there.
                Errno::MFILE | Errno::NFILE => Err(errno),
                // A directory that is in the way tells more than one that is not there.
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
            let directory = self.tree.directory(&self.spelled_as_there(parent)?)?;
            let there = names_as_there(&directory, name)?.pop();
            (directory, there.map_or(Cow::Borrowed(name), Cow::Owned))
        } else {
            (self.tree.directory(parent)?, Cow::Borrowed(name))
        };
        // A link has the name, wherever it leads.
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
            // Directories have to be read through for this.
            if patience == Patience::Now {
                return Err(OpenError::WouldBlock);
            }
            for path in self.meanings(&plain, slashed.as_deref()) {
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

/// `path` without the components that mean nothing, and without a slash before the first; one behind the last
/// says that a directory is meant.
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

/// Whether `name` in `directory` is a link.
fn is_link(directory: &OwnedFd, name: &[u8]) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// The names in `directory` that equal `wanted` but for ASCII case, the first to be tried at the end: that
/// which equals it, or else the least, so that the answer does not depend on the order that a directory
/// happens to have.
fn names_as_there(directory: &OwnedFd, wanted: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let exact = match statat(directory, wanted, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Some(wanted.to_vec()),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(errno),
    };
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
        // What may be entered but not read shows no others.
        Err(Errno::ACCESS) if exact.is_some() => Vec::new(),
        names => names?,
    };
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.extend(exact);
    Ok(names)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
