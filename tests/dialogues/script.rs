//! Reading: from the lines of a dialogue to the steps to be played.

use std::time::Duration;

use bootstorm::config::{STRICT_RETRIES, Settings};
use bootstorm::proto::negotiate::Wanted;
use bootstorm::shard::Operation;
use bootstorm::store::memory::{Contents, Faults};
use bootstorm::store::{ReadFailure, Refusal, Writes};
use bootstorm::wire::Mode;

/// What tells the pattern of a dialogue's files from others.
pub(crate) const PATTERN_SEED: u64 = 1;
/// The port of the peer that is meant when none is named.
pub(crate) const MAIN: &str = "main";

/// Retransmission time where time is real and does not matter.
const TIMER_REAL: Duration = Duration::from_secs(30);

/// A dialogue: what is there before it begins, and its steps.
#[derive(Debug)]
pub(crate) struct Dialogue {
    pub(crate) name: String,
    /// Whether it takes so long, or depends so much on exact times, that only virtual time will do.
    pub(crate) core_only: bool,
    pub(crate) setup: Setup,
    pub(crate) steps: Vec<Step>,
}

/// What is there before a dialogue begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) files: Vec<(Vec<u8>, Contents)>,
    /// Names that cannot be had, and why.
    pub(crate) refused: Vec<(Vec<u8>, Refusal)>,
    pub(crate) writes: Writes,
    pub(crate) faults: Faults,
    /// How long the disk takes for whatever is asked of it, beyond what it always takes.
    pub(crate) disk: Duration,
    pub(crate) settings: Settings,
}

/// One line of a dialogue that does something.
#[derive(Debug)]
pub(crate) struct Step {
    /// The line's number, from 1.
    pub(crate) line: usize,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    /// The peer sends.
    Send {
        port: String,
        packet: Script,
        to_listener: bool,
    },
    /// This is what the peer gets next; `after` says how long after what it got before.
    Expect {
        port: String,
        packet: Script,
        after: Option<Duration>,
    },
    /// The peer gets nothing for so long.
    Silence(Duration),
    /// DATA packets of `len` octets each and their ACKs, window by window.
    Exchange { first: u64, last: u64, len: usize },
    /// The shard asks the peer for a transfer.
    Client {
        operation: Operation,
        name: Vec<u8>,
        mode: Mode,
        wanted: Wanted,
    },
    /// The client's transfer ends, and so.
    Outcome(String),
    /// What was published under a name, if anything.
    Upload {
        name: Vec<u8>,
        contents: Option<Contents>,
    },
    /// The shard takes no more requests.
    Drain,
    /// The shard ends all transfers.
    Stop,
}

/// A packet as it is written in a dialogue.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// RRQ, WRQ and OACK: everything is said.
    Whole(Vec<u8>),
    Data {
        block: u16,
        payload: Payload,
    },
    Ack(u16),
    Error {
        code: u16,
        text: Option<Vec<u8>>,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Payload {
    /// So many octets of the pattern, from where the block lies in the file.
    Pattern(usize),
    Octets(Vec<u8>),
}

impl Dialogue {
    /// Reads the dialogue `text` of the file `name`.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut dialogue = Self {
            name: name.to_owned(),
            core_only: false,
            setup: Setup::default(),
            steps: Vec::new(),
        };
        if !text.starts_with("# ") {
            return Err(format!(
                "{name}:1: the first line says the rule: `# RFC 1350 §2: …`"
            ));
        }
        for (line, number) in text.lines().zip(1..) {
            let at = |error: String| format!("{name}:{number}: {error}\n    {line}");
            let words = words(line).map_err(at)?;
            dialogue.line(&words, number).map_err(at)?;
        }
        dialogue
            .check()
            .map_err(|error| format!("{name}: {error}"))?;
        Ok(dialogue)
    }

    fn line(&mut self, words: &[&str], line: usize) -> Result<(), String> {
        let action = match *words {
            [] | ["#", ..] => return Ok(()),
            // Why is said behind it.
            ["core", "only", ..] => {
                self.core_only = true;
                return Ok(());
            }
            ["server", ref settings @ ..] => {
                return settings
                    .iter()
                    .try_for_each(|setting| self.setup.setting(setting));
            }
            ["file", name, contents] => {
                let file = (text(name)?, contents_of(contents)?);
                self.setup.files.push(file);
                return Ok(());
            }
            ["refused", name] => {
                self.setup.refused.push((text(name)?, Refusal::Denied));
                return Ok(());
            }
            ["client", what, name, ref options @ ..] => {
                // The files are the client's own.
                self.setup.writes = Writes::Create;
                client(what, name, options)?
            }
            ["outcome", ..] => Action::Outcome(words[1..].join(" ")),
            ["upload", name, "absent"] => Action::Upload {
                name: text(name)?,
                contents: None,
            },
            ["upload", name, "equals", contents] => Action::Upload {
                name: text(name)?,
                contents: Some(contents_of(contents)?),
            },
            ["exchange", "DATA", range, len] => exchange(range, len)?,
            ["drain"] => Action::Drain,
            ["stop"] => Action::Stop,
            ["<", "nothing", time] => Action::Silence(duration(time)?),
            [">", ref packet @ ..] => send(MAIN, packet)?,
            ["<", ref packet @ ..] => expect(MAIN, packet)?,
            [port, ">", ref packet @ ..] => send(port, packet)?,
            [port, "<", ref packet @ ..] => expect(port, packet)?,
            _ => return Err("this is no line of a dialogue".to_owned()),
        };
        self.steps.push(Step { line, action });
        Ok(())
    }

    /// What is there before it begins where time is real, if it can be played there. A machine that
    /// stands still for a second is no failure: unless the dialogue is about timers, they are long.
    pub(crate) fn in_real_time(&self) -> Option<Setup> {
        let timed = |step: &Step| matches!(step.action, Action::Expect { after: Some(_), .. });
        let mut setup = self.setup.clone();
        if !self.steps.iter().any(timed) {
            setup.settings.patience.lockstep_floor = TIMER_REAL;
        }
        (!self.core_only).then_some(setup)
    }

    /// What holds for a dialogue as a whole.
    fn check(&self) -> Result<(), String> {
        // A window's timer may be as short as 20 ms, and no test may depend on being quicker than that.
        let has = |needle: &[u8]| {
            self.steps.iter().any(|step| match &step.action {
                Action::Send {
                    packet: Script::Whole(octets),
                    ..
                } => octets
                    .windows(needle.len())
                    .any(|part| part.eq_ignore_ascii_case(needle)),
                _ => false,
            })
        };
        if self.setup.disk > Duration::ZERO && !self.core_only {
            return Err("a `disk-time` is for the `core only`".to_owned());
        }
        let windowed = has(b"windowsize\0") && !has(b"windowsize\x001\0");
        if windowed && !has(b"timeout\0") && !self.core_only {
            return Err("windows without a `timeout` are for the `core only`".to_owned());
        }
        Ok(())
    }
}

impl Setup {
    fn setting(&mut self, setting: &str) -> Result<(), String> {
        let settings = &mut self.settings;
        match setting.split_once('=').unwrap_or((setting, "")) {
            ("single-port", "") => settings.single_port = true,
            ("strict", "") => settings.patience.unvalidated_retries = STRICT_RETRIES,
            ("write", "create") => self.writes = Writes::Create,
            ("write", "overwrite") => self.writes = Writes::Overwrite,
            ("max-windowsize", value) => settings.windowsize_max = number(value)?,
            ("max-blksize", value) => settings.blksize_max = Some(number(value)?),
            ("max-transfers", value) => settings.transfers_max = number(value)?,
            ("floor", value) => settings.patience.lockstep_floor = duration(value)?,
            ("idle", value) => settings.patience.idle = duration(value)?,
            ("disk", value) => self.faults.disk_octets = Some(number(value)?),
            ("disk-time", value) => {
                self.disk = duration(value)?;
                // What is in memory would not have to wait for it.
                self.faults.read_would_block = true;
            }
            // Nothing is open or cached already.
            ("cold", "") => {
                self.faults.open_would_block = true;
                self.faults.read_would_block = true;
            }
            ("changed", "") => self.faults.read = Some(ReadFailure::Changed),
            ("unreadable", "") => self.faults.read = Some(ReadFailure::Failed(libc::EIO)),
            _ => return Err(format!("`{setting}` is no setting of a server")),
        }
        Ok(())
    }
}

fn client(what: &str, name: &str, options: &[&str]) -> Result<Action, String> {
    let operation = match what {
        "get" => Operation::Read,
        "put" => Operation::Write,
        _ => return Err("a client does `get` or `put`".to_owned()),
    };
    let mut mode = Mode::Octet;
    let mut wanted = Wanted::default();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("netascii", "") => mode = Mode::Netascii,
            ("tsize", "") => wanted.tsize = Some(0),
            ("blksize", value) => wanted.blksize = Some(number(value)?),
            ("windowsize", value) => wanted.windowsize = Some(number(value)?),
            ("timeout", value) => wanted.timeout = Some(number(value)?),
            _ => return Err(format!("a client cannot ask for `{option}`")),
        }
    }
    Ok(Action::Client {
        operation,
        name: text(name)?,
        mode,
        wanted,
    })
}

fn exchange(range: &str, len: &str) -> Result<Action, String> {
    let (first, last) = range
        .split_once("..")
        .ok_or("a range of blocks is `1..9`, both included")?;
    let Payload::Pattern(len) = payload(len)? else {
        return Err("blocks of the pattern are exchanged: `[512]`".to_owned());
    };
    Ok(Action::Exchange {
        first: number(first)?,
        last: number(last)?,
        len,
    })
}

fn send(port: &str, words: &[&str]) -> Result<Action, String> {
    let (words, to_listener) = match words {
        [packet @ .., "to", "listener"] => (packet, true),
        packet => (packet, false),
    };
    Ok(Action::Send {
        port: port.to_owned(),
        packet: packet(words)?,
        to_listener,
    })
}

fn expect(port: &str, words: &[&str]) -> Result<Action, String> {
    let (words, after) = match words {
        [packet @ .., "after", time] => (packet, Some(duration(time)?)),
        packet => (packet, None),
    };
    Ok(Action::Expect {
        port: port.to_owned(),
        packet: packet(words)?,
        after,
    })
}

fn packet(words: &[&str]) -> Result<Script, String> {
    let request = |opcode: u8, name: &str, mode: &str, options: &[&str]| {
        let mut octets = vec![0, opcode];
        for part in [name, mode] {
            octets.extend(text(part)?);
            octets.push(0);
        }
        octets.extend(self::options(options)?);
        Ok(Script::Whole(octets))
    };
    match *words {
        ["RRQ", name, mode, ref options @ ..] => request(1, name, mode, options),
        ["WRQ", name, mode, ref options @ ..] => request(2, name, mode, options),
        ["DATA", block, octets] => Ok(Script::Data {
            block: number(block)?,
            payload: payload(octets)?,
        }),
        ["ACK", block] => Ok(Script::Ack(number(block)?)),
        ["ERROR", code] => Ok(Script::Error {
            code: number(code)?,
            text: None,
        }),
        ["ERROR", code, message] => Ok(Script::Error {
            code: number(code)?,
            text: Some(text(message)?),
        }),
        ["OACK", ref options @ ..] => Ok(Script::Whole(
            [vec![0, 6], self::options(options)?].concat(),
        )),
        ["raw", ref octets @ ..] => octets
            .iter()
            .map(|word| raw(word))
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| Script::Whole(parts.concat())),
        _ => Err("this is no packet: RRQ, WRQ, DATA, ACK, ERROR, OACK or raw".to_owned()),
    }
}

/// `0a` is an octet, `0a*300` three hundred of them, `"abc"` is text.
fn raw(word: &str) -> Result<Vec<u8>, String> {
    if word.starts_with('"') {
        return text(word);
    }
    let (octet, times) = match word.split_once('*') {
        Some((octet, times)) => (octet, number(times)?),
        None => (word, 1),
    };
    u8::from_str_radix(octet, 16)
        .map(|octet| vec![octet; times])
        .map_err(|_| format!("`{word}` is not an octet in hexadecimal"))
}

fn options(words: &[&str]) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("`{word}` is not an option with its value"))?;
        for part in [name, value] {
            octets.extend(text(part)?);
            octets.push(0);
        }
    }
    Ok(octets)
}

fn payload(word: &str) -> Result<Payload, String> {
    match word
        .strip_prefix('[')
        .and_then(|word| word.strip_suffix(']'))
    {
        Some(len) => Ok(Payload::Pattern(number(len)?)),
        None if word.starts_with('"') => Ok(Payload::Octets(text(word)?)),
        None => Err(format!("`{word}` is neither `[512]` nor `\"text\"`")),
    }
}

fn contents_of(word: &str) -> Result<Contents, String> {
    if word.starts_with('"') {
        Ok(Contents::Octets(text(word)?.into()))
    } else {
        Ok(Contents::Pattern {
            seed: PATTERN_SEED,
            len: number(word)?,
        })
    }
}

fn duration(word: &str) -> Result<Duration, String> {
    let (digits, unit) = match word.strip_suffix("ms") {
        Some(digits) => (digits, Duration::from_millis(1)),
        None => match word.strip_suffix('s') {
            Some(digits) => (digits, Duration::from_secs(1)),
            None => return Err(format!("`{word}` is not a time such as `300ms` or `2s`")),
        },
    };
    Ok(unit * number::<u32>(digits)?)
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse()
        .map_err(|_| format!("`{word}` is not a number that fits here"))
}

/// Splits a line at blanks outside quotation marks.
fn words(line: &str) -> Result<Vec<&str>, String> {
    let mut words = Vec::new();
    if line.starts_with('#') {
        return Ok(words);
    }
    let mut start = None;
    let (mut quoted, mut escaped) = (false, false);
    for (place, letter) in line.char_indices() {
        if letter.is_whitespace() && !quoted {
            words.extend(start.take().map(|start| &line[start..place]));
            continue;
        }
        start.get_or_insert(place);
        if letter == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && letter == '\\' && !escaped;
    }
    if quoted {
        return Err("a quotation mark is missing".to_owned());
    }
    words.extend(start.map(|start| &line[start..]));
    Ok(words)
}

/// A word as it stands, or what stands between its quotation marks with `\n`, `\r`, `\0`, `\"`, `\\`
/// and `\xff` replaced.
fn text(word: &str) -> Result<Vec<u8>, String> {
    let Some(quoted) = word
        .strip_prefix('"')
        .and_then(|word| word.strip_suffix('"'))
    else {
        return Ok(word.as_bytes().to_vec());
    };
    let mut octets = Vec::new();
    let mut rest = quoted.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'0') => 0,
            Some(same @ (b'"' | b'\\')) => same,
            Some(b'x') => {
                let digits = [rest.next(), rest.next()].map(Option::unwrap_or_default);
                std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                    .ok_or_else(|| format!("`\\x` in {word} lacks its two digits"))?
            }
            _ => return Err(format!("{word} holds an escape that is none")),
        });
    }
    Ok(octets)
}
