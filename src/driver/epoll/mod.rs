//! The readiness driver: edge-triggered epoll(7) that imitates completions.
//!
//! Fallback where io_uring is denied, and the honest baseline it is measured against. Reads happen
//! one by one inside `next_event`, so that one hot buffer serves a whole turn; a write is tried
//! when it is asked for, and its `Sent` is queued if the call does not tell of it. Nothing is ever in flight inside the kernel, so
//! laws 4 and 6 hold by construction.

mod buffers;
mod sends;

use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use self::buffers::Buffers;
use self::sends::{Sending, Sent};
use super::alarm::Alarm;
use super::listen::Listener;
use super::sys::{self, RecordMessage};
use super::tag::{self, pack, unpack};
use super::{
    Driver, DriverConfig, DriverStats, Event, Half, Lease, RecordKeys, SendBuf, Token, WakeTarget, Waker,
    records,
};

const CONNECTION: u8 = 0;
const LISTENER: u8 = 1;
const CONNECT: u8 = 2;
const WAKE: u8 = 3;
const ALARM: u8 = 4;

/// Readiness reports taken per wait.
const REPORTS: usize = 1_024;
/// Peers accepted per turn and listener; the rest stay in the backlog until the next turn.
const ACCEPTS_PER_TURN: u32 = 64;
/// Events per turn beyond twice the reports. Sends that succeed at once could otherwise keep a
/// turn going for as long as the engine has something to say.
const EVENTS_PER_TURN: usize = 2_048;

const NONE: u32 = u32::MAX;

/// The epoll driver. To be made on the thread that runs it.
pub struct Epoll {
    epoll: OwnedFd,
    reports: Vec<libc::epoll_event>,
    /// Where in `reports` the next is, and how many there are.
    report: (usize, usize),
    ports: Vec<Port>,
    /// Readable, with more to come: one chunk each, in rounds.
    ready: VecDeque<Token>,
    /// Had their share of this turn (law 7).
    later: Vec<Token>,
    /// Readable while no buffer was free (law 5).
    starved: VecDeque<Token>,
    buffers: Buffers,
    chunks_per_turn: u8,
    sends: Slab<Sending>,
    connects: Slab<Connecting>,
    outcomes: VecDeque<Event<EpollSocket>>,
    listeners: Vec<Listening>,
    accepting: bool,
    waker: Arc<WakeTarget>,
    alarm: Alarm,
    /// Low bits of the turn count: dates `Port::chunks`.
    turn: u8,
    events_left: usize,
    /// The last turn only handed over outcomes and did not ask the kernel.
    skipped: bool,
    stats: DriverStats,
}

impl std::fmt::Debug for Epoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Epoll").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A connected socket; dropping it closes it.
#[derive(Debug)]
pub struct EpollSocket(OwnedFd);

/// What the driver holds for a connection.
#[derive(Clone, Copy)]
struct Port {
    generation: u32,
    /// -1 where vacant.
    fd: RawFd,
    /// Index into `sends`, or `NONE`.
    send: u32,
    flags: u16,
    /// Full buffers read in the turn `turn`.
    chunks: u8,
    turn: u8,
}

const _: () = assert!(size_of::<Port>() == 16);

const READABLE: u16 = 1 << 0;
/// The peer's FIN, a reset or an error waits behind the data.
const HANGUP: u16 = 1 << 1;
const PAUSED: u16 = 1 << 2;
/// `Eof` or `Failed` has been told.
const ENDED: u16 = 1 << 3;
/// In `ready`, `later` or `starved`.
const LISTED: u16 = 1 << 4;
/// `EPOLLOUT` is registered. Edge-triggered, it costs nothing once it is.
const WATCHES_OUT: u16 = 1 << 5;
const SHUTDOWN: u16 = 1 << 6;
/// The kernel seals what is sent by TLS.
const SEALED: u16 = 1 << 7;
/// And opens what is received. A short read may end before a record that is not data.
const OPENED: u16 = 1 << 8;

impl Port {
    const VACANT: Self = Self { generation: 0, fd: -1, send: NONE, flags: 0, chunks: 0, turn: 0 };

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

struct Connecting {
    fd: OwnedFd,
    tag: u64,
}

struct Listening {
    listener: Listener,
    /// To be accepted before the kernel is asked again.
    accepts_left: u32,
}

impl Epoll {
    /// A driver that accepts on `listeners`.
    ///
    /// # Errors
    /// As epoll_create1(2), eventfd(2) and epoll_ctl(2) say.
    pub fn new(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self> {
        let epoll = sys::epoll_create()?;
        let waker = WakeTarget::eventfd()?;
        let alarm = Alarm::new()?;
        let edge = (libc::EPOLLIN | libc::EPOLLET) as u32;
        // Edge-triggered: every write, and every time the alarm rings, is a new edge, so that nobody has to read a counter.
        for (fd, kind) in [(waker.raw_fd(), WAKE), (alarm.raw_fd(), ALARM)] {
            let data = pack(kind, Token { slot: 0, generation: 0 });
            sys::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, edge, data)?;
        }
        for (index, listener) in listeners.iter().enumerate() {
            sys::set_nonblocking(listener.as_fd(), true)?;
            let data = pack(LISTENER, Token { slot: index as u32, generation: 0 });
            let fd = listener.as_fd().as_raw_fd();
            sys::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, data)?;
        }
        let chunks = config.max_receive_bytes_per_turn / config.receive_buffer_bytes.max(1);
        Ok(Self {
            epoll,
            reports: vec![libc::epoll_event { events: 0, u64: 0 }; REPORTS],
            report: (0, 0),
            ports: super::reserved(config.max_connections),
            ready: VecDeque::new(),
            later: Vec::new(),
            starved: VecDeque::new(),
            buffers: Buffers::new(config.receive_buffers, config.receive_buffer_bytes),
            chunks_per_turn: chunks.clamp(1, 255) as u8,
            sends: Slab::new(),
            connects: Slab::new(),
            outcomes: VecDeque::new(),
            listeners: listeners
                .into_iter()
                .map(|listener| Listening { listener, accepts_left: 0 })
                .collect(),
            accepting: true,
            waker,
            alarm,
            turn: 0,
            events_left: 0,
            skipped: false,
            stats: DriverStats::default(),
        })
    }

    fn port(&mut self, token: Token) -> Option<&mut Port> {
        self.ports
            .get_mut(token.slot as usize)
            .filter(|port| port.fd >= 0 && port.generation == token.generation)
    }

    /// One readiness report: what it yields at once, if anything.
    fn report(&mut self, events: u32, data: u64) -> Option<Event<EpollSocket>> {
        let (kind, token) = unpack(data);
        match kind {
            CONNECTION => self.connection_ready(token, events as i32),
            LISTENER => {
                if let Some(listening) = self.listeners.get_mut(token.slot as usize) {
                    listening.accepts_left = ACCEPTS_PER_TURN;
                }
                None
            }
            CONNECT => self.connect_ready(token.slot),
            ALARM => {
                self.alarm.rang();
                None
            }
            _ => {
                self.waker.seen();
                Some(Event::Woken)
            }
        }
    }

    fn connection_ready(&mut self, token: Token, events: i32) -> Option<Event<EpollSocket>> {
        let mut port = self.port(token)?;
        if events & (libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP) != 0 && port.send != NONE {
            self.write(token);
            port = self.port(token)?;
        }
        let ended = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
        if events & ended != 0 {
            port.flags |= HANGUP;
        }
        if events & (libc::EPOLLIN | ended) == 0 {
            return None;
        }
        port.flags |= READABLE;
        if port.has(LISTED) { None } else { self.read(token) }
    }

    /// One read(2) into a free buffer. A short one means that the socket is drained, unless its
    /// end has been announced: then that comes next.
    fn read(&mut self, token: Token) -> Option<Event<EpollSocket>> {
        let turn = self.turn;
        let port = self.port(token)?;
        if port.flags & (READABLE | PAUSED | ENDED) != READABLE {
            return None;
        }
        if port.turn != turn {
            (port.turn, port.chunks) = (turn, 0);
        }
        let fd = port.fd;
        let Some(buffer) = self.buffers.take() else {
            self.stats.buffer_starvations += 1;
            self.ports[token.slot as usize].flags |= LISTED;
            self.starved.push_back(token);
            return None;
        };
        let result = loop {
            match sys::recv(fd, self.buffers.bytes(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let full = self.buffers.buffer_bytes();
        let port = &mut self.ports[token.slot as usize];
        match result {
            Ok(0) => {
                port.flags |= ENDED;
                self.buffers.put(buffer);
                Some(Event::Eof(token))
            }
            Ok(len) => {
                if len < full && !port.has(HANGUP | OPENED) {
                    port.flags &= !READABLE;
                } else {
                    port.flags |= LISTED;
                    port.chunks = port.chunks.saturating_add(1);
                    if port.chunks < self.chunks_per_turn {
                        self.ready.push_back(token);
                    } else {
                        self.later.push(token);
                    }
                }
                let lease = Lease { buffer: buffer.into(), offset: 0, len: len as u32 };
                Some(Event::Received { token, lease })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                port.flags &= !READABLE;
                self.buffers.put(buffer);
                None
            }
            Err(error) => {
                self.buffers.put(buffer);
                Some(self.read_failed(token, error))
            }
        }
    }

    /// What a read that failed means.
    #[cold]
    fn read_failed(&mut self, token: Token, error: io::Error) -> Event<EpollSocket> {
        let port = &mut self.ports[token.slot as usize];
        let record = if port.has(OPENED) { records::instead_of(port.fd, error) } else { Err(error) };
        match record {
            Ok((kind, content)) => {
                port.flags |= LISTED;
                self.ready.push_back(token);
                Event::Record { token, kind, content }
            }
            Err(error) => {
                port.flags |= ENDED;
                Event::Failed { token, error }
            }
        }
    }

    fn connect_ready(&mut self, index: u32) -> Option<Event<EpollSocket>> {
        let connecting = self.connects.try_remove(index as usize)?;
        let result = sys::take_error(connecting.fd.as_fd()).and_then(|()| {
            let fd = connecting.fd.as_raw_fd();
            sys::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, 0, 0)
        });
        Some(Event::Connected { tag: connecting.tag, result: result.map(|()| EpollSocket(connecting.fd)) })
    }

    fn accept(&mut self) -> Option<Event<EpollSocket>> {
        if !self.accepting {
            return None;
        }
        for (listener, listening) in (0..).zip(&mut self.listeners) {
            while listening.accepts_left > 0 {
                listening.accepts_left -= 1;
                match sys::accept(listening.listener.as_fd()) {
                    Ok((fd, peer)) => {
                        return Some(Event::Accepted { socket: EpollSocket(fd), peer, listener });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => listening.accepts_left = 0,
                    Err(error) if accept_is_exhausted(&error) => {
                        self.pause_accept();
                        return Some(Event::AcceptFailed(error));
                    }
                    // The peer's trouble (accept(2): ECONNABORTED, EPROTO, ENETDOWN …), already off
                    // the backlog.
                    Err(_) => {}
                }
            }
        }
        None
    }

    fn watch_listeners(&mut self, events: u32) {
        for (index, listening) in self.listeners.iter_mut().enumerate() {
            listening.accepts_left = 0;
            let data = pack(LISTENER, Token { slot: index as u32, generation: 0 });
            let fd = listening.listener.as_fd().as_raw_fd();
            let result = sys::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_MOD, fd, events, data);
            debug_assert!(result.is_ok(), "{result:?}");
        }
    }

    fn try_connect(
        &mut self,
        to: SocketAddr,
        source: Option<IpAddr>,
        tag: u64,
    ) -> io::Result<Option<EpollSocket>> {
        let fd = sys::connector(&to, source, true)?;
        if sys::connect(fd.as_fd(), &sys::RawAddr::of(to))? {
            return Ok(Some(EpollSocket(fd)));
        }
        let entry = self.connects.vacant_entry();
        let data = pack(CONNECT, Token { slot: entry.key() as u32, generation: 0 });
        let events = (libc::EPOLLOUT | libc::EPOLLET) as u32;
        sys::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), events, data)?;
        entry.insert(Connecting { fd, tag });
        Ok(None)
    }

    /// Whether a connection waits for a buffer that is there.
    fn can_feed(&self) -> bool {
        !self.starved.is_empty() && self.buffers.any_free()
    }

    /// The next connection to read from: those that had to wait for a buffer come last, one for
    /// each buffer that is free.
    fn next_readable(&mut self) -> Option<Token> {
        loop {
            let token = match self.ready.pop_front() {
                Some(token) => token,
                None if self.can_feed() => self.starved.pop_front()?,
                None => return None,
            };
            if let Some(port) = self.port(token) {
                port.flags &= !LISTED;
                return Some(token);
            }
        }
    }
}

const CONNECTION_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Out of descriptors or memory: accepting again at once would only fail again.
pub(super) fn accept_is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

impl Driver for Epoll {
    type Socket = EpollSocket;

    const NAME: &'static str = "epoll";

    fn sends_at_once(&self) -> bool {
        true
    }

    fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.turn = self.turn.wrapping_add(1);
        self.buffers.turn();
        self.ready.extend(self.later.drain(..));
        let unread = self.report.1 - self.report.0;
        self.events_left = EVENTS_PER_TURN + 2 * unread;
        // Outcomes of sends that succeeded at once need no system call, but not twice in a row,
        // or a talkative engine would never hear its peers.
        if unread > 0 || (!self.outcomes.is_empty() && !self.skipped) {
            self.skipped = true;
            return Ok(());
        }
        self.skipped = false;
        let waiting = self.ready.is_empty() && self.outcomes.is_empty() && !self.can_feed();
        let wait = if waiting { self.alarm.bound(wait) } else { Some(Duration::ZERO) };
        self.stats.waits += 1;
        let count = match sys::epoll_wait(self.epoll.as_raw_fd(), &mut self.reports, wait) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        self.report = (0, count);
        self.events_left += 2 * count;
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event<EpollSocket>> {
        if self.events_left == 0 {
            return None;
        }
        self.events_left -= 1;
        while self.report.0 < self.report.1 {
            let report = self.reports[self.report.0];
            self.report.0 += 1;
            if let Some(event) = self.report(report.events, report.u64) {
                return Some(event);
            }
        }
        while let Some(outcome) = self.outcomes.pop_front() {
            // Closed since attaching it failed: nothing may come between close and `Closed`.
            if matches!(outcome, Event::Failed { token, .. } if self.port(token).is_none()) {
                continue;
            }
            return Some(outcome);
        }
        while let Some(token) = self.next_readable() {
            if let Some(event) = self.read(token) {
                return Some(event);
            }
        }
        self.accept()
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        &mut self.buffers.bytes(lease.buffer as u16)[lease.offset as usize..][..lease.len as usize]
    }

    fn release(&mut self, lease: Lease) {
        self.buffers.put(lease.buffer as u16);
    }

    fn attach(&mut self, token: Token, socket: EpollSocket) {
        let slot = token.slot as usize;
        assert!(token.slot < tag::MAX_SLOTS, "slot out of range");
        if slot >= self.ports.len() {
            self.ports.resize(slot + 1, Port::VACANT);
        }
        assert!(self.ports[slot].fd < 0, "the slot is taken");
        let fd = socket.0.as_raw_fd();
        let data = pack(CONNECTION, token);
        let added = sys::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, CONNECTION_EVENTS, data);
        self.ports[slot] = Port { generation: token.generation, fd: socket.0.into_raw_fd(), ..Port::VACANT };
        self.stats.receives_armed += 1;
        if let Err(error) = added {
            self.ports[slot].flags |= ENDED;
            self.outcomes.push_back(Event::Failed { token, error });
        }
    }

    fn refuse(&mut self, socket: EpollSocket) {
        drop(socket);
    }

    fn send(&mut self, token: Token, buf: SendBuf) {
        if self.port(token).is_none() {
            return self.not_sent(token, buf, io::ErrorKind::NotConnected);
        }
        debug_assert!(!buf.as_slice().is_empty(), "nothing to send");
        self.start_send(token, Sent::Buf(buf));
    }

    fn send_unawaited(&mut self, token: Token, buf: SendBuf) -> Option<SendBuf> {
        let Some(port) = self.port(token) else {
            self.not_sent(token, buf, io::ErrorKind::NotConnected);
            return None;
        };
        debug_assert!(port.send == NONE, "a send is in flight");
        let bytes = buf.as_slice();
        match sys::send(port.fd, bytes) {
            Ok(taken) if taken == bytes.len() => return Some(buf),
            Ok(taken) => self.send_rest(token, buf, taken),
            Err(error) if is_transient(&error) => self.send_rest(token, buf, 0),
            Err(error) => self.outcomes.push_back(Event::Sent { token, buf, result: Err(error) }),
        }
        None
    }

    fn send_lease(&mut self, token: Token, lease: Lease) {
        let fd = self.port(token).map(|port| port.fd);
        debug_assert!(fd.is_none() || self.ports[token.slot as usize].send == NONE, "a send is in flight");
        let bytes = self.bytes(&lease);
        let result = match fd.map(|fd| sys::send(fd, bytes)) {
            None => Err(io::ErrorKind::NotConnected.into()),
            Some(Ok(taken)) if taken < bytes.len() => Ok(Some(bytes[taken..].to_vec())),
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) if is_transient(&error) => Ok(Some(bytes.to_vec())),
            Some(Err(error)) => Err(error),
        };
        self.release(lease);
        match result {
            Ok(Some(rest)) => self.send(token, SendBuf::Owned(rest)),
            Ok(None) => self.lease_sent(token, Ok(())),
            Err(error) => self.lease_sent(token, Err(error)),
        }
    }

    fn hand_over(&mut self, token: Token, half: Half, keys: &RecordKeys<'_>) -> io::Result<()> {
        let Some(port) = self.port(token) else { return Err(io::ErrorKind::NotConnected.into()) };
        let flag = match half {
            Half::Sending if port.send != NONE => return Err(io::ErrorKind::WouldBlock.into()),
            Half::Sending => SEALED,
            Half::Receiving => OPENED,
        };
        records::hand_over(port.fd, half, keys)?;
        port.flags |= flag;
        Ok(())
    }

    fn send_record(&mut self, token: Token, kind: u8, content: Vec<u8>) {
        match self.port(token).map(|port| port.has(SEALED)) {
            Some(true) => self.start_send(token, Sent::Record(RecordMessage::new(kind, content))),
            Some(false) => self.not_sent(token, SendBuf::Owned(content), io::ErrorKind::InvalidInput),
            None => self.not_sent(token, SendBuf::Owned(content), io::ErrorKind::NotConnected),
        }
    }

    fn pause(&mut self, token: Token) {
        if let Some(port) = self.port(token) {
            port.flags |= PAUSED;
        }
    }

    fn resume(&mut self, token: Token) {
        if let Some(port) = self.port(token) {
            port.flags &= !PAUSED;
            if port.has(READABLE) && !port.has(LISTED | ENDED) {
                port.flags |= LISTED;
                self.ready.push_back(token);
            }
        }
    }

    fn shutdown(&mut self, token: Token) {
        let Some(port) = self.port(token) else { return };
        port.flags |= SHUTDOWN;
        if port.send == NONE {
            let _ = sys::shutdown(port.fd, libc::SHUT_WR);
        }
    }

    fn close(&mut self, token: Token) {
        let Some(port) = self.port(token) else { return };
        let gone = std::mem::replace(port, Port { generation: token.generation, ..Port::VACANT });
        // Closing takes the descriptor out of the epoll set (epoll(7), Q6): it was never duplicated.
        drop(sys::adopt(gone.fd));
        if gone.send != NONE {
            let buf = self.sends.remove(gone.send as usize).into_buf();
            self.not_sent(token, buf, io::ErrorKind::ConnectionAborted);
        }
        self.outcomes.push_back(Event::Closed(token));
    }

    fn connect(&mut self, to: SocketAddr, source: Option<IpAddr>, tag: u64) {
        match self.try_connect(to, source, tag) {
            Ok(None) => {}
            Ok(Some(socket)) => self.outcomes.push_back(Event::Connected { tag, result: Ok(socket) }),
            Err(error) => self.outcomes.push_back(Event::Connected { tag, result: Err(error) }),
        }
    }

    fn pause_accept(&mut self) {
        self.accepting = false;
        self.watch_listeners(0);
    }

    fn resume_accept(&mut self) {
        self.accepting = true;
        self.watch_listeners(libc::EPOLLIN as u32);
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    fn has_spare(&self) -> bool {
        self.buffers.kept() > 1
    }

    fn shed(&mut self) {
        self.buffers.end_window();
    }

    fn waker(&self) -> Waker {
        Waker(self.waker.clone())
    }

    fn stats(&self) -> DriverStats {
        DriverStats {
            receive_buffers: self.buffers.kept() as u64,
            leases_out: self.buffers.out() as u64,
            receive_buffers_low_water: self.buffers.low_water() as u64,
            ..self.stats
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for port in &self.ports {
            if port.fd >= 0 {
                drop(sys::adopt(port.fd));
            }
        }
    }
}
