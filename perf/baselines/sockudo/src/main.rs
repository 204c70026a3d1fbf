//! sockudo-ws as an echo server that compresses, one thread, tuned as its documentation says: its
//! mimalloc, the clock made ready before the runtime, messages that came together fed and flushed
//! once. The shared compressors it describes are not reachable from its streams: each connection
//! owns one.
//!
//! `baseline-sockudo PORT`

use bytes::BytesMut;
use futures_util::{FutureExt, SinkExt, StreamExt};
use sockudo_ws::deflate::negotiate_server_deflate;
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::{CompressedWebSocketStream, Config, DeflateConfig, Error, Message, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn accept(
    mut stream: TcpStream,
    policy: DeflateConfig,
) -> Result<CompressedWebSocketStream<TcpStream>> {
    let mut head = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        let Some((request, consumed)) = parse_request(&head)? else { continue };
        let agreed = request.extensions.and_then(|offers| negotiate_server_deflate(offers, &policy));
        let agreed = agreed.ok_or(Error::HandshakeFailed("no offer of compression"))?;
        let key = generate_accept_key(request.key);
        stream.write_all(&build_response(&key, None, Some(&agreed.to_response_header()))).await?;
        let leftover = head.split_off(consumed).freeze();
        let config = Config::default();
        return Ok(CompressedWebSocketStream::server_with_leftover(
            stream,
            config,
            agreed.config,
            Some(leftover),
        ));
    }
}

async fn echo(stream: TcpStream, policy: DeflateConfig) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = accept(stream, policy).await?;
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
    let port: u16 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("PORT");
    let policy = DeflateConfig {
        server_no_context_takeover: true,
        client_no_context_takeover: true,
        compression_level: 1,
        compression_threshold: 128,
        ..DeflateConfig::default()
    };
    sockudo_ws::init_clock();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream, policy.clone()));
        }
    })
}
