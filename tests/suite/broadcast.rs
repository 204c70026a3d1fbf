//! One message to many: order, exactly once, who does not keep up, and other traffic in between.

use crate::peer::{Peer, close, text};
use crate::service::Ask;
use crate::stage::{Setup, Stage};
use ringwire::{CloseCode, Limits, Prepared, RemoteError};

fn with(limits: Limits, shards: usize) -> Setup {
    Setup { limits, shards, ..Setup::default() }
}

fn open_many(stage: &Stage, count: usize) -> Vec<Peer> {
    (0..count).map(|number| stage.open(&format!("/?tag=p{number}"))).collect()
}

/// `publisher: number` lines come in each publisher's order, and all of them.
#[track_caller]
fn expect_all(peer: &mut Peer, publishers: usize, messages: usize) {
    let mut next = vec![0; publishers];
    for _ in 0..publishers * messages {
        let (b0, payload) = peer.next_frame();
        assert_eq!(b0, 0x81);
        let line = String::from_utf8(payload).unwrap();
        let (publisher, number) = line.trim_end_matches('.').split_once(": ").unwrap();
        let next = &mut next[publisher.parse::<usize>().unwrap()];
        assert_eq!(number, next.to_string(), "out of order: {line}");
        *next += 1;
    }
}

on_every_driver! {
    fn every_connection_hears_every_message_once_and_in_order(on) {
        for shards in [1, 2] {
            let limits = Limits { max_broadcast_sends_per_turn: 4, ..Limits::default() };
            let stage = Stage::new(on, with(limits, shards));
            let mut peers = open_many(&stage, 9);
            std::thread::scope(|scope| {
                for publisher in 0..3 {
                    let remote = stage.remote.clone();
                    scope.spawn(move || {
                        for number in 0..200 {
                            // Some of them are longer than what is copied.
                            let dots = ".".repeat(if number % 10 == publisher { 20_000 } else { number });
                            let line = Prepared::text(format!("{publisher}: {number}{dots}"));
                            remote.broadcast(&line, 0).unwrap();
                        }
                    });
                }
                for number in 0..200 {
                    peers[4].send(&text(&format!("!all 3: {number}")));
                }
            });
            for peer in &mut peers {
                expect_all(peer, 4, 200);
                peer.check_echo("nothing more");
            }
            stage.wait_metric("ringwire_broadcasts_total", 800 * stage.shards as u64);
            stage.wait_metric("ringwire_broadcast_bytes", 0);
            stage.wait_metric("ringwire_outbox_bytes", 0);
        }
    }

    /// What a handler sends in one turn keeps its order, shared or not, small or large.
    fn shared_frames_and_others_keep_their_order(on) {
        let stage = Stage::plain(on);
        let mut peers = open_many(&stage, 3);
        let sizes = [20, 100, 20_000, 5, 70_000, 70_000, 300_000, 1, 20_000, 3];
        stage.ask(Ask::SendEach { sizes: sizes.to_vec() });
        for peer in &mut peers {
            for (number, size) in sizes.iter().enumerate() {
                peer.expect_binary(&vec![number as u8; *size]);
                peer.expect_text(&format!("after {number}"));
            }
            peer.check_echo("and on");
        }
    }

    fn a_handler_decides_who_hears_it(on) {
        let stage = Stage::new(on, with(Limits::default(), 2));
        let mut rooms: Vec<Peer> = (0..6).map(|n| stage.open(&format!("/room{}?tag=p{n}", n % 2 + 1))).collect();
        for number in 0..10 {
            stage.remote.broadcast(&Prepared::text(format!("to {}", number % 2 + 1)), number % 2 + 1).unwrap();
        }
        stage.remote.broadcast(&Prepared::binary(&b"to all"[..]), 0).unwrap();
        for (number, peer) in rooms.iter_mut().enumerate() {
            for _ in 0..5 {
                peer.expect_text(&format!("to {}", number % 2 + 1));
            }
            peer.expect_binary(b"to all");
        }
    }

    /// Exactly what it misses is counted, what it does not is in order, and the others miss nothing.
    fn one_that_does_not_read_misses_what_is_counted(on) {
        let limits = Limits { max_outbox_bytes: 100_000, pause_receive_bytes: 20_000, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 1));
        let mut witnesses = open_many(&stage, 3);
        let mut deaf = stage.narrow_peer();
        deaf.upgrade("/?tag=deaf");
        deaf.stop_reading();
        let message = |number: u32| [&number.to_be_bytes()[..], &[7; 9_000]].concat();
        let mut sent = 0;
        while stage.metric("ringwire_messages_dropped_total") < 20 {
            stage.remote.broadcast(&Prepared::binary(message(sent)), 0).unwrap();
            for witness in &mut witnesses {
                witness.expect_binary(&message(sent));
            }
            sent += 1;
        }
        stage.wait_metric("ringwire_broadcast_bytes", 0);
        stage.until("the others have theirs", || stage.metric("ringwire_outbox_bytes") <= 100_000);
        let dropped = stage.metric("ringwire_messages_dropped_total") as u32;
        let told = || stage.notes.of("deaf").iter().filter(|event| *event == "broadcast Dropped").count();
        stage.until("all drops are told", || told() == dropped as usize);
        deaf.start_reading();
        let mut last = None;
        for _ in 0..sent - dropped {
            let (_, payload) = deaf.next_frame();
            let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
            assert!(payload == message(number) && last < Some(number), "{number} after {last:?}");
            last = Some(number);
        }
        stage.wait("deaf", "drain");
        stage.remote.broadcast(&Prepared::text("now it hears"), 0).unwrap();
        deaf.expect_text("now it hears");
        deaf.check_echo("and on");
    }

    fn a_handler_may_close_who_does_not_keep_up(on) {
        let limits = Limits { max_outbox_bytes: 100_000, pause_receive_bytes: 20_000, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 1));
        let mut witness = stage.open("/");
        let mut deaf = stage.narrow_peer();
        deaf.upgrade("/strict?tag=deaf");
        deaf.stop_reading();
        let noise = Prepared::binary(vec![7; 9_000]);
        while stage.metric("ringwire_messages_dropped_total") == 0 {
            stage.remote.broadcast(&noise, 0).unwrap();
            witness.expect_binary(&[7; 9_000]);
        }
        deaf.start_reading();
        let code = loop {
            match deaf.next_frame() {
                (0x82, payload) => assert!(payload == [7; 9_000]),
                (0x88, payload) => break payload,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code[..2], 1013_u16.to_be_bytes());
        deaf.send(&close(1013, ""));
        deaf.expect_fin();
        stage.closed("deaf");
        witness.check_echo("and on");
    }

    /// While some leave and others come.
    fn connections_close_and_open_in_the_middle(on) {
        let limits = Limits { max_broadcast_sends_per_turn: 2, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 2));
        let mut peers: Vec<_> = (0..24).map(|number| (number, stage.open(&format!("/?tag=p{number}")))).collect();
        for round in 0..6 {
            for number in 0..20 {
                stage.remote.broadcast(&Prepared::text(format!("0: {number}")), 0).unwrap();
            }
            let (leaver, peer) = peers.remove(peers.len() / 2);
            if round % 2 == 0 {
                peer.reset();
            } else {
                stage.remote.close(stage.id(&format!("p{leaver}")), CloseCode(4000), "").unwrap();
                drop(peer);
            }
            let mut late = stage.open(&format!("/?tag=late{round}"));
            peers.iter_mut().for_each(|(_, peer)| expect_all(peer, 1, 20));
            stage.wait_metric("ringwire_broadcast_bytes", 0);
            late.check_late(20);
        }
    }

    /// A turn goes only so far: others are served in between.
    fn goes_on_from_turn_to_turn(on) {
        let limits = Limits { max_broadcast_sends_per_turn: 3, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 1));
        let mut peers = open_many(&stage, 60);
        stage.settle();
        let turns = stage.metric("ringwire_turns_total");
        stage.remote.broadcast(&Prepared::text("0: 0"), 0).unwrap();
        peers.iter_mut().for_each(|peer| expect_all(peer, 1, 1));
        stage.wait_metric("ringwire_broadcast_bytes", 0);
        let turns = stage.metric("ringwire_turns_total") - turns;
        assert!(turns >= 20, "60 connections, 3 a turn, in {turns} turns");
    }

    /// Either all shards take a message or none does.
    fn tells_when_too_much_waits(on) {
        let limits = Limits { max_broadcast_bytes: 300_000, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 2));
        let mut peers = open_many(&stage, 6);
        let mut taken = 0;
        let full = (0..1_000_000).find_map(|_| {
            let line = Prepared::text(format!("0: {taken}{}", ".".repeat(20_000)));
            stage.remote.broadcast(&line, 0).map(|()| taken += 1).err()
        });
        assert_eq!(full, Some(RemoteError::Full));
        peers.iter_mut().for_each(|peer| expect_all(peer, 1, taken));
        stage.wait_metric("ringwire_broadcast_bytes", 0);
        // One that is larger than the limit goes alone.
        stage.remote.broadcast(&Prepared::binary(vec![9; 400_000]), 0).unwrap();
        peers.iter_mut().for_each(|peer| peer.expect_binary(&[9; 400_000]));
    }

    /// A deadline watches what is shared as well.
    fn one_that_takes_nothing_is_cut(on) {
        let mut setup = Setup::default();
        setup.deadlines.write_ms = 300;
        let stage = Stage::new(on, setup);
        let mut deaf = stage.narrow_peer();
        deaf.upgrade("/?tag=deaf");
        deaf.stop_reading();
        let noise = Prepared::binary(vec![7; 500_000]);
        let cut = stage.closed_while("deaf", || {
            if stage.metric("ringwire_outbox_bytes") < 1_000_000 {
                stage.remote.broadcast(&noise, 0).unwrap();
            }
        });
        assert!(cut);
        assert_eq!(stage.notes.of("deaf").last().unwrap(), "close Timeout(Write)");
        stage.wait_metric("ringwire_outbox_bytes", 0);
    }
}

impl Peer {
    /// Whatever it heard of so many broadcasts is the end of them, in order.
    fn check_late(&mut self, messages: usize) {
        self.send(&text("after all"));
        let mut heard = Vec::new();
        loop {
            let (_, payload) = self.next_frame();
            if payload == b"after all" {
                break;
            }
            heard.push(String::from_utf8(payload).unwrap());
        }
        let begin = messages - heard.len();
        let expected: Vec<String> = (begin..messages).map(|number| format!("0: {number}")).collect();
        assert_eq!(heard, expected);
    }
}
