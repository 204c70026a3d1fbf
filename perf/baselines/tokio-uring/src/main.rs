//! ringwire's protocol on tokio-uring's streams, without ringwire's engine: what the engine is worth. As
//! `examples/tokio_uring_codec.rs`, but for its deadlines, which the other programs here have not either.
//!
//! `baseline-tokio-uring PORT`

use ringwire::OriginPolicy;
use ringwire::http::{HEADER_SLOT, Headers, parse_request};
use ringwire::ws::handshake::evaluate;
use ringwire::ws::{Codec, Event, State};
use std::io;
use tokio_uring::net::{TcpListener, TcpStream};

const MAX_HEADERS: usize = 64;
const MAX_MESSAGE_BYTES: u32 = 16 << 20;
const READ_BYTES: usize = 64 << 10;

fn main() -> io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("PORT");
    tokio_uring::start(async {
        let listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                // An error ends this connection alone.
                let _ = serve(&stream).await;
            });
        }
    })
}

async fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut buf = Vec::with_capacity(READ_BYTES);
    while !head.ends_with(b"\r\n\r\n") {
        buf = read(stream, buf).await?;
        head.extend_from_slice(&buf);
    }
    let answer = judge(&head).ok_or(io::ErrorKind::InvalidData)?;
    stream.write_all(answer).await.0?;
    echo(stream, buf).await
}

/// The 101 response to a request head.
fn judge(head: &[u8]) -> Option<Vec<u8>> {
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let head = parse_request(head, &mut slots).ok()?;
    let offer = evaluate(&head, &OriginPolicy::SameOrigin).ok()?;
    let mut answer = Vec::new();
    offer.write_response(&mut answer, None, &Headers::default()).ok()?;
    Some(answer)
}

/// Sends every message back; what one read calls for is written at once, before the next read.
async fn echo(stream: &TcpStream, mut input: Vec<u8>) -> io::Result<()> {
    let mut codec = Codec::server(MAX_MESSAGE_BYTES);
    loop {
        input = read(stream, input).await?;
        let fed = codec.feed(&mut input, |event, writer| {
            if let Event::Message(message) = event {
                // Fails only after a Close frame, when an echo is of no use.
                let _ = writer.send(message);
            }
        });
        let output = std::mem::take(codec.output());
        if !output.is_empty() {
            let (written, mut output) = stream.write_all(output).await;
            written?;
            output.clear();
            *codec.output() = output;
        }
        if fed.is_err() || codec.state() == State::Closed {
            return Ok(());
        }
    }
}

/// Replaces the content of `buf` by what comes next, at least one byte.
async fn read(stream: &TcpStream, mut buf: Vec<u8>) -> io::Result<Vec<u8>> {
    buf.clear();
    let (result, buf) = stream.read(buf).await;
    match result? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(buf),
    }
}
