//! Each fault is seen to happen, and the laws hold under it: the driver is a checked one.

use super::super::{Fault, Faults, SimNet, SimPeer};
use super::{Echo, echo, pattern};
use std::time::Duration;

const OFTEN: u16 = 500;
const ALWAYS: u16 = 1000;

/// Turns one by one until quiet; the sizes of what each turn received.
fn received_per_turn(net: &SimNet, echo: &mut Echo) -> Vec<usize> {
    let mut sizes = Vec::new();
    while !net.is_quiet() || sizes.last().is_none_or(|&size| size > 0) {
        echo.turn(None);
        sizes.push(echo.received_in_turn);
    }
    sizes
}

/// Peers that write and end; asserts that each got its bytes back, then its FIN.
fn assert_echoes(net: &SimNet, echo: &mut Echo, count: usize, len: usize) {
    let mut peers: Vec<SimPeer> = (0..count).map(|_| net.connect()).collect();
    for (index, peer) in peers.iter_mut().enumerate() {
        for from in (0..len).step_by(len / 4) {
            peer.write(&pattern(index, from, len / 4));
        }
        peer.shutdown_write();
    }
    echo.run(net);
    for (index, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.read(), pattern(index, 0, len), "peer {index}\n{}", net.trace());
        assert!(peer.is_closed());
    }
    echo.driver.assert_settled();
}

/// The number of turns that received, and of bytes in the first, for one peer's two writes.
fn pieces(faults: Faults) -> (Vec<u32>, SimNet) {
    use crate::driver::{Driver, Event, Token};
    let net = SimNet::new(5, faults);
    let mut driver = super::sim(&net);
    let mut peer = net.connect();
    peer.write(&pattern(0, 0, 100));
    peer.write(&pattern(0, 100, 100));
    let mut sizes = Vec::new();
    while !net.is_quiet() || sizes.iter().sum::<u32>() < 200 {
        driver.turn(None).unwrap();
        while let Some(event) = driver.next_event() {
            match event {
                Event::Accepted { socket, .. } => driver.attach(Token { slot: 0, generation: 1 }, socket),
                Event::Received { lease, .. } => {
                    sizes.push(lease.len() as u32);
                    driver.release(lease);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    (sizes, net)
}

#[test]
fn split() {
    assert_eq!(pieces(Faults::none()).0, [100, 100]);
    let (sizes, net) = pieces(Faults { split_permille: OFTEN, ..Faults::none() });
    assert!(sizes.len() > 4, "{sizes:?}");
    assert!(net.injected(Fault::Split) > 0);
    let (sizes, _) = pieces(Faults { split_permille: ALWAYS, ..Faults::none() });
    assert!(sizes.contains(&1), "{sizes:?}");
}

#[test]
fn join() {
    let (sizes, net) = pieces(Faults { join_permille: ALWAYS, ..Faults::none() });
    assert_eq!(sizes, [200]);
    assert!(net.injected(Fault::Join) > 0);
}

#[test]
fn latency() {
    let (net, mut echo) = echo(1, Faults { latency_ms: 20..=30, ..Faults::none() });
    let mut peer = net.connect();
    peer.write(b"slow");
    while peer.read().is_empty() {
        echo.turn(None);
    }
    // The connect and the bytes travel side by side, the answer after them.
    assert!((40..=60).contains(&net.now_ms()), "{} ms", net.now_ms());
}

#[test]
fn window() {
    let (net, mut echo) = echo(1, Faults { window_bytes: 7, latency_ms: 1..=1, ..Faults::none() });
    assert_echoes(&net, &mut echo, 2, 400);
    use crate::driver::Driver;
    assert!(echo.driver.stats().short_writes > 50, "{:?}", echo.driver.stats());
}

#[test]
fn short_write() {
    let (net, mut echo) = echo(1, Faults { short_write_permille: OFTEN, ..Faults::none() });
    assert_echoes(&net, &mut echo, 4, 400);
    use crate::driver::Driver;
    assert!(net.injected(Fault::ShortWrite) > 0);
    assert!(echo.driver.stats().short_writes > 0);
}

#[test]
fn late_sent() {
    let faults = Faults { late_sent_permille: ALWAYS, lag_ms: 9..=9, ..Faults::none() };
    let (net, mut echo) = echo(1, faults);
    let mut peer = net.connect();
    peer.write(b"x");
    while peer.read().is_empty() {
        echo.turn(None);
    }
    assert_eq!((net.now_ms(), echo.conns[0].sending), (0, true));
    echo.turn(None);
    assert_eq!((net.now_ms(), echo.conns[0].sending), (9, false));
    assert_eq!(net.injected(Fault::LateSent), 1);
}

#[test]
fn late_closed() {
    let faults = Faults { late_closed_permille: ALWAYS, lag_ms: 9..=9, ..Faults::none() };
    let (net, mut echo) = echo(1, faults);
    let peer = net.connect();
    echo.turn(None);
    echo.close(0);
    echo.turn(Some(Duration::ZERO));
    assert!(echo.conns[0].closing && peer.is_closed());
    echo.turn(None);
    assert_eq!(net.now_ms(), 9);
    echo.driver.assert_settled();
    assert_eq!(net.injected(Fault::LateClosed), 1);
}

#[test]
fn late_fin() {
    let faults = Faults { late_fin_permille: ALWAYS, lag_ms: 9..=9, ..Faults::none() };
    let (net, mut echo) = echo(1, faults);
    let mut peer = net.connect();
    peer.write(b"x");
    peer.shutdown_write();
    while !echo.conns.first().is_some_and(|conn| conn.ending) {
        echo.turn(None);
    }
    assert_eq!((net.now_ms(), peer.read()), (9, b"x".to_vec()));
    echo.run(&net);
    assert!(peer.saw_fin());
    assert_eq!((net.now_ms(), net.injected(Fault::LateFin)), (18, 2));
}

#[test]
fn few_buffers() {
    use crate::driver::{Driver, Event, Token};
    let net = SimNet::new(1, Faults { max_receive_buffers: 1, ..Faults::none() });
    let mut driver = super::sim(&net);
    let mut peers = [net.connect(), net.connect()];
    let mut attached = 0;
    driver.turn(None).unwrap();
    while let Some(Event::Accepted { socket, .. }) = driver.next_event() {
        driver.attach(Token { slot: attached, generation: 1 }, socket);
        attached += 1;
    }
    peers[0].write(&[0; 4000]);
    peers[1].write(&[1; 4000]);
    let mut order = Vec::new();
    for _ in 0..6 {
        driver.turn(None).unwrap();
        let Some(Event::Received { token, lease }) = driver.next_event() else { panic!("no bytes") };
        assert!(driver.next_event().is_none(), "two leases of one buffer");
        // While the lease is out nothing spins and nothing comes, however long one waits.
        let starvations = driver.stats().buffer_starvations;
        for _ in 0..3 {
            driver.turn(Some(Duration::from_secs(1))).unwrap();
            assert!(driver.next_event().is_none());
        }
        assert!(net.is_quiet());
        assert!(driver.stats().buffer_starvations <= starvations + 1);
        order.push(token.slot);
        driver.release(lease);
        assert!(!net.is_quiet());
    }
    // Who has waited longest is served first.
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn few_buffers_lose_nothing() {
    let (net, mut echo) = echo(1, Faults { max_receive_buffers: 1, ..Faults::calm() });
    assert_echoes(&net, &mut echo, 10, 2000);
    use crate::driver::Driver;
    assert!(echo.driver.stats().buffer_starvations > 0);
}

#[test]
fn accept_failure() {
    use crate::driver::{Driver, Event};
    let net = SimNet::new(1, Faults { accept_failure_permille: ALWAYS, ..Faults::none() });
    let mut driver = super::sim(&net);
    let _peer = net.connect();
    for _ in 0..2 {
        driver.turn(None).unwrap();
        let Some(Event::AcceptFailed(error)) = driver.next_event() else { panic!("accepted") };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        driver.turn(Some(Duration::from_secs(1))).unwrap();
        assert!(driver.next_event().is_none(), "accepting goes on unasked");
        driver.resume_accept();
    }
    net.set_faults(Faults::none());
    driver.turn(None).unwrap();
    assert!(matches!(driver.next_event(), Some(Event::Accepted { .. })));
    assert_eq!(net.injected(Fault::AcceptFailure), 2);
}

#[test]
fn connect_failure() {
    use crate::driver::{Driver, Event};
    let net = SimNet::new(1, Faults { connect_failure_permille: ALWAYS, ..Faults::none() });
    let mut driver = super::sim(&net);
    let addr = "192.0.2.1:80".parse().unwrap();
    let mut listener = net.listen(addr);
    driver.connect(addr, None, 4);
    driver.turn(None).unwrap();
    let Some(Event::Connected { tag: 4, result: Err(error) }) = driver.next_event() else { panic!() };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(listener.accept().is_none());
    assert_eq!(net.injected(Fault::ConnectFailure), 1);
}

#[test]
fn reset_mid_stream() {
    let (net, mut echo) = echo(1, Faults { reset_permille: 300, latency_ms: 0..=50, ..Faults::none() });
    let mut peers: Vec<SimPeer> = (0..20).map(|_| net.connect()).collect();
    for (index, peer) in peers.iter_mut().enumerate() {
        (0..3).for_each(|step| peer.write(&pattern(index, step * 10, 10)));
    }
    echo.run(&net);
    let cut = peers.iter_mut().enumerate().filter_map(|(index, peer)| {
        let read = peer.read();
        assert_eq!(read, pattern(index, 0, read.len()));
        (peer.saw_reset() && !read.is_empty()).then_some(read.len())
    });
    assert!(cut.count() > 0, "no reset after some bytes");
    assert!(net.injected(Fault::Reset) > 10);
}

#[test]
fn reset_discards() {
    let received = |permille| {
        let (net, mut echo) = echo(1, Faults { reset_discards_permille: permille, ..Faults::none() });
        let mut peer = net.connect();
        echo.turn(None);
        peer.write(b"lost?");
        peer.reset();
        let bytes = received_per_turn(&net, &mut echo).iter().sum::<usize>();
        (bytes, net.injected(Fault::ResetDiscards))
    };
    assert_eq!(received(0), (5, 0));
    assert_eq!(received(ALWAYS), (0, 1));
}

#[test]
fn reset_discards_what_a_close_leaves_behind() {
    use crate::driver::{Driver, Event, SendBuf, Token};
    for (permille, arrives) in [(0, &b"last words"[..]), (ALWAYS, b"")] {
        let faults = Faults { reset_discards_permille: permille, latency_ms: 1..=1, ..Faults::none() };
        let net = SimNet::new(1, faults);
        let mut driver = super::sim(&net);
        let mut peer = net.connect();
        driver.turn(None).unwrap();
        let Some(Event::Accepted { socket, .. }) = driver.next_event() else { panic!() };
        let token = Token { slot: 0, generation: 1 };
        driver.attach(token, socket);
        driver.pause(token);
        peer.write(b"unread");
        net.advance(Duration::from_millis(1));
        driver.send(token, SendBuf::Owned(b"last words".to_vec()));
        driver.close(token);
        net.advance(Duration::from_millis(1));
        assert_eq!((peer.read(), peer.saw_reset()), (arrives.to_vec(), true));
    }
}

#[test]
fn a_late_send_that_was_taken_does_not_fail_at_close() {
    use crate::driver::{Driver, Event, SendBuf, Token};
    let net = SimNet::new(1, Faults { late_sent_permille: ALWAYS, lag_ms: 9..=9, ..Faults::none() });
    let mut driver = super::sim(&net);
    let mut peer = net.connect();
    driver.turn(None).unwrap();
    let Some(Event::Accepted { socket, .. }) = driver.next_event() else { panic!() };
    let token = Token { slot: 0, generation: 1 };
    driver.attach(token, socket);
    driver.send(token, SendBuf::Owned(b"x".to_vec()));
    driver.turn(Some(Duration::ZERO)).unwrap();
    driver.close(token);
    driver.turn(None).unwrap();
    assert!(matches!(driver.next_event(), Some(Event::Sent { result: Ok(()), .. })));
    assert!(matches!(driver.next_event(), Some(Event::Closed(_))));
    assert_eq!(peer.read(), b"x");
}

#[test]
fn send_error() {
    let (net, mut echo) = echo(1, Faults { send_error_permille: ALWAYS, ..Faults::none() });
    let mut peer = net.connect();
    peer.write(b"x");
    echo.run(&net);
    assert!(peer.saw_reset() && peer.read().is_empty());
    assert_eq!(net.injected(Fault::SendError), 1);
    echo.driver.assert_settled();
}

#[test]
fn unarmed_failure() {
    use crate::driver::{Driver, Event, Token};
    for (permille, told) in [(0, false), (ALWAYS, true)] {
        let net = SimNet::new(1, Faults { unarmed_failure_permille: permille, ..Faults::none() });
        let mut driver = super::sim(&net);
        let mut peer = net.connect();
        driver.turn(None).unwrap();
        let Some(Event::Accepted { socket, .. }) = driver.next_event() else { panic!() };
        let token = Token { slot: 0, generation: 1 };
        driver.attach(token, socket);
        driver.pause(token);
        peer.write(b"unread");
        peer.reset();
        driver.turn(None).unwrap();
        assert_eq!(matches!(driver.next_event(), Some(Event::Failed { .. })), told);
        driver.resume(token);
        driver.turn(None).unwrap();
        // Told at once, nothing follows; told in order, the bytes come first.
        assert_eq!(matches!(driver.next_event(), Some(Event::Received { .. })), !told);
        assert_eq!(net.injected(Fault::UnarmedFailure), u64::from(told));
    }
}

#[test]
fn spurious_wake() {
    use crate::driver::{Driver, Event};
    let net = SimNet::new(1, Faults { spurious_wake_permille: ALWAYS, ..Faults::none() });
    let mut driver = super::sim(&net);
    let (mut woken, mut empty) = (0, 0);
    for _ in 0..20 {
        let before = net.now();
        driver.turn(Some(Duration::from_secs(1))).unwrap();
        assert!(net.now() > before && net.now() - before < Duration::from_secs(1));
        match driver.next_event() {
            Some(Event::Woken) => woken += 1,
            None => empty += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(woken > 0 && empty > 0);
    assert_eq!(net.injected(Fault::SpuriousWake), 20);
}

#[test]
fn reorder_between_connections() {
    use crate::driver::{Driver, Event, Token};
    let order = |permille| {
        let net = SimNet::new(1, Faults { reorder_permille: permille, ..Faults::none() });
        let mut driver = super::sim(&net);
        let mut peers: Vec<SimPeer> = (0..8).map(|_| net.connect()).collect();
        driver.turn(None).unwrap();
        let mut slot = 0;
        while let Some(Event::Accepted { socket, .. }) = driver.next_event() {
            driver.attach(Token { slot, generation: 1 }, socket);
            slot += 1;
        }
        driver.turn(Some(Duration::ZERO)).unwrap();
        peers.iter_mut().for_each(|peer| peer.write(b"x"));
        net.set_faults(Faults { max_receive_buffers: 8, ..net.faults() });
        driver.turn(None).unwrap();
        let mut order = Vec::new();
        while let Some(Event::Received { token, lease }) = driver.next_event() {
            order.push(token.slot);
            driver.release(lease);
        }
        order
    };
    assert_eq!(order(0), (0..8).collect::<Vec<_>>());
    let mut shuffled = order(ALWAYS);
    assert_ne!(shuffled, order(0));
    shuffled.sort_unstable();
    assert_eq!(shuffled, order(0));
}

#[test]
fn hold_back() {
    let (net, mut echo) = echo(1, Faults { hold_back_permille: ALWAYS, ..Faults::none() });
    let mut peer = net.connect();
    echo.turn(None);
    peer.write(b"one");
    peer.write(b"two");
    let sizes = received_per_turn(&net, &mut echo);
    // Held back, handed over, held back: both never come in one turn.
    assert_eq!(sizes.iter().copied().filter(|&size| size > 0).collect::<Vec<_>>(), [3, 3]);
    assert!(net.injected(Fault::HoldBack) >= 2);
}

#[test]
fn everything_at_once_loses_nothing() {
    let (net, mut echo) = echo(9, Faults::rough().without_errors());
    assert_echoes(&net, &mut echo, 30, 4000);
}
