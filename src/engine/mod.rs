//! One core: its connections, its timers, and the turn that moves them.
//!
//! A [`Core`] owns everything it touches. It reaches the network through its driver, other cores
//! through their mailboxes, time through its clock, and the user through the handler; it shares
//! only its counters.

pub mod admission;
mod answers;
mod assembly;
mod audit;
pub mod backlog;
pub mod broadcast;
mod budget;
pub mod clock;
pub mod common;
mod deadlines;
pub mod deferred;
pub mod deflate;
mod drain;
pub mod entropy;
mod events;
mod fanout;
pub mod heartbeat;
pub mod histogram;
pub mod inflate;
pub mod interest;
mod ledger;
pub mod lent;
mod lifetimes;
pub mod mailbox;
pub mod names;
pub mod outbound;
mod outbox;
pub mod overflow;
mod party;
pub mod peers;
pub mod pool;
pub mod post;
pub mod prometheus;
pub mod queue;
mod rates;
mod receive;
mod requests;
pub mod sides;
pub mod slot;
mod spare;
pub mod spin;
pub mod stats;
pub mod stream;
pub mod subscriptions;
pub mod table;
#[cfg_attr(not(feature = "tls"), path = "tls_off.rs")]
pub mod tls;
pub mod topics;
pub mod users;
pub mod wheel;
pub mod work;

use crate::config::{BusyPoll, Compression, Deadlines, Limits, OriginPolicy, Rates};
use crate::driver::{Driver, Event, PeerAddr, Token};
use crate::handler::{CloseReason, ConnId, Handler, Shard, Ticket};
use crate::ws::{CloseCode, Kind, Prepared, Role, Session};
use admission::Gate;
use answers::Answers;
use broadcast::{Broadcast, Broadcasts};
use bytes::Bytes;
use clock::Clock;
use common::Common;
use deferred::Answer;
use deflate::Contexts;
use drain::Drain;
use entropy::Entropy;
use heartbeat::Heartbeat;
use ledger::Ledger;
use lifetimes::Lifetimes;
use mailbox::Inbox;
use outbound::{Connect, ConnectError};
use party::Party;
use peers::Peers;
use pool::Pool;
use post::{Parcel, Post};
use rates::Meters;
use slab::Slab;
use slot::{Flags, PeerTable, Phase, Slot};
use spin::Spin;
use stats::Stats;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use subscriptions::Subscribe;
use table::{MAX_SLOTS, Table};
use tls::{Helpers, Listeners, Secures, Step};
use wheel::Wheel;

/// Commands taken from the mailbox in one turn.
const MAX_COMMANDS_PER_TURN: usize = 4_096;
/// How long accepting waits after it failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How long a shard that goes idle keeps the buffers of its last sends at most.
const SETTLE: Duration = Duration::from_millis(100);
/// Timers that come due in one turn of a shard that is not large.
const DUE_PLACES: usize = 64;

/// What another thread asks of a core.
#[derive(Debug)]
pub enum Command {
    /// Send a message.
    Send {
        /// To whom.
        to: ConnId,
        /// Text must be UTF-8.
        kind: Kind,
        /// The payload.
        payload: Bytes,
    },
    /// Send a message that goes to many.
    SendPrepared {
        /// To whom.
        to: ConnId,
        /// What.
        prepared: Prepared,
    },
    /// Publish a message, or send it to a user.
    Parcel(Parcel),
    /// What a handler of another core published in one turn.
    Parcels(Vec<Parcel>),
    /// Begin or end a subscription.
    Subscribe {
        /// Whose.
        id: ConnId,
        /// As in [`Conn::subscribe`](crate::Conn::subscribe).
        filter: String,
        /// How, or that it ends.
        how: Option<Subscribe>,
    },
    /// Offer a message to every connection.
    Broadcast(Broadcast),
    /// Answer a request that waits.
    Answer {
        /// Which one.
        ticket: Ticket,
        /// How.
        answer: Box<Answer>,
    },
    /// Begin the closing handshake.
    Close {
        /// Of whom.
        id: ConnId,
        /// As in [`Conn::close`](crate::Conn::close).
        code: CloseCode,
        /// As in [`Conn::close`](crate::Conn::close).
        reason: String,
    },
    /// A helper has taken a step of a TLS handshake.
    Shaken(Box<Step>),
    /// Stop accepting, close every connection with 1001, and end when all have answered or
    /// `drain_ms` has passed.
    Drain,
    /// End at once.
    Stop,
}

/// What a core is built with.
#[derive(Debug)]
pub struct CoreConfig {
    /// This core's number.
    pub shard: u8,
    /// Bounds.
    pub limits: Limits,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Who may open a WebSocket from a page.
    pub origin: OriginPolicy,
    /// Whether messages are compressed.
    pub compression: Compression,
    /// Who is let in; shared by the cores of a server.
    pub gate: Arc<Gate>,
    /// How fast peers may send.
    pub rates: Rates,
    /// Whether the core polls before it sleeps.
    pub busy_poll: Option<BusyPoll>,
    /// Which listeners have TLS.
    pub tls: Listeners,
    /// Who takes the steps of their handshakes.
    pub helpers: Helpers,
    /// What it shares with the others.
    pub peers: Arc<Peers>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Core<D: Driver, H: Handler> {
    driver: D,
    handler: H,
    table: Table<H::State>,
    common: Common,
    wheel: Wheel,
    clock: Clock,
    spin: Option<Spin>,
    inbox: Inbox<Command>,
    broadcasts: Broadcasts,
    connects: Vec<Connect<H::State>>,
    /// Outbound connections on their way, by the tag given to the driver.
    connecting: Slab<Connect<H::State>>,
    /// Connections whose sends went to the driver in the last turn.
    sent: Vec<Token>,
    /// Some of these may not be heard of before the next wait ends.
    unawaited: bool,
    /// Some are waited for that may be told late: the next turn does not sleep.
    hurries: bool,
    answers: Answers,
    due: Vec<u32>,
    accept_paused: AcceptPause,
    /// Accepted by the kernel before a pause took hold: they wait for a slot.
    parked: VecDeque<(D::Socket, PeerAddr, u32)>,
    drain: Option<Drain>,
    /// When it is looked next for what nothing needs any more; `None` while there is nothing to look for.
    spare_due: Option<Duration>,
    /// Turns at the last look, and looks since anything was let go.
    spare_turns: u64,
    spare_looks: u32,
    stopped: bool,
    handler_wait: Option<Duration>,
}

/// Why no connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptPause {
    No,
    /// `max_connections` is reached.
    Limit,
    /// Accepting failed; try again then.
    Until(Duration),
}

/// The shorter of two waits, of which `None` never ends.
#[inline(always)]
fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// A core with nothing on it.
    pub fn new(
        driver: D,
        handler: H,
        config: CoreConfig,
        clock: Clock,
        inbox: Inbox<Command>,
        stats: Arc<Stats>,
    ) -> Self {
        let mut limits = config.limits;
        limits.max_connections = limits.max_connections.clamp(1, MAX_SLOTS);
        let table = Table::with_capacity(limits.max_connections);
        let common = Common {
            shard: config.shard,
            pool: Pool::new(limits.max_pool_bytes),
            tls: Secures::new(config.tls, config.helpers, &limits),
            limits,
            heartbeat: Heartbeat::new(config.deadlines.idle_ms, config.shard),
            lifetimes: Lifetimes::new(&config.deadlines),
            meters: Meters::new(config.rates),
            gate: config.gate,
            answers: 0,
            tls_answers: Default::default(),
            deadlines: config.deadlines,
            origin: config.origin,
            deflate: Contexts::new(config.compression),
            works: Slab::new(),
            places: Default::default(),
            dirty: Vec::new(),
            stats,
            peers: PeerTable::default(),
            entropy: Entropy::default(),
            tick: clock.tick() as u32,
            now: clock.now(),
            stopwatch: clock.stopwatch(),
            last_request: 0,
            draining: false,
            stop_asked: false,
            ledger: Ledger::default(),
            outbox_bytes: 0,
            lent: None,
            sides: Default::default(),
            topics: None,
            post: Post::new(config.peers, config.shard),
            bound: Default::default(),
            drops: Vec::new(),
        };
        Self {
            driver,
            handler,
            table,
            common,
            wheel: Wheel::new(clock.tick()),
            clock,
            spin: config.busy_poll.as_ref().and_then(Spin::new),
            inbox,
            broadcasts: Broadcasts::default(),
            connects: Vec::new(),
            connecting: Slab::new(),
            sent: Vec::new(),
            unawaited: false,
            hurries: false,
            answers: Answers::default(),
            due: Vec::with_capacity(DUE_PLACES),
            accept_paused: AcceptPause::No,
            parked: VecDeque::new(),
            drain: None,
            spare_due: None,
            spare_turns: 0,
            spare_looks: 0,
            stopped: false,
            handler_wait: Some(Duration::ZERO),
        }
    }

    /// Turns until the core has stopped.
    ///
    /// # Errors
    /// When the driver itself fails; its connections are lost then.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn(None)? {}
        Ok(())
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// The driver.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Connections with a slot.
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// One turn: waits, takes all events, and hands over all that is to be sent. `at_most` bounds
    /// the wait. Returns false when the core has stopped.
    ///
    /// # Errors
    /// As [`Core::run`].
    pub fn turn(&mut self, at_most: Option<Duration>) -> io::Result<bool> {
        let wait = sooner(self.next_wait(), at_most);
        let mut next = spin::turn(self.spin.as_mut(), &mut self.driver, &mut self.clock, wait)?;
        self.common.tick = self.clock.tick() as u32;
        self.common.now = self.clock.now();
        (self.unawaited, self.hurries) = (false, false);
        self.answers.turn();
        let mut heard = false;
        loop {
            match next {
                // The most frequent ones first: bound as a whole, all of the event is moved once more.
                Some(Event::Received { token, lease }) => {
                    heard = true;
                    self.on_received(token, lease);
                }
                Some(Event::Sent { token, buf, result }) => self.on_sent(token, buf, result),
                Some(event) => {
                    heard |= event.is_traffic();
                    self.on_event(event);
                }
                None => break,
            }
            next = self.driver.next_event();
        }
        if let (true, Some(spin)) = (heard, &mut self.spin) {
            spin.heard(self.clock.now());
        }
        // What most turns have none of is asked for here and done elsewhere: a turn for one message that comes after a
        // pause finds none of its code in the nearest cache.
        if self.common.tls.has_steps() {
            self.progress_handshakes();
        }
        if self.inbox.begin() {
            self.take_commands();
        }
        if self.wheel.is_due(self.clock.tick()) {
            self.fire_timers();
        }
        if let AcceptPause::Until(when) = self.accept_paused {
            self.retry_accept(when);
        }
        if self.common.meters.has_paused() {
            self.resume_the_slowed();
        }
        let mut shard = Shard {
            table: &mut self.table,
            common: &mut self.common,
            connects: &mut self.connects,
            now: self.clock.now(),
        };
        self.handler_wait = self.handler.turn(&mut shard);
        if !self.connects.is_empty() {
            self.start_connects();
        }
        if self.has_post() {
            self.progress_post();
        }
        if !self.broadcasts.is_empty() {
            self.progress_broadcasts();
        }
        if self.common.stop_asked || self.drain.is_some() {
            self.progress_drain();
        }
        self.flush();
        self.tend_spare();
        self.keep_the_books();
        self.publish();
        Ok(!self.stopped)
    }

    #[inline(always)]
    fn next_wait(&self) -> Option<Duration> {
        let waits = !self.broadcasts.is_empty() || self.has_post() || self.common.tls.is_waiting();
        if self.hurries || waits || !self.common.dirty.is_empty() {
            return Some(Duration::ZERO);
        }
        let timers = self.wheel.next_tick().map(|tick| self.clock.until(tick));
        let mut wait = sooner(timers, self.unawaited.then_some(SETTLE));
        if self.handler_wait.is_some() {
            wait = sooner(wait, self.handler_wait);
        }
        if let Some(due) = self.spare_due {
            wait = sooner(wait, Some(due.saturating_sub(self.clock.now())));
        }
        let has_more = matches!(self.accept_paused, AcceptPause::Until(_))
            || self.drain.is_some()
            || self.common.tls.has_steps()
            || self.common.meters.has_paused();
        if has_more { sooner(wait, self.rarer_wait()) } else { wait }
    }

    /// The part of the next wait that few shards have.
    #[inline(never)]
    fn rarer_wait(&self) -> Option<Duration> {
        let now = self.clock.now();
        let left = |when: Duration| when.saturating_sub(now);
        let accept = match self.accept_paused {
            AcceptPause::Until(when) => Some(left(when)),
            _ => None,
        };
        let drain = self.drain.as_ref().map(|drain| left(drain.next_due(now)));
        let slowed = self.common.meters.next_due().map(left);
        let steps = self.common.tls.next_due().map(left);
        sooner(sooner(accept, drain), sooner(slowed, steps))
    }

    #[inline(never)]
    fn on_event(&mut self, event: Event<D::Socket>) {
        match event {
            Event::Received { token, lease } => self.on_received(token, lease),
            Event::Sent { token, buf, result } => self.on_sent(token, buf, result),
            Event::Accepted { socket, peer, listener } => self.on_accepted(socket, peer, listener),
            Event::Eof(token) => self.on_eof(token),
            Event::Failed { token, error } => self.on_failed(token, &error),
            Event::Record { token, kind, content } => self.on_record(token, kind, &content),
            Event::Closed(token) => self.on_closed(token),
            Event::AcceptFailed(_) => {
                self.common.stats.accept_failures.add(1);
                events::event!(
                    warn,
                    shard = self.common.shard,
                    "accepting failed for want of descriptors or memory"
                );
                // At the limit it is a free slot that ends the pause, and while draining nothing.
                if self.accept_paused == AcceptPause::No && !self.common.draining {
                    self.accept_paused = AcceptPause::Until(self.clock.now() + ACCEPT_BACKOFF);
                }
            }
            Event::Connected { tag, result } => self.on_connected(tag, result),
            Event::Woken => {}
        }
    }

    fn on_accepted(&mut self, socket: D::Socket, peer: PeerAddr, listener: u32) {
        if self.common.draining {
            return self.driver.refuse(socket);
        }
        if !self.has_room() {
            return self.parked.push_back((socket, peer, listener));
        }
        self.common.stats.accepted.add(1);
        self.admit(socket, peer, listener);
    }

    /// Whether a slot is free and not spoken for by a connect under way.
    fn has_room(&self) -> bool {
        self.table.len() + self.connecting.len() < self.common.limits.max_connections as usize
    }

    fn pause_accept_if_full(&mut self) {
        if !self.has_room() && self.accept_paused != AcceptPause::Limit && !self.common.draining {
            self.common.stats.accept_pauses.add(1);
            self.accept_paused = AcceptPause::Limit;
            self.driver.pause_accept();
        }
    }

    /// A slot has come free: for who waits.
    fn fill_room(&mut self) {
        if !self.has_room() || self.common.draining {
            return;
        }
        if let Some((socket, peer, listener)) = self.parked.pop_front() {
            return self.on_accepted(socket, peer, listener);
        }
        if self.accept_paused != AcceptPause::No {
            // A descriptor came free as well: also the end of a failure's cause.
            self.accept_paused = AcceptPause::No;
            self.driver.resume_accept();
        }
    }

    fn insert(&mut self, peer: PeerAddr, phase: Phase, role: Role) -> Token {
        let common = &mut self.common;
        let token = self.table.insert(|generation| {
            let slot = Slot::new(&mut common.peers, peer, generation, common.tick, phase, Session::new(role));
            common.stats.count_in(&slot);
            slot
        });
        common.meters.begin(token.slot);
        token
    }

    fn on_closed(&mut self, token: Token) {
        self.wheel_cancel(token);
        let Some(mut slot) = self.table.remove(token) else { return };
        self.common.stats.count_out(&slot);
        self.common.leave_gate(&mut slot);
        self.common.drop_work(&mut slot, token);
        if slot.flags.has(Flags::TLS) {
            self.common.tls.remove(token.slot, &mut self.common.pool);
        }
        self.common.deflate.disown(token.slot);
        slot.dismantle(&mut self.common.peers);
        self.fill_room();
    }

    #[inline(never)]
    fn retry_accept(&mut self, when: Duration) {
        if self.clock.now() >= when && !self.common.draining {
            self.accept_paused = AcceptPause::No;
            self.driver.resume_accept();
        }
    }

    #[inline(never)]
    fn take_commands(&mut self) {
        for taken in 0.. {
            if taken == MAX_COMMANDS_PER_TURN {
                // The rest next turn, which must not sleep.
                self.inbox.rearm();
                break;
            }
            let Some(command) = self.inbox.take() else { break };
            // Steps of handshakes that come back are counted as such.
            let is_asked = !matches!(command, Command::Shaken(_));
            // Who sees a command counted sees what it holds.
            self.common.stats.broadcast_bytes.set(self.inbox.held_bytes() as u64);
            self.common.stats.commands.add(is_asked.into());
            match command {
                Command::Send { to, kind, payload } => self.with_conn(to, |common, slot, token| {
                    common.send(slot, token, kind, &payload);
                }),
                Command::SendPrepared { to, prepared } => self.with_conn(to, |common, slot, token| {
                    common.send_prepared(slot, token, &prepared);
                }),
                Command::Parcel(parcel) => self.take_parcel(parcel),
                Command::Parcels(parcels) => parcels.into_iter().for_each(|parcel| self.take_parcel(parcel)),
                Command::Subscribe { id, filter, how } => {
                    self.with_conn(id, |common, slot, token| match how {
                        // What is refused is counted.
                        Some(how) => drop(common.subscribe(slot, token, &filter, how)),
                        None => drop(common.unsubscribe(slot, token, &filter)),
                    });
                    self.common.post.subscription_came();
                }
                Command::Broadcast(broadcast) => self.broadcasts.push(broadcast),
                Command::Answer { ticket, answer } => self.on_answer(ticket, *answer),
                Command::Close { id, code, reason } => self.with_conn(id, |common, slot, token| {
                    common.close(slot, token, Some(code), &reason);
                }),
                Command::Shaken(step) => self.on_shaken(step),
                Command::Drain => self.begin_drain(),
                Command::Stop => self.stop(),
            }
        }
    }

    fn with_conn(&mut self, id: ConnId, act: impl FnOnce(&mut Common, &mut Slot, Token)) {
        let token = id.token();
        match self.table.get(token) {
            Some((slot, _)) if slot.phase.is_open() => {
                act(&mut self.common, slot, token);
            }
            _ => self.common.stats.commands_stale.add(1),
        }
    }

    /// The connection and the handler, apart from the driver.
    fn party(&mut self, token: Token) -> Option<Party<'_, H>> {
        let Self { handler, table, common, .. } = self;
        let (slot, state) = table.get(token)?;
        Some(Party { handler, token, slot, state, common })
    }

    /// Ends a connection that has no more to say or cannot say it.
    fn abort(&mut self, token: Token, reason: CloseReason<'_>) {
        let Some(mut party) = self.party(token) else { return };
        match party.slot.phase {
            Phase::Closing => return,
            Phase::Connecting => return self.fail_connect(token, ConnectError::Disconnected),
            _ => {
                party.abandon();
                party.common.enter(party.slot, Phase::Closing);
            }
        }
        party.tell_close(reason);
        self.driver.close(token);
    }

    fn stop(&mut self) {
        if self.stopped {
            return;
        }
        self.begin_drain();
        let mut tokens = Vec::with_capacity(self.table.len());
        self.table.tokens(&mut tokens);
        for token in tokens {
            self.abort(token, CloseReason::Shutdown);
        }
        for connect in self.connecting.drain() {
            self.handler.connect_failed(connect.state, ConnectError::Disconnected);
        }
        self.broadcasts.clear();
        self.tell_presence();
        self.stopped = true;
    }

    /// Shows this turn's numbers to other threads, and to what depends on them.
    fn publish(&mut self) {
        self.common.heartbeat.resize(self.table.len());
        let stats = &self.common.stats;
        stats.turns.add(1);
        if let Some(topics) = &self.common.topics {
            let (topics, subscriptions, retained_bytes) = topics.counts();
            stats.topics.set(topics);
            stats.subscriptions.set(subscriptions);
            stats.retained_bytes.set(retained_bytes);
        }
        stats.broadcast_bytes.set(self.inbox.held_bytes() as u64);
        stats.outbox_bytes.set(self.common.outbox_bytes as u64);
        stats.pool_bytes.set(self.common.pool.free_bytes() as u64);
        stats.busy_connections.set(self.common.works.len() as u64);
        stats.takeover_bytes.set(self.common.deflate.owned_bytes() as u64);
        stats.inflaters_lent.set(self.common.deflate.lent().into());
        let (tls_open, tls_ready) = self.common.tls.gauges();
        stats.tls_connections.set(tls_open.into());
        stats.tls_ready.set(tls_ready as u64);
        stats.tls_shaking.set(self.common.tls.shaking().into());
        stats.tls_away.set(self.common.tls.away().into());
        stats.absorb(&self.driver.stats());
        if let Some(spin) = &self.spin {
            stats.absorb_spin(&spin.counts());
        }
        stats.labelled.turns.record(self.clock.elapsed());
        self.common.stopwatch.sample(stats.turns.get());
    }
}
