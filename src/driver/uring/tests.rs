//! What the kernel may do but does not do on demand: completions made up or bent.

use std::io::Write;
use std::net::TcpStream;

use super::receives::LOOKS;
use super::*;
use crate::config::ListenAddr;

const TOKEN: Token = Token { slot: 0, generation: 7 };

const CONFIG: DriverConfig = DriverConfig {
    max_connections: 8,
    receive_buffers: 8,
    receive_buffer_bytes: 4_096,
    max_receive_bytes_per_turn: 65_536,
    shards_per_core: 1,
    busy_poll: false,
};

fn listening(config: &DriverConfig) -> (Uring, SocketAddr) {
    let (listeners, addr) = super::super::listen::bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let ListenAddr::Tcp(addr) = addr else { unreachable!("a TCP address") };
    (Uring::new(config, listeners).unwrap(), addr)
}

/// A driver with one connection, and its peer.
fn connected() -> (Uring, TcpStream) {
    connected_by(&CONFIG)
}

fn connected_by(config: &DriverConfig) -> (Uring, TcpStream) {
    let (mut driver, addr) = listening(config);
    let peer = TcpStream::connect(addr).unwrap();
    loop {
        driver.turn(Some(Duration::from_secs(5))).unwrap();
        if let Some(Event::Accepted { socket, .. }) = driver.next_event() {
            driver.attach(TOKEN, socket);
            driver.turn(Some(Duration::ZERO)).unwrap();
            return (driver, peer);
        }
    }
}

/// The kernel's completion of a receive of what the peer writes.
fn receive(driver: &mut Uring, peer: &mut TcpStream) -> Completion {
    peer.write_all(b"data").unwrap();
    loop {
        driver.turn(Some(Duration::from_secs(5))).unwrap();
        while let Some(completion) = driver.ring.pop() {
            if unpack(completion.tag) == (RECEIVE, TOKEN) {
                return completion;
            }
        }
    }
}

/// The bytes that the peer writes, taken as the engine takes them.
fn hear(driver: &mut Uring, peer: &mut TcpStream) {
    peer.write_all(b"word").unwrap();
    loop {
        driver.turn(Some(Duration::from_secs(5))).unwrap();
        if let Some(Event::Received { lease, .. }) = driver.next_event() {
            return driver.release(lease);
        }
    }
}

#[test]
fn a_connection_talks_from_its_second_message_until_a_round_finds_it_silent() {
    let (mut driver, mut peer) = connected();
    let looks = |driver: &mut Uring, count: u32| {
        for _ in 0..count {
            driver.look_for_silent();
            driver.turn(Some(Duration::ZERO)).unwrap();
            assert!(driver.next_event().is_none());
        }
    };
    for _ in 0..2 {
        hear(&mut driver, &mut peer);
        assert!(!driver.has_talking());
        hear(&mut driver, &mut peer);
        assert!(driver.has_talking());
        let armed = driver.stats().receives_armed;
        (0..5).for_each(|_| hear(&mut driver, &mut peer));
        assert_eq!(driver.stats().receives_armed, armed, "a multishot goes on");
        looks(&mut driver, LOOKS);
        assert!(driver.has_talking());
        looks(&mut driver, LOOKS);
        assert!(!driver.has_talking());
        // One message in each round, as a pong is, is received by a receive of its own.
        for _ in 0..3 {
            let armed = driver.stats().receives_armed;
            hear(&mut driver, &mut peer);
            assert_eq!(driver.stats().receives_armed, armed + 1);
            looks(&mut driver, LOOKS);
            assert!(!driver.has_talking());
        }
    }
    driver.close(TOKEN);
    while !matches!(driver.next_event(), Some(Event::Closed(TOKEN))) {
        driver.turn(Some(Duration::from_secs(5))).unwrap();
    }
    assert_eq!((driver.talking, driver.receiving), (0, 0));
}

#[test]
fn news_are_all_that_who_polls_has_to_ask_for() {
    let (mut driver, mut peer) = connected_by(&DriverConfig { busy_poll: true, ..CONFIG });
    // The first ends a poll, which a receive has to follow before there are bytes.
    for _ in 0..3 {
        peer.write_all(b"word").unwrap();
        let began = std::time::Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(5), "bytes came, and no news of them");
            if !driver.has_news() {
                continue;
            }
            driver.turn(Some(Duration::ZERO)).unwrap();
            if let Some(Event::Received { lease, .. }) = driver.next_event() {
                driver.release(lease);
                break;
            }
        }
    }
}

#[test]
fn data_that_ends_a_multishot_arms_the_next() {
    let (mut driver, mut peer) = connected();
    (0..2).for_each(|_| hear(&mut driver, &mut peer));
    let armed = driver.stats().receives_armed;
    let completion = receive(&mut driver, &mut peer);
    assert!(!completion.is_last() && driver.stats().receives_armed == armed);
    let Some(Event::Received { lease, .. }) = driver.completed(completion.as_last()) else {
        panic!("no bytes");
    };
    assert_eq!(driver.bytes(&lease), b"data");
    driver.release(lease);
    assert_eq!(driver.stats().receives_armed, armed + 1);
    // The first of the two goes on in truth.
    driver.ports[0].in_flight += 1;
    driver.receiving += 1;
}

#[test]
fn a_drop_leaves_nothing_to_the_cancel_of_everything() {
    let config = DriverConfig { max_connections: 512, ..CONFIG };
    let (mut driver, addr) = listening(&config);
    let peers: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut attached = 0;
    while attached < 300 {
        driver.turn(Some(Duration::from_secs(5))).unwrap();
        while let Some(event) = driver.next_event() {
            if let Event::Accepted { socket, .. } = event {
                driver.attach(Token { slot: attached, generation: 1 }, socket);
                attached += 1;
            }
        }
    }
    driver.end_connections();
    assert!(driver.ring.in_flight() <= 2, "the eventfd's read, and a cancel of the accept");
    for mut peer in peers {
        assert_eq!(std::io::Read::read(&mut peer, &mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_completion_of_a_former_tenant_misses_and_returns_its_buffer() {
    let (mut driver, mut peer) = connected();
    let mut completion = receive(&mut driver, &mut peer);
    completion.tag = pack(RECEIVE, Token { generation: 6, ..TOKEN });
    assert!(driver.completed(completion).is_none());
    assert_eq!(driver.stats().leases_out, 0);
    for kind in [SEND, CLOSE_PLAIN, SHUTDOWN_ANY, CANCEL] {
        completion.tag = pack(kind, Token { generation: 6, ..TOKEN });
        assert!(driver.completed(completion).is_none(), "kind {kind}");
    }
    assert!(driver.live(TOKEN).is_some());
}
