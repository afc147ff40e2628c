//! A short examination of any TFTP server: one case after the other from the RFCs, each a conversation
//! of a few packets, and what the server does differently, with the packets.
//!
//! It is meant for a quiet network, where what is lost is the server's silence. A difference counts when
//! it shows twice: what a busy machine or a lost packet did once is no fault of the server.

mod dialogue;
mod options;
mod reads;
mod text;
mod windows;
mod writes;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::time::Duration;
use crate::wire::Escaped;

use dialogue::{Answer, Dialogue};

/// How long one case may take in all, but for the roll-over of block numbers.
const CASE_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// For how long nothing has to come where nothing may: less than any server's timer, and more than any
/// network's round trip.
const QUIET: Duration = Duration::from_millis(250);
/// Within this a server repeats what is not acknowledged that agreed to a timeout of one second, or has
/// agreed to none.
const REPEATS_WITHIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];
/// How long is spent on learning what the file holds.
const FETCH_WITHIN: Duration = Duration::from_secs(8);
/// Octets of the file that are kept, to compare with.
const FETCH_OCTETS_MAX: usize = 64 << 20;
/// Octets of a file that most cases read at most.
const READ_OCTETS_MAX: usize = 64 << 10;
/// The block size unless another one is agreed (RFC 1350 §2).
const BLKSIZE: usize = 512;

/// What is examined.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server, at the port that takes requests.
    pub server: SocketAddr,
    /// A file that it lets everybody read.
    pub file: Vec<u8>,
    /// A folder that it lets everybody write to, if there is one; empty for the one above all.
    pub folder: Option<Vec<u8>>,
}

/// How much a rule weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Without it, clients fail, or get wrong octets.
    Must,
    /// An RFC recommends it, or clients in the field rely on it.
    Should,
}

/// A rule, and the way to see whether it holds.
pub struct Case {
    /// What holds, in a few words.
    pub name: &'static str,
    /// Where that is written.
    pub rule: &'static str,
    /// How much it weighs.
    pub level: Level,
    examine: fn(&Examination) -> Result<(), Fault>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("rule", &self.rule)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// What was seen of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not.
    Differs {
        /// What was expected.
        expected: String,
        /// The packets, a line each.
        seen: Vec<String>,
    },
    /// The server does not do such a thing at all: how that shows.
    Unsupported(String),
    /// This server and this file do not let it be seen: why.
    Untried(String),
}

impl Verdict {
    /// Whether the server does something else than it should.
    #[must_use]
    pub const fn differs(&self) -> bool {
        matches!(self, Self::Differs { .. })
    }
}

/// A case and its verdict.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// What was seen.
    pub verdict: Verdict,
}

/// What was learnt of a server.
#[derive(Debug)]
pub struct Report {
    /// What is known of it from the beginning.
    pub facts: Facts,
    /// Each case, in order.
    pub findings: Vec<Finding>,
    /// Whether the server stopped to answer, so that the cases that follow were left out.
    pub fell_silent: bool,
}

impl Report {
    /// How many rules of this level do not hold.
    #[must_use]
    pub fn broken(&self, level: Level) -> usize {
        let broken = |finding: &&Finding| finding.case.level == level && finding.verdict.differs();
        self.findings.iter().filter(broken).count()
    }

    /// Whether every rule holds that must.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.fell_silent && self.broken(Level::Must) == 0
    }
}

/// What is known of a server from the beginning.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The file's octets, as far as they could be fetched.
    contents: Vec<u8>,
    /// Whether those are all.
    whole: bool,
    /// Whether it answers from the port that was asked.
    single_port: bool,
    /// The block size that it agrees to when asked for 1428.
    blksize: Option<u16>,
    /// The window size that it agrees to when asked for 64.
    windowsize: Option<u16>,
    /// Whether it agrees to a timeout of one second.
    timeout: bool,
    /// Whether it tells the file's length.
    tsize: bool,
}

/// Every case, in order.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [reads::CASES, options::CASES, windows::CASES, writes::CASES]
        .into_iter()
        .flatten()
}

/// Examines a server, and tells each finding as soon as it is there.
///
/// # Errors
/// If the file cannot be read in the plainest way, or this system gives no socket.
pub fn examine(target: &Target, tell: &mut dyn FnMut(&Finding)) -> io::Result<Report> {
    let mut examination = Examination {
        target: target.clone(),
        facts: Facts::default(),
    };
    examination.can_begin()?;
    examination.facts = examination.facts().map_err(|fault| match fault {
        Fault::System(error) => error,
        Fault::Verdict(verdict) => io::Error::other(text::in_a_sentence(&verdict)),
    })?;
    let mut report = Report {
        facts: examination.facts.clone(),
        findings: Vec::new(),
        fell_silent: false,
    };
    for case in cases() {
        let mut verdict = examination.verdict(case)?;
        if verdict.differs() {
            verdict = examination.verdict(case)?;
        }
        let differs = verdict.differs();
        let finding = Finding { case, verdict };
        tell(&finding);
        report.findings.push(finding);
        if differs && !examination.is_alive()? {
            report.fell_silent = true;
            break;
        }
    }
    Ok(report)
}

/// Where two texts differ first, as far as both go; counted from 0.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    one.iter().zip(other).position(|(this, that)| this != that)
}

/// Why a case did not pass.
#[derive(Debug)]
enum Fault {
    Verdict(Verdict),
    /// Not the server's: this system's.
    System(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

fn unsupported(why: impl Into<String>) -> Fault {
    Fault::Verdict(Verdict::Unsupported(why.into()))
}

fn untried(why: impl Into<String>) -> Fault {
    Fault::Verdict(Verdict::Untried(why.into()))
}

/// What cases have to go by.
#[derive(Debug)]
struct Examination {
    target: Target,
    facts: Facts,
}

/// What was agreed.
#[derive(Debug, Clone, Copy)]
struct Terms {
    blksize: usize,
    windowsize: u16,
}

impl Examination {
    /// What is seen of a case.
    fn verdict(&self, case: &Case) -> io::Result<Verdict> {
        match (case.examine)(self) {
            Ok(()) => Ok(Verdict::Pass),
            Err(Fault::Verdict(verdict)) => Ok(verdict),
            Err(Fault::System(error)) => Err(error),
        }
    }

    /// A conversation that has not begun.
    fn dialogue(&self) -> Result<Dialogue, Fault> {
        Dialogue::new(self.target.server, CASE_WITHIN)
    }

    /// Asks for the file with these options; what comes first.
    fn read(&self, options: &[(&str, &str)]) -> Result<(Dialogue, Answer), Fault> {
        let mut dialogue = self.dialogue()?;
        dialogue.read(&self.target.file, options)?;
        let answer = dialogue.answer()?;
        Ok((dialogue, answer))
    }

    /// Asks for the file with options of which `needed` has to be agreed to for the case to make sense,
    /// and starts the transfer.
    fn agree(
        &self,
        options: &[(&str, &str)],
        needed: &str,
    ) -> Result<(Dialogue, Answer, Terms), Fault> {
        let (dialogue, answer) = self.read(options)?;
        if answer.option(needed).is_none() {
            return Err(unsupported(format!("{needed} is answered by {answer}")));
        }
        let terms = Terms {
            blksize: answer
                .number("blksize")
                .and_then(|octets| usize::try_from(octets).ok())
                .unwrap_or(BLKSIZE),
            windowsize: answer
                .number("windowsize")
                .and_then(|blocks| u16::try_from(blocks).ok())
                .unwrap_or(1),
        };
        Ok((dialogue, answer, terms))
    }

    /// The options that make the server repeat soon, and how soon that is.
    fn soon(&self) -> (&'static [(&'static str, &'static str)], Duration) {
        if self.facts.timeout {
            (&[("timeout", "1")], REPEATS_WITHIN[0])
        } else {
            (&[], REPEATS_WITHIN[1])
        }
    }

    /// Makes sure that the file begins with these octets, as far as that is known.
    fn same(&self, dialogue: &Dialogue, octets: &[u8]) -> Result<(), Fault> {
        let known = &self.facts.contents;
        if let Some(place) = first_difference(known, octets) {
            return Err(dialogue.differs(&format!(
                "the same octets as in lock-step; number {place} is another one"
            )));
        }
        if self.facts.whole && octets.len() > known.len() {
            let len = known.len();
            return Err(dialogue.differs(&format!("{len} octets, as in lock-step, and no more")));
        }
        Ok(())
    }

    /// The file's length, if it is known.
    fn length(&self) -> Result<usize, Fault> {
        if self.facts.whole {
            Ok(self.facts.contents.len())
        } else {
            Err(untried("the file is too large to learn its length"))
        }
    }

    /// Makes sure that somebody is there, and lets the file be read: without it, nothing can be learnt.
    fn can_begin(&self) -> io::Result<()> {
        let ask = || self.read(&[]).map(|(_, answer)| answer);
        // One packet may get lost.
        match ask().or_else(|_| ask()) {
            Ok(Answer::Error(code, said)) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "the server refuses \"{}\" (ERROR {code} \"{said}\"); name a file that it lets everybody read",
                    Escaped(&self.target.file)
                ),
            )),
            Err(Fault::Verdict(_)) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "no answer came within {} s; see whether a server runs there, and listens on that port",
                    ANSWER_WITHIN.as_secs()
                ),
            )),
            Err(Fault::System(error)) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Learns what there is to know before the first case.
    fn facts(&self) -> Result<Facts, Fault> {
        let mut facts = Facts::default();
        let (first, answer) = self.read(&[])?;
        let Answer::Data(_) = answer else {
            return Err(first.differs("DATA 1 to a request without options"));
        };
        facts.single_port = first.peer() == Some(self.target.server);
        drop(first);
        let wishes = [
            ("blksize", "1428"),
            ("windowsize", "64"),
            ("timeout", "1"),
            ("tsize", "0"),
        ];
        let (all, answer) = self.read(&wishes)?;
        let number = |name| {
            let number = answer.number(name)?;
            u16::try_from(number).ok()
        };
        facts.blksize = number("blksize");
        facts.windowsize = number("windowsize").filter(|&blocks| blocks > 1);
        facts.timeout = number("timeout") == Some(1);
        facts.tsize = answer.option("tsize").is_some();
        drop(all);
        // In lock-step, which a server is least likely to get wrong.
        let mut dialogue = Dialogue::new(self.target.server, FETCH_WITHIN)?;
        let wish = [("blksize", "1428")];
        dialogue.read(&self.target.file, facts.blksize.map_or(&[], |_| &wish))?;
        let blksize = match dialogue.answer()? {
            Answer::Data(_) => BLKSIZE,
            answer => answer
                .number("blksize")
                .and_then(|octets| usize::try_from(octets).ok())
                .ok_or_else(|| dialogue.differs("an OACK that holds blksize"))?,
        };
        let began = Instant::now();
        (facts.contents, facts.whole) = match dialogue.rest(blksize, 1, FETCH_OCTETS_MAX) {
            Ok(rest) => rest,
            // Too large to be fetched in this time; what there is will do.
            Err(_) if began.elapsed() >= FETCH_WITHIN => (dialogue.taken(), false),
            Err(fault) => return Err(fault),
        };
        Ok(facts)
    }

    /// Whether the server still answers the plainest request.
    fn is_alive(&self) -> io::Result<bool> {
        for _ in 0..2 {
            match self.read(&[]) {
                Ok(_) => return Ok(true),
                Err(Fault::System(error)) => return Err(error),
                Err(Fault::Verdict(_)) => {}
            }
        }
        Ok(false)
    }
}
