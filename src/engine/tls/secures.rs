//! Who has TLS on one core, and what each connection has for it beside its slot.
//!
//! Knows slots, pools and queues, but neither handler nor driver. The contract: the counts of handshakes and
//! of open connections are those of the sides that are kept.

use super::super::clock;
use super::super::outbound::ConnectError;
use super::super::pool::Pool;
use super::super::queue::Queue;
use super::super::slot::{Flags, Phase, Slot};
use super::helpers::{Helpers, MAX_AWAY};
use crate::config::Limits;
use crate::driver::Token;
use crate::handler::ClientRequest;
use crate::tls::{
    Connection, KernelTls, MAX_RECORD_BYTES, MAX_RECORD_OVERHEAD_BYTES, Opened, TlsConfig, TlsFailure,
    TlsInfo,
};
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Plaintext sealed at a time: what waits behind stays as it is, shared if it is shared.
const MAX_SEALED_BYTES: usize = 256 << 10;
/// Room for all that and what its records add.
const LONG_ROOM_BYTES: usize = MAX_SEALED_BYTES + MAX_SEALED_BYTES / 32;
/// A record for a peer that heard nothing for a while: it can be opened when one segment has come.
const SMALL_RECORD_BYTES: usize = 1_400;
/// Bytes sent in small records after a silence: about what a fresh congestion window lets through.
const SMALL_RECORDS_FOR_BYTES: usize = 16 << 10;
/// From so many waiting bytes on throughput counts.
const LONG_OUTBOX_BYTES: usize = 64 << 10;
/// What rustls keeps of a connection whose handshake is done, and while it is under way, and what
/// aws-lc derives from its keys: as it was measured (rustls 0.23, x86-64).
const SCHEDULE_BYTES: usize = 800;
const SHAKING_BYTES: usize = 10 << 10;
const READY_BYTES: usize = 1_280;
/// A silence, after which records are small again.
const SILENCE_MS: u32 = 1_000;

/// The TLS of each listener, where it has one; shards and listeners in the driver's order.
pub type Listeners = Vec<Option<TlsConfig>>;

/// What the listener in this place wants of the kernel: nothing (`None`), TLS, or TLS and nothing less.
pub fn kernel_wish(listeners: &Listeners, index: usize) -> Option<bool> {
    match listeners.get(index)?.as_ref()?.kernel() {
        KernelTls::Off => None,
        wish => Some(wish == KernelTls::Required),
    }
}

/// A client's end that is to get a slot.
pub(in crate::engine) type Prepared = Option<Box<Side>>;

/// What a connection within TLS has beside its slot.
#[derive(Debug)]
pub(in crate::engine) struct Side {
    pub(super) connection: Connection,
    /// What came and is not a whole record, or waits for its turn of the handshake.
    pub(super) kept: Vec<u8>,
    /// Messages of TLS itself, to be sent as they are.
    pub(super) out: Vec<u8>,
    /// Until the handler has seen it.
    pub(super) info: Option<Box<TlsInfo>>,
    /// What the last record tells.
    pub(super) failure: Option<Box<TlsFailure>>,
    /// Tick of the last sealing, and bytes since the silence before.
    sealed_at: u32,
    sealed_bytes: u32,
    pub(super) is_waiting: bool,
    is_ready: bool,
    /// Capacity of what a helper has of `kept`.
    pub(super) away_bytes: u32,
    /// Capacity of both that is in the books.
    counted_bytes: u32,
    /// Since it was last looked at for being silent.
    is_used: bool,
    /// The last record has been sealed.
    is_ended: bool,
    /// The peer's last record came.
    pub(super) is_closed: bool,
    pub(super) kernel: Kernel,
    /// Records that the kernel may have sealed, at most.
    pub(super) kernel_records: u32,
}

/// What the kernel does of a connection's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Nothing, now and later.
    Nothing,
    /// Nothing yet.
    Asked,
    /// It seals. So often it may still be asked to open as well.
    Seals(u8),
    /// Both.
    All,
}

/// All TLS of one core.
#[derive(Debug, Default)]
pub struct Secures {
    listeners: Listeners,
    /// By slot.
    sides: Vec<Option<Box<Side>>>,
    /// Handshakes to be gone on with.
    pub(super) waiting: VecDeque<Token>,
    /// Slots of those whose keys stand ready, and some that have ended.
    ready: VecDeque<u32>,
    max_ready: usize,
    pub(super) shaking: u32,
    pub(super) open: u32,
    /// Capacity of what is kept, of all.
    kept_bytes: usize,
    /// The kernel has no TLS: it is not asked again.
    pub(super) kernel_has_none: bool,
    pub(super) helpers: Helpers,
    /// Steps that these have, those of connections that have ended included.
    pub(super) away: u32,
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
            away_bytes: 0,
            counted_bytes: 0,
            is_used: false,
            is_ended: false,
            is_closed: false,
            kernel: Kernel::Nothing,
            kernel_records: 0,
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
    pub(super) fn owes(&self, finishing: bool) -> bool {
        !self.out.is_empty()
            || self.connection.owes()
            || (finishing && !self.is_ended && self.connection.is_open())
    }

    /// Whether this is the moment for the last record, which comes once.
    pub(super) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.is_ended, true)
    }

    fn kept_capacity(&self) -> usize {
        self.kept.capacity() + self.away_bytes as usize
    }

    pub(super) fn keep(&mut self, pool: &mut Pool, bytes: &[u8]) {
        if self.kept.capacity() == 0 {
            self.kept = pool.take(bytes.len());
        }
        pool.make_room(&mut self.kept, bytes.len());
        self.kept.extend_from_slice(bytes);
    }
}

impl Secures {
    /// For these listeners.
    pub fn new(listeners: Listeners, helpers: Helpers, limits: &Limits) -> Self {
        Self { listeners, helpers, max_ready: limits.max_tls_ready.max(1) as usize, ..Self::default() }
    }

    /// Whether connections of this listener begin with a handshake.
    pub(in crate::engine) fn is_on(&self, listener: u32) -> bool {
        matches!(self.listeners.get(listener as usize), Some(Some(_)))
    }

    /// Handshakes under way.
    pub(in crate::engine) fn shaking(&self) -> u32 {
        self.shaking
    }

    /// Whether a handshake waits for its turn, and not for a helper.
    pub(in crate::engine) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.away < MAX_AWAY
    }

    /// Whether a step may be taken, or may be through.
    #[inline]
    pub(in crate::engine) fn has_steps(&self) -> bool {
        !self.waiting.is_empty() || matches!(self.helpers, Helpers::Simulated(_))
    }

    /// When a turn is to come for a step that is away.
    pub(in crate::engine) fn next_due(&self) -> Option<Duration> {
        self.helpers.next_due()
    }

    /// Steps of handshakes that helpers have.
    pub(in crate::engine) fn away(&self) -> u32 {
        self.away
    }

    /// Bytes received that are kept: parts of records and of handshakes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// All that is held for TLS. What the libraries hold is counted as it was measured.
    pub(in crate::engine) fn held_bytes(&self) -> usize {
        self.kept_bytes
            + self.sides.capacity() * size_of::<Option<Box<Side>>>()
            + (self.open + self.shaking) as usize * size_of::<Side>()
            + self.open as usize * SCHEDULE_BYTES
            + self.shaking as usize * SHAKING_BYTES
            + self.ready.len() * READY_BYTES
    }

    /// Enters what the connection keeps. To be called when it may have changed.
    #[inline]
    pub(super) fn count_kept(&mut self, slot: u32) {
        if let Some(side) = self.sides.get_mut(slot as usize).and_then(Option::as_deref_mut) {
            let bytes = side.kept_capacity() as u32;
            let before = std::mem::replace(&mut side.counted_bytes, bytes);
            self.kept_bytes = self.kept_bytes - before as usize + side.counted_bytes as usize;
        }
    }

    /// Connections whose handshake is done, and those whose keys stand ready.
    pub(in crate::engine) fn gauges(&self) -> (u32, usize) {
        (self.open, self.ready.len())
    }

    /// What the handshake found out, as long as it is of interest.
    pub fn info(&self, slot: u32) -> Option<&TlsInfo> {
        self.sides.get(slot as usize)?.as_ref()?.info.as_deref()
    }

    /// The connection's own record, if it is within TLS.
    pub(super) fn side(&mut self, slot: u32) -> Option<&mut Side> {
        self.sides.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Whether a helper has the connection.
    pub(super) fn is_lent(&self, slot: u32) -> bool {
        self.sides.get(slot as usize).and_then(Option::as_ref).is_some_and(|side| side.connection.is_lent())
    }

    /// Forgets what the handler has seen.
    pub(in crate::engine) fn opened(&mut self, slot: u32) {
        if let Some(side) = self.side(slot) {
            side.info = None;
        }
    }

    /// Begins a server's end.
    pub(in crate::engine) fn accept(&mut self, slot: u32, listener: u32) {
        if let Some(Some(config)) = self.listeners.get(listener as usize) {
            let mut side = Side::new(Connection::server(config), Vec::new());
            if config.kernel() != KernelTls::Off {
                side.kernel = Kernel::Asked;
            }
            self.adopt(slot, side);
        }
    }

    /// Prepares a client's end, if the request asks for TLS.
    pub(in crate::engine) fn prepare(
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

    pub(super) fn adopt(&mut self, slot: u32, side: Box<Side>) {
        let index = slot as usize;
        if self.sides.len() <= index {
            self.sides.resize_with(index + 1, || None);
        }
        self.shaking += 1;
        self.sides[index] = Some(side);
    }

    /// Forgets a connection that has ended.
    pub(in crate::engine) fn remove(&mut self, slot: u32, pool: &mut Pool) {
        let Some(side) = self.sides.get_mut(slot as usize).and_then(Option::take) else { return };
        match side.counted() {
            Counted::Shaking => self.shaking -= 1,
            Counted::Open => self.open -= 1,
            Counted::No => {}
        }
        self.kept_bytes -= side.counted_bytes as usize;
        pool.give(side.kept);
        pool.give(side.out);
    }

    /// Whether the connection is to be flushed though nothing is queued.
    pub(in crate::engine) fn owes(&self, slot: &Slot, token: Token) -> bool {
        slot.flags.has(Flags::TLS)
            && self.sides[token.slot as usize]
                .as_ref()
                .is_some_and(|side| side.owes(slot.phase == Phase::Finishing))
    }

    /// Whether nothing has told the peer yet that this is the end.
    pub(in crate::engine) fn owes_last(&mut self, slot: u32) -> bool {
        self.side(slot).is_some_and(|side| side.owes(true))
    }

    /// Opens what is whole from `at` on, up to the next data.
    #[inline]
    pub(super) fn open(&mut self, slot: u32, input: &mut [u8], at: &mut usize) -> Result<Opened, TlsFailure> {
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
    pub(super) fn fill(
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
        let (waiting, buffers) = queue.as_ref().map_or((0, 0), |queue| (queue.bytes(), queue.buffers()));
        let sealed_bytes = waiting.min(MAX_SEALED_BYTES);
        let record_bytes = side.record_bytes(tick, waiting);
        // A record ends with its buffer.
        let records = 2 + buffers + sealed_bytes / record_bytes;
        let mut room = sealed_bytes + records * MAX_RECORD_OVERHEAD_BYTES;
        if room > MAX_SEALED_BYTES / 2 {
            // One size for all that is long, or a buffer would be enlarged for each that is a little longer.
            room = room.max(LONG_ROOM_BYTES);
        }
        if out.capacity() == 0 {
            out = pool.take(room);
        }
        pool.make_room(&mut out, room);
        side.connection.pay(&mut out)?;
        let (mut left, begin) = (sealed_bytes, out.len());
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
        debug_assert!(out.len() - begin <= room, "more than there was room for");
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
    pub(in crate::engine) fn audit<'a>(
        &self,
        slots: impl Iterator<Item = (Token, &'a Slot)>,
    ) -> Result<(), String> {
        let mut sides = 0;
        for (token, slot) in slots {
            let has = self.sides.get(token.slot as usize).is_some_and(Option::is_some);
            if has != slot.flags.has(Flags::TLS) {
                return Err(format!("{token:?}: a side for TLS: {has}"));
            }
            sides += usize::from(has);
        }
        let kept: Vec<&Side> = self.sides.iter().flatten().map(|side| &**side).collect();
        let kept_bytes: usize = kept.iter().map(|side| side.kept_capacity()).sum();
        if kept_bytes != self.kept_bytes {
            return Err(format!("{kept_bytes} bytes kept for TLS, counted {}", self.kept_bytes));
        }
        let shaking = kept.iter().filter(|side| side.counted() == Counted::Shaking).count();
        let open = kept.iter().filter(|side| side.counted() == Counted::Open).count();
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
    fn counted(&self) -> Counted {
        match (self.connection.is_shaking(), self.connection.is_open()) {
            (true, _) => Counted::Shaking,
            (_, true) => Counted::Open,
            _ => Counted::No,
        }
    }
}
