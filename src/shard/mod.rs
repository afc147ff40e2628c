//! One core's share of the work: a table of transfers, their timers, and the event loop.
//!
//! The loop is [`Shard::turn`]: wait, handle what arrived, send what is due. Server, client, load generator
//! and simulator all run it; they differ in what starts the transfers (a request or a [`Plan`]) and in the
//! engine underneath.
//!
//! A read request takes this path: [`Shard::turn`] → `packets::handle_all` → `requests::request` → the store
//! opens the file → `requests::opened` negotiates and puts a [`Sender`](crate::proto::sender::Sender) into a
//! slot → `pump` → `transmit` finds the frames of the next blocks and gives them to the engine. Each ACK goes
//! `packets::handle_all` → `packet` → `lifecycle::settle` → `pump` → `lifecycle::sent`. The transfer ends through
//! `lifecycle::finish`.

mod admission;
mod answers;
mod backlog;
mod census;
mod check;
mod departed;
mod holdings;
mod index;
mod lifecycle;
mod log;
mod packets;
mod pages;
mod prefetch;
mod requests;
mod slot;
mod table;
mod timers;
mod transmit;
mod upload;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

pub use census::Census;
pub use check::{Expected, Flaw, PATTERN_SEED};
pub use holdings::Holdings;
pub use slot::{Ending, LocalSide, Manner, Operation, Origin, Plan, Running};
pub use table::SlotId;
#[doc(hidden)] // For benchmarks.
pub use timers::Wheel;

use crate::config::{self, Settings};
use crate::engine::{Bind, Engine, Inbox, Local, SocketId};
use crate::metrics::{Metrics, Suppressed};
use crate::proto::outcome::Outcome;
use crate::proto::timing::earlier;
use crate::proto::transfer::Transfer;
use crate::store::{Done, Frames, FramesKey, Mailbox, Store};
use crate::time::Instant;
use crate::wire::ErrorCode;
use admission::{Budget, Unvalidated};
use answers::{Answers, Found};
use backlog::Backlog;
use departed::Departed;
use requests::OpenedTogether;
use slot::{Flow, Slot, Stage};
use table::{Sought, Table};

/// One core's transfers and the state needed to serve them.
#[derive(Debug)]
pub struct Shard<E> {
    engine: E,
    store: Arc<Store>,
    settings: Arc<Settings>,
    census: Census,
    mailbox: Mailbox,
    results: Receiver<Done>,
    inbox: Option<Inbox>,
    /// Few, and looked up for each datagram.
    sockets: BTreeMap<SocketId, Purpose>,
    /// Sockets bound to one local address each, for answers when requests are accepted at all of them.
    answers: Answers,
    table: Table,
    /// Scratch buffer for the keys of datagrams that are handled together.
    sought: Vec<Sought>,
    timers: Wheel<SlotId>,
    /// Consecutive rounds in which the timers were not checked.
    timers_deferred: u8,
    /// Scratch buffer for the transfers whose timers fire in one round.
    fired: Vec<SlotId>,
    /// Transfers with something to send, served round-robin; each is either here or in the backlog, once.
    ready: VecDeque<SlotId>,
    /// The frames that were sent last in this round: a crowd sends the same ones over and over.
    latest: Option<Arc<Frames>>,
    /// Whether a turn since the last look at the clock got frames from the store, which may have read them at once.
    fetched: bool,
    /// Transfers waiting for room in the send queues of their sockets.
    backlog: Backlog,
    /// Transfers waiting for frames, keyed by those frames.
    waiting: HashMap<FramesKey, Vec<SlotId>>,
    opened_together: OpenedTogether,
    unvalidated: Unvalidated,
    uploads: usize,
    /// Memory used by out-of-order blocks of uploads.
    kept_octets: usize,
    /// Finished transfers, oldest first; entries already removed are skipped.
    lingering: VecDeque<SlotId>,
    departed: Departed,
    /// When the timers of the transfers in the backlog were last armed.
    backlog_armed_at: Option<Instant>,
    /// While draining, the shard waits until then for repeats of last packets.
    expects_repeats_until: Option<Instant>,
    draining: bool,
    /// While draining, the shard waits until then for unvalidated clients.
    drains_unproven_at: Option<Instant>,
    fingerprints: RandomState,
    stranger_errors: Budget,
    refusal_lines: Budget,
    failure_lines: Budget,
    metrics: Metrics,
    endings: Vec<(SlotId, Ending)>,
}

/// If one round delivers this many datagrams, more are probably queued: it is the maximum that one call to
/// the kernel delivers with io_uring.
const BUSY_DATAGRAMS: usize = 32;
/// Consecutive busy rounds for which the timers may be deferred: some tens of milliseconds.
const TIMERS_DEFERRED_MAX: u8 = 16;

/// Rounds spent discarding early datagrams: a receive queue full of the shortest datagrams takes half as
/// many, and in an endless storm the queue is never empty.
const EARLY_ROUNDS_MAX: u8 = 96;

/// What a socket is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// Accepts requests, which are answered from another socket or from this one.
    Requests {
        answers: SocketId,
        /// Whether each of this host's addresses gets its own socket for answers.
        everywhere: bool,
    },
    /// Answers requests.
    Answers,
    /// Belongs to one transfer that this end requested.
    Errand,
    /// Serves transfers that this end requests: one at a time, or many at a time, distinguished by this end's
    /// address.
    Shared { by_address: bool },
}

impl<E: Engine> Shard<E> {
    /// Creates a shard without sockets or transfers. `census` counts the transfers of all shards together.
    pub fn new(engine: E, store: Arc<Store>, settings: Arc<Settings>, census: Census) -> Self {
        let (sender, results) = mpsc::channel();
        let mailbox = Mailbox::new(sender, engine.waker());
        Self {
            engine,
            store,
            settings,
            census,
            mailbox,
            results,
            inbox: Some(Inbox::new()),
            sockets: BTreeMap::new(),
            answers: Answers::default(),
            table: Table::default(),
            sought: Vec::new(),
            timers: Wheel::new(),
            timers_deferred: 0,
            fired: Vec::new(),
            ready: VecDeque::new(),
            latest: None,
            fetched: false,
            backlog: Backlog::default(),
            waiting: HashMap::new(),
            opened_together: OpenedTogether::default(),
            unvalidated: Unvalidated::new(
                config::UNVALIDATED_MAX,
                config::UNVALIDATED_PER_PREFIX_MAX,
            ),
            uploads: 0,
            kept_octets: 0,
            lingering: VecDeque::new(),
            departed: Departed::new(),
            backlog_armed_at: None,
            expects_repeats_until: None,
            draining: false,
            drains_unproven_at: None,
            fingerprints: RandomState::new(),
            stranger_errors: Budget::new(config::STRANGER_ERRORS_PER_SECOND),
            refusal_lines: Budget::new(config::REFUSAL_LINES_PER_SECOND),
            failure_lines: Budget::new(config::FAILURE_LINES_PER_SECOND),
            metrics: Metrics::default(),
            endings: Vec::new(),
        }
    }

    /// Accepts requests at an address; returns that address, with the port chosen if it was 0.
    ///
    /// # Errors
    /// If the address is not available, or no port of the operator's range is free.
    pub fn listen(&mut self, bind: Bind) -> io::Result<SocketAddr> {
        let requests = self.engine.open(bind)?;
        let address = self.engine.local_addr(requests)?;
        let answers = if self.settings.single_port {
            requests
        } else {
            self.open_answers(bind.address)?
        };
        self.sockets.insert(answers, Purpose::Answers);
        // A port range is limited, and other shards need ports from it.
        let everywhere = bind.address.ip().is_unspecified()
            && !self.settings.single_port
            && self.settings.port_range.is_none();
        self.sockets.insert(
            requests,
            Purpose::Requests {
                answers,
                everywhere,
            },
        );
        Ok(address)
    }

    /// The smallest receive buffer of the sockets that accept requests, in octets, if the system reports it.
    #[must_use]
    pub fn receive_buffer(&self) -> Option<usize> {
        let takes_requests = |purpose: &Purpose| matches!(purpose, Purpose::Requests { .. });
        let sockets = self.sockets.iter();
        sockets
            .filter(|(_, purpose)| takes_requests(purpose))
            .filter_map(|(&socket, _)| self.engine.receive_buffer(socket).ok())
            .min()
    }

    /// The socket that answers requests to a local address. A socket bound to that address costs the kernel
    /// less than `any`, where the destination and source address must be passed with every datagram.
    fn answers_at(&mut self, local: Local, any: SocketId, now: Instant) -> SocketId {
        let Some(address) = local.address else {
            return any;
        };
        match self.answers.find(address, now) {
            Found::At(answers) => return answers,
            Found::Nowhere => return any,
            Found::Unknown => {}
        }
        // The same link-local address can exist on several interfaces.
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if link_local || !self.has_place_for_answers(now) {
            return any;
        }
        // If no port is free for it, the socket for all addresses is used for a while.
        let answers = self.open_answers(SocketAddr::new(address, 0)).ok();
        self.answers.keep(address, answers, now);
        let Some(answers) = answers else {
            return any;
        };
        self.sockets.insert(answers, Purpose::Answers);
        answers
    }

    /// Whether one more address may have its own socket, if necessary in place of one that is no longer used.
    fn has_place_for_answers(&mut self, now: Instant) -> bool {
        let table = &self.table;
        let in_use = |socket| table.slots().any(|slot| slot.uses(socket));
        let Some(place) = self.answers.make_place(in_use, now) else {
            return false;
        };
        if let Some(socket) = place {
            self.sockets.remove(&socket);
            self.engine.close(socket);
        }
        true
    }

    fn open_answers(&mut self, mut address: SocketAddr) -> io::Result<SocketId> {
        let (first, last) = self.settings.port_range.unwrap_or((0, 0));
        for port in first..=last {
            address.set_port(port);
            match self.engine.open(Bind {
                peers_only: !address.ip().is_unspecified(),
                ..Bind::to(address)
            }) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                opened => return opened,
            }
        }
        let text = format!(
            "no port from {first} to {last} is free: give --port-range at least one for each worker and address"
        );
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    }

    /// Opens a socket for transfers that this end requests ([`Origin::Shared`]). With `by_address`, each
    /// transfer has its own local address; otherwise there is one transfer at a time.
    ///
    /// # Errors
    /// If the address is not available.
    pub fn open_shared(&mut self, bind: Bind, by_address: bool) -> io::Result<SocketId> {
        let socket = self.engine.open(bind)?;
        self.sockets.insert(socket, Purpose::Shared { by_address });
        Ok(socket)
    }

    /// Discards everything received so far. While other shards were opening sockets for the same port, the
    /// kernel distributed datagrams differently: a client's next packet may reach another shard.
    ///
    /// # Errors
    /// Only errors that make the engine unusable.
    pub fn pass_over(&mut self) -> io::Result<()> {
        let mut inbox = self.inbox.take().unwrap_or_default();
        let mut waited = Ok(());
        for _ in 0..EARLY_ROUNDS_MAX {
            waited = self.engine.wait(Some(Instant::ZERO), &mut inbox);
            if waited.is_err() || inbox.is_empty() {
                break;
            }
            (0..inbox.len()).for_each(|_| self.suppress(Suppressed::Early));
        }
        self.inbox = Some(inbox);
        waited
    }

    /// Runs one round of the loop: waits until something happens, handles it, sends what is due.
    ///
    /// # Errors
    /// Only errors that make the engine unusable.
    pub fn turn(&mut self) -> io::Result<()> {
        self.turn_by(None)
    }

    /// Like [`Shard::turn`], but waits no longer than until `latest`.
    ///
    /// # Errors
    /// Only errors that make the engine unusable.
    pub fn turn_by(&mut self, latest: Option<Instant>) -> io::Result<()> {
        let mut inbox = self.inbox.take().unwrap_or_default();
        inbox.clear();
        let until = earlier(self.next_wake(), latest);
        let waited = self.engine.wait(until, &mut inbox);
        let now = self.engine.now();

        while let Ok(done) = self.results.try_recv() {
            self.handle_result(done, now);
        }
        self.handle_all(&inbox, now);
        // While many ACKs arrive, the one that a timer waits for may still be in the receive queue.
        self.timers_deferred += 1;
        if inbox.len() < BUSY_DATAGRAMS || self.timers_deferred > TIMERS_DEFERRED_MAX {
            self.timers_deferred = 0;
            self.expire(now);
            self.drain_unproven(now);
        }
        self.pump(now);

        // Do not keep a file open for requests that may never arrive.
        self.opened_together.forget();
        self.inbox = Some(inbox);
        waited
    }

    /// Handles an answer from the store.
    fn handle_result(&mut self, done: Done, now: Instant) {
        match done {
            Done::Opened(ticket, result) => self.open_came(SlotId::of_ticket(ticket), result, now),
            Done::Created(ticket, result) => {
                self.create_came(SlotId::of_ticket(ticket), result, now)
            }
            Done::Framed(key, result) => self.frames_came(&key, &result, now),
            Done::Written(ticket, upload, spare, result) => {
                let id = SlotId::of_ticket(ticket);
                match result {
                    Ok(()) => match self.table.get_mut(id) {
                        Some(Slot {
                            stage: Stage::Running(_, Flow::In(inflow)),
                            ..
                        }) => {
                            inflow.written(upload, spare);
                            self.settle(id, now);
                        }
                        // The transfer is over; discarding the upload occupies the disk for a while.
                        _ => self.store.discard(upload),
                    },
                    Err(refusal) => {
                        self.store.discard(upload);
                        self.give_up(id, refusal, now);
                    }
                }
            }
            Done::Published(ticket, result) => {
                let id = SlotId::of_ticket(ticket);
                match result {
                    Ok(()) => {
                        let slot = self.table.get_mut(id);
                        if let Some(Slot {
                            stage: Stage::Running(Transfer::Receive(receiver), _),
                            ..
                        }) = slot
                        {
                            receiver.publish();
                            self.settle(id, now);
                        }
                    }
                    Err(refusal) => self.give_up(id, refusal, now),
                }
            }
        }
    }

    /// Handles the timers that fired; if the deadline has moved on meanwhile, the timer is just armed again.
    fn expire(&mut self, now: Instant) {
        let mut fired = std::mem::take(&mut self.fired);
        self.timers.expire(now, |id| fired.push(id));
        for id in fired.drain(..) {
            if self.begin_again(id, now) {
                continue;
            }
            let Some(slot) = self.table.get_mut(id) else {
                continue;
            };
            match &mut slot.stage {
                Stage::Opening(_) => {
                    // A client still waiting while a text file is scanned has repeated its request since.
                    let over_at = slot.asked_at + self.settings.patience.idle;
                    if slot.armed.is_some_and(|at| at <= now) {
                        if over_at <= now {
                            self.finish(id, Outcome::TimedOut, now);
                        } else {
                            slot.armed = Some(over_at);
                            self.timers.insert(over_at, id);
                        }
                    }
                    continue;
                }
                Stage::Lingering { .. } => {
                    if slot.armed.is_some_and(|at| at <= now) {
                        self.remove(id);
                    }
                    continue;
                }
                Stage::Running(transfer, _) => {
                    if slot.armed.is_some_and(|at| at <= now) {
                        slot.armed = None;
                    }
                    if transfer.poll_timeout().is_some_and(|at| at <= now) {
                        let before = transfer.retransmissions();
                        transfer.handle_timeout(now);
                        self.metrics.retransmissions += transfer.retransmissions() - before;
                    }
                }
            }
            self.settle(id, now);
        }
        self.fired = fired;
    }

    fn suppress(&mut self, reason: Suppressed) {
        *self.metrics.suppressed.entry(reason).or_default() += 1;
    }

    /// Stops accepting requests; running transfers continue, unless the peer is not validated in time.
    pub fn drain(&mut self) {
        self.draining = true;
        let until = self.engine.now() + config::DRAIN_UNVALIDATED;
        self.drains_unproven_at.get_or_insert(until);
    }

    /// Ends transfers whose peers were not validated within the time a drain allows.
    fn drain_unproven(&mut self, now: Instant) {
        if self.drains_unproven_at.is_none_or(|at| at > now) || self.unvalidated.count() == 0 {
            return;
        }
        for id in self.table.ids() {
            if self.table.unvalidated_since(id).is_some() {
                self.finish(id, Outcome::Unanswered, now);
            }
        }
    }

    /// Ends every transfer at once and tells the peers.
    pub fn stop(&mut self) {
        self.draining = true;
        let now = self.engine.now();
        for id in self.table.ids() {
            self.abort(
                id,
                ErrorCode::UNDEFINED,
                "the other end is shutting down",
                Outcome::Stopped,
                now,
            );
        }
    }

    /// Whether no transfer runs, and none ended so recently that its client may not know.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let now = self.engine.now();
        let running = self.table.running(Operation::Read) + self.table.running(Operation::Write);
        let is_idle = running == 0 && self.expects_repeats_until.is_none_or(|until| until <= now);
        debug_assert!(!is_idle || self.table.slots().all(|slot| slot.is_dispensable(now)));
        is_idle
    }

    /// Whether no transfer runs and no finished one can still answer. Scans every slot.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.table.slots().all(Slot::is_silent)
    }

    /// The number of slots in the table, lingering ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// When the shard next needs to wake up if nothing arrives before.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        if self.ready.is_empty() && !self.backlog.may_go_on() {
            let unproven = self.drains_unproven_at;
            let unproven = unproven.filter(|_| self.unvalidated.count() > 0);
            earlier(earlier(self.timers.next(), self.drained_at()), unproven)
        } else {
            Some(Instant::ZERO)
        }
    }

    /// When finished transfers stop delaying a drain, if any still do.
    fn drained_at(&self) -> Option<Instant> {
        self.expects_repeats_until
            .filter(|&until| self.draining && until > self.engine.now())
    }

    /// The current counters.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics {
            active_reads: self.table.running(Operation::Read) as u64,
            active_writes: self.table.running(Operation::Write) as u64,
            unvalidated: self.unvalidated.count() as u64,
            receive_drops: self.engine.receive_drops(),
            engine: self.engine.statistics(),
            ..self.metrics.clone()
        }
    }

    /// Why the system failed to send something, if it ever did: the lowest errno recorded.
    #[must_use]
    pub fn send_failure(&self) -> Option<i32> {
        self.metrics.send_errors.keys().next().copied()
    }

    /// Whether the server has answered a transfer that this end requested.
    #[must_use]
    pub fn is_answered(&self, id: SlotId) -> bool {
        let errand = self.table.get(id).and_then(|slot| slot.errand.as_ref());
        errand.is_some_and(|errand| errand.answered)
    }

    /// The transfers requested by this end that have ended since the last call.
    pub fn take_endings(&mut self) -> Vec<(SlotId, Ending)> {
        std::mem::take(&mut self.endings)
    }

    /// A running transfer; `None` once it is over.
    #[must_use]
    pub fn running(&self, id: SlotId) -> Option<Running> {
        self.table.get(id)?.running(self.engine.now())
    }

    /// All running transfers, at most `max` of them.
    #[must_use]
    pub fn all_running(&self, max: usize) -> Vec<Running> {
        let now = self.engine.now();
        self.table
            .slots()
            .filter_map(|slot| slot.running(now))
            .take(max)
            .collect()
    }

    /// The engine, for engine-specific information.
    #[must_use]
    pub const fn engine(&self) -> &E {
        &self.engine
    }

    /// The engine, for engine-specific operations.
    pub const fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }
}
