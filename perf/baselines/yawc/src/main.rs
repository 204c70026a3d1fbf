//! yawc as an echo server that compresses if asked to, one thread, tuned as its documentation says: one pool of
//! compressors for all connections, batches of at most 32 messages that are ready, then a flush, a
//! read buffer of 128 KiB and a write boundary of 64 KiB. Text is validated, as RFC 6455 §8.1 wants.
//!
//! `baseline-yawc PORT`

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use yawc::{CompressionLevel, DeflatePool, Frame, HttpWebSocket, OpCode, Options, WebSocket};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 32;

/// The answer to a frame, if it wants one of the application: pings and Close answer themselves.
fn answer(frame: Frame) -> Option<Frame> {
    let (opcode, _, payload) = frame.into_parts();
    match opcode {
        OpCode::Text => Some(Frame::text(payload)),
        OpCode::Binary => Some(Frame::binary(payload)),
        _ => None,
    }
}

async fn echo(mut socket: HttpWebSocket) -> yawc::Result<()> {
    while let Some(first) = socket.next().await {
        let mut next = Some(first);
        let mut batched = 0;
        while let Some(frame) = next.take() {
            if let Some(answer) = answer(frame) {
                socket.feed(answer).await?;
            }
            batched += 1;
            if batched < BATCH {
                next = socket.next().now_or_never().flatten();
            }
        }
        socket.flush().await?;
    }
    Ok(())
}

fn upgrade(mut request: Request<Incoming>, options: Options) -> Response<Empty<Bytes>> {
    let Ok((response, socket)) = WebSocket::upgrade_with_options(&mut request, options) else {
        let mut refused = Response::new(Empty::new());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    };
    tokio::spawn(async move {
        if let Ok(socket) = socket.await {
            // An error ends this connection alone.
            let _ = echo(socket).await;
        }
    });
    response
}

async fn connection(stream: TcpStream, options: Options) {
    let service = hyper::service::service_fn(move |request| {
        let response = upgrade(request, options.clone());
        async move { Ok::<_, Infallible>(response) }
    });
    let http = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = http.with_upgrades().await;
}

fn main() -> std::io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("PORT");
    let options = Options::default()
        .with_compression_level(CompressionLevel::fast())
        .server_no_context_takeover()
        .client_no_context_takeover()
        .with_server_max_window_bits(15)
        .with_client_max_window_bits(15)
        .with_compression_threshold(128)
        .with_deflate_pool(DeflatePool::new(64))
        .with_read_buffer_capacity(128 << 10)
        .with_backpressure_boundary(64 << 10)
        .with_max_payload_read(16 << 20)
        .with_utf8();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream, options.clone()));
        }
    })
}
