//! The cost of laying a file out as DATA packets, from a warm page cache: processor time of one thread.

// What the macros make has no documentation.
#![allow(missing_docs)]

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::Waker;
use std::time::Duration;

use bootstorm::proto::block::{BlockIndex, Rollover};
use bootstorm::store::local::Local;
use bootstorm::store::{
    Answer, Body, Done, Frames, FramesKey, Mailbox, Store, StoreOptions, Ticket,
};
use bootstorm::wire::Mode;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};

/// Length of the file: many times the cache, so that every pass frames everything anew.
const FILE_OCTETS: usize = 64 << 20;
/// Memory for frames: enough to be recycled.
const CACHE_OCTETS: usize = 16 << 20;

struct Bench {
    store: Arc<Store>,
    mailbox: Mailbox,
    inbox: Receiver<Done>,
    body: Arc<Body>,
}

impl Bench {
    /// Frames the whole file once, on this thread.
    fn pass(&self, blksize: u16) {
        let last = Frames::extent_of(BlockIndex::last_of(self.body.len(), blksize), blksize);
        for extent in 0..=last {
            let key = FramesKey {
                body: Arc::clone(&self.body),
                blksize,
                rollover: Rollover::ToZero,
                extent,
            };
            if matches!(self.store.frames(&key, &self.mailbox), Answer::Later) {
                while self.store.run_next() {}
                black_box(self.inbox.try_iter().count());
            }
        }
    }
}

fn framing(criterion: &mut Criterion) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let octets: Vec<u8> = (0..FILE_OCTETS).map(|place| (place >> 3) as u8).collect();
    file.write_all(&octets).expect("room for it");
    let store = Store::new(
        Local,
        StoreOptions {
            frame_cache_octets: CACHE_OCTETS,
            threads: 0,
        },
    )
    .expect("no thread is started");
    let (sender, inbox) = channel();
    let mailbox = Mailbox::new(sender, Waker::noop().clone());
    let name = file.path().as_os_str().as_encoded_bytes();
    let answer = store.open(Ticket(0), name, Mode::Octet, &mailbox);
    while store.run_next() {}
    let body = match answer {
        Answer::Now(Ok(body)) => body,
        _ => match inbox.try_recv() {
            Ok(Done::Opened(_, Ok(body))) => body,
            other => panic!("not opened: {other:?}"),
        },
    };
    let bench = Bench {
        store,
        mailbox,
        inbox,
        body,
    };
    let mut group = criterion.benchmark_group("framing");
    group.throughput(Throughput::Bytes(FILE_OCTETS as u64));
    group.sample_size(10);
    for blksize in [512, 1428, 8192, 65464] {
        group.bench_function(blksize.to_string(), |bencher| {
            bencher.iter_custom(|passes| {
                let before = processor_time();
                (0..passes).for_each(|_| bench.pass(blksize));
                processor_time() - before
            });
        });
    }
    group.finish();
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

criterion_group!(benches, framing);
criterion_main!(benches);
