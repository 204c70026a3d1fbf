//! `/topics` of `ringwire serve`, as its clients see it: over WebSockets, as events, by polling and by POST.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(20);

/// The drivers that can run here. epoll always can.
fn drivers() -> Vec<&'static str> {
    match ringwire::doctor::probe().denial {
        None => vec!["uring", "epoll"],
        Some(_) => vec!["epoll"],
    }
}

/// A server that is killed when the test ends, however it ends.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start(driver: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
        let args = ["serve", "--listen", "127.0.0.1:0", "--shards", "2", "--driver", driver];
        command.args(args).args(more).env_remove("RINGWIRE_PUBLISH_TOKEN").stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let mut greeting = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut greeting).expect("the server says where it listens");
        let addr =
            greeting.split_once("http://").expect("an address").1.split(' ').next().expect("an address");
        Self { child, addr: addr.to_owned() }
    }

    fn open(&self) -> Client {
        let (mut socket, _) =
            tungstenite::connect(format!("ws://{}/topics", self.addr)).expect("a WebSocket");
        let MaybeTlsStream::Plain(stream) = socket.get_mut() else { unreachable!() };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client(socket)
    }

    /// Sends a request.
    fn send(&self, request: &str) -> Http {
        let mut stream = TcpStream::connect(&self.addr).expect("the address answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("the request is taken");
        Http(BufReader::new(stream))
    }

    fn get(&self, path: &str, fields: &str) -> Http {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", self.addr))
    }

    fn post(&self, path: &str, fields: &str, body: &str) -> (u16, String) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{fields}", self.addr);
        self.send(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).answer()
    }

    /// What a poll finds at once.
    fn poll(&self, path: &str) -> Value {
        let (status, body) = self.get(path, "").answer();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(WebSocket<MaybeTlsStream<TcpStream>>);

impl Client {
    fn say(&mut self, message: Value) {
        self.say_text(&message.to_string());
    }

    fn say_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("it is taken");
    }

    fn hear(&mut self) -> Value {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).expect("JSON"),
                Ok(Message::Ping(_)) => {}
                // The process was stopped for a while.
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Asks, and hears the answer's id.
    fn ask(&mut self, request: Value, member: &str) -> u64 {
        self.say(request);
        let answer = self.hear();
        assert!(answer.get(member).is_some(), "{answer}");
        answer["id"].as_u64().unwrap_or_default()
    }

    fn subscribe(&mut self, topic: &str) -> u64 {
        self.ask(json!({ "subscribe": topic }), "subscribed")
    }

    fn publish(&mut self, topic: &str, data: Value) -> u64 {
        self.ask(json!({ "publish": topic, "data": data }), "published")
    }

    fn expect_message(&mut self, topic: &str, id: u64, data: Value) {
        assert_eq!(self.hear(), json!({ "topic": topic, "id": id, "data": data }));
    }

    fn expect_error(&mut self, part: &str) -> Value {
        let answer = self.hear();
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("no error: {answer}"));
        assert!(error.contains(part), "{error}");
        answer
    }
}

/// A response.
struct Http(BufReader<TcpStream>);

impl Http {
    fn head(&mut self) -> (u16, String) {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).expect("a head") > 0, "it ends: {head}");
        }
        (head[9..12].parse().expect("a status"), head.to_ascii_lowercase())
    }

    fn answer(mut self) -> (u16, String) {
        let (status, head) = self.head();
        let length =
            head.split_once("content-length: ").expect("a length").1.lines().next().expect("a number");
        let mut body = vec![0; length.parse().expect("a number")];
        self.0.read_exact(&mut body).expect("a body");
        (status, String::from_utf8(body).expect("text"))
    }

    /// The next event, of one chunk.
    fn event(&mut self) -> String {
        let mut size = String::new();
        self.0.read_line(&mut size).expect("a chunk");
        let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).expect("its size") + 2];
        self.0.read_exact(&mut chunk).expect("its content");
        String::from_utf8(chunk).expect("text").trim_end_matches("\r\n").to_owned()
    }
}

#[test]
fn messages_go_to_who_listens_in_the_order_of_their_ids() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let (mut a, mut b, mut other) = (server.open(), server.open(), server.open());
        let begin = a.subscribe("room/1");
        assert_eq!(b.subscribe("room/1"), begin);
        other.subscribe("room/2");
        // Four at once, of whom none listens.
        std::thread::scope(|scope| {
            for publisher in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.open();
                    for number in 0..100 {
                        client.publish("room/1", json!([publisher, number]));
                    }
                });
            }
        });
        let heard = |client: &mut Client| (0..400).map(|_| client.hear()).collect::<Vec<_>>();
        let messages = heard(&mut a);
        assert_eq!(messages, heard(&mut b), "{driver}");
        for (id, message) in (begin + 1..).zip(&messages) {
            assert_eq!((message["id"].as_u64(), message["topic"].as_str()), (Some(id), Some("room/1")));
        }
        for publisher in 0..4 {
            let of = messages.iter().filter(|message| message["data"][0] == publisher);
            assert!(of.map(|message| message["data"][1].as_u64()).eq((0..100).map(Some)), "{driver}");
        }
        // Who does not listen any more hears nothing.
        a.say(json!({ "unsubscribe": "room/1" }));
        assert_eq!(a.hear(), json!({ "unsubscribed": "room/1" }));
        let id = b.publish("room/1", Value::Null);
        assert_eq!(id, begin + 401);
        a.say(json!({ "ping": [7] }));
        assert_eq!(a.hear(), json!({ "pong": [7] }));
        let id = other.publish("room/2", json!("mine"));
        assert_eq!(id, other.hear()["id"].as_u64().expect("an id"));
    }
}

#[test]
fn who_comes_again_hears_what_was_missed() {
    let server = Server::start("epoll", &[]);
    let mut publisher = server.open();
    let first = publisher.publish("news", json!(0));
    for number in 1..10 {
        publisher.publish("news", json!(number));
    }
    let mut client = server.open();
    client.say(json!({ "subscribe": "news", "after": first + 6 }));
    assert_eq!(client.hear(), json!({ "subscribed": "news", "id": first + 9 }));
    for number in 7..10 {
        client.expect_message("news", first + number, json!(number));
    }
    assert_eq!(publisher.publish("news", json!(10)), first + 10);
    client.expect_message("news", first + 10, json!(10));
    // More than is kept.
    for number in 11..400 {
        publisher.publish("news", json!(number));
    }
    let mut late = server.open();
    late.say(json!({ "subscribe": "news", "after": first }));
    let gap = late.hear();
    assert_eq!(gap["gap"], "news");
    let last = gap["id"].as_u64().expect("an id");
    assert_eq!(last, first + 399 - 256);
    assert_eq!(late.hear(), json!({ "subscribed": "news", "id": first + 399 }));
    late.expect_message("news", last + 1, json!(last + 1 - first));
    // An id that this topic never had, as after a restart of the server.
    let mut lost = server.open();
    lost.say(json!({ "subscribe": "elsewhere", "after": 7 }));
    assert_eq!(lost.hear()["gap"], "elsewhere");
    assert_eq!(lost.hear()["subscribed"], "elsewhere");
}

#[test]
fn what_makes_no_sense_is_answered() {
    let server = Server::start("epoll", &[]);
    let mut client = server.open();
    for (request, part) in [
        ("", "EOF"),
        ("hello", "expected value"),
        ("{}", "send one of"),
        (r#"{"subscribe":"a","publish":"a","data":1}"#, "send one of"),
        (r#"{"subscribe":""}"#, "1 to 200 bytes"),
        ("{\"subscribe\":\"a\\nb\"}", "1 to 200 bytes"),
        (r##"{"subscribe":"room/#"}"##, "neither `#`"),
        (r#"{"publish":"a"}"#, "no \"data\""),
        (r#"{"publish":"demo/ticker","data":1}"#, "server's own"),
        (r#"{"unsubscribe":"a"}"#, "does not listen"),
        (r#"{"subscribe":"a","color":"red"}"#, "unknown field"),
    ] {
        client.say_text(request);
        client.expect_error(part);
    }
    client.say_text(&json!({ "publish": "a", "data": "x".repeat(70_000) }).to_string());
    assert_eq!(client.expect_error("65536 bytes")["publish"], "a");
    client.0.send(Message::binary(vec![1])).expect("it is taken");
    client.expect_error("text");
    for number in 0..128 {
        client.subscribe(&format!("t/{number}"));
    }
    client.say(json!({ "subscribe": "t/0" }));
    assert_eq!(client.expect_error("already")["subscribe"], "t/0");
    client.say(json!({ "subscribe": "t/128" }));
    client.expect_error("at most 128");
    // JSON goes through as it was written.
    client.say_text(r#"{"publish":"t/1","data":{ "n": 12345678901234567890.10 }}"#);
    let texts = [(); 2].map(|()| client.0.read().expect("a message").into_text().expect("text"));
    assert!(
        texts.iter().any(|text| text.contains(r#""data":{ "n": 12345678901234567890.10 }}"#)),
        "{texts:?}"
    );
}

#[test]
fn events_tell_the_same_and_go_on_where_they_stopped() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let mut publisher = server.open();
        let accept = "Accept: text/event-stream\r\n";
        let mut events = server.get("/topics/caf%C3%A9/1", accept);
        let (status, head) = events.head();
        assert!(status == 200 && head.contains("content-type: text/event-stream\r\n"), "{head}");
        assert!(!head.contains("access-control"), "no other origin may read: {head}");
        assert!(events.event().contains("event: subscribed\n"));
        let id = publisher.publish("café/1", json!("ä\nö"));
        let message = json!({ "topic": "café/1", "id": id, "data": "ä\nö" });
        let written = events.event();
        let data = written.strip_prefix(&format!("id: {id}\ndata: ")).expect("an event with this id");
        assert_eq!(serde_json::from_str::<Value>(data).expect("JSON"), message);
        drop(events);
        let next = publisher.publish("café/1", json!(2));
        let mut again = server.get("/topics/caf%C3%A9/1", &format!("{accept}Last-Event-ID: {id}\r\n"));
        again.head();
        let begin = again.event();
        assert!(begin.starts_with(&format!("id: {id}\nevent: subscribed\n")), "{begin}");
        assert!(again.event().starts_with(&format!("id: {next}\ndata: ")), "{driver}");
        let last = publisher.publish("café/1", json!(3));
        assert!(again.event().starts_with(&format!("id: {last}\ndata: ")), "{driver}");
        assert_eq!(server.get("/topics/a", &format!("{accept}Last-Event-ID: x\r\n")).answer().0, 400);
    }
}

#[test]
fn a_poll_is_answered_when_there_is_something_to_say() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let mut publisher = server.open();
        let first = publisher.publish("score", json!(1));
        // Without an id: all that is kept, at once.
        let all = server.poll("/topics/score");
        assert_eq!((all["id"].as_u64(), &all["gap"]), (Some(first), &json!(false)));
        assert_eq!(all["messages"], json!([{ "topic": "score", "id": first, "data": 1 }]));
        // With one: what is newer, or what comes.
        assert_eq!(server.poll(&format!("/topics/score?after={}", first - 1))["messages"], all["messages"]);
        assert_eq!(server.poll("/topics/score?after=1")["gap"], true);
        let mut waiting: Vec<Http> =
            (0..5).map(|_| server.get(&format!("/topics/score?after={first}"), "")).collect();
        let deadline = Instant::now() + PATIENCE;
        while !server.get("/metrics", "").answer().1.contains("ringwire_requests_deferred{shard=\"0\"} ")
            || deferred(&server) < 5
        {
            assert!(Instant::now() < deadline, "{} wait", deferred(&server));
        }
        let second = publisher.publish("score", json!(2));
        for poll in waiting.drain(..) {
            let (status, body) = poll.answer();
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!((status, body["id"].as_u64()), (200, Some(second)));
            assert_eq!(body["messages"], json!([{ "topic": "score", "id": second, "data": 2 }]));
        }
        // In vain: the same with nothing in it.
        let vain = server.poll(&format!("/topics/score?after={second}&wait=1"));
        assert_eq!(vain, json!({ "topic": "score", "id": second, "gap": false, "messages": [] }));
        assert_eq!(server.poll(&format!("/topics/score?after={second}&wait=0")), vain);
        for wrong in ["after=x", "after=-1", "after=1&wait=soon"] {
            assert_eq!(server.get(&format!("/topics/score?{wrong}"), "").answer().0, 400, "{wrong}");
        }
        assert_eq!(server.get("/topics/%zz", "").answer().0, 400);
        assert_eq!(server.get("/topics", "").answer().0, 426);
        assert_eq!(server.send("DELETE /topics/a HTTP/1.1\r\nHost: a\r\n\r\n").answer().0, 405);
    }
}

/// Requests that wait.
fn deferred(server: &Server) -> u64 {
    metric(server, "ringwire_requests_deferred{")
}

/// A metric's sum over all shards.
fn metric(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics", "").answer().1;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().expect("a number").parse::<u64>().expect("a number")).sum()
}

#[test]
fn who_knows_the_token_publishes_by_post() {
    let off = Server::start("epoll", &[]);
    let (status, body) = off.post("/topics/a", "Authorization: Bearer x\r\n", "1");
    assert!(status == 403 && body.contains("--publish-token"), "{body}");

    let server = Server::start("epoll", &["--publish-token", "secret"]);
    let mut client = server.open();
    let begin = client.subscribe("a");
    let bearer = "Authorization: Bearer secret\r\n";
    let (status, body) = server.post("/topics/a", bearer, r#"{"n":1}"#);
    assert_eq!((status, body), (200, format!("{{\"published\":\"a\",\"id\":{}}}\n", begin + 1)));
    client.expect_message("a", begin + 1, json!({ "n": 1 }));
    for fields in [
        "",
        "Authorization: Bearer Secret\r\n",
        "Authorization: Bearer secret2\r\n",
        "Authorization: Basic secret\r\n",
    ] {
        assert_eq!(server.post("/topics/a", fields, "1").0, 401, "{fields}");
    }
    let foreign = format!("{bearer}Origin: http://elsewhere.example\r\n");
    assert_eq!(server.post("/topics/a", &foreign, "1").0, 403);
    let own = format!("{bearer}Origin: http://{}\r\n", server.addr);
    assert_eq!(server.post("/topics/a", &own, "1").0, 200);
    assert_eq!(server.post("/topics/demo/clock", bearer, "1").0, 403);
    for body in ["", "hello", "1 2", "{"] {
        assert_eq!(server.post("/topics/a", bearer, body).0, 400, "{body}");
    }
    assert_eq!(server.post("/topics/a", bearer, &"x".repeat(65_537)).0, 413);
}

#[test]
fn who_leaves_too_much_unread_is_closed_and_holds_up_nobody() {
    for driver in drivers() {
        let server = Server::start(driver, &[]);
        let (mut deaf, mut publisher) = (server.open(), server.open());
        deaf.subscribe("flood");
        let mut events = server.get("/topics/flood", "Accept: text/event-stream\r\n");
        events.head();
        events.event();
        publisher.subscribe("flood");
        let (mut published, mut heard) = (0, 0);
        // What the hosts' kernels hold comes first, some megabytes.
        while metric(&server, "ringwire_messages_dropped_total{") < 2 {
            publisher.say(json!({ "publish": "flood", "data": "x".repeat(60_000) }));
            let both = [publisher.hear(), publisher.hear()];
            published += 1;
            heard += both.iter().filter(|message| message["topic"] == "flood").count();
            assert!(published < 2_000, "{driver}: nobody is closed");
        }
        assert_eq!(heard, published);
        // Behind what was sent to it stands the reason.
        let end = loop {
            match deaf.0.read() {
                Ok(Message::Close(frame)) => break frame,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(end.expect("a code").code, 1013.into());
        // The last chunk is empty.
        while !events.event().is_empty() {}
    }
}

#[test]
fn the_demo_runs_while_somebody_listens() {
    let server = Server::start("epoll", &[]);
    let mut client = server.open();
    client.subscribe("demo/ticker");
    for _ in 0..5 {
        let message = client.hear();
        assert!(
            message["data"]["price"].as_f64().is_some_and(|price| (50.0..150.0).contains(&price)),
            "{message}"
        );
    }
}
