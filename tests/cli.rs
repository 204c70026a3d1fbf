//! The command `ringwire`, run as its users run it: started, asked, signalled, and its exit code read.

use ringwire::ws::{CloseCode, Codec, Event, Message};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// The drivers that can run here. epoll always can.
fn drivers() -> Vec<&'static str> {
    match ringwire::doctor::probe().denial {
        None => vec!["uring", "epoll"],
        Some(denial) => {
            eprintln!("only epoll is tested: {denial}");
            vec!["epoll"]
        }
    }
}

fn ringwire(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(args).env_remove("RINGWIRE_SIMD").stdin(Stdio::null());
    command
}

/// A server that is killed when the test ends, however it ends.
struct Server {
    child: Child,
    /// What it printed first, up to the first address.
    greeting: String,
    addr: String,
}

impl Server {
    fn start(driver: &str, more: &[&str]) -> Self {
        let args = [&["serve", "--listen", "127.0.0.1:0", "--driver", driver], more].concat();
        Self::spawn(&mut ringwire(&args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let lines = lines_of(child.stdout.take().expect("stdout is piped"));
        let mut server = Self { child, greeting: String::new(), addr: String::new() };
        server.greeting = lines.recv_timeout(PATIENCE).expect("the server says where it listens");
        let after = server.greeting.split_once(" on ").expect("`listening on ADDR (…)`").1;
        let addr = after.split(' ').next().unwrap_or_default();
        server.addr = addr.trim_start_matches("http://").to_owned();
        server
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.addr).expect("the printed address answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout of seconds");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout of seconds");
        stream
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill(1) runs");
        assert!(sent.success(), "the server is gone already");
    }

    fn exit(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// Runs a command that ends by itself.
fn run(args: &[&str]) -> Output {
    let mut child =
        ringwire(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("the child can be waited for").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("`ringwire {}` does not end", args.join(" "));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output can be read")
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

/// Sends one request and reads one response: its head, and its body if there is one.
fn ask(stream: &mut (impl Read + Write), method: &str, path: &str) -> (String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n").expect("the request is taken");
    let head = read_head(stream);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    stream.read_exact(&mut body).expect("the whole body");
    (head, told(&body))
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    told(&head)
}

/// A WebSocket client over a plain stream.
struct Peer {
    stream: TcpStream,
    codec: Codec,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Close(Option<CloseCode>, String),
}

impl Peer {
    /// Opens `path` or returns the refusal's head.
    fn open(server: &Server, path: &str) -> Result<Self, String> {
        let mut stream = server.connect();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        .expect("the request is taken");
        let head = read_head(&mut stream);
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(head);
        }
        assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        Ok(Self { stream, codec: Codec::client(64 << 20, || [0x37, 0xfa, 0x21, 0x3d]) })
    }

    fn send(&mut self, message: Message<'_>) {
        self.codec.writer().send(message).expect("open");
        self.flush();
    }

    fn flush(&mut self) {
        let output = std::mem::take(self.codec.output());
        self.stream.write_all(&output).expect("the server takes it");
    }

    /// Reads until something came; what the codec answers to it is not sent.
    fn read(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut buf = vec![0; 64 << 10];
        while seen.is_empty() {
            let n = read(&mut self.stream, &mut buf).expect("the server speaks");
            assert!(n > 0, "the server ended the connection without a Close frame");
            let on_event = |event: Event<'_>, _: &mut _| match event {
                Event::Message(Message::Text(text)) => seen.push(Seen::Text(text.to_owned())),
                Event::Message(Message::Binary(bytes)) => seen.push(Seen::Binary(bytes.to_vec())),
                Event::Close { code, reason } => seen.push(Seen::Close(code, reason.to_owned())),
                Event::Ping(_) | Event::Pong(_) => {}
            };
            self.codec.feed(&mut buf[..n], on_event).expect("the server keeps the protocol");
        }
        seen
    }
}

/// Reads some bytes. A socket with a read timeout reports interruptions (signal(7)), and ending the
/// ring that the probe of [`drivers`] made interrupts its thread.
fn read(stream: &mut TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn is_close(seen: &[Seen], expected: CloseCode) -> bool {
    matches!(seen, [Seen::Close(Some(code), _)] if *code == expected)
}

#[test]
fn operators_get_what_they_ask_for() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        assert!(
            server.greeting.starts_with("ringwire listening on http://127.0.0.1:"),
            "{}",
            server.greeting
        );
        assert!(server.greeting.contains(&format!("(driver {driver}: ")), "{}", server.greeting);
        let stream = &mut server.connect(); // one connection, kept alive through all of it

        let (head, body) = ask(stream, "GET", "/healthz");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(body, "ok\n");

        let (head, body) = ask(stream, "GET", "/metrics");
        assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(body.contains(&format!("ringwire_info{{driver=\"{driver}\"}} 1\n")), "{body}");

        let (head, body) = ask(stream, "GET", "/info");
        assert!(head.contains("Content-Type: application/json\r\n"), "{head}");
        assert!(body.contains(&format!("\"driver\":\"{driver}\"")), "{body}");
        assert!(body.contains("\"fallback\":false"), "{body}");

        let (head, body) = ask(stream, "HEAD", "/healthz");
        assert!(head.contains("Content-Length: 3\r\n"), "{head}");
        assert_eq!(body, "");

        let (head, _) = ask(stream, "GET", "/nope");
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");

        let (head, _) = ask(stream, "DELETE", "/healthz");
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{head}");
        assert!(head.contains("\r\nAllow: GET, HEAD\r\n"), "{head}");

        let (head, _) = ask(stream, "GET", "/echo");
        assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{head}");
        assert!(head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
    }
}

#[test]
fn the_page_admits_only_its_own_script_and_style() {
    let server = Server::start("epoll", &[]);
    let mut stream = server.connect();
    let (first, page) = ask(&mut stream, "GET", "/");
    let nonce = first.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next());
    let nonce = nonce.expect("a policy with a nonce");
    assert!(first.contains(&format!("style-src 'nonce-{nonce}';")), "{first}");
    assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
    assert!(page.contains(&format!("<style nonce=\"{nonce}\">")));
    assert!(!page.contains("{{nonce}}"));
    for id in [
        "status",
        "driver",
        "send-text",
        "text",
        "send-binary",
        "log",
        "rtt-chart",
        "rtt-p50",
        "auto",
        "chat-log",
        "ticker-chart",
        "panel-ways",
    ] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert!(page.contains(&format!("<script type=\"module\" nonce=\"{nonce}\" src=\"/tabs.js\">")));
    for script in ["/tabs.js", "/ringwire.js"] {
        let (head, text) = ask(&mut stream, "GET", script);
        assert!(head.contains("\r\nContent-Type: text/javascript; charset=utf-8\r\n"), "{head}");
        assert!(!text.contains("from \"http"), "{script} loads something from elsewhere");
    }
    for foreign in ["src=\"http", "href=\"http", "@import", "url("] {
        assert!(!page.contains(foreign), "the page loads something from elsewhere: {foreign}");
    }
    let (second, _) = ask(&mut stream, "GET", "/");
    assert!(!second.contains(nonce), "each response has its own nonce");
}

#[test]
fn echoes_at_two_paths_and_refuses_others() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        for path in ["/echo", "/", "/echo?room=1"] {
            let mut peer = Peer::open(&server, path).expect("an open connection");
            peer.send(Message::Text("ring 🦀"));
            assert_eq!(peer.read(), [Seen::Text("ring 🦀".to_owned())]);
            peer.send(Message::Binary(&[0, 255]));
            assert_eq!(peer.read(), [Seen::Binary(vec![0, 255])]);
        }
        let refusal = Peer::open(&server, "/chat").err().expect("a refusal");
        assert!(refusal.starts_with("HTTP/1.1 404 "), "{refusal}");
    }
}

#[test]
fn broadcasts_to_all_of_its_path() {
    for driver in drivers() {
        let server = Server::start(driver, &["--shards", "2"]);
        let open = |path| Peer::open(&server, path).expect("an open connection");
        let mut peers: Vec<Peer> = (0..6).map(|_| open("/broadcast")).collect();
        let mut echo = open("/echo");
        for number in 0..50 {
            peers[0].send(Message::Text(&format!("0 {number}")));
            peers[5].send(Message::Binary(format!("5 {number}").as_bytes()));
        }
        for peer in &mut peers {
            let (mut texts, mut binaries) = (0, 0);
            while texts + binaries < 100 {
                for seen in peer.read() {
                    match seen {
                        Seen::Text(text) => {
                            assert_eq!(text, format!("0 {texts}"));
                            texts += 1;
                        }
                        Seen::Binary(bytes) => {
                            assert_eq!(bytes, format!("5 {binaries}").as_bytes());
                            binaries += 1;
                        }
                        Seen::Close(code, reason) => panic!("closed: {code:?} {reason}"),
                    }
                }
            }
        }
        echo.send(Message::Text("only this"));
        assert_eq!(echo.read(), [Seen::Text("only this".to_owned())]);
        let (head, _) = ask(&mut server.connect(), "GET", "/broadcast");
        assert!(head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{head}");
    }
}

#[test]
fn one_that_leaves_too_much_unread_is_closed_with_1013() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let open = || Peer::open(&server, "/broadcast").expect("an open connection");
        let (mut speaker, mut deaf) = (open(), open());
        let payload = vec![7; 100_000];
        // What lies between takes some megabytes.
        for _ in 0..150 {
            speaker.send(Message::Binary(&payload));
            assert!(speaker.read() == [Seen::Binary(payload.clone())]);
        }
        let mut heard = 0;
        let code = 'closed: loop {
            for seen in deaf.read() {
                match seen {
                    Seen::Close(code, _) => break 'closed code,
                    seen => assert!(seen == Seen::Binary(payload.clone())),
                }
                heard += 1;
            }
        };
        assert_eq!(code, Some(CloseCode::TRY_AGAIN_LATER));
        assert!((10..150).contains(&heard), "{heard}");
        speaker.send(Message::Text("and on"));
        assert_eq!(speaker.read(), [Seen::Text("and on".to_owned())]);
    }
}

#[test]
fn a_message_of_16_mib_comes_back_and_one_byte_more_is_1009() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let mut peer = Peer::open(&server, "/echo").expect("an open connection");
        let mut payload: Vec<u8> = (0..16 << 20).map(|at: u32| (at % 251) as u8).collect();
        peer.send(Message::Binary(&payload));
        assert!(peer.read() == [Seen::Binary(payload.clone())]);
        payload.push(0);
        let mut frame = Vec::new();
        let mask = Some([1, 2, 3, 4]);
        ringwire::ws::encode_message(&mut frame, ringwire::ws::Kind::Binary, &payload, mask);
        // The header is enough to refuse it.
        peer.stream.write_all(&frame[..14]).expect("the server takes it");
        assert!(is_close(&peer.read(), CloseCode::MESSAGE_TOO_BIG));
    }
}

#[test]
fn nothing_is_lost_to_a_peer_that_reads_late() {
    const MESSAGES: u32 = 4_000;
    const BYTES: usize = 10_000;
    let payload = |number: u32| {
        let mut bytes = vec![number as u8; BYTES];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let mut peer = Peer::open(&server, "/echo").expect("an open connection");
        let mut writer = peer.stream.try_clone().expect("a second handle");
        let sender = std::thread::spawn(move || {
            let mut codec = Codec::client(0, || [9, 8, 7, 6]);
            for number in 0..MESSAGES {
                codec.writer().send(Message::Binary(&payload(number))).expect("open");
                writer.write_all(codec.output()).expect("the server takes it in the end");
                codec.output().clear();
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        let mut next = 0;
        while next < MESSAGES {
            for seen in peer.read() {
                assert!(seen == Seen::Binary(payload(next)), "message {next} is the next one");
                next += 1;
            }
        }
        sender.join().expect("all was written");
        let (_, metrics) = ask(&mut server.connect(), "GET", "/metrics");
        let paused = metrics.lines().filter(|line| line.starts_with("ringwire_receive_pauses_total{"));
        assert!(paused.clone().any(|line| !line.ends_with(" 0")), "receiving was paused meanwhile");
    }
}

#[test]
fn a_signal_drains_with_1001_and_exits_0() {
    for (driver, signal) in drivers().into_iter().flat_map(|driver| [(driver, "TERM"), (driver, "INT")]) {
        let server = Server::start(driver, &[]);
        let mut peer = Peer::open(&server, "/echo").expect("an open connection");
        peer.send(Message::Text("before"));
        assert_eq!(peer.read(), [Seen::Text("before".to_owned())]);
        let asked = Instant::now();
        server.signal(signal);
        assert!(is_close(&peer.read(), CloseCode::GOING_AWAY));
        peer.flush(); // the answer to it
        assert_eq!(read(&mut peer.stream, &mut [0]).expect("FIN"), 0);
        drop(peer);
        assert_eq!(server.exit().code(), Some(0), "{driver} {signal}");
        assert!(asked.elapsed() < Duration::from_secs(4), "it did not wait for drain_ms");
    }
}

#[test]
fn it_polls_while_there_is_traffic_if_it_may() {
    for driver in drivers() {
        for (option, polls) in [("--busy-poll-us=1000000", true), ("--busy-poll-us=0", false)] {
            let server = Server::start(driver, &[option]);
            let mut peer = server.connect();
            for _ in 0..20 {
                ask(&mut peer, "GET", "/healthz");
            }
            let (_, metrics) = ask(&mut peer, "GET", "/metrics");
            let met = |line: &str| line.starts_with("ringwire_busy_polls_met_total") && !line.ends_with(" 0");
            assert_eq!(metrics.lines().any(met), polls, "{driver} {option}");
        }
    }
}

#[test]
fn a_drain_is_bounded() {
    for driver in drivers() {
        let server = Server::start(driver, &["--drain-ms", "300"]);
        let mut peer = Peer::open(&server, "/echo").expect("an open connection");
        let asked = Instant::now();
        server.signal("TERM");
        assert!(is_close(&peer.read(), CloseCode::GOING_AWAY)); // and never answers
        assert_eq!(server.exit().code(), Some(0));
        let took = asked.elapsed();
        assert!((250..4_000).contains(&took.as_millis()), "{driver}: {took:?}");
    }
}

#[test]
fn a_signal_is_heeded_when_nobody_reads_stderr_any_more() {
    let args = ["serve", "--listen", "127.0.0.1:0", "--driver", "epoll"];
    let mut server = Server::spawn(ringwire(&args).stderr(Stdio::piped()));
    drop(server.child.stderr.take());
    server.signal("TERM");
    assert_eq!(server.exit().code(), Some(0));
}

#[test]
fn a_second_signal_stops_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let server = Server::start("epoll", &["--drain-ms", "60000"]);
        let mut peer = Peer::open(&server, "/echo").expect("an open connection");
        server.signal(signal);
        assert!(is_close(&peer.read(), CloseCode::GOING_AWAY));
        server.signal(signal);
        assert_eq!(server.exit().code(), Some(code));
    }
}

/// The kernel frees the port of a killed server on io_uring after its end.
#[test]
fn one_that_was_killed_is_replaced_at_once() {
    for driver in drivers() {
        let mut server = Server::start(driver, &[]);
        for _ in 0..5 {
            let peers: Vec<_> = (0..20).map(|_| server.connect()).collect();
            server.signal("KILL");
            server.child.wait().expect("the child can be waited for");
            let addr = server.addr.clone();
            server = Server::spawn(&mut ringwire(&["serve", "--listen", &addr, "--driver", driver]));
            let mut peer = Peer::open(&server, "/echo").expect("an open connection");
            peer.send(Message::Text("again"));
            assert_eq!(peer.read(), [Seen::Text("again".to_owned())], "{driver}");
            drop(peers);
        }
    }
}

#[test]
fn what_cannot_start_says_why_and_exits_1() {
    for driver in drivers() {
        let first = Server::start(driver, &[]);
        for shards in ["1", "2"] {
            let taken = ["serve", "--driver", driver, "--listen", &first.addr, "--shards", shards];
            let output = run(&taken);
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(told(&output.stdout), "");
            let error = told(&output.stderr);
            assert!(error.starts_with(&format!("ringwire: cannot listen on {}: ", first.addr)), "{error}");
        }
    }
    let output = run(&["serve", "--pin", "65000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output.stderr).contains("core 65000 is not one this process may use"));
    let output = run(&["serve", "--cores", "65000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output.stderr).contains("--cores 65000: this process may use "));
}

#[test]
fn a_command_line_without_sense_exits_2() {
    for args in [
        &["serve", "--listen", "localhost"][..],
        &["serve", "--driver", "kqueue"],
        &["serve", "--shards", "0"],
        &["serve", "--shards", "257"],
        &["serve", "--cores", "1", "--pin", "0"],
        &["dance"],
        &[],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let error = told(&output.stderr);
        assert!(error.contains("--help"), "{args:?}: the next step is told: {error}");
    }
}

#[test]
fn a_unix_socket_is_served_and_removed() {
    let path = std::env::temp_dir().join(format!("ringwire-cli-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    for driver in drivers() {
        let server = Server::spawn(&mut ringwire(&["serve", "--driver", driver, "--listen", &listen]));
        assert_eq!(server.addr, listen);
        let mut stream = UnixStream::connect(&path).expect("the socket answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout of seconds");
        assert_eq!(ask(&mut stream, "GET", "/healthz").1, "ok\n");
        drop(stream);
        server.signal("TERM");
        assert_eq!(server.exit().code(), Some(0));
        assert!(!path.exists());
    }
}

/// Even a server that is cut short cleans up behind itself.
#[test]
fn a_unix_socket_is_removed_at_a_second_signal() {
    let path = std::env::temp_dir().join(format!("ringwire-cli-forced-{}.sock", std::process::id()));
    let listen = format!("unix:{}", path.display());
    for driver in drivers() {
        let args = ["serve", "--driver", driver, "--listen", &listen, "--drain-window-ms", "60000"];
        let server = Server::spawn(&mut ringwire(&args));
        let mut stream = UnixStream::connect(&path).expect("the socket answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout of seconds");
        assert_eq!(ask(&mut stream, "GET", "/healthz").1, "ok\n");
        server.signal("TERM");
        std::thread::sleep(Duration::from_millis(100));
        server.signal("TERM");
        assert_eq!(server.exit().code(), Some(143));
        assert!(!path.exists());
    }
}

#[test]
fn bounds_are_kept() {
    for driver in drivers() {
        let server =
            Server::start(driver, &["--max-total-connections", "2", "--max-messages-per-second", "3"]);
        let mut peer = Peer::open(&server, "/echo").expect("an open connection");
        let mut second = server.connect();
        assert_eq!(ask(&mut second, "GET", "/healthz").1, "ok\n");
        let mut third = server.connect();
        let mut answer = String::new();
        third.read_to_string(&mut answer).expect("an answer and the end");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
        for _ in 0..4 {
            peer.send(Message::Text("fast"));
        }
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.extend(peer.read());
        }
        assert!(seen[..3].iter().all(|seen| *seen == Seen::Text("fast".to_owned())), "{seen:?}");
        assert!(is_close(&seen[3..], CloseCode::POLICY_VIOLATION), "{seen:?}");
        drop(second);
    }
}

#[test]
fn a_proxy_tells_who_asks() {
    let server = Server::start("epoll", &["--proxy-from", "127.0.0.0/8,unix"]);
    let mut proxied = server.connect();
    proxied.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n").expect("a header");
    assert_eq!(ask(&mut proxied, "GET", "/healthz").1, "ok\n");
    let mut plain = server.connect();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    // The end may be a reset, as the request was not read.
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
}

#[test]
fn a_simd_level_that_cannot_be_forced_is_warned_of() {
    let mut command = ringwire(&["serve", "--listen", "127.0.0.1:0", "--driver", "epoll"]);
    let mut server = Server::spawn(command.env("RINGWIRE_SIMD", "sse9").stderr(Stdio::piped()));
    let warnings = lines_of(server.child.stderr.take().expect("stderr is piped"));
    let warning = warnings.recv_timeout(PATIENCE).expect("a warning");
    assert!(warning.contains("RINGWIRE_SIMD is ignored: `sse9` is not a SIMD level"), "{warning}");
    let mut command = ringwire(&["serve", "--listen", "127.0.0.1:0", "--driver", "epoll"]);
    let server = Server::spawn(command.env("RINGWIRE_SIMD", "scalar"));
    assert!(server.greeting.ends_with("SIMD scalar)"), "{}", server.greeting);
}

#[test]
fn doctor_tells_the_driver_and_what_limits_it() {
    let output = run(&["doctor"]);
    assert_eq!(output.status.code(), Some(0));
    let text = told(&output.stdout);
    assert!(text.starts_with(&format!("driver    {}: ", drivers()[0])), "{text}");
    for part in ["\nkernel    Linux ", "\nSIMD      ", "\ncores     ", "\nio_uring  ", "RLIMIT_NOFILE = "] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let json = told(&run(&["doctor", "--json"]).stdout);
    assert!(json.starts_with('{') && json.ends_with("}\n"), "{json}");
    assert!(json.contains(&format!("\"driver\":\"{}\"", drivers()[0])), "{json}");
    assert!(json.contains("\"name\":\"DEFER_TASKRUN\",\"available\":"), "{json}");
}
