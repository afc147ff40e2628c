//! What a transfer leaves in the log: one line at its end, and nothing a stranger can flood it with.

use std::net::SocketAddr;

use super::slot::{Ending, Flow, Slot, Stage};
use crate::proto::negotiate::Params;
use crate::proto::outcome::Outcome;
use crate::store::Refusal;
use crate::time::Instant;
use crate::wire::Escaped;

/// A file's name, cut to what a line shows and a slot should keep.
pub(super) fn shown(filename: &[u8]) -> Box<[u8]> {
    filename
        .get(..=Escaped::OCTETS_MAX)
        .unwrap_or(filename)
        .into()
}

/// The record of a transfer that ends now.
pub(super) fn ending(slot: &Slot, outcome: Outcome, now: Instant) -> Ending {
    let (blocks, octets) = slot.arrived();
    let (params, retransmissions) = match &slot.stage {
        Stage::Running(transfer, _) => (*transfer.params(), transfer.retransmissions()),
        _ => (Params::RFC1350, 0),
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
        elapsed: now - slot.started,
        outcome,
        text: slot
            .errand
            .as_ref()
            .map(|errand| errand.text.clone())
            .unwrap_or_default(),
        flaw: slot.errand.as_ref().and_then(|errand| errand.flaw),
        first_block,
        duplicates,
    }
}

/// One line for a transfer that is over.
pub(super) fn transfer(ending: &Ending) {
    let Ending {
        operation,
        peer,
        filename,
        mode,
        params,
        octets,
        blocks,
        retransmissions,
        elapsed,
        outcome,
        ..
    } = ending;
    // What forged requests and size probes leave behind is not worth a line unless asked for.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                %peer,
                %operation,
                file = %Escaped(filename),
                %mode,
                blksize = params.blksize(),
                windowsize = params.windowsize(),
                octets,
                blocks,
                seconds = elapsed.as_secs_f64(),
                retransmissions,
                outcome = %outcome,
                "transfer"
            )
        };
    }
    match outcome {
        Outcome::Probed | Outcome::Unanswered | Outcome::Evicted => line!(debug),
        _ => line!(info),
    }
}

/// One line for a request that was refused; `unsaid` lines before it were left out.
pub(super) fn refusal(slot: &Slot, refusal: Refusal, unsaid: u64) {
    let (code, text) = refusal.error();
    let (peer, operation, file) = (slot.path.peer, slot.operation, Escaped(&slot.filename));
    match refusal {
        // The system's own word on it is what the operator needs.
        Refusal::Failed(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(%peer, %operation, %file, code = code.0, %error, unsaid, "refused");
        }
        _ => tracing::info!(%peer, %operation, %file, code = code.0, text, unsaid, "refused"),
    }
}

/// One line for a request that could not be read; `unsaid` lines before it were left out.
pub(super) fn malformed(peer: SocketAddr, why: &str, unsaid: u64) {
    tracing::info!(%peer, why, unsaid, "malformed request");
}

/// The outcome as the counters name it.
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
