//! The network without faults, step by step: what goes in, which events come out.

use super::super::{Faults, Sim, SimNet, SimSocket};
use super::{config, pattern, sim};
use crate::driver::checked::Checked;
use crate::driver::{Driver, Event, PeerAddr, SendBuf, Token};
use std::time::Duration;

const T: Token = Token { slot: 3, generation: 7 };

/// One turn's events as text, leases read and released, sockets attached to `T`.
fn events(driver: &mut Checked<Sim>, wait: Option<Duration>) -> Vec<String> {
    driver.turn(wait).unwrap();
    let mut lines = Vec::new();
    while let Some(event) = driver.next_event() {
        lines.push(match event {
            Event::Accepted { socket, peer, .. } => {
                driver.attach(T, socket);
                format!("accepted {peer}")
            }
            Event::AcceptFailed(error) => format!("accept failed: {:?}", error.raw_os_error()),
            Event::Connected { tag, result } => match result {
                Ok(socket) => {
                    driver.attach(T, socket);
                    format!("connected {tag}")
                }
                Err(error) => format!("connect {tag} failed: {:?}", error.kind()),
            },
            Event::Received { lease, .. } => {
                let text = String::from_utf8_lossy(driver.bytes(&lease)).into_owned();
                driver.release(lease);
                format!("received {text}")
            }
            Event::Record { kind, .. } => format!("record {kind}"),
            Event::Eof(_) => "eof".to_owned(),
            Event::Failed { error, .. } => format!("failed: {:?}", error.kind()),
            Event::Sent { buf, result, .. } => match result {
                Ok(()) => format!("sent {}", buf.as_slice().len()),
                Err(error) => format!("send failed: {:?}", error.kind()),
            },
            Event::Closed(_) => "closed".to_owned(),
            Event::Woken => "woken".to_owned(),
        });
    }
    lines
}

fn poll(driver: &mut Checked<Sim>) -> Vec<String> {
    events(driver, Some(Duration::ZERO))
}

fn owned(bytes: &[u8]) -> SendBuf {
    SendBuf::Owned(bytes.to_vec())
}

fn calm_pair() -> (SimNet, Checked<Sim>, super::super::SimPeer) {
    let net = SimNet::new(1, Faults::none());
    let mut driver = sim(&net);
    let peer = net.connect();
    assert_eq!(poll(&mut driver), ["accepted 10.0.0.1:40001"]);
    (net, driver, peer)
}

#[test]
fn each_write_is_received_by_itself_and_answered() {
    let (net, mut driver, mut peer) = calm_pair();
    peer.write(b"one");
    peer.write(b"two");
    assert_eq!(peer.unreceived_bytes(), 6);
    assert_eq!(poll(&mut driver), ["received one", "received two"]);
    assert_eq!(peer.unreceived_bytes(), 0);
    driver.send(T, owned(b"three"));
    assert_eq!(peer.read(), b"");
    assert_eq!(poll(&mut driver), ["sent 5"]);
    assert_eq!(peer.read(), b"three");
    driver.close(T);
    assert_eq!(poll(&mut driver), ["closed"]);
    assert!(peer.saw_fin() && peer.is_closed() && !peer.saw_reset());
    driver.assert_settled();
    assert!(net.is_quiet());
}

#[test]
fn a_unix_peer_has_no_address() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = sim(&net);
    let peer = net.connect_unix();
    assert_eq!(peer.addr(), PeerAddr::Unix);
    assert_eq!(poll(&mut driver), ["accepted unix"]);
}

#[test]
fn after_the_peers_fin_sending_goes_on() {
    let (_net, mut driver, mut peer) = calm_pair();
    peer.write(b"bye");
    peer.shutdown_write();
    peer.write(b"not written");
    assert_eq!(poll(&mut driver), ["received bye", "eof"]);
    driver.send(T, owned(b"and bye"));
    driver.shutdown(T);
    assert_eq!(poll(&mut driver), ["sent 7"]);
    assert_eq!(peer.read(), b"and bye");
    assert!(peer.saw_fin() && !peer.is_closed());
    driver.send(T, owned(b"too late"));
    assert_eq!(poll(&mut driver), ["send failed: BrokenPipe"]);
}

#[test]
fn a_reset_fails_the_connection_and_its_sends() {
    let (_net, mut driver, mut peer) = calm_pair();
    peer.write(b"x");
    peer.reset();
    assert_eq!(poll(&mut driver), ["received x", "failed: ConnectionReset"]);
    driver.send(T, owned(b"y"));
    assert_eq!(poll(&mut driver), ["send failed: ConnectionReset"]);
    driver.close(T);
    assert_eq!(poll(&mut driver), ["closed"]);
    assert_eq!(peer.read(), b"");
}

#[test]
fn a_vanished_peer_takes_a_window_and_is_silent() {
    let (net, mut driver, mut peer) = calm_pair();
    net.set_faults(Faults { window_bytes: 10, ..Faults::none() });
    peer.vanish();
    peer.write(b"unheard");
    driver.send(T, owned(&pattern(0, 0, 10)));
    assert_eq!(poll(&mut driver), ["sent 10"]);
    driver.send(T, owned(b"stuck"));
    assert_eq!(events(&mut driver, Some(Duration::from_secs(3600))), [""; 0]);
    assert_eq!(net.now().as_secs(), 3600);
    driver.close(T);
    assert_eq!(poll(&mut driver), ["send failed: BrokenPipe", "closed"]);
    drop(peer);
    driver.assert_settled();
}

#[test]
fn a_full_window_delays_the_sent_until_the_peer_reads() {
    let (net, mut driver, mut peer) = calm_pair();
    net.set_faults(Faults { window_bytes: 4, ..Faults::none() });
    peer.stop_reading();
    driver.send(T, owned(b"0123456789"));
    assert_eq!(events(&mut driver, Some(Duration::from_secs(1))), [""; 0]);
    assert!(net.is_quiet());
    peer.start_reading();
    let mut lines = Vec::new();
    while !net.is_quiet() {
        lines.extend(events(&mut driver, None));
    }
    assert_eq!(lines, ["sent 10"]);
    assert_eq!(driver.stats().short_writes, 2);
    assert_eq!(peer.read(), b"0123456789");
}

#[test]
fn closing_on_unread_bytes_resets_the_peer() {
    let (_net, mut driver, mut peer) = calm_pair();
    driver.pause(T);
    peer.write(b"never read");
    assert_eq!(poll(&mut driver), [""; 0]);
    driver.close(T);
    assert_eq!(poll(&mut driver), ["closed"]);
    assert!(peer.saw_reset() && peer.is_closed());
}

#[test]
fn bytes_for_a_closed_connection_reset_the_peer() {
    let (_net, mut driver, mut peer) = calm_pair();
    driver.close(T);
    assert_eq!(poll(&mut driver), ["closed"]);
    assert!(!peer.saw_reset());
    peer.write(b"anybody?");
    assert!(peer.saw_reset());
}

#[test]
fn a_dropped_peer_is_an_eof_and_then_a_reset() {
    let (_net, mut driver, peer) = calm_pair();
    drop(peer);
    assert_eq!(poll(&mut driver), ["eof"]);
    driver.send(T, owned(b"anybody?"));
    assert_eq!(poll(&mut driver), ["sent 8"]);
    driver.send(T, owned(b"anybody??"));
    assert_eq!(poll(&mut driver), ["send failed: ConnectionReset"]);
}

#[test]
fn a_paused_connection_receives_nothing_and_loses_nothing() {
    let (net, mut driver, mut peer) = calm_pair();
    driver.pause(T);
    peer.write(b"later");
    peer.reset();
    assert_eq!(events(&mut driver, Some(Duration::from_secs(1))), [""; 0]);
    assert!(net.is_quiet());
    driver.resume(T);
    assert_eq!(poll(&mut driver), ["received later", "failed: ConnectionReset"]);
}

#[test]
fn a_connection_hands_in_a_bounded_number_of_bytes_per_turn() {
    let (_net, mut driver, mut peer) = calm_pair();
    peer.write(&pattern(0, 0, 10_000));
    for _ in 0..9 {
        driver.turn(None).unwrap();
        let mut received = 0;
        while let Some(Event::Received { lease, .. }) = driver.next_event() {
            received += lease.len();
            driver.release(lease);
        }
        assert_eq!(received, config().max_receive_bytes_per_turn as usize);
    }
}

#[test]
fn an_outgoing_connection_reaches_who_listens() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = sim(&net);
    let addr = "192.0.2.1:80".parse().unwrap();
    driver.connect(addr, None, 1);
    assert_eq!(poll(&mut driver), ["connect 1 failed: ConnectionRefused"]);
    let mut listener = net.listen(addr);
    let source = "198.51.100.7".parse().unwrap();
    driver.connect(addr, Some(source), 2);
    assert_eq!(poll(&mut driver), ["connected 2"]);
    let mut peer = listener.accept().unwrap();
    assert_eq!((peer.addr(), peer.source()), (PeerAddr::Ip(addr), Some(source)));
    peer.write(b"welcome");
    assert_eq!(poll(&mut driver), ["received welcome"]);
    driver.close(T);
    assert_eq!(poll(&mut driver), ["closed"]);
    driver.connect(addr, None, 3);
    driver.turn(None).unwrap();
    let Some(Event::Connected { result: Ok(socket), .. }) = driver.next_event() else { panic!() };
    drop(listener);
    driver.attach(Token { generation: 8, ..T }, socket);
    assert_eq!(poll(&mut driver), ["failed: ConnectionReset"]);
}

#[test]
fn paused_accepting_leaves_peers_waiting_and_closed_listeners_refuse() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = sim(&net);
    driver.pause_accept();
    let peer = net.connect();
    assert_eq!(poll(&mut driver), [""; 0]);
    assert!(net.is_quiet());
    driver.resume_accept();
    assert_eq!(poll(&mut driver), ["accepted 10.0.0.1:40001"]);
    driver.pause_accept();
    let waiting = net.connect();
    assert_eq!(poll(&mut driver), [""; 0]);
    driver.close_listeners();
    let late = net.connect();
    assert!(waiting.saw_reset() && late.saw_reset() && !peer.saw_reset());
    driver.resume_accept();
    assert_eq!(poll(&mut driver), [""; 0]);
}

#[test]
fn a_wake_ends_the_wait_once() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = sim(&net);
    let waker = driver.waker();
    std::thread::spawn(move || {
        waker.wake();
        waker.wake();
    })
    .join()
    .unwrap();
    assert!(!net.is_quiet());
    assert_eq!(events(&mut driver, Some(Duration::from_secs(9))), ["woken"]);
    assert_eq!(net.now_ms(), 0);
    assert!(net.is_quiet());
}

#[test]
fn waiting_moves_the_clock_to_what_is_due() {
    let net = SimNet::new(1, Faults { latency_ms: 30..=30, ..Faults::none() });
    let mut driver = sim(&net);
    let clock = net.clock();
    assert_eq!(events(&mut driver, None), [""; 0]);
    assert_eq!(clock.get(), 0);
    let _peer = net.connect();
    assert_eq!(events(&mut driver, Some(Duration::from_millis(10))), [""; 0]);
    assert_eq!(clock.get(), 10_000_000);
    assert_eq!(events(&mut driver, Some(Duration::ZERO)), [""; 0]);
    assert_eq!(clock.get(), 10_001_000);
    assert_eq!(events(&mut driver, None), ["accepted 10.0.0.1:40001"]);
    assert_eq!(clock.get(), 30_000_000);
    net.advance(Duration::from_millis(5));
    assert_eq!(net.now_ms(), 35);
}

#[test]
fn the_end_of_time_is_no_overflow() {
    let (net, mut driver, mut peer) = calm_pair();
    assert_eq!(events(&mut driver, Some(Duration::MAX)), [""; 0]);
    assert_eq!(net.clock().get(), u64::MAX);
    net.set_faults(Faults { latency_ms: 1..=1, late_closed_permille: 1000, ..Faults::none() });
    peer.write(b"still");
    assert_eq!(poll(&mut driver), ["received still"]);
    driver.close(T);
    assert_eq!(poll(&mut driver), ["closed"]);
}

#[test]
fn stale_and_closed_tokens_do_nothing_but_answer_sends() {
    let (_net, mut driver, mut peer) = calm_pair();
    let stale = Token { generation: 6, ..T };
    driver.close(stale);
    driver.pause(stale);
    driver.shutdown(stale);
    driver.send(stale, owned(b"a"));
    driver.send(Token { slot: 60, generation: 1 }, owned(b"b"));
    assert_eq!(poll(&mut driver), ["send failed: NotConnected", "send failed: NotConnected"]);
    peer.write(b"still here");
    assert_eq!(poll(&mut driver), ["received still here"]);
    driver.close(T);
    driver.close(T);
    driver.send(T, owned(b"c"));
    let mut lines = poll(&mut driver);
    lines.sort();
    assert_eq!(lines, ["closed", "send failed: NotConnected"]);
    driver.assert_settled();
}

#[test]
fn dropping_the_driver_closes_connections_and_counts_leases() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = Sim::new(&net, &config());
    let mut peer = net.connect();
    driver.turn(None).unwrap();
    let Some(Event::Accepted { socket, .. }) = driver.next_event() else { panic!() };
    driver.attach(T, socket);
    peer.write(b"kept");
    peer.write(b"queued");
    driver.turn(None).unwrap();
    let waiting = net.connect();
    let Some(Event::Received { lease, .. }) = driver.next_event() else { panic!() };
    drop(driver);
    assert_eq!(lease.len(), 4);
    assert_eq!(net.leaked_leases(), 1);
    assert!(peer.is_closed() && waiting.is_closed());
}

#[test]
fn a_released_buffer_is_poisoned_and_used_again() {
    let (_net, mut driver, mut peer) = calm_pair();
    let mut buffers = Vec::new();
    for _ in 0..3 {
        peer.write(b"secret");
        driver.turn(None).unwrap();
        let Some(Event::Received { lease, .. }) = driver.next_event() else { panic!() };
        assert_eq!(driver.bytes(&lease), b"secret");
        buffers.push((lease.buffer, driver.bytes(&lease).as_ptr()));
        driver.release(lease);
    }
    assert!(buffers.iter().all(|buffer| *buffer == buffers[0]), "{buffers:?}");
    let again = crate::driver::Lease { buffer: buffers[0].0, offset: 0, len: 6 };
    let mut sim = Sim::new(&SimNet::new(1, Faults::none()), &config());
    sim.buffers.push(b"secret".to_vec());
    sim.stats.leases_out = 1;
    sim.release(again);
    assert_eq!(sim.buffers[0], [0xDD; 6]);
}

#[test]
fn two_drivers_share_a_world() {
    let net = SimNet::new(1, Faults::none());
    let (mut one, mut two) = (sim(&net), sim(&net));
    let mut peer = net.connect();
    assert_eq!(poll(&mut one), ["accepted 10.0.0.1:40001"]);
    let mut other = net.connect();
    assert_eq!(poll(&mut two), ["accepted 10.0.0.2:40002"]);
    peer.write(b"for one");
    other.write(b"for two");
    assert_eq!(poll(&mut two), ["received for two"]);
    assert!(!net.is_quiet());
    assert_eq!(poll(&mut one), ["received for one"]);
    two.close(T);
    assert_eq!(poll(&mut two), ["closed"]);
    assert!(!peer.saw_fin() && other.saw_fin());
    one.close_listeners();
    let third = net.connect();
    assert_eq!(poll(&mut one), [""; 0]);
    two.turn(None).unwrap();
    assert!(matches!(two.next_event(), Some(Event::Accepted { .. })));
    assert!(!third.saw_reset());
}

#[test]
fn the_trace_tells_the_last_lines_and_says_how_many_went_before() {
    let (net, mut driver, mut peer) = calm_pair();
    assert_eq!(
        net.trace(),
        concat!(
            "       0.000000 ms  #0    peer connects 1\n",
            "       0.000000 ms  #0    accepted 0\n",
            "       0.000000 ms  #0    attached to slot 3\n",
        )
    );
    let before = net.trace_hash();
    for _ in 0..1000 {
        peer.write(b"x");
        poll(&mut driver);
    }
    assert_ne!(net.trace_hash(), before);
    assert_eq!(net.trace().lines().next(), Some("(1491 earlier lines)"));
    assert_eq!(net.trace().lines().count(), 513);
}

#[test]
fn a_connection_that_is_over_leaves_nothing_behind() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = sim(&net);
    for generation in 0..100 {
        let token = Token { generation, ..T };
        let mut peer = net.connect();
        driver.turn(None).unwrap();
        let Some(Event::Accepted { socket, .. }) = driver.next_event() else { panic!() };
        driver.attach(token, socket);
        peer.write(b"x");
        driver.close(token);
        drop(peer);
        assert_eq!(poll(&mut driver), ["closed"]);
    }
    let world_size = |net: &SimNet| net.world.borrow().wires.len();
    assert!(world_size(&net) <= 2, "{} connections are kept", world_size(&net));
    let peers = [net.connect(), net.connect(), net.connect()];
    assert!(
        peers[0].id() != peers[1].id() && peers[1].id() != peers[2].id() && peers[2].id() != peers[0].id()
    );
}

fn accepted(driver: &mut Sim, net: &SimNet) -> SimSocket {
    std::mem::forget(net.connect());
    driver.turn(None).unwrap();
    match driver.next_event() {
        Some(Event::Accepted { socket, .. }) => socket,
        other => panic!("{other:?}"),
    }
}

#[test]
#[should_panic(expected = "has not been Closed (law 4)")]
fn attaching_to_a_slot_in_use_panics() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = Sim::new(&net, &config());
    let (one, two) = (accepted(&mut driver, &net), accepted(&mut driver, &net));
    driver.attach(T, one);
    driver.close(T);
    driver.turn(None).unwrap();
    // Closed is there, but was not taken.
    driver.attach(Token { generation: 8, ..T }, two);
}

#[test]
#[should_panic(expected = "generation of its last tenant")]
fn attaching_with_an_old_generation_panics() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = Sim::new(&net, &config());
    let (one, two) = (accepted(&mut driver, &net), accepted(&mut driver, &net));
    driver.attach(T, one);
    driver.close(T);
    driver.turn(None).unwrap();
    assert!(matches!(driver.next_event(), Some(Event::Closed(T))));
    driver.attach(T, two);
}

#[test]
#[should_panic(expected = "before the last one's Sent")]
fn two_sends_in_flight_panic() {
    let net = SimNet::new(1, Faults::none());
    let mut driver = Sim::new(&net, &config());
    let socket = accepted(&mut driver, &net);
    driver.attach(T, socket);
    driver.send(T, owned(b"a"));
    driver.turn(None).unwrap();
    driver.send(T, owned(b"b"));
}
