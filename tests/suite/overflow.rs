//! What becomes of messages for a peer that does not keep up, by policy, to the last one.

use crate::peer::{Peer, text};
use crate::stage::{Setup, Stage};
use ringwire::{Deadlines, Limits, Prepared, Publication};

const BYTES: usize = 9_000;

fn small(on_outbox: u32) -> Setup {
    let limits = Limits { max_outbox_bytes: on_outbox, pause_receive_bytes: 20_000, ..Limits::default() };
    // A peer that is to be slow may be, however slow the host is.
    let deadlines = Deadlines { write_ms: 0, ..Deadlines::default() };
    Setup { limits, deadlines, ..Setup::default() }
}

/// Messages begin with their number.
fn message(number: u32) -> Prepared {
    Prepared::binary([&number.to_be_bytes()[..], &[7; BYTES - 4]].concat())
}

/// A peer that reads nothing, subscribed to `feed`.
fn deaf(stage: &Stage, target: &str, orders: &[&str]) -> Peer {
    let mut deaf = stage.narrow_peer();
    deaf.upgrade(target);
    for order in orders {
        deaf.send(&text(order));
        deaf.next_frame();
    }
    deaf.stop_reading();
    deaf
}

/// Publishes, one message after the other, until the metric is that large; how many they were.
fn publish_until(stage: &Stage, metric: &str, at_least: u64, key: impl Fn(u32) -> u64) -> u32 {
    let mut number = 0;
    while stage.metric(metric) < at_least {
        let message = message(number);
        stage.remote.publish_with(Publication::new("feed", &message).key(key(number))).unwrap();
        number += 1;
        assert!(number < 20_000, "{metric} is {} only", stage.metric(metric));
        stage.wait_metric("ringwire_publications_total", number.into());
        stage.wait_metric("ringwire_broadcast_bytes", 0);
    }
    number
}

/// What the peer has heard when it is asked for an echo.
fn numbers(peer: &mut Peer) -> Vec<u32> {
    peer.start_reading();
    peer.send(&text("end"));
    let mut numbers = Vec::new();
    loop {
        let (b0, payload) = peer.next_frame();
        if payload == b"end" {
            return numbers;
        }
        assert_eq!((b0, payload.len()), (0x82, BYTES));
        numbers.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
    }
}

/// The sum of what the handler was told: newest, oldest, conflated.
fn told(stage: &Stage, tag: &str) -> [u64; 3] {
    let mut sum = [0; 3];
    for event in stage.notes.of(tag) {
        if let Some(counts) = event.strip_prefix("dropped ") {
            let counts = counts.split(' ').map(|count| count.parse::<u64>().unwrap());
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    sum
}

on_every_driver! {
    fn a_connection_may_have_a_smaller_outbox_than_others(on) {
        let stage = Stage::new(on, small(4 << 20));
        let mut deaf = deaf(&stage, "/little?tag=d", &["!sub feed"]);
        let published = publish_until(&stage, "ringwire_messages_dropped_total", 20, |_| 0);
        // One send may be under way beside.
        assert!(stage.metric("ringwire_outbox_bytes") <= 50_000);
        let heard = numbers(&mut deaf);
        let dropped = stage.metric("ringwire_messages_dropped_total");
        assert_eq!(heard, (0..published - dropped as u32).collect::<Vec<_>>());
        assert_eq!(told(&stage, "d"), [dropped, 0, 0]);
    }

    fn the_newest_are_dropped_by_default(on) {
        let stage = Stage::new(on, small(100_000));
        let mut peer = deaf(&stage, "/?tag=a", &["!sub feed"]);
        let mut witness = stage.open("/");
        witness.order("!sub feed", "Ok(true)");
        witness.send_in_background(Vec::new());
        let sent = publish_until(&stage, "ringwire_messages_dropped_total", 20, |_| 0);
        let dropped = stage.metric("ringwire_messages_dropped_total");
        stage.until("it is told", || told(&stage, "a") == [dropped, 0, 0]);
        let heard = numbers(&mut peer);
        assert_eq!(heard.len() as u64, u64::from(sent) - dropped);
        assert!(heard.is_sorted_by(|a, b| a < b) && heard[..8] == [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(numbers(&mut witness).len() as u32, sent, "the other misses nothing");
        stage.wait("a", "drain");
    }

    fn the_oldest_make_room(on) {
        let stage = Stage::new(on, small(100_000));
        let mut peer = deaf(&stage, "/?tag=a", &["!sub feed oldest"]);
        let sent = publish_until(&stage, "ringwire_messages_dropped_oldest_total", 20, |_| 0);
        let dropped = stage.metric("ringwire_messages_dropped_oldest_total");
        assert_eq!(stage.metric("ringwire_messages_dropped_total"), 0);
        stage.until("it is told", || told(&stage, "a") == [0, dropped, 0]);
        let heard = numbers(&mut peer);
        assert_eq!(heard.len() as u64, u64::from(sent) - dropped);
        assert!(heard.is_sorted_by(|a, b| a < b), "{heard:?}");
        assert_eq!(heard.last(), Some(&(sent - 1)), "the last one came");
        stage.wait_metric("ringwire_outbox_bytes", 0);
        stage.wait("a", "drain");
        peer.check_echo("and on");
    }

    fn the_latest_value_of_each_key_comes(on) {
        let stage = Stage::new(on, small(100_000));
        let mut peer = deaf(&stage, "/?tag=a", &["!sub feed conflate"]);
        // Three things whose values change, one of them seldom.
        let key = |number: u32| if number % 10 == 9 { 2 } else { u64::from(number % 2) };
        let sent = publish_until(&stage, "ringwire_messages_conflated_total", 50, key);
        let conflated = stage.metric("ringwire_messages_conflated_total");
        assert_eq!(stage.metric("ringwire_messages_dropped_total"), 0);
        stage.until("it is told", || told(&stage, "a") == [0, 0, conflated]);
        let heard = numbers(&mut peer);
        assert_eq!(heard.len() as u64, u64::from(sent) - conflated);
        for thing in 0..3 {
            let of_it: Vec<u32> = heard.iter().copied().filter(|number| key(*number) == thing).collect();
            assert!(of_it.is_sorted_by(|a, b| a < b), "{of_it:?}");
            let last = (0..sent).rev().find(|number| key(*number) == thing);
            assert_eq!(of_it.last().copied(), last, "the latest of {thing}");
        }
        stage.wait_metric("ringwire_outbox_bytes", 0);
    }

    /// A policy of the connection is for all its messages, and keeps them in order.
    fn a_connections_policy_is_for_all_it_is_sent(on) {
        let stage = Stage::new(on, small(100_000));
        let mut peer = deaf(&stage, "/?tag=a", &["!overflow oldest", "!sub feed"]);
        let mut number = 0;
        while stage.metric("ringwire_messages_dropped_oldest_total") < 20 {
            let message = message(number);
            match number % 3 {
                0 => stage.remote.publish("feed", &message).unwrap(),
                1 => stage.remote.send_prepared(stage.id("a"), &message).unwrap(),
                _ => {
                    let ringwire::Message::Binary(bytes) = message.message() else { unreachable!() };
                    stage.remote.send_binary(stage.id("a"), bytes.to_vec()).unwrap();
                }
            }
            number += 1;
            stage.wait_metric("ringwire_mailbox_commands_total", number.into());
            stage.wait_metric("ringwire_broadcast_bytes", 0);
        }
        let dropped = stage.metric("ringwire_messages_dropped_oldest_total");
        let heard = numbers(&mut peer);
        assert_eq!(heard.len() as u64, u64::from(number) - dropped);
        assert!(heard.is_sorted_by(|a, b| a < b) && heard.last() == Some(&(number - 1)), "{heard:?}");
    }

    fn who_does_not_keep_up_may_be_closed(on) {
        for (order, code, reason) in [("!sub feed 1013", 1013, "TRY"), ("!sub feed 4008", 4008, "own")] {
            let stage = Stage::new(on, small(100_000));
            let mut peer = deaf(&stage, "/?tag=a", &[order]);
            let sent = publish_until(&stage, "ringwire_overflow_closes_total", 1, |_| 0);
            peer.start_reading();
            // All that was taken comes before the Close frame.
            for number in 0..sent - 1 {
                assert_eq!(peer.next_frame().1[..4], number.to_be_bytes(), "{reason}");
            }
            assert_eq!(peer.expect_close(code), "too much waits to be read");
            peer.send(&crate::peer::close(code, ""));
            assert_eq!(stage.closed("a").last().unwrap(), "close Local");
            stage.wait_metric("ringwire_messages_dropped_total", 1);
        }
    }

    /// In one turn, before anything has been handed to the kernel.
    fn what_one_turn_publishes_is_held_to_the_policy(on) {
        let stage = Stage::new(on, small(200_000));
        let mut peer = stage.open("/?tag=a");
        for order in ["!sub feed oldest", "!sub ticks conflate"] {
            peer.order(order, "Ok(true)");
        }
        let large = "x".repeat(10_000);
        let mut orders = "!run".to_owned();
        for number in 0..40 {
            orders += &format!(" !pub feed : {number:02} {large} ; !pub ticks {} : tick {number:02} ;", number % 4);
        }
        peer.send(&text(orders.trim_end_matches(" ;")));
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last: &String| !last.starts_with("39")) {
            heard.push(String::from_utf8(peer.next_frame().1).unwrap());
        }
        peer.send(&text("end"));
        while heard.last().unwrap() != "end" {
            heard.push(String::from_utf8(peer.next_frame().1).unwrap());
        }
        let lost = stage.metric("ringwire_messages_dropped_oldest_total") + stage.metric("ringwire_messages_conflated_total");
        assert_eq!(heard.len() as u64 - 1, 80 - lost, "{lost} are lost");
        assert!(lost >= 20, "{lost} are lost");
        let feed: Vec<&String> = heard.iter().filter(|line| line.ends_with('x')).collect();
        assert!(feed.is_sorted());
        for key in 36..40 {
            assert!(heard.contains(&format!("tick {key}")), "the latest of each");
        }
        stage.wait_metric("ringwire_outbox_bytes", 0);
    }

    /// Pings are answered and a Close frame comes, whatever waits.
    fn control_frames_are_not_dropped(on) {
        let stage = Stage::new(on, small(100_000));
        let mut peer = deaf(&stage, "/?tag=a", &["!overflow oldest", "!sub feed"]);
        publish_until(&stage, "ringwire_messages_dropped_oldest_total", 5, |_| 0);
        peer.start_reading();
        peer.send(&[crate::peer::frame(0x89, b"pinged"), text("!close 4000 full")].concat());
        let mut pong = false;
        loop {
            let (b0, payload) = peer.next_frame();
            match b0 {
                0x8a => pong = payload == b"pinged",
                0x88 => break assert_eq!(payload[..2], 4000_u16.to_be_bytes()),
                _ => {}
            }
        }
        assert!(pong);
    }

    fn a_handler_that_is_told_may_unsubscribe(on) {
        let stage = Stage::new(on, small(100_000));
        let mut peer = deaf(&stage, "/unsubscribe-at-drop?tag=a", &["!sub feed"]);
        publish_until(&stage, "ringwire_messages_dropped_total", 1, |_| 0);
        stage.wait_metric("ringwire_subscriptions", 0);
        let heard = numbers(&mut peer);
        assert!(heard.is_sorted_by(|a, b| a < b));
    }
}
