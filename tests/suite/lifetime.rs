//! Connections that end because the server wants it so: by age, and one after the other when it drains.

use crate::peer::{Peer, close};
use crate::stage::{Setup, Stage};
use ringwire::{Deadlines, Goodbye};
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

on_every_driver! {
    /// However busy, a connection is told to go at its time.
    fn an_old_connection_is_asked_to_go(on) {
        let deadlines = Deadlines {
            max_lifetime_ms: 1_500,
            lifetime_jitter_percent: 0,
            goodbye: Goodbye::ServiceRestart,
            ..Deadlines::default()
        };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut idle = stage.open("/?tag=idle");
        let mut busy = stage.open("/?tag=busy");
        for number in 0..10 {
            busy.check_echo(&number.to_string());
            stage.pass(ms(50));
        }
        for (peer, tag) in [(&mut idle, "idle"), (&mut busy, "busy")] {
            peer.expect_close(1012);
            peer.send(&close(1012, ""));
            peer.expect_fin();
            assert_eq!(stage.closed(tag).last().unwrap(), "close Local");
        }
        stage.wait_metric("ringwire_lifetimes_ended_total", 2);
    }

    /// Who does not answer is cut as after any Close.
    fn an_old_connection_that_stays_is_cut(on) {
        let deadlines = Deadlines { max_lifetime_ms: 100, close_ms: 100, ..Deadlines::default() };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        peer.expect_close(1001);
        peer.expect_end();
        assert_eq!(stage.closed("a").last().unwrap(), "close Timeout(Close)");
    }

    /// A stream of events ends whole, another body goes on for as long as its handler wants.
    fn an_old_stream_of_events_ends(on) {
        let deadlines = Deadlines {
            max_lifetime_ms: 300,
            lifetime_jitter_percent: 0,
            event_idle_ms: 0,
            ..Deadlines::default()
        };
        let stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let (mut events, mut body) = (stage.peer(), stage.peer());
        body.send(b"GET /body?tag=body HTTP/1.1\r\nHost: a\r\n\r\n");
        body.expect_http(200);
        body.expect_chunk("begin ");
        for tag in ["first", "second"] {
            events.send(format!("GET /events?tag={tag} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            events.expect_http(200);
            events.expect_chunk("id: 1\nevent: hello\ndata: welcome\n\n");
            events.expect_chunk("");
            events.expect_fin();
            assert_eq!(stage.closed(tag), ["open", "close Local"]);
            events = stage.peer();
        }
        stage.wait_metric("ringwire_lifetimes_ended_total", 2);
        stage.remote.send_text(stage.id("body"), "and on").unwrap();
        body.expect_chunk("and on");
    }

    /// A drain with a window tells its peers one after the other, and serves the others meanwhile.
    fn a_drain_is_paced(on) {
        let deadlines =
            Deadlines { drain_window_ms: 2_000, goodbye: Goodbye::ServiceRestart, ..Deadlines::default() };
        let mut stage = Stage::new(on, Setup { deadlines, shards: 2, ..Setup::default() });
        let mut peers: Vec<Peer> = (0..20).map(|n| stage.open(&format!("/?tag=p{n}"))).collect();
        stage.shutdown();
        stage.wait_metric("ringwire_draining", 2);
        stage.wait_metric("ringwire_drain_connections", 20);
        stage.pass(ms(1_000));
        let told: Vec<bool> = peers.iter_mut().map(Peer::has_frame).collect();
        let count = told.iter().filter(|told| **told).count();
        assert!((3..=17).contains(&count), "{count} of 20 were told in half of the window");
        for (peer, told) in peers.iter_mut().zip(told) {
            if told {
                peer.expect_close(1012);
                peer.send(&close(1012, ""));
                peer.expect_fin();
            }
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            if stage.notes.of(&format!("p{number}")).last().unwrap() == "open" {
                peer.expect_close(1012);
                peer.send(&close(1012, ""));
                peer.expect_fin();
            }
        }
        drop(peers);
        stage.ended();
        for number in 0..20 {
            assert_eq!(stage.notes.of(&format!("p{number}")).last().unwrap(), "close Shutdown");
        }
    }

    /// Until it is told, a connection of a draining server is served.
    fn a_draining_server_serves_who_is_left(on) {
        let deadlines = Deadlines { drain_window_ms: 60_000, ..Deadlines::default() };
        let mut stage = Stage::new(on, Setup { deadlines, ..Setup::default() });
        let mut peers: Vec<Peer> = (0..5).map(|_| stage.open("/")).collect();
        stage.shutdown();
        stage.wait_metric("ringwire_draining", 1);
        let mut served = 0;
        for peer in &mut peers {
            if !peer.has_frame() {
                peer.check_echo("still served");
                served += 1;
            }
        }
        assert!(served >= 3, "{served} of 5, in the first moments of a minute");
        if stage.sim().is_none() {
            let progress = stage.drain_progress().unwrap();
            assert_eq!(progress.began_with, 5);
            assert!(progress.left >= 3);
        }
        stage.stop();
        stage.ended();
    }
}
