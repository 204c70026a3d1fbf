//! What `ringwire serve` serves: the echo and the broadcast endpoint, the page, and what operators ask for.
//!
//! One [`Site`] per shard. The contract of both endpoints: every message arrives, or the connection
//! is closed with 1013; none is lost silently.

use crate::json::{self, Object};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ringwire::http::Response;
use ringwire::{
    CloseCode, Conn, Handler, Message, Prepared, Remote, RemoteError, Reply, Request, SendResult, Server,
    Upgrade, doctor, simd,
};

const PAGE: &str = include_str!("page.html");
/// Stands in the page where each response has its own nonce.
const NONCE_MARK: &str = "{{nonce}}";
const UNREAD: &str = "too much is waiting to be read";
/// Bytes that a connection of `/broadcast` may leave unread: there may be many that do.
const MAX_UNREAD_BYTES: usize = 1 << 20;

/// Where a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Every message comes back.
    Echo,
    /// Every message goes to all connections of this endpoint, the sender's included.
    Broadcast,
}

#[derive(Debug)]
pub struct Site {
    remote: Remote,
    info: Bytes,
}

impl Site {
    /// `info` is the text of `/info`.
    pub fn new(remote: Remote, info: Bytes) -> Self {
        Self { remote, info }
    }

    fn metrics(&self) -> Response {
        let mut text = String::new();
        self.remote.write_metrics(&mut text);
        Response::new(200).body("text/plain; version=0.0.4; charset=utf-8", text)
    }
}

impl Handler for Site {
    type State = Endpoint;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<Endpoint> {
        match request.path() {
            "/echo" | "/" => Upgrade::accept(Endpoint::Echo),
            "/broadcast" => Upgrade::accept(Endpoint::Broadcast),
            _ => Upgrade::reject(Response::text(404, "The WebSocket endpoints are /echo and /broadcast.\n")),
        }
    }

    fn message(&mut self, conn: &mut Conn<'_, Endpoint>, message: Message<'_>) {
        if *conn.state() == Endpoint::Broadcast {
            let prepared = match message {
                Message::Text(text) => Prepared::text(text),
                Message::Binary(bytes) => Prepared::binary(Bytes::copy_from_slice(bytes)),
            };
            if self.remote.broadcast(&prepared, 0) == Err(RemoteError::Full) {
                conn.close(CloseCode::TRY_AGAIN_LATER, "too many messages wait to be sent to all");
            }
        } else if conn.send(message) == SendResult::Dropped {
            conn.close(CloseCode::TRY_AGAIN_LATER, UNREAD);
        }
    }

    fn broadcast(&mut self, conn: &mut Conn<'_, Endpoint>, message: &Prepared, _tag: u64) {
        if *conn.state() != Endpoint::Broadcast {
            return;
        }
        let unread = conn.backpressure_bytes() > MAX_UNREAD_BYTES;
        if unread || conn.send_prepared(message) == SendResult::Dropped {
            conn.close(CloseCode::TRY_AGAIN_LATER, UNREAD);
        }
    }

    fn http(&mut self, request: &Request<'_>) -> Reply<Endpoint> {
        let serve = match request.path() {
            "/" => |_: &Self| page(),
            "/echo" | "/broadcast" => |_: &Self| Response::upgrade_required(),
            "/healthz" => |_: &Self| Response::text(200, "ok\n").header("Cache-Control", "no-store"),
            "/info" => |site: &Self| {
                let info = Response::new(200).body("application/json", site.info.clone());
                info.header("Cache-Control", "no-store")
            },
            "/metrics" => Self::metrics,
            _ => {
                let here = "Here are /, /echo, /broadcast, /healthz, /info and /metrics.\n";
                return Response::text(404, here).into();
            }
        };
        match request.method() {
            "GET" | "HEAD" => serve(self).into(),
            _ => Response::text(405, "Use GET or HEAD.\n").header("Allow", "GET, HEAD").into(),
        }
    }
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
    let info = Object::default()
        .text("version", env!("CARGO_PKG_VERSION"))
        .text("driver", server.driver())
        .text("driver_reason", server.driver_reason())
        .member("fallback", &fallback.to_string())
        .member("shards", &server.shards().to_string())
        .text("simd", simd::level().name())
        .text("kernel", &doctor::probe().kernel)
        .member(
            "listen",
            &json::array(server.local_addrs().iter().map(|addr| json::string(&addr.to_string()))),
        );
    info.finish() + "\n"
}
