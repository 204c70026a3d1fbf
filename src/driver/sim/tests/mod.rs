//! The simulator's own tests, over an echo server written straight onto the driver.

mod basics;
mod faults;
mod soak;

use super::{Faults, Sim, SimNet, SimRng, SimSocket};
use crate::driver::checked::Checked;
use crate::driver::{Driver, DriverConfig, Event, Lease, SendBuf, Token};
use std::hash::{DefaultHasher, Hash};
use std::time::Duration;

fn config() -> DriverConfig {
    DriverConfig {
        max_connections: 64,
        receive_buffers: 8,
        receive_buffer_bytes: 512,
        max_receive_bytes_per_turn: 1024,
        shards_per_core: 1,
        busy_poll: false,
    }
}

fn sim(net: &SimNet) -> Checked<Sim> {
    Checked::new(Sim::new(net, &config()), &config())
}

/// Byte `i` of what peer `p` says: any loss, repeat or swap shows.
fn pattern(p: usize, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i * 31 + i / 251 + p * 97) as u8).collect()
}

#[derive(Default)]
struct Conn {
    token: Option<Token>,
    out: Vec<u8>,
    sending: bool,
    ending: bool,
    closing: bool,
    paused: bool,
}

/// Echoes; closes after the peer's FIN and on any failure. With `whims` it also holds leases back,
/// pauses, closes, sends on stale tokens and wakes itself.
struct Echo {
    driver: Checked<Sim>,
    conns: Vec<Conn>,
    generations: u32,
    held: Vec<Lease>,
    whims: Option<SimRng>,
    closes: bool,
    refused: usize,
    /// Over every event and every byte.
    hash: DefaultHasher,
    received_in_turn: usize,
}

impl Echo {
    fn new(net: &SimNet) -> Self {
        Self {
            driver: sim(net),
            conns: Vec::new(),
            generations: 0,
            held: Vec::new(),
            whims: None,
            closes: false,
            refused: 0,
            hash: DefaultHasher::new(),
            received_in_turn: 0,
        }
    }

    fn whim(&mut self, permille: u16) -> bool {
        self.whims.as_mut().is_some_and(|rng| rng.permille(permille))
    }

    /// One turn; returns the number of events.
    fn turn(&mut self, wait: Option<Duration>) -> usize {
        if self.whim(100) {
            self.driver.waker().wake();
        }
        self.driver.turn(wait).unwrap();
        self.received_in_turn = 0;
        let mut events = 0;
        while let Some(event) = self.driver.next_event() {
            events += 1;
            format!("{event:?}").hash(&mut self.hash);
            self.handle(event);
        }
        if self.whims.as_mut().is_none_or(|rng| rng.permille(500)) {
            for lease in self.held.drain(..) {
                self.driver.release(lease);
            }
        }
        for slot in 0..self.conns.len() {
            self.act(slot);
        }
        events
    }

    fn handle(&mut self, event: Event<SimSocket>) {
        match event {
            Event::Accepted { socket, .. } => self.attach(socket),
            Event::AcceptFailed(_) => self.driver.resume_accept(),
            Event::Connected { result, .. } => {
                if let Ok(socket) = result {
                    self.attach(socket);
                }
            }
            Event::Received { token, lease } => {
                let bytes = self.driver.bytes(&lease).to_vec();
                bytes.hash(&mut self.hash);
                self.received_in_turn += bytes.len();
                self.conns[token.slot as usize].out.extend_from_slice(&bytes);
                if self.whim(300) {
                    self.held.push(lease);
                } else {
                    self.driver.release(lease);
                }
            }
            Event::Record { .. } => unreachable!("there is no kernel"),
            Event::Eof(token) => self.conns[token.slot as usize].ending = true,
            Event::Failed { token, .. } => self.close(token.slot as usize),
            Event::Sent { token, buf, result } => {
                let stale = matches!(&buf, SendBuf::Owned(bytes) if bytes == b"stale");
                if !stale {
                    self.conns[token.slot as usize].sending = false;
                    if result.is_err() {
                        self.close(token.slot as usize);
                    }
                }
            }
            Event::Closed(token) => self.conns[token.slot as usize] = Conn::default(),
            Event::Woken => {}
        }
    }

    fn attach(&mut self, socket: SimSocket) {
        if self.whim(20) {
            self.refused += 1;
            return self.driver.refuse(socket);
        }
        let slot = self.conns.iter().position(|conn| conn.token.is_none()).unwrap_or_else(|| {
            self.conns.push(Conn::default());
            self.conns.len() - 1
        });
        self.generations += 1;
        let token = Token { slot: slot as u32, generation: self.generations };
        self.conns[slot] = Conn { token: Some(token), ..Conn::default() };
        self.driver.attach(token, socket);
    }

    fn close(&mut self, slot: usize) {
        if let (Some(token), false) = (self.conns[slot].token, self.conns[slot].closing) {
            self.conns[slot].closing = true;
            self.driver.close(token);
        }
    }

    fn act(&mut self, slot: usize) {
        let Some(token) = self.conns[slot].token else { return };
        if self.conns[slot].closing {
            return;
        }
        if !self.conns[slot].sending && !self.conns[slot].out.is_empty() {
            let out = std::mem::take(&mut self.conns[slot].out);
            self.conns[slot].sending = true;
            let shared = self.whim(500);
            self.driver.send(token, if shared { SendBuf::Shared(out.into()) } else { SendBuf::Owned(out) });
        } else if self.conns[slot].ending && !self.conns[slot].sending {
            if self.whim(500) {
                self.driver.shutdown(token);
            }
            return self.close(slot);
        }
        if self.whim(50) {
            let generation = token.generation + 1_000_000;
            self.driver.send(Token { generation, ..token }, SendBuf::Owned(b"stale".to_vec()));
            self.driver.close(Token { generation, ..token });
        }
        if self.conns[slot].paused && self.whims.as_mut().is_none_or(|rng| rng.permille(500)) {
            self.conns[slot].paused = false;
            self.driver.resume(token);
        } else if self.whim(100) {
            self.conns[slot].paused = true;
            self.driver.pause(token);
        }
        if self.closes && self.whim(5) {
            self.close(slot);
        }
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty() && self.conns.iter().all(|conn| !conn.paused)
    }

    /// Turns until nothing happens any more.
    fn run(&mut self, net: &SimNet) {
        for _ in 0..100_000 {
            self.turn(None);
            if net.is_quiet() && self.is_idle() {
                // What `act` asked for may not be in the world yet.
                if self.turn(Some(Duration::ZERO)) == 0 && net.is_quiet() && self.is_idle() {
                    return;
                }
            }
        }
        panic!("it never ends");
    }
}

/// An echo in a world, for tests with a fault or two.
fn echo(seed: u64, faults: Faults) -> (SimNet, Echo) {
    let net = SimNet::new(seed, faults);
    let echo = Echo::new(&net);
    (net, echo)
}
