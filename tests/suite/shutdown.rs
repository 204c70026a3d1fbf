//! The end of a server: graceful and bounded, or at once.

use crate::peer::{binary, close, frame, text, upgrade_request};
use crate::service::Ask;
use crate::stage::{Setup, Stage};
use ringwire::Deadlines;
use std::time::{Duration, Instant};

on_every_driver! {
    fn says_goodbye_to_all(on) {
        let mut stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut peers: Vec<_> = (0..20).map(|n| stage.open(&format!("/?tag=p{n}"))).collect();
        let idle = stage.peer();
        let mut half = stage.peer();
        half.send(&upgrade_request("/?tag=half", "").as_bytes()[..30]);
        stage.wait_metric("ringwire_connections", 22);
        for peer in &mut peers {
            peer.send(&text("before"));
            peer.expect_text("before");
        }
        stage.shutdown();
        for peer in &mut peers {
            peer.expect_close(1001);
            peer.send(&close(1001, ""));
            peer.expect_fin();
        }
        half.expect_end();
        drop((peers, idle));
        stage.ended();
        for number in 0..20 {
            assert_eq!(stage.notes.of(&format!("p{number}"))[2..], ["close Shutdown"]);
        }
        assert!(stage.notes.of("half").is_empty());
    }

    fn does_not_wait_for_ever(on) {
        let deadlines = Deadlines { drain_ms: 200, ..Deadlines::default() };
        let mut stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        let begin = Instant::now();
        stage.shutdown();
        peer.expect_close(1001);
        peer.send(&frame(0x89, b"I stay"));
        stage.ended();
        assert!(begin.elapsed() < Duration::from_secs(8));
        assert_eq!(stage.notes.of("a"), ["upgrade", "open", "close Shutdown"]);
    }

    /// Bytes that are queued go out before the goodbye.
    fn delivers_what_is_queued_first(on) {
        let mut stage = Stage::plain(on);
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        peer.stop_reading();
        peer.send(&text("!burst 3 1000000"));
        stage.wait("a", "burst 3 0 0");
        stage.shutdown();
        stage.pass(Duration::from_millis(30));
        peer.start_reading();
        for _ in 0..3 {
            assert_eq!(peer.next_frame().1.len(), 1_000_000);
        }
        peer.expect_close(1001);
        peer.send(&close(1001, ""));
        peer.expect_fin();
        drop(peer);
        stage.ended();
    }

    /// Receiving is paused when the end comes: the peer's FIN is seen all the same.
    fn ends_with_a_paused_peer(on) {
        let deadlines = Deadlines { drain_ms: 60_000, close_ms: 60_000, ..Deadlines::default() };
        let mut stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.narrow_peer();
        peer.stop_reading();
        peer.send(b"GET /bytes?3000000 HTTP/1.1\r\nHost: a\r\n\r\n");
        stage.until("receiving pauses", || stage.metric("ringwire_receive_pauses_total") > 0);
        stage.shutdown();
        stage.pass(Duration::from_millis(20));
        peer.start_reading();
        assert_eq!(peer.expect_http(200).body.len(), 3_000_000);
        peer.expect_fin();
        drop(peer);
        stage.ended();
    }

    fn takes_nobody_in_any_more(on) {
        let deadlines = Deadlines { drain_ms: 1_000, ..Deadlines::default() };
        let mut stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        stage.shutdown();
        peer.expect_close(1001);
        if let Some(addr) = stage.addr() {
            stage.until("the listener is closed", || std::net::TcpStream::connect(addr).is_err());
        } else {
            stage.peer().expect_end();
        }
        peer.send(&close(1001, ""));
        peer.expect_fin();
        drop(peer);
        stage.ended();
    }

    fn stops_at_once(on) {
        let mut stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut peers: Vec<_> = (0..10).map(|n| stage.open(&format!("/?tag=p{n}"))).collect();
        peers[0].send(&binary(&[0; 1_000]));
        stage.stop();
        stage.ended();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.read_to_end();
            assert_eq!(stage.notes.of(&format!("p{number}")).last().unwrap(), "close Shutdown");
        }
    }

    fn a_handler_may_end_its_shard(on) {
        let mut stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        stage.ask(Ask::Stop);
        peer.expect_close(1001);
        peer.send(&close(1001, ""));
        peer.expect_fin();
        drop(peer);
        stage.ended();
    }

    fn ends_without_connections(on) {
        let mut stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        stage.shutdown();
        stage.ended();
    }
}
