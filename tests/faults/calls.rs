//! System calls that fail now and then, in ways that this machine could not be brought to: strace answers
//! them in the kernel's place.

use std::fs;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::peer::{self, until};
use crate::common::require;
use crate::works;

on_both_engines! {
    sends_without_room
    sends_that_fail
    receives_without_memory
    calls_that_are_interrupted
    names_without_memory
    a_quota_that_shows_at_the_end
}

/// Octets of a file, which is some hundred blocks.
const OCTETS: usize = 100_000;

/// A server some of whose system calls fail.
pub(crate) struct Failing {
    pub(crate) server: Binary,
    calls: NamedTempFile,
}

impl Failing {
    /// Waits until a call has failed that strace was to let fail.
    fn has_failed(&self) {
        until("a call fails", || {
            let calls = fs::read(self.calls.path()).expect("text");
            calls.windows(10).any(|word| word == b"(INJECTED)")
        });
    }
}

/// Starts a server whose calls fail as strace's `inject=` says, each thread's counted by itself. `None`, said aloud,
/// where there is no strace, or where it may not.
pub(crate) fn failing(
    engine: Engine,
    root: &Path,
    arguments: &[&str],
    injections: &[&str],
) -> Option<Failing> {
    require("strace")?;
    let calls = NamedTempFile::new().expect("a file");
    let calls_path = calls.path().to_str().expect("a plain path").to_owned();
    let injections: Vec<String> = injections
        .iter()
        .map(|what| format!("inject={what}"))
        .collect();
    let names = |injection: &String| injection.split([':', '=']).nth(1).map(str::to_owned);
    let traced: Vec<String> = injections.iter().filter_map(names).collect();
    let traced = format!("trace={}", traced.join(","));
    // The tracer steps aside, so that the server is this program's own child.
    let mut wrapper = vec![
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        &calls_path,
        "-e",
        &traced,
    ];
    wrapper.extend(injections.iter().flat_map(|what| ["-e", what.as_str()]));
    if !works(&["strace", "-D", "-f", "-qq", "-o", "/dev/null", "true"]) {
        return None;
    }
    let server = Binary::start_under(&wrapper, engine, root, arguments);
    Some(Failing { server, calls })
}

/// A server with one file, whose every call of these fails as described.
fn serving(engine: Engine, root: &Path, injections: &[&str]) -> Option<(Failing, Vec<u8>)> {
    let contents = peer::octets(1, OCTETS);
    fs::write(root.join("file"), &contents).expect("a file");
    Some((
        failing(engine, root, &["--write", "create"], injections)?,
        contents,
    ))
}

/// Goal: ENOBUFS and EAGAIN are no errors and no losses: what found no room goes once there is some.
fn sends_without_room(engine: Engine) {
    for errno in ["ENOBUFS", "EAGAIN"] {
        let root = tempfile::tempdir().expect("a directory");
        let every_third = format!("sendto,sendmsg:error={errno}:when=2+3");
        let Some((failing, contents)) = serving(engine, root.path(), &[&every_third]) else {
            return;
        };
        let server = &failing.server;
        assert!(
            peer::fetch(server.address, "file").as_ref() == Ok(&contents),
            "{errno}"
        );
        assert_eq!(
            peer::store(server.address, "copy", &contents),
            Ok(()),
            "{errno}"
        );
        failing.has_failed();
        let metrics = server.metrics();
        assert_ne!(metrics.value("tftp_send_full_total"), 0, "{errno}");
        assert_eq!(metrics.sum("tftp_send_errors_total{"), 0, "{errno}");
        assert_eq!(metrics.sum("tftp_retransmits_total"), 0, "{errno}");
    }
}

/// Goal: what cannot be sent for another reason is a loss like any other, and is counted.
fn sends_that_fail(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let some = "sendto,sendmsg:error=ENOMEM:when=20+70";
    let Some((failing, contents)) = serving(engine, root.path(), &[some]) else {
        return;
    };
    let server = &failing.server;
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&contents));
    failing.has_failed();
    assert_ne!(server.metrics().sum("tftp_send_errors_total{"), 0);
}

/// Goal: what could not be received for want of memory is received later.
fn receives_without_memory(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    // The two ways in which the kernel says so.
    let every_third = [
        "recvfrom,recvmsg:error=ENOMEM:when=3+3",
        "io_uring_enter:error=EAGAIN:when=3+3",
    ];
    let Some((failing, contents)) = serving(engine, root.path(), &every_third) else {
        return;
    };
    let server = &failing.server;
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&contents));
    assert_eq!(peer::store(server.address, "copy", &contents), Ok(()));
    failing.has_failed();
}

/// Goal: EINTR ends nothing, wherever it comes from.
fn calls_that_are_interrupted(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let calls = "epoll_wait,epoll_pwait,io_uring_enter,pread64,sendto,sendmsg,recvfrom,recvmsg";
    let every_third = format!("{calls}:error=EINTR:when=3+3");
    let Some((failing, contents)) = serving(engine, root.path(), &[&every_third]) else {
        return;
    };
    let server = &failing.server;
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&contents));
    assert_eq!(peer::store(server.address, "copy", &contents), Ok(()));
    failing.has_failed();
}

/// How often the file is asked for.
const ASKED: usize = 8;

/// Goal: ENOMEM is told to the client that met it, and nobody else.
fn names_without_memory(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let every_third = "openat2:error=ENOMEM:when=3+3";
    let Some((failing, contents)) = serving(engine, root.path(), &[every_third]) else {
        return;
    };
    let answers = [(); ASKED].map(|()| peer::fetch(failing.server.address, "file"));
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(good.iter().all(|arrived| arrived.as_ref() == Ok(&contents)));
    assert!(
        bad.iter().all(|told| matches!(told, Err((0, _)))),
        "{bad:?}"
    );
    assert!(
        !good.is_empty() && !bad.is_empty(),
        "{} and {}",
        good.len(),
        bad.len()
    );
}

/// Goal: a disk that says only at the end that there is no room, as those on a network do, leaves no file.
fn a_quota_that_shows_at_the_end(engine: Engine) {
    let root = tempfile::tempdir().expect("a directory");
    let always = "fsync:error=EDQUOT";
    let Some((failing, contents)) = serving(engine, root.path(), &[always]) else {
        return;
    };
    let server = &failing.server;
    let refused = peer::store(server.address, "copy", &contents);
    assert_eq!(refused.map_err(|(code, _)| code), Err(3));
    assert!(peer::fetch(server.address, "file").as_ref() == Ok(&contents));
    let entries = fs::read_dir(root.path()).expect("the root");
    assert_eq!(entries.count(), 1, "only the file is there");
}
