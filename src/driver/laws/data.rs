//! Bytes: in order, once, whole, whatever the sizes (laws 1, 2 and 6).

use std::io::{Read, Write};
use std::thread;

use super::*;

on_both_drivers!(
    bytes_arrive_once_and_in_order,
    an_echo_comes_back_whole,
    a_slow_reader_gets_everything_and_one_outcome,
    shared_frames_reach_everyone,
    both_address_families_and_unix,
);

fn bytes_arrive_once_and_in_order<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let expected = Noise(7).bytes(3 << 20);
    let bytes = expected.clone();
    let writer = thread::spawn(move || {
        let mut noise = Noise(11);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [1, 20, 300, 5_000, 70_000][noise.next() as usize % 5];
            let (now, later) = rest.split_at(rest.len().min(1 + noise.next() as usize % most));
            peer.write_all(now).unwrap();
            rest = later;
        }
        peer
    });
    world.until("all bytes", |world| world.of(token).received.len() >= expected.len());
    assert!(world.of(token).received == expected);
    drop(writer.join().unwrap());
    world.until("eof", |world| world.of(token).eof == 1);
    assert_eq!(world.driver.stats().leases_out, 0);
}

fn an_echo_comes_back_whole<D: Make>() {
    let mut world = World::<D>::new();
    world.echo = true;
    let (mut peer, token) = world.pair();
    let asker = thread::spawn(move || {
        let mut noise = Noise(5);
        for _ in 0..500 {
            let len = 1 + noise.next() as usize % 2_000;
            let question = noise.bytes(len);
            let mut answer = vec![0; len];
            peer.write_all(&question).unwrap();
            peer.read_exact(&mut answer).unwrap();
            assert!(question == answer);
        }
    });
    world.until("the peer is done", |world| world.of(token).eof == 1);
    asker.join().unwrap();
    assert!(world.of(token).sent.iter().all(Result::is_ok));
    let told = world.of(token);
    assert_eq!(told.sent_bytes, told.received.len());
}

fn a_slow_reader_gets_everything_and_one_outcome<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let bytes = Noise(3).bytes(8 << 20);
    world.driver.send(token, SendBuf::Owned(bytes.clone()));
    world.settle();
    assert_eq!(world.of(token).sent.len(), 0, "8 MiB fit into no socket buffer");
    let reader = thread::spawn(move || {
        let mut got = vec![0; 8 << 20];
        for piece in got.chunks_mut(100_003) {
            peer.read_exact(piece).unwrap();
        }
        (peer, got)
    });
    world.until("sent", |world| !world.of(token).sent.is_empty());
    let (_peer, got) = reader.join().unwrap();
    assert!(got == bytes);
    world.settle();
    assert_eq!(world.of(token).sent.len(), 1);
    assert!(world.of(token).sent[0].is_ok());
    assert_eq!(world.of(token).sent_bytes, 8 << 20);
}

fn shared_frames_reach_everyone<D: Make>() {
    let mut world = World::<D>::new();
    let mut pairs: Vec<_> = (0..20).map(|_| world.pair()).collect();
    let frame = bytes::Bytes::from(Noise(9).bytes(5_000));
    for (_, token) in &pairs {
        world.driver.send(*token, SendBuf::Shared(frame.clone()));
    }
    let tokens: Vec<_> = pairs.iter().map(|(_, token)| *token).collect();
    world.until("all sent", |world| tokens.iter().all(|token| world.of(*token).sent.len() == 1));
    for (peer, _) in &mut pairs {
        let mut got = vec![0; frame.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == frame);
    }
    // The driver keeps no reference once the outcome is told.
    assert!(frame.try_into_mut().is_ok());
}

fn both_address_families_and_unix<D: Make>() {
    let has_ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    for listen in ["127.0.0.1:0", "[::1]:0"].into_iter().take(if has_ipv6 { 2 } else { 1 }) {
        let mut world = World::<D>::with(&config(), listen);
        let (peer, _) = world.pair();
        assert_eq!(world.peers, [PeerAddr::Ip(peer.local_addr().unwrap())]);
    }
    let path = std::env::temp_dir().join(format!("ringwire-laws-{}-{}", D::NAME, std::process::id()));
    let mut world = World::<D>::with(&config(), &format!("unix:{}", path.display()));
    let mut peer = std::os::unix::net::UnixStream::connect(&path).unwrap();
    world.until("accepted", |world| world.tokens.len() == 1);
    assert_eq!(world.peers, [PeerAddr::Unix]);
    world.echo = true;
    peer.write_all(b"over the path").unwrap();
    world.until("sent", |world| world.of(world.tokens[0]).sent.len() == 1);
    let mut got = [0; 13];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"over the path");
    drop(world);
    assert!(!path.exists(), "the socket file stays behind");
}
