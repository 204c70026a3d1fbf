//! Descriptors, slots and buffers run out; it is counted, and over when its cause is.

use crate::peer::{Peer, binary};
use crate::stage::{On, Setup, Stage};
use ringwire::Limits;
use ringwire::sim::{Fault, Faults};
use std::process::Command;
use std::time::Duration;

on_every_driver! {
    fn pauses_accepting_at_the_limit(on) {
        let limits = Limits { max_connections: 5, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut inside: Vec<Peer> = (0..5).map(|_| stage.open("/")).collect();
        let mut outside: Vec<Peer> = (0..5).map(|_| stage.peer()).collect();
        for peer in &mut outside {
            peer.send(crate::peer::upgrade_request("/", "").as_bytes());
        }
        outside[4].expect_silence(Duration::from_millis(100));
        stage.wait_metric("ringwire_connections", 5);
        assert!(stage.metric("ringwire_accept_pauses_total") > 0);
        for peer in &mut inside {
            peer.check_echo("unharmed");
        }
        // As many as leave get in, in turn.
        for peer in inside {
            peer.bye();
        }
        for peer in &mut outside {
            peer.expect_http(101);
            peer.check_echo("at last");
        }
    }

    /// Two buffers for fifty connections: all wait, none is lost, nothing spins.
    fn serves_many_with_few_buffers(on) {
        let limits = Limits { receive_buffers: 2, receive_buffer_bytes: 4_096, ..Limits::default() };
        let stage = Stage::new(on, Setup { limits, ..Setup::default() });
        let mut witness = stage.open("/");
        let mut peers: Vec<Peer> = (0..50).map(|_| stage.open("/")).collect();
        let message = |n: usize, round: usize| vec![(n * 31 + round) as u8; 3_000 + n * 40];
        for (n, peer) in peers.iter_mut().enumerate() {
            peer.send_in_background((0..30).flat_map(|round| binary(&message(n, round))).collect());
        }
        for number in 0..20 {
            witness.check_echo(&number.to_string());
        }
        for (n, peer) in peers.iter_mut().enumerate() {
            for round in 0..30 {
                peer.expect_binary(&message(n, round));
            }
        }
        let turns = stage.metric("ringwire_turns_total");
        stage.pass(Duration::from_millis(100));
        let idle = stage.metric("ringwire_turns_total") - turns;
        assert!(idle < 200, "{idle} turns without traffic");
    }
}

/// Descriptors run out in a process of its own, whose limit the shell lowers.
fn descriptors_run_out(on: On, name: &str) {
    const CHILD: &str = "RINGWIRE_SUITE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().unwrap();
        let run = format!("ulimit -n 64 && exec {} --exact {name} --nocapture", program.display());
        let output = Command::new("sh").args(["-c", &run]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let stage = Stage::plain(on);
    let mut witness = stage.open("/");
    // Both ends are in this process: the last connects succeed, but cannot be accepted.
    let addr = stage.addr().unwrap();
    let mut others = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(addr) {
        others.push(stream);
        witness.check_echo("unharmed");
    }
    assert!(others.len() > 5);
    let waits = stage.metric("ringwire_waits_total");
    stage.pass(Duration::from_millis(300));
    let waits = stage.metric("ringwire_waits_total") - waits;
    assert!(waits < 60, "{waits} waits in 300 ms: it spins");
    witness.check_echo("still unharmed");
    // Room again: who waited is served.
    let mut last = Peer::from_tcp(others.pop().unwrap());
    let second = Peer::from_tcp(others.pop().unwrap());
    others.truncate(2);
    last.upgrade("/");
    last.check_echo("at last");
    drop(second);
    if on == On::Epoll {
        // Direct descriptors, on io_uring, are not taken from the process's table.
        assert!(stage.metric("ringwire_accept_failures_total") > 0);
    }
}

#[test]
fn uring_descriptors_run_out() {
    crate::stage::run(On::Uring, |on| descriptors_run_out(on, "exhaustion::uring_descriptors_run_out"));
}

#[test]
fn epoll_descriptors_run_out() {
    descriptors_run_out(On::Epoll, "exhaustion::epoll_descriptors_run_out");
}

#[test]
fn sim_descriptors_run_out() {
    let faults = Faults { accept_failure_permille: 500, ..Faults::calm() };
    let stage = Stage::new(On::Sim, Setup { faults, ..Setup::default() });
    let mut peers: Vec<Peer> = (0..100).map(|_| stage.open("/")).collect();
    for peer in &mut peers {
        peer.check_echo("unharmed");
    }
    let failures = stage.metric("ringwire_accept_failures_total");
    assert!(failures > 20, "{failures}");
    let simulation = stage.sim().unwrap().borrow();
    assert_eq!(simulation.net().injected(Fault::AcceptFailure), failures);
}

/// Accepting fails while the server is going away: nothing is tried again and again.
#[test]
fn failing_to_accept_while_draining_does_not_spin() {
    let faults = Faults { accept_failure_permille: 1_000, ..Faults::none() };
    let stage = Stage::new(On::Sim, Setup { faults: Faults::none(), ..Setup::default() });
    let mut peer = stage.open("/?tag=a");
    stage.sim().unwrap().borrow().net().set_faults(faults);
    let _waiting = stage.peer();
    {
        let mut simulation = stage.sim().unwrap().borrow_mut();
        simulation.shutdown();
        let turns = stage.metric("ringwire_turns_total");
        simulation.advance(Duration::from_secs(4));
        let turns = stage.metric("ringwire_turns_total") - turns;
        assert!(turns < 100, "{turns} turns in 4 s of waiting");
    }
    peer.expect_close(1001);
}
