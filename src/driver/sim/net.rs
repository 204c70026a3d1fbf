//! The test's side of a simulated world: connect, write, read, reset, vanish, move the clock.
//!
//! Handles into the shared [`World`](super::world::World). The contract: calls never wait and never
//! run the driver; what they cause happens in the driver's next turns.

use super::faults::{Fault, Faults};
use super::wire::{Item, Wire, WireId};
use super::world::World;
use crate::driver::PeerAddr;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// A simulated network with a virtual clock, which starts at 0. Clones are handles to the same one.
///
/// Time moves when the test calls [`advance`](Self::advance) and when a driver waits: a wait goes to
/// the next thing that is due, or to its end. Otherwise no time passes, but for the microsecond
/// that a turn with a zero wait takes if it brings nothing, so that a caller who polls gets on.
///
/// ```
/// use ringwire::driver::sim::{Faults, SimNet};
/// use std::time::Duration;
/// let net = SimNet::new(1, Faults::calm());
/// net.advance(Duration::from_millis(250));
/// assert_eq!(net.now_ms(), 250);
/// assert!(net.is_quiet());
/// ```
#[derive(Clone)]
pub struct SimNet {
    pub(super) world: Rc<RefCell<World>>,
}

impl std::fmt::Debug for SimNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.world.try_borrow() {
            Ok(world) => write!(f, "SimNet(seed {}, {} ns)", world.seed, world.now_ns()),
            Err(_) => f.write_str("SimNet(busy)"),
        }
    }
}

impl SimNet {
    /// A world whose chances follow from `seed`.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { world: Rc::new(RefCell::new(World::new(seed, faults))) }
    }

    /// The seed, for the message of a failing test.
    pub fn seed(&self) -> u64 {
        self.world.borrow().seed
    }

    /// How the network misbehaves now.
    pub fn faults(&self) -> Faults {
        self.world.borrow().faults.clone()
    }

    /// Changes how it misbehaves from now on. What is on its way keeps its time of arrival.
    pub fn set_faults(&self, faults: Faults) {
        self.world.borrow_mut().faults = faults;
    }

    /// How often a kind of fault has struck.
    pub fn injected(&self, fault: Fault) -> u64 {
        self.world.borrow().injected(fault)
    }

    /// The virtual clock in nanoseconds, shared: it is to be read only.
    pub fn clock(&self) -> Rc<Cell<u64>> {
        self.world.borrow().clock()
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.world.borrow().now_ns())
    }

    /// Whole virtual milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        self.world.borrow().now_ns() / 1_000_000
    }

    /// Lets time pass. What is due on the way arrives; drivers see it in their next turn.
    pub fn advance(&self, by: Duration) {
        let mut world = self.world.borrow_mut();
        let until = world.after_ns(saturating_ns(by));
        world.advance_to(until);
    }

    /// Whether nothing will happen by itself any more: nothing is on its way and no driver has
    /// anything to look at. To be asked after a turn whose events have all been taken.
    pub fn is_quiet(&self) -> bool {
        let mut world = self.world.borrow_mut();
        world.settle();
        world.is_quiet()
    }

    /// A TCP peer connects to the driver. Addresses are `10.x.y.z`, counted up.
    ///
    /// Where listeners are closed it gets a reset; where there is no driver yet, it waits.
    pub fn connect(&self) -> SimPeer {
        self.peer(false)
    }

    /// The same over a Unix socket.
    pub fn connect_unix(&self) -> SimPeer {
        self.peer(true)
    }

    fn peer(&self, unix: bool) -> SimPeer {
        let id = self.world.borrow_mut().connect_peer(unix);
        SimPeer { net: self.clone(), id }
    }

    /// Listens where [`Driver::connect`](crate::driver::Driver::connect) may connect to; other
    /// addresses refuse.
    ///
    /// # Panics
    /// If somebody listens there already.
    pub fn listen(&self, addr: SocketAddr) -> SimListener {
        let taken = self.world.borrow_mut().listeners.insert(addr, VecDeque::new());
        assert!(taken.is_none(), "two listeners on {addr}");
        SimListener { net: self.clone(), addr }
    }

    /// When the next thing is due that happens by itself.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.world.borrow().next_due_ns().map(Duration::from_nanos)
    }

    /// Chooses the shard that has its turn.
    pub(crate) fn choose(&self, shards: &[usize]) -> Option<usize> {
        let mut world = self.world.borrow_mut();
        let last = shards.len().checked_sub(1)?;
        let chosen = shards[world.rng.between(0, last as u64) as usize];
        world.note(None, "turns", chosen as u64);
        Some(chosen)
    }

    /// Whether one of so many shards wakes up for nothing, and which.
    pub(crate) fn wakes_in_vain(&self, shards: usize) -> Option<usize> {
        let mut world = self.world.borrow_mut();
        world.strikes(Fault::SpuriousWake, None).then(|| world.rng.below(shards as u64) as usize)
    }

    /// How much later than it could a shard has its next turn.
    pub(crate) fn core_lag(&self) -> Duration {
        let mut world = self.world.borrow_mut();
        let late = world.strikes(Fault::LateCore, None);
        Duration::from_nanos(if late { world.lag_ns() } else { 0 })
    }

    /// What happened lately, one line each, oldest first.
    pub fn trace(&self) -> String {
        self.world.borrow().trace.text()
    }

    /// A hash over everything that happened since the start: equal in two runs that went the same.
    pub fn trace_hash(&self) -> u64 {
        self.world.borrow().trace.hash()
    }

    /// Prints seed and trace to stderr if the thread panics while the guard lives.
    #[must_use = "the trace is printed by the guard's drop"]
    pub fn trace_on_panic(&self) -> TraceOnPanic {
        TraceOnPanic { net: self.clone() }
    }

    /// Leases that were not released when their driver was dropped.
    pub fn leaked_leases(&self) -> u64 {
        self.world.borrow().leaked_leases
    }
}

/// A duration in nanoseconds; 584 years and more are one to a simulation.
pub(super) fn saturating_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// See [`SimNet::trace_on_panic`].
#[derive(Debug)]
pub struct TraceOnPanic {
    net: SimNet,
}

impl Drop for TraceOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            match self.net.world.try_borrow() {
                Ok(world) => eprintln!("simulation with seed {}:\n{}", world.seed, world.trace.text()),
                Err(_) => eprintln!("simulation panicked inside; no trace"),
            }
        }
    }
}

/// The far end of a connection, in the hands of a test.
///
/// It reads all the time: what arrives is kept, without limit, until [`read`](Self::read) takes it.
/// Dropping it closes it, as a program's exit would: with FIN, or with a reset where bytes are unread.
///
/// ```
/// use ringwire::driver::sim::{Faults, SimNet};
/// let net = SimNet::new(1, Faults::none());
/// let mut peer = net.connect();
/// peer.write(b"GET / HTTP/1.1\r\n");
/// assert_eq!(peer.unreceived_bytes(), 16);
/// peer.vanish(); // no FIN, no acknowledgement: half-open
/// ```
#[derive(Debug)]
pub struct SimPeer {
    net: SimNet,
    id: WireId,
}

impl SimPeer {
    fn look<T>(&self, look: impl FnOnce(&mut Wire) -> T) -> T {
        let mut world = self.net.world.borrow_mut();
        world.settle();
        look(&mut world.wires[self.id as usize])
    }

    /// The address the driver knows it by; for an accepted one, where it was connected to.
    pub fn addr(&self) -> PeerAddr {
        self.look(|wire| wire.addr)
    }

    /// The address a driver asked to connect from, for an accepted one.
    pub fn source(&self) -> Option<IpAddr> {
        self.look(|wire| wire.source)
    }

    /// Its number in the trace. Numbers are used again when both ends are closed.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Writes bytes. There is no limit: what the driver does not take waits here. Nothing is
    /// written after a FIN, a reset or [`vanish`](Self::vanish).
    pub fn write(&mut self, bytes: &[u8]) {
        self.net.world.borrow_mut().peer_writes(self.id, bytes);
    }

    /// Bytes written that the driver has not handed on: those on their way and those waiting
    /// because receiving is paused.
    pub fn unreceived_bytes(&self) -> usize {
        self.look(|wire| wire.to_driver.bytes)
    }

    /// Takes what has arrived.
    pub fn read(&mut self) -> Vec<u8> {
        self.look(|wire| std::mem::take(&mut wire.peer.inbox))
    }

    /// Sends FIN after what was written. Reading goes on.
    pub fn shutdown_write(&mut self) {
        self.net.world.borrow_mut().peer_shuts_down(self.id);
    }

    /// Sends a reset after what was written (see [`Faults::reset_discards_permille`]), and neither
    /// reads nor writes any more.
    pub fn reset(&mut self) {
        self.net.world.borrow_mut().peer_resets(self.id);
    }

    /// Is gone without a word: what it wrote and has not arrived is lost, nothing is acknowledged,
    /// no FIN and no reset ever comes. The driver's sends succeed until the window is full.
    pub fn vanish(&mut self) {
        let mut world = self.net.world.borrow_mut();
        world.settle();
        world.note(Some(self.id), "peer vanishes", 0);
        let wire = &mut world.wires[self.id as usize];
        wire.peer.vanished = true;
        wire.peer.reading = false;
        wire.to_driver.clear_transit();
    }

    /// Stops reading: the window fills, then the driver's sends wait.
    pub fn stop_reading(&mut self) {
        self.look(|wire| wire.peer.reading = false);
    }

    /// Reads again.
    pub fn start_reading(&mut self) {
        let mut world = self.net.world.borrow_mut();
        world.settle();
        world.peer_reads_on(self.id);
    }

    /// Whether the driver's FIN was read: it comes after its last byte.
    pub fn saw_fin(&self) -> bool {
        self.look(|wire| wire.peer.saw_fin)
    }

    /// Whether a reset arrived.
    pub fn saw_reset(&self) -> bool {
        self.look(|wire| wire.peer.saw_reset)
    }

    /// Whether the driver closed the connection or it broke, and that news arrived. A FIN from a
    /// driver that still receives is not enough.
    pub fn is_closed(&self) -> bool {
        self.look(|wire| (wire.driver.closed && wire.peer.saw_fin) || wire.peer.saw_reset)
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        // Not borrowable only while a panic inside the world unwinds.
        if let Ok(mut world) = self.net.world.try_borrow_mut() {
            world.drop_peer_end(self.id);
        }
    }
}

/// An address where drivers may connect to, until dropped.
///
/// ```
/// use ringwire::driver::sim::{Faults, SimNet};
/// let net = SimNet::new(1, Faults::none());
/// let mut listener = net.listen("10.9.9.9:80".parse().unwrap());
/// assert!(listener.accept().is_none());
/// ```
#[derive(Debug)]
pub struct SimListener {
    net: SimNet,
    addr: SocketAddr,
}

impl SimListener {
    /// The far end of the next connection a driver opened, if there is one.
    pub fn accept(&mut self) -> Option<SimPeer> {
        let mut world = self.net.world.borrow_mut();
        world.settle();
        let id = world.listeners.get_mut(&self.addr)?.pop_front()?;
        drop(world);
        Some(SimPeer { net: self.net.clone(), id })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Ok(mut world) = self.net.world.try_borrow_mut() {
            for id in world.listeners.remove(&self.addr).unwrap_or_default() {
                // Nobody accepted it: the host answers with a reset.
                world.transmit(id, super::wire::Way::ToDriver, Item::Reset(libc::ECONNRESET));
                world.wires[id as usize].peer.gone = true;
            }
        }
    }
}
