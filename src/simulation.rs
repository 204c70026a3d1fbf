//! A whole shard in a simulated world: a service's handler, the engine, and a network that misbehaves
//! on demand, all in the calling thread.
//!
//! Touches no descriptor, no clock and no thread. The contract: one seed and one sequence of calls
//! give one history, and whenever the shard comes to rest its books are checked, so that a test of
//! a handler is one of the engine as well.

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
use crate::server::ShardInfo;
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Turns after which a shard that has not come to rest is taken for one that never will.
const MAX_TURNS: u32 = 10_000_000;

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
    core: Core<Checked<Sim>, H>,
    remote: Remote,
    stopped: bool,
}

impl<H: Handler> std::fmt::Debug for Simulation<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("net", &self.net)
            .field("connections", &self.core.connections())
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

/// Collects what a simulation is to be. See [`Simulation::builder`].
#[derive(Clone, Debug)]
pub struct SimulationBuilder<H> {
    seed: u64,
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

    /// Builds the world and the shard in it. `factory` is what [`Server::run`](crate::Server::run)
    /// is given; the shard has number 0 and no core.
    pub fn build(self, factory: impl FnOnce(&ShardInfo) -> H) -> Simulation<H> {
        let Self { seed, faults, limits, deadlines, origin, compression, tls, admission, rates, .. } = self;
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
        let driver = Checked::new(Sim::new(&net, &driver_config), &driver_config);
        let (sender, inbox) = mailbox(&limits, driver.waker());
        let stats: Arc<crate::engine::stats::Stats> = Arc::default();
        let peers = Arc::new(Peers { mailboxes: OnceLock::from(vec![sender]), ..Peers::new(1, &limits) });
        let remote = Remote {
            directory: Arc::new(Directory {
                peers: peers.clone(),
                stats: vec![stats.clone()],
                driver: Sim::NAME,
            }),
        };
        let info = ShardInfo { index: 0, core: None, driver: Sim::NAME, remote: remote.clone() };
        let config = CoreConfig {
            shard: 0,
            limits,
            deadlines,
            origin,
            compression,
            gate,
            rates,
            busy_poll: None,
            tls,
            helpers: Helpers::simulated(self.tls_threads),
            peers,
        };
        let clock = Clock::simulated(net.clock());
        let core = Core::new(driver, factory(&info), config, clock, inbox, stats);
        Simulation { net, core, remote, stopped: false }
    }
}

impl<H: Handler> Simulation<H> {
    /// Begins a configuration. All chance follows from `seed`.
    pub fn builder(seed: u64) -> SimulationBuilder<H> {
        SimulationBuilder {
            seed,
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

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        self.core.handler()
    }

    /// What other threads reach the shard with. What is posted is done in the next
    /// [`run`](Self::run).
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        self.net.now()
    }

    /// Connections that the shard holds, in any state.
    pub fn connections(&self) -> usize {
        self.core.connections()
    }

    /// Asks for a graceful end, as [`ServerHandle::shutdown`](crate::ServerHandle::shutdown) does.
    pub fn shutdown(&mut self) {
        self.remote.post_to_all(|| Command::Drain);
    }

    /// Asks for an end at once, as [`ServerHandle::stop`](crate::ServerHandle::stop) does.
    pub fn stop(&mut self) {
        self.remote.post_to_all(|| Command::Stop);
    }

    /// Whether the shard has stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Turns until nothing is on its way and the shard has nothing left to do. Time passes only as
    /// far as the network's delays ask for; deadlines beyond wait for [`advance`](Self::advance).
    ///
    /// # Panics
    /// Where the engine's books do not balance (see [`advance`](Self::advance)), where the driver
    /// breaks one of its laws, and if the shard never comes to rest.
    pub fn run(&mut self) {
        let mut wait = Some(Duration::ZERO);
        for _ in 0..MAX_TURNS {
            self.turn(wait);
            if self.net.is_quiet() && self.core.is_at_rest() {
                return self.check();
            }
            wait = None;
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
        while self.net.now() < until && !self.stopped {
            self.turn(Some(until - self.net.now()));
        }
        // A shard that has stopped has nothing to wait for, and would poll its way there.
        self.net.advance(until.saturating_sub(self.net.now()));
        self.run();
    }

    fn turn(&mut self, at_most: Option<Duration>) {
        match self.core.turn(at_most) {
            Ok(goes_on) => self.stopped |= !goes_on,
            // The simulated driver has no kernel that could fail it.
            Err(error) => panic!("seed {}: the driver failed: {error}", self.net.seed()),
        }
    }

    fn check(&self) {
        if let Err(wrong) = self.core.audit() {
            panic!("seed {}: at {:?}: {wrong}", self.net.seed(), self.net.now());
        }
        assert_eq!(self.core.driver().leases_out(), 0, "seed {}: leases were kept", self.net.seed());
    }
}
