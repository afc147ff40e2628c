//! Fuzz target body that looks up names in a served directory and compares the answers with a model of the
//! tree.
//!
//! The tree is created once per process, in its own directory, which the next process removes. Every file
//! contains its own path, so that its contents identify it.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, test_kill_process};

use super::Input;
use crate::store::directory::{Directory, DirectoryOptions};
use crate::store::{Backend, OpenError, Patience, Refusal, Resolver, Writes};

/// Longest path to look up: the kernel's own bound (`PATH_MAX`) is not part of the model.
const PATH_OCTETS_MAX: usize = 4_000;
/// Maximum number of links in one path.
const LINKS_MAX: usize = 40;
/// Dead ends after which a case-insensitive look-up gives up.
const DEAD_ENDS_MAX: usize = 32;
/// Longest file name.
const NAME_OCTETS_MAX: usize = 255;
/// Stands for the root's own path in an input, so that inputs are the same everywhere.
const ROOT: u8 = 1;
/// Stands for the path of the directory around the root in an input.
const AROUND: u8 = 2;
/// Stands for the root's own path in an input, as a Windows client would write it.
const ROOT_OF_WINDOWS: u8 = 3;
/// Prefix of the fixtures of all processes, before their number.
const FIXTURE_PREFIX: &str = "bootstorm-fuzz-path-";
/// The contents of an upload.
const UPLOADED: &[u8] = b"uploaded";

/// Files under the directory around the root: those that are served, and those that must never be.
const FILES: &[&str] = &[
    "root/x",
    "root/.hidden",
    "root/back\\slash",
    "root/c:/w",
    "root/Case",
    "root/CASE",
    "root/cases/Mixed",
    "root/Cases/mixed",
    "root/Cases/only here",
    "root/cases/MIXED.img",
    "root/d/x",
    "root/space and \"quotes\"",
    "root/sub/y",
    "root/sub/x",
    "root/sub/deep/z",
    "root/tmp/x",
    "outside/secret",
    "root-sibling/secret",
    "secret",
];

/// Links under the root, and their targets; [`ROOT`] and [`AROUND`] stand for themselves.
const LINKS: &[(&str, &[u8])] = &[
    ("absolute", b"/sub/y"),
    ("around", b"\x02"),
    ("cases/link", b"../CASE"),
    ("dangling", b"nowhere"),
    ("directory", b"sub"),
    ("directory-slashed", b"sub//"),
    ("file-slashed", b"x/"),
    ("first", b"second"),
    ("loop", b"loop"),
    ("loop-a", b"sub/loop-b"),
    ("magic", b"/proc/self/root"),
    ("outside", b"../outside"),
    ("outside-absolute", b"\x02/outside/secret"),
    ("own", b"\x01/x"),
    ("root", b"/"),
    ("second", b"./third"),
    ("sub/deep/up", b"../../../../../x"),
    ("sub/here", b"."),
    ("sub/loop-b", b"../loop-a"),
    ("sub/out", b"../../outside/secret"),
    ("sub/parent", b".."),
    ("third", b"directory/deep/../y"),
];

/// Pipes under the root: they have no writer, and opening one must not block.
const PIPES: &[&str] = &["pipe", "sub/pipe"];

/// Opening a name gives what a naive model of the tree says, with both ways of looking paths up, or is
/// refused if the model refuses; an upload appears where the model says, or nowhere. Nothing outside the root
/// is in the model.
///
/// The first octet says how the directory is served and what to do; the rest is the name.
pub fn path(octets: &[u8]) {
    let mut input = Input(octets);
    let flags = input.octet();
    let fixture = fixture().lock().unwrap_or_else(PoisonError::into_inner);
    let name = fixture.expanded(input.0);
    if name.len() > PATH_OCTETS_MAX {
        return;
    }
    let insensitive = flags & 1 != 0;
    let directories = &fixture.directories[usize::from(insensitive)];
    if flags & 2 == 0 {
        let expected = fixture.model.open(&name, insensitive);
        for directory in directories {
            assert_opens(directory, &name, &expected);
        }
    } else {
        let expected = fixture.model.create(&name, insensitive);
        for directory in directories {
            fixture.assert_creates(directory, &name, expected.as_deref());
        }
    }
}

fn assert_opens(directory: &Directory, name: &[u8], expected: &Result<Vec<u8>, Refusal>) {
    for patience in [Patience::Long, Patience::Disk, Patience::Now] {
        let found = match directory.open(name, patience) {
            Err(OpenError::WouldBlock) if patience != Patience::Long => continue,
            Err(OpenError::WouldBlock) => panic!("patience was endless"),
            Err(OpenError::Refused(refusal)) => Err(refusal),
            Ok(opened) => {
                let mut octets = vec![0; opened.len as usize];
                assert_eq!(opened.source.read_at(&mut octets, 0), Ok(octets.len()));
                Ok(octets)
            }
        };
        assert_eq!(&found, expected, "{} in {directory:?}", name.escape_ascii());
    }
}

/// The tree on disk, its model, and directories that serve it.
struct Fixture {
    around: Vec<u8>,
    model: Model,
    /// Case-sensitive and case-insensitive, each by the kernel and by walking.
    directories: [[Directory; 2]; 2],
}

fn fixture() -> &'static Mutex<Fixture> {
    static FIXTURE: OnceLock<Mutex<Fixture>> = OnceLock::new();
    FIXTURE.get_or_init(|| Mutex::new(Fixture::new().expect("a temporary directory can be filled")))
}

impl Fixture {
    fn new() -> io::Result<Self> {
        // Uploads are synchronised to the disk, which costs nothing on a memory file system.
        let memory = Path::new("/dev/shm");
        let temporary = if memory.is_dir() {
            memory.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let temporary = temporary.canonicalize()?;
        sweep(&temporary);
        let around = temporary.join(format!("{FIXTURE_PREFIX}{}", std::process::id()));
        let root = around.join("root");
        for file in FILES {
            let place = around.join(file);
            fs::create_dir_all(place.parent().unwrap_or(&around))?;
            fs::write(place, file)?;
        }
        let mut model = Model::new(root.as_os_str().as_bytes());
        let own = around.as_os_str().as_bytes();
        for (link, target) in LINKS {
            let target = expanded(target, own);
            symlink(path_of(&target), root.join(link))?;
            model.add(link.as_bytes(), Node::Link(target));
        }
        for pipe in PIPES {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mkfifoat(rustix::fs::CWD, root.join(pipe), mode)?;
            model.add(pipe.as_bytes(), Node::Pipe);
        }
        let served = |case_insensitive, resolver| {
            let options = DirectoryOptions {
                writes: Writes::Create,
                case_insensitive,
                upload_octets_max: None,
            };
            Directory::with_resolver(&root, options, resolver)
        };
        let both = |case| -> io::Result<_> {
            Ok([
                served(case, Resolver::Kernel)?,
                served(case, Resolver::Walk)?,
            ])
        };
        Ok(Self {
            around: own.to_vec(),
            model,
            directories: [both(false)?, both(true)?],
        })
    }

    fn expanded(&self, name: &[u8]) -> Vec<u8> {
        expanded(name, &self.around)
    }

    /// Uploads to `name`, and removes the file from where the model has it, which is `expected`.
    fn assert_creates(&self, directory: &Directory, name: &[u8], expected: Option<&[u8]>) {
        let created = directory.create(name, None);
        let shown = name.escape_ascii();
        let (mut sink, expected) = match (created, expected) {
            (Ok(sink), Some(expected)) => (sink, expected),
            (Err(_), None) => return,
            (Err(refusal), Some(_)) => panic!("{shown} is {refusal:?} in {directory:?}"),
            (Ok(_), None) => panic!("{shown} may be written in {directory:?}"),
        };
        sink.write(UPLOADED).expect("there is room");
        sink.publish().expect("nobody else has the name");
        let place = path_of(&[&self.around[..], b"/root/", expected].concat());
        assert_eq!(fs::read(&place).ok().as_deref(), Some(UPLOADED), "{shown}");
        fs::remove_file(place).expect("it was there");
    }
}

/// Removes the fixtures of processes that have ended, and of one that had this one's number.
fn sweep(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(FIXTURE_PREFIX));
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        let lives = Pid::from_raw(number)
            .is_some_and(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH));
        if !lives || number as u32 == std::process::id() {
            // Anything that cannot be removed does no harm.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn path_of(octets: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(octets.to_vec()).into()
}

fn expanded(name: &[u8], around: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    for &octet in name {
        match octet {
            ROOT => octets.extend_from_slice(&[around, b"/root"].concat()),
            AROUND => octets.extend_from_slice(around),
            ROOT_OF_WINDOWS => {
                let root = [around, b"/root"].concat();
                octets.extend(root.iter().map(|&octet| match octet {
                    b'/' => b'\\',
                    other => other,
                }));
            }
            other => octets.push(other),
        }
    }
    octets
}

/// A node at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory,
    File,
    Link(Vec<u8>),
    Pipe,
}

/// The tree under the root, and nothing else: each node by its path; the root's path is empty.
struct Model {
    nodes: BTreeMap<Vec<Vec<u8>>, Node>,
    own_path: Vec<Vec<u8>>,
}

impl Model {
    /// Creates the files of [`FILES`] that are under the root, whose own path is `own_path`.
    fn new(own_path: &[u8]) -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            own_path: meaningful(own_path),
        };
        for file in FILES.iter().filter_map(|file| file.strip_prefix("root/")) {
            model.add(file.as_bytes(), Node::File);
        }
        model
    }

    fn add(&mut self, path: &[u8], node: Node) {
        let path = meaningful(path);
        for depth in 0..path.len() {
            self.nodes.insert(path[..depth].to_vec(), Node::Directory);
        }
        self.nodes.insert(path, node);
    }

    /// The result of opening `name`: the file's contents, or the refusal.
    fn open(&self, name: &[u8], insensitive: bool) -> Result<Vec<u8>, Refusal> {
        if name.contains(&0) {
            return Err(Refusal::NotFound);
        }
        let meanings = self.meanings(meaningful(name));
        let exact = meanings.iter().map(|path| self.file(path));
        let respelled = meanings
            .iter()
            .filter(|_| insensitive)
            .filter_map(|path| Some(self.file(&self.respelled(path)?)));
        // A meaning that matches except for case counts, whatever the result.
        exact
            .chain(respelled.take(1))
            .find(|result| *result != Err(Refusal::NotFound))
            .unwrap_or(Err(Refusal::NotFound))
    }

    /// Where an upload to `name` appears, if it is allowed.
    fn create(&self, name: &[u8], insensitive: bool) -> Option<Vec<u8>> {
        if name.contains(&0) {
            return None;
        }
        let mut path = meaningful(name);
        if path.iter().flatten().any(|&octet| octet == b'\\') {
            path = windows(&path);
        }
        let created = self
            .meanings(path)
            .into_iter()
            .map(|path| self.create_path(&path, insensitive))
            .find(|created| *created != Err(Refusal::NotFound))?;
        created.ok().map(|place| place.join(&b'/'))
    }

    /// The possible meanings of a name: itself, or as Windows reads it, and either without the root's own
    /// path.
    fn meanings(&self, plain: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
        let both = [plain.clone(), windows(&plain)];
        let each = both.map(|path| [Some(path.clone()), self.without_own_path(&path)]);
        each.into_iter().flatten().flatten().collect()
    }

    fn create_path(&self, path: &[Vec<u8>], insensitive: bool) -> Result<Vec<Vec<u8>>, Refusal> {
        let is_file = |name: &[u8]| !matches!(name, b"" | b"..");
        let Some((name, parent)) = path.split_last().filter(|(name, _)| is_file(name)) else {
            return Err(Refusal::Denied);
        };
        // At no point may there be more ways up than down.
        let mut depth = 0;
        for component in parent {
            depth += if component == b".." { -1 } else { 1 };
            if depth < 0 {
                return Err(Refusal::Denied);
            }
        }
        let parent = match insensitive {
            true => self.respelled(parent).ok_or(Refusal::NotFound)?,
            false => parent.to_vec(),
        };
        let mut place = self.resolve(&parent)?;
        if self.nodes.get(&place) != Some(&Node::Directory) {
            return Err(Refusal::NotFound);
        }
        let there = if insensitive {
            self.respelled_in(&place, name).into_iter().next()
        } else {
            None
        };
        place.push(there.unwrap_or_else(|| name.clone()));
        match self.nodes.get(&place) {
            None if name.len() <= NAME_OCTETS_MAX => Ok(place),
            None => Err(Refusal::NotFound),
            Some(Node::File | Node::Link(_)) => Err(Refusal::Exists),
            Some(_) => Err(Refusal::Denied),
        }
    }

    fn file(&self, path: &[Vec<u8>]) -> Result<Vec<u8>, Refusal> {
        let place = self.resolve(path)?;
        match self.nodes.get(&place) {
            Some(Node::File) => Ok([b"root/", &place.join(&b'/')[..]].concat()),
            Some(_) => Err(Refusal::Denied),
            None => Err(Refusal::NotFound),
        }
    }

    /// Follows links as if the root were the whole file system.
    fn resolve(&self, path: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut here: Vec<Vec<u8>> = Vec::new();
        let mut rest: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut links = 0;
        while let Some(component) = rest.pop_front() {
            match self.nodes.get(&here) {
                Some(Node::Directory) => {}
                // Nothing is below a file, not even itself.
                _ => return Err(Refusal::NotFound),
            }
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(component),
            }
            if let Some(Node::Link(target)) = self.nodes.get(&here) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Refusal::Denied);
                }
                here.pop();
                if target.starts_with(b"/") {
                    here.clear();
                }
                let target = target.split(|&octet| octet == b'/').map(<[u8]>::to_vec);
                rest = target.chain(rest).collect();
            }
        }
        Ok(here)
    }

    /// The path with every component spelled as on disk; `None` if one does not exist.
    fn respelled(&self, path: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        self.respelled_below(Vec::new(), path, &mut 0)
    }

    fn respelled_below(
        &self,
        found: Vec<Vec<u8>>,
        rest: &[Vec<u8>],
        dead_ends: &mut usize,
    ) -> Option<Vec<Vec<u8>>> {
        let Some((component, rest)) = rest.split_first() else {
            return Some(found);
        };
        let spellings = match component.as_slice() {
            b"" | b".." => vec![component.clone()],
            _ => self
                .resolve(&found)
                .map(|here| self.respelled_in(&here, component))
                .unwrap_or_default(),
        };
        *dead_ends += usize::from(spellings.is_empty());
        spellings.into_iter().find_map(|spelling| {
            if *dead_ends >= DEAD_ENDS_MAX {
                return None;
            }
            let found = [&found[..], &[spelling]].concat();
            self.respelled_below(found, rest, dead_ends)
        })
    }

    /// The name itself if it exists, then those that differ only in case, in ascending order.
    fn respelled_in(&self, here: &[Vec<u8>], name: &[u8]) -> Vec<Vec<u8>> {
        let siblings = self
            .nodes
            .keys()
            .filter_map(|path| path.split_last())
            .filter(|(_, parent)| *parent == here)
            .map(|(name, _)| name);
        let mut alike: Vec<_> = siblings
            .filter(|sibling| sibling.eq_ignore_ascii_case(name))
            .cloned()
            .collect();
        alike.sort_by_key(|sibling| (sibling != name, sibling.clone()));
        alike
    }

    fn without_own_path(&self, path: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        path.strip_prefix(self.own_path.as_slice())
            .map(<[_]>::to_vec)
    }
}

/// The significant components; an empty one at the end denotes a directory.
fn meaningful(path: &[u8]) -> Vec<Vec<u8>> {
    let means_nothing = |component: &[u8]| matches!(component, b"" | b".");
    let all: Vec<&[u8]> = path.split(|&octet| octet == b'/').collect();
    let mut some = all.clone();
    some.retain(|component| !means_nothing(component));
    if !some.is_empty() && all.last().is_some_and(|last| means_nothing(last)) {
        some.push(b"");
    }
    some.into_iter().map(<[u8]>::to_vec).collect()
}

/// A path as Windows reads it: without its drive, and with either slash.
fn windows(path: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut whole = path.join(&b'/');
    if whole.get(1) == Some(&b':') && whole[0].is_ascii_alphabetic() {
        whole.drain(..2);
    }
    let slashes: Vec<u8> = whole
        .iter()
        .map(|&octet| if octet == b'\\' { b'/' } else { octet })
        .collect();
    meaningful(&slashes)
}
