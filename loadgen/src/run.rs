//! The conductor: starts the workers, moves the run through its phases, and takes the measurements
//! between two of them. It sleeps nearly always; the workers do the work.

use crate::board::{Board, Phase, Totals};
use crate::client::Client;
use crate::flow::{Plan, Worker};
use crate::host::CpuTime;
use crate::raw::Raw;
use crate::target::Target;
use ringwire::driver::epoll::Epoll;
use ringwire::driver::probe::{self, Chosen};
use ringwire::driver::uring::Uring;
use ringwire::driver::{Driver, DriverConfig};
use ringwire::{Compression, Deadlines, DeflateConfig, DriverChoice, Limits, Server, ServerHandle};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the conductor looks.
const LOOK: Duration = Duration::from_millis(20);
/// No connection opens for so long: the server is given up.
const CONNECT_STALL: Duration = Duration::from_secs(15);
/// What is on its way when the load ends may take so long.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of the longest masked header.
const HEADER_BYTES: u64 = 14;

type WorkerResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// How and where the workers run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whom to load.
    pub target: Target,
    /// With what.
    pub plan: Plan,
    /// Addresses to connect from, in turn; empty leaves it to the kernel.
    pub sources: Vec<std::net::IpAddr>,
    /// Bare TCP instead of WebSocket.
    pub raw: bool,
    /// Workers.
    pub workers: usize,
    /// Cores they are pinned to in turn; empty pins nothing.
    pub cores: Vec<usize>,
    /// io_uring or epoll.
    pub driver: DriverChoice,
}

/// Workers at work.
#[derive(Debug)]
pub struct Run {
    /// Shared with the workers.
    pub board: Arc<Board>,
    /// `uring` or `epoll`.
    pub driver: &'static str,
    connections: u64,
    threads: Vec<JoinHandle<WorkerResult>>,
    handle: Option<ServerHandle>,
}

impl Run {
    /// Starts the workers, which begin to connect.
    ///
    /// # Errors
    /// In words, if no driver can run or a core is not there.
    pub fn start(setup: &Setup) -> Result<Self, String> {
        let board = Arc::new(Board::new(setup.workers));
        let plan = Arc::new(setup.plan.clone());
        let connections = plan.connections;
        let worker = {
            let board = board.clone();
            move |lane| Worker::new(board.clone(), plan.clone(), lane)
        };
        if setup.raw {
            return start_raw(setup, board, worker);
        }
        let (target, sources) = (setup.target.clone(), setup.sources.clone());
        let server = Server::builder()
            .shards(setup.workers)
            .cores(setup.cores.iter().copied())
            .driver(setup.driver)
            .limits(limits(&setup.plan))
            .compression(match setup.plan.deflate {
                true => Compression::Deflate(DeflateConfig::default()),
                false => Compression::Off,
            })
            .deadlines(Deadlines { drain_ms: 120_000, assembly_ms: 0, idle_ms: 0, ..Deadlines::default() })
            .bind()
            .map_err(|error| error.to_string())?;
        let (driver, handle) = (server.driver(), server.handle());
        let body = move || {
            let run = server.run(|shard| Client::new(worker(shard.index), target.clone(), sources.clone()));
            run.map_err(Into::into)
        };
        let thread = thread::Builder::new().name("workers".to_owned()).spawn(body);
        let threads = vec![thread.map_err(|error| format!("no thread could be started: {error}"))?];
        Ok(Self { board, driver, connections, threads, handle: Some(handle) })
    }

    /// Waits until all connections are open and, if they echo at once, until all answers are there.
    /// Returns how long that took.
    ///
    /// # Errors
    /// In words.
    pub fn connect(&self) -> Result<Duration, String> {
        let start = Instant::now();
        let mut moved = (Instant::now(), 0);
        loop {
            let Totals { opened, failed, answered, outstanding } = self.board.totals();
            if failed > 0 {
                let notes = self.board.faults().notes.join("\n");
                return Err(format!("{opened} of {} connections opened, then: {notes}", self.connections));
            }
            if self.board.has_faults() || (opened == self.connections && outstanding == 0) {
                return Ok(start.elapsed());
            }
            self.check_threads()?;
            if opened + answered != moved.1 {
                moved = (Instant::now(), opened + answered);
            } else if moved.0.elapsed() > CONNECT_STALL {
                return Err(format!(
                    "{opened} of {} connections opened, {outstanding} answers missing, and nothing \
                     happened for {CONNECT_STALL:?}: does the server accept and answer?",
                    self.connections
                ));
            }
            thread::sleep(if start.elapsed() < LOOK { LOOK / 20 } else { LOOK });
        }
    }

    /// Lets time pass in a phase, until something goes wrong.
    ///
    /// # Errors
    /// If the workers themselves fail.
    pub fn pass(&self, phase: Phase, time: Duration) -> Result<(), String> {
        self.board.set_phase(phase);
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.board.has_faults() {
                return self.check_threads();
            }
            self.check_threads()?;
            thread::sleep(left.min(LOOK));
        }
    }

    /// Stops sending and waits for what is on its way. Returns the answers that did not come.
    pub fn drain(&self) -> u64 {
        self.board.set_phase(Phase::Drain);
        let end = Instant::now() + DRAIN;
        loop {
            let outstanding = self.board.totals().outstanding;
            let settled = self.board.all_saw(Phase::Drain) && outstanding == 0;
            if settled || Instant::now() > end || self.check_threads().is_err() {
                return outstanding;
            }
            thread::sleep(LOOK / 4);
        }
    }

    /// Closes the connections and ends the workers.
    ///
    /// # Errors
    /// What ended them before.
    pub fn finish(mut self) -> Result<(), String> {
        self.board.set_phase(Phase::Close);
        if let Some(handle) = self.handle.take() {
            handle.shutdown();
        }
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("a worker panicked".to_owned()),
            }
        }
        Ok(())
    }

    fn check_threads(&self) -> Result<(), String> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err("a worker ended by itself".to_owned());
        }
        Ok(())
    }
}

/// What was counted between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    answered: u64,
    own: CpuTime,
    server: Option<CpuTime>,
}

/// See [`Sample`].
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// How long.
    pub seconds: f64,
    /// Right answers.
    pub messages: u64,
    /// CPU of this process.
    pub own: CpuTime,
    /// CPU of the server's process, if it was named.
    pub server: Option<CpuTime>,
}

impl Sample {
    /// Now.
    pub fn take(board: &Board, pid: Option<u32>) -> Self {
        let server = pid.and_then(|pid| CpuTime::of(&pid.to_string()));
        let own = CpuTime::of("self").unwrap_or_default();
        Self { at: Instant::now(), answered: board.totals().answered, own, server }
    }

    /// From `before` to this one.
    pub fn since(&self, before: &Self) -> Measured {
        Measured {
            seconds: (self.at - before.at).as_secs_f64(),
            messages: self.answered - before.answered,
            own: self.own.since(before.own),
            server: self.server.zip(before.server).map(|(now, then)| now.since(then)),
        }
    }
}

fn limits(plan: &Plan) -> Limits {
    // A burst fits the outbox whole, and waiting to send never stops receiving.
    let burst = plan.depth.saturating_mul(plan.size as u64 + HEADER_BYTES);
    let burst = u32::try_from(burst).unwrap_or(u32::MAX);
    let defaults = Limits::default();
    Limits {
        max_connections: (plan.connections as u32).min(defaults.max_connections),
        max_message_bytes: defaults.max_message_bytes.max(plan.size as u32),
        max_outbox_bytes: defaults.max_outbox_bytes.max(burst),
        pause_receive_bytes: defaults.max_outbox_bytes.max(burst),
        ..defaults
    }
}

fn start_raw(
    setup: &Setup,
    board: Arc<Board>,
    worker: impl Fn(usize) -> Worker + Clone + Send + 'static,
) -> Result<Run, String> {
    let (chosen, _reason) = probe::choose(setup.driver).map_err(|refused| refused.to_string())?;
    let mut threads = Vec::new();
    for lane in 0..setup.workers {
        let (setup, worker) = (setup.clone(), worker.clone());
        let body = move || {
            if !setup.cores.is_empty() {
                let mut cpus = CpuSet::new();
                cpus.set(setup.cores[lane % setup.cores.len()]);
                sched_setaffinity(None, &cpus)?;
            }
            let config = driver_config();
            let worker = worker(lane);
            match chosen {
                Chosen::Uring => run_raw(Uring::new(&config, Vec::new())?, worker, setup.target),
                Chosen::Epoll => run_raw(Epoll::new(&config, Vec::new())?, worker, setup.target),
            }
        };
        let thread = thread::Builder::new().name(format!("worker-{lane}")).spawn(body);
        threads.push(thread.map_err(|error| format!("no thread could be started: {error}"))?);
    }
    let driver = match chosen {
        Chosen::Uring => Uring::NAME,
        Chosen::Epoll => Epoll::NAME,
    };
    Ok(Run { board, driver, connections: setup.plan.connections, threads, handle: None })
}

fn run_raw<D: Driver>(driver: D, worker: Worker, target: Target) -> WorkerResult {
    let result: io::Result<()> = Raw::new(driver, worker, target).run();
    result.map_err(Into::into)
}

fn driver_config() -> DriverConfig {
    let limits = Limits::default();
    DriverConfig {
        max_connections: limits.max_connections,
        receive_buffers: limits.receive_buffers,
        receive_buffer_bytes: limits.receive_buffer_bytes,
        max_receive_bytes_per_turn: limits.max_receive_bytes_per_turn,
    }
}
