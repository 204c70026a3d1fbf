//! Users: many connections each, on any shard, reached by name; and who is online.

use crate::peer::{Peer, text};
use crate::stage::{Setup, Stage};
use ringwire::{Limits, Prepared, UserError};

fn setup(shards: usize) -> Setup {
    let limits = Limits { max_user_bytes: 8, max_user_connections: 3, ..Limits::default() };
    Setup { limits, shards, ..Setup::default() }
}

/// A user's ups and downs, in order of their numbers.
fn changes(stage: &Stage, user: &str) -> Vec<String> {
    let mut changes: Vec<(u64, String)> = stage
        .notes
        .of(&format!("user {user}"))
        .iter()
        .map(|event| event.split_once(' ').unwrap())
        .map(|(word, number)| (number.parse().unwrap(), word.to_owned()))
        .collect();
    changes.sort();
    changes.into_iter().map(|(_, word)| word).collect()
}

on_every_driver! {
    fn a_user_is_reached_on_all_connections(on) {
        for shards in [1, 3] {
            let stage = Stage::new(on, setup(shards));
            let mut ann: Vec<Peer> = (0..3).map(|n| stage.open(&format!("/?tag=ann{n}"))).collect();
            let mut ben = stage.open("/?tag=ben");
            ann.iter_mut().for_each(|peer| peer.order("!user ann", "Ok(())"));
            ben.order("!user ben", "Ok(())");
            assert_eq!(stage.remote.user_count(), 2);
            let mut ids = stage.remote.connections_of("ann");
            ids.sort();
            let mut expected: Vec<_> = (0..3).map(|n| stage.id(&format!("ann{n}"))).collect();
            expected.sort();
            assert_eq!(ids, expected);
            for number in 0..20 {
                ben.order(&format!("!to ann {number}"), "Ok(3)");
                assert_eq!(stage.remote.send_to_user("ben", &Prepared::text(number.to_string())), Ok(1));
                ben.expect_text(&number.to_string());
            }
            ben.order("!to nobody x", "Ok(0)");
            assert_eq!(stage.remote.send_to_user("nobody", &Prepared::text("x")), Ok(0));
            ann.iter_mut().for_each(|peer| (0..20).for_each(|number| peer.expect_text(&number.to_string())));
            ann.iter_mut().for_each(|peer| peer.check_echo("nothing more"));
            stage.wait_metric("ringwire_bound_connections", 4);
            stage.wait_metric("ringwire_broadcast_bytes", 0);
        }
    }

    fn who_closed_or_was_bound_to_another_is_not_reached(on) {
        let stage = Stage::new(on, setup(2));
        let mut peers: Vec<Peer> = (0..3).map(|n| stage.open(&format!("/?tag=p{n}"))).collect();
        peers.iter_mut().for_each(|peer| peer.order("!user ann", "Ok(())"));
        // In one callback: what was sent to the user before does not come to the next one.
        peers[0].send(&text("!run !to ann secret ; !user ben ; !to ben news ; !say said"));
        peers[0].expect_text("said");
        peers[0].expect_text("news");
        peers[1].expect_text("secret");
        peers[2].expect_text("secret");
        assert_eq!(stage.remote.connections_of("ann").len(), 2);
        peers.pop().unwrap().reset();
        stage.closed("p2");
        assert_eq!(stage.remote.send_to_user("ann", &Prepared::text("one")), Ok(1));
        peers[1].expect_text("one");
        peers[1].order("!user", "true");
        peers[1].order("!user", "false");
        assert_eq!(stage.remote.send_to_user("ann", &Prepared::text("none")), Ok(0));
        assert!(!stage.remote.is_online("ann") && stage.remote.is_online("ben"));
        peers.iter_mut().for_each(|peer| peer.check_echo("nothing more"));
    }

    /// Nobody is offline before the last connection has gone, nor online twice.
    fn going_online_and_offline_is_exact(on) {
        let stage = Stage::new(on, setup(3));
        let mut watcher = stage.open("/");
        watcher.order("!sub presence", "Ok(true)");
        for round in 0..5 {
            let mut peers: Vec<Peer> = (0..3).map(|n| stage.open(&format!("/?tag=p{round}.{n}"))).collect();
            peers.iter_mut().for_each(|peer| peer.send(&text("!user ann")));
            peers.iter_mut().for_each(|peer| peer.expect_text("Ok(())"));
            watcher.expect_text("ann is online");
            for (number, peer) in peers.into_iter().enumerate() {
                assert!(stage.remote.is_online("ann"));
                if number % 2 == 0 { peer.reset() } else { peer.bye() }
                stage.closed(&format!("p{round}.{number}"));
            }
            watcher.expect_text("ann is offline");
            stage.until("it is told", || changes(&stage, "ann").len() == 2 * (round + 1));
        }
        assert_eq!(changes(&stage, "ann"), ["online", "offline"].repeat(5));
        assert_eq!(stage.remote.user_count(), 0);
        // Rebinding is one down and one up.
        let mut peer = stage.open("/");
        peer.order("!user cleo", "Ok(())");
        peer.order("!user cleo", "Ok(())");
        peer.order("!user dora", "Ok(())");
        watcher.expect_text("cleo is online");
        let two = [watcher.next_frame().1, watcher.next_frame().1];
        assert!(two.contains(&b"cleo is offline".to_vec()) && two.contains(&b"dora is online".to_vec()));
    }

    fn limits_of_users(on) {
        let stage = Stage::new(on, setup(2));
        let mut peers: Vec<Peer> = (0..4).map(|_| stage.open("/")).collect();
        for peer in &mut peers[..3] {
            peer.order("!user ann", "Ok(())");
        }
        peers[3].order("!user ann", "Err(TooManyConnections)");
        peers[3].order("!user 123456789", "Err(Name)");
        peers[0].order("!user 123456789", "Err(Name)");
        assert_eq!(stage.remote.connections_of("ann").len(), 3, "it stays bound");
        stage.wait_metric("ringwire_user_binds_refused_total", 3);
        assert_eq!(stage.remote.send_to_user("", &Prepared::text("x")), Ok(0));
        assert_eq!(UserError::Name.to_string(), "the user's name is empty or longer than max_user_bytes");
    }
}
