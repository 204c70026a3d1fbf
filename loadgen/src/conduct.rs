//! The conductor of one load: moves the crews through its steps, looks at what they did, and keeps
//! all that was measured until then, however it ends. It sleeps nearly always; the workers work.

use crate::board::{Histograms, Metric, Phase, Step, merge, monotonic_ns};
use crate::crew::{Crew, Snapshot};
use crate::host::{self, CpuTime, Memory};
use crate::plan::Plan;
use crate::progress::{Look, Progress};
use crate::result::{Cpu, Errors, Latency, MemoryGrowth, Point, Ramp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the conductor looks.
const LOOK: Duration = Duration::from_millis(50);
/// How often it looks when many wait for it, as at the end of a ramp.
const QUICK_LOOK: Duration = Duration::from_millis(2);
/// No connection opens for so long: the server is given up.
const CONNECT_STALL: Duration = Duration::from_secs(15);
/// What is on its way when the load ends may take so long.
const DRAIN: Duration = Duration::from_secs(10);
/// If connections have ended, what was on its way on them is not waited for longer than this.
const DRAIN_OF_BROKEN: Duration = Duration::from_millis(500);
/// Points of a course: at most this often, and at least this many.
const POINT: Duration = Duration::from_secs(1);
const MIN_POINTS: u32 = 40;
const MIN_POINT: Duration = Duration::from_millis(100);

/// Why a load ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It could not go on, in words.
    Broken(String),
    /// Whoever started it has had enough.
    Interrupted,
    /// Something went wrong that the crews have counted.
    Faults,
}

/// What a load's conductor is told besides the plan.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The load's name.
    pub name: String,
    /// The server's process.
    pub pid: Option<u32>,
    /// Ends all loads.
    pub interrupted: Arc<AtomicBool>,
    /// For one that is to last as long as others: what it sets when its connections are open, and
    /// what ends it.
    pub behind: Option<(Arc<AtomicBool>, Arc<AtomicBool>)>,
    /// How long it is expected to last.
    pub expected: Duration,
}

/// See the module's documentation.
pub struct Conductor<'a> {
    /// What is to be done.
    pub plan: Plan,
    orders: Orders,
    crews: Vec<Box<dyn Crew + 'a>>,
    progress: Arc<dyn Progress>,
    step: Step,
    began: Instant,
    seen: Vec<Snapshot>,
    /// The sum of `seen`.
    pub total: Snapshot,
    times: Histograms,
    times_since_point: Histograms,
    course: Course,
    memory: [Option<(Memory, Option<u64>)>; 3],
}

/// The course of a load, and what its last point was taken from.
#[derive(Debug)]
struct Course {
    points: Vec<Point>,
    every: Duration,
    at: Instant,
    total: Snapshot,
    server: Option<CpuTime>,
}

/// What was counted between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    sent: u64,
    received: u64,
    ended: u64,
    own_ns: u64,
    server: Option<CpuTime>,
}

/// See [`Sample`].
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// How long.
    pub seconds: f64,
    /// Messages sent.
    pub sent: u64,
    /// Right messages that came.
    pub received: u64,
    /// Connections that ended.
    pub ended: u64,
    own_ns: u64,
    server: Option<CpuTime>,
}

impl Measured {
    /// CPU per message, of which there were `messages`.
    pub fn cpu(&self, messages: u64) -> Cpu {
        let per_message = |ns: f64| ns / messages.max(1) as f64;
        let cpus = |cpu: CpuTime| cpu.total_ns as f64 / 1e9 / self.seconds;
        Cpu {
            own_cpus: self.own_ns as f64 / 1e9 / self.seconds,
            own_ns_per_message: per_message(self.own_ns as f64),
            server_cpus: self.server.map(cpus),
            server_ns_per_message: self.server.map(|cpu| per_message(cpu.total_ns as f64)),
            server_user_ns_per_message: self.server.map(|cpu| per_message(cpu.user_ns())),
            server_system_ns_per_message: self
                .server
                .map(|cpu| per_message(cpu.total_ns as f64 - cpu.user_ns())),
        }
    }
}

impl<'a> Conductor<'a> {
    /// A conductor of crews that wait for their first step.
    pub fn new(
        plan: Plan,
        orders: Orders,
        crews: Vec<Box<dyn Crew + 'a>>,
        progress: Arc<dyn Progress>,
    ) -> Self {
        let now = Instant::now();
        let every = (orders.expected / MIN_POINTS).clamp(MIN_POINT, POINT);
        let server = orders.pid.and_then(|pid| CpuTime::of(&pid.to_string()));
        Self {
            seen: vec![Snapshot::default(); crews.len()],
            plan,
            orders,
            crews,
            progress,
            step: Step::default(),
            began: now,
            total: Snapshot::default(),
            times: Histograms::default(),
            times_since_point: Histograms::default(),
            course: Course { points: Vec::new(), every, at: now, total: Snapshot::default(), server },
            memory: [None; 3],
        }
    }

    /// The crews' processes, workers and driver.
    pub fn crew(&self) -> (u32, u32, String) {
        let workers: usize = self.crews.iter().map(|crew| crew.workers()).sum();
        let mut drivers: Vec<&str> = self.crews.iter().map(|crew| crew.driver()).collect();
        drivers.dedup();
        (self.crews.len() as u32, workers as u32, drivers.join("+"))
    }

    /// Moves on to a phase.
    pub fn enter(&mut self, phase: Phase) {
        self.step = Step { number: self.step.number + 1, phase };
        let began_ns = monotonic_ns();
        for crew in &mut self.crews {
            crew.set_step(self.step, began_ns);
        }
    }

    /// Whether all workers have seen the step.
    fn is_seen(&self) -> bool {
        self.seen.iter().all(|snapshot| snapshot.seen >= self.step.pack())
    }

    /// Looks at the crews.
    ///
    /// # Errors
    /// If the load is to end.
    pub fn look(&mut self) -> Result<(), Stop> {
        let mut total = Snapshot::default();
        for (crew, seen) in self.crews.iter_mut().zip(&mut self.seen) {
            *seen = crew.look().map_err(Stop::Broken)?;
            merge(&mut self.times, &seen.times).map_err(Stop::Broken)?;
            merge(&mut self.times_since_point, &seen.times).map_err(Stop::Broken)?;
            seen.times = Histograms::default();
            total.add(seen);
        }
        self.total = total;
        if self.course.at.elapsed() >= self.course.every {
            self.add_point();
        }
        if self.orders.interrupted.load(Ordering::Relaxed) {
            return Err(Stop::Interrupted);
        }
        Ok(())
    }

    fn add_point(&mut self) {
        let now = Instant::now();
        let course = &mut self.course;
        let seconds = (now - course.at).as_secs_f64();
        let rate =
            |of: fn(&Snapshot) -> u64| of(&self.total).saturating_sub(of(&course.total)) as f64 / seconds;
        let latency = self.times_since_point[Metric::Latency as usize].as_ref();
        let handshakes = self.times_since_point[Metric::Connect as usize].as_ref();
        let at = |quantile| latency.filter(|all| !all.is_empty()).map(|all| all.value_at_quantile(quantile));
        let pid = self.orders.pid;
        let server = pid.and_then(|pid| CpuTime::of(&pid.to_string()));
        let point = Point {
            t_s: (now - self.began).as_secs_f64(),
            phase: self.step.phase.name().to_owned(),
            connections: self.total.opened - self.total.ended,
            sent_per_s: rate(|snapshot| snapshot.sent),
            received_per_s: rate(|snapshot| snapshot.received),
            handshakes_per_s: handshakes.map_or(0.0, |all| all.len() as f64 / seconds),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            errors: self.total.faults,
            server_rss_bytes: pid.and_then(host::resident_bytes),
            server_cpus: server
                .zip(course.server)
                .map(|(now, then)| now.since(then).total_ns as f64 / 1e9 / seconds),
            kernel_slab_bytes: pid.and_then(|_| host::kernel_slab()),
        };
        let wanted = self.plan.connections;
        let ahead = self.orders.expected.as_secs_f64();
        self.progress.show(&Look { name: &self.orders.name, point: &point, wanted, ahead_s: ahead });
        self.times_since_point = Histograms::default();
        *course = Course {
            points: std::mem::take(&mut course.points),
            every: course.every,
            at: now,
            total: self.total.clone(),
            server,
        };
        course.points.push(point);
    }

    /// Looks until `done` says so, or for `time`; whether it did.
    ///
    /// # Errors
    /// If the load is to end.
    pub fn wait(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> Result<bool, Stop> {
        let begin = Instant::now();
        loop {
            self.look()?;
            if done(self) {
                return Ok(true);
            }
            let left = time.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(left.min(if begin.elapsed() < LOOK { QUICK_LOOK } else { LOOK }));
        }
    }

    /// Lets time pass in a phase, until something goes wrong; a load that lasts as long as others
    /// does so until they are done.
    ///
    /// # Errors
    /// If the load is to end.
    pub fn pass(&mut self, phase: Phase, time: Duration) -> Result<(), Stop> {
        self.enter(phase);
        let behind = self.orders.behind.clone();
        let time = if behind.is_some() { Duration::MAX } else { time };
        if let Some((open, _)) = &behind {
            open.store(true, Ordering::Release);
        }
        self.wait(time, |conductor| {
            let is_over = behind.as_ref().is_some_and(|(_, until)| until.load(Ordering::Relaxed));
            conductor.total.faults > 0 || is_over
        })?;
        if self.total.faults > 0 { Err(Stop::Faults) } else { Ok(()) }
    }

    /// Lets time pass with load that is not measured.
    ///
    /// # Errors
    /// If the load is to end.
    pub fn pass_warmup(&mut self, time: Duration) -> Result<(), Stop> {
        self.enter(Phase::WarmUp);
        self.wait(time, |conductor| conductor.total.faults > 0)?;
        if self.total.faults > 0 { Err(Stop::Faults) } else { Ok(()) }
    }

    /// Opens all connections and, if each is used once, waits for all answers.
    ///
    /// The second result says if they do not all open.
    pub fn connect(&mut self) -> (Ramp, Result<(), Stop>) {
        let begin = Instant::now();
        let (opened, retried) = (self.total.opened, self.total.retried);
        self.times[Metric::Connect as usize] = None;
        self.enter(Phase::Connect);
        let mut moved = (Instant::now(), 0);
        let wanted = self.plan.connections;
        let end = self.wait(Duration::MAX, |conductor| {
            let total = &conductor.total;
            let now = total.opened + total.received + total.retried;
            if now != moved.1 {
                moved = (Instant::now(), now);
            }
            let all = total.opened - opened >= wanted && conductor.outstanding() == 0;
            all || total.faults > 0 || moved.0.elapsed() > CONNECT_STALL
        });
        let total = &self.total;
        let (opened, retried) = (total.opened - opened, total.retried - retried);
        let duration_s = begin.elapsed().as_secs_f64();
        let ramp = Ramp {
            duration_s,
            opened,
            failed: total.failed + retried,
            opened_per_s: opened as f64 / duration_s,
            latency: self.latency(Metric::Connect),
        };
        let outstanding = self.outstanding();
        let stop = match end {
            Err(stop) => stop,
            Ok(_) if total.errors.refused > 0 => {
                Stop::Broken(format!("{opened} of {wanted} connections opened before one could not be"))
            }
            Ok(_) if total.faults > 0 => Stop::Faults,
            Ok(_) if opened < wanted || outstanding > 0 => Stop::Broken(format!(
                "{opened} of {wanted} connections opened, {outstanding} answers missing, and nothing \
                 happened for {CONNECT_STALL:?}: does the server accept and answer?"
            )),
            Ok(_) => return (ramp, Ok(())),
        };
        (ramp, Err(stop))
    }

    /// Closes all connections, to open them again.
    ///
    /// # Errors
    /// If they do not all close.
    pub fn leave(&mut self) -> Result<(), Stop> {
        self.enter(Phase::Leave);
        let gone = self.wait(CONNECT_STALL, |conductor| conductor.total.opened == conductor.total.ended)?;
        let left = self.total.opened - self.total.ended;
        let text = format!("{left} connections did not close within {CONNECT_STALL:?}");
        if gone { Ok(()) } else { Err(Stop::Broken(text)) }
    }

    /// Messages on their way.
    pub fn outstanding(&self) -> u64 {
        let total = &self.total;
        // In a broadcast each message goes to many.
        let copies = self.plan.traffic.subscribers(self.plan.connections).unwrap_or(1);
        (total.sent * copies).saturating_sub(total.received + total.given_up)
    }

    /// Stops sending and waits for what is on its way. Returns the messages that did not come.
    pub fn drain(&mut self) -> u64 {
        self.enter(Phase::Drain);
        let begin = Instant::now();
        // That the load is to end is no reason to end a wait that has its own.
        let _ = self.wait(DRAIN, |conductor| {
            let settled = conductor.is_seen() && conductor.outstanding() == 0;
            let broken = conductor.total.errors.closed > 0 && begin.elapsed() > DRAIN_OF_BROKEN;
            settled || broken
        });
        self.outstanding()
    }

    /// Counters now.
    pub fn sample(&self) -> Sample {
        let total = &self.total;
        Sample {
            at: Instant::now(),
            sent: total.sent,
            received: total.received,
            ended: total.ended,
            own_ns: total.cpu_ns,
            server: self.orders.pid.and_then(|pid| CpuTime::of(&pid.to_string())),
        }
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Sample) -> Measured {
        let now = self.sample();
        Measured {
            seconds: (now.at - before.at).as_secs_f64(),
            sent: now.sent - before.sent,
            received: now.received - before.received,
            ended: now.ended - before.ended,
            own_ns: now.own_ns - before.own_ns,
            server: now.server.zip(before.server).map(|(now, then)| now.since(then)),
        }
    }

    /// Notes the server's memory: 0 before, 1 with all connections open, 2 at the end.
    pub fn note_memory(&mut self, moment: usize) {
        self.memory[moment] =
            self.orders.pid.and_then(Memory::of).map(|memory| (memory, host::kernel_slab()));
    }

    /// The server's memory, if it was noted three times.
    pub fn memory(&self) -> Option<MemoryGrowth> {
        let [Some((before, slab_before)), Some((open, slab_open)), Some((held, _))] = self.memory else {
            return None;
        };
        let connections = self.plan.connections as f64;
        let growth = |of: fn(&Memory) -> u64| (of(&held) as f64 - of(&before) as f64) / connections;
        Some(MemoryGrowth {
            before,
            open,
            held,
            rss_bytes_per_connection: growth(|memory| memory.rss),
            anonymous_bytes_per_connection: growth(|memory| memory.anonymous),
            kernel_bytes_per_connection: slab_before
                .zip(slab_open)
                .map(|(before, open)| (open as f64 - before as f64) / connections),
        })
    }

    /// Of all that was timed.
    pub fn latency(&self, metric: Metric) -> Latency {
        Latency::of(self.times[metric as usize].as_deref())
    }

    /// Forgets the times taken until now.
    pub fn forget_times(&mut self) {
        self.times = Histograms::default();
    }

    /// Ends the crews: the course, and what went wrong.
    pub fn finish(mut self, unanswered: u64) -> (Vec<Point>, Errors) {
        let _ = self.look();
        self.add_point();
        let mut errors = self.total.errors.clone();
        errors.lost += unanswered;
        for crew in self.crews.drain(..) {
            if let Err(why) = crew.finish()
                && !errors.notes.contains(&why)
            {
                errors.notes.push(why);
            }
        }
        self.progress.end(&self.orders.name);
        (self.course.points, errors)
    }
}
