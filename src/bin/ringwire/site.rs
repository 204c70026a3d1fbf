//! What `ringwire serve` serves: the echo and the broadcast endpoint, topics, the page, and what operators
//! ask for.
//!
//! One [`Site`] per shard. The contract of all endpoints: every message arrives, or the connection
//! is closed with 1013; none is lost silently.

use crate::board::Board;
use crate::topics::{self, Place};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ringwire::http::Response;
use ringwire::{
    CloseCode, CloseReason, Conn, ConnId, Dropped, Handler, Message, Prepared, Remote, RemoteError, Reply,
    Request, Router, SendResult, Server, Ticket, Upgrade, doctor, simd,
};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};

const PAGE: &str = include_str!("page.html");
const CLIENT: &str = include_str!("ringwire.js");
const TABS: &str = include_str!("tabs.js");
/// Stands in the page where each response has its own nonce.
const NONCE_MARK: &str = "{{nonce}}";
pub const UNREAD: &str = "too much is waiting to be read";
/// Bytes that a connection of `/broadcast` may leave unread: there may be many that do.
const MAX_UNREAD_BYTES: usize = 1 << 20;
const HERE: &str = "Here are /, /echo, /broadcast, /topics, /ringwire.js, /healthz, /info and /metrics.\n";

/// Where a connection was opened.
#[derive(Debug)]
pub enum Endpoint {
    /// Every message comes back.
    Echo,
    /// Every message goes to all connections of this endpoint, the sender's included.
    Broadcast,
    /// Messages go to those who listen to their topic. In a box: there may be a million others.
    Topics(Box<Place>),
}

const _: () = assert!(size_of::<Option<Endpoint>>() == 16, "each connection holds one");

/// What stands behind a path.
#[derive(Clone, Copy, Debug)]
enum Route {
    Page,
    Client,
    Tabs,
    Socket,
    Read,
    Publish,
    Health,
    Info,
    Metrics,
    HeadBytes,
}

fn routes() -> Router<Route> {
    Router::new()
        .route("GET", "/", Route::Page)
        .route("GET", "/ringwire.js", Route::Client)
        .route("GET", "/tabs.js", Route::Tabs)
        .route("GET", "/echo", Route::Socket)
        .route("GET", "/broadcast", Route::Socket)
        .route("GET", "/topics", Route::Socket)
        .route("GET", "/topics/{*name}", Route::Read)
        .route("POST", "/topics/{*name}", Route::Publish)
        .route("GET", "/healthz", Route::Health)
        .route("GET", "/info", Route::Info)
        .route("GET", "/metrics", Route::Metrics)
        .route("GET", "/head-bytes", Route::HeadBytes)
}

/// Where the text of `/metrics` is written: one buffer of the whole server's. Of 56 shards the text is 0.7 MB,
/// and the allocator would keep three times that for each thread that has answered once.
#[derive(Clone, Debug, Default)]
pub struct MetricsPage(Arc<Mutex<String>>);

/// A text on loan, until it has been sent.
struct Written {
    text: String,
    home: MetricsPage,
}

impl MetricsPage {
    fn write(&self, write: impl FnOnce(&mut String)) -> Bytes {
        let mut text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        text.clear();
        write(&mut text);
        Bytes::from_owner(Written { text, home: self.clone() })
    }
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        *self.home.0.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.text);
    }
}

#[derive(Debug)]
pub struct Site {
    remote: Remote,
    board: Arc<Board>,
    routes: Router<Route>,
    info: Bytes,
    publish_token: Option<Arc<str>>,
    metrics: MetricsPage,
}

impl Site {
    /// `info` is the text of `/info`.
    pub fn new(
        remote: Remote,
        board: Arc<Board>,
        info: Bytes,
        publish_token: Option<Arc<str>>,
        metrics: MetricsPage,
    ) -> Self {
        Self { remote, board, routes: routes(), info, publish_token, metrics }
    }

    fn metrics(&self) -> Response {
        let text = self.metrics.write(|text| self.remote.write_metrics(text));
        Response::new(200).body("text/plain; version=0.0.4; charset=utf-8", text)
    }
}

impl Handler for Site {
    type State = Endpoint;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<Endpoint> {
        match request.path() {
            "/echo" | "/" => Upgrade::accept(Endpoint::Echo),
            "/broadcast" => Upgrade::accept(Endpoint::Broadcast),
            "/topics" => Upgrade::accept(Endpoint::Topics(topics::socket().into())),
            _ => Upgrade::reject(Response::text(
                404,
                "The WebSocket endpoints are /echo, /broadcast and /topics.\n",
            )),
        }
    }

    fn open(&mut self, conn: &mut Conn<'_, Endpoint>) {
        if let Endpoint::Topics(_) = conn.state() {
            topics::open(&self.board, conn);
        }
    }

    fn message(&mut self, conn: &mut Conn<'_, Endpoint>, message: Message<'_>) {
        match conn.state() {
            Endpoint::Echo => {
                if conn.send(message) == SendResult::Dropped {
                    conn.close(CloseCode::TRY_AGAIN_LATER, UNREAD);
                }
            }
            Endpoint::Broadcast => {
                let prepared = match message {
                    Message::Text(text) => Prepared::text(text),
                    Message::Binary(bytes) => Prepared::binary(Bytes::copy_from_slice(bytes)),
                };
                if self.remote.broadcast(&prepared, 0) == Err(RemoteError::Full) {
                    conn.close(CloseCode::TRY_AGAIN_LATER, "too many messages wait to be sent to all");
                }
            }
            Endpoint::Topics(_) => topics::message(&self.board, conn, message),
        }
    }

    fn broadcast(&mut self, conn: &mut Conn<'_, Endpoint>, message: &Prepared, _tag: u64) {
        if !matches!(conn.state(), Endpoint::Broadcast) {
            return;
        }
        let unread = conn.backpressure_bytes() > MAX_UNREAD_BYTES;
        if unread || conn.send_prepared(message) == SendResult::Dropped {
            conn.close(CloseCode::TRY_AGAIN_LATER, UNREAD);
        }
    }

    fn dropped(&mut self, conn: &mut Conn<'_, Endpoint>, _dropped: Dropped) {
        topics::dropped(conn);
    }

    fn close(&mut self, _id: ConnId, state: Endpoint, _reason: CloseReason<'_>) {
        if let Endpoint::Topics(place) = state {
            topics::close(&self.board, &place);
        }
    }

    fn http(&mut self, request: &Request<'_>) -> Reply<Endpoint> {
        let found = match self.routes.find(request.method(), request.path()) {
            Ok(found) => found,
            Err(ringwire::http::RouteError::NotFound) => return Response::text(404, HERE).into(),
            Err(refused) => return refused.into_response().into(),
        };
        let name = found.param("name").unwrap_or_default();
        let response = match found.value() {
            Route::Page => page(),
            Route::Client => script(CLIENT),
            Route::Tabs => script(TABS),
            Route::Socket => Response::upgrade_required(),
            Route::Read => return topics::read(&self.board, name, request),
            Route::Publish => topics::publish(&self.board, name, request, self.publish_token.as_deref()),
            Route::Health => Response::text(200, "ok\n").header("Cache-Control", "no-store"),
            Route::Info => {
                let info = Response::new(200).body("application/json", self.info.clone());
                info.header("Cache-Control", "no-store")
            }
            Route::Metrics => self.metrics(),
            Route::HeadBytes => {
                let bytes = format!("{}\n", head_bytes(request));
                Response::text(200, bytes).header("Cache-Control", "no-store")
            }
        };
        response.into()
    }

    fn expired(&mut self, ticket: Ticket, state: &mut Endpoint) -> Response {
        match state {
            Endpoint::Topics(place) => topics::expired(&self.board, place, ticket),
            _ => Response::new(204),
        }
    }

    fn abandoned(&mut self, ticket: Ticket, state: Endpoint) {
        if let Endpoint::Topics(place) = state {
            topics::abandoned(&self.board, &place, ticket);
        }
    }
}

fn script(text: &'static str) -> Response {
    Response::new(200)
        .body("text/javascript; charset=utf-8", text)
        .header("Cache-Control", "no-cache")
        .header("X-Content-Type-Options", "nosniff")
}

/// What the head of this request took on the wire, which a page cannot see.
fn head_bytes(request: &Request<'_>) -> usize {
    let query = request.query().map_or(0, |query| 1 + query.len());
    let line = request.method().len() + 1 + request.path().len() + query + " HTTP/1.1\r\n".len();
    line + request.headers().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + 2
}

/// The page, its script and style admitted by a nonce that no injected markup could guess.
fn page() -> Response {
    let mut random = [0; 16];
    if getrandom::fill(&mut random).is_err() {
        return Response::text(503, "No randomness can be had; try again.\n");
    }
    let nonce = STANDARD.encode(random);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Response::html(200, PAGE.replace(NONCE_MARK, &nonce))
        .header("Cache-Control", "no-store")
        .header("X-Content-Type-Options", "nosniff")
        .header("Referrer-Policy", "no-referrer")
        // Isolated pages get a clock of 5 µs instead of 100 µs, which the chart is for.
        .header("Cross-Origin-Opener-Policy", "same-origin")
        .header("Cross-Origin-Embedder-Policy", "require-corp")
        .try_header("Content-Security-Policy", policy)
        .unwrap_or_else(|error| Response::text(500, format!("Content-Security-Policy: {error}\n")))
}

/// The text of `/info`: what runs, for the page and for scripts. `fallback` tells that another
/// driver would have been better.
pub fn info(server: &Server, fallback: bool) -> String {
    let listen: Vec<String> = server.local_addrs().iter().map(ToString::to_string).collect();
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "driver": server.driver(),
        "driver_reason": server.driver_reason(),
        "fallback": fallback,
        "shards": server.shards(),
        "simd": simd::level().name(),
        "kernel": doctor::probe().kernel,
        "listen": listen,
    });
    info.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_where_the_last_ones_were() {
        let page = MetricsPage::default();
        let write = |text: &'static str| page.write(|out| out.push_str(text));
        let first = write("the first of several");
        let address = first.as_ptr();
        // What has not been sent yet is left alone.
        let second = write("second");
        assert_eq!((&first[..], &second[..]), (&b"the first of several"[..], &b"second"[..]));
        drop((second, first));
        let third = write("third");
        assert_eq!((third.as_ptr(), &third[..]), (address, &b"third"[..]));
    }
}
