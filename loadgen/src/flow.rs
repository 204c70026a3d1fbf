//! One connection's share of a run: bursts out, answers in, each checked. Knows no transport.

use crate::board::{Board, Phase, new_histogram};
use crate::payload::{Fault, Payload};
use hdrhistogram::Histogram;
use ringwire::ws::Kind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Connections on their way at once, per worker: within the smallest usual listen backlog.
const MAX_OPENING: u64 = 64;

/// What every worker is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Connections of all workers.
    pub connections: u64,
    /// Connections opened per second by all workers.
    pub rate: Option<f64>,
    /// Bytes of a message.
    pub size: usize,
    /// Text or binary.
    pub kind: Kind,
    /// Text that looks like JSON records.
    pub records: bool,
    /// Every connection must compress.
    pub deflate: bool,
    /// Messages of a burst.
    pub depth: u64,
    /// One burst at once when a connection opens.
    pub echo_on_open: bool,
}

/// What a connection keeps.
#[derive(Debug)]
pub struct Flow {
    /// The connection's number in the run.
    pub index: u32,
    /// Messages sent.
    pub sent: u64,
    /// The message that is due next.
    pub expected: u64,
    burst_began_ns: u64,
}

impl Flow {
    /// A connection that has sent nothing.
    pub fn new(index: u32) -> Self {
        Self { index, sent: 0, expected: 0, burst_began_ns: 0 }
    }
}

/// What a worker keeps, whatever its transport.
#[derive(Debug)]
pub struct Worker {
    /// Shared with the conductor.
    pub board: Arc<Board>,
    /// What is to be done.
    pub plan: Arc<Plan>,
    /// Messages.
    pub payload: Payload,
    /// The phase, as of this turn.
    pub phase: Phase,
    lane: usize,
    histogram: Histogram<u64>,
    asked: u64,
    opened: u64,
    failed: u64,
    sent: u64,
    answered: u64,
    /// Sent and then given up: overtaken by later answers, or on a connection that ended.
    given_up: u64,
}

/// What a turn's end asks of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// So many connections are to be opened now.
    pub open: u64,
    /// The load begins: a burst on every connection.
    pub begins: bool,
    /// The run is over.
    pub ends: bool,
}

impl Worker {
    /// Worker number `lane`.
    pub fn new(board: Arc<Board>, plan: Arc<Plan>, lane: usize) -> Self {
        Self {
            payload: match plan.records {
                true => Payload::records(plan.size),
                false => Payload::new(plan.size, plan.kind),
            },
            board,
            plan,
            phase: Phase::Connect,
            lane,
            histogram: new_histogram(),
            asked: 0,
            opened: 0,
            failed: 0,
            sent: 0,
            answered: 0,
            given_up: 0,
        }
    }

    /// The number of the next connection to be asked for: workers take turns.
    pub fn next_index(&mut self) -> u32 {
        let index = self.asked * self.board.lanes.len() as u64 + self.lane as u64;
        self.asked += 1;
        index as u32
    }

    fn share(&self) -> u64 {
        let workers = self.board.lanes.len() as u64;
        self.plan.connections / workers + u64::from((self.lane as u64) < self.plan.connections % workers)
    }

    /// A connection has opened. True if it is to send a burst at once.
    pub fn opened(&mut self) -> bool {
        self.opened += 1;
        self.plan.echo_on_open
    }

    /// A connection could not be opened.
    pub fn connect_failed(&mut self, why: String) {
        self.failed += 1;
        self.board.connect_failed(why);
    }

    /// An open connection has ended.
    pub fn closed(&mut self, flow: &Flow, why: &str) {
        self.given_up += flow.sent - flow.expected;
        if self.phase < Phase::Close && self.board.phase() < Phase::Close {
            self.board.closed_early(flow.index, why);
        }
    }

    /// Hands the messages of the next burst to `send`, one by one.
    #[inline]
    pub fn burst(&mut self, flow: &mut Flow, mut send: impl FnMut(&[u8])) {
        flow.burst_began_ns = self.board.now_ns();
        self.send_burst(flow, &mut send);
    }

    #[inline]
    fn send_burst(&mut self, flow: &mut Flow, send: &mut impl FnMut(&[u8])) {
        for _ in 0..self.plan.depth {
            self.payload.with(flow.index, flow.sent, &mut *send);
            flow.sent += 1;
        }
        self.sent += self.plan.depth;
    }

    /// A whole answer came. True if it ends a burst and another one is to follow.
    #[inline]
    pub fn answer(&mut self, flow: &mut Flow, kind: Kind, bytes: &[u8]) -> bool {
        if kind == self.plan.kind
            && flow.expected < flow.sent
            && self.payload.matches(flow.index, flow.expected, bytes)
        {
            return self.right_answer(flow);
        }
        self.wrong_answer(flow, kind, bytes)
    }

    /// The message due next came as it should. As [`Worker::answer`].
    #[inline]
    pub fn right_answer(&mut self, flow: &mut Flow) -> bool {
        flow.expected += 1;
        self.answered += 1;
        flow.expected == flow.sent && self.burst_ended(flow)
    }

    #[cold]
    fn wrong_answer(&mut self, flow: &mut Flow, kind: Kind, bytes: &[u8]) -> bool {
        let fault = match kind == self.plan.kind {
            false => Fault::Kind,
            true => self.payload.diagnose(flow.index, flow.expected, flow.sent, bytes),
        };
        self.board.wrong_answer(flow.index, flow.expected, fault);
        let Fault::Ahead(seq) = fault else { return false };
        self.given_up += seq - flow.expected;
        flow.expected = seq;
        self.right_answer(flow)
    }

    fn burst_ended(&mut self, flow: &mut Flow) -> bool {
        let now_ns = self.board.now_ns();
        if self.phase == Phase::Measure {
            self.histogram.saturating_record_n(now_ns - flow.burst_began_ns, self.plan.depth);
        }
        flow.burst_began_ns = now_ns;
        self.phase.is_loading()
    }

    /// The burst that [`Worker::answer`] asked for.
    #[inline]
    pub fn next_burst(&mut self, flow: &mut Flow, mut send: impl FnMut(&[u8])) {
        self.send_burst(flow, &mut send);
    }

    /// To be called at the end of every turn: shows the counters, looks at the phase.
    pub fn turn(&mut self, now: Duration) -> Turn {
        let lane = &self.board.lanes[self.lane];
        lane.opened.store(self.opened, Ordering::Relaxed);
        lane.failed.store(self.failed, Ordering::Relaxed);
        lane.sent.store(self.sent, Ordering::Relaxed);
        lane.answered.store(self.answered, Ordering::Relaxed);
        let outstanding = self.sent.saturating_sub(self.answered + self.given_up);
        lane.outstanding.store(outstanding, Ordering::Relaxed);
        let before = std::mem::replace(&mut self.phase, self.board.phase());
        if before < Phase::Drain && self.phase >= Phase::Drain {
            self.board.add_latencies(&self.histogram);
        }
        lane.phase_seen.store(self.phase as u8, Ordering::Release);
        Turn {
            open: if self.phase == Phase::Connect { self.to_open(now) } else { 0 },
            begins: before == Phase::Connect && self.phase.is_loading(),
            ends: self.phase == Phase::Close,
        }
    }

    fn to_open(&self, now: Duration) -> u64 {
        if self.failed > 0 {
            return 0;
        }
        let due = match self.plan.rate {
            None => u64::MAX,
            Some(rate) => (rate / self.board.lanes.len() as f64 * now.as_secs_f64()) as u64 + 1,
        };
        let room = MAX_OPENING - (self.asked - self.opened - self.failed).min(MAX_OPENING);
        (due.min(self.share())).saturating_sub(self.asked).min(room)
    }
}
