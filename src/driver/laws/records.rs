//! TLS in the kernel, as far as the seam goes: what is refused leaves everything as it was, and no record
//! that is to be sealed goes out in the clear.

use std::io::{ErrorKind, Read, Write};

use super::*;
use crate::driver::probe::kernel_tls;
use crate::driver::{Half, RecordCipher, RecordKeys};

on_both_drivers!(
    a_refusal_leaves_everything_as_it_was,
    no_record_goes_out_in_the_clear,
    keys_wait_for_a_send_in_flight,
    what_the_kernel_seals_it_opens,
);

fn keys(key: &[u8]) -> RecordKeys<'_> {
    RecordKeys { is_tls13: true, cipher: RecordCipher::Aes128Gcm, key, iv: [7; 12], sequence: 3 }
}

/// A driver whose connections have descriptors that setsockopt(2) takes.
fn world<D: Make>() -> World<D> {
    let (mut listeners, addr) = bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
    listeners.iter_mut().for_each(Listener::keep_plain);
    let ListenAddr::Tcp(addr) = addr else { unreachable!() };
    World { driver: D::make(&config(), listeners).unwrap(), addr: Some(addr), ..World::new() }
}

fn check_echo<D: Make>(world: &mut World<D>, peer: &mut TcpStream, token: Token) {
    world.of(token).received.clear();
    peer.write_all(b"as before").unwrap();
    world.until("received", |world| world.of(token).received == b"as before");
    world.driver.send(token, SendBuf::Owned(b"as before".to_vec()));
    let mut answer = [0; 9];
    world.until("sent", |world| !world.of(token).sent.is_empty());
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"as before");
}

fn a_refusal_leaves_everything_as_it_was<D: Make>() {
    let mut world = world::<D>();
    let (mut peer, token) = world.pair();
    assert_eq!(world.driver.stats().direct_descriptors, 0);
    // A key of a wrong length.
    let error = world.driver.hand_over(token, Half::Sending, &keys(&[1; 5])).unwrap_err();
    assert_eq!(error.kind() == ErrorKind::NotFound, kernel_tls().is_err(), "{error}");
    check_echo(&mut world, &mut peer, token);
    let stale = Token { generation: token.generation + 1, ..token };
    let error = world.driver.hand_over(stale, Half::Sending, &keys(&[1; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

fn no_record_goes_out_in_the_clear<D: Make>() {
    let mut world = world::<D>();
    let (mut peer, token) = world.pair();
    world.driver.send_record(token, 21, vec![1, 0]);
    world.until("the outcome", |world| world.of(token).sent.len() == 1);
    assert_eq!(world.of(token).sent[0].as_ref().unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(world.of(token).sent_bytes, 2, "the buffer comes back");
    world.of(token).sent.clear();
    check_echo(&mut world, &mut peer, token);
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
}

fn keys_wait_for_a_send_in_flight<D: Make>() {
    let mut world = world::<D>();
    let (peer, token) = world.pair();
    world.driver.send(token, SendBuf::Owned(vec![7; 8 << 20]));
    world.settle();
    let error = world.driver.hand_over(token, Half::Sending, &keys(&[1; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(peer);
}

/// Where there is no TLS in the kernel this is about nothing; `tests/ktls/run` runs it where there is.
fn what_the_kernel_seals_it_opens<D: Make>() {
    if let Err(why) = kernel_tls() {
        eprintln!("skipped: {why}");
        return;
    }
    let mut world = world::<D>();
    let (mut peer, token) = world.pair();
    let (there, back) = ([1; 16], [2; 16]);
    world.driver.hand_over(token, Half::Sending, &keys(&there)).unwrap();
    world.driver.hand_over(token, Half::Receiving, &keys(&back)).unwrap();
    world.driver.send(token, SendBuf::Owned(vec![9; 20_000]));
    world.until("sent", |world| world.of(token).sent.len() == 1);
    world.driver.send_record(token, 21, vec![1, 0]);
    world.until("sent", |world| world.of(token).sent.len() == 2);
    assert!(world.of(token).sent.iter().all(Result::is_ok));
    // 16,384 bytes and the rest, and the alert: each in a record with its header, type and tag.
    let mut wire = vec![0; 20_002 + 3 * 22];
    peer.read_exact(&mut wire).unwrap();
    assert_eq!(wire[..5], [23, 3, 3, 64, 17]);
    assert!(!wire.windows(32).any(|bytes| bytes == [9; 32]), "sealed");
    // What is no record of the peer's is told as such, and sending goes on.
    peer.write_all(&[&[23, 3, 3, 0, 40][..], &[0; 40]].concat()).unwrap();
    world.until("failed", |world| !world.of(token).failed.is_empty());
    assert_eq!(world.of(token).failed, [ErrorKind::InvalidData]);
    world.driver.send_record(token, 21, vec![2, 20]);
    world.until("sent", |world| world.of(token).sent.len() == 3);
    assert!(world.of(token).sent[2].is_ok());
    peer.read_exact(&mut [0; 24]).unwrap();
}
