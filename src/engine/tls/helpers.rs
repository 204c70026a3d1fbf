//! Steps of handshakes on other threads: what signs and derives keys takes a tenth of a millisecond, during
//! which a core serves nobody.
//!
//! A step takes the connection's TLS along and comes back through the core's mailbox. The contract: every
//! step that is handed over comes back, unless its core has stopped, and a core has at most
//! [`MAX_AWAY`] of them out.

use super::super::Command;
use super::super::mailbox::Mailbox;
use crate::driver::Token;
use crate::tls::{Connection, Shaken, TlsFailure};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

/// Steps of one core that may be away; handshakes beyond wait for their turn.
pub const MAX_AWAY: u32 = 64;
/// In a simulation a step comes back after one of so many delays, the next longer than the one before by this.
const DELAYS: u32 = 8;
const DELAY: Duration = Duration::from_millis(5);

/// A step of a handshake, on its way to a helper and back.
#[derive(Debug)]
pub struct Step {
    pub(super) token: Token,
    pub(super) connection: Connection,
    /// What the peer has sent, and how much of it need not be kept.
    pub(super) kept: Vec<u8>,
    pub(super) used: usize,
    /// What the peer is to be sent.
    pub(super) out: Vec<u8>,
    pub(super) shaken: Result<Shaken, TlsFailure>,
}

impl Step {
    pub(super) fn new(token: Token, connection: Connection, kept: Vec<u8>, out: Vec<u8>) -> Box<Self> {
        Box::new(Self { token, connection, kept, used: 0, out, shaken: Ok(Shaken::Wait) })
    }

    fn take(&mut self) {
        let Self { connection, kept, used, out, shaken, .. } = self;
        // A panic fails the one handshake, and does not take the helper along.
        let taken = catch_unwind(AssertUnwindSafe(|| connection.shake(kept, used, out)));
        *shaken = taken.unwrap_or(Err(TlsFailure::Internal));
    }
}

/// Steps that wait for a helper, of all cores.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    steps: VecDeque<(Box<Step>, Mailbox<Command>)>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, step: Box<Step>, back: Mailbox<Command>) {
        self.lock().steps.push_back((step, back));
        self.changed.notify_one();
    }

    /// The next step; waits for one until the queue is closed.
    fn next(&self) -> Option<(Box<Step>, Mailbox<Command>)> {
        let mut waiting = self
            .changed
            .wait_while(self.lock(), |waiting| waiting.steps.is_empty() && !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.closed { None } else { waiting.steps.pop_front() }
    }

    fn help(&self) {
        while let Some((mut step, back)) = self.next() {
            step.take();
            // A core that has stopped has no use for it.
            let _ = back.post_unbounded(Command::Shaken(step));
        }
    }
}

/// The threads; dropping it ends them.
#[derive(Debug)]
pub struct Crew {
    queue: Arc<Queue>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crew {
    /// Starts so many threads, on these cores in turn; without cores the kernel places them.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(threads: usize, cores: &[usize]) -> io::Result<Self> {
        let mut crew = Self { queue: Arc::default(), threads: Vec::with_capacity(threads) };
        for index in 0..threads {
            let queue = crew.queue.clone();
            let core = (!cores.is_empty()).then(|| cores[index % cores.len()]);
            let thread = thread::Builder::new().name(format!("ringwire-tls-{index}")).spawn(move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                queue.help();
            })?;
            crew.threads.push(thread);
        }
        Ok(crew)
    }

    /// What a core is given whose mailbox this is.
    pub fn helpers(&self, back: Mailbox<Command>) -> Helpers {
        if self.threads.is_empty() { Helpers::None } else { Helpers::Threads(self.queue.clone(), back) }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It cannot have panicked.
            let _ = thread.join();
        }
    }
}

/// Who takes a core's steps.
#[derive(Debug, Default)]
pub enum Helpers {
    /// The core itself.
    #[default]
    None,
    /// Threads, which answer by the core's mailbox.
    Threads(Arc<Queue>, Mailbox<Command>),
    /// A simulation's: some milliseconds later, as their number tells.
    Simulated(Later),
}

/// Steps of a simulation, each with the time at which it is through.
#[derive(Debug, Default)]
pub struct Later {
    steps: VecDeque<(Duration, Box<Step>)>,
    handed: u32,
}

impl Helpers {
    /// A simulation's, if there are to be any.
    pub fn simulated(threads: usize) -> Self {
        if threads == 0 { Self::None } else { Self::Simulated(Later::default()) }
    }

    pub(super) fn are_there(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// When the next step is through, in a simulation: nothing else would end the wait.
    pub(super) fn next_due(&self) -> Option<Duration> {
        match self {
            Self::Simulated(later) => later.steps.iter().map(|(due, _)| *due).min(),
            _ => None,
        }
    }

    /// Hands a step over, if [`are_there`](Self::are_there).
    pub(super) fn hand_over(&mut self, step: Box<Step>, now: Duration) {
        match self {
            Self::None => debug_assert!(false, "nobody helps"),
            Self::Threads(queue, back) => queue.put(step, back.clone()),
            Self::Simulated(later) => {
                later.steps.push_back((now + DELAY * (later.handed * 5 % DELAYS), step));
                later.handed += 1;
            }
        }
    }

    /// A step that is through by now, in a simulation.
    pub(super) fn through(&mut self, now: Duration) -> Option<Box<Step>> {
        let Self::Simulated(later) = self else { return None };
        let at = later.steps.iter().position(|(due, _)| *due <= now)?;
        let (_, mut step) = later.steps.remove(at)?;
        step.take();
        Some(step)
    }
}
