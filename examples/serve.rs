//! A server inside somebody's own test: it serves a directory at a port that is free, a file is fetched from
//! it, and it ends.
//!
//! ```sh
//! cargo run --example serve
//! ```

use std::error::Error;
use std::fs;
use std::sync::Arc;

use bootstorm::client::{Job, LocalFile, Offer, Transfer, Turn};
use bootstorm::server::{Server, ServerOptions};
use bootstorm::shard::Operation;
use bootstorm::wire::Mode;

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = std::env::temp_dir().join(format!("bootstorm-example-{}", std::process::id()));
    let root = scratch.join("root");
    fs::create_dir_all(&root)?;
    fs::write(root.join("image"), vec![b'x'; 1_000_000])?;

    // Each thread of the server calls this as its last act.
    let ended = |result| match result {
        Ok(_metrics) => {}
        Err(error) => eprintln!("a thread of the server failed: {error}"),
    };
    let options = ServerOptions {
        root,
        listen: vec!["127.0.0.1:0".parse()?],
        ..ServerOptions::default()
    };
    let server = Server::start(&options, ended)?;
    println!("serving at {}", server.addresses()[0]);

    let copy = scratch.join("copy");
    let job = Job {
        servers: server.addresses().to_vec(),
        operation: Operation::Read,
        remote: b"image".to_vec(),
        local: LocalFile::Path(copy.clone()),
        mode: Mode::Octet,
        offer: Offer::default(),
    };
    let mut transfer = Transfer::start(job, Arc::default())?;
    let summary = loop {
        if let Turn::Done(summary) = transfer.turn()? {
            break summary;
        }
    };
    println!("got {} octets in {:?}", summary.octets, summary.elapsed);
    assert_eq!(fs::read(copy)?, vec![b'x'; 1_000_000]);

    // Transfers that run may finish; stop() would end them.
    server.drain();
    server.join();
    fs::remove_dir_all(scratch)?;
    Ok(())
}
