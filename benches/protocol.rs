//! The cost of the codec and the protocol per packet: parsing and writing of every kind, negotiation, sender
//! and receiver by window, netascii. All in processor time of one thread.

// What the macros make has no documentation.
#![allow(missing_docs)]

mod common;
#[path = "common/routines.rs"]
mod routines;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use routines::ROUTINES;

fn protocol(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol");
    for routine in ROUTINES {
        let mut operation = (routine.make)();
        group.throughput(Throughput::Elements(routine.blocks));
        group.bench_function(routine.name, |bencher| {
            bencher.iter_custom(|times| common::time_of(times, &mut operation));
        });
    }
    group.finish();
}

criterion_group!(benches, protocol);
criterion_main!(benches);
