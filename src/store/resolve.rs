//! Resolves paths under a root directory, so that neither a link nor `..` leads out of it.
//!
//! On Linux the kernel does this: `openat2` with `RESOLVE_IN_ROOT` (5.6) treats the root as `/`, so that
//! absolute names and links inside the tree work and nothing leaves it, whatever is renamed meanwhile. Where
//! that is missing or forbidden, or where so many renames happen anywhere that the kernel cannot verify a
//! `..`, the path is walked component by component: no component is ever opened through a link, and links
//! are read and followed in user space.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

#[cfg(target_os = "linux")]
use rustix::fs::ResolveFlags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::fs::{fstat, open, openat, readlinkat, statat};
use rustix::io::Errno;

use super::Patience;
use super::remote::LocalDevices;

/// Limit of links in one path, as in Linux (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Limit of components in a path, including those of links: bounds the work that one name can cause.
const COMPONENTS_MAX: usize = 4096;

/// Limit of directory depth in a path; each level needs a descriptor for a moment.
const DEPTH_MAX: usize = 128;

/// How often a lookup is tried that renames disturb.
const ATTEMPTS_MAX: usize = 16;

/// A directory opened only as a starting point: neither read nor written.
#[cfg(target_os = "linux")]
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A file to read. Opening a FIFO without a writer does not block, and no terminal becomes ours.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// How the kernel resolves paths: nothing leads out.
#[cfg(target_os = "linux")]
const CONFINED: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How paths are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// By the kernel where it can, otherwise by `Walk`.
    Kernel,
    /// Component by component.
    Walk,
}

/// A root directory. It stays the same even if its name is given to another.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    resolver: Resolver,
    local: LocalDevices,
    /// Whether calls on the root itself wait for a local disk at most.
    is_local: bool,
}

/// A file that was opened.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    /// Whether calls on it may wait for more than a local disk.
    pub(super) is_remote: bool,
}

impl Tree {
    pub(super) fn open(root: &Path, resolver: Resolver) -> Result<Self, Errno> {
        let root = open(root, DIRECTORY, Mode::empty())?;
        let local = LocalDevices::default();
        let is_local = local.find_out(&root, device(&fstat(&root)?));
        Ok(Self {
            root,
            resolver,
            local,
            is_local,
        })
    }

    /// Opens the regular file at `path`; anything else there is `EACCES`. `EAGAIN` means that it may take more
    /// patience, unless that was all there is.
    ///
    /// The file is checked before it is opened, since opening alone can affect a device. The opened file is
    /// checked again, in case it changed in between, and that result counts.
    pub(super) fn file(&self, path: &[u8], patience: Patience) -> Result<Found, Errno> {
        if patience != Patience::Long && !self.is_local {
            return Err(Errno::AGAIN);
        }
        let file = match (self.file_by_kernel(path, patience), patience) {
            (Err(Errno::NOSYS | Errno::PERM | Errno::INVAL), Patience::Now) => Err(Errno::AGAIN),
            // It leads to another file system.
            (Err(Errno::XDEV), Patience::Disk) => Err(Errno::AGAIN),
            (Err(Errno::NOSYS | Errno::PERM), Patience::Disk) => self.file_by_walk(path),
            (Err(errno), Patience::Long) if is_for_the_walk(errno) => self.file_by_walk(path),
            (other, _) => other,
        }?;
        let stat = fstat(&file)?;
        regular(stat.st_mode)?;
        let is_local = match patience {
            Patience::Now => self.local.know(device(&stat)),
            Patience::Disk | Patience::Long => self.local.find_out(&file, device(&stat)),
        };
        Ok(Found {
            file: file.into(),
            is_remote: !is_local,
        })
    }

    /// Opens the directory at `path` as a starting point. `EAGAIN` as for [`Self::file`].
    pub(super) fn directory(&self, path: &[u8], patience: Patience) -> Result<OwnedFd, Errno> {
        match self.by_kernel(path, DIRECTORY, patience) {
            Err(Errno::XDEV | Errno::AGAIN) if patience == Patience::Disk => Err(Errno::AGAIN),
            Err(errno) if is_for_the_walk(errno) => match self.walk(path)? {
                Place { name: Some(_), .. } => Err(Errno::NOTDIR),
                Place {
                    directory: Some(directory),
                    name: None,
                } => Ok(directory),
                Place {
                    directory: None,
                    name: None,
                } => openat(&self.root, ".", DIRECTORY, Mode::empty()),
            },
            other => other,
        }
    }

    #[cfg(target_os = "linux")]
    fn file_by_kernel(&self, path: &[u8], patience: Patience) -> Result<OwnedFd, Errno> {
        let seen = self.by_kernel(path, OFlags::PATH | OFlags::CLOEXEC, patience)?;
        match patience {
            Patience::Now => self.check_now(&seen)?,
            Patience::Disk | Patience::Long => regular(fstat(&seen)?.st_mode)?,
        }
        self.by_kernel(path, FILE, patience)
    }

    /// Checks by what the kernel has cached that this is a regular file on a local file system.
    #[cfg(target_os = "linux")]
    fn check_now(&self, seen: &OwnedFd) -> Result<(), Errno> {
        use rustix::fs::{StatxFlags, makedev, statx};

        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(seen, "", flags, StatxFlags::TYPE)?;
        if !self
            .local
            .know(makedev(stat.stx_dev_major, stat.stx_dev_minor))
        {
            return Err(Errno::AGAIN);
        }
        regular(stat.stx_mode.into())
    }

    #[cfg(not(target_os = "linux"))]
    fn file_by_kernel(&self, _: &[u8], _: Patience) -> Result<OwnedFd, Errno> {
        Err(Errno::NOSYS)
    }

    /// `ENOSYS` and `EPERM` mean that the kernel lacks this call, or a sandbox forbids it.
    #[cfg(target_os = "linux")]
    fn by_kernel(&self, path: &[u8], flags: OFlags, patience: Patience) -> Result<OwnedFd, Errno> {
        use rustix::fs::openat2;

        if self.resolver == Resolver::Walk {
            return Err(Errno::NOSYS);
        }
        let (resolve, attempts) = match patience {
            Patience::Now => (CONFINED | ResolveFlags::CACHED, 1),
            // What is mounted below the root may be remote.
            Patience::Disk => (CONFINED | ResolveFlags::NO_XDEV, ATTEMPTS_MAX),
            Patience::Long => (CONFINED, ATTEMPTS_MAX),
        };
        for _ in 0..attempts {
            // EAGAIN means that a rename raced with a `..`, so that the kernel cannot verify it.
            match openat2(&self.root, named(path), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    #[cfg(not(target_os = "linux"))]
    fn by_kernel(&self, _: &[u8], _: OFlags, _: Patience) -> Result<OwnedFd, Errno> {
        Err(Errno::NOSYS)
    }

    fn file_by_walk(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let Place {
            directory,
            name: Some(name),
        } = self.walk(path)?
        else {
            return Err(Errno::ACCESS);
        };
        let directory = directory.as_ref().unwrap_or(&self.root);
        regular(statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?.st_mode)?;
        openat(
            directory,
            name.as_slice(),
            FILE | OFlags::NOFOLLOW,
            Mode::empty(),
        )
    }

    /// Follows `path` as far as it leads through directories.
    fn walk(&self, path: &[u8]) -> Result<Place, Errno> {
        for _ in 0..ATTEMPTS_MAX {
            match self.walk_once(path) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// `EAGAIN` means that a component was replaced during the walk.
    fn walk_once(&self, path: &[u8]) -> Result<Place, Errno> {
        // The directories entered from the root, so that `..` returns the way it came.
        let mut below: Vec<OwnedFd> = Vec::new();
        let mut rest: Vec<Vec<u8>> = Vec::new();
        push_components(&mut rest, path);
        let mut links = 0;
        let mut components = 0;
        while let Some(component) = rest.pop() {
            components += 1;
            if components > COMPONENTS_MAX || below.len() >= DEPTH_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    below.pop();
                    continue;
                }
                _ => {}
            }
            let here = below.last().unwrap_or(&self.root).as_fd();
            let stat = statat(here, component.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = DIRECTORY | OFlags::NOFOLLOW;
                    let directory = openat(here, component.as_slice(), flags, Mode::empty())
                        .map_err(exchanged)?;
                    below.push(directory);
                }
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = readlinkat(here, component.as_slice(), Vec::new())
                        .map_err(exchanged)?
                        .into_bytes();
                    if target.first() == Some(&b'/') {
                        below.clear();
                    }
                    push_components(&mut rest, &target);
                }
                _ if rest.is_empty() => {
                    return Ok(Place {
                        directory: below.pop(),
                        name: Some(component),
                    });
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(Place {
            directory: below.pop(),
            name: None,
        })
    }
}

/// Whether the kernel's error says nothing about the path: the call is missing, forbidden, or was disturbed
/// each time.
const fn is_for_the_walk(errno: Errno) -> bool {
    matches!(errno, Errno::NOSYS | Errno::PERM | Errno::AGAIN)
}

/// Where a walk ended.
struct Place {
    /// The last directory; `None` is the root.
    directory: Option<OwnedFd>,
    /// The last name, neither a directory nor a link; `None` if the path is the directory itself.
    name: Option<Vec<u8>>,
}

/// Pushes the components of `path` onto the stack `rest`, the first on top.
fn push_components(rest: &mut Vec<Vec<u8>>, path: &[u8]) {
    rest.extend(path.split(|&octet| octet == b'/').rev().map(<[u8]>::to_vec));
}

/// Maps the errors of a directory or link that was replaced before it was opened or read.
const fn exchanged(errno: Errno) -> Errno {
    match errno {
        Errno::NOTDIR | Errno::LOOP | Errno::INVAL => Errno::AGAIN,
        other => other,
    }
}

/// The path as the kernel wants the root to be called.
#[cfg(target_os = "linux")]
fn named(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// The number of the file system's device.
#[allow(clippy::unnecessary_cast)] // Not everywhere 64 bits.
fn device(stat: &Stat) -> u64 {
    stat.st_dev as u64
}

fn regular(mode: rustix::fs::RawMode) -> Result<(), Errno> {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// The result of opening `path` under `root` by a walk.
    fn walked(root: &Path, path: &str) -> Result<(), Errno> {
        let tree = Tree::open(root, Resolver::Walk).expect("a directory");
        tree.file(path.as_bytes(), Patience::Long).map(drop)
    }

    /// Goal: the work of a walk is bounded for any name, and each bound is exact.
    #[test]
    fn a_walk_has_an_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        fs::write(root.join("file"), "text").expect("a file");

        let here = |count| "./".repeat(count) + "file";
        assert_eq!(walked(root, &here(COMPONENTS_MAX - 1)), Ok(()));
        let refused = walked(root, &here(COMPONENTS_MAX));
        assert_eq!(refused, Err(Errno::NAMETOOLONG));

        let down = |count| "d/".repeat(count);
        fs::create_dir_all(root.join(down(DEPTH_MAX))).expect("directories");
        for depth in [DEPTH_MAX - 1, DEPTH_MAX] {
            fs::write(root.join(down(depth)).join("file"), "text").expect("a file");
        }
        assert_eq!(walked(root, &(down(DEPTH_MAX - 1) + "file")), Ok(()));
        let refused = walked(root, &(down(DEPTH_MAX) + "file"));
        assert_eq!(refused, Err(Errno::NAMETOOLONG));

        for link in 0..=LINKS_MAX {
            let target = if link == 0 {
                "file".to_owned()
            } else {
                (link - 1).to_string()
            };
            symlink(target, root.join(link.to_string())).expect("a link");
        }
        assert_eq!(walked(root, &(LINKS_MAX - 1).to_string()), Ok(()));
        let refused = walked(root, &LINKS_MAX.to_string());
        assert_eq!(refused, Err(Errno::LOOP));
    }

    /// Goal: no program started while a file is open inherits it.
    #[test]
    fn what_is_opened_is_closed_on_exec() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("file"), "text").expect("a file");
        for resolver in [Resolver::Kernel, Resolver::Walk] {
            let tree = Tree::open(directory.path(), resolver).expect("a directory");
            let file = tree.file(b"file", Patience::Long).expect("a file").file;
            let flags = rustix::io::fcntl_getfd(&file).expect("flags");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{resolver:?}");
        }
    }

    /// `EAGAIN` asks to retry with more patience: at full patience, that would never end.
    #[test]
    fn a_name_that_nothing_can_have_is_refused_to_the_patient() {
        let directory = tempfile::tempdir().expect("a directory");
        for resolver in [Resolver::Kernel, Resolver::Walk] {
            let tree = Tree::open(directory.path(), resolver).expect("a directory");
            let refused = tree.file(b"a\0b", Patience::Long).map(drop);
            assert_eq!(refused, Err(Errno::INVAL));
        }
    }
}
