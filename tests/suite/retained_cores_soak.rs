//! Last values on several cores, and a graceful end amid publications, in an order that a seed decides.
//!
//! On every core a witness hears all topics from the beginning: what it heard is the core's course. Who comes
//! later must hear, of each topic, the last value and then all that follows it there; after the goodbye
//! nothing. `RINGWIRE_SOAK_SEEDS` and `RINGWIRE_SOAK_SEED` as in `soak`.

use crate::listener::Listener;
use crate::peer::{close, text, upgrade_request};
use crate::soak::{number, on_each_seed};
use crate::topics_soak::matches;
use ringwire::sim::{Faults, SimPeer, SimRng, Simulation};
use ringwire::{
    CloseReason, Conn, ConnId, Deadlines, Dropped, Handler, Limits, Message, Prepared, Publication, Remote,
    Request, Shard, Subscribe, TopicError, Upgrade,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seeds of an ordinary run.
const SEEDS: u64 = 300;
/// Publishers outside of the cores.
const PUBLISHERS: u64 = 4;
const CONNECTIONS: usize = 16;
const TOPICS: [&str; 3] = ["k/1", "k/2", "k/2/x"];
const FILTERS: [&str; 5] = ["k/#", "k/2/#", "k/1", "k/2", "k/2/x"];

/// A publication: numbers grow with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    number: u64,
    publisher: u64,
    topic: &'static str,
    retained: bool,
}

impl Line {
    fn publication<'a>(&self, message: &'a Prepared) -> Publication<'a> {
        let publication = Publication::new(self.topic, message);
        if self.retained { publication.retain() } else { publication }
    }

    fn message(self, bytes: usize) -> Prepared {
        let Self { number, publisher, topic, retained } = self;
        Prepared::text(format!("{number} {publisher} {topic} {} {}", u8::from(retained), ".".repeat(bytes)))
    }

    fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let topic = TOPICS.into_iter().find(|topic| *topic == words[2]).unwrap();
        let int = |at: usize| words[at].parse().unwrap();
        Self { number: int(0), publisher: int(1), topic, retained: int(3) == 1 }
    }
}

#[derive(Debug, Default)]
struct Record {
    id: Option<ConnId>,
    closed: bool,
    /// Its only one, for good.
    filter: Option<&'static str>,
    /// Of each topic a last value that was known there before it subscribed.
    floor: HashMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct World {
    records: Vec<Record>,
    /// Of each shard and topic the last value that its witness had heard when that was looked at.
    known: HashMap<(usize, &'static str), u64>,
    /// What handlers are to publish in their next turn, by shard.
    asks: HashMap<usize, Vec<Line>>,
    numbers: u64,
    /// For which there was no room: nobody gets them.
    refused: HashSet<u64>,
}

impl World {
    fn next(&mut self, publisher: u64, rng: &mut SimRng) -> Line {
        self.numbers += 1;
        let topic = TOPICS[rng.below(TOPICS.len() as u64) as usize];
        Line { number: self.numbers, publisher, topic, retained: rng.permille(800) }
    }

    fn subscribed(&mut self, number: usize, filter: &'static str) {
        let record = &mut self.records[number];
        let shard = record.id.unwrap().shard();
        record.filter = Some(filter);
        let topics = TOPICS.into_iter().filter(|topic| matches(filter, topic));
        record.floor = topics.filter_map(|topic| Some((topic, *self.known.get(&(shard, topic))?))).collect();
    }

    fn published(&mut self, line: Line, result: Result<(), TopicError>) {
        if let Err(error) = result {
            assert_eq!(error, TopicError::Full);
            self.refused.insert(line.number);
        }
    }
}

struct Service {
    world: Rc<RefCell<World>>,
    shard: usize,
}

impl Handler for Service {
    type State = usize;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<usize> {
        Upgrade::accept(request.path()[1..].parse().unwrap())
    }

    fn open(&mut self, conn: &mut Conn<'_, usize>) {
        self.world.borrow_mut().records[*conn.state()].id = Some(conn.id());
    }

    /// The number of a filter to subscribe to.
    fn message(&mut self, conn: &mut Conn<'_, usize>, message: Message<'_>) {
        let Message::Text(text) = message else { panic!("text only") };
        let (world, number) = (&mut *self.world.borrow_mut(), *conn.state());
        let filter = FILTERS[text.parse::<usize>().unwrap()];
        if world.records[number].filter.is_some() {
            return;
        }
        match conn.subscribe_with(filter, Subscribe::new().retained()) {
            Err(TopicError::Closed) => {}
            result => {
                assert!(result.unwrap());
                world.subscribed(number, filter);
            }
        }
    }

    fn dropped(&mut self, _: &mut Conn<'_, usize>, dropped: Dropped) {
        panic!("there is room for all: {dropped:?}");
    }

    fn turn(&mut self, shard: &mut Shard<'_, usize>) -> Option<Duration> {
        let world = &mut *self.world.borrow_mut();
        for line in world.asks.remove(&self.shard).unwrap_or_default() {
            let message = line.message(20);
            let result = shard.publish_with(line.publication(&message));
            world.published(line, result);
        }
        None
    }

    fn close(&mut self, _: ConnId, state: usize, _: CloseReason<'_>) {
        self.world.borrow_mut().records[state].closed = true;
    }
}

/// What happened in all runs, to show that it did.
#[derive(Debug, Default)]
struct Tally {
    last_values: AtomicU64,
    followed: AtomicU64,
    skipped: AtomicU64,
    floors: AtomicU64,
    refused: AtomicU64,
    goodbyes: AtomicU64,
    after_drain: AtomicU64,
    fresh: AtomicU64,
}

fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

struct Run {
    rng: SimRng,
    simulation: Simulation<Service>,
    world: Rc<RefCell<World>>,
    remotes: Vec<Remote>,
    listeners: Vec<Listener>,
    /// Of each shard, a place in `listeners`.
    witnesses: Vec<usize>,
    shards: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng::new(seed ^ 0x1a57);
        let limits = Limits {
            max_connections: 64,
            max_broadcast_sends_per_turn: rng.between(1, 6) as u32,
            max_broadcast_bytes: rng.between(3_000, 30_000) as u32,
            max_mailbox_commands: rng.between(10, 60) as u32,
            ..Limits::default()
        };
        let drain_window_ms = [0, 500][rng.below(2) as usize];
        let deadlines =
            Deadlines { idle_ms: 0, write_ms: 0, drain_ms: 2_000, drain_window_ms, ..Deadlines::default() };
        let world = Rc::<RefCell<World>>::default();
        let shards = rng.between(2, 4) as usize;
        let simulation = Simulation::builder(seed)
            .shards(shards)
            .limits(limits)
            .deadlines(deadlines)
            .build(|info| Service { world: world.clone(), shard: info.index });
        let remotes = (0..PUBLISHERS).map(|_| simulation.remote()).collect();
        let (listeners, witnesses) = Default::default();
        let mut run = Self { rng, simulation, world, remotes, listeners, witnesses, shards };
        run.find_witnesses();
        let faults = if seed.is_multiple_of(2) { Faults::calm() } else { Faults::rough().without_errors() };
        run.simulation.net().set_faults(faults);
        run
    }

    /// Connections come until each shard has one that hears everything.
    fn find_witnesses(&mut self) {
        let mut found = vec![None; self.shards];
        while found.contains(&None) {
            let number = self.come();
            self.simulation.run();
            let shard = self.world.borrow().records[number].id.unwrap().shard();
            if found[shard].is_none() {
                self.tell(number, 0);
                found[shard] = Some(number);
            }
        }
        self.simulation.run();
        self.witnesses = found.into_iter().flatten().collect();
    }

    fn come(&mut self) -> usize {
        let number = self.listeners.len();
        let mut peer = self.simulation.connect();
        peer.write(upgrade_request(&format!("/{number}"), "").as_bytes());
        self.listeners.push(Listener::new(peer));
        self.world.borrow_mut().records.push(Record::default());
        number
    }

    /// It is to subscribe.
    fn tell(&mut self, number: usize, filter: usize) {
        let order = text(&filter.to_string());
        self.listeners[number].peer.iter_mut().for_each(|peer| peer.write(&order));
    }

    fn filter(&mut self) -> usize {
        self.rng.below(FILTERS.len() as u64) as usize
    }

    fn act(&mut self) {
        let there: Vec<usize> = (0..self.listeners.len())
            .filter(|number| self.listeners[*number].peer.is_some() && !self.witnesses.contains(number))
            .collect();
        let chosen = there.get(self.rng.below(there.len().max(1) as u64) as usize).copied();
        match (self.rng.below(20), chosen) {
            (0..4, _) if there.len() < CONNECTIONS && self.listeners.len() < 64 => {
                let number = self.come();
                let filter = self.filter();
                if self.rng.permille(500) {
                    self.tell(number, filter);
                }
            }
            (4, Some(chosen)) => {
                let filter = self.filter();
                self.tell(chosen, filter);
            }
            (5, Some(chosen)) => self.subscribe(chosen),
            (6 | 7, Some(chosen)) => self.listeners[chosen].toggle_reading(),
            (8, Some(chosen)) if self.rng.permille(400) => {
                let listener = &mut self.listeners[chosen];
                match (self.rng.below(2), &mut listener.peer) {
                    (0, Some(peer)) => peer.write(&close(1000, "")),
                    _ => listener.reset(),
                }
            }
            (9..12, _) => {
                let world = &mut *self.world.borrow_mut();
                let shard = self.rng.below(self.shards as u64) as usize;
                let line = world.next(PUBLISHERS + shard as u64, &mut self.rng);
                world.asks.entry(shard).or_default().push(line);
                self.remotes[0].wake();
            }
            (12.., _) => {
                for _ in 0..self.rng.between(1, 4) {
                    let publisher = self.rng.below(PUBLISHERS);
                    let line = self.world.borrow_mut().next(publisher, &mut self.rng);
                    let message = line.message(self.rng.below(200) as usize);
                    let result = self.remotes[publisher as usize].publish_with(line.publication(&message));
                    self.world.borrow_mut().published(line, result);
                }
            }
            _ => {}
        }
    }

    /// From outside: when it gets there is not known, so no last value is certain.
    fn subscribe(&mut self, number: usize) {
        let filter = FILTERS[self.filter()];
        let record = &mut self.world.borrow_mut().records[number];
        let Some(id) = record.id.filter(|_| record.filter.is_none() && !record.closed) else { return };
        if self.remotes[0].subscribe(id, filter, Subscribe::new().retained()).is_ok() {
            record.filter = Some(filter);
        }
    }

    fn go_on(&mut self) {
        match self.rng.below(12) {
            0 => self.simulation.run(),
            1 => self.simulation.advance(Duration::from_millis(self.rng.below(60))),
            2..8 => {
                for _ in 0..self.rng.between(1, 30) {
                    self.simulation.step(Duration::from_millis(self.rng.below(20)));
                }
            }
            _ => return,
        }
        self.listen();
    }

    fn listen(&mut self) {
        self.listeners.iter_mut().for_each(Listener::read);
        for (shard, witness) in self.witnesses.iter().enumerate() {
            for line in heard(&self.listeners[*witness]).into_iter().filter(|line| line.retained) {
                self.world.borrow_mut().known.insert((shard, line.topic), line.number);
            }
        }
    }

    fn settle(&mut self) {
        self.listeners.iter_mut().flat_map(|listener| &mut listener.peer).for_each(SimPeer::start_reading);
        self.simulation.advance(Duration::from_millis(300));
        self.listen();
    }

    /// Who comes now hears the last values and nothing else.
    fn check_fresh(&mut self, tally: &Tally) {
        self.simulation.net().set_faults(Faults::none());
        self.settle();
        let mut found = vec![false; self.shards];
        while found.contains(&false) {
            let number = self.come();
            self.simulation.run();
            let shard = self.world.borrow().records[number].id.unwrap().shard();
            if std::mem::replace(&mut found[shard], true) {
                continue;
            }
            self.tell(number, 0);
            self.settle();
            let course = heard(&self.listeners[self.witnesses[shard]]);
            let last =
                |topic: &&str| course.iter().rfind(|line| line.retained && line.topic == *topic).copied();
            let expected: Vec<Line> = TOPICS.iter().filter_map(last).collect();
            let mut came = heard(&self.listeners[number]);
            came.sort_by_key(|line| line.topic);
            assert_eq!(came, expected, "on shard {shard}: {course:#?}");
            add(&tally.fresh, came.len());
        }
    }

    /// The service says goodbye amid publications.
    fn drain(&mut self, tally: &Tally) {
        let settled = self.rng.permille(500);
        if settled {
            self.settle();
        }
        let before: Vec<usize> = self.listeners.iter().map(|listener| heard(listener).len()).collect();
        let open: Vec<bool> =
            self.world.borrow().records.iter().map(|one| !one.closed && one.id.is_some()).collect();
        self.simulation.shutdown();
        for _ in 0..self.rng.between(1, 30) {
            self.act();
            self.go_on();
        }
        self.settle();
        self.simulation.advance(Duration::from_secs(10));
        assert!(self.simulation.is_stopped());
        self.listen();
        for ((listener, before), open) in self.listeners.iter().zip(before).zip(open) {
            let (texts, rest) = listener.texts();
            add(&tally.after_drain, texts.len() - before);
            // It may have left by itself meanwhile.
            if settled
                && open
                && let Some(peer) = &listener.peer
                && !peer.saw_reset()
            {
                let [0x88, len, code @ ..] = rest else { panic!("no goodbye but {}", rest.escape_ascii()) };
                assert_eq!(code.len(), usize::from(*len), "after a Close frame: {}", rest.escape_ascii());
                add(&tally.goodbyes, usize::from(code.starts_with(&1001u16.to_be_bytes())));
            }
        }
    }

    /// Each heard a part of its shard's course, to the end of it if it stayed.
    fn check(&self, tally: &Tally, drained: bool) {
        let world = self.world.borrow();
        for (shard, witness) in self.witnesses.iter().enumerate() {
            for topic in TOPICS {
                let of_topic = |number: usize| -> Vec<Line> {
                    heard(&self.listeners[number]).into_iter().filter(|line| line.topic == topic).collect()
                };
                let is_here = |number: &usize| {
                    let record = &world.records[*number];
                    record.id.is_some_and(|id| id.shard() == shard) && number != witness
                };
                let others: Vec<usize> = (0..self.listeners.len()).filter(is_here).collect();
                // One whose goodbye came later heard more.
                let mut course = of_topic(*witness);
                for heard in others.iter().map(|number| of_topic(*number)).filter(|_| drained) {
                    let last = course.last().and_then(|last| heard.iter().position(|line| line == last));
                    course.extend(&heard[last.map_or(heard.len(), |last| last + 1)..]);
                }
                assert_in_order(&course);
                let refused = course.iter().find(|line| world.refused.contains(&line.number));
                assert!(refused.is_none(), "{refused:?} was refused");
                for number in others {
                    let record = &world.records[number];
                    let context = || format!("connection {number}, {record:?}, of {course:#?}");
                    check_one(&course, &of_topic(number), record, drained, topic, tally, &context);
                }
            }
        }
        add(&tally.refused, world.refused.len());
    }
}

fn check_one(
    course: &[Line],
    heard: &[Line],
    record: &Record,
    drained: bool,
    topic: &str,
    tally: &Tally,
    context: &dyn Fn() -> String,
) {
    // What came when the witness had gone cannot be compared.
    let unknown = heard.iter().position(|line| drained && !course.contains(line));
    let (heard, outlived) = (&heard[..unknown.unwrap_or(heard.len())], unknown.is_some());
    let wants = record.filter.is_some_and(|filter| matches(filter, topic));
    let floor = record.floor.get(topic);
    let Some((first, rest)) = heard.split_first() else {
        // Closed, it may have been so before anything was sent to it.
        assert!(
            record.closed || outlived || !wants || floor.is_none(),
            "{floor:?} did not come: {}",
            context()
        );
        return;
    };
    assert!(wants, "{heard:?} came to {}", context());
    let at = |line: &Line| {
        course.iter().position(|one| one == line).unwrap_or_else(|| panic!("{line:?} is none, {}", context()))
    };
    let begin = at(first);
    if let Some(floor) = floor {
        let known = course.iter().position(|line| line.number == *floor).unwrap();
        assert!(begin >= known, "{first:?} came although {floor} was known: {}", context());
        add(&tally.floors, 1);
    }
    // Between a last value and what follows, others were published and not retained.
    let next = rest.first().map_or(course.len(), at);
    assert!(next > begin, "{heard:?} came to {}", context());
    let (skipped, follows) = (&course[begin + 1..next], &course[next..]);
    assert!(
        skipped.is_empty()
            || first.retained && skipped.iter().all(|line| !line.retained)
            || rest.is_empty() && (record.closed || outlived),
        "{skipped:?} did not come to {}",
        context()
    );
    assert!(follows.starts_with(rest), "{rest:?} and not {follows:?}: {}", context());
    assert!(
        drained || record.closed || follows.len() == rest.len(),
        "{follows:?} did not come to {}",
        context()
    );
    add(&tally.last_values, usize::from(first.retained));
    add(&tally.skipped, skipped.len());
    add(&tally.followed, rest.len());
}

fn heard(listener: &Listener) -> Vec<Line> {
    listener.texts().0.into_iter().map(Line::parse).collect()
}

/// Each publisher's lines as it published them.
fn assert_in_order(course: &[Line]) {
    let mut last = HashMap::new();
    for line in course {
        let before = last.insert(line.publisher, line.number);
        assert!(before < Some(line.number), "{line:?} after {before:?}: {course:#?}");
    }
}

fn run(seed: u64, tally: &Tally) {
    let mut run = Run::new(seed);
    let _guard = run.simulation.net().clone().trace_on_panic();
    for _ in 0..run.rng.between(40, 200) {
        run.act();
        run.go_on();
    }
    let drained = run.rng.permille(500);
    match drained {
        true => run.drain(tally),
        false => run.check_fresh(tally),
    }
    run.check(tally, drained);
}

#[test]
fn last_values_and_goodbyes_on_several_cores() {
    let tally = Tally::default();
    let seeds = number("RINGWIRE_SOAK_SEEDS").unwrap_or(SEEDS);
    on_each_seed(seeds, |seed| run(seed, &tally));
    println!("{tally:?}");
    if number("RINGWIRE_SOAK_SEED").is_none() && seeds >= SEEDS {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { last_values, followed, skipped, floors, refused, goodbyes, after_drain, fresh } = &tally;
        let rare = [last_values, followed, skipped, floors, refused, goodbyes, after_drain, fresh];
        assert!(rare.into_iter().all(|counter| read(counter) > seeds), "{tally:?}");
    }
}
