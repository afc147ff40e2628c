//! A network of few machines that is slow, or is unplugged.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::binary::{Binary, Engine, on_both_engines};
use crate::common::namespace::Namespace;
use crate::common::peer::{self, Peer, RRQ, WRQ, data, number, request, until};
use crate::common::skip;
use crate::works;

on_both_engines! {
    an_interface_that_goes_down_and_up
    a_line_slower_than_its_server
    a_slow_line_beside_a_quick_one
}

/// A namespace for a server, with a wire each to those of its clients; gone when this is.
struct Wire {
    server: Namespace,
    client: Namespace,
    /// A second client's.
    other: Namespace,
}

/// The server's address, and the client's. The server listens at all, for one would be gone with the interface.
const SERVER: &str = "10.99.0.1";
const CLIENT: &str = "10.99.0.2";
/// The same on the wire to the other client.
const SERVER_TO_OTHER: &str = "10.99.1.1";
const OTHER: &str = "10.99.1.2";

impl Wire {
    /// `None`, said aloud, where none can be had.
    fn lay() -> Option<Self> {
        let namespace = || {
            let made = Namespace::new();
            made.inspect_err(|why| skip(why)).ok()
        };
        let wire = Self {
            server: namespace()?,
            client: namespace()?,
            other: namespace()?,
        };
        let server = wire.server.name.as_str();
        let ends = [
            ("wire", wire.client.name.as_str(), SERVER, CLIENT),
            ("other", wire.other.name.as_str(), SERVER_TO_OTHER, OTHER),
        ];
        let mut laid = true;
        for (device, client, own, its) in ends {
            laid = laid
                && works(&[
                    "ip", "-n", server, "link", "add", device, "type", "veth", "peer", "name",
                    device, "netns", client,
                ]);
            for (end, address) in [(server, own), (client, its)] {
                let network = format!("{address}/24");
                laid = laid
                    && works(&["ip", "-n", end, "address", "add", &network, "dev", device])
                    && works(&["ip", "-n", end, "link", "set", device, "up"]);
            }
        }
        laid.then_some(wire)
    }

    /// Has the line to the first client take so much, with a queue longer than the server's; false, said aloud,
    /// where that cannot be had.
    fn slow_down(&self, rate: &str) -> bool {
        works(&[
            "tc",
            "-n",
            &self.server.name,
            "qdisc",
            "add",
            "dev",
            "wire",
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            "64k",
            "limit",
            "64m",
        ])
    }

    /// Has the server's interface go `down` or `up`.
    fn set(&self, state: &str) {
        let server = self.server.name.as_str();
        assert!(works(&["ip", "-n", server, "link", "set", "wire", state]));
    }

    fn serve(&self, engine: Engine, root: &Path, arguments: &[&str]) -> Binary {
        let listening = [&["--listen", "0.0.0.0:6969"][..], arguments].concat();
        self.server
            .within(|| Binary::start(engine, root, &listening))
    }
}

/// Blocks of each file.
const BLOCKS: u16 = 20;
/// For how long nothing gets through: long enough that the server repeats what it sent.
const DOWN: Duration = Duration::from_millis(1_500);

/// Goal: an interface that goes down, and comes up again before `--idle-timeout`, costs nobody a transfer;
/// meanwhile the system refuses to send, which is counted. Method: a read and a write are half done then.
fn an_interface_that_goes_down_and_up(engine: Engine) {
    let Some(wire) = Wire::lay() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, 512 * usize::from(BLOCKS) - 1);
    fs::write(root.path().join("file"), &contents).expect("a file");
    let server = wire.serve(engine, root.path(), &["--write", "create"]);
    let to = format!("{SERVER}:6969").parse().expect("an address");
    let (mut reader, mut writer) = wire.client.within(|| (Peer::new(to), Peer::new(to)));

    let mut arrived = Vec::new();
    reader.send(&request(RRQ, b"file", &[]));
    writer.send(&request(WRQ, b"copy", &[]));
    writer.next_ack(0);
    for block in 1..=BLOCKS {
        arrived.extend(reader.next_data(block));
        let start = 512 * (usize::from(block) - 1);
        let part = &contents[start..contents.len().min(start + 512)];
        if block == BLOCKS / 2 {
            wire.set("down");
        }
        reader.ack(block);
        writer.send(&data(block, part));
        if block == BLOCKS / 2 {
            let heard = reader.receive_within(DOWN);
            assert!(heard.is_none_or(|packet| number(&packet) <= block));
            let refused = || {
                wire.server
                    .within(|| server.metrics().sum("tftp_send_errors_total{"))
            };
            until("the system refuses what the server repeats", || {
                refused() > 0
            });
            wire.set("up");
            // As clients do that have waited long enough, until they are heard.
            while repeated(&mut reader, block).is_none() {
                reader.ack(block);
            }
            loop {
                writer.send(&data(block, part));
                match writer.receive_within(DOWN / 10) {
                    Some(answer) if number(&answer) == block => break,
                    _ => {}
                }
            }
            continue;
        }
        writer.next_ack(block);
    }
    assert!(arrived == contents);
    assert!(fs::read(root.path().join("copy")).expect("there") == contents);
}

/// Looks whether the block after `block` has come, and leaves it to be received again by the caller.
fn repeated(reader: &mut Peer, block: u16) -> Option<()> {
    let mut buffer = [0; 600];
    reader
        .socket
        .set_read_timeout(Some(DOWN / 10))
        .expect("a timeout");
    let (len, _) = reader.socket.peek_from(&mut buffer).ok()?;
    if number(&buffer[..len]) == block + 1 {
        return Some(());
    }
    reader.receive();
    None
}

/// Clients at once; with windows this large they ask for more than a socket's send buffer holds.
const CLIENTS: &str = "150";

/// Goal: EAGAIN is no error: where the line takes less than is to be sent, transfers wait for room, and
/// every one completes. Method: a line of 200 Mbit/s with a queue longer than the socket's.
fn a_line_slower_than_its_server(engine: Engine) {
    let Some(wire) = Wire::lay() else { return };
    if !wire.slow_down("200mbit") {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    let contents = peer::octets(1, 300_000);
    fs::write(root.path().join("file"), &contents).expect("a file");
    let server = wire.serve(engine, root.path(), &[]);
    let load = wire.client.within(|| {
        let verified = ["--verify", &root.path().join("file").display().to_string()];
        let mut load = crowd(SERVER, CLIENTS, &verified);
        load.output().expect("it runs")
    });
    let said = String::from_utf8_lossy(&load.stderr);
    assert!(load.status.success(), "{said}");
    let metrics = wire.server.within(|| server.metrics());
    let complete = metrics.value("tftp_transfers_ended_total{outcome=\"complete\"}");
    assert_eq!(complete.to_string(), CLIENTS);
    assert_ne!(
        metrics.value("tftp_send_full_total"),
        0,
        "there was always room"
    );
}

/// Goal: whoever is behind a line that takes little holds up nobody behind another. Method: a crowd behind a line
/// of 2 Mbit/s, which would take hours, and once it waits for room a crowd behind a line without a limit.
fn a_slow_line_beside_a_quick_one(engine: Engine) {
    let Some(wire) = Wire::lay() else { return };
    if !wire.slow_down("2mbit") {
        return;
    }
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("file"), peer::octets(1, 20_000_000)).expect("a file");
    let server = wire.serve(engine, root.path(), &["--workers", "1"]);
    let mut held_up = wire.client.within(|| {
        let mut load = crowd(SERVER, CLIENTS, &[]);
        load.stdout(Stdio::null()).stderr(Stdio::null());
        load.spawn().expect("it runs")
    });
    let metrics = || wire.server.within(|| server.metrics());
    until("clients wait for room", || {
        metrics().value("tftp_send_full_total") > 0
    });
    let load = wire.other.within(|| {
        let mut load = crowd(
            SERVER_TO_OTHER,
            "4",
            &["--duration", "60", "--transfers", "4"],
        );
        load.output().expect("it runs")
    });
    held_up.kill().expect("it runs still");
    held_up.wait().expect("it was killed");
    let said = String::from_utf8_lossy(&load.stderr);
    assert!(load.status.success(), "{said}");
    assert_eq!(
        metrics().value("tftp_transfers_ended_total{outcome=\"complete\"}"),
        4
    );
}

/// Clients at once that want large windows of the file.
fn crowd(server: &str, clients: &str, more: &[&str]) -> Command {
    let mut load = Command::new(env!("CARGO_BIN_EXE_bootstorm"));
    load.args(["load", &format!("tftp://{server}:6969/file")]);
    load.args(["--clients", clients, "--windowsize", "64"]);
    load.args(["--patience", "60", "--json", "-", "--quiet"]);
    load.args(more);
    load
}
