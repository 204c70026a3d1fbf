//! The whole engine over the simulated driver: peers that say anything, a network that does anything.
//!
//! The driver's laws are watched by `Checked`, the engine's books by `Simulation::run`. Beside them
//! stand the ledgers of this module: the handler hears what the peer said, the peer hears what the
//! handler was promised, in order and once, and everything ends.

mod peer;
mod service;

use crate::input::Input;
use peer::Peer;
use ringwire::sim::{Faults, Simulation};
use ringwire::{CloseCode, Compression, ConnId, Deadlines, DeflateConfig, Limits, OriginPolicy};
use service::Service;
use std::net::SocketAddr;
use std::time::Duration;

/// More would only be slow.
const MAX_PEERS: usize = 12;
const MAX_OPERATIONS: usize = 300;
/// Where outbound connections find somebody; the fourth address refuses.
const LISTENERS: [[u8; 4]; 3] = [[10, 9, 9, 0], [10, 9, 9, 1], [10, 9, 9, 2]];

/// Input: faults, seed, limits, compression; then operations: the low half of a byte says which, the
/// high half how.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let faults = input.byte();
    let seed = u64::from(input.byte());
    let limits = limits(input.byte());
    let compression = compression(input.byte());
    let simulation = Simulation::<Service>::builder(seed)
        .faults(profile(faults))
        .limits(limits)
        .deadlines(Deadlines { write_ms: 3_000, assembly_ms: 4_000, ..Deadlines::default() })
        .compression(compression)
        .origin(OriginPolicy::SameOrigin)
        .build(|_| Service::default());
    let net = simulation.net().clone();
    let mut listeners: Vec<_> = LISTENERS.iter().map(|&ip| net.listen(SocketAddr::from((ip, 80)))).collect();
    let mut world = World { simulation, peers: Vec::new(), current: 0, hurried: false };
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() || world.simulation.is_stopped() {
            break;
        }
        world.operate(&mut input);
        for listener in &mut listeners {
            while let Some(far) = listener.accept() {
                world.peers.push(Peer::serving(far));
            }
        }
    }
    world.finish(&mut listeners);
    assert_eq!(net.leaked_leases(), 0);
}

struct World {
    simulation: Simulation<Service>,
    peers: Vec<Peer>,
    current: usize,
    /// A drain or stop, after which connections end in the middle of things.
    hurried: bool,
}

impl World {
    fn operate(&mut self, input: &mut Input<'_>) {
        let op = input.byte();
        let how = op >> 4;
        match op & 15 {
            0 | 13 if self.peers.len() < MAX_PEERS => {
                let far = self.simulation.connect();
                self.current = self.peers.len();
                self.peers.push(if op & 15 == 0 { Peer::upgrading(far, how) } else { Peer::new(far) });
            }
            3 if how == 0 => {
                self.current = usize::from(input.byte()).checked_rem(self.peers.len()).unwrap_or(0)
            }
            9 => self.simulation.net().set_faults(profile(input.byte())),
            10 => self.rest(),
            11 => {
                let unit_ms = [1, 40, 1_000, 5_000][usize::from(how & 3)];
                let by = Duration::from_millis(u64::from(input.byte()) * unit_ms);
                self.simulation.advance(by);
            }
            12 => self.remote(how, input),
            code => {
                if let Some(peer) = self.peers.get_mut(self.current) {
                    peer.operate(code, how, input);
                }
            }
        }
        self.peers.iter_mut().for_each(Peer::hear);
    }

    fn rest(&mut self) {
        self.simulation.run();
        self.peers.iter_mut().for_each(Peer::hear);
    }

    fn remote(&mut self, how: u8, input: &mut Input<'_>) {
        let ids: Vec<ConnId> = self.simulation.handler().lives.keys().copied().collect();
        let remote = self.simulation.remote();
        let id = ids.get(usize::from(input.byte()).checked_rem(ids.len()).unwrap_or(0));
        // A full or stopped mailbox is an answer too.
        match (how, id) {
            (0..=7, Some(&id)) => drop(remote.send_text(id, format!("{}{how}", peer::REMOTE))),
            (8..=13, Some(&id)) => drop(remote.close(id, CloseCode(4000 + u16::from(how)), "remote")),
            (14, _) => {
                self.hurried = true;
                self.simulation.shutdown();
            }
            (15, _) => {
                self.hurried = true;
                self.simulation.stop();
            }
            _ => {}
        }
    }

    /// Lets everybody speak their last, checks the ledgers, and ends it all.
    fn finish(mut self, listeners: &mut [ringwire::sim::SimListener]) {
        self.simulation.net().set_faults(Faults::none());
        self.peers.iter_mut().for_each(Peer::read_on);
        self.rest();
        self.check(self.hurried);
        self.simulation.shutdown();
        let drain_ms = Deadlines::default().drain_ms;
        self.simulation.advance(Duration::from_millis(drain_ms.into()));
        assert!(self.simulation.is_stopped(), "a drain is bounded");
        self.simulation.run();
        for listener in listeners {
            while let Some(far) = listener.accept() {
                self.peers.push(Peer::serving(far));
            }
        }
        assert_eq!(self.simulation.connections(), 0);
        let service = self.simulation.handler();
        assert!(service.lives.values().all(|life| life.ended.is_some()), "close is owed");
        assert_eq!(service.connecting, 0, "outbound connections have led to nothing");
        self.peers.iter_mut().for_each(Peer::hear);
        self.check(true);
    }

    fn check(&mut self, hurried: bool) {
        for peer in &self.peers {
            let namesakes = self.peers.iter().filter(|other| other.addr == peer.addr).count();
            peer.check(self.simulation.handler(), namesakes == 1, hurried);
        }
    }
}

fn profile(byte: u8) -> Faults {
    let rough = Faults::rough();
    match byte % 6 {
        0 => Faults::none(),
        1 => Faults::calm(),
        2 => rough.without_errors(),
        3 => rough,
        4 => Faults { window_bytes: 100, max_receive_buffers: 1, ..Faults::calm() },
        _ => Faults { accept_failure_permille: 500, send_error_permille: 100, ..Faults::calm() },
    }
}

fn limits(byte: u8) -> Limits {
    let small = Limits {
        max_connections: 3,
        max_head_bytes: 500,
        max_headers: 16,
        max_http_body_bytes: 200,
        max_message_bytes: peer::MAX_MESSAGE_BYTES,
        max_outbox_bytes: 2_000,
        pause_receive_bytes: 500,
        max_mailbox_commands: 3,
        max_broadcast_bytes: 1_000,
        max_broadcast_sends_per_turn: 2,
        receive_buffers: 2,
        receive_buffer_bytes: 64,
        max_receive_bytes_per_turn: 256,
        max_pool_bytes: 4_096,
        ..Limits::default()
    };
    let wide =
        Limits { max_connections: 64, max_message_bytes: peer::MAX_MESSAGE_BYTES, ..Limits::default() };
    match byte % 4 {
        0 => Limits { receive_buffer_bytes: 4_096, receive_buffers: 4, ..wide },
        1 => Limits { max_connections: 8, receive_buffer_bytes: 200, ..small },
        2 => small,
        _ => Limits { max_outbox_bytes: 6_000, receive_buffer_bytes: 4_096, ..small },
    }
}

/// Off in half of the cases; else with little room, so that every bound is met.
fn compression(byte: u8) -> Compression {
    if byte & 1 == 0 {
        return Compression::Off;
    }
    Compression::Deflate(DeflateConfig {
        level: 1 + byte % 9,
        min_bytes: if byte & 2 == 0 { 0 } else { 40 },
        max_window_bits: if byte & 4 == 0 { 15 } else { 8 },
        takeover: byte & 8 != 0,
        max_takeover_bytes: if byte & 16 == 0 { 400 << 10 } else { 64 << 20 },
        max_inflaters: u32::from(byte >> 5 & 1),
        ..DeflateConfig::default()
    })
}
