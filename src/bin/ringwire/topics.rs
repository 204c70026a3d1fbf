//! `/topics` of `ringwire serve`: messages to all who listen to a name, over WebSockets and over HTTP.
//!
//! Over a WebSocket everything is JSON text. A client asks one thing per message:
//!
//! | client | server |
//! |---|---|
//! | `{"subscribe":"room/1"}`, and `"after":N` to go on after a message | `{"subscribed":"room/1","id":N}`, after `{"gap":"room/1","id":N}` if messages in between are not kept; then those that are |
//! | `{"unsubscribe":"room/1"}` | `{"unsubscribed":"room/1"}` |
//! | `{"publish":"room/1","data":…}` | `{"published":"room/1","id":N}` |
//! | `{"ping":…}` | `{"pong":…}`, of the same value |
//! | | `{"topic":"room/1","id":N,"data":…}`: a message |
//! | | `{"error":"…"}`, with the request's own member, if it has one: `{"error":"…","publish":"room/1"}` |
//!
//! Ids of a topic increase by one. A listener gets each message once, in order, or is closed with 1013
//! because it leaves too much unread; it comes again with `after`.

use crate::board::{Board, CatchUp, Refused, json_string};
use crate::site::{Endpoint, UNREAD};
use ringwire::http::{Event, Response};
use ringwire::{CloseCode, Conn, Message, Reply, Request, SendResult, Ticket, Transport};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Topics one connection may listen to.
const MAX_SUBSCRIPTIONS: usize = 128;
/// Bytes that a listener may leave unread: there may be many that do.
const MAX_UNREAD_BYTES: u32 = 1 << 20;
/// How long a poll waits for a message, unless `wait` says less.
const MAX_WAIT_S: u64 = 25;

/// A connection's place at `/topics`.
#[derive(Debug)]
pub enum Place {
    /// Listens to these.
    Listens(Vec<Arc<str>>),
    /// Is about to, as a stream of events.
    Asks { name: String, after: Option<u64> },
    /// Waits for the next message.
    Polls { name: String, after: Option<u64> },
}

/// What a client asks for over a WebSocket.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask<'a> {
    #[serde(borrow, default)]
    subscribe: Option<Cow<'a, str>>,
    #[serde(default)]
    after: Option<u64>,
    #[serde(borrow, default)]
    unsubscribe: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    publish: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    ping: Option<&'a RawValue>,
}

impl Ask<'_> {
    fn is_one_thing(&self) -> bool {
        let things = [
            self.subscribe.is_some(),
            self.unsubscribe.is_some(),
            self.publish.is_some(),
            self.ping.is_some(),
        ];
        let stray = (self.after.is_some() && self.subscribe.is_none())
            || (self.data.is_some() && self.publish.is_none());
        things.into_iter().filter(|given| *given).count() == 1 && !stray
    }
}

/// `null` is a value as any other.
fn present<'de, D: Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

const USAGE: &str = "send one of {\"subscribe\":\"room/1\"}, {\"unsubscribe\":\"room/1\"}, \
                     {\"publish\":\"room/1\",\"data\":…} and {\"ping\":…}";

/// A WebSocket that listens to nothing yet.
pub fn socket() -> Place {
    Place::Listens(Vec::new())
}

/// A connection of `/topics`.
type Peer<'a> = Conn<'a, Endpoint>;

/// A connection has opened; a stream of events is sent what it missed.
pub fn open(board: &Board, conn: &mut Peer<'_>) {
    conn.set_max_outbox_bytes(MAX_UNREAD_BYTES);
    let Endpoint::Topics(place) = conn.state() else { return };
    let Place::Asks { name, after } = &**place else { return };
    let (name, after) = (name.clone(), *after);
    match board.subscribe(conn.id(), &name, after) {
        Ok((topic, missed)) => {
            catch_up(conn, &name, &missed);
            *conn.state_mut() = Endpoint::Topics(Place::Listens(vec![topic]).into());
        }
        Err(refused) => refuse(conn, &refused.to_string(), None),
    }
}

/// A client of a WebSocket asks for something.
pub fn message(board: &Board, conn: &mut Peer<'_>, message: Message<'_>) {
    let Message::Text(text) = message else {
        return refuse(conn, &format!("messages here are text: {USAGE}"), None);
    };
    match serde_json::from_str::<Ask<'_>>(text) {
        Ok(ask) => obey(board, conn, &ask),
        Err(error) => refuse(conn, &format!("{error}: {USAGE}"), None),
    }
}

fn obey(board: &Board, conn: &mut Peer<'_>, ask: &Ask<'_>) {
    match *ask {
        _ if !ask.is_one_thing() => refuse(conn, USAGE, None),
        Ask { subscribe: Some(ref name), after, .. } => subscribe(board, conn, name, after),
        Ask { unsubscribe: Some(ref name), .. } => unsubscribe(board, conn, name),
        Ask { publish: Some(ref name), data: Some(data), .. } => match board.publish(name, data.get()) {
            Ok(id) => tell(conn, &format!("{{\"published\":{},\"id\":{id}}}", json_string(name))),
            Err(refused) => refuse(conn, &refused.to_string(), Some(("publish", name))),
        },
        Ask { publish: Some(ref name), data: None, .. } => {
            refuse(conn, "there is no \"data\" to publish", Some(("publish", name)));
        }
        Ask { ping: Some(value), .. } => tell(conn, &format!("{{\"pong\":{}}}", value.get())),
        _ => refuse(conn, USAGE, None),
    }
}

/// The topics that a connection listens to.
fn listens<'c>(conn: &'c mut Peer<'_>) -> Option<&'c mut Vec<Arc<str>>> {
    match conn.state_mut() {
        Endpoint::Topics(place) => match &mut **place {
            Place::Listens(topics) => Some(topics),
            Place::Asks { .. } | Place::Polls { .. } => None,
        },
        Endpoint::Echo | Endpoint::Broadcast => None,
    }
}

fn subscribe(board: &Board, conn: &mut Peer<'_>, name: &str, after: Option<u64>) {
    let id = conn.id();
    let Some(topics) = listens(conn) else { return };
    let member = Some(("subscribe", name));
    if topics.iter().any(|known| **known == *name) {
        return refuse(conn, "this connection listens to it already", member);
    }
    if topics.len() == MAX_SUBSCRIPTIONS {
        let error = format!("a connection listens to at most {MAX_SUBSCRIPTIONS} topics: open another");
        return refuse(conn, &error, member);
    }
    match board.subscribe(id, name, after) {
        Ok((topic, missed)) => {
            topics.push(topic);
            catch_up(conn, name, &missed);
        }
        Err(refused) => refuse(conn, &refused.to_string(), member),
    }
}

fn unsubscribe(board: &Board, conn: &mut Peer<'_>, name: &str) {
    let id = conn.id();
    let Some(topics) = listens(conn) else { return };
    let member = Some(("unsubscribe", name));
    let Some(index) = topics.iter().position(|known| **known == *name) else {
        return refuse(conn, "this connection does not listen to it", member);
    };
    match board.unsubscribe(id, name) {
        Ok(()) => {
            topics.swap_remove(index);
            tell(conn, &format!("{{\"unsubscribed\":{}}}", json_string(name)));
        }
        Err(refused) => refuse(conn, &refused.to_string(), member),
    }
}

/// Messages did not fit a stream of events, which knows no other end than this. A WebSocket has been
/// closed by its policy.
pub fn dropped(conn: &mut Peer<'_>) {
    conn.close(CloseCode::TRY_AGAIN_LATER, UNREAD);
}

/// The connection has ended.
pub fn close(board: &Board, place: &Place) {
    if let Place::Listens(topics) = place {
        topics.iter().for_each(|topic| board.leave(topic));
    }
}

/// `GET /topics/NAME`: a stream of events to who accepts one, else a poll.
pub fn read(board: &Board, name: &str, request: &Request<'_>) -> Reply<Endpoint> {
    let wants_events = request.header("accept").is_some_and(|accept| accept.contains("text/event-stream"));
    let name = name.to_owned();
    let after = match request.header("last-event-id").filter(|_| wants_events) {
        Some(id) => Some(id),
        None => query(request, "after"),
    };
    let Ok(after) = after.map(str::parse).transpose() else {
        return Response::text(400, "`after` is the id of a message: a number.\n").into();
    };
    if wants_events {
        return Reply::stream(Response::events(), Endpoint::Topics(Place::Asks { name, after }.into()));
    }
    let Ok(wait_s) = query(request, "wait").map_or(Ok(MAX_WAIT_S), str::parse) else {
        return Response::text(400, "`wait` is a number of seconds.\n").into();
    };
    let ticket = (wait_s > 0 && after.is_some()).then_some(request.ticket());
    match board.poll(&name, after, ticket) {
        Ok(Some(response)) => response.into(),
        Ok(None) => {
            let within = Duration::from_secs(wait_s.min(MAX_WAIT_S));
            Reply::later(Endpoint::Topics(Place::Polls { name, after }.into()), within)
        }
        Err(refused) => answer(refused).into(),
    }
}

/// Nothing was published while a poll waited: it is told so.
pub fn expired(board: &Board, place: &Place, ticket: Ticket) -> Response {
    let Place::Polls { name, after } = place else { return Response::new(204) };
    board.forget(name, ticket);
    match board.poll(name, *after, None) {
        Ok(response) => response.unwrap_or_else(|| Response::new(204)),
        Err(refused) => answer(refused),
    }
}

/// Who polled has gone.
pub fn abandoned(board: &Board, place: &Place, ticket: Ticket) {
    if let Place::Polls { name, .. } = place {
        board.forget(name, ticket);
    }
}

/// `POST /topics/NAME`: publishes the body, for who knows the token.
pub fn publish(board: &Board, name: &str, request: &Request<'_>, token: Option<&str>) -> Response {
    let Some(token) = token else {
        return Response::text(403, "Publishing by POST is off: start the server with --publish-token.\n");
    };
    if !request.is_same_origin() {
        return Response::text(403, "A page of another origin may not publish here.\n");
    }
    let given = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if !given.is_some_and(|given| is_equal(given.trim(), token)) {
        return Response::text(
            401,
            "Send `Authorization: Bearer TOKEN` with the server's --publish-token.\n",
        )
        .header("WWW-Authenticate", "Bearer");
    }
    let data = std::str::from_utf8(request.body()).map_err(|error| error.to_string());
    let data =
        data.and_then(|text| serde_json::from_str::<&RawValue>(text).map_err(|error| error.to_string()));
    match data.map(|data| board.publish(name, data.get())) {
        Ok(Ok(id)) => {
            let body = format!("{{\"published\":{},\"id\":{id}}}\n", json_string(name));
            Response::new(200).body("application/json", body)
        }
        Ok(Err(refused)) => answer(refused),
        Err(error) => Response::text(400, format!("The body is no JSON: {error}.\n")),
    }
}

/// Compares in a time that does not tell where they differ.
fn is_equal(given: &str, token: &str) -> bool {
    let differing = given.bytes().zip(token.bytes()).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    given.len() == token.len() && differing == 0
}

fn answer(refused: Refused) -> Response {
    let response = Response::text(refused.status(), format!("{refused}\n"));
    if refused.status() == 503 { response.header("Retry-After", "1") } else { response }
}

/// A member of the query; those here are numbers and need no decoding.
fn query<'r>(request: &Request<'r>, name: &str) -> Option<&'r str> {
    request.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Says where the topic is, and sends what was missed.
fn catch_up(conn: &mut Peer<'_>, name: &str, missed: &CatchUp) {
    let (name, last) = (json_string(name), missed.last);
    let before = missed.messages.first().map_or(last, |(id, _)| id - 1);
    if missed.gap {
        say(conn, "gap", before, &format!("{{\"gap\":{name},\"id\":{before}}}"));
    }
    say(conn, "subscribed", before, &format!("{{\"subscribed\":{name},\"id\":{last}}}"));
    for (id, text) in &missed.messages {
        if conn.transport() == Transport::Events {
            conn.send_event(&Event::data(text).id(&id.to_string()));
        } else {
            tell(conn, text);
        }
    }
}

/// What is no message: to a stream of events one of another name, from whose id it goes on.
fn say(conn: &mut Peer<'_>, event: &str, id: u64, text: &str) {
    if conn.transport() == Transport::Events {
        conn.send_event(&Event::data(text).name(event).id(&id.to_string()));
    } else {
        tell(conn, text);
    }
}

fn refuse(conn: &mut Peer<'_>, error: &str, member: Option<(&str, &str)>) {
    let member = member.map(|(member, name)| format!(",\"{member}\":{}", json_string(name)));
    let text = format!("{{\"error\":{}{}}}", json_string(error), member.unwrap_or_default());
    if conn.transport() == Transport::WebSocket {
        return tell(conn, &text);
    }
    conn.send_event(&Event::data(&text).name("refused"));
    conn.close(CloseCode::TRY_AGAIN_LATER, "");
}

fn tell(conn: &mut Peer<'_>, text: &str) {
    if conn.send_text(text) == SendResult::Dropped {
        conn.close(CloseCode::TRY_AGAIN_LATER, UNREAD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole() {
        assert!(is_equal("abc", "abc"));
        for other in ["", "ab", "abcd", "abd", "Abc"] {
            assert!(!is_equal(other, "abc"), "{other}");
        }
    }

    #[test]
    fn what_is_asked_is_one_thing_of_known_names() {
        let ask: Ask<'_> = serde_json::from_str(r#"{"publish":"a\u00e9","data":{"n": 1.50}}"#).unwrap();
        assert_eq!((ask.publish.as_deref(), ask.data.unwrap().get()), (Some("aé"), r#"{"n": 1.50}"#));
        for wrong in ["", "7", r#"{"subscribe":7}"#, r#"{"subscribed":"a"}"#, r#"{"after":-1}"#] {
            assert!(serde_json::from_str::<Ask<'_>>(wrong).is_err(), "{wrong}");
        }
    }
}
