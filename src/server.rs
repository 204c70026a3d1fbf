//! From configuration to running shards: probe, bind, pin, spawn, drain.

use crate::config::{
    Admission, BusyPoll, Compression, Deadlines, DeflateConfig, DriverChoice, Limits, ListenAddr,
    OriginPolicy, Rates,
};
use crate::driver::epoll::Epoll;
use crate::driver::listen::{self, Listener, TcpOptions};
use crate::driver::probe::{self, Chosen};
use crate::driver::uring::Uring;
use crate::driver::{Driver, DriverConfig};
use crate::engine::admission::Gate;
use crate::engine::clock::Clock;
use crate::engine::mailbox::{Mailbox, mailbox};
use crate::engine::peers::Peers;
use crate::engine::tls::{Crew, Listeners, kernel_wish};
use crate::engine::{Command, Core, CoreConfig};
use crate::error::ServerError;
use crate::handler::Handler;
use crate::remote::{Directory, DrainProgress, Remote};
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// The most shards one server can have: a [`ConnId`](crate::ConnId) has 8 bits for them.
pub const MAX_SHARDS: usize = 256;

/// The cores this process may use, as [`ServerBuilder::cores`] names them: those of its affinity
/// mask (sched_setaffinity(2)). Empty where they cannot be told; nothing is pinned then.
///
/// ```
/// let first_two = ringwire::available_cores().into_iter().take(2);
/// let builder = ringwire::Server::builder().cores(first_two);
/// ```
pub fn available_cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Collects what a server is to be. See [`Server::builder`].
#[derive(Clone, Debug, Default)]
pub struct ServerBuilder {
    addrs: Vec<ListenAddr>,
    tls: Listeners,
    tls_threads: usize,
    shards: Option<usize>,
    cores: Option<Vec<usize>>,
    incoming_cpu: bool,
    driver: DriverChoice,
    limits: Limits,
    deadlines: Deadlines,
    origin: OriginPolicy,
    compression: Compression,
    busy_poll: Option<BusyPoll>,
    admission: Admission,
    rates: Rates,
}

impl ServerBuilder {
    /// Adds an address to listen on. None is fine for a server that only opens connections itself.
    pub fn listen(mut self, addr: impl Into<ListenAddr>) -> Self {
        self.addrs.push(addr.into());
        #[cfg(feature = "tls")]
        self.tls.push(None);
        self
    }

    /// Adds an address to listen on for TLS: `https` and `wss`.
    #[cfg(feature = "tls")]
    pub fn listen_tls(mut self, addr: impl Into<ListenAddr>, config: TlsConfig) -> Self {
        self.addrs.push(addr.into());
        self.tls.push(Some(config));
        self
    }

    /// Threads that take the steps of TLS handshakes off the shards, which serve others meanwhile; default 0,
    /// the shards take them themselves. They run on cores that no shard is pinned to, if there are any. A
    /// shard has at most 64 steps with them; handshakes beyond wait in order
    /// (`ringwire_tls_steps_away`, `ringwire_tls_steps_helped_total`).
    ///
    /// ```no_run
    /// # let tls: ringwire::TlsConfig = unimplemented!();
    /// # let addr: ringwire::ListenAddr = "0.0.0.0:443".parse()?;
    /// // Three cores for shards, one for handshakes.
    /// let builder = ringwire::Server::builder().listen_tls(addr, tls).cores([0, 1, 2]).tls_threads(1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls_threads(mut self, threads: usize) -> Self {
        self.tls_threads = threads;
        self
    }

    /// How many shards run; default one per core it may use. Several may share a core.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// The cores the shards are pinned to, in turn; default all this process may use. An empty list
    /// pins nothing.
    pub fn cores(mut self, cores: impl IntoIterator<Item = usize>) -> Self {
        self.cores = Some(cores.into_iter().collect());
        self
    }

    /// Has a TCP connection go to a shard on the core on which its first packet came in, not to any (`SO_INCOMING_CPU`,
    /// socket(7); Linux 6.2 heeds it); default off. Where each core takes the packets of a queue of the network
    /// card, a connection's bytes then stay on one core. Uneven queues make uneven shards.
    ///
    /// ```
    /// // One shard on each core.
    /// let builder = ringwire::Server::builder().incoming_cpu(true);
    /// ```
    pub fn incoming_cpu(mut self, on: bool) -> Self {
        self.incoming_cpu = on;
        self
    }

    /// The driver; default [`DriverChoice::Auto`].
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
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

    /// Whether messages are compressed; default [`Compression::Off`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How many connections are let in, from whom; default [`Admission::default`].
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// How fast each peer may send; default [`Rates::default`], as fast as it likes.
    pub fn rates(mut self, rates: Rates) -> Self {
        self.rates = rates;
        self
    }

    /// Polls instead of sleeping while traffic is frequent; default off.
    pub fn busy_poll(mut self, busy_poll: BusyPoll) -> Self {
        self.busy_poll = Some(busy_poll);
        self
    }

    /// Chooses the driver and binds the addresses. Peers wait in the backlog until [`Server::run`].
    /// Where somebody listens already it waits up to a second for that to end: a killed predecessor's
    /// sockets stay for a moment.
    ///
    /// # Errors
    /// [`ServerError::Config`], [`ServerError::Driver`] or [`ServerError::Listen`].
    pub fn bind(self) -> Result<Server, ServerError> {
        let available = available_cores();
        let cores = self.cores.unwrap_or_else(|| available.clone());
        if let Some(missing) = cores.iter().find(|id| !available.contains(id)) {
            return Err(ServerError::Config(format!(
                "core {missing} is not one this process may use ({})",
                available.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
            )));
        }
        let shards = self.shards.unwrap_or(cores.len()).max(usize::from(self.shards.is_none()));
        if !(1..=MAX_SHARDS).contains(&shards) {
            return Err(ServerError::Config(format!("{shards} shards: give 1 to {MAX_SHARDS}")));
        }
        if self.tls_threads > MAX_SHARDS {
            return Err(ServerError::Config(format!(
                "{} threads for TLS: give 0 to {MAX_SHARDS}",
                self.tls_threads
            )));
        }
        check_limits(&self.limits)?;
        if let Compression::Deflate(config) = &self.compression {
            check_deflate(config)?;
        }
        if let Some(config) = &self.busy_poll {
            check_busy_poll(config)?;
        }
        let (chosen, reason) =
            probe::choose(self.driver).map_err(|refused| ServerError::Driver(refused.to_string()))?;
        let mut listeners: Vec<Vec<Listener>> = (0..shards).map(|_| Vec::new()).collect();
        let mut local_addrs = Vec::new();
        let tcp = TcpOptions {
            keepalive_s: self.deadlines.tcp_keepalive_s,
            user_timeout_ms: self.deadlines.tcp_user_timeout_ms,
        };
        for (index, addr) in self.addrs.into_iter().enumerate() {
            let kernel = kernel_wish(&self.tls, index);
            if kernel == Some(true) {
                probe::kernel_tls().map_err(ServerError::Config)?;
            }
            let failed = |error| ServerError::Listen { addr: addr.clone(), error };
            let (bound, local) = listen::bind_when_free(&addr, shards, &tcp).map_err(failed)?;
            for (index, (shard, mut listener)) in listeners.iter_mut().zip(bound).enumerate() {
                if self.incoming_cpu
                    && let ListenAddr::Tcp(_) = addr
                    && let Some(core) = core_of(index, &cores)
                {
                    listener.prefer(core).map_err(failed)?;
                }
                if kernel.is_some() {
                    listener.keep_plain();
                }
                shard.push(listener);
            }
            local_addrs.push(local);
        }
        let directory = Arc::new(Directory {
            peers: Arc::new(Peers::new(shards, &self.limits)),
            stats: (0..shards).map(|_| Arc::default()).collect(),
            driver: match chosen {
                Chosen::Uring => Uring::NAME,
                Chosen::Epoll => Epoll::NAME,
            },
        });
        Ok(Server {
            chosen,
            reason,
            cores,
            listeners,
            local_addrs,
            limits: self.limits,
            deadlines: self.deadlines,
            origin: self.origin,
            compression: self.compression,
            busy_poll: self.busy_poll,
            tls: self.tls,
            tls_threads: self.tls_threads,
            admission: self.admission,
            rates: self.rates,
            handle: ServerHandle { remote: Remote { directory }, asked: Arc::default() },
        })
    }
}

fn check_limits(limits: &Limits) -> Result<(), ServerError> {
    let wrong = |text: &str| Err(ServerError::Config(text.to_owned()));
    if limits.max_connections == 0 {
        return wrong("max_connections is 0: nobody could connect");
    }
    if limits.receive_buffers == 0 || limits.receive_buffer_bytes < 1_024 {
        return wrong("receive_buffers must be at least 1 and receive_buffer_bytes at least 1,024");
    }
    if limits.max_head_bytes < 256 {
        return wrong("max_head_bytes must be at least 256: a browser's handshake needs some 500");
    }
    if limits.pause_receive_bytes == 0 || limits.max_outbox_bytes < limits.pause_receive_bytes {
        return wrong("pause_receive_bytes must be from 1 to max_outbox_bytes");
    }
    Ok(())
}

fn check_deflate(config: &DeflateConfig) -> Result<(), ServerError> {
    let wrong = |text: &str| Err(ServerError::Config(text.to_owned()));
    if !(1..=9).contains(&config.level) {
        return wrong("the compression level must be from 1 to 9");
    }
    if !(8..=15).contains(&config.max_window_bits) || !(8..=15).contains(&config.max_peer_window_bits) {
        return wrong("max_window_bits and max_peer_window_bits must be from 8 to 15");
    }
    Ok(())
}

fn check_busy_poll(config: &BusyPoll) -> Result<(), ServerError> {
    if config.window_us > 1_000_000 || config.max_vain_percent > 100 {
        let text = "a busy poll lasts at most 1,000,000 µs and takes at most 100 %";
        return Err(ServerError::Config(text.to_owned()));
    }
    Ok(())
}

/// A server whose addresses are bound.
#[derive(Debug)]
pub struct Server {
    chosen: Chosen,
    reason: String,
    cores: Vec<usize>,
    listeners: Vec<Vec<Listener>>,
    local_addrs: Vec<ListenAddr>,
    limits: Limits,
    deadlines: Deadlines,
    origin: OriginPolicy,
    compression: Compression,
    busy_poll: Option<BusyPoll>,
    tls: Listeners,
    tls_threads: usize,
    admission: Admission,
    rates: Rates,
    handle: ServerHandle,
}

/// What a handler's factory is told of its shard.
#[derive(Clone, Debug)]
pub struct ShardInfo {
    /// The shard's number, from 0.
    pub index: usize,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// `uring` or `epoll`.
    pub driver: &'static str,
    /// Reaches the connections of all shards.
    pub remote: Remote,
}

impl Server {
    /// Begins a configuration.
    ///
    /// ```no_run
    /// # use ringwire::{Conn, Handler, ListenAddr, Message, Request, Server, Upgrade};
    /// # struct Echo;
    /// # impl Handler for Echo {
    /// #     type State = ();
    /// #     fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<()> { Upgrade::accept(()) }
    /// #     fn message(&mut self, conn: &mut Conn<'_, ()>, m: Message<'_>) { conn.send(m); }
    /// # }
    /// let addr: ListenAddr = "127.0.0.1:9001".parse()?;
    /// Server::builder().listen(addr).bind()?.run(|_shard| Echo)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The addresses bound, ports chosen by the kernel included, in the order they were added.
    pub fn local_addrs(&self) -> &[ListenAddr] {
        &self.local_addrs
    }

    /// The driver that was chosen: `uring` or `epoll`.
    pub fn driver(&self) -> &'static str {
        self.handle.remote.directory.driver
    }

    /// Why that driver.
    pub fn driver_reason(&self) -> &str {
        &self.reason
    }

    /// How many shards will run.
    pub fn shards(&self) -> usize {
        self.listeners.len()
    }

    /// Ends the server from any thread.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Reaches connections from any thread.
    pub fn remote(&self) -> Remote {
        self.handle.remote.clone()
    }

    /// Runs until [`ServerHandle::shutdown`] has drained the connections, on one thread per shard.
    /// `factory` builds each shard's handler on that shard's thread.
    ///
    /// # Errors
    /// When a shard cannot start or fails; the others are stopped then.
    pub fn run<H, F>(self, factory: F) -> Result<(), ServerError>
    where
        H: Handler,
        F: Fn(&ShardInfo) -> H + Send + Sync,
    {
        match self.chosen {
            Chosen::Uring => self.run_on::<Uring, H, F>(factory),
            Chosen::Epoll => self.run_on::<Epoll, H, F>(factory),
        }
    }

    fn run_on<D, H, F>(self, factory: F) -> Result<(), ServerError>
    where
        D: Driver + FromListeners,
        H: Handler,
        F: Fn(&ShardInfo) -> H + Send + Sync,
    {
        let Self {
            listeners,
            cores,
            limits,
            deadlines,
            origin,
            compression,
            busy_poll,
            tls,
            tls_threads,
            rates,
            handle,
            ..
        } = self;
        let crew = start_crew(tls_threads, &cores)?;
        let gate = Arc::new(Gate::new(self.admission));
        let remote = handle.remote.clone();
        let cores_used = if cores.is_empty() { available_cores().len() } else { cores.len() };
        let shards_per_core = listeners.len().div_ceil(cores_used.max(1)) as u32;
        // Shards that share a core would poll in each other's time.
        let busy_poll = busy_poll.filter(|config| config.window_us > 0 && shards_per_core == 1);
        let plan = ShardPlan {
            factory,
            limits,
            deadlines,
            origin,
            compression,
            busy_poll,
            tls,
            crew,
            gate,
            rates,
            shards_per_core,
            remote,
        };
        thread::scope(|scope| {
            let (started, starts) = channel();
            let mut threads = Vec::new();
            for (index, listeners) in listeners.into_iter().enumerate() {
                let (plan, started) = (&plan, started.clone());
                let core = core_of(index, &cores);
                let body = move || {
                    // A shard that fails or panics takes the others with it.
                    let guard = StopOthers(&plan.remote);
                    let result = run_shard::<D, H, F>(plan, index, core, listeners, started);
                    if result.is_ok() {
                        std::mem::forget(guard);
                    }
                    result
                };
                let thread = thread::Builder::new().name(format!("ringwire-{index}"));
                threads.push(thread.spawn_scoped(scope, body));
            }
            drop(started);
            let mut mailboxes: Vec<(usize, Mailbox<Command>)> = starts.iter().collect();
            mailboxes.sort_by_key(|(index, _)| *index);
            let all_started = mailboxes.len() == threads.len();
            // Only `run` fills it, and `run` consumes the server.
            let _ = handle
                .remote
                .directory
                .peers
                .mailboxes
                .set(mailboxes.into_iter().map(|(_, mailbox)| mailbox).collect());
            if !all_started {
                handle.remote.post_to_all(|| Command::Stop);
            }
            handle.repeat_what_was_asked();
            collect(threads)
        })
    }
}

/// Where a shard is pinned, if it is.
fn core_of(shard: usize, cores: &[usize]) -> Option<usize> {
    (!cores.is_empty()).then(|| cores[shard % cores.len()])
}

/// Helpers where no shard is pinned, if there is such a place.
fn start_crew(threads: usize, pinned: &[usize]) -> Result<Crew, ServerError> {
    let free: Vec<usize> = available_cores().into_iter().filter(|core| !pinned.contains(core)).collect();
    let cores = if pinned.is_empty() { &[][..] } else { &free };
    Crew::start(threads, cores).map_err(ServerError::Threads)
}

struct StopOthers<'a>(&'a Remote);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        self.0.post_to_all(|| Command::Stop);
    }
}

/// Waits for the shards and returns the first failure.
fn collect(
    threads: Vec<io::Result<thread::ScopedJoinHandle<'_, io::Result<()>>>>,
) -> Result<(), ServerError> {
    let mut outcome = Ok(());
    for (shard, thread) in threads.into_iter().enumerate() {
        let result = match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => Err(error),
        };
        outcome = outcome.and(result.map_err(|error| ServerError::Shard { shard, error }));
    }
    outcome
}

/// What every shard's thread needs.
struct ShardPlan<F> {
    factory: F,
    limits: Limits,
    deadlines: Deadlines,
    origin: OriginPolicy,
    compression: Compression,
    busy_poll: Option<BusyPoll>,
    tls: Listeners,
    crew: Crew,
    gate: Arc<Gate>,
    rates: Rates,
    shards_per_core: u32,
    remote: Remote,
}

fn run_shard<D, H, F>(
    plan: &ShardPlan<F>,
    index: usize,
    core: Option<usize>,
    listeners: Vec<Listener>,
    started: Sender<(usize, Mailbox<Command>)>,
) -> io::Result<()>
where
    D: Driver + FromListeners,
    H: Handler,
    F: Fn(&ShardInfo) -> H,
{
    // Where pinning is not permitted the shard still runs, only less evenly.
    let core = core.filter(|id| core_affinity::set_for_current(core_affinity::CoreId { id: *id }));
    let limits = &plan.limits;
    let driver = D::from_listeners(
        &DriverConfig {
            max_connections: limits.max_connections,
            receive_buffers: limits.receive_buffers,
            receive_buffer_bytes: limits.receive_buffer_bytes,
            max_receive_bytes_per_turn: limits.max_receive_bytes_per_turn,
            shards_per_core: plan.shards_per_core,
            busy_poll: plan.busy_poll.is_some(),
        },
        listeners,
    )?;
    let (sender, inbox) = mailbox(limits, driver.waker());
    let info = ShardInfo { index, core, driver: D::NAME, remote: plan.remote.clone() };
    let config = CoreConfig {
        shard: index as u8,
        limits: limits.clone(),
        deadlines: plan.deadlines.clone(),
        origin: plan.origin.clone(),
        compression: plan.compression.clone(),
        busy_poll: plan.busy_poll.clone(),
        tls: plan.tls.clone(),
        helpers: plan.crew.helpers(sender.clone()),
        peers: plan.remote.directory.peers.clone(),
        gate: plan.gate.clone(),
        rates: plan.rates.clone(),
    };
    let stats = plan.remote.directory.stats[index].clone();
    let handler = (plan.factory)(&info);
    let mut core = Core::new(driver, handler, config, Clock::monotonic(), inbox, stats);
    let _ = started.send((index, sender));
    drop(started);
    // Whoever is served can be reached through a `Remote`, and a shard that fails can stop the others.
    plan.remote.directory.peers.mailboxes.wait();
    core.run()
}

/// How a driver is made on its own thread.
trait FromListeners: Sized {
    fn from_listeners(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self>;
}

impl FromListeners for Uring {
    fn from_listeners(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::new(config, listeners)
    }
}

impl FromListeners for Epoll {
    fn from_listeners(config: &DriverConfig, listeners: Vec<Listener>) -> io::Result<Self> {
        Self::new(config, listeners)
    }
}

const RUN: u8 = 0;
const DRAIN: u8 = 1;
const STOP: u8 = 2;

/// Ends a server from any thread, also before it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    remote: Remote,
    asked: Arc<AtomicU8>,
}

impl ServerHandle {
    /// Graceful: no new connections, [`Deadlines::goodbye`] to all within [`Deadlines::drain_window_ms`],
    /// and `run` returns when all have answered or [`Deadlines::drain_ms`] has passed.
    pub fn shutdown(&self) {
        self.ask(DRAIN);
    }

    /// How far a graceful end has come; `None` before it begins.
    ///
    /// ```no_run
    /// # let handle: ringwire::ServerHandle = unimplemented!();
    /// handle.shutdown();
    /// while let Some(progress) = handle.drain_progress().filter(|progress| progress.left > 0) {
    ///     eprintln!("{} of {} connections are left", progress.left, progress.began_with);
    ///     std::thread::sleep(std::time::Duration::from_secs(1));
    /// }
    /// ```
    pub fn drain_progress(&self) -> Option<DrainProgress> {
        self.remote.drain_progress()
    }

    /// At once: connections are cut.
    pub fn stop(&self) {
        self.ask(STOP);
    }

    fn ask(&self, what: u8) {
        self.asked.fetch_max(what, Ordering::SeqCst);
        self.repeat_what_was_asked();
    }

    /// Reaches shards that had not started when it was asked.
    fn repeat_what_was_asked(&self) {
        match self.asked.load(Ordering::SeqCst) {
            DRAIN => self.remote.post_to_all(|| Command::Drain),
            STOP => self.remote.post_to_all(|| Command::Stop),
            _ => debug_assert_eq!(RUN, self.asked.load(Ordering::SeqCst)),
        }
    }
}
