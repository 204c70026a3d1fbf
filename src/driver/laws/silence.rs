//! Connections that are silent for long, which a driver may watch in another way than those that talk.

use std::io::Write;
use std::net::Shutdown;

use super::*;

on_both_drivers!(
    what_ends_a_silence_comes,
    an_end_is_told_after_a_silence,
    pausing_is_heeded_after_a_silence,
    slots_outlive_silences,
);

/// More looks than a round has, which finds silent who has said nothing.
fn rest<D: Make>(world: &mut World<D>) {
    for _ in 0..70 {
        world.driver.rest_silent();
        world.turn(Duration::ZERO);
    }
}

fn say<D: Make>(world: &mut World<D>, peer: &mut TcpStream, token: Token, bytes: &[u8]) {
    let before = world.of(token).received.len();
    peer.write_all(bytes).unwrap();
    world.until("said", |world| world.of(token).received.len() == before + bytes.len());
    assert!(world.of(token).received.ends_with(bytes));
}

fn what_ends_a_silence_comes<D: Make>() {
    let mut world = World::<D>::new();
    let mut noise = Noise(9);
    let (mut peer, token) = world.pair();
    for words in [0, 1, 3, 0, 2] {
        for _ in 0..words {
            let bytes = 1 + noise.next() as usize % 40_000;
            say(&mut world, &mut peer, token, &noise.bytes(bytes));
        }
        rest(&mut world);
    }
    // The last words before a silence and the first ones after it meet what is armed for it.
    for round in 0..200 {
        let before = world.of(token).received.len();
        peer.write_all(&[round; 3]).unwrap();
        for _ in 0..noise.next() % 70 {
            world.driver.rest_silent();
            if noise.next().is_multiple_of(8) {
                world.turn(Duration::ZERO);
            }
        }
        world.until("all", |world| world.of(token).received.len() == before + 3);
    }
}

fn an_end_is_told_after_a_silence<D: Make>() {
    for words in [0, 1, 3] {
        let mut world = World::<D>::new();
        let (mut peer, token) = world.pair();
        (0..words).for_each(|_| say(&mut world, &mut peer, token, b"word"));
        rest(&mut world);
        peer.shutdown(Shutdown::Write).unwrap();
        world.until("eof", |world| world.of(token).eof == 1);
        world.settle();
        let (peer, token) = world.pair();
        rest(&mut world);
        super::ends::linger_zero(&peer);
        drop(peer);
        world.until("failed", |world| !world.of(token).failed.is_empty());
        assert_eq!(world.of(token).failed, [io::ErrorKind::ConnectionReset]);
    }
}

fn pausing_is_heeded_after_a_silence<D: Make>() {
    for words in [1, 3] {
        let mut world = World::<D>::new();
        let (mut peer, token) = world.pair();
        (0..words).for_each(|_| say(&mut world, &mut peer, token, b"word"));
        rest(&mut world);
        world.driver.pause(token);
        world.settle();
        let before = world.of(token).received.len();
        peer.write_all(b"heard?").unwrap();
        world.settle();
        rest(&mut world);
        assert_eq!(world.of(token).received.len(), before, "received while paused");
        world.driver.resume(token);
        world.until("resumed", |world| world.of(token).received.ends_with(b"heard?"));
        // Paused in the turn in which the silence ends.
        rest(&mut world);
        peer.write_all(b"again").unwrap();
        world.driver.pause(token);
        world.driver.resume(token);
        world.until("again", |world| world.of(token).received.ends_with(b"again"));
    }
}

fn slots_outlive_silences<D: Make>() {
    let mut world = World::<D>::new();
    for words in [0, 2, 0, 1, 3] {
        let (mut peer, token) = world.pair();
        (0..words).for_each(|_| say(&mut world, &mut peer, token, b"word"));
        rest(&mut world);
        if words % 2 == 1 {
            peer.write_all(b"late").unwrap();
        }
        world.driver.close(token);
        world.until("closed", |world| world.of(token).closed == 1);
        rest(&mut world);
        assert_eq!(token.slot, 0);
    }
}
