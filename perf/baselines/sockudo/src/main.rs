//! sockudo-ws as an echo server, one thread, on tokio or on its io_uring transport, tuned as its
//! documentation says: its mimalloc, the clock made ready before the runtime, messages that came
//! together fed and flushed once. Clients that offer compression get it. The shared compressors it
//! describes are not reachable from its streams: each connection owns one.
//!
//! `baseline-sockudo tokio|uring PORT`

use bytes::BytesMut;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use sockudo_ws::deflate::negotiate_server_deflate;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::io_uring::UringStream;
use sockudo_ws::{CompressedWebSocketStream, Config, DeflateConfig, Error, Message, Result, WebSocketStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Clients send nothing before they are answered, so no frames stand behind the head.
async fn serve<S>(mut stream: S, policy: DeflateConfig) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        let Some((request, _)) = parse_request(&head)? else { continue };
        let agreed = request.extensions.and_then(|offers| negotiate_server_deflate(offers, &policy));
        let answer = agreed.as_ref().map(|agreed| agreed.to_response_header());
        let key = generate_accept_key(request.key);
        stream.write_all(&build_response(&key, None, answer.as_deref())).await?;
        let config = Config::default();
        return match agreed {
            Some(agreed) => echo(CompressedWebSocketStream::server(stream, config, agreed.config)).await,
            None => echo(WebSocketStream::server(stream, config)).await,
        };
    }
}

async fn echo<W>(mut socket: W) -> Result<()>
where
    W: Stream<Item = Result<Message>> + Sink<Message, Error = Error> + Unpin,
{
    loop {
        let next = match socket.next().now_or_never() {
            Some(next) => next,
            None => {
                // Everything that was there is answered.
                socket.flush().await?;
                socket.next().await
            }
        };
        match next.transpose()? {
            Some(message @ (Message::Text(_) | Message::Binary(_))) => socket.feed(message).await?,
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn main() -> std::io::Result<()> {
    let how = std::env::args().nth(1).unwrap_or_default();
    let port: u16 = std::env::args().nth(2).and_then(|text| text.parse().ok()).expect("tokio|uring PORT");
    let policy = DeflateConfig {
        server_no_context_takeover: true,
        client_no_context_takeover: true,
        compression_level: 1,
        compression_threshold: 128,
        ..DeflateConfig::default()
    };
    sockudo_ws::init_clock();
    match &*how {
        "tokio" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(on_tokio(port, policy))
        }
        "uring" => tokio_uring::start(on_uring(port, policy)),
        _ => panic!("tokio or uring"),
    }
}

async fn on_tokio(port: u16, policy: DeflateConfig) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, policy.clone()));
    }
}

async fn on_uring(port: u16, policy: DeflateConfig) -> std::io::Result<()> {
    let listener = tokio_uring::net::TcpListener::bind(([127, 0, 0, 1], port).into())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio_uring::spawn(serve(UringStream::new(stream), policy.clone()));
    }
}
