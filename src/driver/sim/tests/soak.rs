//! Thousands of seeds: every byte comes back, no law is broken, each seed repeats itself.

use super::super::{Fault, Faults, SimNet, SimPeer, SimRng};
use super::{Echo, pattern};
use std::hash::Hasher;
use std::time::Duration;

struct Outcome {
    hashes: (u64, u64),
    injected: Vec<u64>,
    echoed_bytes: usize,
}

/// What a run of one seed does to which network.
fn faults_of(seed: u64) -> Faults {
    match seed % 4 {
        0 => Faults::calm(),
        1 | 2 => Faults::rough().without_errors(),
        _ => Faults::rough(),
    }
}

/// A peer, and what it remembers.
struct Player {
    peer: SimPeer,
    wrote: usize,
    read: Vec<u8>,
    /// Writes no more.
    over: bool,
}

fn play(seed: u64) -> Outcome {
    let net = SimNet::new(seed, faults_of(seed));
    let lossless = net.faults().reset_permille == 0;
    let _guard = net.trace_on_panic();
    let mut rng = SimRng::new(!seed);
    let mut echo = Echo::new(&net);
    echo.whims = Some(SimRng::new(seed ^ 0xA5A5));
    echo.closes = !lossless;

    let mut players: Vec<Player> = Vec::new();
    for _ in 0..rng.between(5, 25) {
        let index = rng.below(players.len().max(1) as u64) as usize;
        match rng.below(8) {
            0 | 1 if players.len() < 4 => {
                players.push(Player { peer: net.connect(), wrote: 0, read: Vec::new(), over: false });
            }
            0..=5 if !players.is_empty() && !players[index].over => {
                let (len, player) = (rng.between(1, 200) as usize, &mut players[index]);
                player.peer.write(&pattern(index, player.wrote, len));
                player.wrote += len;
            }
            6 if !players.is_empty() => hurt(&mut rng, &mut players[index], lossless),
            _ => {
                let wait = [None, Some(Duration::ZERO), Some(Duration::from_millis(3))];
                echo.turn(wait[rng.below(3) as usize]);
            }
        }
    }
    for player in &mut players {
        player.peer.start_reading();
        player.peer.shutdown_write();
    }
    echo.run(&net);
    let echoed_bytes = judge(&mut players, lossless, echo.refused);
    drop(players);
    settle(&mut echo, &net);
    let injected = Fault::ALL.iter().map(|&fault| net.injected(fault)).collect();
    let hashes = (net.trace_hash(), echo.hash.finish());
    drop(echo);
    assert_eq!(net.leaked_leases(), 0);
    Outcome { hashes, injected, echoed_bytes }
}

/// A peer reads, stops or starts reading, or ends; where bytes may be lost it also resets or
/// vanishes.
fn hurt(rng: &mut SimRng, player: &mut Player, lossless: bool) {
    let kind = rng.below(8);
    match kind {
        0 | 1 => player.peer.stop_reading(),
        2 | 3 => player.peer.start_reading(),
        4 if !lossless => player.peer.reset(),
        5 if !lossless => player.peer.vanish(),
        6 => player.peer.shutdown_write(),
        _ => player.read.extend(player.peer.read()),
    }
    player.over |= kind == 6 || (!lossless && matches!(kind, 4 | 5));
}

/// Everyone read a prefix of what it wrote, and where nothing may be lost, all of it.
fn judge(players: &mut [Player], lossless: bool, refused: usize) -> usize {
    let (mut echoed_bytes, mut turned_away) = (0, 0);
    for (index, Player { peer, wrote, read, .. }) in players.iter_mut().enumerate() {
        read.extend(peer.read());
        assert_eq!(*read, pattern(index, 0, read.len()), "peer {index} read what it did not write");
        assert!(read.len() <= *wrote, "peer {index} read more than it wrote");
        if lossless {
            assert!(peer.is_closed(), "peer {index} is not closed");
            turned_away += usize::from(read.is_empty() && *wrote > 0);
            assert!(read.is_empty() || read.len() == *wrote, "peer {index}: {} of {wrote}", read.len());
        }
        echoed_bytes += read.len();
    }
    assert!(turned_away <= refused, "{turned_away} peers got nothing, {refused} were refused");
    echoed_bytes
}

/// Closes what is still open (half-open ones are for ever) and asserts that nothing is owed.
fn settle(echo: &mut Echo, net: &SimNet) {
    for slot in 0..echo.conns.len() {
        echo.close(slot);
    }
    echo.run(net);
    echo.driver.assert_settled();
}

#[test]
fn every_byte_comes_back_under_thousands_of_seeds() {
    let seeds = std::env::var("RINGWIRE_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let mut injected = vec![0; Fault::ALL.len()];
    let mut echoed_bytes = 0;
    for seed in 0..seeds.unwrap_or(6_000) {
        let outcome = play(seed);
        echoed_bytes += outcome.echoed_bytes;
        injected.iter_mut().zip(&outcome.injected).for_each(|(sum, n)| *sum += n);
    }
    assert!(echoed_bytes > 1_000_000, "only {echoed_bytes} bytes came back");
    for (fault, count) in Fault::ALL.iter().zip(injected) {
        // This world only accepts, and is one driver's.
        let foreign = matches!(fault, Fault::ConnectFailure | Fault::LateCore);
        assert!(count > 0 || foreign, "{fault:?} never struck");
    }
}

#[test]
fn one_seed_one_history() {
    for seed in 0..40 {
        assert_eq!(play(seed).hashes, play(seed).hashes, "seed {seed}");
    }
    assert_ne!(play(1).hashes, play(2).hashes);
}
