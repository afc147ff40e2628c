//! Disks that are full, broken, taken away or exchanged.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{statvfs, syncfs};
use tempfile::TempDir;

use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::peer::{
    self, DATA, ERROR, Peer, RRQ, WRQ, data, number, oack, opcode, request, until,
};
use crate::common::require;
use crate::works;

on_both_engines! {
    a_disk_that_is_full
    a_quota_that_is_used_up
    a_disk_that_cannot_be_read
    a_file_that_is_cut_short
    a_root_that_is_exchanged
    a_root_that_is_unmounted
}

/// A mount of the server's own: `mount` with these words, at the root, which only the server sees.
fn mounted(engine: Engine, root: &Path, mount: &str, arguments: &[&str]) -> Option<Binary> {
    let at = root.to_str().expect("a plain path");
    let script = format!("{mount} {at} && exec \"$@\"");
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let tried = format!("{mount} {at}");
    if !works(&[&unshare[..], &[&tried]].concat()) {
        return None;
    }
    let wrapper = [&unshare[..], &[&script, "sh"]].concat();
    Some(Binary::start_under(&wrapper, engine, root, arguments))
}

/// The root as the server sees it.
fn seen_by(server: &Binary, root: &Path) -> PathBuf {
    let inside = root.strip_prefix("/").expect("an absolute path");
    PathBuf::from(format!("/proc/{}/root", server.pid())).join(inside)
}

/// Goal: ENOSPC ends the upload that met it, with the error that says so, takes nothing of what it
/// wrote, and leaves readers and smaller uploads alone.
fn a_disk_that_is_full(engine: Engine) {
    for writes in ["create", "overwrite"] {
        let root = tempfile::tempdir().expect("a directory");
        let mount = "mount -t tmpfs -o size=1m,mode=0777 small";
        let Some(server) = mounted(engine, root.path(), mount, &["--write", writes]) else {
            return;
        };
        let disk = seen_by(&server, root.path());
        fs::write(disk.join("good"), "good").expect("a file");
        let free = || statvfs(&disk).expect("a file system").f_bfree;
        let before = free();

        let refused = peer::store(server.address, "large", &vec![b'x'; 2 << 20]);
        assert_eq!(refused.map_err(|(code, _)| code), Err(3));
        until("the disk is as it was", || free() == before);
        assert!(!disk.join("large").exists());

        // One that is announced is refused before its first block.
        let mut peer = Peer::new(server.address);
        peer.send(&request(WRQ, b"large", &[("tsize", "2097152")]));
        assert_eq!(number(&peer.receive()), 3);

        assert_eq!(peer::fetch(server.address, "good"), Ok(b"good".to_vec()));
        assert_eq!(peer::store(server.address, "small", b"small"), Ok(()));
        assert_eq!(fs::read(disk.join("small")).expect("there"), b"small");
    }
}

/// Octets of the disk on which there is a quota: the least that its file system takes.
const QUOTA_IMAGE: u64 = 128 << 20;

/// Goal: EDQUOT is told like a full disk, also where an upload was announced and the disk itself has room;
/// readers and smaller uploads are left alone. Method: a file system that has quotas of its own.
fn a_quota_that_is_used_up(engine: Engine) {
    if require("mkfs.btrfs").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let image = folder.path().join("image");
    File::create(&image)
        .expect("a file")
        .set_len(QUOTA_IMAGE)
        .expect("a sparse file");
    let made = Command::new("mkfs.btrfs")
        .args(["-q", "-M"])
        .arg(&image)
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{made:?}");

    let root = tempfile::tempdir().expect("a directory");
    let mount = format!(
        "limited() {{ mount -o loop {} $1 && btrfs quota enable $1 && btrfs qgroup limit 1M $1; }}; limited",
        image.display()
    );
    let Some(server) = mounted(engine, root.path(), &mount, &["--write", "create"]) else {
        return;
    };
    let disk = seen_by(&server, root.path());
    fs::write(disk.join("good"), "good").expect("a file");
    let large = peer::octets(1, 2 << 20);
    let refused = peer::store(server.address, "large", &large);
    assert_eq!(refused.map_err(|(code, _)| code), Err(3));

    // As far as the disk knows, what is announced here fits, once the file system has released what the first
    // upload held.
    let mut writer = None;
    until_released(&disk, || {
        let mut peer = Peer::new(server.address);
        peer.send(&request(WRQ, b"large", &[("tsize", "2097152")]));
        let answer = peer.receive();
        if opcode(&answer) == ERROR {
            return Err(number(&answer));
        }
        assert_eq!(oack(&answer), ["tsize=2097152"]);
        writer = Some(peer);
        Ok(())
    });
    let mut writer = writer.expect("an OACK came");
    // The disk is asked while the first blocks are acknowledged.
    let refused = (1..).zip(large.chunks(512)).find_map(|(block, octets)| {
        writer.send(&data(block, octets));
        let answer = writer.receive();
        (opcode(&answer) == ERROR).then(|| number(&answer))
    });
    assert_eq!(refused, Some(3));
    assert!(!disk.join("large").exists());

    assert_eq!(peer::fetch(server.address, "good"), Ok(b"good".to_vec()));
    until_released(&disk, || {
        peer::store(server.address, "small", b"small").map_err(|(code, _)| code)
    });
}

/// Repeats an upload that is refused with ERROR 3 until the file system has released the quota of the one
/// before, which it does some time after the file is gone.
fn until_released(disk: &Path, mut upload: impl FnMut() -> Result<(), u16>) {
    until("the quota is released", || match upload() {
        Ok(()) => true,
        Err(3) => {
            let disk = File::open(disk).expect("a directory");
            syncfs(&disk).expect("it is written");
            false
        }
        Err(code) => panic!("ERROR {code}"),
    });
}

/// Octets of the disk's image, of the file on it, and of what is left of the image.
const IMAGE: u64 = 16 << 20;
const FILE: usize = 12 << 20;
const LEFT: u64 = 4 << 20;

/// Goal: EIO ends the transfers that meet it with an error, at once and not by silence; other files are
/// served. Method: a file system on a disk, behind most of which there is nothing any more.
fn a_disk_that_cannot_be_read(engine: Engine) {
    if require("mkfs.ext2").is_none() {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let (folder, files) = (
        tempfile::tempdir().expect("one"),
        tempfile::tempdir().expect("one"),
    );
    let image = folder.path().join("image");
    File::create(&image)
        .expect("a file")
        .set_len(IMAGE)
        .expect("a sparse file");
    fs::write(files.path().join("a-small-one"), "small").expect("a file");
    fs::write(files.path().join("long"), peer::octets(1, FILE)).expect("a file");
    let made = Command::new("mkfs.ext2")
        .args(["-q", "-b", "4096", "-d"])
        .arg(files.path())
        .arg(&image)
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{made:?}");
    OpenOptions::new()
        .write(true)
        .open(&image)
        .expect("it")
        .set_len(LEFT)
        .expect("shorter");

    // A device of its own length, for the file system wants to see all of it.
    let image = image.to_str().expect("a plain path");
    let mount = format!("truncate -s {IMAGE} {image} && mount -o loop,ro {image}");
    let Some(server) = mounted(engine, root.path(), &mount, &[]) else {
        return;
    };
    OpenOptions::new()
        .write(true)
        .open(image)
        .expect("it")
        .set_len(LEFT)
        .expect("shorter");

    for _ in 0..3 {
        let mut peer = Peer::new(server.address);
        peer.send(&request(RRQ, b"long", &[("blksize", "8192")]));
        assert_eq!(oack(&peer.receive()), ["blksize=8192"]);
        peer.ack(0);
        let (code, text) = peer.rest(8_192, 1).expect_err("it cannot be read");
        assert_eq!(code, 0, "{text}");
        assert_eq!(
            peer::fetch(server.address, "a-small-one"),
            Ok(b"small".to_vec())
        );
    }
    // Who looks after it learns what it is.
    assert!(
        server.log().contains("Input/output error"),
        "{}",
        server.log()
    );
}

/// Longer than what the server reads ahead, so that it comes back to the file.
const LONG: usize = 24 << 20;

/// Goal: a file that is cut short under way never arrives as something that it was not.
fn a_file_that_is_cut_short(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("file");
    let whole = peer::octets(1, LONG);
    fs::write(&path, &whole).expect("a file");
    let server = Binary::start(engine, root.path(), &[]);
    let mut peer = Peer::new(server.address);
    peer.send(&request(RRQ, b"file", &[("blksize", "8192")]));
    assert_eq!(oack(&peer.receive()), ["blksize=8192"]);
    peer.ack(0);
    let first = peer.receive();
    assert_eq!((opcode(&first), number(&first)), (DATA, 1));
    let file = OpenOptions::new().write(true).open(&path).expect("it");
    file.set_len(LONG as u64 / 2).expect("shorter");
    peer.ack(1);
    let (code, text) = peer.rest(8_192, 2).expect_err("it changed");
    assert_eq!((code, text.as_str()), (0, "file changed"));
    let now = peer::fetch(server.address, "file").expect("the file as it is now");
    assert!(now == whole[..LONG / 2]);
}

/// Goal: the root is the directory that the server was started with, wherever it goes. Method: it is
/// moved away, amid a read and an upload, and another takes its name.
fn a_root_that_is_exchanged(engine: Engine) {
    let folder = tempfile::tempdir().expect("a directory");
    let (root, away) = (folder.path().join("root"), folder.path().join("away"));
    fs::create_dir(&root).expect("a directory");
    let old = peer::octets(1, 2_000);
    fs::write(root.join("file"), &old).expect("a file");
    let server = Binary::start(engine, &root, &["--write", "create"]);
    let (mut reader, first) = begin_to_read(&server);
    let mut writer = begin_to_write(&server);

    fs::rename(&root, &away).expect("it goes");
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("file"), "new").expect("a file");

    reader.ack(1);
    assert!([&first[..], &reader.rest(512, 2).expect("the rest")].concat() == old);
    writer.send(&data(1, b"uploaded"));
    writer.next_ack(1);
    assert_eq!(fs::read(away.join("upload")).expect("there"), b"uploaded");
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&old));
    drop(server);
    // Whoever wants the new one starts anew.
    let server = Binary::start(engine, &root, &[]);
    assert_eq!(peer::fetch(server.address, "file"), Ok(b"new".to_vec()));
}

/// Goal: the server holds its root: who unmounts it is told that it is in use; who does so all the same
/// (`umount --lazy`) takes it from everybody but the server, which serves on until it ends.
fn a_root_that_is_unmounted(engine: Engine) {
    let root: TempDir = tempfile::tempdir().expect("a directory");
    let mount = "mount -t tmpfs -o size=1m,mode=0777 small";
    let Some(server) = mounted(engine, root.path(), mount, &["--write", "create"]) else {
        return;
    };
    let old = peer::octets(1, 2_000);
    fs::write(seen_by(&server, root.path()).join("file"), &old).expect("a file");
    let umount = |arguments: &[&str]| {
        let mut umount = Command::new("nsenter");
        umount.args(["--mount", "--target", &server.pid().to_string(), "umount"]);
        umount
            .args(arguments)
            .arg(root.path())
            .output()
            .expect("it runs")
    };
    let (mut reader, first) = begin_to_read(&server);
    let refused = umount(&[]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("busy"),
        "{refused:?}"
    );
    let gone = umount(&["--lazy"]);
    assert!(gone.status.success(), "{gone:?}");
    assert!(!seen_by(&server, root.path()).join("file").exists());

    reader.ack(1);
    assert!([&first[..], &reader.rest(512, 2).expect("the rest")].concat() == old);
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&old));
    assert_eq!(peer::store(server.address, "new", b"new"), Ok(()));
    assert_eq!(peer::fetch(server.address, "new"), Ok(b"new".to_vec()));
}

/// A read of `file` whose first block has come, and what that holds.
fn begin_to_read(server: &Binary) -> (Peer, Vec<u8>) {
    let mut reader = Peer::new(server.address);
    reader.send(&request(RRQ, b"file", &[]));
    let first = reader.receive();
    assert_eq!((opcode(&first), number(&first)), (DATA, 1));
    (reader, first[4..].to_vec())
}

/// A write of `upload` that may send its first block.
fn begin_to_write(server: &Binary) -> Peer {
    let mut writer = Peer::new(server.address);
    writer.send(&request(WRQ, b"upload", &[]));
    writer.next_ack(0);
    writer
}
