//! Limits: buffers, descriptors, shares of a turn, pausing, waking (laws 5 and 7).

use std::io::{Read, Write};
use std::process::Command;
use std::thread;

use super::*;

on_both_drivers!(
    exhausted_leases_pause_receiving_and_nothing_else,
    more_connections_than_buffers,
    what_a_burst_filled_is_given_back,
    what_nobody_has_been_told_of_is_not_given_back,
    a_flood_does_not_starve_the_others,
    paused_connections_lose_nothing,
    pause_and_resume_in_every_order,
    paused_accepting_leaves_peers_in_the_backlog,
    running_out_of_descriptors_is_told_once_and_passes,
    any_thread_ends_the_wait,
    a_wait_ends_in_time,
    a_wait_ends_in_time_after_a_longer_one,
    closed_listeners_refuse,
    many_operations_in_one_turn,
);

fn few_buffers() -> DriverConfig {
    DriverConfig { receive_buffers: 4, receive_buffer_bytes: 4_096, ..config() }
}

fn exhausted_leases_pause_receiving_and_nothing_else<D: Make>() {
    let mut world = World::<D>::with(&few_buffers(), "127.0.0.1:0");
    let (mut peer, token) = world.pair();
    let (mut other, other_token) = world.pair();
    let bytes = Noise(2).bytes(1 << 20);
    let expected = bytes.clone();
    let writer = thread::spawn(move || {
        peer.write_all(&bytes).unwrap();
        peer
    });
    world.hold = true;
    world.until("starved", |world| world.driver.stats().buffer_starvations > 0);
    other.write_all(b"me too").unwrap();
    for _ in 0..5 {
        world.turn(Duration::from_millis(20));
    }
    let before = world.driver.stats();
    let start = Instant::now();
    for _ in 0..5 {
        world.turn(Duration::from_millis(20));
    }
    let after = world.driver.stats();
    // Waiting was waiting: no spinning over an empty pool.
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
    assert!(after.receives_armed - before.receives_armed <= 2, "{before:?} {after:?}");
    // Sending goes on.
    world.driver.send(token, SendBuf::Owned(b"wait".to_vec()));
    world.until("sent", |world| world.of(token).sent.len() == 1);
    // One lease is enough to go on.
    world.hold = false;
    let one = world.held.pop().unwrap();
    world.driver.release(one);
    world.until("all", |world| world.of(token).received.len() >= expected.len());
    assert!(world.of(token).received == expected);
    world.until("the other", |world| world.of(other_token).received == b"me too");
    world.release_all();
    assert_eq!(world.driver.stats().leases_out, 0);
    drop(writer.join().unwrap());
}

fn what_a_burst_filled_is_given_back<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let bytes = Noise(5).bytes(8 << 20);
    let expected = bytes.clone();
    world.hold = true;
    let writer = thread::spawn(move || {
        peer.write_all(&bytes).unwrap();
        peer
    });
    world.until("filled", |world| world.held.len() > 8);
    assert!(world.driver.has_spare());
    world.driver.shed();
    world.hold = false;
    world.release_all();
    world.until("all", |world| world.of(token).received.len() == expected.len());
    assert!(world.of(token).received == expected);
    let most = world.driver.stats().receive_buffers;
    assert!(most > 1, "too tame");
    world.until("given back", |world| {
        world.driver.shed();
        world.driver.rest_silent();
        !world.driver.has_spare()
    });
    assert!(world.driver.stats().receive_buffers <= 1);
    // What is left serves as before.
    let mut peer = writer.join().unwrap();
    peer.write_all(b"more").unwrap();
    world.until("more", |world| world.of(token).received.len() == expected.len() + 4);
    assert!(world.of(token).received.ends_with(b"more"));
}

fn what_nobody_has_been_told_of_is_not_given_back<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let bytes = Noise(6).bytes(48 << 10);
    for round in 1..=20 {
        peer.write_all(&bytes).unwrap();
        world.driver.turn(Some(Duration::from_secs(1))).unwrap();
        (0..3).for_each(|_| world.driver.shed());
        world.until("all", |world| world.of(token).received.len() == round * bytes.len());
        assert!(world.of(token).received.ends_with(&bytes), "round {round}");
    }
}

fn more_connections_than_buffers<D: Make>() {
    let mut world = World::<D>::with(&few_buffers(), "127.0.0.1:0");
    let mut pairs: Vec<_> = (0..60).map(|_| world.pair()).collect();
    for round in 0..20u8 {
        for (peer, _) in &mut pairs {
            peer.write_all(&[round; 100]).unwrap();
        }
        let want = 100 * (usize::from(round) + 1);
        let tokens: Vec<_> = pairs.iter().map(|(_, token)| *token).collect();
        world.until("a round", |world| tokens.iter().all(|t| world.of(*t).received.len() == want));
    }
    // Every one of them still receives: nobody was forgotten among the starved.
    for (peer, token) in &mut pairs {
        peer.write_all(b".").unwrap();
        let token = *token;
        world.until("a dot", |world| world.of(token).received.len() == 2_001);
    }
}

fn a_flood_does_not_starve_the_others<D: Make>() {
    let config =
        DriverConfig { receive_buffer_bytes: 16 << 10, max_receive_bytes_per_turn: 32 << 10, ..config() };
    let mut world = World::<D>::with(&config, "127.0.0.1:0");
    let (mut flood, flood_token) = world.pair();
    let (mut quiet, quiet_token) = world.pair();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = stop.clone();
    let flooder = thread::spawn(move || {
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            flood.write_all(&[0x55; 256 << 10]).unwrap();
        }
    });
    world.until("flooded", |world| world.of(flood_token).received.len() > 4 << 20);
    let mut most = 0;
    for round in 1..=50usize {
        quiet.write_all(b"!").unwrap();
        let mut turns = 0;
        while world.of(quiet_token).received.len() < round {
            let before = world.of(flood_token).received.len();
            world.turn(Duration::from_millis(20));
            most = most.max(world.of(flood_token).received.len() - before);
            turns += 1;
            assert!(turns < 20, "the quiet one waited for {turns} turns");
        }
    }
    // The bound may be overstepped by the read that reaches it.
    assert!(most <= (32 << 10) + (16 << 10), "{most} bytes of one connection in one turn");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let start = Instant::now();
    while !flooder.is_finished() {
        assert!(start.elapsed() < PATIENCE);
        world.turn(Duration::from_millis(1));
    }
    world.until("flood over", |world| world.of(flood_token).eof == 1);
    let received = &world.of(flood_token).received;
    assert!(received.len().is_multiple_of(256 << 10) && received.iter().all(|&b| b == 0x55));
}

fn paused_connections_lose_nothing<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    world.driver.pause(token);
    world.settle();
    let expected = Noise(6).bytes(1 << 20);
    let bytes = expected.clone();
    let writer = thread::spawn(move || peer.write_all(&bytes).unwrap());
    for _ in 0..5 {
        world.turn(Duration::from_millis(20));
    }
    assert_eq!(world.of(token).received.len(), 0, "received while paused");
    world.driver.resume(token);
    world.until("all and the end", |world| world.of(token).eof == 1);
    assert!(world.of(token).received == expected);
    writer.join().unwrap();
}

fn pause_and_resume_in_every_order<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    let expected = Noise(8).bytes(2 << 20);
    let bytes = expected.clone();
    let writer = thread::spawn(move || {
        for piece in bytes.chunks(3_001) {
            peer.write_all(piece).unwrap();
        }
    });
    let mut noise = Noise(13);
    let start = Instant::now();
    while world.of(token).eof == 0 {
        assert!(start.elapsed() < PATIENCE);
        for _ in 0..noise.next() % 4 {
            if noise.next().is_multiple_of(2) {
                world.driver.pause(token);
            } else {
                world.driver.resume(token);
            }
        }
        world.turn(Duration::from_millis(noise.next() % 2));
    }
    assert!(world.of(token).received == expected);
    writer.join().unwrap();
}

fn paused_accepting_leaves_peers_in_the_backlog<D: Make>() {
    let mut world = World::<D>::new();
    world.settle();
    world.driver.pause_accept();
    world.settle();
    let _peers: Vec<_> = (0..40).map(|_| world.peer()).collect();
    world.settle();
    assert_eq!(world.tokens.len(), 0);
    world.driver.resume_accept();
    world.until("all accepted", |world| world.tokens.len() == 40);
    // And at once, before the cancelling has been seen.
    world.driver.pause_accept();
    world.driver.resume_accept();
    let _one_more = world.peer();
    world.until("one more", |world| world.tokens.len() == 41);
}

fn running_out_of_descriptors_is_told_once_and_passes<D: Make>() {
    in_child(&format!("descriptors_{}", D::NAME), || {
        // No direct descriptors for uring, so that both meet the process's limit.
        let config = DriverConfig { max_connections: 1, ..config() };
        let mut world = World::<D>::with(&config, "127.0.0.1:0");
        let _first = world.pair();
        // Peers live in a child of ours, so that their descriptors do not count here.
        let mut peers = Command::new("bash")
            .arg("-c")
            .arg(format!(
                "for i in {{1..20}}; do exec {{fd}}<>/dev/tcp/127.0.0.1/{}; done; read",
                world.addr.unwrap().port()
            ))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        set_descriptor_limit(open + 4);
        world.until("told", |world| !world.accept_failed.is_empty());
        let accepted = world.tokens.len();
        for _ in 0..5 {
            world.turn(Duration::from_millis(20));
        }
        assert_eq!(world.accept_failed.len(), 1, "told again while paused");
        assert_eq!(world.accept_failed[0].raw_os_error(), Some(libc::EMFILE));
        assert_eq!(world.tokens.len(), accepted);
        set_descriptor_limit(open + 100);
        world.driver.resume_accept();
        world.until("all accepted", |world| world.tokens.len() == 21);
        drop(peers.stdin.take());
        peers.wait().unwrap();
    });
}

fn set_descriptor_limit(soft: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4_096 };
    // SAFETY: `limit` lives across the call.
    #[allow(unsafe_code, reason = "std has no setrlimit")]
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0);
}

/// Runs `test` alone in a process of its own: this test program again, with only the caller.
pub(super) fn in_child(name: &str, test: impl FnOnce()) {
    const MARK: &str = "RINGWIRE_LAWS_CHILD";
    if std::env::var_os(MARK).is_some_and(|child| child == name) {
        return test();
    }
    let caller = thread::current().name().expect("tests have named threads").to_owned();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1", &caller])
        .env(MARK, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn any_thread_ends_the_wait<D: Make>() {
    let mut world = World::<D>::new();
    let waker = world.driver.waker();
    for round in 1..=20 {
        let waker = waker.clone();
        let from_afar = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            waker.wake();
            waker.wake();
        });
        let start = Instant::now();
        while world.woken < round {
            world.driver.turn(None).unwrap();
            while let Some(event) = world.driver.next_event() {
                world.note(event);
            }
            assert!(start.elapsed() < PATIENCE);
        }
        from_afar.join().unwrap();
        world.settle();
        // Two calls are one event or two.
        assert!(world.woken - round <= 1);
        world.woken = round;
    }
}

fn a_wait_ends_in_time<D: Make>() {
    let mut world = World::<D>::new();
    let start = Instant::now();
    world.turn(Duration::ZERO);
    assert!(start.elapsed() < Duration::from_millis(500));
    let start = Instant::now();
    world.turn(Duration::from_millis(30));
    assert!((30..500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

fn a_wait_ends_in_time_after_a_longer_one<D: Make>() {
    let mut world = World::<D>::new();
    world.driver.waker().wake();
    world.turn(10 * PATIENCE);
    // Each may end early, for nothing.
    for wait_ms in [40, 10, 40, 2, 40] {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(wait_ms) {
            world.turn(Duration::from_millis(wait_ms));
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    }
}

fn closed_listeners_refuse<D: Make>() {
    let mut world = World::<D>::new();
    let (mut peer, token) = world.pair();
    world.driver.close_listeners();
    world.settle();
    assert!(TcpStream::connect(world.addr.unwrap()).is_err());
    world.driver.resume_accept();
    // Those that are connected stay.
    peer.write_all(b"here").unwrap();
    world.until("received", |world| world.of(token).received == b"here");
}

fn many_operations_in_one_turn<D: Make>() {
    let config = DriverConfig { max_connections: 4_096, ..config() };
    let mut world = World::<D>::with(&config, "127.0.0.1:0");
    let mut pairs: Vec<_> = (0..600).map(|_| world.pair()).collect();
    for (_, token) in &pairs {
        // Four requests each: more than the submission queue has places.
        world.driver.send(*token, SendBuf::Owned(vec![1; 10]));
        world.driver.pause(*token);
        world.driver.resume(*token);
        world.driver.shutdown(*token);
    }
    for (peer, _) in &mut pairs {
        peer.write_all(b"x").unwrap();
    }
    let tokens: Vec<_> = pairs.iter().map(|(_, token)| *token).collect();
    world.until("all", |world| {
        tokens.iter().all(|t| world.of(*t).sent.len() == 1 && world.of(*t).received == b"x")
    });
    for (peer, _) in &mut pairs {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, [1; 10]);
    }
    for token in &tokens {
        world.driver.close(*token);
    }
    world.until("all closed", |world| tokens.iter().all(|t| world.of(*t).closed == 1));
    let stats = world.driver.stats();
    assert_eq!(stats.direct_descriptors, 0);
    // This test is about full queues; see their sizes in `uring/ring.rs`.
    assert!(D::NAME != "uring" || stats.completion_overflows > 0, "{stats:?}");
}
