//! Ends: FIN, reset, close, reuse of a slot, and dropping the driver (laws 3, 4 and 6).

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use super::*;

on_both_drivers!(
    after_a_fin_sending_still_works,
    a_reset_is_a_failure,
    shutdown_follows_the_send_in_flight,
    closing_ends_a_send_in_flight_once,
    nothing_follows_closed,
    slots_are_reused_without_mixing_tenants,
    a_closed_token_is_inert,
    refused_and_dropped_sockets_are_closed,
    dropping_the_driver_leaks_nothing,
);

fn after_a_fin_sending_still_works<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    peer.write_all(b"last words").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    world.until("eof", |world| world.of(token).eof == 1);
    assert_eq!(world.of(token).received, b"last words");
    let armed = world.driver.stats().receives_armed;
    world.driver.send(token, SendBuf::Owned(b"goodbye".to_vec()));
    world.until("sent", |world| world.of(token).sent.len() == 1);
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"goodbye");
    assert_eq!(world.driver.stats().receives_armed, armed, "receiving again after the end");
}

/// Makes close(2) send a reset.
pub(super) fn linger_zero(peer: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    let at = (&raw const linger).cast();
    // SAFETY: `linger` lives across the call and `len` is its size.
    #[allow(unsafe_code, reason = "std has no stable set_linger")]
    let result = unsafe { libc::setsockopt(peer.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, at, len) };
    assert_eq!(result, 0);
}

fn a_reset_is_a_failure<D: Make>() {
    let mut world = World::<D>::new();
    let (peer, token) = world.pair();
    linger_zero(&peer);
    drop(peer);
    world.until("failed", |world| !world.of(token).failed.is_empty());
    assert_eq!(world.of(token).failed, [io::ErrorKind::ConnectionReset]);
    world.driver.send(token, SendBuf::Owned(b"anyone?".to_vec()));
    world.until("sent", |world| world.of(token).sent.len() == 1);
    assert!(world.of(token).sent[0].is_err());
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
    assert_eq!(world.of(token).eof, 0);
}

fn shutdown_follows_the_send_in_flight<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    world.driver.send(token, SendBuf::Owned(vec![7; 8 << 20]));
    world.driver.shutdown(token);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        // The other direction is open still.
        peer.write_all(b"thanks").unwrap();
        (peer, got.len())
    });
    world.until("answer", |world| world.of(token).received == b"thanks");
    let (_peer, len) = reader.join().unwrap();
    assert_eq!(len, 8 << 20);
    assert!(world.of(token).sent[0].is_ok());
}

fn closing_ends_a_send_in_flight_once<D: Make>() {
    let mut world = World::<D>::new();
    let (peer, token) = world.pair();
    world.driver.send(token, SendBuf::Owned(vec![7; 8 << 20]));
    world.settle();
    world.driver.close(token);
    world.until("closed", |world| world.of(token).closed == 1);
    assert_eq!(world.of(token).sent.len(), 1);
    assert!(world.of(token).sent[0].is_err());
    drop(peer);
}

fn nothing_follows_closed<D: Make>() {
    let mut world = World::<D>::new();
    for round in 0..50 {
        let (mut peer, token) = world.pair();
        peer.write_all(&[1; 40_000]).unwrap();
        match round % 3 {
            // Closed with data unread, in flight, or just asked for.
            0 => world.turn(Duration::ZERO),
            1 => world.driver.send(token, SendBuf::Owned(vec![1; 100_000])),
            _ => world.driver.pause(token),
        }
        world.driver.close(token);
        drop(peer);
        // `note` asserts on whatever comes late.
        world.until("closed", |world| world.of(token).closed == 1);
    }
    world.settle();
    assert_eq!(world.driver.stats().leases_out, 0);
}

fn slots_are_reused_without_mixing_tenants<D: Make>() {
    let mut world = World::<D>::new();
    for generation in 0..100u32 {
        let (mut peer, token) = world.pair();
        assert_eq!(token, Token { slot: 0, generation });
        let name = generation.to_be_bytes();
        peer.write_all(&name).unwrap();
        world.until("named", |world| world.of(token).received.len() >= 4);
        assert_eq!(world.of(token).received, name);
        // Leave something behind that arrives around the close.
        peer.write_all(&[0xff; 10_000]).unwrap();
        world.driver.close(token);
        world.until("closed", |world| world.of(token).closed == 1);
    }
}

fn a_closed_token_is_inert<D: Make>() {
    let mut world = World::<D>::new();
    let (_first, old) = world.pair();
    world.driver.close(old);
    world.until("closed", |world| world.of(old).closed == 1);
    let (mut peer, new) = world.pair();
    assert_eq!((old.slot, old.generation + 1), (new.slot, new.generation));
    world.driver.pause(old);
    world.driver.shutdown(old);
    world.driver.close(old);
    peer.write_all(b"still here").unwrap();
    world.until("received", |world| world.of(new).received == b"still here");
    assert_eq!(world.of(new).closed, 0);

    world.driver.send(old, SendBuf::Owned(b"to nobody".to_vec()));
    let mut outcome = None;
    world.driver.turn(Some(Duration::ZERO)).unwrap();
    while let Some(event) = world.driver.next_event() {
        if let Event::Sent { token, buf, result } = event {
            outcome = Some((token, buf.as_slice().to_vec(), result.unwrap_err().kind()));
        }
    }
    assert_eq!(outcome, Some((old, b"to nobody".to_vec(), io::ErrorKind::NotConnected)));
}

fn refused_and_dropped_sockets_are_closed<D: Make>() {
    let mut world = World::<D>::new();
    for refuse in [true, false] {
        let mut peer = world.peer();
        let start = Instant::now();
        let socket = 'accepted: loop {
            assert!(start.elapsed() < PATIENCE);
            world.driver.turn(Some(Duration::from_millis(20))).unwrap();
            while let Some(event) = world.driver.next_event() {
                if let Event::Accepted { socket, .. } = event {
                    break 'accepted socket;
                }
            }
        };
        if refuse {
            world.driver.refuse(socket);
        } else {
            drop(socket);
        }
        world.settle();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "refuse: {refuse}");
    }
    assert_eq!(world.driver.stats().direct_descriptors, 0);
}

fn dropping_the_driver_leaks_nothing<D: Make>() {
    // Descriptors are the process's: count in one of our own, where no other test runs.
    super::limits::in_child(&format!("leaks_{}", D::NAME), || {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        // The first ring sets up what the thread keeps.
        drop(World::<D>::new());
        let before = open();
        for _ in 0..3 {
            let mut world = World::<D>::new();
            let mut pairs: Vec<_> = (0..30).map(|_| world.pair()).collect();
            for (index, (peer, token)) in pairs.iter_mut().enumerate() {
                match index % 5 {
                    0 => world.driver.send(*token, SendBuf::Owned(vec![1; 8 << 20])),
                    1 => peer.write_all(b"unread").unwrap(),
                    2 => world.driver.close(*token),
                    3 => world.driver.connect(world.addr.unwrap(), None, 1),
                    _ => {}
                }
            }
            world.driver.turn(Some(Duration::ZERO)).unwrap();
            let waiting = TcpStream::connect(world.addr.unwrap()).unwrap();
            drop(world);
            for (mut peer, _) in pairs {
                // Every end was closed: reading ends, be it with what was sent before.
                let _ = peer.read_to_end(&mut Vec::new());
            }
            drop(waiting);
        }
        assert_eq!(open(), before);
    });
}
