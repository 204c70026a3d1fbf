//! The scenario `attack`: a good server passes every row, a bad one fails the right ones, and one
//! that dies or hangs is told.

mod support;

use ringwire::{
    Compression, Conn, Deadlines, DeflateConfig, DriverChoice, Handler, Message, Request, Server, Upgrade,
};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::Running;

struct Echo;

impl Handler for Echo {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message);
    }
}

/// Deadlines that fit a test. `None` where io_uring is denied.
fn serve(driver: DriverChoice, compression: Compression) -> Option<Running> {
    let deadlines = Deadlines {
        head_ms: 1_000,
        idle_ms: 1_500,
        pong_ms: 3_000,
        close_ms: 1_000,
        assembly_ms: 3_000,
        ..Deadlines::default()
    };
    let builder = Server::builder().driver(driver).deadlines(deadlines).compression(compression);
    Running::start(builder, |_| Echo)
}

/// Exit code, output, and the rows of the JSON result.
fn attack(port: u16, arguments: &[&str]) -> (Option<i32>, String, Vec<Value>) {
    let json = std::env::temp_dir().join(format!("attack-{}-{port}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen"))
        .args(["attack", &format!("ws://127.0.0.1:{port}/"), "--json", json.to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap_or_default()).unwrap_or_default();
    let _ = std::fs::remove_file(&json);
    let rows = report["loads"][0]["attack"]["rows"].as_array().cloned().unwrap_or_default();
    (output.status.code(), text.into_owned(), rows)
}

fn names(rows: &[Value], outcome: &str) -> Vec<String> {
    let rows = rows.iter().filter(|row| row["outcome"] == outcome);
    rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    rows.iter().find(|row| row["name"] == name).unwrap()
}

fn a_good_server_passes(driver: DriverChoice, compression: Compression) {
    let compresses = compression != Compression::Off;
    let Some(server) = serve(driver, compression) else { return };
    let (code, text, rows) = attack(server.port, &["--timeout", "6", "--connections", "300"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(rows.len() > 20 && names(&rows, "failed").is_empty(), "{text}");
    // Without its process there is nothing to look at, and without compression nothing to inflate.
    let skipped =
        if compresses { &["left-behind"][..] } else { &["deflate-streams", "zip-bomb", "left-behind"] };
    assert_eq!(names(&rows, "skipped"), skipped, "{text}");
    let vanishing = row(&rows, "vanishing")["seen"].as_str().unwrap();
    assert!(
        vanishing.contains("who ignores pings: ping after") && !vanishing.contains("not tried"),
        "{text}"
    );
}

#[test]
fn ringwire_on_io_uring_passes() {
    a_good_server_passes(DriverChoice::Uring, Compression::Off);
}

#[test]
fn ringwire_on_epoll_passes() {
    a_good_server_passes(DriverChoice::Epoll, Compression::Off);
}

#[test]
fn ringwire_with_compression_on_io_uring_passes() {
    a_good_server_passes(DriverChoice::Uring, Compression::Deflate(DeflateConfig::default()));
}

#[test]
fn ringwire_that_keeps_windows_on_epoll_passes() {
    let config = DeflateConfig { takeover: true, ..DeflateConfig::default() };
    a_good_server_passes(DriverChoice::Epoll, Compression::Deflate(config));
}

/// What a bad server does at the first length with its top bit set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conduct {
    Wait,
    Die,
    Hang,
}

/// A server that checks nothing: heads of any size, any version and origin, frames with and without
/// masks, of any opcode, with any content. It has no deadlines, and answers a Close with itself.
fn serve_badly(conduct: Conduct) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let struck = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for stream in listener.incoming() {
            if conduct == Conduct::Die && struck.load(Ordering::SeqCst) {
                return;
            }
            let (stream, struck) = (stream.unwrap(), struck.clone());
            thread::spawn(move || converse_badly(stream, conduct, &struck));
        }
    });
    port
}

fn converse_badly(mut stream: TcpStream, conduct: Conduct, struck: &AtomicBool) -> Option<()> {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let mut input = Vec::new();
    let mut looked = 0;
    let head = loop {
        let end = input[looked..].windows(4).position(|window: &[u8]| window == b"\r\n\r\n");
        if let Some(end) = end {
            break looked + end + 4;
        }
        looked = input.len().saturating_sub(3);
        read(&mut stream, &mut input)?;
    };
    input.drain(..head);
    stream.write_all(answer).ok()?;
    loop {
        while input.len() < 14 && wanted(&input).is_none() {
            read(&mut stream, &mut input)?;
        }
        let (header, length) = wanted(&input)?;
        let is_huge = length > 1 << 26;
        if is_huge && conduct != Conduct::Wait {
            struck.store(true, Ordering::SeqCst);
        }
        while struck.load(Ordering::SeqCst) {
            if conduct == Conduct::Die {
                return None;
            }
            thread::sleep(Duration::from_millis(50));
        }
        while is_huge || input.len() < header + length as usize {
            read(&mut stream, &mut input)?;
            if is_huge {
                input.truncate(header);
            }
        }
        let masked = input[1] & 0x80 != 0;
        let mask: [u8; 4] = if masked { input[header - 4..header].try_into().unwrap() } else { [0; 4] };
        let payload: Vec<u8> = input[header..header + length as usize]
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        let mut frame = vec![input[0]];
        match payload.len() {
            0..=125 => frame.push(payload.len() as u8),
            126..=0xffff => frame.extend([126, (payload.len() >> 8) as u8, payload.len() as u8]),
            _ => {
                frame.push(127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        if frame[0] & 0x0f == 9 {
            frame[0] += 1;
        }
        frame.extend_from_slice(&payload);
        stream.write_all(&frame).ok()?;
        if frame[0] & 0x0f == 8 {
            return None;
        }
        input.drain(..header + length as usize);
    }
}

/// Bytes of the header and of the payload, if the header is whole.
fn wanted(input: &[u8]) -> Option<(usize, u64)> {
    let second = *input.get(1)?;
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    let (header, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(input.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().unwrap())),
        short => (2, short.into()),
    };
    (input.len() >= header + mask).then_some((header + mask, length))
}

fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 16 << 10];
    let len = stream.read(&mut buffer).ok().filter(|len| *len > 0)?;
    input.extend_from_slice(&buffer[..len]);
    Some(())
}

#[test]
fn a_server_that_checks_nothing_fails_the_rows_about_it() {
    let port = serve_badly(Conduct::Wait);
    let (code, text, rows) = attack(port, &["--timeout", "1", "--connections", "100"]);
    assert_eq!(code, Some(1), "{text}");
    let failed = names(&rows, "failed");
    for name in [
        "handshake",
        "head-size",
        "slow-head",
        "head-injection",
        "upgrade-body",
        "cross-origin",
        "framing",
        "masks",
        "control-frames",
        "utf8",
        "huge-length",
        "closing",
    ] {
        assert!(failed.iter().any(|failed| failed == name), "{name} did not fail: {text}");
    }
    // And what it does well is not held against it.
    for name in ["header-lists", "pings", "deaf-peer", "in-flight", "accept-storm", "reconnect-storm"] {
        assert_eq!(row(&rows, name)["outcome"], "ok", "{name}: {text}");
    }
    let seen = |name: &str| row(&rows, name)["seen"].as_str().unwrap();
    assert!(seen("masks").contains("text without a mask: sent \"bare\" back"), "{}", seen("masks"));
    assert!(seen("slow-head").contains("still open after 1.0 s"), "{}", seen("slow-head"));
    assert!(seen("cross-origin").contains("another site: answered 101"), "{}", seen("cross-origin"));
    assert!(seen("head-size").contains("took 16 MiB of it"), "{}", seen("head-size"));
}

#[test]
fn a_server_that_dies_or_hangs_is_told_and_not_attacked_further() {
    for conduct in [Conduct::Die, Conduct::Hang] {
        let port = serve_badly(conduct);
        let (code, text, rows) =
            attack(port, &["--timeout", "1", "--only", "header-lists,huge-length,closing"]);
        assert_eq!(code, Some(1), "{text}");
        assert_eq!(names(&rows, "ok"), ["header-lists"], "{text}");
        assert_eq!(names(&rows, "failed"), ["huge-length"], "{text}");
        assert!(row(&rows, "huge-length")["seen"].as_str().unwrap().contains("afterwards"), "{text}");
        assert!(text.contains("the server is gone since `huge-length`"), "{text}");
    }
}

#[test]
fn who_is_no_echo_and_what_is_no_row_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_port = mute.local_addr().unwrap().port();
    for (port, arguments, words) in [
        (free, &[][..], "is the server running"),
        (mute_port, &["--timeout", "1"], "has to be a WebSocket server that echoes"),
        (free, &["--only", "no-such-row"], "--list names them"),
        (free, &["--pid", "4000000000"], "no such process"),
    ] {
        let (code, text, _) = attack(port, arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(words), "{text}");
    }
    let list =
        Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen")).args(["attack", "--list"]).output().unwrap();
    let text = String::from_utf8_lossy(&list.stdout);
    assert!(list.status.success() && text.contains("zip-bomb") && text.contains("CVE-2016-10544"), "{text}");
}
