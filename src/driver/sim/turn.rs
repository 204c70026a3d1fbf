//! What a turn of the simulated driver does: accept, connect, send, receive, close.
//!
//! The inside of [`Sim`]; it touches the [`World`] and the driver's ports and buffers. The contract:
//! each step leaves behind either an event, a place in a queue, or an entry in the agenda, so that
//! nothing that can go on is forgotten.

use super::driver::{Accepting, Sim, SimSocket};
use super::faults::Fault;
use super::port::{PortState, Sending};
use super::wire::{Item, Way, WireId};
use super::world::{Listening, World};
use crate::driver::{Driver, Event, Lease, PeerAddr, WakeTarget};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// Accepted per turn, so that a storm of connects does not starve the connected.
const ACCEPTS_PER_TURN: usize = 16;

/// What a returned buffer is filled with: who still looks at it sees that.
const POISON: u8 = 0xDD;

impl Sim {
    pub(super) fn collect(&mut self, world: &mut World) {
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
            world.note(None, "woken", self.id.into());
            self.events.push_back(Event::Woken);
        }
    }

    fn collect_accepted(&mut self, world: &mut World) {
        for accepted in 0..ACCEPTS_PER_TURN {
            if self.accepting != Accepting::Yes || world.backlog.is_empty() {
                return;
            }
            // Listeners of one address share who comes (socket(7), SO_REUSEPORT).
            if accepted > 0 && matches!(world.listening, Listening::By(2..)) && world.rng.permille(500) {
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
                self.events.push_back(Event::Accepted { socket: self.socket(wire), peer, listener: 0 });
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
        SimSocket::new(Rc::clone(&self.world), wire)
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
    pub(super) fn feed_starved(&mut self, world: &mut World) {
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

    pub(super) fn progress_send(&mut self, world: &mut World, slot: usize) {
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
            self.end_lending(slot);
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
            sending.done_at_ns = Some(world.after_ns(lag));
            world.look_later(id, lag);
        } else if all {
            self.finish_send(world, slot, Ok(()));
        } else {
            self.end_lending(slot);
            if short {
                let lag = world.lag_ns();
                world.look_later(id, lag);
            }
        }
    }

    /// A lease is tried once: what it had is in the copy.
    fn end_lending(&mut self, slot: usize) {
        if let Some(lease) = self.ports[slot].sending.as_mut().and_then(|sending| sending.lease.take()) {
            self.give_back(lease);
        }
    }

    fn finish_send(&mut self, world: &mut World, slot: usize, result: io::Result<()>) {
        self.end_lending(slot);
        let port = &mut self.ports[slot];
        let token = port.token(slot as u32);
        if let Some(Sending { buf, written, pieces, done_at_ns, .. }) = port.sending.take() {
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
        let left = self.buffers_free(world).checked_sub(1)? as u64;
        self.stats.leases_out += 1;
        self.stats.receive_buffers_low_water = self.stats.receive_buffers_low_water.min(left);
        Some(self.free_buffers.pop().unwrap_or_else(|| {
            self.buffers.push(vec![POISON; self.config.receive_buffer_bytes as usize]);
            self.buffers.len() as u32 - 1
        }))
    }

    pub(super) fn give_back(&mut self, lease: Lease) {
        self.bytes(&lease).fill(POISON);
        self.free_buffers.push(lease.buffer);
        self.stats.leases_out -= 1;
    }
}
