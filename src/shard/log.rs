//! What a transfer logs: one line at its end, and nothing that strangers can flood the log with.

use std::net::SocketAddr;

use super::admission::Limit;
use super::slot::{Ending, Flow, Slot, Stage};
use crate::proto::negotiate::Params;
use crate::proto::outcome::Outcome;
use crate::proto::transfer::Transfer;
use crate::store::Refusal;
use crate::time::Instant;
use crate::wire::Escaped;

macro_rules! line {
    ($level:ident, $ending:expr, $unsaid:expr) => {{
        let ending: &Ending = $ending;
        let params = &ending.params;
        tracing::$level!(
            peer = %ending.peer,
            operation = %ending.operation,
            // As a string, which the text format quotes: a name with spaces and `=` cannot fake fields.
            file = Escaped(&ending.filename).to_string(),
            mode = %ending.mode,
            blksize = params.blksize(),
            windowsize = params.windowsize(),
            timeout = params.timeout().map(|timeout| timeout.as_secs_f64()),
            octets = ending.octets,
            blocks = ending.blocks,
            seconds = ending.elapsed.as_secs_f64(),
            retransmissions = ending.retransmissions,
            outcome = name(ending.outcome),
            code = code(ending.outcome),
            unsaid = some($unsaid),
            "transfer"
        )
    }};
}

/// A file's name, cut to what a log line shows and a slot should keep.
pub(super) fn shown(filename: &[u8]) -> Box<[u8]> {
    filename
        .get(..=Escaped::OCTETS_MAX)
        .unwrap_or(filename)
        .into()
}

/// The record of a transfer that is ending now.
pub(super) fn ending(slot: &Slot, outcome: Outcome, now: Instant) -> Ending {
    let (blocks, octets) = slot.arrived();
    let (params, retransmissions) = match &slot.stage {
        Stage::Running(transfer, _) => (*transfer.params(), transfer.retransmissions()),
        _ => (Params::RFC1350, 0),
    };
    let round_trip = match &slot.stage {
        Stage::Running(Transfer::Receive(receiver), _) => receiver.round_trip(),
        _ => None,
    };
    let (first_block, duplicates) = match &slot.stage {
        Stage::Running(_, Flow::Check(check)) => (check.first_block, check.duplicates),
        _ => (None, 0),
    };
    Ending {
        operation: slot.operation,
        peer: slot.path.peer,
        filename: slot.filename.clone(),
        mode: slot.mode,
        params,
        octets,
        blocks,
        retransmissions,
        round_trip,
        elapsed: now - slot.started,
        outcome,
        text: slot
            .errand
            .as_ref()
            .map(|errand| errand.text.clone())
            .unwrap_or_default(),
        flaw: slot.errand.as_ref().and_then(|errand| errand.flaw),
        oack: slot.errand.as_ref().and_then(|errand| errand.oack),
        first_block,
        duplicates,
    }
}

/// Logs a finished transfer; `unsaid` lines before it were suppressed.
pub(super) fn transfer(ending: &Ending, unsaid: u64) {
    line!(info, ending, unsaid);
}

/// Logs the same line at debug level.
pub(super) fn trifle(ending: &Ending) {
    line!(debug, ending, 0);
}

/// Logs a refused request; `unsaid` lines before it were suppressed.
pub(super) fn refusal(slot: &Slot, refusal: Refusal, unsaid: u64) {
    let (code, text) = refusal.error();
    let (peer, operation) = (slot.path.peer, slot.operation);
    let file = Escaped(&slot.filename).to_string();
    match refusal {
        // The operator needs the system's error.
        Refusal::Failed(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(%peer, %operation, file, code = code.0, %error, unsaid = some(unsaid), "refused");
        }
        _ => {
            tracing::info!(%peer, %operation, file, code = code.0, text, unsaid = some(unsaid), "refused")
        }
    }
}

/// Logs the system error that is about to end a transfer; `unsaid` lines before it were suppressed.
pub(super) fn failure(slot: &Slot, errno: i32, unsaid: u64) {
    let (peer, operation) = (slot.path.peer, slot.operation);
    let file = Escaped(&slot.filename).to_string();
    let error = std::io::Error::from_raw_os_error(errno);
    tracing::warn!(%peer, %operation, file, %error, unsaid = some(unsaid), "failed");
}

/// Logs a malformed request; `unsaid` lines before it were suppressed.
pub(super) fn malformed(peer: SocketAddr, why: &str, unsaid: u64) {
    tracing::info!(%peer, why, unsaid = some(unsaid), "malformed request");
}

/// Logs a request that arrived when a limit was reached; `unsaid` lines before it were suppressed.
pub(super) fn full(peer: SocketAddr, limit: Limit, unsaid: u64) {
    tracing::warn!(%peer, limit = limit.name(), unsaid = some(unsaid), "no room: request passed over, the client will ask again");
}

/// The number of suppressed lines, unless it is zero.
fn some(unsaid: u64) -> Option<u64> {
    (unsaid > 0).then_some(unsaid)
}

/// The error code that ended the transfer, if any.
const fn code(outcome: Outcome) -> Option<u16> {
    match outcome {
        Outcome::PeerError(code) | Outcome::Refused(code) => Some(code.0),
        _ => None,
    }
}

/// The outcome's name in the counters.
pub(super) const fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "complete",
        Outcome::PeerError(_) => "peer_error",
        Outcome::Probed => "probed",
        Outcome::TimedOut => "timed_out",
        Outcome::Unanswered => "unanswered",
        Outcome::Refused(_) => "refused",
        Outcome::Replaced => "replaced",
        Outcome::Evicted => "evicted",
        Outcome::Stopped => "stopped",
    }
}
