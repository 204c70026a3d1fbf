//! One worker's share of a load: which connections to open, what is due on which, what came back
//! and whether it is right. Knows no transport and reads no clock but the board's.

use crate::board::{Board, Histograms, Metric, Phase, Step, new_histogram};
use crate::news::{Item, News};
use crate::pace::Pace;
use crate::payload::{Fault, Payload, STAMP_BYTES};
use crate::plan::{Plan, Traffic};
use ringwire::ws::{Kind, MAX_CONTROL_PAYLOAD};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a worker that opens connections at a rate, or again, looks whether one is due.
const CONNECT_WAIT: Duration = Duration::from_millis(5);
/// Times are handed to the conductor this often.
const SHOW_TIMES_NS: u64 = 100_000_000;
/// A longer body is not joined on its way into the outbox, but before: its frame has no short form of length.
const MAX_JOINED_BODY: usize = MAX_CONTROL_PAYLOAD - STAMP_BYTES;
/// A failed attempt is made again after this time.
const RETRY_NS: u64 = 100_000_000;

/// What a connection keeps.
#[derive(Debug, Default)]
pub struct Flow {
    /// The connection's number in the run.
    pub index: u32,
    /// Messages that were due, or sent.
    sent: u64,
    /// The message that is due back next.
    expected: u64,
    /// When the connection was asked for; once it is open, when the last burst began.
    began_ns: u64,
    /// In an open loop: when the messages on their way were due, or of a broadcast those not sent.
    due_ns: VecDeque<u64>,
    /// Messages that were due and did not fit the outbox.
    unsent: u64,
    /// In a broadcast: the message that is due next of each publisher.
    heard: Box<[u64]>,
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
    news: News,
    step: Step,
    /// The time that this turn's bursts share; 0 if it was not asked for.
    turn_ns: u64,
    /// Its number in this process, and in the run.
    lane: Place,
    times: Histograms,
    times_shown_ns: u64,
    pace: Option<Pace>,
    /// Of the connections that carry an open loop, the next one's place.
    round: u64,
    counts: Counts,
    retries: VecDeque<(u64, u32)>,
}

/// A message of a burst.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its stamp and what follows: to be put together where they go.
    Joined(&'a [u8; STAMP_BYTES], &'a [u8]),
}

/// Which of the run's workers this one is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number in its process.
    pub local: usize,
    /// Its number in the run.
    pub lane: u64,
    /// The run's workers.
    pub lanes: u64,
}

#[derive(Debug, Default)]
struct Counts {
    /// Connections asked for; in a later wave, from 0 again.
    asked: u64,
    /// Asked for and neither open nor failed.
    opening: u64,
    opened: u64,
    ended: u64,
    failed: u64,
    retried: u64,
    sent: u64,
    received: u64,
    given_up: u64,
}

/// What a turn's end asks of the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The load begins: a burst on every connection, in a closed loop.
    pub begins: bool,
    /// All connections are to be closed.
    pub leaves: bool,
    /// The run is over.
    pub ends: bool,
}

impl Worker {
    /// A worker.
    pub fn new(board: Arc<Board>, plan: Arc<Plan>, lane: Place) -> Self {
        Self {
            payload: plan.shape.payload(),
            news: plan.traffic.news(&plan.shape),
            times_shown_ns: board.now_ns(),
            board,
            plan,
            step: Step::default(),
            turn_ns: 0,
            lane,
            times: Histograms::default(),
            pace: None,
            round: 0,
            counts: Counts::default(),
            retries: VecDeque::new(),
        }
    }

    /// To be called at the end of every turn: shows the counters, looks at the step.
    pub fn turn(&mut self) -> Turn {
        self.turn_ns = 0;
        let now_ns = self.board.now_ns();
        let before = std::mem::replace(&mut self.step, self.board.step());
        let is_new = before != self.step;
        self.show(is_new, now_ns);
        if !is_new {
            return Turn::default();
        }
        let phase = self.step.phase;
        if phase == Phase::Connect {
            self.counts.asked = 0;
        }
        let begins = phase.is_loading() && !before.phase.is_loading();
        if begins {
            self.pace = self.new_pace(now_ns);
        }
        self.board.lanes[self.lane.local].step_seen.store(self.step.pack(), Ordering::Release);
        Turn {
            begins: begins && matches!(self.plan.traffic, Traffic::Closed { .. }),
            leaves: phase == Phase::Leave,
            ends: phase == Phase::Close,
        }
    }

    fn show(&mut self, now: bool, now_ns: u64) {
        // Times before counters: when the last is counted, all have been timed.
        let is_due = now_ns.saturating_sub(self.times_shown_ns) > SHOW_TIMES_NS;
        let is_awaited = match self.step.phase {
            Phase::Connect => self.counts.opening == 0,
            phase => phase == Phase::Drain,
        };
        if now || is_due || is_awaited {
            self.times_shown_ns = now_ns;
            self.board.add_times(&mut self.times);
        }
        self.show_counts();
    }

    /// Also before a fault is told: who sees it is to see what led to it.
    fn show_counts(&self) {
        let (lane, counts) = (&self.board.lanes[self.lane.local], &self.counts);
        let shown = [
            (&lane.opened, counts.opened),
            (&lane.ended, counts.ended),
            (&lane.failed, counts.failed),
            (&lane.retried, counts.retried),
            (&lane.given_up, counts.given_up),
            (&lane.sent, counts.sent),
            (&lane.received, counts.received),
        ];
        for (place, count) in shown {
            place.store(count, Ordering::Release);
        }
    }

    /// How long the transport may wait if nothing happens and nobody wakes it. A wait without an end
    /// spares the kernel a timer for each.
    pub fn wait(&self) -> Option<Duration> {
        let next_ns = match (&self.pace, self.step.phase) {
            (Some(pace), phase) if phase.is_loading() => pace.next_ns(),
            (_, Phase::Connect) if self.plan.connect_rate.is_some() || !self.retries.is_empty() => {
                return Some(CONNECT_WAIT);
            }
            _ => return None,
        };
        Some(Duration::from_nanos(next_ns.saturating_sub(self.board.now_ns())))
    }

    fn new_pace(&self, now_ns: u64) -> Option<Pace> {
        let Place { lane, lanes, .. } = self.lane;
        let (per_s, arrivals, carriers) = match &self.plan.traffic {
            Traffic::Open { per_s, arrivals, connections } => (*per_s, *arrivals, *connections),
            Traffic::Broadcast { per_s, arrivals, publishers, .. } => (*per_s, *arrivals, *publishers),
            Traffic::Churn { per_s: Some(per_s) } => {
                (*per_s, crate::pace::Arrivals::Even, self.plan.connections)
            }
            Traffic::Churn { per_s: None } | Traffic::Silent | Traffic::Closed { .. } => return None,
        };
        let share = Plan::share(carriers, lane, lanes) as f64 / carriers as f64;
        let offset = lane as f64 / lanes as f64;
        (share > 0.0).then(|| Pace::new(now_ns, per_s * share, arrivals, offset, lane))
    }
}

/// Connections.
impl Worker {
    /// The next connection to be asked for now, if any.
    pub fn next_connect(&mut self) -> Option<Flow> {
        let now_ns = self.board.now_ns();
        let counts = &self.counts;
        let mut flow = Flow { began_ns: now_ns, ..Flow::default() };
        let may = match (&self.plan.traffic, self.step.phase) {
            (Traffic::Churn { .. }, phase) if phase.is_loading() => {
                self.has_room_to_churn() && self.is_churn_due(&mut flow, now_ns)
            }
            (Traffic::Churn { .. }, _) => false,
            (_, Phase::Connect) => {
                if let Some(&(again_ns, index)) = self.retries.front()
                    && again_ns <= now_ns
                {
                    self.retries.pop_front();
                    self.counts.opening += 1;
                    return Some(Flow { index, ..flow });
                }
                counts.opening < self.plan.max_opening
                    && (counts.failed == 0 || self.plan.retries)
                    && counts.asked < self.due_to_open(now_ns)
            }
            _ => false,
        };
        may.then(|| {
            let counts = &mut self.counts;
            flow.index = (counts.asked * self.lane.lanes + self.lane.lane) as u32;
            counts.asked += 1;
            counts.opening += 1;
            flow
        })
    }

    /// How many of the run's first `count` connections are this worker's.
    fn share(&self, count: u64) -> u64 {
        Plan::share(count, self.lane.lane, self.lane.lanes)
    }

    fn due_to_open(&self, now_ns: u64) -> u64 {
        let share = self.share(self.plan.connections);
        let Some(rate) = self.plan.connect_rate else { return share };
        let since_ns = now_ns.saturating_sub(self.board.step_began_ns());
        share.min((rate / self.lane.lanes as f64 * since_ns as f64 / 1e9) as u64 + 1)
    }

    fn has_room_to_churn(&self) -> bool {
        let counts = &self.counts;
        counts.opening + (counts.opened - counts.ended) < self.share(self.plan.connections)
    }

    fn is_churn_due(&mut self, flow: &mut Flow, now_ns: u64) -> bool {
        let Some(pace) = &mut self.pace else { return true };
        let Some(due_ns) = pace.take_due(now_ns) else { return false };
        flow.began_ns = due_ns;
        if self.is_measured(due_ns) {
            self.record(Metric::SendLag, now_ns - due_ns, 1);
        }
        true
    }

    /// A connection has opened. True if it is to send a burst at once.
    pub fn opened(&mut self, flow: &mut Flow) -> bool {
        let now_ns = self.board.now_ns();
        self.counts.opening -= 1;
        self.counts.opened += 1;
        self.record(Metric::Connect, now_ns.saturating_sub(flow.began_ns), 1);
        if let Traffic::Broadcast { publishers, .. } = self.plan.traffic
            && u64::from(flow.index) >= publishers
        {
            flow.heard = vec![0; publishers as usize].into();
        }
        self.plan.echo_on_open
    }

    /// Whether an open connection is to be closed again at once.
    pub fn is_churning(&self) -> bool {
        matches!(self.plan.traffic, Traffic::Churn { .. })
    }

    /// What a connection sends when it opens, before anything else.
    pub fn greeting(&self) -> Option<&str> {
        match &self.plan.traffic {
            Traffic::Broadcast { subscribe, .. } => subscribe.as_deref(),
            _ => None,
        }
    }

    /// A connection could not be opened.
    pub fn connect_failed(&mut self, flow: &Flow, why: impl FnOnce() -> String) {
        self.counts.opening -= 1;
        if self.board.step().phase.is_leaving() {
            return;
        }
        if self.plan.retries {
            self.counts.retried += 1;
            self.retries.push_back((self.board.now_ns() + RETRY_NS, flow.index));
            return;
        }
        self.counts.failed += 1;
        self.show_counts();
        self.board.connect_failed(why());
    }

    /// An open connection has ended; `asked` if this end began to close it.
    pub fn closed(&mut self, flow: &Flow, asked: bool, why: impl FnOnce() -> String) {
        self.counts.ended += 1;
        if !self.is_broadcast() {
            self.counts.given_up += flow.sent - flow.expected;
        }
        if !asked && !self.step.phase.is_leaving() && !self.board.step().phase.is_leaving() {
            self.show_counts();
            self.board.closed_early(flow.index, &why());
        }
    }

    /// A connection does not offer what was asked for.
    pub fn declined(&mut self, flow: &Flow) {
        let target = self.plan.target(flow.index);
        self.board.connect_failed(format!("{target}: the server declines permessage-deflate"));
    }

    /// A connection's place among this worker's connections, which come in order.
    pub fn place_of(&self, flow: &Flow) -> usize {
        (u64::from(flow.index) / self.lane.lanes) as usize
    }
}

/// Messages.
impl Worker {
    /// Hands the messages of the next burst to `send`, one by one.
    #[inline]
    pub fn burst(&mut self, flow: &mut Flow, mut send: impl FnMut(Piece<'_>)) {
        let (depth, joins) = (self.plan.depth(), self.plan.shape.joins());
        for number in 0..depth {
            let (index, seq) = (flow.index, flow.sent);
            // The first of a burst has nothing before it that it could be appended to.
            let appends = joins && number > 0;
            match self.payload.parts(index, seq).filter(|(_, body)| appends && body.len() <= MAX_JOINED_BODY)
            {
                Some((stamp, body)) => send(Piece::Joined(&stamp, body)),
                None => self.payload.with(index, seq, |bytes| send(Piece::Whole(bytes))),
            }
            flow.sent += 1;
        }
        self.counts.sent += depth;
    }

    /// The first burst of a connection, as [`Worker::burst`].
    pub fn first_burst(&mut self, flow: &mut Flow, send: impl FnMut(Piece<'_>)) {
        flow.began_ns = self.board.now_ns();
        self.burst(flow, send);
    }

    /// The next message that is due by now in an open loop: the place of its connection, and when
    /// it was due.
    pub fn take_due(&mut self) -> Option<(usize, u64)> {
        if !self.step.phase.is_loading() || self.is_churning() {
            return None;
        }
        let carriers = match self.plan.traffic {
            Traffic::Broadcast { publishers, .. } => self.share(publishers),
            Traffic::Open { connections, .. } => self.share(connections),
            _ => return None,
        };
        let pace = self.pace.as_mut()?;
        let due_ns = pace.take_due(self.board.now_ns())?;
        let place = pace.pick(carriers as usize).unwrap_or_else(|| {
            self.round = (self.round + 1) % carriers;
            self.round as usize
        });
        Some((place, due_ns))
    }

    /// Sends the message that was due at `due_ns`, or keeps it for when there is room. `send` says
    /// whether there was.
    pub fn send_due(&mut self, flow: &mut Flow, due_ns: u64, mut send: impl FnMut(&[u8]) -> bool) {
        if self.is_measured(due_ns) {
            let lag_ns = self.board.now_ns().saturating_sub(due_ns);
            self.record(Metric::SendLag, lag_ns, 1);
        }
        let seq = flow.sent;
        flow.sent += 1;
        self.counts.sent += 1;
        let is_sent = flow.unsent == 0 && self.send_one(flow, seq, due_ns, &mut send);
        if !is_sent {
            flow.unsent += 1;
        }
        if !is_sent || !self.is_broadcast() {
            flow.due_ns.push_back(due_ns);
        }
    }

    /// There is room again: sends what was kept.
    pub fn send_kept(&mut self, flow: &mut Flow, mut send: impl FnMut(&[u8]) -> bool) {
        while flow.unsent > 0 {
            let due_ns = flow.due_ns[flow.due_ns.len() - flow.unsent as usize];
            if !self.send_one(flow, flow.sent - flow.unsent, due_ns, &mut send) {
                return;
            }
            flow.unsent -= 1;
            if self.is_broadcast() {
                flow.due_ns.pop_front();
            }
        }
    }

    fn send_one(&mut self, flow: &Flow, seq: u64, due_ns: u64, send: impl FnOnce(&[u8]) -> bool) -> bool {
        if self.is_broadcast() {
            return send(self.news.write(Item { publisher: flow.index, seq, due_ns }));
        }
        self.payload.with(flow.index, seq, send)
    }

    fn is_broadcast(&self) -> bool {
        matches!(self.plan.traffic, Traffic::Broadcast { .. })
    }

    /// The number of the message that is due back next, if one is on its way.
    #[inline]
    pub fn due(&self, flow: &Flow) -> Option<u64> {
        (flow.expected < flow.sent).then_some(flow.expected)
    }

    /// A whole message came. True if it ends a burst and another one is to follow.
    #[inline]
    pub fn message(&mut self, flow: &mut Flow, kind: Kind, bytes: &[u8]) -> bool {
        if self.is_broadcast() {
            self.delivered(flow, kind, bytes);
            return false;
        }
        if kind == self.plan.shape.kind()
            && flow.expected < flow.sent
            && self.payload.matches(flow.index, flow.expected, bytes)
        {
            return self.right_answer(flow);
        }
        self.wrong_answer(flow, kind, bytes)
    }

    /// The message due next came as it should. As [`Worker::message`].
    #[inline]
    pub fn right_answer(&mut self, flow: &mut Flow) -> bool {
        flow.expected += 1;
        self.counts.received += 1;
        if let Some(due_ns) = flow.due_ns.pop_front() {
            if self.is_measured(due_ns) {
                let latency_ns = self.board.now_ns().saturating_sub(due_ns);
                self.record(Metric::Latency, latency_ns, 1);
            }
            return false;
        }
        flow.expected == flow.sent && self.burst_ended(flow)
    }

    #[cold]
    fn wrong_answer(&mut self, flow: &mut Flow, kind: Kind, bytes: &[u8]) -> bool {
        let fault = match kind == self.plan.shape.kind() {
            false => Fault::Kind,
            true => self.payload.diagnose(flow.index, flow.expected, flow.sent, bytes),
        };
        self.wrong_message(flow, flow.index, flow.expected, fault);
        let Fault::Ahead(seq) = fault else { return false };
        self.counts.given_up += seq - flow.expected;
        for _ in flow.expected..seq {
            flow.due_ns.pop_front();
        }
        flow.expected = seq;
        self.right_answer(flow)
    }

    fn burst_ended(&mut self, flow: &mut Flow) -> bool {
        let now_ns = self.turn_ns();
        if self.is_measured(flow.began_ns) {
            let depth = self.plan.depth();
            self.record(Metric::Latency, now_ns.saturating_sub(flow.began_ns), depth);
        }
        flow.began_ns = now_ns;
        self.step.phase.is_loading() && matches!(self.plan.traffic, Traffic::Closed { .. })
    }

    /// When the first of this turn's bursts ended: read once, as a burst ends when the next one begins, and what
    /// one of them seems shorter the next seems longer.
    #[inline]
    fn turn_ns(&mut self) -> u64 {
        if self.turn_ns == 0 {
            self.turn_ns = self.board.now_ns();
        }
        self.turn_ns
    }

    fn delivered(&mut self, flow: &mut Flow, kind: Kind, bytes: &[u8]) {
        if flow.heard.is_empty() {
            return; // a publisher's own messages, or the answer to its subscription
        }
        let item = match self.news.read(bytes) {
            Ok(Some(item)) if kind == self.plan.shape.kind() => item,
            Ok(None) => return,
            Ok(Some(_)) => return self.wrong_message(flow, u32::MAX, 0, Fault::Kind),
            Err(fault) => return self.wrong_message(flow, u32::MAX, 0, fault),
        };
        let Some(expected) = flow.heard.get_mut(item.publisher as usize) else {
            return self.wrong_message(flow, u32::MAX, 0, Fault::Foreign(item.publisher));
        };
        let due = std::mem::replace(expected, item.seq + 1);
        if item.seq < due {
            *expected = due;
            return self.wrong_message(flow, item.publisher, due, Fault::Behind(item.seq));
        }
        if item.seq > due {
            self.counts.given_up += item.seq - due;
            self.wrong_message(flow, item.publisher, due, Fault::Ahead(item.seq));
        }
        self.counts.received += 1;
        let delivered = self.board.count_delivery(item.publisher, item.seq);
        if self.is_measured(item.due_ns) {
            self.time_delivery(item, delivered);
        }
    }

    #[cold]
    fn wrong_message(&self, flow: &Flow, stream: u32, expected: u64, fault: Fault) {
        self.show_counts();
        self.board.wrong_message(flow.index, stream, expected, fault);
    }

    fn time_delivery(&mut self, item: Item, delivered: Option<u64>) {
        let latency_ns = self.board.now_ns().saturating_sub(item.due_ns);
        self.record(Metric::Latency, latency_ns, 1);
        let subscribers = self.board.subscribers();
        // With one subscriber it is all three.
        for (metric, place) in
            [(Metric::First, 1), (Metric::Median, subscribers.div_ceil(2)), (Metric::Last, subscribers)]
        {
            if delivered == Some(place) {
                self.record(metric, latency_ns, 1);
            }
        }
    }

    /// Whether what was due or began then belongs to the measurement, which begins for all workers at
    /// once, and also when its answer comes while the load drains.
    #[inline]
    fn is_measured(&self, began_ns: u64) -> bool {
        began_ns >= self.board.measure_began_ns()
    }

    #[inline]
    fn record(&mut self, metric: Metric, time_ns: u64, times: u64) {
        self.times[metric as usize]
            .get_or_insert_with(|| Box::new(new_histogram()))
            .saturating_record_n(time_ns.max(1), times);
    }
}
