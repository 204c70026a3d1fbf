//! Peers that send faster than they may are closed, or have to wait.

use crate::peer::{binary, close, frame, text};
use crate::service::Ask;
use crate::stage::{On, Setup, Stage};
use ringwire::{Deadlines, OverRate, Rates};
use std::time::{Duration, Instant};

fn with(on: On, rates: Rates) -> Stage {
    Stage::new(on, Setup { rates, ..Setup::default() })
}

on_every_driver! {
    /// What is within the burst is answered, even in one piece with what is not.
    fn too_many_messages_close_with_1008(on) {
        let stage = with(on, Rates { messages_per_second: 2, burst_messages: 5, ..Rates::default() });
        let mut witness = stage.open("/");
        let mut peer = stage.open("/?tag=a");
        peer.send(&(0..9).flat_map(|n| text(&n.to_string())).collect::<Vec<u8>>());
        for number in 0..5 {
            peer.expect_text(&number.to_string());
        }
        peer.expect_failed(1008);
        assert_eq!(stage.closed("a").last().unwrap(), "close RateLimit");
        stage.wait_metric("ringwire_rate_closes_total", 1);
        witness.check_echo("unharmed");
    }

    fn a_steady_peer_is_not_bothered(on) {
        let stage = with(on, Rates { messages_per_second: 100, burst_messages: 3, ..Rates::default() });
        let mut peer = stage.open("/?tag=a");
        for number in 0..20 {
            peer.check_echo(&number.to_string());
            stage.pass(Duration::from_millis(12));
        }
        // Control frames are not messages.
        peer.send(&frame(0x8a, b"").repeat(50));
        peer.check_echo("still here");
        assert_eq!(stage.notes.of("a"), ["upgrade", "open"]);
    }

    /// A message in fragments is one message, and all its bytes count.
    fn fragments_are_one_message(on) {
        let rates = Rates { messages_per_second: 1, bytes_per_second: 100, ..Rates::default() };
        let stage = with(on, rates);
        let mut peer = stage.open("/?tag=a");
        let pieces = [frame(0x01, &[b'x'; 30]), frame(0x00, &[b'x'; 30]), frame(0x80, &[b'x'; 30])];
        peer.send(&pieces.concat());
        peer.expect_text(&"x".repeat(90));
        let mut other = stage.open("/?tag=b");
        other.send(&[frame(0x01, &[b'x'; 60]), frame(0x00, &[b'x'; 60])].concat());
        other.expect_failed(1008);
        assert_eq!(stage.closed("b").last().unwrap(), "close RateLimit");
    }

    /// Nothing is lost: the peer's messages come at the pace it may have.
    fn a_paused_peer_gets_all_its_messages_through(on) {
        let rates =
            Rates { bytes_per_second: 100_000, burst_bytes: 20_000, over: OverRate::Pause, ..Rates::default() };
        // Nobody is pinged or ended for a silence that is not its own.
        let deadlines = Deadlines { idle_ms: 100, pong_ms: 500, assembly_ms: 300, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { rates, deadlines, ..Setup::default() });
        let mut witness = stage.peer();
        let mut peer = stage.open("/?tag=a");
        let begin = (Instant::now(), stage.sim().map(|sim| sim.borrow().now()));
        let message = |n: u8| vec![n; 10_000];
        peer.send_in_background((0..12).flat_map(|n| binary(&message(n))).collect());
        for number in 0..12 {
            loop {
                let (b0, payload) = peer.next_frame();
                if b0 == 0x89 {
                    peer.send(&frame(0x8a, &payload));
                    continue;
                }
                assert_eq!(payload, message(number));
                break;
            }
        }
        // 120,000 bytes, of which 20,000 may come at once and the last 10,000 are paid for later.
        let took = match (stage.sim(), begin.1) {
            (Some(sim), Some(begin)) => sim.borrow().now() - begin,
            _ => begin.0.elapsed(),
        };
        assert!(took > Duration::from_millis(850), "{took:?}");
        assert!(stage.metric("ringwire_rate_pauses_total") > 0);
        assert_eq!(stage.notes.of("a"), ["upgrade", "open"]);
        assert!(stage.metric("ringwire_pool_bytes") > 0, "what was held has been given back");
        witness.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        witness.expect_http(200);
    }

    /// Messages that came in one piece are delivered one by one, and so is what came before a FIN.
    fn a_burst_is_spread_over_time(on) {
        let rates = Rates { messages_per_second: 20, burst_messages: 1, over: OverRate::Pause, ..Rates::default() };
        let stage = with(on, rates);
        let mut peer = stage.open("/?tag=a");
        let burst: Vec<u8> = (0..8).flat_map(|n| text(&format!("message {n}"))).collect();
        peer.send(&burst);
        peer.half_close();
        stage.pass(Duration::from_millis(180));
        let received = stage.metric("ringwire_messages_received_total");
        assert!((2..=6).contains(&received), "{received} after 180 ms");
        for number in 0..8 {
            peer.expect_text(&format!("message {number}"));
        }
        peer.expect_fin();
        assert_eq!(stage.closed("a").last().unwrap(), "close Disconnected");
    }

    /// Whoever is paused still hears and answers a Close.
    fn a_paused_peer_closes_in_order(on) {
        let rates = Rates { messages_per_second: 1, over: OverRate::Pause, ..Rates::default() };
        let stage = with(on, rates);
        let mut peer = stage.open("/?tag=a");
        peer.send(&[text("one"), text("two"), text("three"), text("four")].concat());
        peer.expect_text("one");
        peer.expect_text("two");
        stage.ask(Ask::Close { id: stage.id("a"), code: 4000 });
        peer.expect_close(4000);
        peer.send(&close(4000, ""));
        peer.expect_fin();
        assert_eq!(stage.closed("a").last().unwrap(), "close Local");
    }

    /// A peer that leaves while it is paused is forgotten.
    fn who_leaves_while_paused_is_gone(on) {
        let rates = Rates { bytes_per_second: 10, over: OverRate::Pause, ..Rates::default() };
        let mut stage = with(on, rates);
        let mut peer = stage.open("/?tag=a");
        peer.send(&binary(&[7; 5_000]));
        peer.expect_binary(&[7; 5_000]);
        stage.wait_metric("ringwire_rate_pauses_total", 1);
        let mut other = stage.open("/?tag=b");
        other.check_echo("hello");
        stage.shutdown();
        other.expect_close(1001);
        peer.expect_close(1001);
        stage.stop();
        stage.ended();
    }
}
