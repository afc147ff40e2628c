//! File systems that stop answering, as a network file system does whose server is gone. Method: one in user
//! space (FUSE), served by the test.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::dup;

use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::peer::{self, DATA, ERROR, Peer, RRQ, number, oack, opcode, request};
use crate::common::require_path;
use crate::works;

on_both_engines! {
    a_remote_directory_that_hangs
    a_remote_root_that_hangs
    a_remote_directory_that_hangs_in_any_case
}

/// More requests, and more readers, than there are threads that read.
const REQUESTS: usize = 20;
const READERS: usize = 6;
/// More files than the server holds open for those who come next.
const LOCAL_FILES: usize = 100;

/// Goal: a file system that stops answering holds up those who read from it; everyone else is served as before, also
/// what nobody has asked for yet, while files on it are opened, read and closed. Once it answers, all goes on.
fn a_remote_directory_that_hangs(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let far = root.path().join("far");
    fs::create_dir(&far).expect("a directory");
    for number in 0..LOCAL_FILES {
        let name = root.path().join(number.to_string());
        fs::write(name, number.to_string()).expect("a file");
    }
    let contents = peer::octets(1, 3_000);
    let large = peer::octets(2, 200_000);
    let files = [
        (c"file", contents.clone()),
        (c"other", contents.clone()),
        (c"large", large.clone()),
    ];
    let Some((remote, server)) = start(engine, root.path(), &far, &files, &[]) else {
        return;
    };
    for _ in 0..2 {
        assert!(peer::fetch(server.address, "far/file").as_ref() == Ok(&contents));
    }
    // It is held open, and closed as others come.
    assert!(peer::fetch(server.address, "far/other").as_ref() == Ok(&contents));
    // One in the middle of a transfer, and many that begin one.
    let mut reader = begin(&server, "far/file");
    assert_eq!(opcode(&reader.receive()), DATA);
    // Some that have begun to read, each other packets than the others.
    let mut readers = Vec::new();
    for number in 0..READERS {
        let blksize = 1_024 + 8 * number;
        let reader = Peer::new(server.address);
        let options = [("blksize", &*blksize.to_string())];
        reader.send(&request(RRQ, b"far/large", &options));
        readers.push((reader, blksize));
    }
    for (reader, blksize) in &mut readers {
        assert_eq!(oack(&reader.receive()), [format!("blksize={blksize}")]);
    }
    let hanging = remote.hang();
    for (reader, _) in &readers {
        reader.ack(0);
    }
    let mut waiting: Vec<Peer> = (0..REQUESTS).map(|_| begin(&server, "far/file")).collect();
    waiting.push(begin(&server, "far/none"));
    for number in 0..LOCAL_FILES {
        let fetched = peer::fetch(server.address, &number.to_string());
        assert_eq!(fetched, Ok(number.to_string().into_bytes()));
    }
    assert_eq!(
        peer::fetch(server.address, "none").map_err(|(code, _)| code),
        Err(1)
    );
    drop(hanging);

    reader.ack(1);
    assert!(reader.rest(512, 2).as_deref() == Ok(&contents[512..]));
    for (mut reader, blksize) in readers {
        assert!(reader.rest(blksize, 1).as_ref() == Ok(&large));
    }
    let mut missing = waiting.pop().expect("the last");
    let refused = missing.receive();
    assert_eq!((opcode(&refused), number(&refused)), (ERROR, 1));
    for mut peer in waiting {
        assert!(peer.rest(512, 1).as_ref() == Ok(&contents));
    }
    assert!(peer::fetch(server.address, "far/file").as_ref() == Ok(&contents));
}

/// Goal: where all files are on such a file system, the server still answers what needs none of them.
fn a_remote_root_that_hangs(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, 3_000);
    let files = [(c"file", contents.clone())];
    let Some((remote, server)) = start(engine, root.path(), root.path(), &files, &[]) else {
        return;
    };
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&contents));
    let hanging = remote.hang();
    let waiting: Vec<Peer> = (0..REQUESTS).map(|_| begin(&server, "file")).collect();
    let mut other = Peer::new(server.address);
    other.send(b"\0\x01file\0mail\0");
    assert_eq!(opcode(&other.receive()), ERROR);
    drop(hanging);
    for mut peer in waiting {
        assert!(peer.rest(512, 1).as_ref() == Ok(&contents));
    }
}

/// Goal: the same where names are looked up in any case, and local directories are listed for that.
fn a_remote_directory_that_hangs_in_any_case(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let far = root.path().join("far");
    fs::create_dir(&far).expect("a directory");
    fs::write(root.path().join("Near"), "near").expect("a file");
    let contents = peer::octets(1, 3_000);
    let files = [(c"file", contents.clone())];
    let started = start(engine, root.path(), &far, &files, &["--case-insensitive"]);
    let Some((remote, server)) = started else {
        return;
    };
    assert!(peer::fetch(server.address, "FAR/file").as_ref() == Ok(&contents));
    let hanging = remote.hang();
    let waiting: Vec<Peer> = (0..REQUESTS).map(|_| begin(&server, "FAR/file")).collect();
    for name in ["near", "NEAR", "nEAR"] {
        assert_eq!(peer::fetch(server.address, name), Ok(b"near".to_vec()));
        let refused = peer::fetch(server.address, "far-away").map_err(|(code, _)| code);
        assert_eq!(refused, Err(1));
    }
    drop(hanging);
    for mut peer in waiting {
        assert!(peer.rest(512, 1).as_ref() == Ok(&contents));
    }
}

/// A client that has asked for a file.
fn begin(server: &Binary, name: &str) -> Peer {
    let peer = Peer::new(server.address);
    peer.send(&request(RRQ, name.as_bytes(), &[]));
    peer
}

/// A remote file system with these files, and a server of `root` that alone sees it, at `at`. The
/// server is to be dropped first: the file system ends with it.
fn start(
    engine: Engine,
    root: &Path,
    at: &Path,
    files: &[Named],
    arguments: &[&str],
) -> Option<(Remote, Binary)> {
    require_path("/dev/fuse", "fuse3")?;
    let unshare = ["unshare", "--mount", "--propagation", "private"];
    if !works(&[&unshare[..], &["true"]].concat()) {
        return None;
    }
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .expect("it");
    // The program that mounts inherits this one.
    let inherited = dup(&device).expect("a descriptor");
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        inherited.as_raw_fd()
    );
    let at = at.to_str().expect("a plain path");
    let mount = format!("mount -i -t fuse -o {options} remote {at} && exec \"$@\"");
    let wrapper = [&unshare[..], &["sh", "-c", &mount, "sh"]].concat();
    let remote = Remote::serve(device, files);
    let server = Binary::start_under(&wrapper, engine, root, arguments);
    drop(inherited);
    Some((remote, server))
}

/// The kernel's side of FUSE 7.31 (`linux/fuse.h`), as far as it is needed here.
mod kernel {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;

    pub(super) const HEADER_IN: usize = 40;
    pub(super) const REQUEST_OCTETS_MAX: usize = 1 << 20;
}

/// A file's name and contents.
type Named = (&'static CStr, Vec<u8>);

/// A remote file system with some files.
struct Remote {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    hangs: Mutex<bool>,
    changed: Condvar,
    /// Whether it will not be mounted any more.
    over: AtomicBool,
}

impl State {
    fn set(&self, hangs: bool) {
        *self.hangs.lock().unwrap_or_else(PoisonError::into_inner) = hangs;
        self.changed.notify_all();
    }
}

/// As long as this is there, nothing is answered.
struct Hanging<'a>(&'a State);

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Remote {
    /// Answers what the kernel asks, from when it is mounted until it no longer is.
    fn serve(device: File, files: &[Named]) -> Self {
        let state = Arc::<State>::default();
        let (files, shared) = (files.to_vec(), Arc::clone(&state));
        let thread = thread::spawn(move || answer_all(device, &files, &shared));
        Self {
            state,
            thread: Some(thread),
        }
    }

    fn hang(&self) -> Hanging<'_> {
        self.state.set(true);
        Hanging(&self.state)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        let failed = self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err());
        assert!(thread::panicking() || !failed, "it answered");
    }
}

fn answer_all(mut device: File, files: &[Named], state: &State) {
    let mut request = vec![0; kernel::REQUEST_OCTETS_MAX];
    loop {
        let len = match device.read(&mut request) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                // Not mounted yet.
                if state.over.load(Ordering::Relaxed) {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            // ENODEV: not mounted any more. Else what was asked was withdrawn.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            Err(_) => continue,
        };
        let hangs = state.hangs.lock().expect("nobody panics");
        drop(state.changed.wait_while(hangs, |hangs| *hangs));
        if let Some(answer) = answer(&request[..len], files) {
            // Whoever asked may be gone.
            let _ = device.write(&answer);
        }
    }
}

/// The answer to a request, if it is to have one.
fn answer(request: &[u8], files: &[Named]) -> Option<Vec<u8>> {
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four"));
    let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight"));
    let (operation, node) = (word(4), long(16));
    let body = &request[kernel::HEADER_IN..];
    let answer = match operation {
        kernel::FORGET | kernel::BATCH_FORGET | kernel::INTERRUPT => return None,
        kernel::INIT => {
            let version = [7, 31, 0, 0, 0, 1 << 16, 1, 0];
            Ok([words(&version), vec![0; 32]].concat())
        }
        kernel::LOOKUP => {
            let is_meant = |(name, _): &Named| name.to_bytes_with_nul() == body;
            let index = files.iter().position(is_meant).ok_or(libc::ENOENT);
            index.map(|index| {
                let node = ROOT + 1 + index as u64;
                let entry = [node, 0, AS_LONG_AS_THE_TEST, AS_LONG_AS_THE_TEST, 0];
                [longs(&entry), attributes(node, files)].concat()
            })
        }
        kernel::GETATTR => {
            let times = longs(&[AS_LONG_AS_THE_TEST, 0]);
            Ok([times, attributes(node, files)].concat())
        }
        kernel::OPEN | kernel::OPENDIR => Ok(vec![0; 16]),
        kernel::READ => {
            let (offset, count) = (long(kernel::HEADER_IN + 8), word(kernel::HEADER_IN + 16));
            let contents = contents_of(node, files);
            let rest = contents.get(offset as usize..).unwrap_or_default();
            Ok(rest[..rest.len().min(count as usize)].to_vec())
        }
        kernel::STATFS => Ok(vec![0; 80]),
        // Files are found, but not listed.
        kernel::READDIR => Ok(Vec::new()),
        kernel::FLUSH | kernel::RELEASE | kernel::RELEASEDIR => Ok(Vec::new()),
        _ => Err(libc::ENOSYS),
    };
    let (error, answer) = answer.map_or_else(|errno| (-errno, Vec::new()), |body| (0, body));
    let header = [16 + answer.len() as u32, error as u32];
    Some([words(&header), longs(&[long(8)]), answer].concat())
}

/// How many seconds the kernel may go by what it was told.
const AS_LONG_AS_THE_TEST: u64 = 3_600;

/// The node of the root directory; those of the files follow.
const ROOT: u64 = 1;

fn contents_of(node: u64, files: &[Named]) -> &[u8] {
    let index = node.checked_sub(ROOT + 1);
    let file = index.and_then(|index| files.get(index as usize));
    file.map_or(&[], |(_, contents)| contents)
}

/// What the kernel knows of a node.
fn attributes(node: u64, files: &[Named]) -> Vec<u8> {
    let mode = if node == ROOT { 0o040_755 } else { 0o100_644 };
    let len = contents_of(node, files).len() as u64;
    let numbers = longs(&[node, len, 8, 1, 1, 1]);
    [numbers, words(&[0, 0, 0, mode, 1, 0, 0, 0, 512, 0])].concat()
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect()
}

fn longs(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect()
}
