//! A worker over bare TCP, for servers that only throw bytes back: the ceiling of any echo.
//!
//! It sends what a WebSocket client would (header, mask of zeros, payload) and wants exactly that
//! back, byte by byte and wherever the reads are cut. It sits on the engine's drivers, without the
//! engine.

use crate::payload::Fault;
use crate::plan::Plan;
use crate::target;
use crate::worker::{Flow, Piece, Worker};
use ringwire::driver::{Driver, Event, SendBuf, Token};
use ringwire::engine::clock::Clock;
use ringwire::engine::spin::{self, Spin};
use ringwire::ws::{FrameHead, MAX_HEADER, write_header};
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// The longest a worker waits before it looks at the step: nobody wakes it.
const MAX_WAIT: Duration = Duration::from_millis(5);

struct Stream {
    flow: Flow,
    /// Bytes of the message due that have come.
    received: usize,
    open: bool,
    sending: bool,
    /// A burst that waits for the one before to be taken by the kernel.
    waiting: Vec<u8>,
}

/// One worker: a driver and its connections, their tokens' slots in order.
pub struct Raw<D: Driver> {
    driver: D,
    clock: Clock,
    spin: Option<Spin>,
    worker: Worker,
    /// By number: connections asked for.
    asked: HashMap<u32, Flow>,
    header: [u8; MAX_HEADER],
    header_bytes: usize,
    streams: Vec<Stream>,
    spare: Vec<Vec<u8>>,
}

fn token(slot: usize) -> Token {
    Token { slot: slot as u32, generation: 1 }
}

impl<D: Driver> Raw<D> {
    /// A worker; its messages are all of one size.
    pub fn new(driver: D, worker: Worker, spin: Option<Spin>) -> Self {
        let mut header = [0; MAX_HEADER];
        let shape = &worker.plan.shape;
        let head = FrameHead::whole(shape.kind().opcode(), Some([0; 4]));
        let header_bytes = write_header(&mut header, head, shape.sizes.max());
        let (asked, streams, spare) = (HashMap::new(), Vec::new(), Vec::new());
        let clock = Clock::monotonic();
        Self { driver, clock, spin, worker, asked, header, header_bytes, streams, spare }
    }

    /// Runs until the conductor says that it is over.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let wait = Some(self.worker.wait().unwrap_or(MAX_WAIT).min(MAX_WAIT));
            let mut next = spin::turn(self.spin.as_mut(), &mut self.driver, &mut self.clock, wait)?;
            let mut heard = false;
            while let Some(event) = next {
                heard |= event.is_traffic();
                self.on_event(event);
                next = self.driver.next_event();
            }
            if let (true, Some(spin)) = (heard, &mut self.spin) {
                spin.heard(self.clock.now());
            }
            let turn = self.worker.turn();
            if turn.ends {
                return Ok(());
            }
            self.open_due();
            if turn.begins {
                for slot in 0..self.streams.len() {
                    if self.streams[slot].open {
                        self.burst(slot, true);
                    }
                }
            }
        }
    }

    fn open_due(&mut self) {
        while let Some(flow) = self.worker.next_connect() {
            let plan: &Plan = &self.worker.plan;
            let (to, source) = (plan.target(flow.index).addr, plan.source(flow.index));
            self.driver.connect(to, source, flow.index.into());
            self.asked.insert(flow.index, flow);
        }
    }

    fn on_event(&mut self, event: Event<D::Socket>) {
        match event {
            Event::Connected { tag, result } => {
                let Some(flow) = self.asked.remove(&(tag as u32)) else { return };
                self.on_connected(flow, result);
            }
            Event::Received { token, lease } => {
                let ended = receive(
                    &mut self.worker,
                    &mut self.streams[token.slot as usize],
                    &self.header[..self.header_bytes],
                    self.driver.bytes(&lease),
                );
                self.driver.release(lease);
                if ended {
                    self.burst(token.slot as usize, false);
                }
            }
            Event::Sent { token, buf, result } => self.on_sent(token.slot as usize, buf, &result),
            Event::Eof(token) => self.end(token.slot as usize, "the server closed it"),
            Event::Failed { token, error } => self.end(token.slot as usize, &error.to_string()),
            Event::Accepted { .. } | Event::AcceptFailed(_) => {}
            Event::Record { .. } | Event::Closed(_) | Event::Woken => {}
        }
    }

    fn on_connected(&mut self, mut flow: Flow, result: io::Result<D::Socket>) {
        match result {
            Ok(socket) => {
                let slot = self.streams.len();
                let bursts = self.worker.opened(&mut flow);
                let waiting = Vec::new();
                self.streams.push(Stream { flow, received: 0, open: true, sending: false, waiting });
                self.driver.attach(token(slot), socket);
                if bursts {
                    self.burst(slot, true);
                }
            }
            Err(error) => {
                let target = self.worker.plan.target(flow.index).clone();
                let advice = target::advice(&error);
                self.worker.connect_failed(&flow, || format!("{target}: cannot connect: {error}{advice}"));
            }
        }
    }

    fn burst(&mut self, slot: usize, first: bool) {
        let stream = &mut self.streams[slot];
        let mut out = if stream.waiting.capacity() == 0 {
            self.spare.pop().unwrap_or_default()
        } else {
            std::mem::take(&mut stream.waiting)
        };
        let header = &self.header[..self.header_bytes];
        let send = |piece: Piece<'_>| {
            out.extend_from_slice(header);
            match piece {
                Piece::Whole(bytes) => out.extend_from_slice(bytes),
                Piece::Joined(stamp, body) => {
                    out.extend_from_slice(stamp);
                    out.extend_from_slice(body);
                }
            }
        };
        match first {
            true => self.worker.first_burst(&mut stream.flow, send),
            false => self.worker.burst(&mut stream.flow, send),
        }
        if stream.sending {
            stream.waiting = out;
        } else {
            stream.sending = true;
            self.driver.send(token(slot), SendBuf::Owned(out));
        }
    }

    fn on_sent(&mut self, slot: usize, buf: SendBuf, result: &io::Result<()>) {
        if let SendBuf::Owned(mut buf) = buf {
            buf.clear();
            self.spare.push(buf);
        }
        let stream = &mut self.streams[slot];
        stream.sending = false;
        if let Err(error) = result {
            return self.end(slot, &error.to_string());
        }
        if !stream.waiting.is_empty() {
            stream.sending = true;
            let waiting = std::mem::take(&mut stream.waiting);
            self.driver.send(token(slot), SendBuf::Owned(waiting));
        }
    }

    fn end(&mut self, slot: usize, why: &str) {
        let stream = &mut self.streams[slot];
        if std::mem::take(&mut stream.open) {
            self.worker.closed(&stream.flow, false, || why.to_owned());
            self.driver.close(token(slot));
        }
    }
}

/// Checks bytes as they come. True if they end a burst and another one is to follow.
fn receive(worker: &mut Worker, stream: &mut Stream, header: &[u8], mut bytes: &[u8]) -> bool {
    let whole = header.len() + worker.plan.shape.sizes.max();
    let mut ended = false;
    while !bytes.is_empty() && stream.open {
        let (part, rest) = bytes.split_at(bytes.len().min(whole - stream.received));
        bytes = rest;
        let split = header.len().saturating_sub(stream.received).min(part.len());
        let (head, body) = part.split_at(split);
        let from = stream.received + split - header.len().min(stream.received + split);
        let flow = &mut stream.flow;
        let due = worker.due(flow);
        let fits = due.is_some_and(|due| {
            (split == 0 || header[stream.received..stream.received + split] == *head)
                && worker.payload.part_matches(flow.index, due, from, body)
        });
        if !fits {
            // Without frames there is no telling where the next message begins.
            worker.board.wrong_message(flow.index, flow.index, due.unwrap_or(0), Fault::Content);
            worker.closed(flow, false, || "its bytes cannot be told apart any more".to_owned());
            stream.open = false;
            return false;
        }
        stream.received += part.len();
        if stream.received == whole {
            stream.received = 0;
            ended = worker.right_answer(flow);
        }
    }
    ended
}
