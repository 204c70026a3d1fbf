//! The completion driver: one io_uring per thread, everything a turn asks for in one system call.
//!
//! Receiving is one multishot request per connection that talks into buffers that the kernel picks (see
//! `buffers`), and a poll for one that is silent (see `receives`); what the kernel is lent stays in
//! `ring` until it is reaped. This file holds 16 bytes per connection and the rules of what follows which
//! completion. Where few receives are armed, a connection's is cancelled before it is closed; where many are, the
//! connection is torn down by shutdown(2), which costs 8 µs (the kernel leaves it to a worker thread) whatever the
//! count. Cancelling costs 324 µs with a million armed, as the kernel's cancel table has at most 256 buckets.

mod accept;
mod buffers;
mod direct;
mod port;
mod receives;
mod records;
mod ring;
mod sends;
#[cfg(test)]
mod tests;
pub(super) mod trial;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use self::accept::Accepts;
use self::direct::Directs;
pub use self::port::UringSocket;
use self::port::*;
use self::ring::{Completion, Ring};
use self::sends::Source;
use super::alarm::Alarm;
use super::listen::Listener;
use super::tag::{self, pack, unpack};
use super::{
    Driver, DriverConfig, DriverStats, Event, Half, Lease, RecordKeys, SendBuf, Token, WakeTarget, Waker, sys,
};

// Kinds of operations, as their tags name them.
const RECEIVE: u8 = 0;
const SEND: u8 = 1;
const CLOSE_PLAIN: u8 = 2;
const CLOSE_DIRECT: u8 = 3;
/// A shutdown of either kind.
const SHUTDOWN_ANY: u8 = 4;
const CANCEL: u8 = 5;
const ACCEPT: u8 = 6;
const ACCEPT_CANCEL: u8 = 7;
const CONNECT: u8 = 8;
const WAKE: u8 = 9;
/// Close of a socket that was never attached.
const REFUSE_PLAIN: u8 = 10;
const REFUSE_DIRECT: u8 = 11;
const ALARM: u8 = 12;

const NONE: u32 = u32::MAX;
const NO_TOKEN: Token = Token { slot: 0, generation: 0 };

/// Whether messages share receive buffers where the kernel can (Linux 6.12). Measured on 6.18 with
/// 200 connections at once and messages of 20 bytes: 1 to 2 % less CPU per message than a buffer
/// for each, 4 buffers in circulation instead of 64, and none of 2,000 starvations.
const INCREMENTAL_BUFFERS: bool = true;

/// Up to so many armed receives and polls, some 64 in each bucket of the kernel's cancel table, a receive is cancelled.
const MAX_CANCELLABLE: u32 = 16_384;

/// Connections that a drop ends at a time: so many shutdowns wait for the kernel's worker at most.
const ENDS_AT_ONCE: usize = 1_024;

/// A send whose success is not reported must be taken whole at once, which a larger one hardly is.
const UNREPORTED_BYTES: usize = 16 << 10;

/// The io_uring driver. To be made on the thread that runs it, and dropped there.
pub struct Uring {
    ring: Ring,
    ports: Vec<Port>,
    accepts: Accepts,
    directs: Directs,
    /// Wait for a buffer to come back before they receive again (law 5).
    starved: VecDeque<Token>,
    /// Had their share of the turn: what else came for them, for the next turn (law 7).
    deferred: VecDeque<Event<UringSocket>>,
    /// How many of `deferred` belong to this turn.
    replay: usize,
    outcomes: VecDeque<Event<UringSocket>>,
    /// Receives, of any sort, and polls that are armed.
    receiving: u32,
    /// Connections that talk: their receives are multishot.
    talking: u32,
    /// Of the round in which it is looked which of them are silent.
    looks: u32,
    /// An end was asked for that may wait for an unreported send: the next turn does not sleep.
    hurries: bool,
    /// Leases are being sent: their buffers come back with the next turn.
    lends: bool,
    share_unit_bytes: u32,
    waker: Arc<WakeTarget>,
    /// Polled for while it is set.
    alarm: Alarm,
    turn: u8,
    stats: DriverStats,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Uring {
    /// A driver that accepts on `listeners`.
    ///
    /// # Errors
    /// What [`probe`](super::probe) explains, and `ENOMEM` when memory is short.
    pub fn new(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self> {
        let mut ring = Ring::new(
            config.receive_buffers,
            config.receive_buffer_bytes,
            INCREMENTAL_BUFFERS,
            config.shards_per_core,
            config.busy_poll,
        )?;
        let waker = WakeTarget::eventfd()?;
        ring.push_wake(waker.raw_fd(), pack(WAKE, NO_TOKEN));
        let directs = Directs::new(&ring, config.max_connections);
        let accepts = Accepts::new(&mut ring, listeners)?;
        Ok(Self {
            ring,
            ports: super::reserved(config.max_connections),
            accepts,
            directs,
            starved: VecDeque::new(),
            deferred: VecDeque::new(),
            replay: 0,
            outcomes: VecDeque::new(),
            receiving: 0,
            talking: 0,
            looks: 0,
            hurries: false,
            lends: false,
            share_unit_bytes: (config.max_receive_bytes_per_turn / u32::from(SHARE_UNITS)).max(1),
            waker,
            alarm: Alarm::new()?,
            turn: 0,
            stats: DriverStats::default(),
        })
    }

    /// The port of a connection that has not been closed.
    fn live(&mut self, token: Token) -> Option<&mut Port> {
        self.ports
            .get_mut(token.slot as usize)
            .filter(|port| port.generation == token.generation && port.target != NONE && !port.has(CLOSING))
    }

    /// The port whose operation has completed.
    fn owner(&mut self, token: Token) -> Option<&mut Port> {
        self.ports
            .get_mut(token.slot as usize)
            .filter(|port| port.generation == token.generation && port.in_flight > 0)
    }

    fn push_shutdown(&mut self, token: Token, how: i32) {
        let port = &mut self.ports[token.slot as usize];
        port.in_flight += 1;
        self.ring.push_shutdown(port.target(), how, pack(SHUTDOWN_ANY, token));
    }

    /// Closes the descriptor once everything on it has been reaped (law 4).
    fn advance_close(&mut self, token: Token) {
        let port = &mut self.ports[token.slot as usize];
        if !port.has(CLOSING) || port.in_flight > 0 {
            return;
        }
        let target = port.target();
        port.in_flight = 1;
        let kind = match target {
            Target::Direct(_) => CLOSE_DIRECT,
            Target::Plain(_) => {
                // The number may be somebody else's from now on.
                port.target = NONE;
                CLOSE_PLAIN
            }
        };
        self.ring.push_close(target, pack(kind, token));
    }

    fn completed(&mut self, completion: Completion) -> Option<Event<UringSocket>> {
        let (kind, token) = unpack(completion.tag);
        match kind {
            RECEIVE => self.receive_completed(token, completion),
            SEND => self.send_completed(token, completion.result),
            CLOSE_PLAIN | CLOSE_DIRECT => {
                let port = self.owner(token)?;
                if let (CLOSE_DIRECT, Target::Direct(index)) = (kind, port.target()) {
                    self.directs.put(index);
                }
                let port = &mut self.ports[token.slot as usize];
                *port = Port { generation: token.generation, ..Port::VACANT };
                Some(Event::Closed(token))
            }
            SHUTDOWN_ANY => {
                self.owner(token)?.in_flight -= 1;
                self.advance_close(token);
                None
            }
            CANCEL => {
                self.cancel_completed(token, completion.result);
                None
            }
            ACCEPT => self.accept_completed(token.slot, completion.result),
            CONNECT => self.connect_completed(token.slot, completion.result),
            WAKE => {
                self.ring.push_wake(self.waker.raw_fd(), completion.tag);
                self.waker.seen();
                (completion.result >= 0).then_some(Event::Woken)
            }
            REFUSE_DIRECT => {
                self.directs.put(token.slot);
                None
            }
            ALARM => {
                self.alarm.rang();
                None
            }
            _ => None,
        }
    }

    /// Law 7: what goes beyond the connection's share waits for the next turn, in order.
    #[inline(always)] // an event is 56 bytes, which are not to be moved once more
    fn share(&mut self, token: Token, event: Event<UringSocket>) -> Option<Event<UringSocket>> {
        let bytes = if let Event::Received { lease, .. } = &event { lease.len } else { 0 };
        if self.takes_share(token, bytes) {
            return Some(event);
        }
        self.deferred.push_back(event);
        None
    }

    /// Whether the connection has some of its share left, of which `bytes` are taken then.
    #[inline]
    fn takes_share(&mut self, token: Token, bytes: u32) -> bool {
        let port = &mut self.ports[token.slot as usize];
        if port.turn != self.turn {
            (port.turn, port.share) = (self.turn, 0);
        }
        if port.has(DEFERRED) || port.share >= SHARE_UNITS {
            port.flags |= DEFERRED;
            return false;
        }
        // Most come with fewer bytes than a unit: no division for them.
        let unit = self.share_unit_bytes;
        let units = if bytes <= unit { bytes.min(1) } else { bytes.div_ceil(unit) };
        port.share = port.share.saturating_add(units.min(255) as u8);
        true
    }

    /// Hands a deferred event over, unless its connection has been closed in the meantime.
    fn replay(&mut self, event: Event<UringSocket>) -> Option<Event<UringSocket>> {
        let token = match &event {
            Event::Received { token, .. } | Event::Record { token, .. } => *token,
            Event::Eof(token) | Event::Failed { token, .. } => *token,
            _ => return Some(event),
        };
        if self.live(token).is_some() {
            return self.share(token, event);
        }
        if let Event::Received { lease, .. } = event {
            self.release(lease);
        }
        None
    }

    fn reap(&mut self) {
        let ports = &self.ports;
        self.ring.reap(|tag| {
            let (kind, token) = unpack(tag);
            let port = ports.get(token.slot as usize).filter(|port| port.generation == token.generation)?;
            (kind == SEND).then_some(port.send)
        });
    }

    fn start_send(&mut self, token: Token, buf: SendBuf, push: fn(&mut Ring, Target, u32, u64)) {
        debug_assert!(!buf.as_slice().is_empty(), "nothing to send");
        if self.live(token).is_none() {
            return self.not_sent(token, buf, io::ErrorKind::NotConnected);
        }
        let key = self.ring.insert_send(Source::Buf(buf));
        self.push_send(token, key, push);
    }

    fn not_sent(&mut self, token: Token, buf: SendBuf, error: io::ErrorKind) {
        let result = Err(error.into());
        self.outcomes.push_back(Event::Sent { token, buf, result });
    }

    fn push_send(&mut self, token: Token, key: u32, push: fn(&mut Ring, Target, u32, u64)) {
        let port = &mut self.ports[token.slot as usize];
        debug_assert!(port.send == NONE, "a send is in flight");
        port.send = key;
        port.in_flight += 1;
        let push = if port.is_sealed() { Ring::push_send_sealed } else { push };
        push(&mut self.ring, port.target(), port.send, pack(SEND, token));
    }

    /// A send that was not reported: all of it has been taken.
    #[inline]
    fn send_succeeded(&mut self, token: Token, key: u32) -> Event<UringSocket> {
        let port = &mut self.ports[token.slot as usize];
        (port.send, port.in_flight) = (NONE, port.in_flight - 1);
        if port.has(SHUTDOWN | CLOSING) {
            self.after_send(token);
        }
        Event::Sent { token, buf: self.ring.take_send(key), result: Ok(()) }
    }

    /// What waited for the send in flight.
    fn after_send(&mut self, token: Token) {
        if self.ports[token.slot as usize].flags & (SHUTDOWN | CLOSING) == SHUTDOWN {
            self.push_shutdown(token, libc::SHUT_WR);
        }
        self.advance_close(token);
    }

    fn send_completed(&mut self, token: Token, result: i32) -> Option<Event<UringSocket>> {
        let port = self.owner(token)?;
        port.in_flight -= 1;
        let (key, flags, target) = (port.send, port.flags, port.target());
        let done = self.ring.send_completed(key, result.max(0) as usize);
        let outcome = match -result {
            _ if done => Ok(()),
            ..0 | libc::EINTR | libc::EAGAIN if flags & CLOSING == 0 => {
                self.stats.short_writes += 1;
                let port = &mut self.ports[token.slot as usize];
                port.in_flight += 1;
                let push = if port.is_sealed() { Ring::push_rest_sealed } else { Ring::push_send };
                push(&mut self.ring, target, key, pack(SEND, token));
                return None;
            }
            ..=0 => Err(io::ErrorKind::ConnectionAborted.into()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
        self.ports[token.slot as usize].send = NONE;
        self.after_send(token);
        let buf = self.ring.take_send(key);
        Some(Event::Sent { token, buf, result: outcome })
    }

    fn accept_completed(&mut self, key: u32, result: i32) -> Option<Event<UringSocket>> {
        match self.accepts.completed(&mut self.ring, &mut self.directs, key, result) {
            Ok(None) => None,
            Ok(Some((socket, peer))) => {
                Some(Event::Accepted { socket, peer, listener: accept::listener(key) })
            }
            Err(error) => Some(Event::AcceptFailed(error)),
        }
    }

    fn connect_completed(&mut self, key: u32, result: i32) -> Option<Event<UringSocket>> {
        let (socket, tag) = self.ring.take_connect(key)?;
        let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(socket) };
        Some(Event::Connected { tag, result })
    }

    fn close_unattached(&mut self, target: Target) {
        let tag = match target {
            Target::Direct(slot) => pack(REFUSE_DIRECT, Token { slot, ..NO_TOKEN }),
            Target::Plain(_) => pack(REFUSE_PLAIN, NO_TOKEN),
        };
        self.ring.push_close(target, tag);
    }

    fn close_orphans(&mut self) {
        while let Some(index) = self.directs.orphan() {
            self.close_unattached(Target::Direct(index));
        }
    }
}

impl Driver for Uring {
    type Socket = UringSocket;

    const NAME: &'static str = "uring";

    fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.turn = self.turn.wrapping_add(1);
        self.ring.buffers().turn();
        self.close_orphans();
        self.accepts.arm(&mut self.ring, &mut self.directs);
        // Who waits for a buffer does not wait for another event: the end of those sends may be none.
        let hungry = self.feed_starved() || (std::mem::take(&mut self.lends) && !self.starved.is_empty());
        for event in &self.deferred {
            if let Event::Received { token, .. }
            | Event::Record { token, .. }
            | Event::Eof(token)
            | Event::Failed { token, .. } = event
            {
                self.ports[token.slot as usize].flags &= !DEFERRED;
            }
        }
        self.replay = self.deferred.len();
        let pending =
            std::mem::take(&mut self.hurries) || hungry || self.replay > 0 || !self.outcomes.is_empty();
        self.stats.waits += 1;
        let is_polled = self.alarm.is_set();
        let wait = if pending { Some(Duration::ZERO) } else { self.alarm.bound(wait) };
        if self.alarm.is_set() && !is_polled {
            self.ring.push_poll(Target::Plain(self.alarm.raw_fd()), pack(ALARM, NO_TOKEN));
        }
        self.ring.enter(wait)?;
        self.reap();
        self.stats.completion_overflows += u64::from(self.ring.overflowed());
        Ok(())
    }

    fn has_news(&mut self) -> bool {
        let kept = self.deferred.len() + self.outcomes.len() + self.starved.len();
        kept > 0 || self.ring.has_news()
    }

    fn next_event(&mut self) -> Option<Event<UringSocket>> {
        while self.replay > 0 {
            self.replay -= 1;
            let event = self.deferred.pop_front()?;
            if let Some(event) = self.replay(event) {
                return Some(event);
            }
        }
        // First, so that what is received is answered to a connection that sends nothing.
        if let Some((tag, key)) = self.ring.pop_unreported() {
            return Some(self.send_succeeded(unpack(tag).1, key));
        }
        loop {
            if let Some(outcome) = self.outcomes.pop_front() {
                return Some(outcome);
            }
            let completion = self.ring.pop()?;
            if let Some(event) = self.completed(completion) {
                return Some(event);
            }
        }
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        self.ring.buffers().bytes(lease.buffer as u16, lease.offset, lease.len)
    }

    fn release(&mut self, lease: Lease) {
        self.ring.buffers().put(lease.buffer as u16);
    }

    fn attach(&mut self, token: Token, socket: UringSocket) {
        assert!(token.slot < tag::MAX_SLOTS, "slot out of range");
        let slot = token.slot as usize;
        if slot >= self.ports.len() {
            self.ports.resize(slot + 1, Port::VACANT);
        }
        let port = &mut self.ports[slot];
        assert!(port.target == NONE && port.in_flight == 0, "the slot is taken");
        *port = Port { generation: token.generation, target: socket.into_target().pack(), ..Port::VACANT };
        self.receive_once(token);
    }

    fn refuse(&mut self, socket: UringSocket) {
        self.close_unattached(socket.into_target());
    }

    fn send(&mut self, token: Token, buf: SendBuf) {
        self.start_send(token, buf, Ring::push_send);
    }

    fn send_unawaited(&mut self, token: Token, buf: SendBuf) -> Option<SendBuf> {
        let small = buf.as_slice().len() <= UNREPORTED_BYTES;
        self.start_send(token, buf, if small { Ring::push_send_unreported } else { Ring::push_send });
        None
    }

    fn send_lease(&mut self, token: Token, lease: Lease) {
        if self.live(token).is_none() {
            self.release(lease);
            return self.not_sent(token, SendBuf::EMPTY, io::ErrorKind::NotConnected);
        }
        self.lends = true;
        let key = self.ring.insert_send(Source::Lease(lease));
        self.push_send(token, key, Ring::push_send_unreported);
    }

    fn hand_over(&mut self, token: Token, half: Half, keys: &RecordKeys<'_>) -> io::Result<()> {
        self.hand_over_keys(token, half, keys)
    }

    fn send_record(&mut self, token: Token, kind: u8, content: Vec<u8>) {
        self.start_record(token, kind, content);
    }

    fn pause(&mut self, token: Token) {
        let Some(port) = self.live(token) else { return };
        port.flags = (port.flags | PAUSED) & !STARVED;
        if port.flags & (RECEIVING | CANCELLING) == RECEIVING {
            self.cancel_receive(token);
        }
    }

    fn resume(&mut self, token: Token) {
        let Some(port) = self.live(token) else { return };
        port.flags &= !PAUSED;
        self.rearm(token);
    }

    fn shutdown(&mut self, token: Token) {
        let Some(port) = self.live(token).filter(|port| !port.has(SHUTDOWN)) else { return };
        port.flags |= SHUTDOWN;
        if port.send == NONE {
            self.push_shutdown(token, libc::SHUT_WR);
        } else {
            self.hurries = true;
        }
    }

    fn close(&mut self, token: Token) {
        let Some(port) = self.live(token) else { return };
        port.flags |= CLOSING;
        self.hush(token);
        let port = &self.ports[token.slot as usize];
        let (sends, receives) = (port.send != NONE, port.has(RECEIVING));
        let cancelling = port.has(CANCELLING);
        self.hurries |= sends;
        if sends || (receives && self.receiving > MAX_CANCELLABLE) {
            self.push_shutdown(token, libc::SHUT_RDWR);
        } else if receives && !cancelling {
            self.cancel_receive(token);
        }
        self.advance_close(token);
    }

    fn connect(&mut self, to: SocketAddr, source: Option<IpAddr>, tag: u64) {
        match sys::connector(&to, source, false) {
            Ok(fd) => {
                let socket = self.directs.adopt(&self.ring, fd);
                let key = self.ring.insert_connect(socket, to, tag);
                self.ring.push_connect(key, pack(CONNECT, Token { slot: key, generation: 0 }));
            }
            Err(error) => self.outcomes.push_back(Event::Connected { tag, result: Err(error) }),
        }
    }

    fn pause_accept(&mut self) {
        self.accepts.pause(&mut self.ring);
    }

    fn resume_accept(&mut self) {
        self.accepts.resume();
    }

    fn close_listeners(&mut self) {
        self.accepts.close(&mut self.ring);
    }

    fn has_spare(&self) -> bool {
        self.ring.buffers_ref().has_spare() || self.has_talking()
    }

    fn rest_silent(&mut self) {
        self.look_for_silent();
    }

    fn shed(&mut self) {
        self.ring.shed();
    }

    fn waker(&self) -> Waker {
        Waker(self.waker.clone())
    }

    fn stats(&self) -> DriverStats {
        let buffers = self.ring.buffers_ref();
        DriverStats {
            receive_buffers: buffers.resident().into(),
            receive_buffers_low_water: buffers.low_water().into(),
            submissions: self.ring.pushed(),
            leases_out: buffers.leases().into(),
            direct_descriptors: (self.directs.taken() - self.accepts.promised()).into(),
            ..self.stats
        }
    }
}

impl Uring {
    /// Ends every connection as [`Driver::close`] does. One cancel of everything takes the kernel the square of their
    /// number, as it walks past all that it has found to the next (`io_poll_file_find`): 220 s for 100,000.
    fn end_connections(&mut self) {
        self.close_listeners();
        for first in (0..self.ports.len()).step_by(ENDS_AT_ONCE) {
            let slots = first..self.ports.len().min(first + ENDS_AT_ONCE);
            for slot in slots.clone() {
                self.close(Token { slot: slot as u32, generation: self.ports[slot].generation });
            }
            let mut idle_rounds = 0;
            while self.ports[slots.clone()].iter().any(|port| port.in_flight > 0) {
                if idle_rounds == ring::QUIESCE_ROUNDS || self.turn(Some(ring::QUIESCE_ROUND)).is_err() {
                    return;
                }
                idle_rounds += 1;
                while let Some(event) = self.next_event() {
                    if let Event::Closed(_) = event {
                        idle_rounds = 0;
                    }
                }
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.end_connections();
        for port in &self.ports {
            if let (true, Target::Plain(fd)) = (port.target != NONE, port.target()) {
                drop(sys::adopt(fd));
            }
        }
    }
}
