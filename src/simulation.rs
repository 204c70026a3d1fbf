//! Whole shards in a simulated world: a service's handler, the engine, and a network that misbehaves
//! on demand, all in the calling thread.
//!
//! Touches no descriptor and no clock, and starts no thread. The contract: one seed and one sequence of calls
//! give one history, and whenever the shards come to rest their books are checked, so that a test of
//! a handler is one of the engine as well. Several shards know each other as those of a server do,
//! and have their turns in an order that follows from the seed.

use crate::config::{Admission, Compression, Deadlines, Limits, OriginPolicy, Rates};
use crate::driver::checked::Checked;
use crate::driver::sim::{Faults, Sim, SimNet, SimPeer};
use crate::driver::{Driver, DriverConfig};
use crate::engine::admission::Gate;
use crate::engine::clock::Clock;
use crate::engine::mailbox::mailbox;
use crate::engine::peers::Peers;
use crate::engine::tls::{Helpers, Listeners};
use crate::engine::{Command, Core, CoreConfig};
use crate::handler::Handler;
use crate::remote::{Directory, Remote};
use crate::server::{MAX_SHARDS, ShardInfo};
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Turns after which shards that have not come to rest are taken for such that never will.
const MAX_TURNS: u32 = 10_000_000;

/// Looks, a millisecond apart, at a mailbox in which something is left and of which nobody was told.
const PATIENCE: u32 = 1_000;

/// Runs a [`Handler`] deterministically: no sockets, no threads, a clock that the test moves.
///
/// [`connect`](Self::connect) gives the far end of a connection, as raw bytes;
/// [`run`](Self::run) lets the shard do all there is to do; [`advance`](Self::advance) lets time pass,
/// so that a deadline of minutes costs nothing. With [`Faults::rough`] reads are cut anywhere, sends
/// are short and connections break, all of it decided by the seed.
///
/// ```
/// use ringwire::sim::Simulation;
/// use ringwire::ws::{Codec, Event, Message, client::ClientHandshake};
/// use ringwire::{Conn, Handler, Request, Upgrade};
///
/// struct Shout;
///
/// impl Handler for Shout {
///     type State = ();
///
///     fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
///         Upgrade::accept(())
///     }
///
///     fn message(&mut self, conn: &mut Conn<'_, ()>, message: ringwire::Message<'_>) {
///         if let ringwire::Message::Text(text) = message {
///             conn.send_text(&text.to_uppercase());
///         }
///     }
/// }
///
/// let mut simulation = Simulation::<Shout>::builder(42).build(|_shard| Shout);
/// let mut peer = simulation.connect();
/// let mut handshake = ClientHandshake::new("example.org", "/", [7; 16])?;
/// let mut request = Vec::new();
/// handshake.write_request(&mut request);
/// peer.write(&request);
/// simulation.run();
/// assert!(handshake.check_response(&peer.read())?.is_some());
///
/// let mut client = Codec::client(1 << 20, || [1, 2, 3, 4]);
/// client.writer().send(Message::Text("hello"))?;
/// peer.write(&std::mem::take(client.output()));
/// simulation.run();
/// let mut heard = String::new();
/// client.feed(&mut peer.read(), |event, _| {
///     if let Event::Message(Message::Text(text)) = event {
///         heard.push_str(text);
///     }
/// })?;
/// assert_eq!(heard, "HELLO");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Simulation<H: Handler> {
    net: SimNet,
    cores: Vec<Core<Checked<Sim>, H>>,
    /// Of each.
    threads: Vec<Thread>,
    remote: Remote,
}

/// What a shard's thread would be about.
#[derive(Clone, Debug, Default)]
struct Thread {
    /// It is to have a turn, whether or not something has come.
    owed: bool,
    /// It has none before.
    not_before: Duration,
    stopped: bool,
}

impl<H: Handler> std::fmt::Debug for Simulation<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("net", &self.net)
            .field("connections", &self.connections())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Collects what a simulation is to be. See [`Simulation::builder`].
#[derive(Clone, Debug)]
pub struct SimulationBuilder<H> {
    seed: u64,
    shards: usize,
    faults: Faults,
    limits: Limits,
    deadlines: Deadlines,
    origin: OriginPolicy,
    compression: Compression,
    tls: Listeners,
    tls_threads: usize,
    admission: Admission,
    rates: Rates,
    /// Known when it is built.
    handler: PhantomData<fn() -> H>,
}

impl<H: Handler> SimulationBuilder<H> {
    /// How many shards the service has; default 1. Each has its own handler, and they reach each other through
    /// their mailboxes, as those of a server. Which of those that have something to do has the next turn
    /// follows from the seed, and so does which one accepts a connection.
    ///
    /// ```
    /// use ringwire::sim::{Faults, Simulation};
    /// use ringwire::{Conn, Handler, Message, Prepared, Request, Upgrade};
    ///
    /// struct Chat;
    ///
    /// impl Handler for Chat {
    ///     type State = ();
    ///
    ///     fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
    ///         Upgrade::accept(())
    ///     }
    ///
    ///     fn open(&mut self, conn: &mut Conn<'_, ()>) {
    ///         conn.subscribe("room").expect("a valid name, and room for it");
    ///     }
    ///
    ///     fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
    ///         if let Message::Text(text) = message {
    ///             // All hear it, whichever shard they are on.
    ///             let _ = conn.publish("room", &Prepared::text(text.to_owned()));
    ///         }
    ///     }
    /// }
    ///
    /// let faults = Faults::rough().without_errors();
    /// let mut simulation = Simulation::<Chat>::builder(42).shards(4).faults(faults).build(|_shard| Chat);
    /// let mut peers: Vec<_> = (0..8).map(|_| simulation.connect()).collect();
    /// for peer in &mut peers {
    ///     peer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    ///     peer.write(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    /// }
    /// simulation.run();
    /// peers[0].write(b"\x81\x82\0\0\0\0hi");
    /// simulation.run();
    /// for peer in &mut peers {
    ///     assert!(peer.read().ends_with(b"\x81\x02hi"));
    /// }
    /// ```
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// How the network misbehaves; default [`Faults::none`].
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Bounds; default [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Deadlines; default [`Deadlines::default`].
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Who may open a WebSocket from a page; default [`OriginPolicy::SameOrigin`].
    pub fn origin(mut self, origin: OriginPolicy) -> Self {
        self.origin = origin;
        self
    }

    /// Whether and how messages are compressed; default [`Compression::Off`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Those who connect to the service speak TLS with it. What rustls draws at random does not follow
    /// from the seed, so that some messages of a handshake differ from run to run, by a byte or two in
    /// length where the key is ECDSA.
    #[cfg(feature = "tls")]
    pub fn listen_tls(mut self, config: TlsConfig) -> Self {
        self.tls = vec![Some(config)];
        self
    }

    /// Steps of TLS handshakes are taken elsewhere, as
    /// [`ServerBuilder::tls_threads`](crate::ServerBuilder::tls_threads) does: here they come back some milliseconds later, if
    /// this is not 0.
    #[cfg(feature = "tls")]
    pub fn tls_threads(mut self, threads: usize) -> Self {
        self.tls_threads = threads;
        self
    }

    /// How many connections are let in, from whom; default [`Admission::default`].
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// How fast each peer may send; default as fast as it likes.
    pub fn rates(mut self, rates: Rates) -> Self {
        self.rates = rates;
        self
    }

    /// Builds the world and the shards in it. `factory` is what [`Server::run`](crate::Server::run)
    /// is given; it is called for each shard in turn, and none has a core.
    ///
    /// # Panics
    /// If there are to be no shards, or more than [`MAX_SHARDS`].
    pub fn build(self, mut factory: impl FnMut(&ShardInfo) -> H) -> Simulation<H> {
        let Self { seed, shards, faults, limits, admission, .. } = self;
        assert!((1..=MAX_SHARDS).contains(&shards), "{shards} shards: give 1 to {MAX_SHARDS}");
        let gate = Arc::new(Gate::new(admission));
        let net = SimNet::new(seed, faults);
        let driver_config = DriverConfig {
            max_connections: limits.max_connections,
            receive_buffers: limits.receive_buffers,
            receive_buffer_bytes: limits.receive_buffer_bytes,
            max_receive_bytes_per_turn: limits.max_receive_bytes_per_turn,
            shards_per_core: 1,
            busy_poll: false,
        };
        let drivers: Vec<_> =
            (0..shards).map(|_| Checked::new(Sim::new(&net, &driver_config), &driver_config)).collect();
        let (senders, inboxes): (Vec<_>, Vec<_>) =
            drivers.iter().map(|driver| mailbox(&limits, driver.waker())).unzip();
        let mailboxes = OnceLock::from(senders);
        let peers = Arc::new(Peers { mailboxes, ..Peers::simulated(shards, &limits) });
        let stats = drivers.iter().map(|_| Arc::default()).collect();
        let remote =
            Remote { directory: Arc::new(Directory { peers: peers.clone(), stats, driver: Sim::NAME }) };
        let core = |(index, (driver, inbox))| {
            let info = ShardInfo { index, core: None, driver: Sim::NAME, remote: remote.clone() };
            let config = CoreConfig {
                shard: index as u8,
                limits: limits.clone(),
                deadlines: self.deadlines.clone(),
                origin: self.origin.clone(),
                compression: self.compression.clone(),
                gate: gate.clone(),
                rates: self.rates.clone(),
                busy_poll: None,
                tls: self.tls.clone(),
                helpers: Helpers::simulated(self.tls_threads),
                peers: peers.clone(),
            };
            let stats = remote.directory.stats[index].clone();
            Core::new(driver, factory(&info), config, Clock::simulated(net.clock()), inbox, stats)
        };
        let cores: Vec<_> = drivers.into_iter().zip(inboxes).enumerate().map(core).collect();
        let threads = vec![Thread::default(); cores.len()];
        Simulation { net, cores, threads, remote }
    }
}

impl<H: Handler> Simulation<H> {
    /// Begins a configuration. All chance follows from `seed`.
    pub fn builder(seed: u64) -> SimulationBuilder<H> {
        SimulationBuilder {
            seed,
            shards: 1,
            faults: Faults::default(),
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            origin: OriginPolicy::default(),
            compression: Compression::default(),
            tls: Default::default(),
            tls_threads: 0,
            admission: Admission::default(),
            rates: Rates::default(),
            handler: PhantomData,
        }
    }

    /// A peer connects; it is accepted in the next [`run`](Self::run).
    pub fn connect(&mut self) -> SimPeer {
        self.net.connect()
    }

    /// The network: faults, trace, addresses that the shard may connect to.
    pub fn net(&self) -> &SimNet {
        &self.net
    }

    /// The handler of the first shard.
    pub fn handler(&mut self) -> &mut H {
        self.handler_of(0)
    }

    /// The handler of a shard.
    ///
    /// # Panics
    /// If there is none of that number.
    pub fn handler_of(&mut self, shard: usize) -> &mut H {
        self.cores[shard].handler()
    }

    /// What other threads reach the shards with. What is posted is done in the next
    /// [`run`](Self::run).
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        self.net.now()
    }

    /// Connections that the shards hold, in any state.
    pub fn connections(&self) -> usize {
        self.cores.iter().map(Core::connections).sum()
    }

    /// Asks for a graceful end, as [`ServerHandle::shutdown`](crate::ServerHandle::shutdown) does.
    pub fn shutdown(&mut self) {
        self.remote.post_to_all(|| Command::Drain);
    }

    /// Asks for an end at once, as [`ServerHandle::stop`](crate::ServerHandle::stop) does.
    pub fn stop(&mut self) {
        self.remote.post_to_all(|| Command::Stop);
    }

    /// Whether all shards have stopped.
    pub fn is_stopped(&self) -> bool {
        self.threads.iter().all(|thread| thread.stopped)
    }

    /// Turns until nothing is on its way and the shards have nothing left to do. Time passes only as
    /// far as the network's delays ask for; deadlines beyond wait for [`advance`](Self::advance).
    ///
    /// # Panics
    /// Where the engine's books do not balance (see [`advance`](Self::advance)), where the driver
    /// breaks one of its laws, and if the shards never come to rest.
    pub fn run(&mut self) {
        self.threads.iter_mut().for_each(|thread| thread.owed = true);
        let (mut wait, mut patience) = (Some(Duration::ZERO), PATIENCE);
        for _ in 0..MAX_TURNS {
            self.turn_one(wait);
            wait = self.is_at_rest().then_some(Duration::ZERO);
            if wait.is_none() {
                continue;
            }
            let Some((shard, mail)) =
                self.cores.iter().map(Core::mail).enumerate().find(|(_, mail)| *mail != (0, 0, 0))
            else {
                return self.check();
            };
            // Either another thread is about to wake the core, or nobody ever will.
            patience -= 1;
            assert!(
                patience > 0,
                "seed {}: {mail:?} are left in the mailbox of shard {shard}",
                self.net.seed()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("seed {}: no rest after {MAX_TURNS} turns", self.net.seed());
    }

    /// Lets time pass, with all that becomes due on the way, and then [`run`](Self::run)s.
    ///
    /// # Panics
    /// As `run`: bytes counted as queued must be those in the outboxes, connections must hold no
    /// memory they have no use for, every deadline must have its timer and every receive buffer be
    /// back.
    pub fn advance(&mut self, by: Duration) {
        let until = self.net.now().saturating_add(by);
        while self.net.now() < until && !self.is_stopped() {
            self.turn_one(Some(until - self.net.now()));
        }
        // A shard that has stopped has nothing to wait for, and would poll its way there.
        self.net.advance(until.saturating_sub(self.net.now()));
        self.run();
    }

    /// One turn of one shard, so that a test can do something between turns; or, where none has anything to
    /// do, time passes until one has, and not by more than `at_most`. The books are not checked.
    ///
    /// # Panics
    /// Where the driver breaks one of its laws.
    pub fn step(&mut self, at_most: Duration) {
        self.turn_one(Some(at_most));
    }

    fn is_at_rest(&self) -> bool {
        !self.threads.iter().any(|thread| thread.owed)
            && self.net.is_quiet()
            && self.cores.iter().all(|core| core.is_at_rest() && !core.driver().inner().has_events())
    }

    /// One turn, of one of those shards that have something to do; where there are several and none has, time
    /// passes until one has.
    fn turn_one(&mut self, at_most: Option<Duration>) {
        if self.cores.len() == 1 {
            return self.turn(0, at_most);
        }
        let now = self.net.now();
        let (awake, asleep): (Vec<usize>, Vec<usize>) =
            (0..self.cores.len()).partition(|shard| self.is_awake(*shard, now));
        let (free, late): (Vec<usize>, Vec<usize>) =
            awake.into_iter().partition(|shard| self.threads[*shard].not_before <= now);
        if let Some(shard) = self.net.choose(&free) {
            self.turn(shard, Some(Duration::ZERO));
            self.threads[shard].not_before = self.net.now() + self.net.core_lag();
            return;
        }
        let late = late.iter().map(|shard| self.threads[*shard].not_before);
        let due = asleep.iter().filter_map(|shard| self.next_due(*shard));
        let end = at_most.map(|at_most| now.saturating_add(at_most));
        if let Some(until) = late.chain(due).chain(self.net.next_due()).chain(end).min() {
            self.sleep(until);
        }
    }

    /// Whether a shard's thread would not wait, or not any more.
    fn is_awake(&self, shard: usize, now: Duration) -> bool {
        let core = &self.cores[shard];
        self.threads[shard].owed
            || core.driver().inner().has_news()
            || self.next_due(shard).is_some_and(|due| due <= now)
    }

    /// When a shard's next turn is due if nothing wakes it before; one that has stopped only ends what it began.
    fn next_due(&self, shard: usize) -> Option<Duration> {
        let core = &self.cores[shard];
        if self.threads[shard].stopped && core.is_at_rest() { None } else { core.next_due() }
    }

    /// Lets time pass for all shards.
    fn sleep(&mut self, until: Duration) {
        self.net.advance(until.saturating_sub(self.net.now()));
        if let Some(shard) = self.net.wakes_in_vain(self.cores.len()) {
            self.threads[shard].owed = true;
        }
        for shard in 0..self.cores.len() {
            // Before the shards are at rest their timers have fired.
            self.threads[shard].owed |= self.next_due(shard).is_some_and(|due| due <= until);
        }
    }

    fn turn(&mut self, shard: usize, at_most: Option<Duration>) {
        self.threads[shard].owed = false;
        match self.cores[shard].turn(at_most) {
            Ok(goes_on) => self.threads[shard].stopped |= !goes_on,
            // The simulated driver has no kernel that could fail it.
            Err(error) => panic!("seed {}: the driver failed: {error}", self.net.seed()),
        }
    }

    fn check(&self) {
        if let Err(wrong) = Core::audit_all(&self.cores) {
            panic!("seed {}: at {:?}: {wrong}", self.net.seed(), self.net.now());
        }
        for core in &self.cores {
            assert_eq!(core.driver().leases_out(), 0, "seed {}: leases were kept", self.net.seed());
        }
    }
}
