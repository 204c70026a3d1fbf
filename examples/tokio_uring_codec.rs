//! WebSocket over tokio-uring's streams: the protocol without the engine.
//! `cargo run --release --example tokio_uring_codec`, then connect to ws://127.0.0.1:9002.
//!
//! `ringwire::http` and `ringwire::ws` take bytes and give bytes; who reads and writes them is up
//! to the caller, and so is time: the deadlines here stand where the engine would have its own.

use ringwire::OriginPolicy;
use ringwire::http::{HEADER_SLOT, HeadScanner, Headers, Response, parse_request};
use ringwire::ws::handshake::{evaluate, is_upgrade};
use ringwire::ws::{Codec, Event, State};
use std::io;
use std::net::Shutdown;
use std::time::Duration;
use tokio::time::timeout;
use tokio_uring::net::{TcpListener, TcpStream};

const MAX_HEAD_BYTES: u32 = 16 << 10;
const MAX_HEADERS: usize = 64;
const MAX_MESSAGE_BYTES: u32 = 1 << 20;
const READ_BYTES: usize = 64 << 10;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const IDLE_DEADLINE: Duration = Duration::from_secs(180);
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    tokio_uring::start(async {
        let listener = TcpListener::bind(([127, 0, 0, 1], 9002).into())?;
        println!("ws://{}", listener.local_addr()?);
        loop {
            let (stream, peer) = listener.accept().await?;
            tokio_uring::spawn(async move {
                if let Err(error) = serve(&stream).await {
                    eprintln!("{peer}: {error}");
                }
            });
        }
    })
}

async fn serve(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(rest) = timeout(HEAD_DEADLINE, open(stream)).await?? {
        echo(stream, rest).await?;
    }
    end(stream).await
}

/// Reads and answers the request. Returns the bytes that follow an accepted one: they are frames.
async fn open(stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut scanner = HeadScanner::default();
    let mut received = Vec::new();
    let mut buf = Vec::with_capacity(READ_BYTES);
    let judged = loop {
        match scanner.scan(&received, MAX_HEAD_BYTES) {
            Ok(None) => buf = read(stream, buf).await?,
            Ok(Some(head_bytes)) => break judge(&received[..head_bytes]).map(|answer| (answer, head_bytes)),
            Err(error) => break Err(error.into()),
        }
        received.extend_from_slice(&buf);
    };
    match judged {
        Ok((answer, head_bytes)) => {
            stream.write_all(answer).await.0?;
            Ok(Some(received.split_off(head_bytes)))
        }
        Err(refusal) => {
            let mut answer = Vec::new();
            refusal.encode(&mut answer, false, false);
            stream.write_all(answer).await.0?;
            Ok(None)
        }
    }
}

/// The 101 response to a request head, or the refusal.
fn judge(head: &[u8]) -> Result<Vec<u8>, Response> {
    let mut slots = [HEADER_SLOT; MAX_HEADERS];
    let head = parse_request(head, &mut slots)?;
    if !is_upgrade(&head) {
        return Err(Response::upgrade_required());
    }
    let offer = evaluate(&head, &OriginPolicy::SameOrigin)?;
    let mut answer = Vec::new();
    match offer.write_response(&mut answer, None, &Headers::default()) {
        Ok(()) => Ok(answer),
        Err(error) => Err(Response::text(500, error.to_string())),
    }
}

/// Sends every message back until either end closes. What one read calls for is written before
/// the next read, so a peer that does not read is not read from either.
async fn echo(stream: &TcpStream, mut input: Vec<u8>) -> io::Result<()> {
    let mut codec = Codec::server(MAX_MESSAGE_BYTES);
    loop {
        let fed = codec.feed(&mut input, |event, writer| {
            if let Event::Message(message) = event {
                // Fails only after a Close frame, when an echo is of no use.
                let _ = writer.send(message);
            }
        });
        let output = std::mem::take(codec.output());
        let (written, mut output) = timeout(IDLE_DEADLINE, stream.write_all(output)).await?;
        written?;
        output.clear();
        *codec.output() = output;
        // A violation's Close frame has just been written.
        if fed.is_err() || codec.state() == State::Closed {
            return Ok(());
        }
        input = if input.capacity() < READ_BYTES { Vec::with_capacity(READ_BYTES) } else { input };
        input = timeout(IDLE_DEADLINE, read(stream, input)).await??;
    }
}

/// Sends FIN and waits for the peer's, discarding what comes: a socket closed with unread bytes
/// sends a reset, which can overtake our last frame.
async fn end(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let discard = async {
        let mut buf = Vec::with_capacity(READ_BYTES);
        while let Ok(read) = read(stream, buf).await {
            buf = read;
        }
    };
    // Whoever keeps sending is cut off.
    let _ = timeout(CLOSE_DEADLINE, discard).await;
    Ok(())
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
