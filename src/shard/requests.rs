//! How a transfer begins: with a request from a client, or with a plan of this end.

use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::admission::Limit;
use super::check::Check;
use super::slot::{Again, Errand, Flow, Key, LocalSide, Manner, Origin, Outflow, Slot, Stage};
use super::table::Sought;
use super::upload::Inflow;
use super::{Operation, Plan, Purpose, Shard, SlotId, log};
use crate::config;
use crate::engine::{Bind, Datagram, Engine, Local, Path, SocketId};
use crate::metrics::Suppressed;
use crate::proto::negotiate::{self, Asked, Limits};
use crate::proto::outcome::Outcome;
use crate::proto::receiver::Receiver;
use crate::proto::sender::Sender;
use crate::proto::timing::Patience;
use crate::proto::transfer::Transfer;
use crate::store::{Answer, Body, Refusal, Upload};
use crate::time::Instant;
use crate::wire::{self, ErrorCode, Mode, Opcode, Options, Packet, Request};

/// Maximum octets of an OACK: seven options, each with a name of up to 10 octets and a number of up to 20.
const OACK_OCTETS_MAX: usize = 256;

/// Files opened for the requests received in one wait. All of these requests had arrived before the first was
/// answered, so requests for the same name may share an answer: in a storm, thousands of requests open a file
/// once per round of the loop.
#[derive(Debug, Default)]
pub(super) struct OpenedTogether(Vec<(Box<[u8]>, Mode, Arc<Body>)>);

impl OpenedTogether {
    /// Maximum number of files, which are searched linearly.
    const FILES_MAX: usize = 8;

    fn find(&self, request: &Request<'_>) -> Option<Arc<Body>> {
        let (_, _, body) = self
            .0
            .iter()
            .find(|(name, mode, _)| **name == *request.filename && *mode == request.mode)?;
        Some(body.clone())
    }

    fn keep(&mut self, request: &Request<'_>, body: &Arc<Body>) {
        if self.0.len() < Self::FILES_MAX {
            let (name, mode) = (request.filename.into(), request.mode);
            self.0.push((name, mode, body.clone()));
        }
    }

    /// Forgets the files: later requests arrived after they were opened.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl<E: Engine> Shard<E> {
    /// Handles an RRQ or WRQ from a listening socket; the answer is sent from `answers`.
    pub(super) fn request(
        &mut self,
        datagram: &Datagram<'_>,
        sought: &Sought,
        answers: SocketId,
        now: Instant,
    ) {
        let path = datagram.path;
        let octets = datagram.octets;
        let octets = octets.get(..config::REQUEST_OCTETS_MAX).unwrap_or(octets);
        let (operation, request) = match Packet::parse(octets) {
            Ok(Packet::Rrq(request)) => (Operation::Read, request),
            Ok(Packet::Wrq(request)) => (Operation::Write, request),
            Ok(_) => return,
            Err(_) => {
                let (code, why) = match Packet::parse(datagram.octets) {
                    // No file has such a name, and after this error firmware does not start over.
                    Ok(_) => (ErrorCode::NOT_FOUND, "file name too long".to_owned()),
                    Err(error) => (ErrorCode::ILLEGAL, error.to_string()),
                };
                return self.malformed(answers, &path, code, &why, now);
            }
        };
        tracing::trace!(peer = %path.peer, packet = %if operation == Operation::Read { Packet::Rrq(request) } else { Packet::Wrq(request) }, "received");
        let mut doubtful = false;
        // The same octets sent to another of our addresses expect an answer from that address.
        let asked = (datagram.socket, path.local.address);
        let fingerprint = self.fingerprints.hash_one((asked, octets));
        if let Some(id) = self.table.find(sought)
            && let Some(slot) = self.table.get_mut(id)
        {
            let repeated = slot.fingerprint == fingerprint;
            // A repeat before the first answer belongs to the transfer it started, whose timer retransmits:
            // atftp aborts on a second OACK.
            if repeated && slot.is_fresh() {
                slot.asked_at = now;
                return self.suppress(Suppressed::RepeatedRequest);
            }
            // While draining, a restarted client is not served; a client that merely repeated its request
            // keeps its transfer.
            if self.draining {
                return self.suppress(Suppressed::Draining);
            }
            if repeated && let Some(at) = slot.quiet_at(now) {
                let datagram = Datagram {
                    octets,
                    ..*datagram
                };
                return self.wait_for_quiet(id, at, &datagram, answers);
            }
            doubtful = repeated && slot.may_be_a_late_copy(now);
            if doubtful && slot.acknowledges_repeats() {
                return self.suppress(Suppressed::RepeatedRequest);
            }
            // Any other request means that the client has restarted.
            self.finish(id, Outcome::Replaced, now);
            self.remove(id);
        }
        if self.draining {
            return self.suppress(Suppressed::Draining);
        }
        if let Err(limit) = self.admit(path.peer.ip(), operation, now) {
            if self.refusal_lines.take(now) {
                log::full(path.peer, limit, self.refusal_lines.take_denied());
            }
            return self.suppress(Suppressed::Full);
        }
        let slot = Slot {
            socket: answers,
            path,
            operation,
            mode: request.mode,
            filename: log::shown(request.filename),
            fingerprint,
            doubtful,
            opening: Box::default(),
            errand: None,
            started: now,
            asked_at: now,
            stage: Stage::Opening(Box::default()),
            armed: None,
            queued: false,
            again: None,
            heard_at: now,
            answering: true,
            silent: true,
            unvalidated: true,
        };
        let id = self.table.insert(slot);
        let table = &self.table;
        let is_upload = operation == Operation::Write;
        self.unvalidated.enter(id, path.peer.ip(), is_upload, |id| {
            table.unvalidated_since(id).is_some()
        });
        self.ask_store(id, operation, &request, octets, now);
    }

    /// Keeps a repeat of a running transfer's request until `at`, to see whether the transfer progresses.
    /// Repeats are identical, so the first is enough; a long one, which takes memory, must be sent again.
    fn wait_for_quiet(
        &mut self,
        id: SlotId,
        at: Instant,
        datagram: &Datagram<'_>,
        answers: SocketId,
    ) {
        if let Some(slot) = self.table.get_mut(id)
            && slot.again.is_none()
            && datagram.octets.len() <= config::REPEAT_OCTETS_MAX
        {
            slot.again = Some(Box::new(Again {
                socket: datagram.socket,
                path: datagram.path,
                request: datagram.octets.into(),
                answers,
                judged_at: at,
            }));
            self.timers.insert(at, id);
        }
        self.suppress(Suppressed::RepeatedRequest);
    }

    /// Judges a repeated request that was kept: it counts as a restart if the transfer has stalled since.
    /// Returns whether it did.
    pub(super) fn begin_again(&mut self, id: SlotId, now: Instant) -> bool {
        let Some(slot) = self.table.get_mut(id) else {
            return false;
        };
        let quiet_at = slot.quiet_at(now);
        let Some(mut again) = slot.again.take_if(|again| again.judged_at <= now) else {
            return false;
        };
        if let Some(judged_at) = quiet_at {
            again.judged_at = judged_at;
            slot.again = Some(again);
            self.timers.insert(judged_at, id);
            return false;
        }
        let datagram = Datagram {
            socket: again.socket,
            path: again.path,
            broadcast: false,
            octets: &again.request,
        };
        let sought = self.table.seek(Key::Peer(datagram.path.peer));
        self.request(&datagram, &sought, again.answers, now);
        true
    }

    /// Makes room for one more transfer; returns the limit that prevents it if there is none.
    fn admit(&mut self, peer: IpAddr, operation: Operation, now: Instant) -> Result<(), Limit> {
        let is_upload = operation == Operation::Write;
        while is_upload && self.uploads >= self.settings.uploads_max {
            self.evict(Limit::Uploads, peer, now)?;
        }
        while let Some(limit) = self.unvalidated.limit_reached(peer) {
            self.evict(limit, peer, now)?;
        }
        while !self.census.enter(self.settings.transfers_max) {
            self.evict(Limit::Transfers, peer, now)?;
        }
        self.uploads += usize::from(is_upload);
        Ok(())
    }

    /// Evicts an unvalidated transfer that has had time to be validated, to make room under `limit`.
    fn evict(&mut self, limit: Limit, peer: IpAddr, now: Instant) -> Result<(), Limit> {
        let table = &self.table;
        let waiting_since = |id| table.unvalidated_since(id);
        let oldest = self.unvalidated.oldest(limit, peer, waiting_since, now);
        self.finish(oldest.ok_or(limit)?, Outcome::Evicted, now);
        Ok(())
    }

    fn ask_store(
        &mut self,
        id: SlotId,
        operation: Operation,
        request: &Request<'_>,
        octets: &[u8],
        now: Instant,
    ) {
        let later = match operation {
            Operation::Read => {
                if let Some(body) = self.opened_together.find(request) {
                    return self.opened(id, request, Ok(body), now);
                }
                match self
                    .store
                    .open(id.ticket(), request.filename, request.mode, &self.mailbox)
                {
                    Answer::Now(result) => {
                        if let Ok(body) = &result {
                            self.opened_together.keep(request, body);
                        }
                        return self.opened(id, request, result, now);
                    }
                    Answer::Later => true,
                    Answer::Busy => false,
                }
            }
            Operation::Write => {
                let (limits, _) = self.terms(id);
                let mut oack = [0; OACK_OCTETS_MAX];
                let answer = negotiate::answer(request, &limits, Asked::Write, &mut oack);
                let announced = answer.ok().and_then(|answer| answer.announced);
                match self.store.create(
                    id.ticket(),
                    request.filename,
                    request.mode,
                    announced,
                    &self.mailbox,
                ) {
                    Answer::Now(result) => return self.created(id, request, result, now),
                    Answer::Later => true,
                    Answer::Busy => false,
                }
            }
        };
        if !later {
            // The client repeats its request; by then the store may have caught up.
            self.finish(id, Outcome::Evicted, now);
            return self.suppress(Suppressed::Full);
        }
        if let Some(slot) = self.table.get_mut(id) {
            slot.stage = Stage::Opening(octets.into());
            // Scanning a long text file takes a while, which is wasted if the client has left silently.
            if operation == Operation::Read && request.mode == Mode::Netascii {
                let over_at = now + self.settings.patience.idle;
                slot.armed = Some(over_at);
                self.timers.insert(over_at, id);
            }
        }
    }

    /// Handles the store's result of opening a file.
    pub(super) fn open_came(
        &mut self,
        id: SlotId,
        result: Result<Arc<Body>, Refusal>,
        now: Instant,
    ) {
        let Some(octets) = self.take_request(id) else {
            return;
        };
        match Packet::parse(&octets) {
            Ok(Packet::Rrq(request)) => self.opened(id, &request, result, now),
            _ => self.errand_opened(id, result, now),
        }
    }

    /// Handles the store's result of creating a file.
    pub(super) fn create_came(
        &mut self,
        id: SlotId,
        result: Result<Upload, Refusal>,
        now: Instant,
    ) {
        let Some(octets) = self.take_request(id) else {
            // The client has left or restarted.
            if let Ok(upload) = result {
                self.store.discard(upload);
            }
            return;
        };
        match Packet::parse(&octets) {
            Ok(Packet::Wrq(request)) => self.created(id, &request, result, now),
            _ => self.errand_created(id, result, now),
        }
    }

    fn take_request(&mut self, id: SlotId) -> Option<Box<[u8]>> {
        match &mut self.table.get_mut(id)?.stage {
            Stage::Opening(octets) => Some(std::mem::take(octets)),
            _ => None,
        }
    }

    fn opened(
        &mut self,
        id: SlotId,
        request: &Request<'_>,
        result: Result<Arc<Body>, Refusal>,
        now: Instant,
    ) {
        let body = match result {
            Ok(body) => body,
            Err(refusal) => return self.refuse(id, refusal, now),
        };
        let (limits, patience) = self.terms(id);
        let mut oack = [0; OACK_OCTETS_MAX];
        let asked = Asked::Read(body.len());
        let Ok(answer) = negotiate::answer(request, &limits, asked, &mut oack) else {
            return self.drop_unstarted(id);
        };
        let sender = Sender::answer(answer.params, body.len(), answer.oack > 0, patience, now);
        let flow = Flow::Out(Outflow::new(body));
        self.count_request("read", "accepted");
        self.begin(id, Transfer::Send(sender), flow, &oack[..answer.oack], now);
    }

    fn created(
        &mut self,
        id: SlotId,
        request: &Request<'_>,
        result: Result<Upload, Refusal>,
        now: Instant,
    ) {
        let upload = match result {
            Ok(upload) => upload,
            Err(refusal) => return self.refuse(id, refusal, now),
        };
        let (limits, patience) = self.terms(id);
        let mut oack = [0; OACK_OCTETS_MAX];
        let Ok(answer) = negotiate::answer(request, &limits, Asked::Write, &mut oack) else {
            self.store.discard(upload);
            return self.drop_unstarted(id);
        };
        let receiver = Receiver::answer(answer.params, answer.oack > 0, patience, now);
        self.count_request("write", "accepted");
        self.begin(
            id,
            Transfer::Receive(Box::new(receiver)),
            Flow::In(Box::new(Inflow::new(upload))),
            &oack[..answer.oack],
            now,
        );
    }

    fn begin(&mut self, id: SlotId, transfer: Transfer, flow: Flow, opening: &[u8], now: Instant) {
        if let Some(slot) = self.table.get_mut(id) {
            slot.opening = opening.into();
            slot.stage = Stage::Running(transfer, flow);
        }
        self.settle(id, now);
    }

    /// The limits and timeouts that apply to the slot's peer.
    fn terms(&mut self, id: SlotId) -> (Limits, Patience) {
        let path = self.table.get(id).map(|slot| slot.path);
        let mtu = path.and_then(|path| self.engine.mtu(path.local.interface));
        let peer = path.map_or_else(|| IpAddr::from([0; 4]), |path| path.peer.ip());
        let (limits, mut patience) = self.settings.terms(peer, mtu);
        if self.table.get(id).is_some_and(|slot| slot.doubtful) {
            patience.unvalidated_retries = patience.unvalidated_retries.min(config::STRICT_RETRIES);
        }
        (limits, patience)
    }

    /// The file is not available: sends one ERROR and logs a line.
    fn refuse(&mut self, id: SlotId, refusal: Refusal, now: Instant) {
        let (code, text) = refusal.error();
        let Some(slot) = self.table.get(id) else {
            return;
        };
        let (socket, path) = (slot.socket, slot.path);
        if self.refusal_lines.take(now) {
            log::refusal(slot, refusal, self.refusal_lines.take_denied());
        }
        let operation = slot.operation.name();
        self.count_request(operation, refusal.name());
        // Running out of descriptors, or a busy store, is temporary: the client repeats its request, whereas
        // an ERROR would end its boot.
        let passing = [libc::EBUSY, libc::EMFILE, libc::ENFILE];
        if matches!(refusal, Refusal::Failed(errno) if passing.contains(&errno)) {
            self.suppress(Suppressed::Full);
        } else {
            self.send_error(socket, &path, code, text);
            self.depart(path.peer, now);
        }
        self.drop_unstarted(id);
    }

    /// Answers a malformed request with one ERROR.
    fn malformed(
        &mut self,
        socket: SocketId,
        path: &Path,
        code: ErrorCode,
        why: &str,
        now: Instant,
    ) {
        if self.refusal_lines.take(now) {
            log::malformed(path.peer, why, self.refusal_lines.take_denied());
        }
        self.count_request("unknown", "malformed");
        self.send_error(socket, path, code, why);
        self.depart(path.peer, now);
    }

    fn count_request(&mut self, operation: &'static str, result: &'static str) {
        *self
            .metrics
            .requests
            .entry((operation, result))
            .or_default() += 1;
    }

    /// Forgets a request that never became a transfer.
    fn drop_unstarted(&mut self, id: SlotId) {
        if let Some(slot) = self.table.remove(id) {
            self.census.leave();
            if slot.unvalidated {
                self.unvalidated.leave(slot.path.peer.ip());
            }
            if slot.operation == Operation::Write {
                self.uploads -= 1;
            }
        }
    }

    /// Starts a transfer requested by this end, from the socket that the plan's origin names.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub fn start(&mut self, plan: Plan) -> io::Result<SlotId> {
        let socket = match plan.origin {
            Origin::Own => self.open_own(plan.server)?,
            Origin::Shared(socket, address) => {
                self.make_way(Key::Own(socket, address))?;
                socket
            }
        };
        self.census.enter(usize::MAX);
        let now = self.engine.now();
        let Plan {
            server,
            operation,
            remote,
            origin,
            local,
            mode,
            wanted,
            order,
            patience,
            linger,
        } = plan;
        let manner = match &local {
            LocalSide::Stored(_) => Manner::Whole,
            LocalSide::Offered { manner, .. } | LocalSide::Checked { manner, .. } => *manner,
        };
        let errand = Errand {
            manner,
            wanted,
            patience,
            server: server.ip(),
            origin,
            order,
            linger,
            flaw: None,
            answered: false,
            oack: None,
            announced: None,
            text: Vec::new(),
            remote,
        };
        let slot = Slot {
            socket,
            path: Path {
                peer: server,
                local: Local {
                    address: match origin {
                        Origin::Own => None,
                        Origin::Shared(_, address) => address,
                    },
                    interface: 0,
                },
            },
            operation,
            mode,
            filename: log::shown(&errand.remote),
            fingerprint: 0,
            doubtful: false,
            opening: Box::default(),
            errand: Some(Box::new(errand)),
            started: now,
            asked_at: now,
            stage: Stage::Opening(Box::default()),
            armed: None,
            queued: false,
            again: None,
            heard_at: now,
            answering: false,
            silent: true,
            unvalidated: false,
        };
        let id = self.table.insert(slot);
        let ticket = id.ticket();
        match (local, operation) {
            (LocalSide::Checked { expected, .. }, _) => {
                let receiver = Receiver::request(patience, now);
                let blksize = receiver.params().blksize();
                let check = Check::new(expected, blksize);
                self.ask_server(
                    id,
                    Transfer::Receive(Box::new(receiver)),
                    Flow::Check(Box::new(check)),
                    now,
                );
            }
            (LocalSide::Stored(name), Operation::Read) => {
                match self.store.create(ticket, &name, mode, None, &self.mailbox) {
                    Answer::Now(result) => self.errand_created(id, result, now),
                    Answer::Later => {}
                    Answer::Busy => self.give_up(id, Refusal::Failed(libc::EBUSY), now),
                }
            }
            (LocalSide::Stored(name), Operation::Write) | (LocalSide::Offered { name, .. }, _) => {
                match self.store.open(ticket, &name, mode, &self.mailbox) {
                    Answer::Now(result) => self.errand_opened(id, result, now),
                    Answer::Later => {}
                    Answer::Busy => self.give_up(id, Refusal::Failed(libc::EBUSY), now),
                }
            }
        }
        Ok(id)
    }

    /// The network reports that the peer of `path` is unreachable from a shared socket: ends the transfer
    /// that this end requested there, if one runs, and returns its slot.
    pub fn unreachable(&mut self, socket: SocketId, path: &Path) -> Option<SlotId> {
        let by_address = self.is_by_address(socket);
        let address = path.local.address.filter(|_| by_address);
        let sought = self.table.seek(Key::Own(socket, address));
        let id = self.table.find(&sought)?;
        let slot = self.table.get(id)?;
        // The report may concern an earlier transfer with the same key.
        if slot.is_lingering() || slot.path.peer != path.peer {
            return None;
        }
        let now = self.engine.now();
        self.finish(id, Outcome::Stopped, now);
        Some(id)
    }

    /// Opens a socket for one transfer; it is closed with that transfer.
    fn open_own(&mut self, server: SocketAddr) -> io::Result<SocketId> {
        let any: IpAddr = if server.is_ipv4() {
            [0u8; 4].into()
        } else {
            [0u16; 8].into()
        };
        let socket = self.engine.open(Bind {
            peers_only: true,
            ..Bind::to(SocketAddr::new(any, 0))
        })?;
        self.sockets.insert(socket, Purpose::Errand);
        Ok(socket)
    }

    /// Makes sure that a shared key is free: a new transfer replaces one that only lingers.
    fn make_way(&mut self, key: Key) -> io::Result<()> {
        let Some(id) = self.table.find(&self.table.seek(key)) else {
            return Ok(());
        };
        if !self.table.get(id).is_some_and(Slot::is_lingering) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.remove(id);
        Ok(())
    }

    /// The file to be sent is open: ask the server to accept it.
    fn errand_opened(&mut self, id: SlotId, result: Result<Arc<Body>, Refusal>, now: Instant) {
        let body = match result {
            Ok(body) => body,
            Err(refusal) => return self.give_up(id, refusal, now),
        };
        let Some(Slot {
            errand: Some(errand),
            ..
        }) = self.table.get_mut(id)
        else {
            return;
        };
        if errand.wanted.tsize.is_some() {
            errand.wanted.tsize = Some(body.len());
        }
        let sender = Sender::request(body.len(), errand.patience, now);
        let flow = Flow::Out(Outflow::new(body));
        self.ask_server(id, Transfer::Send(sender), flow, now);
    }

    /// The local file is created: ask the server for its content.
    fn errand_created(&mut self, id: SlotId, result: Result<Upload, Refusal>, now: Instant) {
        let upload = match result {
            Ok(upload) => upload,
            Err(refusal) => return self.give_up(id, refusal, now),
        };
        let Some(Slot {
            errand: Some(errand),
            ..
        }) = self.table.get_mut(id)
        else {
            return;
        };
        let receiver = Receiver::request(errand.patience, now);
        self.ask_server(
            id,
            Transfer::Receive(Box::new(receiver)),
            Flow::In(Box::new(Inflow::new(upload))),
            now,
        );
    }

    fn ask_server(&mut self, id: SlotId, transfer: Transfer, flow: Flow, now: Instant) {
        let Some(Slot {
            errand: Some(errand),
            operation,
            mode,
            ..
        }) = self.table.get_mut(id)
        else {
            return;
        };
        let opcode = if *operation == Operation::Read {
            Opcode::Rrq
        } else {
            Opcode::Wrq
        };
        let mut buffer = [0; config::REQUEST_OCTETS_MAX];
        let written = wire::write_request(&mut buffer, opcode, &errand.remote, *mode).and_then(
            |mut writer| {
                negotiate::ask(&errand.wanted, errand.order, &mut writer)?;
                Ok(writer.len())
            },
        );
        match written {
            Ok(len) => self.begin(id, transfer, flow, &buffer[..len], now),
            Err(_) => self.fail(id, ErrorCode::ILLEGAL, "the name is too long", now),
        }
    }

    /// Handles an OACK from the server.
    pub(super) fn agreed(&mut self, id: SlotId, options: Options<'_>, now: Instant) {
        let Some(Slot {
            errand: Some(errand),
            stage: Stage::Running(transfer, flow),
            mode,
            socket,
            path,
            started,
            ..
        }) = self.table.get_mut(id)
        else {
            return;
        };
        errand.oack.get_or_insert(now - *started);
        let probe = errand.manner == Manner::Probe;
        let accepted = match negotiate::accept(options, &errand.wanted) {
            Ok(accepted) => accepted,
            // RFC 2347: a client that cannot accept the acknowledged options sends ERROR 8.
            Err(error) => return self.fail(id, ErrorCode::OPTIONS, &error.to_string(), now),
        };
        if probe {
            let (socket, path) = (*socket, *path);
            let text = "User aborted the transfer";
            self.send_error(socket, &path, ErrorCode::OPTIONS, text);
            return self.finish(id, Outcome::Probed, now);
        }
        match (transfer, flow) {
            (Transfer::Send(sender), Flow::Out(out)) => {
                sender.agree(accepted.params, out.body.len(), now)
            }
            (Transfer::Receive(receiver), flow) => {
                if !receiver.is_validated() {
                    if let Flow::Check(check) = flow {
                        check.agree(accepted.params.blksize());
                    }
                    // A text file's length on the wire differs from its length here.
                    errand.announced = accepted.tsize.filter(|_| *mode == Mode::Octet);
                }
                receiver.agree(accepted.params, now);
            }
            _ => {}
        }
        self.settle(id, now);
    }

    /// Whether a packet comes from the transfer's peer. The first answer from the server's address sets the
    /// port that it continues with (RFC 1350 §4).
    pub(super) fn belongs(
        &mut self,
        id: SlotId,
        datagram: &Datagram<'_>,
        packet: &Packet<'_>,
    ) -> bool {
        let Some(slot) = self.table.get_mut(id) else {
            return false;
        };
        let peer = datagram.path.peer;
        let Some(errand) = &mut slot.errand else {
            return slot.path.peer == peer;
        };
        if errand.answered {
            return slot.path.peer == peer;
        }
        let answers = match (slot.operation, packet) {
            (_, Packet::Oack(_) | Packet::Error { .. }) => true,
            (Operation::Read, Packet::Data { block, .. }) => block.0 == 1,
            (Operation::Write, Packet::Ack { block }) => block.0 == 0,
            _ => false,
        };
        let from_server = peer.ip().to_canonical() == errand.server.to_canonical();
        if from_server && answers {
            errand.answered = true;
            slot.path.peer = peer;
        }
        // A packet that is no answer is ignored, but its sender may still answer: ERROR 5 would prevent that.
        from_server
    }

    /// Whether the transfers of a socket are distinguished by this end's address.
    fn is_by_address(&self, socket: SocketId) -> bool {
        let purpose = self.sockets.get(&socket);
        matches!(purpose, Some(Purpose::Shared { by_address: true }))
    }
}
