//! Where an attack takes place: the server, a bystander who must not notice, and the notes on what
//! was seen.
//!
//! The contract: [`Arena::probe`] checks the server's health after each probe, whatever the probe
//! found, so that what a probe did is never blamed on the next one.

use super::Options;
use super::bystander::Bystander;
use super::peer::{Peer, Reaction};
use crate::host::CpuTime;
use crate::target::Target;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest that others may wait for their echo while the server is attacked.
const PROMPT: Duration = Duration::from_secs(3);
/// Reactions to one frame come at once; a server that says nothing for so long says nothing.
const PATIENCE: Duration = Duration::from_secs(3);
/// Apart, so that the server reads the pieces one by one.
const PAUSE: Duration = Duration::from_millis(15);
/// What any server may take while it is attacked: buffers, pools, what its allocator keeps.
const MODEST_BYTES: u64 = 192 << 20;

/// Why a probe did not go well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server did what no good server does.
    Bad(String),
    /// It does not offer what is attacked, or takes longer than was to be waited for.
    Skipped(String),
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Bad(text)
    }
}

/// What was seen, in few words.
pub type Verdict = Result<String, Fault>;

/// A verdict that the server failed.
pub fn bad(text: impl Into<String>) -> Verdict {
    Err(Fault::Bad(text.into()))
}

/// A verdict that there was nothing to see.
pub fn skipped(text: impl Into<String>) -> Verdict {
    Err(Fault::Skipped(text.into()))
}

/// The notes on one row.
#[derive(Debug, Default)]
pub struct Notes {
    /// What was seen, and in which probes.
    good: Vec<(String, Vec<String>)>,
    skipped: Vec<(String, Vec<String>)>,
    bad: Vec<String>,
}

impl Notes {
    fn add(&mut self, probe: &str, verdict: Verdict) {
        let (alike, seen) = match verdict {
            Ok(seen) => (&mut self.good, seen),
            Err(Fault::Skipped(why)) => (&mut self.skipped, format!("not tried, as {why}")),
            Err(Fault::Bad(why)) => return self.bad.push(format!("{probe}: {why}")),
        };
        match alike.iter_mut().find(|(other, _)| *other == seen) {
            Some((_, probes)) => probes.push(probe.to_owned()),
            None => alike.push((seen, vec![probe.to_owned()])),
        }
    }

    /// `ok`, `failed` or `skipped`, and what was seen in words.
    pub fn sum_up(&self) -> (&'static str, String) {
        let outcome = match (self.bad.is_empty(), self.good.is_empty()) {
            (false, _) => "failed",
            (true, false) => "ok",
            (true, true) => "skipped",
        };
        let many = |probes: &[String]| match probes.len() {
            1..=3 => probes.join(", "),
            n => format!("{}, {}, … ({n} probes)", probes[0], probes[1]),
        };
        let alike = self.good.iter().chain(&self.skipped);
        let alike = alike.map(|(seen, probes)| format!("{}: {seen}", many(probes)));
        let all: Vec<String> = self.bad.iter().cloned().chain(alike).collect();
        (outcome, all.join("; "))
    }
}

/// See the module's documentation.
pub struct Arena<'a> {
    /// The server.
    pub target: &'a Target,
    /// What was asked for.
    pub options: &'a Options,
    /// Bytes of a message that the server takes, and of one that it refuses; found out once.
    pub limits: Option<(u64, Option<u64>)>,
    /// The server no longer answers.
    pub gone: bool,
    notes: Notes,
    bystander: Bystander,
    slowest: Duration,
    watch: Option<Watch>,
}

impl<'a> Arena<'a> {
    /// An arena with a bystander in place.
    ///
    /// # Errors
    /// In words, if the server is none that could be attacked.
    pub fn enter(target: &'a Target, options: &'a Options) -> Result<Self, String> {
        let mut arena = Self {
            target,
            options,
            limits: None,
            gone: false,
            notes: Notes::default(),
            bystander: Bystander::begin(target, PROMPT)?,
            slowest: Duration::ZERO,
            watch: options.pid.map(Watch::begin),
        };
        let wanted = "what is attacked has to be a WebSocket server that echoes";
        let checked = arena.check_newcomer().and_then(|()| arena.glance());
        checked.map_err(|why| format!("{target}: {why} ({wanted})"))?;
        Ok(arena)
    }

    /// Begins the notes of a row.
    pub fn begin(&mut self) {
        self.notes = Notes::default();
        self.slowest = Duration::ZERO;
        self.watch.iter_mut().for_each(Watch::reset);
    }

    /// What became of the row: its outcome, and what was seen.
    pub fn end(&mut self) -> (&'static str, String) {
        let limit = self.limits.map_or(0, |(taken, _)| taken);
        if let Some(watch) = &self.watch {
            let (grown, allowed) = (watch.grown(), MODEST_BYTES + 4 * limit.min(MODEST_BYTES));
            if grown > allowed && !self.gone {
                self.notes.bad.push(format!("memory: grew by {} MB", grown / 1_000_000));
            }
        }
        let (outcome, mut seen) = self.notes.sum_up();
        if self.slowest > Duration::from_millis(100) {
            seen += &format!("; others waited up to {} ms", self.slowest.as_millis());
        }
        if let Some(watch) = &self.watch {
            seen += &format!("; {watch}");
        }
        (outcome, seen)
    }

    /// Bytes that the server's memory has grown by since the row began, if its process is known.
    pub fn grown(&self) -> Option<u64> {
        self.watch.as_ref().map(Watch::grown)
    }

    /// The server's descriptors when it was first looked at, and now.
    pub fn descriptors(&self) -> Option<(usize, usize)> {
        self.watch.as_ref().map(|watch| (watch.descriptors, descriptors(&watch.pid)))
    }

    /// How long to wait for a reaction that has to come.
    pub fn patience(&self) -> Duration {
        self.options.timeout.min(PATIENCE)
    }

    /// Does one thing to the server, then looks whether it still serves others.
    pub fn probe(&mut self, name: &str, attack: impl FnOnce(&mut Self) -> Verdict) {
        if self.gone {
            return;
        }
        let verdict = attack(self);
        self.notes.add(name, verdict);
        if let Err(why) = self.glance().and_then(|()| self.check_newcomer()) {
            self.notes.bad.push(format!("{name}: afterwards {why}"));
            self.recover();
        }
    }

    /// Whether the bystander is served; in the middle of an attack as well.
    ///
    /// # Errors
    /// In words, if it is not, or was not since it was last asked.
    pub fn glance(&mut self) -> Result<(), String> {
        let seen = self.bystander.ask();
        self.slowest = self.slowest.max(seen.slowest);
        seen.fault.map_or(Ok(()), Err)
    }

    /// A WebSocket of the attacker's.
    pub fn open(&self, more: &str) -> Result<Peer, String> {
        Peer::open(self.target, more, self.patience())
    }

    /// A connection on which nothing has been sent.
    pub fn connect(&self) -> Result<Peer, String> {
        Peer::connect(self.target, self.patience())
    }

    /// Sends pieces to a fresh WebSocket and expects the connection to be failed with one of these
    /// codes, or cut (RFC 6455 §7.1.7).
    pub fn must_fail(&mut self, name: &str, pieces: &[&[u8]], codes: &[u16]) {
        self.probe(name, |arena| {
            let mut peer = arena.open("")?;
            send_pieces(&mut peer, pieces, arena.patience());
            arena.failed(&mut peer, codes)
        });
    }

    /// The next reaction has to be the end, with one of these codes or without any.
    pub fn failed(&self, peer: &mut Peer, codes: &[u16]) -> Verdict {
        match peer.reaction(self.patience()) {
            Reaction::Close(Some(code)) if codes.contains(&code) => Ok(format!("close {code}")),
            Reaction::Dropped => Ok("dropped".to_owned()),
            Reaction::Close(Some(code)) => bad(format!("close {code}, which says something else")),
            other => bad(other.to_string()),
        }
    }

    /// Sends pieces to a fresh WebSocket and expects these messages back, and then nothing.
    pub fn must_echo(&mut self, name: &str, pieces: &[&[u8]], messages: &[&[u8]]) {
        self.probe(name, |arena| {
            let mut peer = arena.open("")?;
            send_pieces(&mut peer, pieces, arena.patience());
            for message in messages {
                match peer.reaction(arena.patience()) {
                    Reaction::Message(_, bytes) if bytes == *message => {}
                    other => return bad(other.to_string()),
                }
            }
            peer.echo("and nothing else", arena.patience())?;
            Ok("echoed".to_owned())
        });
    }

    fn check_newcomer(&mut self) -> Result<(), String> {
        let mut peer = Peer::open(self.target, "", PROMPT).map_err(|why| format!("a newcomer {why}"))?;
        peer.echo("newcomer", PROMPT).map_err(|why| format!("a newcomer gets {why}"))
    }

    /// Waits for a server that does not serve, and gives it up if it does not come back.
    fn recover(&mut self) {
        let begin = Instant::now();
        while self.check_newcomer().is_err() {
            if begin.elapsed() > self.options.timeout {
                self.gone = true;
                return;
            }
            thread::sleep(PATIENCE / 20);
        }
        // What the bystander missed meanwhile is told already.
        let _ = self.glance();
        let waited = begin.elapsed().as_secs_f64();
        self.notes.bad.push(format!("it served again after {waited:.1} s"));
    }
}

/// Sends pieces so that they arrive one by one.
pub fn send_pieces(peer: &mut Peer, pieces: &[&[u8]], patience: Duration) {
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            thread::sleep(PAUSE);
        }
        peer.send(piece, patience);
    }
}

/// Watches the server's process: its CPU time, and the peak of its memory.
struct Watch {
    pid: String,
    descriptors: usize,
    cpu: CpuTime,
    base: u64,
    peak: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn begin(pid: u32) -> Self {
        let (peak, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let body = {
            let (peak, done, pid) = (peak.clone(), done.clone(), pid.to_string());
            move || {
                while !done.load(Ordering::Relaxed) {
                    peak.fetch_max(resident_bytes(&pid), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                }
            }
        };
        // Without the thread only what is resident at the end of a row is seen.
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(body).ok();
        let pid = pid.to_string();
        let descriptors = descriptors(&pid);
        let mut watch = Self { pid, descriptors, cpu: CpuTime::default(), base: 0, peak, done, thread };
        watch.reset();
        watch
    }

    fn reset(&mut self) {
        self.cpu = CpuTime::of(&self.pid).unwrap_or_default();
        self.base = resident_bytes(&self.pid);
        self.peak.store(self.base, Ordering::Relaxed);
    }

    fn grown(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).max(resident_bytes(&self.pid)).saturating_sub(self.base)
    }
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cpu = CpuTime::of(&self.pid).unwrap_or_default().since(self.cpu);
        let (seconds, grown) = (cpu.total_ns as f64 / 1e9, self.grown() as f64 / 1e6);
        write!(f, "server: {seconds:.2} s of CPU, at most {grown:.1} MB more memory")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// 0 if the process is gone, or not ours to look at.
fn descriptors(pid: &str) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// 0 if the process is gone.
fn resident_bytes(pid: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1_024
}
