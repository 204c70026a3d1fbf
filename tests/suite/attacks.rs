//! What others have fallen to, beside a connection that must not notice.

use crate::peer::{Peer, binary, close, frame, text, upgrade_request};
use crate::stage::{On, Setup, Stage};
use ringwire::{Deadlines, Limits};
use std::time::{Duration, Instant};

/// Sends so many copies of a chunk, keeping the service's answers from piling up.
fn flood(stage: &Stage, peer: &mut Peer, chunk: &[u8], times: usize) {
    for _ in 0..times {
        peer.send(chunk);
        stage.settle();
    }
}

/// The million is a million where it is real; in the simulation of a debug build a tenth shows it.
fn a_million(stage: &Stage) -> usize {
    if stage.sim().is_some() { 100_000 } else { 1_000_000 }
}

on_every_driver! {
    /// CVE-2026-48779 and others: fragments that carry nothing cost nothing.
    fn a_million_empty_fragments(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let mut peer = stage.open("/?tag=a");
        peer.send(&frame(0x01, b"be"));
        let chunk = frame(0x00, b"").repeat(10_000);
        for round in 0..a_million(&stage) / 10_000 {
            flood(&stage, &mut peer, &chunk, 1);
            if round % 10 == 0 {
                witness.check_echo("unharmed");
            }
        }
        assert!(stage.metric("ringwire_outbox_bytes") < 1_000);
        peer.send(&[frame(0x00, b""), frame(0x80, b"gun")].concat());
        peer.expect_text("begun");
    }

    fn a_million_fragments_of_one_byte(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let mut peer = stage.open("/?tag=a");
        peer.send(&frame(0x02, b"x"));
        let chunk = frame(0x00, b"x").repeat(10_000);
        flood(&stage, &mut peer, &chunk, a_million(&stage) / 10_000);
        witness.check_echo("unharmed");
        peer.send(&frame(0x80, b"x"));
        peer.expect_binary(&vec![b'x'; a_million(&stage) + 2]);
        // And the limit is one of bytes, however many fragments they come in.
        let stage = Stage::new(on, Setup { limits: Limits { max_message_bytes: 5_000, ..Limits::default() }, ..Setup::default() });
        let mut peer = stage.open("/");
        peer.send(&frame(0x02, b"x"));
        peer.send(&frame(0x00, b"x").repeat(5_000));
        peer.expect_failed(1009);
    }

    /// Pings are answered as they can be taken; what cannot be sent is not kept.
    fn a_million_pings(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let mut peer = stage.open("/?tag=a");
        peer.stop_reading();
        let chunk = frame(0x89, b"").repeat(10_000);
        peer.send_in_background(chunk.repeat(a_million(&stage) / 10_000));
        let all = a_million(&stage) as u64;
        stage.until("all pings came", || {
            let queued = stage.metric("ringwire_outbox_bytes");
            assert!(queued < 1 << 20, "{queued} bytes of pongs");
            stage.metric("ringwire_pings_received_total") == all
        });
        witness.check_echo("unharmed");
        assert!(stage.metric("ringwire_pongs_withheld_total") > 0);
        peer.start_reading();
        peer.send(&text("last"));
        loop {
            let (b0, payload) = peer.next_frame();
            if b0 == 0x81 {
                assert_eq!(payload, b"last");
                break;
            }
            assert_eq!((b0, payload.len()), (0x8a, 0));
        }
    }

    /// The longest pings, whose answers the peer does not take.
    fn pings_of_who_does_not_read(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        peer.stop_reading();
        peer.send_in_background(frame(0x89, &[b'p'; 125]).repeat(200_000));
        stage.pass(Duration::from_millis(200));
        let queued = stage.metric("ringwire_outbox_bytes");
        assert!(queued < 5 << 20, "{queued} bytes of pongs");
        witness.check_echo("unharmed");
    }

    /// CVE-2020-27813 and others: a declared length sizes nothing.
    fn huge_declared_lengths_reserve_nothing(on) {
        let limits = Limits { max_message_bytes: u32::MAX, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut witness = stage.open("/");
        let mut peers: Vec<Peer> = (0..50)
            .map(|_| {
                let mut peer = stage.open("/");
                peer.send(&[0x82, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf0, 1, 2, 3, 4, 5, 6, 7]);
                peer
            })
            .collect();
        witness.check_echo("unharmed");
        stage.wait_metric("ringwire_busy_connections", 50);
        let resident = resident_bytes();
        assert!(resident < 2 << 30, "{resident} bytes resident");
        for peer in &mut peers {
            peer.half_close();
            peer.expect_end();
        }
    }

    /// CVE-2023-43669: the work on a head is linear in its bytes.
    fn heads_that_take_their_time(on) {
        let limits = Limits { max_head_bytes: 64 << 10, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut witness = stage.open("/");
        let begin = Instant::now();
        for filler in ["a", "\r", "A: b\r\n", "Sec-WebSocket-Protocol: ,,,,,,,,\r\n", "Sec-WebSocket-Extensions: a;b=\"\\\"\r\n"] {
            let mut peer = stage.peer();
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
            let head = filler.repeat((70 << 10) / filler.len());
            for chunk in head.as_bytes().chunks(700) {
                peer.send(chunk);
                stage.settle();
            }
            let answer = String::from_utf8(peer.read_to_end()).unwrap();
            assert!(answer.starts_with("HTTP/1.1 431 ") || answer.starts_with("HTTP/1.1 400 "), "{filler}: {answer}");
            witness.check_echo("unharmed");
        }
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    /// CVE-2021-32640, CVE-2020-7662: lists that backtracking parsers die of.
    fn header_lists_that_take_their_time(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let begin = Instant::now();
        for value in [
            format!("Sec-WebSocket-Protocol: a{}b", " ".repeat(14_000)),
            format!("Sec-WebSocket-Protocol: {}", "a,".repeat(7_000)),
            format!("Sec-WebSocket-Extensions: a; b=\"{}", "\\c".repeat(7_000)),
            format!("Sec-WebSocket-Extensions: {}", "a;".repeat(7_000)),
        ] {
            for _ in 0..20 {
                let mut peer = stage.peer();
                peer.send(upgrade_request("/", &format!("{value}\r\n")).as_bytes());
                let head = peer.take(12);
                assert!(head == b"HTTP/1.1 101" || head == b"HTTP/1.1 400", "{}", head.escape_ascii());
            }
        }
        witness.check_echo("unharmed");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    /// Half-open for hours: the peer is gone without a word.
    fn peers_that_vanish(on) {
        let deadlines = Deadlines { head_ms: 1_000, idle_ms: 200, pong_ms: 1_500, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let peers: Vec<Peer> = (0..20).map(|n| stage.open(&format!("/?tag=p{n}"))).collect();
        let mut half = stage.peer();
        half.send(b"GET / HT");
        let mut witness = stage.open("/?tag=witness");
        // Whatever they are sent, they say nothing.
        for number in 0..20 {
            assert!(stage.closed_while(&format!("p{number}"), || answer_pings(&mut witness)), "p{number}");
            assert_eq!(stage.notes.of(&format!("p{number}")).last().unwrap(), "close Timeout(Pong)");
        }
        half.expect_refused(408);
        assert_eq!(stage.notes.of("witness"), ["upgrade", "open"]);
        drop(peers);
    }

    /// The connection dies while its sends are in flight, and its slot is used again at once.
    fn slots_are_used_again_under_fire(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        for number in 0..60 {
            let tag = format!("p{number}");
            let mut peer = stage.open(&format!("/?tag={tag}"));
            let id = stage.id(&tag);
            peer.send(&text("!burst 3 1000000"));
            peer.send(&binary(&[1; 10_000]));
            for _ in 0..3 {
                stage.remote.send_binary(id, vec![2; 50_000]).unwrap();
            }
            match number % 3 {
                0 => peer.reset(),
                1 => drop(peer),
                _ => {
                    peer.send(&close(1000, ""));
                    drop(peer);
                }
            }
            let mut heir = stage.open(&format!("/?tag=heir{number}"));
            heir.check_echo("nobody else's bytes");
            heir.bye();
            witness.check_echo("unharmed");
            stage.closed(&tag);
        }
        stage.wait_metric("ringwire_connections", 1);
        stage.wait_metric("ringwire_outbox_bytes", 0);
    }

    /// Noise of every kind, on many connections at once.
    fn noise(on) {
        let stage = Stage::plain(on);
        let mut witness = stage.open("/");
        let mut rng = ringwire::sim::SimRng::new(7);
        for round in 0..200 {
            let mut peer = if round % 2 == 0 { stage.open("/") } else { stage.peer() };
            let len = rng.between(1, 400) as usize;
            let noise: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            peer.send(&noise);
            peer.half_close();
            peer.expect_any_end();
        }
        witness.check_echo("unharmed");
        stage.wait_metric("ringwire_connections", 1);
    }

    /// Many connect and leave, in every phase, faster than they can be served.
    fn an_accept_storm(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut witness = stage.open("/");
        for round in 0..20 {
            let mut storm: Vec<Peer> = (0..50).map(|_| stage.peer()).collect();
            for (number, peer) in storm.iter_mut().enumerate() {
                peer.send(&upgrade_request("/", "").as_bytes()[..number * 3]);
            }
            if round % 2 == 0 {
                storm.into_iter().for_each(Peer::reset);
            }
            witness.check_echo("unharmed");
        }
        stage.wait_metric("ringwire_connections", 1);
    }
}

fn answer_pings(witness: &mut Peer) {
    if witness.has_frame() {
        let (b0, _) = witness.next_frame();
        assert_eq!(b0, 0x89);
        witness.send(&frame(0x8a, b""));
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// In the simulation a peer can vanish for good, with its host: no FIN, no reset, no acknowledgement.
#[test]
fn a_host_that_is_gone_is_noticed() {
    let deadlines = Deadlines { write_ms: 1_000, ..Deadlines::default() };
    let stage = Stage::new(On::Sim, Setup { deadlines, ..Setup::default() });
    let mut silent = stage.open("/?tag=silent");
    let mut busy = stage.open("/?tag=busy");
    busy.check_echo("here");
    silent.vanish();
    busy.vanish();
    stage.remote.send_binary(stage.id("busy"), vec![0; 1_000_000]).unwrap();
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.notes.of("busy").last().unwrap(), "close Timeout(Write)");
    stage.pass(Duration::from_secs(170 + 20 + 1));
    assert_eq!(stage.notes.of("silent").last().unwrap(), "close Timeout(Pong)");
    stage.wait_metric("ringwire_connections", 0);
}
