//! What workers and the conductor tell each other: the phase of the run one way, counters and
//! faults the other. Shared memory and nothing else.

use crate::payload::Fault;
use hdrhistogram::Histogram;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Faults that are described one by one; the rest are only counted.
const MAX_NOTES: usize = 10;
/// Missing messages that are remembered, to tell late from lost.
const MAX_MISSING: usize = 4_096;

/// Where the run stands. Only the conductor moves it, and only forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections are being opened.
    Connect,
    /// Load without measuring.
    WarmUp,
    /// Load, measured.
    Measure,
    /// Nothing new is sent; what is on its way still comes back.
    Drain,
    /// Connections are being closed.
    Close,
}

impl Phase {
    /// Whether messages are sent.
    pub fn is_loading(self) -> bool {
        matches!(self, Self::WarmUp | Self::Measure)
    }
}

/// One worker's counters, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Lane {
    /// Connections opened.
    pub opened: AtomicU64,
    /// Connections that could not be opened.
    pub failed: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
    /// Messages that came back as they should.
    pub answered: AtomicU64,
    /// Messages sent whose answer is awaited.
    pub outstanding: AtomicU64,
    /// Latest phase this worker has seen.
    pub phase_seen: AtomicU8,
}

/// The sum of all lanes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// See [`Lane::opened`].
    pub opened: u64,
    /// See [`Lane::failed`].
    pub failed: u64,
    /// See [`Lane::answered`].
    pub answered: u64,
    /// See [`Lane::outstanding`].
    pub outstanding: u64,
}

/// Everything that went wrong.
#[derive(Debug, Default)]
pub struct Faults {
    /// Answers with wrong bytes, of a wrong kind or for another connection.
    pub corrupted: u64,
    /// Answers that came a second time.
    pub doubled: u64,
    /// Answers that came after later ones.
    pub reordered: u64,
    /// Connections that ended in the middle of the run.
    pub closed: u64,
    /// The first of all faults, in words.
    pub notes: Vec<String>,
    missing: HashSet<(u32, u64)>,
    missing_beyond: u64,
}

impl Faults {
    /// Messages whose answers later ones overtook and which did not come.
    pub fn missing(&self) -> u64 {
        self.missing.len() as u64 + self.missing_beyond
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Board {
    phase: AtomicU8,
    start: Instant,
    /// One per worker.
    pub lanes: Vec<Lane>,
    faults: Mutex<Faults>,
    any_fault: AtomicU8,
    latency_ns: Mutex<Histogram<u64>>,
}

/// Latencies from 1 ns to 10 minutes, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds are valid")
}

impl Board {
    /// A board for so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Connect as u8),
            start: Instant::now(),
            lanes: (0..workers).map(|_| Lane::default()).collect(),
            faults: Mutex::default(),
            any_fault: AtomicU8::new(0),
            latency_ns: Mutex::new(new_histogram()),
        }
    }

    /// Nanoseconds since the board was made.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Connect,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            3 => Phase::Drain,
            _ => Phase::Close,
        }
    }

    /// Moves on.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Whether every worker has seen this phase.
    pub fn all_saw(&self, phase: Phase) -> bool {
        self.lanes.iter().all(|lane| lane.phase_seen.load(Ordering::Acquire) >= phase as u8)
    }

    /// The sum of all lanes.
    pub fn totals(&self) -> Totals {
        let sum = |of: fn(&Lane) -> &AtomicU64| {
            self.lanes.iter().map(|lane| of(lane).load(Ordering::Relaxed)).sum()
        };
        Totals {
            opened: sum(|lane| &lane.opened),
            failed: sum(|lane| &lane.failed),
            answered: sum(|lane| &lane.answered),
            outstanding: sum(|lane| &lane.outstanding),
        }
    }

    /// Whether anything went wrong.
    pub fn has_faults(&self) -> bool {
        self.any_fault.load(Ordering::Acquire) != 0
    }

    /// What went wrong.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn fault(&self, note: String, count: impl FnOnce(&mut Faults)) {
        let mut faults = self.faults();
        count(&mut faults);
        faults.note(note);
        self.any_fault.store(1, Ordering::Release);
    }

    /// Connection `index` got a wrong answer where message `expected` was due.
    pub fn wrong_answer(&self, index: u32, expected: u64, fault: Fault) {
        let note = format!("connection {index}, message {expected} due: {fault}");
        self.fault(note, |faults| match fault {
            Fault::Ahead(seq) => {
                for missing in expected..seq {
                    if faults.missing.len() < MAX_MISSING {
                        faults.missing.insert((index, missing));
                    } else {
                        faults.missing_beyond += 1;
                    }
                }
            }
            Fault::Behind(seq) if faults.missing.remove(&(index, seq)) => faults.reordered += 1,
            Fault::Behind(_) => faults.doubled += 1,
            Fault::Foreign(_) | Fault::Kind | Fault::Length(_) | Fault::Content => faults.corrupted += 1,
        });
    }

    /// A connection ended before it was time.
    pub fn closed_early(&self, index: u32, why: &str) {
        self.fault(format!("connection {index} ended: {why}"), |faults| faults.closed += 1);
    }

    /// A connection could not be opened.
    pub fn connect_failed(&self, why: String) {
        self.fault(why, |_| {});
    }

    /// Adds a worker's latencies.
    pub fn add_latencies(&self, histogram: &Histogram<u64>) {
        let mut all = self.latency_ns.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.add(histogram).expect("same bounds");
    }

    /// All workers' latencies.
    pub fn latencies(&self) -> Histogram<u64> {
        self.latency_ns.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_late_from_lost_and_from_doubled() {
        let board = Board::new(1);
        assert!(!board.has_faults());
        board.wrong_answer(7, 3, Fault::Ahead(5));
        assert_eq!(board.faults().missing(), 2);
        board.wrong_answer(7, 6, Fault::Behind(3));
        board.wrong_answer(7, 6, Fault::Behind(3));
        let faults = board.faults();
        assert_eq!((faults.missing(), faults.reordered, faults.doubled), (1, 1, 1));
        assert_eq!(faults.notes.len(), 2, "the same note is not made twice");
        drop(faults);
        assert!(board.has_faults());
    }
}
