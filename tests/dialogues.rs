//! Every rule of the protocol as a dialogue: what a peer sends, and what it receives in answer.
//!
//! Each file in `tests/dialogues/` is one dialogue from the view of a peer, with every datagram of the peer.
//! It is played on the core in virtual time, and over the loopback on the other engines.
//!
//! ```text
//! # RFC 7440 §4: the rule; the first line says which, and where it stands
//! core only                              not over the loopback: it would take long, or times matter
//! file image 3000                        there is a file of 3000 octets of a pattern; or `"text"`
//! refused secret                         there is something that cannot be had
//! server single-port max-windowsize=16   settings: see `Setup::setting`
//! > RRQ image octet blksize=1428         the peer sends: RRQ, WRQ, DATA, ACK, ERROR, OACK, or raw octets
//! < OACK blksize=1428                    the next that it gets is this, to the octet
//! < DATA 1 [1428]                        so many octets, the right ones for their place in the file; or `"text"`
//! < DATA 1 [1428] after 2s               so long after the one before (checked where time is exact)
//! < ERROR 1                              with any text; `ERROR 1 "text"` with this one
//! < nothing 300ms                        nothing comes for so long
//! > raw 00 04 61*300 "text\0"            octets in hexadecimal, repeated, and text
//! other > ACK 1                          from another port of the peer; its name is free, but `elsewhere`
//! other < ERROR 5                          is at another host and `port-zero` is port 0
//! > ACK 1 to listener                    to the port that takes requests instead of the transfer's
//! exchange DATA 1..70000 [8]             blocks and their ACKs, window by window; numbers go on beyond 65,535
//! upload image equals 3000               a file was published, with the pattern or `"text"`; or `absent`
//! drain | stop                           the shard takes no more requests; it ends all transfers
//! client get image blksize=1428 tsize    the shard is the client and the peer the server: get or put,
//!                                          netascii, tsize, blksize=, windowsize=, timeout=
//! outcome complete                       how the client's transfer ended
//! ```
//!
//! `DIALOGUE=part-of-a-name cargo test --test dialogues` plays only some.

mod common;
#[path = "dialogues/play.rs"]
mod play;
#[path = "dialogues/players.rs"]
mod players;
#[path = "dialogues/script.rs"]
mod script;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, io, thread};

use bootstorm::engine::mio::MioEngine;
#[cfg(target_os = "linux")]
use bootstorm::engine::uring::UringEngine;

use play::play;
use players::{Loopback, Player, Virtual};
use script::{Dialogue, Setup};

/// Dialogues played at a time: they mostly wait.
const THREADS: usize = 16;

#[test]
fn the_core_keeps_to_every_dialogue() {
    play_all(|dialogue| Some(dialogue.setup.clone()), Virtual::start);
}

#[test]
fn the_mio_engine_keeps_to_every_dialogue() {
    play_all(Dialogue::in_real_time, |setup| {
        Loopback::start(setup, MioEngine::new)
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_uring_engine_keeps_to_every_dialogue() {
    if let Err(why) = UringEngine::new() {
        return common::skip(&why.to_string());
    }
    play_all(Dialogue::in_real_time, |setup| {
        Loopback::start(setup, UringEngine::new)
    });
}

/// Plays all dialogues for which there is a `setup`, and tells of all that fail.
fn play_all(setup: fn(&Dialogue) -> Option<Setup>, start: fn(&Setup) -> Box<dyn Player>) {
    let dialogues = dialogues();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = Vec::new();
        while let Some((dialogue, text)) = dialogues.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(setup) = setup(dialogue) {
                let mut player = start(&setup);
                failures.extend(play(dialogue, text, &setup, &mut *player).err());
            }
        }
        failures
    };
    let failures: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no dialogue makes anything panic"))
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} of {} dialogues failed:\n\n{}",
        failures.len(),
        dialogues.len(),
        failures.join("\n")
    );
}

/// Every dialogue, with its text.
fn dialogues() -> Vec<(Dialogue, String)> {
    let wanted = env::var("DIALOGUE").unwrap_or_default();
    let read = || -> io::Result<Vec<(String, String)>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
        let mut texts = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".txt") && name.contains(&wanted) {
                texts.push((name.into_owned(), fs::read_to_string(&path)?));
            }
        }
        texts.sort();
        Ok(texts)
    };
    let mut errors = Vec::new();
    let mut dialogues = Vec::new();
    for (name, text) in read().expect("the directory can be read") {
        match Dialogue::parse(&name, &text) {
            Ok(dialogue) => dialogues.push((dialogue, text)),
            Err(error) => errors.push(error),
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    dialogues
}

#[test]
fn a_line_that_is_none_is_named_with_its_file_and_number() {
    let error = |text: &str| Dialogue::parse("name.txt", text).expect_err("a mistake");
    assert_eq!(
        error("# RFC 1350\n> ACK 1\n< DATA one [8]"),
        "name.txt:3: `one` is not a number that fits here\n    < DATA one [8]"
    );
    assert_eq!(
        error("# RFC 1350\n< nothing 3 s"),
        "name.txt:2: this is no packet: RRQ, WRQ, DATA, ACK, ERROR, OACK or raw\n    < nothing 3 s"
    );
    assert_eq!(
        error("> ACK 1"),
        "name.txt:1: the first line says the rule: `# RFC 1350 §2: …`"
    );
    assert_eq!(
        error("# RFC 7440\n> RRQ image octet windowsize=4"),
        "name.txt: windows without a `timeout` are for the `core only`"
    );
}

#[test]
fn a_dialogue_that_fails_is_shown_as_far_as_it_got() {
    let text =
        "# RFC 1350 §2: one block\nfile image 100\n> RRQ image octet\n< DATA 1 [99]\n> ACK 1\n";
    let dialogue = Dialogue::parse("name.txt", text).expect("a dialogue");
    let mut player = Virtual::start(&dialogue.setup);
    let error = play(&dialogue, text, &dialogue.setup, &mut *player).expect_err("99 are not 100");
    let expected = "\
name.txt:4: `< DATA 1 [100]` came
     # RFC 1350 §2: one block
     file image 100
     > RRQ image octet
  >> < DATA 1 [99]
";
    assert_eq!(error, expected);
}

/// Goal: the dialogue shown in CONTRIBUTING.md is valid, and passes.
#[test]
fn the_dialogue_for_newcomers_is_one() {
    let guide = include_str!("../CONTRIBUTING.md");
    let shown = guide.split("```text\n").nth(1).expect("an example");
    let text = shown.split("```").next().unwrap_or_default();
    let dialogue = Dialogue::parse("CONTRIBUTING.md", text).expect("a dialogue");
    let mut player = Virtual::start(&dialogue.setup);
    let played = play(&dialogue, text, &dialogue.setup, &mut *player);
    played.expect("the server answers as shown");
}
