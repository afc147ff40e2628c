//! The project's code rules, as tests: modules import only lower layers, and what each file may contain.
//!
//! Each rule is a function from a file's name and text to its violations, so that it can be tested with
//! a planted one. Comments and literals are blanked first: the rules are about code.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A module may use itself and modules of lower layers; not its siblings, and nothing above.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["descriptors", "processors", "sync", "testing", "time"]),
    (1, &["wire"]),
    (2, &["proto", "metrics", "config"]),
    (3, &["store"]),
    (4, &["engine"]),
    (5, &["shard"]),
    (6, &["server", "client", "conformance", "load", "simulate"]),
    (7, &["control"]),
    (8, &["cli", "main"]),
    // Above everything: it may use all, and nobody uses it.
    (9, &["fuzzing"]),
];

/// Siblings that may be used all the same, in this direction alone: settings and counters speak of
/// the protocol's terms and outcomes, and the program is its command line.
const SIBLINGS: &[(&str, &str)] = &[("config", "proto"), ("metrics", "proto"), ("main", "cli")];

/// The files that may say `unsafe`; each argues every use.
const UNSAFE_FILES: &[&str] = &[
    "benches/policy.rs",
    "benches/references/bare.rs",
    "src/engine/socket.rs",
    "src/engine/uring.rs",
    "src/engine/uring/buffers.rs",
    "src/engine/uring/registered.rs",
    "src/engine/uring/ring.rs",
    "src/engine/uring/zero_copy.rs",
    "src/shard/prefetch.rs",
    "src/store/arena.rs",
    "src/store/writeback.rs",
    "tests/allocations.rs",
    "tests/scale.rs",
];

/// The modules that are told what time it is, and do no input or output.
const PURE_MODULES: &[&str] = &["wire", "proto"];

/// What a pure module does without.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::{",
    "tracing",
];

/// The clock that people and time servers set, which may go back: it is for what people read, and log
/// lines get it from their library.
const WALL_CLOCK: &[&str] = &["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "Realtime"];

/// The files that may ask for it all the same: they write the date on a page.
const DATED: &[&str] = &["src/cli/page.rs", "src/load/report/html/mod.rs"];

/// What the codec does without, outside its tests: everything that allocates.
const ALLOCATING: &[&str] = &[
    "Box",
    "String",
    "Vec",
    "alloc",
    "collect",
    "format",
    "to_owned",
    "to_string",
    "to_vec",
    "vec",
];

/// What is never left behind.
const UNFINISHED: &[&str] = &["dbg!", "todo!", "unimplemented!", "#[ignore"];

#[test]
fn modules_import_only_lower_layers() {
    assert_kept(imports_upward, &["src"]);
}

#[test]
fn every_file_says_what_it_is() {
    assert_kept(
        silent_about_itself,
        &["src", "tests", "benches", "examples", "fuzz/fuzz_targets"],
    );
}

#[test]
fn unsafe_stays_where_it_is_argued_for() {
    assert_kept(
        unsafe_elsewhere,
        &["src", "tests", "benches", "examples", "fuzz/fuzz_targets"],
    );
}

#[test]
fn the_protocol_touches_nothing() {
    assert_kept(impure, &["src"]);
}

#[test]
fn nothing_depends_on_a_clock_that_can_be_set() {
    assert_kept(wall_clock, &["src"]);
}

#[test]
fn the_codec_allocates_nothing() {
    assert_kept(allocating, &["src"]);
}

#[test]
fn nothing_is_left_unfinished() {
    assert_kept(
        unfinished,
        &["src", "tests", "benches", "examples", "fuzz/fuzz_targets"],
    );
}

#[test]
fn planted_imports_are_found() {
    let told = |file: &str, text: &str| told(imports_upward, file, text);
    assert_eq!(
        told(
            "src/wire/parse.rs",
            "use std::fmt;\nuse crate::proto::block;\n"
        ),
        ["src/wire/parse.rs:2: `wire` (layer 1) imports `proto` (layer 2)"]
    );
    assert_eq!(
        told(
            "src/proto/sender.rs",
            "use crate::{\n    time::Instant,\n    wire::{Mode, Packet},\n    metrics,\n};\n"
        ),
        ["src/proto/sender.rs:4: `proto` (layer 2) imports `metrics` (layer 2)"]
    );
    assert_eq!(
        told("src/time.rs", "fn f() {\n    crate::shard::run();\n}\n"),
        ["src/time.rs:2: `time` (layer 0) imports `shard` (layer 5)"]
    );
    assert_eq!(
        told("src/cli/mod.rs", "use bootstorm::fuzzing;"),
        ["src/cli/mod.rs:1: `cli` (layer 8) imports `fuzzing` (layer 9)"]
    );
    assert_eq!(
        told(
            "src/wire/parse.rs",
            "use super::Mode;\nuse super::super::proto;"
        ),
        ["src/wire/parse.rs:2: `super` up to the root hides the layer: write `crate::`"]
    );
    assert_eq!(
        told("src/attic/mod.rs", ""),
        ["src/attic/mod.rs:1: `attic` has no layer"]
    );
    assert_eq!(
        told("src/wire/mod.rs", "use crate::attic;"),
        ["src/wire/mod.rs:1: `wire` (layer 1) imports `attic`, which has no layer"]
    );

    let good = "//! See [`crate::shard`].\nuse crate::wire::{Packet, parse};\nuse crate::proto::block;\n\
                use crate::time;\nconst TEXT: &str = \"crate::shard\"; // crate::shard\n";
    assert!(told("src/proto/sender.rs", good).is_empty());
    assert!(told("src/fuzzing.rs", "use crate::{cli, wire};").is_empty());
    assert!(told("src/config.rs", "use crate::proto;").is_empty());
    assert_eq!(told("src/proto/mod.rs", "use crate::config;").len(), 1);
    let tests = "#[cfg(test)]\nmod tests {\n    use super::super::Mode;\n    use super::*;\n}\n";
    assert!(told("src/wire/parse.rs", tests).is_empty());
    assert!(told("src/time.rs", &tests.replace("super::super", "super")).is_empty());
    assert!(
        told("src/lib.rs", "pub use crate::cli::run;").is_empty(),
        "the root stands outside"
    );
}

#[test]
fn other_planted_violations_are_found() {
    assert_eq!(
        told(silent_about_itself, "tests/x.rs", "\n//! Late.").len(),
        1
    );
    assert!(told(silent_about_itself, "tests/x.rs", "//! In time.\n").is_empty());

    let quote = "let quote = b'\"'; let life: &'static str = \"unsafe\"; /* unsafe */ unsafe_code(); // unsafe";
    assert!(told(unsafe_elsewhere, "src/wire/mod.rs", quote).is_empty());
    let planted = format!("{quote}\nlet raw = r#\"unsafe \" unsafe\"#;\nunsafe {{ f() }}");
    assert_eq!(
        told(unsafe_elsewhere, "src/wire/mod.rs", &planted),
        ["src/wire/mod.rs:3: `unsafe` in a file that is not on the list"]
    );
    assert!(told(unsafe_elsewhere, "src/engine/socket.rs", "unsafe {}").is_empty());

    assert_eq!(
        told(
            impure,
            "src/proto/timing.rs",
            "use crate::time::Instant;\nuse std::time::Instant;"
        ),
        ["src/proto/timing.rs:2: `std::time::Instant` in `proto`"]
    );
    assert_eq!(
        told(impure, "src/wire/mod.rs", "tracing::info!(\"\");").len(),
        1
    );
    assert!(told(impure, "src/store/mod.rs", "use std::fs;").is_empty());

    assert_eq!(
        told(
            wall_clock,
            "src/engine/sockets.rs",
            "use std::time::SystemTime;\n#[cfg(test)]\nuse std::time::UNIX_EPOCH;"
        )
        .len(),
        1
    );

    assert_eq!(
        told(
            allocating,
            "src/wire/mod.rs",
            "fn f() {\n    x.to_vec()\n}\n#[cfg(test)]\nmod tests { vec![]; }"
        ),
        ["src/wire/mod.rs:2: `to_vec` in `wire`, which does not allocate"]
    );
    assert_eq!(told(unfinished, "src/x.rs", "fn f() { todo!() }").len(), 1);
    assert_eq!(
        told(unfinished, "tests/x.rs", "#[ignore = \"slow\"]").len(),
        1
    );
}

/// Something that a rule forbids.
struct Violation {
    line: usize,
    what: String,
}

/// A rule: the name of a file, its text and its code (the text with comments and literals blanked).
type Rule = fn(&str, &str, &str) -> Vec<Violation>;

fn imports_upward(file: &str, _text: &str, code: &str) -> Vec<Violation> {
    let Some(module) = module_of(file).filter(|module| *module != "lib") else {
        return Vec::new();
    };
    let Some(layer) = layer_of(module) else {
        return vec![Violation {
            line: 1,
            what: format!("`{module}` has no layer"),
        }];
    };
    let mut violations: Vec<_> = imports(code)
        .filter(|(_, imported)| *imported != module && !SIBLINGS.contains(&(module, imported)))
        .filter_map(|(line, imported)| match layer_of(imported) {
            Some(below) if below < layer => None,
            Some(above) => Some((
                line,
                format!("`{module}` (layer {layer}) imports `{imported}` (layer {above})"),
            )),
            None => Some((
                line,
                format!("`{module}` (layer {layer}) imports `{imported}`, which has no layer"),
            )),
        })
        .map(|(line, what)| Violation { line, what })
        .collect();
    violations.extend(supers_to_the_root(file, code).map(|line| Violation {
        line,
        what: "`super` up to the root hides the layer: write `crate::`".to_owned(),
    }));
    violations
}

fn silent_about_itself(_file: &str, text: &str, _code: &str) -> Vec<Violation> {
    if text.starts_with("//! ") {
        return Vec::new();
    }
    vec![Violation {
        line: 1,
        what: "the first line does not say, after `//!`, what the file is".to_owned(),
    }]
}

fn unsafe_elsewhere(file: &str, _text: &str, code: &str) -> Vec<Violation> {
    if UNSAFE_FILES.contains(&file) {
        return Vec::new();
    }
    found(code, &["unsafe"], |word| {
        format!("`{word}` in a file that is not on the list")
    })
}

fn impure(file: &str, _text: &str, code: &str) -> Vec<Violation> {
    match module_of(file) {
        Some(module) if PURE_MODULES.contains(&module) => {
            found(code, IMPURE, |word| format!("`{word}` in `{module}`"))
        }
        _ => Vec::new(),
    }
}

fn wall_clock(file: &str, _text: &str, code: &str) -> Vec<Violation> {
    if file.ends_with("tests.rs") || DATED.contains(&file) {
        return Vec::new();
    }
    let (code, _tests) = code.split_once("#[cfg(test)]").unwrap_or((code, ""));
    found(code, WALL_CLOCK, |word| {
        format!("`{word}`, and deadlines live by a clock that nobody can set")
    })
}

fn allocating(file: &str, _text: &str, code: &str) -> Vec<Violation> {
    if module_of(file) != Some("wire") {
        return Vec::new();
    }
    let (code, _tests) = code.split_once("#[cfg(test)]").unwrap_or((code, ""));
    found(code, ALLOCATING, |word| {
        format!("`{word}` in `wire`, which does not allocate")
    })
}

fn unfinished(_file: &str, _text: &str, code: &str) -> Vec<Violation> {
    found(code, UNFINISHED, |word| format!("`{word}`"))
}

fn assert_kept(rule: Rule, folders: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    folders
        .iter()
        .for_each(|folder| rust_files(&root.join(folder), &mut files));
    assert!(files.len() > 1, "no files found under {folders:?}");
    files.sort();
    let told: Vec<_> = files
        .iter()
        .flat_map(|path| {
            let name = path
                .strip_prefix(root)
                .expect("a file below the root")
                .display()
                .to_string();
            told(
                rule,
                &name,
                &fs::read_to_string(path).expect("a file of text"),
            )
        })
        .collect();
    assert!(told.is_empty(), "\n{}", told.join("\n"));
}

fn told(rule: Rule, file: &str, text: &str) -> Vec<String> {
    let violations = rule(file, text, &blanked(text));
    violations
        .iter()
        .map(|violation| format!("{file}:{violation}"))
        .collect()
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `src/wire/parse.rs` and `src/wire.rs` belong to `wire`.
fn module_of(file: &str) -> Option<&str> {
    file.strip_prefix("src/")?.split(['/', '.']).next()
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(layer, _)| *layer)
}

/// The modules named behind `crate::` or `bootstorm::`, one by one or in braces, with their lines.
fn imports(code: &str) -> impl Iterator<Item = (usize, &str)> {
    ["crate::", "bootstorm::"]
        .into_iter()
        .flat_map(move |root| {
            places(code, root).flat_map(move |place| {
                let start = place + root.len();
                let heads = match code[start..].strip_prefix('{') {
                    Some(_) => heads_in_braces(code, start + 1),
                    None => vec![start],
                };
                heads.into_iter().filter_map(move |head| {
                    let name = identifier(&code[head..]);
                    (!name.is_empty()).then(|| (line_of(code, head), name))
                })
            })
        })
}

/// The lines where `super::super…` leads out of a file's module, to the root of the crate. Tests, last
/// in their file, are one module further down.
fn supers_to_the_root(file: &str, code: &str) -> impl Iterator<Item = usize> {
    let path = file
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    let depth = path.split('/').count();
    let tests = code.find("#[cfg(test)]").unwrap_or(code.len());
    places(code, "super::").filter_map(move |place| {
        let behind = &code[place..];
        let run = behind.len() - behind.trim_start_matches("super::").len();
        let first = !code[..place].ends_with("super::");
        let ups = run / "super::".len();
        (first && ups >= depth + usize::from(place > tests)).then(|| line_of(code, place))
    })
}

/// Where each path begins in a list in braces that opened just before `start`.
fn heads_in_braces(code: &str, start: usize) -> Vec<usize> {
    let mut heads = Vec::new();
    let mut depth = 1;
    let mut expected = true;
    for (place, character) in code[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => expected = true,
            _ if expected && !character.is_whitespace() => {
                heads.push(start + place);
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn identifier(code: &str) -> &str {
    let end = code
        .find(|character| !is_word(character))
        .unwrap_or(code.len());
    &code[..end]
}

fn found(code: &str, needles: &[&str], tell: impl Fn(&str) -> String) -> Vec<Violation> {
    let tell = &tell;
    let found = needles.iter().flat_map(|needle| {
        words(code, needle).map(move |line| Violation {
            line,
            what: tell(needle),
        })
    });
    found.collect()
}

/// The lines on which `needle` stands as a word of its own.
fn words<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let whole = move |place: &usize| {
        let after = code[place + needle.len()..].chars().next();
        !(needle.ends_with(is_word) && after.is_some_and(is_word))
    };
    places(code, needle)
        .filter(whole)
        .map(|place| line_of(code, place))
}

/// Where `needle` begins, unless in the middle of a word or a path.
fn places<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let starts =
        move |place: &usize| !needle.starts_with(is_word) || !code[..*place].ends_with(is_word);
    code.match_indices(needle)
        .map(|(place, _)| place)
        .filter(starts)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn line_of(code: &str, place: usize) -> usize {
    code[..place].matches('\n').count() + 1
}

/// The text with every comment and literal overwritten by blanks; lines stay where they are.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let blank = comment_len(rest).or_else(|| literal_len(rest, code.ends_with(is_word)));
        let (taken, behind) = rest.split_at(blank.unwrap_or_else(|| character.len_utf8()));
        match blank {
            Some(_) => code.extend(
                taken
                    .chars()
                    .map(|hidden| if hidden == '\n' { '\n' } else { ' ' }),
            ),
            None => code.push_str(taken),
        }
        rest = behind;
    }
    code
}

fn comment_len(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    text.starts_with("/*")
        .then(|| text.find("*/").map_or(text.len(), |end| end + 2))
}

/// The length of the string or character that `text` begins with; `r`, `b` and `c` in front of one
/// count only if they begin a word.
fn literal_len(text: &str, in_word: bool) -> Option<usize> {
    let prefix = if in_word {
        0
    } else {
        text.len() - text.trim_start_matches(['b', 'c', 'r']).len()
    };
    let body = &text[prefix..];
    if text[..prefix].contains('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let opened = body[hashes..].strip_prefix('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = opened
            .find(&close)
            .map_or(opened.len(), |end| end + close.len());
        return Some(prefix + hashes + 1 + end);
    }
    let quote = body
        .chars()
        .next()
        .filter(|quote| ['"', '\''].contains(quote))?;
    // A quote with neither an escape nor its twin two characters on is a lifetime.
    if quote == '\'' && !body.starts_with("'\\") && body.chars().nth(2) != Some('\'') {
        return None;
    }
    let mut escaped = false;
    for (place, character) in body.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return Some(prefix + place + 1),
            _ => {}
        }
    }
    Some(text.len())
}
