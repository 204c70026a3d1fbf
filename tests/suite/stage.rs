//! Where a test plays: the service on one of the drivers, and all that a test may ask of it.

use crate::peer::Peer;
use crate::service::{Ask, Notes, Service};
use ringwire::sim::{Faults, SimListener, Simulation};
use ringwire::{
    Admission, BusyPoll, ConnId, Deadlines, DrainProgress, DriverChoice, Limits, ListenAddr, OriginPolicy,
    Rates, Remote, Server, ServerBuilder, ServerError, ServerHandle,
};
use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what must come: host time, or virtual time.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what is awaited.
pub const STEP: Duration = Duration::from_millis(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Uring,
    Epoll,
    Sim,
}

/// Runs a body, unless it needs io_uring and its absence is known.
pub fn run(on: On, body: fn(On)) {
    if on == On::Uring && std::env::var_os("RINGWIRE_SKIP_URING").is_some_and(|value| value == "1") {
        eprintln!("skipped: RINGWIRE_SKIP_URING=1");
        return;
    }
    body(on);
}

/// How the service is to be set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub limits: Limits,
    pub deadlines: Deadlines,
    pub origin: OriginPolicy,
    pub admission: Admission,
    pub rates: Rates,
    pub shards: usize,
    /// Not of the simulation, whose clock does not move by itself.
    pub busy_poll: BusyPoll,
    /// What the service listens with; nothing on a plain port.
    #[cfg(feature = "tls")]
    pub tls: Option<ringwire::TlsConfig>,
    /// Who helps with handshakes: RINGWIRE_TLS_THREADS, or nobody.
    pub tls_threads: usize,
    /// Of the simulation.
    pub faults: Faults,
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            deadlines: Deadlines::default(),
            origin: OriginPolicy::default(),
            admission: Admission::default(),
            rates: Rates::default(),
            shards: 1,
            busy_poll: BusyPoll { window_us: 0, ..BusyPoll::default() },
            #[cfg(feature = "tls")]
            tls: crate::TLS.then(crate::client_tls::server_config),
            tls_threads: std::env::var("RINGWIRE_TLS_THREADS").map_or(0, |text| text.parse().unwrap()),
            faults: Faults::calm(),
            seed: 1,
        }
    }
}

impl Setup {
    fn listening(&self, addr: ListenAddr) -> ServerBuilder {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Server::builder().listen_tls(addr, tls.clone()).tls_threads(self.tls_threads);
        }
        Server::builder().listen(addr)
    }
}

pub type SharedSim = Rc<RefCell<Simulation<Service>>>;

enum World {
    Sim(SharedSim),
    Real {
        addr: SocketAddr,
        handle: ServerHandle,
        ended: Receiver<Result<(), ServerError>>,
        thread: Option<thread::JoinHandle<()>>,
    },
}

pub struct Stage {
    world: World,
    pub notes: Notes,
    pub remote: Remote,
    pub shards: usize,
}

impl Stage {
    pub fn plain(on: On) -> Self {
        Self::new(on, Setup::default())
    }

    pub fn new(on: On, setup: Setup) -> Self {
        let notes = Notes::default();
        let driver = match on {
            On::Sim => return Self::simulated(setup, notes),
            On::Uring => DriverChoice::Uring,
            On::Epoll => DriverChoice::Epoll,
        };
        let listen: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let server = setup
            .listening(listen)
            .driver(driver)
            .shards(setup.shards)
            .cores([])
            .limits(setup.limits)
            .deadlines(setup.deadlines)
            .origin(setup.origin)
            .admission(setup.admission)
            .rates(setup.rates)
            .busy_poll(setup.busy_poll)
            .bind()
            .unwrap_or_else(|error| panic!("{error}\n(RINGWIRE_SKIP_URING=1 skips the io_uring tests)"));
        let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { unreachable!() };
        let (handle, remote) = (server.handle(), server.remote());
        let (end, ended) = channel();
        let for_handlers = notes.clone();
        let thread = thread::spawn(move || {
            let result = server.run(|info| Service::new(info, for_handlers.clone()));
            let _ = end.send(result);
        });
        let world = World::Real { addr, handle, ended, thread: Some(thread) };
        let stage = Self { world, notes, remote, shards: setup.shards };
        stage.until("the server runs", || stage.metric("ringwire_turns_total") >= setup.shards as u64);
        stage
    }

    fn simulated(setup: Setup, notes: Notes) -> Self {
        let simulation = Simulation::builder(setup.seed)
            .shards(setup.shards)
            .faults(setup.faults)
            .limits(setup.limits)
            .deadlines(setup.deadlines)
            .origin(setup.origin)
            .admission(setup.admission)
            .rates(setup.rates);
        #[cfg(feature = "tls")]
        let simulation = match setup.tls {
            Some(tls) => simulation.listen_tls(tls).tls_threads(setup.tls_threads),
            None => simulation,
        };
        let simulation = simulation.build(|info| Service::new(info, notes.clone()));
        let remote = simulation.remote();
        Self { world: World::Sim(Rc::new(RefCell::new(simulation))), notes, remote, shards: setup.shards }
    }

    /// The simulation, where there is one.
    pub fn sim(&self) -> Option<&SharedSim> {
        match &self.world {
            World::Sim(simulation) => Some(simulation),
            World::Real { .. } => None,
        }
    }

    /// The server's address, where there is one.
    pub fn addr(&self) -> Option<SocketAddr> {
        match &self.world {
            World::Sim(_) => None,
            World::Real { addr, .. } => Some(*addr),
        }
    }

    /// Connects; nothing is sent yet.
    pub fn peer(&self) -> Peer {
        match &self.world {
            World::Sim(simulation) => Peer::simulated(simulation).like_the_suite(),
            World::Real { addr, .. } => Peer::tcp(*addr).like_the_suite(),
        }
    }

    /// A peer whose host takes few bytes that it does not read.
    pub fn narrow_peer(&self) -> Peer {
        match &self.world {
            World::Sim(simulation) => Peer::simulated(simulation).like_the_suite(),
            World::Real { addr, .. } => Peer::narrow_tcp(*addr).like_the_suite(),
        }
    }

    /// Connects and opens a WebSocket.
    pub fn open(&self, target: &str) -> Peer {
        let mut peer = self.peer();
        peer.upgrade(target);
        peer
    }

    /// A port to which the service may connect.
    pub fn listen(&self) -> Listener {
        match &self.world {
            World::Sim(simulation) => {
                let addr = SocketAddr::from(([10, 200, 0, 1], 80));
                let listener = simulation.borrow().net().listen(addr);
                Listener { addr, kind: ListenerKind::Sim(simulation.clone(), listener) }
            }
            World::Real { .. } => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                Listener { addr: listener.local_addr().unwrap(), kind: ListenerKind::Tcp(listener) }
            }
        }
    }

    /// Lets the service take what is there.
    pub fn settle(&self) {
        if let World::Sim(simulation) = &self.world {
            simulation.borrow_mut().run();
        }
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        match &self.world {
            World::Sim(simulation) => simulation.borrow_mut().advance(time),
            World::Real { .. } => thread::sleep(time),
        }
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        self.until_each(if self.sim().is_some() { STEP } else { Duration::from_millis(2) }, what, holds);
    }

    /// Waits until something holds, and lets the service rest meanwhile: to look at its metrics is work for it.
    #[track_caller]
    pub fn until_at_rest(&self, what: &str, holds: impl FnMut() -> bool) {
        self.until_each(Duration::from_millis(300), what, holds);
    }

    #[track_caller]
    fn until_each(&self, step: Duration, what: &str, mut holds: impl FnMut() -> bool) {
        self.settle();
        let begin = Instant::now();
        let mut waited = Duration::ZERO;
        while !holds() {
            assert!(waited < PATIENCE, "{what}: not within {PATIENCE:?}; {:?}", self.notes.lock());
            self.pass(step);
            waited = if self.sim().is_some() { waited + step } else { begin.elapsed() };
        }
    }

    /// Waits for an event of the service.
    #[track_caller]
    pub fn wait(&self, tag: &str, event: &str) {
        self.until(&format!("{tag}: {event}"), || self.notes.of(tag).iter().any(|seen| seen == event));
    }

    /// Waits for the connection's end, and returns all its events.
    #[track_caller]
    pub fn closed(&self, tag: &str) -> Vec<String> {
        let over = || self.notes.of(tag).last().is_some_and(|event| event.starts_with("close "));
        self.until(&format!("{tag}: the end"), over);
        self.notes.of(tag)
    }

    /// Does something again and again until the connection has ended; whether it has.
    pub fn closed_while(&self, tag: &str, mut act: impl FnMut()) -> bool {
        let begin = Instant::now();
        for _ in 0..PATIENCE.as_millis() {
            if self.notes.of(tag).last().is_some_and(|event| event.starts_with("close ")) {
                return true;
            }
            act();
            self.pass(Duration::from_millis(2));
            if begin.elapsed() > PATIENCE {
                break;
            }
        }
        false
    }

    /// The id of an open connection.
    #[track_caller]
    pub fn id(&self, tag: &str) -> ConnId {
        self.notes.lock().ids[tag]
    }

    /// Asks the handler to do something in its next turn, and wakes it.
    pub fn ask(&self, ask: Ask) {
        self.notes.lock().asks.push_back(ask);
        self.wake();
    }

    /// Makes the service turn.
    pub fn wake(&self) {
        self.remote.wake();
        self.settle();
    }

    /// A metric, summed over the shards.
    pub fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.remote.write_metrics(&mut text);
        let lines = text.lines().filter(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b'{');
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, value: u64) {
        self.until(&format!("{name} is {value}"), || self.metric(name) == value);
    }

    /// Asks for a graceful end.
    pub fn shutdown(&self) {
        match &self.world {
            World::Sim(simulation) => {
                simulation.borrow_mut().shutdown();
                simulation.borrow_mut().run();
            }
            World::Real { handle, .. } => handle.shutdown(),
        }
    }

    /// How far that is, where there is a handle to ask.
    pub fn drain_progress(&self) -> Option<DrainProgress> {
        match &self.world {
            World::Sim(_) => None,
            World::Real { handle, .. } => handle.drain_progress(),
        }
    }

    /// Asks for an end at once.
    pub fn stop(&self) {
        match &self.world {
            World::Sim(simulation) => {
                simulation.borrow_mut().stop();
                simulation.borrow_mut().run();
            }
            World::Real { handle, .. } => handle.stop(),
        }
    }

    /// Waits for the end that was asked for.
    #[track_caller]
    pub fn ended(&mut self) {
        match &mut self.world {
            World::Sim(simulation) => {
                let mut simulation = simulation.borrow_mut();
                for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
                    if simulation.is_stopped() {
                        return;
                    }
                    simulation.advance(STEP);
                }
                panic!("the shards have not stopped");
            }
            World::Real { ended, thread, .. } => {
                if let Some(thread) = thread.take() {
                    match ended.recv_timeout(PATIENCE) {
                        Ok(result) => result.unwrap(),
                        Err(error) => panic!("the server has not stopped: {error}"),
                    }
                    thread.join().unwrap();
                }
            }
        }
    }
}

/// Every stage ends in order: the server stops, and every `open` has had its `close`.
impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            if let World::Sim(simulation) = &self.world
                && let Ok(simulation) = simulation.try_borrow()
            {
                eprintln!("{:?}\n{}", simulation.net(), simulation.net().trace());
            }
            return;
        }
        self.stop();
        self.ended();
        self.notes.assert_paired();
    }
}

pub struct Listener {
    pub addr: SocketAddr,
    kind: ListenerKind,
}

enum ListenerKind {
    Sim(SharedSim, SimListener),
    Tcp(TcpListener),
}

impl Listener {
    /// The far end of the connection that the service opened.
    #[track_caller]
    pub fn accept(&mut self) -> Peer {
        match &mut self.kind {
            ListenerKind::Tcp(listener) => Peer::from_tcp(listener.accept().unwrap().0),
            ListenerKind::Sim(simulation, listener) => {
                for _ in 0..1_000 {
                    simulation.borrow_mut().advance(STEP);
                    if let Some(peer) = listener.accept() {
                        return Peer::from_sim(simulation, peer);
                    }
                }
                panic!("nobody connected");
            }
        }
    }
}
