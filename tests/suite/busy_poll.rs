//! Polling instead of sleeping: while there is traffic, and not when there is none.

use crate::peer::{frame, text};
use crate::stage::{On, Setup, Stage};
use ringwire::BusyPoll;
use std::time::Duration;

/// Long enough that a busy host's answers fall into it.
const WINDOW: BusyPoll = BusyPoll { window_us: 50_000, max_vain_percent: 100 };

on_every_driver! {
    fn traffic_is_met_and_an_idle_shard_sleeps(on) {
        let stage = Stage::new(on, Setup { busy_poll: WINDOW, ..Setup::default() });
        let mut peer = stage.open("/");
        for _ in 0..3 {
            for n in 0..200 {
                peer.check_echo(&format!("{n}"));
            }
            if on == On::Sim {
                continue;
            }
            assert!(stage.metric("ringwire_busy_polls_met_total") > 0);
            let vain = stage.metric("ringwire_busy_polls_vain_total");
            stage.wait_metric("ringwire_busy_polls_vain_total", vain + 1);
            let (polled, turns) = (stage.metric("ringwire_busy_poll_nanoseconds_total"), stage.metric("ringwire_waits_total"));
            stage.pass(Duration::from_millis(300));
            stage.wait_metric("ringwire_busy_poll_nanoseconds_total", polled);
            // Timers: none of a millisecond.
            assert!(stage.metric("ringwire_waits_total") - turns < 100);
        }
    }

    fn timers_and_other_threads_are_heard_while_it_polls(on) {
        let busy_poll = BusyPoll { window_us: 1_000_000, max_vain_percent: 100 };
        let deadlines = ringwire::Deadlines { idle_ms: 100, pong_ms: 2_000, ..ringwire::Deadlines::default() };
        let stage = Stage::new(on, Setup { busy_poll, deadlines, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        let id = stage.id("a");
        // On a busy host there may be pings in between.
        let next_text = |peer: &mut crate::peer::Peer| loop {
            match peer.next_frame() {
                // Unanswered, none would follow before `pong_ms`.
                (0x89, payload) => peer.send(&frame(0x8a, &payload)),
                (opcode, payload) => return (opcode, String::from_utf8(payload).unwrap()),
            }
        };
        for n in 0..20 {
            stage.remote.send_text(id, format!("{n}")).unwrap();
            assert_eq!(next_text(&mut peer), (0x81, n.to_string()));
        }
        peer.send(&text("still there"));
        assert_eq!(next_text(&mut peer), (0x81, "still there".to_owned()));
        let (opcode, _) = peer.next_frame();
        assert_eq!(opcode, 0x89, "a ping after idle_ms");
    }

    fn shards_that_share_a_core_sleep(on) {
        let shards = 2 * ringwire::available_cores().len().max(1);
        let stage = Stage::new(on, Setup { busy_poll: WINDOW, shards, ..Setup::default() });
        let mut peer = stage.open("/");
        for n in 0..50 {
            peer.check_echo(&format!("{n}"));
        }
        assert_eq!(stage.metric("ringwire_busy_poll_nanoseconds_total"), 0);
    }
}
