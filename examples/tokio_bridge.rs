//! A tokio task pushes to WebSockets that ringwire serves: a clock, ticking to everyone.
//! `cargo run --release --example tokio_bridge`, then connect to ws://127.0.0.1:9001.
//!
//! Handlers tell the task who comes and goes through a bounded channel and never wait for it; the
//! task answers through [`Remote`], which never blocks it either. The contract: no `Left` is ever
//! missed, because its place in the channel is reserved before the connection is accepted.

use ringwire::http::Response;
use ringwire::{
    CloseReason, Conn, ConnId, Handler, ListenAddr, Message, Remote, RemoteError, Request, Server, Upgrade,
};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{OwnedPermit, Receiver, Sender, channel};

/// Each connection takes two places while it opens and one while it is open.
const CHANNEL_EVENTS: usize = 100_000;

enum Event {
    Joined(ConnId),
    Left(ConnId),
}

/// A connection's places in the channel.
struct Member {
    joining: Option<OwnedPermit<Event>>,
    leaving: OwnedPermit<Event>,
}

struct Listeners {
    events: Sender<Event>,
}

impl Handler for Listeners {
    type State = Member;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<Member> {
        let place = || self.events.clone().try_reserve_owned();
        match (place(), place()) {
            (Ok(joining), Ok(leaving)) => Upgrade::accept(Member { joining: Some(joining), leaving }),
            _ => Upgrade::reject(Response::text(503, "Too many listeners; try again later.\n")),
        }
    }

    fn open(&mut self, conn: &mut Conn<'_, Member>) {
        let id = conn.id();
        if let Some(place) = conn.state_mut().joining.take() {
            place.send(Event::Joined(id));
        }
    }

    fn message(&mut self, _conn: &mut Conn<'_, Member>, _message: Message<'_>) {
        // A clock listens to nobody.
    }

    fn close(&mut self, id: ConnId, member: Member, _reason: CloseReason<'_>) {
        member.leaving.send(Event::Left(id));
    }
}

/// Runs until the server has ended.
async fn tick(mut events: Receiver<Event>, remote: Remote) {
    let started = Instant::now();
    let mut listeners = HashSet::new();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Joined(id)) => { listeners.insert(id); }
                Some(Event::Left(id)) => { listeners.remove(&id); }
                None => return,
            },
            _ = second.tick() => {
                let text = format!("tick {}, {} listening", started.elapsed().as_secs(), listeners.len());
                for id in &listeners {
                    match remote.send_text(*id, text.as_str()) {
                        Ok(()) => {}
                        // The shard is busy: its listeners hear the next tick instead.
                        Err(RemoteError::Full) => {}
                        Err(error) => return eprintln!("{error}"),
                    }
                }
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr: ListenAddr = "127.0.0.1:9001".parse()?;
    let server = Server::builder().listen(addr).bind()?;
    println!("ticking on ws://127.0.0.1:9001, driver {} ({})", server.driver(), server.driver_reason());

    let (events, heard) = channel(CHANNEL_EVENTS);
    let handle = server.handle();
    let ticker = tokio::spawn(tick(heard, server.remote()));
    let engine =
        tokio::task::spawn_blocking(move || server.run(move |_shard| Listeners { events: events.clone() }));
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.shutdown();
        }
    });
    engine.await??;
    Ok(ticker.await?)
}
