//! tokio-tungstenite as an echo server, one thread, tuned as its documentation says: messages that
//! came together are answered with one flush, TCP_NODELAY is on, and the size of the eager read
//! buffer is an argument (128 KiB for throughput, 4 KiB for many connections).
//!
//! `baseline-tungstenite PORT [READ_BUFFER_BYTES]`
//! `baseline-tungstenite PORT READ_BUFFER_BYTES topic`: no echo; what anyone sends goes to all.

mod topic;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

async fn echo(stream: TcpStream, config: WebSocketConfig) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
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
            Some(message) if message.is_text() || message.is_binary() => socket.feed(message).await?,
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn main() -> std::io::Result<()> {
    let number = |n: usize| std::env::args().nth(n).and_then(|text| text.parse::<usize>().ok());
    let port = number(1).expect("PORT") as u16;
    let config = WebSocketConfig::default().read_buffer_size(number(2).unwrap_or(128 << 10));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        if std::env::args().nth(3).as_deref() == Some("topic") {
            return topic::serve(&listener, config).await;
        }
        // A local set would do as well; `spawn` on this runtime stays on this thread.
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream, config));
        }
    })
}
