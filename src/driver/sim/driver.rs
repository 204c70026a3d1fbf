//! The driver that lives in a simulated world.
//!
//! [`Sim`] turns what happened in the [`World`] into events. The contract is the seven laws, kept
//! under every fault; what callers owe (one send in flight, a free slot to attach to) is asserted
//! in release builds as well.

use super::faults::Fault;
use super::net::{SimNet, saturating_ns};
use super::port::{Port, PortState, Sending};
use super::wire::WireId;
use super::world::{DriverSide, Listening, World};
use crate::driver::{
    Driver, DriverConfig, DriverStats, Event, Half, Lease, RecordKeys, SendBuf, Token, WakeTarget, Waker,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What a turn with a zero wait takes if it brings nothing.
const POLL_NS: u64 = 1_000;

/// A connected, unattached end in a simulated world. Dropping it closes it.
pub struct SimSocket {
    world: Rc<RefCell<World>>,
    wire: WireId,
    attached: bool,
}

impl SimSocket {
    pub(super) fn new(world: Rc<RefCell<World>>, wire: WireId) -> Self {
        Self { world, wire, attached: false }
    }
}

impl std::fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimSocket(#{})", self.wire)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if !self.attached
            && let Ok(mut world) = self.world.try_borrow_mut()
        {
            world.close_driver_end(self.wire);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    Yes,
    Paused,
    Closed,
}

/// The simulated driver. See the [module](super).
///
/// # Panics
/// Its methods panic on a caller's bug: a send before the last one's `Sent` was taken, an empty
/// send, an attach to a slot that is not free, at or above `max_connections`, or with the
/// generation of its last tenant.
pub struct Sim {
    pub(super) world: Rc<RefCell<World>>,
    /// Index into the world's drivers.
    pub(super) id: u32,
    pub(super) config: DriverConfig,
    pub(super) ports: Vec<Port>,
    pub(super) events: VecDeque<Event<SimSocket>>,
    pub(super) accepting: Accepting,
    /// Ports with `close` called, and when their `Closed` comes.
    pub(super) closing: VecDeque<(u64, u32)>,
    /// Ports that met an empty pool, longest waiting first.
    pub(super) starved: VecDeque<u32>,
    pub(super) buffers: Vec<Vec<u8>>,
    /// Last returned, first used.
    pub(super) free_buffers: Vec<u32>,
    pub(super) wake: Arc<WakeTarget>,
    /// As a readiness driver does, a send is tried when it is asked for. So in worlds of odd seeds.
    pub(super) at_once: bool,
    pub(super) stats: DriverStats,
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("id", &self.id).field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Sim {
    /// A driver that accepts this world's peers. Several may share one world; each peer goes to the
    /// first one that looks.
    pub fn new(net: &SimNet, config: &DriverConfig) -> Self {
        assert!(config.receive_buffers > 0 && config.receive_buffer_bytes > 0, "no receive buffers");
        assert!(config.max_receive_bytes_per_turn > 0, "nothing may be received");
        let wake = Arc::new(WakeTarget::Flag(AtomicBool::new(false)));
        let mut world = net.world.borrow_mut();
        let id = world.drivers.len() as u32;
        world.drivers.push(DriverSide {
            ready: VecDeque::new(),
            connected: VecDeque::new(),
            accepting: true,
            alive: true,
            wake: Arc::clone(&wake),
        });
        world.listening = match world.listening {
            Listening::NotYet => Listening::By(1),
            Listening::By(drivers) => Listening::By(drivers + 1),
        };
        Self {
            world: Rc::clone(&net.world),
            id,
            config: config.clone(),
            ports: Vec::new(),
            events: VecDeque::new(),
            accepting: Accepting::Yes,
            closing: VecDeque::new(),
            starved: VecDeque::new(),
            buffers: Vec::new(),
            free_buffers: Vec::new(),
            wake,
            at_once: world.seed % 2 == 1,
            stats: DriverStats {
                receive_buffers_low_water: config.receive_buffers.into(),
                ..DriverStats::default()
            },
        }
    }

    /// Whether events wait to be taken.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether a turn without a wait would bring something.
    pub(crate) fn has_news(&self) -> bool {
        let world = self.world.borrow();
        let closed = self.closing.iter().any(|(at_ns, _)| *at_ns <= world.now_ns());
        closed || self.has_events() || world.has_news_for(&world.drivers[self.id as usize])
    }

    /// The slot of an open connection; stale tokens and closed ones have none.
    fn open_slot(&self, token: Token) -> Option<usize> {
        let slot = token.slot as usize;
        let port = self.ports.get(slot)?;
        let hit = port.state == PortState::Open && port.generation == Some(token.generation);
        hit.then_some(slot)
    }

    /// What every send begins with. A lease, of which `buf` is a copy, is kept until the first try.
    fn begin_send(&mut self, token: Token, buf: SendBuf, lease: Option<Lease>) {
        assert!(!buf.as_slice().is_empty(), "an empty send on {token:?}");
        if let Some(port) = self.ports.get(token.slot as usize) {
            let hit = port.generation == Some(token.generation);
            assert!(!(hit && port.send_in_flight), "a send on {token:?} before the last one's Sent");
        }
        let Some(slot) = self.open_slot(token) else {
            let result = Err(io::Error::from(io::ErrorKind::NotConnected));
            self.not_sent(token, buf, lease, result);
            return;
        };
        let port = &mut self.ports[slot];
        port.send_in_flight = true;
        if port.shut_down {
            let result = Err(io::Error::from_raw_os_error(libc::EPIPE));
            self.not_sent(token, buf, lease, result);
            return;
        }
        port.sending = Some(Sending { buf, written: 0, pieces: 0, done_at_ns: None, lease });
        self.world.borrow_mut().mark_ready(port.wire);
    }

    fn not_sent(&mut self, token: Token, buf: SendBuf, lease: Option<Lease>, result: io::Result<()>) {
        if let Some(lease) = lease {
            self.release(lease);
        }
        self.events.push_back(Event::Sent { token, buf, result });
    }

    pub(super) fn set_accepting(&mut self, world: &mut World, accepting: Accepting) {
        if self.accepting != Accepting::Closed {
            self.accepting = accepting;
            world.drivers[self.id as usize].accepting = accepting == Accepting::Yes;
        }
    }
}

impl Driver for Sim {
    type Socket = SimSocket;

    const NAME: &'static str = "sim";

    fn sends_at_once(&self) -> bool {
        self.at_once
    }

    /// Never blocks: a wait moves the virtual clock, to the next thing that is due in the world or
    /// to its end. It returns there even if this driver has nothing to say. A wait without end in
    /// a world where nothing is due returns at once; see [`SimNet::is_quiet`].
    fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        self.stats.waits += 1;
        world.settle();
        self.collect(world);
        if !self.events.is_empty() {
            return Ok(());
        }
        let now = world.now_ns();
        let end = wait.map(|wait| world.after_ns(saturating_ns(wait).max(POLL_NS)));
        let busy = !world.drivers[self.id as usize].ready.is_empty();
        let until = match (world.next_due_ns(), end) {
            _ if busy => now,
            (Some(due), Some(end)) => due.min(end),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return Ok(()),
        };
        if until > now && wait != Some(Duration::ZERO) && world.strikes(Fault::SpuriousWake, None) {
            let early = world.rng.between(now + 1, until);
            world.advance_to(early);
            if world.rng.permille(500) {
                self.events.push_back(Event::Woken);
            }
            return Ok(());
        }
        world.advance_to(until);
        self.collect(world);
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event<SimSocket>> {
        loop {
            match self.events.pop_front()? {
                Event::Received { token, lease } if self.open_slot(token).is_none() => self.release(lease),
                Event::Eof(token) | Event::Failed { token, .. } if self.open_slot(token).is_none() => {}
                Event::Closed(token) => {
                    self.ports[token.slot as usize].state = PortState::Free;
                    return Some(Event::Closed(token));
                }
                Event::Sent { token, buf, result } => {
                    if let Some(port) = self.ports.get_mut(token.slot as usize)
                        && port.generation == Some(token.generation)
                    {
                        port.send_in_flight = false;
                    }
                    return Some(Event::Sent { token, buf, result });
                }
                event => return Some(event),
            }
        }
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        let (offset, len) = (lease.offset as usize, lease.len as usize);
        &mut self.buffers[lease.buffer as usize][offset..offset + len]
    }

    fn release(&mut self, lease: Lease) {
        self.give_back(lease);
        if !self.starved.is_empty() {
            let world = Rc::clone(&self.world);
            self.feed_starved(&mut world.borrow_mut());
        }
    }

    fn attach(&mut self, token: Token, mut socket: SimSocket) {
        let Token { slot, generation } = token;
        let (index, most) = (slot as usize, self.config.max_connections);
        assert!(slot < most, "attach to slot {slot}, but max_connections is {most}");
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, Port::free);
        }
        let old = &self.ports[index];
        assert!(
            old.state == PortState::Free,
            "attach to slot {slot} whose tenant of generation {:?} has not been Closed (law 4)",
            old.generation
        );
        assert!(
            old.generation != Some(generation),
            "attach to slot {slot} with the generation of its last tenant, {generation}"
        );
        socket.attached = true;
        self.ports[index] = Port::open(token, socket.wire);
        self.stats.receives_armed += 1;
        let mut world = self.world.borrow_mut();
        world.wires[socket.wire as usize].driver.owner = Some((self.id, slot));
        world.note(Some(socket.wire), "attached to slot", u64::from(slot));
        world.mark_ready(socket.wire);
    }

    fn refuse(&mut self, socket: SimSocket) {
        drop(socket);
    }

    fn send(&mut self, token: Token, buf: SendBuf) {
        self.begin_send(token, buf, None);
    }

    fn send_unawaited(&mut self, token: Token, buf: SendBuf) -> Option<SendBuf> {
        self.begin_send(token, buf, None);
        let slot = self.open_slot(token).filter(|_| self.at_once)?;
        if self.ports[slot].sending.is_some() {
            let world = Rc::clone(&self.world);
            self.progress_send(&mut world.borrow_mut(), slot);
        }
        match self.events.pop_back()? {
            Event::Sent { token: of, buf, result: Ok(()) } if of == token => {
                self.ports[slot].send_in_flight = false;
                Some(buf)
            }
            other => {
                self.events.push_back(other);
                None
            }
        }
    }

    fn send_lease(&mut self, token: Token, lease: Lease) {
        let bytes = self.bytes(&lease).to_vec();
        self.begin_send(token, SendBuf::Owned(bytes), Some(lease));
    }

    /// Refused: there is no kernel.
    fn hand_over(&mut self, _token: Token, _half: Half, _keys: &RecordKeys<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn send_record(&mut self, token: Token, _kind: u8, content: Vec<u8>) {
        let kind = match self.open_slot(token) {
            Some(_) => io::ErrorKind::InvalidInput,
            None => io::ErrorKind::NotConnected,
        };
        self.events.push_back(Event::Sent { token, buf: SendBuf::Owned(content), result: Err(kind.into()) });
    }

    fn pause(&mut self, token: Token) {
        if let Some(slot) = self.open_slot(token) {
            self.ports[slot].receiving = false;
        }
    }

    fn resume(&mut self, token: Token) {
        if let Some(slot) = self.open_slot(token)
            && !std::mem::replace(&mut self.ports[slot].receiving, true)
        {
            self.stats.receives_armed += 1;
            self.world.borrow_mut().mark_ready(self.ports[slot].wire);
        }
    }

    fn shutdown(&mut self, token: Token) {
        if let Some(slot) = self.open_slot(token) {
            let port = &mut self.ports[slot];
            port.fin_wanted |= !std::mem::replace(&mut port.shut_down, true);
            self.world.borrow_mut().mark_ready(port.wire);
        }
    }

    fn close(&mut self, token: Token) {
        let Some(slot) = self.open_slot(token) else { return };
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        // A kernel tries a send as soon as it is submitted; whether that was before the close is
        // its business.
        if !world.strikes(Fault::HoldBack, Some(self.ports[slot].wire)) {
            self.progress_send(world, slot);
        }
        let port = &mut self.ports[slot];
        port.state = PortState::Closing;
        let late = world.strikes(Fault::LateClosed, Some(port.wire));
        let lag = if late { world.lag_ns() } else { 0 };
        world.close_driver_end(port.wire);
        world.nudge_later(lag);
        self.closing.push_back((world.after_ns(lag), slot as u32));
    }

    fn connect(&mut self, to: SocketAddr, source: Option<IpAddr>, tag: u64) {
        self.world.borrow_mut().connect_driver(self.id, to, source, tag);
    }

    fn pause_accept(&mut self) {
        let world = Rc::clone(&self.world);
        self.set_accepting(&mut world.borrow_mut(), Accepting::Paused);
    }

    fn resume_accept(&mut self) {
        let world = Rc::clone(&self.world);
        self.set_accepting(&mut world.borrow_mut(), Accepting::Yes);
    }

    fn close_listeners(&mut self) {
        if self.accepting == Accepting::Closed {
            return;
        }
        let world = Rc::clone(&self.world);
        let world = &mut *world.borrow_mut();
        self.set_accepting(world, Accepting::Closed);
        let Listening::By(drivers) = world.listening else { return };
        world.listening = Listening::By(drivers - 1);
        if drivers == 1 {
            for wire in std::mem::take(&mut world.backlog) {
                world.refuse_knock(wire);
            }
        }
    }

    /// What it lends is of this program's own, and taken back at once.
    fn has_spare(&self) -> bool {
        false
    }

    fn shed(&mut self) {}

    fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    fn stats(&self) -> DriverStats {
        let lent = self.buffers.len() - self.free_buffers.len();
        DriverStats { receive_buffers: lent as u64, ..self.stats }
    }
}

/// Closes every connection, as a process's end would.
impl Drop for Sim {
    fn drop(&mut self) {
        // Not borrowable only while a panic inside the world unwinds.
        if self.world.try_borrow_mut().is_err() {
            return;
        }
        self.close_listeners();
        let queued =
            self.events.iter().filter(|event| matches!(event, Event::Received { .. })).count() as u64;
        self.events.clear();
        let world = &mut *self.world.borrow_mut();
        let leaked = self.stats.leases_out - queued;
        world.leaked_leases += leaked;
        world.note(None, "driver dropped, leaked leases", leaked);
        for port in self.ports.iter().filter(|port| port.state == PortState::Open) {
            world.close_driver_end(port.wire);
        }
        let side = &mut world.drivers[self.id as usize];
        side.alive = false;
        side.ready.clear();
        for (_, wire) in std::mem::take(&mut side.connected) {
            if let Ok(wire) = wire {
                world.close_driver_end(wire);
            }
        }
    }
}
