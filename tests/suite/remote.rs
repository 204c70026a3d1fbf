//! Reaching connections from other threads, and what becomes of ids that are no one's any more.

use crate::peer::{Peer, close, text};
use crate::service::{Notes, Service};
use crate::stage::{On, Setup, Stage, run};
use ringwire::{CloseCode, DriverChoice, Limits, ListenAddr, RemoteError, Server};
use std::collections::HashSet;

on_every_driver! {
    fn sends_and_closes_from_other_threads(on) {
        let stage = Stage::new(on, Setup { shards: 2, ..Setup::default() });
        let mut peers: Vec<Peer> = (0..6).map(|n| stage.open(&format!("/?tag=p{n}"))).collect();
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (remote, id) = (stage.remote.clone(), stage.id(&format!("p{number}")));
                scope.spawn(move || {
                    for message in 0..500 {
                        remote.send_text(id, format!("{number}: {message}")).unwrap();
                    }
                    remote.send_binary(id, vec![number as u8; 100_000]).unwrap();
                    remote.close(id, CloseCode(4000 + number), "enough").unwrap();
                    remote.send_text(id, "too late").unwrap();
                });
            }
        });
        for (number, peer) in peers.iter_mut().enumerate() {
            for message in 0..500 {
                peer.expect_text(&format!("{number}: {message}"));
            }
            peer.expect_binary(&[number as u8; 100_000]);
            assert_eq!(peer.expect_close(4000 + number as u16), "enough");
            peer.send(&close(4000, ""));
            peer.expect_fin();
        }
    }

    fn a_stale_id_reaches_nobody(on) {
        let stage = Stage::plain(on);
        let mut ids = HashSet::new();
        for number in 0..50 {
            let tag = format!("p{number}");
            let peer = stage.open(&format!("/?tag={tag}"));
            assert!(ids.insert(stage.id(&tag)), "an id was used twice");
            for old in ids.iter().filter(|id| **id != stage.id(&tag)) {
                stage.remote.send_text(*old, "for somebody else").unwrap();
                stage.remote.close(*old, CloseCode(4009), "").unwrap();
            }
            stage.settle();
            let mut peer = peer;
            peer.check_echo("mine");
            if number % 2 == 0 {
                peer.bye();
            } else {
                peer.reset();
            }
            stage.closed(&tag);
        }
        let slots = ids.iter().map(|id| format!("{id:?}").split('.').next().unwrap().to_owned());
        assert!(slots.collect::<HashSet<_>>().len() < 10, "slots were used again: {ids:?}");
        assert!(stage.metric("ringwire_mailbox_stale_total") > 2_000);
    }

    fn tells_when_the_mailbox_is_full(on) {
        let limits = Limits { max_mailbox_commands: 100, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut peer = stage.open("/?tag=a");
        let id = stage.id("a");
        let mut taken = 0;
        let full = (0..10_000_000).find_map(|_| match stage.remote.send_text(id, "x") {
            Ok(()) => {
                taken += 1;
                None
            }
            Err(error) => Some(error),
        });
        assert_eq!(full, Some(RemoteError::Full));
        // What was taken arrives, in full; and there is room again.
        for _ in 0..taken {
            peer.expect_text("x");
        }
        stage.settle();
        stage.remote.send_text(id, "last").unwrap();
        peer.expect_text("last");
    }

    fn knows_a_server_that_has_stopped(on) {
        let mut stage = Stage::plain(on);
        let peer = stage.open("/?tag=a");
        let id = stage.id("a");
        stage.stop();
        stage.ended();
        drop(peer);
        if stage.sim().is_none() {
            for _ in 0..100_000 {
                assert_eq!(stage.remote.send_text(id, "anyone?"), Err(RemoteError::Stopped));
            }
        }
        assert_eq!(stage.remote.open_connections(), 0);
    }

    fn a_closed_ids_commands_are_counted(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        let id = stage.id("a");
        peer.send(&text("!close 4000"));
        peer.expect_close(4000);
        // Closing, not yet closed: nothing is sent any more.
        stage.remote.send_text(id, "late").unwrap();
        peer.send(&close(4000, ""));
        peer.expect_fin();
    }
}

/// Whoever is served can be reached: also the first, who waited before the server ran.
fn reaches_the_first_connection(on: On) {
    let driver = if on == On::Uring { DriverChoice::Uring } else { DriverChoice::Epoll };
    for _ in 0..30 {
        let listen: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let builder = Server::builder().listen(listen).driver(driver).shards(2).cores([]);
        let server = builder.bind().unwrap();
        let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { unreachable!() };
        let mut peer = Peer::tcp(addr);
        peer.send(crate::peer::upgrade_request("/greet-from-afar", "").as_bytes());
        let handle = server.handle();
        let thread = std::thread::spawn(move || server.run(|info| Service::new(info, Notes::default())));
        peer.expect_http(101);
        peer.expect_text("from afar");
        handle.stop();
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn uring_reaches_the_first_connection() {
    run(On::Uring, reaches_the_first_connection);
}

#[test]
fn epoll_reaches_the_first_connection() {
    reaches_the_first_connection(On::Epoll);
}
