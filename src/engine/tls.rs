//! TLS on one core: who has it, what is half received, and when handshakes get their turn.
//!
//! A [`Side`] stands beside the slot of each connection within TLS. What came is opened in the lease and
//! goes the way of plain bytes; what waits is sealed into a buffer of the pool when it is flushed. The
//! contract: nothing is sealed twice, and nothing but a close_notify or an alert is sealed last.
//!
//! Without the feature `tls` the file `tls_off.rs` stands in, where nobody has TLS.

use super::common::Common;
use super::outbound::ConnectError;
use super::party::Party;
use super::pool::Pool;
use super::queue::Queue;
use super::receive::Outcome;
use super::slot::{Flags, Phase, Slot};
use super::{Core, clock};
use crate::config::Limits;
use crate::driver::{Driver, SendBuf, Token};
use crate::handler::{ClientRequest, CloseReason, Handler};
use crate::http::Response;
use crate::tls::{
    Connection, MAX_HANDSHAKE_BYTES, MAX_RECORD_BYTES, MAX_RECORD_OVERHEAD_BYTES, Opened, Shaken, TlsConfig,
    TlsFailure, TlsInfo,
};
use crate::ws::State;
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Plaintext sealed at a time: what waits behind stays as it is, shared if it is shared.
const MAX_SEALED_BYTES: usize = 256 << 10;
/// A record for a peer that heard nothing for a while: it can be opened when one segment has come.
const SMALL_RECORD_BYTES: usize = 1_400;
/// Bytes sent in small records after a silence: about what a fresh congestion window lets through.
const SMALL_RECORDS_FOR_BYTES: usize = 16 << 10;
/// From so many waiting bytes on throughput counts.
const LONG_OUTBOX_BYTES: usize = 64 << 10;
/// A silence, after which records are small again.
const SILENCE_MS: u32 = 1_000;

/// The TLS of each listener, where it has one; shards and listeners in the driver's order.
pub type Listeners = Vec<Option<TlsConfig>>;

/// A client's end that is to get a slot.
pub(super) type Prepared = Option<Box<Side>>;

/// What a connection within TLS has beside its slot.
#[derive(Debug)]
pub(super) struct Side {
    connection: Connection,
    /// What came and is not a whole record, or waits for its turn of the handshake.
    kept: Vec<u8>,
    /// Messages of TLS itself, to be sent as they are.
    out: Vec<u8>,
    /// Until the handler has seen it.
    info: Option<Box<TlsInfo>>,
    /// What the last record tells.
    failure: Option<Box<TlsFailure>>,
    /// Tick of the last sealing, and bytes since the silence before.
    sealed_at: u32,
    sealed_bytes: u32,
    is_waiting: bool,
    is_ready: bool,
    /// Since it was last looked at for being silent.
    is_used: bool,
    /// The last record has been sealed.
    is_ended: bool,
    /// The peer's last record came.
    is_closed: bool,
}

/// All TLS of one core.
#[derive(Debug, Default)]
pub struct Secures {
    listeners: Listeners,
    /// By slot.
    sides: Vec<Option<Box<Side>>>,
    /// Handshakes to be gone on with.
    waiting: VecDeque<Token>,
    /// Slots of those whose keys stand ready, and some that have ended.
    ready: VecDeque<u32>,
    max_ready: usize,
    shaking: u32,
    open: u32,
}

impl Side {
    fn new(connection: Connection, out: Vec<u8>) -> Box<Self> {
        Box::new(Self {
            connection,
            kept: Vec::new(),
            out,
            info: None,
            failure: None,
            sealed_at: 0,
            sealed_bytes: u32::MAX,
            is_waiting: false,
            is_ready: false,
            is_used: false,
            is_ended: false,
            is_closed: false,
        })
    }

    /// Plaintext for the next record. Small ones reach a peer sooner, large ones cost less.
    fn record_bytes(&mut self, tick: u32, waiting: usize) -> usize {
        let silence = tick.wrapping_sub(self.sealed_at);
        self.sealed_at = tick;
        if silence > clock::ticks(SILENCE_MS) || self.sealed_bytes == u32::MAX {
            self.sealed_bytes = 0;
        }
        let fresh = (self.sealed_bytes as usize) < SMALL_RECORDS_FOR_BYTES;
        self.sealed_bytes = self.sealed_bytes.saturating_add(waiting as u32).min(u32::MAX - 1);
        if fresh && waiting < LONG_OUTBOX_BYTES { SMALL_RECORD_BYTES } else { MAX_RECORD_BYTES }
    }

    /// Whether there is something to send that no queue knows of.
    fn owes(&self, finishing: bool) -> bool {
        !self.out.is_empty()
            || self.connection.owes()
            || (finishing && !self.is_ended && self.connection.is_open())
    }

    fn keep(&mut self, pool: &mut Pool, bytes: &[u8]) {
        if self.kept.capacity() == 0 {
            self.kept = pool.take(bytes.len());
        }
        pool.make_room(&mut self.kept, bytes.len());
        self.kept.extend_from_slice(bytes);
    }
}

impl Secures {
    /// For these listeners.
    pub fn new(listeners: Listeners, limits: &Limits) -> Self {
        Self { listeners, max_ready: limits.max_tls_ready.max(1) as usize, ..Self::default() }
    }

    /// Whether connections of this listener begin with a handshake.
    pub(super) fn is_on(&self, listener: u32) -> bool {
        matches!(self.listeners.get(listener as usize), Some(Some(_)))
    }

    /// Handshakes under way.
    pub(super) fn shaking(&self) -> u32 {
        self.shaking
    }

    /// Whether a handshake waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Connections whose handshake is done, and those whose keys stand ready.
    pub(super) fn gauges(&self) -> (u32, usize) {
        (self.open, self.ready.len())
    }

    /// What the handshake found out, as long as it is of interest.
    pub fn info(&self, slot: u32) -> Option<&TlsInfo> {
        self.sides.get(slot as usize)?.as_ref()?.info.as_deref()
    }

    /// The connection's own record, if it is within TLS.
    fn side(&mut self, slot: u32) -> Option<&mut Side> {
        self.sides.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Forgets what the handler has seen.
    pub(super) fn opened(&mut self, slot: u32) {
        if let Some(side) = self.side(slot) {
            side.info = None;
        }
    }

    /// Begins a server's end.
    pub(super) fn accept(&mut self, slot: u32, listener: u32) {
        if let Some(Some(config)) = self.listeners.get(listener as usize) {
            let side = Side::new(Connection::server(config), Vec::new());
            self.adopt(slot, side);
        }
    }

    /// Prepares a client's end, if the request asks for TLS.
    pub(super) fn prepare(
        &mut self,
        request: &ClientRequest,
        to: SocketAddr,
    ) -> Result<Prepared, ConnectError> {
        let Some(tls) = &request.tls else { return Ok(None) };
        let host = request.host.rsplit_once(':').map_or(&*request.host, |(host, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { &request.host }
        });
        let name = match host.trim_start_matches('[').trim_end_matches(']') {
            "" => Ok(ServerName::from(to.ip())),
            host => ServerName::try_from(host.to_owned()),
        };
        let name = name.map_err(|_| {
            ConnectError::Tls(TlsFailure::Handshake(format!(
                "`{host}` is no host that a certificate could name"
            )))
        })?;
        let mut out = Vec::new();
        let connection = Connection::client(tls, name, &mut out).map_err(ConnectError::Tls)?;
        Ok(Some(Side::new(connection, out)))
    }

    fn adopt(&mut self, slot: u32, side: Box<Side>) {
        let index = slot as usize;
        if self.sides.len() <= index {
            self.sides.resize_with(index + 1, || None);
        }
        self.shaking += 1;
        self.sides[index] = Some(side);
    }

    /// Forgets a connection that has ended.
    pub(super) fn remove(&mut self, slot: u32, pool: &mut Pool) {
        let Some(side) = self.sides.get_mut(slot as usize).and_then(Option::take) else { return };
        match side.info_stage() {
            Counted::Shaking => self.shaking -= 1,
            Counted::Open => self.open -= 1,
            Counted::No => {}
        }
        pool.give(side.kept);
        pool.give(side.out);
    }

    /// Whether the connection is to be flushed though nothing is queued.
    pub(super) fn owes(&self, slot: &Slot, token: Token) -> bool {
        slot.flags.has(Flags::TLS)
            && self.sides[token.slot as usize]
                .as_ref()
                .is_some_and(|side| side.owes(slot.phase == Phase::Finishing))
    }

    /// Whether nothing has told the peer yet that this is the end.
    pub(super) fn owes_last(&mut self, slot: u32) -> bool {
        self.side(slot).is_some_and(|side| side.owes(true))
    }

    /// Opens what is whole from `at` on, up to the next data.
    #[inline]
    fn open(&mut self, slot: u32, input: &mut [u8], at: &mut usize) -> Result<Opened, TlsFailure> {
        let Some(side) = self.sides.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
            return Err(TlsFailure::Internal);
        };
        let opened = side.connection.open(input, at, &mut side.out);
        side.is_used = true;
        if !side.is_ready {
            self.make_ready(slot);
        }
        opened
    }

    /// Appends to `out` what may be sent now: at most [`MAX_SEALED_BYTES`] of the queue, and at the end of
    /// all the last record. Tells how many bytes of the queue that were.
    fn fill(
        &mut self,
        token: Token,
        queue: Option<&mut Queue>,
        pool: &mut Pool,
        tick: u32,
        finishing: bool,
    ) -> Result<(Vec<u8>, usize), TlsFailure> {
        let Some(side) = self.sides.get_mut(token.slot as usize).and_then(Option::as_deref_mut) else {
            return Err(TlsFailure::Internal);
        };
        let mut out = std::mem::take(&mut side.out);
        if !side.connection.is_open() {
            return Ok((out, 0));
        }
        let waiting = queue.as_ref().map_or(0, |queue| queue.bytes());
        let sealed_bytes = waiting.min(MAX_SEALED_BYTES);
        let record_bytes = side.record_bytes(tick, waiting);
        let records = 2 + sealed_bytes / record_bytes;
        if out.capacity() == 0 {
            out = pool.take(sealed_bytes + records * MAX_RECORD_OVERHEAD_BYTES);
        }
        out.reserve(sealed_bytes + records * MAX_RECORD_OVERHEAD_BYTES);
        side.connection.pay(&mut out)?;
        let mut left = sealed_bytes;
        if let Some(queue) = queue {
            while left > 0
                && let Some(front) = queue.front(pool)
            {
                let bytes = front.len().min(left);
                side.connection.seal(&front[..bytes], record_bytes, &mut out)?;
                queue.advance(pool, bytes);
                left -= bytes;
            }
        }
        if finishing && waiting == sealed_bytes && !side.is_ended {
            side.connection.seal_end(side.failure.as_deref(), &mut out);
            side.is_ended = true;
        }
        side.is_used = true;
        if !side.is_ready && sealed_bytes > 0 {
            self.make_ready(token.slot);
        }
        Ok((out, sealed_bytes))
    }

    /// Counts a connection among those whose keys stand ready, and sets aside those of one that was
    /// silent since it was last looked at (the second chance, or CLOCK, algorithm).
    #[cold]
    fn make_ready(&mut self, slot: u32) {
        if let Some(side) = self.side(slot) {
            side.is_ready = true;
        }
        self.ready.push_back(slot);
        while self.ready.len() > self.max_ready {
            let Some(oldest) = self.ready.pop_front() else { return };
            match self.side(oldest) {
                Some(side) if side.is_ready && side.is_used => {
                    side.is_used = false;
                    self.ready.push_back(oldest);
                }
                Some(side) if side.is_ready => {
                    side.is_ready = false;
                    side.connection.cool();
                }
                _ => {}
            }
        }
    }

    /// Whether sides are where slots say they are, and counted.
    pub(super) fn audit<'a>(&self, slots: impl Iterator<Item = (Token, &'a Slot)>) -> Result<(), String> {
        let mut sides = 0;
        for (token, slot) in slots {
            let has = self.sides.get(token.slot as usize).is_some_and(Option::is_some);
            if has != slot.flags.has(Flags::TLS) {
                return Err(format!("{token:?}: a side for TLS: {has}"));
            }
            sides += usize::from(has);
        }
        let kept: Vec<&Side> = self.sides.iter().flatten().map(|side| &**side).collect();
        let shaking = kept.iter().filter(|side| side.info_stage() == Counted::Shaking).count();
        let open = kept.iter().filter(|side| side.info_stage() == Counted::Open).count();
        if (kept.len(), shaking, open) != (sides, self.shaking as usize, self.open as usize) {
            return Err(format!(
                "{} sides of TLS, {shaking} in handshakes, {open} open; {self:?}",
                kept.len()
            ));
        }
        Ok(())
    }
}

/// Which gauge a side is counted in.
#[derive(Debug, PartialEq, Eq)]
enum Counted {
    Shaking,
    Open,
    No,
}

impl Side {
    fn info_stage(&self) -> Counted {
        match (self.connection.is_shaking(), self.connection.is_open()) {
            (true, _) => Counted::Shaking,
            (_, true) => Counted::Open,
            _ => Counted::No,
        }
    }
}

impl Common {
    /// Gives a slot the client's end that was prepared for it.
    pub(super) fn secure(&mut self, slot: &mut Slot, token: Token, side: Prepared) {
        if let Some(side) = side {
            slot.flags.set(Flags::TLS);
            self.tls.adopt(token.slot, side);
            self.mark_dirty(slot, token);
        }
    }
}

impl<H: Handler> Party<'_, H> {
    /// Takes bytes of a connection within TLS.
    pub fn take_sealed(&mut self, input: &mut [u8]) -> Outcome {
        if matches!(self.slot.phase, Phase::Finishing | Phase::Lingering | Phase::Closing) {
            return Outcome::Continue;
        }
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Abort };
        if side.connection.is_shaking() {
            side.keep(pool, input);
            if side.kept.len() > MAX_HANDSHAKE_BYTES {
                side.connection.abandon(&mut side.out);
                tls.shaking -= 1;
                return self
                    .fail_tls(TlsFailure::Handshake("the peer sends more than a handshake".to_owned()));
            }
            if !std::mem::replace(&mut side.is_waiting, true) {
                tls.waiting.push_back(self.token);
            }
            return Outcome::Continue;
        }
        let mut at = 0;
        if !side.kept.is_empty() {
            let mut kept = std::mem::take(&mut side.kept);
            let whole = complete(&mut kept, pool, input, &mut at);
            if !whole {
                side.kept = kept;
                return Outcome::Continue;
            }
            let outcome = self.take_records(&mut kept);
            self.common.pool.give(kept);
            if !matches!(outcome, Outcome::Continue) {
                return outcome;
            }
        }
        self.take_records(&mut input[at..])
    }

    /// Opens records and goes on with what they hold. What is not a whole record is kept.
    fn take_records(&mut self, input: &mut [u8]) -> Outcome {
        let mut at = 0;
        loop {
            match self.common.tls.open(self.token.slot, input, &mut at) {
                Ok(Opened::Data(range)) => {
                    let outcome = self.take(&mut input[range]);
                    if !matches!(outcome, Outcome::Continue) {
                        return outcome;
                    }
                }
                Ok(Opened::Wait) => break,
                Ok(Opened::Closed) => {
                    if let Some(side) = self.common.tls.side(self.token.slot) {
                        side.is_closed = true;
                    }
                    return Outcome::PeerClosed;
                }
                Err(failure) => return self.fail_tls(failure),
            }
        }
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Abort };
        if at < input.len() {
            side.keep(pool, &input[at..]);
        }
        if side.owes(false) {
            self.common.mark_dirty(self.slot, self.token);
        }
        Outcome::Continue
    }

    /// Takes the next step of a handshake.
    fn shake(&mut self) -> Outcome {
        if !matches!(self.slot.phase, Phase::Securing | Phase::Connecting) {
            return Outcome::Continue;
        }
        let Common { tls, pool, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Continue };
        side.is_waiting = false;
        let (mut kept, mut used) = (std::mem::take(&mut side.kept), 0);
        if side.out.capacity() == 0 {
            side.out = pool.take(4 << 10);
        }
        let shaken = side.connection.shake(&mut kept, &mut used, &mut side.out);
        if side.out.is_empty() {
            pool.give(std::mem::take(&mut side.out));
        } else {
            self.common.mark_dirty(self.slot, self.token);
        }
        match shaken {
            Ok(Shaken::Wait) => {
                kept.drain(..used);
                match self.common.tls.side(self.token.slot) {
                    Some(side) if !kept.is_empty() => side.kept = kept,
                    _ => self.common.pool.give(kept),
                }
                Outcome::Continue
            }
            Ok(Shaken::Done(info, mut early)) => {
                self.shaken(info);
                let mut outcome = Outcome::Continue;
                if !early.is_empty() {
                    outcome = self.take(&mut early);
                }
                if matches!(outcome, Outcome::Continue) {
                    outcome = self.take_records(&mut kept[used..]);
                }
                self.common.pool.give(kept);
                outcome
            }
            Err(TlsFailure::PlainHttp) => {
                self.common.pool.give(kept);
                self.answer_plain_http()
            }
            Err(failure) => {
                self.common.pool.give(kept);
                self.common.tls.shaking -= 1;
                self.fail_tls(failure)
            }
        }
    }

    /// The handshake is done: HTTP begins.
    fn shaken(&mut self, info: Box<TlsInfo>) {
        let Common { tls, stats, tick, .. } = &mut *self.common;
        tls.shaking -= 1;
        tls.open += 1;
        stats.tls_handshakes.add(1);
        stats.tls_resumed.add(info.is_resumed().into());
        if self.slot.phase == Phase::Securing {
            self.slot.phase = Phase::Head;
            self.slot.since = *tick;
            if let Some(side) = tls.side(self.token.slot) {
                side.info = Some(info);
            }
        }
        // A client's request waits.
        self.common.mark_dirty(self.slot, self.token);
    }

    /// Who speaks HTTP to a port for TLS is told so in HTTP.
    fn answer_plain_http(&mut self) -> Outcome {
        let Common { tls, pool, stats, .. } = &mut *self.common;
        stats.tls_plain_http.add(1);
        tls.shaking -= 1;
        tls.remove(self.token.slot, pool);
        self.slot.flags.take(Flags::TLS);
        self.slot.phase = Phase::Head;
        self.refuse(Response::text(400, "This port speaks TLS: use https:// or wss://.\n"));
        Outcome::Ended
    }

    /// TLS has failed: the peer is told by an alert, after what was sent before.
    #[cold]
    fn fail_tls(&mut self, failure: TlsFailure) -> Outcome {
        let Common { tls, pool, works, stats, outbox_bytes, .. } = &mut *self.common;
        let Some(side) = tls.side(self.token.slot) else { return Outcome::Abort };
        side.failure = Some(Box::new(failure.clone()));
        match &failure {
            _ if matches!(self.slot.phase, Phase::Securing | Phase::Connecting) => stats.tls_failures.add(1),
            TlsFailure::Record(_) => stats.tls_bad_records.add(1),
            _ => {}
        }
        if !side.connection.is_open()
            && let Some(work) = works.get_mut(self.slot.work as usize)
        {
            // A request that cannot be sent any more.
            *outbox_bytes -= work.queue.bytes();
            std::mem::take(&mut work.queue).dismantle(pool);
            work.handshake = None;
        }
        if self.slot.phase == Phase::Connecting
            && let Some(state) = self.state.take()
        {
            self.handler.connect_failed(state, ConnectError::Tls(failure));
        }
        self.tell_close(CloseReason::Disconnected);
        self.finishing();
        Outcome::Ended
    }
}

/// Appends to what is kept of a record what it lacks. False if `input` did not have it all.
fn complete(kept: &mut Vec<u8>, pool: &mut Pool, input: &[u8], at: &mut usize) -> bool {
    loop {
        let missing = Connection::missing_bytes(kept);
        if missing == 0 {
            return true;
        }
        let taken = missing.min(input.len() - *at);
        pool.make_room(kept, missing);
        kept.extend_from_slice(&input[*at..*at + taken]);
        *at += taken;
        if taken < missing {
            return false;
        }
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Goes on with as many handshakes as one turn may.
    pub(super) fn progress_handshakes(&mut self) {
        for _ in 0..self.common.limits.max_tls_handshakes_per_turn.max(1) {
            let Some(token) = self.common.tls.waiting.pop_front() else { return };
            let Some(mut party) = self.party(token) else { continue };
            let outcome = party.shake();
            let ended_meanwhile = party.slot.flags.has(Flags::EOF);
            self.after_received(token, outcome);
            if ended_meanwhile {
                self.on_eof(token);
            }
            self.arm_for_state(token);
        }
    }

    /// Whether the end of the peer's bytes must wait, as its handshake does.
    pub(super) fn eof_waits(&mut self, token: Token) -> bool {
        self.common.tls.side(token.slot).is_some_and(|side| side.is_waiting)
    }

    /// Counts an end without close_notify: data may have been cut off on the way (RFC 8446 §6.1).
    pub(super) fn count_truncation(&mut self, token: Token) {
        let Common { tls, stats, .. } = &mut self.common;
        if tls.side(token.slot).is_some_and(|side| side.connection.is_open() && !side.is_closed) {
            stats.tls_truncations.add(1);
        }
    }

    /// Seals what is queued, and hands it to the driver.
    pub(super) fn flush_sealed(&mut self, token: Token) {
        let Some((slot, _)) = self.table.get(token) else { return };
        let (phase, tick) = (slot.phase, self.common.tick);
        let Common { tls, works, pool, .. } = &mut self.common;
        let mut work = works.get_mut(slot.work as usize);
        if phase == Phase::Closing || work.as_ref().is_some_and(|work| work.in_flight > 0) {
            return;
        }
        let queue = work.as_mut().map(|work| &mut work.queue);
        let filled = tls.fill(token, queue, pool, tick, phase == Phase::Finishing);
        let Ok((out, sealed_bytes)) = filled else { return self.abort(token, CloseReason::Disconnected) };
        if out.is_empty() {
            pool.give(out);
            let shaking = tls.side(token.slot).is_some_and(|side| side.connection.is_shaking());
            return if !shaking {
                self.all_sent(token)
            };
        }
        self.common.outbox_bytes += out.len();
        self.common.outbox_bytes -= sealed_bytes;
        let work = self.common.work(slot);
        work.in_flight = out.len();
        work.pongs = 0;
        work.write_since = tick;
        let is_last = work.queue.bytes() == 0
            && !slot.flags.has(Flags::WANTS_DRAIN)
            && !slot.flags.has(Flags::PAUSED)
            && phase == Phase::Open
            && slot.session.state() == State::Open;
        let unawaited = is_last && out.len() < self.common.limits.pause_receive_bytes as usize;
        self.sent.push(token);
        if unawaited {
            self.driver.send_unawaited(token, SendBuf::Owned(out));
        } else {
            self.driver.send(token, SendBuf::Owned(out));
        }
        self.unawaited |= unawaited;
    }
}
