//! What workers and the conductor tell each other: the step of the run one way, counters, times and
//! faults the other. Shared memory and nothing else.

use crate::payload::Fault;
use crate::result::{Errors, MAX_NOTES};
use hdrhistogram::Histogram;
use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Missing messages that are remembered, to tell late from lost.
const MAX_MISSING: usize = 4_096;
/// Messages of one publisher that may be on their way at once and still be timed whole.
const TRACKED: usize = 1_024;

/// What a step of the run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Nothing yet.
    #[default]
    Ready,
    /// Connections are being opened.
    Connect,
    /// Load without measuring.
    WarmUp,
    /// Load, measured.
    Measure,
    /// Nothing new is sent; what is on its way still comes back.
    Drain,
    /// Connections are being closed, to be opened again.
    Leave,
    /// Connections are being closed for good.
    Close,
}

impl Phase {
    const ALL: [Self; 7] =
        [Self::Ready, Self::Connect, Self::WarmUp, Self::Measure, Self::Drain, Self::Leave, Self::Close];

    /// Whether messages are sent.
    pub fn is_loading(self) -> bool {
        matches!(self, Self::WarmUp | Self::Measure)
    }

    /// Whether an end of a connection is no surprise.
    pub fn is_leaving(self) -> bool {
        matches!(self, Self::Leave | Self::Close)
    }

    /// As results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Connect => "connect",
            Self::WarmUp => "warmup",
            Self::Measure => "measure",
            Self::Drain => "drain",
            Self::Leave => "leave",
            Self::Close => "close",
        }
    }
}

/// Where the run stands: its phases are numbered, as one may come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Grows by one with each.
    pub number: u32,
    /// What is to be done.
    pub phase: Phase,
}

impl Step {
    /// As one number.
    pub fn pack(self) -> u64 {
        u64::from(self.number) << 8 | self.phase as u64
    }

    /// The reverse of [`Step::pack`].
    pub fn unpack(bits: u64) -> Self {
        let phase = Phase::ALL.get(bits as usize & 0xff).copied().unwrap_or(Phase::Close);
        Self { number: (bits >> 8) as u32, phase }
    }
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Metric {
    /// Of answers and deliveries.
    Latency,
    /// The generator's own lateness.
    SendLag,
    /// From asking for a connection to its open WebSocket.
    Connect,
    /// To the first subscriber.
    First,
    /// To the one in the middle.
    Median,
    /// To the last.
    Last,
}

/// One of each [`Metric`], where there is any.
pub type Histograms = [Option<Box<Histogram<u64>>>; 6];

/// Times from 1 ns to 10 minutes, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("constant bounds are valid")
}

/// Adds each of `from` to its counterpart.
///
/// # Errors
/// If one holds times beyond [`new_histogram`]'s bounds, as only another program's do.
pub fn merge(into: &mut Histograms, from: &Histograms) -> Result<(), String> {
    for (into, from) in into.iter_mut().zip(from) {
        if let Some(from) = from {
            let into = into.get_or_insert_with(|| Box::new(new_histogram()));
            into.add(&**from).map_err(|error| format!("times that do not fit: {error}"))?;
        }
    }
    Ok(())
}

/// One worker's counters, on a cache line of their own. They only grow.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Lane {
    /// Connections opened.
    pub opened: AtomicU64,
    /// Of these, ended.
    pub ended: AtomicU64,
    /// Connections that could not be opened.
    pub failed: AtomicU64,
    /// Failed attempts that are made again.
    pub retried: AtomicU64,
    /// Messages sent.
    pub sent: AtomicU64,
    /// Messages that came as they should.
    pub received: AtomicU64,
    /// Messages that will not come any more: overtaken, or their connection ended.
    pub given_up: AtomicU64,
    /// The latest step this worker has seen, packed.
    pub step_seen: AtomicU64,
}

#[derive(Debug, Default)]
struct Faults {
    errors: Errors,
    missing: HashSet<(u32, u32, u64)>,
    missing_beyond: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Board {
    step: AtomicU64,
    step_began_ns: AtomicU64,
    measure_began_ns: AtomicU64,
    clock_offset_ns: AtomicI64,
    /// One per worker of this process.
    pub lanes: Vec<Lane>,
    faults: Mutex<Faults>,
    fault_count: AtomicU64,
    times: Mutex<Histograms>,
    /// Of this process.
    subscribers: u64,
    deliveries: Vec<AtomicU64>,
}

impl Board {
    /// A board for so many workers of this process.
    pub fn new(workers: usize) -> Self {
        Self::for_broadcast(workers, 0, 0)
    }

    /// A board for a broadcast of so many publishers to so many subscribers of this process.
    pub fn for_broadcast(workers: usize, publishers: u64, subscribers: u64) -> Self {
        Self {
            step: AtomicU64::new(Step::default().pack()),
            step_began_ns: AtomicU64::new(0),
            measure_began_ns: AtomicU64::new(u64::MAX),
            subscribers,
            clock_offset_ns: AtomicI64::new(0),
            lanes: (0..workers).map(|_| Lane::default()).collect(),
            faults: Mutex::default(),
            fault_count: AtomicU64::new(0),
            times: Mutex::default(),
            deliveries: (0..publishers as usize * TRACKED).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Nanoseconds on the run's clock, which all its processes share.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        monotonic_ns().wrapping_add_signed(self.clock_offset_ns.load(Ordering::Relaxed))
    }

    /// Sets the run's clock, as an offset from this host's monotonic clock.
    pub fn set_clock_offset(&self, offset_ns: i64) {
        self.clock_offset_ns.store(offset_ns, Ordering::Relaxed);
    }

    /// The step.
    pub fn step(&self) -> Step {
        Step::unpack(self.step.load(Ordering::Acquire))
    }

    /// Moves on to a step that began at `began_ns` on the run's clock.
    pub fn set_step(&self, step: Step, began_ns: u64) {
        self.step_began_ns.store(began_ns, Ordering::Relaxed);
        if step.phase == Phase::Measure {
            self.measure_began_ns.store(began_ns, Ordering::Relaxed);
        }
        self.step.store(step.pack(), Ordering::Release);
    }

    /// When the step began.
    pub fn step_began_ns(&self) -> u64 {
        self.step_began_ns.load(Ordering::Relaxed)
    }

    /// When the measurement began; it has not as long as this is the end of time.
    #[inline]
    pub fn measure_began_ns(&self) -> u64 {
        self.measure_began_ns.load(Ordering::Relaxed)
    }

    /// Subscribers of this process.
    pub fn subscribers(&self) -> u64 {
        self.subscribers
    }

    /// The latest step that every worker has seen.
    pub fn seen_by_all(&self) -> Step {
        let seen = self.lanes.iter().map(|lane| lane.step_seen.load(Ordering::Acquire)).min();
        Step::unpack(seen.unwrap_or(0))
    }

    /// The sum of a counter over all lanes.
    pub fn sum(&self, of: fn(&Lane) -> &AtomicU64) -> u64 {
        self.lanes.iter().map(|lane| of(lane).load(Ordering::Acquire)).sum()
    }

    /// Faults so far.
    pub fn fault_count(&self) -> u64 {
        self.fault_count.load(Ordering::Acquire)
    }

    /// What went wrong so far. Messages still awaited are not in it.
    pub fn errors(&self) -> Errors {
        let faults = self.faults();
        let missing = faults.missing.len() as u64 + faults.missing_beyond;
        Errors { lost: faults.errors.lost + missing, ..faults.errors.clone() }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, note: String, count: impl FnOnce(&mut Faults)) {
        let mut faults = self.faults();
        count(&mut faults);
        let notes = &mut faults.errors.notes;
        if notes.len() < MAX_NOTES && !notes.contains(&note) {
            notes.push(note);
        }
        self.fault_count.fetch_add(1, Ordering::Release);
    }

    /// A wrong message came on connection `index` where message `expected` of stream `stream` was
    /// due. A stream is a connection's own echoes, or one publisher's messages to it.
    pub fn wrong_message(&self, index: u32, stream: u32, expected: u64, fault: Fault) {
        let of = if stream == index { String::new() } else { format!(" of publisher {stream}") };
        let key = |seq: u64| (index, stream, seq);
        self.fault(
            format!("connection {index}, message {expected}{of} due: {fault}"),
            |faults| match fault {
                Fault::Ahead(seq) => {
                    for missing in expected..seq {
                        if faults.missing.len() < MAX_MISSING {
                            faults.missing.insert(key(missing));
                        } else {
                            faults.missing_beyond += 1;
                        }
                    }
                }
                Fault::Behind(seq) if faults.missing.remove(&key(seq)) => faults.errors.reordered += 1,
                Fault::Behind(_) => faults.errors.doubled += 1,
                Fault::Foreign(_) | Fault::Kind | Fault::Length(_) | Fault::Content => {
                    faults.errors.corrupted += 1;
                }
            },
        );
    }

    /// A connection ended before it was time.
    pub fn closed_early(&self, index: u32, why: &str) {
        self.fault(format!("connection {index} ended: {why}"), |faults| faults.errors.closed += 1);
    }

    /// A connection could not be opened.
    pub fn connect_failed(&self, why: String) {
        self.fault(why, |faults| faults.errors.refused += 1);
    }

    /// Adds a worker's times and empties them.
    pub fn add_times(&self, times: &mut Histograms) {
        if times.iter().flatten().all(|histogram| histogram.is_empty()) {
            return;
        }
        let mut all = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        merge(&mut all, times).expect("workers record within the bounds");
        drop(all);
        times.iter_mut().flatten().for_each(|histogram| histogram.reset());
    }

    /// All workers' times since this was last called.
    pub fn take_times(&self) -> Histograms {
        std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a delivery of a publisher's message: how many of this process's subscribers have it
    /// now. `None` if a much later message of the publisher has been delivered already.
    #[inline]
    pub fn count_delivery(&self, publisher: u32, seq: u64) -> Option<u64> {
        let place = publisher as usize * TRACKED + seq as usize % TRACKED;
        // The number's low half in the upper, the count in the lower half.
        let fresh = (seq & 0xffff_ffff) << 32;
        let change = |old: u64| match old & !0xffff_ffff {
            _ if old as u32 == 0 => Some(fresh | 1),
            number if number == fresh => Some(old + 1),
            number if number < fresh => Some(fresh | 1),
            _ => None,
        };
        let delivered = self.deliveries.get(place)?;
        let old = delivered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).ok()?;
        change(old).map(|new| new & 0xffff_ffff)
    }
}

/// Nanoseconds on `CLOCK_MONOTONIC`.
#[inline]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_late_from_lost_and_from_doubled() {
        let board = Board::new(1);
        assert_eq!(board.fault_count(), 0);
        board.wrong_message(7, 7, 3, Fault::Ahead(5));
        assert_eq!(board.errors().lost, 2);
        board.wrong_message(7, 7, 6, Fault::Behind(3));
        board.wrong_message(7, 7, 6, Fault::Behind(3));
        let errors = board.errors();
        assert_eq!((errors.lost, errors.reordered, errors.doubled), (1, 1, 1));
        assert_eq!(errors.notes.len(), 2, "the same note is not made twice");
        assert_eq!(board.fault_count(), 3);
    }

    #[test]
    fn steps_are_one_number() {
        for phase in Phase::ALL {
            let step = Step { number: 70_000, phase };
            assert_eq!(Step::unpack(step.pack()), step);
        }
        assert_eq!(Step::unpack(0), Step::default());
    }

    #[test]
    fn deliveries_are_counted_per_message() {
        let board = Board::for_broadcast(1, 2, 3);
        assert_eq!(board.count_delivery(0, 0), Some(1));
        assert_eq!(board.count_delivery(1, 0), Some(1));
        assert_eq!(board.count_delivery(0, 0), Some(2));
        assert_eq!(board.count_delivery(0, TRACKED as u64), Some(1), "the place is taken over");
        assert_eq!(board.count_delivery(0, 0), None, "and what comes late is not counted");
        assert_eq!(board.count_delivery(2, 0), None, "an unknown publisher");
    }
}
