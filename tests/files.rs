//! Files that change while they are served, paths that are not regular files, and uploads that fail.

// Devices, tmpfs and an exchanging rename are Linux's.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bootstorm::server::Server;
use bootstorm::store::Writes;
use common::peer::{
    self, ACK, DATA, ERROR, Peer, RRQ, WRQ, data, error, number, oack, opcode, request, text, until,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with, statvfs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// Longer than what the server reads ahead at first, so that it comes back to the file.
const LONG: usize = 24 << 20;
/// Requests while a directory is swapped for a link and back.
const SWAP_REQUESTS: usize = 2_000;

/// A directory with a good file, which is served.
struct Served {
    root: TempDir,
    server: Server,
    address: SocketAddr,
}

impl Served {
    fn new(writes: Writes) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("good"), "good").expect("a file");
        let (server, address) = serve(root.path(), writes);
        Self {
            root,
            server,
            address,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, contents: &[u8]) {
        fs::write(self.path(name), contents).expect("a file");
    }

    fn fetch(&self, name: &str) -> Result<Vec<u8>, peer::Failure> {
        peer::fetch(self.address, name)
    }

    /// The code of the ERROR that a request is answered with.
    fn refused(&self, opcode: u16, name: &str) -> u16 {
        let mut peer = Peer::new(self.address);
        peer.send(&request(opcode, name.as_bytes(), &[]));
        let answer = peer.receive();
        assert_eq!(peer::opcode(&answer), ERROR, "{name}: {answer:?}");
        number(&answer)
    }

    fn is_well(&self) {
        assert_eq!(self.fetch("good"), Ok(b"good".to_vec()));
    }
}

fn serve(root: &Path, writes: Writes) -> (Server, SocketAddr) {
    let mut options = peer::options(root);
    options.directory.writes = writes;
    options.settings.patience.idle = Duration::from_secs(1);
    let server = peer::start(&options);
    let address = server.addresses()[0];
    (server, address)
}

/// Begins to read a long file, changes it, and reads on; what arrived, and the file as it was.
fn change_while_read(
    served: &Served,
    change: impl FnOnce(&Path),
) -> (Result<Vec<u8>, peer::Failure>, Vec<u8>) {
    let before = peer::octets(1, LONG);
    served.write("file", &before);
    let mut peer = Peer::new(served.address);
    peer.send(&request(RRQ, b"file", &[("blksize", "8192")]));
    assert_eq!(oack(&peer.receive()), ["blksize=8192"]);
    peer.ack(0);
    let first = peer.receive();
    assert_eq!((opcode(&first), number(&first)), (DATA, 1));

    change(&served.path("file"));
    peer.ack(1);
    let rest = peer.rest(8_192, 2);
    let whole = rest.map(|rest| [&first[4..], &rest].concat());
    (whole, before)
}

/// Goal: a truncated file never arrives as something that it was not. Method: it is cut after the first
/// block; that it arrives whole from memory is as good as an error.
#[test]
fn a_file_truncated_while_it_is_read() {
    let served = Served::new(Writes::Off);
    for len in [0, 1_000, LONG as u64 / 2] {
        let (arrived, before) = change_while_read(&served, |path| {
            let file = OpenOptions::new().write(true).open(path).expect("the file");
            file.set_len(len).expect("a shorter file");
        });
        match arrived {
            Ok(whole) => assert!(whole == before),
            Err((code, text)) => assert_eq!((code, text.contains("changed")), (0, true), "{text}"),
        }
        served.is_well();
        let now = served.fetch("file").expect("the file as it is now");
        assert!(now == before[..len as usize]);
    }
}

#[test]
fn a_file_written_over_while_it_is_read() {
    let served = Served::new(Writes::Off);
    let after = peer::octets(2, LONG);
    let (arrived, before) = change_while_read(&served, |path| {
        fs::write(path, &after).expect("other contents");
    });
    match arrived {
        Ok(whole) => assert!(whole == before),
        Err((code, text)) => assert_eq!((code, text.contains("changed")), (0, true), "{text}"),
    }
    assert!(served.fetch("file") == Ok(after));
    served.is_well();
}

/// Goal: a longer file is not taken for one that has grown, nor one with the old time stamp for the old one.
/// Method: files of several lengths are copied over one that is being read, with `cp` and with `cp -p`.
#[test]
fn a_longer_or_backdated_file_copied_over_one_that_is_read() {
    let served = Served::new(Writes::Off);
    for (more, backdated) in [(1, false), (5 << 20, false), (0, true), (4_096, true)] {
        let after = peer::octets(2, LONG + more);
        let (arrived, before) = change_while_read(&served, |path| {
            let stamp = fs::metadata(path).and_then(|metadata| metadata.modified());
            fs::write(path, &after).expect("other contents");
            if backdated {
                let file = OpenOptions::new().write(true).open(path).expect("the file");
                let stamp = stamp.expect("a time stamp");
                file.set_modified(stamp).expect("the old time stamp");
            }
        });
        match arrived {
            Ok(whole) => assert!(whole == before, "{more} octets more"),
            Err((code, text)) => assert_eq!((code, text.as_str()), (0, "file changed")),
        }
        assert!(served.fetch("file") == Ok(after));
    }
}

#[test]
fn a_file_replaced_while_it_is_read_arrives_as_it_was() {
    let served = Served::new(Writes::Off);
    served.write("new", b"new");
    let (arrived, before) = change_while_read(&served, |path| {
        fs::rename(served.path("new"), path).expect("renames");
    });
    assert!(arrived == Ok(before));
    assert_eq!(served.fetch("file"), Ok(b"new".to_vec()));
}

#[test]
fn a_file_deleted_while_it_is_read_arrives_as_it_was() {
    let served = Served::new(Writes::Off);
    let (arrived, before) = change_while_read(&served, |path| {
        fs::remove_file(path).expect("deletes");
    });
    assert!(arrived == Ok(before));
    assert_eq!(served.refused(RRQ, "file"), 1);
    served.is_well();
}

#[test]
fn a_file_that_grows_while_it_is_read_ends_where_it_ended() {
    let served = Served::new(Writes::Off);
    let (arrived, before) = change_while_read(&served, |path| {
        let mut file = OpenOptions::new().append(true).open(path).expect("a file");
        file.write_all(b"and more").expect("writes");
    });
    assert!(arrived.as_ref() == Ok(&before));
    let grown = [&before[..], b"and more"].concat();
    assert!(served.fetch("file") == Ok(grown));
}

/// Goal: anything but a regular file is refused at once and blocks nothing, for readers and writers alike.
#[test]
fn what_is_no_file_is_refused() {
    let served = Served::new(Writes::Overwrite);
    fs::create_dir(served.path("directory")).expect("a directory");
    let _listener = UnixListener::bind(served.path("socket")).expect("a socket");
    let make = |name: &str, kind: FileType, device: u64| {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, served.path(name), kind, mode, device)
    };
    make("fifo", FileType::Fifo, 0).expect("a FIFO");
    let mut names = vec!["directory", "socket", "fifo"];
    // The numbers of /dev/null and /dev/zero.
    let null = make("null", FileType::CharacterDevice, makedev(1, 3));
    let zero = make("zero", FileType::CharacterDevice, makedev(1, 5));
    match null.and(zero) {
        Ok(()) => names.extend(["null", "zero"]),
        Err(errno) => common::skip(&format!("devices cannot be made: {errno}")),
    }
    for name in names {
        for opcode in [RRQ, WRQ] {
            assert_eq!(served.refused(opcode, name), 2, "{name}");
            served.is_well();
        }
    }
    // A writer makes no difference: nobody waits for one.
    let fifo = served.path("fifo");
    let writer = OpenOptions::new().read(true).write(true).open(fifo);
    let mut writer = writer.expect("both ends");
    writer.write_all(b"from the FIFO").expect("writes");
    assert_eq!(served.refused(RRQ, "fifo"), 2);
}

/// Goal: a link never leads outside, not even for a moment. Method: a directory and a link to one outside
/// keep swapping names while a file below that name is requested.
#[test]
fn a_directory_swapped_for_a_link_never_shows_the_outside() {
    let served = Served::new(Writes::Off);
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("file"), "outside").expect("a file");
    fs::create_dir(served.path("here")).expect("a directory");
    served.write("here/file", b"inside");
    symlink(outside.path(), served.path("there")).expect("a link");

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let (here, there) = (served.path("here"), served.path("there"));
            let mut swaps = 0_u64;
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &here, CWD, &there, RenameFlags::EXCHANGE).expect("swaps");
                swaps += 1;
            }
            swaps
        });
        let mut inside = 0;
        for _ in 0..SWAP_REQUESTS {
            match served.fetch("here/file") {
                Ok(contents) => {
                    assert_eq!(contents, b"inside");
                    inside += 1;
                }
                Err((code, _)) => assert!(matches!(code, 0..=2), "ERROR {code}"),
            }
        }
        done.store(true, Ordering::Relaxed);
        let swaps = swapping.join().expect("swapped");
        assert!(inside > 0 && swaps > 0, "{inside} arrived, {swaps} swaps");
    });
    served.is_well();
}

/// Goal: a server is not limited to the descriptors that programs start with. Method: the soft limit is
/// lowered to that number before a server starts.
#[test]
fn a_server_has_all_descriptors_that_it_may() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let lowered = Rlimit {
        current: Some(maximum.map_or(1024, |maximum| maximum.min(1024))),
        maximum,
    };
    setrlimit(Resource::Nofile, lowered).expect("lowering is always permitted");
    let served = Served::new(Writes::Off);
    assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    served.is_well();
}

/// A small disk of memory, which is gone when this is.
struct Disk(PathBuf);

impl Disk {
    /// `None`, said aloud, if it cannot be mounted.
    fn mount(at: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0777", "bootstorm-test"]);
        let mounted = mount.arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_path_buf())),
            refused => {
                common::skip(&format!("a tmpfs cannot be mounted: {refused:?}"));
                None
            }
        }
    }

    fn free(&self) -> u64 {
        statvfs(&self.0).expect("a file system").f_bfree
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, for the server still has its root open if the test failed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn an_upload_that_fills_the_disk_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let Some(disk) = Disk::mount(folder.path()) else {
        return;
    };
    fs::write(folder.path().join("good"), "good").expect("a file");
    for writes in [Writes::Create, Writes::Overwrite] {
        let (_server, address) = serve(folder.path(), writes);
        let free = disk.free();

        let refused = peer::store(address, "large", &vec![b'x'; 2 << 20]);
        assert_eq!(refused.map_err(|(code, _)| code), Err(3));
        until("the disk is as it was", || disk.free() == free);
        assert_eq!(names(folder.path()), ["good"]);

        // And nobody else is the worse for it.
        assert_eq!(peer::fetch(address, "good"), Ok(b"good".to_vec()));
        assert_eq!(peer::store(address, "small", b"small"), Ok(()));
        assert_eq!(
            fs::read(folder.path().join("small")).expect("a file"),
            b"small"
        );
        fs::remove_file(folder.path().join("small")).expect("deletes");
    }
}

#[test]
fn an_upload_that_cannot_fit_is_refused_at_once() {
    let served = Served::new(Writes::Create);
    let mut peer = Peer::new(served.address);
    peer.send(&request(WRQ, b"huge", &[("tsize", "1000000000000000")]));
    let answer = peer.receive();
    assert_eq!((opcode(&answer), number(&answer)), (ERROR, 3), "{answer:?}");
    assert_eq!(names(served.root.path()), ["good"]);
    served.is_well();
}

#[test]
fn an_upload_that_is_given_up_leaves_nothing() {
    for writes in [Writes::Create, Writes::Overwrite] {
        let served = Served::new(writes);
        let options = [("tsize", "100000"), ("blksize", "8192")];
        for options in [&[][..], &options] {
            for told in [true, false] {
                let mut peer = Peer::new(served.address);
                peer.send(&request(WRQ, b"half", options));
                let mut answer = peer.receive();
                assert_ne!(opcode(&answer), ERROR, "{answer:?}");
                let blksize = if options.is_empty() { 512 } else { 8_192 };
                for block in 1..=5 {
                    peer.send(&data(block, &vec![b'x'; blksize]));
                    answer = peer.receive();
                    assert_eq!((opcode(&answer), number(&answer)), (ACK, block));
                }
                assert!(
                    !served.path("half").exists(),
                    "it appears whole or not at all"
                );
                if told {
                    peer.send(&error(0, b"never mind"));
                }
                until("the upload is over", || active(&served.server) == 0);
                until("nothing is left", || names(served.root.path()) == ["good"]);
            }
        }
        served.is_well();
        // The name is free for the next.
        assert_eq!(served.fetch("half").map_err(|(code, _)| code), Err(1));
        assert_eq!(peer::store(served.address, "half", b"whole"), Ok(()));
        assert_eq!(served.fetch("half"), Ok(b"whole".to_vec()));
    }
}

/// Two uploads of one name: each file that is seen is one of them, whole.
#[test]
fn uploads_of_one_name_at_a_time() {
    let served = Served::new(Writes::Create);
    let begin = || {
        let mut peer = Peer::new(served.address);
        peer.send(&request(WRQ, b"name", &[]));
        assert_eq!(opcode(&peer.receive()), ACK);
        peer
    };
    let (mut first, mut second) = (begin(), begin());
    first.send(&data(1, b"first"));
    assert_eq!(opcode(&first.receive()), ACK);
    second.send(&data(1, b"second"));
    let answer = second.receive();
    assert_eq!(
        (opcode(&answer), number(&answer)),
        (ERROR, 6),
        "{}",
        text(&answer)
    );
    assert_eq!(served.fetch("name"), Ok(b"first".to_vec()));
    assert_eq!(names(served.root.path()), ["good", "name"]);
}

#[test]
fn a_root_that_is_gone_serves_nothing_and_ends_nobody() {
    let served = Served::new(Writes::Create);
    fs::remove_dir_all(served.root.path()).expect("it goes");
    assert_eq!(served.refused(RRQ, "good"), 1);
    assert_ne!(served.refused(WRQ, "new"), 4);
    // What comes back under its name is another directory.
    fs::create_dir(served.root.path()).expect("a directory");
    File::create(served.path("good")).expect("a file");
    assert_eq!(served.refused(RRQ, "good"), 1);
}

/// Everything in a directory, hidden or not.
fn names(folder: &Path) -> Vec<String> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        entries => entries.expect("a directory"),
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn active(server: &Server) -> u64 {
    let (sender, reports) = std::sync::mpsc::channel();
    server.report(move |metrics| {
        // The test may have failed meanwhile.
        let _ = sender.send(metrics.active());
    });
    reports.recv().expect("the shard reports")
}
