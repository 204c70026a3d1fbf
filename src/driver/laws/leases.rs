//! Leases sent from where they lie: they come back once, soon, and whatever the peer does (laws 2 and 5).

use std::io::{ErrorKind, Read, Write};
use std::thread;

use super::*;

on_both_drivers!(
    what_came_goes_out_from_where_it_lies,
    a_peer_that_does_not_read_keeps_no_lease,
    a_lease_in_flight_comes_back_at_the_end,
    a_stale_one_comes_back_and_is_told,
    few_buffers_serve_many,
);

impl<D: Make> World<D> {
    /// Sends the last lease that is held.
    fn send_held(&mut self, token: Token, front: usize) {
        let lease = self.held.pop().expect("a lease is held");
        let lease = if front > 0 { lease.without_front(front) } else { lease };
        self.of(token).sending = true;
        self.driver.send_lease(token, lease);
    }

    /// A peer, its token, and a lease of the bytes it has written. In a new world, so that they do not
    /// lie across two buffers.
    fn pair_with_lease(&mut self, bytes: &[u8]) -> (TcpStream, Token) {
        let (mut peer, token) = self.pair();
        self.hold = true;
        peer.write_all(bytes).unwrap();
        self.until("a lease", |world| world.of(token).received.len() == bytes.len());
        assert_eq!(self.held.len(), 1, "it came in pieces");
        (peer, token)
    }
}

fn what_came_goes_out_from_where_it_lies<D: Make>() {
    for (bytes, front) in [(5_000, 0), (5_000, 4), (5, 4), (12_000, 11_999)] {
        let mut world = World::<D>::new();
        let question = Noise(4).bytes(bytes);
        let (mut peer, token) = world.pair_with_lease(&question);
        world.send_held(token, front);
        world.turn(Duration::ZERO);
        let mut answer = vec![0; bytes - front];
        peer.read_exact(&mut answer).unwrap();
        assert!(answer == question[front..]);
        // It goes on as after any send.
        peer.write_all(b"and on").unwrap();
        world.until("more", |world| world.of(token).received.len() == bytes + 6);
        assert!(matches!(world.of(token).sent[..], [Ok(())]));
        world.release_all();
        assert_eq!((world.driver.stats().leases_out, world.driver.stats().short_writes), (0, 0));
    }
}

fn a_peer_that_does_not_read_keeps_no_lease<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let mut reader = peer.try_clone().unwrap();
    world.hold = true;
    let (mut noise, mut expected, mut sends) = (Noise(8), Vec::new(), 0);
    // Until one is stuck, with a part of it taken or none.
    while world.of(token).sent.len() == sends {
        let question = noise.bytes(9_000);
        peer.write_all(&question).unwrap();
        let count = world.of(token).received.len() + question.len();
        world.until("the question", |world| world.of(token).received.len() == count);
        let lease = world.held.pop().unwrap();
        expected.extend_from_slice(world.driver.bytes(&lease));
        world.held.push(lease);
        world.send_held(token, 0);
        world.release_all();
        sends += 1;
        (0..3).for_each(|_| world.turn(Duration::ZERO));
        assert_eq!(world.driver.stats().leases_out, 0, "after {sends} sends");
    }
    assert!(sends > 1, "a socket takes 9,000 bytes");
    let reader = thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        reader.read_exact(&mut got).unwrap();
        assert!(got == expected);
    });
    world.until("the rest", |world| world.of(token).sent.len() == sends);
    reader.join().unwrap();
    assert!(world.of(token).sent.iter().all(Result::is_ok));
    assert_eq!(world.driver.stats().short_writes, 1);
}

fn a_lease_in_flight_comes_back_at_the_end<D: Make>() {
    let mut world = World::<D>::new();
    let (peer, token) = world.pair_with_lease(&[7; 9_000]);
    world.send_held(token, 0);
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
    assert_eq!((world.of(token).sent.len(), world.driver.stats().leases_out), (1, 0));
    drop(peer);

    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair_with_lease(&[8; 9_000]);
    world.send_held(token, 0);
    world.driver.shutdown(token);
    world.until("sent", |world| world.of(token).sent.len() == 1);
    world.turn(Duration::ZERO);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, [8; 9_000]);
    assert_eq!(world.driver.stats().leases_out, 0);

    // And with the driver's own end: nothing is left to check but that it does end.
    let mut world = World::<D>::new();
    let (_peer, token) = world.pair_with_lease(&[9; 9_000]);
    world.send_held(token, 0);
    drop(world);
}

fn a_stale_one_comes_back_and_is_told<D: Make>() {
    let mut world = World::<D>::new();
    let (_peer, token) = world.pair_with_lease(&[7; 9_000]);
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
    let lease = world.held.pop().unwrap();
    world.driver.send_lease(token, lease);
    world.driver.turn(Some(Duration::ZERO)).unwrap();
    let Some(Event::Sent { token: of, result, .. }) = world.driver.next_event() else { panic!("no outcome") };
    assert_eq!((of, result.unwrap_err().kind()), (token, ErrorKind::NotConnected));
    assert_eq!(world.driver.stats().leases_out, 0);
}

fn few_buffers_serve_many<D: Make>() {
    let config = DriverConfig { receive_buffers: 2, receive_buffer_bytes: 4_096, ..config() };
    let mut world = World::<D>::with(&config, "127.0.0.1:0");
    let mut pairs: Vec<_> = (0..20).map(|_| world.pair()).collect();
    world.hold = true;
    for (number, (peer, _)) in pairs.iter_mut().enumerate() {
        peer.write_all(&[number as u8; 4_096]).unwrap();
    }
    let mut taken = vec![0; pairs.len()];
    // No wait ends by the clock: whoever waits for a buffer is heard as soon as one comes back.
    let start = Instant::now();
    while taken.iter().any(|bytes| *bytes < 4_096) {
        world.turn(if world.held.is_empty() { PATIENCE } else { Duration::ZERO });
        while let Some(lease) = world.held.pop() {
            // Whose bytes they are is what they say.
            let number = usize::from(world.driver.bytes(&lease)[0]);
            let token = pairs[number].1;
            if world.of(token).sending {
                world.held.push(lease);
                break;
            }
            taken[number] += lease.len();
            world.held.push(lease);
            world.send_held(token, 0);
        }
    }
    assert!(start.elapsed() < PATIENCE, "it slept");
    world.settle();
    for (number, (peer, _)) in pairs.iter_mut().enumerate() {
        let mut got = [0; 4_096];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(got, [number as u8; 4_096]);
    }
    assert_eq!(world.driver.stats().leases_out, 0);
}
