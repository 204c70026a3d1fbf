//! tokio-websockets as an echo server, one thread, tuned as its documentation says: messages that came
//! together are fed and flushed once, TCP_NODELAY is on.
//!
//! `baseline-tokio-websockets PORT`

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{Error, ServerBuilder};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

async fn echo(stream: TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let (_request, mut socket) = ServerBuilder::new().accept(stream).await?;
    let mut ready = Vec::new();
    while let Some(first) = socket.next().await {
        ready.push(first?);
        // Reading flushes what has been fed: first everything that came together is taken.
        while let Some(Some(next)) = socket.next().now_or_never() {
            ready.push(next?);
        }
        for message in ready.drain(..).filter(|message| message.is_text() || message.is_binary()) {
            socket.feed(message).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("PORT");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream));
        }
    })
}
