//! Connections a driver opens: from where, on which descriptors, and how waiting for the next one
//! keeps time.

use std::net::IpAddr;

use super::*;

on_both_drivers!(
    connect_reaches_a_listener_or_says_why_not,
    a_chosen_source_is_what_the_other_end_sees,
    a_source_that_cannot_be_is_an_error,
    short_waits_are_shorter_than_a_millisecond,
);

fn connect_reaches_a_listener_or_says_why_not<D: Make>() {
    let mut world = World::<D>::new();
    let addr = world.addr.unwrap();
    world.driver.connect(addr, None, 41);
    world.until("both ends", |world| world.connected.len() == 1 && world.peers.len() == 1);
    let (tag, result) = world.connected.remove(0);
    let (near, far) = (result.unwrap(), world.tokens.clone());
    assert_eq!(tag, 41);
    let far = *far.iter().find(|token| **token != near).unwrap();
    world.driver.send(near, SendBuf::Owned(b"hello".to_vec()));
    world.until("received", |world| world.of(far).received == b"hello");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.driver.connect(nobody, None, 42);
    world.until("refused", |world| world.connected.len() == 1);
    let (tag, result) = world.connected.remove(0);
    assert_eq!((tag, result.unwrap_err().kind()), (42, io::ErrorKind::ConnectionRefused));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn a_chosen_source_is_what_the_other_end_sees<D: Make>() {
    let mut world = World::<D>::with(&config(), "0.0.0.0:0");
    let to = SocketAddr::new(ip("127.0.0.1"), world.addr.unwrap().port());
    for (round, source) in ["127.0.0.2", "127.77.3.200", "127.0.0.2"].into_iter().enumerate() {
        world.driver.connect(to, Some(ip(source)), round as u64);
        world.until("seen", |world| world.peers.len() == round + 1 && world.connected.len() == round + 1);
        let PeerAddr::Ip(seen) = world.peers[round] else { panic!("a peer without an address") };
        assert_eq!(seen.ip(), ip(source));
        assert_ne!(seen.port(), 0);
    }
}

fn a_source_that_cannot_be_is_an_error<D: Make>() {
    let mut world = World::<D>::new();
    let to = world.addr.unwrap();
    let cases = [
        (ip("::1"), io::ErrorKind::InvalidInput),
        // TEST-NET-1 (RFC 5737), which no host has.
        (ip("192.0.2.1"), io::ErrorKind::AddrNotAvailable),
    ];
    for (source, kind) in cases {
        world.driver.connect(to, Some(source), 7);
        world.until("refused", |world| world.connected.len() == 1);
        let (tag, result) = world.connected.remove(0);
        assert_eq!((tag, result.unwrap_err().kind()), (7, kind), "{source}");
    }
    assert!(world.peers.is_empty());
}

fn short_waits_are_shorter_than_a_millisecond<D: Make>() {
    let mut world = World::<D>::new();
    world.settle();
    let mut waits = [Vec::new(), Vec::new()];
    for _ in 0..60 {
        for (took, us) in waits.iter_mut().zip([100, 1_000]) {
            let start = Instant::now();
            world.driver.turn(Some(Duration::from_micros(us))).unwrap();
            took.push(start.elapsed());
            assert!(world.driver.next_event().is_none());
            assert!(took.last() >= Some(&Duration::from_micros(us)), "too early: {took:?}");
        }
    }
    let [short, long] = waits.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    });
    // Rounded up to milliseconds both would be the same.
    assert!(short < long * 3 / 4, "100 µs took {short:?}, 1 ms took {long:?}");
}

#[test]
fn outbound_connections_keep_no_descriptor_of_the_process() {
    super::limits::in_child("direct_outbound", || {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut world = World::<Uring>::new();
        world.settle();
        let (before, to) = (open(), world.addr.unwrap());
        for round in 1..=10 {
            for _ in 0..30 {
                world.driver.connect(to, None, 1);
                assert_eq!(open(), before, "on the way to be connected");
            }
            world.until("connected", |world| {
                world.connected.len() == 30 * round && world.peers.len() == 30 * round
            });
            assert_eq!(open(), before);
        }
        assert_eq!(world.driver.stats().direct_descriptors, 600);
        // Refused ones leave nothing behind either, nor do closed ones.
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for _ in 0..30 {
            world.driver.connect(nobody, None, 2);
        }
        world.until("refused", |world| world.connected.len() == 330);
        assert!(world.connected[300..].iter().all(|(_, result)| result.is_err()));
        for token in world.tokens.clone() {
            world.driver.close(token);
        }
        world.until("closed", |world| world.told.values().all(|told| told.closed == 1));
        world.settle();
        assert_eq!((open(), world.driver.stats().direct_descriptors), (before, 0));
    });
}

#[test]
fn outbound_connections_beyond_the_table_are_on_plain_descriptors() {
    let config = DriverConfig { max_connections: 20, ..config() };
    let mut world = World::<Uring>::with(&config, "127.0.0.1:0");
    let peers = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = peers.local_addr().unwrap();
    world.echo = true;
    world.settle();
    for tag in 0..12 {
        world.driver.connect(to, None, tag);
    }
    world.until("connected", |world| world.connected.len() == 12);
    // Armed accepts have 16 of the 20 places.
    assert_eq!(world.driver.stats().direct_descriptors, 4);
    for round in 1..=12 {
        let (mut peer, _) = peers.accept().unwrap();
        io::Write::write_all(&mut peer, b"either way").unwrap();
        world.until("echoed", |world| {
            world.told.values().map(|told| told.sent_bytes).sum::<usize>() == 10 * round
        });
        let mut got = [0; 10];
        io::Read::read_exact(&mut peer, &mut got).unwrap();
        assert_eq!(&got, b"either way");
    }
}
