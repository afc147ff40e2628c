//! Tests of the served directory: what is found, what is not, and what an upload leaves. Each runs with both
//! ways of resolving paths.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Waker;
use std::thread;

use rustix::fs::{CWD, FlockOperation, Mode as Permissions, flock, mkfifoat};

use super::*;
use crate::proto::block::{BlockIndex, Rollover};
use crate::store::{
    Answer, Body, Done, Frames, FramesKey, Mailbox, ReadFailure, Store, StoreOptions, Ticket,
};
use crate::sync::mpsc::{Receiver, channel};
use crate::testing::skip;
use crate::wire::{Mode, write_data_header};

const RESOLVERS: [Resolver; 2] = [Resolver::Kernel, Resolver::Walk];

/// A root with files in it, and a secret file next to it.
struct Scratch {
    scratch: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let this = Self { scratch };
        fs::create_dir_all(this.root().join("sub/deep")).expect("made");
        fs::create_dir(this.outside()).expect("made");
        fs::create_dir(this.scratch.path().join("root-sibling")).expect("made");
        for (path, contents) in [
            ("root/x", "x"),
            ("root/sub/y", "y"),
            ("root/sub/deep/z", "z"),
            ("outside/secret", "secret"),
            ("root-sibling/secret", "secret"),
        ] {
            fs::write(this.scratch.path().join(path), contents).expect("written");
        }
        this
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.scratch.path().join("outside")
    }

    fn serve(&self, options: DirectoryOptions, resolver: Resolver) -> Directory {
        Directory::with_resolver(&self.root(), options, resolver).expect("the root is there")
    }

    /// Everything under the root, including hidden files.
    fn listing(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root())
            .expect("listed")
            .map(|entry| {
                entry
                    .expect("listed")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

fn contents(directory: &Directory, name: &[u8]) -> Result<Vec<u8>, Refusal> {
    match directory.open(name, Patience::Long) {
        Err(OpenError::Refused(refusal)) => Err(refusal),
        Err(OpenError::WouldBlock) => panic!("patience was endless"),
        Ok(opened) => {
            let mut octets = vec![0; opened.len as usize];
            assert_eq!(opened.source.read_at(&mut octets, 0), Ok(octets.len()));
            Ok(octets)
        }
    }
}

fn found(name: &str, octets: &str) -> (Vec<u8>, Result<Vec<u8>, Refusal>) {
    (name.into(), Ok(octets.into()))
}

fn refused(name: &str, refusal: Refusal) -> (Vec<u8>, Result<Vec<u8>, Refusal>) {
    (name.into(), Err(refusal))
}

#[test]
fn names_are_found_as_clients_write_them() {
    let scratch = Scratch::new();
    let root = scratch.root().to_string_lossy().into_owned();
    let backslashed = root.replace('/', "\\");
    symlink("sub", scratch.root().join("link")).expect("linked");
    symlink("/sub/y", scratch.root().join("absolute")).expect("linked");
    symlink("../root/x", scratch.root().join("sub/up")).expect("linked");
    symlink("loop", scratch.root().join("loop")).expect("linked");
    fs::write(scratch.root().join("back\\slash"), "literal").expect("written");
    for resolver in RESOLVERS {
        let directory = scratch.serve(DirectoryOptions::default(), resolver);
        for (name, expected) in [
            found("x", "x"),
            found("/x", "x"),
            found("//./x", "x"),
            found("./sub//y", "y"),
            found("sub/../x", "x"),
            found("sub/../../x", "x"),
            found("../../../x", "x"),
            found("link/y", "y"),
            found("link/../x", "x"),
            found("absolute", "y"),
            found("sub\\y", "y"),
            found("\\sub\\deep\\z", "z"),
            found("C:\\sub\\y", "y"),
            found("c:/sub/y", "y"),
            found("back\\slash", "literal"),
            found(&format!("{root}/x"), "x"),
            found(&format!("{root}/sub/y"), "y"),
            found(&format!("{backslashed}\\x"), "x"),
            found(&format!("{}\\sub\\y", &backslashed[1..]), "y"),
            found(&format!("C:{root}/x"), "x"),
            refused(&root, Refusal::Denied),
            refused(&format!("{root}/"), Refusal::Denied),
            refused(&backslashed, Refusal::Denied),
            // A trailing slash means a directory, whether it exists or not.
            refused("sub/", Refusal::Denied),
            refused("link/", Refusal::Denied),
            refused("sub/.", Refusal::Denied),
            refused("x/", Refusal::NotFound),
            refused("x/.", Refusal::NotFound),
            refused("x\\", Refusal::NotFound),
            refused("none/", Refusal::NotFound),
            refused(&format!("{root}-sibling/secret"), Refusal::NotFound),
            refused("../outside/secret", Refusal::NotFound),
            refused("..\\outside\\secret", Refusal::NotFound),
            refused("....//outside/secret", Refusal::NotFound),
            refused("/etc/passwd", Refusal::NotFound),
            refused("/proc/self/environ", Refusal::NotFound),
            // Seen from the root, the link leads to `/root/x`.
            refused("sub/up", Refusal::NotFound),
            refused("X", Refusal::NotFound),
            refused("x/y", Refusal::NotFound),
            refused("...", Refusal::NotFound),
            refused("a\0b", Refusal::NotFound),
            refused(&"n".repeat(256), Refusal::NotFound),
            refused(&"n/".repeat(30_000), Refusal::NotFound),
            refused(&"sub/../".repeat(30_000), Refusal::NotFound),
            refused("loop", Refusal::Denied),
            refused("", Refusal::Denied),
            refused("/", Refusal::Denied),
            refused("..", Refusal::Denied),
            refused("sub", Refusal::Denied),
        ] {
            let shown = String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
            assert_eq!(
                contents(&directory, &name),
                expected,
                "{shown} by {resolver:?}"
            );
        }
    }
}

#[test]
fn links_never_lead_out() {
    let scratch = Scratch::new();
    let outside = scratch.outside();
    symlink(outside.join("secret"), scratch.root().join("absolute")).expect("linked");
    symlink("../outside/secret", scratch.root().join("relative")).expect("linked");
    symlink(&outside, scratch.root().join("directory")).expect("linked");
    symlink("/proc/self/root", scratch.root().join("magic")).expect("linked");
    for resolver in RESOLVERS {
        let directory = scratch.serve(DirectoryOptions::default(), resolver);
        let magic = format!("magic{}/secret", outside.display());
        for name in [
            "absolute",
            "relative",
            "directory/secret",
            "directory/../outside/secret",
            &magic,
        ] {
            assert_eq!(
                contents(&directory, name.as_bytes()),
                Err(Refusal::NotFound),
                "{name} by {resolver:?}"
            );
        }
    }
}

/// Goal: a directory that is repeatedly exchanged for a link never lets a client out of the root.
#[test]
fn exchanged_directories_never_lead_out() {
    let scratch = Scratch::new();
    let (swapped, aside) = (scratch.root().join("swapped"), scratch.root().join("aside"));
    fs::create_dir(&swapped).expect("made");
    fs::write(swapped.join("secret"), "inside").expect("written");
    symlink(scratch.outside(), &aside).expect("linked");
    /// Ends the loop even if the test fails.
    struct Ending<'a>(&'a AtomicBool);
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(
                    CWD,
                    &swapped,
                    CWD,
                    &aside,
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .expect("exchanged");
            }
        });
        let _ending = Ending(&done);
        let options = DirectoryOptions {
            writes: Writes::Overwrite,
            ..DirectoryOptions::default()
        };
        for resolver in RESOLVERS {
            let directory = scratch.serve(options, resolver);
            let mut inside = 0;
            // At least this many tries, and more on a busy machine, where one thread may have the processor
            // to itself for long.
            for tries in 0..1_000_000 {
                if tries >= 3_000 && inside > 0 {
                    break;
                }
                match contents(&directory, b"swapped/secret") {
                    Ok(octets) => {
                        assert_eq!(octets, b"inside", "{resolver:?}");
                        inside += 1;
                    }
                    Err(Refusal::NotFound | Refusal::Denied | Refusal::Failed(libc::EAGAIN)) => {}
                    Err(other) => panic!("{other:?} by {resolver:?}"),
                }
            }
            assert!(inside > 0, "the race was never won: {resolver:?}");
            for _ in 0..100 {
                if let Ok(mut sink) = directory.create(b"swapped/planted", None) {
                    sink.write(b"planted").expect("written");
                    sink.publish().expect("published");
                }
            }
        }
    });
    assert!(
        !scratch.outside().join("planted").exists(),
        "an upload went out"
    );
}

/// Goal: a lookup through `..` succeeds, however much is renamed meanwhile, even elsewhere: that alone makes
/// the kernel return `EAGAIN`.
#[test]
fn renames_elsewhere_hinder_nobody() {
    let scratch = Scratch::new();
    // So many that renames happen between the first and the last of them, repeatedly.
    symlink("sub/../".repeat(500), scratch.root().join("and-back")).expect("linked");
    let (name, new_file) = (
        "and-back/and-back/and-back/x",
        "and-back/and-back/and-back/new",
    );
    let (here, there) = (
        scratch.outside().join("here"),
        scratch.outside().join("there"),
    );
    fs::write(&here, "").expect("written");
    let options = DirectoryOptions {
        writes: Writes::Create,
        ..DirectoryOptions::default()
    };
    let directory = scratch.serve(options, Resolver::Kernel);
    // How many renames are left: they must outlast the lookups.
    let left = AtomicU32::new(5_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            while left.load(Ordering::Relaxed) > 0 {
                fs::rename(&here, &there).expect("renamed");
                fs::rename(&there, &here).expect("renamed");
                let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                });
            }
        });
        while left.load(Ordering::Relaxed) > 0 {
            let opened = contents(&directory, name.as_bytes());
            let created = directory.create(new_file.as_bytes(), None).map(|_| ());
            if (&opened, &created) != (&Ok(b"x".to_vec()), &Ok(())) {
                left.store(0, Ordering::Relaxed);
                panic!("opened {opened:?}, created {created:?}");
            }
        }
    });
}

#[test]
fn only_regular_files_are_opened() {
    let scratch = Scratch::new();
    mkfifoat(
        CWD,
        scratch.root().join("fifo"),
        Permissions::from_raw_mode(0o666),
    )
    .expect("made");
    let _listener = UnixListener::bind(scratch.root().join("socket")).expect("bound");
    let mut names = vec!["fifo", "socket", "sub"];
    if Command::new("mknod")
        .arg(scratch.root().join("null"))
        .args(["c", "1", "3"])
        .status()
        .is_ok_and(|status| status.success())
    {
        assert!(
            fs::metadata(scratch.root().join("null"))
                .expect("there")
                .file_type()
                .is_char_device()
        );
        names.push("null");
    } else {
        skip("making a device node is not permitted here");
    }
    for resolver in RESOLVERS {
        let options = DirectoryOptions {
            writes: Writes::Overwrite,
            ..DirectoryOptions::default()
        };
        let directory = scratch.serve(options, resolver);
        for &name in &names {
            assert_eq!(
                contents(&directory, name.as_bytes()),
                Err(Refusal::Denied),
                "{name} by {resolver:?}"
            );
            assert_eq!(
                directory.create(name.as_bytes(), None).err(),
                Some(Refusal::Denied),
                "{name}"
            );
        }
    }
}

#[test]
fn case_is_looked_up_where_wanted() {
    let scratch = Scratch::new();
    for name in ["Boot.IMG", "BOOT.img", "plain"] {
        fs::write(scratch.root().join(name), name).expect("written");
    }
    let options = DirectoryOptions {
        case_insensitive: true,
        writes: Writes::Create,
        ..DirectoryOptions::default()
    };
    for resolver in RESOLVERS {
        let directory = scratch.serve(options, resolver);
        for (name, expected) in [
            found("Boot.IMG", "Boot.IMG"),
            found("BOOT.img", "BOOT.img"),
            found("boot.img", "BOOT.img"),
            found("SUB/DEEP/Z", "z"),
            found("\\SUB\\Y", "y"),
            found("sub/../PLAIN", "plain"),
            refused("../OUTSIDE/SECRET", Refusal::NotFound),
            refused("other", Refusal::NotFound),
            refused("SUB", Refusal::Denied),
        ] {
            assert_eq!(contents(&directory, &name), expected, "by {resolver:?}");
        }
        let opened = directory.open(b"PLAIN", Patience::Now);
        assert_eq!(opened.err(), Some(OpenError::WouldBlock));
        assert!(directory.open(b"PLAIN", Patience::Disk).is_ok());
        assert_eq!(
            directory.create(b"SUB/Y", None).err(),
            Some(Refusal::Exists)
        );
    }
}

/// Goal: a file may be in any of several directories that differ only in case, and the search for it is
/// bounded. Method: files in some of them; then a tree of such pairs without files.
#[test]
fn directories_that_differ_in_case_alone_are_all_looked_into() {
    let scratch = Scratch::new();
    for (directory, file) in [("Sub1", "a"), ("sUB1", "b"), ("sUB1", "A")] {
        fs::create_dir_all(scratch.root().join(directory)).expect("made");
        let path = format!("{directory}/{file}");
        fs::write(scratch.root().join(&path), path).expect("written");
    }
    for depth in 0..12 {
        for pair in ["p", "P"] {
            let place = scratch.root().join("p/".repeat(depth)).join(pair);
            fs::create_dir_all(place).expect("made");
        }
    }
    symlink("p", scratch.root().join("p/p/pP")).expect("linked");
    fs::write(scratch.root().join("P/end"), "end").expect("written");
    let options = DirectoryOptions {
        case_insensitive: true,
        writes: Writes::Create,
        ..DirectoryOptions::default()
    };
    for resolver in RESOLVERS {
        let directory = scratch.serve(options, resolver);
        for (name, expected) in [
            found("SUB1/a", "Sub1/a"),
            found("SUB1/b", "sUB1/b"),
            found("SUB1/A", "Sub1/a"),
            found("Sub1/B", "sUB1/b"),
            found("Sub1/A", "Sub1/a"),
            found("sub/../SUB1/b", "sUB1/b"),
            found("p/END", "end"),
            refused("SUB1/c", Refusal::NotFound),
            refused("SUB1/a/", Refusal::NotFound),
            refused("SUB1/", Refusal::Denied),
            refused(&("p/".repeat(12) + "none"), Refusal::NotFound),
        ] {
            let shown = name.escape_ascii();
            assert_eq!(
                contents(&directory, &name),
                expected,
                "{shown} by {resolver:?}"
            );
        }
        drop(directory.create(b"SUB1/new", None).expect("the first"));
        let refused = directory.create(b"SUB1/a", None).err();
        assert_eq!(refused, Some(Refusal::Exists));
    }
}

/// Goal: a name means the same for writing as for reading, also for directories.
#[test]
fn names_to_write_mean_what_they_mean_to_readers() {
    let scratch = Scratch::new();
    let root = scratch.root().to_string_lossy().into_owned();
    let backslashed = root.replace('/', "\\");
    symlink("x", scratch.root().join("link")).expect("linked");
    symlink("nowhere", scratch.root().join("dangling")).expect("linked");
    for (writes, there) in [
        (Writes::Create, Refusal::Exists),
        (Writes::Overwrite, Refusal::Denied),
    ] {
        let options = DirectoryOptions {
            writes,
            ..DirectoryOptions::default()
        };
        for directory in upload_directories(&scratch, options) {
            let begun = |name: &str| directory.create(name.as_bytes(), None).map(drop);
            for name in [
                "new",
                "C:/new",
                "C:\\new",
                "c:new",
                "sub\\new",
                &format!("{root}/new"),
                &format!("{backslashed}\\new"),
                &format!("C:{backslashed}\\new"),
                &format!("C:{root}/sub/new"),
            ] {
                assert_eq!(begun(name), Ok(()), "{name}");
            }
            for name in [
                "x/", "x\\", "new/", "sub", "sub/", "sub/.", "/", "C:/", &root,
            ] {
                assert_eq!(begun(name), Err(Refusal::Denied), "{name}");
            }
            assert_eq!(begun("none/new"), Err(Refusal::NotFound));
            for name in ["link", "dangling"] {
                assert_eq!(begun(name), Err(there), "{name} with {writes:?}");
            }
        }
    }
    assert_eq!(scratch.listing(), ["dangling", "link", "sub", "x"]);
}

/// Goal: a name that no file can have is not found, for reading and for writing. Method: names too long by
/// component and as a whole, and invalid text; the errors of other file systems for such names.
#[test]
fn odd_names_are_not_found() {
    let scratch = Scratch::new();
    let long = [b'n'; 256];
    let deep = b"sub/".repeat(2000);
    let names = [
        &long[..],
        &deep,
        b"\xff\xfe\x01",
        b"sub/\x80\n",
        b"\0",
        b"a\0b",
    ];
    for resolver in RESOLVERS {
        for case_insensitive in [false, true] {
            let options = DirectoryOptions {
                case_insensitive,
                ..DirectoryOptions::default()
            };
            let directory = scratch.serve(options, resolver);
            for name in names {
                assert_eq!(contents(&directory, name), Err(Refusal::NotFound));
            }
            let options = DirectoryOptions {
                writes: Writes::Create,
                ..options
            };
            let directory = scratch.serve(options, resolver);
            for name in [&long[..], b"a\0b"] {
                assert_eq!(directory.create(name, None).err(), Some(Refusal::NotFound));
            }
        }
    }
    for errno in [Errno::INVAL, Errno::ILSEQ, Errno::NAMETOOLONG] {
        assert_eq!(name_refusal(errno), Refusal::NotFound);
    }
    for errno in [Errno::MFILE, Errno::NFILE] {
        let as_it_was = Refusal::Failed(errno.raw_os_error());
        assert_eq!(name_refusal(errno), as_it_was);
    }
}

#[test]
fn what_was_just_used_is_opened_at_once() {
    let scratch = Scratch::new();
    let directory = scratch.serve(DirectoryOptions::default(), Resolver::Kernel);
    contents(&directory, b"sub/y").expect("there");
    match directory.open(b"sub/y", Patience::Now) {
        Ok(opened) => assert_eq!(opened.len, 1),
        Err(error) => assert_eq!(error, OpenError::WouldBlock, "a kernel before 5.12"),
    }
    let walking = scratch.serve(DirectoryOptions::default(), Resolver::Walk);
    for directory in [&directory, &walking] {
        let opened = directory
            .open(b"sub/y", Patience::Disk)
            .expect("at most the disk");
        assert!(!opened.source.is_remote());
    }
    assert_eq!(
        walking.open(b"sub/y", Patience::Now).err(),
        Some(OpenError::WouldBlock)
    );
}

#[test]
fn a_root_that_is_none_is_told() {
    let scratch = Scratch::new();
    for name in ["none", "x"] {
        let path = scratch.root().join(name);
        let error = Directory::new(&path, DirectoryOptions::default()).expect_err("no directory");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Creates, writes and publishes.
fn upload(
    directory: &Directory,
    name: &[u8],
    octets: &[u8],
    announced: Option<u64>,
) -> Result<(), Refusal> {
    let mut sink = directory.create(name, announced)?;
    octets.chunks(512).try_for_each(|chunk| sink.write(chunk))?;
    sink.publish()
}

/// Both ways of resolving paths with both kinds of temporary file.
fn upload_directories(scratch: &Scratch, options: DirectoryOptions) -> Vec<Directory> {
    RESOLVERS
        .into_iter()
        .flat_map(|resolver| {
            [true, false].map(|unnamed| Directory {
                unnamed,
                ..scratch.serve(options, resolver)
            })
        })
        .collect()
}

#[test]
fn uploads_are_refused_unless_allowed() {
    let scratch = Scratch::new();
    let directory = scratch.serve(DirectoryOptions::default(), Resolver::Kernel);
    assert_eq!(upload(&directory, b"new", b"", None), Err(Refusal::Denied));
    assert_eq!(
        upload(&directory, b"none/new", b"", None),
        Err(Refusal::Denied)
    );
}

#[test]
fn new_files_appear_whole_and_never_replace() {
    let scratch = Scratch::new();
    let options = DirectoryOptions {
        writes: Writes::Create,
        ..DirectoryOptions::default()
    };
    let root = scratch.root().to_string_lossy().into_owned();
    for directory in upload_directories(&scratch, options) {
        let before = scratch.listing();
        assert_eq!(upload(&directory, b"x", b"new", None), Err(Refusal::Exists));
        let mut late = directory.create(b"/new", None).expect("begun");
        late.write(b"late").expect("written");
        assert_eq!(upload(&directory, b"new", b"octets", Some(6)), Ok(()));
        assert_eq!(late.publish(), Err(Refusal::Exists));
        assert_eq!(contents(&directory, b"new"), Ok(b"octets".to_vec()));
        assert_eq!(contents(&directory, b"x"), Ok(b"x".to_vec()));
        assert_eq!(
            upload(&directory, b"sub\\windows", b"w", Some(1_000_000)),
            Ok(())
        );
        assert_eq!(contents(&directory, b"sub/windows"), Ok(b"w".to_vec()));
        let own = scratch.root().join("own");
        assert_eq!(
            upload(&directory, own.as_os_str().as_bytes(), b"own", None),
            Ok(())
        );
        let longest = "n".repeat(255);
        assert_eq!(upload(&directory, longest.as_bytes(), b"", None), Ok(()));
        assert_eq!(
            upload(&directory, b"sub/../up/../y/../ok", b"", None),
            Err(Refusal::NotFound)
        );
        for name in ["new", "sub/windows", "own", &longest] {
            fs::remove_file(scratch.root().join(name)).expect("there");
        }
        for (name, refusal) in [
            ("none/new", Refusal::NotFound),
            ("x/new", Refusal::NotFound),
            ("", Refusal::Denied),
            ("sub/..", Refusal::Denied),
            ("../climbed", Refusal::Denied),
            ("..\\climbed", Refusal::Denied),
            ("/sub/../../sub/climbed", Refusal::Denied),
            (&format!("{root}/../climbed"), Refusal::Denied),
            ("a\0b", Refusal::NotFound),
            (&"n".repeat(256), Refusal::NotFound),
        ] {
            assert_eq!(
                upload(&directory, name.as_bytes(), b"", None),
                Err(refusal),
                "{name}"
            );
        }
        assert_eq!(
            scratch.listing(),
            before,
            "nothing else is left, not even hidden"
        );
    }
}

#[test]
fn old_files_are_replaced_whole_and_keep_their_permissions() {
    let scratch = Scratch::new();
    let options = DirectoryOptions {
        writes: Writes::Overwrite,
        ..DirectoryOptions::default()
    };
    for directory in upload_directories(&scratch, options) {
        let before = scratch.listing();
        let path = scratch.root().join("x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        let reader = directory.open(b"x", Patience::Long).expect("there");
        let mut aborted = directory.create(b"x", Some(100)).expect("begun");
        aborted.write(b"aborted").expect("written");
        drop(aborted);
        assert_eq!(contents(&directory, b"x"), Ok(b"x".to_vec()));
        assert_eq!(upload(&directory, b"x", b"replaced", Some(100_000)), Ok(()));
        assert_eq!(contents(&directory, b"x"), Ok(b"replaced".to_vec()));
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o640
        );
        let mut octet = [0];
        assert_eq!(
            (
                reader.source.read_at(&mut octet, 0),
                reader.source.check(),
                octet
            ),
            (Ok(1), Ok(()), *b"x")
        );
        fs::write(&path, "x").expect("written");
        symlink("/x", scratch.root().join("link")).expect("linked");
        assert_eq!(upload(&directory, b"link", b"", None), Err(Refusal::Denied));
        fs::remove_file(scratch.root().join("link")).expect("there");
        assert_eq!(upload(&directory, b"sub", b"", None), Err(Refusal::Denied));
        assert_eq!(
            scratch.listing(),
            before,
            "nothing else is left, not even hidden"
        );
    }
}

/// Goal: what takes the name while an upload to it is under way is not replaced, unless it is a file.
#[test]
fn what_is_no_file_is_not_replaced_when_it_comes_late() {
    let scratch = Scratch::new();
    let options = DirectoryOptions {
        writes: Writes::Overwrite,
        ..DirectoryOptions::default()
    };
    let path = scratch.root().join("x");
    for directory in upload_directories(&scratch, options) {
        let before = scratch.listing();
        for make in [
            |path: &PathBuf| symlink("sub/y", path).expect("linked"),
            |path: &PathBuf| mkfifoat(CWD, path, Permissions::from_raw_mode(0o644)).expect("made"),
        ] {
            let mut late = directory.create(b"x", None).expect("begun");
            late.write(b"late").expect("written");
            fs::remove_file(&path).expect("there");
            make(&path);
            let kind = fs::symlink_metadata(&path).expect("there").file_type();
            assert_eq!(late.publish(), Err(Refusal::Denied));
            let stays = fs::symlink_metadata(&path).expect("there").file_type();
            assert_eq!(stays, kind);
            fs::remove_file(&path).expect("there");
            fs::write(&path, "x").expect("written");
        }
        assert_eq!(scratch.listing(), before);
    }
}

/// Goal: the leftover of a killed server is removed by the next upload of that name. A file in use by
/// another server stays, and so does anything that is not a file.
#[test]
fn what_is_left_over_goes_and_what_is_in_use_stays() {
    let scratch = Scratch::new();
    let options = DirectoryOptions {
        writes: Writes::Overwrite,
        ..DirectoryOptions::default()
    };
    let hidden = |number| {
        let name = format!(".x.bootstorm-{number:08x}.part");
        scratch.root().join(name)
    };
    for directory in upload_directories(&scratch, options) {
        let before = scratch.listing();
        let used = fs::File::create(hidden(0)).expect("made");
        flock(&used, FlockOperation::NonBlockingLockExclusive).expect("nobody else has it");
        fs::create_dir(hidden(1)).expect("made");
        mkfifoat(CWD, hidden(2), Permissions::RWXU).expect("made");
        fs::write(hidden(3), "left over").expect("written");
        assert_eq!(upload(&directory, b"x", b"replaced", None), Ok(()));
        assert_eq!(contents(&directory, b"x"), Ok(b"replaced".to_vec()));
        assert_eq!(
            [0, 1, 2, 3].map(|number| hidden(number).exists()),
            [true, true, true, false]
        );
        // Nobody but a server makes files that are called so.
        for name in [
            &b".x.bootstorm-00000000.part"[..],
            b".y.bootstorm-0123abcd.part",
        ] {
            assert_eq!(upload(&directory, name, b"x", None), Err(Refusal::Denied));
        }
        for name in [
            &b".x.bootstorm-0000000.part"[..],
            b".bootstorm-.part",
            b".part",
        ] {
            assert_eq!(
                upload(&directory, name, b"x", None),
                Ok(()),
                "any other may"
            );
            let name = str::from_utf8(name).expect("a plain name");
            fs::remove_file(scratch.root().join(name)).expect("there");
        }
        // Its server ends.
        drop(used);
        assert_eq!(upload(&directory, b"x", b"x", None), Ok(()));
        fs::remove_dir(hidden(1)).expect("there");
        fs::remove_file(hidden(2)).expect("there");
        assert_eq!(scratch.listing(), before);
    }
}

#[test]
fn too_long_uploads_are_refused_and_leave_nothing() {
    let scratch = Scratch::new();
    let options = DirectoryOptions {
        writes: Writes::Overwrite,
        upload_octets_max: Some(1000),
        ..DirectoryOptions::default()
    };
    let unlimited = DirectoryOptions {
        upload_octets_max: None,
        ..options
    };
    let before = scratch.listing();
    for directory in upload_directories(&scratch, options) {
        assert_eq!(
            directory.create(b"new", Some(1001)).err(),
            Some(Refusal::DiskFull)
        );
        assert_eq!(
            upload(&directory, b"new", &[0; 1001], None),
            Err(Refusal::DiskFull)
        );
        assert_eq!(
            upload(&directory, b"x", &[0; 1001], Some(5)),
            Err(Refusal::DiskFull)
        );
        assert_eq!(upload(&directory, b"new", &[0; 1000], Some(1000)), Ok(()));
        fs::remove_file(scratch.root().join("new")).expect("there");
    }
    for directory in upload_directories(&scratch, unlimited) {
        for announced in [1_000_000_000_000_000, i64::MAX as u64, u64::MAX] {
            assert_eq!(
                directory.create(b"new", Some(announced)).err(),
                Some(Refusal::DiskFull)
            );
        }
    }
    assert_eq!(scratch.listing(), before);
}

/// Goal: a full disk is reported as such, early if the length was announced, and nothing is left.
#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }

    let scratch = Scratch::new();
    let root = scratch.root().join("small");
    fs::create_dir(&root).expect("made");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&root)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip("mounting a file system is not permitted here");
    }
    let _mounted = Mounted(root.clone());
    for unnamed in [true, false] {
        let options = DirectoryOptions {
            writes: Writes::Create,
            ..DirectoryOptions::default()
        };
        let served = Directory::new(&root, options).expect("mounted");
        let directory = Directory { unnamed, ..served };
        assert_eq!(
            directory.create(b"new", Some(2 << 20)).err(),
            Some(Refusal::DiskFull)
        );
        assert_eq!(
            upload(&directory, b"new", &[1; 2 << 20], None),
            Err(Refusal::DiskFull)
        );
        assert_eq!(fs::read_dir(&root).expect("listed").count(), 0);
        // An announcement reserves nothing; the first data reserves it all, or reports that the space is
        // gone.
        let free = || rustix::fs::statvfs(&root).expect("mounted").f_bfree;
        let empty = free();
        let mut one = directory
            .create(b"one", Some(900_000))
            .expect("it would fit");
        let mut other = directory
            .create(b"other", Some(900_000))
            .expect("so would it");
        one.write(&[]).expect("nothing to write");
        assert_eq!(free(), empty);
        one.write(b"x").expect("it fits");
        assert!(free() < empty / 2);
        assert_eq!(other.write(b"x"), Err(Refusal::DiskFull));
        drop((one, other));
        assert_eq!(free(), empty);
        assert_eq!(
            upload(&directory, b"new", &[1; 900_000], Some(900_000)),
            Ok(())
        );
        fs::remove_file(root.join("new")).expect("there");
    }
}

/// Serves `scratch` to one client, without threads.
struct Served {
    store: std::sync::Arc<Store>,
    mailbox: Mailbox,
    inbox: Receiver<Done>,
}

impl Served {
    fn new(scratch: &Scratch) -> Self {
        let directory = scratch.serve(DirectoryOptions::default(), Resolver::Kernel);
        let options = StoreOptions {
            frame_cache_octets: 0,
            threads: 0,
        };
        let (sender, inbox) = channel();
        let store = Store::new(directory, options).expect("no thread is started");
        Self {
            store,
            mailbox: Mailbox::new(sender, Waker::noop().clone()),
            inbox,
        }
    }

    fn open(&self, name: &[u8]) -> std::sync::Arc<Body> {
        match self.store.open(Ticket(0), name, Mode::Octet, &self.mailbox) {
            Answer::Now(body) => body.expect("there"),
            _ => {
                while self.store.run_next() {}
                let Ok(Done::Opened(_, Ok(body))) = self.inbox.try_recv() else {
                    panic!("not opened")
                };
                body
            }
        }
    }

    fn frames(
        &self,
        body: &std::sync::Arc<Body>,
        block: BlockIndex,
    ) -> Result<std::sync::Arc<Frames>, ReadFailure> {
        let extent = Frames::extent_of(block, 512);
        let key = FramesKey {
            body: std::sync::Arc::clone(body),
            blksize: 512,
            rollover: Rollover::ToZero,
            extent,
        };
        assert!(matches!(
            self.store.frames(&key, &self.mailbox),
            Answer::Later
        ));
        while self.store.run_next() {}
        let Ok(Done::Framed(_, result)) = self.inbox.try_recv() else {
            panic!("not framed")
        };
        result
    }
}

/// Goal: a transfer sees the file as it was when opened, or ends; it never sees a mixture.
#[test]
fn files_that_change_while_read_are_noticed() {
    let scratch = Scratch::new();
    let path = scratch.root().join("file");
    let served = Served::new(&scratch);
    let whole = |body: &std::sync::Arc<Body>| {
        served.frames(body, BlockIndex::FIRST).map(|frames| {
            frames
                .burst(BlockIndex::FIRST, 10)
                .to_contiguous()
                .into_owned()
        })
    };
    let packets = [
        &write_data_header(crate::wire::WireBlock(1))[..],
        b"as it was",
    ]
    .concat();

    fs::write(&path, "as it was").expect("written");
    let body = served.open(b"file");
    fs::write(scratch.root().join("next"), "another").expect("written");
    fs::rename(scratch.root().join("next"), &path).expect("renamed");
    assert_eq!(whole(&body).as_ref(), Ok(&packets), "replaced");
    fs::remove_file(&path).expect("there");
    assert_eq!(whole(&body).as_ref(), Ok(&packets), "deleted");

    fs::write(&path, "as it was").expect("written");
    let body = served.open(b"file");
    let file = fs::File::options().append(true).open(&path).expect("there");
    io::Write::write_all(&mut &file, b" and more").expect("written");
    assert_eq!(whole(&body).as_ref(), Ok(&packets), "grown");
    file.set_len(3).expect("cut");
    assert_eq!(whole(&body), Err(ReadFailure::Changed), "truncated");

    fs::write(&path, vec![b'a'; 3 << 20]).expect("written");
    let body = served.open(b"file");
    fs::write(&path, vec![b'b'; 2 << 20]).expect("written");
    let result = served.frames(&body, BlockIndex::FIRST).map(|_| ());
    assert_eq!(result, Err(ReadFailure::Changed), "shorter, but not here");

    fs::write(&path, "as it was").expect("written");
    let body = served.open(b"file");
    let other_time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_modified(other_time))
        .expect("touched");
    assert_eq!(whole(&body), Err(ReadFailure::Changed), "written over");
}

/// Goal: block numbers and octets are right far beyond block 65,535, and only what is requested is read.
#[test]
fn a_large_sparse_file_is_read_where_asked() {
    const LEN: u64 = (5 << 30) + 7;
    let scratch = Scratch::new();
    let file = fs::File::create(scratch.root().join("large")).expect("made");
    file.set_len(LEN).expect("sparse");
    let far = BlockIndex(9_000_000);
    std::os::unix::fs::FileExt::write_all_at(&file, b"marked", far.offset(512)).expect("written");
    std::os::unix::fs::FileExt::write_all_at(&file, b"the end", LEN - 7).expect("written");
    let served = Served::new(&scratch);
    let body = served.open(b"large");
    assert_eq!(body.len(), LEN);
    let frames = served.frames(&body, far).expect("well");
    let packet = frames.burst(far, 1).to_contiguous();
    assert_eq!(packet.len(), 516);
    assert_eq!(
        packet[..10],
        [
            &[0, 3],
            &((9_000_000_u64 % 65_536) as u16).to_be_bytes()[..],
            b"marked"
        ]
        .concat()
    );
    let last = BlockIndex::last_of(LEN, 512);
    let frames = served.frames(&body, last).expect("well");
    let burst = frames.burst(last, 5);
    assert_eq!(burst.count(), 1);
    assert_eq!(
        burst.to_contiguous(),
        [
            &[0, 3],
            &(((5_u64 << 21) + 1) as u16).to_be_bytes()[..],
            b"the end"
        ]
        .concat()
    );
}
