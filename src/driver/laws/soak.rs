//! Everything at once, by seed: some forty connections that write, send, pause, end and vanish in
//! any order over too few buffers, with every byte checked on both sides.

use std::io::{ErrorKind, Read, Write};

use super::*;

on_both_drivers!(any_order_of_operations_keeps_the_laws);

const STEPS: usize = 2_000;
const CONNECTIONS: usize = 40;

struct Peer {
    stream: TcpStream,
    token: Token,
    wrote: usize,
    read: usize,
    /// What the driver was asked to send so far.
    asked: usize,
}

/// What stands at an offset of a stream: both ends can tell without keeping it.
fn pattern(token: Token, offset: usize) -> u8 {
    let stream = token.slot.wrapping_mul(97) ^ token.generation.wrapping_mul(193);
    (offset ^ (offset >> 8) ^ (offset >> 16) ^ stream as usize) as u8
}

fn piece(token: Token, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|offset| pattern(token, offset)).collect()
}

impl Peer {
    fn write(&mut self, len: usize) {
        match self.stream.write(&piece(self.token, self.wrote, len)) {
            Ok(len) => self.wrote += len,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn read(&mut self, len: usize) {
        let mut got = vec![0; len];
        match self.stream.read(&mut got) {
            Ok(len) => {
                assert!(got[..len] == piece(self.token, self.read, len), "{:?}", self.token);
                self.read += len;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn join<D: Make>(world: &mut World<D>) -> Peer {
    let stream = world.peer();
    let addr = PeerAddr::Ip(stream.local_addr().unwrap());
    // Ports come around again: the last one it was.
    world.until("accepted", |world| world.peers.contains(&addr));
    let at = world.peers.iter().rposition(|peer| *peer == addr).unwrap();
    world.peers[at] = PeerAddr::Unix;
    stream.set_nonblocking(true).unwrap();
    Peer { stream, token: world.tokens[at], wrote: 0, read: 0, asked: 0 }
}

fn step<D: Make>(world: &mut World<D>, peers: &mut Vec<Peer>, noise: &mut Noise) {
    let mut dice = |sides: usize| noise.next() as usize % sides;
    if peers.len() < CONNECTIONS && dice(6) == 0 {
        peers.push(join(world));
    }
    if dice(3) == 0 || peers.is_empty() {
        world.turn(Duration::ZERO);
        // What nobody has been told of yet must not be in what is given back.
        if dice(4) == 0 {
            world.driver.shed();
        }
        (0..dice(24)).for_each(|_| world.driver.rest_silent());
        return;
    }
    let index = dice(peers.len());
    let peer = &mut peers[index];
    let token = peer.token;
    match dice(40) {
        0..10 => peer.write(1 + dice(20_000)),
        10..20 => peer.read(1 + dice(60_000)),
        20..28 => {
            let told = world.of(token);
            if !told.sending {
                let small = dice(2) == 0;
                let buf = piece(token, peer.asked, 1 + dice(if small { 16_000 } else { 300_000 }));
                peer.asked += buf.len();
                if small {
                    world.send_unawaited(token, SendBuf::Owned(buf));
                } else {
                    told.sending = true;
                    world.driver.send(token, SendBuf::Owned(buf));
                }
            }
        }
        28 if !world.held.is_empty() && !world.of(token).sending => {
            // Whoever it came from: what stands there is what this one is owed.
            let at = dice(world.held.len());
            let lease = world.held.swap_remove(at);
            let front = dice(lease.len());
            let lease = lease.without_front(front);
            let bytes = piece(token, peer.asked, lease.len());
            peer.asked += bytes.len();
            world.driver.bytes(&lease).copy_from_slice(&bytes);
            world.of(token).sending = true;
            world.driver.send_lease(token, lease);
        }
        28..31 => world.driver.pause(token),
        31..35 => world.driver.resume(token),
        35 => world.hold = true,
        36 | 37 => {
            world.hold = false;
            world.release_all();
        }
        38 => {
            // Ours to end; with data unread this resets the peer, which is why it goes as well.
            world.driver.close(token);
            let peer = peers.swap_remove(index);
            check(world, &peer);
        }
        _ => {
            // Theirs to end, with or without data on the way.
            let peer = peers.swap_remove(index);
            check(world, &peer);
            drop(peer);
            world.turn(Duration::ZERO);
            world.driver.close(token);
        }
    }
}

/// What has come so far is what was written so far.
fn check<D: Make>(world: &mut World<D>, peer: &Peer) {
    let received = &world.of(peer.token).received;
    assert!(received.len() <= peer.wrote);
    assert!(*received == piece(peer.token, 0, received.len()), "{:?}", peer.token);
}

fn any_order_of_operations_keeps_the_laws<D: Make>() {
    for seed in 1..=4 {
        let config = DriverConfig {
            receive_buffers: 12,
            receive_buffer_bytes: if seed == 3 { 12_000 } else { 4_096 },
            max_receive_bytes_per_turn: 16 << 10,
            shards_per_core: 1,
            busy_poll: false,
            max_connections: if seed % 2 == 0 { 20 } else { 1_024 },
        };
        let mut world = World::<D>::with(&config, "127.0.0.1:0");
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut peers = Vec::new();
        for _ in 0..STEPS {
            step(&mut world, &mut peers, &mut noise);
        }
        // Whoever is left gets everything, in both directions.
        world.hold = false;
        world.release_all();
        for peer in &peers {
            world.driver.resume(peer.token);
        }
        world.until("everything, both ways", |world| {
            peers.iter_mut().for_each(|peer| peer.read(1 << 20));
            peers.iter().all(|p| p.read == p.asked && world.of(p.token).received.len() == p.wrote)
        });
        for peer in &peers {
            check(&mut world, peer);
            world.driver.close(peer.token);
        }
        world.until("all closed", |world| world.told.values().all(|told| told.closed == 1));
        assert!(world.told.len() > CONNECTIONS, "seed {seed}: too tame");
        for told in world.told.values() {
            assert!(!told.sending, "a send without an outcome");
        }
        let stats = world.driver.stats();
        assert_eq!((stats.leases_out, stats.direct_descriptors), (0, 0), "seed {seed}");
        assert!(stats.buffer_starvations > 0, "seed {seed}: too tame");
    }
}
