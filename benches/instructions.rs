//! Runs one routine of the codec or the protocol many times, for callgrind to count its instructions;
//! `benches/instructions` runs it and compares the counts with those on record.

#[path = "common/routines.rs"]
mod routines;

use std::process::ExitCode;

use routines::{Operation, ROUTINES};

/// How often the routine is done before the counted times, so that everything has its memory.
const BEFORE: u64 = 10;

/// `instructions ROUTINE TIMES` does it; without arguments, the names of all.
fn main() -> ExitCode {
    // Cargo says `--bench` to every benchmark.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    match arguments.as_slice() {
        [] => ROUTINES
            .iter()
            .for_each(|routine| println!("{}", routine.name)),
        [name, times] => {
            let routine = ROUTINES.iter().find(|routine| routine.name == name);
            let (Some(routine), Ok(times)) = (routine, times.parse()) else {
                eprintln!("error: there is no routine `{name}`, or `{times}` is no number");
                return ExitCode::FAILURE;
            };
            let mut operation = (routine.make)();
            (0..BEFORE).for_each(|_| operation());
            measured(&mut operation, times);
        }
        _ => {
            eprintln!("error: say ROUTINE TIMES, or nothing to see the names of all");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What is counted: callgrind looks for the name.
#[inline(never)]
fn measured(operation: &mut Operation, times: u64) {
    (0..times).for_each(|_| operation());
}
