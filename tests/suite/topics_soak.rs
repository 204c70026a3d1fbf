//! Topics, policies and people who come and go over a network on which everything goes wrong, against a
//! model: what each subscriber is offered is what it gets and what its handler is told it lost.
//!
//! `RINGWIRE_SOAK_SEEDS` and `RINGWIRE_SOAK_SEED` as in `soak`.

use crate::listener::Listener;
use crate::peer::{text, upgrade_request};
use crate::soak::{number, on_each_seed};
use ringwire::sim::{Faults, SimPeer, SimRng, Simulation};
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Deadlines, Dropped, Handler, Limits, Message, Overflow, Prepared,
    Publication, Request, SendResult, Subscribe, TopicError, Upgrade,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seeds of an ordinary run.
const SEEDS: u64 = 500;
const TOPICS: [&str; 5] = ["a", "a/1", "a/2", "a/1/x", "b/1"];
const FILTERS: [&str; 9] = ["#", "a/#", "a/1/#", "b/#", "a", "a/1", "a/2", "a/1/x", "b/1"];

/// One message, as it is told apart in what a peer hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Line {
    /// 99 is what the handler sends itself.
    topic: usize,
    key: u64,
    number: u64,
}

impl Line {
    fn text(self, bytes: usize) -> String {
        format!("{} {} {} {}", self.topic, self.key, self.number, ".".repeat(bytes))
    }

    fn parse(text: &str) -> Self {
        let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(u64::MAX));
        let mut next = || words.next().unwrap();
        Self { topic: next() as usize, key: next(), number: next() }
    }
}

/// What the service did with one connection.
#[derive(Debug, Default)]
struct Record {
    id: Option<ConnId>,
    closed: bool,
    /// Its filters.
    filters: HashSet<&'static str>,
    /// It is owed these, in this order.
    owed: Vec<Line>,
    /// Of those that were on their way when it unsubscribed, some may have come.
    optional: HashSet<Line>,
    /// Whatever its policies, the latest value replaces others.
    conflates: bool,
    lost: Dropped,
}

#[derive(Debug, Default)]
struct World {
    records: Vec<Record>,
    numbers: u64,
    full: u64,
}

struct Service(Rc<RefCell<World>>);

/// Whether who subscribed to `filter` gets what is published to `topic`.
pub fn matches(filter: &str, topic: &str) -> bool {
    filter
        .strip_suffix('#')
        .map_or(filter == topic, |prefix| topic.len() > prefix.len() && topic.starts_with(prefix))
}

impl World {
    /// Somebody has published.
    fn published(&mut self, line: Line, except: Option<usize>) {
        for (number, record) in self.records.iter_mut().enumerate() {
            let wanted = record.filters.iter().any(|filter| matches(filter, TOPICS[line.topic]));
            if wanted && except != Some(number) && !record.closed {
                record.owed.push(line);
            }
        }
    }

    fn next(&mut self, topic: usize, key: u64) -> Line {
        self.numbers += 1;
        Line { topic, key, number: self.numbers }
    }
}

impl Service {
    fn carry_out(&mut self, conn: &mut Conn<'_, usize>, words: &[&str]) {
        let me = *conn.state();
        let world = &mut *self.0.borrow_mut();
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
                let subscribe =
                    overflow.map_or(Subscribe::new(), |overflow| Subscribe::new().overflow(overflow));
                let new = match conn.subscribe_with(filter, subscribe) {
                    Err(TopicError::Closed) => return,
                    result => result.unwrap(),
                };
                let record = &mut world.records[me];
                assert_eq!(new, record.filters.insert(filter));
                record.conflates |= overflow == Some(Overflow::Conflate);
                assert_eq!(conn.subscriptions(), record.filters.len());
            }
            ["unsub", filter] => {
                let filter = FILTERS[int(filter)];
                let record = &mut world.records[me];
                assert_eq!(conn.unsubscribe(filter), record.filters.remove(filter));
                let Record { filters, owed, optional, .. } = record;
                let ended = |line: &&Line| {
                    line.topic < TOPICS.len()
                        && matches(filter, TOPICS[line.topic])
                        && !filters.iter().any(|left| matches(left, TOPICS[line.topic]))
                };
                optional.extend(owed.iter().filter(ended));
            }
            ["policy", policy] => {
                conn.set_overflow(
                    [Overflow::DropOldest, Overflow::Conflate, Overflow::DropNewest][int(policy)],
                );
                world.records[me].conflates |= int(policy) == 1;
            }
            ["pub", topic, key, bytes, except] => {
                let line = world.next(int(topic), int(key) as u64);
                let message = Prepared::text(line.text(int(bytes)));
                let except = (int(except) == 1).then_some(me);
                let mut publication = Publication::new(TOPICS[line.topic], &message).key(line.key);
                if except.is_some() {
                    publication = publication.except(conn.id());
                }
                match conn.publish_with(publication) {
                    Ok(()) => world.published(line, except),
                    Err(error) => {
                        assert_eq!(error, TopicError::Full);
                        world.full += 1;
                    }
                }
            }
            ["say", bytes] => {
                let line = world.next(99, 0);
                match conn.send_text(&line.text(int(bytes))) {
                    SendResult::Sent | SendResult::Queued => world.records[me].owed.push(line),
                    SendResult::Dropped => {}
                    // By a policy, a moment ago.
                    SendResult::Closed => {}
                }
            }
            ref other => panic!("{other:?}"),
        }
    }
}

impl Handler for Service {
    type State = usize;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<usize> {
        Upgrade::accept(request.path()[1..].parse().unwrap())
    }

    fn open(&mut self, conn: &mut Conn<'_, usize>) {
        self.0.borrow_mut().records[*conn.state()].id = Some(conn.id());
    }

    fn message(&mut self, conn: &mut Conn<'_, usize>, message: Message<'_>) {
        let Message::Text(text) = message else { panic!("text only") };
        for order in text.split(';') {
            self.carry_out(conn, &order.split(' ').collect::<Vec<_>>());
        }
    }

    fn dropped(&mut self, conn: &mut Conn<'_, usize>, dropped: Dropped) {
        assert!(dropped.total() > 0);
        let lost = &mut self.0.borrow_mut().records[*conn.state()].lost;
        lost.newest += dropped.newest;
        lost.oldest += dropped.oldest;
        lost.conflated += dropped.conflated;
    }

    fn close(&mut self, _: ConnId, state: usize, _: CloseReason<'_>) {
        let record = &mut self.0.borrow_mut().records[state];
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
    let places: HashMap<Line, usize> = record.owed.iter().copied().zip(0..).collect();
    assert_eq!(places.len(), record.owed.len());
    let mut last: HashMap<(usize, u64), usize> = HashMap::new();
    for line in &lines {
        let place = *places.get(line).unwrap_or_else(|| panic!("{line:?} is not owed: {record:?}"));
        // Where the latest value replaces others, order is that of each key.
        let of = (line.topic, if record.conflates { line.key } else { 0 });
        let before = last.insert(of, place);
        assert!(before < Some(place), "{line:?} at {place} after {before:?}: {lines:?} of {:?}", record.owed);
    }
    let stayed = !record.closed && listener.heard_no_end(rest);
    if stayed && record.id.is_some() {
        assert!(rest.is_empty(), "{} is unfinished", rest.escape_ascii());
        let (heard, lost) = (lines.len() as u64, record.lost.total());
        let owed = record.owed.len() as u64;
        let optional = record.optional.len() as u64;
        assert!(
            heard + lost <= owed && owed <= heard + lost + optional,
            "{heard} + {lost} of {owed}, {optional} optional: {:?}",
            record.lost
        );
        if record.optional.is_empty() {
            tally.exact.fetch_add(1, Ordering::Relaxed);
        }
        tally.add(heard, &record.lost);
    }
}

/// What happened in all runs, to show that it did.
#[derive(Debug, Default)]
struct Tally {
    heard: AtomicU64,
    newest: AtomicU64,
    oldest: AtomicU64,
    conflated: AtomicU64,
    exact: AtomicU64,
    full: AtomicU64,
}

impl Tally {
    fn add(&self, heard: u64, lost: &Dropped) {
        self.heard.fetch_add(heard, Ordering::Relaxed);
        for (counter, n) in
            [(&self.newest, lost.newest), (&self.oldest, lost.oldest), (&self.conflated, lost.conflated)]
        {
            counter.fetch_add(n.into(), Ordering::Relaxed);
        }
    }
}

/// An order to the service, or several in one message.
fn orders(rng: &mut SimRng) -> String {
    let order = |rng: &mut SimRng| match rng.below(20) {
        0..4 => format!("sub {} {}", rng.below(FILTERS.len() as u64), rng.below(7)),
        4..6 => format!("unsub {}", rng.below(FILTERS.len() as u64)),
        6 => format!("policy {}", rng.below(3)),
        7..9 => format!("say {}", rng.below(2_000)),
        _ => {
            let bytes = match rng.below(12) {
                0..2 => rng.between(10_000, 25_000),
                2..5 => rng.between(1_000, 6_000),
                _ => rng.below(200),
            };
            format!(
                "pub {} {} {bytes} {}",
                rng.below(TOPICS.len() as u64),
                rng.below(3),
                u64::from(rng.permille(200))
            )
        }
    };
    let count = if rng.permille(300) { rng.between(2, 12) } else { 1 };
    (0..count).map(|_| order(rng)).collect::<Vec<_>>().join(";")
}

fn run(seed: u64, tally: &Tally) {
    let mut rng = SimRng::new(seed ^ 0x70b1c5);
    let faults = if seed.is_multiple_of(2) { Faults::calm() } else { Faults::rough() };
    let limits = Limits {
        max_connections: 16,
        max_outbox_bytes: rng.between(20_000, 60_000) as u32,
        pause_receive_bytes: 20_000,
        max_broadcast_sends_per_turn: rng.between(1, 6) as u32,
        max_broadcast_bytes: rng.between(30_000, 300_000) as u32,
        ..Limits::default()
    };
    let world = Rc::<RefCell<World>>::default();
    let deadlines = Deadlines { idle_ms: 0, write_ms: 0, ..Deadlines::default() };
    let mut simulation = Simulation::builder(seed)
        .faults(faults)
        .limits(limits)
        .deadlines(deadlines)
        .build(|_| Service(world.clone()));
    let net = simulation.net().clone();
    let _guard = net.trace_on_panic();
    let mut listeners: Vec<Listener> = Vec::new();
    for _ in 0..rng.between(40, 200) {
        let chosen = rng.below(listeners.len().max(1) as u64) as usize;
        match rng.below(20) {
            0..3 if listeners.len() < 16 => {
                let mut peer = simulation.connect();
                peer.write(upgrade_request(&format!("/{}", listeners.len()), "").as_bytes());
                listeners.push(Listener::new(peer));
                world.borrow_mut().records.push(Record::default());
            }
            3..15 if !listeners.is_empty() => {
                if let Some(peer) = &mut listeners[chosen].peer {
                    peer.write(&text(&orders(&mut rng)));
                }
            }
            15..18 if !listeners.is_empty() && rng.permille(700) => listeners[chosen].toggle_reading(),
            18 if !listeners.is_empty() && rng.permille(300) => {
                if let Some(id) = world.borrow().records[chosen].id.filter(|_| rng.permille(500)) {
                    simulation.remote().close(id, CloseCode(4001), "").unwrap();
                } else if let Some(mut peer) = listeners[chosen].peer.take() {
                    peer.reset();
                }
            }
            19 => {
                // From another thread, when nothing else is on its way.
                simulation.run();
                let line = world.borrow_mut().next(rng.below(TOPICS.len() as u64) as usize, rng.below(3));
                let message = Prepared::text(line.text(rng.below(3_000) as usize));
                let publication = Publication::new(TOPICS[line.topic], &message).key(line.key);
                if simulation.remote().publish_with(publication).is_ok() {
                    world.borrow_mut().published(line, None);
                }
                simulation.run();
            }
            _ => {}
        }
        match rng.below(6) {
            0 => simulation.run(),
            1 => simulation.advance(Duration::from_millis(rng.below(60))),
            _ => continue,
        }
        for listener in &mut listeners {
            listener.read();
        }
    }
    net.set_faults(Faults { window_bytes: 1 << 20, ..Faults::none() });
    simulation.advance(Duration::from_millis(200));
    listeners.iter_mut().flat_map(|listener| &mut listener.peer).for_each(SimPeer::start_reading);
    simulation.advance(Duration::from_millis(200));
    let mut metrics = String::new();
    simulation.remote().write_metrics(&mut metrics);
    assert!(metrics.contains("ringwire_broadcast_bytes{shard=\"0\"} 0\n"), "{metrics}");
    let world = world.borrow();
    let subscriptions: usize = world.records.iter().map(|record| record.filters.len()).sum();
    let told = format!("ringwire_subscriptions{{shard=\"0\"}} {subscriptions}\n");
    assert!(metrics.contains(&told), "{told}");
    for (listener, record) in listeners.iter_mut().zip(&world.records) {
        check(listener, record, tally);
    }
    tally.full.fetch_add(world.full, Ordering::Relaxed);
}

#[test]
fn random_publications() {
    let tally = Tally::default();
    let seeds = number("RINGWIRE_SOAK_SEEDS").unwrap_or(SEEDS);
    on_each_seed(seeds, |seed| run(seed, &tally));
    println!("{tally:?}");
    if number("RINGWIRE_SOAK_SEED").is_none() && seeds >= SEEDS {
        let Tally { heard, newest, oldest, conflated, exact, full } = &tally;
        for (counter, of) in [(heard, 50), (newest, 2), (oldest, 2), (conflated, 2), (exact, 2), (full, 0)] {
            assert!(counter.load(Ordering::Relaxed) > of * seeds, "{tally:?}");
        }
    }
}
