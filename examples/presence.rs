//! Who is there, and messages to a user, wherever and however often it is connected.
//! `cargo run --release --example presence`, then open ws://127.0.0.1:9001/?user=ann and /?user=bob and
//! send `{"to":"bob","text":"hello"}`.
//!
//! A user is online from its first connection to the end of its last, over all shards: everyone is told
//! so exactly once. In earnest the name would come from a session, not from the address.

use ringwire::http::{Response, percent_decode};
use ringwire::{
    CloseCode, Conn, Handler, ListenAddr, Message, Prepared, Presence, Request, Server, Shard, Upgrade,
};
use serde_json::{Value, json};

const EVERYBODY: &str = "presence";

struct Users;

impl Handler for Users {
    /// The user's name.
    type State = String;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<String> {
        let user = request.query().and_then(|query| query.strip_prefix("user=")).and_then(percent_decode);
        match user {
            Some(user) => Upgrade::accept(user.into_owned()),
            None => Upgrade::reject(Response::text(400, "Open /?user=NAME.\n")),
        }
    }

    fn open(&mut self, conn: &mut Conn<'_, String>) {
        let user = conn.state().clone();
        let subscribed = conn.subscribe(EVERYBODY).map_err(|error| error.to_string());
        let bound = conn.bind_user(&user).map_err(|error| error.to_string());
        if let Err(error) = subscribed.and(bound) {
            conn.close(CloseCode::POLICY_VIOLATION, &error);
        }
    }

    fn message(&mut self, conn: &mut Conn<'_, String>, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        let request: Value = serde_json::from_str(text).unwrap_or_default();
        let answer = match (request["to"].as_str(), &request["text"]) {
            (Some(to), text @ Value::String(_)) => {
                let letter = Prepared::text(json!({ "from": conn.state(), "text": text }).to_string());
                match conn.send_to_user(to, &letter) {
                    Ok(connections) => json!({ "to": to, "connections": connections }),
                    Err(error) => json!({ "to": to, "error": error.to_string() }),
                }
            }
            _ => json!({ "error": "send {\"to\":\"bob\",\"text\":\"hello\"}" }),
        };
        conn.send_text(&answer.to_string());
    }

    fn presence(&mut self, shard: &mut Shard<'_, String>, change: &Presence) {
        let word = if change.online { "online" } else { "offline" };
        let news = json!({ word: &*change.user, "users": shard.user_count() });
        // Refused only where the shards are busy; who comes next tells the count again.
        let _ = shard.publish(EVERYBODY, &Prepared::text(news.to_string()));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr: ListenAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9001").parse()?;
    let server = Server::builder().listen(addr).bind()?;
    println!("ws://{}: open /?user=ann and /?user=bob", server.local_addrs()[0]);
    println!("and send {{\"to\":\"bob\",\"text\":\"hello\"}}");
    server.run(|_shard| Users)?;
    Ok(())
}
