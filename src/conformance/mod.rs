//! A short conformance test for any TFTP server: cases from the RFCs, one after the other, each a
//! dialogue of a few packets. It reports where the server differs, with the packets.
//!
//! It is meant for a quiet network, where missing packets mean that the server is silent. A difference
//! counts only if it occurs twice: what a busy machine or a lost packet caused once is not the server's
//! fault.

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

/// The time limit for one case, except for the roll-over of block numbers.
const CASE_WITHIN: Duration = Duration::from_secs(10);
/// The time limit for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait where nothing may arrive: less than any server's retransmission timer, and more than
/// any network's round trip.
const QUIET: Duration = Duration::from_millis(250);
/// The time within which a server must repeat what is not acknowledged: with a negotiated timeout of one
/// second, and without one.
const REPEATS_WITHIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];
/// The time limit for fetching the file's contents.
const FETCH_WITHIN: Duration = Duration::from_secs(8);
/// The maximum number of octets of the file kept for comparison.
const FETCH_OCTETS_MAX: usize = 64 << 20;
/// The maximum number of octets that most cases read.
const READ_OCTETS_MAX: usize = 64 << 10;
/// The block size unless another one is negotiated (RFC 1350 §2).
const BLKSIZE: usize = 512;

/// The target of the test.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server's address, with the port that takes requests.
    pub server: SocketAddr,
    /// A file that every client may read.
    pub file: Vec<u8>,
    /// A folder that every client may write to, if there is one; empty for the root.
    pub folder: Option<Vec<u8>>,
}

/// The importance of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// If it is broken, clients fail or get wrong contents.
    Must,
    /// An RFC recommends it, or clients in the field rely on it.
    Should,
}

/// A rule, and the test for it.
pub struct Case {
    /// The rule in a few words.
    pub name: &'static str,
    /// The document that states it.
    pub rule: &'static str,
    /// Its importance.
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

/// The result of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The server follows the rule.
    Pass,
    /// The server breaks the rule.
    Differs {
        /// What was expected.
        expected: String,
        /// The packets, one per line.
        seen: Vec<String>,
    },
    /// The server does not support the feature at all: the evidence.
    Unsupported(String),
    /// The rule cannot be tested with this server and this file: the reason.
    Untried(String),
}

impl Verdict {
    /// Whether the server breaks the rule.
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
    /// The result.
    pub verdict: Verdict,
}

/// The results for a server.
#[derive(Debug)]
pub struct Report {
    /// The facts learned before the first case.
    pub facts: Facts,
    /// The findings, in the order of the cases.
    pub findings: Vec<Finding>,
    /// Whether the server stopped answering, so that the remaining cases were skipped.
    pub fell_silent: bool,
}

impl Report {
    /// How many rules of this level are broken.
    #[must_use]
    pub fn broken(&self, level: Level) -> usize {
        let broken = |finding: &&Finding| finding.case.level == level && finding.verdict.differs();
        self.findings.iter().filter(broken).count()
    }

    /// Whether every rule of level `Must` is followed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.fell_silent && self.broken(Level::Must) == 0
    }
}

/// The facts about a server learned before the first case.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The file's contents, as far as they could be fetched.
    contents: Vec<u8>,
    /// Whether the contents are complete.
    whole: bool,
    /// Whether the server answers from its request port.
    single_port: bool,
    /// The block size that it accepts when 1428 is requested.
    blksize: Option<u16>,
    /// The window size that it accepts when 64 is requested.
    windowsize: Option<u16>,
    /// Whether it accepts a timeout of one second.
    timeout: bool,
    /// Whether it reports the file's length.
    tsize: bool,
}

/// Every case, in order.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [reads::CASES, options::CASES, windows::CASES, writes::CASES]
        .into_iter()
        .flatten()
}

/// Tests a server, and reports each finding as soon as it is known.
///
/// # Errors
/// If a plain read of the file fails, or this system provides no socket.
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

/// The first index, from 0, at which two texts differ, within the length of the shorter one.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    one.iter().zip(other).position(|(this, that)| this != that)
}

/// Why a case did not pass.
#[derive(Debug)]
enum Fault {
    Verdict(Verdict),
    /// This system failed, not the server.
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

/// The input of the cases.
#[derive(Debug)]
struct Examination {
    target: Target,
    facts: Facts,
}

/// The negotiated terms.
#[derive(Debug, Clone, Copy)]
struct Terms {
    blksize: usize,
    windowsize: u16,
}

impl Examination {
    /// Runs a case.
    fn verdict(&self, case: &Case) -> io::Result<Verdict> {
        match (case.examine)(self) {
            Ok(()) => Ok(Verdict::Pass),
            Err(Fault::Verdict(verdict)) => Ok(verdict),
            Err(Fault::System(error)) => Err(error),
        }
    }

    /// A new dialogue.
    fn dialogue(&self) -> Result<Dialogue, Fault> {
        Dialogue::new(self.target.server, CASE_WITHIN)
    }

    /// Requests the file with these options; returns the first answer.
    fn read(&self, options: &[(&str, &str)]) -> Result<(Dialogue, Answer), Fault> {
        let mut dialogue = self.dialogue()?;
        dialogue.read(&self.target.file, options)?;
        let answer = dialogue.answer()?;
        Ok((dialogue, answer))
    }

    /// Requests the file with these options and starts the transfer. The case needs the server to accept
    /// `needed`.
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

    /// The options that make the server retransmit soon, and how soon that is.
    fn soon(&self) -> (&'static [(&'static str, &'static str)], Duration) {
        if self.facts.timeout {
            (&[("timeout", "1")], REPEATS_WITHIN[0])
        } else {
            (&[], REPEATS_WITHIN[1])
        }
    }

    /// Checks that the file starts with these octets, as far as its contents are known.
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

    /// Checks that a server answers and lets the file be read: otherwise nothing can be tested.
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

    /// Learns the facts before the first case.
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
            // The file is too large to fetch in this time; a part is enough.
            Err(_) if began.elapsed() >= FETCH_WITHIN => (dialogue.taken(), false),
            Err(fault) => return Err(fault),
        };
        Ok(facts)
    }

    /// Whether the server still answers the simplest request.
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
