//! A server that is killed amid uploads: whatever the moment, a name stands for a whole file or for none, and
//! what is left over goes with the next upload of that name.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::calls::{Failing, failing};
use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::peer::{self, ACK, Peer, WRQ, data, number, opcode, request};

on_both_engines! {
    killed_amid_new_files
    killed_amid_new_contents_of_old_files
    killed_between_two_names
}

/// How often a server is killed in a test.
const KILLS: u64 = 24;
/// Clients that upload at the same time, each file under a name of its own.
const WRITERS: u64 = 4;
/// Files for each of them: more than it gets done.
const FILES: u64 = 1_000;
/// How long a client waits for a server that is not there any more.
const MISSED_AFTER: Duration = Duration::from_millis(200);

fn killed_amid_new_files(engine: Engine) {
    kill_and_look(engine, "create", |name| {
        assert!(!name.starts_with('.'), "{name} is left over")
    });
}

fn killed_amid_new_contents_of_old_files(engine: Engine) {
    // Between the link that names the new contents and the rename, they stand there as `.NAME….part`.
    kill_and_look(engine, "overwrite", |name| {
        assert!(!name.starts_with('.') || name.ends_with(".part"), "{name}");
    });
}

/// Goal: the one moment at which an unnamed file has to have another name than its own leaves nothing for
/// ever. Method: the server dies of the very call that gives it its own, which is the first of its kind.
fn killed_between_two_names(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), "old").expect("a file");
    let deadly = ["renameat,renameat2:signal=KILL"];
    let Some(Failing { server, .. }) =
        failing(engine, root.path(), &["--write", "overwrite"], &deadly)
    else {
        return;
    };
    let contents = peer::octets(1, 1_000);
    let mut writer = Peer::new(server.address);
    writer.send(&request(WRQ, b"file", &[]));
    writer.next_ack(0);
    writer.send(&data(1, &contents[..512]));
    writer.next_ack(1);
    writer.send(&data(2, &contents[512..]));
    server.ended();
    assert_eq!(
        names_in(root.path()),
        [".file.bootstorm-00000000.part", "file"]
    );
    assert_eq!(fs::read(root.path().join("file")).expect("there"), b"old");

    let server = Binary::start(engine, root.path(), &["--write", "overwrite"]);
    assert_eq!(peer::store(server.address, "file", b"new"), Ok(()));
    assert_eq!(names_in(root.path()), ["file"]);
    assert_eq!(fs::read(root.path().join("file")).expect("there"), b"new");
}

/// What is in a directory, in order, hidden or not.
fn names_in(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).expect("the root");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a plain name");
    let mut names: Vec<_> = entries
        .map(|entry| name(entry.expect("an entry")))
        .collect();
    names.sort();
    names
}

/// Kills servers at random moments, and looks at what each has left.
fn kill_and_look(engine: Engine, writes: &str, look: impl Fn(&str)) {
    let mut whole = 0;
    for seed in 0..KILLS {
        let root = tempfile::tempdir().expect("a directory");
        let begun = kill_amid_uploads(engine, root.path(), writes, seed);
        for entry in fs::read_dir(root.path()).expect("the root") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a plain name");
            look(&name);
            if name.starts_with('.') {
                continue;
            }
            let contents = fs::read(entry.path()).expect("a file");
            let versions = &begun[&name];
            let is_one = versions
                .iter()
                .any(|version| contents_of(*version) == contents);
            assert!(is_one, "seed {seed}: {name} is none of its versions");
            whole += 1;
        }
        // What is there is served by the next.
        let server = Binary::start(engine, root.path(), &[]);
        for (name, versions) in begun {
            match peer::fetch(server.address, &name) {
                Ok(contents) => assert!(
                    versions
                        .iter()
                        .any(|&version| contents_of(version) == contents)
                ),
                Err((code, text)) => assert_eq!(code, 1, "{text}"),
            }
        }
        if writes == "overwrite" {
            let server = Binary::start(engine, root.path(), &["--write", writes]);
            for name in names_in(root.path()) {
                let name = name
                    .strip_prefix('.')
                    .map_or(name.as_str(), |hidden| &hidden[..3]);
                assert_eq!(peer::store(server.address, name, b"again"), Ok(()));
            }
            let hidden = names_in(root.path())
                .into_iter()
                .find(|name| name.starts_with('.'));
            assert_eq!(hidden, None, "seed {seed}");
        }
    }
    assert!(
        whole > KILLS,
        "{whole} files in all: the kills come too early"
    );
}

/// Uploads until the server is killed, after a random number of blocks and a random moment more; says
/// which versions of which names were begun.
fn kill_amid_uploads(
    engine: Engine,
    root: &Path,
    writes: &str,
    seed: u64,
) -> HashMap<String, Vec<u64>> {
    let server = Binary::start(engine, root, &["--write", writes]);
    let mut random = fastrand::Rng::with_seed(seed);
    let (blocks, spins) = (AtomicU32::new(0), random.u32(..20_000));
    let last_block = random.u32(20..600);
    let begun = Mutex::new(HashMap::<String, Vec<u64>>::new());
    let server = &server;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (blocks, begun) = (&blocks, &begun);
            scope.spawn(move || {
                for file in 0..FILES {
                    // Where files may be replaced, they are, again and again.
                    let name = match writes {
                        "overwrite" => format!("{writer}-{}", file % 2),
                        _ => format!("{writer}-{file}"),
                    };
                    let version = (seed * WRITERS + writer) * FILES + file;
                    let mut begun = begun.lock().expect("nobody panics with it");
                    begun.entry(name.clone()).or_default().push(version);
                    drop(begun);
                    let acknowledged = || {
                        if blocks.fetch_add(1, Ordering::Relaxed) == last_block {
                            (0..spins).for_each(|_| std::hint::spin_loop());
                            server.signal(Signal::KILL);
                        }
                    };
                    if !upload(server, &name, &contents_of(version), acknowledged) {
                        return;
                    }
                }
            });
        }
    });
    begun.into_inner().expect("nobody panics with it")
}

/// A version tells its contents and length: up to twenty blocks.
fn contents_of(version: u64) -> Vec<u8> {
    let len = fastrand::Rng::with_seed(version).usize(..10_000);
    peer::octets(version, len)
}

/// Uploads in lock-step; false once the server is gone.
fn upload(server: &Binary, name: &str, contents: &[u8], acknowledged: impl Fn()) -> bool {
    let mut writer = Peer::new(server.address);
    writer.send(&request(WRQ, name.as_bytes(), &[]));
    for block in 0..=contents.len() / 512 + 1 {
        if block > 0 {
            let start = 512 * (block - 1);
            let end = contents.len().min(start + 512);
            writer.send(&data(block as u16, &contents[start..end]));
        }
        let Some(answer) = writer.receive_within(MISSED_AFTER) else {
            return false;
        };
        assert_eq!(
            (opcode(&answer), usize::from(number(&answer))),
            (ACK, block)
        );
        acknowledged();
    }
    true
}
