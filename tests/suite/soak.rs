//! Random conversations over a network on which everything goes wrong, against a model.
//!
//! `RINGWIRE_SOAK_SEEDS=100000` runs more of them, `RINGWIRE_SOAK_SEED=17` one of them again.

use crate::peer::{bare, close, frame, upgrade_request};
use ringwire::http::Response;
use ringwire::sim::{Fault, Faults, SimNet, SimPeer, SimRng, Simulation};
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Deadlines, Handler, Limits, Message, Reply, Request, SendResult,
    Upgrade,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;

/// What the service saw of one peer.
#[derive(Debug, Default)]
struct Record {
    id: Option<ConnId>,
    opened: u32,
    closed: Vec<String>,
    /// Close codes of what it was told, by kind of reason.
    ended_well: bool,
    heard: Vec<Vec<u8>>,
    refused_sends: usize,
}

type Records = Rc<RefCell<Vec<Record>>>;

/// Echoes, and keeps a record of each peer.
struct Echo(Records);

impl Handler for Echo {
    type State = usize;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<usize> {
        Upgrade::accept(request.path()[1..].parse().unwrap())
    }

    fn open(&mut self, conn: &mut Conn<'_, usize>) {
        let record = &mut self.0.borrow_mut()[*conn.state()];
        record.opened += 1;
        record.id = Some(conn.id());
    }

    fn message(&mut self, conn: &mut Conn<'_, usize>, message: Message<'_>) {
        let heard = match message {
            Message::Text(text) => bare(0x81, text.as_bytes()),
            Message::Binary(bytes) => bare(0x82, bytes),
        };
        let result = conn.send(message);
        let record = &mut self.0.borrow_mut()[*conn.state()];
        assert!(record.opened == 1 && record.closed.is_empty(), "a message outside of open and close");
        record.heard.push(heard);
        record.refused_sends += usize::from(!matches!(result, SendResult::Sent | SendResult::Queued));
    }

    fn close(&mut self, id: ConnId, state: usize, reason: CloseReason<'_>) {
        let record = &mut self.0.borrow_mut()[state];
        assert_eq!(record.id, Some(id));
        record.ended_well =
            matches!(reason, CloseReason::Peer { .. } | CloseReason::Local | CloseReason::Violation(_));
        record.closed.push(format!("{reason:?}"));
    }

    fn http(&mut self, _request: &Request<'_>) -> Reply<usize> {
        Response::text(200, "page").into()
    }
}

/// One peer, what it said and what it must hear.
struct Talker {
    peer: Option<SimPeer>,
    number: usize,
    requests: usize,
    asked: bool,
    /// What it sent as messages, as the echo must look.
    said: Vec<Vec<u8>>,
    pings: Vec<Vec<u8>>,
    pushed: Vec<Vec<u8>>,
    /// The code that its own Close frame or violation must be answered with.
    awaits_close: Option<u16>,
    /// The service was asked to close it.
    dismissed: bool,
    /// It ended its stream, or left without a word.
    left: bool,
    reads: bool,
    /// It did not read for so long that `write_ms` may have passed.
    dozed: bool,
    heard: Vec<u8>,
    serial: u32,
}

impl Talker {
    fn new(number: usize, peer: SimPeer) -> Self {
        Self {
            peer: Some(peer),
            number,
            requests: 0,
            asked: false,
            said: Vec::new(),
            pings: Vec::new(),
            pushed: Vec::new(),
            awaits_close: None,
            dismissed: false,
            left: false,
            reads: true,
            dozed: false,
            heard: Vec::new(),
            serial: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(peer) = &mut self.peer {
            peer.write(bytes);
        }
    }

    /// Unlike any other message of this run.
    fn payload(&mut self, rng: &mut SimRng, mark: char) -> Vec<u8> {
        self.serial += 1;
        let mut payload = format!("{mark}{}.{} ", self.number, self.serial).into_bytes();
        let more = match rng.below(20) {
            0 | 1 => rng.below(12_000),
            2..5 => rng.below(400),
            _ => rng.below(30),
        };
        payload.extend((0..more).map(|at| b'a' + (at % 26) as u8));
        payload
    }

    /// A message in one frame or many, with pings between.
    fn say(&mut self, rng: &mut SimRng) {
        let payload = self.payload(rng, 'e');
        let opcode = 1 + rng.below(2) as u8;
        self.said.push(bare(0x80 | opcode, &payload));
        let mut bytes = Vec::new();
        let mut rest = &payload[..];
        let mut opcode = opcode;
        while rng.permille(300) {
            let (head, tail) = rest.split_at(rng.below(rest.len() as u64 + 1) as usize);
            bytes.extend(frame(opcode, head));
            (rest, opcode) = (tail, 0);
            if rng.permille(300) {
                bytes.extend(self.ping(rng));
            }
        }
        bytes.extend(frame(0x80 | opcode, rest));
        self.write(&bytes);
    }

    fn ping(&mut self, rng: &mut SimRng) -> Vec<u8> {
        let mut payload = self.payload(rng, 'g');
        payload.truncate(125);
        self.pings.push(bare(0x8a, &payload));
        frame(0x89, &payload)
    }

    fn break_a_rule(&mut self, rng: &mut SimRng) {
        let (bytes, code) = match rng.below(8) {
            0 => (frame(0xc1, b"x"), 1002),
            1 => (bare(0x81, b"x"), 1002),
            2 => (frame(0x81, b"\xff"), 1007),
            3 => (frame(0x83, b""), 1002),
            4 => (frame(0x80, b"x"), 1002),
            5 => (vec![0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], 1009),
            6 => (close(1005, ""), 1002),
            _ => (frame(0x89, &[0; 126]), 1002),
        };
        self.awaits_close = Some(code);
        self.write(&bytes);
    }

    /// Says or does one thing.
    fn act(&mut self, rng: &mut SimRng) {
        if self.awaits_close.is_some() || self.left {
            // Nothing of this may be heard.
            return self.write(&frame(0x81, b"too late"));
        }
        if !self.asked {
            if rng.permille(300) {
                self.requests += 1;
                return self.write(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            self.asked = true;
            return self.write(upgrade_request(&format!("/{}", self.number), "").as_bytes());
        }
        match rng.below(100) {
            0..60 => self.say(rng),
            60..70 => {
                // Seldom more than are answered one by one.
                let pings = if rng.permille(200) { rng.between(14, 40) } else { 1 };
                let pings: Vec<u8> = (0..pings).flat_map(|_| self.ping(rng)).collect();
                self.write(&pings);
            }
            70..74 => self.write(&frame(0x8a, b"unasked")),
            74..77 => self.break_a_rule(rng),
            77..82 => {
                self.awaits_close = Some(4000);
                self.write(&close(4000, "enough"));
            }
            82..84 => {
                self.left = true;
                if let Some(peer) = &mut self.peer {
                    peer.shutdown_write();
                }
            }
            84 => self.leave(SimPeer::reset),
            85 => self.leave(SimPeer::vanish),
            86 => drop(self.peer.take()),
            87..93 => {
                self.reads = false;
                self.peer.iter_mut().for_each(SimPeer::stop_reading);
            }
            _ => {
                self.reads = true;
                self.peer.iter_mut().for_each(SimPeer::start_reading);
            }
        }
    }

    fn leave(&mut self, how: fn(&mut SimPeer)) {
        self.peer.iter_mut().for_each(how);
        // Its end counts no more.
        self.left = true;
        self.heard.clear();
        drop(self.peer.take());
    }

    /// What came, against what had to come.
    fn check(&mut self, record: &Record) {
        assert!(record.opened <= 1 && record.closed.len() <= 1, "{record:?}");
        assert_eq!(record.refused_sends, 0, "a message was not taken");
        let heard_prefix =
            record.heard.len() <= self.said.len() && record.heard[..] == self.said[..record.heard.len()];
        assert!(heard_prefix, "peer {}: the service heard what was not said", self.number);
        let Some(peer) = &mut self.peer else { return };
        self.heard.extend(peer.read());
        let unharmed = !peer.saw_reset();
        let Some(frames) = self.frames() else {
            let open = record.opened == 1 && unharmed;
            return assert!(
                !open || !self.asked,
                "peer {}: an open connection was not answered",
                self.number
            );
        };
        let of = |mark: u8| {
            let is = move |bytes: &&Vec<u8>| bytes[0] & 0x0f <= 2 && payload(bytes).first() == Some(&mark);
            frames.iter().filter(is).cloned().collect::<Vec<_>>()
        };
        let echoes = of(b'e');
        assert!(echoes.len() <= record.heard.len(), "peer {}: an echo of nothing", self.number);
        assert_eq!(echoes[..], record.heard[..echoes.len()], "peer {}: echoes", self.number);
        let pushed = of(b'p');
        assert!(pushed.len() <= self.pushed.len());
        assert_eq!(pushed[..], self.pushed[..pushed.len()], "peer {}: pushes", self.number);
        let mut pings = self.pings.iter();
        for pong in frames.iter().filter(|bytes| bytes[0] == 0x8a) {
            assert!(pings.any(|ping| ping == pong), "peer {}: a pong out of order", self.number);
        }
        let closes = frames.iter().filter(|bytes| bytes[0] == 0x88).count();
        assert!(closes <= 1, "peer {}: two Close frames", self.number);
        assert!(closes == 0 || frames.last().is_some_and(|last| last[0] == 0x88), "after the Close frame");
        let complete = record.closed.is_empty() || record.ended_well;
        if unharmed && complete && !self.dozed {
            assert_eq!(echoes.len(), record.heard.len(), "peer {}: echoes are missing", self.number);
            if !self.dismissed {
                assert_eq!(record.heard.len(), self.said.len(), "peer {}: messages are missing", self.number);
                assert_eq!(pushed.len(), self.pushed.len(), "peer {}: pushes are missing", self.number);
                if let Some(code) = self.awaits_close {
                    let code = code.to_be_bytes();
                    let last = frames.last().expect("an answer");
                    assert!(last[0] == 0x88 && payload(last)[..2] == code, "peer {}: {last:?}", self.number);
                }
            }
        }
    }

    /// The frames that came after the upgrade, as whole as they came.
    fn frames(&self) -> Option<Vec<Vec<u8>>> {
        let mut rest = &self.heard[..];
        let page = b"\r\n\r\npage";
        for _ in 0..self.requests {
            let at = rest.windows(page.len()).position(|window| window == page)?;
            assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n"));
            rest = &rest[at + page.len()..];
        }
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
        if rest.starts_with(b"HTTP/1.1 408 ") {
            return None;
        }
        assert!(rest.starts_with(b"HTTP/1.1 101 "), "{}", rest.escape_ascii());
        rest = &rest[end + 4..];
        let mut frames = Vec::new();
        while let Some(len) = frame_len(rest).filter(|len| *len <= rest.len()) {
            frames.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
        Some(frames)
    }
}

fn header_and_payload(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [_, 126, a, b, ..] => Some((4, usize::from(u16::from_be_bytes([a, b])))),
        [_, 126, ..] => None,
        [_, len, ..] => {
            assert!(len < 126, "no frame here is longer than 65,535 bytes, or masked");
            Some((2, usize::from(len)))
        }
        _ => None,
    }
}

fn frame_len(bytes: &[u8]) -> Option<usize> {
    header_and_payload(bytes).map(|(header, payload)| header + payload)
}

fn payload(frame: &[u8]) -> &[u8] {
    &frame[header_and_payload(frame).unwrap().0..]
}

/// What happened in all conversations, to show that it did.
#[derive(Debug, Default)]
struct Tally {
    struck: [AtomicU64; Fault::ALL.len()],
    opened: AtomicU64,
    heard: AtomicU64,
    /// Sent out of the receive buffer.
    answered: AtomicU64,
    ended: [AtomicU64; ENDS.len()],
}

const ENDS: [&str; 6] = ["Peer", "Local", "Violation", "Timeout", "Disconnected", "Shutdown"];

impl Tally {
    fn add(&self, net: &SimNet, records: &[Record]) {
        let count = |counter: &AtomicU64, n: u64| {
            counter.fetch_add(n, Ordering::Relaxed);
        };
        for (counter, fault) in self.struck.iter().zip(Fault::ALL) {
            count(counter, net.injected(fault));
        }
        for record in records {
            count(&self.opened, u64::from(record.opened));
            count(&self.heard, record.heard.len() as u64);
            for (counter, end) in self.ended.iter().zip(ENDS) {
                count(counter, record.closed.iter().filter(|closed| closed.starts_with(end)).count() as u64);
            }
        }
    }

    /// Every kind of thing happened, and often enough to matter.
    fn assert_rich(&self, seeds: u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (counter, fault) in self.struck.iter().zip(Fault::ALL) {
            // One shard, which only accepts.
            let foreign = matches!(fault, Fault::ConnectFailure | Fault::LateCore);
            assert!(foreign || read(counter) > 0, "{fault:?} never struck");
        }
        assert!(read(&self.answered) > seeds / 20, "{self:?}");
        assert!(read(&self.opened) > seeds && read(&self.heard) > 5 * seeds, "{self:?}");
        for (counter, end) in self.ended.iter().zip(ENDS) {
            assert!(read(counter) > seeds / 100, "{end}: {self:?}");
        }
    }
}

fn conversation(seed: u64, tally: &Tally) {
    let mut rng = SimRng::new(seed ^ 0x50a4);
    let faults = match seed % 4 {
        0 => Faults::calm(),
        1 => Faults::rough().without_errors(),
        _ => Faults::rough(),
    };
    let limits = Limits {
        max_connections: 12,
        receive_buffers: 8,
        // In the larger ones whole messages lie, which are answered out of them.
        receive_buffer_bytes: if seed.is_multiple_of(3) { 16_384 } else { 2_048 },
        max_receive_bytes_per_turn: 8_192,
        pause_receive_bytes: rng.between(500, 20_000) as u32,
        ..Limits::default()
    };
    let deadlines = Deadlines { idle_ms: 30_000, ..Deadlines::default() };
    let records = Records::default();
    let mut simulation = Simulation::builder(seed)
        .faults(faults)
        .limits(limits)
        .deadlines(deadlines)
        .build(|_| Echo(records.clone()));
    let net = simulation.net().clone();
    let _guard = net.trace_on_panic();
    let mut talkers: Vec<Talker> = Vec::new();
    for _ in 0..rng.between(50, 250) {
        if talkers.is_empty() || rng.permille(80) && talkers.len() < 16 {
            records.borrow_mut().push(Record::default());
            talkers.push(Talker::new(talkers.len(), simulation.connect()));
        }
        let chosen = rng.below(talkers.len() as u64) as usize;
        let talker = &mut talkers[chosen];
        let id = records.borrow()[chosen].id;
        match (rng.below(12), id) {
            (0, Some(id)) => {
                let bytes = talker.payload(&mut rng, 'p');
                talker.pushed.push(bare(0x82, &bytes));
                if !records.borrow()[chosen].closed.is_empty()
                    || talker.awaits_close.is_some()
                    || talker.dismissed
                {
                    talker.pushed.pop();
                } else {
                    simulation.remote().send_binary(id, bytes).unwrap();
                }
            }
            (1, Some(id)) if rng.permille(400) => {
                talker.dismissed = true;
                simulation.remote().close(id, CloseCode(4001), "dismissed").unwrap();
            }
            _ => talker.act(&mut rng),
        }
        match rng.below(40) {
            0..10 => simulation.run(),
            10..20 => simulation.advance(Duration::from_millis(rng.below(60))),
            20 => {
                talkers.iter_mut().for_each(|talker| talker.dozed |= !talker.reads);
                simulation.advance(Duration::from_millis(rng.below(12_000)));
            }
            _ => {}
        }
    }
    // What has not gone wrong by now goes well, and everybody hears the rest.
    net.set_faults(Faults { window_bytes: 1 << 20, ..Faults::none() });
    simulation.advance(Duration::from_millis(200));
    talkers.iter_mut().flat_map(|talker| &mut talker.peer).for_each(SimPeer::start_reading);
    simulation.advance(Duration::from_millis(200));
    for (talker, record) in talkers.iter_mut().zip(&*records.borrow()) {
        talker.check(record);
    }
    simulation.stop();
    simulation.run();
    drop(talkers);
    simulation.run();
    assert_eq!(simulation.connections(), 0);
    for record in &*records.borrow() {
        assert_eq!(record.opened as usize, record.closed.len(), "{record:?}");
    }
    tally.add(&net, &records.borrow());
    let mut metrics = String::new();
    simulation.remote().write_metrics(&mut metrics);
    let answered =
        metrics.lines().find_map(|line| line.strip_prefix("ringwire_messages_answered_in_place_total{"));
    let answered = answered.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap();
    tally.answered.fetch_add(answered, Ordering::Relaxed);
}

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn random_conversations() {
    let tally = Tally::default();
    let seeds = number("RINGWIRE_SOAK_SEEDS").unwrap_or(SEEDS);
    on_each_seed(seeds, |seed| conversation(seed, &tally));
    println!("{tally:?}");
    if number("RINGWIRE_SOAK_SEED").is_none() && seeds >= SEEDS {
        tally.assert_rich(seeds);
    }
}

/// Runs so many seeds, or the one that `RINGWIRE_SOAK_SEED` names.
pub fn on_each_seed(seeds: u64, run: impl Fn(u64) + Sync) {
    if let Some(seed) = number("RINGWIRE_SOAK_SEED") {
        return run(seed);
    }
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}

/// One seed, one history.
#[test]
fn a_seed_gives_one_history() {
    let run = |seed| {
        let records = Records::default();
        records.borrow_mut().push(Record::default());
        let mut simulation =
            Simulation::builder(seed).faults(Faults::rough()).build(|_| Echo(records.clone()));
        let mut talker = Talker::new(0, simulation.connect());
        let mut rng = SimRng::new(seed);
        for _ in 0..30 {
            talker.act(&mut rng);
            simulation.run();
        }
        simulation.net().trace_hash()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
