//! Topics and users on several cores, in an order that a seed decides, against a model: four publishers
//! from outside and every handler publish at any moment between two turns of any core, while connections
//! come and go, subscribe and unsubscribe, are bound to users and do not keep up.
//!
//! `RINGWIRE_SOAK_SEEDS` and `RINGWIRE_SOAK_SEED` as in `soak`.

use crate::cores_model::{Due, FILTERS, Line, Phase, REMOTE_FILTERS, Record, TOPICS, USERS, World};
use crate::listener::Listener;
use crate::peer::{close, text, upgrade_request};
use crate::soak::{number, on_each_seed};
use ringwire::sim::{Fault, Faults, SimPeer, SimRng, Simulation};
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Deadlines, Dropped, Handler, Limits, Message, Overflow, Prepared,
    Presence, Publication, Remote, RemoteError, Request, SendResult, Shard, Subscribe, TopicError, Upgrade,
    UserError,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;
/// Publishers outside of the cores.
const PUBLISHERS: u64 = 4;
/// Connections at a time.
const CONNECTIONS: usize = 12;

struct Service {
    world: Rc<RefCell<World>>,
    shard: usize,
}

impl Service {
    fn carry_out(&mut self, conn: &mut Conn<'_, usize>, words: &[&str]) {
        let me = *conn.state();
        let world = &mut *self.world.borrow_mut();
        let int = |word: &str| word.parse::<usize>().unwrap();
        match *words {
            ["sub", filter, policy] => {
                let filter = FILTERS[int(filter)];
                let overflow = match int(policy) {
                    0 => Some(Overflow::DropOldest),
                    1 => Some(Overflow::Conflate),
                    2 => Some(Overflow::DropNewest),
                    3 => Some(Overflow::Close(CloseCode(4000))),
                    _ => None,
                };
                let how = overflow.map_or(Subscribe::new(), |overflow| Subscribe::new().overflow(overflow));
                let new = match conn.subscribe_with(filter, how) {
                    Err(TopicError::Closed) => return,
                    result => result.unwrap(),
                };
                let known = world.records[me].filters.contains_key(filter);
                assert_eq!(new, !known, "subscribed to {filter}");
                world.records[me].conflates |= overflow == Some(Overflow::Conflate);
                if new {
                    world.begins(me, filter, Phase::Firm);
                }
            }
            ["unsub", filter] => {
                let filter = FILTERS[int(filter)];
                let ended = conn.unsubscribe(filter);
                assert_eq!(
                    ended,
                    world.records[me].filters.contains_key(filter),
                    "unsubscribed from {filter}"
                );
                if ended {
                    self.confirm_end(world, conn, filter);
                }
            }
            ["policy", policy] => {
                conn.set_overflow(
                    [Overflow::DropOldest, Overflow::Conflate, Overflow::DropNewest][int(policy)],
                );
                world.records[me].conflates |= int(policy) == 1;
            }
            ["pub", topic, key, bytes, except] => {
                let line = world.next(self.publisher(), TOPICS[int(topic)], int(key) as u64);
                let message = Prepared::text(line.text(int(bytes)));
                let mut publication = Publication::new(line.topic, &message).key(line.key);
                let except = (int(except) == 1).then_some(me);
                if except.is_some() {
                    publication = publication.except(conn.id());
                }
                let result = conn.publish_with(publication);
                self.published(world, line, except, result);
            }
            ["say", bytes] => {
                let line = world.next(self.publisher(), "=", 0);
                Self::say(world, conn, line, int(bytes));
            }
            ["bind", user] => {
                let user = USERS[int(user)];
                let before = conn.user().map(str::to_owned);
                match conn.bind_user(user) {
                    Err(UserError::Closed | UserError::TooManyConnections) => return,
                    result => result.unwrap(),
                }
                if before.as_deref() == Some(user) {
                    return;
                }
                if let Some(before) = USERS.into_iter().find(|user| before.as_deref() == Some(user)) {
                    self.confirm_end(world, conn, before);
                }
                world.begins(me, user, Phase::Firm);
            }
            ["unbind"] => {
                let before = conn.user().map(str::to_owned);
                assert_eq!(conn.unbind_user(), before.is_some());
                if let Some(before) = USERS.into_iter().find(|user| before.as_deref() == Some(user)) {
                    self.confirm_end(world, conn, before);
                }
            }
            ["to", user, bytes] => {
                let line = world.next(self.publisher(), USERS[int(user)], 0);
                let result = conn.send_to_user(line.topic, &Prepared::text(line.text(int(bytes))));
                sent_to_user(world, line, result);
            }
            ref other => panic!("{other:?}"),
        }
    }

    /// As whom this core publishes.
    fn publisher(&self) -> u64 {
        PUBLISHERS + self.shard as u64
    }

    /// Nothing that the filter alone brought comes after this.
    fn confirm_end(&self, world: &mut World, conn: &mut Conn<'_, usize>, filter: &'static str) {
        let confirm = world.next(self.publisher(), "=", 0);
        world.ends(*conn.state(), filter, confirm.number);
        Self::say(world, conn, confirm, 0);
    }

    fn say(world: &mut World, conn: &mut Conn<'_, usize>, line: Line, bytes: usize) {
        // Closed: by a policy, a moment ago.
        if let SendResult::Sent | SendResult::Queued = conn.send_text(&line.text(bytes)) {
            world.records[*conn.state()].owed.insert(line.number, Due { line, must: true });
        }
    }

    fn published(
        &self,
        world: &mut World,
        line: Line,
        except: Option<usize>,
        result: Result<(), TopicError>,
    ) {
        match result {
            Ok(()) => world.published(line, except, Some(self.shard)),
            Err(error) => {
                assert_eq!(error, TopicError::Full);
                world.full += 1;
            }
        }
    }
}

/// Each connection is subscribed and bound as it was told.
fn compare(world: &mut World, conn: &mut Conn<'_, usize>) {
    let filters = &mut world.records[*conn.state()].filters;
    for filter in FILTERS {
        assert_eq!(conn.is_subscribed(filter), filters.contains_key(filter), "{filter}");
    }
    for filter in REMOTE_FILTERS {
        if !conn.is_subscribed(filter) && filters.remove(filter).is_some() {
            // It was closing already.
            assert_eq!(conn.subscribe(filter), Err(TopicError::Closed), "{filter}");
        }
    }
    let bound: Vec<&str> = USERS.into_iter().filter(|user| filters.contains_key(user)).collect();
    assert_eq!(conn.user().into_iter().collect::<Vec<_>>(), bound);
    assert_eq!(conn.subscriptions(), filters.len() - bound.len());
}

fn sent_to_user(world: &mut World, line: Line, result: Result<usize, UserError>) {
    match result {
        Ok(count) => {
            assert_eq!(count, world.bound_to(line.topic), "connections of {}", line.topic);
            world.published(line, None, None);
        }
        Err(error) => {
            assert_eq!(error, UserError::Full);
            world.full += 1;
        }
    }
}

impl Handler for Service {
    type State = usize;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<usize> {
        Upgrade::accept(request.path()[1..].parse().unwrap())
    }

    fn open(&mut self, conn: &mut Conn<'_, usize>) {
        assert_eq!(conn.id().shard(), self.shard);
        self.world.borrow_mut().records[*conn.state()].id = Some(conn.id());
    }

    fn message(&mut self, conn: &mut Conn<'_, usize>, message: Message<'_>) {
        let Message::Text(text) = message else { panic!("text only") };
        for order in text.split(';') {
            self.carry_out(conn, &order.split(' ').collect::<Vec<_>>());
        }
    }

    fn broadcast(&mut self, conn: &mut Conn<'_, usize>, message: &Prepared, tag: u64) {
        let result = conn.send_prepared(message);
        let taken = matches!(result, SendResult::Sent | SendResult::Queued);
        self.world.borrow_mut().offered(*conn.state(), tag, taken);
    }

    fn dropped(&mut self, conn: &mut Conn<'_, usize>, dropped: Dropped) {
        let record = &mut self.world.borrow_mut().records[*conn.state()];
        assert!(dropped.total() > 0 && !record.closed);
        record.lost.newest += dropped.newest;
        record.lost.oldest += dropped.oldest;
        record.lost.conflated += dropped.conflated;
    }

    fn presence(&mut self, _: &mut Shard<'_, usize>, change: &Presence) {
        self.world.borrow_mut().presence.push((change.change, change.user.to_string(), change.online));
    }

    fn turn(&mut self, shard: &mut Shard<'_, usize>) -> Option<Duration> {
        let world = &mut *self.world.borrow_mut();
        for (topic, bytes) in world.asks.remove(&self.shard).unwrap_or_default() {
            let line = world.next(self.publisher(), topic, 1);
            let message = Prepared::text(line.text(bytes));
            let result = shard.publish_with(Publication::new(topic, &message).key(1));
            self.published(world, line, None, result);
        }
        if world.to_compare.remove(&self.shard) {
            shard.each_conn(|conn| compare(world, conn));
        }
        None
    }

    fn close(&mut self, _: ConnId, state: usize, _: CloseReason<'_>) {
        let record = &mut self.world.borrow_mut().records[state];
        assert!(!record.closed);
        record.closed = true;
        record.filters.clear();
    }
}

/// The lines it heard, and what came behind them.
fn lines(listener: &Listener) -> (Vec<Line>, &[u8]) {
    let (texts, rest) = listener.texts();
    (texts.into_iter().map(Line::parse).collect(), rest)
}

fn check(listener: &mut Listener, record: &Record, tally: &Tally) {
    listener.read();
    let (lines, rest) = lines(listener);
    let mut last: HashMap<(u64, &str, u64), u64> = HashMap::new();
    for line in &lines {
        let due = record.owed.get(&line.number);
        assert!(due.is_some_and(|due| due.line == *line), "{line:?} is not owed: {record:#?}");
        // Where the latest value replaces others, order is that of each key.
        let of = (line.publisher, line.topic, if record.conflates { line.key } else { 0 });
        let before = last.insert(of, line.number);
        assert!(before < Some(line.number), "{line:?} after {before:?}: {lines:#?}");
    }
    let mut confirmed = 0;
    for (confirm, ended) in &record.ended {
        let Some(at) = lines.iter().position(|line| line.number == *confirm) else { continue };
        confirmed += 1;
        let late = lines[at..].iter().find(|line| ended.contains(&line.number));
        assert!(late.is_none(), "{late:?} came after the end {confirm}: {lines:#?}");
    }
    tally.add(&tally.confirmed, confirmed);
    if let [0x88, len, after @ ..] = rest {
        assert!(after.len() <= usize::from(*len), "after a Close frame: {}", rest.escape_ascii());
    }
    let shard = record.id.map(ConnId::shard);
    let from_afar = |line: &&Line| Some(line.publisher) != shard.map(|shard| PUBLISHERS + shard as u64);
    tally.add(&tally.from_afar, lines.iter().filter(from_afar).count() as u64);
    tally.add(&tally.to_users, lines.iter().filter(|line| USERS.contains(&line.topic)).count() as u64);
    tally.add(&tally.broadcasts, lines.iter().filter(|line| line.topic == "*").count() as u64);
    let stayed = !record.closed && listener.heard_no_end(rest);
    if !stayed || record.id.is_none() {
        return;
    }
    assert!(rest.is_empty(), "{} is unfinished", rest.escape_ascii());
    assert!(record.to_offer.is_empty(), "{:?} were never offered: {record:#?}", record.to_offer);
    let (heard, lost) = (lines.len() as u64, record.lost.total());
    let most = record.owed.len() as u64;
    let least = record.owed.values().filter(|due| due.must).count() as u64;
    assert!(
        least <= heard + lost && heard + lost <= most,
        "{heard} + {lost} of {least} to {most}: {lines:#?} of {record:#?}"
    );
    tally.add(&tally.exact, u64::from(least == most));
    tally.add(&tally.heard, heard);
    tally.add(&tally.newest, record.lost.newest.into());
    tally.add(&tally.oldest, record.lost.oldest.into());
    tally.add(&tally.conflated, record.lost.conflated.into());
}

/// What happened in all runs, to show that it did.
#[derive(Debug, Default)]
struct Tally {
    heard: AtomicU64,
    from_afar: AtomicU64,
    to_users: AtomicU64,
    broadcasts: AtomicU64,
    newest: AtomicU64,
    oldest: AtomicU64,
    conflated: AtomicU64,
    exact: AtomicU64,
    full: AtomicU64,
    confirmed: AtomicU64,
    excluded: AtomicU64,
    late_cores: AtomicU64,
}

impl Tally {
    fn add(&self, counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Everything happened, so often for each seed, or each thousand of them.
    fn assert_rich(&self, seeds: u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let often = [
            (&self.heard, 50_000),
            (&self.from_afar, 50_000),
            (&self.to_users, 2_000),
            (&self.broadcasts, 2_000),
            (&self.newest, 1_000),
            (&self.oldest, 1_000),
            (&self.conflated, 500),
            (&self.exact, 500),
            (&self.full, 500),
            (&self.confirmed, 1_000),
            (&self.excluded, 500),
            (&self.late_cores, 1_000),
        ];
        assert!(often.into_iter().all(|(counter, of)| read(counter) * 1_000 > of * seeds), "{self:?}");
    }
}

/// An order to the service, or several in one message.
fn orders(rng: &mut SimRng) -> String {
    let order = |rng: &mut SimRng| match rng.below(24) {
        0..4 => format!("sub {} {}", rng.below(FILTERS.len() as u64), rng.below(7)),
        4..6 => format!("unsub {}", rng.below(FILTERS.len() as u64)),
        6 => format!("policy {}", rng.below(3)),
        7..9 => format!("say {}", rng.below(2_000)),
        9 => format!("bind {}", rng.below(USERS.len() as u64)),
        10 if rng.permille(300) => "unbind".to_owned(),
        11 | 12 => format!("to {} {}", rng.below(USERS.len() as u64), bytes(rng)),
        _ => {
            let (topic, key) = (rng.below(TOPICS.len() as u64), rng.below(3));
            format!("pub {topic} {key} {} {}", bytes(rng), u64::from(rng.permille(200)))
        }
    };
    let count = if rng.permille(300) { rng.between(2, 12) } else { 1 };
    (0..count).map(|_| order(rng)).collect::<Vec<_>>().join(";")
}

fn bytes(rng: &mut SimRng) -> usize {
    let bytes = match rng.below(12) {
        0..2 => rng.between(10_000, 25_000),
        2..5 => rng.between(1_000, 6_000),
        _ => rng.below(200),
    };
    bytes as usize
}

/// All of one run.
struct Run {
    rng: SimRng,
    simulation: Simulation<Service>,
    world: Rc<RefCell<World>>,
    remotes: Vec<Remote>,
    listeners: Vec<Listener>,
    shards: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed ^ 0xc0_4e5);
        let faults = match seed % 3 {
            0 => Faults::calm(),
            1 => Faults::rough().without_errors(),
            _ => Faults::rough(),
        };
        let limits = Limits {
            max_connections: 16,
            max_outbox_bytes: rng.between(20_000, 60_000) as u32,
            pause_receive_bytes: 20_000,
            max_broadcast_sends_per_turn: rng.between(1, 6) as u32,
            max_broadcast_bytes: rng.between(30_000, 300_000) as u32,
            max_mailbox_commands: rng.between(4, 40) as u32,
            max_user_connections: rng.between(2, 10) as u32,
            ..Limits::default()
        };
        let world = Rc::<RefCell<World>>::default();
        let shards = rng.between(2, 4) as usize;
        let simulation = Simulation::builder(seed)
            .shards(shards)
            .faults(faults)
            .limits(limits)
            .deadlines(Deadlines { idle_ms: 0, write_ms: 0, ..Deadlines::default() })
            .build(|info| Service { world: world.clone(), shard: info.index });
        let remotes = (0..PUBLISHERS).map(|_| simulation.remote()).collect();
        Self { rng, simulation, world, remotes, listeners: Vec::new(), shards }
    }

    /// A connection that was opened, and its id.
    fn anyone(&mut self) -> Option<(usize, ConnId)> {
        let count = self.listeners.len() as u64;
        let chosen = self.rng.below(count.max(1)) as usize;
        let world = self.world.borrow();
        let record = world.records.get(chosen).filter(|record| !record.closed)?;
        record.id.map(|id| (chosen, id))
    }

    fn act(&mut self) {
        let there: Vec<usize> =
            (0..self.listeners.len()).filter(|number| self.listeners[*number].peer.is_some()).collect();
        let chosen = there.get(self.rng.below(there.len().max(1) as u64) as usize).copied();
        match (self.rng.below(32), chosen) {
            (0..5, _) if there.len() < CONNECTIONS => self.come(),
            (5..16, Some(chosen)) => {
                let orders = text(&orders(&mut self.rng));
                self.listeners[chosen].peer.iter_mut().for_each(|peer| peer.write(&orders));
            }
            (16..18, Some(chosen)) => self.listeners[chosen].toggle_reading(),
            (18, Some(chosen)) if self.rng.permille(500) => self.go(chosen),
            (19..24, _) => self.publish(),
            (24, _) => self.subscribe(),
            (25, _) => {
                let publisher = self.rng.below(PUBLISHERS);
                let user = USERS[self.rng.below(USERS.len() as u64) as usize];
                let world = &mut *self.world.borrow_mut();
                let line = world.next(publisher, user, 0);
                let message = Prepared::text(line.text(bytes(&mut self.rng)));
                sent_to_user(world, line, self.remotes[publisher as usize].send_to_user(user, &message));
            }
            (26, _) => {
                let shard = self.rng.below(self.shards as u64) as usize;
                let topic = TOPICS[self.rng.below(TOPICS.len() as u64) as usize];
                let bytes = bytes(&mut self.rng);
                self.world.borrow_mut().asks.entry(shard).or_default().push((topic, bytes));
                self.remotes[0].wake();
            }
            (27, _) => self.broadcast(),
            _ => {}
        }
    }

    fn come(&mut self) {
        let mut peer = self.simulation.connect();
        peer.write(upgrade_request(&format!("/{}", self.listeners.len()), "").as_bytes());
        self.listeners.push(Listener::new(peer));
        self.world.borrow_mut().records.push(Record::default());
    }

    fn go(&mut self, chosen: usize) {
        let (way, listener) = (self.rng.below(4), &mut self.listeners[chosen]);
        let id = self.world.borrow().records[chosen].id;
        match (way, id, &mut listener.peer) {
            (0, Some(id), _) => {
                // Full: it stays.
                let result = self.remotes[0].close(id, CloseCode(4001), "");
                assert!(matches!(result, Ok(()) | Err(RemoteError::Full)), "{result:?}");
            }
            (1, _, Some(peer)) => peer.write(&close(1000, "")),
            (2, _, Some(_)) => listener.reset(),
            _ => {
                listener.read();
                listener.peer = None;
            }
        }
    }

    fn publish(&mut self) {
        for _ in 0..self.rng.between(1, 4) {
            let publisher = self.rng.below(PUBLISHERS);
            let except = if self.rng.permille(200) { self.anyone() } else { None };
            let topic = TOPICS[self.rng.below(TOPICS.len() as u64) as usize];
            let world = &mut *self.world.borrow_mut();
            let line = world.next(publisher, topic, self.rng.below(3));
            let message = Prepared::text(line.text(bytes(&mut self.rng)));
            let mut publication = Publication::new(topic, &message).key(line.key);
            if let Some((_, id)) = except {
                publication = publication.except(id);
            }
            match self.remotes[publisher as usize].publish_with(publication) {
                Ok(()) => world.published(line, except.map(|(number, _)| number), None),
                Err(error) => {
                    assert_eq!(error, TopicError::Full);
                    world.full += 1;
                }
            }
        }
    }

    /// From outside, to what no handler touches.
    fn subscribe(&mut self) {
        let Some((number, id)) = self.anyone() else { return };
        let filter = REMOTE_FILTERS[self.rng.below(REMOTE_FILTERS.len() as u64) as usize];
        let world = &mut *self.world.borrow_mut();
        let phase = world.records[number].filters.get(filter).copied();
        let posted = match phase {
            None => self.remotes[0].subscribe(id, filter, Subscribe::new()),
            Some(Phase::Firm) => self.remotes[0].unsubscribe(id, filter),
            Some(_) => return,
        };
        match (posted, phase) {
            (Ok(()), None) => world.begins(number, filter, Phase::Coming),
            (Ok(()), _) => world.is_to_end(number, filter),
            (Err(error), _) => assert_eq!(error, RemoteError::Full),
        }
    }

    fn broadcast(&mut self) {
        let world = &mut *self.world.borrow_mut();
        let line = world.next(self.rng.below(PUBLISHERS), "*", 0);
        let message = Prepared::text(line.text(bytes(&mut self.rng)));
        match self.remotes[line.publisher as usize].broadcast(&message, line.number) {
            Ok(()) => world.broadcast(line),
            Err(error) => assert_eq!(error, RemoteError::Full),
        }
    }

    fn go_on(&mut self) {
        match self.rng.below(12) {
            0 => self.simulation.run(),
            1 => self.simulation.advance(Duration::from_millis(self.rng.below(60))),
            2..6 => {
                for _ in 0..self.rng.between(1, 40) {
                    self.simulation.step(Duration::from_millis(self.rng.below(20)));
                }
                return;
            }
            _ => return,
        }
        self.world.borrow_mut().settled();
        self.listeners.iter_mut().for_each(Listener::read);
    }

    /// Of all shards.
    fn metric(&self, name: &str) -> u64 {
        let mut metrics = String::new();
        self.remotes[0].write_metrics(&mut metrics);
        let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    fn assert_presence(&self) {
        let mut changes = self.world.borrow().presence.clone();
        changes.sort();
        for user in USERS {
            let of_user: Vec<bool> =
                changes.iter().filter(|(_, name, _)| name == user).map(|change| change.2).collect();
            assert!(of_user.iter().zip([true, false].iter().cycle()).all(|(a, b)| a == b), "{changes:?}");
            assert_eq!(of_user.len() % 2 == 1, self.remotes[0].is_online(user), "{user}: {changes:?}");
        }
    }

    /// All that is on its way arrives, and is what was owed.
    fn check(&mut self, tally: &Tally) {
        self.simulation.net().set_faults(Faults { window_bytes: 1 << 20, ..Faults::none() });
        self.simulation.advance(Duration::from_millis(200));
        self.listeners.iter_mut().flat_map(|listener| &mut listener.peer).for_each(SimPeer::start_reading);
        self.simulation.advance(Duration::from_millis(200));
        self.world.borrow_mut().settled();
        self.world.borrow_mut().to_compare.extend(0..self.shards);
        self.simulation.run();
        let world = self.world.borrow();
        assert!(world.to_compare.is_empty());
        assert_eq!(self.metric("ringwire_broadcast_bytes"), 0);
        assert_eq!(self.metric("ringwire_subscriptions"), world.subscriptions());
        let bound: usize = USERS.into_iter().map(|user| world.bound_to(user)).sum();
        assert_eq!(self.metric("ringwire_bound_connections"), bound as u64);
        for user in USERS {
            let mut ids = self.remotes[0].connections_of(user);
            let mut expected = world.ids_of(user);
            ids.sort();
            expected.sort();
            assert_eq!(ids, expected, "{user}");
        }
        for (listener, record) in self.listeners.iter_mut().zip(&world.records) {
            check(listener, record, tally);
        }
        tally.add(&tally.full, world.full);
        tally.add(&tally.excluded, world.excluded);
        tally.add(&tally.late_cores, self.simulation.net().injected(Fault::LateCore));
    }

    /// Everybody goes, and leaves nothing.
    fn end(&mut self) {
        self.assert_presence();
        for (number, listener) in self.listeners.iter_mut().enumerate() {
            listener.read();
            if let Some(mut peer) = listener.peer.take()
                && number % 2 == 0
            {
                peer.reset();
            }
        }
        self.simulation.advance(Duration::from_secs(20));
        assert_eq!(self.simulation.connections(), 0);
        for gone in ["subscriptions", "topics", "bound_connections", "broadcast_bytes", "outbox_bytes"] {
            assert_eq!(self.metric(&format!("ringwire_{gone}")), 0, "{gone}");
        }
        assert_eq!((self.remotes[0].user_count(), self.remotes[0].open_connections()), (0, 0));
        assert!(self.world.borrow().records.iter().all(|record| record.id.is_none() || record.closed));
        self.assert_presence();
    }
}

/// Returns what happened, in short.
fn run(seed: u64, tally: &Tally) -> u64 {
    let mut run = Run::new(seed);
    let net = run.simulation.net().clone();
    let _guard = net.trace_on_panic();
    for _ in 0..run.rng.between(60, 300) {
        run.act();
        run.go_on();
    }
    run.check(tally);
    run.end();
    net.trace_hash()
}

#[test]
fn random_publications_on_several_cores() {
    let tally = Tally::default();
    let seeds = number("RINGWIRE_SOAK_SEEDS").unwrap_or(SEEDS);
    on_each_seed(seeds, |seed| {
        run(seed, &tally);
    });
    println!("{tally:?}");
    if number("RINGWIRE_SOAK_SEED").is_none() && seeds >= SEEDS {
        tally.assert_rich(seeds);
    }
}

/// One seed, one history, on all cores.
#[test]
fn a_seed_gives_one_history_on_several_cores() {
    let tally = Tally::default();
    let hashes: Vec<u64> = (0..12).map(|seed| run(seed, &tally)).collect();
    assert_eq!(hashes, (0..12).map(|seed| run(seed, &tally)).collect::<Vec<_>>());
    assert_ne!(hashes[0], hashes[3]);
}
