//! Playing: step by step, what the peer sends, and whether what it gets is what the dialogue says.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use bootstorm::config::{LINGER, Settings};
use bootstorm::proto::negotiate::ORDER_DEFAULT;
use bootstorm::shard::{LocalSide, Operation, Origin, Plan};
use bootstorm::store::memory::{Contents, pattern_octet};
use bootstorm::wire::{Escaped, Packet};

use crate::players::{Arrived, Command, Place, Player};
use crate::script::{Action, Dialogue, MAIN, PATTERN_SEED, Payload, Script, Setup, Step};

/// How long something that must come may take in real time: so long that only what never comes fails.
const PATIENCE_REAL: Duration = Duration::from_secs(10);
/// The same in virtual time, where nothing costs anything.
const PATIENCE_VIRTUAL: Duration = Duration::from_secs(100);
/// How far a time may be off on the core: the datagram's way there, and ticks of the timers.
const TOLERANCE: Duration = Duration::from_millis(4);
/// How long nothing may come once a dialogue is over, on the core.
const SILENCE_AT_END: Duration = Duration::from_millis(1);
/// How far behind the last block a number may lie that is seen next.
const BEHIND_MAX: u64 = 1000;

/// Plays a dialogue; what went wrong comes with all that was said before.
pub(crate) fn play(
    dialogue: &Dialogue,
    text: &str,
    setup: &Setup,
    player: &mut dyn Player,
) -> Result<(), String> {
    let mut scene = Scene {
        ports: HashMap::new(),
        other_end: HashMap::new(),
        terms: Terms::default(),
        position: 0,
        write: false,
        client: false,
        request: Vec::new(),
        settings: &setup.settings,
        heard_at: player.virtual_time(),
        player,
    };
    for step in &dialogue.steps {
        scene
            .step(step)
            .map_err(|error| transcript(dialogue, text, step.line, &error))?;
    }
    let Some(last) = dialogue.steps.last() else {
        return Err(format!("{}: says nothing", dialogue.name));
    };
    scene
        .end()
        .map_err(|error| transcript(dialogue, text, last.line, &error))
}

/// The dialogue as far as it got, and what happened then.
fn transcript(dialogue: &Dialogue, text: &str, line: usize, error: &str) -> String {
    let mut shown = format!("{}:{line}: {error}\n", dialogue.name);
    for (said, number) in text.lines().zip(1..=line) {
        let mark = if number == line { ">>" } else { "  " };
        let _ = writeln!(shown, "  {mark} {said}");
    }
    shown
}

struct Scene<'a> {
    player: &'a mut dyn Player,
    ports: HashMap<String, SocketAddr>,
    /// Whom each port of the peer talks to.
    other_end: HashMap<SocketAddr, SocketAddr>,
    terms: Terms,
    /// The block spoken of last, counted without end.
    position: u64,
    /// Whether the peer writes.
    write: bool,
    /// Whether the peer is the server.
    client: bool,
    /// The last request that the peer sent.
    request: Vec<u8>,
    settings: &'a Settings,
    heard_at: Option<Duration>,
}

/// The terms that the last OACK named.
#[derive(Debug, Clone, Copy)]
struct Terms {
    blksize: u64,
    windowsize: u64,
    to_one: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            blksize: 512,
            windowsize: 1,
            to_one: false,
        }
    }
}

impl Terms {
    /// The number that a block bears on the wire.
    const fn wire(self, index: u64) -> u16 {
        if self.to_one && index > 0 {
            ((index - 1) % 65_535 + 1) as u16
        } else {
            (index % 65_536) as u16
        }
    }

    fn take(&mut self, octets: &[u8]) {
        let Ok(Packet::Oack(options)) = Packet::parse(octets) else {
            return;
        };
        *self = Self::default();
        for (name, value) in options.pairs() {
            let text = String::from_utf8_lossy(value);
            let Ok(value) = text.trim().parse() else {
                continue;
            };
            match &*name.to_ascii_lowercase() {
                b"blksize" | b"blksize2" => self.blksize = value,
                b"windowsize" => self.windowsize = value,
                b"rollover" => self.to_one = value == 1,
                _ => {}
            }
        }
    }
}

impl Scene<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Send {
                port,
                packet,
                to_listener,
            } => {
                self.send(port, packet, *to_listener);
                Ok(())
            }
            Action::Expect {
                port,
                packet,
                after,
            } => self.expect(port, packet, *after),
            Action::Silence(time) => self.silence(*time),
            Action::Exchange { first, last, len } => self.exchange(*first, *last, *len),
            Action::Client {
                operation,
                name,
                mode,
                wanted,
            } => {
                self.client = true;
                // The shard asks to write what the peer is to receive.
                self.write = *operation == Operation::Read;
                let server = self.port(MAIN);
                self.player.command(Command::Start(Box::new(Plan {
                    server,
                    operation: *operation,
                    remote: name.clone(),
                    origin: Origin::Own,
                    local: LocalSide::Stored(name.clone()),
                    mode: *mode,
                    wanted: *wanted,
                    patience: self.settings.patience.with_own_timeout(wanted.timeout),
                    linger: LINGER,
                    order: ORDER_DEFAULT,
                })));
                Ok(())
            }
            Action::Outcome(expected) => self.outcome(expected),
            Action::Upload { name, contents } => self.upload(name, contents.as_ref()),
            Action::Drain => {
                self.player.command(Command::Drain);
                Ok(())
            }
            Action::Stop => {
                self.player.command(Command::Stop);
                Ok(())
            }
        }
    }

    fn send(&mut self, port: &str, packet: &Script, to_listener: bool) {
        let from = self.port(port);
        let octets = self.octets(packet);
        let request = matches!(octets[..], [0, 1 | 2, ..]) && !self.client;
        if request && octets != self.request {
            self.write = octets[1] == 2;
            self.terms = Terms::default();
            self.position = 0;
            self.request.clone_from(&octets);
        }
        if self.client {
            self.terms.take(&octets);
        }
        let main = self.port(MAIN);
        let other_end = self
            .other_end
            .get(&from)
            .or_else(|| self.other_end.get(&main));
        let to = match other_end {
            Some(&other_end) if !to_listener && !request => other_end,
            _ => self.player.listener(),
        };
        self.player.send(from, to, &octets);
    }

    fn expect(
        &mut self,
        port: &str,
        packet: &Script,
        after: Option<Duration>,
    ) -> Result<(), String> {
        let at = self.port(port);
        let heard_before = self.heard_at;
        let patience = self.patience();
        let Some(arrived) = self.player.receive(patience) else {
            return Err("nothing came".to_owned());
        };
        self.heard_at = self.player.virtual_time();
        let shown = self.shown(&arrived);
        if arrived.at != at {
            return Err(format!("{shown} came, to another port"));
        }
        self.fits(packet, &arrived.octets)
            .map_err(|difference| format!("{shown} came{difference}"))?;
        if !self.client {
            self.terms.take(&arrived.octets);
        }
        self.comes_from_the_right_port(&arrived)?;
        // After a stranger's answer, the stranger is still one.
        if !self.client || !matches!(arrived.octets[..], [0, 5, ..]) {
            self.other_end.insert(at, arrived.from);
        }
        if let (Some(after), Some(before), Some(now)) = (after, heard_before, self.heard_at) {
            let waited = now - before;
            if waited.abs_diff(after) > TOLERANCE {
                return Err(format!("{shown} came after {waited:?}"));
            }
        }
        Ok(())
    }

    /// A server answers from the address that was asked, and during a transfer from one port.
    fn comes_from_the_right_port(&self, arrived: &Arrived) -> Result<(), String> {
        let listener = self.player.listener();
        if self.client {
            return Ok(());
        }
        if arrived.from.ip() != listener.ip() {
            return Err(format!("it came from {}", arrived.from));
        }
        if (arrived.from == listener) != self.settings.single_port {
            return Err(format!("it came from port {}", arrived.from.port()));
        }
        match self.other_end.get(&arrived.at) {
            Some(known) if *known != arrived.from => Err(format!(
                "it came from {}, before from {known}",
                arrived.from
            )),
            _ => Ok(()),
        }
    }

    fn silence(&mut self, time: Duration) -> Result<(), String> {
        match self.player.receive(time) {
            Some(arrived) => Err(format!("{} came", self.shown(&arrived))),
            None => Ok(()),
        }
    }

    fn exchange(&mut self, first: u64, last: u64, len: usize) -> Result<(), String> {
        let mut window_starts = first;
        while window_starts <= last {
            let window_ends = last.min(window_starts + self.terms.windowsize - 1);
            for index in window_starts..=window_ends {
                let data = Script::Data {
                    block: self.terms.wire(index),
                    payload: Payload::Pattern(len),
                };
                self.pass(&data, self.write)
                    .map_err(|error| format!("block {index}: {error}"))?;
            }
            self.pass(&Script::Ack(self.terms.wire(window_ends)), !self.write)
                .map_err(|error| format!("ACK of block {window_ends}: {error}"))?;
            window_starts = window_ends + 1;
        }
        Ok(())
    }

    fn pass(&mut self, packet: &Script, from_peer: bool) -> Result<(), String> {
        if from_peer {
            self.send(MAIN, packet, false);
            Ok(())
        } else {
            self.expect(MAIN, packet, None)
        }
    }

    fn outcome(&mut self, expected: &str) -> Result<(), String> {
        let patience = self.patience();
        let Some(ending) = self.player.ending(patience) else {
            return Err("the transfer does not end".to_owned());
        };
        let outcome = ending.outcome.to_string();
        if outcome == expected {
            Ok(())
        } else {
            let text = String::from_utf8_lossy(&ending.text);
            Err(format!("the transfer ended: {outcome} \"{text}\""))
        }
    }

    fn upload(&self, name: &[u8], expected: Option<&Contents>) -> Result<(), String> {
        let uploads = self.player.files().uploads();
        match (uploads.get(name), expected) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err("nothing was published".to_owned()),
            (Some(octets), None) => Err(format!("{} octets were published", octets.len())),
            (Some(octets), Some(expected)) => {
                let expected = match expected {
                    Contents::Octets(octets) => octets.to_vec(),
                    Contents::Pattern { len, .. } => pattern(0, *len),
                };
                if *octets == expected {
                    return Ok(());
                }
                let same = octets.iter().zip(&expected).take_while(|(a, b)| a == b);
                Err(format!(
                    "{} octets were published, of which the first {} are right",
                    octets.len(),
                    same.count()
                ))
            }
        }
    }

    /// On the core it costs nothing to see that no more comes.
    fn end(&mut self) -> Result<(), String> {
        match self.player.virtual_time() {
            Some(_) => self
                .silence(SILENCE_AT_END)
                .map_err(|error| format!("afterwards, {error}")),
            None => Ok(()),
        }
    }

    /// The octets of a packet, at this point of the dialogue.
    fn octets(&mut self, packet: &Script) -> Vec<u8> {
        match packet {
            Script::Whole(octets) => octets.clone(),
            Script::Ack(block) => [&[0, 4], &block.to_be_bytes()[..]].concat(),
            Script::Error { code, text } => {
                let text = text.as_deref().unwrap_or(b"");
                [&[0, 5], &code.to_be_bytes()[..], text, &[0]].concat()
            }
            Script::Data { block, payload } => {
                let payload = match payload {
                    Payload::Octets(octets) => octets.clone(),
                    Payload::Pattern(len) => {
                        let index = self.index(*block);
                        pattern(index.saturating_sub(1) * self.terms.blksize, *len as u64)
                    }
                };
                [&[0, 3], &block.to_be_bytes()[..], &payload].concat()
            }
        }
    }

    /// Holds what came against what should; says what is different, unless the packets' summaries do.
    fn fits(&mut self, expected: &Script, octets: &[u8]) -> Result<(), String> {
        if let (Script::Error { code, text: None }, Ok(Packet::Error { code: came, .. })) =
            (expected, Packet::parse(octets))
            && came.0 == *code
        {
            return Ok(());
        }
        let expected = self.octets(expected);
        if expected == octets {
            return Ok(());
        }
        let shown = |octets: &[u8]| Packet::parse(octets).map(|packet| packet.to_string());
        if shown(&expected) == shown(octets) {
            let same = octets.iter().zip(&expected).take_while(|(a, b)| a == b);
            return Err(format!(
                ", with other octets from place {} on",
                same.count()
            ));
        }
        Err(String::new())
    }

    /// Which block bears a number: the first from a little behind the one spoken of last.
    fn index(&mut self, block: u16) -> u64 {
        let from = self.position.saturating_sub(BEHIND_MAX).max(1);
        let period = if self.terms.to_one { 65_535 } else { 65_536 };
        let ahead = u64::from(block) + period - u64::from(self.terms.wire(from));
        let index = from + ahead % period;
        self.position = self.position.max(index);
        index
    }

    fn port(&mut self, name: &str) -> SocketAddr {
        if let Some(&address) = self.ports.get(name) {
            return address;
        }
        let place = match name {
            "elsewhere" => Place::Elsewhere,
            "port-zero" => Place::PortZero,
            _ => Place::Peer,
        };
        let address = self.player.open(place);
        self.ports.insert(name.to_owned(), address);
        address
    }

    fn patience(&self) -> Duration {
        match self.player.virtual_time() {
            Some(_) => PATIENCE_VIRTUAL,
            None => PATIENCE_REAL,
        }
    }

    fn shown(&self, arrived: &Arrived) -> String {
        let port = self.ports.iter().find(|(_, port)| **port == arrived.at);
        let port = port
            .filter(|(name, _)| *name != MAIN)
            .map_or(String::new(), |(name, _)| format!("{name} "));
        match Packet::parse(&arrived.octets) {
            Ok(packet) => format!("`{port}< {packet}`"),
            Err(error) => format!("`{port}< raw \"{}\"` ({error})", Escaped(&arrived.octets)),
        }
    }
}

fn pattern(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len)
        .map(|offset| pattern_octet(PATTERN_SEED, offset))
        .collect()
}
