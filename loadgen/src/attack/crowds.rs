//! Many connections: storms of them, and what is left when they go.

use super::arena::{Arena, bad, skipped};
use super::peer::{Peer, Reaction, close, frame, upgrade_request};
use std::thread;
use std::time::{Duration, Instant};

/// Connections opened before the bystander looks again.
const BATCH: usize = 100;
/// What the server may have opened for itself since.
const SPARE_DESCRIPTORS: usize = 16;

/// Connections that die with their answers under way, and heirs of their places.
pub fn in_flight(arena: &mut Arena<'_>) {
    for (name, way) in [("cut", 0), ("ended", 1), ("closed", 2)] {
        arena.probe(&format!("{name} under fire"), |arena| {
            for number in 0..50_u32 {
                let mut peer = arena.open("")?;
                peer.send_deaf(&frame(0x82, &[0xbd; 100_000]).repeat(5), Duration::from_millis(5));
                match way {
                    0 => peer.reset(),
                    1 => drop(peer),
                    _ => {
                        // Inside of a frame it is payload; behind it, a Close.
                        peer.send_deaf(&close(1000, b""), Duration::from_millis(5));
                    }
                }
                let mut heir = arena.open("")?;
                heir.echo(&format!("heir {number}"), arena.patience())?;
            }
            Ok("each heir got its own".to_owned())
        });
    }
}

/// Connections that do not stay.
pub fn churn(arena: &mut Arena<'_>) {
    let rounds = (arena.options.connections / BATCH).max(1);
    arena.probe("closed in good order", |arena| {
        for _ in 0..rounds {
            let mut peers = crowd(arena, BATCH)?;
            for peer in &mut peers {
                peer.send(&close(1000, b""), arena.patience());
            }
            for peer in &mut peers {
                match peer.reaction(arena.options.timeout) {
                    Reaction::Close(_) => {}
                    other => return bad(other.to_string()),
                }
            }
            arena.glance()?;
        }
        Ok(format!("{} opened and closed", rounds * BATCH))
    });
    for (name, way) in [("cut", 0), ("gone without a Close", 1), ("a Close and gone", 2)] {
        arena.probe(name, |arena| {
            for _ in 0..rounds {
                for mut peer in crowd(arena, BATCH)? {
                    match way {
                        0 => peer.reset(),
                        1 => drop(peer),
                        _ => drop(peer.send(&close(1000, b""), arena.patience())),
                    }
                }
                arena.glance()?;
            }
            Ok(format!("{} came and went", rounds * BATCH))
        });
    }
    arena.probe("gone before the answer", |arena| {
        let request = upgrade_request(arena.target, "");
        for _ in 0..rounds {
            for number in 0..BATCH {
                let mut peer = arena.connect()?;
                peer.send(request.as_bytes(), arena.patience());
                if number % 2 == 0 {
                    peer.reset();
                }
            }
            arena.glance()?;
        }
        Ok(format!("{} came and went", rounds * BATCH))
    });
}

/// Connections that never become anything.
pub fn accept_storm(arena: &mut Arena<'_>) {
    let wanted = arena.options.connections;
    arena.probe("half a request and gone", |arena| {
        let request = upgrade_request(arena.target, "");
        for batch in 0..wanted.div_ceil(BATCH) {
            let mut storm = Vec::new();
            for number in 0..BATCH {
                let mut peer = arena.connect()?;
                peer.send(&request.as_bytes()[..number * 37 % request.len()], arena.patience());
                storm.push(peer);
            }
            if batch % 2 == 0 {
                storm.into_iter().for_each(Peer::reset);
            }
            arena.glance()?;
        }
        Ok(format!("{wanted} came and went"))
    });
    arena.probe("silent and staying", |arena| {
        let mut storm = Vec::new();
        let mut refused = None;
        while storm.len() < wanted && refused.is_none() {
            match arena.connect() {
                Ok(peer) => storm.push(peer),
                Err(why) => refused = Some(why),
            }
            if storm.len() % BATCH == 0 {
                arena.glance()?;
            }
        }
        let held = storm.len();
        arena.glance()?;
        storm.into_iter().for_each(Peer::reset);
        Ok(match refused {
            None => format!("{held} at once"),
            Some(why) => format!("{held} at once, then it {why}"),
        })
    });
}

/// Many messages that are half there.
pub fn half_messages(arena: &mut Arena<'_>) {
    const BYTES: usize = 40_000;
    let wanted = arena.options.connections;
    arena.probe("all at once", |arena| {
        let mut peers = crowd(arena, wanted)?;
        let message = |number: usize| frame(0x82, &[number as u8; BYTES]);
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(&message(number)[..BYTES / 2], arena.patience());
        }
        arena.glance()?;
        let mut late = 0;
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(&message(number)[BYTES / 2..], arena.patience());
            match peer.reaction(arena.options.timeout) {
                Reaction::Message(_, bytes) if bytes == [number as u8; BYTES] => {}
                // A message may have a deadline.
                Reaction::Close(Some(1008)) => late += 1,
                other => return bad(format!("client {number}: {other}")),
            }
        }
        match wanted - late {
            0 => bad("close 1008 to all of them"),
            whole if late == 0 => Ok(format!("{whole} messages of {BYTES} bytes went on")),
            whole => {
                Ok(format!("{whole} messages of {BYTES} bytes went on, {late} came too late: close 1008"))
            }
        }
    });
}

/// Everybody comes back at once.
pub fn reconnect_storm(arena: &mut Arena<'_>) {
    let wanted = arena.options.connections;
    arena.probe("all at once", |arena| {
        let mut clients = crowd(arena, wanted)?;
        echo_all(arena, &mut clients)?;
        clients.into_iter().for_each(Peer::reset);
        let begin = Instant::now();
        let mut clients = crowd(arena, wanted)?;
        let took = begin.elapsed().as_millis();
        arena.glance()?;
        echo_all(arena, &mut clients)?;
        Ok(format!("{wanted} were back after {took} ms"))
    });
}

/// What connections leave behind in the server's process.
pub fn left_behind(arena: &mut Arena<'_>) {
    arena.probe("descriptors", |arena| {
        let Some((before, mut now)) = arena.descriptors() else {
            return skipped("the server's process is not known (--pid)");
        };
        let begin = Instant::now();
        while now > before + SPARE_DESCRIPTORS && begin.elapsed() < arena.options.timeout {
            thread::sleep(Duration::from_millis(50));
            now = arena.descriptors().map_or(0, |(_, now)| now);
        }
        match now > before + SPARE_DESCRIPTORS {
            true => bad(format!("{before} at the beginning, {now} now")),
            false => Ok(format!("{before} at the beginning, {now} now")),
        }
    });
}

/// So many open WebSockets, asked for all at once.
fn crowd(arena: &mut Arena<'_>, connections: usize) -> Result<Vec<Peer>, String> {
    let request = upgrade_request(arena.target, "");
    let begin = Instant::now();
    let mut peers = Vec::with_capacity(connections);
    for number in 0..connections {
        let mut peer = arena.connect().map_err(|why| format!("connection {number}: {why}"))?;
        peer.send(request.as_bytes(), arena.patience());
        peers.push(peer);
        if number % BATCH == BATCH - 1 {
            arena.glance()?;
        }
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        let left = arena.options.timeout.saturating_sub(begin.elapsed()).max(arena.patience());
        match peer.answer(left) {
            Ok(answer) if answer.opens() => {}
            Ok(answer) => return Err(format!("connection {number}: answered {}", answer.status)),
            Err(reaction) => return Err(format!("connection {number}: {reaction}")),
        }
    }
    Ok(peers)
}

/// Each gets what it sent, and nobody else's.
fn echo_all(arena: &Arena<'_>, peers: &mut [Peer]) -> Result<(), String> {
    let message = |number: usize| format!("this is client {number}").into_bytes();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send(&frame(0x82, &message(number)), arena.patience());
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        match peer.reaction(arena.options.timeout) {
            Reaction::Message(_, bytes) if bytes == message(number) => {}
            other => return Err(format!("client {number}: {other}")),
        }
    }
    Ok(())
}
