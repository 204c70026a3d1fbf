//! Workers at work: those of this process, started here, and the face they show to the conductor,
//! which the workers of processes that joined show as well (see `join`).

use crate::board::{Board, Histograms, Lane, Phase, Step};
use crate::client::Client;
use crate::host::process_cpu_ns;
use crate::plan::{Plan, Seat};
use crate::raw::Raw;
use crate::result::Errors;
use crate::worker::{Place, Worker};
use ringwire::driver::epoll::Epoll;
use ringwire::driver::probe::{self, Chosen};
use ringwire::driver::uring::Uring;
use ringwire::driver::{Driver, DriverConfig};
use ringwire::engine::spin::Spin;
use ringwire::{BusyPoll, Compression, Deadlines, DeflateConfig, Limits, Remote, Server, ServerHandle};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of the longest masked header.
const HEADER_BYTES: u64 = 14;
/// Room for messages of an open loop that a stalling server does not take, per connection.
const OPEN_LOOP_OUTBOX_BYTES: u32 = 64 << 20;
/// Receive buffers of all workers of a process, and of each at least.
const RECEIVE_BUFFERS: usize = 2_048;
const MIN_RECEIVE_BUFFERS: usize = 32;

type WorkerResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What a crew has done until now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// The latest step that all its workers have seen, packed.
    pub seen: u64,
    /// See [`Lane`].
    pub opened: u64,
    /// See [`Lane`].
    pub ended: u64,
    /// See [`Lane`].
    pub failed: u64,
    /// See [`Lane`].
    pub retried: u64,
    /// See [`Lane`].
    pub sent: u64,
    /// See [`Lane`].
    pub received: u64,
    /// See [`Lane`].
    pub given_up: u64,
    /// What went wrong.
    pub errors: Errors,
    /// How often.
    pub faults: u64,
    /// CPU time of its process.
    pub cpu_ns: u64,
    /// Times since the last snapshot.
    #[serde(with = "crate::times::packed")]
    pub times: Histograms,
}

impl Snapshot {
    /// Adds what another crew has done: counts and errors, but not `seen` and `times`, which are not sums.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.ended += other.ended;
        self.failed += other.failed;
        self.retried += other.retried;
        self.sent += other.sent;
        self.received += other.received;
        self.given_up += other.given_up;
        self.errors.add(&other.errors);
        self.faults += other.faults;
        self.cpu_ns += other.cpu_ns;
    }
}

/// Workers of one process.
pub trait Crew {
    /// `uring` or `epoll`.
    fn driver(&self) -> &str;

    /// How many they are.
    fn workers(&self) -> usize;

    /// Moves them on to a step that began at `began_ns` on the run's clock.
    fn set_step(&mut self, step: Step, began_ns: u64);

    /// What they have done.
    ///
    /// # Errors
    /// If they work no more.
    fn look(&mut self) -> Result<Snapshot, String>;

    /// Ends them.
    ///
    /// # Errors
    /// If that had to be forced, or they had ended before.
    fn finish(self: Box<Self>) -> Result<(), String>;
}

/// The workers of this process.
#[derive(Debug)]
pub struct Local {
    board: Arc<Board>,
    driver: &'static str,
    threads: Vec<JoinHandle<WorkerResult>>,
    /// `None` for bare TCP, whose workers look by themselves.
    server: Option<(ServerHandle, Remote)>,
    woken: Instant,
}

/// Workers that have nothing to do are woken this often, to show the times of their last messages.
const WAKE: Duration = Duration::from_secs(1);

impl Local {
    /// Starts workers, the first of which is number `first_lane` of `lanes` in the run, and which
    /// wait for the first step.
    ///
    /// # Errors
    /// In words, if no driver can run or a core is not there.
    pub fn start(
        plan: &Plan,
        seat: &Seat,
        first_lane: u64,
        lanes: u64,
        clock_ns: i64,
    ) -> Result<Self, String> {
        let mut board = Board::new(seat.workers);
        if let Some(subscribers) = plan.traffic.subscribers(plan.connections) {
            let publishers = plan.connections - subscribers;
            let own = |count| -> u64 {
                (first_lane..first_lane + seat.workers as u64)
                    .map(|lane| Plan::share(count, lane, lanes))
                    .sum()
            };
            let own_subscribers = own(plan.connections) - own(publishers);
            board = Board::for_broadcast(seat.workers, publishers, own_subscribers);
        }
        board.set_clock_offset(clock_ns);
        let board = Arc::new(board);
        let shared = Arc::new(plan.clone());
        let worker = {
            let board = board.clone();
            move |local: usize| {
                let lane = Place { local, lane: first_lane + local as u64, lanes };
                // A worker sleeps until the next message is due: not 50 µs longer, as threads may.
                let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
                Worker::new(board.clone(), shared.clone(), lane)
            }
        };
        if plan.raw {
            return start_raw(seat, plan, board, worker);
        }
        let server = Server::builder()
            .shards(seat.workers)
            .cores(seat.cores.iter().copied())
            .driver(seat.driver)
            .limits(limits(plan, seat.workers))
            .compression(match plan.shape.deflate {
                true => Compression::Deflate(DeflateConfig::default()),
                false => Compression::Off,
            })
            .deadlines(deadlines(plan))
            .busy_poll(busy_poll(seat))
            .bind()
            .map_err(|error| error.to_string())?;
        let (driver, handle, remote) = (server.driver(), server.handle(), server.remote());
        let body = move || {
            let run = server.run(|shard| Client::new(worker(shard.index)));
            run.map_err(Into::into)
        };
        let thread = thread::Builder::new().name("workers".to_owned()).spawn(body);
        let threads = vec![thread.map_err(|error| format!("no thread could be started: {error}"))?];
        Ok(Self { board, driver, threads, server: Some((handle, remote)), woken: Instant::now() })
    }
}

impl Local {
    fn wake(&mut self) {
        self.woken = Instant::now();
        if let Some((_, remote)) = &self.server {
            remote.wake();
        }
    }
}

impl Crew for Local {
    fn driver(&self) -> &str {
        self.driver
    }

    fn workers(&self) -> usize {
        self.board.lanes.len()
    }

    fn set_step(&mut self, step: Step, began_ns: u64) {
        self.board.set_step(step, began_ns);
        self.wake();
    }

    fn look(&mut self) -> Result<Snapshot, String> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err("a worker ended by itself".to_owned());
        }
        if self.woken.elapsed() > WAKE {
            self.wake();
        }
        let board = &self.board;
        // First: what a worker did before it saw the step, and before it told a fault, is in its counters.
        let (seen, faults) = (board.seen_by_all().pack(), board.fault_count());
        let sum = |of: fn(&Lane) -> &std::sync::atomic::AtomicU64| board.sum(of);
        Ok(Snapshot {
            seen,
            opened: sum(|lane| &lane.opened),
            ended: sum(|lane| &lane.ended),
            failed: sum(|lane| &lane.failed),
            retried: sum(|lane| &lane.retried),
            // Received before sent, so that nothing seems to be on its way back before it left.
            received: sum(|lane| &lane.received),
            given_up: sum(|lane| &lane.given_up),
            sent: sum(|lane| &lane.sent),
            errors: board.errors(),
            faults,
            cpu_ns: process_cpu_ns(),
            times: board.take_times(),
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        let step = Step { number: self.board.step().number + 1, phase: Phase::Close };
        self.board.set_step(step, self.board.now_ns());
        if let Some((handle, _)) = self.server.take() {
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
}

fn limits(plan: &Plan, workers: usize) -> Limits {
    let defaults = Limits::default();
    let largest = plan.shape.sizes.max() as u64;
    // A burst fits the outbox whole, and waiting to send never stops receiving.
    let frames = u64::from(plan.shape.fragments) * HEADER_BYTES;
    let burst = plan.depth().saturating_mul(largest + frames);
    let burst = u32::try_from(burst).unwrap_or(u32::MAX).max(defaults.max_outbox_bytes);
    let outbox = match plan.traffic {
        crate::plan::Traffic::Open { .. } => burst.max(OPEN_LOOP_OUTBOX_BYTES),
        _ => burst,
    };
    let envelope = 64 << 10;
    Limits {
        max_message_bytes: defaults.max_message_bytes.max(largest as u32 + envelope),
        max_outbox_bytes: outbox,
        pause_receive_bytes: outbox,
        receive_buffers: (RECEIVE_BUFFERS / workers).clamp(MIN_RECEIVE_BUFFERS, 1_024) as u16,
        ..defaults
    }
}

/// A generator has its cores to itself, and what it does not hear at once counts against the server.
fn busy_poll(seat: &Seat) -> BusyPoll {
    BusyPoll { window_us: seat.busy_poll_us, max_vain_percent: 100 }
}

/// How long workers have to close their connections: each takes some 10 µs, and 160 µs inside user-mode Linux.
pub fn drain_ms(plan: &Plan) -> u32 {
    2_000 + (plan.connections / 4) as u32
}

fn deadlines(plan: &Plan) -> Deadlines {
    Deadlines {
        drain_ms: drain_ms(plan),
        assembly_ms: 0,
        tls_ms: plan.handshake_ms,
        head_ms: plan.handshake_ms,
        // Whether connections are alive is the server's to find out, and a stalled server's
        // answers are waited for.
        idle_ms: 0,
        write_ms: 0,
        ..Deadlines::default()
    }
}

fn start_raw(
    seat: &Seat,
    plan: &Plan,
    board: Arc<Board>,
    worker: impl Fn(usize) -> Worker + Clone + Send + 'static,
) -> Result<Local, String> {
    let (chosen, _reason) = probe::choose(seat.driver).map_err(|refused| refused.to_string())?;
    let limits = limits(plan, seat.workers);
    let config = DriverConfig {
        max_connections: limits.max_connections,
        receive_buffers: limits.receive_buffers,
        receive_buffer_bytes: limits.receive_buffer_bytes,
        max_receive_bytes_per_turn: limits.max_receive_bytes_per_turn,
        shards_per_core: 1,
        busy_poll: seat.busy_poll_us > 0,
    };
    let mut threads = Vec::new();
    for local in 0..seat.workers {
        let (seat, worker, config) = (seat.clone(), worker.clone(), config.clone());
        let body = move || {
            if !seat.cores.is_empty() {
                let mut cpus = CpuSet::new();
                cpus.set(seat.cores[local % seat.cores.len()]);
                sched_setaffinity(None, &cpus)?;
            }
            match chosen {
                Chosen::Uring => run_raw(Uring::new(&config, Vec::new())?, worker(local), &seat),
                Chosen::Epoll => run_raw(Epoll::new(&config, Vec::new())?, worker(local), &seat),
            }
        };
        let thread = thread::Builder::new().name(format!("worker-{local}")).spawn(body);
        threads.push(thread.map_err(|error| format!("no thread could be started: {error}"))?);
    }
    let driver = match chosen {
        Chosen::Uring => Uring::NAME,
        Chosen::Epoll => Epoll::NAME,
    };
    Ok(Local { board, driver, threads, server: None, woken: Instant::now() })
}

fn run_raw<D: Driver>(driver: D, worker: Worker, seat: &Seat) -> WorkerResult {
    Raw::new(driver, worker, Spin::new(&busy_poll(seat))).run().map_err(Into::into)
}
