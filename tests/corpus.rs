//! Plays every seed of every fuzz target, and some thousand more inputs, under plain `cargo test`.

use std::fs;
use std::path::{Path, PathBuf};

use bootstorm::fuzzing::{TARGETS, canary};

/// Inputs made from the seeds for each target: a second's work without optimisation.
const SMOKE_INPUTS: usize = 4_000;

/// Where the smoke begins: a failure comes again with every run.
const SMOKE_SEED: u64 = 0x7f7b;

#[test]
fn every_seed_passes() {
    for (name, body) in TARGETS {
        for (path, octets) in seeds(name) {
            println!("{}", path.display()); // Shown with the panic, should there be one.
            body(&octets);
        }
    }
}

#[test]
fn inputs_grown_from_the_seeds_pass() {
    for (name, body) in TARGETS {
        let seeds = seeds(name);
        let mut random = fastrand::Rng::with_seed(SMOKE_SEED);
        for round in 0..SMOKE_INPUTS {
            let mut octets = seeds[random.usize(..seeds.len())].1.clone();
            let other = &seeds[random.usize(..seeds.len())].1;
            mutate(&mut octets, other, &mut random);
            println!("{name}, round {round}: {}", octets.escape_ascii());
            body(&octets);
        }
    }
}

#[test]
#[should_panic(expected = "the canary sings")]
fn the_canary_fails_on_its_seed() {
    for (_, octets) in seeds("canary") {
        canary(&octets);
    }
}

#[test]
fn the_canary_is_silent_otherwise() {
    for octets in [&b""[..], b"twee", b" tweet"] {
        canary(octets);
    }
}

/// Goal: a target that exists but is not listed, or is listed but does not exist, is noticed.
#[test]
fn targets_files_and_manifest_agree() {
    let mut listed: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.push("canary".to_owned());
    listed.sort();

    assert_eq!(names_in("fuzz_targets"), listed);
    assert_eq!(names_in("seeds"), listed);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for name in &listed {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in fuzz/Cargo.toml"
        );
        let file = fuzz().join("fuzz_targets").join(name).with_extension("rs");
        let text = fs::read_to_string(&file).expect("a target's file");
        assert!(
            text.contains(&format!("bootstorm::fuzzing::{name}(")),
            "{} runs another body",
            file.display()
        );
    }
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Names in a folder of `fuzz/`, in order, without their extensions.
fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(fuzz().join(folder)).expect("a folder of fuzz/");
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Seeds of a target in the order of their names; at least one.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz().join("seeds").join(target);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a seed").path()).collect();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).expect("a seed")))
        .collect()
}

/// One to four changes: an octet, a cut, a repetition, or a piece of another seed.
fn mutate(octets: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..=4) {
        let place = random.usize(..=octets.len());
        match random.u8(..6) {
            0 => octets.truncate(place),
            1 => octets.insert(place, random.u8(..)),
            2 => octets.insert(place, 0),
            3 if place < octets.len() => octets[place] = random.u8(..),
            4 if !other.is_empty() => {
                octets.extend_from_slice(&other[random.usize(..other.len())..])
            }
            _ => octets.extend_from_within(place..),
        }
    }
}
