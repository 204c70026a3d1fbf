//! The simulated world: clock, agenda, connections, chance.
//!
//! Shared by the driver's side ([`Sim`](super::Sim)) and the test's ([`SimNet`](super::SimNet)).
//! It reads no clock and no randomness but its own. The contract: everything that happens later
//! stands in the agenda, ordered by time and then by when it was entered, so that one seed and one
//! sequence of calls give one history.

use super::faults::{Fault, Faults};
use super::rng::SimRng;
use super::trace::Trace;
use super::wire::{Item, PeerEnd, Way, Wire, WireId};
use crate::driver::{PeerAddr, WakeTarget};
use bytes::Bytes;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What stands in the agenda. An entry for a connection that is gone does nothing.
#[derive(Debug)]
enum Due {
    /// Something of a pipe arrives.
    Arrive(WireId, Way),
    /// The driver is to look at this connection.
    Look(WireId),
    /// A peer's connect reaches the backlog.
    Knock(WireId),
    /// A driver's connect ends.
    Connect { driver: u32, to: SocketAddr, source: Option<IpAddr>, tag: u64, timed_out: bool },
    /// A driver has something to finish.
    Nudge,
}

/// Whether connects reach anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// No driver yet: peers wait in the backlog.
    NotYet,
    /// This many drivers have open listeners.
    By(u32),
}

/// What the world keeps for one driver.
#[derive(Debug)]
pub(super) struct DriverSide {
    pub(super) ready: VecDeque<WireId>,
    pub(super) connected: VecDeque<(u64, Result<WireId, i32>)>,
    pub(super) accepting: bool,
    pub(super) alive: bool,
    pub(super) wake: Arc<WakeTarget>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) faults: Faults,
    pub(super) rng: SimRng,
    pub(super) trace: Trace,
    pub(super) drivers: Vec<DriverSide>,
    pub(super) wires: Vec<Wire>,
    pub(super) backlog: VecDeque<WireId>,
    pub(super) listening: Listening,
    /// Where the test listens, and who came.
    pub(super) listeners: BTreeMap<SocketAddr, VecDeque<WireId>>,
    pub(super) leaked_leases: u64,
    clock_ns: Rc<Cell<u64>>,
    injected: [u64; Fault::ALL.len()],
    agenda: BTreeMap<(u64, u64), Due>,
    agenda_entries: u64,
    free_wires: Vec<WireId>,
    peers: u32,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            seed,
            faults,
            rng: SimRng::new(seed),
            trace: Trace::new(),
            drivers: Vec::new(),
            wires: Vec::new(),
            backlog: VecDeque::new(),
            listening: Listening::NotYet,
            listeners: BTreeMap::new(),
            leaked_leases: 0,
            clock_ns: Rc::new(Cell::new(0)),
            injected: [0; Fault::ALL.len()],
            agenda: BTreeMap::new(),
            agenda_entries: 0,
            free_wires: Vec::new(),
            peers: 0,
        }
    }

    // Chance.

    /// Whether this fault strikes now; if so it is counted and noted.
    pub(super) fn strikes(&mut self, fault: Fault, wire: Option<WireId>) -> bool {
        let strikes = self.rng.permille(self.faults.permille(fault));
        if strikes {
            self.injected[fault as usize] += 1;
            self.note(wire, fault.name(), self.injected[fault as usize]);
        }
        strikes
    }

    pub(super) fn injected(&self, fault: Fault) -> u64 {
        self.injected[fault as usize]
    }

    /// Where to cut `len` bytes: from 1 to `len`, half of the time at most 8.
    pub(super) fn cut(&mut self, len: usize) -> usize {
        let most = if self.rng.permille(500) { len.min(8) } else { len };
        self.rng.between(1, most as u64) as usize
    }

    pub(super) fn draw_ns(&mut self, range: RangeInclusive<u32>) -> u64 {
        let (low, high) = (u64::from(*range.start()), u64::from(*range.end()));
        if high == 0 { 0 } else { self.rng.between(low * 1_000_000, high * 1_000_000) }
    }

    pub(super) fn lag_ns(&mut self) -> u64 {
        self.draw_ns(self.faults.lag_ms.clone())
    }

    pub(super) fn note(&mut self, wire: Option<WireId>, what: &'static str, n: u64) {
        self.trace.note(self.clock_ns.get(), wire, what, n);
    }

    // Time.

    pub(super) fn clock(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.clock_ns)
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.clock_ns.get()
    }

    /// Later by a delay. A wait of centuries must not overflow the clock.
    pub(super) fn after_ns(&self, delay_ns: u64) -> u64 {
        self.now_ns().saturating_add(delay_ns)
    }

    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.agenda.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Moves the clock to `until_ns` (not back) through everything that is due on the way.
    pub(super) fn advance_to(&mut self, until_ns: u64) {
        let until_ns = until_ns.max(self.now_ns());
        while let Some(entry) = self.agenda.first_entry() {
            let (at, _) = *entry.key();
            if at > until_ns {
                break;
            }
            let due = entry.remove();
            self.clock_ns.set(at.max(self.now_ns()));
            self.happen(due);
        }
        self.clock_ns.set(until_ns);
    }

    /// Lets everything happen that is due by now.
    pub(super) fn settle(&mut self) {
        self.advance_to(self.now_ns());
    }

    fn schedule(&mut self, at_ns: u64, due: Due) {
        self.agenda_entries += 1;
        self.agenda.insert((at_ns, self.agenda_entries), due);
    }

    /// Has the driver look at a connection after `delay_ns`.
    pub(super) fn look_later(&mut self, id: WireId, delay_ns: u64) {
        self.schedule(self.after_ns(delay_ns), Due::Look(id));
    }

    /// Has a waiting driver return after `delay_ns`.
    pub(super) fn nudge_later(&mut self, delay_ns: u64) {
        self.schedule(self.after_ns(delay_ns), Due::Nudge);
    }

    /// Nothing due, nothing to look at: without a call from outside nothing will ever happen.
    pub(super) fn is_quiet(&self) -> bool {
        self.agenda.is_empty() && !self.drivers.iter().any(|side| self.has_news_for(side))
    }

    /// Whether a driver that looks now finds something.
    #[inline]
    pub(super) fn has_news_for(&self, side: &DriverSide) -> bool {
        let accepts = side.accepting && !self.backlog.is_empty();
        let woken = matches!(&*side.wake, WakeTarget::Flag(flag) if flag.load(Ordering::Acquire));
        accepts || woken || !side.ready.is_empty() || !side.connected.is_empty()
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrive(id, Way::ToDriver) => self.arrive_at_driver(id),
            Due::Arrive(id, Way::ToPeer) => self.arrive_at_peer(id),
            Due::Look(id) => self.mark_ready(id),
            Due::Knock(id) => match self.listening {
                Listening::By(0) => self.refuse_knock(id),
                _ => self.backlog.push_back(id),
            },
            Due::Connect { driver, .. } if !self.drivers[driver as usize].alive => {}
            Due::Connect { driver, to, source, tag, timed_out } => {
                let result = match self.listeners.contains_key(&to) {
                    true if timed_out => Err(libc::ETIMEDOUT),
                    true => Ok(self.new_wire(PeerAddr::Ip(to))),
                    false => Err(libc::ECONNREFUSED),
                };
                if let (Ok(id), Some(queue)) = (result, self.listeners.get_mut(&to)) {
                    queue.push_back(id);
                    self.wires[id as usize].source = source;
                }
                self.drivers[driver as usize].connected.push_back((tag, result));
            }
            Due::Nudge => {}
        }
    }

    // Connections.

    fn new_wire(&mut self, addr: PeerAddr) -> WireId {
        match self.free_wires.pop() {
            Some(id) => {
                self.wires[id as usize] = Wire::new(addr);
                id
            }
            None => {
                self.wires.push(Wire::new(addr));
                self.wires.len() as WireId - 1
            }
        }
    }

    /// A peer connects to whoever accepts.
    pub(super) fn connect_peer(&mut self, unix: bool) -> WireId {
        self.peers += 1;
        let [_, x, y, z] = self.peers.to_be_bytes();
        let addr = match unix {
            true => PeerAddr::Unix,
            false => PeerAddr::Ip(SocketAddr::from(([10, x, y, z], 40_000 + (self.peers % 20_000) as u16))),
        };
        let id = self.new_wire(addr);
        let delay = self.draw_ns(self.faults.latency_ms.clone());
        self.schedule(self.after_ns(delay), Due::Knock(id));
        self.note(Some(id), "peer connects", u64::from(self.peers));
        id
    }

    /// Nobody listens: the peer gets a reset.
    pub(super) fn refuse_knock(&mut self, id: WireId) {
        if !self.wires[id as usize].driver.closed {
            self.transmit(id, Way::ToPeer, Item::Reset(libc::ECONNREFUSED));
        }
        self.wires[id as usize].driver.broken = Some(libc::ECONNREFUSED);
        self.close_driver_end(id);
    }

    /// A driver connects to an address where the test may listen.
    pub(super) fn connect_driver(&mut self, driver: u32, to: SocketAddr, source: Option<IpAddr>, tag: u64) {
        let timed_out = self.strikes(Fault::ConnectFailure, None);
        let delay = self.draw_ns(self.faults.latency_ms.clone());
        self.note(None, "driver connects", tag);
        self.schedule(self.after_ns(delay), Due::Connect { driver, to, source, tag, timed_out });
    }

    pub(super) fn mark_ready(&mut self, id: WireId) {
        let end = &mut self.wires[id as usize].driver;
        if let (Some((driver, _)), false) = (end.owner, end.ready) {
            end.ready = true;
            self.drivers[driver as usize].ready.push_back(id);
        }
    }

    /// The same, before all others.
    pub(super) fn mark_ready_first(&mut self, id: WireId) {
        self.mark_ready(id);
        if let Some((driver, _)) = self.wires[id as usize].driver.owner {
            let ready = &mut self.drivers[driver as usize].ready;
            ready.retain(|&other| other != id);
            ready.push_front(id);
        }
    }

    /// Puts an item on its way. Nothing happens at once, even without latency.
    pub(super) fn transmit(&mut self, id: WireId, way: Way, item: Item) {
        let mut delay = self.draw_ns(self.faults.latency_ms.clone());
        if matches!(item, Item::Fin) && self.strikes(Fault::LateFin, Some(id)) {
            delay += self.lag_ns();
        }
        let due = self.after_ns(delay);
        let pipe = self.wires[id as usize].pipe(way);
        let due = pipe.last_due_ns.max(due);
        pipe.last_due_ns = due;
        pipe.bytes += item.len();
        pipe.transit.push_back((due, item));
        self.schedule(due, Due::Arrive(id, way));
    }

    /// The peer writes: in segments, each on its own way.
    pub(super) fn peer_writes(&mut self, id: WireId, bytes: &[u8]) {
        let end = &self.wires[id as usize].peer;
        if end.vanished || end.write_ended || bytes.is_empty() {
            return;
        }
        self.note(Some(id), "peer writes", bytes.len() as u64);
        let mut rest = Bytes::copy_from_slice(bytes);
        while rest.len() > 1 && self.strikes(Fault::Split, Some(id)) {
            let at = self.cut(rest.len() - 1);
            let segment = rest.split_to(at);
            self.transmit(id, Way::ToDriver, Item::Bytes(segment));
        }
        self.transmit(id, Way::ToDriver, Item::Bytes(rest));
    }

    pub(super) fn peer_shuts_down(&mut self, id: WireId) {
        let end = &mut self.wires[id as usize].peer;
        if !end.vanished && !end.write_ended {
            end.write_ended = true;
            self.note(Some(id), "peer sends fin", 0);
            self.transmit(id, Way::ToDriver, Item::Fin);
        }
    }

    pub(super) fn peer_resets(&mut self, id: WireId) {
        let wire = &mut self.wires[id as usize];
        if !wire.peer.vanished && !wire.peer.saw_reset && !wire.peer.has_reset {
            wire.peer.write_ended = true;
            wire.peer.has_reset = true;
            wire.to_peer.clear();
            self.note(Some(id), "peer resets", 0);
            self.transmit(id, Way::ToDriver, Item::Reset(libc::ECONNRESET));
        }
    }

    pub(super) fn peer_reads_on(&mut self, id: WireId) {
        let wire = &mut self.wires[id as usize];
        if !wire.peer.vanished {
            wire.peer.reading = true;
            self.drain_to_inbox(id);
        }
    }

    /// The test lets go of its end: a close, with a reset where bytes are left unread.
    pub(super) fn drop_peer_end(&mut self, id: WireId) {
        self.settle();
        if self.wires[id as usize].to_peer.has_arrived_bytes() {
            self.peer_resets(id);
        } else {
            self.peer_shuts_down(id);
        }
        self.wires[id as usize].peer.gone = true;
        self.free_if_over(id);
    }

    /// The driver closes: FIN after what was sent, or a reset if anything received was not taken
    /// (as Linux does, RFC 2525 §2.17).
    pub(super) fn close_driver_end(&mut self, id: WireId) {
        let wire = &mut self.wires[id as usize];
        if wire.driver.closed {
            return;
        }
        wire.driver.closed = true;
        let (broken, unread) = (wire.driver.broken.is_some(), wire.to_driver.has_arrived_bytes());
        let fin_is_out = wire.driver.write_ended;
        wire.to_driver.clear_arrived();
        self.note(Some(id), "driver closes", u64::from(unread));
        match (broken, unread, fin_is_out) {
            (true, ..) | (false, false, true) => {}
            (false, true, _) => {
                // Linux also throws away what it has not sent yet.
                if self.wires[id as usize].to_peer.bytes > 0 && self.strikes(Fault::ResetDiscards, Some(id)) {
                    self.wires[id as usize].to_peer.clear_transit();
                }
                self.transmit(id, Way::ToPeer, Item::Reset(libc::ECONNRESET));
            }
            (false, false, false) => self.transmit(id, Way::ToPeer, Item::Fin),
        }
        self.unready(id);
        self.free_if_over(id);
    }

    /// Breaks a connection from the middle: both ends get a reset.
    pub(super) fn break_wire(&mut self, id: WireId, errno: i32) {
        let wire = &mut self.wires[id as usize];
        if wire.driver.broken.is_some() {
            return;
        }
        wire.to_driver.clear_transit();
        wire.to_peer.clear_transit();
        wire.peer.write_ended = true;
        self.note(Some(id), "breaks", errno as u64);
        self.reset_reaches_driver(id, errno);
        self.transmit(id, Way::ToPeer, Item::Reset(errno));
    }

    fn reset_reaches_driver(&mut self, id: WireId, errno: i32) {
        let wire = &mut self.wires[id as usize];
        if wire.driver.closed || wire.driver.broken.is_some() {
            return;
        }
        wire.driver.broken = Some(errno);
        if wire.to_driver.has_arrived_bytes() && self.strikes(Fault::ResetDiscards, Some(id)) {
            self.wires[id as usize].to_driver.clear_arrived();
        }
        self.wires[id as usize].to_driver.arrived.push_back(Item::Reset(errno));
        self.mark_ready(id);
    }

    fn arrive_at_driver(&mut self, id: WireId) {
        let now = self.now_ns();
        while let Some(item) = self.wires[id as usize].to_driver.pop_due(now) {
            let len = item.len();
            self.wires[id as usize].to_driver.bytes -= len;
            let closed = self.wires[id as usize].driver.closed;
            match item {
                // Bytes for a closed socket are answered with a reset (RFC 9293 §3.10.7.1).
                Item::Bytes(_) if closed => {
                    self.wires[id as usize].to_driver.clear_transit();
                    self.transmit(id, Way::ToPeer, Item::Reset(libc::ECONNRESET));
                    break;
                }
                _ if closed => {}
                Item::Bytes(_) if self.strikes(Fault::Reset, Some(id)) => {
                    self.break_wire(id, libc::ECONNRESET);
                }
                Item::Reset(errno) => self.reset_reaches_driver(id, errno),
                item => {
                    let pipe = &mut self.wires[id as usize].to_driver;
                    pipe.bytes += len;
                    pipe.arrived.push_back(item);
                    self.mark_ready(id);
                }
            }
        }
    }

    fn arrive_at_peer(&mut self, id: WireId) {
        let now = self.now_ns();
        while let Some(item) = self.wires[id as usize].to_peer.pop_due(now) {
            let PeerEnd { vanished, gone, has_reset, .. } = self.wires[id as usize].peer;
            if (gone || has_reset) && !vanished {
                let len = item.len();
                self.wires[id as usize].to_peer.bytes -= len;
                if len > 0 && !has_reset {
                    self.wires[id as usize].to_peer.clear_transit();
                    self.transmit(id, Way::ToDriver, Item::Reset(libc::ECONNRESET));
                }
                continue;
            }
            match item {
                Item::Reset(_) => {
                    let wire = &mut self.wires[id as usize];
                    wire.peer.saw_reset |= !wire.peer.vanished;
                    wire.peer.write_ended = true;
                    self.note(Some(id), "peer gets reset", 0);
                    let unread = self.wires[id as usize].to_peer.has_arrived_bytes();
                    if unread && self.strikes(Fault::ResetDiscards, Some(id)) {
                        self.wires[id as usize].to_peer.clear();
                    }
                }
                Item::Bytes(bytes) if !vanished && self.strikes(Fault::Reset, Some(id)) => {
                    self.wires[id as usize].to_peer.bytes -= bytes.len();
                    self.break_wire(id, libc::ECONNRESET);
                }
                item => {
                    self.wires[id as usize].to_peer.arrived.push_back(item);
                    self.drain_to_inbox(id);
                }
            }
        }
    }

    /// Moves what arrived to the peer's inbox, if the peer reads.
    fn drain_to_inbox(&mut self, id: WireId) {
        while self.wires[id as usize].peer.reading {
            let wire = &mut self.wires[id as usize];
            match wire.to_peer.arrived.pop_front() {
                Some(Item::Bytes(bytes)) => {
                    wire.to_peer.bytes -= bytes.len();
                    wire.peer.inbox.extend_from_slice(&bytes);
                    self.note(Some(id), "peer reads", bytes.len() as u64);
                    // There is room again.
                    self.mark_ready(id);
                }
                Some(_) => {
                    wire.peer.saw_fin = true;
                    self.note(Some(id), "peer gets fin", 0);
                }
                None => break,
            }
        }
    }

    fn unready(&mut self, id: WireId) {
        let end = &mut self.wires[id as usize].driver;
        if let (Some((driver, _)), true) = (end.owner.take(), std::mem::take(&mut end.ready)) {
            self.drivers[driver as usize].ready.retain(|&other| other != id);
        }
    }

    fn free_if_over(&mut self, id: WireId) {
        let wire = &mut self.wires[id as usize];
        if wire.driver.closed && wire.peer.gone {
            wire.to_driver.clear();
            wire.to_peer.clear();
            wire.peer.inbox = Vec::new();
            self.free_wires.push(id);
        }
    }
}
