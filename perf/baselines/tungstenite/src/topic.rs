//! One message to all, with tokio's broadcast channel: each connection's task has a receiver of it, and
//! the payload is shared by reference count. Messages that came together leave with one flush.

use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::pin::pin;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, Sender};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Messages that a slow task may be behind.
const CAPACITY: usize = 1_024;

async fn serve_one(stream: TcpStream, config: WebSocketConfig, topic: Sender<Message>) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    let mut published = topic.subscribe();
    loop {
        let heard = match select(socket.next(), pin!(published.recv())).await {
            Either::Left((None, _)) => return Ok(()),
            Either::Left((Some(message), _)) => {
                let message = message?;
                if message.is_text() || message.is_binary() {
                    // An error says that nobody listens.
                    let _ = topic.send(message);
                }
                continue;
            }
            Either::Right((heard, _)) => heard,
        };
        socket.feed(heard.expect("nobody is so far behind")).await?;
        while let Ok(more) = published.try_recv() {
            socket.feed(more).await?;
        }
        socket.flush().await?;
    }
}

pub async fn serve(listener: &TcpListener, config: WebSocketConfig) -> io::Result<()> {
    let (topic, _) = broadcast::channel(CAPACITY);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve_one(stream, config, topic.clone()));
    }
}
