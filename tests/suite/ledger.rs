//! What connections make a shard hold is counted, bounded and given back.

use crate::peer::{Peer, binary, frame, upgrade_request};
use crate::stage::{On, Setup, Stage};
use ringwire::{Limits, Prepared, Publication};

fn with(on: On, limits: Limits) -> Stage {
    let limits = Limits { receive_buffers: 32, receive_buffer_bytes: 4_096, ..limits };
    Stage::new(on, Setup { limits, ..Setup::default() })
}

/// So many bytes of a message that is longer; returns the rest.
fn send_part(peer: &mut Peer, bytes: usize) -> Vec<u8> {
    let mut message = binary(&vec![7; bytes + 1_000]);
    let rest = message.split_off(message.len() - 1_000);
    peer.send(&message);
    rest
}

on_every_driver! {
    /// Buffers that hundreds needed at once are not kept for ever.
    fn a_burst_leaves_nothing_behind(on) {
        let stage = Stage::plain(on);
        let request = upgrade_request("/", "");
        let (begin, rest) = request.as_bytes().split_at(20);
        let mut peers: Vec<_> = (0..400).map(|_| stage.peer()).collect();
        peers.iter_mut().for_each(|peer| peer.send(begin));
        stage.wait_metric("ringwire_busy_connections", 400);
        for peer in &mut peers {
            peer.send(rest);
            peer.expect_http(101);
        }
        let empty = stage.metric("ringwire_receive_buffers") * u64::from(Limits::default().receive_buffer_bytes);
        stage.until_at_rest("free buffers are few", || stage.metric("ringwire_pool_bytes") <= 64 << 10);
        stage.until_at_rest("all is let go", || stage.metric("ringwire_memory_bytes") < empty + (200 << 10));
        peers.iter_mut().for_each(|peer| peer.check_echo("unharmed"));
    }

    fn receive_buffers_of_a_burst_are_let_go(on) {
        let stage = Stage::plain(on);
        let mut peers: Vec<_> = (0..40).map(|_| stage.open("/")).collect();
        let message = vec![7; 60_000];
        peers.iter_mut().for_each(|peer| peer.send(&frame(0x82, &message)));
        peers.iter_mut().for_each(|peer| peer.expect_binary(&message));
        stage.until_at_rest("all is let go", || stage.metric("ringwire_receive_buffers") <= 1);
        peers.iter_mut().for_each(|peer| peer.check_echo("unharmed"));
    }

    fn what_is_half_received_is_counted_and_given_back(on) {
        let stage = with(on, Limits::default());
        let base = stage.metric("ringwire_memory_bytes");
        let mut peer = stage.open("/");
        let rest = send_part(&mut peer, 100_000);
        stage.until("it is received", || stage.metric("ringwire_received_bytes") >= 100_000);
        assert!(stage.metric("ringwire_received_bytes") < 300_000);
        assert!(stage.metric("ringwire_memory_bytes") >= base + 100_000);
        let mut half = stage.peer();
        half.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n");
        stage.until("a head is half there", || stage.metric("ringwire_early_bytes") > 0);
        half.send(b"\r\n");
        half.expect_http(200);
        peer.send(&rest);
        peer.expect_binary(&vec![7; 101_000]);
        stage.wait_metric("ringwire_early_bytes", 0);
        stage.wait_metric("ringwire_received_bytes", 0);
    }

    /// Half requests hold so much together; whole ones are served all the same.
    fn what_comes_before_the_handshake_has_a_budget(on) {
        let stage = with(on, Limits { max_early_bytes: 20_000, ..Limits::default() });
        let half = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", "x".repeat(7_000));
        let mut inside: Vec<Peer> = (0..2).map(|_| stage.peer()).collect();
        for peer in &mut inside {
            peer.send(half.as_bytes());
        }
        stage.until("two are half there", || stage.metric("ringwire_early_bytes") > 14_000);
        let mut third = stage.peer();
        third.send(half.as_bytes());
        assert_eq!(third.expect_refused(503).header("Retry-After"), Some("5"));
        stage.wait_metric("ringwire_memory_refusals_total", 1);
        stage.open("/").check_echo("a handshake in one piece");
        for peer in &mut inside {
            peer.send(b"\r\n");
            peer.expect_http(404);
        }
        stage.wait_metric("ringwire_early_bytes", 0);
    }

    fn a_connection_has_a_budget(on) {
        let stage = with(on, Limits { max_connection_bytes: 50_000, ..Limits::default() });
        let mut witness = stage.open("/");
        let mut peer = stage.open("/?tag=a");
        peer.send(&frame(0x02, &[7; 60_000]));
        peer.expect_failed(1013);
        assert_eq!(stage.closed("a").last().unwrap(), "close Memory");
        stage.wait_metric("ringwire_memory_closes_total", 1);
        stage.wait_metric("ringwire_received_bytes", 0);
        witness.check_echo("unharmed");
    }

    /// Beyond a shard's budget those who hold most have to go, and nobody else.
    fn a_shard_has_a_budget(on) {
        let limits =
            Limits { max_shard_bytes: 8 << 20, max_message_bytes: 8 << 20, max_connections: 64, ..Limits::default() };
        let stage = with(on, limits);
        let mut idle = stage.open("/");
        let mut large = stage.open("/?tag=large");
        let _ = send_part(&mut large, 3_000_000);
        let mut small = stage.open("/?tag=small");
        let rest = send_part(&mut small, 1_500_000);
        stage.until("both are received", || stage.metric("ringwire_received_bytes") >= 4_500_000);
        assert_eq!(stage.metric("ringwire_memory_closes_total"), 0);
        let mut last = stage.open("/?tag=last");
        let rest_of_last = send_part(&mut last, 1_500_000);
        large.expect_failed(1013);
        assert_eq!(stage.closed("large").last().unwrap(), "close Memory");
        for (peer, rest) in [(&mut small, rest), (&mut last, rest_of_last)] {
            peer.send(&rest);
            peer.expect_binary(&vec![7; 1_501_000]);
        }
        idle.check_echo("unharmed");
        stage.wait_metric("ringwire_memory_closes_total", 1);
        stage.until("it is given back", || stage.metric("ringwire_memory_bytes") < 8 << 20);
    }

    /// Whoever does not read is one who holds.
    fn queued_bytes_count(on) {
        let limits = Limits { max_shard_bytes: 6 << 20, max_outbox_bytes: 64 << 20, ..Limits::default() };
        let stage = with(on, Limits { max_connections: 64, ..limits });
        let mut witness = stage.open("/");
        let mut peer = stage.narrow_peer();
        peer.upgrade("/?tag=a");
        peer.stop_reading();
        peer.send(&crate::peer::text("!burst 20 1000000"));
        assert_eq!(stage.closed("a").last().unwrap(), "close Memory");
        stage.wait_metric("ringwire_outbox_bytes", 0);
        witness.check_echo("unharmed");
    }

    /// Lists, and what topics retain, are in the books, and out of them when they have gone.
    fn topics_count(on) {
        let stage = with(on, Limits::default());
        let memory = || stage.metric("ringwire_memory_bytes");
        let base = memory();
        let value = Prepared::binary(vec![7; 1_000_000]);
        stage.remote.publish_with(Publication::new("kept", &value).retain()).unwrap();
        stage.until("it is kept", || memory() >= base + 1_000_000);
        let mut peer = stage.open("/");
        for number in 0..200 {
            peer.send(&crate::peer::text(&format!("!sub a/{number:0>100}")));
        }
        stage.until("all are subscribed", || stage.metric("ringwire_subscriptions") == 200);
        assert!(memory() >= base + 1_000_000 + 200 * 150, "{} after {base}", memory());
        drop(peer);
        stage.until("none is", || stage.metric("ringwire_subscriptions") == 0);
        stage.remote.publish_with(Publication::new("kept", &Prepared::binary(Vec::new())).retain()).unwrap();
        stage.until("it is given back", || memory() < base + 1_000_000);
    }
}
