//! The generator against servers that do as they should, that lie, and that are not there: what it
//! prints, and how it exits.

mod support;

use ringwire::{CloseCode, Conn, DriverChoice, Handler, Message, Request, Server, Upgrade};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;
use support::Running;

/// How a server treats the messages of a connection. Lies concern the tenth.
#[derive(Clone, Copy, Debug)]
enum Conduct {
    Honest,
    Drop,
    Double,
    Corrupt,
    Swap,
    Kind,
    Close,
    Refuse,
}

struct Echo(Conduct);

#[derive(Default)]
struct Seen {
    messages: u64,
    held_back: Vec<u8>,
}

impl Handler for Echo {
    type State = Seen;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<Seen> {
        if let Conduct::Refuse = self.0 {
            return Upgrade::reject(ringwire::http::Response::text(403, "no\n"));
        }
        Upgrade::accept(Seen::default())
    }

    fn message(&mut self, conn: &mut Conn<'_, Seen>, message: Message<'_>) {
        conn.state_mut().messages += 1;
        let Message::Binary(bytes) = message else {
            conn.send(message);
            return;
        };
        if conn.state().messages == 11 && !conn.state().held_back.is_empty() {
            conn.send(message);
            let held_back = std::mem::take(&mut conn.state_mut().held_back);
            conn.send_binary(&held_back);
            return;
        }
        match self.0 {
            _ if conn.state().messages != 10 => drop(conn.send(message)),
            Conduct::Honest | Conduct::Refuse => drop(conn.send(message)),
            Conduct::Drop => {}
            Conduct::Double => {
                conn.send(message);
                conn.send(message);
            }
            Conduct::Corrupt => {
                let mut bytes = bytes.to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                conn.send_binary(&bytes);
            }
            Conduct::Swap => conn.state_mut().held_back = bytes.to_vec(),
            Conduct::Kind => drop(conn.send_text(&"t".repeat(bytes.len()))),
            Conduct::Close => conn.close(CloseCode::GOING_AWAY, "had enough"),
        }
    }
}

fn serve(conduct: Conduct, driver: DriverChoice) -> Running {
    Running::start(Server::builder().driver(driver), move |_| Echo(conduct)).unwrap()
}

fn loadgen(arguments: &[&str], port: u16) -> (Output, String) {
    let url = format!("ws://127.0.0.1:{port}/");
    let arguments = arguments.iter().map(|argument| argument.replace("URL", &url));
    let output = Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let text = text.into_owned();
    (output, text)
}

const SHORT: [&str; 6] = ["--duration", "0.3", "--warmup", "0.1", "--connections", "3"];

fn echo(conduct: Conduct, more: &[&str]) -> (Option<i32>, String) {
    let server = serve(conduct, DriverChoice::Auto);
    let arguments = [&["echo", "URL"], &SHORT[..], more].concat();
    let (output, text) = loadgen(&arguments, server.port);
    (output.status.code(), text)
}

#[test]
fn an_honest_server_passes_in_every_shape_and_on_both_drivers() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        if Server::builder().driver(driver).bind().is_err() {
            continue; // where io_uring is denied
        }
        let server = serve(Conduct::Honest, driver);
        let own = if driver == DriverChoice::Uring { "uring" } else { "epoll" };
        for shape in [
            &["--size", "0"][..],
            &["--size", "5", "--text"],
            &["--size", "20", "--depth", "16"],
            &["--size", "200000", "--depth", "3", "--text"],
            &["--cores", "0,0", "--connections", "5"],
        ] {
            let mut arguments = [&["echo", "URL", "--driver", own][..], &SHORT[..4], shape].concat();
            if !shape.contains(&"--connections") {
                arguments.extend(&SHORT[4..]);
            }
            let (output, text) = loadgen(&arguments, server.port);
            assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{text}");
            assert!(text.contains("closed loop") && text.contains("every message was checked"), "{text}");
        }
    }
}

#[test]
fn the_result_is_also_written_for_programs() {
    let server = serve(Conduct::Honest, DriverChoice::Auto);
    let path = std::env::temp_dir().join(format!("loadgen-{}.json", std::process::id()));
    let pid = std::process::id().to_string();
    let file = path.to_str().unwrap();
    let more = ["--json", file, "--pid", &pid];
    let (output, text) = loadgen(&[&["echo", "URL"], &SHORT[..], &more].concat(), server.port);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((&report["schema"], &report["verdict"]), (&1.into(), &"ok".into()));
    let load = &report["loads"][0];
    let echo = &load["echo"];
    assert_eq!(echo["loop"], "closed");
    assert!(echo["messages"].as_u64().unwrap() > 0);
    let [p50, p99, max] = ["p50_ns", "p99_ns", "max_ns"].map(|name| echo["latency"][name].as_u64().unwrap());
    assert!(0 < p50 && p50 <= p99 && p99 <= max, "{p50} {p99} {max}");
    assert!(load["cpu"]["server_ns_per_message"].as_f64().unwrap() > 0.0);
}

#[test]
fn idle_connections_are_opened_used_once_and_held() {
    let server = serve(Conduct::Honest, DriverChoice::Auto);
    let pid = std::process::id().to_string();
    let arguments =
        ["idle", "URL", "-n", "50", "--connect-rate", "500", "--hold", "0.2", "--echo-once", "--pid", &pid];
    let (output, text) = loadgen(&arguments, server.port);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("after one echo each") && text.contains("B per connection resident"), "{text}");
}

#[test]
fn a_lost_message_fails_the_run() {
    let (code, text) = echo(Conduct::Drop, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("lost 3"), "one per connection: {text}");
}

#[test]
fn a_message_lost_inside_a_burst_fails_the_run() {
    let (code, text) = echo(Conduct::Drop, &["--depth", "16"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("message 9 due: message 10 came") && text.contains(" lost "), "{text}");
}

#[test]
fn a_doubled_message_fails_the_run() {
    let (code, text) = echo(Conduct::Double, &["--depth", "16"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(" doubled "), "{text}");
}

#[test]
fn a_corrupted_message_fails_the_run() {
    let (code, text) = echo(Conduct::Corrupt, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the content differs") && text.contains(" corrupted "), "{text}");
}

#[test]
fn binary_answered_with_text_fails_the_run() {
    let (code, text) = echo(Conduct::Kind, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("text came for binary"), "{text}");
}

#[test]
fn messages_in_another_order_fail_the_run_and_are_not_called_lost() {
    let (code, text) = echo(Conduct::Swap, &["--depth", "16"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(!text.contains(" lost ") && text.contains(" reordered "), "{text}");
}

#[test]
fn a_connection_that_is_closed_fails_the_run_with_the_servers_words() {
    let (code, text) = echo(Conduct::Close, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("1001 had enough") && text.contains(" closed "), "{text}");
}

#[test]
fn a_refusal_is_told() {
    let (code, text) = echo(Conduct::Refuse, &[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("403"), "{text}");
}

#[test]
fn nobody_there_and_wrong_arguments_are_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (arguments, words) in [
        (&["echo", "URL", "-n", "1"][..], "is the server running"),
        (&["echo", "URL", "-n", "1", "--raw"], "is the server running"),
        (&["echo", "http://x", "-n", "1"], "give ws://"),
        (&["echo", "wss://127.0.0.1", "-n", "1"], "--ca FILE"),
        (&["echo", "ws://no-such-host.invalid", "-n", "1"], "looked up"),
        (&["echo", "URL", "-n", "0"], "0 is not in"),
        (&["echo", "URL", "-n", "9999999", "--source", "127.0.0.0/8"], "ulimit -Hn"),
        (&["echo", "URL", "-n", "1", "--pid", "4000000000"], "no such process"),
        (&["echo", "URL", "-n", "1", "--json", "/no/such/folder/x"], "/no/such/folder/x"),
        (&["echo", "URL", "-n", "1", "--cores", "4095"], "core"),
    ] {
        let (output, text) = loadgen(arguments, free);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

#[test]
fn a_server_that_speaks_something_else_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"220 mail.example ESMTP\r\n\r\n"));
        }
    });
    let (output, text) = loadgen(&[&["echo", "URL"], &SHORT[..]].concat(), port);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("no WebSocket there"), "{text}");
}

/// A bare TCP echo; with `lie`, one byte in the middle is another.
fn raw_echo(lie: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 777];
                let mut total = 0;
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if lie && (total..total + len).contains(&5_000) {
                        buffer[5_000 - total] ^= 1;
                    }
                    total += len;
                    let _ = stream.write_all(&buffer[..len]);
                }
            });
        }
    });
    port
}

#[test]
fn bare_tcp_is_checked_to_the_byte() {
    for driver in ["auto", "epoll"] {
        for shape in [["--size", "20", "--depth", "16"], ["--size", "70000", "--depth", "2"]] {
            let more = [&["--raw", "--driver", driver], &shape[..]].concat();
            let arguments = [&["echo", "URL"], &SHORT[..], &more].concat();
            let (output, text) = loadgen(&arguments, raw_echo(false));
            assert_eq!(output.status.code(), Some(0), "{shape:?}: {text}");
            let (output, text) = loadgen(&arguments, raw_echo(true));
            assert_eq!(output.status.code(), Some(1), "{shape:?}: {text}");
            assert!(text.contains(" corrupted "), "{text}");
        }
    }
}
