//! Sends whose outcome nobody waits for: the same laws, told a little later.

use std::io::{ErrorKind, Read};

use super::*;

on_both_drivers!(
    it_is_sent_at_once_and_told_once,
    what_the_socket_does_not_take_follows,
    an_end_asked_for_does_not_wait,
    a_stale_one_is_told,
);

fn it_is_sent_at_once_and_told_once<D: Make>() {
    let mut world = World::<D>::new();
    let mut pairs: Vec<_> = (0..100).map(|_| world.pair()).collect();
    for (_, token) in &pairs {
        world.send_unawaited(*token, SendBuf::Owned(b"hello".to_vec()));
    }
    // More than fit into the queue of submissions at once, which tests keep short.
    world.turn(Duration::ZERO);
    for (peer, _) in &mut pairs {
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }
    world.settle();
    for (_, token) in &pairs {
        let told = world.of(*token);
        assert_eq!((told.sent.len(), told.sent_bytes), (1, 5));
        assert!(told.sent[0].is_ok());
    }
}

fn what_the_socket_does_not_take_follows<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let mut noise = Noise(21);
    let mut sent = Vec::new();
    let mut sends = 0;
    // Until one is stuck, with a part of it taken or none.
    while world.of(token).sent.len() == sends {
        let bytes = noise.bytes(15_000);
        sent.extend_from_slice(&bytes);
        sends += 1;
        world.send_unawaited(token, SendBuf::Owned(bytes));
        world.turn(Duration::from_millis(20));
        world.settle();
    }
    assert!(sends > 1, "a socket takes 15,000 bytes");
    let mut got = vec![0; sent.len()];
    let reader = std::thread::spawn(move || peer.read_exact(&mut got).map(|()| (peer, got)).unwrap());
    world.until("the rest", |world| world.of(token).sent.len() == sends);
    assert!(reader.join().unwrap().1 == sent);
    assert!(world.of(token).sent.iter().all(Result::is_ok));
    assert_eq!(world.of(token).sent_bytes, sent.len());
}

fn an_end_asked_for_does_not_wait<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    world.send_unawaited(token, SendBuf::Owned(b"bye".to_vec()));
    world.driver.shutdown(token);
    let start = Instant::now();
    while world.of(token).sent.is_empty() {
        world.turn(PATIENCE);
    }
    world.turn(Duration::ZERO);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"bye");
    world.driver.close(token);
    while world.of(token).closed == 0 {
        world.turn(PATIENCE);
    }
    assert!(start.elapsed() < PATIENCE);

    let (peer, token) = world.pair();
    world.send_unawaited(token, SendBuf::Owned(b"bye".to_vec()));
    world.driver.close(token);
    while world.of(token).closed == 0 {
        world.turn(PATIENCE);
    }
    assert_eq!(world.of(token).sent.len(), 1);
    assert!(start.elapsed() < PATIENCE);
    drop(peer);
}

fn a_stale_one_is_told<D: Make>() {
    let mut world = World::<D>::new();
    let (_peer, token) = world.pair();
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
    assert!(world.driver.send_unawaited(token, SendBuf::Owned(b"late".to_vec())).is_none());
    world.driver.turn(Some(Duration::ZERO)).unwrap();
    let Some(Event::Sent { token: of, result, .. }) = world.driver.next_event() else { panic!("no outcome") };
    assert_eq!((of, result.unwrap_err().kind()), (token, ErrorKind::NotConnected));
}
