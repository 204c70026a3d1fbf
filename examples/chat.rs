//! A chat: a room for each path, names, and the last word kept for who comes later.
//! `cargo run --release --example chat`, then open ws://127.0.0.1:9001/lobby?name=Ann twice.
//!
//! A room is a topic. Everything said in it is published once and goes to everyone there, on all shards;
//! a room is gone when nobody is in it. Who does not read is closed with 1013 and holds up nobody.

use ringwire::http::{Response, percent_decode};
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Handler, ListenAddr, Message, Overflow, Prepared, Publication,
    Remote, Request, Router, Server, Subscribe, Upgrade,
};
use serde_json::{Value, json};

/// Characters of a name and of a room's.
const MAX_NAME_CHARS: usize = 40;

struct Chat {
    rooms: Router<()>,
    /// Publishes what is to be told when no connection is at hand.
    remote: Remote,
}

struct Member {
    room: String,
    name: String,
}

impl Handler for Chat {
    type State = Member;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<Member> {
        let found = match self.rooms.find(request.method(), request.path()) {
            Ok(found) => found,
            Err(error) => return Upgrade::reject(error.into()),
        };
        let room = found.param("room").unwrap_or_default();
        let name = request.query().and_then(|query| query.strip_prefix("name=")).and_then(percent_decode);
        let fits = |text: &str| !text.is_empty() && text.chars().count() <= MAX_NAME_CHARS;
        match name {
            Some(name) if fits(&name) && fits(room) && !room.contains('#') => {
                let member = Member { room: format!("room/{room}"), name: name.into_owned() };
                Upgrade::accept(member).overflow(Overflow::CLOSE)
            }
            _ => Upgrade::reject(Response::text(400, "Open /ROOM?name=NAME, each of 1 to 40 characters.\n")),
        }
    }

    fn open(&mut self, conn: &mut Conn<'_, Member>) {
        let room = conn.state().room.clone();
        // With the last word that was said here.
        if let Err(error) = conn.subscribe_with(&room, Subscribe::new().retained()) {
            return conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
        }
        let joined = line(json!({ "joined": conn.state().name }));
        let _ = conn.publish_with(Publication::new(&room, &joined).except(conn.id()));
    }

    fn message(&mut self, conn: &mut Conn<'_, Member>, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        let Member { room, name } = conn.state();
        let (room, said) = (room.clone(), line(json!({ "name": name, "text": text })));
        if let Err(error) = conn.publish_with(Publication::new(&room, &said).retain()) {
            conn.send_text(&json!({ "error": error.to_string() }).to_string());
        }
    }

    fn close(&mut self, _id: ConnId, member: Member, _reason: CloseReason<'_>) {
        let _ = self.remote.publish(&member.room, &line(json!({ "left": member.name })));
    }
}

fn line(value: Value) -> Prepared {
    Prepared::text(value.to_string())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr: ListenAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9001").parse()?;
    let server = Server::builder().listen(addr).bind()?;
    println!("ws://{}: open /lobby?name=Ann and /lobby?name=Bob, and send text", server.local_addrs()[0]);
    server.run(|shard| Chat {
        rooms: Router::new().route("GET", "/{room}", ()),
        remote: shard.remote.clone(),
    })?;
    Ok(())
}
