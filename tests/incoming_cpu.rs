//! Connections served on the core on which they come in.

use ringwire::{Conn, DriverChoice, Handler, ListenAddr, Message, Request, Server, Upgrade, available_cores};
use std::thread;

/// Says which shard it is.
struct Shard;

impl Handler for Shard {
    type State = ();

    fn upgrade(&mut self, _: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.send_text(&conn.id().shard().to_string());
    }

    fn message(&mut self, _: &mut Conn<'_, ()>, _: Message<'_>) {}
}

/// Before Linux 6.2 a group of listeners does not look at it.
fn is_heeded() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

#[test]
fn connections_go_to_the_core_they_come_in_on() {
    let cores = available_cores();
    if cores.len() < 2 || !is_heeded() {
        eprintln!("SKIPPED: this needs two cores and Linux 6.2");
        return;
    }
    let drivers = match ringwire::doctor::probe().denial {
        None => &[DriverChoice::Uring, DriverChoice::Epoll][..],
        Some(_) => &[DriverChoice::Epoll],
    };
    for driver in drivers {
        let loopback: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let server = Server::builder()
            .listen(loopback)
            .driver(*driver)
            .cores(cores.clone())
            .incoming_cpu(true)
            .bind()
            .unwrap();
        let addr = server.local_addrs()[0].clone();
        let handle = server.handle();
        let running = thread::spawn(move || server.run(|_| Shard));
        for (shard, id) in cores.iter().copied().enumerate() {
            let url = format!("ws://{addr}/");
            let served = thread::spawn(move || {
                assert!(core_affinity::set_for_current(core_affinity::CoreId { id }));
                let come = |_| tungstenite::connect(&url).unwrap().0.read().unwrap().into_text().unwrap();
                (0..20).map(come).map(|text| text.to_string()).collect::<Vec<_>>()
            });
            assert_eq!(served.join().unwrap(), vec![shard.to_string(); 20], "{driver:?}");
        }
        handle.shutdown();
        running.join().unwrap().unwrap();
    }
}
