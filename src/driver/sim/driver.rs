//! The driver that lives in a simulated world.
//!
//! [`Sim`] turns what happened in the [`World`] into events. The contract is the seven laws, kept
//! under every fault; what callers owe (one send in flight, a free slot to attach to) is asserted
//! in release builds as well.

use super::faults::Fault;
use super::net::{SimNet, saturating_ns};
use super::port::{Port, PortState, Sending};
use super::wire::{Item, Way, WireId};
use super::world::{DriverSide, Listening, World};
use crate::driver::{
    Driver, DriverConfig, DriverStats, Event, Lease, PeerAddr, SendBuf, Token, WakeTarget, Waker,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a turn with a zero wait takes if it brings nothing.
const POLL_NS: u64 = 1_000;

/// Accepted per turn, so that a storm of connects does not starve the connected.
const ACCEPTS_PER_TURN: usize = 16;

/// What a returned buffer is filled with: who still looks at it sees that.
const POISON: u8 = 0xDD;

/// A connected, unattached end in a simulated world. Dropping it closes it.
pub struct SimSocket {
    world: Rc<RefCell<World>>,
    wire: WireId,
    attached: bool,
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
enum Accepting {
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
    world: Rc<RefCell<World>>,
    /// Index into the world's drivers.
    id: u32,
    config: DriverConfig,
    ports: Vec<Port>,
    events: VecDeque<Event<SimSocket>>,
    accepting: Accepting,
    /// Ports with `close` called, and when their `Closed` comes.
    closing: VecDeque<(u64, u32)>,
    /// Ports that met an empty pool, longest waiting first.
    starved: VecDeque<u32>,
    buffers: Vec<Vec<u8>>,
    /// Last returned, first used.
    free_buffers: Vec<u32>,
    wake: Arc<WakeTarget>,
    stats: DriverStats,
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
            stats: DriverStats::default(),
        }
    }

    /// The slot of an open connection; stale tokens and closed ones have none.
    fn open_slot(&self, token: Token) -> Option<usize> {
        let slot = token.slot as usize;
        let port = self.ports.get(slot)?;
        let hit = port.state == PortState::Open && port.generation == Some(token.generation);
        hit.then_some(slot)
    }

    fn set_accepting(&mut self, world: &mut World, accepting: Accepting) {
        if self.accepting != Accepting::Closed {
            self.accepting = accepting;
            world.drivers[self.id as usize].accepting = accepting == Accepting::Yes;
        }
    }

    // A turn.

    fn collect(&mut self, world: &mut World) {
        self.collect_wakes(world);
        self.collect_accepted(world);
        self.collect_connected(world);
        self.collect_closed(world);
        self.feed_starved(world);
        let mut ready = std::mem::take(&mut world.drivers[self.id as usize].ready);
        if ready.len() > 1 && world.strikes(Fault::Reorder, None) {
            world.rng.shuffle(ready.make_contiguous());
        }
        for wire in ready {
            let end = &mut world.wires[wire as usize].driver;
            end.ready = false;
            if let Some((_, slot)) = end.owner {
                self.serve(world, slot as usize);
            }
        }
    }

    fn collect_wakes(&mut self, world: &mut World) {
        if let WakeTarget::Flag(flag) = &*self.wake
            && flag.swap(false, Ordering::AcqRel)
        {
            world.note(None, "woken", 0);
            self.events.push_back(Event::Woken);
        }
    }

    fn collect_accepted(&mut self, world: &mut World) {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.accepting != Accepting::Yes || world.backlog.is_empty() {
                return;
            }
            if world.strikes(Fault::AcceptFailure, None) {
                self.set_accepting(world, Accepting::Paused);
                self.events.push_back(Event::AcceptFailed(io::Error::from_raw_os_error(libc::EMFILE)));
                return;
            }
            if let Some(wire) = world.backlog.pop_front() {
                world.note(Some(wire), "accepted", 0);
                let peer: PeerAddr = world.wires[wire as usize].addr;
                self.events.push_back(Event::Accepted { socket: self.socket(wire), peer });
            }
        }
    }

    fn collect_connected(&mut self, world: &mut World) {
        while let Some((tag, result)) = world.drivers[self.id as usize].connected.pop_front() {
            world.note(result.ok(), "connected", tag);
            let result = result.map(|wire| self.socket(wire)).map_err(io::Error::from_raw_os_error);
            self.events.push_back(Event::Connected { tag, result });
        }
    }

    fn socket(&self, wire: WireId) -> SimSocket {
        SimSocket { world: Rc::clone(&self.world), wire, attached: false }
    }

    /// Ends what was asked to close: the send in flight first, `Closed` when it is time.
    fn collect_closed(&mut self, world: &mut World) {
        for _ in 0..self.closing.len() {
            let Some((at_ns, slot)) = self.closing.pop_front() else { break };
            self.finish_send(world, slot as usize, Err(io::Error::from_raw_os_error(libc::EPIPE)));
            if at_ns > world.now_ns() {
                self.closing.push_back((at_ns, slot));
            } else {
                let port = &self.ports[slot as usize];
                world.note(Some(port.wire), "closed", u64::from(slot));
                self.events.push_back(Event::Closed(port.token(slot)));
            }
        }
    }

    /// Law 5: as many starved connections are looked at again as there are buffers, and before
    /// others, or one that always has bytes would take every buffer (law 7).
    fn feed_starved(&mut self, world: &mut World) {
        let mut free = self.buffers_free(world);
        while free > 0
            && let Some(slot) = self.starved.pop_front()
        {
            let port = &mut self.ports[slot as usize];
            if std::mem::take(&mut port.starved) && port.state == PortState::Open && port.receiving {
                self.stats.receives_armed += 1;
                world.mark_ready_first(port.wire);
                free -= 1;
            }
        }
    }

    /// Moves one open connection on, both ways.
    fn serve(&mut self, world: &mut World, slot: usize) {
        if world.faults.reorder_permille > 0 && world.rng.permille(500) {
            self.receive(world, slot);
            self.progress_send(world, slot);
        } else {
            self.progress_send(world, slot);
            self.receive(world, slot);
        }
    }

    // Sending.

    fn progress_send(&mut self, world: &mut World, slot: usize) {
        let port = &mut self.ports[slot];
        let id = port.wire;
        let Some(sending) = &mut port.sending else { return self.send_fin(world, slot) };
        match (sending.done_at_ns, world.wires[id as usize].driver.broken) {
            (Some(at), _) if at <= world.now_ns() => return self.finish_send(world, slot, Ok(())),
            (Some(_), _) => return,
            (None, Some(errno)) => {
                return self.finish_send(world, slot, Err(io::Error::from_raw_os_error(errno)));
            }
            (None, None) => {}
        }
        if world.strikes(Fault::SendError, Some(id)) {
            world.break_wire(id, libc::ECONNRESET);
            return self.finish_send(world, slot, Err(io::Error::from_raw_os_error(libc::EPIPE)));
        }
        let window = world.faults.window_bytes as usize;
        let room = window.saturating_sub(world.wires[id as usize].to_peer.bytes);
        let rest = &sending.buf.as_slice()[sending.written..];
        let fits = room.min(rest.len());
        if fits == 0 {
            return; // Looked at again when the peer reads.
        }
        let short = fits > 1 && world.strikes(Fault::ShortWrite, Some(id));
        let taken = if short { world.cut(fits - 1) } else { fits };
        let item = Item::Bytes(bytes::Bytes::copy_from_slice(&rest[..taken]));
        sending.written += taken;
        sending.pieces += 1;
        let all = taken == rest.len();
        world.note(Some(id), "takes", taken as u64);
        world.transmit(id, Way::ToPeer, item);
        if all && world.strikes(Fault::LateSent, Some(id)) {
            let lag = world.lag_ns();
            sending.done_at_ns = Some(world.now_ns() + lag);
            world.look_later(id, lag);
        } else if all {
            self.finish_send(world, slot, Ok(()));
        } else if short {
            let lag = world.lag_ns();
            world.look_later(id, lag);
        }
    }

    fn finish_send(&mut self, world: &mut World, slot: usize, result: io::Result<()>) {
        let port = &mut self.ports[slot];
        let token = port.token(slot as u32);
        if let Some(Sending { buf, written, pieces, done_at_ns }) = port.sending.take() {
            self.stats.short_writes += u64::from(pieces.saturating_sub(1));
            // All bytes were taken: it cannot fail any more.
            let result = if done_at_ns.is_some() { Ok(()) } else { result };
            world.note(Some(port.wire), if result.is_ok() { "sent" } else { "send failed" }, written as u64);
            self.events.push_back(Event::Sent { token, buf, result });
        }
        self.send_fin(world, slot);
    }

    fn send_fin(&mut self, world: &mut World, slot: usize) {
        let port = &mut self.ports[slot];
        if port.state == PortState::Open && std::mem::take(&mut port.fin_wanted) {
            let end = &mut world.wires[port.wire as usize].driver;
            if end.broken.is_none() && !std::mem::replace(&mut end.write_ended, true) {
                world.note(Some(port.wire), "driver sends fin", 0);
                world.transmit(port.wire, Way::ToPeer, Item::Fin);
            }
        }
    }

    // Receiving.

    fn receive(&mut self, world: &mut World, slot: usize) {
        let port = &self.ports[slot];
        let (id, token) = (port.wire, port.token(slot as u32));
        if !port.receiving || port.received_all {
            return self.report_unarmed_failure(world, slot);
        }
        if port.starved {
            return; // Until a lease comes back.
        }
        let mut budget = self.config.max_receive_bytes_per_turn as usize;
        loop {
            match world.wires[id as usize].to_driver.arrived.front() {
                None => return,
                Some(Item::Bytes(_)) => {
                    if budget == 0 || self.holds_back(world, slot) {
                        return world.mark_ready(id);
                    }
                    match self.receive_piece(world, slot, budget) {
                        Some(len) => budget -= len,
                        None => return,
                    }
                }
                Some(Item::Fin) => {
                    world.wires[id as usize].to_driver.arrived.pop_front();
                    world.note(Some(id), "eof", 0);
                    self.ports[slot].received_all = true;
                    self.events.push_back(Event::Eof(token));
                    return self.report_unarmed_failure(world, slot);
                }
                Some(&Item::Reset(errno)) => return self.fail(world, slot, errno),
            }
        }
    }

    /// Never twice running, so that a rate of 1000 only slows.
    fn holds_back(&mut self, world: &mut World, slot: usize) -> bool {
        let port = &mut self.ports[slot];
        port.held_back = !port.held_back && world.strikes(Fault::HoldBack, Some(port.wire));
        port.held_back
    }

    /// Receives into one buffer, or starves. Returns the bytes received.
    fn receive_piece(&mut self, world: &mut World, slot: usize, budget: usize) -> Option<usize> {
        let id = self.ports[slot].wire;
        let Some(buffer) = self.take_buffer(world) else {
            self.stats.buffer_starvations += 1;
            world.note(Some(id), "starves", self.stats.buffer_starvations);
            if !std::mem::replace(&mut self.ports[slot].starved, true) {
                self.starved.push_back(slot as u32);
            }
            return None;
        };
        let capacity = self.config.receive_buffer_bytes as usize;
        let room = capacity.min(budget);
        let mut len = 0;
        while len < room {
            let mut most = room - len;
            let Some(Item::Bytes(first)) = world.wires[id as usize].to_driver.arrived.front() else { break };
            most = most.min(first.len());
            if len > 0 && !world.strikes(Fault::Join, Some(id)) {
                break;
            }
            let cut = most > 1 && world.strikes(Fault::Split, Some(id));
            let take = if cut { world.cut(most - 1) } else { most };
            let pipe = &mut world.wires[id as usize].to_driver;
            if let Some(Item::Bytes(first)) = pipe.arrived.front_mut() {
                let piece = first.split_to(take);
                let spent = first.is_empty();
                self.buffers[buffer as usize][len..len + take].copy_from_slice(&piece);
                pipe.bytes -= take;
                len += take;
                if spent {
                    pipe.arrived.pop_front();
                }
            }
            if cut {
                break;
            }
        }
        // Bytes do not always stand at the start of a buffer.
        let offset = match world.faults.split_permille {
            0 => 0,
            _ => world.rng.below((capacity - len) as u64 + 1).min(64) as usize,
        };
        self.buffers[buffer as usize].copy_within(..len, offset);
        world.note(Some(id), "received", len as u64);
        let lease = Lease { buffer, offset: offset as u32, len: len as u32 };
        self.events.push_back(Event::Received { token: self.ports[slot].token(slot as u32), lease });
        Some(len)
    }

    fn fail(&mut self, world: &mut World, slot: usize, errno: i32) {
        let port = &mut self.ports[slot];
        port.failed = true;
        port.received_all = true;
        world.note(Some(port.wire), "failed", errno as u64);
        let error = io::Error::from_raw_os_error(errno);
        self.events.push_back(Event::Failed { token: port.token(slot as u32), error });
    }

    fn report_unarmed_failure(&mut self, world: &mut World, slot: usize) {
        let port = &self.ports[slot];
        if let (Some(errno), false) = (world.wires[port.wire as usize].driver.broken, port.failed)
            && world.strikes(Fault::UnarmedFailure, Some(port.wire))
        {
            self.fail(world, slot, errno);
        }
    }

    // Buffers.

    fn buffers_free(&self, world: &World) -> usize {
        let limit = self.config.receive_buffers.min(world.faults.max_receive_buffers.max(1));
        usize::from(limit).saturating_sub(self.stats.leases_out as usize)
    }

    fn take_buffer(&mut self, world: &World) -> Option<u32> {
        if self.buffers_free(world) == 0 {
            return None;
        }
        self.stats.leases_out += 1;
        Some(self.free_buffers.pop().unwrap_or_else(|| {
            self.buffers.push(vec![POISON; self.config.receive_buffer_bytes as usize]);
            self.buffers.len() as u32 - 1
        }))
    }

    fn give_back(&mut self, lease: Lease) {
        self.bytes(&lease).fill(POISON);
        self.free_buffers.push(lease.buffer);
        self.stats.leases_out -= 1;
    }
}

impl Driver for Sim {
    type Socket = SimSocket;

    const NAME: &'static str = "sim";

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
        let end = match wait.map(saturating_ns) {
            Some(0) => Some(now + POLL_NS),
            Some(wait) => Some(now.saturating_add(wait)),
            None => None,
        };
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
        assert!(!buf.as_slice().is_empty(), "an empty send on {token:?}");
        if let Some(port) = self.ports.get(token.slot as usize) {
            let hit = port.generation == Some(token.generation);
            assert!(!(hit && port.send_in_flight), "a send on {token:?} before the last one's Sent");
        }
        let Some(slot) = self.open_slot(token) else {
            let result = Err(io::Error::from(io::ErrorKind::NotConnected));
            self.events.push_back(Event::Sent { token, buf, result });
            return;
        };
        let port = &mut self.ports[slot];
        port.send_in_flight = true;
        if port.shut_down {
            let result = Err(io::Error::from_raw_os_error(libc::EPIPE));
            self.events.push_back(Event::Sent { token, buf, result });
            return;
        }
        port.sending = Some(Sending { buf, written: 0, pieces: 0, done_at_ns: None });
        self.world.borrow_mut().mark_ready(port.wire);
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
        self.closing.push_back((world.now_ns() + lag, slot as u32));
    }

    fn connect(&mut self, to: SocketAddr, tag: u64) {
        self.world.borrow_mut().connect_driver(self.id, to, tag);
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

    fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    fn stats(&self) -> DriverStats {
        DriverStats { receive_buffers: self.buffers.len() as u64, ..self.stats }
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
