//! Messages to all over a network on which everything goes wrong, against a model.
//!
//! `RINGWIRE_SOAK_SEEDS` and `RINGWIRE_SOAK_SEED` as in `soak`.

use crate::peer::{bare, upgrade_request};
use crate::soak::{number, on_each_seed};
use ringwire::sim::{Faults, SimPeer, SimRng, Simulation};
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Deadlines, Handler, Limits, Message, Prepared, Request, SendResult,
    Upgrade,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seeds of an ordinary run.
const SEEDS: u64 = 500;

/// What the service did with one connection.
#[derive(Debug, Default)]
struct Record {
    id: Option<ConnId>,
    closed: bool,
    /// It did not keep up, and was told to close.
    dismissed: bool,
    /// Messages to all that it was offered, by number.
    offered: Vec<u64>,
    /// Every frame that was taken, in order.
    taken: Vec<Vec<u8>>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct World {
    records: Vec<Record>,
    /// What the messages to all are, by number.
    frames: Vec<Vec<u8>>,
}

/// A tag is the number of a message, times two; odd ones are for every second connection.
struct Service(Rc<RefCell<World>>);

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
        let result = conn.send_text(text);
        self.0.borrow_mut().records[*conn.state()].note(result, bare(0x81, text.as_bytes()));
    }

    fn broadcast(&mut self, conn: &mut Conn<'_, usize>, message: &Prepared, tag: u64) {
        let World { records, frames } = &mut *self.0.borrow_mut();
        let record = &mut records[*conn.state()];
        assert!(!record.closed && !record.dismissed, "after close");
        record.offered.push(tag / 2);
        if tag % 2 == 1 && *conn.state() % 2 == 1 {
            return;
        }
        let result = conn.send_prepared(message);
        record.note(result, frames[(tag / 2) as usize].clone());
        if result == SendResult::Dropped && *conn.state() % 3 == 0 {
            record.dismissed = true;
            conn.close(CloseCode::TRY_AGAIN_LATER, "");
        }
    }

    fn close(&mut self, _: ConnId, state: usize, _: CloseReason<'_>) {
        self.0.borrow_mut().records[state].closed = true;
    }
}

impl Record {
    fn note(&mut self, result: SendResult, frame: Vec<u8>) {
        match result {
            SendResult::Sent | SendResult::Queued => self.taken.push(frame),
            SendResult::Dropped => self.dropped += 1,
            SendResult::Closed => panic!("sent to one that is closing"),
        }
    }
}

struct Listener {
    peer: Option<SimPeer>,
    /// The number of the first message that it must be offered, once it is open.
    open_since: Option<u64>,
    /// It was told to close, or left.
    leaves: bool,
    /// It did not read for so long that it may have been cut.
    dozed: bool,
    reads: bool,
    heard: Vec<u8>,
}

impl Listener {
    fn listen(&mut self) {
        if let Some(peer) = &mut self.peer {
            self.heard.extend(peer.read());
        }
    }

    /// What it heard is the beginning of what was taken for it, whole if it stayed to the end.
    fn check(&mut self, record: &Record, last: u64, calm: bool) {
        self.listen();
        assert!(record.offered.is_sorted_by(|a, b| a < b), "{:?}", record.offered);
        let reset = self.peer.as_ref().is_some_and(SimPeer::saw_reset);
        let stayed = !self.leaves && !record.dismissed && !record.closed && !reset && self.peer.is_some();
        if let Some(since) = self.open_since.filter(|_| stayed) {
            let expected: Vec<u64> = (since..last).collect();
            assert!(record.offered.ends_with(&expected), "{:?}, from {since} to {last}", record.offered);
        }
        assert!(!calm || self.leaves || self.dozed || record.dismissed || !record.closed, "cut for nothing");
        let Some(head) = self.heard.windows(4).position(|window| window == b"\r\n\r\n") else { return };
        let heard = &self.heard[head + 4..];
        let taken = record.taken.concat();
        let same = heard.iter().zip(&taken).take_while(|(a, b)| a == b).count();
        if stayed {
            assert_eq!((heard.len(), same), (taken.len(), taken.len()), "of all that was taken");
        }
        // A Close frame may follow.
        let rest = &heard[same..];
        assert!(rest.is_empty() || rest[0] == 0x88, "{} after {same} bytes", rest.escape_ascii());
        assert!(rest.is_empty() || same == taken.len(), "closed before {same} of {}", taken.len());
    }
}

/// What happened in all runs, to show that it did.
#[derive(Debug, Default)]
struct Tally {
    offered: AtomicU64,
    dropped: AtomicU64,
    closed: AtomicU64,
    full: AtomicU64,
    stayed: AtomicU64,
}

fn run(seed: u64, tally: &Tally) {
    let count = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
    let mut rng = SimRng::new(seed ^ 0xb0ad);
    let calm = seed.is_multiple_of(3);
    let faults = if calm { Faults::calm() } else { Faults::rough() };
    let limits = Limits {
        max_connections: 24,
        max_outbox_bytes: rng.between(20_000, 60_000) as u32,
        pause_receive_bytes: rng.between(500, 20_000) as u32,
        max_broadcast_sends_per_turn: rng.between(1, 8) as u32,
        max_broadcast_bytes: rng.between(2_000, 60_000) as u32,
        ..Limits::default()
    };
    let world = Rc::<RefCell<World>>::default();
    let deadlines = Deadlines { idle_ms: 0, ..Deadlines::default() };
    let mut simulation = Simulation::builder(seed)
        .faults(faults)
        .limits(limits)
        .deadlines(deadlines)
        .build(|_| Service(world.clone()));
    let net = simulation.net().clone();
    let _guard = net.trace_on_panic();
    let mut listeners: Vec<Listener> = Vec::new();
    for _ in 0..rng.between(30, 150) {
        let chosen = rng.below(listeners.len().max(1) as u64) as usize;
        match rng.below(16) {
            0..4 if listeners.len() < 24 => {
                let mut peer = simulation.connect();
                peer.write(upgrade_request(&format!("/{}", listeners.len()), "").as_bytes());
                let (heard, open_since) = (Vec::new(), None);
                listeners.push(Listener {
                    peer: Some(peer),
                    open_since,
                    leaves: false,
                    dozed: false,
                    reads: true,
                    heard,
                });
                world.borrow_mut().records.push(Record::default());
            }
            4..10 => {
                let size = match rng.below(10) {
                    0..2 => rng.between(16_000, 30_000),
                    2 => rng.between(1_000, 16_000),
                    _ => rng.below(200),
                };
                let number = world.borrow().frames.len() as u64;
                let payload = [&number.to_be_bytes()[..], &vec![number as u8; size as usize]].concat();
                let frame = bare(0x82, &payload);
                let tag = number * 2 + rng.below(2);
                match simulation.remote().broadcast(&Prepared::binary(payload), tag) {
                    Ok(()) => world.borrow_mut().frames.push(frame),
                    Err(_) => drop(count(&tally.full, 1)),
                }
            }
            10..13 if !listeners.is_empty() => {
                if let Some(peer) = &mut listeners[chosen].peer {
                    let line = format!("echo {}", rng.below(1_000));
                    peer.write(&crate::peer::text(&line));
                }
            }
            13 if !listeners.is_empty() => {
                let listener = &mut listeners[chosen];
                listener.reads = !listener.reads;
                match &mut listener.peer {
                    Some(peer) if listener.reads => peer.start_reading(),
                    Some(peer) => peer.stop_reading(),
                    None => {}
                }
            }
            14 if !listeners.is_empty() && rng.permille(500) => {
                listeners[chosen].leaves = true;
                if let Some(id) = world.borrow().records[chosen].id.filter(|_| rng.permille(500)) {
                    simulation.remote().close(id, CloseCode(4001), "").unwrap();
                } else if let Some(mut peer) = listeners[chosen].peer.take() {
                    peer.reset();
                }
            }
            _ => {}
        }
        match rng.below(6) {
            0 => simulation.run(),
            1 => simulation.advance(Duration::from_millis(rng.below(60))),
            2 if rng.permille(100) => {
                listeners.iter_mut().for_each(|listener| listener.dozed |= !listener.reads);
                simulation.advance(Duration::from_millis(rng.below(40_000)));
            }
            _ => continue,
        }
        // Nothing is on its way: who is open now is offered what comes from now on.
        let world = world.borrow();
        for (listener, record) in listeners.iter_mut().zip(&world.records) {
            if record.id.is_some() && listener.open_since.is_none() {
                listener.open_since = Some(world.frames.len() as u64);
            }
            listener.listen();
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
    let told = format!("ringwire_broadcasts_total{{shard=\"0\"}} {}\n", world.frames.len());
    assert!(metrics.contains(&told), "{told}");
    for (listener, record) in listeners.iter_mut().zip(&world.records) {
        listener.check(record, world.frames.len() as u64, calm);
        count(&tally.offered, record.offered.len() as u64);
        count(&tally.dropped, record.dropped);
        count(&tally.closed, u64::from(record.closed));
        count(&tally.stayed, u64::from(!record.closed && record.id.is_some()));
    }
}

#[test]
fn random_broadcasts() {
    let tally = Tally::default();
    let seeds = number("RINGWIRE_SOAK_SEEDS").unwrap_or(SEEDS);
    on_each_seed(seeds, |seed| run(seed, &tally));
    println!("{tally:?}");
    if number("RINGWIRE_SOAK_SEED").is_none() && seeds >= SEEDS {
        let enough = |counter: &AtomicU64, of: u64| counter.load(Ordering::Relaxed) >= of;
        assert!(enough(&tally.offered, 100 * seeds) && enough(&tally.stayed, seeds), "{tally:?}");
        assert!(enough(&tally.closed, seeds) && enough(&tally.full, seeds / 20), "{tally:?}");
        assert!(enough(&tally.dropped, seeds / 2), "{tally:?}");
    }
}
