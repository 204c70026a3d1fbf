//! Several cores in one simulation: who is served where, and what wakes whom.

use crate::peer::{bare, text, upgrade_request};
use ringwire::sim::{Faults, SimPeer, Simulation};
use ringwire::{Conn, Handler, Message, Prepared, Request, Upgrade};

/// Subscribes to the path, and publishes to the topic that a message names, fifty times.
struct Service(usize);

impl Handler for Service {
    type State = ();

    fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn open(&mut self, conn: &mut Conn<'_, ()>) {
        assert_eq!(conn.id().shard(), self.0);
        conn.subscribe(&format!("shard/{}", self.0)).unwrap();
        conn.send_text(&self.0.to_string());
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let Message::Text(topic) = message else { panic!("text only") };
        for number in 0..50 {
            conn.publish(topic, &Prepared::text(number.to_string())).unwrap();
        }
    }
}

/// Peers, and the shards they are on.
fn simulation(shards: usize, peers: usize) -> (Simulation<Service>, Vec<(SimPeer, usize)>) {
    let mut simulation = Simulation::builder(1)
        .shards(shards)
        .faults(Faults { spurious_wake_permille: 0, late_core_permille: 0, ..Faults::calm() })
        .build(|shard| Service(shard.index));
    let mut peers: Vec<SimPeer> = (0..peers).map(|_| simulation.connect()).collect();
    peers.iter_mut().for_each(|peer| peer.write(upgrade_request("/", "").as_bytes()));
    simulation.run();
    let shard_of = |peer: &mut SimPeer| match peer.read()[..] {
        [.., 0x81, 1, digit] => usize::from(digit - b'0'),
        ref other => panic!("{}", other.escape_ascii()),
    };
    let peers =
        peers.into_iter().map(|mut peer| (shard_of(&mut peer), peer)).map(|(n, peer)| (peer, n)).collect();
    (simulation, peers)
}

/// What the metrics say of each shard.
fn metric(simulation: &Simulation<Service>, name: &str, shards: usize) -> Vec<u64> {
    let mut metrics = String::new();
    simulation.remote().write_metrics(&mut metrics);
    let value = |shard: usize| {
        let line = format!("{name}{{shard=\"{shard}\"}} ");
        let value = metrics.lines().find_map(|all| all.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    };
    (0..shards).map(value).collect()
}

fn wakes(simulation: &Simulation<Service>, shard: usize) -> usize {
    simulation.net().trace().lines().filter(|line| line.ends_with(&format!("driver woken {shard}"))).count()
}

#[test]
fn connections_are_spread_over_the_shards() {
    let (simulation, peers) = simulation(4, 80);
    assert_eq!(simulation.connections(), 80);
    for (shard, accepted) in metric(&simulation, "ringwire_accepted_total", 4).into_iter().enumerate() {
        assert_eq!(peers.iter().filter(|(_, of)| *of == shard).count() as u64, accepted);
        assert!(accepted >= 5, "{accepted} on shard {shard}");
    }
}

/// However much a core publishes in a turn: another one is sent one command and woken once, and one that
/// wants nothing of it not at all.
#[test]
fn a_core_is_woken_once_a_turn_and_only_for_what_it_wants() {
    let (mut simulation, mut peers) = simulation(3, 30);
    let commands = metric(&simulation, "ringwire_mailbox_commands_total", 3);
    let (publisher, _) = peers.iter_mut().find(|(_, shard)| *shard == 0).unwrap();
    publisher.write(&text("shard/2"));
    simulation.run();
    let more = |shard: usize| {
        let commands = metric(&simulation, "ringwire_mailbox_commands_total", 3)[shard] - commands[shard];
        (commands, wakes(&simulation, shard))
    };
    assert_eq!([more(0), more(1), more(2)], [(0, 0), (0, 0), (1, 1)]);
    let expected: Vec<u8> = (0..50).flat_map(|number| bare(0x81, number.to_string().as_bytes())).collect();
    for (peer, shard) in &mut peers {
        assert_eq!(peer.read(), if *shard == 2 { &expected[..] } else { &[] }, "on shard {shard}");
    }
}
